//! TLS at an admin address: its options, the certificates of both sides, and the words of a failed
//! handshake.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{anyhow, bail};
use clap::Args;
use rustls::{AlertDescription, CertificateError, ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    config::TlsFilesConfig,
    net::tls::{self, TlsError, TlsParameters},
};

/// The options for an admin address with TLS.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct TlsArguments {
    /// File with the authorities of an admin address with TLS
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with a certificate to present to the admin address
    #[arg(long, global = true, value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// File with the key of --client-certificate
    #[arg(long, global = true, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Name that the certificate of the admin address must have
    #[arg(long, global = true, value_name = "NAME")]
    server_name: Option<String>,
}

impl TlsArguments {
    /// Returns the first option that is given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--ca", self.ca.is_some()),
            ("--client-certificate", self.client_certificate.is_some()),
            ("--client-key", self.client_key.is_some()),
            ("--server-name", self.server_name.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
        given.next().map(|(option, _)| option)
    }

    /// Returns the files of the client certificate and its key, if there is one.
    fn client(&self) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
        match (&self.client_certificate, &self.client_key) {
            (Some(chain), Some(key)) => Ok(Some((chain.clone(), key.clone()))),
            (None, None) => Ok(None),
            (Some(_), None) => bail!("--client-certificate has no key (name it with --client-key)"),
            (None, Some(_)) => {
                bail!("--client-key has no certificate (name it with --client-certificate)")
            }
        }
    }

    /// Returns the name that the certificate must have, if one is given.
    fn name(&self) -> anyhow::Result<Option<ServerName<'static>>> {
        let Some(name) = &self.server_name else {
            return Ok(None);
        };
        match ServerName::try_from(name.clone()) {
            Ok(name) => Ok(Some(name)),
            Err(_) => bail!(
                "--server-name {name:?} cannot be the name of a certificate (write a DNS name or an \
                 IP address)"
            ),
        }
    }
}

/// How to verify the certificate of an admin address, and which certificate to present.
#[derive(Debug)]
pub(super) struct ApiTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    ca: Option<PathBuf>,
    /// The file of the client certificate.
    certificate: Option<PathBuf>,
}

impl ApiTls {
    /// Prepares handshakes with an address that has these certificate files.
    ///
    /// # Errors
    /// If a file of the options cannot be used, or the address demands a certificate and there is
    /// none.
    pub(super) fn new(
        files: &TlsFilesConfig,
        address: SocketAddr,
        options: &TlsArguments,
    ) -> anyhow::Result<Self> {
        let client = options.client()?;
        if files.client_ca.is_some() && client.is_none() {
            bail!(
                "`admin.tls.client_ca` demands a certificate of every peer (name one with \
                 --client-certificate and --client-key, or the database with --store)"
            );
        }
        let name = options.name()?;
        let certificate = client.as_ref().map(|(chain, _)| chain.clone());
        let parameters = TlsParameters {
            client,
            ..TlsParameters::trusting(options.ca.clone())
        };
        let config = tls::client_config(&parameters);
        let config = config.map_err(|error| match error {
            TlsError::NoAuthorities(reason) => anyhow!(
                "the certificate authorities of this system cannot be read: {reason} (name a file \
                 with --ca)"
            ),
            other => anyhow!("{}: {other}", option_of(&other, options)),
        })?;
        Ok(ApiTls {
            config,
            name: name.unwrap_or_else(|| verified_name(&files.cert, address)),
            ca: options.ca.clone(),
            certificate,
        })
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// Returns the words of a failed handshake.
    pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connected = connector.connect(self.name.clone(), stream).await;
        connected.map_err(|error| self.problem(&error))
    }

    /// Returns the cause of a failed handshake, and the remedy.
    fn problem(&self, error: &io::Error) -> String {
        let reason = match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(reason)) => reason,
            Some(rustls::Error::InvalidMessage(_)) => {
                return "the process there does not use TLS (start the master again if `admin.tls` is \
                        new)"
                    .to_owned();
            }
            Some(rustls::Error::AlertReceived(alert)) => {
                return self.rejection(*alert).unwrap_or_else(|| error.to_string());
            }
            _ => return error.to_string(),
        };
        match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match &self.ca {
                Some(ca) => format!(
                    "no authority in {} has signed the certificate (name the file of its authority \
                     with --ca)",
                    ca.display()
                ),
                None => {
                    "no authority that this system trusts has signed the certificate (name the \
                         file of its authority with --ca)"
                        .to_owned()
                }
            },
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the certificate is not for {:?} (name it with --server-name; without this \
                     option, the name is the first one in `admin.tls.cert`, or the address if this \
                     machine does not have the file)",
                    self.name.to_str()
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired (renew it)".to_owned()
            }
            _ => error.to_string(),
        }
    }

    /// Returns why the address has rejected the certificate of this command, or the lack of one.
    /// Returns `None` for another error. A TLS 1.3 client learns of a rejection after its handshake.
    pub(super) fn rejection_in(&self, mut error: &(dyn Error + 'static)) -> Option<String> {
        loop {
            let fault = error.downcast_ref::<io::Error>().and_then(tls_error);
            if let Some(rustls::Error::AlertReceived(alert)) = fault {
                return self.rejection(*alert);
            }
            error = error.source()?;
        }
    }

    /// Returns what an alert says about the certificate of this command, and the remedy.
    fn rejection(&self, alert: AlertDescription) -> Option<String> {
        let Some(certificate) = &self.certificate else {
            return (alert == AlertDescription::CertificateRequired).then(|| {
                "the address demands a certificate (name one with --client-certificate and \
                 --client-key)"
                    .to_owned()
            });
        };
        let certificate = certificate.display();
        match alert {
            AlertDescription::CertificateExpired => Some(format!(
                "the certificate in {certificate} has expired (renew it)"
            )),
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError => Some(format!(
                "the address rejects the certificate in {certificate} (name one that an authority in \
                 `admin.tls.client_ca` has signed)"
            )),
            _ => None,
        }
    }
}

/// Returns the TLS error in an error of a stream.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Returns the option whose file has an error.
fn option_of(error: &TlsError, options: &TlsArguments) -> &'static str {
    let path = match error {
        TlsError::NoKey { .. } | TlsError::Mismatch { .. } => return "--client-key",
        TlsError::Unreadable { path, .. }
        | TlsError::NotPem { path, .. }
        | TlsError::NoCertificate { path }
        | TlsError::Unusable { path, .. } => Some(path),
        TlsError::Name(_) | TlsError::NoAuthorities(_) => None,
    };
    if path.is_some() && path == options.client_certificate.as_ref() {
        "--client-certificate"
    } else if path.is_some() && path == options.client_key.as_ref() {
        "--client-key"
    } else {
        "--ca"
    }
}

/// Returns the name that the certificate of the address must have: the first one in the configured
/// file, or the address if the file cannot be read here.
fn verified_name(chain: &Path, address: SocketAddr) -> ServerName<'static> {
    let names = tls::certificate_names(chain).unwrap_or_default();
    // A wildcard stands for any label.
    let names = names.iter().map(|name| name.replacen('*', "admin", 1));
    let mut names = names.filter_map(|name| ServerName::try_from(name).ok());
    names.next().unwrap_or_else(|| address.ip().into())
}

#[cfg(test)]
mod tests;
