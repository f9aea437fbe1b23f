//! What runs, and what is told of it.

use crate::world::*;
use skerry_agent::core::{Effect, Event, ImageStatus};
use skerry_wire::message::{Command, CommandBody, Presence};
use skerry_wire::report::{Condition, ContainerState, Report};
use skerry_wire::seal::Purpose;
use skerry_wire::topic::Lane;
use skerry_wire::*;

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
