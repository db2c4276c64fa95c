//! The send queue of one link: control frames first, then the lanes with byte fairness. The link's
//! task takes the next message only when the socket has room.
//!
//! A [`DrrScheduler`](report_proto::drr::DrrScheduler) decides which lane is next: a lane that becomes ready after it had nothing to
//! send goes first, for up to one quantum.
//!
//! No lock is held while a lane's method runs or a lane is dropped.

mod state;
#[cfg(test)]
mod tests;

use std::{
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, Waker},
};

use bytes::{Bytes, BytesMut};

pub(super) use self::state::Outgoing;
use self::state::{
    ControlFrame, KEPT_CAPACITY, LaneEntry, OutboxState, ScheduledLane, close_message,
};
use super::{
    MemoryAccount,
    channel::{Lane, OpenError, Transmit},
};
use crate::net::websocket::MessageBody;
use report_proto::frame::{self, Code, Frame, MAX_DATA, Notice};

/// Bytes of queued answers above which the accepting end stops reading from the peer (PROTOCOL 12,
/// `ANSWERS_WAITING`).
pub(crate) const ANSWERS_WAITING: usize = 16 * 1024;

/// The sending side of a link. The lanes, the role and the link's task share it.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<OutboxState>,
    /// Whether the link's task is handling received frames. Frames queued in this time count as
    /// answers.
    answering: AtomicBool,
    /// Bytes of queued answers, with their overhead. Changes under the lock.
    queued_answers: AtomicUsize,
    /// The account to which queued control frames are charged.
    account: Option<Arc<dyn MemoryAccount>>,
}

impl Outbox {
    /// Creates an outbox without lanes.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Creates an outbox without lanes that charges its queued control frames to `account`.
    #[must_use]
    pub fn with_account(account: Arc<dyn MemoryAccount>) -> Arc<Self> {
        let mut outbox = Outbox::default();
        outbox.account = Some(account);
        Arc::new(outbox)
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
            ready: false,
            paused: false,
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
            let Some(scheduled) = state.next_lane() else {
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
        // A lane that was marked while paused is not scheduled. Clearing the flag first lets
        // `mark_ready` schedule it.
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
        (state.schedule, state.task) = Default::default();
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
        state.end_turn(scheduled.channel, sent, more);
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
