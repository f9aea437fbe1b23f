//! The three files of a container that are about its network.

use skerry_wire::pod::{DnsConfig, HostAlias};
use std::fmt::Write;
use std::net::IpAddr;

/// The domain of names on a device. `.internal` is set aside for private use
/// by ICANN and never exists outside.
pub const DOMAIN: &str = "skerry.internal";

/// How a container sees names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `/etc/hosts`
    pub hosts: String,
    /// `/etc/resolv.conf`; `None` leaves the device's own.
    pub resolv_conf: Option<String>,
    /// `/etc/hostname`
    pub hostname: String,
}

/// What they are made from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The host name inside.
    pub hostname: &'a str,
    /// The pod's addresses; none on the device's own network.
    pub addresses: &'a [IpAddr],
    /// Further lines of `/etc/hosts`.
    pub aliases: &'a [HostAlias],
    /// Who answers names, and where they are looked for first.
    pub names: Option<(IpAddr, &'a str)>,
    /// What the manifest says in its place.
    pub dns: Option<&'a DnsConfig>,
}

/// The contents.
pub fn files(source: Source) -> Files {
    Files {
        hosts: hosts(source),
        resolv_conf: resolv_conf(source),
        hostname: format!("{}\n", source.hostname),
    }
}

fn hosts(source: Source) -> String {
    let mut text = String::from(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n\
         ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n",
    );
    let host = source.hostname;
    let mut line = |address: &dyn std::fmt::Display, names: &str| {
        writeln!(text, "{address} {names}").expect("text takes all");
    };
    match source.addresses {
        // As Debian does it: the name is always known.
        [] => line(&"127.0.1.1", host),
        addresses => addresses.iter().for_each(|address| line(address, host)),
    }
    for alias in source.aliases {
        line(&alias.ip, &alias.hostnames.join(" "));
    }
    text
}

fn resolv_conf(source: Source) -> Option<String> {
    let mut servers: Vec<IpAddr> = Vec::new();
    let mut searches: Vec<String> = Vec::new();
    if let Some((server, namespace)) = source.names {
        servers.push(server);
        searches.push(format!("{namespace}.{DOMAIN}"));
    }
    let mut options: &[String] = &[];
    if let Some(dns) = source.dns {
        if !dns.nameservers.is_empty() {
            servers.clone_from(&dns.nameservers);
        }
        if !dns.searches.is_empty() {
            searches.clone_from(&dns.searches);
        }
        options = &dns.options;
    }
    if servers.is_empty() {
        return None;
    }
    let mut text = String::new();
    for server in servers {
        writeln!(text, "nameserver {server}").expect("text takes all");
    }
    if !searches.is_empty() {
        writeln!(text, "search {}", searches.join(" ")).expect("text takes all");
    }
    if !options.is_empty() {
        writeln!(text, "options {}", options.join(" ")).expect("text takes all");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_on_a_bridge_finds_itself_and_its_namespace() {
        let aliases = [HostAlias {
            ip: "10.0.0.9".parse().unwrap(),
            hostnames: vec!["plc".into(), "plc.local".into()],
        }];
        let files = files(Source {
            hostname: "web",
            addresses: &["10.209.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            aliases: &aliases,
            names: Some(("10.209.0.1".parse().unwrap(), "shop")),
            dns: None,
        });
        assert!(
            files
                .hosts
                .ends_with("10.209.0.7 web\nfd00::7 web\n10.0.0.9 plc plc.local\n")
        );
        assert_eq!(
            files.resolv_conf.unwrap(),
            "nameserver 10.209.0.1\nsearch shop.skerry.internal\n"
        );
        assert_eq!(files.hostname, "web\n");
    }

    #[test]
    fn the_manifest_has_the_last_word() {
        let dns = DnsConfig {
            nameservers: vec!["9.9.9.9".parse().unwrap()],
            searches: vec![],
            options: vec!["ndots:2".into()],
        };
        let source = Source {
            hostname: "web",
            addresses: &[],
            aliases: &[],
            names: None,
            dns: Some(&dns),
        };
        assert_eq!(
            files(source).resolv_conf.unwrap(),
            "nameserver 9.9.9.9\noptions ndots:2\n"
        );
        let none = Source {
            dns: None,
            ..source
        };
        assert_eq!(files(none).resolv_conf, None);
    }
}
