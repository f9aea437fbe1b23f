//! Hooks: programs of the device that run while a container is made and taken
//! down (OCI runtime specification, POSIX-platform hooks). A vendor's CDI file
//! names them: a graphics card's libraries need links and an index in the
//! container's root.
//!
//! ```text
//! prestart, createRuntime   by libcontainer, in the helper's namespaces
//! createContainer           by libcontainer, in the container's, before its root
//! startContainer            by us, in the container, as its user, filtered
//! poststart                 by the helper, after the start
//! poststop                  by the helper that takes the container down
//! ```
//!
//! libcontainer would wait for a hook for ever, and say of one that fails that it
//! failed. So it starts this binary, `skerry-agent hook`, which runs the program,
//! bounds it, and leaves in the bundle what it said.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};
use oci_spec::OciSpecError;
use oci_spec::runtime::{HookBuilder, Hooks, HooksBuilder};

use super::spec::{ContainerId, Hook, HookStage, MAX_HOOK_SECS};
use super::stamps::now_nanos;
use super::teardown::pidfd;
use super::trust::only_root_writes;

/// How long a hook may take whose file says nothing: an index of libraries on a
/// slow card takes some seconds.
const USUAL: Duration = Duration::from_secs(30);
/// How long all hooks of a start may take; less than the keeper's patience with
/// a helper, so that the reason is told and not the helper killed.
const AT_START: Duration = Duration::from_secs(MAX_HOOK_SECS as u64);
/// The same for those after the end.
const AT_STOP: Duration = Duration::from_secs(30);
/// Bytes kept of the end of what a hook says.
const MAX_SAID: usize = 1024;
/// Blocks read at once: more than a pipe holds.
const MAX_BLOCKS: usize = 32;
/// All hooks of a container, in its bundle.
const FILE: &str = "hooks.json";
/// Why one of them failed, in its bundle.
const FAILED: &str = "hook-failed";
/// The binary that this process is, unwritable for containers.
const SELF: &str = "/proc/self/exe";

/// Why a hook failed. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no such program.
    #[error(
        "{hook} cannot be run: {source}; install it, or have {} written anew by its vendor's tool",
        file.display()
    )]
    Start {
        /// Which.
        hook: String,
        /// Who names it.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not only root decides what it does.
    #[error("{hook} is not run: {why}")]
    Untrusted {
        /// Which.
        hook: String,
        /// Why, and what to do.
        why: String,
    },
    /// It says so.
    #[error(
        "{hook} failed with {how}{said}; mend what it says, or have {} written anew by its vendor's tool",
        file.display()
    )]
    Failed {
        /// Which.
        hook: String,
        /// Who names it.
        file: PathBuf,
        /// Its code or signal.
        how: String,
        /// What it said.
        said: Said,
    },
    /// It hangs.
    #[error(
        "{hook} did not end within {} s and was killed{said}; see what it waits for, or give it a \
         'timeout' of at most {MAX_HOOK_SECS} in {}",
        limit.as_secs(),
        file.display()
    )]
    Late {
        /// Which.
        hook: String,
        /// Who names it.
        file: PathBuf,
        /// What it had.
        limit: Duration,
        /// What it said.
        said: Said,
    },
}

/// The end of what a program said, with a colon before it.
#[derive(Debug)]
pub struct Said(Vec<u8>);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.trim().chars().map(plain).collect();
        match text.is_empty() {
            true => Ok(()),
            false => write!(f, ": {text}"),
        }
    }
}

/// The hook as messages name it: its stage, and its first words.
fn name(hook: &Hook) -> String {
    const WORDS: usize = 2;
    let words = hook.args.iter().skip(1).take(WORDS - 1);
    let words = words.filter(|word| !word.starts_with('-'));
    let words: String = words.map(|word| format!(" {word}")).collect();
    let (stage, path) = (hook.stage.name(), hook.path.display());
    format!("the {stage} hook '{path}{words}'")
}

/// Refuses hooks whose program is not there, or is not only root's. Those of
/// the container's own files are not looked at: they are the image's. Blocks.
pub fn check(hooks: &[Hook]) -> Result<(), HookError> {
    for hook in hooks {
        if hook.stage == HookStage::StartContainer {
            continue;
        }
        let failed = |source: io::Error| HookError::Start {
            hook: name(hook),
            file: hook.file.clone(),
            source,
        };
        let data = fs::metadata(&hook.path).map_err(failed)?;
        if !data.is_file() || data.permissions().mode() & 0o111 == 0 {
            return Err(failed(io::Error::other("it is no program")));
        }
        only_root_writes(&hook.path).map_err(|why| HookError::Untrusted {
            hook: name(hook),
            why,
        })?;
    }
    Ok(())
}

/// Notes a container's hooks in its bundle, and gives those that libcontainer
/// is to run: by way of us, and all of them together within [`AT_START`].
pub fn prepare(hooks: &[Hook], bundle: &Path) -> io::Result<Option<Hooks>> {
    if hooks.is_empty() {
        return Ok(None);
    }
    fs::write(bundle.join(FILE), serde_json::to_vec(hooks)?)?;
    let until = until(AT_START).to_string();
    let of_stage = |wanted: HookStage| {
        let numbered = hooks.iter().enumerate();
        let wanted = numbered.filter(|(_, hook)| hook.stage == wanted);
        let made = wanted.map(|(number, _)| {
            let words = ["skerry-agent", "hook"].map(str::to_owned).into_iter();
            let place = bundle.to_string_lossy().into_owned();
            HookBuilder::default()
                .path(SELF)
                .args(
                    words
                        .chain([place, number.to_string(), until.clone()])
                        .collect::<Vec<_>>(),
                )
                .build()
        });
        made.collect::<Result<Vec<_>, OciSpecError>>()
            .map_err(io::Error::other)
    };
    let prestart = of_stage(HookStage::Prestart)?;
    let create_runtime = of_stage(HookStage::CreateRuntime)?;
    let create_container = of_stage(HookStage::CreateContainer)?;
    if prestart.is_empty() && create_runtime.is_empty() && create_container.is_empty() {
        return Ok(None);
    }
    let built = HooksBuilder::default()
        .prestart(prestart)
        .create_runtime(create_runtime)
        .create_container(create_container)
        .build();
    built.map(Some).map_err(io::Error::other)
}

/// Why a hook that libcontainer ran has failed, if one has.
pub fn failure(bundle: &Path) -> Option<String> {
    fs::read_to_string(bundle.join(FAILED)).ok()
}

/// Runs the hooks after a start. The first that fails ends it.
pub fn after_start(
    hooks: &[Hook],
    id: &ContainerId,
    bundle: &Path,
    pid: i32,
) -> Result<(), HookError> {
    let until = until(AT_START);
    let state = state(id.as_str(), "running", Some(pid), bundle);
    for hook in of(hooks, HookStage::Poststart) {
        run(hook, Some(&state), until)?;
    }
    Ok(())
}

/// Runs the hooks after a container's end, once: each of them, whatever becomes
/// of the others. What went wrong stops nothing.
pub fn after_stop(id: &ContainerId, bundle: &Path) -> Vec<HookError> {
    let Ok(bytes) = fs::read(bundle.join(FILE)) else {
        return Vec::new();
    };
    let hooks: Vec<Hook> = serde_json::from_slice(&bytes).unwrap_or_default();
    let until = until(AT_STOP);
    let state = state(id.as_str(), "stopped", None, bundle);
    let run = |hook| run(hook, Some(&state), until);
    let failed = of(&hooks, HookStage::Poststop).filter_map(|hook| run(hook).err());
    let failed = failed.collect();
    // Taking down may be tried again. If this fails, they run twice.
    let _ = fs::remove_file(bundle.join(FILE));
    failed
}

/// The hooks that the container's own process runs before its program.
#[derive(Debug, Clone, Default)]
pub struct OwnHooks {
    hooks: Vec<Hook>,
    id: String,
    bundle: PathBuf,
}

impl OwnHooks {
    /// Those of a container.
    pub fn of(hooks: &[Hook], id: &ContainerId, bundle: &Path) -> Self {
        Self {
            hooks: of(hooks, HookStage::StartContainer).cloned().collect(),
            id: id.to_string(),
            bundle: bundle.to_owned(),
        }
    }

    /// Runs them, as what this process is. One without an environment has
    /// that of the program.
    pub fn run(&self, env: &[String]) -> Result<(), HookError> {
        let until = until(AT_START);
        let pid = i32::try_from(std::process::id()).ok();
        let state = state(&self.id, "created", pid, &self.bundle);
        for hook in &self.hooks {
            let mut hook = hook.clone();
            if hook.env.is_empty() {
                hook.env = env.to_vec();
            }
            run(&hook, Some(&state), until)?;
        }
        Ok(())
    }
}

fn of(hooks: &[Hook], stage: HookStage) -> impl Iterator<Item = &Hook> {
    hooks.iter().filter(move |hook| hook.stage == stage)
}

/// The process behind `skerry-agent hook BUNDLE NUMBER UNTIL`, which libcontainer
/// starts with the container's state on standard input. What goes wrong is in
/// the bundle, because its standard error is the container's log.
pub fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let words = (args.next(), args.next(), args.next());
    let (Some(bundle), Some(number), Some(until)) = words else {
        eprintln!("skerry-agent hook: is started by a helper, not by hand");
        return ExitCode::FAILURE;
    };
    let bundle = PathBuf::from(bundle);
    let done = noted(&bundle, &number)
        .and_then(|hook| {
            let until = until.parse().map_err(io::Error::other)?;
            Ok((hook, until))
        })
        .map_err(|error| format!("the hooks of the container cannot be read: {error}"))
        .and_then(|(hook, until)| run(&hook, None, until).map_err(|error| error.to_string()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            if let Err(error) = fs::write(bundle.join(FAILED), &why) {
                eprintln!("skerry-agent hook: {why} ({error})");
            }
            ExitCode::FAILURE
        }
    }
}

fn noted(bundle: &Path, number: &str) -> io::Result<Hook> {
    let hooks: Vec<Hook> = serde_json::from_slice(&fs::read(bundle.join(FILE))?)?;
    let number: usize = number.parse().map_err(io::Error::other)?;
    let hook = hooks.into_iter().nth(number);
    hook.ok_or_else(|| io::Error::other("there is no such hook"))
}

/// The container's state as the OCI runtime specification has it.
fn state(id: &str, status: &str, pid: Option<i32>, bundle: &Path) -> String {
    let mut state = serde_json::json!({
        "ociVersion": "1.0.2",
        "id": id,
        "status": status,
        "bundle": bundle,
    });
    if let Some(pid) = pid {
        state["pid"] = pid.into();
    }
    state.to_string()
}

/// The monotonic clock after this time, in nanoseconds.
fn until(limit: Duration) -> u64 {
    now_nanos().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX))
}

/// Runs one hook with a state, or our own standard input, until it ends or its
/// time is up; then it is killed with all that it started and that has not left
/// its process group.
fn run(hook: &Hook, state: Option<&str>, until_nanos: u64) -> Result<(), HookError> {
    let left = Duration::from_nanos(until_nanos.saturating_sub(now_nanos()));
    let own = hook
        .timeout_secs
        .map(|secs| Duration::from_secs(secs.into()));
    let limit = own.unwrap_or(USUAL).min(left);
    let failed = |source: io::Error| HookError::Start {
        hook: name(hook),
        file: hook.file.clone(),
        source,
    };
    let (mut child, mut said) = start(hook, state).map_err(failed)?;
    let ended = wait(&mut child, &mut said, limit);
    let said = said.kept();
    let (hook_name, file) = (name(hook), hook.file.clone());
    match ended.map_err(failed)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(HookError::Failed {
            hook: hook_name,
            file,
            how: match (status.code(), status.signal()) {
                (Some(code), _) => format!("code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => status.to_string(),
            },
            said,
        }),
        None => Err(HookError::Late {
            hook: hook_name,
            file,
            limit,
            said,
        }),
    }
}

fn start(hook: &Hook, state: Option<&str>) -> io::Result<(Child, Ear)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    let mut command = Command::new(&hook.path);
    let words = match hook.args.as_slice() {
        [] => &[],
        [name, words @ ..] => {
            command.arg0(name);
            words
        }
    };
    let pairs = hook.env.iter().filter_map(|word| word.split_once('='));
    command
        .args(words)
        .env_clear()
        .envs(pairs)
        .stdin(match state {
            Some(_) => Stdio::piped(),
            None => Stdio::inherit(),
        })
        .stdout(Stdio::null())
        .stderr(theirs)
        .process_group(0);
    let mut child = command.spawn()?;
    // With it goes our own end of what it writes to.
    drop(command);
    if let (Some(state), Some(mut stdin)) = (state, child.stdin.take()) {
        // Less than a pipe holds. A hook that does not read it is none the worse.
        let _ = stdin.write_all(state.as_bytes());
    }
    fcntl(ours.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let ear = Ear {
        pipe: Some(ours.into()),
        kept: Vec::new(),
    };
    Ok((child, ear))
}

/// How it ended, or nothing if it did not in time: then it is killed.
fn wait(child: &mut Child, said: &mut Ear, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let until = until(limit);
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let end = pidfd(pid)?;
    loop {
        let left = Duration::from_nanos(until.saturating_sub(now_nanos()));
        if left.is_zero() {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            child.wait()?;
            said.listen();
            return Ok(None);
        }
        // Rounded up, or the last millisecond would be spent in a loop.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let mut fds = vec![PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            said.pipe
                .as_ref()
                .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_over = fds[0].any().unwrap_or(false);
        drop(fds);
        said.listen();
        if is_over {
            return child.wait().map(Some);
        }
    }
}

/// What a program says, its end kept.
struct Ear {
    /// Absent once nobody can say any more.
    pipe: Option<File>,
    kept: Vec<u8>,
}

impl Ear {
    /// Takes what is there. Does not wait.
    fn listen(&mut self) {
        let mut block = [0; 4096];
        // Who writes without end must not keep us from looking at the clock.
        for _ in 0..MAX_BLOCKS {
            let Some(pipe) = &mut self.pipe else {
                return;
            };
            match pipe.read(&mut block) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.kept.extend_from_slice(&block[..count]);
                    let over = self.kept.len().saturating_sub(MAX_SAID);
                    self.kept.drain(..over);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn kept(self) -> Said {
        Said(self.kept)
    }
}
