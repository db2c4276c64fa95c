//! The handle of a tunnel that the roles use.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::{PortParameters, shared::TunnelShared, stream::TunnelStream};
use crate::{link::Outbox, suspend::Moment};
use report_proto::frame::{Code, Notice};
use report_proto::{id::Id, mux::ResetCode};

/// A handle of a tunnel. Clones refer to the same tunnel.
#[derive(Clone)]
pub struct Tunnel {
    pub(super) shared: Arc<TunnelShared>,
}

/// The status of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelStatus {
    /// The first attachment has not proven itself yet.
    Unconfirmed,
    /// An attachment carries the tunnel.
    Attached,
    /// The tunnel waits for its next attachment.
    Lost {
        /// When the previous attachment ended.
        since: Moment,
        /// Why it ended.
        why: Notice,
    },
    /// The tunnel has ended, and END was sent if an attachment existed.
    Ended,
}

impl Tunnel {
    /// Returns the id by which both ends know the tunnel.
    #[must_use]
    pub fn id(&self) -> Id {
        self.shared.id
    }

    /// Returns the instance id of the server process that holds the tunnel (at a server, of this
    /// process).
    #[must_use]
    pub fn instance(&self) -> Id {
        self.shared.instance
    }

    /// Returns the port of the tunnel.
    #[must_use]
    pub fn port(&self) -> &PortParameters {
        &self.shared.port
    }

    /// Returns why the tunnel ended, or `None` while it is alive.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        self.shared.state().end_notice.clone()
    }

    /// Returns a watch on the status of the tunnel. It also reports the end of a move, with the
    /// same status.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<TunnelStatus> {
        self.shared.status.subscribe()
    }

    /// Returns whether an attachment carries the tunnel.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        matches!(*self.shared.status.borrow(), TunnelStatus::Attached)
    }

    /// Returns whether the current attachment uses this link.
    #[must_use]
    pub fn is_attached_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.shared
            .state()
            .binding
            .current()
            .is_some_and(|current| Arc::ptr_eq(&current.handle.outbox, outbox))
    }

    /// Returns whether a move is in progress. The tunnel can move again only after that.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.shared.state().binding.moving_from().is_some()
    }

    /// Returns the number of streams, including those that only wait for their last
    /// acknowledgement.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.state().mux.streams()
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
        let mut state = self.shared.state();
        let id = state.mux.open(details);
        self.shared.publish(state);
        TunnelStream::new(Arc::clone(&self.shared), id)
    }

    /// Returns the next stream that the peer opens, with its details; `None` after the tunnel has
    /// ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn accept(&self) -> Option<(TunnelStream, Bytes)> {
        let opened = std::future::poll_fn(|context| self.shared.poll_accept(context)).await;
        opened.map(|(id, details)| (TunnelStream::new(Arc::clone(&self.shared), id), details))
    }

    /// Ends the tunnel and all its streams. The peer receives END if an attachment exists; local
    /// waiters receive `notice`.
    pub fn end(&self, code: ResetCode, notice: Notice) {
        self.shared.end(code, notice);
    }

    /// Ends a tunnel that the server no longer knows. `seen` is the lowest client stream id that
    /// the server never saw, if the server reports it.
    pub fn end_unknown_at_server(&self, seen: Option<u64>, notice: Notice) {
        self.shared.state().seen_by_peer = seen;
        self.end(ResetCode::Cancelled, notice);
    }

    /// Returns the lowest peer stream id that this end has not seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.state().mux.seen()
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

    /// Asks the client to reattach the tunnel, if it is attached through `outbox`: that link closes
    /// soon.
    pub fn request_move(&self, outbox: &Arc<Outbox>) {
        self.shared.request_move(outbox);
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
        let identity = super::shared::Identity {
            side: report_proto::mux::TunnelSide::Client,
            id: self.id(),
            instance: self.instance(),
            secret: report_proto::crypto::TunnelSecret::from_bytes([0; 32]),
        };
        let shared = TunnelShared::start(
            identity,
            self.port().clone(),
            super::offer::Grant::of(self.port()),
            tasks,
        );
        shared.attempts.store(1_000, Ordering::Relaxed);
        Tunnel { shared }
    }

    /// Returns the number of the next attempt to attach the tunnel.
    pub(super) fn next_attempt(&self) -> u64 {
        self.shared
            .attempts
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }
}
