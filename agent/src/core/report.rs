//! What the hub is told: whole, newest wins, only when something changed, and
//! again until the hub has it.

use super::dependency::{Running, unmet};
use super::devices::{Lack, lacks};
use super::event::Now;
use super::ledger::Ledger;
use super::ledger::{Entry, Phase, Setback};
use super::name::InstanceName;
use super::observed::{ImageState, Observed, Operation};
use super::order::Order;
use super::plan::{self, Entries, by_pod};
use super::replace::{self, Replacement, Runs, Stage};
use super::work::Works;
use crate::runtime::Status;
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::policy::Work;
use skerry_wire::report::{
    AppStatus, AppUpdate, AppUpdateState, ContainerState, ContainerStatus, JobStatus, Report,
};
use skerry_wire::{
    AppRef, Assignment, ContainerSpec, Digest, RevisionId, Role, Seq, Timestamp, encode,
};
use std::collections::{BTreeMap, BTreeSet};

/// Changes within so many milliseconds go into one report.
const COALESCE_MS: u64 = 100;
/// At least so many milliseconds between two reports.
const GAP_MS: u64 = 1_000;
/// The same for what nobody waits for: progress, repeated refusals.
const SLOW_GAP_MS: u64 = 10_000;
/// The wait for an acknowledgement before a report is sent again, in
/// milliseconds; it doubles.
const RESEND_FIRST_MS: u64 = 5_000;
/// The longest such wait.
const RESEND_CAP_MS: u64 = 5 * 60 * 1_000;
/// Longest report, in bytes: what fits into a message, and some to spare.
const MAX_REPORT_BYTES: usize = 120 * 1024;

/// How much a change matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody may be waiting for it.
    Soon,
    /// Progress and repetitions.
    Slow,
}

/// Decides when a report is sent.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    up: bool,
    /// When the next one is due because something changed.
    due_ms: Option<u64>,
    /// The newest one that was sent.
    sent: Option<Sent>,
}

#[derive(Debug, Clone)]
struct Sent {
    seq: Seq,
    at_ms: u64,
    content: Digest,
    /// When it is sent again; `None` once it was acknowledged.
    again_ms: Option<u64>,
    tries: u32,
}

impl Pace {
    /// Something changed.
    pub fn changed(&mut self, now_ms: u64, urgency: Urgency) {
        let gap_ms = match urgency {
            Urgency::Soon => GAP_MS,
            Urgency::Slow => SLOW_GAP_MS,
        };
        let mut due = now_ms.saturating_add(COALESCE_MS);
        if let Some(sent) = &self.sent {
            due = due.max(sent.at_ms.saturating_add(gap_ms));
        }
        self.due_ms = Some(self.due_ms.map_or(due, |now| now.min(due)));
    }

    /// The line is up: the hub is told anew, at once.
    pub fn link_up(&mut self) {
        self.up = true;
        self.sent = None;
        self.due_ms = Some(0);
    }

    /// The line is down: nothing is due until it is up.
    pub fn link_down(&mut self) {
        self.up = false;
    }

    /// The hub asked: it is told, changed or not.
    pub fn asked(&mut self, now_ms: u64) {
        if let Some(sent) = &mut self.sent {
            sent.again_ms = Some(sent.at_ms.saturating_add(GAP_MS).max(now_ms));
        }
    }

    /// The hub has this one.
    pub fn acknowledged(&mut self, seq: Seq) {
        if let Some(sent) = self.sent.as_mut().filter(|sent| sent.seq == seq) {
            sent.again_ms = None;
            sent.tries = 0;
        }
    }

    /// When [`Pace::send`] may say yes, in milliseconds since boot.
    pub fn wake_at_ms(&self) -> Option<u64> {
        if !self.up {
            return None;
        }
        let again = self.sent.as_ref().and_then(|sent| sent.again_ms);
        self.due_ms.into_iter().chain(again).min()
    }

    /// Whether a report with this content is sent now, under `seq`. To be
    /// asked when [`Pace::wake_at_ms`] is reached.
    pub fn send(&mut self, now_ms: u64, content: Digest, seq: Seq) -> bool {
        if self.wake_at_ms().is_none_or(|at| now_ms < at) {
            return false;
        }
        let due = self.due_ms.is_some_and(|at| now_ms >= at);
        if due {
            self.due_ms = None;
        }
        let mut tries = 0;
        if let Some(sent) = &self.sent {
            let again = sent.again_ms.is_some_and(|at| now_ms >= at);
            if sent.content == content {
                if !again {
                    return false;
                }
                tries = sent.tries;
            }
        }
        let wait_ms = RESEND_FIRST_MS
            .saturating_mul(1 << tries.min(20))
            .min(RESEND_CAP_MS);
        self.sent = Some(Sent {
            seq,
            at_ms: now_ms,
            content,
            again_ms: Some(now_ms.saturating_add(wait_ms)),
            tries: tries.saturating_add(1),
        });
        true
    }
}

/// What a report's content is, for telling whether it changed: all but its
/// time.
pub fn content(report: &Report) -> Digest {
    let mut same = report.clone();
    same.at = Timestamp(0);
    Digest::of(&encode(&same))
}

/// Makes a report fit into a message: events go first, the oldest before the
/// others, then the words of what containers wait for.
pub fn fit(mut report: Report) -> Report {
    while encode(&report).len() > MAX_REPORT_BYTES {
        if report.events.is_empty() {
            for container in report.apps.iter_mut().flat_map(|app| &mut app.containers) {
                if let ContainerState::Waiting { message, .. } = &mut container.state {
                    message.clear();
                }
            }
            for condition in &mut report.conditions {
                condition.message.clear();
            }
            break;
        }
        let half = report.events.len().div_ceil(2);
        report.events.drain(..half);
    }
    report
}

/// How the apps fare: those that are assigned, then those that are still
/// there.
pub fn apps(
    now_ms: u64,
    assignments: &[Assignment],
    previous: &BTreeMap<AppRef, Assignment>,
    replacing: &BTreeMap<AppRef, Replacement>,
    observed: &Observed,
    ledger: &Ledger,
    (now, works): (Now, &Works),
) -> Vec<AppStatus> {
    let mut all = Vec::new();
    let runs = works.pods();
    let pods = runs
        .pods
        .iter()
        .map(|run| (&run.assignment.app, &run.assignment));
    let services = assignments
        .iter()
        .filter(|a| a.policy.work == Work::Service);
    let running: Running<'_> = services
        .map(|a| (&a.app, runs_of(a, previous, replacing).serving()))
        .chain(pods)
        .collect();
    let lacking = lacks(running.values().copied(), observed, ledger);
    let entries = by_pod(ledger);
    let mut revisions: BTreeMap<&AppRef, Vec<RevisionId>> = BTreeMap::new();
    for (app, revision) in entries.keys() {
        revisions.entry(app).or_default().push(*revision);
    }
    for wanted in assignments {
        if let Some(job) = works.status(now, wanted) {
            all.push(job_status(
                now_ms,
                wanted,
                job,
                (&running, &lacking),
                observed,
                (ledger, &entries),
                works,
            ));
            continue;
        }
        let stage = replacing.get(&wanted.app).map(|r| r.stage.clone());
        let of = runs_of(wanted, previous, replacing);
        // What is not to begin, or not any more, is told of by what runs.
        let assignment = match stage {
            Some(Stage::Held { .. } | Stage::RolledBack { .. }) => of.newest(),
            Some(Stage::Waiting | Stage::Trial { .. }) | None => wanted,
        };
        let beside = matches!(of, Runs::Both { .. });
        let other = |revision: &RevisionId| *revision != assignment.revision;
        let held = Some(of.serving().revision).filter(other);
        let mut there = revisions.get(&assignment.app).into_iter().flatten();
        let leaving = there.find(|revision| other(revision)).copied();
        let older = held.or(leaving).filter(|_| !beside);
        let waits_for = unmet(assignment, &running, &runs.complete, observed, ledger);
        let pod = PodView {
            lack: lacking.get(&assignment.app),
            ..PodView::of(assignment, waits_for, observed, ledger, &entries)
        };
        let containers = (0..pod.names.len()).map(|index| pod.status(now_ms, index, older));
        let mut status = AppStatus::new(
            assignment.app.clone(),
            assignment.revision,
            containers.collect(),
        );
        let address = |revision| observed.addresses.get(&(assignment.app.clone(), revision));
        // Until it has one, it is reached at that of what it replaces.
        let at = address(assignment.revision).or_else(|| older.and_then(address));
        status.address = at.copied();
        let kept = previous.contains_key(&wanted.app);
        status.update = stage.and_then(|stage| update(wanted.revision, stage, kept));
        all.push(status);
    }
    let assigned: BTreeSet<&AppRef> = assignments.iter().map(|a| &a.app).collect();
    let mut leaving: BTreeMap<(&AppRef, RevisionId), Vec<ContainerStatus>> = BTreeMap::new();
    let others = ledger.iter();
    for (name, entry) in others.filter(|(_, entry)| !assigned.contains(&entry.app)) {
        leaving
            .entry((&entry.app, entry.revision))
            .or_default()
            .push(ContainerStatus {
                name: entry.container.clone(),
                role: Role::default(),
                started: false,
                ready: false,
                state: lived(now_ms, name, Some(entry), observed)
                    .unwrap_or(ContainerState::Stopping),
                restarts: entry.starts.saturating_sub(1),
                last_exit: entry.last_exit,
            });
    }
    all.extend(
        leaving
            .into_iter()
            .map(|((app, revision), containers)| AppStatus::new(app.clone(), revision, containers)),
    );
    all
}

/// A job: the containers are those of its newest pod.
fn job_status(
    now_ms: u64,
    assignment: &Assignment,
    job: JobStatus,
    (running, lacking): (&Running<'_>, &BTreeMap<&AppRef, Lack>),
    observed: &Observed,
    (ledger, entries): (&Ledger, &Entries<'_>),
    works: &Works,
) -> AppStatus {
    let mut runs = works.pods().pods.iter().rev();
    let newest = runs.find(|run| run.assignment.app == assignment.app);
    let containers = newest.map_or(Vec::new(), |run| {
        let complete = &works.pods().complete;
        let waits_for = unmet(&run.assignment, running, complete, observed, ledger);
        let waits_for = waits_for.filter(|_| !run.ends);
        let pod = PodView {
            lack: lacking.get(&run.assignment.app),
            ..PodView::of(&run.assignment, waits_for, observed, ledger, entries)
        };
        let mut all: Vec<ContainerStatus> = (0..pod.names.len())
            .map(|index| pod.status(now_ms, index, None))
            .collect();
        for container in &mut all {
            let rests = !matches!(
                container.state,
                ContainerState::Running { .. } | ContainerState::Stopping
            );
            if run.ends && rests {
                container.state = ContainerState::Ended;
            }
        }
        all
    });
    let pod = newest.map(|run| (assignment.app.clone(), run.assignment.revision));
    AppStatus {
        address: pod.and_then(|pod| observed.addresses.get(&pod).copied()),
        job: Some(job),
        ..AppStatus::new(assignment.app.clone(), assignment.revision, containers)
    }
}

fn runs_of<'a>(
    assignment: &'a Assignment,
    previous: &'a BTreeMap<AppRef, Assignment>,
    replacing: &BTreeMap<AppRef, Replacement>,
) -> Runs<'a> {
    let app = &assignment.app;
    replace::runs(assignment, previous.get(app), replacing.get(app))
}

/// How the change to this revision is told. Where nothing was before, there is
/// none.
fn update(to: RevisionId, stage: Stage, kept: bool) -> Option<AppUpdate> {
    let state = match stage {
        Stage::Waiting => return None,
        Stage::Held { reason, .. } => AppUpdateState::Held { reason },
        Stage::Trial { .. } if kept => AppUpdateState::Trial,
        Stage::Trial { .. } => return None,
        Stage::RolledBack { reason } => AppUpdateState::RolledBack { reason },
    };
    Some(AppUpdate { to, state })
}

/// A pod that is assigned, as it is told of.
struct PodView<'a> {
    assignment: &'a Assignment,
    names: Vec<InstanceName>,
    order: Order,
    /// What its beginning waits for.
    waits_for: Option<&'a Dependency>,
    /// What it does not get.
    lack: Option<&'a Lack>,
    observed: &'a Observed,
    ledger: &'a Ledger,
}

impl<'a> PodView<'a> {
    fn of(
        assignment: &'a Assignment,
        waits_for: Option<&'a Dependency>,
        observed: &'a Observed,
        ledger: &'a Ledger,
        entries: &Entries<'_>,
    ) -> Self {
        let names = plan::names(assignment, entries);
        let entry = |index: usize| ledger.get(&names[index]);
        let started = |index: usize| {
            entry(index).is_some_and(|e| {
                let id = names[index].incarnation(e.incarnation);
                observed.runs(&id) && observed.health.started(&id)
            })
        };
        let order = Order::of(&assignment.pod, entry, started);
        Self {
            assignment,
            names,
            order,
            waits_for: waits_for.filter(|_| !order.begun),
            lack: None,
            observed,
            ledger,
        }
    }

    fn status(&self, now_ms: u64, index: usize, older: Option<RevisionId>) -> ContainerStatus {
        let pod = &self.assignment.pod;
        let container = pod.container(index).expect("an index of the pod's");
        let (name, role) = (&self.names[index], pod.role(index));
        let entry = self.ledger.get(name);
        let lack = self
            .lack
            .map(|lack| waiting(lack.reason, lack.message.clone()));
        let waits = match self.waits_for {
            _ if lack.is_some() => lack.clone(),
            Some(dependency) => Some(waits_for_app(dependency)),
            None if !self.order.may_start(role, index) => Some(self.waits(role, index)),
            None => None,
        };
        let mut state = lived(now_ms, name, entry, self.observed)
            .unwrap_or_else(|| yet_to_start(container, older, waits, self.observed));
        // That it starts again later is not so: it waits.
        if let Some(lack) = lack
            && entry.is_some_and(|entry| matches!(entry.phase, Phase::BackOff { .. }))
        {
            state = lack;
        }
        let last_exit = entry.and_then(|e| e.last_exit);
        let id = name.incarnation(entry.map_or(0, |e| e.incarnation));
        let runs = matches!(state, ContainerState::Running { .. });
        // A sidecar whose pod has ended, an init container of one that has
        // begun: they have nothing to do any more.
        let idle = !runs
            && match role {
                Role::Sidecar => self.order.finished,
                Role::Init => self.order.begun,
                Role::Main => false,
            };
        if idle {
            state = ContainerState::Ended;
        }
        let ended_well =
            state == ContainerState::Ended && last_exit.is_some_and(|exit| exit.is_success());
        ContainerStatus {
            name: container.name.clone(),
            role,
            state,
            restarts: entry.map_or(0, |e| e.starts.saturating_sub(1)),
            last_exit,
            started: runs && self.observed.health.started(&id),
            ready: (runs && self.observed.health.ready(&id)) || ended_well || idle,
        }
    }

    /// What a container waits for that comes after others.
    fn waits(&self, role: Role, index: usize) -> ContainerState {
        let first = match role {
            Role::Init | Role::Sidecar => self.order.frontier.min(index),
            Role::Main => self.order.frontier,
        };
        let Some(before) = self.assignment.pod.container(first) else {
            return about_to_start();
        };
        let entry = self.ledger.get(&self.names[first]);
        let failed = entry.is_some_and(|e| e.phase == Phase::Ended);
        let name = &before.name;
        match failed {
            true => waiting(
                "InitFailed",
                format!(
                    "init container {name} failed, and restartPolicy Never lets it be: look at its log, apply a new revision"
                ),
            ),
            false => waiting(
                "PodInitializing",
                format!("init container {name} comes first"),
            ),
        }
    }
}

fn waits_for_app(dependency: &Dependency) -> ContainerState {
    let app = &dependency.app;
    let message = match dependency.condition {
        Awaited::Started => format!("app {app} has not started on this device yet"),
        Awaited::Healthy => format!("app {app} is not ready on this device yet"),
        Awaited::Completed => format!("app {app} has not ended well on this device yet"),
    };
    waiting("DependencyNotReady", message)
}

fn about_to_start() -> ContainerState {
    waiting("Starting", "it is about to start".into())
}

fn waiting(reason: &str, message: String) -> ContainerState {
    ContainerState::Waiting {
        reason: reason.into(),
        message,
    }
}

/// Where a container is in its life; `None` when it has yet to start.
fn lived(
    now_ms: u64,
    name: &InstanceName,
    entry: Option<&Entry>,
    observed: &Observed,
) -> Option<ContainerState> {
    let Some(containers) = &observed.containers else {
        return Some(waiting(
            "RuntimeUnavailable",
            "the keeper of the containers cannot be reached".into(),
        ));
    };
    let number = entry.map_or(0, |e| e.incarnation);
    let id = name.incarnation(number);
    let phase = entry.map_or(&Phase::Ready, |e| &e.phase);
    match phase {
        Phase::Stopping { .. } => return Some(ContainerState::Stopping),
        Phase::Ended => return Some(ContainerState::Ended),
        Phase::BackOff {
            delay_ms,
            why: Setback::Exited,
            until_ms,
        } if now_ms < *until_ms => {
            let delay_secs = u32::try_from(delay_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
            return Some(ContainerState::BackOff { delay_secs });
        }
        Phase::BackOff {
            why: Setback::CreateFailed(message),
            ..
        } => {
            return Some(waiting("CreateFailed", message.clone()));
        }
        Phase::Ready | Phase::Running { .. } | Phase::BackOff { .. } => {}
    }
    match containers.get(&id) {
        Some(Status::Running { started_at, .. }) => Some(ContainerState::Running {
            since: Timestamp(started_at.0 / 1_000_000),
        }),
        Some(Status::Exited(_) | Status::Lost) => Some(waiting(
            "Cleanup",
            "what is left of the last run is being taken down".into(),
        )),
        None if observed.busy.get(&id) == Some(&Operation::Create) => {
            Some(waiting("Starting", "the container is being made".into()))
        }
        None => None,
    }
}

/// What a container waits for that has yet to start.
fn yet_to_start(
    container: &ContainerSpec,
    older: Option<RevisionId>,
    waits: Option<ContainerState>,
    observed: &Observed,
) -> ContainerState {
    let kept = match older {
        Some(revision) => format!("; revision {revision} keeps running"),
        None => String::new(),
    };
    match observed.images.get(&container.image.manifest) {
        Some(ImageState::Fetching {
            done_bytes,
            total_bytes,
        }) => ContainerState::Fetching {
            done_bytes: *done_bytes,
            total_bytes: *total_bytes,
        },
        Some(ImageState::Failed { reason, .. }) => {
            let image = &container.image.reference;
            waiting("ImageUnavailable", format!("image {image}: {reason}{kept}"))
        }
        Some(ImageState::Ready) | None => match older {
            Some(revision) => waiting("Replacing", format!("revision {revision} is not gone yet")),
            None => waits.unwrap_or_else(about_to_start),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> Pace {
        let mut pace = Pace::default();
        pace.link_up();
        pace
    }

    #[test]
    fn a_report_goes_out_at_once_on_connect_and_again_until_acknowledged() {
        let one = Digest::of(b"1");
        let mut pace = up();
        assert!(pace.send(10, one, Seq(1)));
        let mut waits = Vec::new();
        let mut at = 10;
        for n in 2..10 {
            let next = pace.wake_at_ms().unwrap();
            assert!(!pace.send(next - 1, one, Seq(n)));
            assert!(pace.send(next, one, Seq(n)));
            waits.push(next - at);
            at = next;
        }
        assert_eq!(waits[..3], [5_000, 10_000, 20_000]);
        assert_eq!(*waits.last().unwrap(), RESEND_CAP_MS);
        pace.acknowledged(Seq(8));
        assert!(
            pace.wake_at_ms().is_some(),
            "an older one is not the newest"
        );
        pace.acknowledged(Seq(9));
        assert_eq!(pace.wake_at_ms(), None);
    }

    #[test]
    fn changes_are_gathered_and_nothing_new_is_not_sent() {
        let mut pace = up();
        assert!(pace.send(10, Digest::of(b"1"), Seq(1)));
        pace.acknowledged(Seq(1));
        for now in 20..120 {
            pace.changed(now, Urgency::Soon);
        }
        assert_eq!(pace.wake_at_ms(), Some(10 + GAP_MS));
        assert!(
            !pace.send(1010, Digest::of(b"1"), Seq(2)),
            "nothing changed"
        );
        assert_eq!(pace.wake_at_ms(), None);
        pace.changed(5000, Urgency::Soon);
        assert_eq!(pace.wake_at_ms(), Some(5000 + COALESCE_MS));
        assert!(pace.send(5100, Digest::of(b"2"), Seq(3)));
    }

    #[test]
    fn nothing_is_due_while_the_line_is_down() {
        let mut pace = Pace::default();
        pace.changed(0, Urgency::Soon);
        assert_eq!(pace.wake_at_ms(), None);
        assert!(!pace.send(u64::MAX, Digest::of(b"1"), Seq(1)));
    }
}
