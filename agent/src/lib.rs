//! The Skerry agent: runs containers on one device.

pub mod agent;
pub mod apart;
pub mod chain;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod device_api;
pub mod doctor;
pub mod engine;
pub mod facts;
pub mod image;
pub mod init;
pub mod line;
pub mod machine;
pub mod network;
pub mod notify;
mod openat2;
pub mod pages;
pub mod runtime;
pub mod store;
pub mod update;
pub mod volatile;
mod whole_file;

/// What goes before the version in the program's file, so that a program for
/// another machine can be asked what it is without running it
/// (`skerry release sign` does).
pub const VERSION_MARK: &[u8] = b"\0skerry-agent version=";
/// Whoever builds may call it otherwise: `SKERRY_VERSION=0.2.0-rc1 cargo build`.
const VERSION: &str = match option_env!("SKERRY_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
/// Bytes of mark, version and the zeros behind it.
const STAMP_BYTES: usize = 96;

const fn stamp() -> [u8; STAMP_BYTES] {
    let mut bytes = [0; STAMP_BYTES];
    let mut at = 0;
    while at < VERSION_MARK.len() {
        bytes[at] = VERSION_MARK[at];
        at += 1;
    }
    // One byte stays zero: the build fails for a version that is longer.
    assert!(VERSION_MARK.len() + VERSION.len() < STAMP_BYTES);
    let mut from = 0;
    while from < VERSION.len() {
        bytes[at] = VERSION.as_bytes()[from];
        at += 1;
        from += 1;
    }
    bytes
}

static STAMP: [u8; STAMP_BYTES] = stamp();

/// The agent's release: what the stamp in the program's file says.
pub fn release() -> &'static str {
    let stamp = std::hint::black_box(&STAMP);
    let version = &stamp[VERSION_MARK.len()..];
    let end = version
        .iter()
        .position(|b| *b == 0)
        .unwrap_or(version.len());
    std::str::from_utf8(&version[..end]).unwrap_or("unknown")
}
