//! Does the board run slower than it could, by heat or want of power?

use super::{Finding, Verdict};
use crate::facts::{Host, is_raspberry_pi, throttled};
use skerry_wire::report::Vitals;

const KIND: &str = "Throttled";
/// Frequency capped, throttled, soft temperature limit: now.
const NOW: u32 = 0b1110;

/// Asks the firmware.
pub fn find(host: &Host) -> Finding {
    let Some(bits) = throttled(host) else {
        return Finding::unknown(KIND, "this machine does not tell whether it is slowed down");
    };
    let vitals = Vitals {
        // Voltage has a diagnosis of its own.
        throttled: Some(bits & !(1 | 1 << 16)),
        ..Vitals::default()
    };
    let words = vitals.throttling().join(", ");
    if bits & NOW != 0 {
        let remedy = match is_raspberry_pi(host) {
            true => {
                "cool the board (heat sink, fan, more room), and see that its power supply is its own"
            }
            false => "cool the machine",
        };
        return Finding::new(KIND, Verdict::Poor, format!("slowed down: {words}"), remedy);
    }
    match words.is_empty() {
        true => Finding::good(KIND, "nothing slows the board down"),
        false => Finding::good(
            KIND,
            format!("nothing slows the board down now; it {words}"),
        ),
    }
}
