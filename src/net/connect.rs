//! Connects to a host over TCP: resolves its name anew each time, and races its addresses (RFC
//! 8305). Used to dial masters and services.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, timeout_at},
};

pub use super::connect_error::{Attempts, ConnectError, ConnectFault, SocketFault};
use super::{
    file_limit::{self, OutOfFiles},
    resolve::{NameError, resolve},
};

/// The delay before the next address is tried in parallel (RFC 8305, 5).
pub const STAGGER: Duration = Duration::from_millis(250);

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
    connect_to(look_up(host, port, deadline).await?, deadline).await
}

/// Returns the addresses of a host, at least one, in the order of the resolver.
///
/// # Errors
/// If the name does not resolve before the deadline.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(crate) async fn look_up(
    host: &str,
    port: u16,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, ConnectError> {
    // A look-up needs descriptors too.
    file_limit::check_available().map_err(ConnectError::OutOfFiles)?;
    let found = timeout_at(deadline, resolve(host, port))
        .await
        .unwrap_or(Err(NameError::TimedOut));
    found.map_err(|source| {
        let out = match &source {
            NameError::OutOfFiles { out, .. } => Some(*out),
            _ => OutOfFiles::now(),
        };
        let host = host.to_owned();
        out.map_or(
            ConnectError::Name { host, source },
            ConnectError::OutOfFiles,
        )
    })
}

/// Connects to one of the addresses before the deadline. Alternates the families.
///
/// # Errors
/// If there is no connection; the error names each address that was tried.
///
/// # Cancel safety
/// Dropping the future closes the connections made so far.
pub(crate) async fn connect_to(
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
    // Not shuffled, unlike the addresses of a master: the first address of a service is often its
    // primary.
    let raced = race(alternate(addresses), STAGGER, attempt).await;
    raced.map_err(|attempts| {
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

/// Shuffles the addresses of each family among themselves. The order of the families does not
/// change. Otherwise all roles would dial the same address of a name, because many resolvers sort
/// their answers.
pub(super) fn shuffle_within_families(
    addresses: &[SocketAddr],
    random: &mut fastrand::Rng,
) -> Vec<SocketAddr> {
    let (mut v6, mut v4): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(SocketAddr::is_ipv6);
    random.shuffle(&mut v6);
    random.shuffle(&mut v4);
    let next_of_family = |address: &SocketAddr| {
        if address.is_ipv6() {
            v6.pop()
        } else {
            v4.pop()
        }
    };
    addresses.iter().filter_map(next_of_family).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::Ipv4Addr};

    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;
    #[cfg(target_os = "linux")]
    use crate::diagnosis::DiagnosisCode;

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

    #[test]
    fn addresses_are_shuffled_within_their_family_only() {
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let addresses = [
            "[::1]:1",
            "127.0.0.1:1",
            "[::2]:1",
            "127.0.0.2:1",
            "127.0.0.3:1",
        ]
        .map(of);
        let families = |addresses: &[SocketAddr]| -> Vec<bool> {
            addresses.iter().map(SocketAddr::is_ipv6).collect()
        };
        let mut random = fastrand::Rng::with_seed(7);
        let mut firsts = HashSet::new();
        for _ in 0..200 {
            let shuffled = shuffle_within_families(&addresses, &mut random);
            assert_eq!(families(&shuffled), families(&addresses));
            let unique: HashSet<_> = shuffled.iter().collect();
            assert_eq!(unique.len(), addresses.len(), "{shuffled:?}");
            firsts.extend([shuffled[0], shuffled[1]]);
        }
        assert_eq!(firsts.len(), 5, "each address is the first of its family");
        assert_eq!(shuffle_within_families(&[], &mut random), []);
    }
}
