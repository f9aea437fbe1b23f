//! A hub, its device and an attacker, all on paper.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use skerry_agent::core::update::UpdateStart;
use skerry_agent::core::{
    Core, Effect, Event, Identity, ImageStatus, Now, Outgoing, Records, Start,
};
use skerry_agent::runtime::{Exit, ExitStatus, Status};
use skerry_wire::finding::Finding;
use skerry_wire::report::{Facts, Vitals};
use skerry_wire::seal::{KeyPair, Purpose, seal};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::*;
use std::collections::BTreeSet;

pub struct World {
    rng: ChaCha20Rng,
    pub hub: KeyPair,
    pub device: KeyPair,
    hub_seq: u64,
    pub now_ms: u64,
    pub boot: u32,
    pub records: Records,
    pub core: Core,
    pub sent: Vec<Outgoing>,
    pub created: usize,
    /// Images that were said to be needed, and those to be examined.
    pub needed: Vec<BTreeSet<Digest>>,
    pub examined: Vec<Digest>,
    /// Whether nothing can be started.
    pub unstartable: bool,
}

fn identity(hub: &KeyPair, device: &KeyPair) -> Identity {
    Identity {
        fleet: "acme".parse().unwrap(),
        device: "kiosk".parse().unwrap(),
        key: device.clone(),
        hub: hub.public(),
    }
}

impl World {
    pub fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (hub, device) = (KeyPair::generate(&mut rng), KeyPair::generate(&mut rng));
        let records = Records::default();
        let (core, _) = Self::restore(&hub, &device, records.clone(), 1, 0);
        let mut world = World {
            rng,
            hub,
            device,
            hub_seq: 0,
            now_ms: 0,
            boot: 1,
            records,
            core,
            sent: vec![],
            created: 0,
            needed: vec![],
            examined: vec![],
            unstartable: false,
        };
        world.start_again();
        world
    }

    pub fn restore(
        hub: &KeyPair,
        device: &KeyPair,
        records: Records,
        boot: u32,
        now_ms: u64,
    ) -> (Core, Vec<Effect>) {
        let facts = Facts {
            boot_id: format!("boot-{boot}"),
            ..Facts::default()
        };
        let start = Start {
            session: SessionId(u64::from(records.starts) * 1000),
            facts,
            update: UpdateStart::default(),
        };
        let wall = Timestamp(0); // 1970, always
        let now = Now {
            boot_ms: now_ms,
            wall,
        };
        Core::restore(identity(hub, device), start, records, now)
    }

    pub fn start_again(&mut self) {
        self.records.starts += 1;
        let records = self.records.clone();
        let (core, effects) =
            Self::restore(&self.hub, &self.device, records, self.boot, self.now_ms);
        self.core = core;
        self.carry_out(effects);
    }

    pub fn now(&self) -> Now {
        Now {
            boot_ms: self.now_ms,
            wall: Timestamp(0),
        }
    }

    pub fn say(&mut self, event: Event) {
        let effects = self.core.handle(self.now(), event);
        self.carry_out(effects);
    }

    /// A machine that does all at once; every image is here.
    pub fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Commit(changes) => {
                    changes.into_iter().for_each(|c| self.records.apply(c));
                }
                Effect::Send(message) => self.sent.push(message),
                Effect::SendReport(report) => self.sent.push(report.with(Vitals::default())),
                Effect::Diagnose { request, ahead_ms } => {
                    let text = format!("{ahead_ms} ms");
                    let findings = vec![Finding::good("Test", text)];
                    self.say(Event::Diagnosed { request, findings });
                }
                Effect::Create(create) => {
                    // Commit before act.
                    let known = self.records.ledger.values();
                    let ids: Vec<_> = known.map(|e| e.name().incarnation(e.incarnation)).collect();
                    assert!(ids.contains(&create.id), "started before it was committed");
                    self.created += 1;
                    let result = match self.unstartable {
                        true => Err("no such program".to_string()),
                        false => Ok(7),
                    };
                    self.say(Event::Created {
                        id: create.id,
                        result,
                    });
                }
                Effect::Stop { id } | Effect::Kill { id } => {
                    let exit = Exit {
                        status: ExitStatus::Signal(15),
                        oom_killed: false,
                        at: skerry_agent::runtime::Timestamp(0),
                    };
                    self.say(Event::Exited { id, exit });
                }
                Effect::Remove { id } => {
                    let result = Ok(());
                    self.say(Event::Removed { id, result });
                }
                Effect::PrepareImage(image) => self.say(Event::Image {
                    manifest: image.manifest,
                    result: Ok(ImageStatus::Ready),
                }),
                Effect::NeedImages(images) => {
                    // Commit before act: what is not needed may be gone then.
                    assert!(self.records.desired.is_some());
                    self.needed.push(images);
                }
                Effect::ExamineImage(image) => self.examined.push(image.manifest),
                _ => {}
            }
        }
    }

    pub fn sealed(&mut self, purpose: Purpose, lane: Lane, body: &[u8]) -> Event {
        self.hub_seq += 1;
        let topic = Topic::Device("kiosk".parse().unwrap(), lane);
        let topic = topic.in_fleet(&"acme".parse().unwrap());
        let (hub, to) = (self.hub.clone(), self.device.public());
        let seq = Seq(self.hub_seq);
        let payload = seal(purpose, seq, &topic, &hub, &to, body, &mut self.rng).unwrap();
        Event::Message { topic, payload }
    }

    pub fn desired(&mut self, generation: u64, apps: &[(&str, &str)]) -> Vec<Event> {
        let desired = Desired {
            generation: Generation(generation),
            assignments: apps
                .iter()
                .map(|(app, revision)| assignment(app, revision))
                .collect(),
            ..Desired::default()
        };
        DesiredPart::split(desired.generation, &encode(&desired))
            .into_iter()
            .map(|part| self.sealed(Purpose::Desired, Lane::Desired, &encode(&part)))
            .collect()
    }

    pub fn tell_desired(&mut self, generation: u64, apps: &[(&str, &str)]) {
        for event in self.desired(generation, apps) {
            self.say(event);
        }
    }

    pub fn reasons(&self) -> Vec<String> {
        let report = self.core.report(self.now());
        report.events.into_iter().map(|e| e.reason).collect()
    }
}

pub fn assignment(app: &str, revision: &str) -> Assignment {
    Assignment {
        app: AppRef {
            namespace: "default".parse().unwrap(),
            name: app.parse().unwrap(),
        },
        revision: RevisionId(Digest::of(revision.as_bytes())),
        policy: Default::default(),
        pod: PodSpec {
            termination_grace_secs: 10,
            ..PodSpec::new(vec![ContainerSpec::new(
                "main".parse().unwrap(),
                ImageRef {
                    reference: "busybox:1".into(),
                    manifest: Digest::of(revision.as_bytes()),
                    manifest_size: 10,
                },
            )])
        },
    }
}

pub fn running(core: &Core) -> usize {
    let containers = core.observed().containers.as_ref().unwrap();
    let runs = |s: &&Status| matches!(s, Status::Running { .. });
    containers.values().filter(runs).count()
}
