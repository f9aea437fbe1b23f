//! One pull: what the registry is asked for, what comes of it, and what can go
//! wrong.

use super::Reference;
use super::assemble::{ImageError, Source, assemble, check_size};
use super::blob::{BlobError, BlobStore};
use super::document::{Descriptor, MAX_DOCUMENT_BYTES};
use super::reference::DEFAULT_TAG;
use super::registry::{MAX_TRIES, Registry};
use crate::model::{Image, Platform};
use skerry_wire::{Digest, Timestamp};
use std::fs::File;
use std::io::Read;
use ureq::http::StatusCode;

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

impl Registry {
    /// Pulls what `name` means for `platforms` (all of Linux when empty) into
    /// `store`. Where the registry lacks some of the platforms, the record has
    /// the others. `now` is for the record.
    ///
    /// Layers that came before a failure stay, and are not fetched again.
    pub fn pull(
        &mut self,
        store: &BlobStore,
        name: &Reference,
        platforms: &[Platform],
        now: Timestamp,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image, PullError> {
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
        Ok(Image {
            reference: name.to_string(),
            digest: root.digest,
            platforms,
            added: now,
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

pub(super) fn failed(host: &str, error: ureq::Error) -> PullError {
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

pub(super) fn unreachable_host(host: &str, error: ureq::Error) -> PullError {
    PullError::Unreachable {
        host: host.to_owned(),
        source: Box::new(error),
    }
}

/// Whether trying again may help: not for a name that does not exist or a port
/// where nobody listens.
pub(super) fn is_transient(error: &PullError) -> bool {
    let PullError::Unreachable { source, .. } = error else {
        return false;
    };
    match source.as_ref() {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}
