//! No client can harm another: each bound is reached, and somebody else is
//! served all the while.

mod common;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use skerry_broker::{Class, Limits};

/// Time that is soon up, and yet enough for a good client on a busy machine.
fn quick() -> Limits {
    Limits {
        connect_within: Duration::from_secs(5),
        packet_within: Duration::from_secs(5),
        ..Limits::default()
    }
}

fn device(name: &str) -> Connect {
    Connect::new(name, &format!("dev-{name}"))
}

fn hub() -> Connect {
    Connect::new("hub", "hub")
}

/// Nobody's trouble may keep a good client waiting for longer than this, on
/// a busy machine with an unoptimised build. Whoever had to wait for what the
/// others here do, one after the other, would wait far longer.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn silent_after_connect() {
    // All of them are seen to be there before the first has to go.
    let broker = TestBroker::start(Limits {
        connect_within: Duration::from_secs(10),
        ..Limits::default()
    });
    let mut good = broker.client(&device("good"));
    let mut silent: Vec<Raw> = (0..50).map(|_| broker.raw()).collect();
    broker.wait("all there", |s| s.connections == 51 && s.pending == 50);
    assert!(good.ping() < SERVED_WITHIN);
    for raw in &mut silent {
        assert_eq!(raw.closed(), None);
    }
    let stats = broker.wait("all gone", |s| s.connections == 1);
    assert_eq!(stats.refused["no CONNECT in time"], 50);
    assert_eq!(stats.pending, 0);
}

#[test]
fn silent_in_the_tls_handshake() {
    let broker = TestBroker::start(Limits {
        connect_within: Duration::from_secs(3),
        ..Limits::default()
    });
    // Some say nothing, some begin a handshake, some speak MQTT without TLS.
    let mut silent: Vec<Raw> = (0..60).map(|_| Raw::to(broker.tls)).collect();
    for raw in &mut silent[20..40] {
        raw.send(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]);
    }
    for raw in &mut silent[40..] {
        raw.send(&device("x").bytes());
    }
    // Meanwhile, a good client comes in over TLS.
    let executor = smol::Executor::new();
    let start = Instant::now();
    smol::block_on(executor.run(async {
        let url = format!("mqtts://{}", broker.tls).parse().unwrap();
        let mut config = skerry_link::LinkConfig::new(url, "good");
        config.username = Some("dev-good".into());
        config.password = Some("secret".into());
        let pin = skerry_link::CertPin::of(&broker.ca);
        config.trust = skerry_link::Trust::Pinned(vec![pin]);
        let (link, events) = skerry_link::Link::start(&executor, config, None);
        let event = events.recv().await.unwrap();
        assert!(
            matches!(event, skerry_link::LinkEvent::Up { .. }),
            "{event:?}"
        );
        link.close().await;
    }));
    assert!(start.elapsed() < SERVED_WITHIN, "{:?}", start.elapsed());
    for raw in &mut silent {
        while raw.packet().0 != 0 {}
    }
    broker.wait("all gone", |s| s.connections == 0);
}

#[test]
fn slow_loris_before_and_after_connect() {
    let broker = TestBroker::start(quick());
    let mut good = broker.client(&device("good"));
    let drip = |mut raw: Raw, bytes: &[u8]| -> bool {
        for byte in bytes {
            if raw.stream.write_all(&[*byte]).is_err() {
                return true;
            }
            if let Some((0 | 0xe0, _)) = raw.try_packet(Duration::from_millis(500)) {
                return true;
            }
        }
        false
    };
    assert!(
        drip(broker.raw(), &device("slow").bytes()),
        "CONNECT was waited for"
    );
    let slow = broker.client(&device("slow"));
    let long = publish("f/slow/report", &[0; 100], 1);
    assert!(drip(slow, &long), "PUBLISH was waited for");
    assert!(good.ping() < SERVED_WITHIN);
    let stats = broker.stats();
    assert_eq!(stats.refused["no CONNECT in time"], 1);
    assert_eq!(stats.refused["packet took too long to come in"], 1);
}

#[test]
fn slow_reader_loses_qos0_first_and_then_its_connection() {
    let broker = TestBroker::start(Limits::default());
    *broker.authority.device.lock().unwrap() = Some(Class {
        queue_messages: 50,
        queue_bytes: 1024 * 1024,
        ..Class::device()
    });
    let mut hub = broker.client(&hub());
    let mut good = broker.client(&device("good"));
    good.subscribe(&["f/good/command"]);
    let mut slow = broker.client(&device("slow"));
    slow.subscribe(&["f/slow/command"]);
    // More than the sockets' own buffers hold.
    let load = vec![0; 64 * 1024];
    for _ in 0..300 {
        hub.send(&publish("f/slow/command", &load, 0));
    }
    hub.publish("f/good/command", b"x");
    good.message_acked();
    let stats = broker.wait("QoS 0 is dropped", |s| s.dropped_qos0 > 100);
    assert!(stats.queued_bytes <= 1024 * 1024, "{stats:?}");
    assert_eq!(stats.connections, 3, "it is still there");
    for _ in 0..60 {
        hub.publish("f/slow/command", &load);
        hub.publish("f/good/command", b"x");
        good.message_acked();
    }
    let stats = broker.wait("the slow one is out", |s| s.connections == 2);
    assert_eq!(stats.refused["reads too slowly: its queue is full"], 1);
    assert_eq!(stats.sessions, 2);
    broker.wait("its bytes are free", |s| s.queued_bytes == 0);
}

#[test]
fn offline_session_that_overflows_is_forgotten() {
    let broker = TestBroker::start(Limits::default());
    let mut hub = broker.client(&hub());
    let mut away = broker.client(&device("away").keeping(60));
    away.subscribe(&["f/away/command"]);
    drop(away);
    broker.wait("away", |s| s.connections == 1);
    for _ in 0..Class::device().queue_messages {
        assert_eq!(hub.publish("f/away/command", b"x"), 0);
    }
    assert_eq!(broker.stats().sessions, 2);
    hub.publish("f/away/command", b"one too many");
    let stats = broker.wait("forgotten", |s| s.sessions == 1);
    assert_eq!(stats.queued_bytes, 0);
    // Its client learns of it: no session is present.
    let mut away = broker.raw();
    away.send(&device("away").keeping(60).bytes());
    assert_eq!(away.packet().1[..2], [0, 0]);
}

#[test]
fn all_queues_together_are_bounded() {
    let broker = TestBroker::start(Limits {
        queued_bytes: 512 * 1024,
        ..Limits::default()
    });
    let mut hub = broker.client(&hub());
    for name in ["a", "b", "c"] {
        let mut away = broker.client(&device(name).keeping(60));
        away.subscribe(&[&format!("f/{name}/command")]);
    }
    broker.wait("away", |s| s.connections == 1);
    for _ in 0..20 {
        for name in ["a", "b", "c"] {
            hub.publish(&format!("f/{name}/command"), &[0; 32 * 1024]);
        }
        assert!(broker.stats().queued_bytes <= 512 * 1024);
    }
    assert!(hub.ping() < SERVED_WITHIN);
}

#[test]
fn flooder_is_slowed_down_and_nobody_else() {
    let broker = TestBroker::start(Limits::default());
    let mut hub = broker.client(&hub());
    hub.subscribe(&["f/+/report"]);
    // The hub answers whoever is not the flooder.
    let hub = std::thread::spawn(move || {
        let mut flood = 0u32;
        loop {
            let (header, body) = hub.packet();
            if header >> 4 != 3 {
                continue;
            }
            let message = published(header, &body);
            if message.packet_id > 0 {
                hub.send(&puback(message.packet_id));
            }
            match message.topic.as_str() {
                "f/flood/report" => flood += 1,
                "f/good/report" if message.payload == b"end" => return flood,
                _ => hub.send(&publish("f/good/command", &message.payload, 0)),
            }
        }
    });
    let mut good = broker.client(&device("good"));
    good.subscribe(&["f/good/command"]);
    let mut baseline = Vec::new();
    let mut loaded = Vec::new();
    let round = |good: &mut Raw, into: &mut Vec<Duration>| {
        let start = Instant::now();
        good.send(&publish("f/good/report", b"ping", 0));
        good.message();
        into.push(start.elapsed());
    };
    for _ in 0..50 {
        round(&mut good, &mut baseline);
    }
    let flooding = Instant::now();
    let done = Arc::new(AtomicBool::new(false));
    let flooders: Vec<_> = (0..4)
        .map(|n| {
            let done = done.clone();
            let mut connect = device("flood");
            connect.id = format!("flood{n}");
            let mut raw = broker.client(&connect);
            std::thread::spawn(move || {
                let load = publish("f/flood/report", &[0; 200], 0).repeat(50);
                let timeout = Some(Duration::from_millis(50));
                raw.stream.set_write_timeout(timeout).unwrap();
                let mut sent = 0usize;
                while !done.load(Ordering::Relaxed) {
                    // Half-written packets are completed, so as to stay valid.
                    match raw.stream.write(&load[sent % load.len()..]) {
                        Ok(count) => sent += count,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        Err(e) => panic!("{e}"),
                    }
                }
                sent
            })
        })
        .collect();
    for _ in 0..200 {
        round(&mut good, &mut loaded);
        pause(Duration::from_millis(30));
    }
    done.store(true, Ordering::Relaxed);
    for flooder in flooders {
        flooder.join().unwrap();
    }
    good.send(&publish("f/good/report", b"end", 0));
    let flood = hub.join().unwrap();
    let seconds = flooding.elapsed().as_secs() as u32 + 1;
    baseline.sort_unstable();
    loaded.sort_unstable();
    println!(
        "round trip alone p50 {:?}; beside 4 flooders p50 {:?}, p99 {:?}, max {:?}; {flood} flood messages",
        baseline[25], loaded[100], loaded[197], loaded[199],
    );
    assert!(loaded[100] < Duration::from_secs(2), "{:?}", loaded[100]);
    assert!(loaded[197] < SERVED_WITHIN, "{:?}", loaded[197]);
    // Four flooders with 500 packets a second and a burst of 4 s.
    assert!(flood < 4 * 500 * (4 + seconds), "{flood} in {seconds} s");
}

#[test]
fn a_slow_hub_delays_publishers_and_loses_nothing() {
    let broker = TestBroker::start(Limits::default());
    *broker.authority.hub.lock().unwrap() = Some(Class {
        queue_messages: 100,
        ..Class::hub()
    });
    let mut slow_hub = broker.client(&hub());
    slow_hub.subscribe(&["f/+/report"]);
    let mut a = broker.client(&device("a"));
    const MESSAGES: u32 = 1500;
    let sender = std::thread::spawn(move || {
        let mut acknowledged = 0;
        for n in 0..MESSAGES {
            let payload = [&n.to_be_bytes()[..], &[0; 8000]].concat();
            a.send(&publish("f/a/report", &payload, (n % 60 + 1) as u16));
            // As receive maximum demands, 50 at a time.
            while n + 1 - acknowledged > 50 {
                assert_eq!(a.packet().0, 0x40);
                acknowledged += 1;
            }
        }
        while acknowledged < MESSAGES {
            assert_eq!(a.packet().0, 0x40);
            acknowledged += 1;
        }
        a
    });
    // The hub reads nothing until the publisher stands still.
    let mut last = 0;
    loop {
        pause(Duration::from_millis(300));
        let published = broker.stats().published;
        if published == last && last > 0 {
            break;
        }
        last = published;
    }
    let stats = broker.stats();
    assert!(stats.published < u64::from(MESSAGES), "{stats:?}");
    assert!(stats.queued_bytes < 4 * 1024 * 1024, "{stats:?}");
    for n in 0..MESSAGES {
        let message = slow_hub.message_acked();
        assert_eq!(message.payload[..4], n.to_be_bytes());
    }
    let _still_connected = sender.join().unwrap();
    assert_eq!(broker.stats().connections, 2);
}

#[test]
fn a_hub_that_is_away_holds_nobody_up() {
    let broker = TestBroker::start(Limits::default());
    *broker.authority.hub.lock().unwrap() = Some(Class {
        queue_messages: 100,
        ..Class::hub()
    });
    let mut away = broker.client(&hub().keeping(60));
    away.subscribe(&["f/+/report"]);
    let mut a = broker.client(&device("a"));
    // It goes while its queue is full and the publisher waits.
    let (taken, waits) = (Class::hub().max_in_flight, 200);
    for n in 0..taken + waits {
        a.send(&publish("f/a/report", &[0; 4000], n % 60 + 1));
    }
    broker.wait("the publisher waits", |s| {
        s.published > u64::from(taken) + 60
    });
    drop(away);
    broker.wait("all are taken", |s| s.published == u64::from(taken + waits));
    assert!(a.ping() < SERVED_WITHIN);
    // Its queue came to its bound, and the session was forgotten.
    assert_eq!(a.publish("f/a/report", b"x"), 0x10);
    assert_eq!(broker.stats().queued_bytes, 0);
}

#[test]
fn client_that_sends_and_never_reads() {
    let broker = TestBroker::start(Limits::default());
    *broker.authority.device.lock().unwrap() = Some(Class {
        packets_per_second: 0,
        bytes_per_second: 0,
        ..Class::device()
    });
    let mut good = broker.client(&device("good"));
    let mut bad = broker.client(&device("bad"));
    bad.stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let pings = [0xc0, 0].repeat(32 * 1024);
    let mut sent = 0usize;
    loop {
        match bad.stream.write(&pings) {
            Ok(count) => sent += count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("{e}"),
        }
        assert!(sent < 64 * 1024 * 1024, "the broker takes it all");
    }
    assert!(good.ping() < SERVED_WITHIN);
}

#[test]
fn oversized_packets_are_refused_by_their_length_alone() {
    // Whoever waits for the rest, waits for longer than this test does.
    let broker = TestBroker::start(Limits {
        connect_within: 2 * PATIENCE,
        packet_within: 2 * PATIENCE,
        ..Limits::default()
    });
    // 200 MB announced before CONNECT, and a CONNECT of 20 KiB.
    for bytes in [
        vec![0x10, 0x80, 0x80, 0x80, 0x64],
        vec![0x10, 0x80, 0xa0, 0x01],
        vec![0x30, 0xff, 0xff, 0xff, 0x7f],
    ] {
        let mut raw = broker.raw();
        raw.send(&bytes);
        assert_eq!(raw.closed(), None);
    }
    // One byte too many for the class, and a SUBSCRIBE of a size that no
    // honest one has.
    let max = Class::device().max_packet_bytes;
    for bytes in [
        packet(0x30, &vec![0; max as usize]),
        vec![0x82, 0x80, 0x80, 0x08],
        vec![0x30, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut raw = broker.client(&device("a"));
        raw.send(&bytes[..8.min(bytes.len())]);
        let code = raw.closed();
        assert!(code == Some(0x95) || code == Some(0x81), "{code:?}");
    }
    let mut hub = broker.client(&hub());
    hub.subscribe(&["f/a/report"]);
    let mut a = broker.client(&device("a"));
    a.send(&publish("f/a/report", &vec![1; max as usize - 30], 0));
    assert_eq!(hub.message().payload.len(), max as usize - 30);
}

#[test]
fn half_packets_together_are_bounded() {
    let broker = TestBroker::start(Limits {
        partial_bytes: 1024 * 1024,
        ..Limits::default()
    });
    let mut good = broker.client(&device("good"));
    let mut bad = Vec::new();
    for n in 0..16 {
        let mut raw = broker.client(&device(&format!("bad{n}")));
        let large = publish("f/x/report", &vec![0; 180 * 1024], 0);
        let _ = raw.stream.write_all(&large[..170 * 1024]);
        bad.push(raw);
    }
    let stats = broker.wait("some are out", |s| {
        s.refused.get("too many bytes of unfinished packets") > Some(&5)
    });
    assert!(stats.connections < 17);
    assert!(good.ping() < SERVED_WITHIN);
}

#[test]
fn thousands_of_connections() {
    const MANY: usize = 2_000;
    allow_files(2 * MANY as u64 + 500);
    let broker = TestBroker::start(Limits {
        connections: MANY + 1,
        connections_per_address: MANY,
        pending_per_address: 100,
        ..Limits::default()
    });
    let mut clients: Vec<Raw> = (0..MANY)
        .map(|n| broker.client(&device(&format!("d{n}"))))
        .collect();
    assert_eq!(broker.stats().connections, MANY);
    let mut more = broker.raw();
    assert_eq!(more.packet().0, 0);
    assert_eq!(
        broker.stats().refused["too many connections from one address"],
        1
    );
    for client in clients.iter_mut().step_by(100) {
        assert!(client.ping() < SERVED_WITHIN);
    }
    // The hub's own socket is not counted.
    smol::block_on(async {
        let executor = smol::Executor::new();
        let url = format!("unix://{}", broker.unix.display()).parse().unwrap();
        let mut config = skerry_link::LinkConfig::new(url, "hub");
        config.username = Some("hub".into());
        config.password = Some("secret".into());
        let (_link, events) = skerry_link::Link::start(&executor, config, None);
        let event = executor.run(events.recv()).await.unwrap();
        assert!(
            matches!(event, skerry_link::LinkEvent::Up { .. }),
            "{event:?}"
        );
    });
    drop(clients);
    let stats = broker.wait("all gone", |s| s.connections == 0 && s.sessions == 1);
    assert_eq!((stats.subscriptions, stats.queued_bytes), (0, 0));
    broker.client(&device("again"));
}

#[test]
fn connections_before_connect_are_bounded_by_address_and_in_all() {
    for (limits, reason) in [
        (
            Limits {
                pending_per_address: 10,
                ..Limits::default()
            },
            "too many connections before CONNECT from one address",
        ),
        (
            Limits {
                pending: 10,
                ..Limits::default()
            },
            "too many connections before CONNECT",
        ),
        (
            Limits {
                connections: 10,
                ..Limits::default()
            },
            "too many connections",
        ),
    ] {
        let broker = TestBroker::start(limits);
        let silent: Vec<TcpStream> = (0..10)
            .map(|_| TcpStream::connect(broker.plain).unwrap())
            .collect();
        broker.wait("there", |s| s.connections == 10);
        assert_eq!(broker.raw().packet().0, 0);
        assert_eq!(broker.stats().refused[reason], 1);
        drop(silent);
        broker.wait("gone", |s| s.connections == 0);
        broker.client(&device("a"));
    }
}

#[test]
fn sessions_are_bounded() {
    let broker = TestBroker::start(Limits {
        sessions: 3,
        ..Limits::default()
    });
    for n in 0..3 {
        drop(broker.client(&device(&format!("d{n}")).keeping(60)));
    }
    let mut more = broker.raw();
    more.send(&device("d3").keeping(60).bytes());
    assert_eq!(more.packet().1[1], 0x97);
    // Those who have one still come in.
    let mut known = broker.raw();
    known.send(&device("d1").keeping(60).bytes());
    assert_eq!(known.packet().1[..2], [1, 0]);
}

#[test]
fn subscriptions_are_bounded() {
    let broker = TestBroker::start(Limits {
        wildcard_filters: 3,
        ..Limits::default()
    });
    let mut a = broker.client(&device("a"));
    let most = Class::device().max_subscriptions;
    for n in 0..most {
        assert_eq!(a.subscribe(&[&format!("f/a/{n}")]), [1]);
    }
    assert_eq!(a.subscribe(&["f/a/more"]), [0x97]);
    assert_eq!(a.subscribe(&["f/a/0"]), [1], "known ones may be renewed");
    let mut hub = broker.client(&hub());
    assert_eq!(
        hub.subscribe(&["a/+", "b/+", "c/+", "d/+"]),
        [1, 1, 1, 0x97]
    );
    assert_eq!(broker.stats().subscriptions, most + 3);
}

#[test]
fn topics_are_bounded_and_utf8() {
    let broker = TestBroker::start(Limits::default());
    let long = format!("f/a/{}", "x".repeat(600));
    let deep = "a/".repeat(40);
    let mut hub = broker.client(&hub());
    assert_eq!(
        hub.subscribe(&[&long, &deep, "a/\u{1}"]),
        [0x97, 0x97, 0x8f]
    );
    for topic in [&long[..], &deep, "a/+", "a/\u{1}", ""] {
        let mut a = broker.client(&Connect::new("x", "hub"));
        a.send(&publish(topic, b"x", 0));
        assert_eq!(a.closed(), Some(0x90), "{topic:?}");
    }
    let mut bad = packet(0x30, b"\x00\x04f/\xff\xfe\x00x");
    let mut a = broker.client(&device("a"));
    a.send(&bad);
    assert_eq!(a.closed(), Some(0x81));
    bad = device("a\u{fc}").bytes();
    let place = bad.iter().position(|b| *b == 0xc3).unwrap();
    bad[place] = 0xff;
    let mut a = broker.raw();
    a.send(&bad);
    assert_eq!(a.packet().1[1], 0x81);
    let mut a = broker.raw();
    a.send(&device(&"x".repeat(200)).bytes());
    assert_eq!(a.packet().1[1], 0x85);
}

#[test]
fn retained_messages_are_bounded() {
    let broker = TestBroker::start(Limits {
        retained_messages: 2,
        retained_bytes: 10_000,
        ..Limits::default()
    });
    let mut a = broker.client(&Connect::new("r", "retainer"));
    let mut retain = |topic: &str, bytes: usize| {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend([0, 9, 0]);
        body.extend(vec![1; bytes]);
        a.send(&packet(0x33, &body));
        let (header, body) = a.packet();
        assert_eq!(header, 0x40);
        body.get(2).copied().unwrap_or(0)
    };
    assert_eq!(retain("a", 10_000), 0x97);
    assert_eq!(retain("a", 1000), 0x10);
    assert_eq!(retain("b", 1000), 0x10);
    assert_eq!(retain("c", 1000), 0x97);
    assert_eq!(retain("b", 0), 0x10);
    assert_eq!(retain("c", 1000), 0x10);
    assert_eq!(broker.stats().retained, 2);
}

#[test]
fn garbage_ends_the_connection_that_sent_it() {
    let broker = TestBroker::start(quick());
    let mut good = broker.client(&device("good"));
    let mut seed = 42u64;
    let mut bad = Vec::new();
    for n in 0..200 {
        let garbage: Vec<u8> = (0..500)
            .map(|_| {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (seed >> 33) as u8
            })
            .collect();
        let mut raw = if n % 2 == 0 {
            broker.raw()
        } else {
            broker.client(&device(&format!("garbage{n}")))
        };
        let _ = raw.stream.write_all(&garbage);
        bad.push(raw);
    }
    for raw in &mut bad {
        raw.closed();
    }
    // HTTP, TLS, and MQTT 3.1 have their own answers or none.
    let mut http = broker.raw();
    http.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(http.closed(), None);
    let mut old = broker.raw();
    old.send(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a");
    assert_eq!(old.packet(), (0x20, vec![0, 1]));
    assert!(good.ping() < SERVED_WITHIN);
    broker.wait("only the good one is left", |s| s.connections == 1);
}

#[test]
fn joiners_get_little() {
    let broker = TestBroker::start(Limits::default());
    let mut join = broker.client(&Connect::new("j", "join-j"));
    assert_eq!(join.subscribe(&["join/j/reply"]), [1]);
    assert_eq!(join.subscribe(&["join/k/reply"]), [0x87]);
    assert_eq!(join.publish("f/a/report", b"x"), 0x87);
    join.send(&publish("join/j/request", &[0; 20_000], 1));
    assert_eq!(join.closed(), Some(0x95));
}
