//! Whom a role trusts, what it shows of itself, and how it judges a certificate.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};

use super::{ALPN, TlsError, certificates, certified_key, provider};

/// How a certificate is judged, and what is shown of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsParameters {
    /// A PEM file with authorities to trust.
    pub ca: Option<PathBuf>,
    /// Whether the system's authorities are trusted beside those of `ca`; without `ca` they always are.
    pub system_ca: bool,
    /// SHA-256 of the certificates that may be shown. With them and without `ca`, nothing else about a certificate counts.
    pub pins: Vec<[u8; 32]>,
    /// PEM files of our certificate and its key, where the master or a gateway before it asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name to ask for (SNI), and that the certificate must be for, where it is not the host of the address.
    pub server_name: Option<String>,
    /// Whether any certificate will do.
    pub insecure_skip_verify: bool,
}

impl TlsParameters {
    /// These authorities alone, or the system's.
    #[must_use]
    pub fn trusting(ca: Option<PathBuf>) -> Self {
        TlsParameters {
            ca,
            ..TlsParameters::default()
        }
    }

    /// What of it is for a proxy: the authorities alone.
    #[must_use]
    pub fn for_proxy(&self) -> Self {
        TlsParameters {
            ca: self.ca.clone(),
            system_ca: true,
            ..TlsParameters::default()
        }
    }
}

/// The client's side.
///
/// # Errors
/// When there are no authorities to trust, or our certificate cannot be read.
pub fn client_config(parameters: &TlsParameters) -> Result<Arc<ClientConfig>, TlsError> {
    #[expect(
        clippy::expect_used,
        reason = "the provider supports both versions that rustls has"
    )]
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Judge::new(parameters)?));
    let mut config = match &parameters.client {
        Some((chain, key)) => {
            let shown = SingleCertAndKey::from(certified_key(chain, key)?);
            builder.with_client_cert_resolver(Arc::new(shown))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

tokio::task_local! {
    /// The chain that the peer of this task's handshake shows.
    static SHOWN: RefCell<Vec<CertificateDer<'static>>>;
}

/// Runs a handshake with a configuration of [`client_config`], and gives the chain that was shown too, its own certificate first, also when it was
/// refused. Nothing is shown when a session is resumed.
///
/// # Cancel safety
/// That of the handshake.
pub async fn witnessed<T>(handshake: impl Future<Output = T>) -> (T, Vec<CertificateDer<'static>>) {
    let watched = async {
        let outcome = handshake.await;
        (outcome, SHOWN.with(RefCell::take))
    };
    SHOWN.scope(RefCell::default(), watched).await
}

/// The SHA-256 of a certificate that is none of those that were pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinMismatch([u8; 32]);

impl fmt::Display for PinMismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl std::error::Error for PinMismatch {}

/// Judges certificates: by authority, name and date, by pin, or not at all. Who shows one must hold its key in any case.
#[derive(Debug)]
struct Judge {
    pins: Vec<[u8; 32]>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    fn new(parameters: &TlsParameters) -> Result<Self, TlsError> {
        let is_pin_enough =
            !parameters.pins.is_empty() && parameters.ca.is_none() && !parameters.system_ca;
        let authorities = if parameters.insecure_skip_verify || is_pin_enough {
            None
        } else {
            let roots = match &parameters.ca {
                Some(path) if parameters.system_ca => {
                    let mut roots = authorities_in(path)?;
                    roots.extend(system_authorities()?.roots);
                    roots
                }
                Some(path) => authorities_in(path)?,
                None => system_authorities()?,
            };
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            Some(verifier.map_err(|error| TlsError::NoAuthorities(error.to_string()))?)
        };
        let algorithms = provider().signature_verification_algorithms;
        Ok(Judge {
            pins: parameters.pins.clone(),
            authorities,
            algorithms,
        })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Not there when nobody wants to know.
        let _ = SHOWN.try_with(|shown| {
            let chain = std::iter::once(certificate).chain(between);
            *shown.borrow_mut() = chain
                .map(|certificate| certificate.clone().into_owned())
                .collect();
        });
        if !self.pins.is_empty() {
            let mut found = [0; 32];
            found.copy_from_slice(digest(&SHA256, certificate).as_ref());
            if !self.pins.contains(&found) {
                let other = OtherError(Arc::new(PinMismatch(found)));
                return Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                    other,
                )));
            }
        }
        match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(certificate, between, name, stapled, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn authorities_in(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's store may hold oddities; the rest of it is still good.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found
            .errors
            .first()
            .map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(TlsError::NoAuthorities(reason));
    }
    Ok(roots)
}
