//! What an operator can set about a hub: by flags or in `hub.yaml`.

use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where the hub keeps everything.
const DEFAULT_DATA: &str = "/var/lib/skerry";
/// The API's port.
const DEFAULT_API_PORT: u16 = 7420;

/// Settings that were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubOptions {
    /// Where the hub keeps everything.
    pub data: PathBuf,
    /// Where the API listens. Off loopback it speaks TLS.
    pub api: SocketAddr,
    /// Where the embedded broker listens, with TLS.
    pub listen: SocketAddr,
    /// Another broker in place of the embedded one.
    pub broker: Option<String>,
    /// What devices dial, when it is not what the hub dials or advertises.
    pub device_broker: Option<String>,
    /// `HOST` or `HOST:PORT` that devices reach the hub by.
    pub advertise: Option<String>,
    /// Devices wait in the lobby unless their token says otherwise.
    pub manual_approval: bool,
    /// The fleet's name; only counts at the first start.
    pub fleet: Option<String>,
    /// Credentials for registries, in the form of Docker's `config.json`.
    pub registry_auth: Option<PathBuf>,
    /// Ed25519 keys whose releases of agents and systems this hub takes, and
    /// devices pin when they join.
    pub release_keys: Vec<[u8; 32]>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            data: DEFAULT_DATA.into(),
            api: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DEFAULT_API_PORT),
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), skerry_link::TLS_PORT),
            broker: None,
            device_broker: None,
            advertise: None,
            manual_approval: false,
            fleet: None,
            registry_auth: None,
            release_keys: Vec::new(),
        }
    }
}

/// Why settings make no sense.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The file.
    #[error("cannot read the settings: {0}")]
    Yaml(String),
    /// `approve`.
    #[error("approve is '{0}': write auto or manual")]
    Approve(String),
    /// `releaseKeys`.
    #[error(
        "'{0}' is no release key: write the 64 hexadecimal digits that 'skerry release keygen' printed"
    )]
    ReleaseKey(String),
    /// `advertise`.
    #[error("'{0}' is no HOST or HOST:PORT to advertise: write hub.example or hub.example:8883")]
    Advertise(String),
}

/// `hub.yaml` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Raw {
    data: Option<PathBuf>,
    api: Option<SocketAddr>,
    listen: Option<SocketAddr>,
    broker: Option<String>,
    device_broker: Option<String>,
    advertise: Option<String>,
    approve: Option<String>,
    fleet: Option<String>,
    registry_auth: Option<PathBuf>,
    release_keys: Vec<String>,
}

impl HubOptions {
    /// Reads `hub.yaml`; what it leaves out has its default.
    pub fn from_yaml(text: &str) -> Result<Self, OptionsError> {
        let raw: Raw =
            serde_saphyr::from_str(text).map_err(|error| OptionsError::Yaml(error.to_string()))?;
        Self::try_from(raw)
    }

    /// The names and addresses that the server certificate is for.
    pub fn server_names(&self) -> Vec<String> {
        let mut names = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
        if let Some(advertise) = &self.advertise {
            let host = host_of(advertise);
            names.push(host.trim_start_matches('[').trim_end_matches(']').into());
        }
        for address in [self.api, self.listen] {
            if !address.ip().is_unspecified() {
                names.push(address.ip().to_string());
            }
        }
        if let Some(host) = host_name() {
            names.push(host);
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name: &String| seen.insert(name.clone()));
        names
    }

    /// What devices dial to reach the embedded broker on this port.
    pub fn device_broker(&self, port: u16) -> Result<String, OptionsError> {
        if let Some(url) = &self.device_broker {
            return Ok(url.clone());
        }
        let host = match &self.advertise {
            Some(advertise) if has_port(advertise) => {
                return Ok(format!("mqtts://{advertise}"));
            }
            Some(host) => host.clone(),
            None if self.listen.ip().is_unspecified() => {
                host_name().unwrap_or_else(|| "localhost".into())
            }
            None => match self.listen.ip() {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            },
        };
        Ok(format!("mqtts://{host}:{port}"))
    }
}

impl TryFrom<Raw> for HubOptions {
    type Error = OptionsError;

    fn try_from(raw: Raw) -> Result<Self, OptionsError> {
        let base = Self::default();
        if let Some(advertise) = &raw.advertise {
            check_advertise(advertise)?;
        }
        Ok(Self {
            data: raw.data.unwrap_or(base.data),
            api: raw.api.unwrap_or(base.api),
            listen: raw.listen.unwrap_or(base.listen),
            broker: raw.broker,
            device_broker: raw.device_broker,
            advertise: raw.advertise,
            manual_approval: match raw.approve.as_deref() {
                None | Some("auto") => false,
                Some("manual") => true,
                Some(other) => return Err(OptionsError::Approve(other.into())),
            },
            fleet: raw.fleet,
            registry_auth: raw.registry_auth,
            release_keys: raw
                .release_keys
                .iter()
                .map(|key| release_key(key))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// A release key as 64 hexadecimal digits.
pub fn release_key(text: &str) -> Result<[u8; 32], OptionsError> {
    crate::release::parse_key(text).ok_or_else(|| OptionsError::ReleaseKey(text.into()))
}

/// Whether this can be dialled at all.
pub fn check_advertise(text: &str) -> Result<(), OptionsError> {
    let url: Result<skerry_link::BrokerUrl, _> = format!("mqtts://{text}").parse();
    match url {
        Ok(url) if url.login.is_none() => Ok(()),
        _ => Err(OptionsError::Advertise(text.into())),
    }
}

fn has_port(advertise: &str) -> bool {
    match advertise.strip_prefix('[') {
        Some(rest) => rest.contains("]:"),
        None => advertise.contains(':'),
    }
}

/// The host of `HOST` or `HOST:PORT`.
pub fn host_of(advertise: &str) -> &str {
    if !has_port(advertise) {
        return advertise;
    }
    advertise
        .rsplit_once(':')
        .map_or(advertise, |(host, _)| host)
}

/// The machine's own name, when it is one that certificates can have.
fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (!name.is_empty() && name.bytes().all(fine)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_defaults_are_the_defaults() {
        let text = include_str!("../../configs/hub.yaml");
        assert_eq!(HubOptions::from_yaml(text).unwrap(), HubOptions::default());
        // Each comment that shows a setting is one that can be set.
        let shown: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("#= "))
            .map(|line| format!("{line}\n"))
            .collect();
        let all = HubOptions::from_yaml(&shown).unwrap();
        assert_eq!(all.fleet.as_deref(), Some("acme"));
        assert!(all.manual_approval);
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(HubOptions::from_yaml("lisen: 0.0.0.0:1").is_err());
        assert!(HubOptions::from_yaml("approve: maybe").is_err());
        assert!(HubOptions::from_yaml("advertise: mqtt://x").is_err());
    }

    #[test]
    fn devices_dial_what_is_advertised() {
        let with = |advertise: &str| HubOptions {
            advertise: Some(advertise.into()),
            ..HubOptions::default()
        };
        for (advertise, url, host) in [
            ("hub.example", "mqtts://hub.example:1", "hub.example"),
            ("hub.example:99", "mqtts://hub.example:99", "hub.example"),
            ("[::1]", "mqtts://[::1]:1", "[::1]"),
            ("[::1]:99", "mqtts://[::1]:99", "[::1]"),
        ] {
            assert_eq!(with(advertise).device_broker(1).unwrap(), url);
            assert_eq!(host_of(advertise), host);
        }
    }
}
