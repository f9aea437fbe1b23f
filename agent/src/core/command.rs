//! What the hub asks of this run of the agent.

use super::event::{Effect, LogPlace, Now};
use super::handle::Core;
use super::ledger::Phase;
use super::name::{InstanceName, log_name, run_log_name};
use super::record::Change;
use super::streams::{Steps, StreamKind, Streams};
use super::work::RunPhase;
use crate::runtime::{ContainerId, Earlier, Status};
use skerry_wire::message::{Command, CommandBody, ExecRequest, LogsRequest};
use skerry_wire::policy::Work;
use skerry_wire::report::Severity;
use skerry_wire::{AppRef, Assignment, ContainerName, ContainerSpec, Seq, StreamId};

/// Examinations of the machine at once: each may wait for the network.
const MAX_DIAGNOSES: usize = 4;

impl Core {
    pub(super) fn command(&mut self, now: Now, command: Command) {
        if command.session != self.session() {
            // Anybody can bring this one about, with a presence of long ago.
            if matches!(command.body, CommandBody::CountOn { .. }) {
                return;
            }
            // The hub thinks of an earlier run.
            self.refusal(
                now,
                "CommandRefused",
                "a command was for an earlier run of the agent",
            );
            self.repeat_presence(now);
            return;
        }
        match command.body {
            CommandBody::Sync => {
                // Also when it was said just now: the hub that asks may have
                // started since then.
                self.say_presence(now);
                self.pace.asked(now.boot_ms);
            }
            CommandBody::Acknowledge { report, events } => {
                self.pace.acknowledged(report);
                self.update_acknowledged(now, report);
                self.replacements_acknowledged(report);
                self.journal.acknowledge(events);
            }
            CommandBody::Logs(request) => self.logs(request),
            CommandBody::Exec(request) => self.exec(request),
            CommandBody::Volume(request) => self.volume(request),
            CommandBody::Usage { request } => {
                let containers = self.running();
                self.effects.push(Effect::ReadUsage {
                    request,
                    containers,
                });
            }
            CommandBody::Doctor { request, hub_time } => {
                // The hub asks anew after a while: what is too much is not done.
                if self.diagnosing.len() < MAX_DIAGNOSES && self.diagnosing.insert(request) {
                    let ahead_ms = (i128::from(now.wall.0) - i128::from(hub_time.0))
                        .clamp(i64::MIN.into(), i64::MAX.into());
                    self.effects.push(Effect::Diagnose {
                        request,
                        ahead_ms: ahead_ms as i64,
                    });
                }
            }
            CommandBody::CountOn { starts } => self.count_on(now, starts),
            CommandBody::Revoked => {
                let text = "the hub shut this device out; its apps keep running. To come back: skerry-agent join TOKEN";
                self.note(now, Severity::Warning, "Revoked", None, text);
                self.revoke(now);
            }
        }
    }

    /// The hub has heard of later starts than the store knows of: goes on above
    /// them, with everything that was not acknowledged, on a line whose will
    /// has such a number, too.
    fn count_on(&mut self, now: Now, heard: u32) {
        let before = self.starts;
        let Some(starts) = heard.checked_add(1).filter(|starts| *starts > before) else {
            return;
        };
        self.starts = starts;
        self.last_seq = Seq::first_of_start(starts);
        self.journal.count_on(starts);
        self.changes.push(Change::Starts(starts));
        self.commit();
        let text = format!(
            "the hub knows of start {heard} of this agent, its disk of {before}: the disk forgets what is written, or is a copy of an earlier day; look at 'skerry-agent doctor' and replace a card that is worn out"
        );
        self.note(now, Severity::Warning, "StartsForgotten", None, &text);
        self.effects.push(Effect::CallAnew { starts });
    }

    /// Containers that run and that the ledger knows.
    pub fn running(&self) -> Vec<(ContainerId, AppRef, ContainerName)> {
        let Some(containers) = &self.observed.containers else {
            return Vec::new();
        };
        let named = self.ledger.iter().map(|(name, entry)| {
            let id = name.incarnation(entry.incarnation);
            (id, entry.app.clone(), entry.container.clone())
        });
        named
            .filter(|(id, ..)| matches!(containers.get(id), Some(Status::Running { .. })))
            .collect()
    }

    fn logs(&mut self, request: LogsRequest) {
        let stream = request.stream;
        match self.find_log(&request) {
            Ok(place) => {
                if self.open_stream(stream, StreamKind::Log) {
                    self.effects.push(Effect::OpenLog { place, request });
                }
            }
            Err(reason) => self.refuse_stream(stream, reason),
        }
    }

    /// Where the log is that is asked for. The error says why there is none.
    pub fn find_log(&self, request: &LogsRequest) -> Result<LogPlace, String> {
        let app = &request.app;
        let (assignment, index) = self.find(app, request.container.as_ref())?;
        let container = container_of(assignment, index);
        let run = match (&assignment.policy.work, request.run) {
            (Work::CronJob(_), wanted) => Some(self.find_run(app, wanted)?),
            (Work::Service | Work::Job(_), None) => None,
            (Work::Service | Work::Job(_), Some(_)) => {
                return Err(format!(
                    "{app} is no CronJob and has no runs to choose from; leave --job-run out"
                ));
            }
        };
        let newest = self.works.record(app).and_then(|record| record.runs.last());
        let earlier = if run.is_some() && run != newest.map(|run| run.number) {
            // It has ended, or has its end before it while a newer one runs.
            Earlier::ThanNewest
        } else {
            let name = InstanceName::new(app, assignment.revision, &container.name);
            let waits = newest.is_some_and(|run| matches!(run.phase, RunPhase::BackOff { .. }));
            match self.ledger.get(&name) {
                Some(entry) if !waits => match entry.phase {
                    Phase::Running { .. } | Phase::Stopping { .. } | Phase::Ended => {
                        Earlier::Than(name.incarnation(entry.incarnation))
                    }
                    Phase::Ready | Phase::BackOff { .. } => Earlier::Newest,
                },
                Some(_) | None => Earlier::Newest,
            }
        };
        Ok(LogPlace {
            name: match run {
                Some(run) => run_log_name(app, run, &container.name),
                None => log_name(app, &container.name),
            },
            persist: container.log_persist,
            earlier: request.previous.then_some(earlier),
            run,
        })
    }

    /// Whether nothing will be written any more for an app: it is gone, or it
    /// is a job that has come out; of a CronJob, this run has.
    pub fn has_written_all(&self, app: &AppRef, run: Option<u32>) -> bool {
        let Some(assignment) = self.assignments().iter().find(|a| a.app == *app) else {
            return !self.ledger.values().any(|entry| entry.app == *app);
        };
        let runs = self.works.record(app).map(|record| &record.runs);
        let newest = runs.and_then(|runs| runs.last());
        match (&assignment.policy.work, run) {
            (Work::Service, _) => false,
            (Work::Job(_) | Work::CronJob(_), None) => {
                newest.is_some_and(|run| run.rests_after_all(assignment, &self.ledger))
            }
            (Work::Job(_) | Work::CronJob(_), Some(number)) => {
                let found = runs.and_then(|runs| runs.iter().find(|run| run.number == number));
                found.is_none_or(|run| run.rests_after_all(assignment, &self.ledger))
            }
        }
    }

    /// The number of a CronJob's run: the newest when none is named.
    fn find_run(&self, app: &AppRef, wanted: Option<u32>) -> Result<u32, String> {
        let record = self.works.record(app);
        let kept = record.and_then(|record| record.kept_runs());
        let kept = kept.unwrap_or_default();
        match (wanted, kept.last()) {
            (_, None) => Err(format!(
                "no run of {app} is kept on this device: it has not started yet, or its runs are forgotten (ttlSecondsAfterFinished)"
            )),
            (None, Some(newest)) => Ok(*newest),
            (Some(wanted), Some(_)) if kept.contains(&wanted) => Ok(wanted),
            (Some(wanted), Some(_)) => {
                let kept: Vec<String> = kept.iter().map(u32::to_string).collect();
                Err(format!(
                    "run {wanted} of {app} is not kept on this device, only {} (see successfulJobsHistoryLimit and failedJobsHistoryLimit)",
                    kept.join(", ")
                ))
            }
        }
    }

    fn exec(&mut self, request: ExecRequest) {
        let stream = request.stream;
        match self.find_running(&request.app, request.container.as_ref()) {
            Ok(id) => {
                if self.open_stream(stream, StreamKind::Exec) {
                    self.effects.push(Effect::OpenExec { id, request });
                }
            }
            Err(reason) => self.refuse_stream(stream, reason),
        }
    }

    /// The container that runs. The error says why there is none.
    pub fn find_running(
        &self,
        app: &AppRef,
        container: Option<&ContainerName>,
    ) -> Result<ContainerId, String> {
        let (assignment, index) = self.find(app, container)?;
        let container = &container_of(assignment, index).name;
        let name = InstanceName::new(app, assignment.revision, container);
        let id = self
            .ledger
            .get(&name)
            .map(|e| name.incarnation(e.incarnation));
        let runs = |id: &ContainerId| {
            let containers = self.observed.containers.as_ref();
            matches!(
                containers.and_then(|c| c.get(id)),
                Some(Status::Running { .. })
            )
        };
        id.filter(runs)
            .ok_or_else(|| format!("container {container} of {app} does not run now"))
    }

    /// What runs, or shall run, under this name: the newer one of two.
    fn find(
        &self,
        app: &AppRef,
        container: Option<&ContainerName>,
    ) -> Result<(&Assignment, usize), String> {
        let assigned = self.assignments().iter().find(|a| a.app == *app);
        let assignment = assigned.map(|assigned| {
            let runs = || self.runs(assigned).newest();
            self.works.newest_pod(app).unwrap_or_else(runs)
        });
        let assignment =
            assignment.ok_or_else(|| format!("{app} is not assigned to this device"))?;
        let pod = &assignment.pod;
        let names = || {
            let names: Vec<&str> = pod.all_containers().map(|c| c.name.as_str()).collect();
            names.join(", ")
        };
        match container {
            Some(name) => pod
                .all_containers()
                .position(|c| c.name == *name)
                .map(|index| (assignment, index))
                .ok_or_else(|| format!("{app} has no container {name}; it has {}", names())),
            None if pod.containers.len() == 1 => Ok((assignment, pod.init_containers.len())),
            None => Err(format!(
                "{app} has several containers, name one: {}",
                names()
            )),
        }
    }

    pub(super) fn open_stream(&mut self, stream: StreamId, kind: StreamKind) -> bool {
        if let Some(reason) = self.streams.refuse(stream) {
            self.refuse_stream(stream, reason);
            return false;
        }
        let steps = self.streams.open(stream, kind);
        self.carry_out(steps);
        true
    }

    pub(super) fn refuse_stream(&mut self, stream: StreamId, reason: String) {
        // One that is open would take this frame for its own.
        if !self.streams.contains(stream) {
            self.carry_out(Steps {
                frames: vec![Streams::refused(stream, reason)],
                effects: Vec::new(),
            });
        }
    }
}

fn container_of(assignment: &Assignment, index: usize) -> &ContainerSpec {
    let container = assignment.pod.container(index);
    container.expect("an index of the pod's")
}
