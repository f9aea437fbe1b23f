//! Did the kernel die and leave a note?

use super::{Finding, Verdict};
use crate::facts::{Host, panic_record};

const KIND: &str = "KernelCrashed";

/// Looks into the memory that survives a reset.
pub fn find(host: &Host) -> Finding {
    match panic_record(host) {
        None => Finding::good(KIND, "the kernel left no note of a crash"),
        Some(name) => Finding::new(
            KIND,
            Verdict::Poor,
            format!("the kernel crashed and left its last words in {name}"),
            "tail -n 40 /sys/fs/pstore/dmesg-*; rm /sys/fs/pstore/dmesg-*",
        ),
    }
}
