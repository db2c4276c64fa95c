//! The send queue of one link: control frames first, then the lanes with byte fairness. The link's
//! task takes the next message only when the socket has room.
//!
//! The scheduler is deficit round robin with two lists, as in fq_codel (RFC 8290). A lane that
//! becomes ready after it had nothing to send is a *new* lane and goes first, for up to one
//! quantum. Lanes with more data are *old* lanes and take turns.
//!
//! ```text
//!            marked ready                 quantum used up, or no more data
//!   Idle ───────────────────► New ───────────────────────────────────────► Old ──► Old …
//!    ▲                                                                      │
//!    └──────────────────────── its turn comes and it is not ready ◄─────────┘
//! ```
//!
//! No lock is held while a lane's method runs or a lane is dropped.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, Waker},
};

use bytes::{Bytes, BytesMut};

use super::channel::{ChannelHandle, Lane, LinkId, Transmit};
use crate::net::websocket::MessageBody;
use report_proto::{
    frame::{self, Code, Frame, MAX_DATA, Notice},
    map::Map,
};

/// Bytes that a lane may send before the next lane takes its turn: one full message.
const QUANTUM: i64 = 64 * 1024;

/// The limit for queued control frames of a peer that does not read, in bytes: some 8,000 frames.
/// Beyond it the link ends with `limit`.
const MAX_QUEUED_CONTROL: usize = 1024 * 1024;

/// The extra allowance per channel, for the largest number of channels that were open at the same
/// time. It allows closing all of them at once.
const CONTROL_PER_LANE: usize = 1024;

/// The cost of a queued control frame in addition to its bytes.
const CONTROL_OVERHEAD: usize = 64;

/// Bytes of queued answers above which the accepting end stops reading from the peer (PROTOCOL 12,
/// `ANSWERS_WAITING`).
pub(crate) const ANSWERS_WAITING: usize = 16 * 1024;

/// The capacity that an empty queue of control frames keeps.
const KEPT_CAPACITY: usize = 16;

/// A table shrinks to this many times its length once its capacity exceeds that by the same factor.
const SHRINK_FACTOR: usize = 4;

/// An account to which a link charges its memory.
pub trait MemoryAccount: Send + Sync {
    /// Charges `bytes`.
    fn charge(&self, bytes: usize);

    /// Refunds `bytes` that were charged.
    fn refund(&self, bytes: usize);
}

/// An error of [`Outbox::open`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The channel number is in use on this link.
    #[error("channel {0} is in use")]
    InUse(u32),
    /// The link has ended.
    #[error("the link has ended ({0})")]
    Ended(Notice),
}

/// The sending side of a link. The lanes, the role and the link's task share it.
pub struct Outbox {
    id: LinkId,
    state: Mutex<OutboxState>,
    /// Whether the link's task is handling received frames. Frames queued in this time count as
    /// answers.
    answering: AtomicBool,
    /// Bytes of queued answers, with their overhead. Changes under the lock.
    queued_answers: AtomicUsize,
    /// The account to which queued control frames are charged.
    account: Option<Arc<dyn MemoryAccount>>,
}

/// A queued control frame.
struct ControlFrame {
    message: Bytes,
    is_answer: bool,
}

impl ControlFrame {
    fn cost(&self) -> usize {
        self.message.len().saturating_add(CONTROL_OVERHEAD)
    }
}

#[derive(Default)]
struct OutboxState {
    lanes: Map<u32, LaneEntry>,
    /// Lanes that had nothing to send before. Served first.
    new_lanes: VecDeque<u32>,
    /// Lanes that take turns.
    old_lanes: VecDeque<u32>,
    control: VecDeque<ControlFrame>,
    /// Bytes in `control`, with their overhead.
    queued_control: usize,
    /// The largest number of lanes that were open at the same time.
    max_lanes: usize,
    /// The waker of the link's task.
    task: Option<Waker>,
    /// Whether the task found nothing to send when it last asked, so that new work must wake it.
    task_waits: bool,
    /// The error with which the link shall end.
    end_request: Option<Notice>,
    /// The notice with which the link has ended.
    ended: Option<Notice>,
    /// The waker of the task that waits until no channel is open.
    empty_waker: Option<Waker>,
}

/// An open channel.
struct LaneEntry {
    lane: Arc<dyn Lane>,
    position: LanePosition,
    /// Whether the lane may have something to send.
    ready: bool,
    /// Whether the peer paused the channel.
    paused: bool,
    /// Bytes that the lane may still send in this turn. Negative after a message larger than the
    /// rest of its quantum.
    credit: i64,
    /// The notice with which to close the channel once the lane has nothing more to send.
    closing: Option<Notice>,
}

/// The position of a lane in the scheduler.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LanePosition {
    /// In no list.
    Idle,
    New,
    Old,
    /// Its `transmit` runs. The lane came from this list.
    Serving(LaneList),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LaneList {
    New,
    Old,
}

/// The next message for the socket.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A control frame.
    Control(Bytes),
    /// The payload of a DATA frame, with its channel number.
    Data(u32, MessageBody),
}

/// The lane that the scheduler serves next.
struct ScheduledLane {
    channel: u32,
    lane: Arc<dyn Lane>,
}

impl Outbox {
    /// Creates an outbox without lanes.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Outbox::create(None)
    }

    /// Creates an outbox without lanes that charges its queued control frames to `account`.
    #[must_use]
    pub fn with_account(account: Arc<dyn MemoryAccount>) -> Arc<Self> {
        Outbox::create(Some(account))
    }

    fn create(account: Option<Arc<dyn MemoryAccount>>) -> Arc<Self> {
        Arc::new(Outbox {
            id: LinkId::unique(),
            state: Mutex::default(),
            answering: AtomicBool::default(),
            queued_answers: AtomicUsize::default(),
            account,
        })
    }

    /// Returns the number of the link.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// Returns a handle of `channel`, whether it is open or not.
    #[must_use]
    pub fn handle(self: &Arc<Self>, channel: u32) -> Arc<dyn ChannelHandle> {
        Arc::new(OutboxChannel {
            outbox: Arc::clone(self),
            channel,
        })
    }

    /// Opens a channel with `lane` as its local end.
    ///
    /// # Errors
    /// The number is in use, or the link has ended. The lane is dropped without a call.
    pub fn open(&self, channel: u32, lane: Arc<dyn Lane>) -> Result<(), OpenError> {
        let mut state = self.state();
        if let Some(notice) = &state.ended {
            return Err(OpenError::Ended(notice.clone()));
        }
        if state.lanes.contains_key(&channel) {
            return Err(OpenError::InUse(channel));
        }
        let entry = LaneEntry {
            lane,
            position: LanePosition::Idle,
            ready: false,
            paused: false,
            credit: 0,
            closing: None,
        };
        state.lanes.insert(channel, entry);
        state.max_lanes = state.max_lanes.max(state.lanes.len());
        Ok(())
    }

    /// Marks the lane of `channel` ready: it may have something to send, and the link asks it in
    /// its turn. Cheap if it is marked already.
    pub fn ready(&self, channel: u32) {
        let mut state = self.state();
        state.mark_ready(channel);
        Self::wake(state);
    }

    /// Queues a control frame ahead of all DATA. The link ends with `limit` if the peer does not
    /// read and the queue grows too large.
    pub fn control(&self, frame: &Frame) {
        debug_assert!(
            !matches!(frame, Frame::Data { .. }),
            "DATA comes from lanes"
        );
        // Encoded outside the lock.
        let message = frame.to_message();
        let mut state = self.state();
        self.queue(&mut state, message);
        Self::wake(state);
    }

    /// Queues a PONG, or replaces a queued one. A peer only needs the answer to its latest PING
    /// (PROTOCOL 6.1).
    pub(super) fn pong(&self, token: u64) {
        let message = Frame::Pong(token).to_message();
        let mut state = self.state();
        match state
            .control
            .iter_mut()
            .rev()
            .find(|queued| frame::is_pong(&queued.message))
        {
            // All PONGs have the same length, so the charge stays the same.
            Some(queued) => queued.message = message,
            None => self.queue(&mut state, message),
        }
        Self::wake(state);
    }

    /// Closes a channel: queues CLOSE ahead of the lane's unsent data, and drops the lane without a
    /// further call. Does nothing if the channel is not open.
    pub fn close(&self, channel: u32, notice: &Notice) {
        let mut state = self.state();
        let entry = state.remove(channel);
        if entry.is_some() {
            self.queue(&mut state, close_message(channel, notice));
        }
        Self::wake(state);
        // Dropped after the lock: the drop of a lane may call the outbox.
        drop(entry);
    }

    /// Closes a channel once its lane has nothing more to send. From now on the link only calls
    /// [`Lane::transmit`] on the lane, until it returns [`Transmit::Last`] or [`Transmit::Nothing`]
    /// and was not marked ready in the meantime. CLOSE then follows the lane's data, and the lane
    /// is dropped. Does nothing if the channel is not open.
    pub fn close_after_drain(&self, channel: u32, notice: &Notice) {
        let mut state = self.state();
        let Some(entry) = state.lanes.get_mut(&channel) else {
            return;
        };
        entry.closing.get_or_insert_with(|| notice.clone());
        // An idle lane may never be marked ready again, so it is checked here.
        let drained = self.close_if_drained(&mut state, channel);
        Self::wake(state);
        drop(drained);
    }

    /// Returns the lane of an open channel.
    #[must_use]
    pub fn lane(&self, channel: u32) -> Option<Arc<dyn Lane>> {
        self.state()
            .lanes
            .get(&channel)
            .map(|entry| entry.lane.clone())
    }

    /// Returns the number of open channels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().lanes.len()
    }

    /// Whether no channel is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no channel is open or the link has ended. Supports one waiting task at a time.
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses nothing.
    pub async fn wait_until_empty(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.state();
            if state.lanes.is_empty() {
                return Poll::Ready(());
            }
            state.empty_waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Returns the bytes of control frames that are queued because the peer does not read, with
    /// their overhead. A caller that queues more of them on behalf of another peer can stop before
    /// the link ends because of the limit.
    #[must_use]
    pub fn queued_control_bytes(&self) -> usize {
        self.state().queued_control
    }

    /// Requests that the link sends ERROR with this notice and ends. The first request counts.
    pub fn end(&self, notice: Notice) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.end_request.get_or_insert(notice);
        // Wakes the task even if it did not wait for work.
        state.task_waits = true;
        Self::wake(state);
    }

    /// Returns the notice with which the link has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Notice> {
        self.state().ended.clone()
    }

    /// Whether an end of the link was requested.
    #[cfg(test)]
    pub(crate) fn is_end_requested(&self) -> bool {
        self.state().end_request.is_some()
    }

    /// Registers the waker of the link's task. Returns the notice if an end of the link was
    /// requested.
    pub(super) fn register_task(&self, waker: &Waker) -> Option<Notice> {
        let mut state = self.state();
        match &mut state.task {
            // `clone_from` avoids a clone if the waker is the same.
            Some(task) => task.clone_from(waker),
            None => state.task = Some(waker.clone()),
        }
        state.end_request.clone()
    }

    /// Returns the next message for the socket. Returns `None` if there is none; new work then
    /// wakes the task. Lanes build their payloads in `buffer`.
    pub(super) fn next(&self, buffer: &mut BytesMut) -> Option<Outgoing> {
        loop {
            let mut state = self.state();
            if let Some(message) = self.pop_control(&mut state) {
                return Some(Outgoing::Control(message));
            }
            let Some(scheduled) = state.schedule() else {
                // Set under the same lock as the check, so no wake-up is lost.
                state.task_waits = true;
                return None;
            };
            // The lane may call the outbox from `transmit`.
            drop(state);
            let channel = scheduled.channel;
            if let Some(payload) = self.transmit(scheduled, buffer) {
                return Some(Outgoing::Data(channel, payload));
            }
        }
    }

    /// Returns the next control frame only, for a link that ends.
    pub(super) fn next_control(&self) -> Option<Bytes> {
        self.pop_control(&mut self.state())
    }

    /// Sets whether the link's task is handling received frames.
    pub(super) fn set_answering(&self, answering: bool) {
        self.answering.store(answering, Relaxed);
    }

    /// Whether more answers are queued than for a peer that reads.
    pub(super) fn has_answer_backlog(&self) -> bool {
        self.queued_answers.load(Relaxed) > ANSWERS_WAITING
    }

    /// Changes the charge for the link's memory other than control frames from `before` to `now`
    /// bytes.
    pub(super) fn adjust_charge(&self, before: usize, now: usize) {
        let Some(account) = &self.account else {
            return;
        };
        if now > before {
            account.charge(now.saturating_sub(before));
        } else {
            account.refund(before.saturating_sub(now));
        }
    }

    /// Returns the lane that receives the payloads of `channel`. Returns `None` if the channel is
    /// not open or only drains.
    pub(super) fn receiving_lane(&self, channel: u32) -> Option<Arc<dyn Lane>> {
        self.state()
            .lanes
            .get(&channel)
            .filter(|entry| entry.closing.is_none())
            .map(|entry| entry.lane.clone())
    }

    /// Handles CLOSE from the peer.
    pub(super) fn on_peer_close(&self, channel: u32, notice: Notice) {
        let entry = self.state().remove(channel);
        // A lane that only drains was closed by this side, so it gets no callback.
        if let Some(LaneEntry {
            lane,
            closing: None,
            ..
        }) = entry
        {
            lane.closed(notice);
        }
    }

    /// Handles PAUSE or RESUME from the peer.
    pub(super) fn on_peer_pause(&self, channel: u32, paused: bool) {
        let mut state = self.state();
        let Some(entry) = state.lanes.get_mut(&channel) else {
            return;
        };
        if mem::replace(&mut entry.paused, paused) == paused {
            return;
        }
        let lane = entry.closing.is_none().then(|| entry.lane.clone());
        // A lane that was marked while paused is in no list. Clearing the flag first lets
        // `mark_ready` enqueue it.
        if !paused && mem::take(&mut entry.ready) {
            state.mark_ready(channel);
        }
        Self::wake(state);
        if let Some(lane) = lane {
            lane.paused(paused);
        }
    }

    /// Marks the link as ended: notifies every lane, and accepts nothing more.
    pub(crate) fn finish(&self, notice: &Notice) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(notice.clone());
        let lanes = mem::take(&mut state.lanes);
        state.wake_if_empty();
        // The waker is dropped as well: it would keep the memory of the ended task.
        (state.new_lanes, state.old_lanes, state.task) = Default::default();
        drop(state);
        for entry in lanes.into_values().filter(|entry| entry.closing.is_none()) {
            entry.lane.closed(notice.clone());
        }
    }

    /// Asks the scheduled lane for a payload, and returns the lane to the scheduler.
    fn transmit(&self, scheduled: ScheduledLane, buffer: &mut BytesMut) -> Option<MessageBody> {
        let (payload, more) = match scheduled.lane.transmit(buffer) {
            Transmit::More(payload) => (Some(payload), true),
            Transmit::Last(payload) => (Some(payload), false),
            Transmit::Nothing => (None, false),
        };
        let sent = payload.as_ref().map_or(0, |payload| payload.len());
        if sent > MAX_DATA {
            // A bug on this side. The peer would end the whole link because of it, so only the
            // channel is closed.
            let notice = Notice::new(Code::Limit, format!("a payload of {sent} bytes"));
            self.close(scheduled.channel, &notice);
            scheduled.lane.closed(notice);
            return None;
        }
        let mut state = self.state();
        state.reschedule(scheduled.channel, sent, more);
        let drained = self.close_if_drained(&mut state, scheduled.channel);
        drop(state);
        // Lanes are dropped without the lock.
        drop((drained, scheduled));
        payload
    }

    fn queue(&self, state: &mut OutboxState, message: Bytes) {
        let control = ControlFrame {
            message,
            is_answer: self.answering.load(Relaxed),
        };
        let (cost, is_answer) = (control.cost(), control.is_answer);
        if !state.queue(control) {
            return;
        }
        if is_answer {
            self.queued_answers.fetch_add(cost, Relaxed);
        }
        if let Some(account) = &self.account {
            account.charge(cost);
        }
    }

    fn pop_control(&self, state: &mut OutboxState) -> Option<Bytes> {
        let control = state.control.pop_front()?;
        let cost = control.cost();
        state.queued_control = state.queued_control.saturating_sub(cost);
        if control.is_answer {
            self.queued_answers.fetch_sub(cost, Relaxed);
        }
        if let Some(account) = &self.account {
            account.refund(cost);
        }
        if state.control.is_empty() {
            // A burst of control frames must not leave its capacity behind.
            state.control.shrink_to(KEPT_CAPACITY);
        }
        Some(control.message)
    }

    /// Removes a draining lane that has nothing more to send, and queues its CLOSE.
    fn close_if_drained(&self, state: &mut OutboxState, channel: u32) -> Option<LaneEntry> {
        let notice = state.drained(channel)?;
        self.queue(state, close_message(channel, &notice));
        state.remove(channel)
    }

    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the link's task if it waits and there is work for it.
    fn wake(mut state: MutexGuard<'_, OutboxState>) {
        let must_wake = state.task_waits && state.has_work();
        let task = if must_wake { state.task.clone() } else { None };
        // One wake-up is enough until the task asks again.
        state.task_waits &= !must_wake;
        // The waker runs without the lock: it may poll the task at once.
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// One channel of a link.
struct OutboxChannel {
    outbox: Arc<Outbox>,
    channel: u32,
}

impl ChannelHandle for OutboxChannel {
    fn link(&self) -> LinkId {
        self.outbox.id
    }

    fn ready(&self) {
        self.outbox.ready(self.channel);
    }

    fn close(&self, notice: &Notice) {
        self.outbox.close(self.channel, notice);
    }

    fn close_after_drain(&self, notice: &Notice) {
        self.outbox.close_after_drain(self.channel, notice);
    }
}

impl OutboxState {
    fn has_work(&self) -> bool {
        self.end_request.is_some()
            || !(self.control.is_empty() && self.new_lanes.is_empty() && self.old_lanes.is_empty())
    }

    fn remove(&mut self, channel: u32) -> Option<LaneEntry> {
        let entry = self.lanes.remove(&channel);
        self.shrink();
        self.wake_if_empty();
        entry
    }

    /// Shrinks the tables of a link that once had many more channels.
    fn shrink(&mut self) {
        let kept = self
            .lanes
            .len()
            .saturating_mul(SHRINK_FACTOR)
            .max(KEPT_CAPACITY);
        // The gap between the new capacity and this threshold prevents a resize on every change.
        if self.lanes.capacity() <= kept.saturating_mul(SHRINK_FACTOR) {
            return;
        }
        self.lanes.shrink_to(kept);
        // The lists keep the numbers of removed channels until their turn, so they are cleaned up
        // before they shrink.
        let lanes = &self.lanes;
        self.new_lanes.retain(|channel| {
            lanes
                .get(channel)
                .is_some_and(|entry| entry.position == LanePosition::New)
        });
        self.old_lanes.retain(|channel| {
            lanes
                .get(channel)
                .is_some_and(|entry| entry.position == LanePosition::Old)
        });
        self.new_lanes.shrink_to(kept);
        self.old_lanes.shrink_to(kept);
    }

    fn wake_if_empty(&mut self) {
        if self.lanes.is_empty()
            && let Some(waker) = self.empty_waker.take()
        {
            waker.wake();
        }
    }

    fn mark_ready(&mut self, channel: u32) {
        let Some(entry) = self.lanes.get_mut(&channel) else {
            return;
        };
        // A lane in a list or in `transmit` only keeps the mark: `schedule` and `reschedule` read
        // it.
        if mem::replace(&mut entry.ready, true)
            || entry.paused
            || entry.position != LanePosition::Idle
        {
            return;
        }
        entry.position = LanePosition::New;
        entry.credit = QUANTUM;
        self.new_lanes.push_back(channel);
    }

    /// Queues a control frame. Returns `false` if the link has ended or its peer leaves too many
    /// frames unread.
    fn queue(&mut self, control: ControlFrame) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let queued = self.queued_control.saturating_add(control.cost());
        if queued > MAX_QUEUED_CONTROL + self.max_lanes * CONTROL_PER_LANE {
            self.end_request.get_or_insert_with(|| {
                Notice::new(
                    Code::Limit,
                    "too many control frames wait for a peer that does not read",
                )
            });
            // A task that waits for the socket does not wait for work, but it has to end the link
            // now.
            self.task_waits = true;
            return false;
        }
        self.queued_control = queued;
        self.control.push_back(control);
        true
    }

    /// Selects the lane to serve next: the first new lane, otherwise the first old lane with
    /// credit.
    fn schedule(&mut self) -> Option<ScheduledLane> {
        loop {
            let (channel, list) = match self.new_lanes.pop_front() {
                Some(channel) => (channel, LaneList::New),
                None => (self.old_lanes.pop_front()?, LaneList::Old),
            };
            let position = if list == LaneList::New {
                LanePosition::New
            } else {
                LanePosition::Old
            };
            // A number whose lane is gone or was opened again is stale.
            let Some(entry) = self
                .lanes
                .get_mut(&channel)
                .filter(|entry| entry.position == position)
            else {
                continue;
            };
            if entry.paused || !entry.ready {
                // The next `mark_ready` or RESUME makes it a new lane.
                entry.position = LanePosition::Idle;
            } else if entry.credit <= 0 {
                // The lane has used its quantum: it gets another one and waits for its next turn.
                entry.credit += QUANTUM;
                entry.position = LanePosition::Old;
                self.old_lanes.push_back(channel);
            } else {
                entry.position = LanePosition::Serving(list);
                // Cleared before `transmit`, so a mark that is set during the call is not lost.
                entry.ready = false;
                return Some(ScheduledLane {
                    channel,
                    lane: entry.lane.clone(),
                });
            }
        }
    }

    /// Returns a lane to its list after its turn.
    fn reschedule(&mut self, channel: u32, sent: usize, more: bool) {
        // The lane may have closed its channel during `transmit`.
        let Some(entry) = self.lanes.get_mut(&channel) else {
            return;
        };
        let LanePosition::Serving(list) = entry.position else {
            return;
        };
        entry.credit -= i64::try_from(sent).unwrap_or(i64::MAX);
        // An empty payload uses no credit, so `More` with one must not keep the lane in its list.
        entry.ready |= more && sent > 0;
        if entry.ready && entry.credit > 0 {
            // The quantum is not used up: the turn continues.
            let (position, queue) = match list {
                LaneList::New => (LanePosition::New, &mut self.new_lanes),
                LaneList::Old => (LanePosition::Old, &mut self.old_lanes),
            };
            entry.position = position;
            queue.push_front(channel);
        } else if entry.ready || list == LaneList::New {
            // A new lane without more data waits for one round of the old lanes. Otherwise a lane
            // that is marked again and again would always go first.
            entry.credit = if entry.ready {
                entry.credit + QUANTUM
            } else {
                QUANTUM
            };
            entry.position = LanePosition::Old;
            self.old_lanes.push_back(channel);
        } else {
            entry.position = LanePosition::Idle;
        }
    }

    /// Returns the notice of a draining lane that has nothing more to send.
    fn drained(&self, channel: u32) -> Option<Notice> {
        let entry = self.lanes.get(&channel)?;
        let serving = matches!(entry.position, LanePosition::Serving(_));
        entry.closing.clone().filter(|_| !entry.ready && !serving)
    }
}

fn close_message(channel: u32, notice: &Notice) -> Bytes {
    Frame::Close {
        channel,
        notice: notice.clone(),
    }
    .to_message()
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Frames that were never sent are still charged.
        if let Some(account) = &self.account {
            account.refund(state.queued_control);
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        formatter
            .debug_struct("Outbox")
            .field("lanes", &state.lanes.len())
            .field("ended", &state.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
