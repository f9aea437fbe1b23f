//! What a person at the console reads: lines in the kernel's log, so that each
//! has the time since the kernel started, and every console shows it.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

/// Longest line; the kernel cuts records at 1 KiB.
const MAX_BYTES: usize = 900;

/// A severity of syslog(3), as the kernel's log has it. The image's command
/// line shows warnings and worse (`loglevel=5`), so plain news is one.
const WARNING: u8 = 4;
const ERROR: u8 = 3;

static KMSG: OnceLock<File> = OnceLock::new();

fn write(severity: u8, text: &str) {
    let kmsg = match KMSG.get() {
        Some(kmsg) => kmsg,
        None => match File::options().write(true).open("/dev/kmsg") {
            Ok(kmsg) => KMSG.get_or_init(|| kmsg),
            // Before /dev is there, or without one: nobody to tell.
            Err(_) => return,
        },
    };
    let mut end = text.len().min(MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let line = format!("<{severity}>skerry: {}\n", &text[..end].replace('\n', "; "));
    // One write is one record. A console that takes nothing is no reason to
    // stop.
    let _ = (&*kmsg).write_all(line.as_bytes());
}

/// How the start goes on.
pub fn news(text: &str) {
    write(WARNING, text);
}

/// What somebody has to look at.
pub fn trouble(text: &str) {
    write(ERROR, text);
}
