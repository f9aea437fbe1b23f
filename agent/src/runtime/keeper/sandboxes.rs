//! Sandboxes: namespaces that the keeper holds open for containers to share.
//!
//! A network or IPC namespace lives as long as somebody has a descriptor of
//! it; nothing is mounted anywhere. A process namespace lives as long as its
//! first process does: that is one of ours, which does nothing (see
//! [`sandbox`](super::super::sandbox)).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::super::proto::{FailureKind, Namespaces, Operation, Response};
use super::super::spec::{ContainerId, ContainerSpec, Network, SandboxSpec, Sharing};
use super::jobs::JobKind;
use super::{Asker, Keeper, complain};

/// Sandboxes at once. Each costs up to three descriptors of the keeper. Their names
/// must fit into one message.
const MAX_SANDBOXES: usize = 500;

/// One sandbox.
#[derive(Debug)]
pub struct Sandbox {
    spec: SandboxSpec,
    /// `None` while a helper makes them.
    held: Option<Held>,
    /// First process of the process namespace.
    first: Option<i32>,
    /// Those who wait for it. The first has caused it.
    askers: Vec<Asker>,
}

impl Sandbox {
    /// Whether this is the first process of its process namespace.
    pub fn is_of(&self, pid: i32) -> bool {
        self.first == Some(pid)
    }
}

/// What keeps the namespaces alive.
#[derive(Debug)]
struct Held {
    network: Option<OwnedFd>,
    ipc: OwnedFd,
    users: Option<OwnedFd>,
}

impl Keeper {
    pub(super) fn make_sandbox(&mut self, asker: Asker, spec: SandboxSpec) {
        if let Err(error) = spec.validate() {
            return self.fail(asker, FailureKind::Invalid, error.to_string());
        }
        let id = spec.id.clone();
        let full = self.sandboxes.len() >= MAX_SANDBOXES;
        match self.sandboxes.get_mut(&id) {
            Some(one) if one.spec != spec => {
                let text = format!("sandbox {id} is there already, made by other words");
                self.fail(asker, FailureKind::AlreadyExists, text);
            }
            Some(one) if one.held.is_none() => one.askers.push(asker),
            Some(_) => self.tell_sandbox(asker, &id, false),
            None if full => {
                let text = format!("{MAX_SANDBOXES} sandboxes are the most");
                self.fail(asker, FailureKind::Busy, text);
            }
            None => {
                let operation = Operation::MakeSandbox {
                    spec: spec.clone(),
                    layout: self.layout.clone(),
                };
                let kind = JobKind::Sandbox { id: id.clone() };
                if !self.submit(kind, operation, Vec::new()) {
                    return self.too_busy(asker);
                }
                let one = Sandbox {
                    spec,
                    held: None,
                    first: None,
                    askers: vec![asker],
                };
                self.sandboxes.insert(id, one);
            }
        }
    }

    /// Its process namespace has a first process.
    pub(super) fn sandbox_born(&mut self, id: &ContainerId, pid: i32) {
        match self.sandboxes.get_mut(id) {
            Some(one) => one.first = Some(pid),
            None => end(pid),
        }
    }

    /// Its namespaces are there: IPC, and its network if it has its own.
    pub(super) fn sandbox_made(&mut self, id: &ContainerId, fds: Vec<OwnedFd>) {
        let Some(one) = self.sandboxes.get_mut(id) else {
            return;
        };
        let mut fds = fds.into_iter();
        let ipc = fds.next();
        let network = one.spec.own_network.then(|| fds.next()).flatten();
        let users = one.spec.first_user.and_then(|_| fds.next());
        let complete = network.is_some() == one.spec.own_network
            && users.is_some() == one.spec.first_user.is_some();
        match ipc {
            Some(ipc) if complete => {
                one.held = Some(Held {
                    network,
                    ipc,
                    users,
                });
                let askers = std::mem::take(&mut one.askers);
                for (number, asker) in askers.into_iter().enumerate() {
                    self.tell_sandbox(asker, id, number == 0);
                }
            }
            _ => {
                let text = "the helper sent other descriptors than were asked for";
                self.sandbox_failed(id, FailureKind::Failed, text);
            }
        }
    }

    pub(super) fn sandbox_failed(&mut self, id: &ContainerId, kind: FailureKind, message: &str) {
        let Some(one) = self.sandboxes.remove(id) else {
            return;
        };
        if let Some(pid) = one.first {
            end(pid);
        }
        for asker in one.askers {
            self.fail(asker, kind, message);
        }
    }

    /// A child has ended. If it was the first process of a sandbox, all that
    /// lived with it has ended too, and the sandbox is made anew when it is
    /// asked for again.
    pub(super) fn sandbox_ended(&mut self, pid: i32) {
        let found = self
            .sandboxes
            .iter()
            .find(|(_, one)| one.first == Some(pid));
        if let Some((id, _)) = found {
            let id = id.clone();
            complain(format_args!("the first process of sandbox {id} has ended"));
            let text = "its first process has ended";
            self.sandbox_failed(&id, FailureKind::Failed, text);
        }
    }

    pub(super) fn remove_sandbox(&mut self, asker: Asker, id: &ContainerId) {
        let living = self.count_in(id);
        let making = self.sandboxes.get(id).is_some_and(|one| one.held.is_none());
        if living > 0 || making {
            let text =
                format!("sandbox {id} is being made or has {living} containers; remove them first");
            return self.fail(asker, FailureKind::Busy, text);
        }
        if let Some(Sandbox {
            first: Some(pid), ..
        }) = self.sandboxes.remove(id)
        {
            end_and_wait(pid);
        }
        self.answer(asker, &Response::Done);
    }

    pub(super) fn find_sandbox(&mut self, asker: Asker, id: &ContainerId) {
        match self.sandboxes.get_mut(id) {
            Some(one) if one.held.is_none() => one.askers.push(asker),
            Some(_) => self.tell_sandbox(asker, id, false),
            None => {
                let text = format!("there is no sandbox {id}");
                self.fail(asker, FailureKind::NotFound, text);
            }
        }
    }

    pub(super) fn list_sandboxes(&mut self, asker: Asker) {
        let ids = self.sandboxes.keys().cloned().collect();
        self.answer(asker, &Response::Sandboxes { ids });
    }

    /// Lets go of all of them; no container lives any more.
    pub(super) fn end_sandboxes(&mut self) {
        for one in std::mem::take(&mut self.sandboxes).into_values() {
            if let Some(pid) = one.first {
                end_and_wait(pid);
            }
        }
    }

    /// Where a container finds the namespaces that it wants of its sandbox.
    pub(super) fn namespaces(
        &self,
        id: &ContainerId,
        spec: &ContainerSpec,
    ) -> Result<Namespaces, String> {
        let found = self.sandboxes.get(id);
        let Some((one, held)) = found.and_then(|one| Some((one, one.held.as_ref()?))) else {
            return Err(format!("sandbox {id} is not there; make it first"));
        };
        if spec.network == Network::Sandbox && held.network.is_none() {
            return Err(format!("sandbox {id} has no network of its own"));
        }
        if spec.pid == Sharing::Sandbox && one.first.is_none() {
            return Err(format!("sandbox {id} has no process namespace of its own"));
        }
        let held_at = |fd: &OwnedFd| {
            let path = format!("/proc/{}/fd/{}", process::id(), fd.as_raw_fd());
            PathBuf::from(path)
        };
        let users = held.users.as_ref().map(held_at);
        Ok(Namespaces {
            users: users.zip(one.spec.first_user),
            network: held.network.as_ref().map(held_at),
            ipc: held_at(&held.ipc),
            pid: one.first.map(|pid| format!("/proc/{pid}/ns/pid").into()),
        })
    }

    fn tell_sandbox(&mut self, asker: Asker, id: &ContainerId, new: bool) {
        let held = self.sandboxes.get(id).and_then(|one| one.held.as_ref());
        let network = held.and_then(|held| held.network.as_ref());
        match network.map(OwnedFd::try_clone).transpose() {
            Ok(fd) => self.answer_with(asker, &Response::Sandbox { new }, fd),
            Err(error) => {
                let text = format!("sandbox {id}: {error}");
                self.fail(asker, FailureKind::Failed, text);
            }
        }
    }
}

/// Kills one of our children that is not reaped yet.
fn end(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Kills one and waits, so that its cgroup is empty then. It does nothing and
/// nobody lives with it any more, so that this takes no time.
fn end_and_wait(pid: i32) {
    end(pid);
    let _ = waitpid(Pid::from_raw(pid), None);
}
