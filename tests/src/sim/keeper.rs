//! A fake keeper with its containers, and a fake image store: what the machine
//! of a device does, on the virtual clock.

use super::catalog::{Catalog, Program};
use super::chance::Chance;
use super::laws::{Lawful, broken};
use skerry_agent::core::{CreateContainer, ImageStatus, MissingBlob};
use skerry_agent::runtime::{ContainerId, Exit, ExitStatus, Status, Timestamp};
use skerry_wire::policy::Strategy;
use skerry_wire::{AppRef, ContainerName, Digest, ImageRef, RevisionId, Role};
use std::collections::{BTreeMap, BTreeSet};

/// One container of one revision of an app.
type Instance = (AppRef, RevisionId, ContainerName);

/// A container of the fake keeper.
#[derive(Debug, Clone)]
pub struct Container {
    /// Of which app.
    pub app: AppRef,
    /// Of which revision.
    pub revision: RevisionId,
    /// Which of the pod's.
    pub container: ContainerName,
    /// What it is there.
    pub role: Role,
    /// What its process does.
    pub program: Program,
    /// Where it is.
    pub state: State,
    /// Somebody told it to end.
    pub signalled: bool,
    /// It may start beside an older revision.
    pub beside: bool,
}

/// Where a container is.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// A helper is making it.
    Starting,
    /// Its process runs.
    Running {
        /// Its process.
        pid: i32,
        /// Since when, by the device's clock.
        started_at: Timestamp,
    },
    /// Its process ended.
    Exited(Exit),
    /// Its keeper died; its process may still run.
    Lost,
}

/// The containers of one machine.
#[derive(Debug, Default)]
pub struct Keeper {
    /// Counts keepers and boots: what an older one was doing is void.
    pub serial: u64,
    /// By id.
    pub containers: BTreeMap<ContainerId, Container>,
    /// Containers that an answer of ours called unwell.
    pub sick: BTreeSet<ContainerId>,
    /// Init containers that ended well in this boot.
    done: BTreeSet<Instance>,
    /// Pods whose main containers were begun in this boot.
    begun: BTreeSet<(AppRef, RevisionId)>,
    last_pid: i32,
}

impl Keeper {
    /// Begins to make a container.
    pub fn create(&mut self, wanted: &CreateContainer) -> Lawful {
        let spec = wanted.spec();
        let role = wanted.assignment.pod.role(wanted.container);
        self.check_order(wanted, role)?;
        let container = Container {
            app: wanted.assignment.app.clone(),
            revision: wanted.assignment.revision,
            container: spec.name.clone(),
            role,
            program: Program::of(&spec.args),
            state: State::Starting,
            signalled: false,
            beside: wanted.assignment.policy.update.strategy == Strategy::StartThenStop,
        };
        if self.containers.contains_key(&wanted.id) {
            return broken(
                "no id is used twice",
                format!("container {} is there already", wanted.id),
            );
        }
        self.containers.insert(wanted.id.clone(), container);
        self.check_single()
    }

    /// A pod's containers start in their order: what comes later only when the
    /// init containers have ended well, in this boot; and none of them beside a
    /// main container.
    fn check_order(&mut self, wanted: &CreateContainer, role: Role) -> Lawful {
        let (app, revision) = (&wanted.assignment.app, wanted.assignment.revision);
        let pod = &wanted.assignment.pod;
        let key = (app.clone(), revision);
        let begun = self.begun.contains(&key);
        let before = pod.init_containers.iter().take(wanted.container);
        let mut missing = before.filter(|c| !c.sidecar).filter(|c| {
            let instance = (app.clone(), revision, c.name.clone());
            !self.done.contains(&instance)
        });
        if !begun && let Some(missing) = missing.next() {
            let what = format!("{} is made before {} ended well", wanted.id, missing.name);
            return broken("a pod starts in its order", what);
        }
        let beside = self.containers.values().any(|one| {
            let main = one.role == Role::Main && matches!(one.state, State::Running { .. });
            main && one.app == *app && one.revision == revision
        });
        if role == Role::Init && beside {
            let what = format!("{} is made beside a main container", wanted.id);
            return broken("a pod starts in its order", what);
        }
        if role == Role::Main {
            self.begun.insert(key);
        }
        Ok(())
    }

    /// A sidecar is not told to stop while what it serves runs.
    pub fn check_stop_order(&self, id: &ContainerId) -> Lawful {
        let Some(one) = self.containers.get(id) else {
            return Ok(());
        };
        let served = self.containers.values().any(|other| {
            let main = other.role == Role::Main && matches!(other.state, State::Running { .. });
            main && other.app == one.app && other.revision == one.revision
        });
        match one.role == Role::Sidecar && served && !self.sick.contains(id) {
            true => broken("sidecars stop last", format!("{id} is stopped too early")),
            false => Ok(()),
        }
    }

    /// At no time are there two of one container, but for those of two revisions
    /// of which one may start beside the other.
    pub fn check_single(&self) -> Lawful {
        let mut seen: BTreeMap<(&AppRef, &ContainerName), Vec<&Container>> = BTreeMap::new();
        for (id, one) in &self.containers {
            let lives = match one.state {
                State::Starting | State::Running { .. } | State::Lost => true,
                State::Exited(_) => false,
            };
            if !lives {
                continue;
            }
            let others = seen.entry((&one.app, &one.container)).or_default();
            let beside =
                |other: &&Container| one.revision != other.revision && (one.beside || other.beside);
            let lawful = others.len() < 2 && others.iter().all(beside);
            others.push(one);
            if !lawful {
                return broken(
                    "never two of one container",
                    format!("{id} runs beside another: {:?}", self.containers),
                );
            }
        }
        Ok(())
    }

    /// The container runs now; its process.
    pub fn started(&mut self, id: &ContainerId, started_at: Timestamp) -> i32 {
        self.last_pid += 1;
        let pid = self.last_pid;
        if let Some(one) = self.containers.get_mut(id) {
            one.state = State::Running { pid, started_at };
        }
        pid
    }

    /// Its process ends, if it runs.
    pub fn ended(&mut self, id: &ContainerId, status: ExitStatus, at: Timestamp) -> Option<Exit> {
        let one = self.containers.get_mut(id)?;
        let State::Running { .. } = one.state else {
            return None;
        };
        let exit = Exit {
            status,
            oom_killed: false,
            at,
        };
        one.state = State::Exited(exit);
        if one.role == Role::Init && status == ExitStatus::Code(0) {
            let instance = (one.app.clone(), one.revision, one.container.clone());
            self.done.insert(instance);
        }
        Some(exit)
    }

    /// Whether a helper is at work: then no list is given.
    pub fn is_starting(&self) -> bool {
        let mut all = self.containers.values();
        all.any(|one| matches!(one.state, State::Starting))
    }

    /// The list. What is being made is not in it.
    pub fn list(&self) -> Vec<(ContainerId, Status)> {
        let status = |one: &Container| match one.state {
            State::Starting => None,
            State::Running { pid, started_at } => Some(Status::Running { pid, started_at }),
            State::Exited(exit) => Some(Status::Exited(exit)),
            State::Lost => Some(Status::Lost),
        };
        let all = self.containers.iter();
        all.filter_map(|(id, one)| Some((id.clone(), status(one)?)))
            .collect()
    }

    /// The keeper dies; what it owned is lost.
    pub fn crash(&mut self) {
        self.serial += 1;
        // What was being made dies with its helper.
        self.containers
            .retain(|_, one| !matches!(one.state, State::Starting));
        for one in self.containers.values_mut() {
            if let State::Running { .. } = one.state {
                one.state = State::Lost;
            }
        }
    }

    /// The power goes. Records of ends are on the disk; some come back.
    pub fn power_cut(&mut self, chance: &mut Chance) {
        self.serial += 1;
        self.done.clear();
        self.begun.clear();
        self.containers.retain(|_, one| match one.state {
            State::Exited(_) => chance.one_in(2),
            State::Starting | State::Running { .. } | State::Lost => false,
        });
    }
}

/// Blobs of one machine.
#[derive(Debug, Default)]
pub struct ImageStore {
    whole: BTreeSet<Digest>,
    partial: BTreeMap<Digest, Vec<u8>>,
}

impl ImageStore {
    /// How an image stands.
    pub fn status(&self, image: &ImageRef, catalog: &Catalog) -> ImageStatus {
        let missing = |digest: Digest, size: u64| MissingBlob {
            digest,
            size,
            have: self.partial.get(&digest).map_or(0, |b| b.len() as u64),
        };
        if !self.whole.contains(&image.manifest) {
            return ImageStatus::Missing(vec![missing(image.manifest, image.manifest_size)]);
        }
        let blobs = catalog.blobs_of(&image.manifest).iter();
        let missing: Vec<MissingBlob> = blobs
            .filter(|(digest, _)| !self.whole.contains(digest))
            .map(|(digest, bytes)| missing(*digest, bytes.len() as u64))
            .collect();
        match missing.is_empty() {
            true => ImageStatus::Ready,
            false => ImageStatus::Missing(missing),
        }
    }

    /// How many bytes of a blob are here, and whether all of them are,
    /// verified.
    pub fn look(&self, digest: &Digest) -> (u64, bool) {
        let partial = self.partial.get(digest);
        let have = partial.map_or(0, |bytes| bytes.len() as u64);
        (have, self.whole.contains(digest))
    }

    /// Adds bytes behind those that are here.
    pub fn write(&mut self, digest: Digest, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let partial = self.partial.entry(digest).or_default();
        if partial.len() as u64 != offset {
            return Err(format!("{} bytes are here, not {offset}", partial.len()));
        }
        partial.extend_from_slice(bytes);
        Ok(())
    }

    /// All bytes are here: verify them. From then on a power cut leaves them.
    pub fn finish(&mut self, digest: Digest) -> Result<(), String> {
        let bytes = self.partial.remove(&digest).unwrap_or_default();
        if Digest::of(&bytes) != digest {
            return Err("the bytes have another digest".into());
        }
        self.whole.insert(digest);
        Ok(())
    }

    /// What was not synced may be there in part.
    pub fn power_cut(&mut self, chance: &mut Chance) {
        for bytes in self.partial.values_mut() {
            bytes.truncate(chance.below(bytes.len() as u64 + 1) as usize);
        }
    }
}
