//! The local addresses of a client's ports, and their listeners and UDP sockets.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tracing::debug;

#[cfg(unix)]
use crate::net::{
    unix_owner::FileOwner,
    unix_socket::{SocketAccess, UnixSocket},
};
use crate::{
    config::{HostPort, LocalAddress, SocketMode, SocketOwner, Target, UnixAddress},
    net::{
        local_listener::{LocalListener, listen_remedy},
        tcp,
        udp::DatagramSocket,
    },
    tunnel::ServiceProtocol,
};

/// First and longest pause between attempts to listen at an unavailable address.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Where a port of a client listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortAddress {
    /// The address, or a range of ports.
    pub address: LocalAddress,
    /// The mode of the file of a unix socket; 0600 if absent.
    pub socket_mode: Option<SocketMode>,
    /// The owner of the file of a unix socket.
    pub socket_owner: Option<SocketOwner>,
}

impl From<HostPort> for PortAddress {
    fn from(address: HostPort) -> Self {
        PortAddress {
            address: LocalAddress::Tcp(address),
            socket_mode: None,
            socket_owner: None,
        }
    }
}

/// The kind of traffic for which a port listens at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenerKind {
    Streams,
    Datagrams,
}

impl ListenerKind {
    /// Returns what a port with this protocol listens for at each of its addresses.
    fn of(protocol: ServiceProtocol) -> impl Iterator<Item = Self> + Clone {
        let streams = protocol.has_tcp().then_some(Self::Streams);
        let datagrams = protocol.has_udp().then_some(Self::Datagrams);
        streams.into_iter().chain(datagrams)
    }
}

/// A listener or a UDP socket of a port.
#[derive(Debug)]
pub(super) enum BoundListener {
    Streams(LocalListener),
    Datagrams(DatagramSocket),
}

impl BoundListener {
    /// Returns the address with the port that the system chose, or `None` for a unix socket.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            BoundListener::Streams(listener) => listener.local_addr(),
            BoundListener::Datagrams(socket) => Some(socket.local_addr()),
        }
    }
}

/// All IP addresses of a client. An IPv6 wildcard listener leaves IPv4 to a port that has the IPv4
/// address.
pub(super) struct BindAddresses(Arc<[SocketAddr]>);

impl BindAddresses {
    /// Resolves the addresses. A name that does not resolve now is resolved again by
    /// [`BindAddress::listen`].
    pub(super) async fn resolve<'a>(addresses: impl Iterator<Item = &'a PortAddress>) -> Self {
        let mut all = Vec::new();
        for PortAddress { address, .. } in addresses {
            // All ports of a range have the same host.
            let Some(Target::Tcp(first)) = address.at(0) else {
                continue;
            };
            let found = tokio::net::lookup_host(first.to_string()).await;
            let found: Vec<SocketAddr> = found.into_iter().flatten().collect();
            for offset in 0..address.count() {
                let port = first.port.saturating_add(offset);
                all.extend(found.iter().map(|found| {
                    let mut found = *found;
                    found.set_port(port);
                    found
                }));
            }
        }
        BindAddresses(all.into())
    }

    /// Returns the addresses of a port, in the order of their numbers, each once for everything that
    /// a port with this protocol listens for.
    pub(super) fn of(&self, port: &PortAddress, protocol: ServiceProtocol) -> Vec<BindAddress> {
        let kinds = ListenerKind::of(protocol);
        let numbered = (0..port.address.count())
            .flat_map(|offset| kinds.clone().map(move |kind| (offset, kind)));
        let address = |(offset, kind)| {
            Some(BindAddress {
                offset,
                kind,
                target: port.address.at(offset)?,
                socket_mode: port.socket_mode,
                socket_owner: port.socket_owner.clone(),
                all: Arc::clone(&self.0),
            })
        };
        numbered.filter_map(address).collect()
    }
}

/// One address at which a port listens.
pub(super) struct BindAddress {
    /// The number of the address in the range of the port, from 0.
    pub(super) offset: u16,
    kind: ListenerKind,
    target: Target,
    socket_mode: Option<SocketMode>,
    socket_owner: Option<SocketOwner>,
    all: Arc<[SocketAddr]>,
}

impl fmt::Display for BindAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(formatter)
    }
}

impl BindAddress {
    /// Takes the number that the system has chosen for the streams of this address, if it is the one
    /// for its datagrams: a port has one number for both.
    pub(super) fn follow(&mut self, streams: &BoundListener) {
        if let Target::Tcp(address) = &mut self.target
            && let Some(bound) = streams.local_addr()
            && self.kind == ListenerKind::Datagrams
            && address.port == 0
        {
            address.port = bound.port();
        }
    }

    /// Listens at the unix socket, or at the first available address of the name.
    ///
    /// # Errors
    /// The error of the last address.
    pub(super) async fn listen(&self) -> io::Result<BoundListener> {
        match &self.target {
            Target::Tcp(address) => self.listen_at_port(address).await,
            Target::Unix(address) => self.listen_at_socket(address).map(BoundListener::Streams),
        }
    }

    async fn listen_at_port(&self, address: &HostPort) -> io::Result<BoundListener> {
        let mut error = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in tokio::net::lookup_host(address.to_string()).await? {
            let bound = match self.kind {
                ListenerKind::Streams => tcp::listen(address, &self.all)
                    .map(|listener| BoundListener::Streams(LocalListener::Tcp(listener))),
                ListenerKind::Datagrams => {
                    DatagramSocket::bind(address, &self.all).map(BoundListener::Datagrams)
                }
            };
            match bound {
                Ok(bound) => return Ok(bound),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// Returns the remedy for an error of [`BindAddress::listen`].
    pub(super) fn remedy(&self, error: &io::Error) -> &'static str {
        match (listen_remedy(error), &self.target) {
            ("", Target::Tcp(_)) => " (choose another address)",
            (remedy, _) => remedy,
        }
    }

    /// Retries until it succeeds.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no listener behind.
    pub(super) async fn listen_with_retry(&self, mark: &str) -> BoundListener {
        let mut pause = RETRY_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            match self.listen().await {
                Ok(listener) => return listener,
                Err(error) => {
                    debug!(port = mark, address = %self, "cannot listen yet: {error}")
                }
            }
            pause = pause.saturating_mul(2).min(RETRY_MAX);
        }
    }

    #[cfg(unix)]
    fn listen_at_socket(&self, address: &UnixAddress) -> io::Result<LocalListener> {
        let owner = match &self.socket_owner {
            Some(owner) => FileOwner::look_up(owner.user.as_deref(), owner.group.as_deref())
                .map_err(io::Error::other)?,
            None => FileOwner::default(),
        };
        let mode = self.socket_mode.map(SocketMode::bits);
        let access = SocketAccess {
            mode: mode.unwrap_or(SocketAccess::PRIVATE.mode),
            owner,
        };
        UnixSocket::bind(&address.to_socket_addr()?, access).map(LocalListener::Unix)
    }

    #[cfg(not(unix))]
    fn listen_at_socket(&self, _: &UnixAddress) -> io::Result<LocalListener> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system has no unix sockets",
        ))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn tcp(address: &str) -> PortAddress {
        address.parse::<HostPort>().expect("an address").into()
    }

    /// Returns the only address of a port.
    fn only(all: &BindAddresses, port: &PortAddress) -> BindAddress {
        let mut addresses = all.of(port, ServiceProtocol::Tcp);
        assert_eq!(addresses.len(), 1);
        addresses.remove(0)
    }

    #[tokio::test]
    async fn the_wildcards_of_both_families_share_a_port() {
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a listener")
            .local_addr()
            .expect("its address")
            .port();
        let both = [format!("0.0.0.0:{free}"), format!("[::]:{free}")].map(|text| tcp(&text));
        let all = BindAddresses::resolve(both.iter()).await;
        let [v4, v6] = both.map(|address| only(&all, &address));
        let first = v4.listen().await.expect("IPv4");
        let Ok(second) = v6.listen().await else {
            assert!(
                std::net::TcpListener::bind("[::1]:0").is_err(),
                "this machine has IPv6"
            );
            return;
        };
        drop((first, second));
    }

    #[tokio::test(start_paused = true)]
    async fn listen_with_retry_succeeds_when_the_address_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = tcp(&taken.local_addr().expect("its address").to_string());
        let all = BindAddresses::resolve([&address].into_iter()).await;
        let address = only(&all, &address);
        assert_eq!(
            address.listen().await.expect_err("taken").kind(),
            io::ErrorKind::AddrInUse
        );
        let mut later = std::pin::pin!(address.listen_with_retry("port"));
        tokio::time::timeout(RETRY_FIRST * 3, &mut later)
            .await
            .expect_err("still taken");
        drop(taken);
        assert!(later.await.local_addr().is_some());
    }

    #[tokio::test]
    async fn each_port_of_a_range_listens_separately() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let last = taken.local_addr().expect("its address").port();
        let range = PortAddress {
            address: format!("127.0.0.1:{}-{last}", last - 1)
                .parse()
                .expect("a range"),
            socket_mode: None,
            socket_owner: None,
        };
        let all = BindAddresses::resolve([&range].into_iter()).await;
        let addresses = all.of(&range, ServiceProtocol::Tcp);
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let expected = [last - 1, last].map(|port| format!("127.0.0.1:{port}"));
        assert_eq!(texts, expected);
        let offsets: Vec<u16> = addresses.iter().map(|address| address.offset).collect();
        assert_eq!(offsets, [0, 1]);
        let error = addresses[1].listen().await.expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        let listener = addresses[1].listen().await.expect("free again");
        assert_eq!(
            listener.local_addr().map(|address| address.port()),
            Some(last)
        );
    }

    #[tokio::test]
    async fn a_port_has_one_number_for_connections_and_datagrams() {
        let port = tcp("127.0.0.1:0");
        let all = BindAddresses::resolve([&port].into_iter()).await;
        let mut addresses = all.of(&port, ServiceProtocol::Both);
        let streams = addresses[0].listen().await.expect("free");
        assert!(matches!(streams, BoundListener::Streams(_)));
        addresses[1].follow(&streams);
        let datagrams = addresses[1].listen().await.expect("free");
        assert!(matches!(datagrams, BoundListener::Datagrams(_)));
        assert_eq!(datagrams.local_addr(), streams.local_addr());
        assert_eq!(all.of(&port, ServiceProtocol::Udp).len(), 1);
        let error = addresses[1].listen().await.expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[cfg(unix)]
    fn socket(path: std::path::PathBuf, mode: &str) -> PortAddress {
        let mode = serde_json::from_str(&format!("\"{mode}\"")).expect("a mode");
        PortAddress {
            address: LocalAddress::Unix(UnixAddress::Path(path)),
            socket_mode: Some(mode),
            socket_owner: None,
        }
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_unix_socket_has_its_mode_and_follows_when_its_folder_exists() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let parent = folder.path().join("later");
        let path = parent.join("s");
        let all = BindAddresses::resolve(std::iter::empty()).await;
        let address = only(&all, &socket(path.clone(), "0640"));
        let error = address.listen().await.expect_err("no folder");
        assert!(
            address.remedy(&error).contains("create the folder"),
            "{error}"
        );
        let mut later = std::pin::pin!(address.listen_with_retry("port"));
        tokio::time::timeout(RETRY_FIRST * 3, &mut later)
            .await
            .expect_err("still missing");
        std::fs::create_dir(&parent).expect("created");
        let listener = later.await;
        let BoundListener::Streams(listener) = listener else {
            panic!("{listener:?}")
        };
        assert_eq!(listener.to_string(), format!("unix:{}", path.display()));
        let mode = std::fs::metadata(&path).expect("it exists").permissions();
        assert_eq!(mode.mode() & 0o777, 0o640);
        drop(listener);
        assert!(!path.exists());
    }
}
