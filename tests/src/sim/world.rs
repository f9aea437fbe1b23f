//! The virtual clock, what happens next, and who is told.

use super::broker::{Broker, Message, Party};
use super::catalog::Catalog;
use super::chance::Chance;
use super::device::{AgentEnd, AgentRun, DeviceHost, KeeperNews};
use super::hub::HubHost;
use super::laws::Lawful;
use super::operator::Intent;
use super::{Mutant, Options, STEPS_SHOWN, TROUBLE_MS};
use skerry_hub::core as hub_core;
use skerry_wire::seal::Purpose;
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{FleetId, Seq};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// The clock of a world whose clocks are right begins here: 2026.
pub const EPOCH_MS: u64 = 1_790_000_000_000;

/// Something that will happen.
pub enum Happening {
    /// A message reaches whoever reads it.
    Deliver(Message),
    /// The broker says a will.
    Will(Message),
    /// The hub's loop takes what has come.
    HubWork,
    /// A second has passed for the hub's run.
    HubTick(u64),
    /// The hub's process starts.
    HubStart(u64),
    /// The hub's run connects.
    HubConnect(u64),
    /// The hub's run learns that its line is gone.
    HubLineDown(u64),
    /// A piece of a blob was read for the hub's run.
    BlobRead(u64, Box<hub_core::Event>),
    /// An agent's process starts.
    AgentStart(usize, u64),
    /// An agent's run connects.
    AgentConnect(usize, u64),
    /// An agent's run learns that its line is gone.
    AgentLineDown(usize, u64),
    /// An agent's run wanted to be woken at this time.
    AgentWake(usize, u64, u64),
    /// What an agent's run has on trial ends so.
    TrialEnds(usize, u64, AgentEnd),
    /// Something for an agent's run.
    AgentNews(usize, u64, Box<skerry_agent::core::Event>),
    /// Something in a keeper, if it is still that one.
    Keeper(usize, u64, KeeperNews),
    /// The operator does something.
    Operator,
    /// Something breaks.
    Fault,
    /// Whoever owns the broker does something.
    Attack,
}

/// What a seed contained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Steps of the world.
    pub steps: u64,
    /// Messages published.
    pub messages: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// Adds another seed's.
    pub fn add(&mut self, other: &Stats) {
        self.steps += other.steps;
        self.messages += other.messages;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

/// Everything.
pub struct World {
    pub(super) options: Options,
    pub(super) fleet: FleetId,
    pub(super) chance: Chance,
    pub(super) entropy: Chance,
    pub(super) now_ms: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    order: u64,
    messages: u64,
    /// The trouble is over.
    pub(super) calm: bool,
    /// Somebody owns the broker.
    pub(super) hostile: bool,
    /// The operator changes devices more than apps.
    pub(super) rolls_out: bool,
    pub(super) broker: Broker,
    pub(super) hub: HubHost,
    pub(super) devices: Vec<DeviceHost>,
    pub(super) catalog: Catalog,
    pub(super) intent: Intent,
    told: Option<VecDeque<String>>,
    /// What it contained so far.
    pub stats: Stats,
}

impl World {
    /// A world before its first event. `tell` keeps the last steps.
    pub fn new(seed: u64, options: Options, tell: bool) -> Self {
        let mut chance = Chance::of(seed, 0);
        let mut entropy = Chance::of(seed, 1);
        let catalog = Catalog::new(&mut chance);
        let embedded = chance.one_in(2);
        let hub = HubHost::new(&mut entropy, &catalog, embedded);
        let rolls_out = chance.one_in(3);
        let machines = chance.between(1, if rolls_out { 5 } else { 3 }) as usize;
        let devices = (0..machines)
            .map(|n| DeviceHost::new(&mut chance, &mut entropy, n))
            .collect();
        Self {
            options,
            fleet: FleetId::new("acme").expect("a name"),
            hostile: chance.one_in(2),
            rolls_out,
            chance,
            entropy,
            now_ms: 0,
            queue: BTreeMap::new(),
            order: 0,
            messages: 0,
            calm: false,
            broker: Broker::default(),
            hub,
            devices,
            catalog,
            intent: Intent::default(),
            told: tell.then(VecDeque::new),
            stats: Stats::default(),
        }
    }

    /// Virtual milliseconds since the world began.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The last steps, if they were kept.
    pub fn steps(&self) -> Vec<String> {
        self.told.iter().flatten().cloned().collect()
    }

    /// Plays the whole seed.
    pub fn run(&mut self) -> Lawful {
        self.hub_start()?;
        self.make_tokens()?;
        for device in 0..self.devices.len() {
            let delay_ms = self.chance.between(1, 4_000);
            let run = self.devices[device].run;
            self.later(delay_ms, Happening::AgentStart(device, run));
        }
        self.later(1, Happening::Operator);
        self.later(3_000, Happening::Fault);
        if self.hostile {
            self.later(2_000, Happening::Attack);
        }
        self.run_until(TROUBLE_MS)?;
        self.come_to_rest()
    }

    /// Plays everything up to this time.
    pub(super) fn run_until(&mut self, end_ms: u64) -> Lawful {
        while let Some(entry) = self.queue.first_entry() {
            let (at_ms, _) = *entry.key();
            if at_ms > end_ms {
                break;
            }
            let happening = entry.remove();
            self.now_ms = at_ms;
            self.stats.steps += 1;
            self.step(happening)?;
        }
        self.now_ms = end_ms;
        Ok(())
    }

    /// Lets something happen later.
    pub(super) fn later(&mut self, delay_ms: u64, happening: Happening) {
        self.at(self.now_ms.saturating_add(delay_ms), happening);
    }

    /// Lets something happen at a time.
    pub(super) fn at(&mut self, at_ms: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((at_ms, self.order), happening);
    }

    /// Counts something, and keeps it as a step.
    pub(super) fn count(&mut self, what: &'static str, more: impl FnOnce() -> String) {
        *self.stats.counts.entry(what).or_default() += 1;
        self.tell(|| format!("{what} {}", more()));
    }

    /// Keeps a step, if they are kept.
    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            if told.len() >= self.options.steps_shown.unwrap_or(STEPS_SHOWN) {
                told.pop_front();
            }
            told.push_back(format!("{:>8} {}", self.now_ms, what()));
        }
    }

    pub(super) fn has_mutant(&self, mutant: Mutant) -> bool {
        self.options.mutant == Some(mutant)
    }

    fn step(&mut self, happening: Happening) -> Lawful {
        match happening {
            Happening::Deliver(message) => self.deliver(message),
            Happening::Will(message) => {
                self.count("will", String::new);
                self.publish(message)
            }
            Happening::HubWork => self.hub_work(),
            Happening::HubTick(run) => self.hub_tick(run),
            Happening::HubStart(run) if run == self.hub.run => self.hub_start(),
            Happening::HubConnect(run) if run == self.hub.run => self.hub_connect(),
            Happening::HubLineDown(run) if run == self.hub.run => {
                self.hub_line_down();
                Ok(())
            }
            Happening::BlobRead(run, event) if run == self.hub.run => {
                self.hub_event(*event);
                Ok(())
            }
            Happening::HubStart(_)
            | Happening::HubConnect(_)
            | Happening::HubLineDown(_)
            | Happening::BlobRead(..) => Ok(()),
            Happening::AgentStart(device, run) => self.agent_start(device, run),
            Happening::AgentConnect(device, run) => self.agent_connect(device, run),
            Happening::AgentLineDown(device, run) => self.agent_line_down(device, run),
            Happening::AgentWake(device, run, at_ms) => self.agent_wake(device, run, at_ms),
            Happening::TrialEnds(device, run, end) => {
                self.trial_ends(device, run, end);
                Ok(())
            }
            Happening::AgentNews(device, run, event) => {
                if self.devices[device].run != run {
                    return Ok(());
                }
                self.device_event(device, *event)
            }
            Happening::Keeper(device, serial, news) => self.keeper_news(device, serial, news),
            Happening::Operator => self.operate(),
            Happening::Fault => self.fault(),
            Happening::Attack => self.attack(),
        }
    }

    // --- the line

    /// A message that somebody sealed.
    pub(super) fn message(
        &mut self,
        from: Party,
        to: Party,
        topic: &str,
        payload: Vec<u8>,
        purpose: Purpose,
        seq: Seq,
    ) -> Message {
        self.messages += 1;
        Message {
            id: self.messages,
            from,
            to,
            topic: topic.into(),
            payload: payload.into(),
            purpose,
            seq,
        }
    }

    /// A message reaches the broker.
    pub(super) fn publish(&mut self, message: Message) -> Lawful {
        self.stats.messages += 1;
        self.tell(|| {
            let (purpose, seq) = (message.purpose, message.seq.0 & 0xffff_ffff);
            format!(
                "{:?} says {purpose:?} {seq} to {:?}",
                message.from, message.to
            )
        });
        self.broker.take(&message)?;
        if !self.broker.up {
            return Ok(());
        }
        if !self.calm && self.hostile && self.chance.one_in(25) {
            self.count("lost", String::new);
            return Ok(());
        }
        let mut delay_ms = self.chance.between(1, 5);
        if !self.calm {
            delay_ms = self.chance.between(1, 50);
            if self.chance.one_in(15) {
                delay_ms = self.chance.between(50, 3_000);
            }
            if self.chance.one_in(20) {
                self.count("doubled", String::new);
                let again_ms = self.chance.between(50, 5_000);
                self.later(again_ms, Happening::Deliver(message.clone()));
            }
        }
        // Lanes keep their order, and overtake each other.
        let at_ms = self.broker.arrival(&message.topic, self.now_ms, delay_ms);
        self.at(at_ms, Happening::Deliver(message));
        Ok(())
    }

    fn deliver(&mut self, message: Message) -> Lawful {
        if self.broker.line(message.to).is_none() {
            if self.chance.one_in(4) {
                self.count("lost", String::new);
            } else {
                self.broker.keep(message);
            }
            return Ok(());
        }
        match message.to {
            Party::Hub => {
                let event = hub_core::Event::Message {
                    topic: message.topic.to_string(),
                    payload: message.payload.to_vec(),
                };
                self.hub.heard(&message);
                self.hub_event(event);
                Ok(())
            }
            Party::Device(device) => self.device_hears(device, &message),
        }
    }

    /// Who reads a topic of the hub's.
    pub(super) fn readers(&self, topic: &Topic) -> Vec<Party> {
        let reads = |host: &&DeviceHost| match (topic, &host.agent) {
            (Topic::Device(name, Lane::Desired | Lane::Command | Lane::StreamIn), _) => {
                host.name.as_ref() == Some(name)
            }
            (Topic::JoinReply(_), AgentRun::Joining(join)) => {
                join.reply_topic() == topic.in_fleet(&self.fleet)
            }
            (Topic::Device(..) | Topic::JoinRequest(_) | Topic::JoinReply(_), _) => false,
        };
        let readers = self.devices.iter().filter(reads);
        readers.map(|host| Party::Device(host.number)).collect()
    }

    /// Ends lines that a broker dropped.
    pub(super) fn broker_forgets(&mut self) {
        for party in self.broker.forget_all() {
            match party {
                Party::Hub => {
                    let run = self.hub.run;
                    let delay_ms = self.chance.between(0, 200);
                    self.later(delay_ms, Happening::HubLineDown(run));
                }
                Party::Device(device) => {
                    let run = self.devices[device].run;
                    let delay_ms = self.chance.between(0, 200);
                    self.later(delay_ms, Happening::AgentLineDown(device, run));
                }
            }
        }
    }

    /// Shares a topic's text.
    pub(super) fn topic(&self, topic: &Topic) -> Rc<str> {
        topic.in_fleet(&self.fleet).into()
    }
}
