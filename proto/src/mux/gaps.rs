//! The streams with a gap in their received bytes, how long they have had it, and how many pieces
//! wait behind gaps.

use std::time::{Duration, Instant};

use super::{Mux, MuxError, StreamId, receive_half::ReceiveHalf};
use crate::map::Map;

/// How long a gap may remain without progress (PROTOCOL 12, `GAP_TIMEOUT`). The sender fills it
/// within this time even if it must first find out that a lane is dead.
pub const GAP_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest number of pieces behind gaps in a tunnel (PROTOCOL 12, `PIECES_MAX`). The window
/// limits their bytes; this limits their overhead.
pub const PIECES_MAX: usize = 16_384;

/// The gaps of all streams.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    streams: Map<StreamId, Gap>,
    pieces: usize,
}

#[derive(Debug, Clone, Copy)]
struct Gap {
    since: Instant,
    received: u64,
    pieces: usize,
}

impl Gaps {
    /// Returns when the oldest gap has lasted too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let oldest = self.streams.values().map(|gap| gap.since).min()?;
        oldest.checked_add(GAP_TIMEOUT)
    }

    /// Checks the number of pieces behind gaps.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn check(&self) -> Result<(), MuxError> {
        if self.pieces > PIECES_MAX {
            return Err(MuxError::Protocol("too many pieces behind gaps"));
        }
        Ok(())
    }

    /// Forgets a stream.
    pub(super) fn remove(&mut self, id: StreamId) {
        if let Some(gap) = self.streams.remove(&id) {
            self.pieces = self.pieces.saturating_sub(gap.pieces);
        }
    }

    /// Records the present state of a stream.
    fn update(&mut self, now: Instant, id: StreamId, receive: &ReceiveHalf) {
        let pieces = receive.ahead().pieces();
        if pieces == 0 {
            if !self.streams.is_empty() {
                self.remove(id);
            }
            return;
        }
        let received = receive.received();
        let new = Gap {
            since: now,
            received,
            pieces: 0,
        };
        let gap = self.streams.entry(id).or_insert(new);
        if gap.received != received {
            gap.since = now;
            gap.received = received;
        }
        self.pieces = self
            .pieces
            .saturating_add(pieces)
            .saturating_sub(gap.pieces);
        gap.pieces = pieces;
    }
}

impl Mux {
    /// Applies `change` to the receiving half of a stream, and updates the sums of the tunnel.
    /// `None`: the stream does not exist.
    pub(super) fn change_receive<Outcome>(
        &mut self,
        now: Instant,
        id: StreamId,
        change: impl FnOnce(&mut ReceiveHalf) -> Result<Outcome, MuxError>,
    ) -> Option<Result<Outcome, MuxError>> {
        let stream = self.streams.get_mut(&id)?;
        let outcome = self.credit.track(&mut stream.receive, change);
        self.gaps.update(now, id, &stream.receive);
        Some(outcome)
    }

    /// Measures the age of all gaps from now, because a lane was added or lost, or has stalled: the
    /// peer may have to send the missing bytes again.
    pub(super) fn restart_gaps(&mut self, now: Instant) {
        for gap in self.gaps.streams.values_mut() {
            gap.since = now;
        }
    }
}
