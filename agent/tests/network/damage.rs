//! What breaks is mended, what is right is left alone, what goes leaves
//! nothing.

use crate::world::*;
use skerry_agent::network::plan::Change;
use skerry_agent::network::{Networks, Pool, Wanted, Watch};
use skerry_wire::pod::Protocol::Tcp;

fn furnished(device: &mut Device) -> (Space, Space) {
    let (a, b) = (device.pod("default/a"), device.pod("other/b"));
    device.publish("default/a", None, 8080, 80, Tcp);
    device.service("default", "web", &["default/a"]);
    a.serve_tcp(80, "a");
    device.settle();
    (a, b)
}

#[test]
fn an_agent_that_starts_again_touches_nothing() {
    on_a_device(|mut device| {
        let _pods = furnished(&mut device);
        let before = settled_picture();
        let kept = serde_json::to_string(&device.leases).unwrap();
        let pool = Pool::new(Pool::DEFAULT_RANGE, "device-under-test").unwrap();
        device.networks = Networks::open(pool).unwrap();
        device.leases = serde_json::from_str(&kept).unwrap();
        assert_eq!(device.reconcile().changes, []);
        assert_eq!(settled_picture(), before);
    });
}

#[test]
fn removal_leaves_no_trace() {
    on_a_device(|mut device| {
        sh(
            "nft add table inet of-others; nft add chain inet of-others c; \
            nft add rule inet of-others c counter; ip link add br-others type bridge",
        );
        // Forwarding stays where somebody else has a bridge; so have it on.
        sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let before = settled_picture();
        let _pods = furnished(&mut device);
        assert_ne!(settled_picture(), before);
        device.wanted = Wanted::default();
        device.settle();
        assert_eq!(settled_picture(), before);
    });
}

#[test]
fn forwarding_is_put_back_where_it_was_off() {
    on_a_device(|mut device| {
        let before = settled_picture();
        assert!(before.contains(&"net.ipv4.ip_forward = 0".to_string()));
        let _pods = furnished(&mut device);
        assert!(device.leases.guard.v4 && device.leases.guard.v6);
        device.wanted = Wanted::default();
        device.settle();
        assert_eq!(settled_picture(), before);
        assert!(!device.leases.guard.v4);
    });
}

#[test]
fn every_damage_is_mended() {
    on_a_device(|mut device| {
        let (a, _b) = furnished(&mut device);
        let (v4, _) = device.addresses("default/a");
        let layout = device.reconcile().layout;
        let bridge = layout.networks.values().next().unwrap().bridge.clone();
        let id = layout.pods.keys().next().unwrap().clone();
        let veth = layout.pods[&id].veth.clone();
        let table = device.networks.names().table.clone();
        let before = settled_picture();
        let from_inside = |line: String| {
            let a = a.clone();
            move || {
                a.run(move || sh(&line));
            }
        };
        let from_outside = |line: String| move || drop(sh(&line));
        type Damage = (&'static str, Box<dyn FnOnce()>);
        let damages: Vec<Damage> = vec![
            (
                "rules flushed",
                Box::new(from_outside("nft flush ruleset".into())),
            ),
            (
                "one chain flushed",
                Box::new(from_outside(format!(
                    "nft flush chain inet {table} published"
                ))),
            ),
            (
                "a rule in between",
                Box::new(from_outside(format!(
                    "nft insert rule inet {table} forward drop"
                ))),
            ),
            (
                "a chain more",
                Box::new(from_outside(format!("nft add chain inet {table} more"))),
            ),
            (
                "table asleep",
                Box::new(from_outside(format!(
                    "nft add table inet {table} '{{ flags dormant; }}'"
                ))),
            ),
            (
                "bridge removed",
                Box::new(from_outside(format!("ip link del {bridge}"))),
            ),
            (
                "bridge off",
                Box::new(from_outside(format!("ip link set {bridge} down"))),
            ),
            (
                "bridge's address",
                Box::new(from_outside(format!("ip addr flush dev {bridge}"))),
            ),
            (
                "neighbours forgotten",
                Box::new(from_outside(format!(
                    "ip neigh flush dev {bridge} nud permanent; ip -6 neigh flush dev {bridge} nud permanent"
                ))),
            ),
            (
                "bridge's hardware address",
                Box::new(from_outside(format!(
                    "ip link set {bridge} address 02:00:00:00:00:01"
                ))),
            ),
            (
                "cable removed",
                Box::new(from_outside(format!("ip link del {veth}"))),
            ),
            (
                "cable unplugged",
                Box::new(from_outside(format!("ip link set {veth} nomaster"))),
            ),
            (
                "cable off",
                Box::new(from_outside(format!("ip link set {veth} down"))),
            ),
            (
                "cable not alone",
                Box::new(from_outside(format!(
                    "on=$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null); \
                [ \"$on\" = 1 ] && to=on || to=off; ip link set {veth} type bridge_slave isolated $to"
                ))),
            ),
            (
                "forwarding off",
                Box::new(from_outside(
                    "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0".into(),
                )),
            ),
            (
                "loopback off",
                Box::new(from_outside(format!(
                    "sysctl -qw net.ipv4.conf.{bridge}.route_localnet=0"
                ))),
            ),
            (
                "pod's address",
                Box::new(from_inside("ip addr flush dev eth0 scope global".into())),
            ),
            (
                "pod's routes",
                Box::new(from_inside(
                    "ip route flush table main; ip -6 route flush table main".into(),
                )),
            ),
            (
                "pod's link off",
                Box::new(from_inside("ip link set eth0 down".into())),
            ),
            (
                "pod's link gone",
                Box::new(from_inside("ip link del eth0".into())),
            ),
            (
                "everything",
                Box::new(from_outside(format!(
                    "nft flush ruleset; ip link del {bridge}; ip link del {veth}"
                ))),
            ),
        ];
        for (what, damage) in damages {
            damage();
            let mended = device.settle();
            assert!(!mended.changes.is_empty(), "{what}");
            let changes: Vec<String> = mended.changes.iter().map(|c| c.to_string()).collect();
            println!("{what}: {}", changes.join(", "));
            // The kernel sees a carrier in its own time.
            until(|| normal(picture()) == before);
            assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok(), "{what}");
            assert!(device.tcp(&v4, 80).is_ok(), "{what}");
            assert!(a.tcp(DEVICE_V6, 8080).is_ok(), "{what}");
        }
    });
}

#[test]
fn a_pod_that_is_gone_takes_nobody_with_it() {
    on_a_device(|mut device| {
        let (a, _b) = furnished(&mut device);
        device.pod("default/gone");
        device.settle();
        // Its namespace ends, and it is still wanted.
        device.wanted_pod("default/gone").netns = "/proc/self/fd/never".into();
        let outcome = device.reconcile();
        assert_eq!(outcome.troubles.len(), 1, "{:?}", outcome.troubles);
        assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok());
        assert!(a.tcp(DEVICE_V4, 8080).is_ok());
        // The device itself is never taken for a pod.
        device.wanted_pod("default/gone").netns = "/proc/thread-self/ns/net".into();
        let outcome = device.reconcile();
        assert!(
            !outcome
                .changes
                .iter()
                .any(|c| matches!(c, Change::AddCable { .. }))
        );
        assert_eq!(outcome.troubles.len(), 1, "{:?}", outcome.troubles);
        device.wanted.pods.retain(|id, _| id.0 != "default/gone");
        device.settle();
    });
}

#[test]
fn a_change_by_somebody_else_is_heard_and_mended() {
    on_a_device(|mut device| {
        let _pods = furnished(&mut device);
        let watch = Watch::open().unwrap();
        for line in ["nft flush ruleset", "sysctl -qw net.ipv4.ip_forward=0"] {
            sh(line);
            smol::block_on(smol::future::or(
                async { watch.changed().await.unwrap() },
                async {
                    smol::Timer::after(LONG).await;
                    panic!("nobody heard of {line}");
                },
            ));
            assert!(!device.settle().changes.is_empty(), "{line}");
        }
        assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok());
    });
}

#[test]
fn two_agents_share_a_machine() {
    on_a_device(|mut device| {
        let _pods = furnished(&mut device);
        let pool = Pool::new(Pool::DEFAULT_RANGE, "another").unwrap();
        let mut second = Device {
            networks: Networks::open(pool).unwrap(),
            leases: Default::default(),
            wanted: Wanted::default(),
            outside: device.outside.clone(),
            spaces: vec![],
        };
        let pod = second.pod("default/a");
        second.publish("default/a", None, 8081, 80, Tcp);
        pod.serve_tcp(80, "second");
        second.settle();
        device.settle();
        assert!(
            device
                .outside
                .tcp(DEVICE_V4, 8080)
                .unwrap()
                .starts_with("a ")
        );
        assert!(
            device
                .outside
                .tcp(DEVICE_V4, 8081)
                .unwrap()
                .starts_with("second ")
        );
        second.wanted = Wanted::default();
        second.settle();
        assert!(device.outside.tcp(DEVICE_V4, 8080).is_ok());
    });
}
