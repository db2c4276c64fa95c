//! Listening sockets that systemd (socket activation) or an earlier process of this program has
//! passed to this process. A listener takes the passed socket of its address instead of binding it, so
//! no connection is refused while the process is restarted.
//!
//! ```text
//!  LISTEN_FDS ──receive──► passed ──take_tcp(address)──► listener of a master or of a port
//!                             └──────warn_unused────────► closed, with a warning
//! ```

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use tracing::warn;

/// The variable that an earlier process sets for its successor. The last passed socket is then a
/// stream to the earlier process.
#[cfg(unix)]
pub(crate) const SUCCESSOR_VARIABLE: &str = "REPORT_SUCCESSOR";

/// The sockets that no listener has taken yet.
#[derive(Debug)]
struct PassedSockets {
    tcp: Vec<(SocketAddr, TcpListener)>,
    /// Descriptions of sockets of another kind.
    others: Vec<String>,
    /// The stream to the earlier process.
    #[cfg(unix)]
    predecessor: Option<UnixStream>,
}

static PASSED: Mutex<PassedSockets> = Mutex::new(PassedSockets {
    tcp: Vec::new(),
    others: Vec::new(),
    #[cfg(unix)]
    predecessor: None,
});

/// Receives the passed sockets. Must be called once, before the process has other threads: it
/// removes the variables that name the sockets.
#[cfg(unix)]
pub fn receive() {
    let mut found = listenfd::ListenFd::from_env();
    let has_predecessor = std::env::var_os(SUCCESSOR_VARIABLE).is_some();
    let mut passed = passed();
    for index in 0..found.len() {
        match found.take_tcp_listener(index) {
            Ok(Some(listener)) => passed.add(index, listener),
            // The socket is of another kind. Its kind decides what it is for.
            Ok(None) | Err(_) => match found.take_unix_listener(index) {
                Ok(Some(socket)) if has_predecessor && index + 1 == found.len() => {
                    let stream = UnixStream::from(std::os::fd::OwnedFd::from(socket));
                    passed.predecessor = Some(stream);
                }
                Ok(Some(socket)) => passed.others.push(format!("{:?}", socket.local_addr())),
                Ok(None) | Err(_) => passed.others.push(format!("socket {}", index + 1)),
            },
        }
    }
}

/// Does nothing: this system cannot pass sockets.
#[cfg(not(unix))]
pub fn receive() {}

impl PassedSockets {
    #[cfg(unix)]
    fn add(&mut self, index: usize, listener: TcpListener) {
        match listener.local_addr() {
            Ok(address) => self.tcp.push((address, listener)),
            Err(error) => self.others.push(format!("socket {}: {error}", index + 1)),
        }
    }

    fn take_tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let mut places = self.tcp.iter();
        let place = places.position(|(passed, _)| *passed == address)?;
        Some(self.tcp.swap_remove(place).1)
    }
}

/// Takes the passed listener of an address.
pub fn take_tcp(address: SocketAddr) -> Option<TcpListener> {
    passed().take_tcp(address)
}

/// Takes the stream to the earlier process that has started this one.
#[cfg(unix)]
pub(crate) fn take_predecessor() -> Option<UnixStream> {
    passed().predecessor.take()
}

/// Whether an earlier process waits until this one has taken over its listeners.
#[must_use]
pub fn is_successor() -> bool {
    #[cfg(unix)]
    return passed().predecessor.is_some();
    #[cfg(not(unix))]
    return false;
}

/// Closes the passed sockets that no listener has taken, each with a warning. `listens_at` describes
/// where the role listens.
pub fn warn_unused(listens_at: &[SocketAddr]) {
    let mut passed = passed();
    let addresses: Vec<_> = passed.tcp.drain(..).map(|(address, _)| address).collect();
    for address in addresses {
        warn!(
            ?listens_at,
            "the passed socket at {address} is not used: no address of the configuration is equal to it (correct ListenStream= of the socket unit, or the address in the configuration)"
        );
    }
    for other in passed.others.drain(..) {
        warn!(
            "a passed socket is not used, because it is not a TCP listener: {other} (remove it from the socket unit)"
        );
    }
}

fn passed() -> MutexGuard<'static, PassedSockets> {
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        (listener.local_addr().expect("bound"), listener)
    }

    #[test]
    fn listener_is_taken_once_and_only_for_its_address() {
        let ((first, one), (second, two)) = (listener(), listener());
        let mut passed = PassedSockets {
            tcp: vec![(first, one), (second, two)],
            others: Vec::new(),
            #[cfg(unix)]
            predecessor: None,
        };
        let other_host = SocketAddr::from(([127, 0, 0, 2], first.port()));
        assert!(passed.take_tcp(other_host).is_none());
        let taken = passed.take_tcp(first).expect("passed");
        assert_eq!(taken.local_addr().expect("bound"), first);
        assert!(passed.take_tcp(first).is_none());
        assert!(passed.take_tcp(second).is_some());
    }
}
