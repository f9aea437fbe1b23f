//! Is memory about to run out?

use super::{Finding, Verdict};
use crate::facts::{Host, memory_available_bytes};

const KIND: &str = "MemoryPressure";
/// Below this, a start of anything may kill something else.
const LOW_BYTES: u64 = 24 << 20;

/// Looks at what the kernel could still give.
pub fn find(host: &Host) -> Finding {
    let available = memory_available_bytes(host);
    let text = format!("{} MiB of memory available", available >> 20);
    match available {
        0 => Finding::unknown(
            KIND,
            "the kernel does not tell how much memory is available",
        ),
        1..LOW_BYTES => Finding::new(
            KIND,
            Verdict::Poor,
            format!("only {text}: apps will be killed for want of it"),
            "ps -eo rss,comm --sort=-rss | head   # then give apps less, or limits",
        ),
        _ => Finding::good(KIND, text),
    }
}
