//! Keeps one port of the client attached: a tunnel exists, and the newest link carries it. A tunnel
//! that lost its link is reattached on the next link. If that takes too long, the port requests a
//! new tunnel in addition (PROTOCOL 10.8).
//!
//! ```text
//!  links ── begin, up ──┐                      ┌── replies of attach requests
//!  listener ─ refusals ─┼─► PortExecutor ◄─────┤   changes of tunnels    (driver: one task)
//!  client ── end ───────┘    │        ▲        └── deadlines
//!                    events  ▼        │ actions
//!                           PortMachine (pure)
//! ```
//!
//! [`machine`] contains the rules and their state diagram. The executor sits behind a mutex,
//! because a link takes the frames of its first flight synchronously. The driver and the callers
//! lock it for a moment, never across an await.

mod driver;
mod event;
mod executor;
mod machine;
mod port_link;
mod refused_servers;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info_span;

pub(super) use self::port_link::PortLink;
use self::{event::PortEvent, executor::PortExecutor};
use crate::{
    link::Outbox,
    net::{local_listener::LocalPeer, local_stream::LocalStream},
    tunnel::{
        PortParameters, ResetCode, Tunnel,
        attach::{AttachError, ServerInfo},
        details::OpenDetails,
        origin::Origin,
    },
};
use report_proto::frame::{Code, Frame, Notice};

/// Why the client ends its tunnels, as their peers read it.
const SHUTDOWN_REASON: &str = "the client is shutting down";

/// The same for the tunnels of a removed port.
const REMOVED_REASON: &str = "the port was removed from the configuration of the client";

/// Supervises the tunnels of one port of the client.
pub(super) struct PortSupervisor {
    pub parameters: PortParameters,
    executor: Mutex<PortExecutor>,
    /// The tunnel that takes new streams, while it is attached.
    ready: watch::Receiver<Option<Tunnel>>,
    /// Why the last request for a new tunnel failed.
    refusals: watch::Receiver<Option<AttachError>>,
    /// Wakes the driver after an event of another task.
    changed: Notify,
    /// The number of addresses without a listener.
    missing_listeners: AtomicUsize,
    /// The supervisor that has replaced this one, after a change of the configuration.
    successor: watch::Sender<Option<Arc<PortSupervisor>>>,
    /// Cancelled when the port has nothing left to do.
    finished: CancellationToken,
}

impl PortSupervisor {
    /// Creates a port without a tunnel. Its tunnels may have up to `max_lanes` lanes at the server's
    /// request. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub(super) fn new(
        parameters: PortParameters,
        max_lanes: usize,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (ready, is_ready) = watch::channel(None);
        let (refusals, last_refusal) = watch::channel(None);
        let span = info_span!(parent: None, "tunnel", port = %parameters.mark);
        let executor =
            PortExecutor::new(parameters.clone(), max_lanes, tasks, span, ready, refusals);
        let port = Arc::new(PortSupervisor {
            parameters,
            executor: Mutex::new(executor),
            ready: is_ready,
            refusals: last_refusal,
            changed: Notify::new(),
            missing_listeners: AtomicUsize::new(0),
            successor: watch::Sender::new(None),
            finished: CancellationToken::new(),
        });
        tasks.spawn(driver::drive(Arc::clone(&port), stop.clone()));
        port
    }

    /// Records that the port will listen at this many addresses, in place of earlier ones.
    pub(super) fn expect_listeners(&self, count: usize) {
        self.missing_listeners.store(count, Relaxed);
    }

    /// Records that an expected listener listens.
    pub(super) fn on_listening(&self) {
        self.missing_listeners.fetch_sub(1, Relaxed);
    }

    /// Returns at how many addresses the port does not listen yet.
    pub(super) fn missing_listeners(&self) -> usize {
        self.missing_listeners.load(Relaxed)
    }

    /// Returns the tunnels that have not ended.
    pub(super) fn tunnels(&self) -> Vec<Tunnel> {
        self.executor().tunnels().collect()
    }

    /// Waits for the tunnel of the port, or of the one that has replaced it, to be attached, and
    /// returns it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn tunnel(&self) -> Tunnel {
        let mut port = match self.tunnel_or_successor().await {
            Ok(tunnel) => return tunnel,
            Err(successor) => successor,
        };
        loop {
            port = match port.tunnel_or_successor().await {
                Ok(tunnel) => return tunnel,
                Err(successor) => successor,
            };
        }
    }

    /// Waits for the port's own tunnel. Returns the successor if there is one before.
    async fn tunnel_or_successor(&self) -> Result<Tunnel, Arc<PortSupervisor>> {
        let mut successor = self.successor.subscribe();
        let replaced = async {
            loop {
                let found = successor.borrow_and_update().clone();
                if let Some(found) = found {
                    return found;
                }
                if successor.changed().await.is_err() {
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            biased;
            tunnel = self.own_tunnel() => Ok(tunnel),
            successor = replaced => Err(successor),
        }
    }

    async fn own_tunnel(&self) -> Tunnel {
        let mut ready = self.ready.clone();
        loop {
            // The watch may still hold a tunnel that has just ended.
            let live = ready
                .borrow_and_update()
                .clone()
                .filter(|tunnel| tunnel.notice().is_none());
            if let Some(tunnel) = live {
                return tunnel;
            }
            if ready.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Returns the properties of the server of this tunnel; `None` after the tunnel has ended.
    pub(super) fn server_info(&self, tunnel: &Tunnel) -> Option<ServerInfo> {
        let own = self.executor().server_info(tunnel.id());
        own.or_else(|| self.successor()?.server_info(tunnel))
    }

    fn successor(&self) -> Option<Arc<PortSupervisor>> {
        self.successor.borrow().clone()
    }

    /// Changes the maximum number of lanes of a tunnel at the server's request.
    pub(super) fn set_max_lanes(&self, max_lanes: usize) {
        self.executor().set_max_lanes(max_lanes);
    }

    /// Takes no new connections. Each tunnel ends after its last stream. The connections that wait
    /// for a tunnel wait for one of `successor`.
    pub(super) fn retire(&self, successor: Option<Arc<PortSupervisor>>) {
        self.successor.send_replace(successor);
        self.executor().handle(PortEvent::Retired);
        self.changed.notify_one();
    }

    /// Whether the port takes no new connections.
    pub(super) fn is_retired(&self) -> bool {
        self.executor().is_retired()
    }

    /// Waits until the port, which is retired, has no tunnel.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn retired(&self) {
        self.finished.cancelled().await;
    }

    /// Returns the stream details of a connection from `peer` to this socket: the number of the
    /// address in the range of the port, and the addresses of the connection, if it has some and the
    /// server of the tunnel requests them (PROTOCOL 9.2, 9.11).
    pub(super) fn details(
        &self,
        tunnel: &Tunnel,
        offset: u16,
        peer: LocalPeer,
        socket: &LocalStream,
    ) -> Bytes {
        self.encode_details(tunnel, offset, peer.address().zip(socket.local_addr()))
    }

    /// Returns the details of a flow of datagrams from `source` to `destination`, as
    /// [`PortSupervisor::details`] does for a stream.
    pub(super) fn flow_details(
        &self,
        tunnel: &Tunnel,
        offset: u16,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Bytes {
        self.encode_details(tunnel, offset, Some((source, destination)))
    }

    fn encode_details(
        &self,
        tunnel: &Tunnel,
        offset: u16,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> Bytes {
        let is_wanted = self
            .server_info(tunnel)
            .is_some_and(|server_info| server_info.addresses);
        let addresses = addresses.filter(|_| is_wanted);
        let origin = addresses.and_then(|(source, destination)| Origin::new(source, destination));
        let details = OpenDetails {
            origin,
            offset,
            ..OpenDetails::default()
        };
        details.encode()
    }

    /// Returns a watch on the reason why the last request for a new tunnel failed.
    pub(super) fn refusals(&self) -> watch::Receiver<Option<AttachError>> {
        self.refusals.clone()
    }

    /// Returns whether a tunnel of the port is attached through this link.
    pub(super) fn is_attached_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.executor()
            .tunnels()
            .any(|tunnel| tunnel.is_attached_through(outbox.id()))
    }

    /// Handles a link that is being established. Returns the frames of its first flight.
    pub(super) fn on_new_link(&self, link: &PortLink) -> Vec<Frame> {
        let frames = self.executor().begin_link(link);
        self.changed.notify_one();
        frames
    }

    /// Handles a link that is established.
    pub(super) fn on_link_up(&self, outbox: &Arc<Outbox>) {
        self.executor().link_up(outbox);
        self.changed.notify_one();
    }

    /// Handles a link that will be closed.
    pub(super) fn on_link_retiring(&self, outbox: &Arc<Outbox>) {
        self.executor().link_retiring(outbox);
        self.changed.notify_one();
    }

    /// Requests a tunnel to another server, because the service behind the server of this tunnel
    /// refused a connection.
    pub(super) fn on_refusal(&self, tunnel: &Tunnel) {
        if let Some(successor) = self.successor()
            && !self.executor().has_tunnel(tunnel.id())
        {
            return successor.on_refusal(tunnel);
        }
        self.executor().handle(PortEvent::ServiceRefused {
            tunnel: tunnel.id(),
            server: tunnel.instance(),
        });
        self.changed.notify_one();
    }

    /// Ends the tunnels because the client is shutting down, and waits until their END frames are
    /// sent.
    pub(super) async fn end(&self) {
        let tunnels = self.stop_attaching();
        Tunnel::shut_down(&tunnels, SHUTDOWN_REASON).await;
    }

    /// Ends the tunnels because the port was removed, and waits until their END frames are sent.
    pub(super) async fn end_removed(&self) {
        let tunnels = self.stop_attaching();
        Tunnel::shut_down(&tunnels, REMOVED_REASON).await;
    }

    /// Ends the tunnels, because no task of the port is left to supervise them.
    fn end_tunnels(&self) {
        let notice = Notice::new(Code::Shutdown, SHUTDOWN_REASON);
        for tunnel in self.stop_attaching() {
            tunnel.end(ResetCode::Shutdown, notice.clone());
        }
    }

    /// Sends no more attach requests. Returns the tunnels that have not ended.
    fn stop_attaching(&self) -> Vec<Tunnel> {
        let mut executor = self.executor();
        executor.handle(PortEvent::ShuttingDown);
        executor.tunnels().collect()
    }

    fn executor(&self) -> MutexGuard<'_, PortExecutor> {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
