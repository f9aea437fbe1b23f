//! User namespaces: an app's users are others on the host, and what it mounts
//! is shown to it as if they were not.
//!
//! The ids 0 to 65,535 inside are `first` to `first` + 65,535 outside. The
//! namespace is made by a process that ends again; a descriptor keeps it.

use std::ffi::{CString, c_int, c_uint};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, pipe2, setgroups, setresgid, setresuid};

use super::spec::USERS;

/// What the process in the new namespaces says when they are there.
const READY: &str = "ready";

/// New namespaces, held open.
#[derive(Debug)]
pub struct Made {
    /// The user namespace.
    pub users: OwnedFd,
    /// The others asked for.
    pub ipc: OwnedFd,
    /// If asked for.
    pub network: Option<OwnedFd>,
}

/// Makes a user namespace and the namespaces of `flags`, which belong to it.
/// `within` is done in there, as root of there. This process must have a
/// single thread.
pub fn make(
    first: u32,
    flags: CloneFlags,
    within: impl FnOnce() -> io::Result<()>,
) -> io::Result<Made> {
    let (from_child, to_parent) = pipe2(OFlag::O_CLOEXEC)?;
    let (from_parent, to_child) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has a single thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((from_child, to_child));
            let (mut to_parent, mut from_parent) = (File::from(to_parent), File::from(from_parent));
            let done = enter(flags, &mut to_parent, &mut from_parent).and_then(|()| within());
            let word = match &done {
                Ok(()) => READY.to_owned(),
                Err(error) => error.to_string(),
            };
            let _ = to_parent.write_all(word.as_bytes());
            drop(to_parent);
            // Until the parent has a descriptor of each.
            let _ = from_parent.read(&mut [0]);
            // SAFETY: ends this process at once; destructors of what it shares
            // with its parent must not run here.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop((to_parent, from_parent));
            let made = meet(
                child,
                first,
                flags,
                File::from(from_child),
                to_child.as_fd(),
            );
            drop(to_child);
            let _ = waitpid(child, None);
            made
        }
    }
}

/// The child's part: it says that its user namespace is there, waits until its
/// ids are known, and makes the rest as the new root.
fn enter(flags: CloneFlags, to_parent: &mut File, from_parent: &mut File) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    to_parent.write_all(&[0])?;
    from_parent.read_exact(&mut [0])?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    unshare(flags)?;
    Ok(())
}

fn meet(
    child: Pid,
    first: u32,
    flags: CloneFlags,
    mut from_child: File,
    to_child: BorrowedFd<'_>,
) -> io::Result<Made> {
    let process = Path::new("/proc").join(child.to_string());
    let mut begun = [0];
    if from_child.read(&mut begun)? == 0 {
        return Err(io::Error::other("its first process ended at once"));
    }
    if begun != [0] {
        // A text already: what went wrong.
        let mut text = vec![begun[0]];
        from_child.read_to_end(&mut text)?;
        return Err(io::Error::other(
            String::from_utf8_lossy(&text).into_owned(),
        ));
    }
    let ids = format!("0 {first} {USERS}\n");
    fs::write(process.join("uid_map"), &ids)?;
    fs::write(process.join("gid_map"), &ids)?;
    nix::unistd::write(to_child, &[0])?;
    let mut text = String::new();
    from_child.read_to_string(&mut text)?;
    if text != READY {
        return Err(io::Error::other(text));
    }
    let open = |kind: &str| File::open(process.join("ns").join(kind)).map(OwnedFd::from);
    Ok(Made {
        users: open("user")?,
        ipc: open("ipc")?,
        network: match flags.contains(CloneFlags::CLONE_NEWNET) {
            true => Some(open("net")?),
            false => None,
        },
    })
}

/// Moves this process, which stays who it is, into `made`'s other namespaces.
pub fn join(made: &Made) -> nix::Result<()> {
    setns(&made.ipc, CloneFlags::CLONE_NEWIPC)?;
    match &made.network {
        Some(network) => setns(network, CloneFlags::CLONE_NEWNET),
        None => Ok(()),
    }
}

/// Does something as the user that is root inside, as far as files go: what is
/// made belongs to that root.
pub fn as_root_inside<T>(first: u32, what: impl FnOnce() -> T) -> T {
    // SAFETY: both calls take numbers only, and change this thread alone.
    let set = |id: u32| unsafe {
        libc::setfsgid(id);
        libc::setfsuid(id);
    };
    set(first);
    let result = what();
    set(0);
    result
}

/// What is mounted at `path`, with all below it, as a mount of its own.
pub fn clone_mount(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as c_uint;
    // SAFETY: the path is a C string that lives over the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// What is open, with all that is mounted below it, as a mount of its own.
pub fn clone_mount_of(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as c_uint;
    // SAFETY: the path is an empty C string that lives for ever.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Shows the files of a mount that is not mounted anywhere yet as those of
/// the ids inside: root's belong to root inside. Linux 5.12, and a file system
/// that can.
pub fn map_ids(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct mount_attr` of linux/mount.h, its first version.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        users: u64,
    }
    const IDMAP: u64 = 0x0010_0000;
    let attributes = Attributes {
        set: IDMAP,
        clear: 0,
        propagation: 0,
        users: users.as_raw_fd() as u64,
    };
    // SAFETY: the kernel reads an empty C string and as many bytes of
    // `attributes` as it is told, and both live over the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mounts it at `path`.
pub fn attach(mount: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    const FROM_DESCRIPTOR: c_uint = 0x4;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both texts are C strings that live over the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            FROM_DESCRIPTOR,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
