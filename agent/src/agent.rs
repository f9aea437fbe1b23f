//! The agent's life: opens the store, becomes a device if it is none yet, then
//! runs the engine; and what `reset` takes away.

use crate::apart::{Ended, run_apart};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::{self, Answer, Ask, Request};
use crate::core::join::{Join, JoinStep};
use crate::core::{Event, Identity};
use crate::doctor::DATA_DIR_UNWRITABLE;
use crate::engine::{Ending, Engine, EngineError, Setup};
use crate::facts;
use crate::line::{Line, LineError};
use crate::machine::{
    ConfigFiles, Machine, MachineDevices, Places, RealMachine, Volumes, chain, unmount_below,
};
use crate::network::Pool;
use crate::notify;
use crate::pages;
use crate::runtime::{RuntimeConfig, Status, launch_ahead};
use crate::store::{self, IdentityRecord, Reopened, Standing, StoreDir, StoreError};
use crate::update::slot::{Switch, Trial};
use crate::update::{Software, slots_of};
use crate::volatile;
use getrandom::SysRng;
use rand_core::UnwrapErr;
use serde_json::json;
use skerry_link::LinkEvent;
use skerry_wire::message::JoinRequest;
use skerry_wire::seal::KeyPair;
use skerry_wire::token::JoinToken;
use skerry_wire::update::ReleaseKind;
use skerry_wire::{DeviceId, FleetId, SessionId};
use smol::channel::{Receiver, unbounded};
use smol::{LocalExecutor, Timer, future};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long containers get to stop when everything is taken away.
const RESET_GRACE: Duration = Duration::from_secs(10);
/// When the start is over: joined, connected, apps begun.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// Between two times that code is given back which a burst of work has needed:
/// as seldom as the machine is looked at anyway.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10 * 60);
/// What the child that opens the store says when another process holds it.
const PROBE_LOCKED: u8 = 3;

/// How long an agent that was killed may still hold the store: its threads end
/// one after the other, one that waits for a slow disk only when that answers,
/// and a process that it was about to start holds its files for a moment more.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries meanwhile.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The store.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The line while joining.
    #[error("no line to the broker")]
    Line(#[from] LineError),
    /// The image store.
    #[error("the image store cannot be used")]
    Images(#[source] Box<crate::image::StoreError>),
    /// The pool of addresses.
    #[error(transparent)]
    Pool(crate::network::lease::PoolError),
    /// The control socket.
    #[error("the control socket in {} cannot be made", dir.display())]
    Control {
        /// The run directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token.
    #[error(transparent)]
    Token(#[from] skerry_wire::token::TokenError),
    /// The hub said no.
    #[error("the hub refused this device: {0}")]
    Refused(String),
    /// The disk would not keep it.
    #[error("{0}")]
    NotForGood(String),
    /// The stored key.
    #[error("the stored identity is damaged: 'skerry-agent reset', then join again")]
    Identity,
}

/// Why an agent ends that nobody asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another program is on trial: become its guard.
    Guard,
    /// End; whoever watches over this process starts what is in use now.
    End,
    /// The machine starts anew.
    Reboot,
}

/// Opens the store, with another process looking at it first: redb may panic
/// on a file that is damaged enough.
pub fn open_store(config: &Config, exe: &Path) -> Result<StoreDir, StoreError> {
    unlocked(|| StoreDir::open(&config.data_dir, probe_with(exe)))
}

/// Where memory is mounted that takes the place of a disk.
fn memory_place(config: &Config) -> PathBuf {
    config.run_dir.join("memory")
}

/// The same for the agent of a device: if its disk takes no writes, what is on
/// it is used, and memory for the rest.
fn open_store_or_memory(config: &Config, exe: &Path) -> Result<StoreDir, StoreError> {
    let memory = memory_place(config);
    let error = match open_store(config, exe) {
        Ok(store) => return Ok(store.or_memory(memory)),
        Err(error @ StoreError::Locked) => return Err(error),
        Err(error) => error,
    };
    match store::lay_memory(&config.data_dir, &memory) {
        Ok(Reopened::Memory) => open_store(config, exe).map(|store| store.or_memory(memory)),
        Ok(Reopened::Same) => Err(error),
        Err(why) => {
            tracing::error!("{}", chain(&why));
            Err(error)
        }
    }
}

/// Tries again for a while what another agent keeps from being opened, which
/// may be about to end.
fn unlocked<T>(mut open: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let begun = std::time::Instant::now();
    let mut waited = false;
    loop {
        match open() {
            Err(StoreError::Locked) if begun.elapsed() < LOCK_WITHIN => {
                waited = true;
                wait_for_lock();
            }
            other => {
                if waited {
                    let millis = begun.elapsed().as_millis();
                    tracing::info!("waited {millis} ms for the agent before this one to end");
                }
                return other;
            }
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "redb takes the lock itself, and only tries to"
)]
fn wait_for_lock() {
    std::thread::sleep(LOCK_AGAIN);
}

/// Opens a store in another process: a copy of this one as long as it has no
/// further threads, as at the start.
fn probe_with(exe: &Path) -> impl Fn(&Path) -> Result<(), StoreError> + '_ {
    move |path| {
        let ended = run_apart(|| probe(path)).or_else(|_| {
            let output = Command::new(exe)
                .arg("probe-store")
                .arg(path)
                .stdin(Stdio::null())
                .output()?;
            Ok::<_, std::io::Error>(Ended {
                code: output.status.code(),
                text: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        });
        // No other process is not the store's fault: open it without looking.
        let Ok(ended) = ended else { return Ok(()) };
        match ended.code {
            Some(0) => Ok(()),
            Some(code) if code == i32::from(PROBE_LOCKED) => Err(StoreError::Locked),
            Some(_) | None => {
                let last = ended.text.lines().next_back().unwrap_or("it crashed");
                Err(StoreError::Damaged(last.to_string()))
            }
        }
    }
}

/// Opens a store where a crash does no harm: the exit code of that process.
pub fn probe(path: &Path) -> u8 {
    match store::probe(path) {
        Ok(()) => 0,
        Err(StoreError::Locked) => PROBE_LOCKED,
        Err(error) => {
            eprintln!("{}", chain(&error));
            1
        }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives randomness");
    bytes
}

/// A name from the host's own, where nobody said one.
fn usual_name(facts: &skerry_wire::report::Facts) -> DeviceId {
    let lower = facts.hostname.to_ascii_lowercase();
    let first = lower.split('.').next().unwrap_or_default();
    let plain: String = first
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    DeviceId::new(plain.trim_matches('-'))
        .unwrap_or_else(|_| DeviceId::new("device").expect("a valid name"))
}

/// What every phase needs.
struct Agent {
    config: Config,
    clock: Clock,
    executor: Rc<LocalExecutor<'static>>,
    exe: PathBuf,
    asks: Receiver<Ask>,
    session: SessionId,
    /// The keeper's start, if it was begun ahead of the store.
    launch: Cell<Option<Child>>,
}

/// Runs until the device's software changes. `exe` is this program's file.
pub fn run(config: Config, clock: Clock, exe: PathBuf) -> Result<Next, AgentError> {
    let slots = slots_of(&config, &exe);
    let on_trial = slots.iter().any(|slots| slots.trial() == Trial::Running);
    let store_file = store::file(&config.data_dir);
    if on_trial && store_file.exists() {
        // Whoever was here before can read it. Moving it aside would make up
        // for our fault at their cost.
        unlocked(|| probe_with(&exe)(&store_file))?;
    }
    // A device that is none yet has nothing to run.
    let joined = store::look_up_identity(&config.data_dir)
        .is_some_and(|identity| matches!(identity.standing, Standing::Joined { .. }));
    if joined && volatile::is_read_only(&config.data_dir) {
        // Before the keeper looks at it.
        store::lay_memory(&config.data_dir, &memory_place(&config))?;
    }
    let launch = joined.then(|| launch_ahead(&runtime_config(&config, &exe)));
    let launch = launch.flatten();
    let store = match joined {
        true => open_store_or_memory(&config, &exe)?,
        false => open_store(&config, &exe)?.or_memory(memory_place(&config)),
    };
    notify::phase("store open");
    if !on_trial {
        store.forget_snapshot();
    }
    drop(slots);
    let executor = Rc::new(LocalExecutor::new());
    smol::block_on(executor.run(async {
        let control_error = |source| AgentError::Control {
            dir: config.run_dir.clone(),
            source,
        };
        let listener = control::listen(&config.run_dir).map_err(control_error)?;
        let (asks_in, asks) = unbounded();
        let server = executor.clone();
        executor
            .spawn(async move { control::serve(&server, listener, asks_in).await })
            .detach();
        executor.spawn(give_back_pages()).detach();
        let agent = Agent {
            config: config.clone(),
            clock,
            executor: executor.clone(),
            exe,
            asks,
            session: SessionId(u64::from_le_bytes(random())),
            launch: Cell::new(launch),
        };
        agent.live(store).await
    }))
}

/// Keeps what an idle agent holds small.
async fn give_back_pages() {
    let mut wait = SETTLED_AFTER;
    loop {
        Timer::after(wait).await;
        if let Err(error) = pages::give_back_code() {
            tracing::debug!("code that is not used cannot be given back: {error}");
            return;
        }
        wait = GIVE_BACK_EVERY;
    }
}

impl Agent {
    async fn live(&self, mut store: StoreDir) -> Result<Next, AgentError> {
        if let Some(broken) = &store.broken {
            tracing::error!("the store was damaged and moved aside ({broken}); apps keep running");
        }
        let mut asked: Option<Ask> = None;
        loop {
            // The engine beats for itself; waiting for a token is life, too.
            let beat = self.executor.spawn(notify::beat());
            let record = match (store.store.identity()?, &asked) {
                (Some(record), None) if !self.has_another_token(&record) => record,
                _ => self.new_identity(&store, &mut asked).await?,
            };
            let (record, starts) = match &record.standing {
                // The engine brings it to the disk before it calls the hub: apps
                // need not wait for that.
                Standing::Joined { .. } => (record, store.store.starts()?.saturating_add(1)),
                Standing::Joining { .. } => {
                    let starts = store.store.count_start()?;
                    match self.join(&store, record, starts, &mut asked).await? {
                        Some(record) => (record, starts),
                        None => continue,
                    }
                }
            };
            let Standing::Joined { device, password } = record.standing.clone() else {
                continue;
            };
            let key = record.key_pair().ok_or(AgentError::Identity)?;
            let identity = Identity {
                fleet: record.fleet.clone(),
                device: device.clone(),
                key,
                hub: record.hub,
            };
            tracing::info!("device {device} of fleet {}", record.fleet);
            let machine = Rc::new(self.machine(&device)?);
            let slots = slots_of(&self.config, &self.exe);
            let software = Arc::new(Software::new(self.config.clone(), slots));
            let setup = Setup {
                record,
                identity,
                password,
                facts: facts_of(&self.config),
                session: self.session,
                starts,
                keep_alive: self.config.keep_alive,
                clock: self.clock,
                software: Some(software.clone()),
                release_keys: self.config.release_keys.clone(),
                api_dir: Some(self.config.run_dir.clone()),
            };
            let broken = store.broken.take();
            let mut engine =
                Engine::new(self.executor.clone(), setup, store, machine.clone()).await?;
            if let Some(broken) = broken {
                let message = format!(
                    "the agent's store was damaged and moved aside ({broken}); it gets everything from the hub again"
                );
                engine
                    .tell(Event::Trouble {
                        reason: "StoreDamaged",
                        message,
                    })
                    .await;
            }
            if volatile::is_laid(&self.config.data_dir) {
                let reason = DATA_DIR_UNWRITABLE;
                let message = volatile::told(&self.config.data_dir);
                engine.tell(Event::Trouble { reason, message }).await;
            }
            drop(beat);
            let (ending, given_back) = engine.run(&self.asks).await?;
            store = match ending {
                Ending::Rejoin(ask) => {
                    asked = Some(ask);
                    given_back
                }
                Ending::Restart => return Ok(Next::End),
                Ending::Reboot => return Ok(Next::Reboot),
                Ending::Switch { kind, confirm_secs } => {
                    drop(given_back);
                    match self.switch(&software, kind, confirm_secs) {
                        Ok(next) => return Ok(next),
                        Err(reason) => {
                            tracing::error!("the other slot is not taken: {reason}");
                            // What is told when the store is read again.
                            if let Err(error) = software.revert(kind, &reason) {
                                tracing::error!("{error}");
                            }
                        }
                    }
                    open_store_or_memory(&self.config, &self.exe)?
                }
                Ending::Reset(ask) => {
                    let result = empty(machine.as_ref(), Forget::All).await;
                    let store = self.erase(given_back)?;
                    match result {
                        Ok(()) => ask.finish(Answer::Done(
                            "this device is empty and has left its fleet".into(),
                        )),
                        Err(reason) => ask.finish(Answer::Failed(reason)),
                    }
                    store
                }
            };
        }
    }

    /// Makes the other slot the next one, with the store closed and a copy of
    /// it beside it.
    fn switch(&self, software: &Software, kind: ReleaseKind, secs: u32) -> Result<Next, String> {
        store::take_snapshot(&self.config.data_dir).map_err(|e| chain(&e))?;
        Ok(match software.try_next(kind, secs)? {
            Switch::RestartAgent => Next::Guard,
            Switch::RestartMachine => Next::Reboot,
        })
    }

    fn machine(&self, device: &DeviceId) -> Result<RealMachine, AgentError> {
        let machine = real_machine(&self.config, &self.exe, device.as_str())?;
        machine.wait_for_launch(self.launch.take());
        Ok(machine)
    }

    /// Leaves nothing but an empty store.
    fn erase(&self, store: StoreDir) -> Result<StoreDir, AgentError> {
        store.erase()?;
        remove_files(&self.config);
        Ok(open_store(&self.config, &self.exe)?.or_memory(memory_place(&self.config)))
    }

    /// Waits for a token, makes keys, and stores both before anybody is asked.
    async fn new_identity(
        &self,
        store: &StoreDir,
        asked: &mut Option<Ask>,
    ) -> Result<IdentityRecord, AgentError> {
        let mut configured = match asked {
            None => self.config.join_token.clone(),
            Some(_) => None,
        };
        loop {
            let text = match (configured.take(), asked.as_ref().map(|ask| &ask.request)) {
                (Some(token), _) => token,
                (None, Some(Request::Join { token, .. })) => token.clone(),
                (None, _) => {
                    *asked = None;
                    tracing::info!("not joined yet: skerry-agent join TOKEN");
                    notify::phase(notify::NO_APP);
                    notify::ready();
                    *asked = self.wait_for_join().await;
                    continue;
                }
            };
            let token: JoinToken = match text.parse() {
                Ok(token) => token,
                Err(error) => {
                    let error: skerry_wire::token::TokenError = error;
                    tracing::error!("{error}");
                    if let Some(ask) = asked.take() {
                        ask.finish(Answer::Failed(error.to_string()));
                    }
                    continue;
                }
            };
            let key = KeyPair::generate(&mut UnwrapErr(SysRng));
            let record = IdentityRecord {
                key: key.secret_bytes(),
                fleet: token.fleet,
                broker: token.broker,
                hub: token.hub_key,
                tls_pin: token.tls_pin,
                standing: Standing::Joining {
                    token_id: token.secret.id,
                    token_secret: token.secret.secret,
                },
                release_keys: Vec::new(),
            };
            store.set_identity(&record, true)?;
            return Ok(record);
        }
    }

    /// Answers questions until one is a join.
    async fn wait_for_join(&self) -> Option<Ask> {
        loop {
            let ask = self.asks.recv().await.ok()?;
            match ask.request {
                Request::Join { .. } => return Some(ask),
                Request::Status
                | Request::Logs { .. }
                | Request::Exec { .. }
                | Request::Volumes
                | Request::RemoveVolume { .. }
                | Request::Reset => {
                    unjoined(ask, "waiting for 'skerry-agent join TOKEN'");
                }
            }
        }
    }

    /// Asks to join until there is an answer. `None` means to begin anew, with
    /// another token.
    async fn join(
        &self,
        store: &StoreDir,
        record: IdentityRecord,
        starts: u32,
        asked: &mut Option<Ask>,
    ) -> Result<Option<IdentityRecord>, AgentError> {
        let token = record.token().ok_or(AgentError::Identity)?;
        let key = record.key_pair().ok_or(AgentError::Identity)?;
        let facts = facts_of(&self.config);
        let wanted = match asked.as_ref().map(|ask| &ask.request) {
            Some(Request::Join {
                name: Some(name), ..
            }) => DeviceId::new(name.clone()).ok(),
            _ => None,
        };
        let name = wanted
            .or_else(|| self.config.name.clone())
            .unwrap_or_else(|| usual_name(&facts));
        let attempt: String = random::<16>().iter().map(|b| format!("{b:02x}")).collect();
        let request = JoinRequest { name, facts };
        let mut join = Join::new(
            record.fleet.clone(),
            attempt.clone(),
            key,
            record.hub,
            request,
            starts,
        );
        let mut line = Line::of_joiner(
            &self.executor,
            &record,
            &token,
            &attempt,
            join.reply_topic(),
        )?;
        let tell = |asked: &Option<Ask>, text: String| {
            tracing::info!("{text}");
            if let Some(ask) = asked {
                let _ = ask.answers.try_send(Answer::Note(text));
            }
        };
        tell(
            asked,
            format!(
                "joining fleet {} at {}",
                record.fleet,
                crate::engine::shown_broker(&record.broker)
            ),
        );
        notify::phase(notify::NO_APP);
        notify::ready();
        let mut state = "asking the hub".to_string();
        enum Turn {
            Link(LinkEvent),
            Ask(Ask),
            Wake,
        }
        loop {
            let link = async {
                match line.events.recv().await {
                    Ok(event) => Turn::Link(event),
                    Err(_) => future::pending().await,
                }
            };
            let ask = async {
                match self.asks.recv().await {
                    Ok(ask) => Turn::Ask(ask),
                    Err(_) => future::pending().await,
                }
            };
            let wake = async {
                match join.wake_at() {
                    Some(at) => {
                        let now = self.clock.now().boot_ms;
                        Timer::after(Duration::from_millis(at.saturating_sub(now))).await;
                        Turn::Wake
                    }
                    None => future::pending().await,
                }
            };
            let now = || self.clock.now();
            let step = match future::or(link, future::or(ask, wake)).await {
                Turn::Link(LinkEvent::Up { .. }) => join.link_up(now()),
                Turn::Link(LinkEvent::Down { reason }) => {
                    join.link_down();
                    if state != reason {
                        tell(asked, reason.clone());
                        state = reason;
                    }
                    None
                }
                Turn::Link(LinkEvent::Message { topic, payload }) => {
                    Some(join.heard(now(), &topic, &payload))
                }
                Turn::Link(LinkEvent::Refused { reason, .. }) => Some(JoinStep::Refused {
                    reason: format!("the broker does not take the question: {reason}"),
                }),
                Turn::Link(LinkEvent::Room) => {
                    line.flush();
                    None
                }
                Turn::Wake => join.wake(now()),
                Turn::Ask(ask) => match ask.request {
                    Request::Join { .. } => {
                        // Another token: begin anew with that.
                        *asked = Some(ask);
                        return Ok(None);
                    }
                    Request::Status
                    | Request::Logs { .. }
                    | Request::Exec { .. }
                    | Request::Volumes
                    | Request::RemoveVolume { .. } => {
                        unjoined(ask, &state);
                        None
                    }
                    Request::Reset => {
                        unjoined(ask, &state);
                        None
                    }
                },
            };
            match step {
                None => {}
                Some(JoinStep::Ask { seq, body }) => {
                    line.ask_to_join(&record, &token, join.request_topic(), seq, &body)?;
                }
                Some(JoinStep::Waiting { device }) => {
                    let text = format!("waiting for somebody to say: skerry approve {device}");
                    if state != text {
                        tell(asked, text.clone());
                        state = text;
                    }
                }
                Some(JoinStep::Accepted {
                    device,
                    password,
                    release_keys,
                }) => {
                    let joined = IdentityRecord {
                        standing: Standing::Joined {
                            device: device.clone(),
                            password,
                        },
                        release_keys,
                        ..record
                    };
                    store.set_identity(&joined, true)?;
                    line.close().await;
                    let text = format!("joined fleet {} as {device}", joined.fleet);
                    tracing::info!("{text}");
                    if let Some(ask) = asked.take() {
                        ask.finish(Answer::Done(text));
                    }
                    return Ok(Some(joined));
                }
                Some(JoinStep::Refused { reason }) => {
                    tracing::error!("the hub refused this device: {reason}");
                    if let Some(ask) = asked.take() {
                        ask.finish(Answer::Failed(reason));
                    }
                    line.close().await;
                    *asked = self.wait_for_join().await;
                    return Ok(None);
                }
                Some(JoinStep::Unheard(refusal)) => {
                    tracing::warn!("an answer that is not the hub's: {refusal}");
                }
            }
        }
    }

    /// Whether the configuration now names another token than the one that
    /// the device still asks with.
    fn has_another_token(&self, record: &IdentityRecord) -> bool {
        let configured = self.config.join_token.as_deref();
        let configured = configured.and_then(|text| text.parse::<JoinToken>().ok());
        match (configured, record.token()) {
            (Some(configured), Some(stored)) => configured.secret.id != stored.id,
            (Some(_) | None, Some(_) | None) => false,
        }
    }
}

/// What a device that is none can say.
fn unjoined(ask: Ask, state: &str) {
    let answer = match ask.request {
        Request::Status => Answer::Status(json!({
            "device": null,
            "hub": {"kind": "joining", "reason": state},
            "version": crate::release(),
            "apps": [],
        })),
        Request::Reset
        | Request::Logs { .. }
        | Request::Exec { .. }
        | Request::Volumes
        | Request::RemoveVolume { .. }
        | Request::Join { .. } => {
            Answer::Failed(format!("this device has not joined a fleet: {state}"))
        }
    };
    ask.finish(answer);
}

/// What the machine is, and what of it apps may have.
fn facts_of(config: &Config) -> skerry_wire::report::Facts {
    let mut facts = facts::read();
    facts.allocatable = config.supply.allocatable(&facts);
    facts
}

fn runtime_config(config: &Config, exe: &Path) -> RuntimeConfig {
    RuntimeConfig {
        run_dir: config.run_dir.clone(),
        data_dir: config.data_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        exe: exe.to_owned(),
        apps_memory: None,
    }
}

fn real_machine(config: &Config, exe: &Path, device: &str) -> Result<RealMachine, AgentError> {
    let runtime = runtime_config(config, exe);
    let places = Places {
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        host_paths: config.host_paths.clone(),
        allow_privileged: config.allow_privileged,
        users: config.users,
        log_max_bytes: config.log_max_bytes,
        device: device.to_string(),
        config_files: Arc::new(ConfigFiles::default()),
        volumes: Arc::new(Volumes::in_data_dir(&config.data_dir)),
        devices: Arc::new(MachineDevices::new(config.supply.clone(), &config.run_dir)),
    };
    let pool = Pool::new(config.network_pool, device).map_err(AgentError::Pool)?;
    RealMachine::new(runtime, places, pool, config.images)
        .map_err(|e| AgentError::Images(Box::new(e)))
}

/// Which ends are forgotten, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forget {
    /// All: the device leaves its fleet.
    All,
    /// Those that we brought about. A job that ended by itself, and whose end
    /// no agent has read yet, must not run twice.
    Stopped,
}

/// Stops and removes every container, and ends the runtime. Does all it can,
/// then says what could not be done.
async fn empty(machine: &impl Machine, forget: Forget) -> Result<(), String> {
    let containers = machine.list().await?;
    let mut running: Vec<_> = containers
        .iter()
        .filter(|(_, status)| matches!(status, Status::Running { .. }))
        .map(|(id, _)| id.clone())
        .collect();
    for id in &running {
        let _ = machine.stop(id).await;
    }
    let ended = async {
        while !running.is_empty() {
            match machine.next_event().await {
                crate::machine::MachineEvent::Exited(id, _) => running.retain(|r| *r != id),
                crate::machine::MachineEvent::Network { .. }
                | crate::machine::MachineEvent::ImageLost(..)
                | crate::machine::MachineEvent::Devices(_) => {}
                crate::machine::MachineEvent::Lost => return,
                crate::machine::MachineEvent::Trouble(..) => {}
            }
        }
    };
    let late = async {
        Timer::after(RESET_GRACE).await;
    };
    future::or(ended, late).await;
    let mut errors = Vec::new();
    for (id, status) in containers {
        if let Err(reason) = machine.remove(&id).await {
            errors.push(format!("{id}: {reason}"));
        }
        if forget == Forget::All || matches!(status, Status::Running { .. }) {
            let _ = machine.forget_exit(&id).await;
        }
    }
    if let Err(reason) = machine.shut_down().await {
        errors.push(reason);
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("; "))
    }
}

/// Removes what is ours in both directories; what cannot be removed is logged.
fn remove_files(config: &Config) {
    let data = ["images", "volumes", "containers", "exits", "logs", "users"]
        .map(|d| config.data_dir.join(d));
    let run = [
        "containers",
        "logs",
        "names",
        "scratch",
        "configs",
        "stop-signals",
        "container-images",
        "api",
    ]
    .map(|d| config.run_dir.join(d));
    for dir in [
        config.run_dir.join("scratch"),
        ConfigFiles::root(&config.run_dir),
    ] {
        unmount_below(&dir);
    }
    for dir in data.iter().chain(&run) {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}", dir.display());
            }
            _ => {}
        }
    }
}

/// What a device is called that has not joined.
const NAMELESS: &str = "device";

/// The device's name, which its interfaces are named after.
fn known_name(store: &StoreDir) -> String {
    match store.store.identity() {
        Ok(Some(IdentityRecord {
            standing: Standing::Joined { device, .. },
            ..
        })) => device.to_string(),
        _ => NAMELESS.into(),
    }
}

/// `reset` without a running agent.
pub fn reset_alone(config: &Config, exe: &Path) -> Result<(), String> {
    if let Some(reason) = volatile::why_not_for_good(&config.data_dir) {
        return Err(reason);
    }
    let store = open_store(config, exe).map_err(|e| chain(&e))?;
    let machine = real_machine(config, exe, &known_name(&store)).map_err(|e| chain(&e))?;
    let result = smol::block_on(LocalExecutor::new().run(empty(&machine, Forget::All)));
    store.erase().map_err(|e| chain(&e))?;
    remove_files(config);
    result
}

/// `stop`, for a device whose agent is not running and is not to come back
/// soon: ends every container and the runtime. What is stored stays, and the
/// next agent starts the apps again, as after a power cut.
pub fn stop_alone(config: &Config, exe: &Path) -> Result<(), String> {
    // A store that cannot be read keeps nothing from being stopped.
    let name = open_store(config, exe).map_or_else(|_| NAMELESS.into(), |s| known_name(&s));
    let machine = real_machine(config, exe, &name).map_err(|e| chain(&e))?;
    smol::block_on(LocalExecutor::new().run(empty(&machine, Forget::Stopped)))
}

/// `join` without a running agent: joins, and leaves the rest to the next
/// `run`.
pub fn join_alone(
    config: Config,
    clock: Clock,
    exe: PathBuf,
    token: String,
) -> Result<String, AgentError> {
    if let Some(reason) = volatile::why_not_for_good(&config.data_dir) {
        return Err(AgentError::NotForGood(reason));
    }
    let store = open_store(&config, &exe)?;
    if let Some(IdentityRecord {
        standing: Standing::Joined { device, .. },
        fleet,
        ..
    }) = store.store.identity()?
        && !store.store.records()?.revoked
    {
        return Err(AgentError::Refused(already(&device, &fleet)));
    }
    let executor = Rc::new(LocalExecutor::new());
    let (_asks_in, asks) = unbounded();
    let agent = Agent {
        config: Config {
            join_token: Some(token),
            ..config
        },
        clock,
        executor: executor.clone(),
        exe,
        asks,
        session: SessionId(u64::from_le_bytes(random())),
        launch: Cell::new(None),
    };
    smol::block_on(executor.run(async {
        let starts = store.store.count_start()?;
        // A wrong token must not wait for another one.
        let token: JoinToken = agent
            .config
            .join_token
            .clone()
            .unwrap_or_default()
            .parse()?;
        drop(token);
        let record = agent.new_identity(&store, &mut None).await?;
        let (answers, heard) = smol::channel::bounded(64);
        let request = Request::Join {
            token: String::new(),
            name: None,
        };
        let mut asked = Some(Ask {
            request,
            answers,
            input: smol::channel::bounded(1).1,
        });
        let joining = async {
            let mut last = Ok(String::new());
            while let Ok(answer) = heard.recv().await {
                match answer {
                    Answer::Note(text) => eprintln!("{text}"),
                    Answer::Done(text) => last = Ok(text),
                    Answer::Failed(text) => last = Err(AgentError::Refused(text)),
                    Answer::Status(_)
                    | Answer::Log { .. }
                    | Answer::Output { .. }
                    | Answer::Exit(_) => {}
                }
            }
            last
        };
        let join = async {
            agent.join(&store, record, starts, &mut asked).await?;
            future::pending().await
        };
        // The question is dropped with its last answer, and that ends it.
        future::or(joining, join).await
    }))
}

fn already(device: &DeviceId, fleet: &FleetId) -> String {
    format!("this device is {device} of fleet {fleet} already; 'skerry-agent reset' makes it leave")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_waited_for_that_an_ending_agent_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || StoreDir::open(dir.path(), store::probe);
        let held = open().expect("a new store");
        assert!(matches!(open(), Err(StoreError::Locked)));
        let mut held = Some(held);
        let mut tries = 0;
        let opened = unlocked(|| {
            tries += 1;
            if tries == 3 {
                drop(held.take());
            }
            open()
        });
        assert!(opened.is_ok_and(|store| store.broken.is_none()));
        assert_eq!(tries, 3);
        // One that stays is told of, and nothing is moved aside.
        let held = open().expect("it is whole");
        assert!(matches!(unlocked(open), Err(StoreError::Locked)));
        drop(held);
    }
}
