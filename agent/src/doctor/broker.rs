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
    let bad = |text: String, remedy: &str| Finding::new(KIND, Verdict::Bad, text, remedy);
    let (host, port) = match address.parse::<BrokerUrl>().map(|url| url.address) {
        Ok(BrokerAddress::Plain { host, port } | BrokerAddress::Tls { host, port }) => (host, port),
        Ok(BrokerAddress::Unix { .. }) => return Finding::good(KIND, format!("broker at {shown}")),
        Err(error) => {
            return bad(
                error.to_string(),
                "skerry-agent reset, then join with a fresh token",
            );
        }
    };
    let addresses = match (host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            let text = format!("the broker's name {host} cannot be looked up: {error}");
            return bad(text, "check /etc/resolv.conf and the network");
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
        "check that the hub runs, and that no firewall is in between",
    )
}
