//! What we write, as `nft` reads it.

use crate::world::*;
use skerry_agent::network::wanted::{Egress, EgressRule, PortRange, Verdict};
use skerry_wire::pod::Protocol::{Tcp, Udp};
use std::num::NonZeroU64;

/// Each kind of expression that we write is read back by `nft` as it is meant.
#[test]
fn nft_reads_the_rules_as_they_are_meant() {
    on_a_device(|mut device| {
        device.pod("default/web");
        device.publish("default/web", Some(DEVICE_SECOND_V4), 8080, 80, Tcp);
        device.publish("default/web", None, 53, 5353, Udp);
        device.pod("default/two");
        device.pod("default/three");
        let all = ["default/three", "default/two", "default/web"];
        device.service("default", "svc", &all);
        device.wanted_pod("default/web").egress = Some(Egress {
            rules: vec![EgressRule {
                to: Some("10.0.0.0/8".parse().unwrap()),
                ports: Some(PortRange {
                    protocol: Tcp,
                    first: 1000,
                    last: 2000,
                }),
                verdict: Verdict::Allow,
            }],
            otherwise: Verdict::Deny,
            bytes_per_second: NonZeroU64::new(1024 * 1024),
        });
        let layout = device.settle().layout;
        let (web4, web6) = device.addresses("default/web");
        let (three4, _) = device.addresses("default/three");
        let network = layout.networks.values().next().unwrap();
        let (bridge, gateway) = (&network.bridge, network.gateway4);
        let (pods4, pods6, services4) = (network.pods4, network.pods6, network.services4);
        let service = layout.services.values().next().unwrap().v4;
        let text = sh("nft list ruleset");
        println!("{text}");
        let each = bridge.trim_end_matches(|c: char| c != 'b');
        for line in [
            "type filter hook prerouting priority raw; policy accept;".to_string(),
            "type nat hook prerouting priority dstnat; policy accept;".into(),
            "type nat hook output priority -100; policy accept;".into(),
            "type nat hook postrouting priority srcnat; policy accept;".into(),
            "type filter hook forward priority filter; policy accept;".into(),
            format!("iifname \"{each}*\" ip daddr 127.0.0.0/8 drop"),
            format!("iifname \"{bridge}\" ip saddr != {pods4} drop"),
            format!("iifname \"{bridge}\" ip6 saddr != {pods6} drop"),
            "fib daddr type local jump published".into(),
            format!("ip daddr {DEVICE_SECOND_V4} tcp dport 8080 dnat ip to {web4}:80"),
            format!("meta nfproto ipv4 udp dport 53 dnat ip to {web4}:5353"),
            format!("meta nfproto ipv6 udp dport 53 dnat ip6 to [{web6}]:5353"),
            format!("ip daddr {service} numgen inc mod 3 0 dnat ip to {three4}"),
            format!("ip daddr {service} dnat ip to {web4}"),
            format!("ip saddr {pods4} oifname != \"{bridge}\" masquerade"),
            format!("ip saddr {web4} ip daddr {web4} masquerade"),
            "ct state established,related accept".into(),
            format!("ip daddr {services4} reject"),
            format!("oifname \"{each}*\" ct status dnat accept"),
            format!("ip daddr {gateway} udp dport 53 accept"),
            "icmpv6 type nd-neighbor-solicit accept".into(),
            format!("oifname \"{each}*\" icmp type redirect drop"),
            "limit rate over 1 mbytes/second burst 128 kbytes drop".into(),
            "ct direction reply return".into(),
            "ip daddr 10.0.0.0/8 tcp dport 1000-2000 return".into(),
            "reject with icmpx admin-prohibited".into(),
            "comment \"default/web\"".into(),
        ] {
            assert!(text.contains(&line), "{line}\nis not in\n{text}");
        }
    });
}

#[test]
fn two_hundred_pods_are_written_at_once() {
    on_a_device(|mut device| {
        let spaces: Vec<Space> = (0..200)
            .map(|n| {
                let id = format!("default/app-{n}");
                let space = device.pod(&id);
                device.publish(&id, None, 10_000 + n, 80, Tcp);
                space
            })
            .collect();
        spaces[199].serve_tcp(80, "last");
        let start = std::time::Instant::now();
        device.settle();
        println!("200 pods and their check in {:?}", start.elapsed());
        let start = std::time::Instant::now();
        assert_eq!(device.reconcile().changes, []);
        println!("nothing to do, in {:?}", start.elapsed());
        assert!(
            device
                .outside
                .tcp(DEVICE_V4, 10_199)
                .unwrap()
                .starts_with("last ")
        );
        device.wanted = Default::default();
        let start = std::time::Instant::now();
        device.settle();
        println!("all removed in {:?}", start.elapsed());
    });
}
