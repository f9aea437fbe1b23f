//! Where a broker is: `mqtt://host`, `mqtts://host`, `unix:///path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// IANA's port for MQTT without TLS.
pub const PLAIN_PORT: u16 = 1883;
/// IANA's port for MQTT with TLS.
pub const TLS_PORT: u16 = 8883;
/// The longest address taken from a config or a token, in bytes.
const MAX_URL_BYTES: usize = 1024;

/// Where a broker is, and who to be there.
///
/// Its text form is `mqtt://[user:password@]host[:port]`,
/// `mqtts://[user:password@]host[:port]` or `unix:///path`. An IPv6 address
/// stands in brackets; in user and password, `%XX` stands for any byte.
/// `Display` leaves the password out, so that it is safe in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// The way there.
    pub address: BrokerAddress,
    /// User and password, if the text had them.
    pub login: Option<Login>,
}

/// The way to a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    /// TCP without TLS.
    Plain {
        /// A DNS name or an IP address, without brackets.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// TCP with TLS.
    Tls {
        /// A DNS name or an IP address, without brackets.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// A Unix socket on this machine.
    Unix {
        /// The socket's absolute path.
        path: PathBuf,
    },
}

/// User name and password for a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The MQTT user name.
    pub username: String,
    /// The MQTT password.
    pub password: String,
}

/// Why a text is no broker address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum BrokerUrlError {
    #[error("broker address is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    #[error(
        "broker address {0:?} does not start with mqtt://, mqtts:// or unix://; write it like mqtts://hub.example:8883"
    )]
    Scheme(String),
    #[error("broker address {0:?} has no host; write it like mqtts://hub.example:8883")]
    NoHost(String),
    #[error("broker address {url:?}: {host:?} is neither a host name nor an IP address")]
    Host { url: String, host: String },
    #[error("broker address {url:?}: {port:?} is not a port between 1 and 65535")]
    Port { url: String, port: String },
    #[error("broker address: user and password before the @ must be written user:password")]
    Login,
    #[error("broker address {0:?} has something after the host; MQTT has no path, so leave it out")]
    Path(String),
    #[error("broker address {0:?}: the path of a Unix socket must start with /")]
    RelativeSocket(String),
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, BrokerUrlError> {
        if text.len() > MAX_URL_BYTES {
            return Err(BrokerUrlError::TooLong);
        }
        let shown = || hide_login(text);
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(BrokerUrlError::Scheme(shown()));
        };
        let default_port = match scheme {
            "mqtt" => PLAIN_PORT,
            "mqtts" => TLS_PORT,
            "unix" => {
                if !rest.starts_with('/') || rest.contains('\0') {
                    return Err(BrokerUrlError::RelativeSocket(shown()));
                }
                return Ok(Self {
                    address: BrokerAddress::Unix { path: rest.into() },
                    login: None,
                });
            }
            _ => return Err(BrokerUrlError::Scheme(shown())),
        };
        let (login, place) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((login, place)) => (Some(parse_login(login)?), place),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        if place.contains(['/', '?', '#']) {
            return Err(BrokerUrlError::Path(shown()));
        }
        let (host, port) = split_port(place).ok_or_else(|| BrokerUrlError::Host {
            url: shown(),
            host: place.into(),
        })?;
        if host.is_empty() {
            return Err(BrokerUrlError::NoHost(shown()));
        }
        if !is_host(host) {
            return Err(BrokerUrlError::Host {
                url: shown(),
                host: host.into(),
            });
        }
        let port = match port {
            None => default_port,
            Some(digits) => match digits.parse::<u16>() {
                Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => port,
                _ => {
                    return Err(BrokerUrlError::Port {
                        url: shown(),
                        port: digits.into(),
                    });
                }
            },
        };
        let host = host.to_owned();
        let address = if scheme == "mqtts" {
            BrokerAddress::Tls { host, port }
        } else {
            BrokerAddress::Plain { host, port }
        };
        Ok(Self { address, login })
    }
}

/// Splits `host:port`, `[v6]:port`, or either without its port. A bare IPv6
/// address without brackets is taken as a whole.
fn split_port(place: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return None;
        }
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if after.is_empty() => Some((host, None)),
            None => None,
        };
    }
    if place.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((place, None));
    }
    match place.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((place, None)),
    }
}

/// Whether this is an IP address or looks like a DNS name (RFC 1123, at most
/// 253 bytes; underscores are taken, as some private names have them).
fn is_host(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn parse_login(text: &str) -> Result<Login, BrokerUrlError> {
    let (user, password) = text.split_once(':').ok_or(BrokerUrlError::Login)?;
    let username = unescape(user).ok_or(BrokerUrlError::Login)?;
    let password = unescape(password).ok_or(BrokerUrlError::Login)?;
    if username.is_empty() {
        return Err(BrokerUrlError::Login);
    }
    Ok(Login { username, password })
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

/// The text without what stands between `://` and the last `@`.
fn hide_login(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, rest)), Some((_, place))) if rest.contains('@') => {
            format!("{scheme}://…@{place}")
        }
        _ => text.to_owned(),
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Plain { host, port } => ("mqtt", host, port),
            Self::Tls { host, port } => ("mqtts", host, port),
            Self::Unix { path } => return write!(f, "unix://{}", path.display()),
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}, …)", self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BrokerUrl, BrokerUrlError> {
        text.parse()
    }

    #[test]
    fn good_ones_and_their_text() {
        for (text, shown) in [
            ("mqtt://hub", "mqtt://hub:1883"),
            ("mqtts://hub.example", "mqtts://hub.example:8883"),
            ("mqtts://hub.example/", "mqtts://hub.example:8883"),
            ("mqtt://10.0.0.1:99", "mqtt://10.0.0.1:99"),
            ("mqtt://[::1]:5", "mqtt://[::1]:5"),
            ("mqtts://[fe80::1]", "mqtts://[fe80::1]:8883"),
            ("mqtt://::1", "mqtt://[::1]:1883"),
            ("unix:///run/skerry/mqtt", "unix:///run/skerry/mqtt"),
            ("mqtt://me:se%40cret@hub", "mqtt://hub:1883"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(parse(shown).unwrap().address, url.address);
        }
    }

    #[test]
    fn login_is_unescaped_and_never_shown() {
        let url = parse("mqtts://me%3a:p%40ss:w@hub").unwrap();
        let login = url.login.clone().unwrap();
        assert_eq!(
            (login.username.as_str(), login.password.as_str()),
            ("me:", "p@ss:w")
        );
        assert!(!format!("{url} {url:?} {login:?}").contains("ss:w"));
    }

    #[test]
    fn bad_ones_say_why() {
        for text in [
            "",
            "hub",
            "http://hub",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://hub:0",
            "mqtt://hub:65536",
            "mqtt://hub:+5",
            "mqtt://hub:1/x",
            "mqtt://a b",
            "mqtt://-x",
            "unix://run",
            "mqtt://[::1",
            "mqtt://[hub]:1",
            "mqtt://user@hub",
            "mqtt://:p@hub",
            "mqtt://u:%zz@hub",
            "mqtt://hub?x",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
        let error = parse("mqtt://me:hunter2@hub:x").unwrap_err().to_string();
        assert!(error.contains("\"x\" is not a port"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert_eq!(
            parse(&format!("mqtt://{}", "a".repeat(2000))),
            Err(BrokerUrlError::TooLong)
        );
    }
}
