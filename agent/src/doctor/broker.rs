//! Does somebody answer at the broker's address?

use super::{Finding, Verdict};
use skerry_link::{BrokerAddress, BrokerUrl, Probe, Trust, probe};
use std::time::Duration;

const KIND: &str = "BrokerUnreachable";
/// How long name, connection and TLS may take together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, shakes hands over TLS if `trust` is known, and nothing more; and
/// what the other side showed, for whom it concerns.
pub fn find(address: &str, trust: Option<&Trust>) -> (Finding, Option<Probe>) {
    let shown = crate::engine::shown_broker(address);
    let bad = |text: String, remedy: String| Finding::new(KIND, Verdict::Bad, text, remedy);
    let address = match address.parse::<BrokerUrl>() {
        Ok(url) => url.address,
        Err(error) => {
            let remedy = "skerry-agent reset && skerry-agent join TOKEN";
            return (bad(error.to_string(), remedy.into()), None);
        }
    };
    let probe = smol::block_on(probe(&address, trust, PATIENCE));
    let finding = match (&probe.reached, &address) {
        (Ok(()), _) => Finding::good(KIND, format!("the broker answers at {shown}")),
        (Err(why), BrokerAddress::Unix { .. }) => bad(
            format!("the broker does not answer at {shown}: {why}"),
            "is the broker running on this machine?".into(),
        ),
        (Err(why), BrokerAddress::Plain { host, .. } | BrokerAddress::Tls { host, .. }) => bad(
            format!("the broker does not answer at {shown}: {why}"),
            format!("systemctl status skerry-hub   # on the hub; here: ip route; ping -c 3 {host}"),
        ),
    };
    (finding, Some(probe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_nobody_has_is_told_from_one_that_answers() {
        let port = skerry_test_port::free_port();
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = format!("mqtt://user:secret@127.0.0.1:{port}");
        assert_eq!(find(&address, None).0.verdict, Verdict::Good);
        drop(listener);
        let (found, _) = find(&address, None);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.text.contains("does not answer"), "{}", found.text);
        assert!(!format!("{found:?}").contains("secret"));
        let (found, probe) = find("ftp://x", None);
        assert!(found.verdict == Verdict::Bad && probe.is_none());
    }
}
