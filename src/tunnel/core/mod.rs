//! The state of a tunnel and its transitions: which attachment carries it, how long it waits for
//! the next one, which tasks wait for its streams, and how it ends.
//!
//! ```text
//!  Unconfirmed ──take_over──► Attached ──attachment_lost──► Lost ──take_over──► Attached …
//!       └── end, END of the peer ──┴── end, END, resume_timeout ──┴──► Ended
//! ```
//!
//! Pure: time is an argument, and nothing here calls the link, a cipher or the runtime. A
//! transition records what is to be done outside in [`Effects`], which the caller collects with
//! [`TunnelCore::poll_effects`] and runs after it has released its lock.
//!
//! [`binding`] knows the order of the attachments, `transfer` their messages, and [`waiting`] the
//! tasks.

mod binding;
#[cfg(test)]
mod tests;
mod transfer;
mod waiting;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

pub(super) use self::{binding::TakeoverKind, transfer::TransmitResult};
use self::{
    binding::{Binding, BoundAttachment, Closed, TakeOverError},
    waiting::WaitingTasks,
};
use crate::{
    link::{ChannelHandle, LinkId},
    suspend::Moment,
};
use report_proto::frame::{Code, Notice};
use report_proto::mux::{Mux, MuxEvent, ResetCode, StreamId, TunnelSide};

/// Number of the attempt that created the tunnel. Attempts to resume it count up from here.
pub(super) const FIRST_ATTEMPT: u64 = 0;

/// How long an attachment may remain a candidate (PROTOCOL 7.5, `AUTHENTICATION_TIMEOUT`).
pub(crate) const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a move may take (PROTOCOL 12). Messages on the new attachment are held until the peer
/// has left the old one.
pub(crate) const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// A handle of the channel of an attachment.
pub(super) type Channel = Arc<dyn ChannelHandle>;

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

/// A change of a tunnel that is counted, logged or reported to its role.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TunnelEvent {
    /// The tunnel lost its attachment.
    Lost {
        /// How long the attachment had carried the tunnel.
        carried: Duration,
        /// The number of streams that wait for the next one.
        streams: usize,
        /// Why the attachment ended.
        why: Notice,
    },
    /// The tunnel was resumed after a loss.
    Resumed {
        /// How long it had no attachment.
        waited: Duration,
        streams: usize,
        resent_bytes: u64,
    },
    /// A move is complete.
    Moved,
    /// The peer asks for a move.
    MoveRequested,
    /// The tunnel had no attachment for too long.
    Expired,
}

/// Actions to run after the core is released.
#[derive(Default)]
pub(super) struct Effects {
    /// The deadline is earlier than the one that the driver waits for.
    pub deadline_moved: bool,
    /// The tunnel has ended.
    pub ended: bool,
    pub wakers: SmallVec<[Waker; 2]>,
    /// The old channel of a move, which has its last message to send.
    pub ready_old: Option<Channel>,
    /// The channel that now has something to send.
    pub ready: Option<Channel>,
    /// Channels to close after they have drained.
    pub closes: Vec<(Channel, Notice)>,
    /// The new status, except [`TunnelStatus::Ended`]. It is published before the core is released,
    /// so that its changes arrive in order.
    pub status: Option<TunnelStatus>,
    pub events: Vec<TunnelEvent>,
    /// The tunnel has ended and nothing is left to send to the peer.
    pub is_finished: bool,
}

/// Why a server cannot resume a tunnel now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdmitError {
    /// A newer attempt carries the tunnel, or this attempt is a replay.
    Superseded,
    /// Another move is in progress.
    Moving,
}

/// The state of a tunnel.
pub(super) struct TunnelCore {
    side: TunnelSide,
    resume_timeout: Duration,
    pub mux: Mux,
    pub waiting: WaitingTasks,
    binding: Binding<Channel>,
    /// The number of the client's last attempt to attach the tunnel.
    attempts: u64,
    /// Set while no attachment carries the tunnel.
    detached: Option<Detached>,
    /// When the current attachment took over.
    attached_since: Instant,
    /// How long the tunnel had been detached before that, until it is reported.
    detached_for: Option<Duration>,
    /// The channel is marked ready, and the link has not asked for data since.
    transmit_requested: bool,
    /// The next message asks the client to reattach the tunnel.
    move_request_due: bool,
    /// When the current move must be complete.
    move_deadline: Option<Instant>,
    /// The deadline that the driver waits for.
    armed: Option<Instant>,
    /// Streams that the peer has opened and no task has accepted.
    opened: VecDeque<(StreamId, Bytes)>,
    end_notice: Option<Notice>,
    /// Set at the end of the tunnel: the lowest stream id that the peer reports as never seen.
    seen_by_peer: Option<u64>,
    effects: Effects,
}

/// A period without an attachment.
#[derive(Debug, Clone, Copy)]
struct Detached {
    since: Moment,
    /// The tunnel ends after this time, suspend included, because the peer counts it too.
    timeout: Duration,
}

impl Detached {
    /// Returns when the period expires if the machine stays awake.
    fn until(&self) -> Option<Instant> {
        self.since.awake.checked_add(self.timeout)
    }

    fn is_expired(&self, now: Moment) -> bool {
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
    pub(super) fn new(side: TunnelSide, resume_timeout: Duration, mux: Mux, now: Moment) -> Self {
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
            transmit_requested: false,
            move_request_due: false,
            move_deadline: None,
            armed: None,
            opened: VecDeque::new(),
            end_notice: None,
            seen_by_peer: None,
            effects: Effects::default(),
        }
    }

    /// Returns why the tunnel ended, or `None` while it is alive.
    pub(super) fn end_notice(&self) -> Option<&Notice> {
        self.end_notice.as_ref()
    }

    /// Returns whether no attachment carries the tunnel.
    pub(super) fn is_detached(&self) -> bool {
        self.detached.is_some()
    }

    /// Returns whether a move is in progress.
    pub(super) fn is_moving(&self) -> bool {
        self.binding.moving_from().is_some()
    }

    /// Returns whether the current attachment uses this link.
    pub(super) fn is_attached_through(&self, link: LinkId) -> bool {
        self.binding
            .current()
            .is_some_and(|current| current.handle.link() == link)
    }

    /// Returns the number of the client's next attempt to attach the tunnel.
    pub(super) fn next_attempt(&mut self) -> u64 {
        self.attempts = self.attempts.saturating_add(1);
        self.attempts
    }

    /// Sets the number of the last attempt.
    #[cfg(test)]
    pub(super) fn set_attempts(&mut self, attempts: u64) {
        self.attempts = attempts;
    }

    /// Returns whether and how the server answers this attempt to resume the tunnel.
    pub(super) fn admit(&self, attempt: u64, moves: bool) -> Result<TakeoverKind, AdmitError> {
        // A replayed or overtaken attempt must not replace the current attachment.
        if attempt == FIRST_ATTEMPT || !self.binding.admits(attempt) {
            return Err(AdmitError::Superseded);
        }
        // Only one move at a time: both ends hold one old attachment at most.
        if moves && self.is_moving() {
            return Err(AdmitError::Moving);
        }
        // Without a current attachment there is nothing to move from; the answer turns the move
        // into a resumption.
        Ok(TakeoverKind::of(moves && self.binding.current().is_some()))
    }

    /// Binds an attachment that has proven itself: from now on it carries the tunnel.
    ///
    /// # Errors
    /// With the notice that closes its channel instead.
    pub(super) fn take_over(
        &mut self,
        now: Moment,
        attempt: u64,
        handle: Channel,
        kind: TakeoverKind,
    ) -> Result<(), Notice> {
        if self.end_notice.is_some() {
            return Err(Notice::new(Code::Cancelled, ""));
        }
        let replaced = self
            .binding
            .take_over(BoundAttachment { attempt, handle }, kind)
            .map_err(|error| match error {
                TakeOverError::Superseded => Notice::new(Code::Superseded, ""),
                TakeOverError::NothingToMoveFrom => Notice::new(Code::PeerLost, ""),
            })?;
        let is_first = attempt == FIRST_ATTEMPT;
        // Data in flight on the previous attachment may be lost, so the mux retransmits what the
        // peer has not acknowledged. After a move nothing is lost.
        if kind == TakeoverKind::Resume && !is_first {
            self.mux.resume(now.awake);
        }
        self.close_all(replaced, Code::Superseded);
        // MOVED goes out on the old attachment: the peer then knows that nothing follows there.
        self.effects.ready_old = handle_of(self.binding.moving_from());
        self.effects.ready = handle_of(self.binding.current());
        self.transmit_requested = true;
        self.attached_since = now.awake;
        // A peer that never sends MOVED must not make this end hold messages indefinitely.
        self.move_deadline = match kind {
            TakeoverKind::Move => now.awake.checked_add(MOVE_TIMEOUT),
            TakeoverKind::Resume => None,
        };
        if let Some(detached) = self.detached.take().filter(|_| !is_first) {
            self.detached_for = Some(now.since(detached.since));
        }
        self.effects.status = Some(TunnelStatus::Attached);
        Ok(())
    }

    /// Releases the old attachment of a move after MOVED was sent and received on it. The client
    /// closes its channel.
    fn take_finished_move(&mut self) {
        let Some(left) = self.binding.take_finished_move() else {
            return;
        };
        self.effects.events.push(TunnelEvent::Moved);
        self.move_deadline = None;
        if self.side == TunnelSide::Client {
            self.close_all([left], Code::Cancelled);
        }
    }

    /// Handles the end of an attachment, whether it carried the tunnel or not.
    pub(super) fn attachment_lost(&mut self, now: Moment, attempt: u64, why: Notice) {
        let Closed::Lost(other) = self.binding.closed(attempt) else {
            return;
        };
        self.close_all(other, Code::PeerLost);
        self.transmit_requested = false;
        self.move_deadline = None;
        if self.end_notice.is_some() {
            self.effects.is_finished = true;
            return;
        }
        self.detached = Some(Detached {
            since: now,
            timeout: self.resume_timeout,
        });
        self.effects.status = Some(TunnelStatus::Lost {
            since: now,
            why: why.clone(),
        });
        self.effects.events.push(TunnelEvent::Lost {
            carried: now.awake.saturating_duration_since(self.attached_since),
            streams: self.mux.streams(),
            why,
        });
    }

    /// Handles the deadline of the driver.
    pub(super) fn handle_timeout(&mut self, now: Moment) {
        self.mux.handle_timeout(now.awake);
        let is_expired = self
            .detached
            .is_some_and(|detached| detached.is_expired(now));
        self.end_overdue_move(now);
        if is_expired {
            self.effects.events.push(TunnelEvent::Expired);
            let waited = self.resume_timeout;
            let notice = Notice::new(
                Code::Timeout,
                format!("the tunnel had no attachment for {waited:?}"),
            );
            self.end(ResetCode::Expired, notice);
        }
    }

    /// Gives up a move that takes too long. Neither attachment carries the tunnel after that.
    fn end_overdue_move(&mut self, now: Moment) {
        let old = self
            .move_deadline
            .filter(|until| *until <= now.awake)
            .and_then(|_| self.binding.moving_from().cloned());
        if let Some(old) = old {
            let why = Notice::new(
                Code::Timeout,
                format!("the move took longer than {MOVE_TIMEOUT:?}"),
            );
            self.attachment_lost(now, old.attempt, why);
            self.close_all([old], Code::Timeout);
        }
    }

    /// Asks the client to reattach the tunnel, if it is attached through `link`.
    pub(super) fn request_move(&mut self, link: LinkId) {
        // A tunnel that has left this link already does not have to move.
        self.move_request_due |= self.is_attached_through(link) && self.end_notice.is_none();
    }

    /// Ends the tunnel. The peer receives END if an attachment carries the tunnel.
    pub(super) fn end(&mut self, code: ResetCode, notice: Notice) {
        if self.end_notice.is_some() {
            return;
        }
        self.mux.close(code);
        let current = self.binding.current().cloned();
        match &current {
            // Marked even if it is marked already: the channel must not drain before END is sent.
            Some(current) => self.effects.ready = Some(Arc::clone(&current.handle)),
            // Without an attachment the peer cannot receive END. It expires on its own.
            None => self.effects.is_finished = true,
        }
        let moving_from = self.binding.moving_from().cloned();
        self.close_all(current.into_iter().chain(moving_from), notice.code);
        self.finish(notice);
    }

    /// Ends a tunnel that the server no longer knows. `seen` is the lowest client stream id that
    /// the server never saw, if the server reports it.
    pub(super) fn end_unknown_at_server(&mut self, seen: Option<u64>, notice: Notice) {
        self.seen_by_peer = seen;
        self.end(ResetCode::Cancelled, notice);
    }

    /// Handles END from the peer.
    fn ended_by_peer(&mut self, code: ResetCode) {
        let text = format!("the other end ended the tunnel: {code}");
        self.finish(Notice::new(notice_code(code), text));
        let bound = self.binding.end();
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

    fn close_all(&mut self, bound: impl IntoIterator<Item = BoundAttachment<Channel>>, code: Code) {
        let closes = bound
            .into_iter()
            .map(|bound| (bound.handle, Notice::new(code, "")));
        self.effects.closes.extend(closes);
    }

    /// Returns the next stream that the peer has opened, with its details; `None` after the tunnel
    /// has ended. Otherwise `waker` waits for one.
    pub(super) fn poll_accept(&mut self, waker: &Waker) -> Poll<Option<(StreamId, Bytes)>> {
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
    pub(super) fn reset(&mut self, now: Instant, stream: StreamId, code: ResetCode) {
        self.mux.reset(now, stream, code);
        // The mux reports no event for a local reset.
        let watcher = self.waiting.take_watcher(stream);
        self.effects.wakers.extend(watcher);
    }

    /// Releases a stream that no task uses any more.
    pub(super) fn release(&mut self, now: Instant, stream: StreamId) {
        self.waiting.forget(stream);
        self.mux.release(now, stream);
    }

    /// Returns everything that was written to a stream, if the tunnel has ended and the peer
    /// certainly never saw the stream.
    pub(super) fn unseen(&self, stream: StreamId) -> Option<Vec<Bytes>> {
        self.end_notice.as_ref()?;
        self.mux.unseen(stream, self.seen_by_peer)
    }

    /// Returns the effects of all transitions since the last call.
    pub(super) fn poll_effects(&mut self) -> Effects {
        self.take_events();
        self.effects.deadline_moved = self.arm();
        std::mem::take(&mut self.effects)
    }

    /// Handles the events of the mux.
    fn take_events(&mut self) {
        let effects = &mut self.effects;
        let mut ended = None;
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
                MuxEvent::Closed(code) => ended = Some(code),
            }
        }
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
    pub(super) fn rearm(&mut self) -> Option<Instant> {
        self.armed = self.deadline();
        self.armed
    }
}

fn handle_of(bound: Option<&BoundAttachment<Channel>>) -> Option<Channel> {
    bound.map(|bound| Arc::clone(&bound.handle))
}
