//! The core as a whole, with keys and sealed messages that are real.

mod apps;
mod configs;
mod hostile;
mod joining;
mod laws;
mod streams;
mod updates;

use super::*;
use crate::model::{App, PinnedImage, PlatformImage, Revision};
use skerry_wire::message::{JoinReply, JoinRequest, Presence};
use skerry_wire::report::Facts;
use skerry_wire::seal::{TokenSecret, open, seal, seal_join};
use skerry_wire::{
    AppName, ContainerName, ContainerSpec, Desired, DesiredPart, Labels, Namespace, PodSpec,
    SessionId,
};

/// The same numbers each time: a test that fails, fails again.
pub struct TestRandom(u64);

impl TestRandom {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl rand_core::TryRng for TestRandom {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.next() as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.next())
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.iter_mut().for_each(|byte| *byte = self.next() as u8);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for TestRandom {}

pub fn fleet_id() -> FleetId {
    FleetId::new("acme").unwrap()
}

pub fn name(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap()
}

pub fn app_ref(text: &str) -> AppRef {
    AppRef {
        namespace: Namespace::default_namespace(),
        name: AppName::new(text).unwrap(),
    }
}

pub fn image(reference: &str, archs: &[&str]) -> Image {
    let platform = |arch: &&str| PlatformImage {
        platform: Platform {
            arch: arch.to_string(),
            variant: String::new(),
        },
        manifest: Digest::of(format!("manifest {reference} {arch}").as_bytes()),
        manifest_size: 10,
        blobs: vec![(
            Digest::of(format!("layer {reference} {arch}").as_bytes()),
            100_000,
        )],
    };
    Image {
        reference: reference.into(),
        digest: Digest::of(reference.as_bytes()),
        added: Timestamp(1),
        platforms: archs.iter().map(platform).collect(),
    }
}

pub fn app(app_name: &str, selector: &str, image: &str) -> (App, Revision) {
    let name = ContainerName::new("main").unwrap();
    let pod = PodSpec::new(vec![ContainerSpec::new(name, image.to_string())]);
    let pinned = pod.clone().map_images(|reference: String| {
        let digest = Digest::of(reference.as_bytes());
        Ok::<_, ()>(PinnedImage { reference, digest })
    });
    let app = App {
        app: app_ref(app_name),
        placement: selector.parse().unwrap(),
        policy: Default::default(),
        pod,
    };
    (app, Revision::of(pinned.unwrap()))
}

/// A machine with a key, inside or outside the fleet.
pub struct Machine {
    pub key: KeyPair,
    pub name: DeviceId,
    pub seq: Seq,
    pub session: SessionId,
}

/// A hub's core, its store as records, and its clock.
pub struct World {
    pub fleet: Fleet,
    pub stored: Records,
    pub now: Timestamp,
    pub random: TestRandom,
    pub token: TokenSecret,
    pub requests: u64,
}

impl World {
    pub fn new() -> Self {
        let mut random = TestRandom(7);
        let key = KeyPair::generate(&mut random);
        let (fleet, changes) = Fleet::restore(fleet_id(), key, Records::default());
        let mut this = Self {
            fleet,
            stored: Records::default(),
            now: Timestamp(1_000_000),
            random,
            token: TokenSecret {
                id: [1; 8],
                secret: [2; 32],
            },
            requests: 0,
        };
        this.store(&changes);
        this.say(Event::LinkUp { fresh_broker: true });
        this.make_token([1; 8], 1000, false);
        this
    }

    /// What a restart makes of the store.
    pub fn restart(&mut self) {
        let key = self.fleet.key.clone();
        let (fleet, changes) = Fleet::restore(fleet_id(), key, self.stored.clone());
        self.fleet = fleet;
        self.store(&changes);
        self.say(Event::LinkUp { fresh_broker: true });
    }

    fn store(&mut self, changes: &[Change]) {
        fn put<T>(all: &mut Vec<T>, item: T, same: impl Fn(&T) -> bool) {
            all.retain(|old| !same(old));
            all.push(item);
        }
        let stored = &mut self.stored;
        for change in changes.iter().cloned() {
            match change {
                Change::PutHub(r) => stored.hub = r,
                Change::PutDevice(r) => {
                    let id = r.device.clone();
                    put(&mut stored.devices, *r, |d| d.device == id)
                }
                Change::DeleteDevice(id) => stored.devices.retain(|d| d.device != id),
                Change::PutReport(id, bytes) => {
                    put(&mut stored.reports, (id.clone(), bytes), |r| r.0 == id)
                }
                Change::DeleteReport(id) => stored.reports.retain(|r| r.0 != id),
                Change::PutRevokedKey(r) => stored.revoked.push(r),
                Change::PutApp(r) => {
                    let id = r.app.app.clone();
                    put(&mut stored.apps, *r, |a| a.app.app == id)
                }
                Change::DeleteApp(id) => stored.apps.retain(|a| a.app.app != id),
                Change::PutConfig(r) => {
                    let id = r.object.config.reference();
                    put(&mut stored.configs, *r, |c| {
                        c.object.config.reference() == id
                    })
                }
                Change::DeleteConfig(id) => {
                    stored.configs.retain(|c| c.object.config.reference() != id)
                }
                Change::PutToken(r) => {
                    let id = r.id;
                    put(&mut stored.tokens, r, |t| t.id == id)
                }
                Change::DeleteToken(id) => stored.tokens.retain(|t| t.id != id),
                Change::PutEvent(r) => {
                    let id = r.id;
                    put(&mut stored.events, r, |e| e.id == id)
                }
                Change::DeleteEvent(id) => stored.events.retain(|e| e.id != id),
                Change::PutImage(r) => {
                    let id = (r.digest, r.reference.clone());
                    put(&mut stored.images, *r, |i| {
                        (i.digest, i.reference.clone()) == id
                    })
                }
                Change::PutRelease(r) => {
                    let id = (r.kind, r.version.clone());
                    put(&mut stored.releases, *r, |i| {
                        (i.kind, i.version.clone()) == id
                    })
                }
                Change::DeleteRelease(kind, version) => stored
                    .releases
                    .retain(|r| (r.kind, &r.version) != (kind, &version)),
                Change::PutRollout(r) => {
                    let id = r.id;
                    put(&mut stored.rollouts, *r, |i| i.id == id)
                }
                Change::DeleteRollout(id) => stored.rollouts.retain(|r| r.id != id),
                Change::PutAttempt(r) => {
                    let id = (r.device.clone(), r.subject);
                    put(&mut stored.attempts, *r, |i| {
                        (i.device.clone(), i.subject) == id
                    })
                }
                Change::DeleteAttempt(device, subject) => stored
                    .attempts
                    .retain(|a| (&a.device, a.subject) != (&device, subject)),
            }
        }
        stored.devices.sort_by(|a, b| a.device.cmp(&b.device));
        stored.events.sort_by_key(|e| e.id);
    }

    /// Lets the core take an event and stores what it commits.
    pub fn say(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.fleet.handle(self.now, event);
        for (at, effect) in effects.iter().enumerate() {
            if let Effect::Commit(changes) = effect {
                assert_eq!(at, 0, "commits come first: {effects:?}");
                self.store(changes);
            }
        }
        effects
    }

    /// Asks, and gives the answer with the other effects.
    pub fn ask(
        &mut self,
        event: impl FnOnce(RequestId) -> Event,
    ) -> (Result<Answer, Refused>, Vec<Effect>) {
        self.requests += 1;
        let id = RequestId(self.requests);
        let mut effects = self.say(event(id));
        let at = effects
            .iter()
            .position(|e| matches!(e, Effect::Answer(of, _) if *of == id))
            .expect("every request is answered at once");
        let Effect::Answer(_, answer) = effects.remove(at) else {
            unreachable!()
        };
        (answer, effects)
    }

    pub fn make_token(&mut self, id: [u8; 8], uses: u32, manual: bool) {
        let expires = Timestamp(self.now.0 + 3_600_000);
        let labels = Labels::from([("site".to_string(), "berlin".to_string())]);
        let (answer, _) = self.ask(|request| Event::CreateToken {
            request,
            id,
            secret: [2; 32],
            labels,
            uses,
            expires,
            manual,
        });
        answer.unwrap();
    }

    pub fn machine(&mut self, wish: &str) -> Machine {
        Machine {
            key: KeyPair::generate(&mut self.random),
            name: name(wish),
            seq: Seq::first_of_start(1),
            session: SessionId(self.random.next()),
        }
    }

    /// The sealed join request of a machine.
    pub fn join_message(&mut self, machine: &mut Machine, arch: &str) -> Event {
        machine.seq = machine.seq.next();
        let attempt = format!("{:032x}", machine.seq.0);
        let topic = Topic::JoinRequest(attempt).in_fleet(&fleet_id());
        let wish = JoinRequest {
            name: machine.name.clone(),
            facts: Facts {
                arch: arch.into(),
                ..Facts::default()
            },
        };
        let payload = seal_join(
            &self.token,
            machine.seq,
            &topic,
            &machine.key,
            &self.fleet.public_key(),
            &encode(&wish),
            &mut self.random,
        )
        .unwrap();
        Event::Message { topic, payload }
    }

    /// What the hub answers to a join.
    pub fn join_reply(&self, machine: &Machine, effects: &[Effect]) -> Option<JoinReply> {
        let sent = self.sent(effects);
        let reply = sent.iter().find(|m| m.purpose == Purpose::JoinReply)?;
        assert_eq!(reply.to, machine.key.public());
        Some(decode("join reply", &reply.body).unwrap())
    }

    /// A machine that joined and is connected.
    pub fn device(&mut self, wish: &str, arch: &str) -> Machine {
        let mut machine = self.machine(wish);
        let event = self.join_message(&mut machine, arch);
        let effects = self.say(event);
        match self.join_reply(&machine, &effects) {
            Some(JoinReply::Accepted { device, .. }) => machine.name = device,
            other => panic!("{other:?}"),
        }
        self.connect(&mut machine, Generation(0));
        machine
    }

    pub fn connect(&mut self, machine: &mut Machine, generation: Generation) -> Vec<Effect> {
        let presence = Presence {
            session: machine.session,
            connection: 1,
            generation,
        };
        self.hear(
            machine,
            Lane::Presence,
            Purpose::Presence,
            &encode(&presence),
        )
    }

    pub fn sealed(
        &mut self,
        machine: &mut Machine,
        lane: Lane,
        purpose: Purpose,
        body: &[u8],
    ) -> Event {
        machine.seq = machine.seq.next();
        let topic = Topic::Device(machine.name.clone(), lane).in_fleet(&fleet_id());
        let payload = seal(
            purpose,
            machine.seq,
            &topic,
            &machine.key,
            &self.fleet.public_key(),
            body,
            &mut self.random,
        )
        .unwrap();
        Event::Message { topic, payload }
    }

    /// The hub hears a device.
    pub fn hear(
        &mut self,
        machine: &mut Machine,
        lane: Lane,
        purpose: Purpose,
        body: &[u8],
    ) -> Vec<Effect> {
        let event = self.sealed(machine, lane, purpose, body);
        self.say(event)
    }

    pub fn sent(&self, effects: &[Effect]) -> Vec<Outgoing> {
        let sent = effects.iter().filter_map(|effect| match effect {
            Effect::Send(message) => Some(message.clone()),
            _ => None,
        });
        sent.collect()
    }

    /// The desired state that these effects send to a machine, as it opens it.
    pub fn desired(&mut self, machine: &Machine, effects: &[Effect]) -> Option<Desired> {
        let mut whole = Vec::new();
        for message in self.sent(effects) {
            if message.purpose != Purpose::Desired || message.to != machine.key.public() {
                continue;
            }
            let topic = message.topic.in_fleet(&fleet_id());
            let hub = self.fleet.key.clone();
            let sealed = seal(
                message.purpose,
                message.seq,
                &topic,
                &hub,
                &message.to,
                &message.body,
                &mut self.random,
            )
            .unwrap();
            let purposes = [Purpose::Desired];
            let opened = open(&sealed, &purposes, &topic, &hub.public(), &machine.key).unwrap();
            let part: DesiredPart = decode("part", &opened.body).unwrap();
            whole.extend(part.bytes);
        }
        (!whole.is_empty()).then(|| decode("desired", &whole).unwrap())
    }

    pub fn add_image(&mut self, reference: &str, archs: &[&str]) -> Vec<Effect> {
        self.say(Event::ImageAdded {
            request: None,
            image: image(reference, archs),
        })
    }

    pub fn apply(&mut self, apps: Vec<(App, Revision)>) -> (Result<Answer, Refused>, Vec<Effect>) {
        self.ask(|request| Event::Apply {
            request,
            configs: Vec::new(),
            apps,
        })
    }

    pub fn generation(&self, machine: &Machine) -> Generation {
        self.fleet.device(&machine.name).unwrap().record.generation
    }

    /// The reasons of all events so far.
    pub fn reasons(&self) -> Vec<String> {
        self.fleet.events(0).map(|e| e.reason.clone()).collect()
    }

    /// The newest event of a reason.
    pub fn event(&self, reason: &str) -> EventRecord {
        let found = self.fleet.events(0).filter(|e| e.reason == reason).last();
        found
            .unwrap_or_else(|| panic!("no {reason} in {:?}", self.reasons()))
            .clone()
    }

    pub fn connection(&self, machine: &Machine) -> Connection {
        self.fleet.device(&machine.name).unwrap().connection
    }
}
