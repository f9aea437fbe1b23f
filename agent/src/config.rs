//! What the agent is told: defaults, then the file, then the environment, then
//! the command line.

use crate::image::Policy;
use crate::machine::{Supply, UserPool};
use crate::network::{Pool, Prefix};
use serde::Deserialize;
use skerry_wire::DeviceId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the file is looked for.
pub const FILE: &str = "/etc/skerry/agent.yaml";
/// Longest file, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Least log kept in all: four files of the least size.
const MIN_LOG_BYTES: u64 = 256 * 1024;
/// Longest name of a resource, in bytes: as in Kubernetes.
const MAX_RESOURCE_NAME_BYTES: usize = 253 + 1 + 63;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {text}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        text: String,
    },
    /// A value cannot be used.
    #[error("{field}: {text}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What is wrong, and the remedy.
        text: String,
    },
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct File {
    data_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    cgroup_parent: Option<String>,
    name: Option<String>,
    join_token: Option<String>,
    keep_alive_secs: Option<u64>,
    log_max_bytes: Option<u64>,
    unused_images: Option<UnusedImages>,
    host_paths: Option<Vec<PathBuf>>,
    allow_privileged: Option<bool>,
    log_level: Option<String>,
    release_keys: Option<Vec<String>>,
    network_pool: Option<String>,
    user_namespaces: Option<UserIds>,
    reserved: Option<Reserved>,
    resources: Option<BTreeMap<String, Vec<String>>>,
    cdi_dirs: Option<Vec<PathBuf>>,
}

/// When images go that nobody needs, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct UnusedImages {
    high_percent: Option<u8>,
    low_percent: Option<u8>,
    max_age_days: Option<u32>,
}

/// The ids of user namespaces, as `/etc/subuid` has them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UserIds {
    first: u32,
    count: u32,
}

/// What is kept for system and agent, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Reserved {
    cpu_millis: Option<u32>,
    memory_bytes: Option<u64>,
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What must survive a power cut.
    pub data_dir: PathBuf,
    /// What must not.
    pub run_dir: PathBuf,
    /// Parent of all cgroups, relative to each hierarchy.
    pub cgroup_parent: String,
    /// The name wanted in the fleet; the host's own by default.
    pub name: Option<DeviceId>,
    /// Joins with it when the device has not joined.
    pub join_token: Option<String>,
    /// How long the line may be silent.
    pub keep_alive: Duration,
    /// Bytes of log kept for a container that says nothing else.
    pub log_max_bytes: u64,
    /// When images go that nobody needs.
    pub images: Policy,
    /// Host paths that apps may mount, with all below them; `None` is any.
    pub host_paths: Option<Vec<PathBuf>>,
    /// Ed25519 keys whose releases it may run as its own software, besides
    /// those that its hub had when it joined.
    pub release_keys: Vec<[u8; 32]>,
    /// Whether apps may be privileged or share namespaces of the host other
    /// than its network.
    pub allow_privileged: bool,
    /// Where the addresses of pods on bridges come from.
    pub network_pool: Prefix,
    /// Where the ids of user namespaces come from.
    pub users: UserPool,
    /// What of the machine apps may have.
    pub supply: Supply,
    /// What is logged.
    pub log_level: tracing::level_filters::LevelFilter,
}

/// What the command line and the environment say; goes before the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--data`
    pub data_dir: Option<PathBuf>,
    /// `--run`
    pub run_dir: Option<PathBuf>,
    /// `--cgroup`
    pub cgroup_parent: Option<String>,
    /// `--name`
    pub name: Option<String>,
    /// `--token` or `SKERRY_JOIN_TOKEN`
    pub join_token: Option<String>,
    /// `--log` or `SKERRY_LOG`
    pub log_level: Option<String>,
}

impl Config {
    /// Reads the file that `overrides` names, or the usual one if it is there.
    pub fn load(overrides: Overrides) -> Result<Self, ConfigError> {
        let file = match &overrides.file {
            Some(path) => read(path)?,
            None if Path::new(FILE).exists() => read(Path::new(FILE))?,
            None => File::default(),
        };
        let merged = File {
            data_dir: overrides.data_dir.or(file.data_dir),
            run_dir: overrides.run_dir.or(file.run_dir),
            cgroup_parent: overrides.cgroup_parent.or(file.cgroup_parent),
            name: overrides.name.or(file.name),
            join_token: overrides.join_token.or(file.join_token),
            log_level: overrides.log_level.or(file.log_level),
            keep_alive_secs: file.keep_alive_secs,
            log_max_bytes: file.log_max_bytes,
            unused_images: file.unused_images,
            host_paths: file.host_paths,
            release_keys: file.release_keys,
            allow_privileged: file.allow_privileged,
            network_pool: file.network_pool,
            user_namespaces: file.user_namespaces,
            reserved: file.reserved,
            resources: file.resources,
            cdi_dirs: file.cdi_dirs,
        };
        merged.try_into()
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    use std::io::Read;
    let error = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(error)?;
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(error)?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let file: Option<File> = serde_saphyr::from_str(text).map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        text: error.to_string(),
    })?;
    Ok(file.unwrap_or_default())
}

/// A key as 64 hexadecimal digits.
fn key_of(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    let text = text.trim().as_bytes();
    let digit = |b: u8| char::from(b).to_digit(16);
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.chunks(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(key)
}

/// A range as `10.209.0.0/16` that the networks of pods can come from.
fn pool_of(text: &str) -> Result<Prefix, String> {
    let range = text.split_once('/').and_then(|(address, len)| {
        let range = Prefix::new(address.trim().parse().ok()?, len.trim().parse().ok()?)?;
        Some(range.network())
    });
    let range = range.ok_or_else(|| format!("'{text}' must be a range such as 10.209.0.0/16"))?;
    Pool::new(range, "").map_err(|error| error.to_string())?;
    Ok(range)
}

/// When images go that nobody needs.
fn images(given: UnusedImages) -> Result<Policy, ConfigError> {
    let usual = Policy::default();
    let wrong = |text: String| ConfigError::Value {
        field: "unusedImages",
        text,
    };
    let high_percent = given.high_percent.unwrap_or(usual.high_percent);
    let low_percent = given
        .low_percent
        .unwrap_or(usual.low_percent.min(high_percent));
    if high_percent > 100 || low_percent > high_percent {
        return Err(wrong(format!(
            "highPercent {high_percent} must be 100 at most, lowPercent {low_percent} not above it"
        )));
    }
    let max_age = match given.max_age_days {
        None => usual.max_age,
        Some(0) => return Err(wrong("maxAgeDays must be at least 1".into())),
        Some(days) => Duration::from_secs(u64::from(days) * 24 * 3_600),
    };
    Ok(Policy {
        high_percent,
        low_percent,
        max_age,
    })
}

/// What apps may have of the machine.
fn supply(
    reserved: Option<Reserved>,
    resources: Option<BTreeMap<String, Vec<String>>>,
    cdi_dirs: Option<Vec<PathBuf>>,
) -> Result<Supply, ConfigError> {
    let usual = Supply::default();
    let reserved = reserved.unwrap_or_default();
    let resources = resources.unwrap_or_default();
    for (name, devices) in &resources {
        let wrong = |text: String| ConfigError::Value {
            field: "resources",
            text,
        };
        if !name.contains('/') || name.len() > MAX_RESOURCE_NAME_BYTES {
            let text = format!("'{name}' must have a domain in front, as in example.com/camera");
            return Err(wrong(text));
        }
        let is_device = |text: &&String| {
            text.starts_with('/') || text.starts_with("usb:") || text.contains('=')
        };
        if let Some(device) = devices.iter().find(|text| !is_device(text)) {
            let text = format!(
                "'{device}' of {name} is no device: write its path, usb:0403:6001, or vendor.com/gpu=0"
            );
            return Err(wrong(text));
        }
    }
    Ok(Supply {
        reserved_cpu_millis: reserved.cpu_millis.unwrap_or(usual.reserved_cpu_millis),
        reserved_memory_bytes: reserved.memory_bytes,
        resources,
        cdi_dirs: cdi_dirs.unwrap_or(usual.cdi_dirs),
    })
}

fn absolute(field: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path).map_err(|error| ConfigError::Value {
        field,
        text: format!("{} is no path: {error}", path.display()),
    })
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        let value = |field, text: String| ConfigError::Value { field, text };
        let name = match file.name {
            Some(name) => Some(DeviceId::new(name).map_err(|e| value("name", e.to_string()))?),
            None => None,
        };
        let cgroup_parent = file.cgroup_parent.unwrap_or_else(|| "skerry".into());
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.chars().all(plain);
        if !cgroup_parent.split('/').all(part) {
            let text = format!("'{cgroup_parent}' must be a relative path such as skerry/agent");
            return Err(value("cgroupParent", text));
        }
        let keep_alive_secs = file.keep_alive_secs.unwrap_or(15 * 60);
        if !(10..=65_535).contains(&keep_alive_secs) {
            let text = format!("{keep_alive_secs} must be 10 to 65535 seconds");
            return Err(value("keepAliveSecs", text));
        }
        let log_max_bytes = file.log_max_bytes.unwrap_or(1 << 20);
        if log_max_bytes < MIN_LOG_BYTES {
            let text = format!("{log_max_bytes} must be at least {MIN_LOG_BYTES} bytes");
            return Err(value("logMaxBytes", text));
        }
        let host_paths = file.host_paths;
        if let Some(path) = host_paths.iter().flatten().find(|p| !p.is_absolute()) {
            let text = format!("{} must be an absolute path", path.display());
            return Err(value("hostPaths", text));
        }
        let keys = file.release_keys.unwrap_or_default();
        let keys: Option<Vec<[u8; 32]>> = keys.iter().map(|key| key_of(key)).collect();
        let release_keys = keys.ok_or_else(|| {
            let text = "each must be the 64 hexadecimal digits that 'skerry release keygen' prints";
            value("releaseKeys", text.into())
        })?;
        let users = match &file.user_namespaces {
            Some(ids) => {
                UserPool::new(ids.first, ids.count).map_err(|text| value("userNamespaces", text))?
            }
            None => UserPool::default(),
        };
        let network_pool = match &file.network_pool {
            None => Pool::DEFAULT_RANGE,
            Some(text) => pool_of(text).map_err(|text| value("networkPool", text))?,
        };
        let level = file.log_level.unwrap_or_else(|| "info".into());
        let log_level = level.parse().map_err(|_| {
            value(
                "logLevel",
                format!("'{level}' must be error, warn, info, debug or trace"),
            )
        })?;
        let path = |given: Option<PathBuf>, usual: &str| given.unwrap_or_else(|| usual.into());
        Ok(Config {
            data_dir: absolute("dataDir", path(file.data_dir, "/var/lib/skerry-agent"))?,
            run_dir: absolute("runDir", path(file.run_dir, "/run/skerry-agent"))?,
            cgroup_parent,
            name,
            join_token: file.join_token.filter(|t| !t.trim().is_empty()),
            keep_alive: Duration::from_secs(keep_alive_secs),
            log_max_bytes,
            images: images(file.unused_images.unwrap_or_default())?,
            host_paths,
            release_keys,
            allow_privileged: file.allow_privileged.unwrap_or(false),
            network_pool,
            users,
            supply: supply(file.reserved, file.resources, file.cdi_dirs)?,
            log_level,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_file_says_the_defaults() {
        let text = include_str!("../../configs/agent.yaml");
        let file = parse(Path::new("agent.yaml"), text).unwrap();
        let defaults = Config::try_from(File::default()).unwrap();
        assert_eq!(Config::try_from(file).unwrap(), defaults);
        // And with its comments taken away, every field is known.
        let bare: String = text
            .lines()
            .map(|l| {
                l.strip_prefix("#")
                    .filter(|l| !l.starts_with(' '))
                    .unwrap_or("")
            })
            .map(|l| format!("{l}\n"))
            .collect();
        let file = parse(Path::new("agent.yaml"), &bare).unwrap();
        let config = Config::try_from(file).unwrap();
        assert_eq!(config.data_dir, defaults.data_dir);
        assert_eq!(config.keep_alive, defaults.keep_alive);
        assert_eq!(config.host_paths, Some(vec!["/srv".into()]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let parse = |text: &str| parse(Path::new("f"), text).and_then(Config::try_from);
        for (text, expected) in [
            ("nmae: x", "nmae"),
            ("name: Not A Name", "device 'Not A Name'"),
            ("keepAliveSecs: 5", "10 to 65535"),
            ("cgroupParent: ../x", "relative path"),
            ("logLevel: loud", "logLevel"),
            ("unusedImages: {highPercent: 101}", "100 at most"),
            (
                "unusedImages: {highPercent: 50, lowPercent: 60}",
                "not above it",
            ),
            ("unusedImages: {maxAgeDays: 0}", "at least 1"),
            ("hostPaths: [srv]", "absolute"),
            ("releaseKeys: [abc]", "64 hexadecimal"),
            ("networkPool: 10.209.0.0", "10.209.0.0/16"),
            ("networkPool: 10.209.0.0/24", "/21 or larger"),
            ("resources: {camera: [/dev/video0]}", "example.com/camera"),
            ("resources: {a.b/c: [video0]}", "is no device"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
