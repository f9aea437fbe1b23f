//! Whether containers are well: their probes, and the hook after their start.
//! Only in memory: probe results write nothing to the disk, and a new run of
//! the agent asks anew.
//!
//! ```text
//!   made ──► postStart ──► startup probe ──► liveness and readiness probes
//!                │ fails        │ fails          │ liveness fails
//!                └──────────────┴────────────────┴──► unwell: the plan stops it
//! ```
//!
//! What runs already when the agent starts is taken for as well as it was:
//! an agent's restart makes no app unready. The first answers tell.
//!
//! A container without probes and hooks is not in here and costs nothing. The
//! times of probes are rounded up to [`GRID_MS`], so that many containers wake
//! the device as seldom as one.

use crate::runtime::{ContainerId, Status};
use skerry_wire::ContainerSpec;
use skerry_wire::probe::{Check, Hook, Probe};
use std::collections::BTreeMap;

/// Probes are due at multiples of this, in milliseconds: at most two wakes a
/// second, however many containers there are.
const GRID_MS: u64 = 500;
/// Probes without an answer yet. Each may cost a helper process.
pub const MAX_ASKED: usize = 16;
/// Characters of a failure's text that are kept.
const MAX_WHY_CHARS: usize = 200;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Whether it has come up.
    Startup,
    /// Whether it has to be started anew.
    Liveness,
    /// Whether its users may come.
    Readiness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [ProbeKind; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup probe",
            Self::Liveness => "liveness probe",
            Self::Readiness => "readiness probe",
        }
    }
}

/// A probe to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// In or at which container.
    pub id: ContainerId,
    /// What for.
    pub kind: ProbeKind,
    /// What to do.
    pub check: Check,
    /// Seconds after which no answer is a bad one.
    pub timeout_secs: u32,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Good.
    Good,
    /// Bad, and what was seen.
    Bad(String),
    /// It could not be carried out for a reason of ours: counts as nothing.
    NotAsked,
}

/// What changed with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Same,
    /// It came up, or became ready.
    Better,
    /// It is not ready any more, or cannot become it, and why: once, until it
    /// has been ready again.
    Unready(String),
    /// It has to be stopped, and why.
    Unwell(String),
}

/// A container that has to be stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwell {
    /// Seconds to stop in, when not the pod's.
    pub grace_secs: Option<u32>,
    /// Why, for people.
    pub why: String,
}

/// All containers with probes or hooks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    watched: BTreeMap<ContainerId, Watch>,
}

#[derive(Debug, Clone, PartialEq)]
struct Watch {
    phase: WatchPhase,
    post_start: Option<Box<Hook>>,
    /// By [`ProbeKind`].
    probes: [Option<Probing>; 3],
    unwell: Option<Unwell>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WatchPhase {
    /// Being made.
    Made,
    /// Its hook after the start runs.
    Hook { since_ms: u64 },
    /// Its probes count.
    Probed { since_ms: u64 },
}

#[derive(Debug, Clone, PartialEq)]
struct Probing {
    probe: Box<Probe>,
    due_ms: u64,
    asked: bool,
    /// Answers of one sort in a row, the newest included.
    in_row: u16,
    good_row: bool,
    /// What counts now.
    good: bool,
    /// Taken for good without an answer, because it ran before we did.
    assumed: bool,
    /// What the newest bad answer was, until a good one comes.
    why: String,
    /// That it is not ready was told, and it has not been ready since.
    told: bool,
}

impl Probing {
    fn new(probe: &Probe, assumed: bool) -> Self {
        Self {
            probe: Box::new(probe.clone()),
            due_ms: u64::MAX,
            asked: false,
            in_row: 0,
            good_row: false,
            good: assumed,
            assumed,
            why: String::new(),
            told: false,
        }
    }

    /// Whether this answer, the newest of its sort in a row, decides.
    fn count(&mut self, good: bool) -> bool {
        self.in_row = match self.good_row == good {
            true => self.in_row.saturating_add(1),
            false => 1,
        };
        self.good_row = good;
        let needed = match good {
            true => self.probe.success_threshold,
            false => self.probe.failure_threshold,
        };
        self.in_row >= needed.max(1)
    }
}

fn on_grid(at_ms: u64) -> u64 {
    at_ms.div_ceil(GRID_MS).saturating_mul(GRID_MS)
}

/// When a container's probe is asked first. Containers that are found are
/// spread over the probe's period.
fn first_due_ms(id: &ContainerId, probe: &Probe, since_ms: u64, found: bool) -> u64 {
    if !found {
        let delay_ms = u64::from(probe.initial_delay_secs).saturating_mul(1_000);
        return match delay_ms {
            0 => since_ms,
            delay_ms => on_grid(since_ms.saturating_add(delay_ms)),
        };
    }
    let period_ms = u64::from(probe.period_secs.max(1)).saturating_mul(1_000);
    let sum: u64 = id.as_str().bytes().map(u64::from).sum();
    on_grid(since_ms.saturating_add(sum.saturating_mul(7_919) % period_ms))
}

impl Watch {
    fn new(spec: &ContainerSpec, found: bool) -> Option<Self> {
        let probes = [
            &spec.startup_probe,
            &spec.liveness_probe,
            &spec.readiness_probe,
        ];
        let probes = probes.map(|p| p.as_deref().map(|p| Probing::new(p, found)));
        let post_start = spec.post_start.clone().filter(|_| !found);
        let idle = post_start.is_none() && probes.iter().all(Option::is_none);
        (!idle).then_some(Self {
            phase: WatchPhase::Made,
            post_start,
            probes,
            unwell: None,
        })
    }

    fn probe(&self, kind: ProbeKind) -> Option<&Probing> {
        self.probes[kind as usize].as_ref()
    }

    /// Whether it has come up by an answer, so that the other probes count.
    fn has_come_up(&self) -> bool {
        let startup = self.probe(ProbeKind::Startup);
        matches!(self.phase, WatchPhase::Probed { .. })
            && startup.is_none_or(|p| p.good && !p.assumed)
    }

    /// Begins the probes that count from now on.
    fn begin_probes(&mut self, id: &ContainerId, since_ms: u64, now_ms: u64, found: bool) {
        let come_up = self.has_come_up();
        for kind in ProbeKind::ALL {
            let counts = come_up != (kind == ProbeKind::Startup);
            if let Some(probing) = &mut self.probes[kind as usize] {
                probing.due_ms = match counts {
                    true => first_due_ms(id, &probing.probe, since_ms, found).max(now_ms),
                    false => u64::MAX,
                };
            }
        }
    }

    fn due_ms(&self) -> Option<u64> {
        let waiting = self.probes.iter().flatten().filter(|p| !p.asked);
        let due = waiting.map(|p| p.due_ms).min();
        due.filter(|at| *at < u64::MAX && self.unwell.is_none())
    }

    fn started(&self) -> bool {
        let startup = self.probe(ProbeKind::Startup);
        matches!(self.phase, WatchPhase::Probed { .. }) && startup.is_none_or(|p| p.good)
    }

    fn ready(&self) -> bool {
        let readiness = self.probe(ProbeKind::Readiness);
        self.started() && self.unwell.is_none() && readiness.is_none_or(|p| p.good)
    }
}

impl Health {
    /// A container of this kind is being made.
    pub fn made(&mut self, id: &ContainerId, spec: &ContainerSpec) {
        if let Some(watch) = Watch::new(spec, false) {
            self.watched.insert(id.clone(), watch);
        }
    }

    /// It runs now; the hook that is due.
    pub fn runs(&mut self, now_ms: u64, id: &ContainerId) -> Option<Box<Hook>> {
        let watch = self.watched.get_mut(id)?;
        if watch.phase != WatchPhase::Made {
            return None;
        }
        let hook = watch.post_start.clone();
        if hook.is_some() {
            watch.phase = WatchPhase::Hook { since_ms: now_ms };
        } else {
            watch.phase = WatchPhase::Probed { since_ms: now_ms };
            watch.begin_probes(id, now_ms, now_ms, false);
        }
        hook
    }

    /// Its hook after the start is done; true if that was waited for.
    pub fn hooked(&mut self, now_ms: u64, id: &ContainerId, result: Result<(), String>) -> bool {
        let Some(watch) = self.watched.get_mut(id) else {
            return false;
        };
        let WatchPhase::Hook { since_ms } = watch.phase else {
            return false;
        };
        match result {
            Ok(()) => {
                watch.phase = WatchPhase::Probed { since_ms };
                watch.begin_probes(id, since_ms, now_ms, false);
            }
            Err(why) => {
                let why = format!("its postStart hook failed: {}", cut(&why));
                watch.unwell = Some(Unwell {
                    grace_secs: None,
                    why,
                });
            }
        }
        true
    }

    /// A container of this kind runs that we did not make in this run.
    pub fn found(&mut self, now_ms: u64, id: &ContainerId, spec: &ContainerSpec) {
        if self.watched.contains_key(id) {
            return;
        }
        if let Some(mut watch) = Watch::new(spec, true) {
            watch.phase = WatchPhase::Probed { since_ms: now_ms };
            watch.begin_probes(id, now_ms, now_ms, true);
            self.watched.insert(id.clone(), watch);
        }
    }

    /// It does not run any more.
    pub fn gone(&mut self, id: &ContainerId) {
        self.watched.remove(id);
    }

    /// Only these run.
    pub fn retain(&mut self, containers: &BTreeMap<ContainerId, Status>) {
        let runs = |id: &ContainerId| matches!(containers.get(id), Some(Status::Running { .. }));
        self.watched.retain(|id, _| runs(id));
    }

    /// The runtime was lost: what was asked is answered by nobody, nor does
    /// anybody say any more that one was made or its hook done. Those are found
    /// if they run.
    pub fn unanswered(&mut self) {
        self.watched
            .retain(|_, watch| matches!(watch.phase, WatchPhase::Probed { .. }));
        let probes = self.watched.values_mut().flat_map(|w| &mut w.probes);
        probes.flatten().for_each(|p| p.asked = false);
    }

    /// Probes to be carried out now, at most [`MAX_ASKED`] at a time.
    pub fn due(&mut self, now_ms: u64) -> Vec<Question> {
        let asked = |w: &Watch| w.probes.iter().flatten().filter(|p| p.asked).count();
        let mut room = MAX_ASKED.saturating_sub(self.watched.values().map(asked).sum());
        let mut questions = Vec::new();
        for (id, watch) in &mut self.watched {
            if watch.unwell.is_some() {
                continue;
            }
            for kind in ProbeKind::ALL {
                let Some(probing) = &mut watch.probes[kind as usize] else {
                    continue;
                };
                if room == 0 || probing.asked || now_ms < probing.due_ms {
                    continue;
                }
                room -= 1;
                probing.asked = true;
                questions.push(Question {
                    id: id.clone(),
                    kind,
                    check: probing.probe.check.clone(),
                    timeout_secs: probing.probe.timeout_secs.max(1),
                });
            }
        }
        questions
    }

    /// A probe was answered.
    pub fn answered(
        &mut self,
        now_ms: u64,
        id: &ContainerId,
        kind: ProbeKind,
        answer: Answer,
    ) -> Verdict {
        let Some(watch) = self.watched.get_mut(id) else {
            return Verdict::Same;
        };
        let (ready, started) = (watch.ready(), watch.started());
        let Some(probing) = &mut watch.probes[kind as usize] else {
            return Verdict::Same;
        };
        if !std::mem::take(&mut probing.asked) {
            return Verdict::Same;
        }
        let period_ms = u64::from(probing.probe.period_secs.max(1)).saturating_mul(1_000);
        probing.due_ms = on_grid(probing.due_ms.saturating_add(period_ms).max(now_ms));
        let (good, why) = match answer {
            Answer::NotAsked => return Verdict::Same,
            Answer::Good => (true, String::new()),
            Answer::Bad(why) => (false, cut(&why)),
        };
        let decided = probing.count(good);
        probing.why.clone_from(&why);
        let mut untold = false;
        let times = probing.in_row;
        let grace_secs = probing.probe.termination_grace_secs;
        match (kind, good, decided) {
            // It may still be coming up: that it was taken for good ends.
            (ProbeKind::Startup, false, false) if probing.assumed => {
                probing.good = false;
                probing.assumed = false;
            }
            (_, _, false) => {}
            (ProbeKind::Startup, true, true) => {
                probing.good = true;
                probing.assumed = false;
                // Once is enough: it is not asked again.
                if let WatchPhase::Probed { since_ms } = watch.phase {
                    watch.begin_probes(id, since_ms, now_ms, false);
                }
            }
            (ProbeKind::Liveness | ProbeKind::Readiness, true, true) => {
                probing.good = true;
                probing.assumed = false;
                probing.told = false;
            }
            (ProbeKind::Readiness, false, true) => {
                probing.good = false;
                probing.assumed = false;
                // What never becomes ready has a reason, too.
                untold = !std::mem::replace(&mut probing.told, true);
            }
            (ProbeKind::Startup | ProbeKind::Liveness, false, true) => {
                let why = format!("its {} failed {times} times: {why}", kind.name());
                watch.unwell = Some(Unwell {
                    grace_secs,
                    why: why.clone(),
                });
                return Verdict::Unwell(why);
            }
        }
        match (ready, watch.ready()) {
            (false, true) => Verdict::Better,
            (_, false) if untold => Verdict::Unready(format!("its {} failed: {why}", kind.name())),
            _ if !started && watch.started() => Verdict::Better,
            _ => Verdict::Same,
        }
    }

    /// When [`Health::due`] has something, in milliseconds since boot. While
    /// as much is asked as may be, an answer comes first.
    pub fn wake_at_ms(&self) -> Option<u64> {
        let asked = |w: &Watch| w.probes.iter().flatten().filter(|p| p.asked).count();
        if self.watched.values().map(asked).sum::<usize>() >= MAX_ASKED {
            return None;
        }
        self.watched.values().filter_map(Watch::due_ms).min()
    }

    /// Whether a container that runs has come up.
    pub fn started(&self, id: &ContainerId) -> bool {
        self.watched.get(id).is_none_or(Watch::started)
    }

    /// Whether a container that runs is ready for its users.
    pub fn ready(&self, id: &ContainerId) -> bool {
        self.watched.get(id).is_none_or(Watch::ready)
    }

    /// What keeps a container from being ready, as its newest answers say.
    pub fn why_unready(&self, id: &ContainerId) -> Option<String> {
        let watch = self.watched.get(id).filter(|watch| !watch.ready())?;
        let kind = match watch.started() {
            true => ProbeKind::Readiness,
            false => ProbeKind::Startup,
        };
        let probing = watch.probe(kind).filter(|one| !one.why.is_empty())?;
        Some(format!("its {} failed: {}", kind.name(), probing.why))
    }

    /// Whether what is known of its readiness was answered in this run.
    pub fn is_asked(&self, id: &ContainerId) -> bool {
        let counts = [ProbeKind::Startup, ProbeKind::Readiness];
        let asked = |watch: &Watch| {
            let mut probes = counts.iter().filter_map(|kind| watch.probe(*kind));
            !probes.any(|probing| probing.assumed)
        };
        self.watched.get(id).is_none_or(asked)
    }

    /// Why a container has to be stopped, if so.
    pub fn unwell(&self, id: &ContainerId) -> Option<&Unwell> {
        self.watched.get(id)?.unwell.as_ref()
    }
}

fn cut(text: &str) -> String {
    text.trim().chars().take(MAX_WHY_CHARS).collect()
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
