//! The core's side of updates, with the power cut before every single effect.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use skerry_agent::core::update::{Phase, SlotState, UpdateEffect, UpdateEvent, UpdateStart};
use skerry_agent::core::{Change, Core, Effect, Event, Identity, Now, Records, Start};
use skerry_agent::update::slot::Trial;
use skerry_wire::message::{Command, CommandBody};
use skerry_wire::report::Facts;
use skerry_wire::seal::{KeyPair, Purpose, seal};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::update::{
    Artifact, Release, ReleaseKind, SignedRelease, UpdateBody, UpdateOrder, UpdateState,
    release_key,
};
use skerry_wire::*;
use std::collections::{BTreeMap, VecDeque};

const SECRET: [u8; 32] = [5; 32];
const OLD_LINE: &str = "mqtts://old.example:8883";
const NEW_LINE: &str = "mqtts://new.example:8883";
/// More than any update here takes, in milliseconds since the first boot.
const LONG_MS: u64 = 10 * 60 * 1_000;

/// What is wrong with what is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The hub does not hear the new agent, or on the new line.
    Deaf,
    /// `doctor` finds what was not so before.
    Sick,
    /// It ends at once; a guard or a watchdog undoes it.
    Crash,
}

struct Slots {
    in_use: String,
    ready: Option<String>,
    trial: Option<String>,
    undone: Option<String>,
    here: String,
}

struct World {
    rng: ChaCha20Rng,
    hub: KeyPair,
    device: KeyPair,
    hub_seq: u64,
    now_ms: u64,
    records: Records,
    slots: Slots,
    line: String,
    trial_line: Option<String>,
    core: Core,
    events: VecDeque<Event>,
    connection: u32,
    fault: Fault,
    /// Effects until the power goes.
    fuse: Option<u32>,
    switches: u32,
    /// The hub has acknowledged a report that says `Trying`.
    knows: bool,
}

impl World {
    fn new(fault: Fault, fuse: Option<u32>) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (hub, device) = (KeyPair::generate(&mut rng), KeyPair::generate(&mut rng));
        let slots = Slots {
            in_use: "1.0".into(),
            ready: None,
            trial: None,
            undone: None,
            here: "1.0".into(),
        };
        let records = Records::default();
        let (core, _) = Core::restore(
            identity(&hub, &device),
            start(&slots, OLD_LINE, 0),
            records.clone(),
            now(0),
        );
        let mut world = Self {
            rng,
            hub,
            device,
            hub_seq: 0,
            now_ms: 0,
            records,
            slots,
            line: OLD_LINE.into(),
            trial_line: None,
            core,
            events: VecDeque::new(),
            connection: 0,
            fault,
            fuse,
            switches: 0,
            knows: false,
        };
        world.start_again();
        world
    }

    fn start_again(&mut self) {
        self.records.starts += 1;
        self.events.clear();
        self.trial_line = None;
        let start = start(&self.slots, &self.line, self.records.starts);
        let identity = identity(&self.hub, &self.device);
        let (core, effects) =
            Core::restore(identity, start, self.records.clone(), now(self.now_ms));
        self.core = core;
        self.events.push_back(Event::Listed(vec![]));
        self.connect();
        self.carry_out(effects);
    }

    fn connect(&mut self) {
        self.connection += 1;
        let connection = self.connection;
        self.events.push_back(Event::LinkUp { connection });
    }

    /// Whether what runs now, on the line that it has, is heard by the hub.
    fn is_heard(&self) -> bool {
        let on_trial = self.slots.here == "2.0" || self.trial_line.is_some();
        !(on_trial && self.fault == Fault::Deaf)
    }

    fn cut_power(&mut self) {
        self.fuse = None;
        self.now_ms += 1_000;
        if self.slots.trial.take().is_some() {
            self.slots.undone = Some("the power was cut".into());
        }
        self.slots.here = self.slots.in_use.clone();
        self.start_again();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match &mut self.fuse {
                Some(0) => return self.cut_power(),
                Some(left) => *left -= 1,
                None => {}
            }
            match effect {
                Effect::Commit(changes) => {
                    for change in changes {
                        if let Change::Line { broker, .. } = &change {
                            self.line.clone_from(broker);
                        }
                        self.records.apply(change);
                    }
                }
                Effect::SendReport(message) if self.is_heard() => {
                    let report = message.report;
                    let tries = |u: &update::UpdateStatus| u.state == UpdateState::Trying;
                    self.knows |= report.updates.iter().any(tries);
                    let body = CommandBody::Acknowledge {
                        report: message.seq,
                        events: report.events.last().map_or(0, |e| e.id),
                    };
                    let session = self.core.session();
                    let command = encode(&Command { session, body });
                    let event = self.sealed(Purpose::Command, Lane::Command, &command);
                    self.events.push_back(event);
                }
                // Another process, or another life of this one.
                Effect::Update(effect) if self.update(&effect) => return,
                _ => {}
            }
        }
    }

    /// What slots, shell and guard do. Whether this process is over.
    fn update(&mut self, effect: &UpdateEffect) -> bool {
        let answer = match effect.clone() {
            UpdateEffect::Look { digest, size } => UpdateEvent::Looked {
                digest,
                result: Ok((size, true)),
            },
            UpdateEffect::Install { order, version, .. } => {
                self.slots.ready = Some(version);
                self.slots.undone = None;
                let result = Ok(vec!["OldTrouble".into()]);
                UpdateEvent::Installed { order, result }
            }
            UpdateEffect::Diagnose => {
                let mut bad = vec![("OldTrouble".to_string(), "as before".to_string())];
                if self.fault == Fault::Sick {
                    bad.push(("NewTrouble".into(), "the disk is gone".into()));
                }
                UpdateEvent::Diagnosed { bad }
            }
            UpdateEffect::Confirm { .. } => {
                if self.slots.trial.take().is_some() {
                    self.slots.in_use = self.slots.here.clone();
                }
                UpdateEvent::SlotConfirmed { result: Ok(true) }
            }
            UpdateEffect::Switch { .. } => {
                assert!(self.knows, "switched before the hub knew");
                self.switches += 1;
                self.slots.trial = self.slots.ready.take();
                self.slots.here = self.slots.trial.clone().expect("installed");
                if self.fault == Fault::Crash {
                    self.slots.trial = None;
                    self.slots.undone = Some("it ended after 0.1 s".into());
                    self.slots.here = self.slots.in_use.clone();
                }
                self.start_again();
                return true;
            }
            UpdateEffect::Revert { reason, .. } => {
                self.slots.trial = None;
                self.slots.undone = Some(reason);
                self.slots.here = self.slots.in_use.clone();
                self.start_again();
                return true;
            }
            UpdateEffect::Restart => {
                self.slots.here = self.slots.in_use.clone();
                self.start_again();
                return true;
            }
            UpdateEffect::TryLine { broker, .. } => {
                assert!(self.knows, "switched before the hub knew");
                self.switches += 1;
                self.trial_line = Some(broker);
                let reason = "nobody answers".to_string();
                self.events.push_back(Event::LinkDown { reason });
                if self.fault == Fault::None {
                    self.connect();
                }
                return false;
            }
            UpdateEffect::OldLine => {
                self.trial_line = None;
                let reason = "changed".to_string();
                self.events.push_back(Event::LinkDown { reason });
                self.connect();
                return false;
            }
            UpdateEffect::KeepLine => {
                self.trial_line = None;
                return false;
            }
            UpdateEffect::Write { .. } | UpdateEffect::Finish { .. } => return false,
        };
        self.events.push_back(Event::Update(answer));
        false
    }

    fn sealed(&mut self, purpose: Purpose, lane: Lane, body: &[u8]) -> Event {
        self.hub_seq += 1;
        let topic = Topic::Device("kiosk".parse().unwrap(), lane);
        let topic = topic.in_fleet(&"acme".parse().unwrap());
        let (hub, to) = (self.hub.clone(), self.device.public());
        let seq = Seq(self.hub_seq);
        let payload = seal(purpose, seq, &topic, &hub, &to, body, &mut self.rng).unwrap();
        Event::Message { topic, payload }
    }

    fn desire(&mut self, generation: u64, updates: Vec<UpdateOrder>) {
        let desired = Desired {
            generation: Generation(generation),
            updates,
            ..Desired::default()
        };
        for part in DesiredPart::split(desired.generation, &encode(&desired)) {
            let event = self.sealed(Purpose::Desired, Lane::Desired, &encode(&part));
            self.events.push_back(event);
        }
    }

    /// Until nothing happens any more, or for long.
    fn run(&mut self) {
        while self.now_ms < LONG_MS {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => {
                    let Some(at_ms) = self.core.wake_at() else {
                        return;
                    };
                    self.now_ms = self.now_ms.max(at_ms);
                    Event::Wake
                }
            };
            let effects = self.core.handle(now(self.now_ms), event);
            self.carry_out(effects);
        }
    }

    fn state(&self) -> Option<UpdateState> {
        let report = self.core.report(now(self.now_ms));
        report.updates.first().map(|u| u.state.clone())
    }
}

fn now(boot_ms: u64) -> Now {
    let wall = Timestamp(0);
    Now { boot_ms, wall }
}

fn identity(hub: &KeyPair, device: &KeyPair) -> Identity {
    Identity {
        fleet: "acme".parse().unwrap(),
        device: "kiosk".parse().unwrap(),
        key: device.clone(),
        hub: hub.public(),
    }
}

fn start(slots: &Slots, line: &str, starts: u32) -> Start {
    let trial = match (&slots.trial, &slots.undone) {
        (Some(trial), _) if *trial == slots.here => Trial::Running,
        (_, Some(reason)) => Trial::Undone {
            reason: reason.clone(),
        },
        (_, None) => Trial::None,
    };
    let running = slots.here.clone();
    let agent = (ReleaseKind::Agent, SlotState { running, trial });
    Start {
        session: SessionId(u64::from(starts) * 1000),
        facts: Facts {
            arch: "arm64".into(),
            variant: "v8".into(),
            ..Facts::default()
        },
        update: UpdateStart {
            release_keys: vec![release_key(&SECRET).unwrap()],
            slots: BTreeMap::from([agent]),
            line: Some((line.into(), None)),
        },
    }
}

fn release(secret: [u8; 32], kind: ReleaseKind, arch: &str) -> UpdateBody {
    let artifact = Artifact {
        arch: arch.into(),
        variant: String::new(),
        digest: Digest::of(b"agent 2.0"),
        size: 9,
    };
    let release = Release {
        kind,
        version: "2.0".into(),
        artifacts: vec![artifact],
    };
    UpdateBody::Release(SignedRelease::sign(&release, &secret).unwrap())
}

fn order(order: u64, body: UpdateBody) -> UpdateOrder {
    UpdateOrder {
        order,
        confirm_secs: 30,
        body,
    }
}

fn good() -> UpdateBody {
    release(SECRET, ReleaseKind::Agent, "arm64")
}

fn new_line() -> UpdateBody {
    UpdateBody::Line {
        broker: NEW_LINE.into(),
        tls_pin: None,
    }
}

fn pushed(body: UpdateBody, fault: Fault, fuse: Option<u32>) -> World {
    let mut world = World::new(fault, fuse);
    world.desire(1, vec![order(7, body)]);
    world.run();
    world
}

#[test]
fn a_good_agent_stays_and_a_bad_one_goes_back_with_its_cause() {
    let world = pushed(good(), Fault::None, None);
    assert_eq!(world.state(), Some(UpdateState::Confirmed));
    assert_eq!((world.slots.in_use.as_str(), world.switches), ("2.0", 1));
    for (fault, words) in [
        (Fault::Deaf, "acknowledged nothing within 30 s"),
        (Fault::Sick, "the disk is gone"),
        (Fault::Crash, "it ended after 0.1 s"),
    ] {
        let world = pushed(good(), fault, None);
        let Some(UpdateState::RolledBack { reason }) = world.state() else {
            panic!("{fault:?}: {:?}", world.state());
        };
        assert!(reason.contains(words), "{fault:?}: {reason}");
        assert_eq!((world.slots.in_use.as_str(), world.switches), ("1.0", 1));
        assert_eq!(world.slots.here, "1.0");
    }
}

#[test]
fn a_good_line_stays_and_a_bad_one_goes_back_with_its_cause() {
    let world = pushed(new_line(), Fault::None, None);
    assert_eq!(world.state(), Some(UpdateState::Confirmed));
    assert_eq!(world.line, NEW_LINE);
    let world = pushed(new_line(), Fault::Deaf, None);
    let Some(UpdateState::RolledBack { reason }) = world.state() else {
        panic!("{:?}", world.state());
    };
    assert!(reason.contains("within 30 s: nobody answers"), "{reason}");
    assert_eq!(world.line, OLD_LINE);
    assert_eq!(world.core.offline_reason(), None, "back on the old line");
}

#[test]
fn a_power_cut_before_any_step_leaves_the_old_or_the_new_and_says_which() {
    for body in [good(), new_line()] {
        for fault in [Fault::None, Fault::Deaf, Fault::Sick, Fault::Crash] {
            let mut cuts = 0;
            loop {
                let world = pushed(body.clone(), fault, Some(cuts));
                let what = format!("{fault:?}, cut before effect {cuts}");
                assert!(world.switches <= 1, "{what}: tried twice");
                let (has_new, here) = match &body {
                    UpdateBody::Line { .. } => (world.line == NEW_LINE, &world.line),
                    UpdateBody::Release(_) => (world.slots.in_use == "2.0", &world.slots.here),
                };
                match world.state() {
                    Some(UpdateState::Confirmed) => assert!(has_new, "{what}: {here}"),
                    Some(UpdateState::RolledBack { reason }) => {
                        assert!(!has_new && !reason.is_empty(), "{what}: {here}");
                    }
                    // The power went before the order was on the disk; the hub
                    // sends it again, which this world does not.
                    None => assert!(world.records.desired.is_none(), "{what}"),
                    other => panic!("{what}: {other:?}"),
                }
                assert!(
                    world.slots.trial.is_none() && world.trial_line.is_none(),
                    "{what}"
                );
                if world.fuse.is_some() {
                    break; // it came to its end before the cut
                }
                cuts += 1;
            }
            assert!(cuts > 8, "{fault:?}: {cuts} cuts");
        }
    }
}

#[test]
fn one_that_does_not_stay_after_it_was_confirmed_is_told_as_undone() {
    let mut world = pushed(good(), Fault::None, None);
    assert_eq!(world.state(), Some(UpdateState::Confirmed));
    // What the package's program does when the new one ends again and again.
    world.slots.in_use = "1.0".into();
    world.slots.here = "1.0".into();
    world.slots.undone = Some("it started 10 times in a row".into());
    for _ in 0..2 {
        world.start_again();
        world.run();
        let Some(UpdateState::RolledBack { reason }) = world.state() else {
            panic!("{:?}", world.state());
        };
        assert!(reason.contains("10 times"), "{reason}");
    }
    // The order is not begun again by itself.
    assert_eq!(world.switches, 1);

    // What was undone before something else was confirmed is another matter.
    let mut world = pushed(good(), Fault::Crash, None);
    world.slots.in_use = "2.0".into();
    world.slots.here = "2.0".into();
    world.now_ms = 0;
    world.start_again();
    world.desire(2, vec![order(8, good())]);
    world.run();
    assert_eq!(world.state(), Some(UpdateState::Confirmed), "it runs");
    assert!(world.slots.undone.is_some());
    world.start_again();
    assert_eq!(world.state(), Some(UpdateState::Confirmed));
}

#[test]
fn what_was_exchanged_before_it_was_noted_is_not_in_use_for_good() {
    let mut world = pushed(good(), Fault::None, None);
    for record in world.records.updates.values_mut() {
        record.phase = Phase::Confirming { what: "2.0".into() };
    }
    world.start_again();
    assert_eq!(world.state(), Some(UpdateState::Confirmed));
    for record in world.records.updates.values_mut() {
        record.phase = Phase::Confirming { what: "2.0".into() };
    }
    world.slots.here = "1.0".into();
    world.start_again();
    let Some(UpdateState::RolledBack { reason }) = world.state() else {
        panic!("{:?}", world.state());
    };
    assert!(reason.contains("1.0 was put in its place"), "{reason}");
}

#[test]
fn what_cannot_be_tried_is_refused_with_a_reason() {
    for (body, words) in [
        (
            release([6; 32], ReleaseKind::Agent, "arm64"),
            "not trusted here",
        ),
        (
            release(SECRET, ReleaseKind::Agent, "riscv64"),
            "nothing for arm64",
        ),
        (release(SECRET, ReleaseKind::Os, "arm64"), "Skerry's image"),
        (
            UpdateBody::Line {
                broker: "nonsense".into(),
                tls_pin: None,
            },
            "cannot be used",
        ),
    ] {
        let world = pushed(body, Fault::None, None);
        let Some(UpdateState::Refused { reason }) = world.state() else {
            panic!("{words}: {:?}", world.state());
        };
        assert!(reason.contains(words), "{reason}");
        assert_eq!(world.switches, 0);
    }
}

#[test]
fn a_release_that_nobody_trusted_signed_is_called_what_it_calls_itself() {
    let body = release([6; 32], ReleaseKind::Agent, "arm64");
    let world = pushed(body, Fault::None, None);
    let Some(UpdateState::Refused { reason }) = world.state() else {
        panic!("{:?}", world.state());
    };
    assert!(
        reason.starts_with("no key that this device trusts has signed 2.0 (sha256:"),
        "{reason}"
    );
    let record = world.records.updates.values().next().unwrap();
    let Phase::Refused { what, .. } = &record.phase else {
        panic!("{record:?}");
    };
    assert!(what.starts_with("2.0 (sha256:"), "{what}");
}

#[test]
fn an_order_is_done_once_and_ends_when_it_is_taken_back() {
    let mut world = pushed(good(), Fault::Crash, None);
    assert_eq!(world.switches, 1);
    // The same order in a newer state, also after a restart.
    world.fault = Fault::None;
    world.desire(2, vec![order(7, good())]);
    world.run();
    world.start_again();
    world.run();
    assert_eq!(world.switches, 1);
    // Another order of the same release is another try.
    world.now_ms = 0;
    world.desire(3, vec![order(8, good())]);
    world.run();
    assert_eq!(world.state(), Some(UpdateState::Confirmed));
    assert_eq!(world.slots.in_use, "2.0");

    // Taken back while the hub does not acknowledge: never tried.
    let mut world = World::new(Fault::None, None);
    world.slots.here = "2.0".into(); // unheard
    world.fault = Fault::Deaf;
    world.desire(1, vec![order(9, new_line())]);
    for _ in 0..20 {
        if let Some(event) = world.events.pop_front() {
            let effects = world.core.handle(now(world.now_ms), event);
            world.carry_out(effects);
        }
    }
    assert_eq!(world.state(), Some(UpdateState::Trying), "about to");
    world.desire(2, vec![]);
    world.slots.here = "1.0".into();
    world.run();
    assert_eq!((world.state(), world.switches), (None, 0));
}
