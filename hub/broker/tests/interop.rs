//! Clients that we did not write, and the one that we did.

mod common;

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::*;
use skerry_broker::Limits;
use skerry_link::{CertPin, Link, LinkConfig, LinkEvent, Qos, Trust, Will};

fn broker() -> TestBroker {
    TestBroker::start(Limits::default())
}

/// mosquitto_pub or mosquitto_sub for a user, with TLS or without.
fn client(program: &str, broker: &TestBroker, tls: bool, user: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    let port = if tls { broker.tls } else { broker.plain }.port();
    command
        .args(["-h", "127.0.0.1", "-u", user, "-P", "secret"])
        .args(["-p", &port.to_string()])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if tls {
        command.arg("--cafile").arg(&broker.ca_pem);
    }
    command
}

fn run(mut command: Command) -> Output {
    command
        .output()
        .expect("this test needs mosquitto-clients: apt-get install mosquitto-clients")
}

fn spawn(mut command: Command) -> Child {
    command
        .spawn()
        .expect("this test needs mosquitto-clients: apt-get install mosquitto-clients")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).trim().to_owned()
}

#[test]
fn mosquitto_publishes_and_subscribes_in_both_versions_with_and_without_tls() {
    for version in ["mqttv5", "mqttv311"] {
        for tls in [false, true] {
            let broker = broker();
            let args = [
                "-V", version, "-q", "1", "-t", "f/a/+", "-C", "3", "-W", "60", "-v",
            ];
            let reader = spawn(client("mosquitto_sub", &broker, tls, "hub", &args));
            broker.wait("subscribed", |s| s.subscriptions == 1);
            for (qos, text) in [("0", "zero"), ("1", "one"), ("2", "two")] {
                let args = ["-V", version, "-q", qos, "-t", "f/a/report", "-m", text];
                let sent = run(client("mosquitto_pub", &broker, tls, "dev-a", &args));
                if qos == "2" {
                    // Refused: by code, or by a closed connection.
                    assert!(!text_is_ok(&sent), "{version} {tls}: {}", self::text(&sent));
                } else {
                    assert!(
                        sent.status.success(),
                        "{version} {tls}: {}",
                        self::text(&sent)
                    );
                }
            }
            let args = ["-V", version, "-q", "1", "-t", "f/a/report", "-m", "three"];
            run(client("mosquitto_pub", &broker, tls, "dev-a", &args));
            let got = reader.wait_with_output().unwrap();
            assert_eq!(
                text(&got),
                "f/a/report zero\nf/a/report one\nf/a/report three",
                "{version} {tls}"
            );
        }
    }
}

fn text_is_ok(output: &Output) -> bool {
    output.status.success() && output.stderr.is_empty()
}

#[test]
fn mosquitto_wills_and_retained_messages() {
    let broker = broker();
    let args = ["-V", "mqttv5", "-t", "f/a/#", "-C", "1", "-W", "60", "-v"];
    let reader = spawn(client("mosquitto_sub", &broker, false, "hub", &args));
    broker.wait("subscribed", |s| s.subscriptions == 1);
    let args = [
        "-t",
        "f/a/command",
        "--will-topic",
        "f/a/presence",
        "--will-payload",
        "gone",
        "--will-qos",
        "1",
    ];
    let mut mortal = spawn(client("mosquitto_sub", &broker, false, "dev-a", &args));
    broker.wait("subscribed", |s| s.subscriptions == 2);
    mortal.kill().unwrap();
    mortal.wait().unwrap();
    let got = reader.wait_with_output().unwrap();
    assert_eq!(text(&got), "f/a/presence gone");

    let args = ["-V", "mqttv5", "-q", "1", "-r", "-t", "kept", "-m", "hello"];
    assert!(
        run(client("mosquitto_pub", &broker, false, "retainer", &args))
            .status
            .success()
    );
    for version in ["mqttv5", "mqttv311"] {
        let args = [
            "-V", version, "-t", "kept", "-C", "1", "-W", "60", "-F", "%r %p",
        ];
        let got = run(client("mosquitto_sub", &broker, false, "retainer", &args));
        assert_eq!(text(&got), "1 hello");
    }
}

#[test]
fn mosquitto_is_told_why_it_may_not_come_in() {
    let broker = broker();
    for (version, words) in [("mqttv5", "Not authorized"), ("mqttv311", "not authorised")] {
        let args = ["-V", version, "-t", "x", "-m", "x"];
        let got = run(client("mosquitto_pub", &broker, false, "nobody", &args));
        assert!(!got.status.success());
        assert!(text(&got).contains(words), "{}", text(&got));
    }
    let args = ["-V", "mqttv5", "-t", "f/b/command", "-W", "60"];
    let got = run(client("mosquitto_sub", &broker, false, "dev-a", &args));
    assert!(text(&got).contains("denied"), "{}", text(&got));
}

#[test]
fn mosquitto_sends_what_it_kept_for_a_session() {
    let broker = broker();
    for version in ["mqttv5", "mqttv311"] {
        let keep = [
            "-V",
            version,
            "-i",
            version,
            "-c",
            "-q",
            "1",
            "-t",
            "f/a/command",
        ];
        let expiry = ["-x", "100"];
        let keep = if version == "mqttv5" {
            [&keep[..], &expiry[..]].concat()
        } else {
            keep.into()
        };
        let first = [&keep[..], &["-E"]].concat();
        assert!(
            run(client("mosquitto_sub", &broker, false, "dev-a", &first))
                .status
                .success()
        );
        let args = ["-q", "1", "-t", "f/a/command", "-m", "kept"];
        run(client("mosquitto_pub", &broker, false, "hub", &args));
        let again = [&keep[..], &["-C", "1", "-W", "60"]].concat();
        let got = run(client("mosquitto_sub", &broker, false, "dev-a", &again));
        assert_eq!(text(&got), "kept", "{version}");
    }
}

#[test]
fn rumqttc_with_its_own_loop() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{Client, Event, MqttOptions};
    let broker = broker();
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", broker.plain.port());
    options.set_credentials("hub", "secret");
    let (client, mut connection) = Client::new(options, 100);
    client.subscribe("a/+", QoS::AtLeastOnce).unwrap();
    for n in 0..50u8 {
        client
            .publish("a/b", QoS::AtLeastOnce, false, vec![n; 10])
            .unwrap();
    }
    let mut next = 0u8;
    for event in connection.iter() {
        if let Event::Incoming(Packet::Publish(publish)) = event.expect("no error") {
            assert_eq!(publish.payload[..], vec![next; 10]);
            next += 1;
            if next == 50 {
                break;
            }
        }
    }
}

fn link_config(url: String, id: &str, user: &str) -> LinkConfig {
    let mut config = LinkConfig::new(url.parse().unwrap(), id);
    config.username = Some(user.into());
    config.password = Some("secret".into());
    config.backoff_first = Duration::from_millis(20);
    config.backoff_cap = Duration::from_millis(200);
    config
}

async fn next(events: &async_channel::Receiver<LinkEvent>) -> LinkEvent {
    use smol::future::FutureExt;
    let late = async {
        smol::Timer::after(PATIENCE).await;
        panic!("no event came");
    };
    let event = async { events.recv().await.expect("the link ended") };
    event.or(late).await
}

#[test]
fn our_link_over_tls_tcp_and_unix() {
    let broker = broker();
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let unix = format!("unix://{}", broker.unix.display());
        let mut hub = link_config(unix, "hub", "hub");
        hub.subscriptions = vec!["f/+/report".into(), "f/+/presence".into()];
        let (hub, hub_events) = Link::start(&executor, hub, None);
        assert!(matches!(
            next(&hub_events).await,
            LinkEvent::Up {
                session_present: false,
                ..
            }
        ));
        for url in [
            format!("mqtt://{}", broker.plain),
            format!("mqtts://{}", broker.tls),
        ] {
            let mut config = link_config(url, "a", "dev-a");
            config.trust = Trust::Pinned(vec![CertPin::of(&broker.ca)]);
            config.subscriptions = vec!["f/a/command".into()];
            config.session_expiry = Duration::ZERO;
            let will = Will {
                topic: "f/a/presence".into(),
                payload: b"gone".to_vec(),
                delay: Duration::ZERO,
            };
            let (link, events) = Link::start(&executor, config, Some(will));
            assert!(matches!(next(&events).await, LinkEvent::Up { .. }));
            let large = vec![5; 128 * 1024];
            link.publish("f/a/report", large.clone(), Qos::AtLeastOnce)
                .unwrap();
            let expected = LinkEvent::Message {
                topic: "f/a/report".into(),
                payload: large.clone(),
            };
            assert_eq!(next(&hub_events).await, expected);
            hub.publish("f/a/command", large.clone(), Qos::AtLeastOnce)
                .unwrap();
            let expected = LinkEvent::Message {
                topic: "f/a/command".into(),
                payload: large,
            };
            assert_eq!(next(&events).await, expected);
            link.publish("f/b/report", b"x".to_vec(), Qos::AtLeastOnce)
                .unwrap();
            assert!(matches!(next(&events).await, LinkEvent::Refused { .. }));
            link.close().await;
            let expected = LinkEvent::Message {
                topic: "f/a/presence".into(),
                payload: b"gone".to_vec(),
            };
            assert_eq!(next(&hub_events).await, expected);
        }
    }));
}

#[test]
fn our_link_says_in_words_what_the_broker_says_by_code() {
    let broker = broker();
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let url = || format!("mqtt://{}", broker.plain);
        let reason = |event| match event {
            LinkEvent::Down { reason } => reason,
            other => panic!("{other:?}"),
        };
        let (_link, events) = Link::start(&executor, link_config(url(), "x", "nobody"), None);
        let said = reason(next(&events).await);
        assert!(
            said.contains("not authorized") && said.contains("unknown user"),
            "{said}"
        );
        let mut config = link_config(url(), "a", "dev-a");
        config.subscriptions = vec!["f/b/command".into()];
        let (_link, events) = Link::start(&executor, config, None);
        let said = reason(next(&events).await);
        assert!(said.contains("f/b/command: not authorized"), "{said}");
        let (_first, first) = Link::start(&executor, link_config(url(), "b", "dev-b"), None);
        assert!(matches!(next(&first).await, LinkEvent::Up { .. }));
        let (second, _events) = Link::start(&executor, link_config(url(), "b", "dev-b"), None);
        let said = reason(next(&first).await);
        assert!(said.contains("same client id"), "{said}");
        drop(second);
        let (_third, third) = Link::start(&executor, link_config(url(), "c", "dev-c"), None);
        assert!(matches!(next(&third).await, LinkEvent::Up { .. }));
        broker
            .authority
            .revoked
            .lock()
            .unwrap()
            .push("dev-c".into());
        broker.handle().disconnect("c", "revoked by ann");
        let said = reason(next(&third).await);
        assert!(
            said.contains("administrator") && said.contains("revoked by ann"),
            "{said}"
        );
        let said = reason(next(&third).await);
        assert!(said.contains("banned"), "{said}");
    }));
}

#[test]
fn a_thousand_links_in_one_process() {
    const LINKS: usize = 1000;
    allow_files(2 * LINKS as u64 + 500);
    let broker = broker();
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let unix = format!("unix://{}", broker.unix.display());
        let mut hub = link_config(unix, "hub", "hub");
        hub.subscriptions = vec!["f/+/report".into()];
        let (_hub, hub_events) = Link::start(&executor, hub, None);
        assert!(matches!(next(&hub_events).await, LinkEvent::Up { .. }));
        let links: Vec<_> = (0..LINKS)
            .map(|n| {
                let url = format!("mqtt://{}", broker.plain);
                let mut config = link_config(url, &format!("d{n}"), &format!("dev-d{n}"));
                config.subscriptions = vec![format!("f/d{n}/command")];
                Link::start(&executor, config, None)
            })
            .collect();
        for (n, (link, events)) in links.iter().enumerate() {
            while !matches!(next(events).await, LinkEvent::Up { .. }) {}
            link.publish(&format!("f/d{n}/report"), vec![1], Qos::AtLeastOnce)
                .unwrap();
        }
        let mut seen = std::collections::HashSet::new();
        while seen.len() < LINKS {
            if let LinkEvent::Message { topic, .. } = next(&hub_events).await {
                seen.insert(topic);
            }
        }
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        assert!(threads < 40, "{threads} threads");
    }));
}
