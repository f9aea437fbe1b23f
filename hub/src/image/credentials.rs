//! Who the hub is to registries: Docker's `config.json`.

use super::reference::DEFAULT_REGISTRY;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// Why a config file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Not JSON of that shape.
    #[error("the registry credentials are not a Docker config.json")]
    Json(#[from] serde_json::Error),
    /// An entry that cannot be read.
    #[error("the registry credentials for {0} are not base64 of user:password")]
    Auth(String),
    /// A token of a kind that is not supported.
    #[error(
        "the registry credentials for {0} are an identity token, which is not supported; make an access token and log in with it as a password"
    )]
    IdentityToken(String),
}

/// A user and a password or access token. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password or access token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, ...)", self.user)
    }
}

impl Login {
    /// The value of an `Authorization` header (RFC 7617).
    pub fn basic(&self) -> String {
        format!(
            "Basic {}",
            STANDARD.encode(format!("{}:{}", self.user, self.password))
        )
    }
}

/// Logins by registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, Login>);

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    auths: BTreeMap<String, RawAuth>,
}

#[derive(Deserialize)]
struct RawAuth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

impl Credentials {
    /// Reads `auths` of a `config.json`. Credential helpers are programs of a
    /// desktop and are ignored.
    pub fn from_docker_config(text: &str) -> Result<Self, CredentialsError> {
        let raw: RawConfig = serde_json::from_str(text)?;
        let mut out = Self::default();
        for (address, auth) in raw.auths {
            if !auth.identitytoken.is_empty() {
                return Err(CredentialsError::IdentityToken(address));
            }
            let (user, password) = if auth.auth.is_empty() {
                (auth.username, auth.password)
            } else {
                let wrong = || CredentialsError::Auth(address.clone());
                let bytes = STANDARD.decode(auth.auth.trim()).map_err(|_| wrong())?;
                let text = String::from_utf8(bytes).map_err(|_| wrong())?;
                let (user, password) = text.split_once(':').ok_or_else(wrong)?;
                (user.to_owned(), password.trim_end_matches('\0').to_owned())
            };
            if !user.is_empty() {
                out.set(&address, Login { user, password });
            }
        }
        Ok(out)
    }

    /// Sets the login of a registry (`registry.example:5000`).
    pub fn set(&mut self, registry: &str, login: Login) {
        self.0.insert(host_of(registry), login);
    }

    /// The login of a registry.
    pub fn get(&self, registry: &str) -> Option<&Login> {
        self.0.get(&host_of(registry))
    }
}

/// Entries are hosts or, from older tools, addresses.
fn host_of(address: &str) -> String {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = address
        .split('/')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_login_writes() {
        let text = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"YTpiOmM="},
            "r.example:5000":{"username":"u","password":"p"},
            "empty.example":{}},
            "credsStore":"desktop"}"#;
        let credentials = Credentials::from_docker_config(text).unwrap();
        let login = credentials.get("docker.io").unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("a", "b:c"));
        assert_eq!(login.basic(), "Basic YTpiOmM=");
        assert!(!format!("{credentials:?}").contains("b:c"));
        assert_eq!(credentials.get("R.example:5000").unwrap().user, "u");
        assert!(credentials.get("empty.example").is_none());
        assert!(Credentials::from_docker_config("7").is_err());
        let broken = r#"{"auths":{"r":{"auth":"%%%"}}}"#;
        assert!(matches!(
            Credentials::from_docker_config(broken),
            Err(CredentialsError::Auth(_))
        ));
    }
}
