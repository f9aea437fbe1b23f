//! What is true after any sequence of events.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Apply(u8, u8, u8),
    Delete(u8),
    Label(u8, u8),
    Connect(u8, u64),
    Ahead(u8, u64),
    Image(u8, u8),
    Revoke(u8),
    Restart,
    Restore,
    LinkDown,
    LinkUp,
    Tick(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8, 0..4u8, 0..2u8).prop_map(|(a, s, i)| Step::Apply(a, s, i)),
        1 => (0..3u8).prop_map(Step::Delete),
        3 => (0..3u8, 0..3u8).prop_map(|(d, l)| Step::Label(d, l)),
        4 => (0..3u8, 0..3u64).prop_map(|(d, behind)| Step::Connect(d, behind)),
        1 => (0..3u8, 1..100u64).prop_map(|(d, ahead)| Step::Ahead(d, ahead)),
        2 => (0..2u8, 0..3u8).prop_map(|(i, p)| Step::Image(i, p)),
        1 => (0..3u8).prop_map(Step::Revoke),
        1 => Just(Step::Restart),
        1 => Just(Step::Restore),
        1 => Just(Step::LinkDown),
        1 => Just(Step::LinkUp),
        2 => (0..100_000u32).prop_map(Step::Tick),
    ]
}

const SELECTORS: [&str; 4] = ["", "role=a", "role!=a", "site=berlin"];
const ROLES: [&str; 3] = ["a", "b", "c"];
const IMAGES: [&str; 2] = ["demo:1", "demo:2"];
const ARCHS: [&[&str]; 3] = [&["amd64"], &["arm64"], &["amd64", "arm64"]];

fn take(world: &mut World, machines: &mut [Machine], step: Step) -> Vec<Effect> {
    match step {
        Step::Apply(a, s, i) => {
            let app = app(
                &format!("app{a}"),
                SELECTORS[usize::from(s)],
                IMAGES[usize::from(i)],
            );
            world.apply(vec![app]).1
        }
        Step::Delete(a) => {
            let apps = vec![app_ref(&format!("app{a}"))];
            world
                .ask(|request| Event::Delete {
                    request,
                    configs: Vec::new(),
                    apps,
                })
                .1
        }
        Step::Label(d, l) => {
            let set = Labels::from([("role".to_string(), ROLES[usize::from(l)].to_string())]);
            let device = machines[usize::from(d)].name.clone();
            let event = |request| Event::Label {
                request,
                device,
                set,
                remove: Vec::new(),
            };
            world.ask(event).1
        }
        Step::Connect(d, behind) => {
            let machine = &mut machines[usize::from(d)];
            let generation = Generation(world.generation(machine).0.saturating_sub(behind));
            world.connect(machine, generation)
        }
        Step::Ahead(d, ahead) => {
            let machine = &mut machines[usize::from(d)];
            let generation = Generation(world.generation(machine).0 + ahead);
            world.connect(machine, generation)
        }
        Step::Image(i, p) => world.add_image(IMAGES[usize::from(i)], ARCHS[usize::from(p)]),
        Step::Revoke(d) => {
            let device = machines[usize::from(d)].name.clone();
            // Twice would forget the device, and with it its numbers.
            let record = &world.fleet.device(&device).unwrap().record;
            if record.standing == Standing::Revoked {
                return Vec::new();
            }
            world.ask(|request| Event::Revoke { request, device }).1
        }
        Step::Restart => {
            world.restart();
            Vec::new()
        }
        Step::Restore => {
            world.stored.hub.restored = true;
            world.restart();
            Vec::new()
        }
        Step::LinkDown => world.say(Event::LinkDown),
        Step::LinkUp => world.say(Event::LinkUp {
            fresh_broker: false,
        }),
        Step::Tick(ms) => {
            world.now = Timestamp(world.now.0 + u64::from(ms));
            world.say(Event::Tick)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn numbers_only_rise_and_one_number_means_one_content(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let mut world = World::new();
        let mut machines = vec![
            world.device("d0", "amd64"),
            world.device("d1", "arm64"),
            world.device("d2", "riscv64"),
        ];
        let mut generations = [Generation(0); 3];
        let mut contents: BTreeMap<(DeviceId, Generation), Vec<skerry_wire::Assignment>> =
            BTreeMap::new();
        let mut seq = Seq(0);
        for step in steps {
            let effects = take(&mut world, &mut machines, step.clone());
            for message in world.sent(&effects) {
                prop_assert!(message.seq > seq, "{step:?}");
                seq = message.seq;
            }
            for (at, machine) in machines.iter().enumerate() {
                let now = world.generation(machine);
                prop_assert!(now >= generations[at], "{step:?}");
                generations[at] = now;
                if let Some(desired) = world.desired(machine, &effects) {
                    prop_assert_eq!(desired.generation, now);
                    let key = (machine.name.clone(), now);
                    let was = contents
                        .entry(key)
                        .or_insert_with(|| desired.assignments.clone());
                    prop_assert_eq!(&*was, &desired.assignments, "{:?}", step);
                }
                // What is in memory is what is stored.
                let record = &world.fleet.device(&machine.name).unwrap().record;
                let stored = world.stored.devices.iter();
                let mut stored = stored.filter(|d| d.device == machine.name);
                let mut stored = stored.next().unwrap().clone();
                stored.last_seen = record.last_seen;
                prop_assert_eq!(&stored, record);
            }
            // Doing nothing more leads to nothing more.
            let mut turn = Turn {
                now: world.now,
                changes: Vec::new(),
                effects: Vec::new(),
                dirty: BTreeSet::new(),
            };
            for machine in &machines {
                world.fleet.place(&mut turn, &machine.name, false);
            }
            prop_assert!(turn.dirty.is_empty(), "{step:?}");
            prop_assert!(turn.changes.is_empty() && turn.effects.is_empty());
        }
    }

    #[test]
    fn no_bytes_on_any_topic_make_the_core_panic(
        topic in "(skerry/v1/acme/)?[a-z0-9/-]{0,40}",
        lane in 0..4usize,
        payload in prop::collection::vec(any::<u8>(), 0..300),
        real in any::<bool>(),
    ) {
        let mut world = World::new();
        let mut machine = world.device("kiosk", "amd64");
        let lane = Lane::FROM_DEVICE[lane];
        world.say(Event::Message { topic, payload: payload.clone() });
        if real {
            // Sealed by the device, but garbage inside.
            let purpose = match lane {
                Lane::Presence => Purpose::Gone,
                Lane::Report => Purpose::Report,
                Lane::Reply => Purpose::Reply,
                _ => Purpose::StreamOut,
            };
            world.hear(&mut machine, lane, purpose, &payload);
        }
    }
}
