//! Keeps one port of the client attached: a tunnel exists, and the newest link carries it. A tunnel
//! that lost its link is reattached on the next link. If that takes too long, the port requests a
//! new tunnel in addition (PROTOCOL 10.8).
//!
//! ```text
//!  a link starts ──► reattach every tunnel on it, or request a new tunnel if there is none
//!  a tunnel is lost, or its peer asks to move ──► reattach it on the newest link that is up
//!  not back within `RESUME_PATIENCE` ──► also request a new tunnel; the answer shows whether
//!                                        the server process of the old one is gone
//! ```

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{net::TcpStream, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info, info_span, warn};

use super::{port_attach::PortLink, refused_servers::RefusedServers};
use crate::{
    link::Outbox,
    tunnel::{
        PortParameters, ResetCode, Tunnel, TunnelStatus,
        attach::{AttachError, ServerInfo},
        origin::Origin,
    },
};
use report_proto::frame::{Code, Frame, Notice};

/// After this time without an attachment the port also requests a new tunnel (PROTOCOL 12,
/// `RESUME_PATIENCE`).
pub(super) const RESUME_PATIENCE: Duration = Duration::from_secs(1);

/// Interval between checks whether a move is complete. A move takes about one round trip.
const MOVE_CHECK: Duration = Duration::from_millis(20);

/// Interval between checks whether a tunnel that takes no new streams has any left.
const EMPTY_CHECK: Duration = Duration::from_secs(5);

/// Supervises the tunnels of one port of the client.
pub(super) struct PortSupervisor {
    pub parameters: PortParameters,
    state: Mutex<PortState>,
    /// The tunnel that takes new streams, while it is attached.
    ready: watch::Sender<Option<Tunnel>>,
    /// Why the last request for a new tunnel failed.
    pub(super) refusals: watch::Sender<Option<AttachError>>,
    pub(super) tasks: TaskTracker,
    stop: CancellationToken,
}

/// The mutable state of a port.
#[derive(Default)]
pub(super) struct PortState {
    /// Links that are up or being established, the newest last.
    links: Vec<(PortLink, IsUp)>,
    /// Tunnels that have not ended. The last one takes new streams.
    pub(super) tunnels: Vec<PortTunnel>,
    /// The link and channel of the pending request for a new tunnel.
    pub(super) pending_new: Option<(PortLink, u32)>,
    /// Servers that a new tunnel avoids.
    pub(super) refused: RefusedServers,
    /// The client is shutting down: no more attach requests.
    pub(super) is_ending: bool,
}

type IsUp = bool;

/// A tunnel of the port.
pub(super) struct PortTunnel {
    pub(super) tunnel: Tunnel,
    /// The properties of the server.
    server_info: ServerInfo,
    /// The numbers of the links with a pending attach request for the tunnel.
    pub(super) attaching_on: Vec<u64>,
    /// Reattach the tunnel again after the pending requests.
    pub(super) reattach_due: bool,
}

/// Why a tunnel is reattached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReattachReason {
    /// The newest link does not carry it.
    NewLink,
    /// The server's link closes soon: the tunnel needs a new channel on the newest link.
    NewChannel,
}

impl PortSupervisor {
    /// Creates a port without a tunnel. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub(super) fn new(
        parameters: PortParameters,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        Arc::new(PortSupervisor {
            parameters,
            state: Mutex::default(),
            ready: watch::Sender::new(None),
            refusals: watch::Sender::new(None),
            tasks: tasks.clone(),
            stop: stop.clone(),
        })
    }

    /// Waits for the port's tunnel to be attached, and returns it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn tunnel(&self) -> Tunnel {
        let mut ready = self.ready.subscribe();
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
        self.state()
            .tunnels
            .iter()
            .find(|entry| entry.tunnel.id() == tunnel.id())
            .map(|entry| entry.server_info)
    }

    /// Returns the stream details of a connection from `source` to this socket: its addresses, if
    /// the server of the tunnel requests them (PROTOCOL 9.11).
    pub(super) fn details(&self, tunnel: &Tunnel, source: SocketAddr, socket: &TcpStream) -> Bytes {
        let is_wanted = self
            .server_info(tunnel)
            .is_some_and(|server_info| server_info.addresses);
        let destination = socket.local_addr().ok().filter(|_| is_wanted);
        let origin = destination.and_then(|destination| Origin::new(source, destination));
        origin.map(|origin| origin.details()).unwrap_or_default()
    }

    /// Returns a watch on the reason why the last request for a new tunnel failed.
    pub(super) fn refusals(&self) -> watch::Receiver<Option<AttachError>> {
        self.refusals.subscribe()
    }

    /// Returns whether a tunnel of the port is attached through this link.
    pub(super) fn is_attached_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.state()
            .tunnels
            .iter()
            .any(|entry| entry.tunnel.is_attached_through(outbox.id()))
    }

    /// Handles a link that is being established. Returns the frames of its first flight.
    pub(super) fn on_new_link(self: &Arc<Self>, link: &PortLink) -> Vec<Frame> {
        let mut state = self.state();
        state.links.retain(|(link, _)| !link.has_ended());
        // Not up yet: the frames below go into the first flight, which saves a round trip.
        state.links.push((link.clone(), false));
        if state.is_ending {
            return Vec::new();
        }
        let tunnels = state.all();
        if tunnels.is_empty() {
            return self.attach_new(&mut state, link).into_iter().collect();
        }
        // A tunnel that is moving is reattached after its move, when the link is up.
        let bound = tunnels.iter().filter(|tunnel| !tunnel.is_moving());
        let frames = bound
            .filter_map(|tunnel| self.reattach(&mut state, tunnel, link))
            .collect();
        drop(state);
        self.arm_attach_timeout();
        frames
    }

    /// Handles a link that is established.
    pub(super) fn on_link_up(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        // Only a link that is up may carry later requests.
        for (_, is_up) in state
            .links
            .iter_mut()
            .filter(|(link, _)| Arc::ptr_eq(&link.outbox, outbox))
        {
            *is_up = true;
        }
        let tunnels = state.all();
        drop(state);
        tunnels
            .iter()
            .for_each(|tunnel| self.ensure_attached(tunnel, ReattachReason::NewLink));
        self.ensure_tunnel();
    }

    /// Ends the tunnels because the client is shutting down, and waits until their END frames are
    /// sent.
    pub(super) async fn end(&self) {
        let tunnels = {
            let mut state = self.state();
            state.is_ending = true;
            state.all()
        };
        Tunnel::shut_down(&tunnels, "the client is shutting down").await;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PortState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spawns a task that ends when it is done or `stop` is cancelled.
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        // The spawning task may run inside a span of another tunnel.
        let span = info_span!(parent: None, "tunnel", port = %self.parameters.mark);
        let stop = self.stop.clone();
        self.tasks.spawn(
            async move {
                tokio::select! { () = task => {}, () = stop.cancelled() => {} }
            }
            .instrument(span),
        );
    }

    /// Adds a new tunnel, or ends it if it is not needed.
    pub(super) fn adopt(self: &Arc<Self>, tunnel: Tunnel, server_info: ServerInfo) {
        let mut state = self.state();
        let now = Instant::now();
        let current = state
            .tunnels
            .last()
            .map(|entry| &entry.tunnel)
            .filter(|current| current.is_attached());
        let is_refused =
            current.is_some_and(|current| state.refused.contains(current.instance(), now));
        // Replace an attached tunnel only by one whose service has not refused a connection.
        let is_better = is_refused && !state.refused.contains(tunnel.instance(), now);
        let is_redundant = state.is_ending || (current.is_some() && !is_better);
        if is_redundant && is_refused {
            // The new server refused too, or it is the same one.
            state.refused.set_no_alternative(now);
        }
        let older = state.all();
        if !is_redundant {
            state.tunnels.push(PortTunnel {
                tunnel: tunnel.clone(),
                server_info,
                attaching_on: Vec::new(),
                reattach_due: false,
            });
        }
        drop(state);
        if is_redundant {
            tunnel.end(
                ResetCode::Cancelled,
                Notice::new(Code::Cancelled, "the port has another tunnel"),
            );
            // Connections may have been held for this tunnel.
            return self.update_ready();
        }
        info!(tunnel = %tunnel.id(), tells_addresses = server_info.addresses, "attached to a server");
        older
            .iter()
            .for_each(|older| end_if_replaced(older, &tunnel, server_info.age));
        let port = Arc::clone(self);
        self.spawn(async move { port.supervise(tunnel).await });
    }

    /// Supervises a tunnel until it has ended.
    async fn supervise(self: Arc<Self>, tunnel: Tunnel) {
        let started = Instant::now();
        // `stop` may cancel this task at any await.
        let _end_on_drop = EndOnDrop(tunnel.clone());
        let (mut status, mut move_requests) = (tunnel.status(), tunnel.move_requests());
        let mut checks = tokio::time::interval(EMPTY_CHECK);
        loop {
            let now = status.borrow_and_update().clone();
            self.update_ready();
            match now {
                TunnelStatus::Ended => break,
                TunnelStatus::Attached => self.cancel_new_attach(&tunnel),
                TunnelStatus::Lost { why, .. } => {
                    // A peer or a master that sends invalid messages could do so again at once, in
                    // a loop.
                    if matches!(
                        why.code,
                        Code::Seal | Code::Protocol | Code::FlowControl | Code::Handshake
                    ) {
                        tokio::time::sleep(RESUME_PATIENCE).await;
                    }
                    self.ensure_attached(&tunnel, ReattachReason::NewLink);
                    self.arm_attach_timeout();
                }
                TunnelStatus::Unconfirmed => {}
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() { break },
                changed = move_requests.changed() => if changed.is_ok() { self.ensure_attached(&tunnel, ReattachReason::NewChannel) },
                _ = checks.tick() => self.end_if_empty(&tunnel),
            }
        }
        let why = tunnel
            .notice()
            .map(|notice| notice.to_string())
            .unwrap_or_default();
        warn!(tunnel = %tunnel.id(), lived_s = started.elapsed().as_secs(), reason = %why, "tunnel ended");
        self.remove_tunnel(&tunnel);
    }

    /// Removes a tunnel that has ended, and requests another one.
    fn remove_tunnel(self: &Arc<Self>, tunnel: &Tunnel) {
        let mut state = self.state();
        state
            .tunnels
            .retain(|entry| entry.tunnel.id() != tunnel.id());
        drop(state);
        self.update_ready();
        self.ensure_tunnel();
    }

    /// Requests a tunnel if there is none.
    fn ensure_tunnel(self: &Arc<Self>) {
        self.attach_new_if(|state| state.tunnels.is_empty());
    }

    fn attach_new_if(self: &Arc<Self>, is_needed: impl FnOnce(&PortState) -> bool) {
        let mut state = self.state();
        let is_needed = is_needed(&state) && state.pending_new.is_none() && !state.is_ending;
        let Some(link) = state.newest_link().filter(|_| is_needed) else {
            return;
        };
        let frame = self.attach_new(&mut state, &link);
        drop(state);
        if let Some(frame) = frame {
            link.outbox.control(&frame);
        }
    }

    /// Reattaches the tunnel unless the newest link carries it or a request is pending.
    pub(super) fn ensure_attached(self: &Arc<Self>, tunnel: &Tunnel, reason: ReattachReason) {
        let mut state = self.state();
        let Some(link) = state
            .newest_link()
            .filter(|_| !state.is_ending && tunnel.notice().is_none())
        else {
            return;
        };
        let Some(entry) = state
            .tunnels
            .iter_mut()
            .find(|entry| entry.tunnel.id() == tunnel.id())
        else {
            return;
        };
        let is_attaching = match reason {
            ReattachReason::NewLink => entry.attaching_on.contains(&link.number),
            // The pending request may reach the server's new link or its old one, so wait for the
            // outcome.
            ReattachReason::NewChannel => !entry.attaching_on.is_empty(),
        };
        if is_attaching {
            entry.reattach_due |= reason == ReattachReason::NewChannel;
            return;
        }
        // A new channel is needed even on the same link; a new link is not needed twice.
        if reason == ReattachReason::NewLink && tunnel.is_attached_through(link.outbox.id()) {
            return;
        }
        if tunnel.is_moving() {
            drop(state);
            return self.reattach_after_move(tunnel, reason);
        }
        let frame = self.reattach(&mut state, tunnel, &link);
        drop(state);
        if let Some(frame) = frame {
            link.outbox.control(&frame);
        }
    }

    /// Reattaches the tunnel after its current move. Two moves at a time would cause a pause.
    fn reattach_after_move(self: &Arc<Self>, tunnel: &Tunnel, reason: ReattachReason) {
        let (port, tunnel) = (Arc::clone(self), tunnel.clone());
        self.spawn(async move {
            while tunnel.is_moving() {
                tokio::time::sleep(MOVE_CHECK).await;
            }
            port.ensure_attached(&tunnel, reason);
        });
    }

    /// Requests a new tunnel after [`RESUME_PATIENCE`] if the port's own is not attached by then.
    fn arm_attach_timeout(self: &Arc<Self>) {
        let port = Arc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(RESUME_PATIENCE).await;
            port.attach_new_if(|state| {
                state
                    .tunnels
                    .last()
                    .is_some_and(|entry| !entry.tunnel.is_attached())
            });
        });
    }

    /// Cancels the request for a new tunnel, because the port's own is attached again.
    fn cancel_new_attach(&self, tunnel: &Tunnel) {
        let mut state = self.state();
        // A tunnel whose service refused a connection is still to be replaced.
        let is_enough =
            state.is_current(tunnel) && !state.refused.contains(tunnel.instance(), Instant::now());
        let Some((link, channel)) = state.pending_new.take_if(|_| is_enough) else {
            return;
        };
        drop(state);
        link.outbox
            .close(channel, &Notice::new(Code::Cancelled, ""));
    }

    /// Ends a tunnel that takes no new streams, after its last stream has ended.
    fn end_if_empty(&self, tunnel: &Tunnel) {
        let is_current = self.state().is_current(tunnel);
        if !is_current && tunnel.streams() == 0 {
            tunnel.end(
                ResetCode::Cancelled,
                Notice::new(
                    Code::Cancelled,
                    "its last stream has ended, and the port has another tunnel",
                ),
            );
        }
    }

    /// Publishes which tunnel takes new streams.
    pub(super) fn update_ready(&self) {
        let state = self.state();
        // While another server is being requested, new connections wait for it instead of the
        // refusing one.
        let holds = state.pending_new.is_some() && state.refused.holds_connections(Instant::now());
        let ready = state
            .tunnels
            .last()
            .filter(|_| !holds)
            .map(|entry| entry.tunnel.clone())
            .filter(Tunnel::is_attached);
        drop(state);
        self.ready.send_if_modified(|current| {
            // Notify only if the tunnel changes: receivers do not need wake-ups otherwise.
            let is_other = current.as_ref().map(Tunnel::id) != ready.as_ref().map(Tunnel::id);
            *current = ready;
            is_other
        });
    }
}

/// Ends the tunnel when its supervising task ends.
struct EndOnDrop(Tunnel);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(
            ResetCode::Shutdown,
            Notice::new(Code::Shutdown, "the client is shutting down"),
        );
    }
}

impl PortState {
    fn all(&self) -> Vec<Tunnel> {
        self.tunnels
            .iter()
            .map(|entry| entry.tunnel.clone())
            .collect()
    }

    /// Returns whether the tunnel is the one that takes new streams.
    pub(super) fn is_current(&self, tunnel: &Tunnel) -> bool {
        self.tunnels
            .last()
            .is_some_and(|entry| entry.tunnel.id() == tunnel.id())
    }

    /// Returns the newest link that is up.
    pub(super) fn newest_link(&self) -> Option<PortLink> {
        self.links
            .iter()
            .rev()
            .find(|(link, is_up)| *is_up && !link.has_ended())
            .map(|(link, _)| link.clone())
    }
}

/// Ends `older` if the server that answered for `new` started after `older` had lost its
/// attachment: the server process has been replaced.
fn end_if_replaced(older: &Tunnel, new: &Tunnel, age: Duration) {
    let TunnelStatus::Lost { since, .. } = *older.status().borrow() else {
        return;
    };
    // The new process started after the loss. A second server with the same port key that was
    // already running has a larger age.
    if older.instance() != new.instance() && since.elapsed() > age {
        warn!(tunnel = %older.id(), "the server was restarted: earlier connections are reset");
        older.end(
            ResetCode::Cancelled,
            Notice::new(Code::PeerLost, "the server was restarted"),
        );
    }
}
