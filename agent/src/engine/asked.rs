//! Questions from the control socket.

use super::run::{Ending, Engine};
use crate::control::{Answer, Ask, Input, Request};
use crate::core::LogPlace;
use crate::core::update::{Subject, UpdateView};
use crate::machine::{Machine, StreamInput, StreamOutput, stream};
use crate::runtime::{ContainerId, Status};
use crate::volatile;
use serde_json::json;
use skerry_wire::message::{ExecRequest, LogsRequest};
use skerry_wire::report::{ContainerState, JobOutcome};
use skerry_wire::stream::{Channel, End};
use skerry_wire::update::UpdateState;
use skerry_wire::{AppRef, Namespace, StreamId};
use smol::channel::bounded;
use smol::future;
use std::collections::BTreeMap;

impl<M: Machine> Engine<M> {
    pub(super) fn asked(&mut self, ask: Ask) -> Option<Ending> {
        match ask.request.clone() {
            Request::Status => {
                let status = self.status();
                ask.finish(Answer::Status(status));
            }
            Request::Logs {
                app,
                container,
                tail,
                since_secs,
                follow,
                timestamps,
                run,
                previous,
            } => {
                let found = parse_app(&app).and_then(|app| {
                    let container = container.map(|c| c.parse()).transpose();
                    let container = container.map_err(|e: skerry_wire::IdError| e.to_string())?;
                    let request = LogsRequest {
                        stream: StreamId(0),
                        app,
                        container,
                        tail,
                        since_secs,
                        follow,
                        timestamps,
                        run,
                        previous,
                        credit: u32::MAX,
                    };
                    Ok((self.core.find_log(&request)?, request))
                });
                match found {
                    Ok((place, request)) => self.show_log(ask, place, request),
                    Err(reason) => ask.finish(Answer::Failed(reason)),
                }
            }
            Request::Exec {
                app,
                container,
                args,
                tty,
                stdin,
            } => {
                let found = parse_app(&app).and_then(|app| {
                    let container = container.map(|c| c.parse()).transpose();
                    let container = container.map_err(|e: skerry_wire::IdError| e.to_string())?;
                    let id = self.core.find_running(&app, container.as_ref())?;
                    let request = ExecRequest {
                        stream: StreamId(0),
                        app,
                        container,
                        args,
                        tty,
                        stdin,
                        credit: u32::MAX,
                    };
                    Ok((id, request))
                });
                match found {
                    Ok((id, request)) => self.run_here(ask, id, request),
                    Err(reason) => ask.finish(Answer::Failed(reason)),
                }
            }
            Request::Join { .. } | Request::Reset if self.why_not_for_good().is_some() => {
                let reason = self.why_not_for_good().unwrap_or_default();
                ask.finish(Answer::Failed(reason));
            }
            Request::Join { .. } if self.core.is_revoked() => return Some(Ending::Rejoin(ask)),
            Request::Join { .. } => {
                let identity = &self.setup.identity;
                let text = format!(
                    "this device is {} of fleet {} already; 'skerry-agent reset' makes it leave",
                    identity.device, identity.fleet
                );
                ask.finish(Answer::Failed(text));
            }
            Request::Volumes => self.show_volumes(ask),
            Request::RemoveVolume { volume } => self.remove_volume(ask, &volume),
            Request::Reset => return Some(Ending::Reset(ask)),
        }
        None
    }

    fn why_not_for_good(&self) -> Option<String> {
        let store = self.store.as_ref()?;
        volatile::why_not_for_good(store.dir())
    }

    /// A log for somebody at the machine: no credit, but a bounded channel.
    fn show_log(&mut self, ask: Ask, place: LogPlace, request: LogsRequest) {
        let machine = self.machine.clone();
        let over = self.follow(&request.app, place.run);
        let (outputs_in, outputs) = bounded(1);
        let (handle, end) = stream(StreamId(0), u32::MAX, outputs_in);
        self.spawn(async move {
            let answers = ask.answers.clone();
            let shown = async {
                while let Ok(StreamOutput::Data(_, channel, bytes)) = outputs.recv().await {
                    handle.grant(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    let answer = Answer::Log {
                        stderr: channel == Channel::Error,
                        text: String::from_utf8_lossy(&bytes).into_owned(),
                    };
                    if answers.send(answer).await.is_err() {
                        return; // nobody listens any more
                    }
                }
            };
            let run = machine.run_log(place, request, over, end);
            let ((), end) = future::zip(shown, run).await;
            let _ = match end {
                End::Failed(reason) => ask.answers.send(Answer::Failed(reason)).await,
                End::Done | End::Exit(_) | End::Cancelled | End::Lost => {
                    ask.answers.send(Answer::Done(String::new())).await
                }
            };
        });
    }

    /// A process for somebody at the machine. It is killed when its asker goes.
    fn run_here(&self, ask: Ask, id: ContainerId, request: ExecRequest) {
        let machine = self.machine.clone();
        let (outputs_in, outputs) = bounded(1);
        let (handle, end) = stream(StreamId(0), u32::MAX, outputs_in);
        // Input follows input only when the process has taken it.
        let (took, taken) = bounded(1);
        self.spawn(async move {
            let shown = async {
                while let Ok(output) = outputs.recv().await {
                    match output {
                        StreamOutput::Data(_, channel, bytes) => {
                            handle.grant(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                            let stderr = channel == Channel::Error;
                            let answer = Answer::Output { stderr, bytes };
                            if ask.answers.send(answer).await.is_err() {
                                return;
                            }
                        }
                        StreamOutput::Taken(..) => {
                            let _ = took.try_send(());
                        }
                    }
                }
            };
            let run = async {
                let end = machine.run_exec(id, request, end).await;
                let last = match end {
                    End::Exit(code) => Answer::Exit(code),
                    End::Failed(reason) => Answer::Failed(reason),
                    End::Done | End::Cancelled | End::Lost => {
                        Answer::Failed("the process was given up".into())
                    }
                };
                Some(last)
            };
            let fed = async {
                while let Ok(input) = ask.input.recv().await {
                    let input = match input {
                        Input::Data(bytes) => StreamInput::Data(bytes),
                        Input::Resize(columns, rows) => StreamInput::Resize(columns, rows),
                        Input::Close => StreamInput::Close,
                    };
                    let waits = matches!(input, StreamInput::Data(_));
                    handle.input(input);
                    if waits && taken.recv().await.is_err() {
                        break;
                    }
                }
                None
            };
            // `shown` ends with `run`, which holds the other end of its
            // channel, and has said everything then.
            let all = async { future::zip(shown, run).await.1 };
            if let Some(last) = future::or(all, fed).await {
                let _ = ask.answers.send(last).await;
            }
        });
    }

    /// What of this device can be changed by the hub, and how that fares.
    fn updates(&self) -> Vec<serde_json::Value> {
        let now_ms = self.setup.clock.now().boot_ms;
        let shown = |view: UpdateView| {
            let (subject, running) = match view.subject {
                Subject::Agent => ("agent", view.running),
                Subject::Os => ("os", view.running),
                Subject::Line => ("line", Some(shown_broker(&self.setup.record.broker))),
            };
            let (target, state) = view.newest.unzip();
            let left = view
                .trial_ends_ms
                .map(|at| at.saturating_sub(now_ms) / 1_000);
            json!({
                "subject": subject,
                "running": running,
                "target": target,
                "state": state.as_ref().map(update_json),
                "trialLeftSecs": left,
            })
        };
        self.core.updates().into_iter().map(shown).collect()
    }

    /// How a container stands, for somebody at the machine: what comes from a
    /// hub that cannot be reached is not on its way.
    fn state_json(&self, state: &ContainerState) -> serde_json::Value {
        match (state, self.core.offline_reason()) {
            (ContainerState::Fetching { .. }, Some(reason)) => json!({
                "kind": "waiting",
                "reason": "ImageMissing",
                "message": format!("its image is not, or not whole, on this disk, and the hub that has it cannot be reached: {reason}"),
            }),
            _ => state_json(state),
        }
    }

    pub(super) fn status(&self) -> serde_json::Value {
        let report = self.core.report(self.setup.clock.now());
        let identity = &self.setup.identity;
        let apps: Vec<_> = report
            .apps
            .iter()
            .map(|app| {
                let revision = self.core.named_revision(&app.app, app.revision);
                let containers: Vec<_> = app
                    .containers
                    .iter()
                    .map(|c| {
                        let instance =
                            crate::core::name::InstanceName::new(&app.app, revision, &c.name);
                        let entry = self.core.ledger().get(&instance);
                        let id = entry.map(|e| instance.incarnation(e.incarnation));
                        let containers = self.core.observed().containers.as_ref();
                        let status = id.as_ref().and_then(|id| containers?.get(id));
                        let pid = match status {
                            Some(Status::Running { pid, .. }) => Some(*pid),
                            _ => None,
                        };
                        json!({
                            "name": c.name.as_str(),
                            "id": id.as_ref().map(ToString::to_string),
                            "pid": pid,
                            "state": self.state_json(&c.state),
                            "ready": c.ready,
                            "started": c.started,
                            "whyUnready": id.as_ref().and_then(|id| self.core.observed().health.why_unready(id)),
                            "restarts": c.restarts,
                            "lastExit": c.last_exit.map(|e| exit_text(&e)),
                        })
                    })
                    .collect();
                json!({
                    "namespace": app.app.namespace.as_str(),
                    "name": app.app.name.as_str(),
                    "revision": app.revision.short(),
                    "job": app.job.as_ref().map(job_json),
                    "address": app.address.map(|a| a.to_string()),
                    "update": app.update.as_ref().map(change_json),
                    "runsBeside": self.core.runs_beside(&app.app).map(|old| old.short()),
                    "proved": self.core.is_proved(&app.app),
                    "values": app.values.iter().cloned().collect::<BTreeMap<_, _>>(),
                    "containers": containers,
                })
            })
            .collect();
        let standing = match (self.core.is_revoked(), self.core.offline_reason()) {
            (true, _) => json!({"kind": "revoked"}),
            (false, None) => json!({"kind": "online"}),
            (false, Some(reason)) => json!({"kind": "offline", "reason": reason}),
        };
        json!({
            "fleet": identity.fleet.as_str(),
            "device": identity.device.as_str(),
            "broker": shown_broker(&self.setup.record.broker),
            "hub": standing,
            "generation": report.generation.0,
            "version": crate::release(),
            "bootId": report.facts.boot_id,
            "images": self.images_json(),
            "updates": self.updates(),
            "conditions": report.conditions.iter().filter(|c| c.status).map(|c| json!({
                "kind": c.kind, "reason": c.reason, "message": c.message,
            })).collect::<Vec<_>>(),
            "apps": apps,
            "events": report.events.iter().map(|e| json!({
                "reason": e.reason, "message": e.message, "count": e.count,
                "app": e.app.as_ref().map(|a| a.to_string()), "atMs": e.at.0,
            })).collect::<Vec<_>>(),
        })
    }
}

fn update_json(state: &UpdateState) -> serde_json::Value {
    match state {
        UpdateState::Fetching {
            done_bytes,
            total_bytes,
        } => json!({"kind": "fetching", "doneBytes": done_bytes, "totalBytes": total_bytes}),
        UpdateState::Trying => json!({"kind": "trying"}),
        UpdateState::Confirmed => json!({"kind": "confirmed"}),
        UpdateState::Refused { reason } => json!({"kind": "refused", "reason": reason}),
        UpdateState::RolledBack { reason } => json!({"kind": "rolledBack", "reason": reason}),
    }
}

/// The address without a password.
pub fn shown_broker(broker: &str) -> String {
    match (broker.split_once("://"), broker.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => broker.to_string(),
    }
}

fn change_json(update: &skerry_wire::report::AppUpdate) -> serde_json::Value {
    use skerry_wire::report::AppUpdateState::*;
    let (state, reason) = match &update.state {
        Held { reason } => ("held", Some(reason)),
        Trial => ("trial", None),
        Done => ("done", None),
        RolledBack { reason } => ("rolledBack", Some(reason)),
    };
    json!({ "to": update.to.short(), "state": state, "reason": reason })
}

fn state_json(state: &skerry_wire::report::ContainerState) -> serde_json::Value {
    use skerry_wire::report::ContainerState::*;
    match state {
        Fetching {
            done_bytes,
            total_bytes,
        } => json!({"kind": "fetching", "doneBytes": done_bytes, "totalBytes": total_bytes}),
        Waiting { reason, message } => {
            json!({"kind": "waiting", "reason": reason, "message": message})
        }
        Running { since } => json!({"kind": "running", "sinceMs": since.0}),
        BackOff { delay_secs } => json!({"kind": "backOff", "delaySecs": delay_secs}),
        Ended => json!({"kind": "ended"}),
        Stopping => json!({"kind": "stopping"}),
    }
}

fn job_json(job: &skerry_wire::report::JobStatus) -> serde_json::Value {
    let word = |outcome: &JobOutcome| match outcome {
        JobOutcome::Complete => "Complete".to_string(),
        JobOutcome::Failed { reason } => reason.clone(),
    };
    let outcome = job.outcome.as_ref().map(word);
    let past = job.history.iter().map(|run| {
        json!({
            "number": run.number, "dueMs": run.due.0, "beganMs": run.began.0,
            "endedMs": run.ended.0, "outcome": word(&run.outcome),
        })
    });
    let going = job
        .going
        .iter()
        .map(|run| json!({ "number": run.number, "dueMs": run.due.0, "beganMs": run.began.0 }));
    json!({
        "active": job.active,
        "succeeded": job.succeeded,
        "failed": job.failed,
        "outcome": outcome,
        "lastDueMs": job.last_due.map(|t| t.0),
        "nextDueMs": job.next_due.map(|t| t.0),
        "runs": past.chain(going).collect::<Vec<_>>(),
    })
}

fn exit_text(exit: &skerry_wire::report::ExitStatus) -> String {
    use skerry_wire::report::ExitStatus::*;
    match exit {
        Code(code) => format!("code {code}"),
        Signal(signal) => format!("signal {signal}"),
        OutOfMemory => "out of memory".into(),
        Unknown => "unknown".into(),
    }
}

/// `NAME` or `NAMESPACE/NAME`.
fn parse_app(text: &str) -> Result<AppRef, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (namespace.parse(), name.parse()),
        None => (Ok(Namespace::default_namespace()), text.parse()),
    };
    Ok(AppRef {
        namespace: namespace.map_err(|e| e.to_string())?,
        name: name.map_err(|e: skerry_wire::IdError| e.to_string())?,
    })
}
