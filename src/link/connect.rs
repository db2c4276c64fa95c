//! From a host to a TCP connection: its addresses, afresh each time, raced as RFC 8305 has it. Shared by what dials masters and what dials services.

use std::{fmt, io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    files::{self, OutOfFiles},
    resolve::look_up,
};

/// After this long without an answer the next address of a name is tried beside it (RFC 8305, 5).
pub const STAGGER: Duration = Duration::from_millis(250);

/// Why there is no connection to a host. Prints as one line: what was seen, and what can be done where that is known.
#[derive(Debug)]
pub enum ConnectError {
    /// The name does not resolve, or has no address.
    Name {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// None of the addresses takes a connection.
    Addresses(Attempts),
    /// There is no descriptor for it.
    OutOfFiles(OutOfFiles),
}

/// Addresses that were tried, and why each gave no connection.
pub type Attempts = Vec<(SocketAddr, io::Error)>;

impl ConnectError {
    /// What it comes down to. A refusal says more than silence, and silence more than what keeps this machine from asking, such as a lack of IPv6.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, Other, TimedOut};
        match self {
            ConnectError::OutOfFiles(_) => Other,
            ConnectError::Name { source, .. } => source.kind(),
            ConnectError::Addresses(attempts) => {
                let any = |kind| attempts.iter().any(|(_, error)| error.kind() == kind);
                [ConnectionRefused, TimedOut]
                    .into_iter()
                    .find(|kind| any(*kind))
                    .unwrap_or(HostUnreachable)
            }
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Name { host, source } if source.kind() == io::ErrorKind::TimedOut => {
                write!(
                    formatter,
                    "`{host}` was not resolved in time; check the DNS server"
                )
            }
            ConnectError::Name { host, source } => {
                write!(formatter, "`{host}` does not resolve ({source})")
            }
            ConnectError::Addresses(attempts) => {
                write!(formatter, "no connection to {}", list(attempts))
            }
            ConnectError::OutOfFiles(out) => write!(formatter, "{out}; {}", out.remedy()),
        }
    }
}

impl std::error::Error for ConnectError {}

/// A connection to a local service, within `limit` from the name to the connection. It leaves the descriptors that are kept for links.
///
/// # Errors
/// When there is none: each address that was tried is named.
///
/// # Cancel safety
/// Dropping the future drops what was connected so far.
pub async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + limit;
    // A look-up takes descriptors too.
    files::room().map_err(ConnectError::OutOfFiles)?;
    let failed = |source| match OutOfFiles::of(&source).or_else(OutOfFiles::now) {
        Some(out) => ConnectError::OutOfFiles(out),
        None => ConnectError::Name {
            host: host.to_owned(),
            source,
        },
    };
    let found = timeout_at(deadline, look_up(host, port))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let addresses = alternate(found.map_err(failed)?);
    if addresses.is_empty() {
        return Err(failed(io::Error::new(
            io::ErrorKind::NotFound,
            "it has no address",
        )));
    }
    connect_to(addresses, deadline).await
}

/// A connection to one of the addresses, at the latest at the deadline.
async fn connect_to(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
) -> Result<TcpStream, ConnectError> {
    let attempt = move |address: SocketAddr| async move {
        files::room()?;
        let socket = if address.is_ipv6() {
            TcpSocket::new_v6()?
        } else {
            TcpSocket::new_v4()?
        };
        files::note(&socket);
        timeout_at(deadline, socket.connect(address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    };
    race(addresses, STAGGER, attempt).await.map_err(|attempts| {
        let out = attempts.iter().find_map(|(_, error)| OutOfFiles::of(error));
        out.map_or(ConnectError::Addresses(attempts), ConnectError::OutOfFiles)
    })
}

/// The first connection that is established. Addresses are tried one after the other, and the next one already when one has not answered for `stagger`.
///
/// # Errors
/// What each address said, when none gave a connection.
///
/// # Cancel safety
/// Dropping the future ends all attempts.
pub(super) async fn race<F>(
    addresses: Vec<SocketAddr>,
    stagger: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<TcpStream, Attempts>
where
    F: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    if let &[address] = addresses.as_slice() {
        return connect(address)
            .await
            .map_err(|error| vec![(address, error)]);
    }
    let mut waiting = addresses.into_iter();
    let mut running = JoinSet::new();
    let mut attempts = Vec::new();
    loop {
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
            Some(Ok((address, Err(error)))) => attempts.push((address, error)),
            Some(Err(_)) | None => {}
        }
    }
}

/// The families take turns, beginning with that of the resolver's first answer: a dead one costs one wait, not all.
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

/// The addresses that were tried, and what each said.
pub(super) fn list(attempts: &[(SocketAddr, io::Error)]) -> String {
    let said: Vec<String> = attempts
        .iter()
        .map(|(address, error)| format!("{address} ({})", refusal_of(error)))
        .collect();
    said.join(", ")
}

/// What became of a connection, in a word or two.
pub(super) fn refusal_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    /// An address that swallows SYNs: that of a listener whose queue is full, as long as it and the connections in its queue are kept.
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

    /// An address that refuses, as long as its socket is kept: nothing else gets it.
    #[cfg(target_os = "linux")]
    fn refusing() -> (SocketAddr, Socket) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        (socket.local_addr().unwrap().as_socket().unwrap(), socket)
    }

    fn within(limit: Duration) -> Instant {
        Instant::now() + limit
    }

    const LONG: Duration = Duration::from_secs(60);

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_silent_address_costs_a_moment_and_not_the_connection() {
        let (silent, _listener, _queued) = silent().await;
        let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = service.local_addr().unwrap();
        let (gone, _bound) = refusing();
        let begun = Instant::now();
        let stream = connect_to(vec![silent, gone, address], within(LONG))
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(begun.elapsed() < LONG / 4, "{:?}", begun.elapsed());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn every_address_is_named_with_what_it_said_and_a_refusal_says_most() {
        let (silent, _listener, _queued) = silent().await;
        let limit = Duration::from_millis(500);
        let error = connect_to(vec![silent], within(limit)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (
                io::ErrorKind::TimedOut,
                format!("no connection to {silent} (no answer)")
            )
        );
        let (gone, _bound) = refusing();
        let error = connect_to(vec![silent, gone], within(limit))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(
            error.to_string(),
            format!("no connection to {gone} (refused), {silent} (no answer)")
        );
    }

    #[test]
    fn what_keeps_this_machine_from_asking_says_least() {
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let of = |kinds: &[io::ErrorKind]| {
            ConnectError::Addresses(kinds.iter().map(|kind| (address, (*kind).into())).collect())
        };
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
        assert_eq!(of(&[NetworkUnreachable, TimedOut]).kind(), TimedOut);
        assert_eq!(
            of(&[NetworkUnreachable, TimedOut, ConnectionRefused]).kind(),
            ConnectionRefused
        );
        assert_eq!(of(&[NetworkUnreachable]).kind(), HostUnreachable);
    }

    #[tokio::test]
    async fn a_name_leads_to_its_service_or_is_named() {
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
    fn the_families_of_addresses_take_turns() {
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [a, b, c, d] = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"].map(of);
        assert_eq!(alternate(vec![a, b, c, d]), [a, d, b, c]);
        assert_eq!(alternate(vec![]), []);
    }
}
