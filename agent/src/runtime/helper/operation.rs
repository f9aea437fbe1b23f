//! One operation: taken from the keeper, carried out, told.

use super::create::create;
use super::exec::exec;
use super::failure::Failure;
use crate::chain::chain;
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::hooks::HookError;
use crate::runtime::logs::stamp_now;
use crate::runtime::paths::Layout;
use crate::runtime::proto::{self, FailureKind, Operation, Progress};
use crate::runtime::sandbox;
use crate::runtime::seqpacket;
use crate::runtime::spec::SandboxSpec;
use crate::runtime::stamps::{self, stamp};
use crate::runtime::teardown::teardown;
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

/// Longest report of a failure, in bytes.
const MAX_REPORT: usize = 4096;

/// The process behind `skerry-agent helper`.
pub fn main() -> ExitCode {
    let began_nanos = stamps::now_nanos();
    let Ok(keeper) = take_stdin() else {
        complain("is started by the keeper, not by hand");
        return ExitCode::FAILURE;
    };
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let result = match seqpacket::receive(keeper.as_fd()) {
        Ok(Some((bytes, fds))) => match proto::decode(&bytes) {
            Ok(operation) => perform(operation, fds, keeper.as_fd(), began_nanos),
            Err(error) => Err(error.into()),
        },
        Ok(None) => return ExitCode::FAILURE,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(fds) => {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            report(keeper.as_fd(), &Progress::Done, &fds);
            stamp("done");
            ExitCode::SUCCESS
        }
        Err(Failure { kind, mut message }) => {
            let end = message
                .char_indices()
                .map(|(at, _)| at)
                .find(|at| *at >= MAX_REPORT);
            message.truncate(end.unwrap_or(message.len()));
            report(keeper.as_fd(), &Progress::Failed { kind, message }, &[]);
            ExitCode::FAILURE
        }
    }
}

/// The socket that is our standard input, out of the container's reach, and
/// /dev/null in its place.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(socket.as_raw_fd())?;
    let null = File::open("/dev/null")?;
    nix::unistd::dup2(null.as_raw_fd(), 0)?;
    Ok(socket)
}

pub(super) fn report(keeper: BorrowedFd<'_>, progress: &Progress, fds: &[BorrowedFd<'_>]) {
    let sent = proto::encode(0, progress)
        .map_err(io::Error::other)
        .and_then(|bytes| seqpacket::send(keeper, &bytes, fds));
    if let Err(error) = sent {
        complain(&format!("cannot report to the keeper: {error}"));
    }
}

fn perform(
    operation: Operation,
    fds: Vec<OwnedFd>,
    keeper: BorrowedFd<'_>,
    began_nanos: u64,
) -> Result<Vec<OwnedFd>, Failure> {
    stamps::open(&operation.layout().run_dir, began_nanos);
    stamp("asked");
    match operation {
        Operation::Create {
            spec,
            sandbox,
            layout,
        } => create(&spec, sandbox.as_ref(), &layout, fds, keeper).map(|()| Vec::new()),
        Operation::Exec { id, spec, layout } => {
            exec(&id, &spec, &layout, fds, keeper).map(|fd| fd.into_iter().collect())
        }
        Operation::MakeSandbox { spec, layout } => make_sandbox(&spec, &layout, keeper),
        Operation::Delete { id, layout } => {
            let hierarchies = Hierarchies::detect()?;
            let errors = teardown(&id, &layout, &hierarchies, hook_failed);
            stamp("removed");
            if errors.is_empty() {
                return Ok(Vec::new());
            }
            let texts: Vec<String> = errors.iter().map(|error| chain(error)).collect();
            Err(Failure::new(FailureKind::Failed, texts.join("; ")))
        }
    }
}

fn make_sandbox(
    spec: &SandboxSpec,
    layout: &Layout,
    keeper: BorrowedFd<'_>,
) -> Result<Vec<OwnedFd>, Failure> {
    spec.validate()
        .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
    let hierarchies = Hierarchies::detect()?;
    let born = |pid| report(keeper, &Progress::Born { pid }, &[]);
    let cgroup = layout.pods_cgroup();
    let fds = sandbox::make(spec, &hierarchies, &cgroup, &layout.run_dir, born)?;
    Ok(fds)
}

pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

pub(super) fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    fs::write(path, serde_json::to_vec(value)?)?;
    Ok(())
}

pub(super) fn hook_failed(error: &HookError) {
    complain(&error.to_string());
}

/// Says something in the keeper's own log, which is our standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{} skerry-agent helper: {text}", stamp_now());
}
