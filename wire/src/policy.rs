//! What an operator says around an app's pod: it may change without a new
//! revision, so no container restarts for it.

use crate::desired::Dependency;
use crate::id::AppName;
use crate::pod::Protocol;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// All that is not the pod. The default is what an app has that says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPolicy {
    /// Apps of the same device that it waits for, at most
    /// [`AppPolicy::MAX_DEPENDENCIES`].
    pub depends_on: Vec<Dependency>,
    /// Whether it runs on, or to an end.
    pub work: Work,
    /// How a new revision takes the place of the old one.
    pub update: UpdatePolicy,
    /// Names that lead to its ready pod, at most [`AppPolicy::MAX_SERVICES`].
    pub services: Vec<Service>,
    /// What it may reach; everything when absent. Only with
    /// [`Network::Bridge`](crate::pod::Network::Bridge).
    pub egress: Option<Egress>,
    /// What it may ask the agent, on a socket in its containers; none, and no
    /// socket, when empty. Sorted, each once.
    pub grants: Vec<Grant>,
}

impl AppPolicy {
    /// Dependencies of one app.
    pub const MAX_DEPENDENCIES: usize = 16;
    /// Services of one app.
    pub const MAX_SERVICES: usize = 16;
}

/// Whether an app runs on, or to an end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// It runs on.
    #[default]
    Service,
    /// It runs to its end.
    Job(Job),
    /// It runs to its end at certain times.
    CronJob(Box<CronJob>),
}

/// Kubernetes' Job on one device. Its pods run one after the other, never
/// beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// How many pods have to end well, from 1.
    pub completions: u32,
    /// Pods that may fail before the whole has failed.
    pub backoff_limit: u32,
    /// Seconds after which it has failed, counted while the device is on.
    pub active_deadline_secs: Option<u32>,
    /// Seconds after its end until it is forgotten, with its logs; kept when
    /// absent.
    pub ttl_after_finished_secs: Option<u32>,
    /// Its pod is stopped, and none starts.
    pub suspend: bool,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            completions: 1,
            backoff_limit: 6,
            active_deadline_secs: None,
            ttl_after_finished_secs: None,
            suspend: false,
        }
    }
}

/// Kubernetes' CronJob on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronJob {
    /// As [`crate::cron`] reads it: `*/5 * * * *`, `@daily`.
    pub schedule: String,
    /// The time zone that the schedule means; UTC when absent.
    pub time_zone: Option<TimeZone>,
    /// What happens when the last one still runs.
    pub concurrency: Concurrency,
    /// Seconds that a start may be late; later, it is left out. Any when
    /// absent.
    pub starting_deadline_secs: Option<u32>,
    /// No new starts.
    pub suspend: bool,
    /// Runs that ended well that are remembered, at most
    /// [`CronJob::MAX_HISTORY`].
    pub successful_history: u8,
    /// Runs that failed that are remembered, likewise.
    pub failed_history: u8,
    /// What each start is.
    pub job: Job,
}

impl CronJob {
    /// Runs of one outcome that can be remembered.
    pub const MAX_HISTORY: u8 = 10;
    /// Kubernetes' default of `successfulJobsHistoryLimit`.
    pub const SUCCESSFUL_HISTORY: u8 = 3;
    /// Kubernetes' default of `failedJobsHistoryLimit`.
    pub const FAILED_HISTORY: u8 = 1;

    /// Runs at one time that are kept on a device, those that go on counted as
    /// one: their logs share the container's bound.
    pub fn kept_runs(&self) -> u32 {
        let past = self.successful_history.saturating_add(self.failed_history);
        u32::from(past.clamp(1, 2 * Self::MAX_HISTORY)) + 1
    }

    /// A job at these times, with Kubernetes' defaults.
    pub fn new(schedule: String, job: Job) -> Self {
        Self {
            schedule,
            time_zone: None,
            concurrency: Concurrency::Allow,
            starting_deadline_secs: None,
            suspend: false,
            successful_history: Self::SUCCESSFUL_HISTORY,
            failed_history: Self::FAILED_HISTORY,
            job,
        }
    }
}

/// A time zone. Its rule travels with it: a device has no database of zones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeZone {
    /// IANA's name: `Europe/Berlin`.
    pub name: String,
    /// As [`crate::zone`] reads it.
    pub rule: String,
}

/// What a CronJob does when it is due and the last one still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Concurrency {
    /// Both run.
    #[default]
    Allow,
    /// The new one waits for the old one's end, as long as it may be late.
    Forbid,
    /// The old one is stopped first.
    Replace,
}

/// How a new revision takes the place of the old one on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePolicy {
    /// In which order.
    pub strategy: Strategy,
    /// Seconds from its start within which a new revision has to be ready;
    /// otherwise the one before comes back.
    /// [`UpdatePolicy::DEFAULT_DEADLINE_SECS`] when absent.
    pub progress_deadline_secs: Option<u32>,
    /// Seconds that it has to stay ready to count as good.
    pub min_ready_secs: u32,
    /// Commit-confirmed: seconds from its start within which the device has to
    /// be heard by the hub, besides being ready; otherwise the one before
    /// comes back. Not asked for when absent.
    pub confirm_secs: Option<u32>,
    /// Longest time, in seconds, that the app may hold an update; 0 means that
    /// it may not.
    pub hold_limit_secs: u32,
}

impl UpdatePolicy {
    /// Kubernetes' default of a Deployment's `progressDeadlineSeconds`.
    pub const DEFAULT_DEADLINE_SECS: u32 = 600;
}

/// In which order a new revision takes the place of the old one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// Its images come first, then the old one stops, then the new one starts.
    #[default]
    DownloadThenStop,
    /// The old one stops at once, so that its memory and disk are free.
    Recreate,
    /// The new one starts beside the old one, which stops when the new one is
    /// ready.
    StartThenStop,
}

/// A name on the device's bridge that leads to the pods of all apps of the
/// namespace that declare it, each new connection to the next ready one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name in the app's namespace.
    pub name: AppName,
    /// Its ports; all ports, to the same one of the pod, when empty.
    pub ports: Vec<ServicePort>,
}

/// A port of a [`Service`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The service's, from 1.
    pub port: u16,
    /// The pod's, from 1.
    pub target_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What a pod may reach. Answers to what others began, and names, are always
/// allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// The first that fits decides; at most [`Egress::MAX_RULES`].
    pub rules: Vec<EgressRule>,
    /// When none fits.
    pub otherwise: Access,
    /// Most bytes in a second; more is dropped. From 1.
    pub bytes_per_second: Option<u64>,
}

impl Egress {
    /// Rules of one app.
    pub const MAX_RULES: usize = 64;
}

/// One rule of what a pod may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// An address and the length of its prefix; anywhere when absent.
    pub to: Option<(IpAddr, u8)>,
    /// Which ports, first and last; all ports of all protocols when absent.
    pub ports: Option<(Protocol, u16, u16)>,
    /// Whether it may.
    pub access: Access,
}

/// May or may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// May.
    Allow,
    /// May not.
    Deny,
}

/// What an app may ask the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grant {
    /// Read who it is, and the labels and facts of its device.
    ReadDevice,
    /// Hold an update of itself.
    HoldUpdates,
    /// Report values that the operator sees.
    ReportValues,
}
