//! Pulling from registries (OCI distribution spec 1.1; tokens: distribution's
//! "Token Authentication Specification").
//!
//! Anonymous, basic and bearer authentication, as the registry asks for. Every
//! blob's digest and length are verified. Credentials go to the registry and to
//! the token service that it names, never to where a blob is redirected to.

use super::Reference;
use super::address::{authority, is_loopback, query, resolve};
use super::challenge::{Challenge, parse_challenges};
use super::credentials::Credentials;
use super::document::{DOCKER_LIST, DOCKER_MANIFEST, MAX_DOCUMENT_BYTES, OCI_INDEX, OCI_MANIFEST};
use super::pull::{Progress, PullError, failed, is_transient, unreachable_host};
use super::reference::DEFAULT_REGISTRY;
use serde::Deserialize;
use std::collections::HashMap;
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
/// Longest look-up of a host's address.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that never answered is tried again for so long at most: an
/// operator waits for it.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for an answer, and for any bytes of its body.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one request, the first included.
pub(super) const MAX_TRIES: u32 = 5;
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

/// A client of all registries. Keeps connections and tokens.
pub struct Registry {
    agent: Agent,
    options: RegistryOptions,
    tokens: HashMap<(String, String), Token>,
    /// The registry has answered once.
    reached: bool,
    started: Instant,
}

struct Token {
    header: String,
    until: Option<Instant>,
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
            .timeout_resolve(Some(RESOLVE_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            options,
            tokens: HashMap::new(),
            reached: false,
            started: Instant::now(),
        })
    }

    pub(super) fn document(
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

    /// How long to wait after this try, from 1, failed.
    fn backoff(&self, attempt: u32) -> Duration {
        let doubled = self.options.first_backoff;
        doubled.saturating_mul(1 << (attempt - 1).min(16))
    }

    pub(super) fn back_off(
        &self,
        attempt: &mut u32,
        asked: Option<Duration>,
        progress: &mut dyn FnMut(Progress),
    ) {
        progress(Progress::Retrying { attempt: *attempt });
        let wait = self.backoff(*attempt);
        let wait = wait.max(asked.unwrap_or_default()).min(MAX_BACKOFF);
        *attempt += 1;
        // The one thing to wait for here is time, on a thread of its own.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(wait);
    }

    /// A successful answer to `GET /v2/<name>/<path>`: logs in as asked, tries
    /// again what may pass, and follows redirects.
    pub(super) fn get(
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
                Ok(response) => {
                    self.reached = true;
                    response
                }
                Err(error)
                    if attempt < MAX_TRIES
                        && is_transient(&error)
                        && (self.reached
                            || is_soon(self.started.elapsed(), self.backoff(attempt))) =>
                {
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

/// Whether another try of a registry that never answered is within what an
/// operator waits for.
fn is_soon(elapsed: Duration, wait: Duration) -> bool {
    elapsed.saturating_add(wait) <= REACHED_WITHIN
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response
        .headers()
        .get(name)?
        .to_str()
        .ok()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the default backoff, and tries that take no time or all of theirs.
    #[test]
    fn a_registry_that_never_answers_is_given_up_soon() {
        for each in [
            Duration::ZERO,
            Duration::from_secs(5),
            RESOLVE_TIMEOUT,
            CONNECT_TIMEOUT,
        ] {
            let registry = Registry::new(RegistryOptions::default()).unwrap();
            let (mut elapsed, mut attempt) = (each, 1);
            while attempt < MAX_TRIES && is_soon(elapsed, registry.backoff(attempt)) {
                elapsed += registry.backoff(attempt) + each;
                attempt += 1;
            }
            assert!(elapsed <= Duration::from_secs(18), "{each:?}: {elapsed:?}");
            assert!(attempt > 1 || each >= CONNECT_TIMEOUT, "{each:?}");
        }
    }
}
