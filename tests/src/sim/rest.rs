//! The trouble is over: everything comes to rest as it shall be, and stays so.

use super::PATIENCE_MS;
use super::catalog::Program;
use super::device::DeviceHost;
use super::keeper::State;
use super::laws::{Lawful, broken};
use super::world::World;
use skerry_agent::core::Core;
use skerry_agent::core::ledger::Phase;
use skerry_agent::core::name::InstanceName;
use skerry_agent::core::replace::{self, Stage, standing};
use skerry_agent::core::work::RunPhase;
use skerry_hub::core::{Connection, Fleet, Standing};
use skerry_wire::policy::Work;
use skerry_wire::report::{ContainerState, JobOutcome};
use skerry_wire::{Assignment, RestartPolicy, RevisionId, Role};
use std::collections::BTreeSet;

/// How often it is looked whether all is at rest.
const LOOK_MS: u64 = 5_000;
/// How long it must then be silent.
const SILENCE_MS: u64 = 120_000;

impl World {
    pub(super) fn come_to_rest(&mut self) -> Lawful {
        self.calm = true;
        self.tell(|| "the trouble is over".into());
        self.broker.up = true;
        self.hub.doom = None;
        for host in &mut self.devices {
            host.doom = None;
            host.disk_full = 0;
        }
        let end_ms = self.now_ms + PATIENCE_MS;
        loop {
            self.approve_all();
            self.run_until(self.now_ms + LOOK_MS)?;
            match self.unrest() {
                None => break,
                Some(why) if self.now_ms >= end_ms => {
                    return broken("everything comes to rest", why);
                }
                Some(_) => {}
            }
        }
        let rested_ms = self.now_ms + PATIENCE_MS - end_ms;
        self.tell(|| format!("at rest after {rested_ms} ms"));
        self.stay_at_rest()
    }

    /// Nothing is said and nothing is written while nothing happens.
    fn stay_at_rest(&mut self) -> Lawful {
        if self.devices.iter().any(ends_by_itself)
            || !self.devices.iter().all(|h| self.is_member(h))
        {
            return Ok(());
        }
        // Reports that were on their way are still answered.
        self.run_until(self.now_ms + LOOK_MS)?;
        let before: Vec<u64> = self.devices.iter().map(|host| host.commits).collect();
        self.run_until(self.now_ms + SILENCE_MS)?;
        let after: Vec<u64> = self.devices.iter().map(|host| host.commits).collect();
        if before != after {
            return broken(
                "an idle device writes nothing",
                format!("{before:?} {after:?}"),
            );
        }
        match self.unrest() {
            None => Ok(()),
            Some(why) => broken("what is at rest stays so", why),
        }
    }

    /// Whether the hub knows it as the device that it is; one that the hub has
    /// shut out or forgotten may have something left to do.
    pub(super) fn is_member(&self, host: &DeviceHost) -> bool {
        let devices = self.hub.store.devices.values();
        let mut known = devices.filter(|d| d.key == host.key.public());
        known.any(|d| {
            d.standing == Standing::Approved
                && host.name.as_ref() == Some(&d.device)
                && host.core().is_some_and(|core| !core.is_revoked())
        })
    }

    /// Why all is not at rest, if so.
    fn unrest(&self) -> Option<String> {
        let Some(fleet) = &self.hub.fleet else {
            return Some("the hub does not run".into());
        };
        let mut machines = self.devices.iter();
        machines
            .find_map(|host| {
                let software = self.unrest_of_software(host.number);
                software.or_else(|| self.unrest_of(fleet, host))
            })
            .or_else(|| self.unrest_of_rollouts())
    }

    fn unrest_of(&self, fleet: &Fleet, host: &DeviceHost) -> Option<String> {
        let who = host.number;
        if host.is_refused {
            return None;
        }
        let mut devices = fleet.devices();
        let Some(device) = devices.find(|d| d.record.key == host.key.public()) else {
            // A hub that went back to a backup may not know it; it knows no
            // way in either, but for a machine that was never told.
            let stuck = host.name.is_some() || host.core().is_some();
            return (!stuck).then(|| format!("machine {who} has not joined"));
        };
        if host
            .name
            .as_ref()
            .is_some_and(|n| *n != device.record.device)
        {
            // The hub went back to before it joined, and then got its old
            // question once more: it has to join anew.
            return None;
        }
        match device.record.standing {
            Standing::Revoked => return None,
            Standing::Pending => {
                // It believes that it was let in once, before a backup.
                return Some(format!("machine {who} waits in the lobby"));
            }
            Standing::Approved => {}
        }
        let Some(core) = host.core() else {
            return Some(format!("machine {who} is not a device yet"));
        };
        if core.is_revoked() {
            return None;
        }
        let record = &device.record;
        if !matches!(device.connection, Connection::Online { .. }) {
            return Some(format!("{} is {:?}", record.device, device.connection));
        }
        if record.generation != host.generation() || record.applied != record.generation {
            return Some(format!(
                "{} has {}, the hub shows {} of {}",
                record.device,
                host.generation(),
                record.applied,
                record.generation
            ));
        }
        let said = host.assignments().iter().map(|a| (&a.app, a.revision));
        let said: BTreeSet<(&skerry_wire::AppRef, RevisionId)> = said.collect();
        let wanted = self.intent.placed_on(&record.labels);
        if said != wanted {
            return Some(format!(
                "{} shall run {wanted:?}, not {said:?}",
                record.device
            ));
        }
        if let Some(why) = unrest_of_changes(host, core) {
            return Some(format!("{}: {why}", record.device));
        }
        let assignments = host.shall_run();
        let runs = assignments.iter().find_map(|a| self.unrest_of_app(host, a));
        if runs.is_some() {
            return runs;
        }
        for (id, one) in &host.keeper.containers {
            let wanted = |a: &&Assignment| a.app == one.app && a.revision == one.revision;
            if !assignments.iter().any(wanted) && !host.has_pod(&one.app, one.revision) {
                return Some(format!("{id} is still on {who}"));
            }
        }
        self.unrest_of_report(host, device)
    }

    /// A job rests when it has come out, or its pod runs and has no end; a
    /// CronJob never does.
    fn unrest_of_work(&self, host: &DeviceHost, assignment: &Assignment) -> Option<String> {
        let app = &assignment.app;
        let Some(record) = host.records.works.get(app) else {
            return Some(format!("{app} on {} has no record", host.number));
        };
        let Work::Job(job) = &assignment.policy.work else {
            return None;
        };
        let [run] = record.runs.as_slice() else {
            return Some(format!("{app} on {} has not begun", host.number));
        };
        let ends =
            |c: &skerry_wire::ContainerSpec| matches!(Program::of(&c.args), Program::Ends { .. });
        let settled = match &run.phase {
            RunPhase::Ended {
                outcome: JobOutcome::Complete,
                ..
            } => run.succeeded == job.completions,
            RunPhase::Ended { .. } => true,
            RunPhase::Suspended => job.suspend,
            RunPhase::Pod => !assignment.pod.containers.iter().all(ends),
            RunPhase::BackOff { .. } => false,
        };
        (!settled).then(|| format!("{app} on {} is {run:?}", host.number))
    }

    fn unrest_of_app(&self, host: &DeviceHost, assignment: &Assignment) -> Option<String> {
        if assignment.policy.work != Work::Service {
            return self.unrest_of_work(host, assignment);
        }
        let ended = |container: &skerry_wire::ContainerSpec| {
            let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
            let entry = host.records.ledger.get(&name);
            entry.is_some_and(|entry| entry.phase == Phase::Ended)
        };
        if !host.has_files_of(assignment) {
            return Some(format!(
                "files of {} are old on {}",
                assignment.app, host.number
            ));
        }
        let finished = assignment.pod.containers.iter().all(ended);
        let mut containers = assignment.pod.all_containers().enumerate();
        containers.find_map(|(index, container)| {
            let role = assignment.pod.role(index);
            let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
            let Some(entry) = host.records.ledger.get(&name) else {
                // A pod whose ledger was lost has begun without them.
                if role != Role::Main {
                    return None;
                }
                return Some(format!("{name} was never started on {}", host.number));
            };
            let id = name.incarnation(entry.incarnation);
            let state = host.keeper.containers.get(&id).map(|one| one.state);
            let settled = match (state, Program::of(&container.args), &entry.phase) {
                (Some(State::Running { .. }), _, Phase::Running { .. }) => true,
                (None, Program::Ends { .. }, Phase::BackOff { .. }) => true,
                (None, _, Phase::Ended | Phase::Ready) if role == Role::Init => true,
                (None, _, _) if role == Role::Sidecar && finished => true,
                (None, _, Phase::Ended) => assignment.pod.restart_policy != RestartPolicy::Always,
                _ => false,
            };
            (!settled).then(|| format!("{id} on {} is {state:?}, {:?}", host.number, entry.phase))
        })
    }

    /// The hub shows what is so.
    fn unrest_of_report(
        &self,
        host: &DeviceHost,
        device: &skerry_hub::core::Device,
    ) -> Option<String> {
        let who = host.number;
        let Some(report) = device.report() else {
            return Some(format!("the hub has no report of {who}"));
        };
        if report.generation != host.generation() {
            return Some(format!("the report of {who} is old"));
        }
        for assignment in host.shall_run() {
            let shown = report.apps.iter().find(|status| {
                status.app == assignment.app && status.revision == assignment.revision
            });
            let Some(shown) = shown else {
                return Some(format!("{} of {who} is not in its report", assignment.app));
            };
            if assignment.policy.work != Work::Service {
                continue;
            }
            for container in &assignment.pod.containers {
                let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
                let status = shown.containers.iter().find(|c| c.name == container.name);
                let phase = host.records.ledger.get(&name).map(|e| &e.phase);
                let forever = !matches!(Program::of(&container.args), Program::Ends { .. });
                let is_shown = match (phase, status.map(|s| &s.state)) {
                    (Some(Phase::Running { .. }), Some(ContainerState::Running { .. })) => true,
                    (Some(Phase::Ended), Some(ContainerState::Ended)) => true,
                    _ => !forever,
                };
                if !is_shown {
                    return Some(format!("{name} of {who} is shown as {status:?}"));
                }
            }
        }
        None
    }
}

/// A device ends on a revision that is good, or on the newest if there was
/// none before. What is on trial with something good before it, and what does
/// well, has an end to come.
fn unrest_of_changes(host: &DeviceHost, core: &Core) -> Option<String> {
    host.records.replacing.iter().find_map(|(app, record)| {
        let kept = host.records.previous.contains_key(app);
        let assigned = host.assignments().iter().find(|a| a.app == *app)?;
        match &record.stage {
            Stage::RolledBack { .. } if kept && record.good_before => None,
            Stage::Trial { .. } if !kept => {
                let standing = standing(assigned, core.observed(), core.ledger());
                let mut mains = assigned.pod.containers.iter();
                let stays = mains.all(|c| !matches!(Program::of(&c.args), Program::Ends { .. }));
                let comes = match standing {
                    replace::Standing::Ready | replace::Standing::Assumed => true,
                    replace::Standing::Coming(_) => stays,
                    replace::Standing::Failing(_) => false,
                };
                comes.then(|| format!("{app} has to prove itself"))
            }
            other => Some(format!("{app} is {other:?}, kept {kept}")),
        }
    })
}

fn ends_by_itself(host: &DeviceHost) -> bool {
    let previous = host.records.previous.values();
    let all = host.assignments().iter().chain(previous);
    let mut all = all.collect::<Vec<_>>();
    if all.iter().any(|a| a.policy.work != Work::Service) {
        return true;
    }
    let containers = all.drain(..).flat_map(|a| a.pod.all_containers());
    let mut programs = containers.map(|c| Program::of(&c.args));
    programs.any(|program| matches!(program, Program::Ends { .. }))
}
