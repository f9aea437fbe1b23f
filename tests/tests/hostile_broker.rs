//! A broker that nobody should trust: Mosquitto with anonymous access and
//! without TLS, and somebody on it who does what they like.

use serde_json::Value;
use skerry_tests::attacker::{Attacker, Seen};
use skerry_tests::fleet::app_manifest;
use skerry_tests::mosquitto::Mosquitto;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};

const SECRET: &str = "correct-horse-battery-staple";

fn apps_of(hub: &Hub, device: &str) -> Value {
    hub.device(device)["apps"].clone()
}

fn refusals(hub: &Hub) -> Vec<String> {
    let events = hub.get(&["events"]);
    let items = events["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(Value::to_string)
        .filter(|e| e.contains("Refused"))
        .collect()
}

#[test]
fn whoever_owns_the_broker_can_neither_read_nor_forge_nor_replay() {
    need_root();
    let scratch = Scratch::new("hostile");
    let broker = Mosquitto::start(&scratch);
    let attacker = Attacker::connect(broker.address);
    let hub = Hub::start_with(&scratch, &["--broker", &broker.url()]);
    let one = Agent::start(&scratch, "one", &hub.token(&[]));
    let two = Agent::start(&scratch, "two", &hub.token(&[]));
    hub.wait_online("one");
    hub.wait_online("two");
    hub.import_test_image(&scratch);
    let env = format!("          env: [{{ name: PASSWORD, value: {SECRET} }}]\n");
    hub.apply(&scratch, &app_manifest("web", &["sleep"], &env));
    hub.apply(&scratch, &app_manifest("old", &["sleep"], &env));
    hub.skerry(&["delete", "app", "old"]);
    hub.wait_for_device("one", "without old", |d| {
        d["apps"].as_array().map(Vec::len) == Some(1)
    });
    hub.wait_for_device("two", "without old", |d| {
        d["apps"].as_array().map(Vec::len) == Some(1)
    });
    hub.skerry(&["exec", "one/web", "--", "/bin/app", "env"]);

    // Nothing in all that traffic tells the secret.
    let seen = attacker.seen();
    assert!(seen.iter().any(|m| m.topic.ends_with("/desired")));
    assert!(seen.iter().any(|m| m.topic.ends_with("/report")));
    for message in &seen {
        for word in [SECRET, "PASSWORD", "test/app"] {
            let found = message
                .payload
                .windows(word.len())
                .any(|w| w == word.as_bytes());
            assert!(!found, "{} shows '{word}'", message.topic);
        }
    }

    let before = (apps_of(&hub, "one"), apps_of(&hub, "two"));
    let running = (one.container_processes(), two.container_processes());
    attack(&attacker, &seen);

    // Refused on both sides, each with a reason that reaches the operator.
    let known = until(PATIENCE, || {
        let all = refusals(&hub).join("\n").to_lowercase();
        (all.contains("replayed") && all.contains("forged")).then_some(())
    });
    assert!(
        known.is_some(),
        "refusals are events: {:#?}\n{}",
        refusals(&hub),
        hub.log()
    );
    for device in ["one", "two"] {
        let told = until(PATIENCE, || {
            refusals(&hub)
                .iter()
                .any(|e| e.contains(device))
                .then_some(())
        });
        assert!(
            told.is_some(),
            "{device} told nothing of it: {:#?}",
            refusals(&hub)
        );
    }
    assert_eq!(
        (one.container_processes(), two.container_processes()),
        running
    );
    assert_eq!((apps_of(&hub, "one"), apps_of(&hub, "two")), before);
    // No machine joined by a replayed or forged request.
    assert_eq!(
        hub.get(&["devices"])["items"].as_array().map(Vec::len),
        Some(2)
    );

    // And the line still works.
    hub.apply(&scratch, &app_manifest("after", &["sleep"], ""));
    assert_eq!(one.container_processes().len(), 2);
    assert_eq!(two.container_processes().len(), 2);
}

/// Everything seen, again: as it was, altered, out of order, on the other
/// device's topic, for every topic there is.
fn attack(attacker: &Attacker, seen: &[Seen]) {
    for message in seen.iter().rev() {
        attacker.publish(&message.topic, message.payload.clone());
    }
    let mut altered = 0;
    for message in seen {
        let other = match message.topic.contains("/one/") {
            true => message.topic.replace("/one/", "/two/"),
            false => message.topic.replace("/two/", "/one/"),
        };
        attacker.publish(&other, message.payload.clone());
        if altered < 50 {
            altered += 1;
            let mut bytes = message.payload.clone();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            attacker.publish(&message.topic, bytes);
            attacker.publish(&message.topic, message.payload[..last / 2].to_vec());
        }
    }
    let lanes = [
        "desired",
        "command",
        "stream/in",
        "presence",
        "report",
        "reply",
        "stream/out",
    ];
    for device in ["one", "two"] {
        for lane in lanes {
            let topic = format!("skerry/v1/test/{device}/{lane}");
            for payload in [vec![], vec![0; 10], vec![1; 1000], vec![255; 70_000]] {
                attacker.publish(&topic, payload);
            }
        }
    }
}

#[test]
fn a_broker_that_forgets_everything_is_no_trouble() {
    need_root();
    let scratch = Scratch::new("forgetful");
    let mut broker = Mosquitto::start(&scratch);
    let mut hub = Hub::start_with(&scratch, &["--broker", &broker.url()]);
    let one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    broker.kill();
    // Accepted while nobody can be reached.
    let path = scratch.path().join("app.yaml");
    std::fs::write(&path, app_manifest("web", &["sleep"], "")).unwrap();
    hub.skerry(&["apply", "-f", &path.display().to_string()]);
    broker.start_again();
    hub.wait_for_device("one", "running web", |d| {
        d["apps"][0]["containers"][0]["state"]["kind"] == "running"
    });
    // The hub restarts; the broker and the device stay.
    hub.kill();
    hub.start_again();
    hub.wait_online("one");
    hub.apply(&scratch, &app_manifest("more", &["sleep"], ""));
    assert_eq!(one.container_processes().len(), 2);
}

/// The hub cannot answer, and such a broker knows no tokens: what is left is the
/// device's own word, here to whoever looks at it.
#[test]
fn a_device_whose_token_was_deleted_says_so_itself_and_takes_another() {
    need_root();
    let scratch = Scratch::new("deleted");
    let broker = Mosquitto::start(&scratch);
    let hub = Hub::start_with(&scratch, &["--broker", &broker.url()]);
    let token = hub.token(&[]);
    let tokens = hub.get(&["tokens"]);
    let id = tokens["items"][0]["id"].as_str().expect("its number");
    hub.skerry(&["token", "delete", id]);
    let one = Agent::start(&scratch, "one", &token);
    let words = format!("'skerry token list' shows {id}");
    let told = until(PATIENCE, || one.log().contains(&words).then_some(()));
    assert!(told.is_some(), "{}", one.log());
    assert!(one.agent("status", &[]).contains(&words));
    one.agent("join", &[&hub.token(&[])]);
    hub.wait_online("one");
}
