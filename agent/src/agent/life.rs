//! The agent from its start to its end: the store, the identity, the engine, and
//! what follows when the engine ends.

use super::AgentError;
use super::empty::{Forget, empty, remove_files};
use super::open::{memory_place, open_store, open_store_or_memory, probe_with, unlocked};
use super::setup::{facts_of, real_machine, runtime_config};
use crate::chain::chain;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::{self, Answer, Ask};
use crate::core::{Event, Identity};
use crate::doctor::DATA_DIR_UNWRITABLE;
use crate::engine::{Ending, Engine, Setup};
use crate::machine::RealMachine;
use crate::notify;
use crate::pages;
use crate::runtime::launch_ahead;
use crate::store::{self, Standing, StoreDir};
use crate::update::slot::{Switch, Trial};
use crate::update::starts::Starts;
use crate::update::{Software, slots_of};
use crate::volatile;
use skerry_wire::update::ReleaseKind;
use skerry_wire::{DeviceId, SessionId};
use smol::channel::{Receiver, unbounded};
use smol::{LocalExecutor, Timer};
use std::cell::Cell;
use std::path::PathBuf;
use std::process::Child;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// When the start is over: joined, connected, apps begun.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// Between two times that code is given back which a burst of work has needed:
/// as seldom as the machine is looked at anyway.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10 * 60);

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

/// What every phase needs.
pub(super) struct Agent {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) executor: Rc<LocalExecutor<'static>>,
    pub(super) exe: PathBuf,
    pub(super) asks: Receiver<Ask>,
    pub(super) session: SessionId,
    /// The keeper's start, if it was begun ahead of the store.
    pub(super) launch: Cell<Option<Child>>,
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

    /// Without apps to plan.
    pub(super) fn is_ready(&self) {
        Starts::new(&self.config.run_dir).forget_when_asked_to_end();
        notify::ready();
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
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives randomness");
    bytes
}
