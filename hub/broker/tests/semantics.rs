//! What MQTT promises, and what the broker's own rules do.

mod common;

use std::time::{Duration, Instant};

use common::*;
use skerry_broker::{Class, Limits};

fn broker() -> TestBroker {
    TestBroker::start(Limits::default())
}

fn device(name: &str) -> Connect {
    Connect::new(name, &format!("dev-{name}"))
}

fn hub() -> Connect {
    Connect::new("hub", "hub")
}

#[test]
fn messages_go_both_ways_with_their_properties() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    assert_eq!(hub.subscribe(&["f/+/report"]), [1]);
    let mut a = broker.client(&device("a"));
    assert_eq!(a.subscribe(&["f/a/desired", "f/a/command"]), [1, 1]);
    // Content type and a user property.
    let properties = [3, 0, 1, b'x', 38, 0, 1, b'k', 0, 1, b'v'];
    a.send(&publish_with("f/a/report", b"ok", 9, &properties));
    assert_eq!(a.packet(), (0x40, vec![0, 9]));
    let message = hub.message_acked();
    assert_eq!(
        (message.topic.as_str(), message.payload.as_slice()),
        ("f/a/report", &b"ok"[..])
    );
    assert_eq!(message.properties, properties);
    assert_eq!(hub.publish("f/a/desired", b"run"), 0);
    assert_eq!(a.message_acked().payload, b"run");
    assert_eq!(hub.publish("f/b/desired", b"nobody"), 0x10);
}

#[test]
fn a_device_reaches_only_its_own_topics() {
    let broker = broker();
    let mut b = broker.client(&device("b"));
    b.subscribe(&["f/b/desired"]);
    let mut a = broker.client(&device("a"));
    for (filter, code) in [
        ("f/a/desired", 1),
        ("f/a/stream/in", 1),
        ("f/b/desired", 0x87),
        ("f/+/desired", 0x87),
        ("f/a/#", 0x87),
        ("#", 0x87),
        ("+/a/desired", 0x87),
        ("$SYS/#", 0x8f),
        ("$share/g/f/a/desired", 0x9e),
        ("f/a/#/x", 0x8f),
        ("", 0x8f),
    ] {
        assert_eq!(a.subscribe(&[filter]), [code], "{filter}");
    }
    for (topic, code) in [
        ("f/a/report", 0x10),
        ("f/b/desired", 0x87),
        ("f/a", 0x87),
        ("f/a/x/y", 0x87),
    ] {
        assert_eq!(a.publish(topic, b"x"), code, "{topic}");
    }
    // QoS 0 has no answer; it is dropped and counted.
    a.send(&publish("f/b/desired", b"x", 0));
    let stats = broker.wait("denials", |s| s.publishes_denied == 4);
    assert_eq!(stats.subscriptions_denied, 5);
    assert!(b.is_quiet());
    // It is told after it was counted.
    broker.wait("the denial told", |_| {
        let denied = broker.authority.denied.lock().unwrap();
        denied.iter().any(|d| {
            (d.client_id.as_str(), d.verb, d.topic.as_str()) == ("a", "publish", "f/b/desired")
        })
    });
}

#[test]
fn mqtt_3_1_1_is_disconnected_for_a_publish_that_is_not_allowed() {
    let broker = broker();
    let mut a = broker.client(&device("a").v4());
    let mut body = Vec::new();
    text(&mut body, "f/b/desired");
    body.extend([0, 5, b'x']);
    a.send(&packet(0x32, &body));
    assert_eq!(a.packet().0, 0);
    broker.wait("denial", |s| s.publishes_denied == 1);
}

#[test]
fn wrong_credentials_are_refused_with_their_code() {
    let broker = broker();
    let mut wrong = device("a");
    wrong.password = "guess".into();
    for (connect, v5, v4) in [(wrong, 0x86, 4), (Connect::new("x", "nobody"), 0x87, 5)] {
        let mut raw = broker.raw();
        raw.send(&connect.bytes());
        let (header, body) = raw.packet();
        assert_eq!((header, body[1]), (0x20, v5));
        assert_eq!(raw.packet().0, 0, "closed");
        let mut raw = broker.raw();
        raw.send(&connect.v4().bytes());
        assert_eq!(raw.packet(), (0x20, vec![0, v4]));
        assert_eq!(raw.packet().0, 0, "closed");
    }
    assert_eq!(broker.stats().refused["wrong user name or password"], 2);
}

#[test]
fn a_session_outlives_its_connection_and_delivers_in_order() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    let mut a = broker.client(&device("a").keeping(60));
    a.subscribe(&["f/a/command"]);
    assert_eq!(hub.publish("f/a/command", b"0"), 0);
    let first = a.message();
    drop(a);
    broker.wait("the hub alone is connected", |s| s.connections == 1);
    for n in 1..40u8 {
        assert_eq!(hub.publish("f/a/command", &[n]), 0);
    }
    let mut a = broker.raw();
    a.send(&device("a").keeping(60).bytes());
    let (_, connack) = a.packet();
    assert_eq!(&connack[..2], [1, 0], "session present");
    // The unacknowledged one comes again, with its id.
    let again = a.message_acked();
    assert_eq!(
        (again.packet_id, again.dup, again.payload),
        (first.packet_id, true, b"0".to_vec())
    );
    for n in 1..40u8 {
        let message = a.message_acked();
        assert_eq!((message.payload, message.dup), (vec![n], false));
    }
    drop(a);
    // A clean start forgets all of it.
    let a = broker.client(&device("a"));
    broker.wait("two sessions", |s| s.sessions == 2 && s.subscriptions == 0);
    drop(a);
    broker.wait("no queue", |s| s.queued_bytes == 0);
}

#[test]
fn sessions_expire() {
    let broker = broker();
    // Long enough to be seen.
    let mut a = broker.client(&device("a").keeping(10));
    a.subscribe(&["f/a/command"]);
    drop(a);
    broker.wait("kept", |s| s.connections == 0 && s.sessions == 1);
    broker.wait("expired", |s| s.sessions == 0 && s.subscriptions == 0);
}

#[test]
fn session_expiry_is_bounded_by_the_class() {
    let broker = broker();
    let mut join = broker.raw();
    join.send(&Connect::new("j", "join-j").keeping(1000).bytes());
    let (_, connack) = join.packet();
    assert_eq!(connack[3..8], [17, 0, 0, 0, 0]);
    drop(join);
    broker.wait("no session is left", |s| s.sessions == 0);
}

#[test]
fn the_same_client_takes_over_and_another_user_does_not() {
    let broker = broker();
    let mut old = broker.client(&device("a").keeping(60));
    old.subscribe(&["f/a/command"]);
    let mut thief = broker.raw();
    thief.send(&Connect::new("a", "dev-b").keeping(60).bytes());
    assert_eq!(thief.packet().1[1], 0x85);
    assert!(old.is_quiet());
    let mut new = broker.raw();
    new.send(&device("a").keeping(60).bytes());
    assert_eq!(&new.packet().1[..2], [1, 0]);
    assert_eq!(old.closed(), Some(0x8e));
    let mut hub = broker.client(&hub());
    assert_eq!(hub.publish("f/a/command", b"x"), 0);
    assert_eq!(new.message_acked().payload, b"x");
    assert_eq!(broker.stats().sessions, 2);
}

#[test]
fn wills() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    hub.subscribe(&["f/+/presence"]);
    let with_will = |name: &str, delay| {
        device(name).keeping(60).will(
            &format!("f/{name}/presence"),
            &format!("{name} gone"),
            delay,
        )
    };
    // A cut line: at once.
    drop(broker.client(&with_will("a", 0)));
    assert_eq!(hub.message_acked().payload, b"a gone");
    // In good order: none.
    let mut b = broker.client(&with_will("b", 0));
    b.send(&[0xe0, 0]);
    assert_eq!(b.packet().0, 0);
    assert!(hub.is_quiet());
    // In good order, but with the will.
    let mut c = broker.client(&with_will("c", 0));
    c.send(&[0xe0, 1, 4]);
    assert_eq!(hub.message_acked().payload, b"c gone");
    // Back within the delay: none. Not back: after the delay.
    const DELAY: u32 = 8;
    drop(broker.client(&with_will("d", DELAY)));
    let start = Instant::now();
    drop(broker.client(&with_will("e", DELAY)));
    broker.wait("both gone", |s| s.connections == 1);
    let _d = broker.client(&with_will("d", DELAY));
    assert_eq!(hub.message_acked().payload, b"e gone");
    assert!(start.elapsed() >= Duration::from_secs(DELAY.into()));
    assert!(hub.is_quiet());
    // Taken over: at once without a delay, not at all with one.
    let _f = broker.client(&with_will("f", 0));
    let _f = broker.client(&with_will("f", 60));
    assert_eq!(hub.message_acked().payload, b"f gone");
    let _f = broker.client(&with_will("f", 60));
    assert!(hub.is_quiet());
    // A clean start ends the session, and so brings the will.
    let mut clean = with_will("f", 60);
    clean.clean = true;
    let _f = broker.client(&clean);
    assert_eq!(hub.message_acked().payload, b"f gone");
}

#[test]
fn a_will_needs_the_right_to_publish_it() {
    let broker = broker();
    let mut a = broker.raw();
    a.send(&device("a").will("f/b/presence", "x", 0).bytes());
    assert_eq!(a.packet().1[1], 0x87);
}

#[test]
fn messages_expire_in_a_queue_and_tell_what_is_left() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    let mut a = broker.client(&device("a").keeping(60));
    a.subscribe(&["f/a/command"]);
    drop(a);
    broker.wait("gone", |s| s.connections == 1);
    hub.send(&publish_with("f/a/command", b"short", 1, &[2, 0, 0, 0, 1]));
    hub.send(&publish_with("f/a/command", b"long", 2, &[2, 0, 0, 1, 0]));
    // Its time begins when the broker has it.
    for id in [1, 2] {
        assert_eq!(hub.packet(), (0x40, vec![0, id]));
    }
    pause(Duration::from_millis(1100));
    let mut a = broker.client(&device("a").keeping(60));
    let message = a.message_acked();
    assert_eq!(message.payload, b"long");
    assert_eq!(message.properties[..4], [2, 0, 0, 0]);
    assert!(message.properties[4] < 255);
    assert_eq!(broker.stats().undeliverable, 1);
}

#[test]
fn receive_maximum_and_maximum_packet_size_of_a_client_hold() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    let mut connect = device("a");
    connect.receive_maximum = Some(2);
    connect.max_packet = Some(100);
    let mut a = broker.client(&connect);
    a.subscribe(&["f/a/command"]);
    for n in 0..5u8 {
        hub.publish("f/a/command", &[n]);
    }
    hub.publish("f/a/command", &[9; 200]);
    hub.publish("f/a/command", b"last");
    let first = a.message();
    let second = a.message();
    assert!(a.is_quiet(), "two in flight are the most");
    a.send(&puback(second.packet_id));
    assert_eq!(a.message().payload, [2]);
    a.send(&puback(first.packet_id));
    for _ in 3..5 {
        let message = a.message();
        a.send(&puback(message.packet_id));
    }
    // The third one is still unacknowledged; the large one is skipped.
    assert_eq!(a.message().payload, b"last");
    assert_eq!(broker.stats().undeliverable, 1);
}

#[test]
fn topic_aliases() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    hub.subscribe(&["f/a/report"]);
    let mut a = broker.client(&device("a"));
    a.send(&publish_with("f/a/report", b"1", 0, &[35, 0, 8]));
    a.send(&publish_with("", b"2", 0, &[35, 0, 8]));
    assert_eq!(hub.message().payload, b"1");
    let second = hub.message();
    assert_eq!(
        (second.topic.as_str(), second.payload.as_slice()),
        ("f/a/report", &b"2"[..])
    );
    assert!(second.properties.is_empty());
    // One that is not set, and one above the maximum.
    for (alias, code) in [(7, 0x82), (9, 0x94), (0, 0x82)] {
        let mut a = broker.client(&device("a"));
        a.send(&publish_with("", b"x", 0, &[35, 0, alias]));
        let got = a.closed();
        assert!(
            got == Some(code) || got == Some(0x94) || got == Some(0x81),
            "{alias}: {got:?}"
        );
    }
}

#[test]
fn qos_2_subscription_ids_and_retained_messages_are_refused_by_code() {
    let broker = broker();
    let mut body = Vec::new();
    text(&mut body, "f/a/report");
    body.extend([0, 1, 0, b'x']);
    let qos2 = packet(0x34, &body);
    let retain = packet(0x33, &body);
    let subscription_id = packet(0x82, &[0, 1, 2, 11, 1, 0, 1, b'x', 0]);
    for (bytes, code) in [(qos2, 0x9b), (retain, 0x9a), (subscription_id, 0xa1)] {
        let mut a = broker.client(&device("a"));
        a.send(&bytes);
        assert_eq!(a.closed(), Some(code));
    }
}

#[test]
fn no_local_and_overlapping_filters() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    let mut body = vec![0, 77, 0];
    text(&mut body, "x/+");
    body.push(0b0000_0101);
    hub.send(&packet(0x82, &body));
    assert_eq!(hub.packet().0, 0x90);
    assert_eq!(hub.publish("x/1", b"own"), 0x10);
    hub.subscribe(&["y/+", "y/1", "#"]);
    hub.send(&publish("y/1", b"once", 0));
    assert_eq!(hub.message().payload, b"once");
    assert!(hub.is_quiet());
}

#[test]
fn revoking_shuts_a_device_out_at_once_with_all_it_had() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    hub.subscribe(&["f/a/presence"]);
    let connect = device("a").keeping(60).will("f/a/presence", "will", 0);
    let mut a = broker.client(&connect);
    a.subscribe(&["f/a/command"]);
    broker
        .authority
        .revoked
        .lock()
        .unwrap()
        .push("dev-a".into());
    assert!(broker.handle().disconnect("a", "revoked by the operator"));
    let (header, body) = a.packet();
    assert_eq!((header, body[0]), (0xe0, 0x98));
    assert!(String::from_utf8_lossy(&body).contains("revoked by the operator"));
    assert_eq!(a.packet().0, 0);
    assert!(hub.is_quiet(), "no will of a revoked device");
    assert_eq!(hub.publish("f/a/command", b"x"), 0x10);
    let mut again = broker.raw();
    again.send(&connect.bytes());
    assert_eq!(again.packet().1[1], 0x8a);
    assert!(!broker.handle().disconnect("a", "again"));
    // While it is away.
    let mut b = broker.client(&device("b").keeping(60));
    b.subscribe(&["f/b/command"]);
    drop(b);
    broker.wait("away", |s| s.connections == 1);
    hub.publish("f/b/command", b"secret");
    assert!(broker.handle().disconnect("b", "revoked"));
    let stats = broker.stats();
    assert_eq!(
        (stats.sessions, stats.queued_bytes, stats.subscriptions),
        (1, 0, 1)
    );
}

#[test]
fn a_narrower_grant_takes_subscriptions_away() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    let mut a = broker.client(&device("a").keeping(60));
    a.subscribe(&["f/a/command", "f/a/desired"]);
    drop(a);
    broker.wait("away", |s| s.connections == 1);
    assert_eq!(hub.publish("f/a/desired", b"not for it any more"), 0);
    let narrow = &broker.authority.narrow;
    narrow.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut a = broker.raw();
    a.send(&device("a").keeping(60).bytes());
    assert_eq!(&a.packet().1[..2], [1, 0]);
    assert!(a.is_quiet());
    assert_eq!(hub.publish("f/a/desired", b"x"), 0x10);
    assert_eq!(hub.publish("f/a/command", b"x"), 0);
    assert_eq!(a.message_acked().topic, "f/a/command");
    broker.wait("empty", |s| s.queued_bytes == 0);
}

#[test]
fn retained_messages() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    let mut body = Vec::new();
    text(&mut body, "r/1");
    body.extend([0, b'x']);
    hub.send(&packet(0x31, &body));
    let mut reader = broker.client(&Connect::new("r", "retainer"));
    broker.wait("kept", |s| s.retained == 1);
    reader.subscribe(&["r/+"]);
    let message = reader.message();
    assert_eq!(
        (message.retain, message.payload.as_slice()),
        (true, &b"x"[..])
    );
    // Live ones carry no flag, and an empty one removes it.
    body.truncate(6);
    hub.send(&packet(0x31, &body));
    let message = reader.message();
    assert_eq!((message.retain, message.payload.len()), (false, 0));
    assert_eq!(broker.stats().retained, 0);
}

#[test]
fn keep_alive_is_enforced_and_set_by_the_server() {
    let broker = broker();
    *broker.authority.device.lock().unwrap() = Some(Class {
        max_keep_alive: Duration::from_secs(2),
        ..Class::device()
    });
    let mut hub = broker.client(&hub());
    hub.subscribe(&["f/a/presence"]);
    let mut a = broker.raw();
    let mut connect = device("a").keeping(60).will("f/a/presence", "silent", 0);
    connect.keep_alive = 0;
    let start = Instant::now();
    a.send(&connect.bytes());
    let (_, connack) = a.packet();
    assert!(
        connack.windows(3).any(|w| w == [19, 0, 2]),
        "{connack:02x?}"
    );
    // It stays open and says nothing, like a half-open line.
    assert_eq!(a.closed(), Some(0x8d));
    assert_eq!(hub.message_acked().payload, b"silent");
    assert!(
        start.elapsed() >= Duration::from_millis(2900),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn shutdown_tells_its_clients() {
    let mut broker = broker();
    let mut a = broker.client(&device("a"));
    smol::block_on(broker.handle.take().unwrap().shutdown());
    assert_eq!(a.closed(), Some(0x8b));
}

#[test]
fn unsubscribe() {
    let broker = broker();
    let mut hub = broker.client(&hub());
    let mut a = broker.client(&device("a"));
    a.subscribe(&["f/a/command"]);
    let mut body = vec![0, 3, 0];
    text(&mut body, "f/a/command");
    text(&mut body, "f/a/other");
    a.send(&packet(0xa2, &body));
    assert_eq!(a.packet(), (0xb0, vec![0, 3, 0, 0, 0x11]));
    assert_eq!(hub.publish("f/a/command", b"x"), 0x10);
}

#[test]
fn a_client_without_an_id_gets_one() {
    let broker = broker();
    let mut a = broker.raw();
    a.send(&Connect::new("", "dev-a").bytes());
    let (_, connack) = a.packet();
    assert_eq!(connack[1], 0);
    assert!(String::from_utf8_lossy(&connack).contains("auto-"));
    let mut kept = Connect::new("", "dev-a").v4();
    kept.clean = false;
    let mut a = broker.raw();
    a.send(&kept.bytes());
    assert_eq!(a.packet(), (0x20, vec![0, 2]));
}
