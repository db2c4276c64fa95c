//! The state of a tunnel, its end, and the collection of effects.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    binding::{Binding, BoundAttachment, BoundLane, LaneState},
    effects::{Channel, Effects, TunnelEvent},
    waiting::WaitingTasks,
};
use crate::{link::LinkId, suspend::Moment};
use report_proto::frame::{Code, Notice};
use report_proto::mux::{
    DatagramCounts, FlowId, LaneId, Mux, MuxEvent, ResetCode, StreamId, TunnelSide,
};

/// Number of the attempt that created the tunnel. Attempts to resume it count up from here.
pub(in crate::tunnel) const FIRST_ATTEMPT: u64 = 0;

/// How long an attachment may remain a candidate (PROTOCOL 7.5, `AUTHENTICATION_TIMEOUT`).
pub(crate) const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client waits, after it has taken a tunnel over, until the server shows that it has
/// done so too: a lead for the message with which the server takes over, before the requests for
/// further lanes follow on other links. The only lane may be so busy that the evidence takes long. A
/// further lane that resumes the tunnel anew then costs less than the wait (measured: pauses of 250
/// instead of 50 ms with a wait of 200 ms).
pub(super) const TAKEOVER_WAIT: Duration = Duration::from_millis(20);

/// The state of a tunnel.
pub(in crate::tunnel) struct TunnelCore {
    pub(super) side: TunnelSide,
    pub(super) resume_timeout: Duration,
    pub mux: Mux,
    pub waiting: WaitingTasks,
    pub(super) binding: Binding<Channel>,
    /// The number of the client's last attempt to attach the tunnel.
    pub(super) attempts: u64,
    /// Set while no attachment carries the tunnel.
    pub(super) detached: Option<Detached>,
    /// When the tunnel was attached last.
    pub(super) attached_since: Instant,
    /// How long the tunnel had been detached before that, until it is reported.
    pub(super) detached_for: Option<Duration>,
    /// At a client: how long to wait until the peer shows that it has a lane, since this end has had
    /// one.
    pub(super) takeover_deadline: Option<Instant>,
    /// At a client: whether further lanes could join when the effects were collected last.
    accepted_lanes: bool,
    /// When the lanes that this end leaves must be gone.
    pub(super) move_deadline: Option<Instant>,
    /// The deadline that the driver waits for.
    armed: Option<Instant>,
    /// At a server: whether the client opens lanes at its request.
    pub(super) takes_lane_requests: bool,
    /// Lanes that the peer has reported as lost.
    pub(super) lost_by_peer: Vec<LaneId>,
    /// Streams that the peer has opened and no task has accepted.
    opened: VecDeque<(StreamId, Bytes)>,
    /// Flows that the peer has opened and no task has accepted.
    pub(super) opened_flows: VecDeque<(FlowId, Bytes)>,
    /// The counts of datagrams that the counters of the port contain.
    pub(super) published_datagrams: DatagramCounts,
    pub(super) end_notice: Option<Notice>,
    /// Set at the end of the tunnel: the lowest stream id that the peer reports as never seen.
    seen_by_peer: Option<u64>,
    pub(super) effects: Effects,
}

/// A period without an attachment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Detached {
    pub(super) since: Moment,
    /// The tunnel ends after this time, suspend included, because the peer counts it too.
    pub(super) timeout: Duration,
}

impl Detached {
    /// Returns when the period expires if the machine stays awake.
    fn until(&self) -> Option<Instant> {
        self.since.awake.checked_add(self.timeout)
    }

    pub(super) fn is_expired(&self, now: Moment) -> bool {
        now.since(self.since) >= self.timeout
    }
}

/// Returns the notice code for a tunnel that ended with `code`.
fn notice_code(code: ResetCode) -> Code {
    match code {
        ResetCode::Shutdown => Code::Shutdown,
        ResetCode::Protocol => Code::Protocol,
        ResetCode::Expired | ResetCode::Timeout => Code::Timeout,
        _ => Code::Cancelled,
    }
}

impl TunnelCore {
    /// Creates the state after the first handshake. The first attachment has not proven itself yet.
    pub(in crate::tunnel) fn new(
        side: TunnelSide,
        resume_timeout: Duration,
        mux: Mux,
        now: Moment,
    ) -> Self {
        TunnelCore {
            side,
            resume_timeout,
            mux,
            waiting: WaitingTasks::default(),
            binding: Binding::new(),
            attempts: FIRST_ATTEMPT,
            detached: Some(Detached {
                since: now,
                timeout: CANDIDATE_TIMEOUT,
            }),
            attached_since: now.awake,
            detached_for: None,
            takeover_deadline: None,
            accepted_lanes: false,
            move_deadline: None,
            armed: None,
            takes_lane_requests: false,
            lost_by_peer: Vec::new(),
            opened: VecDeque::new(),
            opened_flows: VecDeque::new(),
            published_datagrams: DatagramCounts::default(),
            end_notice: None,
            seen_by_peer: None,
            effects: Effects::default(),
        }
    }

    /// Returns why the tunnel ended, or `None` while it is alive.
    pub(in crate::tunnel) fn end_notice(&self) -> Option<&Notice> {
        self.end_notice.as_ref()
    }

    /// Returns whether no attachment carries the tunnel.
    pub(in crate::tunnel) fn is_detached(&self) -> bool {
        self.detached.is_some()
    }

    /// Returns whether a lane is being left.
    pub(in crate::tunnel) fn is_moving(&self) -> bool {
        let is_leaving = |lane: &BoundLane<Channel>| lane.state != LaneState::Active;
        self.binding.lanes().iter().any(is_leaving)
    }

    /// Returns whether a lane uses this link, and this end does not leave it.
    pub(in crate::tunnel) fn is_attached_through(&self, link: LinkId) -> bool {
        self.binding.active().any(|lane| lane.handle.link() == link)
    }

    /// Returns the link of each lane that this end does not leave.
    pub(in crate::tunnel) fn attached_links(&self) -> Vec<LinkId> {
        self.binding
            .active()
            .map(|lane| lane.handle.link())
            .collect()
    }

    /// Returns whether another attachment can join the present ones.
    pub(in crate::tunnel) fn can_join(&self) -> bool {
        self.binding.active().next().is_some() && self.mux.is_settled()
    }

    /// Returns whether further lanes should join: the peer has a lane too, or did not show it in
    /// time. Without one, it would let the first of them resume the tunnel anew.
    pub(in crate::tunnel) fn accepts_lanes(&self) -> bool {
        self.can_join() && self.takeover_deadline.is_none()
    }

    /// Ends the tunnel. The peer receives END if an attachment carries the tunnel.
    pub(in crate::tunnel) fn end(&mut self, code: ResetCode, notice: Notice) {
        if self.end_notice.is_some() {
            return;
        }
        self.mux.close(code);
        // Without an attachment the peer cannot receive END. It expires on its own.
        self.effects.is_finished |= self.binding.active().next().is_none();
        let lanes: Vec<_> = self
            .binding
            .lanes()
            .iter()
            .map(|lane| lane.bound.clone())
            .collect();
        // Marked even if they are marked already: no channel must drain before END is sent.
        let handles = lanes.iter().map(|lane| Arc::clone(&lane.handle));
        self.effects.ready.extend(handles);
        self.close_all(lanes, notice.code);
        self.finish(notice);
    }

    /// Ends a tunnel that the server no longer knows. `seen` is the lowest client stream id that
    /// the server never saw, if the server reports it.
    pub(in crate::tunnel) fn end_unknown_at_server(&mut self, seen: Option<u64>, notice: Notice) {
        self.seen_by_peer = seen;
        self.end(ResetCode::Cancelled, notice);
    }

    /// Handles END from the peer.
    fn ended_by_peer(&mut self, code: ResetCode) {
        let text = format!("the other end ended the tunnel: {code}");
        self.finish(Notice::new(notice_code(code), text));
        let bound = self.binding.take_all();
        self.close_all(bound, Code::Cancelled);
        self.effects.is_finished = true;
    }

    /// Marks the tunnel as ended and wakes all waiting tasks.
    fn finish(&mut self, notice: Notice) {
        self.end_notice.get_or_insert(notice);
        self.detached = None;
        self.effects.ended = true;
        self.effects.wakers.extend(self.waiting.take_all());
    }

    pub(super) fn close_all(
        &mut self,
        bound: impl IntoIterator<Item = BoundAttachment<Channel>>,
        code: Code,
    ) {
        let closes = bound
            .into_iter()
            .map(|bound| (bound.handle, Notice::new(code, "")));
        self.effects.closes.extend(closes);
    }

    /// Returns the next stream that the peer has opened, with its details; `None` after the tunnel
    /// has ended. Otherwise `waker` waits for one.
    pub(in crate::tunnel) fn poll_accept(
        &mut self,
        waker: &Waker,
    ) -> Poll<Option<(StreamId, Bytes)>> {
        if let Some(opened) = self.opened.pop_front() {
            return Poll::Ready(Some(opened));
        }
        if self.end_notice.is_some() {
            return Poll::Ready(None);
        }
        self.waiting.set_acceptor(waker);
        Poll::Pending
    }

    /// Resets a stream.
    pub(in crate::tunnel) fn reset(&mut self, now: Instant, stream: StreamId, code: ResetCode) {
        self.mux.reset(now, stream, code);
        // The mux reports no event for a local reset.
        let watcher = self.waiting.take_watcher(stream);
        self.effects.wakers.extend(watcher);
    }

    /// Releases a stream that no task uses any more.
    pub(in crate::tunnel) fn release(&mut self, now: Instant, stream: StreamId) {
        self.waiting.forget(stream);
        self.mux.release(now, stream);
    }

    /// Returns everything that was written to a stream, if the tunnel has ended and the peer
    /// certainly never saw the stream.
    pub(in crate::tunnel) fn unseen(&self, stream: StreamId) -> Option<Vec<Bytes>> {
        self.end_notice.as_ref()?;
        self.mux.unseen(stream, self.seen_by_peer)
    }

    /// Returns the effects of all transitions since the last call.
    pub(in crate::tunnel) fn poll_effects(&mut self) -> Effects {
        self.take_events();
        let accepts_lanes = self.side == TunnelSide::Client && self.accepts_lanes();
        let accepted_lanes = std::mem::replace(&mut self.accepted_lanes, accepts_lanes);
        self.effects.accepts_lanes = accepts_lanes && !accepted_lanes;
        self.effects.deadline_moved = self.arm();
        std::mem::take(&mut self.effects)
    }

    /// Handles the events of the mux.
    pub(super) fn take_events(&mut self) {
        let effects = &mut self.effects;
        let (mut ended, mut lost) = (None, Vec::new());
        while let Some(event) = self.mux.poll_event() {
            match event {
                MuxEvent::Opened { stream, details } => {
                    self.opened.push_back((stream, details));
                    effects.wakers.extend(self.waiting.take_acceptor());
                }
                MuxEvent::Reset(stream) => effects.wakers.extend(self.waiting.take_stream(stream)),
                MuxEvent::Readable(stream) => {
                    effects.wakers.extend(self.waiting.take_reader(stream));
                }
                MuxEvent::Writable(stream) => {
                    effects.wakers.extend(self.waiting.take_writer(stream));
                }
                MuxEvent::Resumed {
                    streams,
                    again_bytes,
                } => effects.events.push(TunnelEvent::Resumed {
                    waited: self.detached_for.take().unwrap_or_default(),
                    streams,
                    resent_bytes: again_bytes,
                }),
                MuxEvent::LaneLost(lane) => lost.push(lane),
                MuxEvent::FlowOpened { flow, details } => {
                    self.opened_flows.push_back((flow, details));
                    effects.wakers.extend(self.waiting.take_flow_acceptor());
                }
                // The task that waits reads the rest, then learns of the end.
                MuxEvent::FlowReadable(flow) | MuxEvent::FlowEnded { flow, .. } => {
                    effects.wakers.extend(self.waiting.take_flow_reader(flow));
                }
                MuxEvent::LanesRequested => effects.events.push(TunnelEvent::LanesRequested),
                MuxEvent::Closed(code) => ended = Some(code),
            }
        }
        self.lost_by_peer.extend(lost);
        if let Some(code) = ended {
            self.ended_by_peer(code);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let given_up = self.detached.and_then(|detached| detached.until());
        self.mux
            .poll_timeout()
            .into_iter()
            .chain(given_up)
            .chain(self.move_deadline)
            .chain(self.takeover_deadline)
            .min()
    }

    /// Returns whether the driver waits for too late a deadline.
    fn arm(&mut self) -> bool {
        let deadline = self.deadline();
        let earlier =
            deadline.is_some_and(|deadline| self.armed.is_none_or(|armed| deadline < armed));
        // A later deadline needs no wake-up: the driver finds it when the current one expires.
        if earlier {
            self.armed = deadline;
        }
        earlier
    }

    /// Returns the deadline that the driver waits for next.
    pub(in crate::tunnel) fn rearm(&mut self) -> Option<Instant> {
        self.armed = self.deadline();
        self.armed
    }
}
