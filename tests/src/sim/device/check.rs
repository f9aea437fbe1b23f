//! The laws of a device.

use super::Wall;
use crate::sim::Mutant;
use crate::sim::keeper::State;
use crate::sim::laws::{Lawful, broken};
use crate::sim::world::World;
use skerry_agent::core::ledger::{Phase, StopCause};
use skerry_agent::core::replace::Stage;
use skerry_agent::core::work::WorkRecord;
use skerry_agent::core::{Change, Configs, CreateContainer};
use skerry_agent::runtime::ContainerId;
use skerry_wire::{AppRef, Assignment, Config, Digest, Role};

impl World {
    /// No time of a CronJob is started twice, and none by a clock that nobody
    /// believes; no job goes on beyond its completions.
    fn check_work(&mut self, device: usize, app: &AppRef, record: Option<&WorkRecord>) -> Lawful {
        let host = &mut self.devices[device];
        let Some(record) = record else {
            host.started.retain(|(other, _), _| other != app);
            return Ok(());
        };
        let before = host.records.works.get(app).map_or(0, |old| old.count);
        for run in &record.runs {
            let Some(due) = run.due else {
                continue;
            };
            if run.number > before && matches!(host.wall, Wall::Since1970) {
                return broken(
                    "no CronJob goes by a wrong clock",
                    format!("{app} at {due:?}"),
                );
            }
            let key = (app.clone(), due);
            if *host.started.entry(key).or_insert(run.number) != run.number {
                return broken("no time is started twice", format!("{app} at {due:?}"));
            }
        }
        for run in &record.runs {
            *self.stats.counts.entry("job steps").or_default() += 1;
            if run.is_over() {
                *self.stats.counts.entry("job ends").or_default() += 1;
            }
        }
        Ok(())
    }

    pub(super) fn device_commit(&mut self, device: usize, changes: Vec<Change>) -> Lawful {
        // In the middle of a commit the disk has all of it or nothing.
        if let Some((0, end)) = self.devices[device].doom
            && self.chance.one_in(2)
        {
            self.agent_end(device, end);
            return Ok(());
        }
        self.tell(|| format!("{device} commits {}", changes.len()));
        let key = *self.devices[device].key.public().as_bytes();
        let keeps = self.has_mutant(Mutant::DeviceCommitNotSynced);
        let host = &mut self.devices[device];
        host.commits += 1;
        if keeps {
            host.before = Some(host.records.clone());
        }
        for change in changes {
            let host = &self.devices[device];
            if let Change::Desired(new, _) = &change {
                if new.generation <= host.generation() {
                    return broken(
                        "desired state only moves forward",
                        format!("{} after {}", new.generation, host.generation()),
                    );
                }
                if self.hub.made(&key, new.generation) != Some(Digest::of(&new.bytes)) {
                    return broken(
                        "nothing forged is taken",
                        format!("generation {} was never said so", new.generation),
                    );
                }
                *self.stats.counts.entry("desired taken").or_default() += 1;
            }
            if let Change::Work(app, record) = &change {
                self.check_work(device, app, record.as_ref())?;
            }
            if let Change::Replacing(_, record) = &change {
                let what = match record.as_ref().map(|r| &r.stage) {
                    Some(Stage::RolledBack { .. }) => "rolled back",
                    Some(Stage::Trial { .. }) => "on trial",
                    Some(Stage::Waiting | Stage::Held { .. }) => "to be changed",
                    None => "proved",
                };
                *self.stats.counts.entry(what).or_default() += 1;
            }
            if let Change::Line { broker, tls_pin } = &change {
                self.check_line(device, (broker.clone(), *tls_pin))?;
            }
            if let Change::Update(subject, record) = &change {
                self.check_update(device, *subject, record)?;
            }
            self.devices[device].records.apply(change);
        }
        let host = &mut self.devices[device];
        host.read_desired();
        Ok(())
    }

    pub(super) fn check_create(&self, device: usize, wanted: &CreateContainer) -> Lawful {
        let host = &self.devices[device];
        let ledger = host.records.ledger.values();
        let mut newest = ledger.filter(|e| e.name().incarnation(e.incarnation) == wanted.id);
        if !newest.any(|e| matches!(e.phase, Phase::Running { .. })) {
            return broken(
                "commit before act",
                format!("{} is made, the ledger does not know it", wanted.id),
            );
        }
        self.check_configs(device, &wanted.configs)?;
        let app = &wanted.assignment.app;
        let job = host.has_pod(app, wanted.assignment.revision);
        if !job && !host.shall_run().contains(&&wanted.assignment) {
            return broken(
                "nothing runs that was not desired",
                format!("{} of {app}", wanted.id),
            );
        }
        let status = host.images.status(&wanted.spec().image, &self.catalog);
        if status != skerry_agent::core::ImageStatus::Ready {
            return broken("nothing starts without its image", format!("{status:?}"));
        }
        Ok(())
    }

    /// Files are never of another state than the one on the disk.
    pub(super) fn check_configs(&self, device: usize, configs: &Configs) -> Lawful {
        let host = &self.devices[device];
        let stored =
            |config: &Config| host.configs.contains(config) || host.records.kept.contains(config);
        if configs.generation == host.generation() && configs.all.iter().all(stored) {
            return Ok(());
        }
        broken(
            "a config is committed before it is written",
            format!("{configs:?}, {} is committed", host.generation()),
        )
    }

    /// What is desired and runs is left alone.
    pub(super) fn check_stop(&mut self, device: usize, id: &ContainerId, does: &str) -> Lawful {
        self.tell(|| format!("{device} {does} {id}"));
        let host = &self.devices[device];
        let Some(one) = host.keeper.containers.get(id) else {
            return Ok(());
        };
        let runs = match one.state {
            State::Running { .. } | State::Starting => true,
            State::Exited(_) | State::Lost => false,
        };
        if !runs || one.signalled {
            return Ok(());
        }
        let wanted = |a: &Assignment| a.app == one.app && a.revision == one.revision;
        let mut ledger = host.records.ledger.values();
        let entry = ledger.find(|e| e.name().incarnation(e.incarnation) == *id);
        let reason = match entry.map(|e| &e.phase) {
            Some(Phase::Stopping { cause, .. }) => match cause {
                StopCause::Unwell => host.keeper.sick.contains(id),
                StopCause::Finished => one.role == Role::Sidecar,
                StopCause::Leaving => false,
            },
            _ => false,
        };
        // Of a container that a lost ledger knew, nobody knows its pod.
        if does != "removes" && entry.is_some() {
            host.keeper.check_stop_order(id)?;
        }
        if reason {
            return Ok(());
        }
        if host.shall_run().iter().any(|a| wanted(a)) {
            return broken(
                "a running app is never stopped without a reason",
                format!("device {device} {does} {id}, which is desired"),
            );
        }
        Ok(())
    }
}
