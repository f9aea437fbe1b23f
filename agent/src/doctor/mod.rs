//! What is wrong with this machine, and the exact line that mends it. One file
//! for each diagnosis.

mod broker;
mod cgroup;
mod clock;
mod data_dir;
mod disk;
mod memory_cgroup;
mod overlay;

use crate::config::Config;
use serde_json::json;
use skerry_wire::report::Condition;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, but less well.
    Poor,
    /// It does not work.
    Bad,
}

/// The outcome of one diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Condition's name, CamelCase, said of the trouble: `NoMemoryLimits`.
    pub kind: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, in words.
    pub text: String,
    /// What to do; empty when nothing.
    pub remedy: String,
}

impl Finding {
    fn good(kind: &'static str, text: impl Into<String>) -> Self {
        Self::new(kind, Verdict::Good, text, "")
    }

    fn new(
        kind: &'static str,
        verdict: Verdict,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            verdict,
            text: text.into(),
            remedy: remedy.into(),
        }
    }
}

/// All diagnoses of the machine itself: quick, and no network.
fn local(config: &Config) -> Vec<Finding> {
    vec![
        cgroup::find(),
        memory_cgroup::find(),
        overlay::find(),
        data_dir::find(&config.data_dir),
        disk::find(&config.data_dir),
        clock::find(),
    ]
}

/// All of them. `address` is the broker's, if the device knows one.
pub fn findings(config: &Config, address: Option<&str>) -> Vec<Finding> {
    let mut all = local(config);
    all.extend(address.map(broker::find));
    all
}

/// The machine's troubles as the hub is told.
pub fn conditions(config: &Config) -> Vec<Condition> {
    local(config)
        .into_iter()
        .filter(|finding| finding.verdict != Verdict::Good)
        .map(|finding| Condition {
            kind: finding.kind.into(),
            status: true,
            reason: finding.kind.into(),
            message: format!("{}; {}", finding.text, finding.remedy),
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
