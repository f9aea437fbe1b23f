//! The device is never worse off for being offline, nor for our own trouble.

use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, built, copy_program, need_root, until};
use std::collections::BTreeSet;

/// The offline start: everything up from the device's own store.
#[test]
fn apps_start_without_hub_broker_network_and_clock() {
    need_root();
    let scratch = Scratch::new("offline");
    let mut hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    for name in ["a", "b", "c"] {
        hub.apply(&scratch, &app_manifest(name, &["lines", "100"], ""));
    }
    assert_eq!(one.container_processes().len(), 3);
    hub.kill();
    for _ in 0..5 {
        one.cut_power();
        assert_eq!(one.container_processes().len(), 0);
        // The clock of a board without a battery: 1970.
        one.start_with(&[], &[("SKERRY_FAKE_CLOCK", "0")]);
        let up = until(PATIENCE, || {
            (one.container_processes().len() == 3).then_some(())
        });
        assert!(up.is_some(), "not every app is up:\n{}", one.log());
    }
    // Still good friends when the hub returns.
    hub.start_again();
    hub.wait_online("one");
    hub.apply(&scratch, &app_manifest("d", &["sleep"], ""));
    assert_eq!(one.container_processes().len(), 4);
}

/// `kill -9` of the agent, again and again, while apps write.
#[test]
fn killing_the_agent_touches_no_container_and_loses_no_line() {
    need_root();
    let scratch = Scratch::new("agent-life");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    for name in ["a", "b", "c"] {
        hub.apply(&scratch, &app_manifest(name, &["lines", "20"], ""));
    }
    let before: BTreeSet<i32> = one.container_processes().into_iter().collect();
    assert_eq!(before.len(), 3);
    for round in 0..100u64 {
        one.kill();
        one.start_again();
        // At another moment of its start each time.
        let moment = std::time::Duration::from_millis(round * 7 % 300);
        until(moment, || None::<()>);
    }
    hub.wait_online("one");
    assert_eq!(
        one.container_processes()
            .into_iter()
            .collect::<BTreeSet<_>>(),
        before
    );
    for name in ["a", "b", "c"] {
        // The hub may have to notice yet that it is connected anew.
        let target = format!("one/{name}");
        let text = until(PATIENCE, || hub.try_skerry(&["logs", &target]).ok());
        let text = text.expect("its log");
        let numbers: Vec<u64> = text
            .lines()
            .map(|l| {
                l.strip_prefix("line ")
                    .and_then(|n| n.parse().ok())
                    .expect(l)
            })
            .collect();
        assert!(numbers.len() > 100, "{name}: {} lines", numbers.len());
        let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
        assert_eq!(numbers, expected, "{name}: a line is lost or doubled");
        assert_eq!(numbers[0], 1, "{name}: the first lines are lost");
    }
}

/// An app that ends while no agent is there.
#[test]
fn exits_while_the_agent_is_away_are_known_and_acted_on() {
    need_root();
    let scratch = Scratch::new("exits");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    hub.apply(&scratch, &app_manifest("idle", &["sleep"], ""));
    let before = one.container_processes();
    assert_eq!(before.len(), 1);
    one.kill();
    let pid = nix::unistd::Pid::from_raw(before[0]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    let ended = until(PATIENCE, || {
        one.container_processes().is_empty().then_some(())
    });
    assert!(ended.is_some());
    one.start_again();
    let back = until(PATIENCE, || {
        let now = one.container_processes();
        (now.len() == 1 && now != before).then_some(())
    });
    assert!(
        back.is_some(),
        "the app was not started again:\n{}",
        one.log()
    );
    hub.wait_for_device("one", "reporting the signal", |d| {
        let exit = &d["apps"][0]["containers"][0]["last_exit"];
        exit.to_string().contains('9')
    });
}

/// A new agent binary in the old one's place.
#[test]
fn replacing_the_agent_keeps_every_container() {
    need_root();
    let scratch = Scratch::new("replace");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    hub.apply(&scratch, &app_manifest("idle", &["sleep"], ""));
    let before = one.container_processes();
    let copy = scratch.path().join("skerry-agent-new");
    copy_program(&built("skerry-agent"), &copy);
    one.kill();
    one.replace_program(&copy);
    one.start_again();
    hub.apply(&scratch, &app_manifest("more", &["sleep"], ""));
    let after = one.container_processes();
    assert_eq!(after.len(), 2);
    assert!(after.contains(&before[0]), "the container was restarted");
}

/// What removing the package does: the agent ends, and then every app does.
#[test]
fn stop_ends_every_app_until_the_next_agent() {
    need_root();
    let scratch = Scratch::new("stop");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    for name in ["a", "b"] {
        hub.apply(&scratch, &app_manifest(name, &["sleep"], ""));
    }
    // An agent that runs would start them again.
    let refused = one.command("stop").output().expect("skerry-agent runs");
    assert!(!refused.status.success());
    assert_eq!(one.container_processes().len(), 2);

    one.kill();
    one.agent("stop", &[]);
    let ended = until(PATIENCE, || one.processes().is_empty().then_some(()));
    assert!(
        ended.is_some(),
        "left: {:?}\n{}",
        one.processes(),
        one.log()
    );

    one.start_again();
    let back = until(PATIENCE, || {
        (one.container_processes().len() == 2).then_some(())
    });
    assert!(back.is_some(), "not every app is back:\n{}", one.log());
}
