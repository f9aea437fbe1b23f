use super::*;

#[test]
fn a_join_is_idempotent_and_uses_the_token_once() {
    let mut world = World::new();
    let mut machine = world.machine("kiosk");
    let event = world.join_message(&mut machine, "amd64");
    let effects = world.say(event.clone());
    let first = world.join_reply(&machine, &effects).unwrap();
    let left = world.stored.tokens[0].uses_left;
    assert_eq!(left, 999);
    // The same message again: refused, told.
    let effects = world.say(event);
    assert_eq!(world.join_reply(&machine, &effects), None);
    assert!(
        world
            .event("MessageRefused")
            .message
            .contains("sent before")
    );
    // The same key again: the same answer, nothing used up.
    let event = world.join_message(&mut machine, "amd64");
    let effects = world.say(event);
    assert_eq!(world.join_reply(&machine, &effects), Some(first));
    assert_eq!(world.stored.tokens[0].uses_left, left);
    assert_eq!(world.stored.devices.len(), 1);
    assert_eq!(world.stored.devices[0].labels["site"], "berlin");
}

#[test]
fn names_are_unique() {
    let mut world = World::new();
    let long = "x".repeat(63);
    for (wish, gets) in [
        ("kiosk", "kiosk"),
        ("kiosk", "kiosk-2"),
        ("kiosk", "kiosk-3"),
        ("join", "join-2"),
        (&long, &long),
        (&long, &format!("{}-2", "x".repeat(61))),
    ] {
        let machine = world.device(wish, "amd64");
        assert_eq!(machine.name.as_str(), gets);
    }
}

#[test]
fn tokens_end() {
    let mut world = World::new();
    world.token.id = [3; 8];
    world.make_token([3; 8], 1, false);
    world.device("first", "amd64");
    let mut second = world.machine("second");
    let event = world.join_message(&mut second, "amd64");
    let effects = world.say(event);
    let Some(JoinReply::Refused { reason }) = world.join_reply(&second, &effects) else {
        panic!("{effects:?}");
    };
    assert!(reason.contains("no uses left"), "{reason}");

    world.token.id = [1; 8];
    world.now = Timestamp(world.now.0 + 3_600_001);
    let event = world.join_message(&mut second, "amd64");
    let effects = world.say(event);
    let Some(JoinReply::Refused { reason }) = world.join_reply(&second, &effects) else {
        panic!("{effects:?}");
    };
    assert!(reason.contains("expired"), "{reason}");

    // Much later it is gone, and nobody can answer.
    world.now = Timestamp(world.now.0 + 8 * 24 * 3_600_000);
    world.say(Event::Tick);
    assert!(world.stored.tokens.is_empty());
    let event = world.join_message(&mut second, "amd64");
    let effects = world.say(event);
    assert_eq!(world.join_reply(&second, &effects), None);
    assert!(world.event("JoinRefused").message.contains("does not have"));
}

#[test]
fn the_lobby_keeps_devices_until_they_are_approved() {
    let mut world = World::new();
    world.token.id = [4; 8];
    world.make_token([4; 8], 5, true);
    world.add_image("demo:1", &["amd64"]);
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let mut machine = world.machine("kiosk");
    let event = world.join_message(&mut machine, "amd64");
    let effects = world.say(event);
    let waiting = JoinReply::Waiting {
        device: name("kiosk"),
    };
    assert_eq!(world.join_reply(&machine, &effects), Some(waiting.clone()));
    // In the lobby it says nothing that counts, and gets nothing.
    let effects = world.connect(&mut machine, Generation(0));
    assert!(world.sent(&effects).is_empty());
    assert!(world.event("MessageRefused").message.contains("lobby"));
    let event = world.join_message(&mut machine, "amd64");
    let effects = world.say(event);
    assert_eq!(world.join_reply(&machine, &effects), Some(waiting.clone()));
    // Its token may end while it waits.
    world.now = Timestamp(world.now.0 + 3_600_001);
    let event = world.join_message(&mut machine, "amd64");
    let effects = world.say(event);
    assert_eq!(world.join_reply(&machine, &effects), Some(waiting));

    let labels = Labels::from([("role".into(), "kiosk".into())]);
    let (answer, effects) = world.ask(|request| Event::Approve {
        request,
        device: name("kiosk"),
        labels,
    });
    answer.unwrap();
    // It is told at once, where it last asked.
    assert!(matches!(
        world.join_reply(&machine, &effects),
        Some(JoinReply::Accepted { .. })
    ));
    let effects = world.connect(&mut machine, Generation(0));
    assert_eq!(
        world.desired(&machine, &effects).unwrap().assignments.len(),
        1
    );
    assert_eq!(world.stored.devices[0].labels.len(), 2);
}

#[test]
fn a_revoked_device_is_out_at_once_and_its_key_for_ever() {
    let mut world = World::new();
    let mut machine = world.device("kiosk", "amd64");
    let (answer, effects) = world.ask(|request| Event::Revoke {
        request,
        device: name("kiosk"),
    });
    answer.unwrap();
    assert!(effects.contains(&Effect::Disconnect(name("kiosk"))));
    let sent = world.sent(&effects);
    let told: Command = decode("command", &sent[0].body).unwrap();
    assert_eq!(told.body, CommandBody::Revoked);

    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        let effects = world.connect(&mut machine, Generation(0));
        assert!(world.sent(&effects).is_empty());
        assert!(world.event("MessageRefused").message.contains("shut out"));
        let event = world.join_message(&mut machine, "amd64");
        let effects = world.say(event);
        assert!(matches!(
            world.join_reply(&machine, &effects),
            Some(JoinReply::Refused { .. })
        ));
    }
    // A new key may have the name; the old one stays out.
    let again = world.device("kiosk", "amd64");
    assert_eq!(again.name.as_str(), "kiosk");
    let event = world.join_message(&mut machine, "amd64");
    let effects = world.say(event);
    assert!(matches!(
        world.join_reply(&machine, &effects),
        Some(JoinReply::Refused { .. })
    ));
}

#[test]
fn credentials_differ_and_stay() {
    let mut random = TestRandom(1);
    let hub = KeyPair::generate(&mut random);
    let other = KeyPair::generate(&mut random);
    let device = KeyPair::generate(&mut random).public();
    assert_eq!(
        device_password(&hub, &device),
        device_password(&hub, &device)
    );
    assert_ne!(
        device_password(&hub, &device),
        device_password(&other, &device)
    );
    assert_ne!(
        device_password(&hub, &device),
        device_password(&hub, &other.public())
    );
    assert!(same_secret(b"a", b"a"));
    assert!(!same_secret(b"a", b"b"));
    assert!(!same_secret(b"", b"b"));
}
