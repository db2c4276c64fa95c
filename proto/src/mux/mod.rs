//! The stream multiplexer of a tunnel: a sans-I/O state machine over one or several lanes. Each lane
//! is an ordered channel of messages.
//!
//! # Contract
//! The caller feeds events with a timestamp through the `handle_*` methods. It then polls three
//! methods:
//!
//! - [`Mux::poll_transmit`] returns the next message to send.
//! - [`Mux::poll_event`] returns the next event for the application.
//! - [`Mux::poll_timeout`] returns the time at which to call [`Mux::handle_timeout`].
//!
//! Any call may change the result of all three. The mux never blocks, and it knows no sockets,
//! ciphers or tasks.
//!
//! # Credit
//! Credit is counted in byte offsets. `window` owns the credit that this end grants. `credit`
//! divides it among the streams. `stream` holds the credit that the peer granted. The bytes held
//! for slow applications are `Σ (received − consumed)` over all streams. This sum equals the count
//! in the tunnel's window; debug builds check it after each operation.
//!
//! # Retransmission
//! Sent data is retained until the peer acknowledges it, so that it can be sent again. When one of
//! several lanes ends ([`Mux::lose_lane`]), what left on it leaves on the others. When all have
//! ended, the next one resumes the tunnel with a list of what has arrived ([`Mux::write_resume`],
//! [`Mux::resume`]). While there is no lane, the caller does not poll for messages; everything else
//! continues.
//!
//! # Datagrams
//! Datagrams travel in flows, beside the streams. They have no credit and are never sent again.

mod ack_queue;
mod bandwidth;
mod budget;
mod byte_queue;
mod control_lane;
mod control_watch;
mod credit;
mod datagrams;
mod error;
mod event;
mod flight;
mod frame;
mod gaps;
mod lane_flow;
mod lane_request;
mod lanes;
mod open_state;
mod opened;
mod reassembly;
mod receive;
mod receive_half;
mod relief;
mod resume;
mod resume_state;
mod rtt;
mod send_half;
mod send_totals;
mod stream;
mod stream_api;
#[cfg(test)]
mod tests;
mod transmit;
mod transmit_data;
mod varint;
mod window;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    ack_queue::AckQueue,
    budget::BudgetAccount,
    control_watch::ControlWatch,
    credit::CreditPool,
    datagrams::Datagrams,
    frame::TunnelFrame,
    gaps::Gaps,
    lane_flow::LaneFlows,
    lane_request::LaneRequest,
    lanes::Lanes,
    opened::OpenedStreams,
    resume_state::{ResumeState, TunnelCloseState},
    rtt::RttProber,
    send_totals::SendTotals,
    stream::{AckState, StreamState},
    window::TunnelWindow,
};
pub use self::{
    budget::MemoryBudget,
    datagrams::{DATAGRAM_MAX, DatagramCounts, FlowError, WAITING_MAX},
    error::{MuxError, ResetCode, StreamError},
    event::{MuxEvent, StreamRead},
    frame::{FlowId, MOVE, MOVED, StreamId},
    gaps::{GAP_TIMEOUT, PIECES_MAX},
    lanes::LaneId,
    send_totals::WRITE_MAX,
    window::WindowSize,
};
use crate::{drr::DrrScheduler, map::Map};

/// The largest `details` of OPEN, in bytes: well below the size of one message (PROTOCOL 9.2).
const DETAILS_MAX: usize = 4096;

/// The minimum number of streams that the peer may open beyond its limit. The peer needs this slack
/// because it opens streams before it receives the resets of earlier ones.
const REFUSED_MIN: usize = 1024;

/// The side of the tunnel, which determines the parity of its stream numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelSide {
    /// The client, which uses even stream numbers.
    Client,
    /// The server, which uses odd stream numbers.
    Server,
}

/// The credit and limits that this end grants to the peer.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// The window of each stream.
    pub stream_window: WindowSize,
    /// The window of all streams together. Its maximum bounds two amounts: the bytes held for slow
    /// applications, and the bytes retained until the peer acknowledges them.
    pub tunnel_window: WindowSize,
    /// The number of streams that the peer may have open at a time. A further stream is reset with
    /// [`ResetCode::Limit`].
    pub streams_max: usize,
    /// The number of flows of datagrams that the client may have open at a time. A further flow is
    /// ended with [`ResetCode::Limit`]. A client, to which no flow is opened, needs none.
    pub flows_max: usize,
    /// How long a datagram may wait, here and between the ends, before it is dropped.
    pub max_delay: Duration,
}

/// The credit that the peer granted in its handshake.
#[derive(Debug, Clone, Copy)]
pub struct PeerGrant {
    /// The initial send limit of each stream that this end opens, in bytes.
    pub stream_window: u64,
    /// The initial send limit of all streams together, in bytes.
    pub tunnel_window: u64,
}

/// One end of a tunnel's multiplexer. The module documentation describes the contract.
#[derive(Debug)]
pub struct Mux {
    side: TunnelSide,
    parameters: Parameters,
    streams: Map<StreamId, StreamState>,
    /// The number of streams that the peer opened.
    peer_streams: usize,
    /// The next stream number to open here, and the next one whose OPEN has not been sent.
    next_local: u64,
    next_announced: u64,
    opened_by_peer: OpenedStreams,
    lanes: Lanes,
    lane_flows: LaneFlows,
    control_watch: ControlWatch,
    lane_request: LaneRequest,
    /// Lost lanes that the present message has reported.
    reported_lost: Vec<LaneId>,
    datagrams: Datagrams,
    gaps: Gaps,
    grant: PeerGrant,
    /// The sum of all first transmissions in bytes, and the peer's limit for it.
    tunnel_sent: u64,
    tunnel_limit: u64,
    /// The window that the peer granted last: the credit after its last update, and what had left
    /// and was not acknowledged then.
    peer_window: u64,
    send_totals: SendTotals,
    window: TunnelWindow,
    credit: CreditPool,
    account: BudgetAccount,
    rtt: RttProber,
    schedule: DrrScheduler<StreamId>,
    /// With several lanes, the streams with little data under way, which use the control lane.
    urgent: DrrScheduler<StreamId>,
    /// Streams that may send only on the lane of their OPEN until the peer confirms it.
    awaiting_open: BTreeSet<StreamId>,
    /// Streams that lack tunnel credit. They are kept out of the schedule so that they do not block
    /// retransmissions, which need no credit.
    parked: BTreeSet<StreamId>,
    /// Interactive streams that have data to send beside other streams. They may use the last part
    /// of the credit.
    interactive: BTreeSet<StreamId>,
    /// Streams with an OPEN to send, in the order of their numbers, and streams whose FIN or RESET
    /// can be sent at once. Both precede all data.
    opens: VecDeque<StreamId>,
    ends: VecDeque<StreamId>,
    /// The token of the last unanswered PING. Earlier PINGs need no answer, so a flood of PINGs
    /// takes no memory.
    pending_pong: Option<u64>,
    ack_queue: AckQueue,
    /// Ends of forgotten streams that the peer has repeated: they are acknowledged again.
    forgotten_ends: VecDeque<(StreamId, u64)>,
    events: VecDeque<MuxEvent>,
    resume_state: ResumeState,
    close_state: TunnelCloseState,
}

impl Mux {
    /// Creates a mux from the credit that both sides granted in the handshake.
    #[must_use]
    pub fn new(side: TunnelSide, parameters: Parameters, grant: PeerGrant, now: Instant) -> Self {
        let (next_local, next_peer) = match side {
            TunnelSide::Client => (0, 1),
            TunnelSide::Server => (1, 0),
        };
        let mut lane_flows = LaneFlows::default();
        lane_flows.add(LaneId::FIRST);
        Mux {
            side,
            parameters,
            streams: Map::default(),
            peer_streams: 0,
            next_local,
            next_announced: next_local,
            opened_by_peer: OpenedStreams::new(next_peer),
            lanes: Lanes::new(),
            lane_flows,
            control_watch: ControlWatch::default(),
            lane_request: LaneRequest::default(),
            reported_lost: Vec::new(),
            datagrams: Datagrams::new(now),
            gaps: Gaps::default(),
            grant,
            tunnel_sent: 0,
            tunnel_limit: grant.tunnel_window,
            peer_window: grant.tunnel_window,
            send_totals: SendTotals::new(parameters.tunnel_window.max),
            window: TunnelWindow::new(now, parameters.tunnel_window),
            credit: CreditPool::new(parameters.tunnel_window.max),
            account: BudgetAccount::default(),
            rtt: RttProber::default(),
            schedule: DrrScheduler::default(),
            urgent: DrrScheduler::default(),
            awaiting_open: BTreeSet::new(),
            parked: BTreeSet::new(),
            interactive: BTreeSet::new(),
            opens: VecDeque::new(),
            ends: VecDeque::new(),
            pending_pong: None,
            ack_queue: AckQueue::default(),
            forgotten_ends: VecDeque::new(),
            events: VecDeque::new(),
            resume_state: ResumeState::default(),
            close_state: TunnelCloseState::default(),
        }
    }

    /// Charges the memory of this mux to `budget`, which all tunnels of a process share.
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<MemoryBudget>) -> Self {
        self.account = BudgetAccount::new(budget);
        self
    }

    /// Returns the next event for the application.
    pub fn poll_event(&mut self) -> Option<MuxEvent> {
        self.events.pop_front()
    }

    /// Returns the time at which to call [`Mux::handle_timeout`], if there is one.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ack_queue
            .deadline()
            .into_iter()
            .chain(self.gaps.deadline().filter(|_| !self.lanes.is_empty()))
            .chain(self.stall_deadline())
            .chain(self.datagrams.deadline())
            .min()
    }

    /// Handles the passing of the deadline that [`Mux::poll_timeout`] returned.
    ///
    /// # Errors
    /// If the peer left a gap in a stream for too long. The tunnel must end then.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), MuxError> {
        for id in self.ack_queue.expire(now) {
            if self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.ack_state == AckState::Delayed)
            {
                self.ack_immediately(id);
            }
        }
        self.handle_stalls(now);
        self.datagrams.expire(now, self.parameters.max_delay);
        self.update_budget();
        if !self.lanes.is_empty() && self.gaps.deadline().is_some_and(|until| until <= now) {
            return Err(MuxError::Protocol("a gap in a stream was not filled"));
        }
        Ok(())
    }

    /// Returns the number of streams, including those that only wait for their last
    /// acknowledgement.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Returns the number of bytes that applications have written and that are still to be sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> u64 {
        let datagrams = self.datagrams.unsent_bytes();
        self.send_totals.unsent.saturating_add(datagrams)
    }

    /// Returns the number of bytes that are to be sent again.
    #[must_use]
    pub fn resend_bytes(&self) -> u64 {
        self.send_totals.resend
    }

    /// Returns the number of received bytes that applications have not consumed.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.window.held()
    }

    /// Drops the data that waits for the application, and returns its credit.
    fn discard(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let growth = self.window.growth(self.parameters.stream_window.max);
        let held = self.credit.track(&mut stream.receive, |receive| {
            receive.discard();
            let held = receive.held();
            receive.window().consume(now, held, &growth);
            held
        });
        self.window.release(held);
        self.update_budget();
    }

    /// Queues the events for which the application waits on this stream.
    fn wake(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut stream.wants_read) {
            self.events.push_back(MuxEvent::Readable(id));
        }
        if std::mem::take(&mut stream.wants_write) {
            self.events.push_back(MuxEvent::Writable(id));
        }
    }

    /// Schedules a WINDOW for the stream in the next message.
    fn ack_immediately(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.ack_state != AckState::Due
        {
            stream.ack_state = AckState::Due;
            self.ack_queue.due.push_back(id);
        }
    }

    /// Schedules a delayed WINDOW for the stream. Returns false if one is due already with the next
    /// message, or if the stream does not exist.
    fn delay_ack(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        if stream.ack_state == AckState::None {
            stream.ack_state = AckState::Delayed;
            self.ack_queue.defer(id);
        }
        stream.ack_state == AckState::Delayed
    }

    fn is_local(&self, id: StreamId) -> bool {
        id.0 % 2 == self.next_local % 2
    }

    fn remove_if_complete(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(StreamState::is_complete) {
            self.streams.remove(&id);
            self.gaps.remove(id);
            if !self.is_local(id) {
                self.peer_streams = self.peer_streams.saturating_sub(1);
            }
            if self.streams.is_empty() {
                self.streams.shrink_to_fit();
            }
        }
    }
}
