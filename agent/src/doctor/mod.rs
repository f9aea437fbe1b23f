//! What is wrong with this machine, and the exact line that mends it. One file
//! for each diagnosis. What the kernel tells in files is read below a root.

pub(crate) mod adjtimex;
mod apparmor;
mod broker;
mod certificate;
mod cgroup;
mod clock;
mod clock_source;
mod clock_trust;
mod crash;
mod data_dir;
mod disk;
mod disk_errors;
mod disk_wear;
mod dns;
mod file_system;
mod low_memory;
mod memory_cgroup;
mod nftables;
mod no_shell;
mod overlay;
mod temperature;
#[cfg(test)]
mod tests;
mod throttling;
mod time_skew;
mod under_voltage;
mod user_namespaces;
mod watchdog;

use crate::config::Config;
use crate::facts::Host;
use crate::store::{IdentityRecord, look_up_identity};
use serde_json::json;
use skerry_link::{CertPin, Doubt, Trust};
use skerry_wire::report::Condition;
use std::path::Path;

pub use clock_trust::{Believed, is_clock_trusted, is_plausible};
pub use data_dir::KIND as DATA_DIR_UNWRITABLE;
pub use skerry_wire::finding::{Finding, Verdict};

/// What the agent knows and the machine does not tell.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The broker's address.
    pub broker: Option<String>,
    /// Whom to believe there; without it, TLS is not looked at.
    pub trust: Option<Trust>,
    /// Milliseconds that this clock is ahead of the hub's, which is only known
    /// when the hub has just said its time.
    pub ahead_ms: Option<i64>,
}

impl Known {
    /// What a device knows of its broker.
    pub fn of(record: &IdentityRecord) -> Self {
        Self {
            broker: Some(record.broker.clone()),
            trust: Some(match record.tls_pin {
                Some(pin) => Trust::Pinned(vec![CertPin(pin)]),
                None => Trust::SystemRoots,
            }),
            ahead_ms: None,
        }
    }
}

/// Diagnoses whose troubles the hub is told of without asking: quick, no
/// network, nothing written, and nothing that most machines live with.
fn local(host: &Host, data_dir: &Path) -> Vec<Finding> {
    vec![
        cgroup::find(host),
        memory_cgroup::find(host),
        overlay::find(host),
        disk::find(data_dir),
        disk_wear::find(host, data_dir),
        file_system::find(host, data_dir),
        under_voltage::find(host),
        throttling::find(host),
        temperature::find(host),
        low_memory::find(host),
        clock::find(host),
    ]
}

/// All of them. May take [half a minute](skerry_link::probe) when the network
/// is silent, so never on a thread that somebody waits for.
pub fn examine(data_dir: &Path, known: &Known) -> Vec<Finding> {
    let host = Host::machine();
    let mut all = local(&host, data_dir);
    all.push(user_namespaces::find(&host));
    all.push(apparmor::find(&host));
    all.push(nftables::find(&host));
    all.push(clock_source::find(&host));
    all.extend(
        known
            .ahead_ms
            .map(|ahead_ms| time_skew::find(&host, ahead_ms)),
    );
    all.push(watchdog::find(&host));
    all.push(crash::find(&host));
    all.push(disk_errors::find(&host, data_dir));
    all.push(data_dir::find(data_dir));
    all.push(dns::find(&host, known.broker.as_deref()));
    if let Some(broker) = &known.broker {
        let (finding, probe) = broker::find(broker, known.trust.as_ref());
        all.push(finding);
        if let (Some(probe), Some(trust)) = (probe, &known.trust)
            && probe.reached.is_ok()
            // Said already: there is no certificate to look at.
            && !probe.wants_tls
            && !matches!(&probe.shown, Some(Err(why)) if why.doubt == Doubt::NoTls)
        {
            all.push(certificate::find(&probe, trust));
        }
    }
    all.into_iter()
        .map(|finding| no_shell::fitted(&host, finding))
        .collect()
}

/// All of them. `address` is the broker's, if the device knows one; whom to
/// believe there is looked up.
pub fn findings(config: &Config, address: Option<&str>) -> Vec<Finding> {
    let identity = look_up_identity(&config.data_dir);
    let identity = identity.filter(|identity| Some(identity.broker.as_str()) == address);
    let known = match &identity {
        Some(identity) => Known::of(identity),
        None => Known {
            broker: address.map(str::to_string),
            ..Known::default()
        },
    };
    examine(&config.data_dir, &known)
}

/// The machine's troubles as the hub is told. Writes nothing, so that it may
/// be asked again and again.
pub fn conditions(data_dir: &Path) -> Vec<Condition> {
    let host = Host::machine();
    let mut all = local(&host, data_dir);
    all.push(data_dir::look(data_dir));
    all.into_iter()
        .map(|finding| no_shell::fitted(&host, finding))
        .filter(|finding| matches!(finding.verdict, Verdict::Poor | Verdict::Bad))
        .map(|finding| Condition {
            message: format!("{}; {}", finding.text, finding.remedy),
            reason: finding.kind.clone(),
            kind: finding.kind,
            status: true,
        })
        .collect()
}

/// For a person: one line for each, and what to do below it.
pub fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Good => "ok  ",
            Verdict::Poor => "warn",
            Verdict::Bad => "FAIL",
            Verdict::Unknown => "?   ",
        };
        out.push_str(&format!("{mark}  {}\n", finding.text));
        for line in finding.remedy.lines() {
            out.push_str(&format!("      -> {line}\n"));
        }
    }
    out
}

/// For a program.
pub fn to_json(findings: &[Finding]) -> serde_json::Value {
    let items = findings.iter().map(|finding| {
        let verdict = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Poor => "poor",
            Verdict::Bad => "bad",
            Verdict::Unknown => "unknown",
        };
        json!({
            "kind": finding.kind,
            "verdict": verdict,
            "text": finding.text,
            "remedy": finding.remedy,
        })
    });
    json!({ "items": items.collect::<Vec<_>>() })
}
