//! Does the board get enough power? A Raspberry Pi says so itself.

use super::{Finding, Verdict};
use crate::facts::{Host, is_raspberry_pi, throttled};

const KIND: &str = "UnderVoltage";
const REMEDY: &str = "use the board's own power supply and a short, thick cable; power USB disks from a hub of their own";

/// Asks the firmware.
pub fn find(host: &Host) -> Finding {
    let poor = |text: &str| Finding::new(KIND, Verdict::Poor, text, REMEDY);
    match throttled(host) {
        Some(bits) if bits & 1 != 0 => {
            poor("under-voltage now: the board may crash, and its card lose data")
        }
        Some(bits) if bits & (1 << 16) != 0 => {
            poor("the voltage was too low at times since the machine started")
        }
        Some(_) => Finding::good(KIND, "the board gets enough power"),
        None if is_raspberry_pi(host) => Finding::unknown(
            KIND,
            "this kernel does not say whether the board gets enough power",
        ),
        None => Finding::unknown(KIND, "this machine does not tell its supply's voltage"),
    }
}
