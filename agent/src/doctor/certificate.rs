//! Is the broker the one that this device believes? Its dates are told for
//! information: a pinned one is believed on any day.

use super::{Finding, Verdict};
use skerry_link::{Doubt, Probe, Trust};
use skerry_wire::calendar::days_from_civil;
use std::time::{SystemTime, UNIX_EPOCH};

const KIND: &str = "CertificateRefused";
const DAY_SECS: i64 = 86_400;
/// A hundred years.
const FOR_EVER_DAYS: i64 = 36_525;

/// Judges what the broker showed.
pub fn find(probe: &Probe, trust: &Trust) -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |t| i64::try_from(t.as_secs()).unwrap_or(i64::MAX));
    judged(probe, trust, now)
}

fn judged(probe: &Probe, trust: &Trust, now_secs: i64) -> Finding {
    let certificates = match &probe.shown {
        None => {
            return Finding::good(
                KIND,
                "the line to the broker is without TLS; what it carries is sealed",
            );
        }
        Some(Ok(certificates)) => certificates,
        Some(Err(why)) => {
            return Finding::new(
                KIND,
                Verdict::Bad,
                why.text.clone(),
                remedy(why.doubt, trust),
            );
        }
    };
    let whose = match trust {
        Trust::Pinned(_) => "the broker's certificate is the pinned one's",
        Trust::SystemRoots | Trust::RootsFile(_) => "the broker's certificate is good",
    };
    let ends = certificates
        .first()
        .and_then(|leaf| not_after_secs(leaf.as_ref()));
    let text = match ends.map(|ends| (ends - now_secs) / DAY_SECS) {
        // Authorities that never mean to end say the year 9999.
        None | Some(FOR_EVER_DAYS..) => whose.to_string(),
        Some(days @ 0..) => format!("{whose}, and in date for {days} more days"),
        Some(_) => format!("{whose}; its date has passed, which does not matter here"),
    };
    Finding::good(KIND, text)
}

/// What helps against a broker that is not believed.
fn remedy(doubt: Doubt, trust: &Trust) -> &'static str {
    match (trust, doubt) {
        (Trust::Pinned(_), _) => {
            "skerry token create   # on the hub; here, if nothing is lost with this device's apps and volumes: skerry-agent reset && skerry-agent join TOKEN"
        }
        (_, Doubt::Ended) => {
            "date   # if that is right: renew the certificate on the broker, as with: certbot renew"
        }
        (_, Doubt::NotBegun) => {
            "date; timedatectl timesync-status   # this clock is behind: without the time no certificate can be believed"
        }
        (_, Doubt::OtherName) => {
            "on the hub: skerry line set mqtts://NAME, with a name that the certificate is for; or give the broker a certificate for this one"
        }
        (_, Doubt::Stranger) => {
            "apt-get install -y ca-certificates; cp CA.crt /usr/local/share/ca-certificates/ && update-ca-certificates   # CA.crt: of whoever signed the broker's certificate, as PEM"
        }
        (_, Doubt::NoTls | Doubt::Other) => {
            "skerry-agent doctor   # again in a minute; if it stays so, look at the broker's log"
        }
    }
}

/// One value of DER (X.690): its tag, its content, and what follows it.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// When a certificate (RFC 5280, 4.1) ends, in seconds since 1970.
fn not_after_secs(der: &[u8]) -> Option<i64> {
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = value(der)?;
    let (_, mut signed, _) = value(certificate)?;
    if let (VERSION, _, rest) = value(signed)? {
        signed = rest;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        signed = value(signed)?.2;
    }
    let (_, validity, _) = value(signed)?;
    let (_, _, rest) = value(validity)?;
    let (tag, time, _) = value(rest)?;
    seconds(tag, std::str::from_utf8(time).ok()?)
}

/// UTCTime `YYMMDDHHMMSSZ` or GeneralizedTime `YYYYMMDDHHMMSSZ`.
fn seconds(tag: u8, time: &str) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    let digits = time.strip_suffix('Z')?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = digits.split_at_checked(digits.len().checked_sub(10)?)?;
    if year.len() > 4 {
        return None;
    }
    let mut year: i64 = year.parse().ok()?;
    if tag == UTC_TIME {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let days = days_from_civil(year, month, day);
    Some(days * DAY_SECS + part(4)? * 3600 + part(6)? * 60 + part(8)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_link::{CertPin, CertificateDer, NotBelieved};

    /// A certificate of the right shape with these dates, and nothing else
    /// that anybody would believe.
    fn certificate(ends: &[u8]) -> Vec<u8> {
        let tagged = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let validity = [tagged(0x17, b"240101000000Z"), ends.to_vec()].concat();
        let signed = [
            tagged(0xa0, &[2, 1, 2]),
            tagged(2, &[1]),
            tagged(0x30, &[]),
            tagged(0x30, &[]),
            tagged(0x30, &validity),
        ];
        let signed = tagged(0x30, &signed.concat());
        tagged(0x30, &signed)
    }

    #[test]
    fn dates_are_read_and_only_told() {
        let mut utc = vec![0x17, 13];
        utc.extend(b"270301000001Z");
        assert_eq!(not_after_secs(&certificate(&utc)), Some(1_803_859_201));
        let mut general = vec![0x18, 15];
        general.extend(b"20500101000000Z");
        assert_eq!(not_after_secs(&certificate(&general)), Some(2_524_608_000));
        general[1] = 14;
        assert_eq!(not_after_secs(&certificate(&general)), None, "cut off");
        for end in 0..certificate(&utc).len() {
            assert_eq!(not_after_secs(&certificate(&utc)[..end]), None);
        }
        let probe = |shown| Probe {
            reached: Ok(()),
            wants_tls: false,
            shown,
        };
        let not = |doubt| {
            let text = "not the broker".to_string();
            Some(Err(NotBelieved { doubt, text }))
        };
        let trust = Trust::Pinned(vec![CertPin([0; 32])]);
        let shown = probe(Some(Ok(vec![CertificateDer::from(certificate(&utc))])));
        let found = judged(&shown, &trust, 1_803_859_201 - 10 * DAY_SECS);
        assert_eq!(found.verdict, Verdict::Good);
        assert!(found.text.contains("10 more days"), "{}", found.text);
        let found = judged(&shown, &trust, i64::MAX / 2);
        assert_eq!(found.verdict, Verdict::Good);
        assert!(found.text.contains("does not matter"), "{}", found.text);
        let refused = judged(&probe(not(Doubt::Stranger)), &trust, 0);
        assert_eq!(refused.verdict, Verdict::Bad);
        assert!(refused.remedy.contains("join TOKEN"));
        for (doubt, words) in [
            (Doubt::Ended, "certbot renew"),
            (Doubt::NotBegun, "date;"),
            (Doubt::OtherName, "skerry line set"),
            (Doubt::Stranger, "update-ca-certificates"),
            (Doubt::Other, "the broker's log"),
        ] {
            let found = judged(&probe(not(doubt)), &Trust::SystemRoots, 0);
            assert!(found.remedy.contains(words), "{found:?}");
        }
        assert_eq!(judged(&probe(None), &trust, 0).verdict, Verdict::Good);
    }
}
