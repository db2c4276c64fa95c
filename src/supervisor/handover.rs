//! The handover from one set of links to the set that replaces it, after a change of the
//! configuration.
//!
//! ```text
//!  new set:  dialling ──first link──► joined
//!                                       │
//!  old set:  in use ◄──────────────── supersede ──► tunnels move ──► links unused, or RETIREMENT ──► ended
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio_util::sync::CancellationToken;

use super::uplink::RetirementCause;

/// The part of one set in handovers. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Handover(Arc<HandoverState>);

#[derive(Debug, Default)]
struct HandoverState {
    /// Cancelled when the first link of the set has joined.
    joined: CancellationToken,
    /// Cancelled when another set is in use in place of this one.
    superseded: CancellationToken,
    /// Cancelled when all links of the set have ended.
    ended: CancellationToken,
    /// Whether no newer link of the same slots goes to the same masters.
    is_surplus: AtomicBool,
    /// Whether the set that this one replaces has links.
    has_predecessor: AtomicBool,
}

impl Handover {
    /// Creates the part of a set that replaces another one.
    pub(super) fn of_successor() -> Self {
        let handover = Handover::default();
        handover.0.has_predecessor.store(true, Relaxed);
        handover
    }

    /// Records that a link has joined.
    pub(super) fn set_joined(&self) {
        self.0.joined.cancel();
    }

    /// Whether a link has joined.
    pub(super) fn has_joined(&self) -> bool {
        self.0.joined.is_cancelled()
    }

    /// Waits until a link has joined.
    pub(super) async fn joined(&self) {
        self.0.joined.cancelled().await;
    }

    /// Makes the links of the set retire, for this cause.
    pub(super) fn supersede(&self, cause: RetirementCause) {
        let is_surplus = cause == RetirementCause::Surplus;
        self.0.is_surplus.store(is_surplus, Relaxed);
        self.0.superseded.cancel();
    }

    /// Waits until the links of the set are to retire.
    pub(super) async fn superseded(&self) {
        self.0.superseded.cancelled().await;
    }

    /// Returns why the links of the set retire.
    pub(super) fn cause(&self) -> RetirementCause {
        if self.0.is_surplus.load(Relaxed) {
            RetirementCause::Surplus
        } else {
            RetirementCause::Replaced
        }
    }

    /// Records that all links of the set have ended.
    pub(super) fn set_ended(&self) {
        self.0.ended.cancel();
    }

    /// Waits until all links of the set have ended.
    pub(super) async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// Whether the set that this one replaces has links. A master must not close them when it
    /// accepts a link of this set.
    pub(super) fn has_predecessor(&self) -> bool {
        self.0.has_predecessor.load(Relaxed)
    }

    /// Records that the replaced set has ended.
    pub(super) fn forget_predecessor(&self) {
        self.0.has_predecessor.store(false, Relaxed);
    }
}
