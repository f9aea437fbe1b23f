//! Does somebody answer at the broker's address?

use super::{Finding, Verdict};
use skerry_link::{BrokerAddress, BrokerUrl, Doubt, Probe, Trust, probe};
use std::time::Duration;

const KIND: &str = "BrokerUnreachable";
/// How long name, connection and TLS may take together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, shakes hands over TLS if `trust` is known, and nothing more; and
/// what the other side showed, for whom it concerns.
pub fn find(address: &str, trust: Option<&Trust>) -> (Finding, Option<Probe>) {
    let shown = crate::engine::shown_broker(address);
    let bad = |text: String, remedy: String| Finding::new(KIND, Verdict::Bad, text, remedy);
    let address = match address.parse::<BrokerUrl>() {
        Ok(url) => url.address,
        Err(error) => {
            let remedy = "skerry-agent reset && skerry-agent join TOKEN";
            return (bad(error.to_string(), remedy.into()), None);
        }
    };
    let probe = smol::block_on(probe(&address, trust, PATIENCE));
    let no_tls = match &probe.shown {
        Some(Err(why)) if why.doubt == Doubt::NoTls => Some(&why.text),
        Some(_) | None => None,
    };
    let finding = match (&probe.reached, &address, no_tls) {
        (Ok(()), _, Some(why)) => bad(
            format!("somebody answers at {shown}, but {why}"),
            other_line("mqtt", &address),
        ),
        (Ok(()), _, None) if probe.wants_tls => bad(
            format!(
                "the broker at {shown} speaks TLS, and this address has none: it must begin with mqtts://"
            ),
            other_line("mqtts", &address),
        ),
        (Ok(()), _, None) => Finding::good(KIND, format!("the broker answers at {shown}")),
        (Err(why), BrokerAddress::Unix { .. }, _) => bad(
            format!("the broker does not answer at {shown}: {why}"),
            "is the broker running on this machine?".into(),
        ),
        (Err(why), BrokerAddress::Plain { host, .. } | BrokerAddress::Tls { host, .. }, _) => bad(
            format!("the broker does not answer at {shown}: {why}"),
            format!("systemctl status skerry-hub   # on the hub; here: ip route; ping -c 3 {host}"),
        ),
    };
    (finding, Some(probe))
}

/// How a device gets to the same port in the other manner. It is told by the
/// old line, or begins anew.
fn other_line(scheme: &str, address: &BrokerAddress) -> String {
    let place = address.to_string();
    let place = place.split_once("://").map_or("", |(_, place)| place);
    format!(
        "let the broker listen as before beside it, and on the hub: skerry line set {scheme}://{place}\n\
         or, if nothing is lost with this device's apps and volumes: skerry token create   # on the hub; here: skerry-agent reset && skerry-agent join TOKEN"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever sends an alert of TLS to what is no TLS, and hangs up; and one
    /// that hangs up on TLS, as a broker without it does.
    #[test]
    fn a_line_of_the_other_manner_is_told_with_the_command_that_changes_it() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            for answer in [&[][..], &[0x15, 3, 3, 0, 2, 2, 40], &[]] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut bytes = [0; 1024];
                if matches!(stream.read(&mut bytes), Ok(1..)) {
                    let _ = stream.write_all(answer);
                }
            }
        });
        let (found, _) = find(&format!("mqtt://{place}"), None);
        assert_eq!(found.verdict, Verdict::Bad, "{found:?}");
        assert!(found.text.contains("must begin with mqtts://"), "{found:?}");
        let command = format!("skerry line set mqtts://{place}\n");
        assert!(found.remedy.contains(&command), "{found:?}");
        let trust = Trust::Pinned(vec![skerry_link::CertPin([1; 32])]);
        let (found, _) = find(&format!("mqtts://{place}"), Some(&trust));
        assert_eq!(found.verdict, Verdict::Bad, "{found:?}");
        let command = format!("skerry line set mqtt://{place}\n");
        assert!(found.remedy.contains(&command), "{found:?}");
        server.join().unwrap();
    }

    #[test]
    fn a_port_that_nobody_has_is_told_from_one_that_answers() {
        let port = skerry_test_port::free_port();
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = format!("mqtt://user:secret@127.0.0.1:{port}");
        assert_eq!(find(&address, None).0.verdict, Verdict::Good);
        drop(listener);
        let (found, _) = find(&address, None);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.text.contains("does not answer"), "{}", found.text);
        assert!(!format!("{found:?}").contains("secret"));
        let (found, probe) = find("ftp://x", None);
        assert!(found.verdict == Verdict::Bad && probe.is_none());
    }
}
