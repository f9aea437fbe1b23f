//! Whom a link believes to be the broker.
//!
//! A device trusts a pin, not a date: a certificate that ran out, or a clock
//! that says 1970, must never cut it off. So the time of a pinned chain is
//! never looked at; its signatures and the handshake's always are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// Where Debian and most others keep the certificates of public authorities.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// TLS sessions kept for resumption: one broker, its two tickets.
const RESUMPTION_SESSIONS: usize = 2;
/// Certificates whose dates we step over before giving up on a chain.
const MAX_DATE_STEPS: usize = 8;

/// The SHA-256 of a certificate in DER form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CertPin(pub [u8; 32]);

impl CertPin {
    /// The pin of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for CertPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertPin({self})")
    }
}

/// Whom to believe on an `mqtts://` line. A line without TLS ignores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A broker that shows one of these certificates, or a chain up to one of
    /// them. Neither its name nor any date matters. To be recognised by its
    /// authority, a broker must send the authority's certificate too, as
    /// Skerry's own does.
    Pinned(Vec<CertPin>),
    /// A broker with a certificate for its name from an authority that this
    /// machine trusts. Dates count.
    SystemRoots,
    /// The same, with the authorities of this PEM file.
    RootsFile(PathBuf),
}

/// Why no TLS can be made with a [`Trust`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TrustError {
    #[error("no pin of the broker's certificate is known; join again with a fresh token")]
    NoPins,
    #[error("cannot read certificates from {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("{0:?} holds no certificate that can be used")]
    Empty(PathBuf),
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("cannot check certificates with the authorities of {path:?}")]
    Verifier {
        path: PathBuf,
        #[source]
        source: rustls::client::VerifierBuilderError,
    },
}

/// A TLS client that believes only what `trust` says.
pub(crate) fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Pinned(pins) if pins.is_empty() => return Err(TrustError::NoPins),
        Trust::Pinned(pins) => Arc::new(PinVerifier {
            pins: pins.clone(),
            provider: provider.clone(),
        }),
        Trust::SystemRoots => roots_verifier(Path::new(SYSTEM_ROOTS), provider.clone())?,
        Trust::RootsFile(path) => roots_verifier(path, provider.clone())?,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(RESUMPTION_SESSIONS);
    Ok(Arc::new(config))
}

fn roots_verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let read = |source| TrustError::Read {
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<_, _>>())
        .map_err(read)?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(TrustError::Empty(path.to_owned()));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|source| TrustError::Verifier {
            path: path.to_owned(),
            source,
        })?;
    Ok(verifier)
}

#[derive(Debug)]
struct PinVerifier {
    pins: Vec<CertPin>,
    provider: Arc<CryptoProvider>,
}

/// Why a pinned broker was not believed; reaches the operator as it is.
#[derive(Debug, thiserror::Error)]
enum NotPinned {
    #[error(
        "this is not the broker that the token names: its certificate is sha256:{shown} and no certificate it sent is pinned"
    )]
    Stranger { shown: CertPin },
    #[error("the broker's certificate is not signed by the pinned authority: {0}")]
    Chain(rustls::Error),
}

impl From<NotPinned> for rustls::Error {
    fn from(error: NotPinned) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

impl PinVerifier {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        self.pins.contains(&CertPin::of(certificate))
    }

    /// Checks the signatures from `leaf` up to `anchor` at a time when all
    /// certificates in between were valid, because dates are not our business.
    fn chains_to(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchor: &CertificateDer<'_>,
    ) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(anchor.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(leaf)?;
        // Any moment would do; the errors lead to a fitting one.
        let mut now = UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600));
        let mut last = rustls::Error::from(CertificateError::Expired);
        for _ in 0..MAX_DATE_STEPS {
            match verify_server_cert_signed_by_trust_anchor(
                &leaf,
                &roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            ) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    match &error {
                        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
                            not_after,
                            ..
                        }) => now = *not_after,
                        rustls::Error::InvalidCertificate(
                            CertificateError::NotValidYetContext { not_before, .. },
                        ) => now = *not_before,
                        _ => return Err(error),
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_pinned(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut refusal = NotPinned::Stranger {
            shown: CertPin::of(end_entity),
        };
        for anchor in intermediates.iter().filter(|other| self.is_pinned(other)) {
            match self.chains_to(end_entity, intermediates, anchor) {
                Ok(()) => return Ok(ServerCertVerified::assertion()),
                Err(error) => refusal = NotPinned::Chain(error),
            }
        }
        Err(refusal.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
