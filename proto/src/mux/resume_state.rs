//! The state of resumption outside the streams: the progress of the two lists, and the end of the
//! tunnel.
//!
//! ```text
//!   Local list:
//!   none ──resume, no current candidate list──► due ──► sending, in several messages ──► none
//!
//!   Peer's list:
//!   not expected ──resume──► expected ──RESUME──► reading ──RESUMED──► complete ──other──► (start)
//!                                                   ▲                    │
//!                                                   └───────RESUME───────┘
//! ```
//! The peer may send RESUME twice, because its first list predates its takeover. The second list
//! replaces the first, even if that is incomplete.

use std::collections::VecDeque;

use super::{
    error::{MuxError, ResetCode},
    frame::{StreamId, TunnelFrame},
    lanes::LaneId,
};

/// How often the peer may begin its list on an attachment: once as a candidate, and once more after
/// it has taken over.
pub(super) const LISTS_MAX: u8 = 2;

/// The state of resumption outside the streams.
#[derive(Debug, Default)]
pub(super) struct ResumeState {
    /// Whether sending is paused because the peer's list has not arrived. Without it, data cannot
    /// continue.
    pub paused: bool,
    /// The lane that resumed the tunnel. Only it carries lists.
    pub lane: Option<LaneId>,
    pub local_list: LocalList,
    pub candidates: Candidates,
    pub peer_list: PeerList,
    /// The number of lists that the peer has begun, on this attachment and in total.
    pub lists_begun: u8,
    pub lists_begun_total: u64,
}

/// The progress of the local list after a takeover.
#[derive(Debug, Default)]
pub(super) enum LocalList {
    #[default]
    None,
    Due,
    /// RESUME was sent, and these streams are still to be listed.
    Sending(VecDeque<StreamId>),
}

/// The lists that candidates have sent ahead. Any candidate may take over next.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    count: usize,
    /// Whether all of them are complete and still correct.
    up_to_date: bool,
}

/// The progress of the peer's list.
#[derive(Debug, Default)]
pub(super) enum PeerList {
    #[default]
    NotExpected,
    Expected,
    Reading(Scope),
    Complete,
}

/// The scope of a list: the streams of each side below a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// Local streams below this number are known to the peer.
    pub seen: u64,
    /// The peer's streams below this number have been opened.
    pub opened: u64,
}

/// The end of the tunnel as a whole.
#[derive(Debug, Default)]
pub(super) struct TunnelCloseState {
    pub code: Option<ResetCode>,
    /// The lanes on which END was sent.
    pub sent_on: Vec<LaneId>,
    ended_by_peer: bool,
}

impl ResumeState {
    /// Returns whether OPEN, DATA, FIN and RESET may be sent.
    pub(super) fn is_flowing(&self) -> bool {
        !self.paused
    }

    /// Returns whether the local list, or the rest of it, must be sent before anything else.
    pub(super) fn is_list_due(&self) -> bool {
        !matches!(self.local_list, LocalList::None)
    }

    /// Returns whether the lane delivers the rest of a list.
    #[cfg(test)]
    pub(super) fn is_reading_list(&self, lane: LaneId) -> bool {
        self.lane == Some(lane) && matches!(self.peer_list, PeerList::Reading(_))
    }

    /// Records that the current attachment carried a message, so the lists of the candidates may be
    /// outdated.
    pub(super) fn mark_candidates_stale(&mut self) {
        self.candidates.up_to_date = false;
    }

    pub(super) fn take_over(&mut self, lane: LaneId) {
        self.lane = Some(lane);
        self.local_list = if self.candidates.take_over() {
            LocalList::None
        } else {
            LocalList::Due
        };
        self.peer_list = PeerList::Expected;
        self.lists_begun = 0;
        self.paused = true;
    }

    /// Checks that the frame is in state with regard to the peer's list. Returns whether it belongs
    /// to the list.
    pub(super) fn admit(&mut self, lane: LaneId, frame: &TunnelFrame) -> Result<bool, MuxError> {
        use TunnelFrame::{End, Ping, Resume, Resumed, TunnelWindow, Window};
        if self.lane != Some(lane) {
            // Another lane has no order with the list.
            return match frame {
                Resume { .. } | Resumed => {
                    Err(MuxError::Protocol("RESUME on a lane that did not resume"))
                }
                _ => Ok(false),
            };
        }
        match (&self.peer_list, frame) {
            (
                PeerList::Reading(_),
                Resume { .. } | Resumed | Window { .. } | TunnelWindow { .. } | End { .. },
            ) => Ok(true),
            (PeerList::Expected | PeerList::Complete, Resume { .. })
            | (PeerList::Expected, End { .. }) => Ok(false),
            // The tunnel may move to another attachment, which begins with PING, while the list is
            // incomplete.
            (PeerList::Reading(_) | PeerList::Complete, Ping { .. }) => Ok(false),
            (PeerList::Expected | PeerList::Reading(_), _) => Err(MuxError::Protocol(
                "frame before the end of the RESUME list",
            )),
            (PeerList::NotExpected, Resume { .. }) => Err(MuxError::Protocol(
                "RESUME after other frames of an attachment",
            )),
            (PeerList::NotExpected | PeerList::Complete, _) => {
                self.peer_list = PeerList::NotExpected;
                Ok(false)
            }
        }
    }

    /// Drops the lists of a lost lane. The frames that it carried are repeated anyway.
    pub(super) fn lose(&mut self, lane: LaneId) {
        if self.lane == Some(lane) {
            self.local_list = LocalList::None;
            self.peer_list = PeerList::NotExpected;
        }
    }

    pub(super) fn begin_peer_list(&mut self, scope: Scope) -> Result<(), MuxError> {
        if self.lists_begun >= LISTS_MAX {
            return Err(MuxError::Protocol("RESUME too often"));
        }
        self.lists_begun = self.lists_begun.saturating_add(1);
        self.lists_begun_total = self.lists_begun_total.saturating_add(1);
        self.peer_list = PeerList::Reading(scope);
        Ok(())
    }
}

impl Candidates {
    pub(super) fn add(&mut self, whole: bool) {
        self.up_to_date = whole && (self.up_to_date || self.count == 0);
        self.count = self.count.saturating_add(1);
    }

    /// Removes one candidate. Returns whether the list that it sent ahead was complete and is still
    /// correct. The list of another candidate remains, and may be the next.
    fn take_over(&mut self) -> bool {
        let up_to_date = self.up_to_date && self.count > 0;
        self.count = self.count.saturating_sub(1);
        up_to_date
    }
}

impl TunnelCloseState {
    /// Returns the code of an END that must be sent on `lane`.
    pub(super) fn due(&self, lane: LaneId) -> Option<ResetCode> {
        self.code.filter(|_| !self.sent_on.contains(&lane))
    }

    /// Returns whether only END may be sent.
    pub(super) fn is_over(&self) -> bool {
        self.code.is_some() || self.ended_by_peer
    }

    /// Returns whether the peer has sent END.
    pub(super) fn is_ended_by_peer(&self) -> bool {
        self.ended_by_peer
    }

    /// Records that the peer has sent END.
    pub(super) fn set_ended_by_peer(&mut self) {
        self.ended_by_peer = true;
    }
}
