//! Making the namespaces that the containers of a pod share, in a helper.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Gid, Uid, fork, pause, pipe2, pivot_root};

use super::cgroup::Hierarchies;
use super::rootfs::{RootfsError, unshare_mounts};
use super::spec::SandboxSpec;
use super::users;

/// Whom the first process of a process namespace runs as: nobody.
const NOBODY: u32 = 65534;

/// Why a sandbox cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel gave no new namespaces.
    #[error("no new namespaces")]
    Unshare(#[source] nix::Error),
    /// No user namespace.
    #[error("no user namespace")]
    Users(#[source] io::Error),
    /// A namespace cannot be opened.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The loopback interface stays down.
    #[error("the loopback interface cannot be set up")]
    Loopback(#[source] io::Error),
    /// A kernel setting cannot be set.
    #[error("the kernel setting {name} cannot be set to {value:?}")]
    Sysctl {
        /// Which.
        name: String,
        /// To what.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The first process of the process namespace does not live.
    #[error("no first process for the process namespace")]
    First(#[source] io::Error),
    /// No own mounts for that process.
    #[error(transparent)]
    Mounts(#[from] RootfsError),
}

/// Moves this process into new namespaces and opens them: IPC, and the network
/// if the sandbox has its own. `born` hears of the first process of a shared
/// process namespace, which lives on in `cgroup`.
pub fn make(
    spec: &SandboxSpec,
    hierarchies: &Hierarchies,
    cgroup: &str,
    scratch: &Path,
    born: impl FnOnce(i32),
) -> Result<Vec<OwnedFd>, SandboxError> {
    let mut flags = CloneFlags::CLONE_NEWIPC;
    flags.set(CloneFlags::CLONE_NEWNET, spec.own_network);
    flags.set(CloneFlags::CLONE_NEWPID, spec.share_pid);
    if let Some(first) = spec.first_user {
        return make_with_users(spec, first, flags, hierarchies, cgroup, born);
    }
    unshare(flags).map_err(SandboxError::Unshare)?;
    if spec.own_network {
        loopback_up().map_err(SandboxError::Loopback)?;
    }
    set_up(&spec.sysctls, None)?;
    let open = |kind: &str| {
        let path = Path::new("/proc/self/ns").join(kind);
        match File::open(&path) {
            Ok(file) => Ok(OwnedFd::from(file)),
            Err(source) => Err(SandboxError::Open { path, source }),
        }
    };
    let mut fds = vec![open("ipc")?];
    if spec.own_network {
        fds.push(open("net")?);
    }
    if spec.share_pid {
        let enter = || hierarchies.enter(cgroup);
        first_process(scratch, enter, born)?;
    }
    Ok(fds)
}

/// All namespaces belong to a new user namespace, so that root in there may
/// change what is in them.
fn make_with_users(
    spec: &SandboxSpec,
    first: u32,
    flags: CloneFlags,
    hierarchies: &Hierarchies,
    cgroup: &str,
    born: impl FnOnce(i32),
) -> Result<Vec<OwnedFd>, SandboxError> {
    if spec.share_pid {
        // What is forked from here on is in that cgroup; root in there could
        // not enter it. We leave it by ending.
        hierarchies.enter(cgroup).map_err(SandboxError::First)?;
    }
    let within = || match spec.share_pid {
        // Everybody may look for /proc, and nobody needs it behind this.
        true => first_process(Path::new("/proc"), || Ok(()), born).map_err(|error| match error {
            SandboxError::First(source) => source,
            other => io::Error::other(other),
        }),
        false => Ok(()),
    };
    let made = users::make(first, flags, within).map_err(SandboxError::Users)?;
    users::join(&made).map_err(SandboxError::Unshare)?;
    loopback_up().map_err(SandboxError::Loopback)?;
    set_up(&spec.sysctls, Some(first))?;
    let mut fds = vec![made.ipc];
    fds.extend(made.network);
    fds.push(made.users);
    Ok(fds)
}

/// Sets what belongs to this process's namespaces now. `root` is the user that
/// is root in the user namespace that these belong to, if not our own.
fn set_up(sysctls: &[(String, String)], root: Option<u32>) -> Result<(), SandboxError> {
    for (name, value) in sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let mut written = fs::write(&path, value);
        // Some settings the host's root may change, and those of IPC since
        // Linux 6.9 root in there alone.
        if let (Err(_), Some(root)) = (&written, root) {
            nix::unistd::seteuid(Uid::from_raw(root)).map_err(SandboxError::Unshare)?;
            written = fs::write(&path, value);
            nix::unistd::seteuid(Uid::from_raw(0)).map_err(SandboxError::Unshare)?;
        }
        written.map_err(|source| SandboxError::Sysctl {
            name: name.clone(),
            value: value.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Sets up `lo` in this process's network namespace.
fn loopback_up() -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all of this C structure may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is what this request reads, and lives over the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Forks the first process of the new process namespace and waits until it has
/// put down all that it could be abused for.
fn first_process(
    scratch: &Path,
    enter: impl FnOnce() -> io::Result<()>,
    born: impl FnOnce(i32),
) -> Result<(), SandboxError> {
    let (reader, writer) =
        pipe2(OFlag::O_CLOEXEC).map_err(|error| SandboxError::First(error.into()))?;
    // SAFETY: this process has a single thread, so the child may do anything.
    match unsafe { fork() }.map_err(|error| SandboxError::First(error.into()))? {
        ForkResult::Parent { child } => {
            born(child.as_raw());
            drop(writer);
            let mut word = String::new();
            File::from(reader)
                .read_to_string(&mut word)
                .map_err(SandboxError::First)?;
            match word.as_str() {
                READY => Ok(()),
                "" => Err(SandboxError::First(io::Error::other("it ended at once"))),
                other => Err(SandboxError::First(io::Error::other(other.to_owned()))),
            }
        }
        ForkResult::Child => {
            let mut writer = File::from(writer);
            if let Err(error) = enter().and_then(|()| put_all_down(scratch)) {
                let _ = writer.write_all(error.to_string().as_bytes());
                std::process::exit(1);
            }
            let _ = writer.write_all(READY.as_bytes());
            // SAFETY: every descriptor, that of `writer` too, and no code of
            // this process uses one any more.
            unsafe {
                libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32);
            }
            std::mem::forget(writer);
            loop {
                // Signals from inside its namespace do not reach it, and the
                // kernel reaps for it.
                pause();
            }
        }
    }
}

/// What the first process says when it is ready.
const READY: &str = "ready";

/// Containers see this process: it has an empty root, no rights, and nobody's
/// identity, so that not even root in a container can trace it, and what is
/// behind `/proc/1/root` and `/proc/1/exe` cannot be followed.
fn put_all_down(scratch: &Path) -> io::Result<()> {
    unshare_mounts().map_err(io::Error::other)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        scratch,
        Some("tmpfs"),
        flags | MsFlags::MS_RDONLY,
        Some("size=4k,mode=555"),
    )?;
    std::env::set_current_dir(scratch)?;
    // The old root lands on top of the new one, and goes.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")?;
    // SAFETY: ignoring runs no code of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    let _ = nix::sys::prctl::set_name(c"skerry-pod");
    nix::sys::prctl::set_no_new_privs()?;
    nix::unistd::setgroups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    nix::unistd::setresgid(group, group, group)?;
    // The kernel takes all capabilities with this.
    nix::unistd::setresuid(user, user, user)?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}
