//! Messages: of the hub, of others, again and again.

use crate::world::*;
use skerry_agent::core::{Effect, Event};
use skerry_wire::finding::Finding;
use skerry_wire::message::{Command, CommandBody, ExecRequest, Reply};
use skerry_wire::report::Report;
use skerry_wire::seal::Purpose;
use skerry_wire::topic::Lane;
use skerry_wire::*;

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
