//! Carries effects out. Decides nothing.

use super::run::{Engine, Turn};
use crate::core::{Effect, Event};
use crate::doctor::Known;
use crate::machine::{Machine, StreamInput, stream};
use crate::runtime::ContainerId;
use skerry_wire::StreamId;
use skerry_wire::report::Vitals;
use skerry_wire::stream::End;
use smol::{Timer, future};
use std::future::Future;
use std::time::Duration;

/// How long reading the vitals may hold a report up: a disk that hangs must
/// not keep the device from saying so.
const VITALS_WITHIN: Duration = Duration::from_millis(500);

impl<M: Machine> Engine<M> {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(task).detach();
    }

    /// An action on the runtime whose outcome the core waits for.
    pub(super) fn act(&self, action: impl Future<Output = Event> + 'static) {
        let (epoch, turns) = (self.epoch, self.turns_in.clone());
        self.spawn(async move {
            let event = action.await;
            let _ = turns.send(Turn::Outcome(epoch, event)).await;
        });
    }

    /// An action whose failure is only logged: planning goes by what the
    /// runtime lists and tells.
    fn try_to(&self, what: String, action: impl Future<Output = Result<(), String>> + 'static) {
        self.spawn(async move {
            if let Err(reason) = action.await {
                tracing::warn!("{what}: {reason}");
            }
        });
    }

    /// Like [`Engine::act`] for what does not hang on the runtime.
    pub(super) fn find_out(&self, action: impl Future<Output = Event> + 'static) {
        let turns = self.turns_in.clone();
        self.spawn(async move {
            let event = action.await;
            let _ = turns.send(Turn::Event(event)).await;
        });
    }

    pub(super) async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.effect(effect).await;
        }
    }

    pub(super) async fn effect(&mut self, effect: Effect) {
        let machine = self.machine.clone();
        match effect {
            Effect::Commit(changes) => self.commit(changes).await,
            Effect::Send(message) => {
                if let Some(line) = &mut self.line
                    && let Err(refusal) = line.send(&self.setup.identity, &message)
                {
                    tracing::error!("a message to the hub cannot be sealed: {refusal}");
                }
            }
            // Waited for: messages leave in the order of their numbers.
            Effect::SendReport(report) => {
                let vitals = machine.vitals();
                let late = async {
                    Timer::after(VITALS_WITHIN).await;
                    Vitals::default()
                };
                let message = report.with(future::or(vitals, late).await);
                if let Some(line) = &mut self.line
                    && let Err(refusal) = line.send(&self.setup.identity, &message)
                {
                    tracing::error!("a report to the hub cannot be sealed: {refusal}");
                }
            }
            Effect::Create(create) => {
                self.has_begun = true;
                tracing::info!("starting {} of {}", create.id, create.assignment.app);
                self.act(async move {
                    let id = create.id.clone();
                    let result = machine.create(*create).await;
                    if let Err(reason) = &result {
                        tracing::warn!("{id} cannot be started: {reason}");
                    }
                    Event::Created { id, result }
                });
            }
            Effect::Stop { id } => {
                tracing::info!("stopping {id}");
                self.try_to(
                    format!("stopping {id}"),
                    async move { machine.stop(&id).await },
                );
            }
            Effect::Kill { id } => {
                tracing::info!("killing {id}");
                self.try_to(
                    format!("killing {id}"),
                    async move { machine.kill(&id).await },
                );
            }
            Effect::Remove { id } => self.act(async move {
                let result = machine.remove(&id).await;
                Event::Removed { id, result }
            }),
            Effect::ForgetExit { id } => {
                if let Some(id) = self.unsaved.end(id) {
                    self.forget_exit(id);
                }
            }
            Effect::Probe(question) => self.act(async move {
                let (id, kind) = (question.id.clone(), question.kind);
                let answer = machine.probe(*question).await;
                Event::Probed { id, kind, answer }
            }),
            Effect::RunHook { id, kind, hook } => self.act(async move {
                let result = machine.run_hook(&id, *hook).await;
                let hook = kind;
                Event::Hooked { id, hook, result }
            }),
            Effect::RemoveScratch { app, revision } => {
                self.try_to(format!("removing volumes of {app}"), async move {
                    machine.remove_scratch(&app, &revision).await
                });
            }
            Effect::RemoveLog { log_name } => {
                self.try_to(format!("removing log {log_name}"), async move {
                    machine.remove_log(&log_name).await
                });
            }
            Effect::KeepRunLogs { group, runs } => {
                self.try_to(format!("removing old logs of {group}"), async move {
                    machine.keep_run_logs(&group, runs).await
                });
            }
            Effect::PrepareImage(image) => {
                self.has_begun = true;
                self.find_out(async move {
                    let manifest = image.manifest;
                    let result = machine.prepare_image(image).await;
                    Event::Image { manifest, result }
                });
            }
            Effect::ExamineImage(image) => {
                self.try_to(format!("examining image {}", image.reference), async move {
                    machine.examine_image(image).await
                });
            }
            Effect::NeedImages(manifests) => {
                machine.need_images(manifests);
                self.collect_soon();
            }
            // Waited for: bytes must stay in order, and while the disk is slow
            // nothing more shall come.
            Effect::WriteBlob {
                digest,
                offset,
                bytes,
            } => {
                if let Err(reason) = machine.write_blob(digest, offset, bytes).await {
                    self.find_out(async move { Event::BlobFailed { digest, reason } });
                }
            }
            Effect::FinishBlob { digest } => self.find_out(async move {
                let result = machine.finish_blob(digest).await;
                Event::BlobFinished { digest, result }
            }),
            Effect::OpenLog { place, request } => {
                let (id, credit) = (request.stream, request.credit);
                let over = self.follow(&request.app, place.run);
                self.open(id, credit, |end| async move {
                    machine.run_log(place, request, over, end).await
                });
            }
            Effect::OpenExec { id, request } => {
                let (stream, credit) = (request.stream, request.credit);
                self.open(stream, credit, |end| async move {
                    machine.run_exec(id, request, end).await
                });
            }
            Effect::OpenVolume { request, users } => {
                let (stream, credit) = (request.stream, request.credit);
                self.open(stream, credit, |end| async move {
                    machine.run_volume(request, users, end).await
                });
            }
            Effect::WriteConfigs(apps) => {
                let turns = self.turns_in.clone();
                self.spawn(async move {
                    if let Err(message) = machine.write_configs(apps).await {
                        tracing::warn!("{message}");
                        let reason = "ConfigNotWritten";
                        let trouble = Event::Trouble { reason, message };
                        let _ = turns.send(Turn::Event(trouble)).await;
                    }
                });
            }
            Effect::StreamCredit { stream, bytes } => {
                if let Some((handle, _)) = self.streams.get(&stream) {
                    handle.grant(bytes);
                }
            }
            Effect::StreamInput { stream, bytes } => {
                self.input(stream, StreamInput::Data(bytes));
            }
            Effect::StreamResize {
                stream,
                columns,
                rows,
            } => self.input(stream, StreamInput::Resize(columns, rows)),
            Effect::StreamCloseInput { stream } => self.input(stream, StreamInput::Close),
            Effect::StreamClose { stream } => {
                self.streams.remove(&stream);
            }
            Effect::ReadUsage {
                request,
                containers,
            } => self.find_out(async move {
                let containers = machine.usage(containers).await;
                Event::Usage {
                    request,
                    containers,
                }
            }),
            Effect::Diagnose { request, ahead_ms } => {
                let known = Known {
                    ahead_ms: Some(ahead_ms),
                    ..Known::of(&self.setup.record)
                };
                self.find_out(async move {
                    let findings = machine.diagnose(known).await;
                    Event::Diagnosed { request, findings }
                });
            }
            Effect::ShapeNetwork(pods) => machine.shape_network(pods),
            Effect::WatchDevices(devices) => machine.watch_devices(devices),
            Effect::Resize { id, resources } => self.act(async move {
                let result = machine.resize(&id, &resources).await;
                Event::Resized { id, result }
            }),
            Effect::Update(effect) => self.update(effect).await,
            Effect::ServeApps(grants) => self.serve_apps(grants),
            Effect::AskHold { app } => self.ask_hold(app),
            Effect::ReleaseHold { app } => self.release_hold(&app),
            Effect::CallAnew { starts } => {
                self.setup.starts = starts;
                self.call_anew("numbers go on above those that the hub knows")
                    .await;
            }
            Effect::StopCalling => {
                tracing::warn!(
                    "the hub shut this device out: apps keep running, the hub is not called again"
                );
                if let Some(line) = self.line.take() {
                    line.close().await;
                }
            }
        }
    }

    pub(super) fn forget_exit(&self, id: ContainerId) {
        let machine = self.machine.clone();
        self.try_to(format!("forgetting {id}"), async move {
            machine.forget_exit(&id).await
        });
    }

    pub(super) fn input(&self, stream: StreamId, input: StreamInput) {
        if let Some((handle, _)) = self.streams.get(&stream) {
            handle.input(input);
        }
    }

    pub(super) fn open<F: Future<Output = End> + 'static>(
        &mut self,
        id: StreamId,
        credit: u32,
        run: impl FnOnce(crate::machine::StreamEnd) -> F,
    ) {
        let (handle, end) = stream(id, credit, self.outputs_in.clone());
        let (run, turns) = (run(end), self.turns_in.clone());
        let task = self.executor.spawn(async move {
            let end = run.await;
            let _ = turns.send(Turn::StreamEnded(id, end)).await;
        });
        self.streams.insert(id, (handle, task));
    }
}
