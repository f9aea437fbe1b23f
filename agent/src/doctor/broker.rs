//! Does somebody answer at the broker's address?

use super::{Finding, Verdict};
use skerry_link::{BrokerAddress, BrokerUrl};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const KIND: &str = "BrokerUnreachable";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks the name up and connects, nothing more.
pub fn find(address: &str) -> Finding {
    let shown = crate::engine::shown_broker(address);
    let bad = |text: String, remedy: String| Finding::new(KIND, Verdict::Bad, text, remedy);
    let (host, port) = match address.parse::<BrokerUrl>().map(|url| url.address) {
        Ok(BrokerAddress::Plain { host, port } | BrokerAddress::Tls { host, port }) => (host, port),
        Ok(BrokerAddress::Unix { .. }) => return Finding::good(KIND, format!("broker at {shown}")),
        Err(error) => {
            return bad(
                error.to_string(),
                "skerry-agent reset && skerry-agent join TOKEN".into(),
            );
        }
    };
    let addresses = match (host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            let text = format!("the broker's name {host} cannot be looked up: {error}");
            return bad(
                text,
                format!("getent hosts {host}; cat /etc/resolv.conf; ip route"),
            );
        }
    };
    let mut last = format!("{host} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Finding::good(KIND, format!("the broker answers at {shown}")),
            Err(error) => {
                last = format!("the broker does not answer at {shown} ({address}): {error}")
            }
        }
    }
    bad(
        last,
        format!("systemctl status skerry-hub   # on the hub; here: ip route; ping -c 3 {host}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_looked_up_and_a_port_that_nobody_has_are_told_apart() {
        // RFC 6761: never a name of anything.
        let found = find("mqtts://user:secret@nowhere.invalid");
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.text.contains("nowhere.invalid cannot be looked up"));
        assert!(found.remedy.contains("getent hosts nowhere.invalid"));
        assert!(!format!("{found:?}").contains("secret"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("mqtt://{}", listener.local_addr().unwrap());
        assert_eq!(find(&address).verdict, Verdict::Good);
        drop(listener);
        let found = find(&address);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.text.contains("does not answer"), "{}", found.text);
    }
}
