//! Datagrams in flows (PROTOCOL 9.12). A flow is one UDP peer of a service. Its datagrams keep their
//! boundaries; they are never sent again, and none arrives later than `max_delay` allows.
//!
//! ```text
//!   at the client:  open ──FLOW or DATAGRAM received──► confirmed
//!                    │  OPEN_FLOW precedes datagrams       │
//!                    └───────────────┬────────────────────┘
//!   at the server:  OPEN_FLOW received ──► confirmed
//!                                    │
//!   at both:         confirmed ──END_FLOW received──► ended ──`end_flow`──► forgotten
//!                        └──────────────`end_flow`: END_FLOW sent──────────────▲
//! ```
//! Nothing about a flow is acknowledged or listed after a resumption. A frame that is lost shows
//! itself: an OPEN_FLOW repeats with the next datagram, and a datagram for a flow that has ended is
//! answered with END_FLOW.
//!
//! | file | contents |
//! |---|---|
//! | `api` | the operations of applications |
//! | `receive`, `transmit` | the frames of the peer, and those for it |
//! | `queue` | the datagrams that wait, and their bounds |
//! | `lane_window` | how many bytes may be under way on a lane |
//! | `lateness` | which datagrams arrive too late |
//! | `ended` | the flows that have ended, and those to report |

mod api;
mod ended;
mod lane_window;
mod lateness;
mod queue;
mod receive;
mod transmit;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub(super) use self::lane_window::LaneWindow;
pub use self::queue::WAITING_MAX;
use self::{ended::EndedFlows, lateness::LatenessFilter, queue::FlowQueues};
use super::{LaneId, ResetCode, frame::FlowId};
use crate::{drr::DrrScheduler, map::Map};

/// The largest datagram, in bytes: that of UDP over IPv4. With its header it fits into one message.
pub const DATAGRAM_MAX: usize = 65_507;

/// The bytes that each datagram counts in addition to its length, where datagrams share something.
/// Without them, empty datagrams would have no bound.
const DATAGRAM_COST: usize = 16;

/// The bytes that a flow may send in its turn: an Ethernet frame, as in FQ-CoDel (RFC 8290).
const QUANTUM: i64 = 1514;

/// A flow with at least this many bytes that wait is heavy: it may use other lanes than the control
/// lane. A game, a call or an answer of a name server has less.
const HEAVY_MIN: usize = 8 * 1024;

/// The memory of a flow without its datagrams, in bytes. A client that opens many flows takes it from
/// the memory budget.
const FLOW_COST: u64 = 256;

/// The details of flows that the application has not read from yet have this many bytes at most
/// (PROTOCOL 12). They wait until the application serves the flow, so a peer could make them many.
const UNREAD_DETAILS_MAX: usize = 1 << 20;

/// After this many removed flows, the scheduler drops the keys that it still keeps of them.
const STALE_KEYS_MAX: usize = 1024;

/// The next check for expired datagrams follows after this part of `max_delay` at the earliest.
const CHECKS_PER_DELAY: u32 = 8;

/// The reason why an operation on a flow failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The flow does not exist, or not any more.
    #[error("there is no such flow")]
    Unknown,
    /// The peer ended the flow.
    #[error("the peer ended the flow: {0}")]
    Ended(ResetCode),
    /// The datagram is longer than [`DATAGRAM_MAX`].
    #[error("the datagram is longer than 65,507 bytes, which UDP does not allow")]
    TooLong,
}

/// The datagrams of a tunnel at this end, counted by what happened to them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DatagramCounts {
    /// Datagrams that left in a message.
    pub sent: u64,
    /// Datagrams that arrived in time for a flow of this end.
    pub received: u64,
    /// Datagrams that waited too long at this end.
    pub expired: u64,
    /// Datagrams that were dropped at this end because too many waited, in either direction.
    pub dropped_full: u64,
    /// Datagrams that were too old when they arrived.
    pub late: u64,
    /// Datagrams that arrived for a flow that this end does not have.
    pub unknown_flow: u64,
    /// Datagrams that waited at this end, in either direction, when their flow ended.
    pub ended: u64,
}

/// The state of one flow, without its datagrams.
#[derive(Debug)]
struct FlowState {
    /// The details of OPEN_FLOW, until the peer knows the flow.
    unconfirmed: Option<Bytes>,
    /// The lane of the last OPEN_FLOW, and the last message for which it counts.
    announced_in: Option<(LaneId, u64)>,
    /// The reason of the peer, which has ended the flow.
    ended: Option<ResetCode>,
    /// Whether the application waits for a datagram.
    wants_read: bool,
    /// The length of the details of a flow that the peer has opened, until the application reads
    /// from the flow for the first time.
    unread_details: usize,
}

impl FlowState {
    /// Creates a flow. `unconfirmed` has the details of OPEN_FLOW if the peer must learn of it.
    fn new(unconfirmed: Option<Bytes>) -> Self {
        FlowState {
            unconfirmed,
            announced_in: None,
            ended: None,
            wants_read: false,
            unread_details: 0,
        }
    }

    /// Returns the details of an OPEN_FLOW that must precede a datagram in this message.
    fn announcement(&self, lane: LaneId, message: u64) -> Option<&Bytes> {
        // A message on another lane could overtake it.
        let is_announced = self
            .announced_in
            .is_some_and(|(on, last)| on == lane && message <= last);
        self.unconfirmed.as_ref().filter(|_| !is_announced)
    }

    /// Records that the peer knows the flow.
    fn confirm(&mut self) {
        self.unconfirmed = None;
    }
}

/// The flows of one end and their datagrams.
#[derive(Debug)]
pub(super) struct Datagrams {
    flows: Map<FlowId, FlowState>,
    /// The number after the largest one that the client has used, as far as this end knows.
    next: u64,
    sending: FlowQueues,
    received: FlowQueues,
    /// The flows with datagrams to send.
    round: DrrScheduler<FlowId>,
    /// With several lanes, those of them that were heavy when a datagram was queued.
    heavy: DrrScheduler<FlowId>,
    stale_keys: usize,
    /// The sum of [`FlowState::unread_details`].
    unread_details: usize,
    /// The flows whose OPEN_FLOW is to be answered.
    answers: BTreeSet<FlowId>,
    ended: EndedFlows,
    lateness: LatenessFilter,
    /// The zero of the times in datagrams.
    created: Instant,
    /// The number of messages that could carry datagrams.
    messages: u64,
    /// The next datagram had no room in the last message, so it begins the next one.
    is_postponed: bool,
    /// A datagram is in the present message.
    is_in_message: bool,
    /// Datagrams have filled the last message, so it is the turn of streams.
    has_filled: bool,
    /// When to look for expired datagrams.
    check_at: Option<Instant>,
    counts: DatagramCounts,
    /// The bytes of all datagrams in both directions, with [`DATAGRAM_COST`].
    moved: u64,
}

impl Datagrams {
    pub(super) fn new(now: Instant) -> Self {
        Datagrams {
            flows: Map::default(),
            next: 0,
            sending: FlowQueues::default(),
            received: FlowQueues::default(),
            round: DrrScheduler::default(),
            heavy: DrrScheduler::default(),
            stale_keys: 0,
            unread_details: 0,
            answers: BTreeSet::new(),
            ended: EndedFlows::default(),
            lateness: LatenessFilter::default(),
            created: now,
            messages: 0,
            is_postponed: false,
            is_in_message: false,
            has_filled: false,
            check_at: None,
            counts: DatagramCounts::default(),
            moved: 0,
        }
    }

    /// Returns whether datagrams wait to be sent.
    pub(super) fn has_datagrams(&self) -> bool {
        self.sending.count() > 0
    }

    /// Returns whether small frames about flows wait to be sent.
    pub(super) fn has_small_frames(&self) -> bool {
        !self.answers.is_empty() || self.ended.is_report_due()
    }

    /// Returns the bytes of all datagrams that were sent or have arrived.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Returns the bytes that wait to be sent, and about what their headers take.
    pub(super) fn unsent_bytes(&self) -> u64 {
        self.sending.memory() as u64
    }

    /// Returns the memory of the flows and of the datagrams that wait, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        let waiting = self.sending.memory().saturating_add(self.received.memory());
        let flows = FLOW_COST.saturating_mul(self.flows.len() as u64);
        let waiting = waiting.saturating_add(self.unread_details);
        flows.saturating_add(waiting as u64)
    }

    /// Limits the datagrams that wait to those now and `room` bytes.
    pub(super) fn limit_to(&mut self, room: u64) {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        self.sending.limit_to(room);
        self.received.limit_to(room);
    }

    /// Reports the latest ends of flows again, because a lane may have lost them.
    pub(super) fn report_ends_again(&mut self) {
        self.ended.report_again();
    }

    /// Returns when to call [`Datagrams::expire`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.check_at.filter(|_| self.has_datagrams())
    }

    /// Drops the datagrams that have waited for `max_delay`, if it is time to look for them.
    pub(super) fn expire(&mut self, now: Instant, max_delay: Duration) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let expired = self.sending.expire(now, max_delay);
        self.counts.expired = self.counts.expired.saturating_add(expired);
        let pause = max_delay.checked_div(CHECKS_PER_DELAY).unwrap_or_default();
        let earliest = now.checked_add(pause);
        let oldest = self.sending.oldest();
        self.check_at = oldest
            .and_then(|since| since.checked_add(max_delay))
            .max(earliest);
    }

    /// Returns whether a flow that the peer knows has much to send.
    fn is_heavy(&self, id: FlowId) -> bool {
        let flow = self.flows.get(&id);
        flow.is_some_and(|flow| flow.unconfirmed.is_none())
            && self.sending.bytes_of(id) >= HEAVY_MIN
    }

    /// Forgets a flow. Returns its state.
    fn remove(&mut self, id: FlowId) -> Option<FlowState> {
        let flow = self.flows.remove(&id)?;
        self.unread_details = self.unread_details.saturating_sub(flow.unread_details);
        let waiting = self.received.remove(id);
        self.counts.ended = self.counts.ended.saturating_add(waiting);
        self.stop_sending(id);
        self.answers.remove(&id);
        if self.flows.is_empty() {
            self.flows.shrink_to_fit();
        }
        Some(flow)
    }

    /// Drops the datagrams of a flow that wait to be sent.
    fn stop_sending(&mut self, id: FlowId) {
        let waiting = self.sending.remove(id);
        self.counts.ended = self.counts.ended.saturating_add(waiting);
        self.round.remove(id);
        self.heavy.remove(id);
        self.stale_keys = self.stale_keys.saturating_add(1);
        if self.stale_keys > STALE_KEYS_MAX {
            self.stale_keys = 0;
            self.round.shrink_to(STALE_KEYS_MAX);
            self.heavy.shrink_to(STALE_KEYS_MAX);
        }
    }
}

/// Returns what a datagram of this length counts where datagrams share something.
fn cost(length: usize) -> usize {
    length.saturating_add(DATAGRAM_COST)
}
