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
use std::path::Path;

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

/// All diagnoses of the machine itself but for its data directory: quick, no
/// network, nothing written.
fn local(data_dir: &Path) -> Vec<Finding> {
    vec![
        cgroup::find(),
        memory_cgroup::find(),
        overlay::find(),
        disk::find(data_dir),
        clock::find(),
    ]
}

/// All of them. `address` is the broker's, if the device knows one.
pub fn findings(config: &Config, address: Option<&str>) -> Vec<Finding> {
    let mut all = local(&config.data_dir);
    all.push(data_dir::find(&config.data_dir));
    all.extend(address.map(broker::find));
    all
}

/// The machine's troubles as the hub is told. Writes nothing, so that it may
/// be asked again and again.
pub fn conditions(data_dir: &Path) -> Vec<Condition> {
    let mut all = local(data_dir);
    all.push(data_dir::look(data_dir));
    all.into_iter()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_for_the_hub_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("data");
        let kinds =
            |dir: &Path| -> Vec<String> { conditions(dir).into_iter().map(|c| c.kind).collect() };
        assert!(kinds(&missing).contains(&"DataDirUnwritable".to_string()));
        assert!(!missing.exists());
        let before = std::fs::metadata(dir.path()).unwrap().modified().unwrap();
        assert!(!kinds(dir.path()).contains(&"DataDirUnwritable".to_string()));
        let after = std::fs::metadata(dir.path()).unwrap().modified().unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn every_trouble_comes_with_a_remedy() {
        let bad = Finding::new("Test", Verdict::Bad, "broken", "mend it");
        assert_eq!(
            text(std::slice::from_ref(&bad)),
            "FAIL  broken\n      -> mend it\n"
        );
        let json = to_json(&[bad, Finding::good("Fine", "fine")]);
        assert_eq!(json["items"][0]["verdict"], "bad");
        assert_eq!(json["items"][1]["remedy"], "");
    }
}
