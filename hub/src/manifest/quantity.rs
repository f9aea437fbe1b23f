//! Kubernetes' quantities: `500m`, `0.5`, `64Mi`, `1G`, `1e3`.
//!
//! Read exactly, in whole numbers: digits, a decimal exponent and a factor.
//! Source: Kubernetes' "Quantity" (apimachinery `resource.Quantity`).

/// The largest number of processes and threads (Linux' `PID_MAX_LIMIT`).
pub(super) const MAX_PIDS: u64 = 4 * 1024 * 1024;
/// Thousandths of a cpu below which Linux refuses a quota: it has to be 1 ms
/// of each period of 100 ms.
const MIN_CPU_MILLIS: u128 = 10;
/// 1,024 cpus: more than any device has.
const MAX_CPU_MILLIS: u128 = 1024 * 1000;
/// No program starts in less, and a missing suffix is found out.
const MIN_MEMORY_BYTES: u128 = 512 * 1024;
/// 16 TiB.
const MAX_MEMORY_BYTES: u128 = 16 << 40;
/// One page of the log and a bit.
const MIN_LOG_BYTES: u128 = 16 * 1024;
/// Half of a small device's disk is too much for one log.
const MAX_LOG_BYTES: u128 = 1 << 30;
/// Less lets nothing through, and a missing suffix is found out.
const MIN_RATE_BYTES: u128 = 1024;
/// More than any network card of today.
const MAX_RATE_BYTES: u128 = 16 << 30;
/// A page.
const MIN_VOLUME_BYTES: u128 = 4 * 1024;
/// 1 PiB: more than any device has.
const MAX_VOLUME_BYTES: u128 = 1 << 50;
/// Digits read: keeps all arithmetic inside 128 bits.
const MAX_DIGITS: usize = 15;

/// Why a text is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QuantityError {
    pub what: String,
    pub remedy: String,
}

fn error<T>(what: impl Into<String>, remedy: impl Into<String>) -> Result<T, QuantityError> {
    Err(QuantityError {
        what: what.into(),
        remedy: remedy.into(),
    })
}

/// `digits × factor ÷ divisor`.
struct Quantity<'t> {
    digits: u128,
    factor: u128,
    divisor: u128,
    suffix: &'t str,
}

/// Thousandths of a cpu.
pub(super) fn cpu_millis(text: &str) -> Result<u32, QuantityError> {
    let quantity = read(text, "500m for half a cpu, or 2")?;
    let millis = quantity.digits * quantity.factor * 1000;
    let remedy = "write from 10m (a hundredth of a cpu) to 1024";
    if millis < MIN_CPU_MILLIS * quantity.divisor {
        return error(format!("{text} of a cpu is too little"), remedy);
    }
    if !millis.is_multiple_of(quantity.divisor) {
        return error(
            format!("{text} of a cpu is finer than a thousandth"),
            "write whole thousandths, as in 250m",
        );
    }
    let millis = millis / quantity.divisor;
    match u32::try_from(millis) {
        Ok(fits) if millis <= MAX_CPU_MILLIS => Ok(fits),
        _ => error(format!("{text} cpus are more than any device has"), remedy),
    }
}

/// Bytes of memory; a part of a byte counts as one.
pub(super) fn memory_bytes(text: &str) -> Result<u64, QuantityError> {
    bytes(text, MIN_MEMORY_BYTES, MAX_MEMORY_BYTES, "512Ki to 16Ti")
}

/// Bytes from none at all: swap, huge pages.
pub(super) fn any_bytes(text: &str) -> Result<u64, QuantityError> {
    bytes(text, 0, MAX_MEMORY_BYTES, "0 to 16Ti")
}

/// Bytes of log kept.
pub(super) fn log_max_bytes(text: &str) -> Result<u64, QuantityError> {
    bytes(text, MIN_LOG_BYTES, MAX_LOG_BYTES, "16Ki to 1Gi")
}

/// Bytes in a second that an app may send.
pub(super) fn bytes_per_second(text: &str) -> Result<u64, QuantityError> {
    bytes(text, MIN_RATE_BYTES, MAX_RATE_BYTES, "1Ki to 16Gi")
}

/// Bytes in a volume.
pub(super) fn volume_bytes(text: &str) -> Result<u64, QuantityError> {
    bytes(text, MIN_VOLUME_BYTES, MAX_VOLUME_BYTES, "4Ki to 1Pi")
}

fn bytes(text: &str, low: u128, high: u128, range: &str) -> Result<u64, QuantityError> {
    let quantity = read(text, "64Mi, 1Gi or 500M")?;
    let bytes = (quantity.digits * quantity.factor).div_ceil(quantity.divisor);
    if quantity.suffix == "m" {
        return error(
            format!("{text} means thousandths of a byte"),
            format!("write {}Mi", text.trim_end_matches('m')),
        );
    }
    match u64::try_from(bytes) {
        Ok(fits) if (low..=high).contains(&bytes) => Ok(fits),
        _ if bytes < low && quantity.suffix.is_empty() => error(
            format!("{text} means {bytes} bytes"),
            format!("add a unit, as in {text}Mi, or write from {range}"),
        ),
        _ => error(
            format!("{text} is out of range"),
            format!("write from {range}"),
        ),
    }
}

fn read<'t>(text: &'t str, example: &str) -> Result<Quantity<'t>, QuantityError> {
    let shown: String = text.chars().take(40).collect();
    let wrong = |what: String| error(what, format!("write it as in {example}"));
    if text.starts_with('-') {
        return wrong(format!("{shown} is negative"));
    }
    let body = text.strip_prefix('+').unwrap_or(text);
    let end = body
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(body.len());
    let (number, suffix) = body.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return wrong(format!("'{shown}' is not a quantity"));
    }
    if whole.len() > 1 && whole.starts_with('0') {
        return wrong(format!(
            "'{shown}' starts with a zero, and readers disagree about that"
        ));
    }
    let fraction = fraction.trim_end_matches('0');
    if whole.len() + fraction.len() > MAX_DIGITS {
        return wrong(format!("{shown} has more than {MAX_DIGITS} digits"));
    }
    let Some((factor, divisor)) = scale(suffix) else {
        let remedy = match suffix.trim() {
            "k" | "kb" | "KB" | "kB" | "K" => "write Ki (1024 bytes) or k (1000 bytes)",
            "mb" | "MB" | "Mb" | "MiB" | "mib" | "mi" => "write Mi (1024 Ki) or M (1000 k)",
            "g" | "gb" | "GB" | "Gb" | "GiB" | "gib" | "gi" => "write Gi (1024 Mi) or G (1000 M)",
            "b" | "B" => "write the number of bytes without a unit",
            _ => return wrong(format!("'{shown}' has a unit that nobody knows")),
        };
        return error(
            format!("'{shown}' has a unit that is not Kubernetes'"),
            remedy,
        );
    };
    let digits = format!("{whole}{fraction}").parse::<u128>().unwrap_or(0);
    Ok(Quantity {
        digits,
        factor,
        divisor: divisor * 10u128.pow(fraction.len() as u32),
        suffix,
    })
}

/// Factor and divisor of a suffix.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let factor = match suffix {
        "" => 1,
        "n" => return Some((1, 1_000_000_000)),
        "u" => return Some((1, 1_000_000)),
        "m" => return Some((1, 1000)),
        "k" => 1000,
        "M" => 1000u128.pow(2),
        "G" => 1000u128.pow(3),
        "T" => 1000u128.pow(4),
        "P" => 1000u128.pow(5),
        "E" => 1000u128.pow(6),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        _ => return exponent(suffix),
    };
    Some((factor, 1))
}

/// `e3`, `E-6`: at most 18 either way, more is out of every range.
fn exponent(suffix: &str) -> Option<(u128, u128)> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let power = 10u128.pow(digits.parse::<u32>().ok().filter(|n| *n <= 15)?);
    Some(if negative { (1, power) } else { (power, 1) })
}

/// Thousandths of a cpu, in their shortest form: `500m`, `2`.
pub(super) fn cpu_text(millis: u32) -> String {
    if millis.is_multiple_of(1000) {
        (millis / 1000).to_string()
    } else {
        format!("{millis}m")
    }
}

/// Bytes, in their shortest exact form: `64Mi`, `1500`.
pub(super) fn bytes_text(bytes: u64) -> String {
    for (shift, suffix) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_in_kubernetes() {
        for (text, millis) in [
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("2", 2000),
            ("1.250", 1250),
            ("1e0", 1000),
            ("100E-3", 100),
            ("250000u", 250),
            ("+1", 1000),
            ("1024", 1_024_000),
        ] {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
        }
        for (text, bytes) in [
            ("64Mi", 64 << 20),
            ("1G", 1_000_000_000),
            ("1e6", 1_000_000),
            ("1.5Gi", 3 << 29),
            ("0.1Gi", 107_374_183),
            ("1048576", 1 << 20),
            ("16Ti", 16 << 40),
        ] {
            assert_eq!(memory_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn wrong_quantities_say_what_to_write() {
        for (text, remedy) in [
            ("64m", "write 64Mi"),
            ("64", "add a unit, as in 64Mi, or write from 512Ki to 16Ti"),
            ("64MB", "write Mi (1024 Ki) or M (1000 k)"),
            ("1K", "write Ki (1024 bytes) or k (1000 bytes)"),
            ("17Ti", "write from 512Ki to 16Ti"),
            ("-1Mi", "write it as in 64Mi, 1Gi or 500M"),
            ("lots", "write it as in 64Mi, 1Gi or 500M"),
        ] {
            assert_eq!(memory_bytes(text).unwrap_err().remedy, remedy, "{text}");
        }
        for text in [
            "",
            ".",
            "1.2.3",
            "0",
            "5m",
            "1025",
            "0.0105",
            "010m",
            "1e16",
            "1e",
            "1e99999999999",
            "99999999999999999999",
            "1 m",
            "½",
        ] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
        assert!(cpu_millis("999999999999999999E").is_err());
        assert!(memory_bytes("999999999999999999Ei").is_err());
        assert!(memory_bytes("0.00000000000000001n").is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        for millis in [10, 999, 1000, 1001, 500, 1_024_000] {
            assert_eq!(cpu_millis(&cpu_text(millis)), Ok(millis));
        }
        for bytes in [512 << 10, 1_000_001, 64 << 20, 3 << 29, 16 << 40] {
            assert_eq!(memory_bytes(&bytes_text(bytes)), Ok(bytes));
        }
    }
}
