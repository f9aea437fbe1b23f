//! Something that may crash, done in a copy of this process: without a new
//! program to be loaded, which on a slow board takes longer than most work.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, dup2, fork, getpid, getppid, pipe2};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest text that is heard from the copy, in bytes.
const MAX_TEXT: u64 = 16 * 1024;
/// Exit code of a copy that panicked where panics unwind.
const PANICKED: i32 = 101;

/// How the copy ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` if it crashed.
    pub code: Option<i32>,
    /// What it wrote to its standard error.
    pub text: String,
}

/// Whether this process has one thread: only then is a copy of it whole.
fn is_single_threaded() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.take(2).count() == 1)
}

/// Does `work` in a copy of this process and waits for its end; what it
/// returns is the copy's exit code.
///
/// # Errors
/// Where there is no copy: more than one thread, or a lack of memory.
pub fn run_apart(work: impl FnOnce() -> u8) -> io::Result<Ended> {
    if !is_single_threaded() {
        return Err(io::Error::other("this process has more than one thread"));
    }
    let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let original = getpid();
    // SAFETY: this process has a single thread, so no lock is held by another
    // one and the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // What it holds, a lock for example, is not held for longer than
            // the original is there.
            let _ = set_pdeathsig(Signal::SIGKILL);
            if getppid() != original {
                // SAFETY: as below; the original is gone already.
                unsafe { libc::_exit(PANICKED) }
            }
            let _ = dup2(writer.as_raw_fd(), libc::STDERR_FILENO);
            let code = catch_unwind(AssertUnwindSafe(work)).map_or(PANICKED, i32::from);
            // SAFETY: ends the copy at once; what the original would do at its
            // end is not the copy's to do.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut bytes = Vec::new();
            let heard = File::from(reader).take(MAX_TEXT).read_to_end(&mut bytes);
            let code = match waitpid(child, None)? {
                WaitStatus::Exited(_, code) => Some(code),
                _ => None,
            };
            heard?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Ok(Ended { code, text })
        }
    }
}
