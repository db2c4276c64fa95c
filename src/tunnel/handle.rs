//! The handle of a tunnel that the roles use.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    core::TunnelStatus, flow::DatagramFlow, parameters::PortParameters, shared::TunnelShared,
    stream::TunnelStream,
};
use crate::{link::LinkId, suspend::Moment};
use report_proto::frame::{Code, Notice};
use report_proto::{id::Id, mux::ResetCode};

/// A handle of a tunnel. Clones refer to the same tunnel.
#[derive(Clone)]
pub struct Tunnel {
    pub(super) shared: Arc<TunnelShared>,
}

impl Tunnel {
    /// Returns the id by which both ends know the tunnel.
    #[must_use]
    pub fn id(&self) -> Id {
        self.shared.identity.id
    }

    /// Returns the instance id of the server process that holds the tunnel (at a server, of this
    /// process).
    #[must_use]
    pub fn instance(&self) -> Id {
        self.shared.identity.instance
    }

    /// Returns the port of the tunnel.
    #[must_use]
    pub fn port(&self) -> &PortParameters {
        &self.shared.port
    }

    /// Returns why the tunnel ended, or `None` while it is alive.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        self.shared.core().end_notice().cloned()
    }

    /// Returns a watch on the status of the tunnel. It also reports other changes of the lanes, with
    /// the same status.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<TunnelStatus> {
        self.shared.status.subscribe()
    }

    /// Returns whether an attachment carries the tunnel.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        matches!(*self.shared.status.borrow(), TunnelStatus::Attached)
    }

    /// Returns whether further lanes can join: both ends have one.
    #[must_use]
    pub fn accepts_lanes(&self) -> bool {
        self.shared.core().accepts_lanes()
    }

    /// Returns the link of each lane that this end does not leave.
    #[must_use]
    pub fn attached_links(&self) -> Vec<LinkId> {
        self.shared.core().attached_links()
    }

    /// Leaves the lanes on a link that will be closed, if a lane on another link remains.
    pub fn leave_link(&self, link: LinkId) {
        self.shared
            .update(|core| core.leave_link(Moment::now(), link));
    }

    /// Returns whether a lane uses this link.
    #[must_use]
    pub fn is_attached_through(&self, link: LinkId) -> bool {
        self.shared.core().is_attached_through(link)
    }

    /// Returns the number of lanes that this end does not leave.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.shared.core().lanes()
    }

    /// Returns how many lanes the server asks for, at least one. The value is the peer's: bound it.
    #[must_use]
    pub fn requested_lanes(&self) -> usize {
        self.shared.core().requested_lanes()
    }

    /// Asks the client for this number of lanes, as a server, if the client knows such requests.
    pub fn request_lanes(&self, lanes: usize) {
        self.shared.update(|core| core.request_lanes(lanes));
    }

    /// Closes lanes that share a link of this server, so that they return on those of its `links`
    /// that carry none.
    pub fn spread_lanes(&self, links: usize) {
        self.shared
            .update(|core| core.spread_lanes(Moment::now(), links));
    }

    /// Leaves lanes, the newest first, until `keep` remain. Keeps one on each link.
    pub fn leave_surplus(&self, keep: usize) {
        self.shared
            .update(|core| core.leave_surplus(Moment::now(), keep));
    }

    /// Returns whether a lane is being left.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.shared.core().is_moving()
    }

    /// Returns the number of streams, including those that only wait for their last
    /// acknowledgement.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.core().mux.streams()
    }

    /// Waits until the tunnel has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn closed(&self) {
        self.shared.ended.cancelled().await;
    }

    /// Opens a stream. Its first bytes travel in the same message as OPEN.
    #[must_use]
    pub fn open(&self, details: Bytes) -> TunnelStream {
        let id = self.shared.update(|core| core.mux.open(details));
        TunnelStream::new(Arc::clone(&self.shared), id)
    }

    /// Returns the next stream that the peer opens, with its details; `None` after the tunnel has
    /// ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn accept(&self) -> Option<(TunnelStream, Bytes)> {
        let opened =
            std::future::poll_fn(|context| self.shared.core().poll_accept(context.waker())).await;
        opened.map(|(id, details)| (TunnelStream::new(Arc::clone(&self.shared), id), details))
    }

    /// Opens a datagram flow, as a client. The server learns of it with the first datagram.
    #[must_use]
    pub fn open_flow(&self, details: Bytes) -> DatagramFlow {
        let id = self.shared.update(|core| core.mux.open_flow(details));
        DatagramFlow::new(Arc::clone(&self.shared), id)
    }

    /// Returns the next datagram flow that the client opens, with its details; `None` after the
    /// tunnel has ended. Flows beyond `max_flows` of the port do not appear.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn accept_flow(&self) -> Option<(DatagramFlow, Bytes)> {
        let opened =
            std::future::poll_fn(|context| self.shared.core().poll_accept_flow(context.waker()))
                .await;
        opened.map(|(id, details)| (DatagramFlow::new(Arc::clone(&self.shared), id), details))
    }

    /// Returns the number of datagram flows.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.shared.core().mux.flows()
    }

    /// Ends the tunnel and all its streams. The peer receives END if an attachment exists; local
    /// waiters receive `notice`.
    pub fn end(&self, code: ResetCode, notice: Notice) {
        self.shared.update(|core| core.end(code, notice));
    }

    /// Ends a tunnel that the server no longer knows. `seen` is the lowest client stream id that
    /// the server never saw, if the server reports it.
    pub fn end_unknown_at_server(&self, seen: Option<u64>, notice: Notice) {
        self.shared
            .update(|core| core.end_unknown_at_server(seen, notice));
    }

    /// Returns the lowest peer stream id that this end has not seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.core().mux.seen()
    }

    /// Ends these tunnels because the process shuts down, and waits until their END frames are
    /// sent.
    ///
    /// # Cancel safety
    /// All tunnels have ended when the future is dropped; some peers may not know it.
    pub async fn shut_down(tunnels: &[Tunnel], reason: &str) {
        for tunnel in tunnels {
            tunnel.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, reason));
        }
        for tunnel in tunnels {
            tunnel.end_delivered().await;
        }
    }

    /// Waits until the tunnel has ended and END is sent, if an attachment exists.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn end_delivered(&self) {
        // Cannot fail: the tunnel owns the sender.
        let _ = self
            .status()
            .wait_for(|status| *status == TunnelStatus::Ended)
            .await;
    }

    /// Asks the client to reattach the tunnel, if it is attached through `link`, which closes soon.
    pub fn request_move(&self, link: LinkId) {
        self.shared.update(|core| core.request_move(link));
    }

    /// Returns a watch on the number of MOVE requests that the peer has sent.
    #[must_use]
    pub fn move_requests(&self) -> watch::Receiver<u64> {
        self.shared.move_requests.subscribe()
    }

    /// Returns a client handle for the same tunnel id with another secret, as an attacker would
    /// have.
    #[cfg(test)]
    pub(super) fn with_another_secret(&self, tasks: &tokio_util::task::TaskTracker) -> Tunnel {
        let new = super::handshake::NewTunnel {
            identity: super::handshake::Identity {
                id: self.id(),
                instance: self.instance(),
                secret: report_proto::crypto::TunnelSecret::from_bytes([0; 32]),
            },
            grant: super::offer::Grant::of(self.port()),
            takes_lane_requests: false,
        };
        let side = report_proto::mux::TunnelSide::Client;
        let shared = TunnelShared::start(side, new, self.port().clone(), tasks);
        shared.core().set_attempts(1_000);
        Tunnel { shared }
    }
}
