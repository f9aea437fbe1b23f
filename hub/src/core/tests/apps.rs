use super::*;
use skerry_wire::report::{AppStatus, DeviceEvent, Severity};

#[test]
fn an_app_goes_where_its_selector_says_and_follows_labels() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    let (answer, effects) = world.apply(vec![app("web", "role=gateway", "demo:1")]);
    let created = vec![(app_ref("web"), AppAction::Created)];
    assert_eq!(answer, Ok(Answer::Applied(created, Vec::new())));
    assert_eq!(world.desired(&kiosk, &effects), None);

    let label = |set: &str, remove: &str| {
        let set = set.split_once('=').map(|(k, v)| (k.into(), v.into()));
        let remove = (!remove.is_empty()).then(|| remove.to_string());
        (
            set.into_iter().collect::<Labels>(),
            remove.into_iter().collect::<Vec<_>>(),
        )
    };
    let mut generation = world.generation(&kiosk);
    for (set, remove, apps) in [
        ("role=gateway", "", 1),
        ("role=kiosk", "", 0),
        ("role=gateway", "", 1),
        ("", "role", 0),
    ] {
        let (set, remove) = label(set, remove);
        let (answer, effects) = world.ask(|request| Event::Label {
            request,
            device: name("kiosk"),
            set,
            remove,
        });
        answer.unwrap();
        let desired = world.desired(&kiosk, &effects).expect("it is online");
        assert_eq!(desired.assignments.len(), apps);
        assert_eq!(desired.generation, generation.next());
        generation = desired.generation;
    }
    // A label that no app asks for changes nothing.
    let (set, remove) = label("colour=red", "");
    let (_, effects) = world.ask(|request| Event::Label {
        request,
        device: name("kiosk"),
        set,
        remove,
    });
    assert!(world.sent(&effects).is_empty());
    assert_eq!(world.generation(&kiosk), generation);
}

#[test]
fn the_same_apply_twice_sends_nothing() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    let (_, effects) = world.apply(vec![app("web", "", "demo:1")]);
    assert!(world.desired(&kiosk, &effects).is_some());
    let (answer, effects) = world.apply(vec![app("web", "", "demo:1")]);
    let unchanged = vec![(app_ref("web"), AppAction::Unchanged)];
    assert_eq!(answer, Ok(Answer::Applied(unchanged, Vec::new())));
    assert_eq!(effects, vec![]);
    // Placement is no part of a revision: nothing changes for the device.
    let (answer, effects) = world.apply(vec![app("web", "site=berlin", "demo:1")]);
    let configured = vec![(app_ref("web"), AppAction::Configured)];
    assert_eq!(answer, Ok(Answer::Applied(configured, Vec::new())));
    assert!(world.sent(&effects).is_empty());
    let (_, effects) = world.ask(|request| Event::Delete {
        request,
        configs: Vec::new(),
        apps: vec![app_ref("web")],
    });
    let gone = world.desired(&kiosk, &effects).unwrap();
    assert!(gone.assignments.is_empty());
}

#[test]
fn each_platform_gets_its_own_manifest_and_the_lack_of_one_is_told() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64", "arm64"]);
    let x86 = world.device("x86", "amd64");
    let pi = world.device("pi", "arm64");
    let risc = world.device("risc", "riscv64");
    let (_, effects) = world.apply(vec![app("web", "", "demo:1")]);
    let manifest = |desired: Option<Desired>| {
        desired.unwrap().assignments[0].pod.containers[0]
            .image
            .manifest
    };
    let of_x86 = manifest(world.desired(&x86, &effects));
    let of_pi = manifest(world.desired(&pi, &effects));
    assert_ne!(of_x86, of_pi);
    assert_eq!(world.desired(&risc, &effects), None);
    let device = world.fleet.device(&risc.name).unwrap();
    let (assigned, blocked) = world.fleet.assignments(device);
    assert!(assigned.is_empty());
    assert_eq!(blocked[0].reason, "NoImageForPlatform");
    let event = world.event("NoImageForPlatform");
    assert_eq!(event.device, Some(risc.name.clone()));
    assert!(event.message.contains("linux/riscv64"), "{}", event.message);
    // It is asked for once.
    let asks = |effects: &[Effect]| {
        let pulls = effects.iter();
        pulls
            .filter(|e| matches!(e, Effect::PullImage { .. }))
            .count()
    };
    assert_eq!(asks(&effects), 1);
    let (_, effects) = world.apply(vec![app("api", "", "demo:1")]);
    assert_eq!(asks(&effects), 0);
    // When it comes, the device gets its app.
    let effects = world.add_image("demo:1", &["riscv64"]);
    let desired = world.desired(&risc, &effects).unwrap();
    assert_eq!(desired.assignments.len(), 2);
    assert_eq!(world.desired(&x86, &effects), None);
}

#[test]
fn a_device_that_is_behind_gets_the_newest_and_one_that_is_ahead_is_passed() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let mut kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let newest = world.generation(&kiosk);
    // It has it: nothing is sent.
    let effects = world.connect(&mut kiosk, newest);
    assert_eq!(world.desired(&kiosk, &effects), None);
    let effects = world.connect(&mut kiosk, Generation(0));
    assert_eq!(world.desired(&kiosk, &effects).unwrap().generation, newest);
    // From a hub's later life, which this one lost.
    let ahead = Generation(newest.0 + 1_000);
    let effects = world.connect(&mut kiosk, ahead);
    assert_eq!(
        world.desired(&kiosk, &effects).unwrap().generation,
        ahead.next()
    );
    assert!(world.reasons().contains(&"GenerationRaised".to_string()));
    // A number that no hub reaches is refused instead.
    let effects = world.connect(&mut kiosk, Generation(u64::MAX));
    assert_eq!(world.desired(&kiosk, &effects), None);
    assert_eq!(world.generation(&kiosk), ahead.next());
}

#[test]
fn a_lost_state_is_sent_again_less_and_less_often() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let mut kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let start = world.now.0;
    let mut sent_after = Vec::new();
    for second in 1..=300 {
        world.now = Timestamp(start + second * 1000);
        let effects = world.say(Event::Tick);
        if world.desired(&kiosk, &effects).is_some() {
            sent_after.push(second);
        }
    }
    assert_eq!(sent_after, vec![30, 90, 210]);
    let newest = world.generation(&kiosk);
    world.connect(&mut kiosk, newest);
    world.now = Timestamp(world.now.0 + 10_000_000);
    let effects = world.say(Event::Tick);
    assert!(world.sent(&effects).is_empty());
}

fn report(generation: Generation, events: Vec<u64>) -> Report {
    let event = |id| DeviceEvent {
        id,
        at: Timestamp(id),
        severity: Severity::Normal,
        reason: format!("Event{id}"),
        app: None,
        message: "happened".into(),
        count: 1,
    };
    Report {
        generation,
        at: Timestamp(9),
        facts: Facts {
            arch: "amd64".into(),
            ..Facts::default()
        },
        conditions: Vec::new(),
        apps: Vec::new(),
        events: events.into_iter().map(event).collect(),
        vitals: skerry_wire::report::Vitals::default(),
        updates: Vec::new(),
    }
}

#[test]
fn reports_are_committed_then_acknowledged_and_events_merge_by_id() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let mut acknowledged = |world: &mut World, events: Vec<u64>| {
        let body = encode(&report(Generation(1), events));
        let effects = world.hear(&mut kiosk, Lane::Report, Purpose::Report, &body);
        assert!(matches!(&effects[0], Effect::Commit(_)));
        let sent = world.sent(&effects);
        let told: Command = decode("command", &sent.last().unwrap().body).unwrap();
        match told.body {
            CommandBody::Acknowledge { report, events } => {
                assert_eq!(report, kiosk.seq);
                events
            }
            other => panic!("{other:?}"),
        }
    };
    // Numbered from 1 in each start of the agent, which is the upper half.
    let id = |start: u64, number: u64| start << 32 | number;
    for (events, seen) in [
        (vec![id(1, 5), id(1, 6)], id(1, 6)),
        (vec![id(1, 5), id(1, 6), id(1, 7)], id(1, 7)),
        (vec![id(1, 10), id(2, 1)], id(2, 1)),
    ] {
        assert_eq!(acknowledged(&mut world, events), seen);
    }
    let of_device = |reason: &str| world.reasons().iter().filter(|r| *r == reason).count();
    for (start, number) in [(1, 5), (1, 6), (1, 7), (1, 10), (2, 1)] {
        assert_eq!(of_device(&format!("Event{}", id(start, number))), 1);
    }
    assert_eq!(of_device("EventsDropped"), 1);
    assert!(world.event("EventsDropped").message.starts_with('2'));
    let stored = world.fleet.device(&name("kiosk")).unwrap().report();
    assert_eq!(stored, Some(report(Generation(1), vec![])));
}

#[test]
fn a_report_of_another_platform_moves_the_device_to_it() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64", "arm64"]);
    let mut kiosk = world.device("kiosk", "arm64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let generation = world.generation(&kiosk);
    let body = encode(&report(generation, vec![]));
    let effects = world.hear(&mut kiosk, Lane::Report, Purpose::Report, &body);
    let desired = world.desired(&kiosk, &effects).unwrap();
    assert_eq!(desired.generation, generation.next());
    let manifest = image("demo:1", &["amd64"]).platforms[0].manifest;
    assert_eq!(
        desired.assignments[0].pod.containers[0].image.manifest,
        manifest
    );
}

#[test]
fn an_apply_is_all_or_nothing() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let (answer, effects) = world.apply(vec![
        app("web", "", "demo:1"),
        app("api", "", "not-there:1"),
    ]);
    assert_eq!(answer.unwrap_err().reason, "ImageGone");
    assert_eq!(effects, vec![]);
    assert_eq!(world.fleet.apps().count(), 0);
    let (answer, _) = world.apply(vec![app("web", "", "demo:1"), app("web", "a", "demo:1")]);
    assert_eq!(answer.unwrap_err().reason, "AppTwice");
    let (mut large, revision) = app("web", "", "demo:1");
    large.pod.hostname = Some("x".repeat(70_000));
    let mut pod = revision.pod;
    pod.hostname = large.pod.hostname.clone();
    let (answer, _) = world.apply(vec![(large, Revision::of(pod))]);
    assert_eq!(answer.unwrap_err().reason, "AppTooLarge");
}

#[test]
fn a_restore_raises_every_number() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let mut kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let (generation, starts) = (world.generation(&kiosk), world.stored.hub.starts);
    world.restart();
    assert_eq!(world.generation(&kiosk), generation);
    assert_eq!(world.stored.hub.starts, starts + 1);
    world.stored.hub.restored = true;
    world.restart();
    let raised = Generation(generation.0 + Generation::RESTORE_STEP);
    assert_eq!(world.generation(&kiosk), raised);
    assert_eq!(world.stored.hub.starts, starts + 1 + RESTORE_STARTS);
    assert!(!world.stored.hub.restored);
    let effects = world.connect(&mut kiosk, generation);
    assert_eq!(world.desired(&kiosk, &effects).unwrap().generation, raised);
    let seq = world.sent(&effects)[0].seq;
    assert!(seq > Seq::first_of_start(starts + RESTORE_STARTS));
    world.restart();
    assert_eq!(world.generation(&kiosk), raised);
}

#[test]
fn a_backup_restored_twice_gives_other_numbers() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let mut backup = world.stored.clone();
    let mut numbers = Vec::new();
    for second in [0, 1_790_000_000, 1_790_000_100, 1_790_000_200] {
        world.stored = backup.clone();
        for change in world.stored.mark_restored(Timestamp(second * 1_000)) {
            world.store(&[change]);
        }
        world.restart();
        numbers.push((world.generation(&kiosk), world.stored.hub.starts));
        if second == 1_790_000_000 {
            // A backup of what came from a backup.
            backup = world.stored.clone();
        }
    }
    let rises = |pair: &[(Generation, u32)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
    assert!(numbers.windows(2).all(rises), "{numbers:?}");
}

#[test]
fn many_states_leave_in_portions() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let devices: Vec<Machine> = (0..150)
        .map(|n| world.device(&format!("d{n}"), "amd64"))
        .collect();
    let (_, mut effects) = world.apply(vec![app("web", "", "demo:1")]);
    let mut reached = 0;
    let mut turns = 0;
    loop {
        turns += 1;
        let sent = world.sent(&effects).len();
        assert!(sent <= SENDS_PER_EVENT);
        reached += sent;
        if !effects.contains(&Effect::MoreToSend) {
            break;
        }
        effects = world.say(Event::SendMore);
    }
    assert_eq!((reached, turns), (devices.len(), 3));
    // No room: it waits until there is.
    world.say(Event::NotSent(devices[0].name.clone()));
    let effects = world.say(Event::SendMore);
    assert!(world.sent(&effects).is_empty());
    let effects = world.say(Event::Room);
    assert!(world.desired(&devices[0], &effects).is_some());
}

#[test]
fn a_status_of_an_unknown_app_is_shown_not_believed() {
    let mut world = World::new();
    let mut kiosk = world.device("kiosk", "amd64");
    let mut report = report(Generation(0), vec![]);
    report.apps.push(AppStatus::new(
        app_ref("stray"),
        app("stray", "", "x").1.id,
        Vec::new(),
    ));
    world.hear(&mut kiosk, Lane::Report, Purpose::Report, &encode(&report));
    let device = world.fleet.device(&kiosk.name).unwrap();
    assert_eq!(device.report().unwrap().apps.len(), 1);
    assert!(world.fleet.assignments(device).0.is_empty());
}

#[test]
fn a_device_never_gets_more_than_it_takes_and_the_rest_is_told() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    // Each fits, no device has them: the apply is taken.
    let apps = (0..40).map(|n| {
        let (mut app, revision) = app(&format!("app{n:02}"), "role=all", "demo:1");
        app.pod.hostname = Some("x".repeat(60_000));
        let mut pod = revision.pod;
        pod.hostname = app.pod.hostname.clone();
        (app, Revision::of(pod))
    });
    world.apply(apps.collect()).0.unwrap();
    let (_, effects) = world.ask(|request| Event::Label {
        request,
        device: kiosk.name.clone(),
        set: Labels::from([("role".into(), "all".into())]),
        remove: Vec::new(),
    });
    let desired = world.desired(&kiosk, &effects).unwrap();
    assert!(encode(&desired).len() <= Desired::MAX_BYTES);
    let device = world.fleet.device(&kiosk.name).unwrap();
    let (assigned, blocked) = world.fleet.assignments(device);
    assert_eq!(assigned.len() + blocked.len(), 40);
    assert!(blocked.iter().all(|b| b.reason == "DesiredTooLarge"));
    assert!(world.reasons().contains(&"DesiredTooLarge".to_string()));
    // One more for a device that is full is refused when it is applied.
    let (answer, _) = world.apply(vec![app("zzz", "", "demo:1")]);
    assert_eq!(answer.unwrap_err().reason, "DesiredTooLarge");
}

/// The line can say that there is room before we are told that there was none.
#[test]
fn a_word_of_room_that_was_overtaken_stops_nothing() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    world.say(Event::Room);
    let effects = world.say(Event::NotSent(kiosk.name.clone()));
    assert!(world.desired(&kiosk, &effects).is_none());
    let effects = world.say(Event::Tick);
    assert!(world.desired(&kiosk, &effects).is_some());
}

/// A device says itself what it is: it cannot have the hub pull without end.
#[test]
fn pulls_for_devices_are_bounded_and_may_be_tried_again() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let mut kiosk = world.device("kiosk", "amd64");
    world.apply(vec![app("web", "", "demo:1")]).0.unwrap();
    let pull = |world: &mut World, kiosk: &mut Machine, arch: &str| {
        let mut report = report(Generation(0), Vec::new());
        report.facts.arch = arch.into();
        let effects = world.hear(kiosk, Lane::Report, Purpose::Report, &encode(&report));
        effects.into_iter().find_map(|effect| match effect {
            Effect::PullImage {
                digest, platform, ..
            } => Some((digest, platform)),
            _ => None,
        })
    };
    let made_up: Vec<_> = (0..3 * MAX_PULLS)
        .filter_map(|n| pull(&mut world, &mut kiosk, &format!("cpu{n}")))
        .collect();
    assert_eq!(made_up.len(), MAX_PULLS);
    let (digest, platform) = made_up[0].clone();
    world.say(Event::PullFailed {
        reference: "demo:1".into(),
        digest,
        platform,
        message: "the registry is away".into(),
    });
    let told = world.event("PullFailed").message;
    assert_eq!(
        told,
        "cannot pull demo:1 for linux/cpu0: the registry is away"
    );
    assert!(pull(&mut world, &mut kiosk, "cpu0").is_some());
}

#[test]
fn apps_that_would_wait_for_each_other_are_refused() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let waits = |name: &str, on: &str| {
        let (mut app, revision) = app(name, "", "demo:1");
        app.policy.depends_on = vec![skerry_wire::desired::Dependency {
            app: app_ref(on),
            condition: skerry_wire::desired::Awaited::Started,
        }];
        (app, revision)
    };
    world.apply(vec![waits("a", "b")]).0.unwrap();
    world.apply(vec![waits("b", "c")]).0.unwrap();
    let refused = world.apply(vec![waits("c", "a")]).0.unwrap_err();
    assert_eq!(refused.reason, "DependencyCircle");
    world.apply(vec![waits("c", "d")]).0.unwrap();
}

#[test]
fn an_app_begins_anew_under_another_name_and_keeps_it() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    let (_, effects) = world.apply(vec![app("web", "", "demo:1")]);
    let first = world.desired(&kiosk, &effects).unwrap().assignments;
    let restart = |world: &mut World, name: &str| {
        let app = app_ref(name);
        world.ask(|request| Event::Restart { request, app })
    };
    let (answer, effects) = restart(&mut world, "web");
    let done = vec![(app_ref("web"), AppAction::Configured)];
    assert_eq!(answer, Ok(Answer::Applied(done, Vec::new())));
    let second = world.desired(&kiosk, &effects).unwrap().assignments;
    assert_ne!(first[0].revision, second[0].revision);
    assert_eq!(first[0].pod, second[0].pod);
    // The same files again are no change, and do not take it back.
    let (answer, effects) = world.apply(vec![app("web", "", "demo:1")]);
    let same = vec![(app_ref("web"), AppAction::Unchanged)];
    assert_eq!(answer, Ok(Answer::Applied(same, Vec::new())));
    assert!(world.sent(&effects).is_empty());
    // Nor does it begin anew when it only goes elsewhere.
    let (_, effects) = world.apply(vec![app("web", "!gone", "demo:1")]);
    assert_eq!(world.desired(&kiosk, &effects), None);
    let stored = world.fleet.app(&app_ref("web")).unwrap().revision.id;
    assert_eq!(stored, second[0].revision);
    let (answer, _) = restart(&mut world, "none");
    assert_eq!(answer.unwrap_err().reason, "AppNotFound");
}
