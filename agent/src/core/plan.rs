//! What to do next: `plan(now, wanted, observed, ledger) -> Plan`, pure.
//!
//! The laws, each with a test below:
//! - a stop has finished before the replacement starts;
//! - a pod's containers start in their order, and sidecars stop after what
//!   they serve;
//! - an app that shall not run is stopped and taken down;
//! - which revisions of an app run, [`replace`](super::replace) says: one, or
//!   two while the new one starts beside the old one;
//! - at no time are there two incarnations of one instance, nor is a container
//!   started while one of a revision lives that shall not run;
//! - nothing is planned on what is not known, and nothing for a container that
//!   the runtime is busy with;
//! - an image that is here is never fetched;
//! - carrying out a plan's ledger changes and planning again gives nothing.

use super::action::Action;
use super::dependency::{Running, may_stop, unmet};
use super::devices::lacks;
use super::ledger::{Entry, Ledger, Phase, StopCause, StopPlan, exit_status, restart_policy};
use super::name::InstanceName;
use super::observed::{ImageState, Observed, Operation};
use super::order::Order;
use super::replace::{Replacement, Runs, is_given_up, runs};
use super::work::JobPods;
use crate::runtime::{ContainerId, Status};
use skerry_wire::policy::Work;
use skerry_wire::report::ExitStatus;
use skerry_wire::{AppRef, Assignment, ContainerName, RevisionId, Role};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Containers that are being made at one time: each costs a helper process.
const MAX_CREATES: usize = 4;
/// What containers get to stop whose assignment nobody knows, in milliseconds.
const STRAY_GRACE_MS: u64 = 10_000;

/// What shall run.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The newest desired state; `None` when the hub has never said, and then
    /// nothing is stopped either.
    pub assignments: Option<&'a [Assignment]>,
    /// What was before a revision that is not known to be good.
    pub previous: &'a BTreeMap<AppRef, Assignment>,
    /// How far such a revision is.
    pub replacing: &'a BTreeMap<AppRef, Replacement>,
    /// Pods of jobs.
    pub jobs: &'a JobPods,
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

/// A pod that shall run.
struct Pod<'a> {
    assignment: &'a Assignment,
    /// Of its containers, in the order of their indices.
    names: Vec<InstanceName>,
    /// Nothing of it starts any more, and what runs is stopped.
    ends: bool,
}

impl<'a> Pod<'a> {
    fn of(assignment: &'a Assignment, entries: &Entries<'_>) -> Self {
        Self {
            assignment,
            names: names(assignment, entries),
            ends: false,
        }
    }
}

/// The names of a pod's containers, in the order of their indices. Those that
/// the ledger has are taken from there: to make one anew takes a digest, and
/// with many apps that is most of what a decision costs.
pub(super) fn names(assignment: &Assignment, entries: &Entries<'_>) -> Vec<InstanceName> {
    let (app, revision) = (&assignment.app, assignment.revision);
    let known = entries.get(&(app, revision));
    let name = |container: &skerry_wire::ContainerSpec| {
        let mut known = known.into_iter().flatten();
        match known.find(|(_, entry)| entry.container == container.name) {
            Some((name, _)) => (*name).clone(),
            None => InstanceName::new(app, revision, &container.name),
        }
    };
    assignment.pod.all_containers().map(name).collect()
}

/// The ledger by pods: entries of the same revision of an app.
pub(super) type Entries<'a> =
    BTreeMap<(&'a AppRef, RevisionId), Vec<(&'a InstanceName, &'a Entry)>>;

/// The ledger by pods.
pub(super) fn by_pod(ledger: &Ledger) -> Entries<'_> {
    let mut pods = Entries::new();
    for (name, entry) in ledger {
        let pod = pods.entry((&entry.app, entry.revision)).or_default();
        pod.push((name, entry));
    }
    pods
}

/// An instance that shall run: its pod, and which container it is there.
type Targets<'a> = BTreeMap<&'a InstanceName, (&'a Assignment, usize)>;

struct Planner<'a> {
    now_ms: u64,
    observed: &'a Observed,
    containers: &'a BTreeMap<ContainerId, Status>,
    ledger: &'a Ledger,
    complete: &'a BTreeSet<AppRef>,
    pods: Entries<'a>,
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
        complete: &wanted.jobs.complete,
        pods: by_pod(ledger),
        plan: Plan::default(),
    };
    let mut pods = planner.pods_wanted(assignments, wanted);
    pods.extend(wanted.jobs.pods.iter().map(|job| Pod {
        ends: job.ends,
        ..Pod::of(&job.assignment, &planner.pods)
    }));
    let pods = pods;
    let targets: Targets<'_> = pods
        .iter()
        .flat_map(|pod| {
            let indexed = pod.names.iter().enumerate();
            indexed.map(|(index, name)| (name, (pod.assignment, index)))
        })
        .collect();
    let adopted = planner.adopt(&targets);
    let mut strays_run = false;
    for (id, status) in containers {
        let of = InstanceName::of(id);
        let known = of.is_some_and(|(name, number)| {
            let entry = ledger.get(&name).map(|entry| entry.incarnation);
            number > 0 && entry == Some(number)
        });
        if !known && !adopted.values().any(|other| other == id) {
            strays_run |= planner.stray(id, *status);
        }
    }
    // An app that is replaced does not leave.
    let stay: BTreeSet<&AppRef> = pods.iter().map(|pod| &pod.assignment.app).collect();
    let entries = ledger.values().filter(|entry| !stay.contains(&entry.app));
    let leaving: BTreeMap<&AppRef, &Entry> = entries.map(|entry| (&entry.app, entry)).collect();
    for (name, entry) in ledger {
        if !targets.contains_key(name) {
            planner.leave(name, entry, &targets, &leaving);
        }
    }
    let busy = observed.busy.values();
    let mut creating = busy.filter(|op| **op == Operation::Create).count();
    let mut revisions: BTreeMap<&AppRef, Vec<RevisionId>> = BTreeMap::new();
    for (app, revision) in planner.pods.keys() {
        revisions.entry(app).or_default().push(*revision);
    }
    // Of two, the last one counts: what serves.
    let running: Running<'_> = pods
        .iter()
        .map(|pod| (&pod.assignment.app, pod.assignment))
        .collect();
    let lacking = lacks(pods.iter().map(|pod| pod.assignment), observed, ledger);
    let shall_run: BTreeSet<(&AppRef, RevisionId)> = pods
        .iter()
        .map(|pod| (&pod.assignment.app, pod.assignment.revision))
        .collect();
    for pod in &pods {
        // What was adopted in this very plan is planned for in the next.
        if pod.names.iter().any(|name| adopted.contains_key(name)) {
            continue;
        }
        let app = &pod.assignment.app;
        let mut others = revisions.get(app).into_iter().flatten();
        let alone = others.all(|other| shall_run.contains(&(app, *other)));
        let free = alone && !strays_run && !lacking.contains_key(app);
        planner.keep_pod(pod, free, &running, &mut creating);
    }
    planner.plan
}

/// Whether all images of a revision are on the disk.
pub fn images_here(assignment: &Assignment, observed: &Observed) -> bool {
    let mut images = assignment.pod.all_containers().map(|c| &c.image);
    images.all(|image| observed.has_image(&image.manifest))
}

fn container_name(assignment: &Assignment, index: usize) -> ContainerName {
    let container = assignment.pod.container(index);
    container.expect("an index of the pod's").name.clone()
}

fn new_entry(assignment: &Assignment, index: usize) -> Entry {
    Entry::new(
        assignment.app.clone(),
        assignment.revision,
        container_name(assignment, index),
        StopPlan::of(assignment, index),
    )
}

impl<'a> Planner<'a> {
    /// What shall run, and what has to be on the disk for it and what follows.
    fn pods_wanted(&mut self, assignments: &'a [Assignment], wanted: Wanted<'a>) -> Vec<Pod<'a>> {
        let mut pods = Vec::new();
        for assignment in assignments {
            let record = wanted.replacing.get(&assignment.app);
            if !is_given_up(record) {
                self.fetch(assignment);
            }
            match runs(assignment, wanted.previous.get(&assignment.app), record) {
                // Pods of a job are others.
                Runs::One(one) if one.policy.work != Work::Service => {}
                Runs::One(one) => {
                    if one.revision != assignment.revision {
                        self.fetch(one);
                    }
                    pods.push(Pod::of(one, &self.pods));
                }
                Runs::Both { old, new } => {
                    self.fetch(old);
                    pods.extend([Pod::of(new, &self.pods), Pod::of(old, &self.pods)]);
                }
            }
        }
        pods
    }

    /// The ledger was lost, or the commit of its newest change: the newest
    /// incarnation of what shall run stays. What the ledger knows to run is not
    /// given up for a higher number that comes back from before.
    fn adopt(&mut self, targets: &Targets<'a>) -> BTreeMap<InstanceName, ContainerId> {
        let mut newest: BTreeMap<InstanceName, (u32, &ContainerId)> = BTreeMap::new();
        for id in self.containers.keys() {
            if let Some((name, number)) = InstanceName::of(id)
                && newest.get(&name).is_none_or(|(other, _)| *other < number)
            {
                newest.insert(name, (number, id));
            }
        }
        let mut adopted = BTreeMap::new();
        for (name, (number, id)) in newest {
            let Some((assignment, index)) = targets.get(&name) else {
                continue;
            };
            let entry = self.ledger.get(&name);
            let may_run = |entry: &Entry| {
                let id = name.incarnation(entry.incarnation);
                self.observed.runs(&id) || self.observed.busy.contains_key(&id)
            };
            if entry.is_none_or(|entry| entry.incarnation < number && !may_run(entry)) {
                let entry = entry.cloned();
                let mut entry = entry.unwrap_or_else(|| new_entry(assignment, *index));
                entry.start(self.now_ms);
                entry.incarnation = number;
                self.act(Action::Adopt { entry });
                adopted.insert(name, id.clone());
            }
        }
        adopted
    }

    fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    fn wake_at(&mut self, at_ms: u64) {
        let at = self.plan.wake_at_ms.map_or(at_ms, |now| now.min(at_ms));
        self.plan.wake_at_ms = Some(at);
    }

    fn fetch(&mut self, assignment: &Assignment) {
        for container in assignment.pod.all_containers() {
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
                cause: StopCause::Leaving,
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
        targets: &Targets<'_>,
        leaving: &BTreeMap<&AppRef, &Entry>,
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
                    a.app == entry.app && container_name(a, *index) == entry.container
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
            (
                Some(Status::Running { .. }),
                Phase::Stopping {
                    kill_at_ms, cause, ..
                },
            ) => {
                self.stop_or_kill(name, id, *kill_at_ms, *cause);
            }
            (
                Some(Status::Running { .. }),
                Phase::Ready | Phase::Running { .. } | Phase::BackOff { .. } | Phase::Ended,
            ) => {
                if self.is_next_to_stop(entry) && may_stop(&entry.app, leaving) {
                    self.stop(name, id, entry.stop.grace_secs, StopCause::Leaving);
                }
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

    /// Whether nothing of its pod that stops before it runs any more.
    fn is_next_to_stop(&self, entry: &Entry) -> bool {
        let pod = self.pods.get(&(&entry.app, entry.revision));
        let mut before = pod.into_iter().flatten().filter(|(_, other)| {
            other.stop.rank < entry.stop.rank && other.container != entry.container
        });
        !before.any(|(name, other)| {
            let id = name.incarnation(other.incarnation);
            self.observed.runs(&id) || self.observed.busy.contains_key(&id)
        })
    }

    fn stop(&mut self, name: &InstanceName, id: ContainerId, grace_secs: u32, cause: StopCause) {
        let grace_ms = u64::from(grace_secs).saturating_mul(1_000);
        self.act(Action::Stop {
            instance: Some(name.clone()),
            id,
            kill_at_ms: self.now_ms.saturating_add(grace_ms),
            cause,
        });
    }

    /// It shall stop. One that was told by an earlier run of the agent, or
    /// perhaps not any more, is told again.
    fn stop_or_kill(
        &mut self,
        name: &InstanceName,
        id: ContainerId,
        kill_at_ms: u64,
        cause: StopCause,
    ) {
        if self.observed.told.contains(&id) {
            self.kill_when_due(Some(name), &id, kill_at_ms);
        } else {
            self.act(Action::Stop {
                instance: Some(name.clone()),
                id,
                kill_at_ms,
                cause,
            });
        }
    }

    /// A pod that shall run. `free` says that nothing is in the way of its
    /// containers' starts.
    fn keep_pod(&mut self, pod: &Pod<'_>, free: bool, running: &Running<'_>, creating: &mut usize) {
        let ledger = self.ledger;
        let order = self.order(pod);
        // Only its beginning waits: what runs is not touched by what another
        // app does later.
        let waits = !order.begun
            && unmet(
                pod.assignment,
                running,
                self.complete,
                self.observed,
                ledger,
            )
            .is_some();
        let free = free && !waits && !pod.ends;
        for (index, name) in pod.names.iter().enumerate() {
            let role = pod.assignment.pod.role(index);
            let container = pod.assignment.pod.container(index);
            let image_here = container.is_some_and(|c| self.observed.has_image(&c.image.manifest));
            let may_create = free && image_here && order.may_start(role, index);
            let entry = match ledger.get(name) {
                Some(entry) => Cow::Borrowed(entry),
                None => Cow::Owned(new_entry(pod.assignment, index)),
            };
            let ends = pod.ends && self.is_next_to_stop(&entry);
            let kept = Kept {
                name,
                entry,
                assignment: pod.assignment,
                index,
                may_create,
                finished: ends || order.finished && role == Role::Sidecar,
            };
            self.keep(kept, creating);
        }
    }

    fn order(&self, pod: &Pod<'_>) -> Order {
        let entry = |index: usize| self.ledger.get(&pod.names[index]);
        let started = |index: usize| {
            entry(index).is_some_and(|entry| {
                let id = pod.names[index].incarnation(entry.incarnation);
                self.observed.runs(&id) && self.observed.health.started(&id)
            })
        };
        Order::of(&pod.assignment.pod, entry, started)
    }

    /// An instance that shall run.
    fn keep(&mut self, kept: Kept<'_>, creating: &mut usize) {
        let Kept {
            name,
            entry,
            assignment,
            index,
            may_create,
            finished,
        } = kept;
        let id = name.incarnation(entry.incarnation);
        if self.hands_off(&id) {
            return;
        }
        let instance = || name.clone();
        match (self.containers.get(&id), &entry.phase) {
            (
                Some(Status::Running { .. }),
                Phase::Stopping {
                    kill_at_ms, cause, ..
                },
            ) => {
                // It has its signal already: it ends, then starts again.
                self.stop_or_kill(name, id, *kill_at_ms, *cause);
            }
            (Some(Status::Running { .. }), Phase::Running { .. }) => {
                let pods_secs = assignment.pod.termination_grace_secs;
                if let Some(unwell) = self.observed.health.unwell(&id) {
                    let grace_secs = unwell.grace_secs.unwrap_or(pods_secs);
                    self.stop(name, id, grace_secs, StopCause::Unwell);
                } else if self.observed.lost_node(&id).is_some() {
                    // It starts anew with the node that there is now.
                    self.stop(name, id, pods_secs, StopCause::Unwell);
                } else if finished {
                    self.stop(name, id, pods_secs, StopCause::Finished);
                }
            }
            (Some(Status::Running { .. }), Phase::Ready | Phase::BackOff { .. } | Phase::Ended) => {
            }
            (
                Some(Status::Exited(_) | Status::Lost),
                Phase::Running { .. }
                | Phase::Stopping {
                    cause: StopCause::Unwell | StopCause::Finished,
                    ..
                },
            ) => {
                let exit = match self.containers.get(&id) {
                    Some(Status::Exited(exit)) => exit_status(exit),
                    Some(Status::Running { .. } | Status::Lost) | None => ExitStatus::Unknown,
                };
                self.act(Action::Settle {
                    instance: instance(),
                    id,
                    exit,
                    policy: Some(restart_policy(assignment, index, exit)),
                });
            }
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
                    let mut entry = entry.into_owned();
                    entry.stop = StopPlan::of(assignment, index);
                    entry.start(self.now_ms);
                    self.act(Action::Create {
                        entry,
                        assignment: Box::new(assignment.clone()),
                        container: index,
                    });
                }
            }
        }
    }
}

/// An instance that shall run, and what its pod makes of it.
struct Kept<'a> {
    name: &'a InstanceName,
    entry: Cow<'a, Entry>,
    assignment: &'a Assignment,
    index: usize,
    /// Nothing is in the way of its start.
    may_create: bool,
    /// What it serves has ended for good.
    finished: bool,
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
