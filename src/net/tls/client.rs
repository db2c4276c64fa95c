//! The client side of TLS: the authorities that a role trusts, its client certificate, and the
//! verification of the master's certificate.

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

/// How to verify the master's certificate, and which certificate to present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsParameters {
    /// A PEM file with authorities to trust.
    pub ca: Option<PathBuf>,
    /// Whether to trust the system's authorities in addition to those of `ca`. Without `ca` they
    /// are always trusted.
    pub system_ca: bool,
    /// The SHA-256 of the accepted certificates. With pins and without `ca`, only the pin is
    /// verified.
    pub pins: Vec<[u8; 32]>,
    /// PEM files of the client certificate and its key, if the master or a gateway in front of it
    /// requires one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name to request (SNI) and to verify, if it differs from the host of the address.
    pub server_name: Option<String>,
    /// Whether to accept any certificate.
    pub insecure_skip_verify: bool,
}

impl TlsParameters {
    /// Trusts only the authorities in `ca`, or those of the system if it is `None`.
    #[must_use]
    pub fn trusting(ca: Option<PathBuf>) -> Self {
        TlsParameters {
            ca,
            ..TlsParameters::default()
        }
    }

    /// Returns the parameters for a TLS proxy: only the authorities apply to it.
    #[must_use]
    pub fn for_proxy(&self) -> Self {
        TlsParameters {
            ca: self.ca.clone(),
            system_ca: true,
            ..TlsParameters::default()
        }
    }
}

/// Builds the TLS configuration of a client.
///
/// # Errors
/// If there are no trusted authorities, or the client certificate cannot be read.
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
        .with_custom_certificate_verifier(Arc::new(Verifier::new(parameters)?));
    let mut config = match &parameters.client {
        Some((chain, key)) => {
            let presented = SingleCertAndKey::from(certified_key(chain, key)?);
            builder.with_client_cert_resolver(Arc::new(presented))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

tokio::task_local! {
    /// The certificate chain that the peer of this task's handshake presented.
    static PEER_CHAIN: RefCell<Vec<CertificateDer<'static>>>;
}

/// Runs a handshake that uses [`client_config`], and also returns the peer's certificate chain, its
/// own certificate first. The chain is returned even if it was rejected; it is empty if the session
/// was resumed.
///
/// # Cancel safety
/// That of the handshake.
pub async fn captured_chain<T>(
    handshake: impl Future<Output = T>,
) -> (T, Vec<CertificateDer<'static>>) {
    let watched = async {
        let outcome = handshake.await;
        (outcome, PEER_CHAIN.with(RefCell::take))
    };
    PEER_CHAIN.scope(RefCell::default(), watched).await
}

/// The SHA-256 of a certificate that matches no pin.
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

/// Verifies the peer's certificate by authority, name and date, by pin, or not at all. The peer
/// must prove possession of the key in every case.
#[derive(Debug)]
struct Verifier {
    pins: Vec<[u8; 32]>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
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
        Ok(Verifier {
            pins: parameters.pins.clone(),
            authorities,
            algorithms,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Unset outside of `captured_chain`.
        let _ = PEER_CHAIN.try_with(|peer_chain| {
            let chain = std::iter::once(certificate).chain(between);
            *peer_chain.borrow_mut() = chain
                .map(|certificate| certificate.clone().into_owned())
                .collect();
        });
        // A pin applies in addition to the authorities, if both are configured.
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
    // A system's store may contain malformed entries; skip them and use the rest.
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
