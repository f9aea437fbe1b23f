//! An end that somebody asked for is no sign of an agent that does not stay: on
//! SIGTERM the count of [`starts`](super::starts) is forgotten, and then the
//! process ends as it always did.
//!
//! Only from when the agent was ready: systemd ends one that never gets there
//! with the same signal. Its watchdog, the kernel when memory is short and a
//! crash use others, and what they end goes on being counted.

use libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

/// What is removed, said once for all: a signal handler may take no lock.
static COUNT: OnceLock<CString> = OnceLock::new();

/// From now on this file goes when this process is asked to end.
///
/// Programs that this process starts do not have the handler: `exec` takes it
/// away.
pub fn forget_when_asked_to_end(count: &Path) {
    let Ok(count) = CString::new(count.as_os_str().as_bytes()) else {
        return;
    };
    if COUNT.set(count).is_err() {
        return; // It is there already.
    }
    let handler = SigHandler::Handler(asked_to_end);
    let action = SigAction::new(handler, SaFlags::SA_RESETHAND, SigSet::empty());
    // SAFETY: the handler does only what a handler may, see there.
    if let Err(error) = unsafe { sigaction(Signal::SIGTERM, &action) } {
        tracing::debug!("an orderly end is counted like any other: {error}");
    }
}

extern "C" fn asked_to_end(signal: c_int) {
    if let Some(count) = COUNT.get() {
        // SAFETY: unlink is safe in a handler (signal-safety(7)), the text ends
        // with a zero and is never changed; reading the lock is one load.
        unsafe { libc::unlink(count.as_ptr()) };
    }
    // SAFETY: so is raise. SA_RESETHAND has brought the default back, which
    // ends this process as soon as the handler returns.
    unsafe { libc::raise(signal) };
}
