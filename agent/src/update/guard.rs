//! Watches over the agent that is on trial: a small process of the old
//! program, there for the trial only.
//!
//! The old agent becomes the guard (`exec`), so the guard has its pid, which is
//! what systemd watches. It runs the new agent as its child and waits for its
//! end or for the time to be up. Then it becomes the agent that is in use by
//! then: the new one if that was confirmed, else the old one. It needs the new
//! program for nothing, so a new agent that crashes, hangs or never begins is
//! undone like any other.
//!
//! If the guard itself ends (a power cut, `systemctl stop`, a kill), the kernel
//! ends the child, and the next start finds a trial that came to nothing.

use super::binary::BinarySlots;
use super::slot::Slots;
use crate::notify;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getppid};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// The program on trial knows the time it has and tells better than we can why
/// it was not enough; only when it says nothing so much later do we end it.
const SLACK: Duration = Duration::from_secs(10);
/// How often the clock is looked at: it also counts while the machine sleeps,
/// which a wait does not.
const LOOK: Duration = Duration::from_secs(1);

/// Becomes the guard. Returns only when that fails.
pub fn become_guard(data_dir: &Path, args: &[OsString]) -> std::io::Error {
    Command::new("/proc/self/exe")
        .arg0("skerry-agent")
        .arg("guard")
        .arg(data_dir)
        .args(args)
        .exec()
}

/// Becomes that program with these arguments. Returns only when that fails.
pub fn become_agent(program: &Path, args: &[OsString]) -> std::io::Error {
    Command::new(program).args(args).exec()
}

/// The guard's life. `args` are those of the agent: `run` and its options.
pub fn main(exe: &Path, version: &str, data_dir: &Path, args: &[OsString]) -> ExitCode {
    let program = match BinarySlots::open(data_dir, exe, version) {
        Ok(mut slots) => {
            watch(&mut slots, args);
            slots.in_use()
        }
        Err(error) => {
            eprintln!("skerry-agent guard: {error}");
            exe.to_owned()
        }
    };
    let error = become_agent(&program, args);
    eprintln!(
        "skerry-agent guard: {} does not start: {error}",
        program.display()
    );
    // The file of the old program may be gone; this process is it.
    let error = become_agent(Path::new("/proc/self/exe"), args);
    eprintln!("skerry-agent guard: {error}");
    ExitCode::FAILURE
}

/// Runs the trial to its end. Afterwards the slots say what is in use.
fn watch(slots: &mut BinarySlots, args: &[OsString]) {
    let Some((trial, program)) = slots.on_trial() else {
        return;
    };
    let time = Duration::from_secs(u64::from(trial.confirm_secs)) + SLACK;
    let child = Command::new("/proc/self/exe")
        .arg0("skerry-agent")
        .arg("guarded")
        .arg(std::process::id().to_string())
        .arg(&program)
        .args(args)
        // systemd listens to the main process: to us.
        .env_remove("NOTIFY_SOCKET")
        .spawn();
    let how = match child {
        Ok(child) => end_of(child, time),
        Err(error) => format!("it cannot be started: {error}"),
    };
    // It may have confirmed or reverted itself, and that is its last word.
    let fresh = slots.refresh().is_ok();
    if !fresh || slots.on_trial().is_some() {
        let reason = format!("{how} before it was confirmed");
        if let Err(error) = slots.revert(&reason) {
            // The next start will see the trial, and undo it as well.
            eprintln!("skerry-agent guard: {error}");
        }
    }
}

/// Waits for the child's end, makes it when the time is up, and says how it
/// was.
fn end_of(mut child: Child, time: Duration) -> String {
    let begun = boot_time();
    let ended = end_of_child(&child);
    let beat = notify::interval().unwrap_or(LOOK).min(LOOK);
    let hung = loop {
        notify::alive();
        match ended.recv_timeout(beat) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if boot_time().saturating_sub(begun) >= time {
            let _ = child.kill();
            break true;
        }
    };
    let after = boot_time().saturating_sub(begun).as_secs_f32();
    match (hung, child.wait()) {
        (true, _) => format!("it said nothing for {after:.0} s and was ended"),
        (false, Ok(status)) => format!("it ended after {after:.1} s ({status})"),
        (false, Err(error)) => format!("it was lost: {error}"),
    }
}

/// Tells when a child has ended. Its zombie is left, so that its pid stays its
/// own until [`Child::wait`].
pub fn end_of_child(child: &Child) -> Receiver<()> {
    let pid = Pid::from_raw(child.id() as i32);
    let (ended_in, ended) = sync_channel(1);
    std::thread::spawn(move || {
        let left = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(nix::Error::EINTR) | Ok(WaitStatus::StillAlive) = waitid(Id::Pid(pid), left) {
        }
        // Whoever asked may have lost patience.
        let _ = ended_in.send(());
    });
    ended
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had it since 2.6.39");
    Duration::from(time)
}

/// The child, before it becomes the program on trial: it ends with the guard.
pub fn guarded(guard: &str, program: &Path, args: &[OsString]) -> ExitCode {
    let bound = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    // It may have ended before the kernel was told.
    if bound.is_err() || getppid().to_string() != guard {
        return ExitCode::FAILURE;
    }
    let error = become_agent(program, args);
    eprintln!(
        "skerry-agent: {} does not start: {error}",
        program.display()
    );
    ExitCode::FAILURE
}
