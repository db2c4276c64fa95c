//! TLS below a link: the authorities that a role trusts, and the master's certificate, which is
//! reloaded when its files change.

mod certificate;
mod client;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ConfigBuilder, InconsistentKeys, RootCertStore, ServerConfig, WantsVerifier,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert, WantsServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

pub use self::{
    certificate::{CertificateInfo, format_utc, now},
    client::{PinMismatch, TlsParameters, captured_chain, client_config},
};

use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// The minimum time between two checks of the certificate files. It is short enough that a
/// replacement takes effect at once, and long enough to cost a busy master nothing.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The protocol above TLS.
const ALPN: &[u8] = b"http/1.1";

/// Why a certificate, a key or a list of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("TLS: cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("TLS: `{}` is not a PEM file: {reason}", path.display())]
    NotPem {
        /// The path.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },
    /// The file contains no certificate.
    #[error("TLS: there is no certificate in `{}` (no -----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificate {
        /// The path.
        path: PathBuf,
    },
    /// The file contains no private key.
    #[error("TLS: there is no private key in `{}` (no -----BEGIN … PRIVATE KEY-----, or it has a password)", path.display())]
    NoKey {
        /// The path.
        path: PathBuf,
    },
    /// The key does not match the certificate.
    #[error("TLS: the key in `{}` does not belong to the first certificate in `{}`", key.display(), certificate.display())]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// TLS cannot use the certificate or the key.
    #[error("TLS: `{}` cannot be used: {reason}", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The host of the master's address cannot appear in a certificate.
    #[error("TLS: `{0}` cannot be the name of a certificate")]
    Name(String),
    /// The system has no certificate authorities, or they cannot be read.
    #[error(
        "TLS: the system's certificate authorities cannot be read ({0}); name a file with `tls.ca`"
    )]
    NoAuthorities(String),
}

impl TlsError {
    /// Returns the evidence and the remedy, which is `remedy` unless the error has its own.
    #[must_use]
    pub fn diagnosis(&self, remedy: &'static str) -> Diagnosis {
        match self {
            TlsError::NoAuthorities(reason) => Diagnosis::new(
                DiagnosisCode::TlsNoAuthorities,
                format!("TLS: the system's certificate authorities cannot be read ({reason})"),
                "",
                "name a file with `tls.ca`",
            ),
            TlsError::Name(_) => Diagnosis::new(
                DiagnosisCode::ConfigurationInvalid,
                self.to_string(),
                "",
                remedy,
            ),
            _ => Diagnosis::new(DiagnosisCode::TlsFileUnusable, self.to_string(), "", remedy),
        }
    }
}

/// The master's certificate: the chain and the key of two PEM files, reloaded when they change.
pub struct ReloadingCertificate {
    chain: PathBuf,
    key: PathBuf,
    state: Mutex<LoadedCertificate>,
}

struct LoadedCertificate {
    certified: Arc<CertifiedKey>,
    /// The stamps of the files at the last read, successful or not.
    stamps: [Stamp; 2],
    checked_at: Instant,
}

/// Identifies a version of a file: its modification time and its length.
type Stamp = Option<(SystemTime, u64)>;

impl ReloadingCertificate {
    /// Reads the certificate chain and its key.
    ///
    /// # Errors
    /// If a file cannot be read or parsed, or the key does not match the certificate.
    pub fn load(chain: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        // Take the stamps first, so that a file which changes during the read is read again.
        let stamps = [stamp(chain), stamp(key)];
        let certified = Arc::new(certified_key(chain, key)?);
        let state = Mutex::new(LoadedCertificate {
            certified,
            stamps,
            checked_at: Instant::now(),
        });
        Ok(Arc::new(ReloadingCertificate {
            chain: chain.to_owned(),
            key: key.to_owned(),
            state,
        }))
    }

    /// Returns an acceptor that presents the newest certificate to each connection.
    #[must_use]
    pub fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        self.build_acceptor(server_builder().with_no_client_auth())
    }

    /// Returns an acceptor that also requires a client certificate, signed by one of the
    /// authorities in this PEM file.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn acceptor_requiring_client_certificate(
        self: &Arc<Self>,
        authorities: &Path,
    ) -> Result<TlsAcceptor, TlsError> {
        Ok(self.build_acceptor(
            server_builder().with_client_cert_verifier(client_verifier(authorities)?),
        ))
    }

    fn build_acceptor(
        self: &Arc<Self>,
        builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> TlsAcceptor {
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Reloads the files if they changed. An unusable certificate is logged once, and the old one
    /// stays in use.
    pub fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh_state(&mut state);
    }

    /// Returns the certificate, checked at most one second ago.
    #[must_use]
    pub fn current(&self) -> Arc<CertifiedKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked_at.elapsed() >= CHECK_INTERVAL {
            self.refresh_state(&mut state);
        }
        state.certified.clone()
    }

    fn refresh_state(&self, state: &mut LoadedCertificate) {
        state.checked_at = Instant::now();
        let stamps = [stamp(&self.chain), stamp(&self.key)];
        if stamps == state.stamps {
            return;
        }
        state.stamps = stamps;
        match certified_key(&self.chain, &self.key) {
            Ok(certified) => {
                state.certified = Arc::new(certified);
                info!(certificate = %self.chain.display(), "certificate reloaded");
            }
            Err(error) => error!(%error, "certificate reload failed, the old one stays in use"),
        }
    }
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for ReloadingCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ReloadingCertificate")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

fn server_builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    #[expect(
        clippy::expect_used,
        reason = "the provider supports both versions that rustls has"
    )]
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
}

fn client_verifier(file: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |reason: String| TlsError::Unusable {
        path: file.to_owned(),
        reason,
    };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(file)? {
        authorities
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider())
        .build()
        .map_err(|error| unusable(error.to_string()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = crate::text::read_file(path, crate::text::LONG_FILE_MAX);
    let bytes = read.map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    // PEM itself is text, but the file may contain other bytes beside it.
    Ok(crate::text::decode(&bytes).map_or(bytes, String::into_bytes))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_slice_iter(&read(path)?).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::NoCertificate {
            path: path.to_owned(),
        }),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::NotPem {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// Returns the names of the first certificate in a PEM file.
///
/// # Errors
/// If the file cannot be read, or contains no certificate.
pub fn certificate_names(chain: &Path) -> Result<Vec<String>, TlsError> {
    let certificates = certificates(chain)?;
    let first = certificates
        .first()
        .and_then(|first| CertificateInfo::read(first));
    Ok(first.map(|info| info.names).unwrap_or_default())
}

fn certified_key(chain: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let certificates = certificates(chain)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey {
            path: key.to_owned(),
        },
        other => TlsError::NotPem {
            path: key.to_owned(),
            reason: other.to_string(),
        },
    })?;
    let signing = provider()
        .key_provider
        .load_private_key(private)
        .map_err(|error| TlsError::Unusable {
            path: key.to_owned(),
            reason: error.to_string(),
        })?;
    let certified = CertifiedKey::new(certificates, signing);
    match certified.keys_match() {
        // Accept a key that cannot report its public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch {
            certificate: chain.to_owned(),
            key: key.to_owned(),
        }),
        Err(error) => Err(TlsError::Unusable {
            path: chain.to_owned(),
            reason: error.to_string(),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests;
