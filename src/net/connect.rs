//! Connects to a host over TCP: resolves its name anew each time, and races its addresses (RFC
//! 8305). Used to dial masters and services.

use std::{borrow::Cow, fmt, io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    file_limit::{self, OutOfFiles},
    resolve::{NameError, resolve},
};
use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// The delay before the next address is tried in parallel (RFC 8305, 5).
pub const STAGGER: Duration = Duration::from_millis(250);

/// Why there is no connection to a host. Prints as one line: the evidence and, if known, the
/// remedy.
#[derive(Debug)]
pub enum ConnectError {
    /// The name does not resolve, or has no address.
    Name {
        /// The name.
        host: String,
        /// The resolver's error.
        source: NameError,
    },
    /// None of the addresses accepts a connection.
    Addresses(Attempts),
    /// There is no free file descriptor.
    OutOfFiles(OutOfFiles),
}

/// The addresses that were tried, with the fault of each.
pub type Attempts = Vec<(SocketAddr, ConnectFault)>;

/// Why one address does not accept a connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFault {
    /// No program listens there, or a firewall refuses.
    #[error("refused")]
    Refused,
    /// There was no answer in time.
    #[error("no answer")]
    NoAnswer,
    /// The socket could not be bound to the configured local end.
    #[error("cannot bind to {from}: {error}")]
    Bind {
        /// The configured address or interface.
        from: String,
        /// The system's error.
        error: io::Error,
    },
    /// There is no free file descriptor.
    #[error("{error}")]
    OutOfFiles {
        /// The exhausted limit.
        out: OutOfFiles,
        /// The system's error.
        error: io::Error,
    },
    /// The system reports another error.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for ConnectFault {
    fn from(error: io::Error) -> Self {
        if let Some(out) = OutOfFiles::of(&error) {
            return ConnectFault::OutOfFiles { out, error };
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFault::Refused,
            io::ErrorKind::TimedOut => ConnectFault::NoAnswer,
            _ => ConnectFault::Other(error),
        }
    }
}

impl ConnectFault {
    /// Returns the exhausted limit, if that is the fault.
    #[must_use]
    pub fn out_of_files(&self) -> Option<OutOfFiles> {
        match self {
            ConnectFault::OutOfFiles { out, .. } => Some(*out),
            _ => None,
        }
    }

    /// Returns the likely cause.
    #[must_use]
    pub fn cause(&self) -> Cow<'static, str> {
        match self {
            ConnectFault::Refused => "no program listens there".into(),
            ConnectFault::Bind { .. } => {
                "this machine has no such address or interface, or rePort may not use it".into()
            }
            ConnectFault::OutOfFiles { out, .. } => out.to_string().into(),
            ConnectFault::NoAnswer | ConnectFault::Other(_) => {
                "the machine is down, or a firewall drops its packets".into()
            }
        }
    }

    /// Returns the remedy of a fault on this machine, or `None` for one of the path or the peer.
    #[must_use]
    pub fn local_remedy(&self) -> Option<&'static str> {
        match self {
            ConnectFault::Bind { .. } => Some("correct `bind_address`"),
            ConnectFault::OutOfFiles { out, .. } => Some(out.remedy()),
            ConnectFault::Refused | ConnectFault::NoAnswer | ConnectFault::Other(_) => None,
        }
    }

    /// Returns the code for dialling a master or a proxy.
    #[must_use]
    pub fn code(&self) -> DiagnosisCode {
        match self {
            ConnectFault::Refused => DiagnosisCode::TcpRefused,
            ConnectFault::NoAnswer => DiagnosisCode::TcpTimeout,
            ConnectFault::Bind { .. } => DiagnosisCode::BindFailed,
            ConnectFault::OutOfFiles { .. } => DiagnosisCode::OutOfFiles,
            ConnectFault::Other(_) => DiagnosisCode::TcpUnreachable,
        }
    }
}

impl ConnectError {
    /// Returns the code of the most telling fault. A refusal ranks above a timeout, and a timeout
    /// above a local obstacle such as missing IPv6.
    #[must_use]
    pub fn code(&self) -> DiagnosisCode {
        match self {
            ConnectError::OutOfFiles(_) => DiagnosisCode::OutOfFiles,
            ConnectError::Name { .. } => DiagnosisCode::ServiceNameFailed,
            ConnectError::Addresses(attempts) => {
                let any =
                    |is: fn(&ConnectFault) -> bool| attempts.iter().any(|(_, fault)| is(fault));
                if any(|fault| matches!(fault, ConnectFault::Refused)) {
                    DiagnosisCode::ServiceRefused
                } else if any(|fault| matches!(fault, ConnectFault::NoAnswer)) {
                    DiagnosisCode::ServiceTimeout
                } else {
                    DiagnosisCode::ServiceUnreachable
                }
            }
        }
    }

    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        let code = self.code();
        if let ConnectError::OutOfFiles(out) = self {
            return Diagnosis::new(code, out.to_string(), "", out.remedy());
        }
        let cause = match code {
            DiagnosisCode::ServiceNameFailed => {
                "the name is wrong, or the DNS server does not know it or is unreachable"
            }
            DiagnosisCode::ServiceRefused => "no program listens there",
            DiagnosisCode::ServiceTimeout => "its host is down, or a firewall drops the packets",
            _ => "there is no route to it",
        };
        let remedy = "start the service, or correct the port's `local_address`";
        Diagnosis::new(code, self.to_string(), cause, remedy)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Name {
                host,
                source: NameError::TimedOut,
            } => {
                write!(
                    formatter,
                    "`{host}` was not resolved in time; check the DNS server"
                )
            }
            ConnectError::Name { host, source } => {
                write!(formatter, "`{host}` does not resolve ({source})")
            }
            ConnectError::Addresses(attempts) => {
                write!(formatter, "no connection to {}", list_attempts(attempts))
            }
            ConnectError::OutOfFiles(out) => write!(formatter, "{out}; {}", out.remedy()),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Connects to a local service within `limit`, including the name resolution. Leaves the
/// descriptors that are reserved for links.
///
/// # Errors
/// If there is no connection; the error names each address that was tried.
///
/// # Cancel safety
/// Dropping the future closes the connections made so far.
pub async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + limit;
    // A look-up needs descriptors too.
    file_limit::check_available().map_err(ConnectError::OutOfFiles)?;
    let found = timeout_at(deadline, resolve(host, port))
        .await
        .unwrap_or(Err(NameError::TimedOut));
    let addresses = found.map_err(|source| {
        let out = match &source {
            NameError::OutOfFiles { out, .. } => Some(*out),
            _ => OutOfFiles::now(),
        };
        let host = host.to_owned();
        out.map_or(
            ConnectError::Name { host, source },
            ConnectError::OutOfFiles,
        )
    })?;
    connect_to(alternate(addresses), deadline).await
}

/// Connects to one of the addresses before the deadline.
async fn connect_to(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
) -> Result<TcpStream, ConnectError> {
    let attempt = move |address: SocketAddr| async move {
        file_limit::check_available()?;
        let socket = if address.is_ipv6() {
            TcpSocket::new_v6()?
        } else {
            TcpSocket::new_v4()?
        };
        file_limit::record_socket(&socket);
        timeout_at(deadline, socket.connect(address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    };
    race(addresses, STAGGER, attempt).await.map_err(|attempts| {
        let out = attempts.iter().find_map(|(_, fault)| fault.out_of_files());
        out.map_or(ConnectError::Addresses(attempts), ConnectError::OutOfFiles)
    })
}

/// Returns the first established connection. Tries the addresses in order, and starts the next
/// attempt when one fails or does not answer for `stagger`.
///
/// # Errors
/// The fault of each address, if none accepts a connection.
///
/// # Cancel safety
/// Dropping the future ends all attempts.
pub(super) async fn race<F, E>(
    addresses: Vec<SocketAddr>,
    stagger: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<TcpStream, Attempts>
where
    F: Future<Output = Result<TcpStream, E>> + Send + 'static,
    E: Into<ConnectFault> + Send + 'static,
{
    if let &[address] = addresses.as_slice() {
        return connect(address)
            .await
            .map_err(|error| vec![(address, error.into())]);
    }
    let mut waiting = addresses.into_iter();
    let mut running = JoinSet::new();
    let mut attempts = Vec::new();
    loop {
        // Reached at the start, after a failed attempt, and after `stagger` without a result.
        match waiting.next() {
            Some(address) => {
                let attempt = connect(address);
                running.spawn(async move { (address, attempt.await) });
            }
            None if running.is_empty() => return Err(attempts),
            None => {}
        }
        let ended = if waiting.len() > 0 {
            tokio::time::timeout(stagger, running.join_next())
                .await
                .unwrap_or(None)
        } else {
            running.join_next().await
        };
        match ended {
            Some(Ok((_, Ok(stream)))) => return Ok(stream),
            Some(Ok((address, Err(error)))) => attempts.push((address, error.into())),
            Some(Err(_)) | None => {}
        }
    }
}

/// Alternates the address families, starting with that of the resolver's first answer. A dead
/// family then costs one wait, not one per address.
pub(super) fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut alternated = Vec::new();
    while !(first.is_empty() && second.is_empty()) {
        alternated.extend(first.pop());
        alternated.extend(second.pop());
    }
    alternated
}

/// Lists the addresses that were tried, with the fault of each.
pub(super) fn list_attempts(attempts: &[(SocketAddr, ConnectFault)]) -> String {
    let described: Vec<String> = attempts
        .iter()
        .map(|(address, fault)| format!("{address} ({fault})"))
        .collect();
    described.join(", ")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    /// Returns an address that drops SYNs: a listener whose queue is full. Keep the listener and
    /// the queued connections alive.
    #[cfg(target_os = "linux")]
    async fn silent() -> (SocketAddr, Socket, Vec<TcpStream>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
        }
        (address, listener, queued)
    }

    /// Returns an address that refuses connections. No other program gets it while the socket is
    /// open.
    #[cfg(target_os = "linux")]
    fn refusing() -> (SocketAddr, Socket) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        (socket.local_addr().unwrap().as_socket().unwrap(), socket)
    }

    fn deadline_after(limit: Duration) -> Instant {
        Instant::now() + limit
    }

    const LONG: Duration = Duration::from_secs(60);

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn silent_address_delays_but_does_not_fail_the_connection() {
        let (silent, _listener, _queued) = silent().await;
        let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = service.local_addr().unwrap();
        let (gone, _bound) = refusing();
        let started = Instant::now();
        let stream = connect_to(vec![silent, gone, address], deadline_after(LONG))
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(started.elapsed() < LONG / 4, "{:?}", started.elapsed());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn error_lists_every_address_and_refusal_ranks_first() {
        let (silent, _listener, _queued) = silent().await;
        let limit = Duration::from_millis(500);
        let error = connect_to(vec![silent], deadline_after(limit))
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.to_string()),
            (
                DiagnosisCode::ServiceTimeout,
                format!("no connection to {silent} (no answer)")
            )
        );
        let (gone, _bound) = refusing();
        let error = connect_to(vec![silent, gone], deadline_after(limit))
            .await
            .unwrap_err();
        assert_eq!(error.code(), DiagnosisCode::ServiceRefused);
        assert_eq!(
            error.to_string(),
            format!("no connection to {gone} (refused), {silent} (no answer)")
        );
    }

    #[test]
    fn local_obstacle_ranks_last() {
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let of = |kinds: &[io::ErrorKind]| {
            let fault = |kind: &io::ErrorKind| ConnectFault::from(io::Error::from(*kind));
            ConnectError::Addresses(kinds.iter().map(|kind| (address, fault(kind))).collect())
                .code()
        };
        use io::ErrorKind::{ConnectionRefused, NetworkUnreachable, TimedOut};
        assert_eq!(
            of(&[NetworkUnreachable, TimedOut]),
            DiagnosisCode::ServiceTimeout
        );
        assert_eq!(
            of(&[NetworkUnreachable, TimedOut, ConnectionRefused]),
            DiagnosisCode::ServiceRefused
        );
        assert_eq!(of(&[NetworkUnreachable]), DiagnosisCode::ServiceUnreachable);
    }

    #[tokio::test]
    async fn connect_reaches_service_or_names_host() {
        let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = service.local_addr().unwrap().port();
        assert!(connect("localhost", port, LONG).await.is_ok());
        let error = connect("no-such-host.invalid", port, LONG)
            .await
            .unwrap_err();
        assert!(
            error.to_string().starts_with("`no-such-host.invalid` "),
            "{error}"
        );
    }

    #[test]
    fn address_families_alternate() {
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [a, b, c, d] = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"].map(of);
        assert_eq!(alternate(vec![a, b, c, d]), [a, d, b, c]);
        assert_eq!(alternate(vec![]), []);
    }
}
