//! The connection to an admin address: a unix socket, or TCP with or without TLS.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{anyhow, bail};
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    config::{AdminAddress, AdminConfig, TlsFilesConfig},
    net::{
        tls::{self, TlsError, TlsParameters},
        websocket::ByteStream,
    },
};

/// Where a master serves its API, and how to connect to it.
#[derive(Debug)]
pub(super) struct ApiTransport {
    address: AdminAddress,
    tls: Option<ApiTls>,
}

/// How to verify the certificate of an admin address.
#[derive(Debug)]
struct ApiTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    ca: Option<PathBuf>,
}

/// The reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// No process listens at the address.
    #[error("no process listens there: {0}")]
    Absent(io::Error),
    /// The system refuses the connection.
    #[error("{0}{remedy}", remedy = advice(.0))]
    Refused(io::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (run the command as the user of the master, or as root)"
        }
        _ => "",
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => OpenError::Absent(error),
            _ => OpenError::Refused(error),
        }
    }
}

impl ApiTransport {
    /// Prepares connections to an admin address. With TLS, the authorities in the file `ca` are
    /// trusted, or those of the system.
    ///
    /// # Errors
    /// If the authorities cannot be read, or the address does not use TLS but has a `ca`.
    pub(super) fn new(config: &AdminConfig, ca: Option<&Path>) -> anyhow::Result<Self> {
        let address = config.listen_at.clone();
        let tls = match (&config.tls, tcp_address(&address)) {
            (Some(files), Some(address)) => Some(ApiTls::new(files, address, ca)?),
            _ if ca.is_some() => bail!("--ca has no effect without `admin.tls` (omit it)"),
            _ => None,
        };
        Ok(ApiTransport { address, tls })
    }

    /// Returns the admin address.
    pub(super) fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If no process listens, the system refuses, or the certificate is not trusted.
    pub(super) async fn open(&self) -> Result<Box<dyn ByteStream>, OpenError> {
        let Some(address) = tcp_address(&self.address) else {
            return self.open_unix().await;
        };
        let stream = TcpStream::connect(address).await?;
        match &self.tls {
            Some(tls) => Ok(Box::new(tls.connect(stream).await?)),
            None => Ok(Box::new(stream)),
        }
    }

    async fn open_unix(&self) -> Result<Box<dyn ByteStream>, OpenError> {
        #[cfg(unix)]
        if let AdminAddress::Unix(path) = &self.address {
            return Ok(Box::new(tokio::net::UnixStream::connect(path).await?));
        }
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }
}

impl ApiTls {
    fn new(files: &TlsFilesConfig, address: SocketAddr, ca: Option<&Path>) -> anyhow::Result<Self> {
        if files.client_ca.is_some() {
            bail!(
                "`admin.tls.client_ca` demands a certificate of every peer, and these commands have \
                 none (omit it, because tokens protect the address, or name the database with --store)"
            );
        }
        let ca = ca.map(Path::to_owned);
        let config = tls::client_config(&TlsParameters::trusting(ca.clone()));
        let config = config.map_err(|error| match error {
            TlsError::NoAuthorities(reason) => anyhow!(
                "the certificate authorities of this system cannot be read: {reason} (name a file \
                 with --ca)"
            ),
            other => anyhow!("--ca: {other}"),
        })?;
        Ok(ApiTls {
            config,
            name: verified_name(&files.cert, address),
            ca,
        })
    }

    /// Performs the handshake.
    async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, OpenError> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connected = connector.connect(self.name.clone(), stream).await;
        connected.map_err(|error| OpenError::Tls(self.problem(&error)))
    }

    /// Returns the cause of a failed handshake, and the remedy.
    fn problem(&self, error: &io::Error) -> String {
        let fault = error
            .get_ref()
            .and_then(|fault| fault.downcast_ref::<rustls::Error>());
        let reason = match fault {
            Some(rustls::Error::InvalidCertificate(reason)) => reason,
            Some(rustls::Error::InvalidMessage(_)) => {
                return "the process there does not use TLS (start the master again if `admin.tls` is \
                        new)"
                    .to_owned();
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
                    "the certificate is not for {:?} (the name is the first one in `admin.tls.cert`, \
                     or the address if this machine does not have the file)",
                    self.name.to_str()
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired (renew it)".to_owned()
            }
            _ => error.to_string(),
        }
    }
}

/// Returns the TCP address to connect to. A listener at all addresses is also at loopback.
fn tcp_address(address: &AdminAddress) -> Option<SocketAddr> {
    let (AdminAddress::Loopback(address) | AdminAddress::Public(address)) = address else {
        return None;
    };
    let mut address = *address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address)
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
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;
    use crate::net::tls::tests::Authority;

    /// The configuration of an admin address with the certificate of an authority.
    fn config(address: SocketAddr, authority: &Authority) -> AdminConfig {
        AdminConfig {
            listen_at: AdminAddress::Loopback(address),
            tls: Some(TlsFilesConfig {
                cert: authority
                    .path("cert.pem")
                    .display()
                    .to_string()
                    .as_str()
                    .into(),
                key: authority
                    .path("key.pem")
                    .display()
                    .to_string()
                    .as_str()
                    .into(),
                client_ca: None,
            }),
        }
    }

    /// Connects to an address that presents a certificate of one authority. Returns the error.
    async fn connect(
        presenting: &Authority,
        configured: &Authority,
        ca: &Authority,
    ) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(listener.local_addr().unwrap(), configured);
        let files = [presenting.path("cert.pem"), presenting.path("key.pem")];
        let certificate = tls::ReloadingCertificate::load(&files[0], &files[1]).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = certificate.acceptor().accept(stream).await {
                let _ = stream.read_u8().await;
            }
        });
        let transport = ApiTransport::new(&config, Some(&ca.path("ca.pem"))).unwrap();
        let opened = transport.open().await;
        opened.map(drop).map_err(|error| error.to_string())
    }

    fn authority(host: &str) -> Authority {
        let authority = Authority::new();
        authority.sign(host, |_| ());
        authority
    }

    #[tokio::test]
    async fn the_certificate_must_have_a_trusted_authority_and_the_configured_name() {
        let relay = authority("relay.test");
        assert_eq!(connect(&relay, &relay, &relay).await, Ok(()));
        let other = authority("other.test");
        let error = connect(&relay, &relay, &other).await.unwrap_err();
        assert!(
            error.contains("no authority in") && error.contains("--ca"),
            "{error}"
        );
        let error = connect(&relay, &other, &relay).await.unwrap_err();
        assert!(error.contains("is not for \"other.test\""), "{error}");
    }

    #[tokio::test]
    async fn expired_certificates_and_wildcards_are_told_apart() {
        let wildcard = authority("*.relay.test");
        assert_eq!(connect(&wildcard, &wildcard, &wildcard).await, Ok(()));
        let expired = Authority::new();
        expired.sign("relay.test", |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        let error = connect(&expired, &expired, &expired).await.unwrap_err();
        assert!(error.contains("has expired"), "{error}");
    }

    #[tokio::test]
    async fn an_absent_process_differs_from_one_without_tls() {
        let relay = authority("relay.test");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(listener.local_addr().unwrap(), &relay);
        let transport = ApiTransport::new(&config, Some(&relay.path("ca.pem"))).unwrap();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read_u8().await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            // Closing with unread data would reset the connection before the answer arrives.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let (opened, ()) = tokio::join!(transport.open(), answer);
        let error = opened.map(drop).unwrap_err();
        assert!(error.to_string().contains("does not use TLS"), "{error}");
        drop(listener);
        let opened = transport.open().await.map(drop);
        assert!(matches!(opened, Err(OpenError::Absent(_))), "{opened:?}");
    }

    #[test]
    fn unusable_options_are_errors() {
        let relay = authority("relay.test");
        let address = "127.0.0.1:9300".parse().unwrap();
        let plain = AdminConfig::new(AdminAddress::Loopback(address));
        let ca = relay.path("ca.pem");
        let refused = |config: &AdminConfig, ca: &Path| {
            let transport = ApiTransport::new(config, Some(ca));
            transport.map(drop).unwrap_err().to_string()
        };
        assert!(refused(&plain, &ca).contains("--ca has no effect"));
        let mut config = config(address, &relay);
        let error = refused(&config, &relay.path("absent.pem"));
        assert!(
            error.starts_with("--ca: ") && error.contains("absent.pem"),
            "{error}"
        );
        if let Some(files) = &mut config.tls {
            files.client_ca = Some("ca.pem".into());
        }
        assert!(refused(&config, &ca).contains("`admin.tls.client_ca`"));
    }

    #[test]
    fn a_listener_at_all_addresses_is_at_loopback() {
        for (listen_at, expected) in [
            ("0.0.0.0:9300", "127.0.0.1:9300"),
            ("[::]:9300", "[::1]:9300"),
            ("192.0.2.7:9300", "192.0.2.7:9300"),
        ] {
            let address = AdminAddress::Public(listen_at.parse().unwrap());
            assert_eq!(tcp_address(&address), Some(expected.parse().unwrap()));
        }
        assert_eq!(
            tcp_address(&AdminAddress::Unix("/run/admin.sock".into())),
            None
        );
    }
}
