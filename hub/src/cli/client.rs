//! The hub's HTTP API, as a caller sees it.

use super::args::Connection;
use super::error::CliError;
use super::tls;
use crate::api::types::{ApiError, ErrorBody, List, Operator};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{Method, Request, Response, Uri};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body, SendBody};

/// Where a hub keeps its data when nobody says otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/skerry";
const DEFAULT_URL: &str = "http://127.0.0.1:7420";
/// A hub that takes longer to take a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer read into memory: 50,000 devices of 4 KiB.
const MAX_ANSWER_BYTES: u64 = 256 * 1024 * 1024;
/// Longest error answer read.
const MAX_ERROR_BYTES: u64 = 1024 * 1024;

pub(super) fn default_data_dir() -> PathBuf {
    PathBuf::from(DEFAULT_DATA_DIR)
}

/// Which hub, and what opens it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub url: Uri,
    pub token: String,
    pub ca_pin: Option<[u8; 32]>,
}

impl Target {
    /// Flags and environment first, then what a hub on this machine wrote.
    pub fn find(connection: &Connection) -> Result<Self, CliError> {
        let known = match (&connection.hub, &connection.token) {
            (Some(_), Some(_)) => None,
            _ => Some(find_operator(connection.data.as_deref())?),
        };
        let operator = known.and_then(|found| match found {
            Found::Operator(operator) => Some(operator),
            Found::Nowhere => None,
        });
        let url_text = match (&connection.hub, &operator) {
            (Some(url), _) => url.clone(),
            (None, Some(operator)) => operator.url.clone(),
            (None, None) => DEFAULT_URL.to_string(),
        };
        let url = parse_url(&url_text)?;
        // A token is for the hub that wrote it: it never goes to another one.
        let ours = operator.filter(|o| parse_url(&o.url).is_ok_and(|known| known == url));
        let token = match (&connection.token, &ours) {
            (Some(token), _) => token.clone(),
            (None, Some(operator)) => operator.token.clone(),
            (None, None) => {
                return Err(CliError::failed(
                    format!("no token for the hub at {}", shown(&url)),
                    "start it with 'skerry hub' on this machine, give --data with its directory, or copy its operator.json to ~/.config/skerry/",
                ));
            }
        };
        let pin_text = connection
            .ca_pin
            .clone()
            .or_else(|| ours.map(|o| o.ca_pin))
            .filter(|pin| !pin.is_empty());
        let ca_pin = match pin_text {
            Some(text) => Some(parse_pin(&text)?),
            None => None,
        };
        if url.scheme_str() == Some("https") && ca_pin.is_none() {
            return Err(CliError::failed(
                format!("no pin of the CA of {}", shown(&url)),
                "give --ca-pin with the ca_pin of the hub's operator.json",
            ));
        }
        Ok(Self { url, token, ca_pin })
    }

    /// Host and port to dial.
    pub fn address(&self) -> (String, u16) {
        let host = self.url.host().unwrap_or("127.0.0.1");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let default = if self.is_https() { 443 } else { 80 };
        (bare.into(), self.url.port_u16().unwrap_or(default))
    }

    pub fn is_https(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    /// The address as people write it.
    pub fn shown(&self) -> String {
        shown(&self.url)
    }
}

fn shown(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_string()
}

fn parse_url(text: &str) -> Result<Uri, CliError> {
    let wrong = || {
        CliError::Usage(format!(
            "'{text}' is not a hub's address; write it as in http://127.0.0.1:7420"
        ))
    };
    let full = match text.contains("://") {
        true => text.to_string(),
        false => format!("http://{text}"),
    };
    let url: Uri = full.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let scheme_ok = matches!(url.scheme_str(), Some("http" | "https"));
    let path_ok = matches!(url.path(), "" | "/") && url.query().is_none();
    if scheme_ok && path_ok && url.host().is_some_and(|h| !h.is_empty()) {
        Ok(url)
    } else {
        Err(wrong())
    }
}

fn parse_pin(text: &str) -> Result<[u8; 32], CliError> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let digest: Result<skerry_wire::Digest, _> = format!("sha256:{hex}").parse();
    match digest {
        Ok(digest) => Ok(*digest.as_bytes()),
        Err(_) => Err(CliError::Usage(
            "--ca-pin must be the 64 hexadecimal digits of ca_pin in the hub's operator.json"
                .into(),
        )),
    }
}

enum Found {
    Operator(Operator),
    Nowhere,
}

fn find_operator(data: Option<&Path>) -> Result<Found, CliError> {
    if let Some(dir) = data {
        let path = dir.join("operator.json");
        return match read_operator(&path)? {
            Some(operator) => Ok(Found::Operator(operator)),
            None => Err(CliError::failed(
                format!("there is no {}", path.display()),
                "give --data with the directory of a hub that has been started once",
            )),
        };
    }
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let own = config.map(|dir| dir.join("skerry"));
    for dir in own.into_iter().chain([default_data_dir()]) {
        if let Some(operator) = read_operator(&dir.join("operator.json"))? {
            return Ok(Found::Operator(operator));
        }
    }
    Ok(Found::Nowhere)
}

fn read_operator(path: &Path) -> Result<Option<Operator>, CliError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(CliError::failed(
                format!("you may not read {}", path.display()),
                "run this as root, or let root copy it to ~/.config/skerry/operator.json for you",
            ));
        }
        Err(error) => return Err(CliError::io(format!("read {}", path.display()), error)),
    };
    match serde_json::from_str(&text) {
        Ok(operator) => Ok(Some(operator)),
        Err(error) => Err(CliError::failed(
            format!("{} is damaged: {error}", path.display()),
            "restart the hub, which writes it anew",
        )),
    }
}

/// A hub that is spoken to. Cloning shares the connections.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    pub target: Arc<Target>,
    pub tls: Option<Arc<ClientConfig>>,
}

impl Client {
    /// Nothing is sent yet.
    pub fn new(target: Target) -> Result<Self, CliError> {
        Self::with_timeout(target, CONNECT_TIMEOUT, None)
    }

    /// A client whose every call ends after `timeout`.
    pub fn impatient(target: Target, timeout: Duration) -> Result<Self, CliError> {
        Self::with_timeout(target, timeout, Some(timeout))
    }

    fn with_timeout(
        target: Target,
        connect: Duration,
        whole: Option<Duration>,
    ) -> Result<Self, CliError> {
        let tls = target.ca_pin.map(tls::config);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(connect))
            .timeout_global(whole)
            .user_agent(concat!("skerry/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = ().chain(TcpConnector::default()).chain(tls::PinnedConnector(tls.clone()));
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        Ok(Self {
            agent,
            target: Arc::new(target),
            tls,
        })
    }

    /// Gets one thing.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.read(self.send(Method::GET, path, SendBody::none(), None)?)
    }

    /// Gets a list.
    pub fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, CliError> {
        Ok(self.get::<List<T>>(path)?.items)
    }

    /// Sends JSON and reads the answer.
    pub fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliError> {
        self.read(self.send_json(Method::POST, path, body)?)
    }

    /// Sends JSON; the answer's content does not matter.
    pub fn change<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<(), CliError> {
        self.send_json(method, path, body).map(drop)
    }

    /// Deletes one thing.
    pub fn delete(&self, path: &str) -> Result<(), CliError> {
        self.send(Method::DELETE, path, SendBody::none(), None)
            .map(drop)
    }

    /// Gets a stream of bytes, for as long as it goes.
    pub fn stream(&self, path: &str) -> Result<Box<dyn Read + Send>, CliError> {
        let response = self.send(Method::GET, path, SendBody::none(), None)?;
        Ok(Box::new(response.into_body().into_reader()))
    }

    /// Asks for a stream of bytes by POST.
    pub fn post_for_stream(&self, path: &str) -> Result<Box<dyn Read + Send>, CliError> {
        let response = self.send_json(Method::POST, path, &serde_json::json!({}))?;
        Ok(Box::new(response.into_body().into_reader()))
    }

    /// Sends a stream of bytes, of a length that is known or not.
    pub fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        reader: &mut dyn Read,
        length: Option<u64>,
    ) -> Result<T, CliError> {
        let body = SendBody::from_reader(reader);
        let response = self.send(
            Method::POST,
            path,
            body,
            Some(("application/x-tar", length)),
        )?;
        self.read(response)
    }

    /// Puts a stream of bytes of a length that is not known.
    pub fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        reader: &mut dyn Read,
    ) -> Result<T, CliError> {
        let body = SendBody::from_reader(reader);
        let content = Some(("application/x-tar", None));
        self.read(self.send(Method::PUT, path, body, content)?)
    }

    fn send_json<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<Response<Body>, CliError> {
        let bytes = serde_json::to_vec(body).map_err(|e| self.not_understood(e))?;
        let length = bytes.len() as u64;
        let body = SendBody::from_owned_reader(io::Cursor::new(bytes));
        self.send(method, path, body, Some(("application/json", Some(length))))
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: SendBody<'_>,
        content: Option<(&str, Option<u64>)>,
    ) -> Result<Response<Body>, CliError> {
        let uri = format!("{}{path}", self.target.shown());
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("Authorization", format!("Bearer {}", self.target.token));
        if let Some((kind, length)) = content {
            request = request.header("Content-Type", kind);
            if let Some(length) = length {
                request = request.header("Content-Length", length);
            }
        }
        let request = request
            .body(body)
            .map_err(|e| CliError::Usage(format!("this cannot be asked of a hub: {e}")))?;
        let response = self.agent.run(request).map_err(|e| self.unreachable(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let mut text = Vec::new();
        let body = response.into_body().into_reader();
        let _ = body.take(MAX_ERROR_BYTES).read_to_end(&mut text);
        Err(refusal(status, &text, &self.target))
    }

    fn read<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T, CliError> {
        let mut bytes = Vec::new();
        let body = response.into_body().into_reader();
        body.take(MAX_ANSWER_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| self.unreachable(ureq::Error::Io(e)))?;
        serde_json::from_slice(&bytes).map_err(|e| self.not_understood(e))
    }

    fn not_understood(&self, error: serde_json::Error) -> CliError {
        CliError::Answer {
            url: self.target.shown(),
            problem: error.to_string(),
        }
    }

    fn unreachable(&self, error: ureq::Error) -> CliError {
        let problem = match &error {
            ureq::Error::Io(io) => io_problem(io),
            ureq::Error::HostNotFound => "no machine has this name".into(),
            ureq::Error::ConnectionFailed => "no connection".into(),
            ureq::Error::Timeout(_) => "no answer in time".into(),
            ureq::Error::Tls(problem) => (*problem).to_string(),
            ureq::Error::Protocol(_) => "what answers there is not a hub, or speaks https".into(),
            other => other.to_string(),
        };
        CliError::Unreachable {
            url: self.target.shown(),
            problem,
        }
    }
}

/// An error of the system in a few words.
pub(super) fn io_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection closed".into(),
        io::ErrorKind::TimedOut => "no answer in time".into(),
        io::ErrorKind::UnexpectedEof => "connection closed in the middle".into(),
        _ => error.to_string(),
    }
}

/// What the hub said instead of doing it.
pub(super) fn refusal(status: u16, body: &[u8], target: &Target) -> CliError {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        return CliError::Refused {
            status,
            error: body.error,
        };
    }
    if status == 401 {
        return CliError::failed(
            format!("the hub at {} does not know this token", target.shown()),
            "use the token of its operator.json",
        );
    }
    let said: String = String::from_utf8_lossy(body).chars().take(200).collect();
    let error = ApiError {
        reason: "Http".into(),
        message: format!(
            "the hub at {} answered {status}: {}",
            target.shown(),
            if said.trim().is_empty() {
                "nothing more"
            } else {
                said.trim()
            }
        ),
        details: Vec::new(),
    };
    CliError::Refused { status, error }
}

/// One part of a path or a query's value, as it may stand in an address.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A path with those of the queries that have a value.
pub(super) fn with_query(path: &str, queries: &[(&str, Option<String>)]) -> String {
    let mut out = path.to_string();
    let mut sign = '?';
    for (name, value) in queries {
        if let Some(value) = value {
            out.push_str(&format!("{sign}{name}={}", encode(value)));
            sign = '&';
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("http://127.0.0.1:7420", ("127.0.0.1", 7420)),
            ("127.0.0.1:7420", ("127.0.0.1", 7420)),
            ("https://hub.example/", ("hub.example", 443)),
            ("http://[::1]:80", ("::1", 80)),
        ] {
            let target = Target {
                url: parse_url(text).unwrap(),
                token: String::new(),
                ca_pin: None,
            };
            let (host, port) = target.address();
            assert_eq!((host.as_str(), port), expected, "{text}");
        }
        for bad in ["", "ftp://x", "http://", "http://x/y", "http://x?y", "a b"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries_are_escaped() {
        let path = with_query(
            "/v1/devices",
            &[
                ("selector", Some("site=berlin,role in (a)".into())),
                ("x", None),
                ("y", Some("é&".into())),
            ],
        );
        assert_eq!(
            path,
            "/v1/devices?selector=site%3Dberlin%2Crole%20in%20%28a%29&y=%C3%A9%26"
        );
    }

    #[test]
    fn a_token_never_goes_to_another_hub() {
        let dir = tempfile::tempdir().unwrap();
        let operator = r#"{"url":"http://127.0.0.1:7420","token":"secret","ca_pin":""}"#;
        std::fs::write(dir.path().join("operator.json"), operator).unwrap();
        let mut connection = Connection {
            data: Some(dir.path().into()),
            ..Connection::default()
        };
        assert_eq!(Target::find(&connection).unwrap().token, "secret");
        connection.hub = Some("http://127.0.0.1:7420/".into());
        assert_eq!(Target::find(&connection).unwrap().token, "secret");
        connection.hub = Some("http://127.0.0.2:7420".into());
        let error = Target::find(&connection).unwrap_err().to_string();
        assert!(
            error.starts_with("no token for the hub at http://127.0.0.2:7420"),
            "{error}"
        );
        connection.hub = Some("https://127.0.0.2:7420".into());
        connection.token = Some("other".into());
        let error = Target::find(&connection).unwrap_err().to_string();
        assert!(error.contains("--ca-pin"), "{error}");
    }
}
