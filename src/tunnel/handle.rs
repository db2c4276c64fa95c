//! A tunnel, as the roles hold it.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::{PortParameters, shared::Shared, stream::TunnelStream};
use crate::{
    id::Id,
    link::channel::{Code, Notice, Outbox},
    mux::ResetCode,
    suspend::Moment,
};

/// A tunnel. Clones are the same tunnel.
#[derive(Clone)]
pub struct Tunnel {
    pub(super) shared: Arc<Shared>,
}

/// How a tunnel stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its first attachment has not proven itself.
    Begun,
    /// An attachment carries it.
    Attached,
    /// It waits for its next attachment.
    Lost {
        /// When the one before ended.
        since: Moment,
        /// And why.
        why: Notice,
    },
    /// It is over, and the other end has been told if it could be.
    Over,
}

impl Tunnel {
    /// The name that both ends know the tunnel by.
    #[must_use]
    pub fn id(&self) -> Id {
        self.shared.id
    }

    /// The process of the server that holds its other end, or this one.
    #[must_use]
    pub fn instance(&self) -> Id {
        self.shared.instance
    }

    /// The port that the tunnel belongs to.
    #[must_use]
    pub fn port(&self) -> &PortParameters {
        &self.shared.port
    }

    /// Why the tunnel is over, once it is.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        self.shared.state().over.clone()
    }

    /// How the tunnel stands, now and from now on.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Whether an attachment carries the tunnel.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        matches!(*self.shared.standing.borrow(), Standing::Attached)
    }

    /// Whether the attachment that carries the tunnel goes through this link.
    #[must_use]
    pub fn is_attached_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.shared
            .state()
            .binding
            .present()
            .is_some_and(|present| Arc::ptr_eq(&present.bell.outbox, outbox))
    }

    /// Whether the tunnel is on its way from one attachment to another: it can be attached again without a pause only after that.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.shared.state().binding.leaving().is_some()
    }

    /// How many streams it has, those included that only wait for their last acknowledgement.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.state().mux.streams()
    }

    /// Waits until the tunnel is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn closed(&self) {
        self.shared.over.cancelled().await;
    }

    /// Opens a stream. Its first bytes travel with the opening.
    #[must_use]
    pub fn open(&self, details: Bytes) -> TunnelStream {
        let mut state = self.shared.state();
        let id = state.mux.open(details);
        self.shared.settle(state);
        TunnelStream::new(Arc::clone(&self.shared), id)
    }

    /// The next stream that the peer opens, with what it says of it; `None` when the tunnel is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait.
    pub async fn accept(&self) -> Option<(TunnelStream, Bytes)> {
        let opened = std::future::poll_fn(|context| self.shared.poll_accept(context)).await;
        opened.map(|(id, details)| (TunnelStream::new(Arc::clone(&self.shared), id), details))
    }

    /// Ends the tunnel and all its streams. The other end is told if it can be; `notice` is what those hear who wait here.
    pub fn end(&self, code: ResetCode, notice: Notice) {
        self.shared.end(code, notice);
    }

    /// Ends the tunnel, which the server has given up. `seen` is the lowest number of the client's streams that the server has never seen, if it says so.
    pub fn given_up(&self, seen: Option<u64>, notice: Notice) {
        self.shared.state().seen_by_peer = seen;
        self.end(ResetCode::Cancelled, notice);
    }

    /// The lowest number of the peer's streams that this end has not seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.state().mux.seen()
    }

    /// Ends all of these because the process does, and waits until the other ends have been told.
    ///
    /// # Cancel safety
    /// All of them are over when the future is dropped; not every other end may know.
    pub async fn shut_down(tunnels: &[Tunnel], reason: &str) {
        for tunnel in tunnels {
            tunnel.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, reason));
        }
        for tunnel in tunnels {
            tunnel.ended().await;
        }
    }

    /// Waits until the tunnel is over and the other end has been told, if there was a way.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn ended(&self) {
        // The sender is in the tunnel itself.
        let _ = self
            .standing()
            .wait_for(|standing| *standing == Standing::Over)
            .await;
    }

    /// Asks the client to attach the tunnel anew, if it is now attached through `outbox`: that link is about to close.
    pub fn leave(&self, outbox: &Arc<Outbox>) {
        self.shared.ask_to_move(outbox);
    }

    /// How often the peer has asked to attach the tunnel anew, now and from now on.
    #[must_use]
    pub fn asked_to_move(&self) -> watch::Receiver<u64> {
        self.shared.asked_to_move.subscribe()
    }

    /// The client's end of a tunnel of the same name, in the hands of somebody who does not know its secret.
    #[cfg(test)]
    pub(super) fn with_another_secret(&self, tasks: &tokio_util::task::TaskTracker) -> Tunnel {
        let identity = super::shared::Identity {
            side: crate::mux::Side::Client,
            id: self.id(),
            instance: self.instance(),
            secret: crate::crypto::TunnelSecret::guessed(),
        };
        let shared = Shared::start(
            identity,
            self.port().clone(),
            super::offer::Grant::of(self.port()),
            tasks,
        );
        shared.attempts.store(1_000, Ordering::Relaxed);
        Tunnel { shared }
    }

    /// The number of the next attempt to attach the tunnel.
    pub(super) fn next_attempt(&self) -> u64 {
        self.shared
            .attempts
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }
}
