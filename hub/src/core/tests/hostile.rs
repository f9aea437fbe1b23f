//! Whoever owns the broker forges, replays, re-orders: nothing changes, and
//! each refusal is an event.

use super::*;
use skerry_wire::message::Gone;

/// All but the clock of last words and the journal.
fn facts_of(world: &World) -> (Vec<DeviceRecord>, Vec<AppRecord>, Vec<TokenRecord>) {
    let mut devices = world.stored.devices.clone();
    for device in &mut devices {
        device.last_seen = Timestamp(0);
    }
    (
        devices,
        world.stored.apps.clone(),
        world.stored.tokens.clone(),
    )
}

#[test]
fn nothing_that_is_not_from_the_device_changes_anything() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let mut other = world.device("other", "amd64");
    let mut stranger = world.machine("kiosk");
    let presence = encode(&Presence {
        session: SessionId(66),
        connection: 9,
        generation: Generation(77),
    });
    let real = world.sealed(&mut kiosk, Lane::Presence, Purpose::Presence, &presence);
    let Event::Message { topic, payload } = real else {
        unreachable!()
    };
    let forged = world.sealed(&mut stranger, Lane::Presence, Purpose::Presence, &presence);
    // The other device's key under this device's name.
    other.name = kiosk.name.clone();
    let borrowed = world.sealed(&mut other, Lane::Presence, Purpose::Presence, &presence);
    let message = |topic: &str, payload: Vec<u8>| Event::Message {
        topic: topic.into(),
        payload,
    };
    let mut damaged = payload.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let mut newer = payload.clone();
    newer[0] = 9;
    let report_topic = topic.replace("presence", "report");
    let attacks = [
        (forged, "forged"),
        (borrowed, "forged"),
        (message(&topic, damaged), "forged"),
        (message(&topic, newer), "version 9"),
        (message(&topic, Vec::new()), "too short"),
        (message(&topic, vec![1; 200_000]), "128 KiB"),
        (message(&report_topic, payload.clone()), "purpose"),
        (
            message(&topic.replace("presence", "desired"), payload.clone()),
            "purpose",
        ),
        (
            message(&topic.replace("kiosk", "nobody"), payload.clone()),
            "does not have",
        ),
        (
            message("skerry/v1/acme/kiosk", payload.clone()),
            "none of ours",
        ),
        (message("other/topic", payload), "none of ours"),
    ];
    let before = facts_of(&world);
    for (attack, words) in attacks {
        let effects = world.say(attack);
        assert!(world.sent(&effects).is_empty(), "{words}");
        assert_eq!(facts_of(&world), before, "{words}");
        let told = world.event("MessageRefused");
        assert!(told.message.contains(words), "{} / {words}", told.message);
    }
}

#[test]
fn replays_are_refused_also_after_a_restart() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let body = |session, connection| {
        encode(&Presence {
            session: SessionId(session),
            connection,
            generation: Generation(0),
        })
    };
    let old = world.sealed(&mut kiosk, Lane::Presence, Purpose::Presence, &body(5, 1));
    let new = world.sealed(&mut kiosk, Lane::Presence, Purpose::Presence, &body(5, 2));
    // Re-ordered: the newer first, then the older is worth nothing.
    world.say(new.clone());
    for replayed in [&old, &new] {
        for restarted in [false, true] {
            if restarted {
                world.restart();
            }
            let before = facts_of(&world);
            let effects = world.say(replayed.clone());
            assert!(world.sent(&effects).is_empty());
            assert_eq!(facts_of(&world), before);
            assert!(
                world
                    .event("MessageRefused")
                    .message
                    .contains("sent before")
            );
        }
    }
    assert!(!matches!(
        world.connection(&kiosk),
        Connection::Online { .. }
    ));
}

#[test]
fn a_late_will_harms_no_living_device() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let will = |connection| {
        encode(&Gone {
            session: kiosk.session,
            connection,
        })
    };
    let (first, second) = (will(1), will(2));
    let late = world.sealed(&mut kiosk, Lane::Presence, Purpose::Gone, &first);
    let presence = encode(&Presence {
        session: kiosk.session,
        connection: 2,
        generation: Generation(0),
    });
    world.hear(&mut kiosk, Lane::Presence, Purpose::Presence, &presence);
    world.say(late);
    assert!(matches!(
        world.connection(&kiosk),
        Connection::Online { .. }
    ));
    world.hear(&mut kiosk, Lane::Presence, Purpose::Gone, &second);
    assert!(matches!(
        world.connection(&kiosk),
        Connection::Offline { .. }
    ));
}

#[test]
fn a_flood_is_counted_not_kept() {
    let mut world = World::new();
    let kiosk = world.device("kiosk", "amd64");
    let topic = Topic::Device(kiosk.name, Lane::Report).in_fleet(&fleet_id());
    let before = world.fleet.events(0).count();
    let mut commits = 0;
    for number in 0..10_000u32 {
        let effects = world.say(Event::Message {
            topic: topic.clone(),
            payload: number.to_be_bytes().to_vec(),
        });
        commits += usize::from(!effects.is_empty());
        world.now = Timestamp(world.now.0 + 1);
    }
    // 10,000 messages in 10 s: three kinds of refusal at most.
    assert!(world.fleet.events(0).count() - before <= 3);
    assert!(commits < 10, "{commits}");
    let counted: u32 = world.fleet.events(0).map(|e| e.count).sum();
    assert!(counted >= 10_000);
}

#[test]
fn forgeries_of_two_kinds_in_turn_are_counted_too() {
    let mut world = World::new();
    let kiosk = world.device("kiosk", "amd64");
    let topic = Topic::Device(kiosk.name, Lane::Report).in_fleet(&fleet_id());
    let before = world.fleet.events(0).count();
    for number in 0..1_000 {
        let payload = match number % 2 {
            0 => Vec::new(),
            _ => vec![9; 100],
        };
        let topic = topic.clone();
        world.say(Event::Message { topic, payload });
        world.now = Timestamp(world.now.0 + 1);
    }
    assert_eq!(world.fleet.events(0).count() - before, 2);
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut world = World::new();
    let kiosk = world.device("kiosk", "amd64");
    world.now = Timestamp(4_000_000_000_000);
    let topic = Topic::Device(kiosk.name.clone(), Lane::Report).in_fleet(&fleet_id());
    let forged = || Event::Message {
        topic: topic.clone(),
        payload: Vec::new(),
    };
    world.say(forged());
    let request = RequestId(77);
    let device = kiosk.name.clone();
    world.say(Event::Usage { request, device });
    world.add_image("demo:1", &["amd64"]);
    let (_, effects) = world.apply(vec![app("web", "", "demo:1")]);
    assert!(world.desired(&kiosk, &effects).is_some());
    world.now = Timestamp(1_000_000);
    // What happens is told, what waits is given up, what was lost goes again.
    let told = world.say(forged());
    assert!(told.iter().any(|e| matches!(e, Effect::Happened(_))));
    let effects = world.say(Event::Tick);
    let answered = |e: &Effect| matches!(e, Effect::Answer(of, Err(_)) if *of == request);
    assert!(effects.iter().any(answered), "{effects:?}");
    assert!(world.desired(&kiosk, &effects).is_some());
}

#[test]
fn the_journal_is_bounded() {
    let mut world = World::new();
    for number in 0..journal::MAX_EVENTS + 50 {
        world.say(Event::Message {
            topic: format!("skerry/v1/acme/d{number}/report"),
            payload: vec![],
        });
        // Far enough apart to be new ones.
        world.now = Timestamp(world.now.0 + 700_000);
    }
    assert_eq!(world.fleet.events(0).count(), journal::MAX_EVENTS);
    assert_eq!(world.stored.events.len(), journal::MAX_EVENTS);
    let newest = world.fleet.events(0).last().unwrap().id;
    world.restart();
    assert_eq!(world.fleet.events(0).last().unwrap().id, newest);
}

#[test]
fn a_device_reaches_no_other_devices_stream() {
    let mut world = World::new();
    let kiosk = world.device("kiosk", "amd64");
    let mut other = world.device("other", "amd64");
    let (answer, _) = world.ask(|request| Event::OpenStream {
        request,
        device: kiosk.name.clone(),
        open: Open::Logs {
            app: app_ref("web"),
            container: None,
            tail: None,
            since_secs: None,
            follow: false,
            timestamps: false,
            run: None,
            previous: false,
        },
    });
    let Ok(Answer::Stream(stream)) = answer else {
        panic!("{answer:?}");
    };
    let frame = skerry_wire::stream::Frame {
        stream,
        number: 0,
        body: skerry_wire::stream::FrameBody::End(skerry_wire::stream::End::Done),
    };
    world.hear(
        &mut other,
        Lane::StreamOut,
        Purpose::StreamOut,
        &encode(&frame),
    );
    assert!(world.fleet.has_stream(stream));
    assert_eq!(world.event("FrameRefused").device, Some(other.name));
}

#[test]
fn a_device_that_forgot_its_starts_is_told_where_to_go_on() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let key = kiosk.key.clone();
    let mut start = |world: &mut World, start: u32, session: u64| {
        kiosk.seq = Seq::first_of_start(start);
        kiosk.session = SessionId(session);
        let presence = encode(&Presence {
            session: kiosk.session,
            connection: 1,
            generation: Generation(0),
        });
        let event = world.sealed(&mut kiosk, Lane::Presence, Purpose::Presence, &presence);
        let effects = world.say(event.clone());
        let sent = world.sent(&effects).into_iter();
        let commands = sent.filter(|sent| sent.purpose == Purpose::Command);
        let commands = commands.map(|sent| decode::<Command>("command", &sent.body).unwrap());
        (event, commands.collect::<Vec<_>>(), kiosk.seq)
    };
    let count_on = |session: u64, starts| Command {
        session: SessionId(session),
        body: CommandBody::CountOn { starts },
    };
    let (third, told, _) = start(&mut world, 3, 30);
    assert_eq!(told, []);
    // A will of a line that it had: numbers of this start were heard.
    let will = encode(&Gone {
        session: SessionId(30),
        connection: 0,
    });
    let mut ended = world.machine("kiosk");
    (ended.key, ended.seq) = (key.clone(), Seq::first_of_start(3));
    world.hear(&mut ended, Lane::Presence, Purpose::Gone, &will);
    let before = facts_of(&world);

    // After a power cut it counts from what its disk remembers.
    let (second, told, seq) = start(&mut world, 2, 20);
    assert_eq!(told, [count_on(20, 3)]);
    assert_eq!(facts_of(&world), before, "nothing of it was believed");
    let told = world.event("MessageRefused").message;
    assert!(told.contains("forgets what is written"), "{told}");
    // What it said meanwhile under such numbers is no news.
    let events = world.reasons().len();
    kiosk.seq = seq;
    world.hear(&mut kiosk, Lane::Presence, Purpose::Gone, &will);
    assert_eq!(world.reasons().len(), events);
    assert_eq!(facts_of(&world), before);

    // Above what the hub knows, it is believed.
    let mut start = |world: &mut World, number: u32, session: u64| {
        kiosk.seq = Seq::first_of_start(number);
        kiosk.session = SessionId(session);
        world.connect(&mut kiosk, Generation(0))
    };
    start(&mut world, 4, 20);
    let device = world.fleet.device(&name("kiosk")).unwrap();
    assert_eq!(device.record.session, SessionId(20));
    let before = facts_of(&world);

    // Old presences are worth what they were: of this run nothing, of others a
    // word that only those could use.
    let effects = world.say(second);
    assert_eq!(world.sent(&effects).len(), 0);
    let effects = world.say(third);
    let sent = world.sent(&effects);
    let command: Command = decode("command", &sent[0].body).unwrap();
    assert_eq!((sent.len(), command), (1, count_on(30, 4)));
    assert_eq!(facts_of(&world), before);
}
