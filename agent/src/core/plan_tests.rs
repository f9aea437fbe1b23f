//! The laws of the plan, by table and at random.

use super::*;
use crate::core::action::apply;
use crate::core::health::{Answer, Verdict};
use crate::core::name::MADE;
use crate::core::observed::ImageState;
use crate::core::replace::Stage;
use crate::runtime::{Exit, ExitStatus as RuntimeExit, Timestamp};
use proptest::prelude::*;
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::probe::{Check, Probe};
use skerry_wire::{ContainerSpec, Digest, ImageRef, PodSpec, RestartPolicy};
use std::collections::BTreeSet;

fn assignment(app: &str, revision: &str) -> Assignment {
    let image = ImageRef {
        reference: format!("{app}:{revision}"),
        manifest: Digest::of(revision.as_bytes()),
        manifest_size: 100,
    };
    Assignment {
        app: AppRef {
            namespace: "default".parse().unwrap(),
            name: app.parse().unwrap(),
        },
        revision: RevisionId(Digest::of(revision.as_bytes())),
        policy: Default::default(),
        pod: PodSpec {
            termination_grace_secs: 10,
            ..PodSpec::new(vec![ContainerSpec::new("main".parse().unwrap(), image)])
        },
    }
}

/// A device on paper: carries plans out at once, one step at a time.
#[derive(Debug, Clone, Default)]
struct Paper {
    now_ms: u64,
    desired: Option<Vec<Assignment>>,
    previous: BTreeMap<AppRef, Assignment>,
    replacing: BTreeMap<AppRef, Replacement>,
    observed: Observed,
    ledger: Ledger,
}

impl Paper {
    fn new(desired: Vec<Assignment>) -> Self {
        let mut paper = Paper {
            desired: Some(desired),
            ..Paper::default()
        };
        paper.observed.containers = Some(BTreeMap::new());
        paper
    }

    fn plan(&self) -> Plan {
        let jobs = crate::core::work::JobPods::default();
        let wanted = Wanted {
            jobs: &jobs,
            assignments: self.desired.as_deref(),
            previous: &self.previous,
            replacing: &self.replacing,
        };
        plan(self.now_ms, wanted, &self.observed, &self.ledger)
    }

    /// Begins everything that is planned, until nothing is; what was begun.
    fn settle(&mut self) -> Vec<Action> {
        let mut all = Vec::new();
        for _ in 0..8 {
            let plan = self.plan();
            if plan.actions.is_empty() {
                return all;
            }
            for action in plan.actions {
                apply(self.now_ms, &mut self.ledger, &action);
                self.observed.begun(self.now_ms, &action);
                all.push(action);
            }
        }
        panic!("planning does not come to rest: {all:?}");
    }

    /// An app is to be changed from this.
    fn replace(&mut self, old: &Assignment, stage: Stage) {
        let new = self.desired.iter().flatten().find(|a| a.app == old.app);
        let record = Replacement {
            to: new.expect("it is assigned").revision,
            good_before: true,
            stage,
        };
        self.previous.insert(old.app.clone(), old.clone());
        self.replacing.insert(old.app.clone(), record);
    }

    fn image_here(&mut self, revision: &str) {
        let digest = Digest::of(revision.as_bytes());
        self.observed.images.insert(digest, ImageState::Ready);
    }

    /// The runtime does what it is busy with.
    fn runtime_works(&mut self) {
        for (id, operation) in std::mem::take(&mut self.observed.busy) {
            match operation {
                Operation::Create => self.observed.set(id, running()),
                Operation::Remove => self.observed.gone(&id),
            }
        }
    }

    fn all_end(&mut self) {
        for status in self.observed.containers.as_mut().unwrap().values_mut() {
            if matches!(status, Status::Running { .. }) {
                *status = Status::Exited(exit());
            }
        }
    }

    fn ids(&self) -> Vec<String> {
        let containers = self.observed.containers.as_ref().unwrap();
        containers.keys().map(|id| id.to_string()).collect()
    }
}

fn trial(handed_over: bool) -> Stage {
    Stage::Trial {
        since_ms: 0,
        reboots: 0,
        handed_over,
    }
}

fn running() -> Status {
    Status::Running {
        pid: 7,
        started_at: Timestamp(0),
    }
}

fn exit() -> Exit {
    Exit {
        status: RuntimeExit::Code(1),
        oom_killed: false,
        at: Timestamp(0),
    }
}

fn started() -> Paper {
    let mut paper = Paper::new(vec![assignment("web", "1")]);
    paper.image_here("1");
    paper.settle();
    paper.runtime_works();
    assert_eq!(paper.settle(), []);
    paper
}

fn kinds(actions: &[Action]) -> Vec<&'static str> {
    let kind = |action: &Action| match action {
        Action::FetchImage(_) => "fetch",
        Action::Adopt { .. } => "adopt",
        Action::Create { .. } => "create",
        Action::Settle { .. } => "settle",
        Action::Vanished { .. } => "vanished",
        Action::Stop { .. } => "stop",
        Action::Kill { .. } => "kill",
        Action::Remove { .. } => "remove",
        Action::Reset { .. } => "reset",
        Action::Forget { .. } => "forget",
    };
    actions.iter().map(kind).collect()
}

#[test]
fn what_runs_is_planned_for_without_making_names() {
    let apps = (0..200).map(|n| assignment(&format!("app{n:03}"), "1"));
    let mut paper = Paper::new(apps.collect());
    let image = Digest::of(b"1");
    paper.observed.images.insert(image, ImageState::Ready);
    while paper.ledger.len() < 200 {
        for action in paper.settle() {
            if let Action::Create { entry, .. } = action {
                let id = entry.name().incarnation(entry.incarnation);
                paper.observed.busy.remove(&id);
                let started_at = Timestamp(0);
                paper
                    .observed
                    .set(id, Status::Running { pid: 2, started_at });
            }
        }
    }
    let before = MADE.get();
    assert_eq!(paper.plan(), Plan::default());
    assert_eq!(MADE.get(), before, "names made anew at every event");
}

#[test]
fn nothing_is_planned_on_what_is_not_known() {
    let mut paper = Paper::new(vec![assignment("web", "1")]);
    paper.image_here("1");
    paper.observed.containers = None;
    assert_eq!(paper.plan(), Plan::default());
    let mut paper = started();
    paper.desired = None;
    assert_eq!(paper.plan(), Plan::default(), "a running app is left alone");
}

#[test]
fn an_app_is_fetched_then_started_and_an_image_that_is_here_is_not_fetched() {
    let mut paper = Paper::new(vec![assignment("web", "1")]);
    assert_eq!(kinds(&paper.settle()), ["fetch"]);
    paper.image_here("1");
    assert_eq!(kinds(&paper.settle()), ["create"]);
    paper.runtime_works();
    assert_eq!(paper.settle(), []);
}

#[test]
fn what_shall_not_run_is_stopped_killed_in_time_and_taken_down() {
    let mut paper = started();
    paper.desired = Some(vec![]);
    assert_eq!(kinds(&paper.settle()), ["stop"]);
    assert_eq!(paper.plan().wake_at_ms, Some(10_000));
    paper.now_ms = 10_000;
    assert_eq!(kinds(&paper.settle()), ["kill"]);
    paper.all_end();
    assert_eq!(kinds(&paper.settle()), ["settle"]);
    paper.runtime_works();
    assert_eq!(kinds(&paper.settle()), ["forget"]);
    assert_eq!(paper.ledger, Ledger::new());
}

#[test]
fn a_new_revision_waits_for_its_image_and_then_for_the_old_ones_end() {
    let mut paper = started();
    let old = paper.desired.replace(vec![assignment("web", "2")]).unwrap();
    paper.replace(&old[0], Stage::Waiting);
    assert_eq!(kinds(&paper.settle()), ["fetch"]);
    // Meanwhile the old one is kept alive.
    paper.all_end();
    assert_eq!(kinds(&paper.settle()), ["settle"]);
    paper.runtime_works();
    paper.now_ms = 2_000;
    assert_eq!(kinds(&paper.settle()), ["create"]);
    paper.runtime_works();
    paper.image_here("2");
    assert_eq!(paper.settle(), [], "when it begins, others say");
    paper.replace(&old[0], trial(true));
    assert_eq!(kinds(&paper.settle()), ["stop"]);
    paper.all_end();
    assert_eq!(kinds(&paper.settle()), ["settle"]);
    paper.runtime_works();
    assert_eq!(kinds(&paper.settle()), ["forget", "create"]);
}

#[test]
fn beside_the_old_one_the_new_one_starts_and_the_old_one_stops_when_it_hands_over() {
    let mut paper = started();
    let old = paper.desired.replace(vec![assignment("web", "2")]).unwrap();
    paper.image_here("2");
    paper.replace(&old[0], trial(false));
    assert_eq!(kinds(&paper.settle()), ["create"]);
    paper.runtime_works();
    assert_eq!(paper.settle(), []);
    assert_eq!(paper.ids().len(), 2, "both run");
    // It failed: the old one was never touched.
    let mut failed = paper.clone();
    let reason = "not ready".into();
    failed.replace(&old[0], Stage::RolledBack { reason });
    let stopped = failed.settle();
    let old_id = old_id(&old[0]);
    assert!(
        matches!(&stopped[..], [Action::Stop { id, .. }] if *id != old_id),
        "{stopped:?}"
    );
    // It is ready: only the old one goes.
    paper.replace(&old[0], trial(true));
    let stopped = paper.settle();
    assert!(
        matches!(&stopped[..], [Action::Stop { id, .. }] if *id == old_id),
        "{stopped:?}"
    );
}

#[test]
fn what_was_given_up_is_not_fetched_and_what_was_before_comes_back() {
    let mut paper = started();
    let old = paper.desired.replace(vec![assignment("web", "2")]).unwrap();
    paper.replace(&old[0], trial(true));
    // Recreate: its image is not here, the old one goes.
    assert_eq!(kinds(&paper.settle()), ["fetch", "stop"]);
    paper.all_end();
    paper.settle();
    paper.runtime_works();
    paper.settle();
    assert_eq!(paper.ids(), Vec::<String>::new());
    paper.observed.images.remove(&Digest::of(b"2"));
    let reason = "image web:2 cannot be had".into();
    paper.replace(&old[0], Stage::RolledBack { reason });
    assert_eq!(kinds(&paper.settle()), ["create"]);
    paper.runtime_works();
    assert_eq!(paper.ids().len(), 1);
    assert_eq!(paper.settle(), []);
}

fn old_id(old: &Assignment) -> ContainerId {
    let container = &old.pod.containers[0].name;
    InstanceName::new(&old.app, old.revision, container).incarnation(1)
}

#[test]
fn a_lost_ledger_is_made_good_from_what_runs() {
    let mut paper = started();
    let before = paper.ids();
    paper.ledger.clear();
    assert_eq!(kinds(&paper.settle()), ["adopt"]);
    assert_eq!(paper.ids(), before);
    assert_eq!(paper.settle(), []);
    // What nobody wants is stopped, and nothing starts beside it.
    paper.ledger.clear();
    paper.desired = Some(vec![assignment("web", "2")]);
    paper.image_here("2");
    assert_eq!(kinds(&paper.settle()), ["stop"]);
    paper.all_end();
    let rest = kinds(&paper.settle());
    assert!(
        rest.contains(&"remove") && rest.contains(&"create"),
        "{rest:?}"
    );
}

#[test]
fn a_container_whose_start_was_not_committed_is_taken_over_and_not_stopped() {
    // A full disk took neither the end of the first nor the second's start.
    let mut paper = started();
    let stored = paper.ledger.clone();
    paper.all_end();
    paper.settle();
    paper.runtime_works();
    paper.now_ms = paper.plan().wake_at_ms.unwrap();
    assert_eq!(kinds(&paper.settle()), ["create"]);
    paper.runtime_works();
    let before = paper.ids();
    assert!(before[0].ends_with(".2"));
    // The agent starts again with what is on the disk.
    paper.ledger = stored;
    assert_eq!(kinds(&paper.settle()), ["adopt"]);
    assert_eq!(paper.ids(), before);
    assert_eq!(paper.settle(), []);
    // And what ended meanwhile is settled by its policy.
    paper
        .ledger
        .values_mut()
        .for_each(|entry| entry.incarnation = 1);
    paper.all_end();
    assert_eq!(kinds(&paper.settle()), ["adopt", "settle"]);
}

#[test]
fn an_old_end_that_comes_back_stops_nothing() {
    let mut paper = started();
    let name = paper.ledger.values().next().unwrap().name();
    paper
        .observed
        .set(name.incarnation(9), Status::Exited(exit()));
    assert_eq!(kinds(&paper.settle()), ["remove"]);
    paper.runtime_works();
    assert!(paper.ids()[0].ends_with(".1"), "{:?}", paper.ids());
    assert_eq!(paper.settle(), []);
}

#[test]
fn a_container_that_the_keeper_lost_starts_again_after_a_wait() {
    let mut paper = started();
    for status in paper.observed.containers.as_mut().unwrap().values_mut() {
        *status = Status::Lost;
    }
    assert_eq!(kinds(&paper.settle()), ["settle"]);
    paper.runtime_works();
    assert_eq!(paper.settle(), []);
    paper.now_ms = paper.plan().wake_at_ms.unwrap();
    assert_eq!(kinds(&paper.settle()), ["create"]);
}

/// The app whose new revisions start beside the old ones.
const BESIDE: &str = "app2";

/// The next step of an app's change.
fn step(paper: &mut Paper, app: &AppRef, yes: bool) {
    let new = paper.desired.iter().flatten().find(|a| a.app == *app);
    let here = images_here(new.expect("it is assigned"), &paper.observed);
    let stage = &mut paper.replacing.get_mut(app).expect("it is changed").stage;
    match stage {
        // Recreate does not wait for the images.
        Stage::Waiting if here || yes => *stage = trial(app.name.as_str() != BESIDE),
        Stage::Trial { handed_over, .. } if yes && !*handed_over => *handed_over = true,
        Stage::Trial { .. } if yes => {
            paper.previous.remove(app);
            paper.replacing.remove(app);
        }
        Stage::Trial { .. } => {
            let reason = "not ready".into();
            *stage = Stage::RolledBack { reason };
        }
        Stage::Waiting | Stage::Held { .. } | Stage::RolledBack { .. } => {}
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Desire(Vec<(u8, u8)>),
    Image(u8),
    RuntimeWorks,
    End(u8),
    Lose(u8),
    Later(u16),
    LedgerLost,
    /// The change of this app takes its next step, so or so.
    Step(u8, bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => prop::collection::vec((0u8..3, 0u8..3), 0..3).prop_map(Happening::Desire),
        2 => (0u8..3).prop_map(Happening::Image),
        6 => Just(Happening::RuntimeWorks),
        3 => any::<u8>().prop_map(Happening::End),
        1 => any::<u8>().prop_map(Happening::Lose),
        3 => any::<u16>().prop_map(Happening::Later),
        1 => Just(Happening::LedgerLost),
        4 => (0u8..3, any::<bool>()).prop_map(|(app, yes)| Happening::Step(app, yes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_laws_hold(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut paper = Paper::new(vec![]);
        for happening in happenings {
            match happening {
                Happening::Desire(apps) => {
                    let apps: BTreeMap<u8, u8> = apps.into_iter().collect();
                    let new: Vec<_> = apps
                        .iter()
                        .map(|(app, revision)| assignment(&format!("app{app}"), &revision.to_string()))
                        .collect();
                    // As the core keeps what runs.
                    for old in paper.desired.clone().unwrap_or_default() {
                        let changed = new.iter().any(|n| n.app == old.app && n.revision != old.revision);
                        let begun = paper.ledger.values().any(|e| e.app == old.app && e.revision == old.revision);
                        if changed && begun {
                            paper.previous.entry(old.app.clone()).or_insert(old);
                        }
                    }
                    paper.desired = Some(new.clone());
                    paper.previous.retain(|app, old| {
                        new.iter().any(|n| n.app == *app && n.revision != old.revision)
                    });
                    paper.replacing.clear();
                    for old in paper.previous.clone().values() {
                        paper.replace(old, Stage::Waiting);
                    }
                }
                Happening::Image(revision) => paper.image_here(&revision.to_string()),
                Happening::RuntimeWorks => paper.runtime_works(),
                Happening::End(n) | Happening::Lose(n) => {
                    let status = match happening {
                        Happening::End(_) => Status::Exited(exit()),
                        _ => Status::Lost,
                    };
                    let containers = paper.observed.containers.as_mut().unwrap();
                    let index = usize::from(n) % containers.len().max(1);
                    if let Some(found) = containers.values_mut().nth(index)
                        && matches!(found, Status::Running { .. })
                    {
                        *found = status;
                    }
                }
                Happening::Later(ms) => paper.now_ms += u64::from(ms),
                Happening::LedgerLost => {
                    // The store goes with its agent: nothing is under way then.
                    paper.runtime_works();
                    paper.ledger.clear();
                    paper.previous.clear();
                    paper.replacing.clear();
                }
                Happening::Step(app, yes) => {
                    let app = paper.previous.keys().find(|a| a.name.as_str() == format!("app{app}"));
                    if let Some(app) = app.cloned() {
                        step(&mut paper, &app, yes);
                    }
                }
            }
            let before = paper.clone();
            for action in paper.settle() {
                if let Action::FetchImage(image) = &action {
                    prop_assert!(!before.observed.has_image(&image.manifest));
                }
                if let Action::Create { entry, assignment, container } = &action {
                    let new = paper.desired.as_ref().unwrap().iter().find(|a| a.app == entry.app);
                    let new = new.expect("it is assigned");
                    let of = runs(new, paper.previous.get(&entry.app), paper.replacing.get(&entry.app));
                    let shall = |revision| [of.serving(), of.newest()].iter().any(|a| a.revision == revision);
                    prop_assert!(shall(entry.revision));
                    // Nothing starts before what shall not run is gone.
                    let left = before.ledger.values().filter(|e| e.app == entry.app && !shall(e.revision));
                    for other in left {
                        let id = other.name().incarnation(other.incarnation);
                        prop_assert!(!before.observed.runs(&id), "{id} is still there");
                    }
                    let image = &assignment.pod.container(*container).unwrap().image;
                    prop_assert!(before.observed.has_image(&image.manifest));
                }
            }
            // Planning again plans nothing.
            prop_assert_eq!(paper.plan().actions, vec![]);
            // Never two of one instance, nor two revisions of one app, but for
            // the app that starts the new one beside the old one.
            let alive = paper.observed.containers.as_ref().unwrap().iter()
                .filter(|(_, status)| matches!(status, Status::Running { .. }))
                .map(|(id, _)| id.clone())
                .chain(paper.observed.busy.iter().filter(|(_, op)| **op == Operation::Create).map(|(id, _)| id.clone()));
            let mut apps = BTreeSet::new();
            for id in alive {
                // app<n>-main-<digest>.<number>
                let app = id.as_str().split('-').next().unwrap().to_string();
                let of = match app.as_str() {
                    BESIDE => InstanceName::of(&id).unwrap().0.to_string(),
                    _ => app,
                };
                prop_assert!(apps.insert(of), "two of one app: {:?}", paper);
            }
        }
        // Left alone, and with every change good, it comes to what is desired.
        paper.previous.clear();
        paper.replacing.clear();
        for revision in 0..3 {
            paper.image_here(&revision.to_string());
        }
        for _ in 0..20 {
            paper.now_ms += crate::core::ledger::BACKOFF_CAP_MS;
            paper.settle();
            paper.runtime_works();
            let wanted: BTreeSet<_> = paper.desired.iter().flatten()
                .map(|a| InstanceName::new(&a.app, a.revision, &a.pod.containers[0].name))
                .collect();
            // Those told to stop do so.
            for (id, status) in paper.observed.containers.as_mut().unwrap() {
                let leaving = !InstanceName::of(id).is_some_and(|(name, _)| wanted.contains(&name))
                    || paper.ledger.values().any(|e| matches!(e.phase, Phase::Stopping { .. }) && e.name().incarnation(e.incarnation) == *id);
                if leaving && matches!(status, Status::Running { .. }) {
                    *status = Status::Exited(exit());
                }
            }
        }
        let run: BTreeSet<_> = paper.observed.containers.as_ref().unwrap().iter()
            .filter(|(_, status)| matches!(status, Status::Running { .. }))
            .map(|(id, _)| InstanceName::of(id).unwrap().0)
            .collect();
        let wanted: BTreeSet<_> = paper.desired.iter().flatten()
            .map(|a| InstanceName::new(&a.app, a.revision, &a.pod.containers[0].name))
            .collect();
        prop_assert_eq!(run, wanted);
    }
}

// --- pods of several containers

/// An app with an init container, a sidecar and a main container, on images
/// that are here.
fn pod_paper(policy: RestartPolicy) -> Paper {
    let mut assignment = assignment("web", "1");
    let main = assignment.pod.containers[0].clone();
    let named = |name: &str, sidecar: bool| ContainerSpec {
        name: name.parse().unwrap(),
        sidecar,
        ..main.clone()
    };
    assignment.pod.init_containers = vec![named("setup", false), named("proxy", true)];
    assignment.pod.restart_policy = policy;
    let mut paper = Paper::new(vec![assignment]);
    paper.image_here("1");
    paper
}

impl Paper {
    /// The names of the containers that run.
    fn running(&self) -> Vec<&str> {
        let containers = self.observed.containers.as_ref().unwrap();
        let mut running: Vec<&str> = self
            .ledger
            .values()
            .filter(|entry| {
                let id = entry.name().incarnation(entry.incarnation);
                matches!(containers.get(&id), Some(Status::Running { .. }))
            })
            .map(|entry| entry.container.as_str())
            .collect();
        running.sort_unstable();
        running
    }

    fn id(&self, container: &str) -> ContainerId {
        let mut entries = self.ledger.values();
        let entry = entries.find(|e| e.container.as_str() == container).unwrap();
        entry.name().incarnation(entry.incarnation)
    }

    fn ends(&mut self, container: &str, code: i32) {
        let status = RuntimeExit::Code(code);
        let exit = Exit { status, ..exit() };
        let id = self.id(container);
        self.observed.health.gone(&id);
        self.observed.set(id, Status::Exited(exit));
    }

    /// Settles and lets the runtime work until both are done; what was done.
    fn rest(&mut self) -> Vec<&'static str> {
        let mut all = Vec::new();
        loop {
            let some = self.settle();
            let was_busy = !self.observed.busy.is_empty();
            self.runtime_works();
            all.extend(kinds(&some));
            if some.is_empty() && !was_busy {
                return all;
            }
        }
    }

    fn later(&mut self) {
        self.now_ms += crate::core::ledger::BACKOFF_CAP_MS;
    }
}

#[test]
fn a_pod_starts_in_its_order_and_stops_its_sidecars_last() {
    let mut paper = pod_paper(RestartPolicy::Always);
    assert_eq!(paper.rest(), ["create"]);
    assert_eq!(paper.running(), ["setup"]);
    // A failure is tried again, and nothing else starts meanwhile.
    paper.ends("setup", 1);
    paper.rest();
    assert_eq!(paper.running(), [""; 0]);
    paper.later();
    paper.rest();
    assert_eq!(paper.running(), ["setup"]);
    paper.ends("setup", 0);
    paper.rest();
    assert_eq!(paper.running(), ["main", "proxy"]);
    // The main container's restart does not begin the pod anew.
    paper.ends("main", 1);
    paper.rest();
    paper.later();
    paper.rest();
    assert_eq!(paper.running(), ["main", "proxy"]);
    // Nor is it stopped with its sidecar.
    paper.ends("proxy", 0);
    paper.rest();
    assert_eq!(paper.running(), ["main"]);
    paper.later();
    paper.rest();
    assert_eq!(paper.running(), ["main", "proxy"]);
    paper.desired = Some(vec![]);
    assert_eq!(paper.rest(), ["stop", "forget"], "the main one alone");
    paper.ends("main", 0);
    assert_eq!(paper.rest(), ["settle", "stop", "forget"]);
    paper.ends("proxy", 0);
    assert_eq!(paper.rest(), ["settle", "forget"]);
    assert_eq!(paper.ledger, Ledger::new());
}

#[test]
fn a_main_container_waits_for_its_sidecar_to_come_up() {
    let mut paper = pod_paper(RestartPolicy::Always);
    let probe = Probe::new(Check::Tcp {
        host: None,
        port: 1,
    });
    let pod = &mut paper.desired.as_mut().unwrap()[0].pod;
    pod.init_containers[1].startup_probe = Some(Box::new(probe));
    paper.rest();
    paper.ends("setup", 0);
    paper.rest();
    assert_eq!(paper.running(), ["proxy"]);
    let id = paper.id("proxy");
    paper.observed.health.runs(0, &id);
    let asked = paper.observed.health.due(0);
    assert_eq!(asked.len(), 1);
    let health = &mut paper.observed.health;
    assert_eq!(
        health.answered(1, &id, asked[0].kind, Answer::Good),
        Verdict::Better
    );
    paper.rest();
    assert_eq!(paper.running(), ["main", "proxy"]);
}

#[test]
fn a_failed_init_container_that_may_not_run_twice_keeps_the_rest_down() {
    let mut paper = pod_paper(RestartPolicy::Never);
    paper.rest();
    paper.ends("setup", 1);
    paper.rest();
    paper.later();
    assert_eq!(paper.rest(), [""; 0]);
    assert_eq!(paper.running(), [""; 0]);
    // But that nobody saw its end is no failure of it.
    let mut paper = pod_paper(RestartPolicy::Never);
    paper.rest();
    paper.observed.set(paper.id("setup"), Status::Lost);
    paper.rest();
    paper.later();
    paper.rest();
    assert_eq!(paper.running(), ["setup"]);
}

#[test]
fn a_pod_that_has_ended_stops_its_sidecars() {
    let mut paper = pod_paper(RestartPolicy::OnFailure);
    paper.rest();
    paper.ends("setup", 0);
    paper.rest();
    paper.ends("main", 0);
    assert_eq!(paper.rest(), ["settle", "stop"]);
    paper.ends("proxy", 15);
    assert_eq!(paper.rest(), ["settle"]);
    paper.later();
    assert_eq!(paper.rest(), [""; 0]);
    assert!(paper.ledger.values().all(|e| e.phase == Phase::Ended));
}

#[test]
fn what_is_unwell_is_stopped_and_starts_again_after_a_wait() {
    let mut paper = started();
    let probe = Probe {
        failure_threshold: 1,
        termination_grace_secs: Some(3),
        ..Probe::new(Check::Tcp {
            host: None,
            port: 1,
        })
    };
    paper.desired.as_mut().unwrap()[0].pod.containers[0].liveness_probe = Some(Box::new(probe));
    let spec = paper.desired.as_ref().unwrap()[0].pod.containers[0].clone();
    let id = paper.id("main");
    let health = &mut paper.observed.health;
    health.made(&id, &spec);
    health.runs(0, &id);
    let kind = health.due(0)[0].kind;
    let verdict = health.answered(0, &id, kind, Answer::Bad("no".into()));
    assert!(matches!(verdict, Verdict::Unwell(_)));
    assert_eq!(kinds(&paper.settle()), ["stop"]);
    assert_eq!(
        paper.plan().wake_at_ms,
        Some(3_000),
        "the probe's own grace"
    );
    // However politely it ends, it was a failure, and backs off.
    paper.ends("main", 0);
    paper.rest();
    assert_eq!(paper.running(), [""; 0]);
    paper.later();
    paper.rest();
    assert_eq!(paper.running(), ["main"]);
    assert_eq!(paper.ledger.values().next().unwrap().starts, 2);
}

#[test]
fn a_stop_that_an_earlier_agent_began_is_told_again() {
    let mut paper = started();
    paper.desired = Some(vec![]);
    assert_eq!(kinds(&paper.settle()), ["stop"]);
    assert_eq!(paper.settle(), []);
    // The agent starts again: whether its signal was sent is not known.
    paper.observed.told.clear();
    paper.now_ms = 4_000;
    assert_eq!(kinds(&paper.settle()), ["stop"]);
    assert_eq!(paper.plan().wake_at_ms, Some(10_000), "the same deadline");
}

// --- apps that wait for others

fn depends(app: &str, on: &[(&str, Awaited)]) -> Assignment {
    let mut assignment = assignment(app, app);
    let dependency = |(name, condition): &(&str, Awaited)| Dependency {
        app: AppRef {
            namespace: "default".parse().unwrap(),
            name: name.parse().unwrap(),
        },
        condition: *condition,
    };
    assignment.policy.depends_on = on.iter().map(dependency).collect();
    assignment.pod.containers[0].name = app.parse().unwrap();
    assignment
}

#[test]
fn an_app_begins_when_what_it_waits_for_is_so_and_stops_before_it() {
    let mut setup = depends("setup", &[]);
    setup.pod.restart_policy = RestartPolicy::OnFailure;
    let mut paper = Paper::new(vec![
        depends("db", &[("setup", Awaited::Completed)]),
        setup,
        depends("web", &[("db", Awaited::Started)]),
        depends(
            "zoo",
            &[("web", Awaited::Started), ("nobody", Awaited::Started)],
        ),
    ]);
    for app in ["db", "setup", "web", "zoo"] {
        paper.image_here(app);
    }
    paper.rest();
    assert_eq!(paper.running(), ["setup"]);
    paper.ends("setup", 0);
    paper.rest();
    assert_eq!(
        paper.running(),
        ["db", "web"],
        "and not what waits for nobody"
    );
    // What runs is not touched by what another app does later.
    paper.ends("db", 1);
    paper.rest();
    assert_eq!(paper.running(), ["web"]);
    paper.ends("web", 1);
    paper.rest();
    paper.later();
    paper.rest();
    assert_eq!(paper.running(), ["db", "web"]);
    // Leaving, the one that depends goes first.
    paper.desired = Some(vec![]);
    paper.rest();
    assert!(matches!(
        paper.ledger_of("web").phase,
        Phase::Stopping { .. }
    ));
    assert!(matches!(paper.ledger_of("db").phase, Phase::Running { .. }));
    paper.ends("web", 0);
    paper.rest();
    assert!(matches!(
        paper.ledger_of("db").phase,
        Phase::Stopping { .. }
    ));
    paper.ends("db", 0);
    paper.rest();
    assert_eq!(paper.ledger, Ledger::new());
}

#[test]
fn apps_that_wait_for_each_other_in_a_circle_can_still_be_stopped() {
    let circle =
        |a: &[(&str, Awaited)], b: &[(&str, Awaited)]| vec![depends("a", a), depends("b", b)];
    let mut paper = Paper::new(circle(&[], &[]));
    paper.image_here("a");
    paper.image_here("b");
    paper.rest();
    for entry in paper.ledger.values_mut() {
        let other = if entry.app.name.as_str() == "a" {
            "b"
        } else {
            "a"
        };
        let other = depends(other, &[]).app;
        entry.stop.depends_on = vec![other];
    }
    paper.desired = Some(vec![]);
    assert_eq!(paper.rest(), ["stop", "stop"]);
}

impl Paper {
    fn ledger_of(&self, container: &str) -> &Entry {
        let mut entries = self.ledger.values();
        entries.find(|e| e.container.as_str() == container).unwrap()
    }
}
