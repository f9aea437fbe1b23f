//! The laws of the plan, by table and at random.

use super::*;
use crate::core::observed::ImageState;
use crate::runtime::{Exit, ExitStatus as RuntimeExit, Timestamp};
use proptest::prelude::*;
use skerry_wire::{ContainerSpec, Digest, PodSpec};
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
        let wanted = Wanted {
            assignments: self.desired.as_deref(),
            previous: &self.previous,
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
                if let Action::DropPrevious { app } = &action {
                    self.previous.remove(app);
                }
                all.push(action);
            }
        }
        panic!("planning does not come to rest: {all:?}");
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
        Action::DropPrevious { .. } => "drop previous",
    };
    actions.iter().map(kind).collect()
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
    paper.previous.insert(old[0].app.clone(), old[0].clone());
    assert_eq!(kinds(&paper.settle()), ["fetch"]);
    // Meanwhile the old one is kept alive.
    paper.all_end();
    assert_eq!(kinds(&paper.settle()), ["settle"]);
    paper.runtime_works();
    paper.now_ms = 2_000;
    assert_eq!(kinds(&paper.settle()), ["create"]);
    paper.runtime_works();
    paper.image_here("2");
    assert_eq!(kinds(&paper.settle()), ["drop previous", "stop"]);
    paper.all_end();
    assert_eq!(kinds(&paper.settle()), ["settle"]);
    paper.runtime_works();
    assert_eq!(kinds(&paper.settle()), ["forget", "create"]);
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

#[derive(Debug, Clone)]
enum Happening {
    Desire(Vec<(u8, u8)>),
    Image(u8),
    RuntimeWorks,
    End(u8),
    Lose(u8),
    Later(u16),
    LedgerLost,
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
                    paper.desired = Some(new);
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
                }
            }
            let before = paper.clone();
            for action in paper.settle() {
                if let Action::FetchImage(image) = &action {
                    prop_assert!(!before.observed.has_image(&image.manifest));
                }
                if let Action::Create { entry, assignment, container } = &action {
                    prop_assert!(paper.desired.as_ref().unwrap().iter().any(|a| a.app == entry.app));
                    let image = &assignment.pod.container(*container).unwrap().image;
                    prop_assert!(before.observed.has_image(&image.manifest));
                }
            }
            // Planning again plans nothing.
            prop_assert_eq!(paper.plan().actions, vec![]);
            // Never two of one instance, nor two revisions of one app.
            let alive = paper.observed.containers.as_ref().unwrap().iter()
                .filter(|(_, status)| matches!(status, Status::Running { .. }))
                .map(|(id, _)| id.clone())
                .chain(paper.observed.busy.iter().filter(|(_, op)| **op == Operation::Create).map(|(id, _)| id.clone()));
            let mut apps = BTreeSet::new();
            for id in alive {
                // app<n>-main-<digest>.<number>
                let app = id.as_str().split('-').next().unwrap().to_string();
                prop_assert!(apps.insert(app), "two of one app: {:?}", paper);
            }
        }
        // Left alone, it comes to what is desired.
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
