//! Times, ages and sizes as people write and read them.

use skerry_wire::calendar::civil_from_days;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest time that a flag takes: ten years.
const MAX_DURATION_SECS: u64 = 10 * 365 * 24 * 3600;

/// Milliseconds since 1970 by this machine's clock: the command line is a
/// shell, ages are only shown.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Reads `90s`, `10m`, `1h30m`, `7d`, `2w`; a number alone is seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time: write it as in 90s, 10m, 1h30m or 7d");
    if text.is_empty() {
        return Err(wrong());
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(end);
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let secs = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            "w" => 7 * 24 * 3600,
            "" if text.len() == digits.len() => 1,
            _ => return Err(wrong()),
        };
        total = total.saturating_add(number.saturating_mul(secs));
        rest = tail;
    }
    if total > MAX_DURATION_SECS {
        return Err(format!("'{text}' is more than ten years"));
    }
    Ok(Duration::from_secs(total))
}

/// How long ago, as kubectl shows it: `5s`, `3m12s`, `4h`, `2d`.
pub(super) fn age(then_ms: u64, now_ms: u64) -> String {
    span(Duration::from_millis(now_ms.saturating_sub(then_ms)))
}

/// A time in its two most telling units.
pub(super) fn span(time: Duration) -> String {
    let secs = time.as_secs();
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    let two = |a: u64, unit_a: &str, b: u64, unit_b: &str| match b {
        0 => format!("{a}{unit_a}"),
        _ => format!("{a}{unit_a}{b}{unit_b}"),
    };
    match secs {
        0..120 => format!("{secs}s"),
        120..600 => two(minutes, "m", secs % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}

/// Bytes with a binary unit: `512B`, `1.5Mi`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if count < 1024 {
        return format!("{count}B");
    }
    // Tenths in whole numbers: no float decides what is shown.
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths {
        0..100 if !tenths.is_multiple_of(10) => {
            format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
        }
        _ => format!("{}{}", tenths / 10, UNITS[unit]),
    }
}

/// A moment in UTC: `2026-11-21 02:45:10`.
pub(super) fn moment(ms: u64) -> String {
    let secs = ms / 1000;
    let (year, month, day) = civil_from_days((secs / 86_400) as i64);
    let time = secs % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// `1 device`, `2 devices`.
pub(super) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, secs) in [
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("45", 45),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs(secs)),
                "{text}"
            );
        }
        for bad in [
            "",
            "x",
            "5x",
            "-1s",
            "1h30",
            "1.5h",
            "99999999999999999999s",
            "99y",
            "11w52w m",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("5000d").is_err());
    }

    #[test]
    fn ages_sizes_and_moments_read_well() {
        for (secs, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (3600, "60m"),
            (4 * 3600 + 60, "4h1m"),
            (30 * 3600, "30h"),
            (3 * 86_400, "3d"),
            (20 * 86_400, "20d"),
            (800 * 86_400, "2y70d"),
        ] {
            assert_eq!(span(Duration::from_secs(secs)), text);
        }
        for (count, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (10 << 20, "10Mi"),
            (1 << 60, "1Ei"),
            (u64::MAX, "15Ei"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(moment(0), "1970-01-01 00:00:00");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(moment(1_795_229_110_000), "2026-11-21 02:45:10");
        assert_eq!(age(5000, 1000), "0s");
        assert_eq!(count(1, "device"), "1 device");
        assert_eq!(count(0, "device"), "0 devices");
    }
}
