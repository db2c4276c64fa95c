//! TLS below a link: whom a role trusts, and the master's certificate, which is picked up again when its file changes.

mod certificate;
mod client;
mod inspection;

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
    certificate::{Certificate, moment, now},
    client::{PinMismatch, TlsParameters, client_config, witnessed},
    inspection::inspector,
};

/// How often the files of a certificate are looked at, at most: an operator who replaces one notices no delay, and a busy master no cost.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a link speaks above TLS.
const ALPN: &[u8] = b"http/1.1";

/// A certificate, a key or a list of authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("TLS: cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("TLS: `{}` is not a PEM file: {reason}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// There is no certificate in the file.
    #[error("TLS: there is no certificate in `{}` (no -----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// There is no private key in the file.
    #[error("TLS: there is no private key in `{}` (no -----BEGIN … PRIVATE KEY-----, or it has a password)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is not the certificate's.
    #[error("TLS: the key in `{}` does not belong to the first certificate in `{}`", key.display(), certificate.display())]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// A certificate or a key that TLS cannot use.
    #[error("TLS: `{}` cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The host of the master's address cannot be in a certificate.
    #[error("TLS: `{0}` is not a name that a certificate can be for")]
    Name(String),
    /// The system has no certificate authorities, or they cannot be read.
    #[error(
        "TLS: the system's certificate authorities cannot be read ({0}); name a file with `tls.ca`"
    )]
    NoAuthorities(String),
}

/// The master's side: the certificate chain and key of two PEM files, which are read again when they change.
pub struct ReloadingCertificate {
    chain: PathBuf,
    key: PathBuf,
    state: Mutex<Loaded>,
}

struct Loaded {
    certified: Arc<CertifiedKey>,
    /// The files as they were when they were last read, be it with success or not.
    stamps: [Stamp; 2],
    looked: Instant,
}

/// What tells one state of a file from the next.
type Stamp = Option<(SystemTime, u64)>;

impl ReloadingCertificate {
    /// Reads the certificate chain and its key.
    ///
    /// # Errors
    /// When a file cannot be read, lacks what it should hold, or the key is another's.
    pub fn load(chain: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        // The stamps first: a file that changes in between is read again.
        let stamps = [stamp(chain), stamp(key)];
        let certified = Arc::new(certified_key(chain, key)?);
        let state = Mutex::new(Loaded {
            certified,
            stamps,
            looked: Instant::now(),
        });
        Ok(Arc::new(ReloadingCertificate {
            chain: chain.to_owned(),
            key: key.to_owned(),
            state,
        }))
    }

    /// An acceptor that shows the newest certificate to each connection.
    #[must_use]
    pub fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        self.accepting(server_builder().with_no_client_auth())
    }

    /// The same, but it takes only peers that show a certificate which one of the authorities in this PEM file has signed.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn acceptor_for_clients_of(
        self: &Arc<Self>,
        authorities: &Path,
    ) -> Result<TlsAcceptor, TlsError> {
        Ok(self
            .accepting(server_builder().with_client_cert_verifier(client_verifier(authorities)?)))
    }

    fn accepting(
        self: &Arc<Self>,
        builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> TlsAcceptor {
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Looks at the files now and reads them if they changed. A certificate that cannot be used is logged once, and the old one stays.
    pub fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh_state(&mut state);
    }

    /// The certificate as of at most a second ago.
    #[must_use]
    pub fn current(&self) -> Arc<CertifiedKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_INTERVAL {
            self.refresh_state(&mut state);
        }
        state.certified.clone()
    }

    fn refresh_state(&self, state: &mut Loaded) {
        state.looked = Instant::now();
        let stamps = [stamp(&self.chain), stamp(&self.key)];
        if stamps == state.stamps {
            return;
        }
        state.stamps = stamps;
        match certified_key(&self.chain, &self.key) {
            Ok(certified) => {
                state.certified = Arc::new(certified);
                info!(certificate = %self.chain.display(), "the new certificate is in use");
            }
            Err(error) => error!(%error, "the new certificate cannot be used, the old one stays"),
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
    // PEM is text; what is beside it need not be.
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
        // A key that cannot tell its public half is taken at its word.
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
pub(super) mod tests;
