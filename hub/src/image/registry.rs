//! Pulling from registries (OCI distribution spec 1.1; tokens: distribution's
//! "Token Authentication Specification").
//!
//! Anonymous, basic and bearer authentication, as the registry asks for. Every
//! blob's digest and length are verified. Credentials go to the registry and to
//! the token service that it names, never to where a blob is redirected to.

use super::assemble::{ImageError, Source, assemble, check_size};
use super::blob::{BlobError, BlobStore};
use super::challenge::{Challenge, parse_challenges};
use super::credentials::Credentials;
use super::document::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT_BYTES, OCI_INDEX, OCI_MANIFEST,
};
use super::reference::{DEFAULT_REGISTRY, DEFAULT_TAG};
use super::{ImageRecord, Platform, Reference};
use serde::Deserialize;
use skerry_wire::Digest;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

/// Where the default registry's API is: not where its name says.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for an answer, and for any bytes of its body.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one request, the first included.
const MAX_TRIES: u32 = 5;
/// Longest wait between two tries, whatever the registry asks for.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;
/// Longest token answer, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// A token whose life is not given (token specification).
const DEFAULT_TOKEN_SECS: u64 = 60;
/// Where Linux distributions keep the authorities that they trust.
const ROOT_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How to reach registries.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Who the hub is.
    pub credentials: Credentials,
    /// Registries (`host:port`) that are spoken to without TLS, besides those
    /// on loopback.
    pub plain_http: Vec<String>,
    /// Speak TLS on loopback, too.
    pub tls_on_loopback: bool,
    /// Certificates in PEM of authorities to trust besides the system's.
    pub extra_roots_pem: Vec<u8>,
    /// Wait before the second try; doubles for each after.
    pub first_backoff: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            plain_http: Vec::new(),
            tls_on_loopback: false,
            extra_roots_pem: Vec::new(),
            first_backoff: Duration::from_secs(1),
        }
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A layer is here already.
    Have {
        /// Which.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// A layer is coming.
    Fetching {
        /// Which.
        digest: Digest,
        /// Bytes so far.
        done: u64,
        /// Its bytes.
        size: u64,
    },
    /// A request failed and is tried again.
    Retrying {
        /// Which try failed, from 1.
        attempt: u32,
    },
}

/// Why an image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry does not have it, or hides it.
    #[error("{registry} has no {what}; check name and tag, and whether it needs a login")]
    NotFound {
        /// The registry.
        registry: String,
        /// The image or blob.
        what: String,
    },
    /// A login is needed, or is wrong.
    #[error("{registry} wants a login for {what}: {}", if *.sent { "the one given is not accepted" } else { "none is given for it" })]
    Login {
        /// The registry.
        registry: String,
        /// The image or blob.
        what: String,
        /// Whether one was sent.
        sent: bool,
    },
    /// The login is known but not allowed.
    #[error("{registry} does not allow this hub to read {what}")]
    Denied {
        /// The registry.
        registry: String,
        /// The image or blob.
        what: String,
    },
    /// The registry wants fewer requests.
    #[error("{0} limits how much may be pulled; log in or try later")]
    TooMany(String),
    /// Another answer than expected.
    #[error("{registry} answered {status} to {what}")]
    Status {
        /// The registry.
        registry: String,
        /// HTTP status.
        status: u16,
        /// The image or blob.
        what: String,
    },
    /// An answer that makes no sense.
    #[error("{registry} answered nonsense: {problem}")]
    Answer {
        /// The registry.
        registry: String,
        /// What is wrong.
        problem: String,
    },
    /// No TLS connection that can be trusted.
    #[error(
        "no trusted TLS connection to {host}: {problem}; give its authority's certificate, or allow plain HTTP for it"
    )]
    Tls {
        /// The host.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// The registry cannot be reached.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// What came is not what was asked for.
    #[error("{registry} sent {got} for {wanted}")]
    Digest {
        /// The registry.
        registry: String,
        /// What was asked for.
        wanted: Digest,
        /// What came.
        got: Digest,
    },
    /// A document over 4 MiB.
    #[error("{0} sent a manifest or config longer than 4 MiB")]
    TooLong(String),
    /// The authorities' certificates that were given.
    #[error("the registry's CA certificates cannot be read: {0}")]
    Roots(String),
    /// The image itself.
    #[error("image {image} cannot be used")]
    Image {
        /// Which.
        image: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// The hub's own disk, or a blob that is not what it should be.
    #[error("a blob from the registry cannot be kept")]
    Blob(#[from] BlobError),
    /// Used while images are looked at; becomes [`PullError::Image`].
    #[doc(hidden)]
    #[error(transparent)]
    Unnamed(Box<ImageError>),
}

impl From<ImageError> for PullError {
    fn from(error: ImageError) -> Self {
        Self::Unnamed(Box::new(error))
    }
}

/// A client of all registries. Keeps connections and tokens.
pub struct Registry {
    agent: Agent,
    options: RegistryOptions,
    tokens: HashMap<(String, String), Token>,
}

struct Token {
    header: String,
    until: Option<Instant>,
}

/// How often and for what a pull asks.
struct Pull<'a> {
    registry: &'a mut Registry,
    store: &'a BlobStore,
    name: &'a Reference,
    /// The document that the name meant: it is here already.
    first: (Digest, Vec<u8>),
    progress: &'a mut dyn FnMut(Progress),
}

impl Registry {
    /// Reads the system's authorities and those given.
    pub fn new(options: RegistryOptions) -> Result<Self, PullError> {
        let mut roots: Vec<Certificate<'static>> = Vec::new();
        // A system without authorities can still use plain HTTP and its own.
        let system = std::env::var_os("SSL_CERT_FILE")
            .and_then(|path| std::fs::read(path).ok())
            .or_else(|| ROOT_FILES.iter().find_map(|path| std::fs::read(path).ok()))
            .unwrap_or_default();
        for (pem, ours) in [(&system, false), (&options.extra_roots_pem, true)] {
            for item in parse_pem(pem) {
                match item {
                    Ok(PemItem::Certificate(certificate)) => roots.push(certificate),
                    Err(error) if ours => return Err(PullError::Roots(error.to_string())),
                    _ => {}
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::from(roots))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("skerry/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Redirects are followed here, where logins are known.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            options,
            tokens: HashMap::new(),
        })
    }

    /// Pulls what `name` means for `platforms` (all of Linux when empty) into
    /// `store`. Where the registry lacks some of the platforms, the record has
    /// the others. `now_ms` is for the record.
    ///
    /// Layers that came before a failure stay, and are not fetched again.
    pub fn pull(
        &mut self,
        store: &BlobStore,
        name: &Reference,
        platforms: &[Platform],
        now_ms: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ImageRecord, PullError> {
        let (root, bytes) = self.manifest_of(name, progress)?;
        let mut pull = Pull {
            registry: self,
            store,
            name,
            first: (root.digest, bytes),
            progress,
        };
        let platforms = assemble(&root, platforms, &mut pull).map_err(|error| match error {
            PullError::Unnamed(source) => PullError::Image {
                image: name.familiar(),
                source,
            },
            other => other,
        })?;
        store.put(&pull.first.1)?;
        Ok(ImageRecord {
            reference: name.to_string(),
            digest: root.digest,
            platforms,
            imported_at: now_ms,
        })
    }

    /// Asks what a name means.
    fn manifest_of(
        &mut self,
        name: &Reference,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Descriptor, Vec<u8>), PullError> {
        let version = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(DEFAULT_TAG).to_owned(),
        };
        let what = name.familiar();
        let path = format!("manifests/{version}");
        let (media_type, bytes) = self.document(name, &path, &what, progress)?;
        let digest = Digest::of(&bytes);
        match name.digest() {
            Some(wanted) if wanted != digest => {
                let registry = name.registry().to_owned();
                return Err(PullError::Digest {
                    registry,
                    wanted,
                    got: digest,
                });
            }
            _ => {}
        }
        let size = bytes.len() as u64;
        let descriptor = Descriptor {
            media_type,
            digest,
            size,
            platform: None,
            annotations: None,
        };
        Ok((descriptor, bytes))
    }

    fn document(
        &mut self,
        name: &Reference,
        path: &str,
        what: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(String, Vec<u8>), PullError> {
        let registry = name.registry();
        let mut attempt = 1;
        loop {
            let response = self.get(name, path, what, 0, progress)?;
            let media_type = header(&response, CONTENT_TYPE.as_str()).unwrap_or_default();
            let media_type = media_type
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned();
            let mut bytes = Vec::new();
            let body = response.into_body().into_reader();
            match body.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes) {
                Ok(_) if bytes.len() as u64 > MAX_DOCUMENT_BYTES => {
                    return Err(PullError::TooLong(registry.to_owned()));
                }
                Ok(_) => return Ok((media_type, bytes)),
                Err(error) if attempt >= MAX_TRIES => {
                    return Err(unreachable_host(registry, error.into()));
                }
                Err(_) => self.back_off(&mut attempt, None, progress),
            }
        }
    }

    fn back_off(
        &self,
        attempt: &mut u32,
        asked: Option<Duration>,
        progress: &mut dyn FnMut(Progress),
    ) {
        progress(Progress::Retrying { attempt: *attempt });
        let wait = self
            .options
            .first_backoff
            .saturating_mul(1 << (*attempt - 1).min(16));
        let wait = wait.max(asked.unwrap_or_default()).min(MAX_BACKOFF);
        *attempt += 1;
        // The one thing to wait for here is time, on a thread of its own.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(wait);
    }

    /// A successful answer to `GET /v2/<name>/<path>`: logs in as asked, tries
    /// again what may pass, and follows redirects.
    fn get(
        &mut self,
        name: &Reference,
        path: &str,
        what: &str,
        offset: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Response<Body>, PullError> {
        let registry = name.registry().to_owned();
        let host = match registry.as_str() {
            DEFAULT_REGISTRY => DEFAULT_REGISTRY_HOST,
            other => other,
        };
        let scheme = if self.is_plain(host) { "http" } else { "https" };
        let url = format!("{scheme}://{host}/v2/{}/{path}", name.path());
        let scope = format!("repository:{}:pull", name.path());
        let mut attempt = 1;
        let mut challenged = false;
        loop {
            let authorization = self.token(&registry, &scope);
            let sent = authorization.is_some();
            let response = match self.request(&url, authorization.as_deref(), offset) {
                Ok(response) => response,
                Err(error) if attempt < MAX_TRIES && is_transient(&error) => {
                    self.back_off(&mut attempt, None, progress);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let what = || what.to_owned();
            let status = response.status();
            match status.as_u16() {
                200 | 206 => return Ok(response),
                // One login for each request: it may have run out meanwhile.
                401 if !challenged => {
                    challenged = true;
                    self.log_in(&registry, &scope, &response, &what())?;
                }
                401 => {
                    let sent = sent && self.options.credentials.get(&registry).is_some();
                    return Err(PullError::Login {
                        registry,
                        what: what(),
                        sent,
                    });
                }
                403 => {
                    return Err(PullError::Denied {
                        registry,
                        what: what(),
                    });
                }
                404 => {
                    return Err(PullError::NotFound {
                        registry,
                        what: what(),
                    });
                }
                408 | 429 | 500..=599 if attempt < MAX_TRIES => {
                    let asked =
                        header(&response, RETRY_AFTER.as_str()).and_then(|t| t.parse().ok());
                    self.back_off(&mut attempt, asked.map(Duration::from_secs), progress);
                }
                429 => return Err(PullError::TooMany(registry)),
                status => {
                    return Err(PullError::Status {
                        registry,
                        status,
                        what: what(),
                    });
                }
            }
        }
    }

    /// Follows redirects; the login only goes to the host that it is for.
    fn request(
        &self,
        url: &str,
        authorization: Option<&str>,
        offset: u64,
    ) -> Result<Response<Body>, PullError> {
        let answer = |host: &str, problem: &str| PullError::Answer {
            registry: host.to_owned(),
            problem: problem.chars().take(300).collect(),
        };
        let first: Uri = url
            .parse()
            .map_err(|_| answer(url, "its address is not valid"))?;
        let mut uri = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let host = authority(&uri);
            let mut request = self.agent.get(uri.clone());
            for media_type in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*"] {
                request = request.header(ACCEPT, media_type);
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let same = (uri.scheme(), uri.authority()) == (first.scheme(), first.authority());
            if let Some(authorization) = authorization.filter(|_| same) {
                request = request.header(AUTHORIZATION, authorization);
            }
            if is_loopback(&host) {
                request = request.config().proxy(None).build();
            }
            let response = request.call().map_err(|error| failed(&host, error))?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED
            {
                return Ok(response);
            }
            let target = header(&response, LOCATION.as_str())
                .ok_or_else(|| answer(&host, "a redirect to nowhere"))?;
            let next = resolve(&uri, &target)
                .ok_or_else(|| answer(&host, "a redirect to an invalid address"))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(answer(&host, "a redirect from https to http"));
            }
            uri = next;
        }
        Err(answer(&authority(&first), "too many redirects"))
    }

    fn token(&mut self, registry: &str, scope: &str) -> Option<String> {
        let key = (registry.to_owned(), scope.to_owned());
        let token = self.tokens.get(&key)?;
        if token.until.is_some_and(|until| Instant::now() >= until) {
            self.tokens.remove(&key);
            return None;
        }
        Some(token.header.clone())
    }

    /// Does what the registry's 401 asks for.
    fn log_in(
        &mut self,
        registry: &str,
        scope: &str,
        response: &Response<Body>,
        what: &str,
    ) -> Result<(), PullError> {
        let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse_challenges)
            .collect();
        let login = self
            .options
            .credentials
            .get(registry)
            .map(|login| login.basic());
        let no_login = |sent| PullError::Login {
            registry: registry.to_owned(),
            what: what.to_owned(),
            sent,
        };
        let find = |scheme: &str| {
            challenges
                .iter()
                .find(|c| c.scheme.eq_ignore_ascii_case(scheme))
        };
        let token = if let Some(bearer) = find("bearer") {
            self.fetch_token(registry, scope, bearer, login.as_deref(), what)?
        } else if find("basic").is_some() {
            Token {
                header: login.ok_or_else(|| no_login(false))?,
                until: None,
            }
        } else {
            return Err(PullError::Answer {
                registry: registry.to_owned(),
                problem: "it wants a login of a kind that is not known (neither Basic nor Bearer)"
                    .to_owned(),
            });
        };
        self.tokens
            .insert((registry.to_owned(), scope.to_owned()), token);
        Ok(())
    }

    fn fetch_token(
        &self,
        registry: &str,
        scope: &str,
        challenge: &Challenge,
        login: Option<&str>,
        what: &str,
    ) -> Result<Token, PullError> {
        let answer = |problem: String| PullError::Answer {
            registry: registry.to_owned(),
            problem,
        };
        let realm = challenge
            .parameter("realm")
            .ok_or_else(|| answer("no realm to get a token from".to_owned()))?;
        let uri: Uri = realm
            .parse()
            .map_err(|_| answer("the realm of its tokens is no address".to_owned()))?;
        let host = authority(&uri);
        // A login never goes over a line that the registry itself is not
        // allowed to use.
        let plain_ok = self.is_plain(&host) && self.is_plain(registry);
        if !(uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && plain_ok) {
            return Err(answer(format!("its tokens come from {host} without https")));
        }
        let mut url = format!("{realm}{}", if realm.contains('?') { '&' } else { '?' });
        if let Some(service) = challenge.parameter("service") {
            url.push_str(&format!("service={}&", query(service)));
        }
        // What the registry asks for may be more than pulling needs, or less.
        url.push_str(&format!(
            "scope={}",
            query(challenge.parameter("scope").unwrap_or(scope))
        ));
        let response = self.request(&url, login, 0)?;
        let status = response.status().as_u16();
        match status {
            200 => {}
            401 | 403 => {
                let (registry, what) = (registry.to_owned(), what.to_owned());
                return Err(PullError::Login {
                    registry,
                    what,
                    sent: login.is_some(),
                });
            }
            status => {
                return Err(PullError::Status {
                    registry: host,
                    status,
                    what: "a token request".to_owned(),
                });
            }
        }
        let mut bytes = Vec::new();
        let body = response.into_body().into_reader();
        body.take(MAX_TOKEN_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| unreachable_host(&host, e.into()))?;
        let reply: TokenReply = serde_json::from_slice(&bytes).map_err(|error| {
            answer(format!(
                "its token service's answer cannot be read: {error}"
            ))
        })?;
        let token = reply.token.or(reply.access_token).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| answer("its token service gave no token".to_owned()))?;
        // Renewed a little early, so that it does not run out on the way.
        let life = reply
            .expires_in
            .unwrap_or(DEFAULT_TOKEN_SECS)
            .clamp(1, 24 * 3600);
        let life = Duration::from_secs(life).mul_f32(0.8);
        Ok(Token {
            header: format!("Bearer {token}"),
            until: Some(Instant::now() + life),
        })
    }

    fn is_plain(&self, host: &str) -> bool {
        (is_loopback(host) && !self.options.tls_on_loopback)
            || self
                .options
                .plain_http
                .iter()
                .any(|plain| plain.eq_ignore_ascii_case(host))
    }
}

#[derive(Deserialize)]
struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Source for Pull<'_> {
    type Error = PullError;

    fn document(
        &mut self,
        what: &'static str,
        blob: &Descriptor,
    ) -> Result<Option<Vec<u8>>, PullError> {
        if blob.digest == self.first.0 {
            return Ok(Some(self.first.1.clone()));
        }
        check_size(what, blob, blob.size)?;
        let bytes = match self.store.read(&blob.digest, MAX_DOCUMENT_BYTES) {
            Ok(bytes) => bytes,
            Err(BlobError::Missing(_)) => {
                let kind = if what == "config" {
                    "blobs"
                } else {
                    "manifests"
                };
                let path = format!("{kind}/{}", blob.digest);
                let shown = format!("{what} {} of {}", blob.digest, self.name.familiar());
                let (_, bytes) = self
                    .registry
                    .document(self.name, &path, &shown, self.progress)?;
                let got = Digest::of(&bytes);
                if got != blob.digest {
                    let registry = self.name.registry().to_owned();
                    return Err(PullError::Digest {
                        registry,
                        wanted: blob.digest,
                        got,
                    });
                }
                self.store.put(&bytes)?;
                bytes
            }
            Err(other) => return Err(other.into()),
        };
        check_size(what, blob, bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    fn layer(&mut self, blob: &Descriptor) -> Result<Option<File>, PullError> {
        let (digest, size) = (blob.digest, blob.size);
        if self.store.len(&digest) == Some(size) {
            (self.progress)(Progress::Have { digest, size });
        } else {
            self.fetch(blob)?;
        }
        Ok(Some(self.store.open_at(&digest, 0)?))
    }
}

impl Pull<'_> {
    fn fetch(&mut self, blob: &Descriptor) -> Result<(), PullError> {
        let (digest, size) = (blob.digest, blob.size);
        let path = format!("blobs/{digest}");
        let what = format!("layer {digest} of {}", self.name.familiar());
        let mut writer = self.store.writer(size)?;
        let mut buffer = vec![0; 64 << 10];
        let mut attempt = 1;
        loop {
            let response =
                self.registry
                    .get(self.name, &path, &what, writer.len(), self.progress)?;
            if response.status() != StatusCode::PARTIAL_CONTENT && !writer.is_empty() {
                writer.restart()?;
            }
            let mut body = response.into_body().into_reader();
            let broken = loop {
                match body.read(&mut buffer) {
                    Ok(0) if writer.len() < size => break None,
                    Ok(0) => {
                        self.store.keep(&writer.finish_as(digest, size)?)?;
                        return Ok(());
                    }
                    Ok(count) => {
                        writer.write(&buffer[..count])?;
                        (self.progress)(Progress::Fetching {
                            digest,
                            done: writer.len(),
                            size,
                        });
                    }
                    Err(error) => break Some(error),
                }
            };
            if attempt >= MAX_TRIES {
                return Err(match broken {
                    Some(error) => unreachable_host(self.name.registry(), error.into()),
                    None => BlobError::Size {
                        digest,
                        wanted: size,
                        got: writer.len(),
                    }
                    .into(),
                });
            }
            self.registry.back_off(&mut attempt, None, self.progress);
        }
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response
        .headers()
        .get(name)?
        .to_str()
        .ok()
        .map(str::to_owned)
}

fn authority(uri: &Uri) -> String {
    uri.authority()
        .map(|a| a.as_str().to_ascii_lowercase())
        .unwrap_or_default()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// A `Location` relative to where it came from (RFC 3986, 5.2, as far as
/// registries use it: whole addresses, `//host/path` and `/path`).
fn resolve(base: &Uri, target: &str) -> Option<Uri> {
    let whole = if target.contains("://") {
        target.to_owned()
    } else if let Some(rest) = target.strip_prefix("//") {
        format!("{}://{rest}", base.scheme_str()?)
    } else if target.starts_with('/') {
        format!("{}://{}{target}", base.scheme_str()?, base.authority()?)
    } else {
        return None;
    };
    let uri: Uri = whole.parse().ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()).then_some(uri)
}

/// Percent-encodes a query value.
fn query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn failed(host: &str, error: ureq::Error) -> PullError {
    let tls = match &error {
        ureq::Error::Tls(problem) => Some((*problem).to_owned()),
        ureq::Error::Rustls(problem) => Some(problem.to_string()),
        ureq::Error::Io(error) => error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .map(|problem| problem.to_string()),
        _ => None,
    };
    match tls {
        Some(problem) => PullError::Tls {
            host: host.to_owned(),
            problem,
        },
        None => unreachable_host(host, error),
    }
}

fn unreachable_host(host: &str, error: ureq::Error) -> PullError {
    PullError::Unreachable {
        host: host.to_owned(),
        source: Box::new(error),
    }
}

/// Whether trying again may help: not for a name that does not exist or a port
/// where nobody listens.
fn is_transient(error: &PullError) -> bool {
    let PullError::Unreachable { source, .. } = error else {
        return false;
    };
    match source.as_ref() {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        for (host, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("[::1]:5000", true),
            ("127.0.0.1.evil.example", false),
            ("registry.example:5000", false),
            ("[::2]", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }

    #[test]
    fn redirects_are_resolved() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/x".parse().unwrap();
        let to = |target: &str| resolve(&base, target).map(|uri| uri.to_string());
        assert_eq!(to("/x?y").as_deref(), Some("https://r.example:5000/x?y"));
        assert_eq!(
            to("//cdn.example/x").as_deref(),
            Some("https://cdn.example/x")
        );
        assert_eq!(
            to("http://cdn.example/x").as_deref(),
            Some("http://cdn.example/x")
        );
        for bad in ["x", "", "file:///etc/passwd", "ftp://a/b"] {
            assert_eq!(to(bad), None, "{bad}");
        }
        assert_eq!(query("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
