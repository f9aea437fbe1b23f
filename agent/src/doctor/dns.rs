//! Can names be looked up?

use super::{Finding, Verdict};
use crate::facts::Host;
use skerry_link::{BrokerAddress, BrokerUrl};
use smol::{Timer, future};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

const KIND: &str = "NameLookupFails";
/// How long the resolver may take: one server that is silent, then another.
const PATIENCE: Duration = Duration::from_secs(8);

/// Looks the broker's name up, if it has one.
pub fn find(host: &Host, broker: Option<&str>) -> Finding {
    let url = broker.and_then(|text| text.parse::<BrokerUrl>().ok());
    match url.map(|url| url.address) {
        Some(BrokerAddress::Plain { host: name, .. } | BrokerAddress::Tls { host: name, .. })
            if name.parse::<IpAddr>().is_err() =>
        {
            judged(&name, look_up(&name))
        }
        Some(_) => Finding::good(KIND, "the broker's address needs no name to be looked up"),
        None => configured(host),
    }
}

/// At most [`PATIENCE`]; a resolver that is late ends by itself.
fn look_up(name: &str) -> io::Result<usize> {
    let found = async { Ok(smol::net::resolve((name, 0)).await?.len()) };
    let late = async {
        Timer::after(PATIENCE).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
    };
    smol::block_on(future::or(found, late))
}

fn judged(name: &str, found: io::Result<usize>) -> Finding {
    match found {
        Ok(1..) => Finding::good(KIND, format!("the broker's name {name} can be looked up")),
        Ok(0) => bad(name, "it has no address"),
        Err(error) => bad(name, &error.to_string()),
    }
}

fn bad(name: &str, why: &str) -> Finding {
    Finding::new(
        KIND,
        Verdict::Bad,
        format!("the broker's name {name} cannot be looked up: {why}"),
        format!("getent hosts {name}; cat /etc/resolv.conf; ip route"),
    )
}

fn configured(host: &Host) -> Finding {
    let text = host.text("etc/resolv.conf");
    let servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers: Vec<&str> = servers.map(str::trim).collect();
    match servers.is_empty() {
        true => Finding::new(
            KIND,
            Verdict::Poor,
            "no name server in /etc/resolv.conf: names cannot be looked up",
            "ip -br addr; ip route   # is there a network at all? nmtui or netplan sets one up",
        ),
        false => Finding::good(KIND, format!("names are asked of {}", servers.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    #[test]
    fn a_name_that_cannot_be_looked_up_is_bad_and_an_address_needs_none() {
        let tree = Tree::new(&[("etc/resolv.conf", b"# by hand\nnameserver 192.0.2.1\n")]);
        let host = tree.host();
        // RFC 6761: never a name of anything.
        let found = find(&host, Some("mqtts://user:secret@nowhere.invalid"));
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.text.contains("nowhere.invalid cannot be looked up"));
        assert!(found.remedy.contains("getent hosts nowhere.invalid"));
        assert!(!format!("{found:?}").contains("secret"));
        assert_eq!(find(&host, Some("mqtt://127.0.0.1")).verdict, Verdict::Good);
        assert_eq!(find(&host, None).verdict, Verdict::Good);
        let none = Tree::new(&[]);
        assert_eq!(find(&none.host(), None).verdict, Verdict::Poor);
    }
}
