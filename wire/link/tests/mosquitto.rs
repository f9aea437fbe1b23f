//! The link against a real Mosquitto.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use skerry_link::{BrokerUrl, CertPin, Full, Link, LinkEvent, Qos, Trust, Will};

const OPEN: &str = "allow_anonymous true";

#[test]
fn two_links_exchange_messages_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path(), OPEN);
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let mut hub = config(broker.url(), "hub");
        hub.subscriptions = vec!["skerry/v1/f/+/report".into()];
        let (hub, hub_events) = Link::start(&executor, hub, None);
        let (device, device_events) = Link::start(&executor, config(broker.url(), "device"), None);
        up(&hub_events).await;
        up(&device_events).await;
        for n in 0..500u32 {
            let payload = n.to_be_bytes().to_vec();
            while device.publish("skerry/v1/f/d/report", payload.clone(), Qos::AtLeastOnce)
                == Err(Full)
            {
                until(&device_events, |e| (e == LinkEvent::Room).then_some(())).await;
            }
            if n % 100 == 99 {
                for k in n - 99..=n {
                    let (topic, payload) = message(&hub_events).await;
                    assert_eq!(topic, "skerry/v1/f/d/report");
                    assert_eq!(payload, k.to_be_bytes());
                }
            }
        }
        hub.close().await;
        device.close().await;
    }));
}

#[test]
fn a_large_message_passes_and_a_larger_one_ends_the_line_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path(), OPEN);
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let mut reader = config(broker.url(), "reader");
        reader.subscriptions = vec!["big".into()];
        let (_reader, events) = Link::start(&executor, reader, None);
        let (writer, writer_events) = Link::start(&executor, config(broker.url(), "writer"), None);
        up(&events).await;
        up(&writer_events).await;
        let payload = vec![7u8; 128 * 1024];
        writer
            .publish("big", payload.clone(), Qos::AtLeastOnce)
            .unwrap();
        assert_eq!(message(&events).await, ("big".into(), payload));
        // Mosquitto keeps to our maximum packet size and drops this one.
        writer
            .publish("big", vec![7u8; 300 * 1024], Qos::AtLeastOnce)
            .unwrap();
        writer
            .publish("big", b"after".to_vec(), Qos::AtLeastOnce)
            .unwrap();
        assert_eq!(message(&events).await.1, b"after");
    }));
}

#[test]
fn reconnects_subscribes_again_and_sends_what_waited() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path(), OPEN);
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let mut own = config(broker.url(), "own");
        own.subscriptions = vec!["a".into()];
        let (link, events) = Link::start(&executor, own, None);
        up(&events).await;
        broker.stop();
        let reason = down(&events).await;
        assert!(reason.contains("closed the connection"), "{reason}");
        link.publish("a", b"stale".to_vec(), Qos::AtMostOnce)
            .unwrap();
        link.publish("a", b"first".to_vec(), Qos::AtLeastOnce)
            .unwrap();
        link.publish("a", b"second".to_vec(), Qos::AtLeastOnce)
            .unwrap();
        let refused = format!(
            "cannot reach broker at mqtt://127.0.0.1:{}: connection refused",
            broker.port
        );
        assert_eq!(down(&events).await, refused);
        broker.again();
        assert_eq!(message(&events).await.1, b"first");
        assert_eq!(message(&events).await.1, b"second");
    }));
}

#[test]
fn queue_is_bounded_while_down() {
    let dir = tempfile::tempdir().unwrap();
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let port = free_port();
        let url = format!("mqtt://127.0.0.1:{port}").parse().unwrap();
        let mut small = config(url, "small");
        small.max_queued_messages = 4;
        let (link, events) = Link::start(&executor, small, None);
        for _ in 0..4 {
            link.publish("a", vec![1], Qos::AtLeastOnce).unwrap();
        }
        assert_eq!(link.publish("a", vec![1], Qos::AtLeastOnce), Err(Full));
        down(&events).await;
        let _broker = Mosquitto::start_on(dir.path(), OPEN, port);
        until(&events, |event| (event == LinkEvent::Room).then_some(())).await;
        link.publish("a", vec![1], Qos::AtLeastOnce).unwrap();
    }));
}

#[test]
fn wrong_password_and_no_password_are_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&users)
        .args(["me", "right"])
        .status()
        .unwrap();
    assert!(made.success());
    let lines = format!("allow_anonymous false\npassword_file {}", users.display());
    let broker = Mosquitto::start(dir.path(), &lines);
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let mut wrong = config(broker.url(), "wrong");
        wrong.username = Some("me".into());
        wrong.password = Some("wrong".into());
        let (_link, events) = Link::start(&executor, wrong, None);
        let reason = down(&events).await;
        assert!(reason.contains("not authorized"), "{reason}");
        // The login of the URL counts too.
        let url = format!("mqtt://me:right@127.0.0.1:{}", broker.port);
        let (_link, events) = Link::start(&executor, config(url.parse().unwrap(), "right"), None);
        up(&events).await;
    }));
}

#[test]
fn a_refused_subscription_or_publish_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    std::fs::write(&acl, "topic readwrite mine/#\n").unwrap();
    let lines = format!("allow_anonymous true\nacl_file {}", acl.display());
    let broker = Mosquitto::start(dir.path(), &lines);
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let (link, events) = Link::start(&executor, config(broker.url(), "one"), None);
        up(&events).await;
        link.publish("yours", vec![1], Qos::AtLeastOnce).unwrap();
        let (topic, reason) = until(&events, |event| match event {
            LinkEvent::Refused { topic, reason } => Some((topic, reason)),
            _ => None,
        })
        .await;
        assert_eq!(topic, "yours");
        assert!(reason.contains("not authorized"), "{reason}");
    }));
}

#[test]
fn will_is_made_for_each_attempt_and_published_on_close() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path(), OPEN);
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let mut watcher = config(broker.url(), "watcher");
        watcher.subscriptions = vec!["presence".into()];
        let (_watcher, seen) = Link::start(&executor, watcher, None);
        up(&seen).await;
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let (link, events, driver) = Link::new(config(broker.url(), "mortal"), move |attempt| {
            count.store(attempt.0, Ordering::Relaxed);
            Some(Will {
                topic: "presence".into(),
                payload: attempt.0.to_be_bytes().to_vec(),
                delay: Duration::ZERO,
            })
        });
        let driver = executor.spawn(driver);
        up(&events).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // The line is cut.
        driver.cancel().await;
        assert_eq!(message(&seen).await.1, 1u64.to_be_bytes());
        drop(link);
        // And closed in good order.
        let will = Will {
            topic: "presence".into(),
            payload: b"gone".to_vec(),
            delay: Duration::ZERO,
        };
        let (link, events) = Link::start(&executor, config(broker.url(), "mortal"), Some(will));
        up(&events).await;
        link.publish("presence", b"last words".to_vec(), Qos::AtLeastOnce)
            .unwrap();
        link.close().await;
        assert_eq!(message(&seen).await.1, b"last words");
        assert_eq!(message(&seen).await.1, b"gone");
    }));
}

#[test]
fn tls_by_pin_of_leaf_or_authority_whatever_the_date() {
    let dir = tempfile::tempdir().unwrap();
    for (name, years) in [
        ("now", (2020, 2090)),
        ("past", (1999, 2001)),
        ("future", (2080, 2090)),
    ] {
        let tls = tls(dir.path(), name, years);
        let broker = Mosquitto::start(dir.path(), &format!("{OPEN}\n{}", tls.lines));
        let executor = smol::Executor::new();
        smol::block_on(executor.run(async {
            for pinned in [&tls.ca, &tls.leaf] {
                let mut pins = config(broker.tls_url(), "pinned");
                pins.trust = Trust::Pinned(vec![CertPin([0; 32]), CertPin::of(pinned)]);
                pins.subscriptions = vec!["a".into()];
                let (link, events) = Link::start(&executor, pins, None);
                up(&events).await;
                let payload = vec![9; 100_000];
                link.publish("a", payload.clone(), Qos::AtLeastOnce)
                    .unwrap();
                assert_eq!(message(&events).await.1, payload);
                link.close().await;
            }
        }));
    }
}

#[test]
fn tls_strangers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ours = tls(dir.path(), "ours", (2020, 2090));
    let theirs = tls(dir.path(), "theirs", (2020, 2090));
    // A thief shows our authority's certificate, which is no secret, behind
    // a leaf of their own.
    let thief = dir.path().join("thief.pem");
    let theirs_chain = std::fs::read_to_string(dir.path().join("theirs-chain.pem")).unwrap();
    let ours_ca = std::fs::read_to_string(&ours.ca_file).unwrap();
    std::fs::write(&thief, format!("{theirs_chain}{ours_ca}")).unwrap();
    let key = dir.path().join("theirs-key.pem");
    let lines = format!(
        "{OPEN}\ncertfile {}\nkeyfile {}\n",
        thief.display(),
        key.display()
    );
    let stranger = Mosquitto::start(dir.path(), &format!("{OPEN}\n{}", theirs.lines));
    let thief = Mosquitto::start(dir.path(), &lines);
    let plain = Mosquitto::start(dir.path(), OPEN);
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        for (broker, words) in [
            (&stranger, "not the broker that the token names"),
            (&thief, "not signed by the pinned authority"),
            (&plain, "must begin with mqtt://"),
        ] {
            let mut pinned = config(broker.tls_url(), "pinned");
            pinned.trust = Trust::Pinned(vec![CertPin::of(&ours.ca)]);
            let (_link, events) = Link::start(&executor, pinned, None);
            let reason = down(&events).await;
            assert!(reason.contains(words), "{reason}");
        }
        let mut unpinned = config(stranger.tls_url(), "unpinned");
        unpinned.trust = Trust::Pinned(Vec::new());
        let (_link, events) = Link::start(&executor, unpinned, None);
        assert!(down(&events).await.contains("no pin"));
    }));
}

#[test]
fn an_address_without_tls_for_a_port_with_it_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let ours = tls(dir.path(), "ours", (2020, 2090));
    let broker = Mosquitto::start(dir.path(), &format!("{OPEN}\n{}", ours.lines));
    // Hangs up on whoever does not begin with TLS, and answers who does with an
    // alert; the second time, the alert is all that anybody gets.
    let (mute, mute_url) = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        (listener, url)
    };
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        while let Ok((mut stream, _)) = mute.accept() {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap_or(0);
            if count > 0 && bytes[0] == 0x16 {
                let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 40]);
            }
        }
    });
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        for url in [broker.url(), mute_url.parse().unwrap()] {
            let (link, events) = Link::start(&executor, config(url.clone(), "x"), None);
            let secure = url.to_string().replace("mqtt://", "mqtts://");
            for _ in 0..2 {
                let reason = down(&events).await;
                let words = format!("speaks TLS there: write {secure} instead of {url}");
                assert!(reason.contains(&words), "{reason}");
            }
            link.close().await;
            let probe = skerry_link::probe(&url.address, None, PATIENCE).await;
            assert!(probe.wants_tls && probe.reached.is_ok());
        }
        let plain = Mosquitto::start(dir.path(), OPEN);
        let probe = skerry_link::probe(&plain.url().address, None, PATIENCE).await;
        assert!(!probe.wants_tls && probe.reached.is_ok());
        let trust = Trust::SystemRoots;
        let probe = skerry_link::probe(&plain.tls_url().address, Some(&trust), PATIENCE).await;
        let shown = probe.shown.map(|shown| shown.map_err(|why| why.doubt));
        assert_eq!(shown, Some(Err(skerry_link::Doubt::NoTls)));
    }));
}

#[test]
fn tls_by_authority_file_looks_at_name_and_date() {
    let dir = tempfile::tempdir().unwrap();
    let good = tls(dir.path(), "good", (2020, 2090));
    let old = tls(dir.path(), "old", (1999, 2001));
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let broker = Mosquitto::start(dir.path(), &format!("{OPEN}\n{}", good.lines));
        let mut config_ = config(broker.tls_url(), "a");
        config_.trust = Trust::RootsFile(good.ca_file.clone());
        let (_link, events) = Link::start(&executor, config_, None);
        up(&events).await;
        let broker = Mosquitto::start(dir.path(), &format!("{OPEN}\n{}", old.lines));
        let mut config_ = config(broker.tls_url(), "b");
        config_.trust = Trust::RootsFile(old.ca_file.clone());
        let (_link, events) = Link::start(&executor, config_, None);
        let reason = down(&events).await;
        assert!(reason.contains("certificate expired"), "{reason}");
        assert!(
            reason.contains("days ago, by this machine's clock"),
            "{reason}"
        );
        // By another name, and from an authority that nobody here knows.
        let broker = Mosquitto::start(dir.path(), &format!("{OPEN}\n{}", good.lines));
        let other_name: BrokerUrl = format!("mqtts://localhost:{}", broker.port)
            .parse()
            .unwrap();
        let trust = Trust::RootsFile(good.ca_file.clone());
        let probe = skerry_link::probe(&other_name.address, Some(&trust), PATIENCE).await;
        let why = probe.shown.unwrap().unwrap_err();
        assert_eq!(why.doubt, skerry_link::Doubt::OtherName, "{why:?}");
        assert!(why.text.contains("not for localhost, only for"), "{why:?}");
        let trust = Trust::RootsFile(old.ca_file.clone());
        let probe = skerry_link::probe(&broker.tls_url().address, Some(&trust), PATIENCE).await;
        let why = probe.shown.unwrap().unwrap_err();
        assert_eq!(why.doubt, skerry_link::Doubt::Stranger, "{why:?}");
        assert!(
            why.text.contains("no authority that this machine trusts"),
            "{why:?}"
        );
    }));
}

#[test]
fn a_silent_broker_is_noticed_and_closing_never_hangs() {
    // The kernel accepts, and nobody ever says a word.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let (link, events) = Link::start(&executor, config(url.parse().unwrap(), "x"), None);
        let start = Instant::now();
        let reason = {
            use smol::future::FutureExt;
            let late = async {
                smol::Timer::after(Duration::from_secs(40)).await;
                panic!("never noticed");
            };
            let noticed = async {
                match events.recv().await.unwrap() {
                    LinkEvent::Down { reason } => reason,
                    other => panic!("{other:?}"),
                }
            };
            noticed.or(late).await
        };
        assert!(reason.contains("did not answer CONNECT"), "{reason}");
        assert!(start.elapsed() >= Duration::from_secs(15));
        link.close().await;
    }));
}

#[test]
fn a_broker_that_falls_silent_is_noticed_by_a_ping() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    // Takes one client, answers its CONNECT, and then holds the line without
    // a word, as a broken router would.
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).unwrap();
        assert_eq!(bytes[0], 0x10, "{count}");
        stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        let mut pings = 0;
        while let Ok(1..) = stream.read(&mut bytes) {
            pings += 1;
        }
        pings
    });
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let mut config = config(url.parse().unwrap(), "x");
        config.keep_alive = Duration::from_secs(2);
        let start = Instant::now();
        let (link, events) = Link::start(&executor, config, None);
        up(&events).await;
        let reason = match events.recv().await.unwrap() {
            LinkEvent::Down { reason } => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason.contains("did not answer a ping"), "{reason}");
        assert!(start.elapsed() > Duration::from_secs(20));
        assert!(start.elapsed() < Duration::from_secs(40));
        link.close().await;
    }));
    assert_eq!(broker.join().unwrap(), 1);
}

#[test]
fn a_hostile_broker_gets_nowhere() {
    use std::io::{Read, Write};
    // What it answers to CONNECT, and what the link says then.
    let connack = [0x20, 3, 0, 0, 0];
    let after = |bytes: &[u8]| [&connack[..], bytes].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"HTTP/1.1 400 Bad Request\r\n".repeat(4), "no MQTT"),
        (vec![0x20, 0xff, 0xff, 0xff, 0x7f], "we take at most"),
        (vec![0x30, 5, 0, 1, b'a', 0, b'x'], "does not allow"),
        (vec![0x20, 6, 0, 0, 3, 33, 0, 0], "receive maximum 0"),
        (vec![0x20, 5, 0, 0, 2, 36, 0], "no QoS 1"),
        (after(&connack), "does not allow"),
        (after(&[0x40, 2, 0, 9]), "never sent"),
        (after(&[0xe0, 0]), "ended the session"),
        (after(&[0xe0, 1, 0x8b]), "shutting down"),
        (after(&[0xe0, 1, 0x55]), "ended the session"),
        (after(&[0xe0, 2, 0x8e, 0]), "same client id"),
        (after(&[0x40, 1, 0]), "no MQTT"),
        (after(&[0x30, 3, 0, 9, b'a']), "no MQTT"),
        (after(&[0x30, 0x80, 0x80, 0x80, 0x80, 1]), "no MQTT"),
        (
            after(&[0x30, 8, 0, 1, b'a', 3, 35, 0, 1, b'x']),
            "did not offer",
        ),
        (after(&[0x34, 6, 0, 1, b'a', 0, 1, 0]), "did not offer"),
        (after(&[0x62, 2, 0, 1]), "did not ask for"),
        (after(&[0x30, 0xff, 0xff, 0xff, 0x7f]), "we take at most"),
    ];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let answers: Vec<_> = cases.iter().map(|(answer, _)| answer.clone()).collect();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes);
            let _ = stream.write_all(&answer);
            // Until the link has had enough.
            while let Ok(1..) = stream.read(&mut bytes) {}
        }
    });
    let executor = smol::Executor::new();
    smol::block_on(executor.run(async {
        let (_link, events) = Link::start(&executor, config(url.parse().unwrap(), "x"), None);
        for (answer, words) in cases {
            let reason = down(&events).await;
            assert!(reason.contains(words), "{answer:02x?}: {reason}");
        }
    }));
}
