//! `skerry-agent doctor`: what is wrong with this machine, and the line that
//! mends it. One file for each diagnosis; each reads the machine and changes
//! nothing.

mod broker;
mod cgroup;
mod clock;
mod disk;
mod overlay;
mod user;

use serde::Serialize;
use std::path::PathBuf;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Patient {
    /// The agent's data directory.
    pub data_dir: PathBuf,
    /// `host:port` of the broker, once the device has joined.
    pub broker: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Good,
    /// Works, but not as well as it could.
    Warning,
    /// Some apps, or all, cannot run.
    Problem,
}

/// What one diagnosis found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, in a sentence.
    pub message: String,
    /// What to do, exactly; empty when all is good.
    pub remedy: String,
}

impl Finding {
    fn good(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            severity: Severity::Good,
            message: message.into(),
            remedy: String::new(),
        }
    }

    fn warning(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            check,
            severity: Severity::Warning,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    fn problem(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Problem,
            ..Self::warning(check, message, remedy)
        }
    }
}

/// Makes every diagnosis. Takes up to a few seconds when the broker is silent.
pub fn examine(patient: &Patient) -> Vec<Finding> {
    let mut findings = vec![user::diagnose()];
    findings.extend(cgroup::diagnose());
    findings.push(overlay::diagnose());
    findings.push(clock::diagnose());
    findings.push(disk::diagnose(&patient.data_dir));
    findings.push(broker::diagnose(patient.broker.as_deref()));
    findings
}

/// The findings as lines for people, worst first.
pub fn to_text(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|f| std::cmp::Reverse(f.severity));
    let mut out = String::new();
    for finding in sorted {
        let word = match finding.severity {
            Severity::Good => "ok",
            Severity::Warning => "warning",
            Severity::Problem => "PROBLEM",
        };
        out += &format!("{word:<8} {:<9} {}\n", finding.check, finding.message);
        for line in finding.remedy.lines() {
            out += &format!("{:<18} -> {line}\n", "");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_with_its_remedy() {
        let text = to_text(&[
            Finding::good("clock", "the clock is set"),
            Finding::problem("overlay", "no overlayfs", "modprobe overlay"),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("PROBLEM  overlay"), "{text}");
        assert!(lines[1].ends_with("-> modprobe overlay"), "{text}");
        assert!(lines[2].starts_with("ok"), "{text}");
    }

    #[test]
    fn this_machine_is_examined_without_an_agent() {
        let patient = Patient {
            data_dir: std::env::temp_dir().join("not").join("there"),
            broker: None,
        };
        let findings = examine(&patient);
        assert!(findings.len() >= 6);
        let remedied = |f: &Finding| (f.severity == Severity::Good) == f.remedy.is_empty();
        assert!(findings.iter().all(remedied), "{findings:?}");
    }
}
