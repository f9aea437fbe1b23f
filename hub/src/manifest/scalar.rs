//! What YAML readers make of text without quotes. Readers differ: `no`, `012`
//! and `1_000` are text to a YAML 1.2 reader and a truth value or numbers to
//! the YAML 1.1 readers of Kubernetes and compose. Where any of them reads
//! something else than text, we ask for quotes, so that a manifest means the
//! same everywhere.

/// How a plain scalar is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing, `~`, `null`.
    Null,
    /// `true` and `false`, by every reader.
    Bool(bool),
    /// `yes`, `no`, `on`, `off`, `y`, `n`: truth values in YAML 1.1.
    OldBool(bool),
    /// A number, or what some reader takes for one.
    Number,
    /// Text to all.
    Text,
}

/// How readers take `text` when it stands without quotes.
pub(super) fn meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "true" | "True" | "TRUE" => Meaning::Bool(true),
        "false" | "False" | "FALSE" => Meaning::Bool(false),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Meaning::OldBool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Meaning::OldBool(false),
        _ if is_number(text) => Meaning::Number,
        _ => Meaning::Text,
    }
}

fn is_number(text: &str) -> bool {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(body, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = body.strip_prefix(prefix) {
            let digit = |c: char| c.is_digit(radix) || c == '_';
            return !digits.is_empty() && digits.chars().all(digit);
        }
    }
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body, None),
    };
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return false;
        }
    }
    let digit = |b: u8| b.is_ascii_digit() || b == b'_';
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digit = mantissa.bytes().any(|b| b.is_ascii_digit());
    let starts_well = !mantissa.starts_with('_');
    has_digit && starts_well && whole.bytes().all(digit) && fraction.bytes().all(digit)
}

/// A whole number in decimal, without sign, leading zero or `_`: the form
/// that every reader takes the same way.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let plain_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if plain_digits && !leading_zero {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_any_reader_makes_of_them() {
        for number in [
            "0", "8080", "-1", "+7", "012", "0x1F", "0o17", "0b1", "1_000", "1.5", ".5", "1.",
            "1e3", "1.5E-3", ".inf", "-.INF", ".nan",
        ] {
            assert_eq!(meaning(number), Meaning::Number, "{number}");
        }
        for text in [
            "nginx",
            "1.27.0",
            "500m",
            "64Mi",
            "1e",
            "e3",
            "-",
            "+",
            ".",
            "0x",
            "10:30",
            "2026-11-21",
            "_1",
            "1a",
            "nope",
            "trueish",
            "1.2.3.4",
        ] {
            assert_eq!(meaning(text), Meaning::Text, "{text}");
        }
        assert_eq!(meaning("no"), Meaning::OldBool(false));
        assert_eq!(meaning("True"), Meaning::Bool(true));
        assert_eq!(meaning(""), Meaning::Null);
    }

    #[test]
    fn whole_numbers_have_one_form() {
        assert_eq!(decimal("30"), Some(30));
        assert_eq!(decimal("0"), Some(0));
        for bad in ["", "012", "1_0", "-1", "+1", "1.0", "99999999999999999999"] {
            assert_eq!(decimal(bad), None, "{bad}");
        }
    }
}
