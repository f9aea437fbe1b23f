//! What a hub is: its key, its certificate authority, its server certificate,
//! the operator's token. Made at the first start, each in a file of its own
//! that only its owner may read; a file that is there is never replaced, but
//! for the server certificate when the hub's names change.

use crate::api::types::Operator;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use skerry_wire::Digest;
use skerry_wire::seal::KeyPair;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Inside the data directory.
pub const KEYS_DIR: &str = "keys";
const HUB_KEY: &str = "hub.key";
const CA_KEY: &str = "ca.key";
const CA_CERTIFICATE: &str = "ca.crt";
const SERVER_KEY: &str = "server.key";
const SERVER_CERTIFICATE: &str = "server.crt";
const SERVER_NAMES: &str = "server.names";
const OPERATOR_TOKEN: &str = "operator.token";
/// Inside the data directory: how the command line finds its hub.
pub const OPERATOR_FILE: &str = "operator.json";

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The disk, or its permissions.
    #[error("cannot read or write {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody changed it.
    #[error("{path} is damaged: restore it from a backup")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// No certificate can be made, mostly for a name that is none.
    #[error("cannot make a certificate for {names}")]
    Certificate {
        /// The names it was for.
        names: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// All of it, read.
pub struct Keys {
    /// Seals and opens messages.
    pub hub: KeyPair,
    /// The authority's certificate.
    pub ca: CertificateDer<'static>,
    /// The server's chain: its certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    server_key: Vec<u8>,
    /// The operator's bearer token.
    pub operator_token: String,
}

impl Keys {
    /// Reads the keys in the data directory; makes those that are missing.
    /// `names` are the DNS names and addresses that the server certificate is
    /// for.
    pub fn open(data: &Path, names: &[String]) -> Result<Self, KeysError> {
        let dir = data.join(KEYS_DIR);
        make_private_dir(&dir)?;
        let hub_file = dir.join(HUB_KEY);
        let hub = match read(&hub_file)? {
            Some(bytes) => {
                KeyPair::from_secret_bytes(&bytes).ok_or(KeysError::Damaged { path: hub_file })?
            }
            None => {
                let key = KeyPair::generate(&mut Entropy);
                write_private(&hub_file, &key.secret_bytes())?;
                key
            }
        };
        let (ca_key, ca) = open_ca(&dir)?;
        let (server_key, server) = open_server(&dir, names, ca_key)?;
        let token_file = dir.join(OPERATOR_TOKEN);
        let operator_token = match read(&token_file)? {
            Some(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| KeysError::Damaged {
                    path: token_file.clone(),
                })?;
                let text = text.trim();
                // An empty one would let in whoever shows none.
                if text.is_empty() {
                    return Err(KeysError::Damaged { path: token_file });
                }
                text.to_string()
            }
            None => {
                let token = Digest::of(&random::<32>()).hex();
                write_private(&token_file, token.as_bytes())?;
                token
            }
        };
        Ok(Self {
            hub,
            chain: vec![server, ca.clone()],
            ca,
            server_key,
            operator_token,
        })
    }

    /// The server certificate's key.
    pub fn server_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.server_key.clone()))
    }

    /// SHA-256 of the authority's certificate: what devices and operators pin.
    pub fn ca_pin(&self) -> Digest {
        Digest::of(&self.ca)
    }

    /// Writes `operator.json`, so that the command line on this machine finds
    /// the hub.
    pub fn write_operator(&self, data: &Path, url: &str) -> Result<(), KeysError> {
        let operator = Operator {
            url: url.into(),
            token: self.operator_token.clone(),
            ca_pin: self.ca_pin().hex(),
        };
        let text = serde_json::to_vec_pretty(&operator).expect("three texts are JSON");
        write_private(&data.join(OPERATOR_FILE), &text)
    }
}

fn open_ca(dir: &Path) -> Result<(rcgen::KeyPair, CertificateDer<'static>), KeysError> {
    let key_file = dir.join(CA_KEY);
    let certificate_file = dir.join(CA_CERTIFICATE);
    if let (Some(key), Some(certificate)) = (read(&key_file)?, read(&certificate_file)?) {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let key =
            rcgen::KeyPair::try_from(&key).map_err(|_| KeysError::Damaged { path: key_file })?;
        return Ok((key, CertificateDer::from(certificate)));
    }
    let failed = |source| KeysError::Certificate {
        names: "the hub's authority".into(),
        source,
    };
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = ca_params().self_signed(&key).map_err(failed)?;
    write_private(&key_file, &key.serialize_der())?;
    write_private(&certificate_file, certificate.der())?;
    Ok((key, certificate.der().clone()))
}

/// The same for each use of the key: what makes a certificate's issuer.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "Skerry hub");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    long_life(&mut params);
    params
}

/// From 1975 to 4096: a device with a wrong clock must still get in, and what
/// ends a certificate's life here is its key's file, not a date.
fn long_life(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(1975, 1, 1);
    params.not_after = rcgen::date_time_ymd(4096, 1, 1);
}

fn open_server(
    dir: &Path,
    names: &[String],
    ca_key: rcgen::KeyPair,
) -> Result<(Vec<u8>, CertificateDer<'static>), KeysError> {
    let key_file = dir.join(SERVER_KEY);
    let certificate_file = dir.join(SERVER_CERTIFICATE);
    let names_file = dir.join(SERVER_NAMES);
    let wanted = names.join("\n");
    if read(&names_file)?.as_deref() == Some(wanted.as_bytes())
        && let (Some(key), Some(certificate)) = (read(&key_file)?, read(&certificate_file)?)
    {
        return Ok((key, CertificateDer::from(certificate)));
    }
    let failed = |source| KeysError::Certificate {
        names: names.join(", "),
        source,
    };
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "Skerry hub's server");
    params.distinguished_name = name;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    long_life(&mut params);
    let issuer = Issuer::new(ca_params(), ca_key);
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    let key = key.serialize_der();
    // The names last: without them, a cut in between makes both anew.
    write_private(&key_file, &key)?;
    write_private(&certificate_file, certificate.der())?;
    write_private(&names_file, wanted.as_bytes())?;
    Ok((key, certificate.der().clone()))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, KeysError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeysError::File {
            path: path.into(),
            source,
        }),
    }
}

/// Makes a directory that only its owner may enter.
pub fn make_private_dir(path: &Path) -> Result<(), KeysError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| KeysError::File {
            path: path.into(),
            source,
        })
}

/// Writes a file that only its owner may read: whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let write = || -> io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| KeysError::File {
        path: path.into(),
        source,
    })
}

/// Bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel has randomness after boot");
    bytes
}

/// The kernel's randomness, for what wants a generator.
pub struct Entropy;

impl rand_core::TryRng for Entropy {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_ne_bytes(random()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_ne_bytes(random()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        getrandom::fill(out).expect("the kernel has randomness after boot");
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Entropy {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_empty_token_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open(dir.path(), &[]).unwrap();
        fs::write(dir.path().join(KEYS_DIR).join(OPERATOR_TOKEN), "\n").unwrap();
        let opened = Keys::open(dir.path(), &[]);
        assert!(matches!(opened, Err(KeysError::Damaged { .. })));
    }

    #[test]
    fn keys_stay_the_same_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["hub.example".to_string(), "127.0.0.1".to_string()];
        let first = Keys::open(dir.path(), &names).unwrap();
        first
            .write_operator(dir.path(), "http://127.0.0.1:1")
            .unwrap();
        let second = Keys::open(dir.path(), &names).unwrap();
        assert_eq!(first.hub.public(), second.hub.public());
        assert_eq!(first.chain, second.chain);
        assert_eq!(first.operator_token, second.operator_token);
        let renamed = Keys::open(dir.path(), &["other.example".into()]).unwrap();
        assert_eq!(first.ca, renamed.ca);
        assert_ne!(first.chain[0], renamed.chain[0]);
        for entry in fs::read_dir(dir.path().join(KEYS_DIR)).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let operator = fs::metadata(dir.path().join(OPERATOR_FILE)).unwrap();
        assert_eq!(operator.permissions().mode() & 0o777, 0o600);
    }
}
