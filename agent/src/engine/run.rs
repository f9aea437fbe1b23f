//! The loop itself: its events, and how they reach the core.

use super::clock_watch::ClockWatch;
use super::collect::Collecting;
use super::commit::{Unsaved, may_wait};
use super::pause::Pause;
use crate::chain::chain;
use crate::clock::Clock;
use crate::control::Ask;
use crate::core::update::UpdateStart;
use crate::core::{Change, Core, Effect, Event, Identity, ImageStatus, Start};
use crate::device_api::{Asked, DeviceApi};
use crate::doctor::Believed;
use crate::image::Collected;
use crate::line::{Line, LineError};
use crate::machine::{Machine, MachineEvent, StreamHandle, StreamOutput};
use crate::notify;
use crate::runtime::{ContainerId, Status};
use crate::store::{IdentityRecord, StoreDir, StoreError};
use crate::update::Software;
use crate::update::starts::Starts;
use nix::time::{ClockId, clock_gettime};
use skerry_link::LinkEvent;
use skerry_wire::report::Facts;
use skerry_wire::stream::End;
use skerry_wire::update::ReleaseKind;
use skerry_wire::{AppRef, SessionId, StreamId};
use smol::channel::{Receiver, Sender, bounded};
use smol::{LocalExecutor, Timer, future};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Outcomes that wait for the loop.
const OUTCOMES: usize = 64;
/// Milliseconds before the first look at the machine's lasting troubles: while
/// apps start, the processor is theirs.
const FIRST_LOOK_MS: u64 = 3_000;
/// Milliseconds that the hub waits at most for a runtime that does not answer.
const CALL_WITHIN_MS: u64 = 3_000;
/// Milliseconds between two looks at the machine's lasting troubles.
const LOOK_AGAIN_MS: u64 = 10 * 60 * 1_000;
/// Milliseconds between two looks at what vouches for the wall clock: while
/// nothing does, CronJobs wait.
const CLOCK_AGAIN_MS: u64 = 60 * 1_000;

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
    /// Software in the other slot is to be tried.
    Switch {
        /// Which slots.
        kind: ReleaseKind,
        /// Time to confirm, in seconds.
        confirm_secs: u32,
    },
    /// This process is to be started anew.
    Restart,
    /// The machine is.
    Reboot,
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
    /// How often the agent was started, this time included. If that is not in
    /// the store yet, the hub is not called before it is.
    pub starts: u32,
    /// How long the line may be silent.
    pub keep_alive: Duration,
    /// The clocks.
    pub clock: Clock,
    /// Where the device's own software lies; `None` where it cannot be updated.
    pub software: Option<Arc<Software>>,
    /// Whose releases are believed, besides those of the identity.
    pub release_keys: Vec<[u8; 32]>,
    /// Below which apps find their sockets; `None` where no app may ask.
    pub api_dir: Option<PathBuf>,
}

pub(super) enum Turn {
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
    App(Asked),
    Wake,
    Save,
    Look,
    Collect,
    Collected(Result<Collected, String>),
    Clock,
    Watchdog,
}

/// The loop and what it holds.
pub struct Engine<M: Machine> {
    pub(super) setup: Setup,
    pub(super) executor: Rc<LocalExecutor<'static>>,
    pub(super) core: Core,
    pub(super) store: Option<StoreDir>,
    /// What a full or broken disk has not taken yet.
    pub(super) unsaved: Unsaved,
    pub(super) machine: Rc<M>,
    /// Counts connections to the runtime.
    pub(super) epoch: u64,
    /// Between a runtime that was lost and the next.
    pub(super) pause: Pause,
    /// When to look at the machine's lasting troubles, in milliseconds since
    /// boot.
    pub(super) look_at_ms: u64,
    /// Images that nobody needs.
    pub(super) collecting: Collecting,
    /// Notices that the wall clock is set; `None` where the kernel cannot.
    clock_watch: Option<ClockWatch>,
    /// When to see next whether it can be believed.
    clock_at_ms: u64,
    /// It could once in this run.
    pub(super) clock_known: bool,
    /// When the hub is called first, if the runtime has not been heard of
    /// before: apps begin to start before anything that needs the network.
    pub(super) call_by_ms: Option<u64>,
    /// Hands on what the machine tells; ends with the engine.
    pub(super) watch: Option<smol::Task<()>>,
    pub(super) line: Option<Line>,
    /// The line on trial: the broker's address and the pin.
    pub(super) trial_line: Option<(String, Option<[u8; 32]>)>,
    /// Lines that this run has had before.
    pub(super) lines: u32,
    /// Why the loop ends, once it does.
    pub(super) ending: Option<Ending>,
    pub(super) turns: Receiver<Turn>,
    pub(super) turns_in: Sender<Turn>,
    pub(super) outputs: Receiver<StreamOutput>,
    pub(super) outputs_in: Sender<StreamOutput>,
    pub(super) streams: BTreeMap<StreamId, (StreamHandle, smol::Task<()>)>,
    /// Logs that are being read.
    followed: Vec<Followed>,
    pub(super) ready: bool,
    /// Whether an app was begun to be started.
    pub(super) has_begun: bool,
    /// What apps ask with.
    pub(super) api: Option<DeviceApi>,
}

/// A log that is being read: whose, of which run, and what is dropped when
/// nothing more will be written.
struct Followed {
    app: AppRef,
    run: Option<u32>,
    over: Sender<()>,
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
        let uncounted = records.starts < setup.starts;
        records.starts = setup.starts;
        let start = Start {
            session: setup.session,
            facts: setup.facts.clone(),
            update: update_start(&setup),
        };
        let (now, starts) = (setup.clock.now(), setup.starts);
        let (core, effects) = Core::restore(setup.identity.clone(), start, records, now);
        let api = setup.api_dir.clone().map(DeviceApi::new);
        let (turns_in, turns) = bounded(OUTCOMES);
        let (outputs_in, outputs) = bounded(1);
        let mut engine = Self {
            setup,
            executor,
            core,
            store: Some(store),
            unsaved: Unsaved::default(),
            machine,
            epoch: 0,
            pause: Pause::default(),
            collecting: Collecting::default(),
            clock_watch: ClockWatch::new().ok(),
            clock_at_ms: now.boot_ms,
            clock_known: false,
            look_at_ms: now.boot_ms.saturating_add(FIRST_LOOK_MS),
            call_by_ms: Some(now.boot_ms.saturating_add(CALL_WITHIN_MS)),
            watch: None,
            line: None,
            trial_line: None,
            lines: 0,
            ending: None,
            turns,
            turns_in,
            outputs,
            outputs_in,
            streams: BTreeMap::new(),
            followed: Vec::new(),
            ready: false,
            has_begun: false,
            api,
        };
        engine.list(Duration::ZERO);
        if uncounted {
            engine.unsaved.add(vec![Change::Starts(starts)]);
        }
        for effect in effects {
            match effect {
                // What may wait goes to the disk with the first app's start.
                Effect::Commit(changes) if changes.iter().all(may_wait) => {
                    engine.unsaved.add(changes);
                }
                effect => engine.effect(effect).await,
            }
        }
        Ok(engine)
    }

    /// Tells the hub something that the agent's own start brought up.
    pub async fn tell(&mut self, event: Event) {
        self.step(event).await;
    }

    /// Runs until somebody ends it. Gives back the store.
    pub async fn run(mut self, asks: &Receiver<Ask>) -> Result<(Ending, StoreDir), EngineError> {
        if self.core.is_revoked() {
            tracing::warn!(
                "the hub shut this device out: apps keep running, the hub is not called"
            );
        }
        let mut beat = notify::interval().map(Timer::interval);
        loop {
            if let Some(ending) = self.ending.take() {
                return Ok((ending, self.hang_up().await));
            }
            match self.next(asks, &mut beat).await {
                Turn::Event(event) => self.event(event).await,
                Turn::Outcome(epoch, event) if epoch == self.epoch => self.event(event).await,
                Turn::Listed(epoch, result) if epoch == self.epoch => self.listed(result).await,
                Turn::Machine(epoch, event) if epoch == self.epoch => {
                    self.machine_event(event).await;
                }
                // Of an earlier connection: the list has said it all.
                Turn::Outcome(..) | Turn::Listed(..) | Turn::Machine(..) => {}
                Turn::Link(event) => self.link(event).await,
                Turn::Hung => self.line = None,
                Turn::Output(output) => self.output(output).await,
                Turn::StreamEnded(stream, end) => {
                    // What it said before its end is still on its way, among
                    // what others say.
                    while let Ok(output) = self.outputs.try_recv() {
                        self.output(output).await;
                    }
                    if self.streams.remove(&stream).is_some() {
                        self.step(Event::StreamEnded { stream, end }).await;
                    }
                }
                Turn::Ask(ask) => {
                    if let Some(ending) = self.asked(ask) {
                        return Ok((ending, self.hang_up().await));
                    }
                }
                Turn::App(asked) => self.app_asks(asked).await,
                Turn::Wake => self.step(Event::Wake).await,
                Turn::Save => self.save_and_call().await,
                Turn::Look => self.look(),
                Turn::Collect => self.collect(),
                Turn::Collected(result) => self.collected(result).await,
                Turn::Clock => self.look_at_clock().await,
                Turn::Watchdog => notify::alive(),
            }
        }
    }

    async fn hang_up(&mut self) -> StoreDir {
        if let Some(line) = self.line.take() {
            line.close().await;
        }
        self.store.take().expect("only taken while committing")
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
        let timers = [
            self.core.wake_at().map(|at_ms| (at_ms, Turn::Wake)),
            self.unsaved.again_at_ms().map(|at_ms| (at_ms, Turn::Save)),
            self.call_by_ms.map(|at_ms| (at_ms, Turn::Save)),
            Some((self.look_at_ms, Turn::Look)),
            self.collecting.at_ms.map(|at_ms| (at_ms, Turn::Collect)),
            Some((self.clock_at_ms, Turn::Clock)),
        ];
        let wake = async {
            let first = timers.into_iter().flatten().min_by_key(|(at_ms, _)| *at_ms);
            let (at_ms, turn) = first.expect("there is always a next look");
            let now_ms = self.setup.clock.now().boot_ms;
            Timer::after(Duration::from_millis(at_ms.saturating_sub(now_ms))).await;
            turn
        };
        let clock = async {
            match &self.clock_watch {
                Some(watch) => {
                    watch.set().await;
                    Turn::Clock
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
        let calm = future::or(clock, calm);
        future::or(future::or(turn, link), calm).await
    }

    /// The clock was set, or it is time to see what it is worth.
    async fn look_at_clock(&mut self) {
        let now_ms = self.setup.clock.now().boot_ms;
        self.recall_clock();
        let trusted = self.clock_known && self.setup.clock.is_plausible();
        let again_ms = if trusted {
            LOOK_AGAIN_MS
        } else {
            CLOCK_AGAIN_MS
        };
        self.clock_at_ms = now_ms.saturating_add(again_ms);
        self.step(Event::Clock { trusted }).await;
    }

    /// Whether the clock could be believed once in this boot: the kernel forgets
    /// within hours that it could.
    fn recall_clock(&mut self) {
        let now = self.setup.clock.now();
        let boot_id = self.core.facts().boot_id.clone();
        if self.setup.clock.is_trusted() {
            self.clock_known = true;
            let is = Believed::new(&boot_id, now);
            // Seldom: when there is none, or the clock was set.
            if let Some(run_dir) = &self.setup.api_dir
                && !Believed::read(run_dir).is_some_and(|was| was.holds(&boot_id, now))
                && let Err(error) = is.write(run_dir)
            {
                tracing::debug!("what the clock is worth is not kept: {error}");
            }
        } else if !self.clock_known
            && let Some(run_dir) = &self.setup.api_dir
        {
            let was = Believed::read(run_dir);
            self.clock_known = was.is_some_and(|was| was.holds(&boot_id, now));
        }
    }

    async fn event(&mut self, event: Event) {
        let is_over = match &event {
            Event::Created { .. } => true,
            Event::Image { result, .. } => !matches!(result, Ok(ImageStatus::Ready)),
            _ => false,
        };
        let runs = matches!(&event, Event::Created { result: Ok(_), .. });
        let failed = matches!(
            &event,
            Event::Image { result: Err(_), .. }
                | Event::BlobFailed { .. }
                | Event::BlobFinished { result: Err(_), .. }
        );
        if failed {
            // For want of room, perhaps.
            self.collect_now();
        }
        self.step(event).await;
        if is_over {
            self.start_is_over(runs).await;
        }
    }

    /// An app runs, or none can be started without the hub: what the start has
    /// put off goes on.
    async fn start_is_over(&mut self, runs: bool) {
        if self.call_by_ms.is_none() {
            return;
        }
        if !runs {
            notify::phase(notify::NO_APP);
        }
        self.save_and_call().await;
    }

    pub(super) async fn step(&mut self, event: Event) {
        // What a decision costs with the apps of this device, for whoever
        // wants to know (`--log debug`, tests/benches/apps.rs).
        let since = tracing::enabled!(tracing::Level::DEBUG).then(thread_time);
        let effects = self.core.handle(self.setup.clock.now(), event);
        if let Some(since) = since {
            let micros = thread_time().saturating_sub(since).as_micros();
            tracing::debug!("decided in {micros} us, {} effects", effects.len());
        }
        self.carry_out(effects).await;
        let core = &self.core;
        self.followed
            .retain(|log| !log.over.is_closed() && !core.has_written_all(&log.app, log.run));
    }

    /// A log is being read: what is dropped when nothing more will be written.
    pub(super) fn follow(&mut self, app: &AppRef, run: Option<u32>) -> Receiver<()> {
        let (over, receiver) = bounded(1);
        if !self.core.has_written_all(app, run) {
            let app = app.clone();
            self.followed.push(Followed { app, run, over });
        }
        receiver
    }

    // --- events of the machine

    async fn output(&mut self, output: StreamOutput) {
        let event = match output {
            StreamOutput::Data(stream, channel, bytes) => Event::StreamOutput {
                stream,
                channel,
                bytes,
            },
            StreamOutput::Taken(stream, bytes) => Event::StreamInputTaken { stream, bytes },
        };
        self.step(event).await;
    }

    /// Sees what is wrong with the machine now. The core tells what changed.
    fn look(&mut self) {
        let now_ms = self.setup.clock.now().boot_ms;
        self.look_at_ms = now_ms.saturating_add(LOOK_AGAIN_MS);
        let machine = self.machine.clone();
        self.find_out(async move { Event::Conditions(machine.conditions().await) });
        self.collect_soon();
    }

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
                self.pause.reached(self.setup.clock.now().boot_ms);
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
                if !self.has_begun {
                    self.start_is_over(false).await;
                }
                if !self.ready {
                    self.ready = true;
                    if let Some(run_dir) = &self.setup.api_dir {
                        Starts::new(run_dir).forget_when_asked_to_end();
                    }
                    notify::ready();
                    tracing::info!("ready");
                }
            }
            Err(reason) => {
                tracing::error!("the container runtime cannot be reached: {reason}");
                self.step(Event::RuntimeLost { reason }).await;
                let pause = self.pause.lost(self.setup.clock.now().boot_ms);
                self.list(pause);
            }
        }
    }

    async fn machine_event(&mut self, event: MachineEvent) {
        match event {
            MachineEvent::Trouble(reason, message) => {
                tracing::warn!("{message}");
                self.step(Event::Trouble { reason, message }).await;
            }
            MachineEvent::Exited(id, exit) => self.step(Event::Exited { id, exit }).await,
            MachineEvent::Network {
                addresses,
                troubles,
            } => {
                let event = Event::Network {
                    addresses,
                    troubles,
                };
                self.step(event).await;
            }
            MachineEvent::ImageLost(manifest, reason) => {
                tracing::warn!("{reason}");
                self.step(Event::ImageLost { manifest, reason }).await;
            }
            MachineEvent::Devices(seen) => self.step(Event::Devices(seen)).await,
            MachineEvent::Lost => {
                tracing::warn!("the keeper of the containers is gone; starting another");
                let reason = "the keeper of the containers ended".to_string();
                self.step(Event::RuntimeLost { reason }).await;
                let pause = self.pause.lost(self.setup.clock.now().boot_ms);
                self.list(pause);
            }
        }
    }

    // --- events of the line

    /// Brings to the disk what waits for it, the count of starts among it, and
    /// sets the line up.
    async fn save_and_call(&mut self) {
        self.call_by_ms = None;
        self.commit(Vec::new()).await;
        self.call().await;
    }

    /// Sets the line up, if there shall be one. Its numbers come from the
    /// count of starts, so that must be on the disk. Trouble with the line
    /// leaves apps alone.
    pub(super) async fn call(&mut self) {
        if self.line.is_some() || self.core.is_revoked() || self.unsaved.has_starts() {
            return;
        }
        let mut record = self.setup.record.clone();
        if let Some((broker, tls_pin)) = self.trial_line.clone() {
            record.broker = broker;
            record.tls_pin = tls_pin;
        }
        let line = Line::of_device(
            &self.executor,
            &record,
            &self.setup.identity,
            self.setup.password.clone(),
            self.setup.session,
            self.setup.starts,
            connections_before(self.lines),
            self.setup.keep_alive,
        );
        match line {
            Ok(line) => self.line = Some(line),
            Err(error) => {
                let reason = chain(&error);
                tracing::error!("{reason}");
                self.step(Event::LinkDown { reason }).await;
            }
        }
    }

    async fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { attempt, .. } => {
                tracing::info!("connected to the broker");
                let connection = (attempt.0 as u32).wrapping_add(connections_before(self.lines));
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
}

/// What this thread has used of a processor: the core waits for nothing, and
/// what else the machine does is not its cost.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Connections of this run have numbers that rise, also from line to line:
/// more attempts than a line makes before it is changed.
fn connections_before(lines: u32) -> u32 {
    lines.wrapping_mul(1 << 20)
}

fn update_start(setup: &Setup) -> UpdateStart {
    let software = setup.software.as_ref();
    let mut release_keys = setup.record.release_keys.clone();
    release_keys.extend(&setup.release_keys);
    UpdateStart {
        release_keys,
        slots: software
            .map(|software| software.states())
            .unwrap_or_default(),
        line: Some((setup.record.broker.clone(), setup.record.tls_pin)),
    }
}
