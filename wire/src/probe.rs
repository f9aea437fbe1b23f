//! How a device finds out whether a container is well, and what it does
//! around its start and stop: Kubernetes' probes and lifecycle hooks.

use serde::{Deserialize, Serialize};

/// A question that is put to a container again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is done.
    pub check: Check,
    /// Seconds from the container's start to the first.
    pub initial_delay_secs: u32,
    /// Seconds from one to the next, from 1.
    pub period_secs: u32,
    /// Seconds until one without an answer has failed, from 1.
    pub timeout_secs: u32,
    /// Successes in a row that make it good again after a failure, from 1.
    pub success_threshold: u16,
    /// Failures in a row that make it bad, from 1.
    pub failure_threshold: u16,
    /// Seconds between stop signal and kill when this probe ends the
    /// container; the pod's when absent.
    pub termination_grace_secs: Option<u32>,
}

impl Probe {
    /// A probe with Kubernetes' defaults.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            initial_delay_secs: 0,
            period_secs: 10,
            timeout_secs: 1,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_secs: None,
        }
    }
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// Runs a program in the container: good when it ends with 0.
    Exec {
        /// The program and its arguments, without a shell.
        command: Vec<String>,
    },
    /// Asks by HTTP: good is a status from 200 to 399.
    Http(HttpGet),
    /// Opens a TCP connection: good when it opens.
    Tcp {
        /// Where; the pod's own address when absent.
        host: Option<String>,
        /// Which port.
        port: u16,
    },
}

/// A request by HTTP without TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGet {
    /// Where; the pod's own address when absent.
    pub host: Option<String>,
    /// Which port.
    pub port: u16,
    /// Starts with `/`.
    pub path: String,
    /// Name and value.
    pub headers: Vec<(String, String)>,
}

/// What is done around a container's start or stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// Runs a program in the container.
    Exec {
        /// The program and its arguments, without a shell.
        command: Vec<String>,
    },
    /// Asks by HTTP.
    Http(HttpGet),
    /// Waits.
    Sleep {
        /// So many seconds.
        seconds: u32,
    },
}
