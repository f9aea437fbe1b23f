//! Numbers and times as headers write them.

use super::entry::{TarError, Time};

pub(super) fn header_time(field: &[u8]) -> Result<Time, TarError> {
    // Base-256 and negative: before 1970.
    if field[0] == 0xff {
        let tail: [u8; 8] = field[4..12].try_into().expect("eight bytes");
        return Ok(Time {
            seconds: i64::from_be_bytes(tail),
            nanos: 0,
        });
    }
    let seconds = i64::try_from(number("mtime", field)?).map_err(|_| TarError::Number("mtime"))?;
    Ok(Time { seconds, nanos: 0 })
}

/// A header's number: octal text, or big-endian with the top bit set.
pub(super) fn number(name: &'static str, field: &[u8]) -> Result<u64, TarError> {
    let wrong = TarError::Number(name);
    if field[0] & 0x80 != 0 {
        if field[0] & 0x40 != 0 {
            return Err(wrong); // Negative.
        }
        let mut value = u64::from(field[0] & 0x3f);
        for byte in &field[1..] {
            if value >> 56 != 0 {
                return Err(wrong);
            }
            value = value << 8 | u64::from(*byte);
        }
        return Ok(value);
    }
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let mut value: u64 = 0;
    for digit in &digits[..end] {
        if !(b'0'..=b'7').contains(digit) || value >> 61 != 0 {
            return Err(wrong);
        }
        value = value << 3 | u64::from(digit - b'0');
    }
    Ok(value)
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`.
pub(super) fn pax_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut halves = value.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(halves.next()?)?).ok()?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |b| u32::from(b - b'0'));
    let nanos = (0..9).fold(0, |sum, at| sum * 10 + digit(at));
    Some(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time {
            seconds: -seconds,
            nanos,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}
