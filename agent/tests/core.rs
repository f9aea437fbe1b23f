//! The core against a hub and an attacker on paper.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use skerry_agent::core::update::UpdateStart;
use skerry_agent::core::{
    Core, Effect, Event, Identity, ImageStatus, Now, Outgoing, Records, Start,
};
use skerry_agent::runtime::{Exit, ExitStatus, Status};
use skerry_wire::finding::Finding;
use skerry_wire::message::{Command, CommandBody, ExecRequest, Presence, Reply};
use skerry_wire::report::{Condition, ContainerState, Facts, Report, Vitals};
use skerry_wire::seal::{KeyPair, Purpose, seal};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::*;
use std::collections::BTreeSet;

struct World {
    rng: ChaCha20Rng,
    hub: KeyPair,
    device: KeyPair,
    hub_seq: u64,
    now_ms: u64,
    boot: u32,
    records: Records,
    core: Core,
    sent: Vec<Outgoing>,
    created: usize,
    /// Images that were said to be needed, and those to be examined.
    needed: Vec<BTreeSet<Digest>>,
    examined: Vec<Digest>,
    /// Whether nothing can be started.
    unstartable: bool,
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
    fn new() -> Self {
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

    fn restore(
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

    fn start_again(&mut self) {
        self.records.starts += 1;
        let records = self.records.clone();
        let (core, effects) =
            Self::restore(&self.hub, &self.device, records, self.boot, self.now_ms);
        self.core = core;
        self.carry_out(effects);
    }

    fn now(&self) -> Now {
        Now {
            boot_ms: self.now_ms,
            wall: Timestamp(0),
        }
    }

    fn say(&mut self, event: Event) {
        let effects = self.core.handle(self.now(), event);
        self.carry_out(effects);
    }

    /// A machine that does all at once; every image is here.
    fn carry_out(&mut self, effects: Vec<Effect>) {
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

    fn sealed(&mut self, purpose: Purpose, lane: Lane, body: &[u8]) -> Event {
        self.hub_seq += 1;
        let topic = Topic::Device("kiosk".parse().unwrap(), lane);
        let topic = topic.in_fleet(&"acme".parse().unwrap());
        let (hub, to) = (self.hub.clone(), self.device.public());
        let seq = Seq(self.hub_seq);
        let payload = seal(purpose, seq, &topic, &hub, &to, body, &mut self.rng).unwrap();
        Event::Message { topic, payload }
    }

    fn desired(&mut self, generation: u64, apps: &[(&str, &str)]) -> Vec<Event> {
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

    fn tell_desired(&mut self, generation: u64, apps: &[(&str, &str)]) {
        for event in self.desired(generation, apps) {
            self.say(event);
        }
    }

    fn reasons(&self) -> Vec<String> {
        let report = self.core.report(self.now());
        report.events.into_iter().map(|e| e.reason).collect()
    }
}

fn assignment(app: &str, revision: &str) -> Assignment {
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

fn running(core: &Core) -> usize {
    let containers = core.observed().containers.as_ref().unwrap();
    let runs = |s: &&Status| matches!(s, Status::Running { .. });
    containers.values().filter(runs).count()
}

#[test]
fn only_what_has_started_is_said_to_have() {
    let mut world = World::new();
    world.unstartable = true;
    world.say(Event::Listed(vec![]));
    world.tell_desired(1, &[("a", "1")]);
    assert!(world.reasons().contains(&"CreateFailed".into()));
    assert!(!world.reasons().contains(&"Started".into()));
    world.unstartable = false;
    while running(&world.core) == 0 {
        world.now_ms = world.core.wake_at().expect("it is tried again");
        world.say(Event::Wake);
    }
    assert_eq!(world.reasons().last(), Some(&"Started".into()));
}

#[test]
fn desired_state_becomes_containers_and_reports_that_are_repeated_until_acknowledged() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.say(Event::LinkUp { connection: 1 });
    let presence: Presence = decode("presence", &world.sent[0].body).unwrap();
    assert_eq!(presence.generation, Generation(0));
    assert_eq!(world.sent[1].purpose, Purpose::Report);
    world.tell_desired(1, &[("a", "1"), ("b", "1")]);
    assert_eq!((world.created, running(&world.core)), (2, 2));
    world.sent.clear();
    // It wakes for other things, too.
    while world.sent.len() < 3 {
        world.now_ms = world.core.wake_at().expect("a report is due");
        world.say(Event::Wake);
    }
    let last = world.sent.last().unwrap();
    let report: Report = decode("report", &last.body).unwrap();
    assert_eq!(report.generation, Generation(1));
    assert_eq!(report.apps.len(), 2);
    let state = &report.apps[0].containers[0].state;
    assert!(matches!(state, ContainerState::Running { .. }));
    let events = report.events.last().unwrap().id;
    let command = Command {
        session: world.core.session(),
        body: CommandBody::Acknowledge {
            report: last.seq,
            events,
        },
    };
    let event = world.sealed(Purpose::Command, Lane::Command, &encode(&command));
    world.say(event);
    // What is left is that its events are gone now, which is a change.
    world.sent.clear();
    while let Some(at) = world.core.wake_at() {
        world.now_ms = at;
        world.say(Event::Wake);
        assert!(world.sent.len() < 20);
        if let Some(sent) = world.sent.last() {
            let report: Report = decode("report", &sent.body).unwrap();
            assert!(report.events.is_empty());
            let body = CommandBody::Acknowledge {
                report: sent.seq,
                events,
            };
            let session = world.core.session();
            let command = encode(&Command { session, body });
            let event = world.sealed(Purpose::Command, Lane::Command, &command);
            world.say(event);
        }
    }
    assert_eq!(
        world.core.wake_at(),
        None,
        "an idle device has nothing to do"
    );
}

#[test]
fn generations_only_rise_and_the_same_bytes_are_fine() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.tell_desired(5, &[("a", "1")]);
    let stored = world.records.desired.clone();
    world.tell_desired(5, &[("a", "1")]);
    assert!(!world.reasons().contains(&"DesiredRefused".to_string()));
    world.tell_desired(4, &[]);
    world.tell_desired(5, &[]);
    assert_eq!(world.records.desired, stored);
    assert_eq!(running(&world.core), 1);
    let refused = world
        .reasons()
        .iter()
        .filter(|r| *r == "DesiredRefused")
        .count();
    assert_eq!(refused, 2);
    world.tell_desired(6, &[]);
    assert_eq!(running(&world.core), 0);
    assert!(world.records.ledger.is_empty());
}

#[test]
fn replayed_forged_and_stale_messages_change_nothing_across_restarts() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    let recorded = world.desired(1, &[]);
    recorded.iter().cloned().for_each(|e| world.say(e));
    world.tell_desired(2, &[("a", "1")]);
    let session = world.core.session();
    let body = CommandBody::Revoked;
    let revoke = world.sealed(
        Purpose::Command,
        Lane::Command,
        &encode(&Command { session, body }),
    );
    for restart in [false, true] {
        if restart {
            let listed: Vec<_> = world
                .core
                .observed()
                .containers
                .clone()
                .unwrap()
                .into_iter()
                .collect();
            world.start_again();
            world.say(Event::Listed(listed));
            // A command of the run before.
            world.say(revoke.clone());
            assert!(!world.records.revoked);
        }
        recorded.iter().cloned().for_each(|e| world.say(e));
        let Event::Message { topic, mut payload } = recorded[0].clone() else {
            unreachable!()
        };
        let last = payload.len() - 1;
        payload[last] ^= 1;
        world.say(Event::Message { topic, payload });
        assert_eq!(world.core.generation(), Generation(2));
        assert_eq!(running(&world.core), 1);
        assert!(world.reasons().contains(&"MessageRefused".to_string()));
    }
    assert!(world.reasons().contains(&"CommandRefused".to_string()));
    assert_eq!(world.created, 1, "the container lived through it all");
}

#[test]
fn after_a_reboot_everything_starts_at_once_from_the_store_alone() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.tell_desired(1, &[("a", "1"), ("b", "1"), ("c", "1")]);
    world.boot += 1;
    world.now_ms = 100;
    world.created = 0;
    world.start_again();
    world.say(Event::Listed(vec![]));
    assert_eq!((world.created, running(&world.core)), (3, 3));
    assert_eq!(world.core.generation(), Generation(1));
}

#[test]
fn boots_are_counted_in_the_commit_that_a_new_boot_makes_anyway() {
    let mut world = World::new();
    let boots = |world: &World| world.core.report(world.now()).facts.boot_count;
    assert_eq!(boots(&world), 1);
    world.start_again();
    assert_eq!(boots(&world), 1, "the same boot");
    world.boot += 1;
    world.records.starts += 1;
    let records = world.records.clone();
    let (core, effects) =
        World::restore(&world.hub, &world.device, records, world.boot, world.now_ms);
    let commits = effects.iter().filter(|e| matches!(e, Effect::Commit(_)));
    assert_eq!(commits.count(), 1);
    world.core = core;
    assert_eq!(boots(&world), 2);
    // What else is new about the machine leaves the count alone.
    world.say(Event::Facts(Box::default()));
    assert_eq!(boots(&world), 2);
}

#[test]
fn the_hub_asks_what_is_wrong_and_the_clocks_are_compared_as_it_asks() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.say(Event::LinkUp { connection: 1 });
    let session = world.core.session();
    let ask = |request| {
        let hub_time = Timestamp(90_000);
        let body = CommandBody::Doctor { request, hub_time };
        encode(&Command { session, body })
    };
    world.sent.clear();
    let event = world.sealed(Purpose::Command, Lane::Command, &ask(7));
    world.say(event);
    let reply: Reply = decode("reply", &world.sent.last().unwrap().body).unwrap();
    let findings = vec![Finding::good("Test", "-90000 ms")];
    assert_eq!(
        reply,
        Reply::Doctor {
            request: 7,
            findings
        }
    );
    // Examinations that hang do not pile up.
    let mut begun = 0;
    for request in 8..100 {
        let event = world.sealed(Purpose::Command, Lane::Command, &ask(request));
        let effects = world.core.handle(world.now(), event);
        let diagnose = |e: &&Effect| matches!(e, Effect::Diagnose { .. });
        begun += effects.iter().filter(diagnose).count();
    }
    assert_eq!(begun, 4);
}

#[test]
fn a_flood_of_refusals_neither_writes_nor_speaks_much() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.say(Event::LinkUp { connection: 1 });
    world.sent.clear();
    let stored = world.records.clone();
    for n in 0..10_000u64 {
        world.now_ms = n;
        let topic = "skerry/v1/acme/kiosk/desired".into();
        let payload = n.to_le_bytes().repeat(20);
        world.say(Event::Message { topic, payload });
        if world.core.wake_at().is_some_and(|at| at <= n) {
            world.say(Event::Wake);
        }
    }
    assert_eq!(world.records, stored, "an attacker wears out the flash");
    assert!(
        world.sent.len() <= 4,
        "{} reports in 10 seconds",
        world.sent.len()
    );
}

#[test]
fn what_the_broker_delivers_twice_is_no_attack_and_changes_nothing() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    let parts = world.desired(1, &[("a", "1")]);
    let twice = parts.iter().chain(&parts).cloned();
    twice.for_each(|event| world.say(event));
    assert_eq!((world.created, running(&world.core)), (1, 1));
    assert!(!world.reasons().contains(&"MessageRefused".to_string()));
    // Long after, it is a replay.
    for generation in 2..200 {
        world.tell_desired(generation, &[("a", "1")]);
    }
    parts.iter().cloned().for_each(|event| world.say(event));
    assert!(world.reasons().contains(&"MessageRefused".to_string()));
}

#[test]
fn a_device_that_is_shut_out_keeps_its_apps_ends_the_hubs_streams_and_falls_silent() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.say(Event::LinkUp { connection: 1 });
    world.tell_desired(1, &[("a", "1")]);
    let session = world.core.session();
    let command = |body| encode(&Command { session, body });
    let exec = command(CommandBody::Exec(ExecRequest {
        stream: StreamId(2),
        app: assignment("a", "1").app,
        container: None,
        args: vec!["sh".into()],
        tty: None,
        stdin: true,
        credit: 1000,
    }));
    let exec = world.sealed(Purpose::Command, Lane::Command, &exec);
    let effects = world.core.handle(world.now(), exec);
    assert!(effects.iter().any(|e| matches!(e, Effect::OpenExec { .. })));
    let revoked = command(CommandBody::Revoked);
    let revoked = world.sealed(Purpose::Command, Lane::Command, &revoked);
    let effects = world.core.handle(world.now(), revoked);
    let stream = StreamId(2);
    assert!(effects.contains(&Effect::StreamClose { stream }));
    assert_eq!(effects.last(), Some(&Effect::StopCalling));
    world.carry_out(effects);
    assert!(world.records.revoked);
    assert_eq!(running(&world.core), 1);
    world.sent.clear();
    // Its apps may still have to prove themselves.
    while let Some(at_ms) = world.core.wake_at() {
        assert!(at_ms > world.now_ms, "it does not rest");
        world.now_ms = at_ms;
        world.say(Event::Wake);
    }
    assert!(world.records.replacing.is_empty());
    assert!(world.sent.is_empty(), "it reports to nobody");
}

#[test]
fn conditions_are_told_when_they_come_and_go_and_not_when_their_figures_move() {
    let mut world = World::new();
    let pressure = |message: &str| Condition {
        kind: "DiskPressure".into(),
        status: true,
        reason: "DiskPressure".into(),
        message: message.into(),
    };
    let told = |world: &mut World, conditions| {
        world.say(Event::Conditions(conditions));
        world.core.report(world.now()).conditions
    };
    let first = vec![pressure("100 MiB free")];
    assert_eq!(told(&mut world, first.clone()), first);
    assert_eq!(told(&mut world, vec![pressure("99 MiB free")]), first);
    assert_eq!(told(&mut world, vec![]), []);
}

/// Folds an event in with all that follows from it, in order; how pods on
/// bridges were said to be: app, readiness, count of services.
fn shapes(world: &mut World, event: Event) -> Vec<Vec<(String, bool, usize)>> {
    let mut events = std::collections::VecDeque::from([event]);
    let mut said = Vec::new();
    while let Some(event) = events.pop_front() {
        for effect in world.core.handle(world.now(), event) {
            match effect {
                Effect::ShapeNetwork(pods) => said.push(
                    pods.into_iter()
                        .map(|pod| (pod.app.name.to_string(), pod.ready, pod.services.len()))
                        .collect(),
                ),
                Effect::PrepareImage(image) => events.push_back(Event::Image {
                    manifest: image.manifest,
                    result: Ok(ImageStatus::Ready),
                }),
                Effect::Create(create) => events.push_back(Event::Created {
                    id: create.id,
                    result: Ok(7),
                }),
                _ => {}
            }
        }
    }
    said
}

#[test]
fn pods_on_bridges_are_shaped_by_readiness_and_policy_without_a_restart() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    let mut app = assignment("web", "1");
    app.pod.network = skerry_wire::pod::Network::Bridge;
    let mut generation = 0;
    let mut tell = |world: &mut World, assignments: Vec<Assignment>| {
        generation += 1;
        let desired = Desired {
            generation: Generation(generation),
            assignments,
            ..Desired::default()
        };
        let parts = DesiredPart::split(desired.generation, &encode(&desired));
        let event = world.sealed(Purpose::Desired, Lane::Desired, &encode(&parts[0]));
        shapes(world, event)
    };
    let said = tell(&mut world, vec![assignment("host", "1"), app.clone()]);
    let web = |ready, services| vec![("web".to_string(), ready, services)];
    assert_eq!(said, [web(false, 0), web(true, 0)]);
    // Where it is and what is wrong is told the hub.
    let address = "10.209.0.7".parse().unwrap();
    world.say(Event::Network {
        addresses: vec![(app.app.clone(), app.revision, address)],
        troubles: vec!["the bridge is broken".into()],
    });
    let report = world.core.report(world.now());
    assert_eq!(report.apps[1].address, Some(address));
    assert_eq!(report.apps[0].address, None);
    assert!(world.reasons().contains(&"NetworkTrouble".to_string()));
    assert_eq!(report.conditions[0].message, "the bridge is broken");
    // Another policy is another shape of the same pod.
    app.policy.services = vec![skerry_wire::policy::Service {
        name: "site".parse().unwrap(),
        ports: vec![],
    }];
    let before = running(&world.core);
    let said = tell(&mut world, vec![assignment("host", "1"), app]);
    assert_eq!(said, [web(true, 1)]);
    assert_eq!(running(&world.core), before);
    // What is to go is ready no more, at once.
    assert_eq!(tell(&mut world, vec![]), [vec![]]);
}

fn image(revision: &str) -> Digest {
    Digest::of(revision.as_bytes())
}

#[test]
fn an_image_is_needed_as_long_as_it_is_wanted_or_gone_back_to() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    // Nobody has said what shall run.
    assert_eq!(world.needed, []);
    world.tell_desired(1, &[("a", "1")]);
    assert_eq!(world.needed, [[image("1")].into()]);
    // Until it has proved itself, the one before it is kept.
    world.now_ms = 1_000_000;
    world.say(Event::Wake);
    world.needed.clear();
    world.tell_desired(2, &[("a", "2")]);
    let kept = world.records.previous.len();
    let last = world.needed.last().expect("it changed");
    assert!(last.contains(&image("2")));
    assert_eq!(last.contains(&image("1")), kept == 1);
    // A start says it again, for a machine that knows nothing yet.
    let before = last.clone();
    world.needed.clear();
    world.start_again();
    assert_eq!(world.needed, [before]);
    // Said once only.
    world.say(Event::Listed(vec![]));
    for minute in 0..60 {
        world.now_ms += 60_000 * minute;
        world.say(Event::Wake);
    }
    let last = world.needed.last().expect("said at the start").clone();
    assert_eq!(last, [image("2")].into(), "it is good");
    assert!(world.needed.len() <= 2);
}

#[test]
fn an_image_that_lost_files_is_had_again_and_what_runs_from_it_goes_on() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.tell_desired(1, &[("a", "1"), ("b", "2")]);
    let manifest = image("1");
    let lost = |reason: &str| Event::ImageLost {
        manifest,
        reason: reason.into(),
    };
    let effects = world.core.handle(world.now(), lost("files are gone"));
    let fetches =
        |e: &&Effect| matches!(e, Effect::PrepareImage(image) if image.manifest == manifest);
    assert_eq!(effects.iter().filter(fetches).count(), 1);
    assert!(
        !effects
            .iter()
            .any(|e| matches!(e, Effect::Stop { .. } | Effect::Kill { .. }))
    );
    assert_eq!(running(&world.core), 2);
    assert!(world.reasons().contains(&"ImageDamaged".to_string()));
    // While it is on its way, hearing so again changes nothing.
    let effects = world.core.handle(world.now(), lost("files are gone"));
    assert_eq!(effects.iter().filter(fetches).count(), 0);
    assert!(!world.core.observed().has_image(&manifest));
    // One that nobody knows is no news.
    let other = Event::ImageLost {
        manifest: image("9"),
        reason: "files are gone".into(),
    };
    let effects = world.core.handle(world.now(), other);
    assert!(!effects.iter().any(|e| matches!(e, Effect::PrepareImage(_))));
}

#[test]
fn an_image_is_examined_when_its_program_is_not_found_and_not_each_time() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.tell_desired(1, &[("a", "1")]);
    let end = |world: &mut World, status| {
        let (name, entry) = world.core.ledger().iter().next().expect("an entry");
        let id = name.incarnation(entry.incarnation);
        let exit = Exit {
            status,
            oom_killed: false,
            at: skerry_agent::runtime::Timestamp(0),
        };
        world.say(Event::Exited { id, exit });
        // Back off, and start again.
        world.now_ms += 5 * 60_000 + 1;
        world.say(Event::Wake);
        world.examined.len()
    };
    assert_eq!(end(&mut world, ExitStatus::Code(1)), 0);
    assert_eq!(end(&mut world, ExitStatus::Signal(11)), 0);
    assert_eq!(end(&mut world, ExitStatus::Code(127)), 1);
    assert_eq!(end(&mut world, ExitStatus::Signal(7)), 1, "just now");
    assert_eq!(end(&mut world, ExitStatus::Signal(7)), 2);
    assert_eq!(world.examined, [image("1"); 2]);
}

#[test]
fn a_start_that_the_disk_forgot_goes_on_above_what_the_hub_knows() {
    let mut world = World::new();
    world.say(Event::Listed(vec![]));
    world.say(Event::LinkUp { connection: 1 });
    let told = |world: &mut World, session: SessionId, starts: u32| {
        let body = CommandBody::CountOn { starts };
        let command = encode(&Command { session, body });
        let message = world.sealed(Purpose::Command, Lane::Command, &command);
        world.core.handle(world.now(), message)
    };
    let calls = |effects: &[Effect]| {
        let mut found = effects.iter().filter_map(|effect| match effect {
            Effect::CallAnew { starts } => Some(*starts),
            _ => None,
        });
        found.next()
    };
    let (session, before) = (world.core.session(), world.records.starts);
    assert_eq!(before, 1);
    // Of another run, of an earlier start, and beyond the last one.
    let other = SessionId(session.0 ^ 1);
    for (session, starts) in [(other, 9), (session, 0), (session, u32::MAX)] {
        let effects = told(&mut world, session, starts);
        assert_eq!(calls(&effects), None, "{starts}");
        world.carry_out(effects);
    }
    assert_eq!((world.records.starts, world.reasons()), (1, vec![]));

    // Committed before the line has its number.
    let effects = told(&mut world, session, 9);
    assert_eq!(calls(&effects), Some(10));
    let place = |is: fn(&Effect) -> bool| effects.iter().position(is);
    let commit = place(|e| matches!(e, Effect::Commit(_))).expect("committed");
    let call = place(|e| matches!(e, Effect::CallAnew { .. })).expect("called");
    assert!(commit < call);
    world.carry_out(effects);
    assert_eq!(world.records.starts, 10);
    assert_eq!(world.reasons(), ["StartsForgotten"]);
    world.sent.clear();
    let reason = "numbers go on".to_string();
    world.say(Event::LinkDown { reason });
    world.say(Event::LinkUp { connection: 2 });
    world.now_ms += 1_000;
    world.say(Event::Wake);
    assert_eq!(world.sent[0].purpose, Purpose::Presence);
    let report = world.sent.iter().find(|m| m.purpose == Purpose::Report);
    let report = report.expect("all is told again");
    for message in [&world.sent[0], report] {
        assert_eq!(message.seq.start(), 10);
    }
    let report: Report = decode("report", &report.body).unwrap();
    assert_eq!(report.events[0].id, 10 << 32 | 1);
    // Said twice, as a broker may.
    let effects = told(&mut world, session, 9);
    assert_eq!(calls(&effects), None);
}
