//! Words that many commands share.

use clap::{Args, ValueEnum};

/// How devices get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Approve {
    /// At once
    Auto,
    /// They wait for skerry approve
    Manual,
}

/// What can be shown and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Machines with an agent.
    Devices,
    /// What runs on them.
    Apps,
    /// What runs to its end.
    Jobs,
    /// What does so at certain times.
    CronJobs,
    /// Each process group, one by one.
    Containers,
    /// What apps are made from.
    Images,
    /// What happened.
    Events,
    /// What lets devices join.
    Tokens,
    /// Small files for apps.
    Configs,
    /// The same, shown to nobody.
    Secrets,
    /// What devices themselves can run.
    Releases,
    /// How that comes to them.
    Rollouts,
}

impl Resource {
    /// Every name that people use for it, the usual one first.
    pub(in crate::cli) const NAMES: [(Resource, &[&str]); 12] = [
        (
            Resource::Devices,
            &["devices", "device", "dev", "devs", "nodes", "node", "no"],
        ),
        (Resource::Apps, &["apps", "app", "deployments", "deploy"]),
        (Resource::Jobs, &["jobs", "job"]),
        (Resource::CronJobs, &["cronjobs", "cronjob", "cj"]),
        (
            Resource::Containers,
            &["containers", "container", "pods", "pod", "po", "ps"],
        ),
        (Resource::Images, &["images", "image", "img"]),
        (Resource::Events, &["events", "event", "ev"]),
        (Resource::Tokens, &["tokens", "token"]),
        (
            Resource::Configs,
            &["configs", "config", "configmaps", "configmap", "cm"],
        ),
        (Resource::Secrets, &["secrets", "secret"]),
        (Resource::Releases, &["releases", "release"]),
        (Resource::Rollouts, &["rollouts", "rollout"]),
    ];

    /// The resource that people mean by `text`.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_lowercase();
        for (resource, names) in Self::NAMES {
            if names.contains(&lower.as_str()) {
                return Ok(resource);
            }
        }
        Err("use devices, apps, jobs, cronjobs, containers, images, events, tokens, configs, secrets, releases or rollouts".into())
    }

    /// `device`, as in `device/kiosk-7`.
    pub(in crate::cli) fn singular(self) -> &'static str {
        match self {
            Resource::Devices => "device",
            Resource::Apps => "app",
            Resource::Jobs => "job",
            Resource::CronJobs => "cronjob",
            Resource::Containers => "container",
            Resource::Images => "image",
            Resource::Events => "event",
            Resource::Tokens => "token",
            Resource::Configs => "config",
            Resource::Secrets => "secret",
            Resource::Releases => "release",
            Resource::Rollouts => "rollout",
        }
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// As the API answers
    Json,
    /// Apps as manifests, anything else as the API answers
    Yaml,
    /// device/NAME, one a line
    Name,
}

/// Where names are looked up.
#[derive(Debug, Clone, Default, Args)]
pub struct InNamespace {
    /// The app's namespace
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        env = "SKERRY_NAMESPACE",
        default_value = "default"
    )]
    pub namespace: String,
}

/// How to print what is no list of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    /// For people
    Text,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
}

/// Which shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}
