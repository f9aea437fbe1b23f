//! A container in a user namespace (`hostUsers: false`): what it reaches, what it
//! cannot have, and what is given to its users.

use super::failure::Failure;
use crate::openat2::way_to;
use crate::runtime::proto::Namespaces;
use crate::runtime::spec::{ContainerSpec, HookStage, Network, Sharing, USERS};
use crate::runtime::user::Identity;
use nix::unistd::{Gid, Uid};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The namespaces of a sandbox, opened by us: root in a user namespace may not
/// look into the keeper's descriptors, but finds ours among its own.
pub(super) struct Reached {
    pub namespaces: Namespaces,
    /// What the paths lead to.
    _held: Vec<File>,
    users: Option<(File, u32)>,
}

impl Reached {
    pub fn open(sandbox: &Namespaces) -> Result<Self, Failure> {
        let Some((path, first)) = &sandbox.users else {
            return Ok(Self {
                namespaces: sandbox.clone(),
                _held: Vec::new(),
                users: None,
            });
        };
        let mut held = Vec::new();
        let mut reach = |path: &Path| -> io::Result<PathBuf> {
            let file = File::open(path)?;
            let way = way_to(&file);
            held.push(file);
            Ok(way)
        };
        let mut maybe = |path: &Option<PathBuf>| path.as_deref().map(&mut reach).transpose();
        let (network, pid) = (maybe(&sandbox.network)?, maybe(&sandbox.pid)?);
        Ok(Self {
            namespaces: Namespaces {
                network,
                pid,
                ipc: reach(&sandbox.ipc)?,
                users: Some((reach(path)?, *first)),
            },
            users: Some((File::open(path)?, *first)),
            _held: held,
        })
    }

    /// The user namespace, and who is root in it.
    pub fn users(&self) -> Option<(BorrowedFd<'_>, u32)> {
        let (file, first) = self.users.as_ref()?;
        Some((file.as_fd(), *first))
    }
}

/// What does not go together with a user namespace.
pub(super) fn refuse_with_users(spec: &ContainerSpec) -> Result<(), String> {
    let what = if spec.security.privileged {
        "'privileged: true'"
    } else if spec.network == Network::Host {
        "the host's network"
    } else if spec.pid == Sharing::Host {
        "'hostPID: true'"
    } else if spec.ipc == Sharing::Host {
        "'hostIPC: true'"
    } else if spec
        .hooks
        .iter()
        .any(|hook| hook.stage == HookStage::CreateContainer)
    {
        // It would run with the host's files in sight, where others of the pod
        // are as much root as it is, and cannot read what it needs.
        "a CDI device with createContainer hooks"
    } else {
        return Ok(());
    };
    Err(format!(
        "a container in a user namespace (hostUsers: false) cannot have {what}: leave one of them out"
    ))
}

/// Refuses users and groups that a user namespace does not have.
pub(super) fn check_ids(identity: &Identity, groups: &[u32]) -> Result<(), String> {
    let refuse = |what: &str, id: u32, remedy: &str| {
        Err(format!(
            "the image's or the app's {what} {id} is not in a user namespace, which has ids below \
             {USERS}: choose another {remedy}, or leave 'hostUsers: false' out"
        ))
    };
    let mut ids = [identity.uid, identity.gid].into_iter();
    if let Some(id) = ids.find(|id| *id >= USERS) {
        return refuse("user", id, "with 'runAsUser'");
    }
    let mut all = identity.groups.iter().chain(groups);
    match all.find(|id| **id >= USERS) {
        Some(id) => refuse("group", *id, "('fsGroup', 'supplementalGroups')"),
        None => Ok(()),
    }
}

/// Gives the root directory, and what output is written to, to the users
/// inside.
pub(super) fn own_by(
    root: &Path,
    outputs: &[&OwnedFd],
    first: u32,
    identity: &Identity,
) -> Result<(), String> {
    let text = |error: nix::Error| format!("the container's files cannot be given to it: {error}");
    let id = |inside: u32| (Uid::from_raw(first + inside), Gid::from_raw(first + inside));
    let (user, group) = id(0);
    nix::unistd::chown(root, Some(user), Some(group)).map_err(text)?;
    let (user, group) = (id(identity.uid).0, id(identity.gid).1);
    for output in outputs {
        // Images open /dev/stdout anew, which only its owner may.
        nix::unistd::fchown(output.as_raw_fd(), Some(user), Some(group)).map_err(text)?;
    }
    Ok(())
}
