//! The only loop: takes one event, asks the core, carries its effects out in
//! their order. Decides nothing.

use crate::clock::Clock;
use crate::control::{Answer, Ask, Request};
use crate::core::{Change, Core, Effect, Event, Identity, Start};
use crate::line::{Line, LineError};
use crate::machine::{Machine, MachineEvent, StreamHandle, StreamInput, StreamOutput, stream};
use crate::notify;
use crate::runtime::{ContainerId, Status};
use crate::store::{IdentityRecord, StoreDir, StoreError};
use serde_json::json;
use skerry_link::LinkEvent;
use skerry_wire::message::LogsRequest;
use skerry_wire::report::Facts;
use skerry_wire::stream::{Channel, End};
use skerry_wire::{AppRef, Namespace, SessionId, StreamId};
use smol::channel::{Receiver, Sender, bounded};
use smol::{LocalExecutor, Timer, future};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Outcomes that wait for the loop.
const OUTCOMES: usize = 64;
/// Pause before a store that failed is opened again.
const STORE_AGAIN: Duration = Duration::from_secs(5);
/// Pause before a runtime that failed is reached again; doubles.
const LIST_AGAIN: Duration = Duration::from_millis(500);
/// The longest such pause.
const LIST_AGAIN_CAP: Duration = Duration::from_secs(30);

/// Why the engine cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// The line.
    #[error("the line to the hub cannot be set up")]
    Line(#[from] LineError),
}

/// Why the engine ended.
#[derive(Debug)]
pub enum Ending {
    /// Somebody wants everything gone.
    Reset(Ask),
    /// A device that was shut out joins again.
    Rejoin(Ask),
}

/// What does not change while the engine runs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Who this device is.
    pub record: IdentityRecord,
    /// The same for the core.
    pub identity: Identity,
    /// Its password at the broker.
    pub password: String,
    /// What the machine is.
    pub facts: Facts,
    /// This run.
    pub session: SessionId,
    /// How often the agent was started, this time included.
    pub starts: u32,
    /// How long the line may be silent.
    pub keep_alive: Duration,
    /// The clocks.
    pub clock: Clock,
}

enum Turn {
    Event(Event),
    /// An outcome of an action on the runtime, and of which connection to it.
    Outcome(u64, Event),
    Listed(u64, Result<Vec<(ContainerId, Status)>, String>),
    Machine(u64, MachineEvent),
    Link(LinkEvent),
    Hung,
    Output(StreamOutput),
    StreamEnded(StreamId, End),
    Ask(Ask),
    Wake,
    Watchdog,
}

/// The loop and what it holds.
pub struct Engine<M: Machine> {
    setup: Setup,
    executor: Rc<LocalExecutor<'static>>,
    core: Core,
    store: Option<StoreDir>,
    /// Changes of the ledger that a full or broken disk did not take. Nothing
    /// but restarts hangs on them.
    unsaved: Vec<Change>,
    machine: Rc<M>,
    /// Counts connections to the runtime.
    epoch: u64,
    list_pause: Duration,
    /// Hands on what the machine tells; ends with the engine.
    watch: Option<smol::Task<()>>,
    line: Option<Line>,
    turns: Receiver<Turn>,
    turns_in: Sender<Turn>,
    outputs: Receiver<StreamOutput>,
    outputs_in: Sender<StreamOutput>,
    streams: BTreeMap<StreamId, (StreamHandle, smol::Task<()>)>,
    ready: bool,
}

impl<M: Machine> Engine<M> {
    /// Takes up what the store holds, before any network is touched.
    pub async fn new(
        executor: Rc<LocalExecutor<'static>>,
        setup: Setup,
        store: StoreDir,
        machine: Rc<M>,
    ) -> Result<Self, EngineError> {
        let mut records = store.store.records()?;
        records.starts = setup.starts;
        let start = Start {
            session: setup.session,
            facts: setup.facts.clone(),
        };
        let now = setup.clock.now();
        let (core, effects) = Core::restore(setup.identity.clone(), start, records, now);
        let (turns_in, turns) = bounded(OUTCOMES);
        let (outputs_in, outputs) = bounded(1);
        let mut engine = Self {
            setup,
            executor,
            core,
            store: Some(store),
            unsaved: Vec::new(),
            machine,
            epoch: 0,
            list_pause: LIST_AGAIN,
            watch: None,
            line: None,
            turns,
            turns_in,
            outputs,
            outputs_in,
            streams: BTreeMap::new(),
            ready: false,
        };
        engine.list(Duration::ZERO);
        engine.carry_out(effects).await;
        Ok(engine)
    }

    /// Tells the hub something that the agent's own start brought up.
    pub async fn tell(&mut self, event: Event) {
        self.step(event).await;
    }

    /// Runs until somebody ends it. Gives back the store.
    pub async fn run(mut self, asks: &Receiver<Ask>) -> Result<(Ending, StoreDir), EngineError> {
        if !self.core.is_revoked() {
            self.line = Some(Line::of_device(
                &self.executor,
                &self.setup.record,
                &self.setup.identity,
                self.setup.password.clone(),
                self.setup.session,
                self.setup.starts,
                self.setup.keep_alive,
            )?);
        } else {
            tracing::warn!(
                "the hub shut this device out: apps keep running, the hub is not called"
            );
        }
        let mut beat = notify::interval().map(Timer::interval);
        loop {
            match self.next(asks, &mut beat).await {
                Turn::Event(event) => self.step(event).await,
                Turn::Outcome(epoch, event) if epoch == self.epoch => self.step(event).await,
                Turn::Listed(epoch, result) if epoch == self.epoch => self.listed(result).await,
                Turn::Machine(epoch, event) if epoch == self.epoch => {
                    self.machine_event(event).await;
                }
                // Of an earlier connection: the list has said it all.
                Turn::Outcome(..) | Turn::Listed(..) | Turn::Machine(..) => {}
                Turn::Link(event) => self.link(event).await,
                Turn::Hung => self.line = None,
                Turn::Output(StreamOutput::Data(stream, channel, bytes)) => {
                    self.step(Event::StreamOutput {
                        stream,
                        channel,
                        bytes,
                    })
                    .await;
                }
                Turn::Output(StreamOutput::Taken(stream, bytes)) => {
                    self.step(Event::StreamInputTaken { stream, bytes }).await;
                }
                Turn::StreamEnded(stream, end) => {
                    // What it said before its end is still on its way.
                    while let Ok(output) = self.outputs.try_recv() {
                        if let StreamOutput::Data(stream, channel, bytes) = output {
                            self.step(Event::StreamOutput {
                                stream,
                                channel,
                                bytes,
                            })
                            .await;
                        }
                    }
                    if self.streams.remove(&stream).is_some() {
                        self.step(Event::StreamEnded { stream, end }).await;
                    }
                }
                Turn::Ask(ask) => {
                    if let Some(ending) = self.asked(ask) {
                        if let Some(line) = self.line.take() {
                            line.close().await;
                        }
                        let store = self.store.take().expect("only taken while committing");
                        return Ok((ending, store));
                    }
                }
                Turn::Wake => self.step(Event::Wake).await,
                Turn::Watchdog => notify::alive(),
            }
        }
    }

    async fn next(&self, asks: &Receiver<Ask>, beat: &mut Option<Timer>) -> Turn {
        let turn = async { self.turns.recv().await.expect("we hold a sender") };
        let ask = async {
            match asks.recv().await {
                Ok(ask) => Turn::Ask(ask),
                Err(_) => future::pending().await,
            }
        };
        let link = async {
            match &self.line {
                Some(line) => line.events.recv().await.map_or(Turn::Hung, Turn::Link),
                None => future::pending().await,
            }
        };
        // While the line is full, streams wait.
        let output = async {
            match &self.line {
                Some(line) if line.is_full() => future::pending().await,
                _ => Turn::Output(self.outputs.recv().await.expect("we hold a sender")),
            }
        };
        let wake = async {
            match self.core.wake_at() {
                Some(at_ms) => {
                    let now_ms = self.setup.clock.now().boot_ms;
                    Timer::after(Duration::from_millis(at_ms.saturating_sub(now_ms))).await;
                    Turn::Wake
                }
                None => future::pending().await,
            }
        };
        let watchdog = async {
            match beat {
                Some(timer) => {
                    timer.await;
                    Turn::Watchdog
                }
                None => future::pending().await,
            }
        };
        let calm = future::or(future::or(watchdog, ask), future::or(wake, output));
        future::or(future::or(turn, link), calm).await
    }

    async fn step(&mut self, event: Event) {
        let effects = self.core.handle(self.setup.clock.now(), event);
        self.carry_out(effects).await;
    }

    // --- events of the machine

    fn list(&mut self, pause: Duration) {
        self.epoch += 1;
        let (epoch, machine, turns) = (self.epoch, self.machine.clone(), self.turns_in.clone());
        self.spawn(async move {
            Timer::after(pause).await;
            let result = machine.list().await;
            let _ = turns.send(Turn::Listed(epoch, result)).await;
        });
    }

    async fn listed(&mut self, result: Result<Vec<(ContainerId, Status)>, String>) {
        match result {
            Ok(containers) => {
                self.list_pause = LIST_AGAIN;
                let (epoch, machine) = (self.epoch, self.machine.clone());
                let turns = self.turns_in.clone();
                let watch = self.executor.spawn(async move {
                    loop {
                        let event = machine.next_event().await;
                        let last = event == MachineEvent::Lost;
                        if turns.send(Turn::Machine(epoch, event)).await.is_err() || last {
                            return;
                        }
                    }
                });
                self.watch = Some(watch);
                self.step(Event::Listed(containers)).await;
                if !self.ready {
                    self.ready = true;
                    notify::ready();
                    tracing::info!("ready");
                }
            }
            Err(reason) => {
                tracing::error!("the container runtime cannot be reached: {reason}");
                self.step(Event::RuntimeLost { reason }).await;
                self.list(self.list_pause);
                self.list_pause = (self.list_pause * 2).min(LIST_AGAIN_CAP);
            }
        }
    }

    async fn machine_event(&mut self, event: MachineEvent) {
        match event {
            MachineEvent::Exited(id, exit) => self.step(Event::Exited { id, exit }).await,
            MachineEvent::Lost => {
                tracing::warn!("the keeper of the containers is gone; starting another");
                let reason = "the keeper of the containers ended".to_string();
                self.step(Event::RuntimeLost { reason }).await;
                self.list(Duration::ZERO);
            }
        }
    }

    // --- events of the line

    async fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { attempt, .. } => {
                tracing::info!("connected to the broker");
                let connection = attempt.0 as u32;
                self.step(Event::LinkUp { connection }).await;
            }
            LinkEvent::Down { reason } => {
                if self.core.offline_reason() != Some(&reason) {
                    tracing::warn!("{reason}");
                }
                self.step(Event::LinkDown { reason }).await;
            }
            LinkEvent::Message { topic, payload } => {
                self.step(Event::Message { topic, payload }).await;
            }
            LinkEvent::Refused { topic, reason } => {
                let message = format!("the broker does not take messages on {topic}: {reason}");
                tracing::warn!("{message}");
                let reason = "PublishRefused";
                self.step(Event::Trouble { reason, message }).await;
            }
            LinkEvent::Room => {
                if let Some(line) = &mut self.line {
                    line.flush();
                }
            }
        }
    }

    // --- effects

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(task).detach();
    }

    /// An action on the runtime whose outcome the core waits for.
    fn act(&self, action: impl Future<Output = Event> + 'static) {
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
    fn find_out(&self, action: impl Future<Output = Event> + 'static) {
        let turns = self.turns_in.clone();
        self.spawn(async move {
            let event = action.await;
            let _ = turns.send(Turn::Event(event)).await;
        });
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.effect(effect).await;
        }
    }

    async fn effect(&mut self, effect: Effect) {
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
            Effect::Create(create) => {
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
            Effect::ForgetExit { id } => self.try_to(format!("forgetting {id}"), async move {
                machine.forget_exit(&id).await
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
            Effect::PrepareImage(image) => self.find_out(async move {
                let manifest = image.manifest;
                let result = machine.prepare_image(image).await;
                Event::Image { manifest, result }
            }),
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
            Effect::OpenLog {
                log_name,
                persist,
                request,
            } => {
                let (id, credit) = (request.stream, request.credit);
                self.open(id, credit, |end| async move {
                    machine.run_log(log_name, persist, request, end).await
                });
            }
            Effect::OpenExec { id, request } => {
                let (stream, credit) = (request.stream, request.credit);
                self.open(stream, credit, |end| async move {
                    machine.run_exec(id, request, end).await
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

    fn input(&self, stream: StreamId, input: StreamInput) {
        if let Some((handle, _)) = self.streams.get(&stream) {
            handle.input(input);
        }
    }

    fn open<F: Future<Output = End> + 'static>(
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

    /// Commits, whatever it takes. Changes of the ledger alone may wait for a
    /// disk that works again: apps do not wait for them.
    async fn commit(&mut self, changes: Vec<Change>) {
        self.unsaved.extend(changes);
        loop {
            let changes = std::mem::take(&mut self.unsaved);
            let only_ledger = changes.iter().all(|c| matches!(c, Change::Ledger(..)));
            let store = self.store.take().expect("only taken while committing");
            let (store, changes, result) = smol::unblock(move || {
                let result = store.store.commit(&changes);
                (store, changes, result)
            })
            .await;
            let Err(error) = result else {
                self.store = Some(store);
                return;
            };
            let text = crate::machine::chain(&error);
            tracing::error!("{text}: is the disk full?");
            self.unsaved = changes;
            // redb takes no more after a failed write: open it anew.
            let (store, reopened) = smol::unblock(move || store.reopen()).await;
            self.store = Some(store);
            if let Err(error) = reopened {
                tracing::error!("{}", crate::machine::chain(&error));
            }
            if only_ledger {
                let message = format!("{text}; apps go on, but restarts are not remembered");
                self.find_out(async move {
                    Event::Trouble {
                        reason: "StoreFailed",
                        message,
                    }
                });
                return;
            }
            Timer::after(STORE_AGAIN).await;
        }
    }

    // --- questions from the control socket

    fn asked(&mut self, ask: Ask) -> Option<Ending> {
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
            } => {
                let found = parse_app(&app).and_then(|app| {
                    let container = container.map(|c| c.parse()).transpose();
                    let container = container.map_err(|e: skerry_wire::IdError| e.to_string())?;
                    let (log_name, persist) = self.core.find_log(&app, container.as_ref())?;
                    let request = LogsRequest {
                        stream: StreamId(0),
                        app,
                        container,
                        tail,
                        since_secs,
                        follow,
                        timestamps,
                        credit: u32::MAX,
                    };
                    Ok((log_name, persist, request))
                });
                match found {
                    Ok((log_name, persist, request)) => {
                        self.show_log(ask, log_name, persist, request)
                    }
                    Err(reason) => ask.finish(Answer::Failed(reason)),
                }
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
            Request::Reset => return Some(Ending::Reset(ask)),
        }
        None
    }

    /// A log for somebody at the machine: no credit, but a bounded channel.
    fn show_log(&self, ask: Ask, log_name: String, persist: bool, request: LogsRequest) {
        let machine = self.machine.clone();
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
            let run = machine.run_log(log_name, persist, request, end);
            let ((), end) = future::zip(shown, run).await;
            let _ = match end {
                End::Failed(reason) => ask.answers.send(Answer::Failed(reason)).await,
                End::Done | End::Exit(_) | End::Cancelled | End::Lost => {
                    ask.answers.send(Answer::Done(String::new())).await
                }
            };
        });
    }

    fn status(&self) -> serde_json::Value {
        let report = self.core.report(self.setup.clock.now());
        let identity = &self.setup.identity;
        let apps: Vec<_> = report
            .apps
            .iter()
            .map(|app| {
                let containers: Vec<_> = app
                    .containers
                    .iter()
                    .map(|c| {
                        let instance =
                            crate::core::name::InstanceName::new(&app.app, app.revision, &c.name);
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
                            "id": id.map(|id| id.to_string()),
                            "pid": pid,
                            "state": state_json(&c.state),
                            "restarts": c.restarts,
                            "lastExit": c.last_exit.map(|e| exit_text(&e)),
                        })
                    })
                    .collect();
                json!({
                    "namespace": app.app.namespace.as_str(),
                    "name": app.app.name.as_str(),
                    "revision": app.revision.short(),
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

/// The address without a password.
pub fn shown_broker(broker: &str) -> String {
    match (broker.split_once("://"), broker.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => broker.to_string(),
    }
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
