//! What became of what the machine was told: containers and images.

use super::event::{Effect, Now};
use super::fetch::News;
use super::handle::Core;
use super::ledger::Phase;
use super::name::InstanceName;
use super::observed::ImageState;
use super::record::Change;
use super::report::Urgency;
use crate::runtime::{self, ContainerId, Status};
use skerry_wire::report::Severity;

/// The same image is not examined again within so many milliseconds: each time
/// every name in it is looked at.
const EXAMINE_AGAIN_MS: u64 = 10 * 60 * 1_000;
/// What a shell and a dynamic linker end with when they do not find or cannot
/// read what they shall run (POSIX, "Exit Status for Commands").
const NOT_RUNNABLE: [i32; 2] = [126, 127];
/// SIGBUS: what a program gets whose own file cannot be read any more.
const BUS_ERROR: i32 = 7;

impl Core {
    /// A container may have ended because files of its image are gone.
    pub(super) fn suspect_image(&mut self, now: Now, id: &ContainerId, exit: &runtime::Exit) {
        let suspect = match exit.status {
            runtime::ExitStatus::Code(code) => NOT_RUNNABLE.contains(&code),
            runtime::ExitStatus::Signal(signal) => signal == BUS_ERROR,
        };
        let name = InstanceName::of(id).map(|(name, _)| name);
        let Some(entry) = name
            .and_then(|name| self.ledger.get(&name))
            .filter(|_| suspect)
        else {
            return;
        };
        let all = self.assignments().iter().chain(self.previous.values());
        let images: Vec<_> = all
            .filter(|assignment| assignment.app == entry.app)
            .flat_map(|assignment| assignment.pod.all_containers())
            .filter(|container| container.name == entry.container)
            .map(|container| container.image.clone())
            .collect();
        for image in images {
            let last = self.examined.get(&image.manifest);
            let recent = |at: &u64| now.boot_ms < at.saturating_add(EXAMINE_AGAIN_MS);
            if !last.is_some_and(recent) && self.observed.has_image(&image.manifest) {
                self.examined.insert(image.manifest, now.boot_ms);
                self.effects.push(Effect::ExamineImage(image));
            }
        }
    }

    pub(super) fn created(&mut self, now: Now, id: ContainerId, result: Result<i32, String>) {
        self.observed.busy.remove(&id);
        self.pace.changed(now.boot_ms, Urgency::Soon);
        match result {
            Ok(pid) => {
                let started_at = runtime::Timestamp(now.wall.0.saturating_mul(1_000_000));
                // Its end may have come first.
                if let Some(containers) = &mut self.observed.containers {
                    containers
                        .entry(id.clone())
                        .or_insert(Status::Running { pid, started_at });
                }
                if let Some(entry) = self.entry_of(&id) {
                    let (app, container) = (entry.app.clone(), &entry.container);
                    let text = format!(
                        "container {container} of revision {} is started",
                        entry.revision
                    );
                    self.note(now, Severity::Normal, "Started", Some(&app), &text);
                }
                self.begin_health(now, &id);
            }
            Err(reason) => {
                self.observed.health.gone(&id);
                let Some((name, _)) = InstanceName::of(&id) else {
                    return;
                };
                let Some(entry) = self.ledger.get_mut(&name) else {
                    return;
                };
                if name.incarnation(entry.incarnation) != id {
                    return;
                }
                entry.create_failed(now.boot_ms, &reason);
                let (app, container) = (entry.app.clone(), entry.container.clone());
                let change = Change::Ledger(name, Some(entry.clone()));
                self.changes.push(change);
                let text = format!("container {container} cannot be started: {reason}");
                self.note(now, Severity::Warning, "CreateFailed", Some(&app), &text);
            }
        }
    }

    pub(super) fn tell_exit(&mut self, now: Now, id: &ContainerId, exit: &runtime::Exit) {
        let Some((name, _)) = InstanceName::of(id) else {
            return;
        };
        let Some(entry) = self.ledger.get(&name) else {
            return;
        };
        let (app, container) = (entry.app.clone(), entry.container.clone());
        let stopping = matches!(entry.phase, Phase::Stopping { .. });
        let how = match exit.status {
            runtime::ExitStatus::Code(code) => format!("ended with code {code}"),
            runtime::ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
        };
        let good = stopping || exit.status == runtime::ExitStatus::Code(0);
        let (severity, reason) = match (exit.oom_killed, good) {
            (true, _) => (Severity::Warning, "OOMKilled"),
            (false, true) => (Severity::Normal, "Ended"),
            (false, false) => (Severity::Warning, "Ended"),
        };
        let text = match exit.oom_killed {
            true => format!("container {container} {}", self.killed_at(&name)),
            false => format!("container {container} {how}"),
        };
        self.note(now, severity, reason, Some(&app), &text);
    }

    /// That a container used up its memory, and what it might have used.
    fn killed_at(&self, name: &InstanceName) -> String {
        let all = self.assignments().iter().chain(self.previous.values());
        let limit = all
            .flat_map(|a| a.pod.all_containers().map(move |c| (a, c)))
            .find(|(a, c)| InstanceName::new(&a.app, a.revision, &c.name) == *name)
            .and_then(|(_, container)| container.resources.memory_bytes);
        match limit {
            Some(bytes) => format!(
                "was killed for want of memory: its limit is {bytes} bytes; raise resources.limits.memory, or let it use less"
            ),
            None => "was killed for want of memory: it has no limit of its own, all apps of this device together used up theirs; set resources.limits.memory where it leaks".into(),
        }
    }

    pub(super) fn image_news(&mut self, now: Now, news: News) {
        for (manifest, state) in news {
            let urgency = match &state {
                ImageState::Fetching { .. } => Urgency::Slow,
                ImageState::Ready | ImageState::Failed { .. } => Urgency::Soon,
            };
            if let ImageState::Failed { reason, .. } = &state {
                let image = self
                    .assignments()
                    .iter()
                    .flat_map(|a| a.pod.all_containers())
                    .find(|c| c.image.manifest == manifest)
                    .map_or(String::new(), |c| c.image.reference.clone());
                let text = format!("image {image} cannot be had: {reason}");
                self.note(now, Severity::Warning, "ImageUnavailable", None, &text);
            }
            self.observed.images.insert(manifest, state);
            self.pace.changed(now.boot_ms, urgency);
        }
    }
}
