//! The last steps inside a container: from libcontainer's prepared process to
//! the image's program.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::unistd::{AccessFlags, eaccess, execv};

use super::hooks::OwnHooks;
use super::seccomp::Filter;
use super::stamps::stamp;

/// Exit codes of a program that could not be run, as shells use them.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Runs the image's program under the seccomp filter.
#[derive(Clone)]
pub struct ContainedExecutor {
    /// What the program may call; `None` is everything.
    pub filter: Option<Filter>,
    /// Size of its terminal, if it has one.
    pub window: Option<(u16, u16)>,
    /// What runs before it, under the same filter.
    pub hooks: OwnHooks,
}

impl Executor for ContainedExecutor {
    /// Replaces this process. Does not return: what goes wrong is said on the
    /// program's standard error, and so in the container's log.
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (name, error) = match self.run(spec) {
            Ok(never) => match never {},
            Err(failed) => failed,
        };
        let hint = match error {
            nix::Error::ENOEXEC => " (built for another CPU, or a script without #! line)",
            nix::Error::ENOENT => " (or the interpreter or loader that it names is missing)",
            _ => "",
        };
        let _ = writeln!(
            std::io::stderr(),
            "skerry: cannot run {name:?}: {}{hint}",
            error.desc()
        );
        let code = if error == nix::Error::ENOENT {
            NOT_FOUND
        } else {
            CANNOT_RUN
        };
        // SAFETY: ends this process at once; nothing of the parent that we
        // share must run its destructors here.
        unsafe { libc::_exit(code) }
    }

    /// Says before the start whether the program is there at all. Runs inside
    /// the container, as its user.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        stamp("inside");
        let name = program(spec);
        find(&name, &search_path(spec)).map(drop).map_err(|error| {
            let why = match error {
                nix::Error::ENOENT => "is not in the image, or not in its PATH".to_owned(),
                nix::Error::EACCES => "may not be executed by the container's user".to_owned(),
                other => other.desc().to_owned(),
            };
            ExecutorValidationError::ArgValidationError(format!("program {name:?} {why}"))
        })
    }
}

impl ContainedExecutor {
    fn run(&self, spec: &Spec) -> Result<Infallible, (String, nix::Error)> {
        stamp("released");
        let name = program(spec);
        let at = |error| (name.clone(), error);
        let path = find(&name, &search_path(spec)).map_err(at)?;
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| at(nix::Error::EINVAL))?;
        let args = arguments(spec)
            .iter()
            .map(|word| CString::new(word.as_bytes()));
        let args: Vec<CString> = args
            .collect::<Result<_, _>>()
            .map_err(|_| at(nix::Error::EINVAL))?;
        if let Some((columns, rows)) = self.window {
            set_window(columns, rows);
        }
        reset_signals();
        if let Some(filter) = &self.filter {
            filter.install().map_err(|error| {
                let _ = writeln!(std::io::stderr(), "skerry: {error}");
                at(nix::Error::EPERM)
            })?;
        }
        stamp("filtered");
        // Not earlier: from the image's own files they may run anything, and
        // only now do limits, device rules and filter hold it.
        self.hooks.run(environment(spec)).map_err(|error| {
            let _ = writeln!(std::io::stderr(), "skerry: {error}");
            at(nix::Error::ECANCELED)
        })?;
        execv(&path, &args).map_err(at)
    }
}

fn arguments(spec: &Spec) -> &[String] {
    spec.process()
        .as_ref()
        .and_then(|process| process.args().as_deref())
        .unwrap_or_default()
}

fn program(spec: &Spec) -> String {
    arguments(spec).first().cloned().unwrap_or_default()
}

fn environment(spec: &Spec) -> &[String] {
    let process = spec.process().as_ref();
    process
        .and_then(|process| process.env().as_deref())
        .unwrap_or_default()
}

fn search_path(spec: &Spec) -> String {
    let mut env = environment(spec).iter();
    let path = env.find_map(|word| word.strip_prefix("PATH="));
    path.unwrap_or_default().to_owned()
}

/// Where the program is, as a shell finds it.
fn find(name: &str, search: &str) -> Result<PathBuf, nix::Error> {
    let check = |path: PathBuf| -> Result<PathBuf, nix::Error> {
        eaccess(&path, AccessFlags::X_OK)?;
        if path.is_file() {
            Ok(path)
        } else {
            Err(nix::Error::EACCES)
        }
    };
    if name.contains('/') {
        return check(name.into());
    }
    let mut worst = nix::Error::ENOENT;
    for dir in search.split(':').filter(|dir| !dir.is_empty()) {
        match check(PathBuf::from(dir).join(name)) {
            Ok(path) => return Ok(path),
            Err(nix::Error::EACCES) => worst = nix::Error::EACCES,
            Err(_) => {}
        }
    }
    Err(worst)
}

/// A program expects every signal unblocked and at its default. Rust's
/// runtime ignores SIGPIPE, and an ignored signal stays so over `execve`.
fn reset_signals() {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
    for number in Signal::iterator() {
        // SAFETY: the default action runs no code of ours.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Tells the terminal how large it is, before the program asks.
fn set_window(columns: u16, rows: u16) {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is what this request reads, and lives over the call.
    unsafe { libc::ioctl(0, libc::TIOCSWINSZ, &raw const size) };
}
