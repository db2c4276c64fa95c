//! The listeners of a master: binds addresses, accepts connections, and replaces listeners while
//! the master runs. A listener whose address stays is not touched. A new listener opens before an
//! old one closes.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, field::display, info};

use super::{accept, parameters::MasterError, shared::MasterShared};
use crate::net::tcp::{self, ListenerAddress};

/// A listener that does not accept connections yet.
#[derive(Debug)]
pub(super) struct BoundListener {
    address: ListenerAddress,
    socket: Arc<TcpListener>,
}

impl BoundListener {
    fn bind(address: ListenerAddress) -> Result<Self, MasterError> {
        let socket = tcp::listen_at(address).map_err(|source| MasterError::Listen {
            address: address.socket_addr(),
            source,
        })?;
        Ok(BoundListener {
            address,
            socket: Arc::new(socket),
        })
    }

    /// Binds all addresses.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub(super) fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<Self>, MasterError> {
        ListenerAddress::all(addresses).map(Self::bind).collect()
    }

    /// Returns the address, with the port that the system chose.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }
}

/// The listeners that accept connections.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    accepting: Mutex<Vec<AcceptingListener>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct AcceptingListener {
    address: ListenerAddress,
    /// The socket, which its task owns.
    socket: Weak<TcpListener>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl AcceptingListener {
    /// Stops accepting. The socket is closed when the function returns.
    async fn close(self) {
        self.stop.cancel();
        // A panic of the task is logged where it occurs.
        let _ = self.task.await;
        info!(address = %self.address.socket_addr(), "listener closed");
    }
}

impl Listeners {
    /// Accepts connections from now on.
    pub(super) fn start(&self, shared: &Arc<MasterShared>, bound: BoundListener) {
        let BoundListener { address, socket } = bound;
        log_listening(shared, &socket);
        let (weak, stop) = (Arc::downgrade(&socket), shared.draining.child_token());
        let accepting = accept::accept(Arc::clone(shared), socket, stop.clone());
        let listener = AcceptingListener {
            address,
            socket: weak,
            task: self.tasks.spawn(accepting),
            stop,
        };
        self.accepting().push(listener);
    }

    /// Waits until a draining master has closed its listeners.
    pub(super) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.accepting().clear();
    }

    /// Returns the open sockets.
    pub(super) fn sockets(&self) -> Vec<Arc<TcpListener>> {
        let accepting = self.accepting();
        let sockets = accepting.iter();
        sockets.filter_map(|one| one.socket.upgrade()).collect()
    }

    /// Listens at these addresses instead of the present ones.
    ///
    /// # Errors
    /// When a new address cannot be bound. Then the master listens as before.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may have closed a listener that overlaps a new one.
    pub(super) async fn replace(
        &self,
        shared: &Arc<MasterShared>,
        addresses: &[SocketAddr],
    ) -> Result<(), MasterError> {
        let wanted: Vec<_> = ListenerAddress::all(addresses).collect();
        let (mut bound, mut blocked) = (Vec::new(), Vec::new());
        for address in wanted.iter().filter(|address| !self.is_open(**address)) {
            match BoundListener::bind(*address) {
                Ok(listener) => bound.push(listener),
                Err(MasterError::Listen { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse
                        && self.has_old_at_port(address.port(), &wanted) =>
                {
                    blocked.push(*address);
                }
                Err(error) => return Err(error),
            }
        }
        // One address may contain the other, such as a wildcard. Then the old listener closes first.
        let ports: Vec<_> = blocked.iter().map(|address| address.port()).collect();
        let in_the_way = self.take(|old| ports.contains(&old.port()) && !wanted.contains(&old));
        let former: Vec<_> = in_the_way.iter().map(|old| old.address).collect();
        close_all(in_the_way).await;
        let unblocked: Result<Vec<_>, _> = blocked.into_iter().map(BoundListener::bind).collect();
        match unblocked {
            Ok(unblocked) => bound.extend(unblocked),
            Err(error) => {
                drop(bound);
                self.reopen(shared, former);
                return Err(error);
            }
        }
        for listener in bound {
            self.start(shared, listener);
        }
        close_all(self.take(|old| !wanted.contains(&old))).await;
        Ok(())
    }

    /// Opens listeners again after a change that has failed.
    fn reopen(&self, shared: &Arc<MasterShared>, former: Vec<ListenerAddress>) {
        for address in former {
            match BoundListener::bind(address) {
                Ok(listener) => self.start(shared, listener),
                Err(error) => error!("listener lost: {error}"),
            }
        }
    }

    fn is_open(&self, address: ListenerAddress) -> bool {
        self.accepting().iter().any(|one| one.address == address)
    }

    /// Whether a listener that is not wanted any more uses this port.
    fn has_old_at_port(&self, port: u16, wanted: &[ListenerAddress]) -> bool {
        let accepting = self.accepting();
        let mut old = accepting.iter().map(|one| one.address);
        old.any(|old| old.port() == port && !wanted.contains(&old))
    }

    /// Takes the listeners with these addresses out of the list.
    fn take(&self, is_taken: impl Fn(ListenerAddress) -> bool) -> Vec<AcceptingListener> {
        let mut accepting = self.accepting();
        accepting
            .extract_if(.., |one| is_taken(one.address))
            .collect()
    }

    fn accepting(&self) -> MutexGuard<'_, Vec<AcceptingListener>> {
        self.accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn close_all(listeners: Vec<AcceptingListener>) {
    for listener in listeners {
        listener.close().await;
    }
}

/// Logs a listener, and the congestion control of its connections from other hosts.
fn log_listening(shared: &MasterShared, socket: &TcpListener) {
    let Ok(address) = socket.local_addr() else {
        return;
    };
    let settings = shared.settings();
    let is_same_host = address.ip().is_loopback();
    let in_use = settings.congestion_control.expected(is_same_host);
    let congestion_control = in_use.algorithm().map(display);
    info!(%address, path = settings.front.path, tls = settings.tls.is_some(), congestion_control, "listening");
}
