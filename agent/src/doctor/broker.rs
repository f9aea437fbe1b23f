//! Without its broker a device runs on, but nobody hears of it.

use super::Finding;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn diagnose(broker: Option<&str>) -> Finding {
    let Some(broker) = broker else {
        return Finding::warning(
            "broker",
            "this device has not joined a fleet yet",
            "skerry-agent join TOKEN, with the token from 'skerry token create' on the hub",
        );
    };
    let addresses = match broker.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(e) => {
            return Finding::warning(
                "broker",
                format!("the broker's name in {broker} cannot be resolved: {e}"),
                format!("getent hosts {}\ncat /etc/resolv.conf", host(broker)),
            );
        }
    };
    let mut last = "it has no address".to_string();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Finding::good("broker", format!("{broker} answers")),
            Err(e) => last = e.to_string(),
        }
    }
    Finding::warning(
        "broker",
        format!("cannot reach the broker at {broker}: {last}; apps run all the same"),
        format!(
            "ip route get {}\non the hub: skerry status, and a firewall that lets this port in",
            host(broker)
        ),
    )
}

fn host(broker: &str) -> &str {
    broker.rsplit_once(':').map_or(broker, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listening_broker_is_good_and_a_silent_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(diagnose(Some(&address)).severity, Severity::Good);
        drop(listener);
        let finding = diagnose(Some(&address));
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.message.contains(&address), "{finding:?}");
    }
}
