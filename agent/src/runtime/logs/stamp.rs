//! RFC 3339 times in UTC with nanoseconds, without a calendar library.

use super::super::spec::Timestamp;
use skerry_wire::calendar::{civil_from_days, days_from_civil};

const NANOS: u64 = 1_000_000_000;
const DAY: u64 = 86_400;

/// Length of every formatted time.
pub const LENGTH: usize = 30;

/// `2026-11-21T02:03:04.123456789Z`.
pub fn format(at: Timestamp) -> String {
    let (seconds, nanos) = (at.0 / NANOS, at.0 % NANOS);
    let (days, second) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = civil_from_days(days as i64);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// The reverse of [`format`]; `None` for anything else.
pub fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let marks = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'.'),
        (29, b'Z'),
    ];
    if bytes.len() != LENGTH || marks.iter().any(|(at, mark)| bytes[*at] != *mark) {
        return None;
    }
    let field = |from: usize, to: usize| -> Option<u64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0u64, |value, byte| {
            byte.is_ascii_digit()
                .then(|| value * 10 + u64::from(byte - b'0'))
        })
    };
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second, nanos) = (
        field(11, 13)?,
        field(14, 16)?,
        field(17, 19)?,
        field(20, 29)?,
    );
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_from_civil(year as i64, month as i64, day as i64);
    let seconds = u64::try_from(days).ok()?.checked_mul(DAY)?;
    let seconds = seconds.checked_add(hour * 3600 + minute * 60 + second)?;
    Some(Timestamp(seconds.checked_mul(NANOS)?.checked_add(nanos)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000005Z"),
            (951_782_400, "2000-02-29T00:00:00.000000005Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000005Z"),
            (1_795_226_584, "2026-11-21T02:03:04.000000005Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000000005Z"),
        ] {
            let at = Timestamp(seconds * NANOS + 5);
            assert_eq!(format(at), text);
            assert_eq!(parse(text), Some(at));
        }
        for bad in [
            "",
            "1970-01-01T00:00:00.000000000",
            "197x-01-01T00:00:00.000000000Z",
        ] {
            assert_eq!(parse(bad), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn there_and_back(nanos: u64) {
            proptest::prop_assert_eq!(parse(&format(Timestamp(nanos))), Some(Timestamp(nanos)));
        }
    }
}
