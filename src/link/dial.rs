//! From the address of a master to a WebSocket, layer by layer: name, TCP, TLS, upgrade. Each failure says which layer, what was seen, and
//! what can be done.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    tcp,
    tls::{self, TlsError},
    upgrade::{self, UpgradeError},
    websocket::{ByteStream, End, MessageSocket},
};

pub use super::address::{AddressError, MasterAddress};

/// How a master is dialled.
#[derive(Debug, Clone)]
pub struct DialParameters {
    /// A PEM file with the authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// For everything, from the name to the WebSocket.
    pub deadline: Duration,
    /// After this long without an answer the next address of the name is tried beside it (RFC 8305).
    pub stagger: Duration,
}

impl Default for DialParameters {
    /// The system's authorities, 15 s in all, 250 ms between addresses.
    fn default() -> Self {
        DialParameters { ca: None, deadline: Duration::from_secs(15), stagger: Duration::from_millis(250) }
    }
}

/// Why a master could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("name: `{host}` does not resolve ({reason}); check the host in `master` and the DNS server")]
    Name {
        /// The name.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// No address of the host takes a connection.
    #[error("TCP: no connection to {}", describe_attempts(.0))]
    Connect(Vec<(SocketAddr, io::Error)>),
    /// TLS could not be established.
    #[error("TLS with `{host}`: {problem}")]
    Tls {
        /// The name that the certificate must be for.
        host: String,
        /// What went wrong.
        problem: TlsProblem,
    },
    /// The connection did not become a WebSocket.
    #[error("HTTP with {address}: {source}")]
    Upgrade {
        /// Where the request went.
        address: Box<MasterAddress>,
        /// What went wrong.
        source: UpgradeError,
    },
    /// It all took too long.
    #[error("{layer}: {address} gave no answer within {} s; {}", .after.as_secs_f32(), .layer.remedy())]
    Deadline {
        /// What was waited for.
        layer: Layer,
        /// Who was to answer.
        address: Box<MasterAddress>,
        /// The whole time that there was.
        after: Duration,
    },
}

/// A layer of the way to a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The resolver.
    Name,
    /// The connection.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The answer to the request.
    Http,
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Layer::Name => "name",
            Layer::Tcp => "TCP",
            Layer::Tls => "TLS",
            Layer::Http => "HTTP",
        })
    }
}

impl Layer {
    fn remedy(self) -> &'static str {
        match self {
            Layer::Name => "check the DNS server",
            Layer::Tcp => "is the machine reachable, and does a firewall let the port through?",
            Layer::Tls => "does that port speak TLS?",
            Layer::Http => "does that port speak HTTP, and without TLS where `master` says ws://?",
        }
    }
}

/// Why TLS could not be established.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    /// Nobody whom we trust signed the certificate.
    #[error(
        "the certificate is signed by an authority that is not trusted here; name its PEM file with `tls.ca`, or mend the certificate's chain"
    )]
    UnknownIssuer,
    /// The certificate is for other names.
    #[error("the certificate is not for this name ({0}); write the name that it is for in `master`")]
    WrongName(String),
    /// The certificate is not valid any more.
    #[error("the certificate has expired ({0}); renew it at the master, or set this machine's clock")]
    Expired(String),
    /// The certificate is not valid yet.
    #[error("the certificate is not valid yet ({0}); set this machine's clock")]
    NotYetValid(String),
    /// The certificate is that of an authority itself, as `openssl req -x509` makes it unless told otherwise.
    #[error("the master shows the certificate of an authority as its own; make one for it with basicConstraints=CA:FALSE")]
    Authority,
    /// Another problem with the certificate.
    #[error("the certificate does not verify: {0}")]
    Certificate(String),
    /// What listens there does not speak TLS.
    #[error("what listens there does not speak TLS; write ws:// in `master`, or the port of the TLS endpoint")]
    NotTls,
    /// The peer refused, or the handshake failed in another way.
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

/// Dials one master.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: MasterAddress,
    parameters: DialParameters,
    /// For a `wss://` address.
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

impl Dialer {
    /// A dialer for `address`. For `wss://` the authorities are read here, which may take some milliseconds.
    ///
    /// # Errors
    /// When there are no authorities to trust, for `wss://`.
    pub fn new(address: MasterAddress, parameters: DialParameters) -> Result<Self, TlsError> {
        let tls = if address.is_secure() {
            Some((server_name(&address)?, tls::client_config(parameters.ca.as_deref())?))
        } else {
            None
        };
        Ok(Dialer { address, parameters, tls })
    }

    /// Where it dials.
    #[must_use]
    pub fn address(&self) -> &MasterAddress {
        &self.address
    }

    /// Connects: resolves the name afresh, tries its addresses, and upgrades to a WebSocket.
    ///
    /// # Errors
    /// Which layer failed, and on what evidence.
    ///
    /// # Cancel safety
    /// Dropping the future drops what was connected so far.
    pub async fn dial(&self) -> Result<MessageSocket, DialError> {
        let deadline = Instant::now() + self.parameters.deadline;
        let late = |layer| {
            let (address, after) = (Box::new(self.address.clone()), self.parameters.deadline);
            DialError::Deadline { layer, address, after }
        };
        let addresses = timeout_at(deadline, self.resolve()).await.map_err(|_| late(Layer::Name))??;
        let stream = timeout_at(deadline, self.connect(addresses)).await.map_err(|_| late(Layer::Tcp))??;
        let Some((name, config)) = &self.tls else {
            return timeout_at(deadline, self.upgrade(stream)).await.map_err(|_| late(Layer::Http))?;
        };
        let handshake = TlsConnector::from(config.clone()).connect(name.clone(), stream);
        let stream = match timeout_at(deadline, handshake).await.map_err(|_| late(Layer::Tls))? {
            Ok(stream) => stream,
            Err(error) => return Err(DialError::Tls { host: self.address.host().to_owned(), problem: tls_problem(&error) }),
        };
        timeout_at(deadline, self.upgrade(stream)).await.map_err(|_| late(Layer::Http))?
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let host = self.address.host();
        let failed = |reason: String| DialError::Name { host: host.to_owned(), reason };
        let found = lookup_host((host, self.address.port())).await.map_err(|error| failed(error.to_string()))?;
        let addresses = alternate(found.collect());
        if addresses.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(addresses) }
    }

    /// The first connection that stands. Addresses are tried one after the other, and the next one already when one has not answered for
    /// a moment.
    async fn connect(&self, addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
        let mut waiting = addresses.into_iter();
        let mut running = JoinSet::new();
        let mut failures = Vec::new();
        loop {
            match waiting.next() {
                Some(address) => drop(running.spawn(async move { (address, TcpStream::connect(address).await) })),
                None if running.is_empty() => return Err(DialError::Connect(failures)),
                None => {}
            }
            let patience = if waiting.len() > 0 { self.parameters.stagger } else { self.parameters.deadline };
            match tokio::time::timeout(patience, running.join_next()).await {
                Ok(Some(Ok((_, Ok(stream))))) => {
                    // Without its options a connection still works.
                    let _ = tcp::prepare(&stream);
                    return Ok(stream);
                }
                Ok(Some(Ok((address, Err(error))))) => failures.push((address, error)),
                Ok(Some(Err(_)) | None) | Err(_) => {}
            }
        }
    }

    async fn upgrade(&self, mut stream: impl ByteStream) -> Result<MessageSocket, DialError> {
        match upgrade::upgrade(&mut stream, &self.address).await {
            Ok(read) => Ok(MessageSocket::new(stream, read, End::Dialled)),
            Err(source) => Err(DialError::Upgrade { address: Box::new(self.address.clone()), source }),
        }
    }
}

fn server_name(address: &MasterAddress) -> Result<ServerName<'static>, TlsError> {
    let host = address.host();
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

/// The families take turns, beginning with that of the resolver's first answer: a dead one costs one wait, not all.
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut alternated = Vec::new();
    while !(first.is_empty() && second.is_empty()) {
        alternated.extend(first.pop());
        alternated.extend(second.pop());
    }
    alternated
}

fn describe_attempts(attempts: &[(SocketAddr, io::Error)]) -> String {
    let mut text = String::new();
    for (address, error) in attempts {
        let separator = if text.is_empty() { "" } else { ", " };
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            io::ErrorKind::TimedOut => "no answer".to_owned(),
            _ => error.to_string(),
        };
        text.push_str(&format!("{separator}{address} ({reason})"));
    }
    let refused = |(address, error): &(SocketAddr, io::Error)| {
        error.kind() == io::ErrorKind::ConnectionRefused && !matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified())
    };
    let remedy = if attempts.iter().any(refused) {
        "; is the master running, and is the port right?"
    } else {
        "; is the machine reachable, and does a firewall let the port through?"
    };
    text + remedy
}

fn tls_problem(error: &io::Error) -> TlsProblem {
    let Some(rustls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                TlsProblem::Handshake("the connection was closed; does that port speak TLS?".to_owned())
            }
            _ => TlsProblem::Handshake(error.to_string()),
        };
    };
    match rustls {
        rustls::Error::InvalidCertificate(reason) => certificate_problem(reason),
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
        other => TlsProblem::Handshake(other.to_string()),
    }
}

fn certificate_problem(reason: &CertificateError) -> TlsProblem {
    match reason {
        // A bad signature: the authority was made anew under the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsProblem::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsProblem::WrongName(reason.to_string())
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsProblem::Expired(reason.to_string()),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsProblem::NotYetValid(reason.to_string())
        }
        // The verifier's own error has no type here, only its name.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => TlsProblem::Authority,
        other => TlsProblem::Certificate(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
