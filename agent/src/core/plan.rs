//! What to do next: `plan(now, wanted, observed, ledger) -> Plan`, pure.
//!
//! The laws, each with a test below:
//! - a stop has finished before the replacement starts;
//! - an app that shall not run is stopped and taken down;
//! - a new revision whose images are not here leaves the old one running;
//! - at no time are there two incarnations of one instance, nor containers of
//!   two revisions of one app of which we started the second;
//! - nothing is planned on what is not known, and nothing for a container that
//!   the runtime is busy with;
//! - an image that is here is never fetched;
//! - carrying out a plan's ledger changes and planning again gives nothing.

use super::ledger::{Entry, Phase, exit_status};
use super::name::InstanceName;
use super::observed::{ImageState, Observed, Operation};
use crate::runtime::{ContainerId, Status};
use skerry_wire::report::ExitStatus;
use skerry_wire::{AppRef, Assignment, ContainerName, ImageRef, RestartPolicy, RevisionId};
use std::collections::BTreeMap;

/// Containers that are being made at one time: each costs a helper process.
pub const MAX_CREATES: usize = 4;
/// A kill that had no effect is repeated after so many milliseconds.
pub const KILL_AGAIN_MS: u64 = 10_000;
/// What containers get to stop whose assignment nobody knows, in milliseconds.
pub const STRAY_GRACE_MS: u64 = 10_000;

/// What we did.
pub type Ledger = BTreeMap<InstanceName, Entry>;

/// What shall run.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The newest desired state; `None` when the hub has never said, and then
    /// nothing is stopped either.
    pub assignments: Option<&'a [Assignment]>,
    /// Revisions that run until their app's new images are here.
    pub previous: &'a BTreeMap<AppRef, Assignment>,
}

/// What to do, in this order, and when to look again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// What to do now.
    pub actions: Vec<Action>,
    /// When to plan again if nothing happens before, in milliseconds since
    /// boot.
    pub wake_at_ms: Option<u64>,
}

/// One thing to do. Those without a container change the ledger only.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Get an image.
    FetchImage(ImageRef),
    /// This container is the newest incarnation of what shall run, but the
    /// ledger does not know it (it was lost): take it over as it is.
    Adopt {
        /// The ledger's new entry.
        entry: Entry,
    },
    /// Start the next incarnation.
    Create {
        /// The ledger's entry, started.
        entry: Entry,
        /// What of.
        assignment: Assignment,
        /// Which container of its pod.
        container: usize,
    },
    /// It ended: note how, decide about the next start, take it down.
    Settle {
        /// Which instance.
        instance: InstanceName,
        /// Which container.
        id: ContainerId,
        /// How it ended.
        exit: ExitStatus,
        /// What the restart policy makes of it; `None` for what shall not run
        /// any more.
        policy: Option<RestartPolicy>,
    },
    /// The ledger says that it runs, but there is nothing: it never started.
    Vanished {
        /// Which instance.
        instance: InstanceName,
    },
    /// Ask it to stop.
    Stop {
        /// Which instance; `None` for a stray.
        instance: Option<InstanceName>,
        /// Which container.
        id: ContainerId,
        /// When it is killed, in milliseconds since boot.
        kill_at_ms: u64,
    },
    /// Kill it.
    Kill {
        /// Which instance; `None` for a stray.
        instance: Option<InstanceName>,
        /// Which container.
        id: ContainerId,
    },
    /// Take down what is left of it.
    Remove {
        /// Which container.
        id: ContainerId,
    },
    /// It was stopped, but shall run after all: it may start again.
    Reset {
        /// Which instance.
        instance: InstanceName,
    },
    /// It is gone and shall not come back.
    Forget {
        /// Which instance.
        instance: InstanceName,
        /// No revision has this container any more: its log goes too.
        with_log: Option<(AppRef, ContainerName)>,
        /// It was the last of its revision.
        with_scratch: Option<(AppRef, RevisionId)>,
    },
    /// The app's new images are here, or the app is not wanted any more.
    DropPrevious {
        /// Which app.
        app: AppRef,
    },
}

struct Planner<'a> {
    now_ms: u64,
    observed: &'a Observed,
    containers: &'a BTreeMap<ContainerId, Status>,
    ledger: &'a Ledger,
    plan: Plan,
}

/// Plans. `now_ms` is milliseconds since boot.
pub fn plan(now_ms: u64, wanted: Wanted<'_>, observed: &Observed, ledger: &Ledger) -> Plan {
    let (Some(containers), Some(assignments)) = (&observed.containers, wanted.assignments) else {
        return Plan::default();
    };
    let mut planner = Planner {
        now_ms,
        observed,
        containers,
        ledger,
        plan: Plan::default(),
    };
    let mut targets: BTreeMap<InstanceName, (&Assignment, usize)> = BTreeMap::new();
    for assignment in assignments {
        planner.fetch(assignment);
        let here = images_here(assignment, observed);
        let target = match wanted.previous.get(&assignment.app) {
            Some(previous) if previous.revision == assignment.revision => {
                planner.drop_previous(&assignment.app);
                assignment
            }
            Some(previous) if !here => {
                planner.fetch(previous);
                previous
            }
            Some(_) => {
                planner.drop_previous(&assignment.app);
                assignment
            }
            None => assignment,
        };
        for (index, container) in target.pod.containers.iter().enumerate() {
            let name = InstanceName::new(&target.app, target.revision, &container.name);
            targets.insert(name, (target, index));
        }
    }
    let assigned = |app: &AppRef| assignments.iter().any(|a| a.app == *app);
    for app in wanted.previous.keys().filter(|app| !assigned(app)) {
        planner.drop_previous(app);
    }

    let known = |id: &ContainerId| {
        ledger
            .values()
            .any(|e| e.incarnation > 0 && e.name().incarnation(e.incarnation) == *id)
    };
    let may_run = |entry: &Entry| {
        let id = entry.name().incarnation(entry.incarnation);
        let runs = matches!(containers.get(&id), Some(Status::Running { .. }));
        runs || observed.busy.contains_key(&id)
    };
    // The ledger was lost, or the commit of its newest change: the newest
    // incarnation of what shall run stays. What the ledger knows to run is not
    // given up for a higher number that comes back from before.
    let mut adopted = BTreeMap::new();
    for (name, (assignment, index)) in &targets {
        let entry = ledger.get(name);
        let newest = containers
            .keys()
            .filter_map(|id| Some((InstanceName::of(id)?, id)))
            .filter(|((of, _), _)| of == name)
            .max_by_key(|((_, number), _)| *number);
        if let Some(((_, number), id)) = newest
            && entry.is_none_or(|entry| entry.incarnation < number && !may_run(entry))
        {
            let entry = entry.cloned();
            let mut entry = entry.unwrap_or_else(|| new_entry(assignment, *index));
            entry.start(now_ms);
            entry.incarnation = number;
            adopted.insert(name.clone(), id.clone());
            planner.act(Action::Adopt { entry });
        }
    }
    let mut strays_run = false;
    for (id, status) in containers {
        if !known(id) && !adopted.values().any(|other| other == id) {
            strays_run |= planner.stray(id, *status);
        }
    }
    for (name, entry) in ledger {
        if !targets.contains_key(name) {
            planner.leave(name, entry, &targets);
        }
    }
    let mut creating = observed
        .busy
        .values()
        .filter(|op| **op == Operation::Create)
        .count();
    for (name, (assignment, index)) in &targets {
        if adopted.contains_key(name) {
            continue; // in this very plan
        }
        let other_revision =
            |e: &Entry| e.app == assignment.app && e.revision != assignment.revision;
        let free = !strays_run && !ledger.values().any(other_revision);
        let image = &assignment.pod.containers[*index].image;
        let may_create = free && observed.has_image(&image.manifest);
        planner.keep(name, assignment, *index, may_create, &mut creating);
    }
    planner.plan
}

/// Whether all images of a revision are on the disk.
pub fn images_here(assignment: &Assignment, observed: &Observed) -> bool {
    let mut images = assignment.pod.containers.iter().map(|c| &c.image);
    images.all(|image| observed.has_image(&image.manifest))
}

fn new_entry(assignment: &Assignment, index: usize) -> Entry {
    Entry::new(
        assignment.app.clone(),
        assignment.revision,
        assignment.pod.containers[index].name.clone(),
        assignment.pod.termination_grace_secs,
    )
}

impl Planner<'_> {
    fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    fn wake_at(&mut self, at_ms: u64) {
        let at = self.plan.wake_at_ms.map_or(at_ms, |now| now.min(at_ms));
        self.plan.wake_at_ms = Some(at);
    }

    fn drop_previous(&mut self, app: &AppRef) {
        self.act(Action::DropPrevious { app: app.clone() });
    }

    fn fetch(&mut self, assignment: &Assignment) {
        for container in &assignment.pod.containers {
            let image = &container.image;
            let again = match self.observed.images.get(&image.manifest) {
                None => true,
                Some(ImageState::Ready | ImageState::Fetching { .. }) => false,
                Some(ImageState::Failed { retry_at_ms, .. }) => {
                    if self.now_ms < *retry_at_ms {
                        self.wake_at(*retry_at_ms);
                    }
                    self.now_ms >= *retry_at_ms
                }
            };
            let action = Action::FetchImage(image.clone());
            if again && !self.plan.actions.contains(&action) {
                self.act(action);
            }
        }
    }

    fn any_incarnation(&self, name: &InstanceName) -> bool {
        let of_it = |id: &ContainerId| InstanceName::of(id).is_some_and(|(of, _)| of == *name);
        self.containers.keys().any(of_it) || self.observed.busy.keys().any(of_it)
    }

    /// Whether the runtime is busy with it, or it could not be taken down and
    /// the next try is not due.
    fn hands_off(&mut self, id: &ContainerId) -> bool {
        if self.observed.busy.contains_key(id) {
            return true;
        }
        match self.observed.stuck.get(id) {
            Some(&retry_at_ms) if self.now_ms < retry_at_ms => {
                self.wake_at(retry_at_ms);
                true
            }
            Some(_) | None => false,
        }
    }

    /// A container that the ledger does not know. True while it may run, which
    /// a lost one may until it is taken down.
    fn stray(&mut self, id: &ContainerId, status: Status) -> bool {
        let runs = matches!(status, Status::Running { .. } | Status::Lost);
        if self.hands_off(id) {
            return runs;
        }
        match (status, self.observed.strays.get(id)) {
            (Status::Exited(_) | Status::Lost, _) => self.act(Action::Remove { id: id.clone() }),
            (Status::Running { .. }, None) => self.act(Action::Stop {
                instance: None,
                id: id.clone(),
                kill_at_ms: self.now_ms.saturating_add(STRAY_GRACE_MS),
            }),
            (Status::Running { .. }, Some(&kill_at_ms)) => self.kill_when_due(None, id, kill_at_ms),
        }
        runs
    }

    fn kill_when_due(&mut self, instance: Option<&InstanceName>, id: &ContainerId, at_ms: u64) {
        if self.now_ms >= at_ms {
            self.act(Action::Kill {
                instance: instance.cloned(),
                id: id.clone(),
            });
        } else {
            self.wake_at(at_ms);
        }
    }

    /// An instance that shall not run any more.
    fn leave(
        &mut self,
        name: &InstanceName,
        entry: &Entry,
        targets: &BTreeMap<InstanceName, (&Assignment, usize)>,
    ) {
        let id = name.incarnation(entry.incarnation);
        if self.hands_off(&id) {
            return;
        }
        match (self.containers.get(&id), &entry.phase) {
            (None, _) => {
                let stays =
                    |other: &Entry| other.app == entry.app && other.container == entry.container;
                let wanted = targets.values().any(|(a, index)| {
                    a.app == entry.app && a.pod.containers[*index].name == entry.container
                });
                let others = self.ledger.iter().filter(|(other, _)| *other != name);
                let last = !wanted && !others.clone().any(|(_, other)| stays(other));
                let last_of_revision = !others
                    .into_iter()
                    .any(|(_, other)| other.app == entry.app && other.revision == entry.revision);
                self.act(Action::Forget {
                    instance: name.clone(),
                    with_log: last.then(|| (entry.app.clone(), entry.container.clone())),
                    with_scratch: last_of_revision.then(|| (entry.app.clone(), entry.revision)),
                });
            }
            (Some(Status::Running { .. }), Phase::Stopping { kill_at_ms }) => {
                self.kill_when_due(Some(name), &id, *kill_at_ms);
            }
            (
                Some(Status::Running { .. }),
                Phase::Ready | Phase::Running { .. } | Phase::BackOff { .. } | Phase::Ended,
            ) => {
                let grace_ms = u64::from(entry.grace_secs).saturating_mul(1_000);
                self.act(Action::Stop {
                    instance: Some(name.clone()),
                    id,
                    kill_at_ms: self.now_ms.saturating_add(grace_ms),
                });
            }
            (Some(Status::Exited(exit)), _) => self.act(Action::Settle {
                instance: name.clone(),
                id,
                exit: exit_status(exit),
                policy: None,
            }),
            (Some(Status::Lost), _) => self.act(Action::Remove { id }),
        }
    }

    /// An instance that shall run.
    fn keep(
        &mut self,
        name: &InstanceName,
        assignment: &Assignment,
        index: usize,
        may_create: bool,
        creating: &mut usize,
    ) {
        let entry = match self.ledger.get(name) {
            Some(entry) => entry.clone(),
            None => new_entry(assignment, index),
        };
        let id = name.incarnation(entry.incarnation);
        if self.hands_off(&id) {
            return;
        }
        let instance = || name.clone();
        match (self.containers.get(&id), &entry.phase) {
            (Some(Status::Running { .. }), Phase::Stopping { kill_at_ms }) => {
                // It has its signal already: it ends, then starts again.
                self.kill_when_due(Some(name), &id, *kill_at_ms);
            }
            (Some(Status::Running { .. }), _) => {}
            (Some(Status::Exited(exit)), Phase::Running { .. }) => self.act(Action::Settle {
                instance: instance(),
                id,
                exit: exit_status(exit),
                policy: Some(assignment.pod.restart_policy),
            }),
            (Some(Status::Lost), Phase::Running { .. }) => self.act(Action::Settle {
                instance: instance(),
                id,
                exit: ExitStatus::Unknown,
                policy: Some(assignment.pod.restart_policy),
            }),
            (Some(Status::Exited(_) | Status::Lost), _) => self.act(Action::Remove { id }),
            (None, Phase::Running { .. }) => self.act(Action::Vanished {
                instance: instance(),
            }),
            (None, Phase::Stopping { .. }) => self.act(Action::Reset {
                instance: instance(),
            }),
            (None, Phase::Ended) => {}
            (None, Phase::BackOff { until_ms, .. }) if self.now_ms < *until_ms => {
                self.wake_at(*until_ms);
            }
            (None, Phase::BackOff { .. } | Phase::Ready) => {
                if may_create && *creating < MAX_CREATES && !self.any_incarnation(name) {
                    *creating += 1;
                    let mut entry = entry;
                    entry.start(self.now_ms);
                    self.act(Action::Create {
                        entry,
                        assignment: assignment.clone(),
                        container: index,
                    });
                }
            }
        }
    }
}

/// What an action makes of the ledger. The exit that a stopped container had
/// is kept only as long as its entry.
pub fn apply(now_ms: u64, ledger: &mut Ledger, action: &Action) {
    let mut change = |name: &InstanceName, change: &dyn Fn(&mut Entry)| {
        if let Some(entry) = ledger.get_mut(name) {
            change(entry);
        }
    };
    match action {
        Action::Adopt { entry } | Action::Create { entry, .. } => {
            ledger.insert(entry.name(), entry.clone());
        }
        Action::Settle {
            instance,
            exit,
            policy,
            ..
        } => change(instance, &|entry| match policy {
            Some(policy) => entry.ended(now_ms, *policy, *exit),
            None => entry.last_exit = Some(*exit),
        }),
        Action::Vanished { instance } => change(instance, &|entry| {
            entry.starts = entry.starts.saturating_sub(1);
            entry.phase = Phase::Ready;
        }),
        Action::Stop {
            instance: Some(instance),
            kill_at_ms,
            ..
        } => change(instance, &|entry| {
            entry.phase = Phase::Stopping {
                kill_at_ms: *kill_at_ms,
            };
        }),
        Action::Kill {
            instance: Some(instance),
            ..
        } => change(instance, &|entry| {
            entry.phase = Phase::Stopping {
                kill_at_ms: now_ms.saturating_add(KILL_AGAIN_MS),
            };
        }),
        Action::Reset { instance } => change(instance, &|entry| entry.phase = Phase::Ready),
        Action::Forget { instance, .. } => {
            ledger.remove(instance);
        }
        Action::FetchImage(_)
        | Action::Stop { instance: None, .. }
        | Action::Kill { instance: None, .. }
        | Action::Remove { .. }
        | Action::DropPrevious { .. } => {}
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
