//! Who reaches whom.

use crate::world::*;
use skerry_agent::network::wanted::{Egress, EgressRule, PortRange, ServicePort, Verdict};
use skerry_wire::pod::Protocol::{Tcp, Udp};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU64;
use std::time::Instant;

#[test]
fn pods_reach_each_other_and_what_is_outside() {
    on_a_device(|mut device| {
        let (a, b) = (device.pod("default/a"), device.pod("default/b"));
        device.settle();
        let (a4, a6) = device.addresses("default/a");
        let (b4, b6) = device.addresses("default/b");
        b.serve_tcp(80, "b");
        b.serve_udp(80, "b");
        assert_eq!(a.tcp(&b4, 80).unwrap(), format!("b {a4}"));
        assert_eq!(a.tcp(&b6, 80).unwrap(), format!("b {a6}"));
        assert_eq!(a.udp(&b4, 80).unwrap(), format!("b {a4}"));
        // Outside sees the device, by which answers come back.
        device.outside.serve_tcp(80, "outside");
        device.outside.serve_udp(80, "outside");
        for pod in [&a, &b] {
            assert_eq!(
                pod.tcp(OUTSIDE_V4, 80).unwrap(),
                format!("outside {DEVICE_V4}")
            );
            assert_eq!(
                pod.tcp(OUTSIDE_V6, 80).unwrap(),
                format!("outside {DEVICE_V6}")
            );
            assert_eq!(
                pod.udp(OUTSIDE_V4, 80).unwrap(),
                format!("outside {DEVICE_V4}")
            );
        }
        // The device itself reaches pods, for probes.
        assert!(device.tcp(&b4, 80).unwrap().starts_with("b "));
        assert!(device.tcp(&b6, 80).unwrap().starts_with("b "));
    });
}

#[test]
fn pods_are_apart_from_other_namespaces_and_from_outside() {
    on_a_device(|mut device| {
        let (a, b) = (device.pod("one/a"), device.pod("two/b"));
        device.publish("two/b", None, 8080, 80, Tcp);
        device.settle();
        let (b4, b6) = device.addresses("two/b");
        b.serve_tcp(80, "b");
        for to in [&b4, &b6] {
            a.tcp_in_vain(to, 80);
        }
        device.outside.run(|| {
            sh(&format!("ip route add 10.209.0.0/16 via {DEVICE_V4}"));
        });
        device.outside.tcp_in_vain(&b4, 80);
        // What is published is for all.
        assert!(a.tcp(DEVICE_V4, 8080).unwrap().starts_with("b "));
        assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok());
    });
}

#[test]
fn a_pod_cannot_pretend_nor_reach_the_loopback_of_the_device() {
    on_a_device(|mut device| {
        let pod = device.pod("default/a");
        device.publish("default/a", None, 8080, 80, Tcp);
        let layout = device.settle().layout;
        let gateway = layout.networks.values().next().unwrap().gateway4;
        let (own, _) = device.addresses("default/a");
        pod.run(move || {
            sh(&format!(
                "ip addr add 203.0.113.7/32 dev eth0
                 sysctl -qw net.ipv4.conf.all.route_localnet=1
                 ip route del local 127.0.0.0/8 dev lo table local
                 ip route del local 127.0.0.1 dev lo table local
                 ip route add 127.0.0.1/32 via {gateway} dev eth0"
            ));
        });
        let heard = UdpSocket::bind("0.0.0.0:999").unwrap();
        heard.set_read_timeout(Some(LONG)).unwrap();
        let sources = || {
            // In this order; what is dropped is missing.
            let tries = [
                ("203.0.113.7", DEVICE_V4, "pretends"),
                (&own, "127.0.0.1", "loopback"),
                (&own, DEVICE_V4, "last"),
            ];
            for (from, to, what) in tries.map(|(a, b, c)| (a.to_string(), b, c)) {
                pod.run(move || {
                    let socket = UdpSocket::bind((from.as_str(), 0)).unwrap();
                    socket.send_to(what.as_bytes(), (to, 999)).unwrap();
                });
            }
            let mut all = Vec::new();
            while all.last().map(String::as_str) != Some("last") {
                let mut buffer = [0; 64];
                let (len, _) = heard.recv_from(&mut buffer).unwrap();
                all.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
            all
        };
        assert_eq!(sources(), ["last"]);
        // It is the rules that keep it: without them all of it arrives.
        let table = device.networks.names().table.clone();
        sh(&format!("nft flush chain inet {table} guard"));
        assert_eq!(sources(), ["pretends", "loopback", "last"]);
        device.settle();
        assert_eq!(sources(), ["last"]);
    });
}

#[test]
fn published_ports_lead_to_their_pod() {
    on_a_device(|mut device| {
        let (web, other) = (device.pod("default/web"), device.pod("default/other"));
        device.publish("default/web", None, 8080, 80, Tcp);
        device.publish("default/web", None, 5353, 53, Udp);
        device.publish("default/web", Some(DEVICE_SECOND_V4), 9090, 80, Tcp);
        device.publish("default/web", Some("::"), 7070, 80, Tcp);
        device.settle();
        web.serve_tcp(80, "web");
        web.serve_udp(53, "web");
        let outside = &device.outside;
        // From outside, and the pod sees who it is.
        assert_eq!(
            outside.tcp(DEVICE_V4, 8080).unwrap(),
            format!("web {OUTSIDE_V4}")
        );
        assert_eq!(
            outside.tcp(DEVICE_V6, 8080).unwrap(),
            format!("web {OUTSIDE_V6}")
        );
        assert_eq!(
            outside.udp(DEVICE_V4, 5353).unwrap(),
            format!("web {OUTSIDE_V4}")
        );
        assert_eq!(
            outside.udp(DEVICE_V6, 5353).unwrap(),
            format!("web {OUTSIDE_V6}")
        );
        // At a certain address, and in a certain family.
        assert_eq!(
            outside.tcp(DEVICE_SECOND_V4, 9090).unwrap(),
            format!("web {OUTSIDE_V4}")
        );
        let refused = io::ErrorKind::ConnectionRefused;
        assert_eq!(outside.tcp_in_vain(DEVICE_V4, 9090).kind(), refused);
        assert_eq!(
            outside.tcp(DEVICE_V6, 7070).unwrap(),
            format!("web {OUTSIDE_V6}")
        );
        assert_eq!(outside.tcp_in_vain(DEVICE_V4, 7070).kind(), refused);
        // From the device, also by its loopback.
        for at in [DEVICE_V4, "127.0.0.1", DEVICE_V6] {
            assert!(device.tcp(at, 8080).unwrap().starts_with("web "), "{at}");
        }
        // From another pod, and from itself.
        assert!(other.tcp(DEVICE_V4, 8080).unwrap().starts_with("web "));
        assert!(web.tcp(DEVICE_V4, 8080).unwrap().starts_with("web "));
        assert!(web.tcp(DEVICE_V6, 8080).unwrap().starts_with("web "));
        // What is not published any more is refused.
        device.wanted_pod("default/web").ports.clear();
        device.settle();
        assert_eq!(device.outside.tcp_in_vain(DEVICE_V4, 8080).kind(), refused);
    });
}

#[test]
fn a_port_goes_to_one_of_two_apps_and_the_other_hears_of_it() {
    on_a_device(|mut device| {
        let old = device.pod("default/web/1");
        device.publish("default/web/1", None, 8080, 80, Tcp);
        let new = device.pod("default/web/2");
        device.publish("default/web/2", None, 8080, 80, Tcp);
        device.wanted_pod("default/web/2").ready = false;
        old.serve_tcp(80, "old");
        new.serve_tcp(80, "new");
        // Two revisions of one app: the one that is ready has it.
        device.settle();
        assert!(
            device
                .outside
                .tcp(DEVICE_V4, 8080)
                .unwrap()
                .starts_with("old ")
        );
        device.wanted_pod("default/web/1").ready = false;
        device.wanted_pod("default/web/2").ready = true;
        device.settle();
        assert!(
            device
                .outside
                .tcp(DEVICE_V4, 8080)
                .unwrap()
                .starts_with("new ")
        );
        // Another app is told.
        device.pod("default/zzz");
        device.publish("default/zzz", Some(DEVICE_V4), 8080, 80, Tcp);
        let troubles = device.reconcile().troubles;
        assert_eq!(troubles.len(), 1);
        let text = troubles[0].to_string();
        assert!(
            text.contains("tcp 8080 at 192.0.2.1") && text.contains("zzz"),
            "{text}"
        );
    });
}

/// Somebody who sends from one port for ever, as sensors do.
#[test]
fn datagrams_find_a_pod_that_came_later_and_one_in_another_place() {
    on_a_device(|mut device| {
        device.pod("default/other");
        device.settle();
        let sensor = device
            .outside
            .run(|| UdpSocket::bind("0.0.0.0:4000").unwrap());
        sensor.connect((DEVICE_V4, 5353)).unwrap();
        let hears = |who: &str| {
            sensor
                .set_read_timeout(Some(std::time::Duration::from_millis(200)))
                .unwrap();
            until(|| {
                let mut buffer = [0; 64];
                sensor.send(b"?").ok();
                let heard = sensor.recv(&mut buffer);
                heard.is_ok_and(|len| buffer[..len].starts_with(who.as_bytes()))
            });
        };
        // Nobody is there yet: refused, and the kernel remembers the flow.
        sensor.send(b"?").unwrap();
        assert!(sensor.recv(&mut [0; 8]).is_err());
        let first = device.pod("default/a/1");
        first.serve_udp(53, "first");
        device.publish("default/a/1", None, 5353, 53, Udp);
        device.settle();
        hears("first");
        // The next revision is elsewhere, and the first one ends.
        let second = device.pod("default/a/2");
        second.serve_udp(53, "second");
        device.publish("default/a/2", None, 5353, 53, Udp);
        device.settle();
        device.wanted.pods.retain(|id, _| id.0 != "default/a/1");
        device.settle();
        hears("second");
    });
}

fn anywhere(verdict: Verdict) -> Egress {
    Egress {
        rules: vec![],
        otherwise: verdict,
        bytes_per_second: None,
    }
}

#[test]
fn a_pod_reaches_only_what_its_policy_allows() {
    on_a_device(|mut device| {
        let (a, b) = (device.pod("default/a"), device.pod("default/b"));
        device.publish("default/a", None, 8080, 80, Tcp);
        device.settle();
        let (a4, a6) = device.addresses("default/a");
        let (b4, _) = device.addresses("default/b");
        a.serve_tcp(80, "a");
        b.serve_tcp(80, "b");
        device.outside.serve_tcp(80, "outside");
        device.outside.serve_tcp(81, "outside");
        let rule = |to: &str, port: Option<u16>, verdict| EgressRule {
            to: Some(to.parse().unwrap()),
            ports: port.map(|port| PortRange {
                protocol: Tcp,
                first: port,
                last: port,
            }),
            verdict,
        };
        let forbidden = |error: io::Error| {
            let code = error.raw_os_error();
            assert_eq!(code, Some(libc_ehostunreach()), "{error}");
        };
        // Nothing but one port of one host.
        device.wanted_pod("default/a").egress = Some(Egress {
            rules: vec![rule("192.0.2.2/32", Some(80), Verdict::Allow)],
            ..anywhere(Verdict::Deny)
        });
        device.settle();
        assert!(a.tcp(OUTSIDE_V4, 80).is_ok());
        forbidden(a.tcp_in_vain(OUTSIDE_V4, 81));
        // Neighbours on the same bridge pass the device too, and so does what
        // is for the device itself.
        forbidden(a.tcp_in_vain(&b4, 80));
        forbidden(a.tcp_in_vain(DEVICE_V4, 22));
        let v6 = a.tcp_in_vain(OUTSIDE_V6, 80).raw_os_error();
        assert!(
            [libc_eacces(), libc_ehostunreach()].map(Some).contains(&v6),
            "{v6:?}"
        );
        // Others still reach it, and get answers.
        assert!(b.tcp(&a4, 80).unwrap().starts_with("a "));
        assert!(b.tcp(&a6, 80).unwrap().starts_with("a "));
        assert!(
            device
                .outside
                .tcp(DEVICE_V4, 8080)
                .unwrap()
                .starts_with("a ")
        );
        // Everything but one net.
        device.wanted_pod("default/a").egress = Some(Egress {
            rules: vec![rule("192.0.2.0/24", None, Verdict::Deny)],
            ..anywhere(Verdict::Allow)
        });
        device.settle();
        forbidden(a.tcp_in_vain(OUTSIDE_V4, 80));
        assert!(a.tcp(&b4, 80).is_ok());
        assert!(a.tcp(OUTSIDE_V6, 80).is_ok());
        // A connection that was allowed ends with the permission.
        device.wanted_pod("default/a").egress = None;
        device.settle();
        let listener = device
            .outside
            .run(|| TcpListener::bind(("0.0.0.0", 82)).unwrap());
        let mut stream = a.run(|| TcpStream::connect((OUTSIDE_V4, 82)).unwrap());
        let (mut end, _) = listener.accept().unwrap();
        stream.write_all(b"1").unwrap();
        let mut byte = [0];
        end.read_exact(&mut byte).unwrap();
        device.wanted_pod("default/a").egress = Some(anywhere(Verdict::Deny));
        device.settle();
        stream.write_all(b"2").unwrap();
        end.set_read_timeout(Some(SHORT)).unwrap();
        assert!(end.read_exact(&mut byte).is_err());
    });
}

fn libc_ehostunreach() -> i32 {
    nix::errno::Errno::EHOSTUNREACH as i32
}

fn libc_eacces() -> i32 {
    nix::errno::Errno::EACCES as i32
}

#[test]
fn a_rate_limit_bites_and_nothing_else_slows_down() {
    const RATE: u64 = 512 * 1024;
    const BYTES: usize = 2 * 1024 * 1024;
    on_a_device(|mut device| {
        let (slow, fast) = (device.pod("default/slow"), device.pod("default/fast"));
        device.wanted_pod("default/slow").egress = Some(Egress {
            bytes_per_second: NonZeroU64::new(RATE),
            ..anywhere(Verdict::Allow)
        });
        device.settle();
        let listener = device
            .outside
            .run(|| TcpListener::bind(("0.0.0.0", 80)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let read = io::copy(&mut stream.try_clone().unwrap(), &mut io::sink());
                stream.write_all(&read.unwrap().to_be_bytes()).ok();
            }
        });
        let send = |pod: &Space| {
            pod.run(|| {
                let start = Instant::now();
                let mut stream = TcpStream::connect((OUTSIDE_V4, 80)).unwrap();
                stream.write_all(&vec![0; BYTES]).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut read = [0; 8];
                stream.read_exact(&mut read).unwrap();
                assert_eq!(u64::from_be_bytes(read), BYTES as u64);
                start.elapsed()
            })
        };
        let (slow, fast) = (send(&slow), send(&fast));
        println!("2 MiB at 512 KiB/s in {slow:?}, without limit in {fast:?}");
        // All but the burst and the first second, at the rate; never faster,
        // whatever the machine.
        let least = (BYTES as u64 - 128 * 1024 - RATE) as f64 / RATE as f64;
        assert!(slow.as_secs_f64() > least * 0.95, "{slow:?}");
        assert!(fast < slow, "{fast:?}");
    });
}

#[test]
fn a_service_balances_over_the_pods_that_are_ready() {
    on_a_device(|mut device| {
        let names = ["one", "two", "three"];
        let ids = names.map(|name| format!("default/{name}"));
        let pods = ids.each_ref().map(|id| device.pod(id));
        let asker = device.pod("default/asker");
        device.service("default", "web", &ids.each_ref().map(String::as_str));
        for endpoint in &mut device.wanted.services[0].endpoints {
            endpoint.ports = vec![ServicePort {
                port: 80,
                pod_port: 8080,
                protocol: Tcp,
            }];
        }
        for (pod, name) in pods.iter().zip(names) {
            pod.serve_tcp(8080, name);
        }
        device.wanted_pod("default/two").ready = false;
        let layout = device.settle().layout;
        let pair = layout.services.values().next().unwrap();
        let (v4, v6) = (pair.v4.to_string(), pair.v6.to_string());
        let count = |from: &Space, to: &str| {
            let mut counts: BTreeMap<String, u32> = BTreeMap::new();
            for _ in 0..12 {
                let answer = from.tcp(to, 80).unwrap();
                let who = answer.split(' ').next().unwrap();
                *counts.entry(who.into()).or_default() += 1;
            }
            counts
        };
        let two: BTreeMap<String, u32> = [("one".into(), 6), ("three".into(), 6)].into();
        assert_eq!(count(&asker, &v4), two);
        assert_eq!(count(&asker, &v6), two);
        // The pods see who asked; a pod may also reach itself by the service.
        let (asker4, _) = device.addresses("default/asker");
        assert!(asker.tcp(&v4, 80).unwrap().ends_with(&asker4));
        let own = count(&pods[0], &v4);
        assert_eq!(own.values().sum::<u32>(), 12);
        assert_eq!(own.len(), 2, "{own:?}");
        // The device itself too, also without any way out.
        sh("ip route del default");
        assert!(device.tcp(&v4, 80).is_ok());
        // A third, and then none.
        device.wanted_pod("default/two").ready = true;
        device.settle();
        assert!(count(&asker, &v4).values().all(|n| *n == 4));
        for id in &ids {
            device.wanted_pod(id).ready = false;
        }
        device.settle();
        let refused = io::ErrorKind::ConnectionRefused;
        assert_eq!(asker.tcp_in_vain(&v4, 80).kind(), refused);
        assert_eq!(asker.tcp_in_vain(&v6, 80).kind(), refused);
    });
}
