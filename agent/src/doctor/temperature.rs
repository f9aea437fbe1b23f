//! Is the processor too hot?

use super::{Finding, Verdict};
use crate::facts::{Host, temperature_millis};

const KIND: &str = "Overheating";
/// Where a Raspberry Pi begins to slow down; others are not far from it.
const HOT_MILLIS: i32 = 80_000;

/// Reads the sensor.
pub fn find(host: &Host) -> Finding {
    let Some(millis) = temperature_millis(host) else {
        return Finding::unknown(KIND, "this machine does not tell its temperature");
    };
    let text = format!("the processor has {} °C", millis / 1000);
    match millis {
        HOT_MILLIS.. => Finding::new(
            KIND,
            Verdict::Poor,
            text,
            "cool it: a heat sink, a fan, more room, no sun",
        ),
        _ => Finding::good(KIND, text),
    }
}
