//! The listener of a client's port: TCP, or a unix socket where the system has them.

use std::{fmt, io, net::SocketAddr};

use tokio::net::TcpListener;

use super::local_stream::LocalStream;
#[cfg(unix)]
use super::unix_socket::UnixSocket;

/// A listener for applications on this machine.
#[derive(Debug)]
pub enum LocalListener {
    /// Listens at a TCP port.
    Tcp(TcpListener),
    /// Listens at a unix socket.
    #[cfg(unix)]
    Unix(UnixSocket),
}

/// The application of an accepted connection, as the system describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalPeer {
    /// The address of a TCP connection.
    Address(SocketAddr),
    /// The user and the process at a unix socket, if known.
    Process {
        /// The id of the user.
        user: Option<u32>,
        /// The id of the process.
        process: Option<i32>,
    },
}

impl LocalListener {
    /// Accepts a connection.
    ///
    /// # Errors
    /// The error of the system.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<(LocalStream, LocalPeer)> {
        match self {
            LocalListener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((stream.into(), LocalPeer::Address(address)))
            }
            #[cfg(unix)]
            LocalListener::Unix(socket) => {
                let stream = socket.accept().await?;
                let peer = stream.peer_cred().ok();
                let peer = LocalPeer::Process {
                    user: peer.map(|peer| peer.uid()),
                    process: peer.and_then(|peer| peer.pid()),
                };
                Ok((stream.into(), peer))
            }
        }
    }

    /// Returns the TCP address with the port that the system chose, or `None` for a unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            LocalListener::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            LocalListener::Unix(_) => None,
        }
    }
}

impl fmt::Display for LocalListener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalListener::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(formatter),
                Err(_) => formatter.write_str("an unknown address"),
            },
            #[cfg(unix)]
            LocalListener::Unix(socket) => socket.fmt(formatter),
        }
    }
}

impl LocalPeer {
    /// Returns the address, or `None` at a unix socket.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            LocalPeer::Address(address) => Some(address),
            LocalPeer::Process { .. } => None,
        }
    }
}

impl fmt::Display for LocalPeer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, process) = match self {
            LocalPeer::Address(address) => return address.fmt(formatter),
            LocalPeer::Process { user, process } => (user, process),
        };
        match (user, process) {
            (None, _) => formatter.write_str("unknown process"),
            (Some(user), None) => write!(formatter, "uid={user}"),
            (Some(user), Some(process)) => write!(formatter, "uid={user} pid={process}"),
        }
    }
}

/// Returns the remedy for an error of listening at a TCP address or at a unix socket, in
/// parentheses after a space, or an empty text.
#[must_use]
pub fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => {
            " (choose another address or stop the program that uses it)"
        }
        io::ErrorKind::AddrNotAvailable => " (choose an address of this machine)",
        io::ErrorKind::NotFound => {
            " (create the folder of the socket; systemd does with `RuntimeDirectory`)"
        }
        io::ErrorKind::PermissionDenied => {
            " (the process must be able to write the folder of the socket; ports below 1024 need a privilege)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_described_by_what_is_known() {
        let process = |user, process| LocalPeer::Process { user, process };
        let address: SocketAddr = "192.0.2.1:5".parse().expect("an address");
        for (peer, text) in [
            (LocalPeer::Address(address), "192.0.2.1:5"),
            (process(Some(1000), Some(7)), "uid=1000 pid=7"),
            (process(Some(0), None), "uid=0"),
            (process(None, None), "unknown process"),
        ] {
            assert_eq!(peer.to_string(), text);
        }
    }
}
