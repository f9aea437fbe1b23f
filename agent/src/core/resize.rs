//! Limits that change while their container runs.
//!
//! A revision that differs from the one in force only in what the kernel can
//! change in place is **carried**: the device goes on under the name of the
//! running revision, whose containers are given the new limits, and the hub is
//! told of the new one once all of them have them. Nothing else on the device
//! knows: to the plan, no revision changed.
//!
//! A limit that the kernel refuses (memory below what is in use) leaves the
//! old one; it is tried again, and the reason is told.

use super::event::{Effect, Now};
use super::handle::Core;
use super::ledger::Phase;
use super::name::InstanceName;
use super::record::Change;
use super::replace::Stage;
use crate::runtime::ContainerId;
use serde::{Deserialize, Serialize};
use skerry_wire::pod::{PodSpec, Resources};
use skerry_wire::policy::Work;
use skerry_wire::report::{AppStatus, AppUpdate, AppUpdateState, Severity};
use skerry_wire::{AppRef, Assignment, RevisionId};
use std::collections::BTreeMap;

/// The wait before refused limits are tried again, in milliseconds; it
/// doubles.
const RESIZE_AGAIN_MS: u64 = 10_000;
/// The longest such wait.
const RESIZE_CAP_MS: u64 = 5 * 60 * 1_000;

/// A revision that runs under the name of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Under whose name.
    pub running: RevisionId,
    /// What the hub calls it.
    pub shown: RevisionId,
}

/// How the newest limits of a container stand. Never stored: after a start of
/// the agent they are set once more, which changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    resources: Resources,
    state: SizeState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SizeState {
    Asked {
        tries: u32,
    },
    InForce,
    Refused {
        why: String,
        tries: u32,
        again_ms: u64,
    },
}

/// Whether two pods differ at most in what the kernel changes in place.
fn differ_in_size_only<Image: Clone + PartialEq>(a: &PodSpec<Image>, b: &PodSpec<Image>) -> bool {
    let shape = |pod: &PodSpec<Image>| {
        let mut pod = pod.clone();
        let inits = pod.init_containers.iter_mut();
        for container in inits.chain(&mut pod.containers) {
            let kept = std::mem::take(&mut container.resources);
            // Huge pages that a program holds cannot be taken back, and named
            // resources bring devices.
            container.resources = Resources {
                huge_pages: kept.huge_pages,
                extended: kept.extended,
                ..Resources::default()
            };
        }
        pod
    };
    shape(a) == shape(b)
}

impl Core {
    /// Gives revisions that only change sizes the name of the one that runs.
    pub(super) fn carry(&mut self, mut new: Vec<Assignment>) -> Vec<Assignment> {
        let current: BTreeMap<&AppRef, &Assignment> = self
            .desired
            .iter()
            .flat_map(|d| &d.assignments)
            .map(|assignment| (&assignment.app, assignment))
            .collect();
        let mut carried = BTreeMap::new();
        for assignment in &mut new {
            let app = &assignment.app;
            let Some(old) = current.get(app) else {
                continue;
            };
            let before = self.carried.get(app).copied();
            let shown = before.map_or(old.revision, |carried| carried.shown);
            let begun = || {
                let mut entries = self.ledger.values();
                entries.any(|e| e.app == *app && e.revision == old.revision)
            };
            let same = assignment.revision == shown;
            // What was given up, or is not to begin yet, is another revision.
            let settled = match self.replacing.get(app).map(|r| &r.stage) {
                None | Some(Stage::Trial { .. }) => true,
                Some(Stage::Waiting | Stage::Held { .. } | Stage::RolledBack { .. }) => false,
            };
            // A job's pods have names of their own.
            let fits = settled
                && assignment.policy.work == Work::Service
                && old.policy == assignment.policy
                // The very same pod by another name shall begin anew.
                && old.pod != assignment.pod
                && differ_in_size_only(&old.pod, &assignment.pod)
                && begun();
            if same && before.is_none() || !same && !fits {
                continue;
            }
            let is = Carried {
                running: old.revision,
                shown: assignment.revision,
            };
            carried.insert(app.clone(), is);
            assignment.revision = old.revision;
        }
        let apps = self.carried.keys().chain(carried.keys());
        let changed = apps.filter(|app| self.carried.get(*app) != carried.get(*app));
        let changed: Vec<Change> = changed
            .map(|app| Change::Carried(app.clone(), carried.get(app).copied()))
            .collect();
        self.changes.extend(changed);
        self.carried = carried;
        new
    }

    /// The same after a start of the agent.
    pub(super) fn carry_on(&self, mut stored: Vec<Assignment>) -> Vec<Assignment> {
        for assignment in &mut stored {
            if let Some(carried) = self.carried.get(&assignment.app)
                && carried.shown == assignment.revision
            {
                assignment.revision = carried.running;
            }
        }
        stored
    }

    /// Asks for the limits that are not in force yet, as far as it is time.
    pub(super) fn ask_sizes(&mut self, now: Now) {
        self.resize_at_ms = None;
        let Some(containers) = &self.observed.containers else {
            self.sizes.clear();
            return;
        };
        self.sizes.retain(|id, _| containers.contains_key(id));
        for (id, wanted) in self.sized() {
            let state = match self.sizes.get(&id) {
                Some(size) if size.resources == wanted => Some(&size.state),
                // Its outcome is that of the older ones.
                Some(size) if matches!(size.state, SizeState::Asked { .. }) => continue,
                Some(_) | None => None,
            };
            match state {
                Some(SizeState::Asked { .. } | SizeState::InForce) => {}
                Some(SizeState::Refused { again_ms, .. }) if now.boot_ms < *again_ms => {
                    let at = self.resize_at_ms.map_or(*again_ms, |at| at.min(*again_ms));
                    self.resize_at_ms = Some(at);
                }
                Some(SizeState::Refused { .. }) | None => {
                    self.effects.push(Effect::Resize {
                        id: id.clone(),
                        resources: Box::new(wanted.clone()),
                    });
                    let tries = match state {
                        Some(SizeState::Refused { tries, .. }) => *tries,
                        _ => 0,
                    };
                    let asked = Size {
                        resources: wanted,
                        state: SizeState::Asked { tries },
                    };
                    self.sizes.insert(id, asked);
                }
            }
        }
    }

    /// The containers of carried revisions that run, and their limits.
    fn sized(&self) -> Vec<(ContainerId, Resources)> {
        let mut all = Vec::new();
        for assignment in self.assignments() {
            if self.carried.contains_key(&assignment.app) {
                all.extend(self.sized_of(assignment));
            }
        }
        all
    }

    fn sized_of(&self, assignment: &Assignment) -> Vec<(ContainerId, Resources)> {
        let containers = assignment.pod.all_containers();
        let running = containers.filter_map(|container| {
            let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
            let entry = self.ledger.get(&name)?;
            let id = name.incarnation(entry.incarnation);
            let runs = matches!(entry.phase, Phase::Running { .. }) && self.observed.runs(&id);
            (runs && !self.observed.busy.contains_key(&id))
                .then(|| (id, container.resources.clone()))
        });
        running.collect()
    }

    /// What became of new limits.
    pub(super) fn resized(&mut self, now: Now, id: ContainerId, result: Result<(), String>) {
        let Some(size) = self.sizes.get_mut(&id) else {
            return;
        };
        let SizeState::Asked { tries } = size.state else {
            return;
        };
        let told = match result {
            Ok(()) => {
                size.state = SizeState::InForce;
                (Severity::Normal, "Resized", "has its new limits".to_owned())
            }
            Err(why) => {
                let wait_ms = RESIZE_AGAIN_MS
                    .saturating_mul(1 << tries.min(16))
                    .min(RESIZE_CAP_MS);
                let text = format!("keeps its old limits, and is tried again: {why}");
                size.state = SizeState::Refused {
                    why,
                    tries: tries.saturating_add(1),
                    again_ms: now.boot_ms.saturating_add(wait_ms),
                };
                (Severity::Warning, "ResizeFailed", text)
            }
        };
        let entry = self.entry_of(&id);
        let entry = entry.map(|entry| (entry.app.clone(), entry.container.clone()));
        if let Some((app, container)) = entry {
            let (severity, reason, text) = told;
            let text = format!("container {container} {text}");
            self.note(now, severity, reason, Some(&app), &text);
        }
    }

    /// Puts the hub's names of revisions in, for those whose limits are in
    /// force.
    pub(super) fn show_carried(&self, statuses: &mut [AppStatus]) {
        for status in statuses {
            let Some(carried) = self.carried.get(&status.app) else {
                continue;
            };
            if status.revision != carried.running {
                continue;
            }
            if let Some(update) = &mut status.update
                && update.to == carried.running
            {
                update.to = carried.shown;
            }
            let assignment = self.assignments().iter().find(|a| a.app == status.app);
            let mut refused = None;
            let mut in_force = true;
            for (id, wanted) in assignment.map_or(Vec::new(), |a| self.sized_of(a)) {
                let size = self.sizes.get(&id).filter(|size| size.resources == wanted);
                in_force &= size.is_some_and(|size| size.state == SizeState::InForce);
                if let Some(SizeState::Refused { why, .. }) = size.map(|size| &size.state) {
                    refused = Some(why.clone());
                }
            }
            match in_force {
                true => status.revision = carried.shown,
                false => {
                    let held = refused.filter(|_| status.update.is_none());
                    if let Some(reason) = held {
                        status.update = Some(AppUpdate {
                            to: carried.shown,
                            state: AppUpdateState::Held { reason },
                        });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_wire::ContainerSpec;

    #[test]
    fn only_sizes_are_changed_in_place() {
        let pod = |change: &dyn Fn(&mut ContainerSpec<u8>)| {
            let mut container = ContainerSpec::new("web".parse().unwrap(), 1);
            change(&mut container);
            PodSpec::new(vec![container])
        };
        let plain = pod(&|_| {});
        for in_place in [
            pod(&|c| c.resources.cpu_millis = Some(500)),
            pod(&|c| c.resources.memory_bytes = Some(1 << 26)),
            pod(&|c| c.resources.pids = Some(9)),
            pod(&|c| c.resources.io_weight = Some(50)),
            pod(&|c| c.resources.cpus = Some("0".into())),
            pod(&|c| c.resources.memory_request_bytes = Some(1)),
        ] {
            assert!(differ_in_size_only(&plain, &in_place), "{in_place:?}");
        }
        let extended = skerry_wire::pod::ExtendedResource {
            name: "example.com/camera".into(),
            count: 1,
        };
        let pages = skerry_wire::pod::HugePages {
            page_bytes: 2 << 20,
            bytes: 2 << 20,
        };
        for anew in [
            pod(&|c| c.image = 2),
            pod(&|c| c.args = vec!["x".into()]),
            pod(&|c| c.resources.extended = vec![extended.clone()]),
            pod(&|c| c.resources.huge_pages = vec![pages]),
        ] {
            assert!(!differ_in_size_only(&plain, &anew), "{anew:?}");
        }
    }
}
