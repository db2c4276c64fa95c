//! What a link has to send: control frames first, then the lanes, fair by bytes. The link's task takes the next message from it only when
//! the socket has room.
//!
//! The lanes are served by deficit round robin in two circles, in the manner of fq_codel: a lane that had nothing for a while goes first, up
//! to one quantum; one that has more takes its turn with the others.
//!
//! ```text
//!            marked ready                 quantum used up, or nothing left
//!   Away ───────────────────► Fresh ─────────────────────────────────────► Round ──► Round …
//!    ▲                                                                       │
//!    └──────────────────────── its turn comes and it has nothing ◄───────────┘
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

use super::channel::{Body, Lane, Transmit};
use crate::{
    frame::{self, Code, Frame, MAX_DATA, Notice},
    map::Map,
};

/// Bytes that a lane may send before the next has its turn: one full message.
const QUANTUM: i64 = 64 * 1024;

/// Bytes of control frames that may wait for a peer that does not read, some 8,000 frames. Beyond it the link ends with `limit`.
const MAX_CONTROL_WAITING: usize = 1024 * 1024;

/// What is allowed beyond that for each channel that was ever open at the same time, so that all of them can be closed at once.
const CONTROL_PER_LANE: usize = 1024;

/// What a waiting control frame costs beside its bytes.
const CONTROL_OVERHEAD: usize = 64;

/// Bytes of answers that may wait before the accepting end reads no more from the peer (PROTOCOL 12, `ANSWERS_WAITING`).
pub(crate) const ANSWERS_WAITING: usize = 16 * 1024;

/// Places that an empty queue of control frames keeps.
const CONTROL_KEPT: usize = 16;

/// A table is made smaller when it has room for more than so many times what it holds, and some more.
const SHRINK_FACTOR: usize = 4;

/// An account that the memory of a link is charged to.
pub trait Ledger: Send + Sync {
    /// Charges `bytes`.
    fn charge(&self, bytes: usize);

    /// Returns `bytes` that were charged.
    fn release(&self, bytes: usize);
}

/// Why a channel could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The number is in use on this link.
    #[error("channel {0} is in use")]
    InUse(u32),
    /// The link has ended.
    #[error("the link has ended ({0})")]
    Ended(Notice),
}

/// The sending side of a link, shared by the lanes, the role and the link's task.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    /// Whether the link's task handles what it read: frames that are queued in this time count as answers.
    answering: AtomicBool,
    /// Bytes of answers that wait, with their overhead. Changes under the lock.
    answers_waiting: AtomicUsize,
    /// The account of what waits.
    ledger: Option<Arc<dyn Ledger>>,
}

/// A control frame that waits.
struct Control {
    message: Bytes,
    is_answer: bool,
}

impl Control {
    fn cost(&self) -> usize {
        self.message.len().saturating_add(CONTROL_OVERHEAD)
    }
}

#[derive(Default)]
struct State {
    lanes: Map<u32, Entry>,
    /// Lanes that had nothing until now; served first.
    fresh: VecDeque<u32>,
    /// Lanes that take turns.
    round: VecDeque<u32>,
    control: VecDeque<Control>,
    /// Bytes in `control`, with their overhead.
    control_waiting: usize,
    /// The most lanes that were open at the same time.
    most_lanes: usize,
    /// The link's task.
    task: Option<Waker>,
    /// Whether the task found nothing to send when it last asked: what comes now must wake it.
    hungry: bool,
    /// Somebody wants the link to end with this error.
    ending: Option<Notice>,
    /// The link has ended with this.
    ended: Option<Notice>,
    /// Who waits until no channel is open.
    watcher: Option<Waker>,
}

struct Entry {
    lane: Arc<dyn Lane>,
    place: Place,
    /// The lane says that it may have something.
    marked: bool,
    /// The peer wants nothing for now.
    paused: bool,
    /// Bytes that it may still send in this turn; below zero when a message was larger than what was left.
    credit: i64,
    /// Once it has nothing more, the channel closes with this.
    closing: Option<Notice>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In no circle.
    Away,
    Fresh,
    Round,
    /// Its `transmit` runs; it came from this circle.
    Serving(Circle),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Circle {
    Fresh,
    Round,
}

/// What goes to the socket next.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A control frame.
    Control(Bytes),
    /// The payload of a DATA frame.
    Data(u32, Body),
}

/// A lane whose turn it is.
struct Turn {
    channel: u32,
    lane: Arc<dyn Lane>,
}

impl Outbox {
    /// An outbox without lanes.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An outbox without lanes whose waiting control frames are charged to `ledger`.
    #[must_use]
    pub fn charged_to(ledger: Arc<dyn Ledger>) -> Arc<Self> {
        let mut outbox = Outbox::default();
        outbox.ledger = Some(ledger);
        Arc::new(outbox)
    }

    /// Opens a channel: `lane` is its end from now on.
    ///
    /// # Errors
    /// When the number is in use or the link has ended: the lane is dropped, and nothing is called on it.
    pub fn open(&self, channel: u32, lane: Arc<dyn Lane>) -> Result<(), OpenError> {
        let mut state = self.state();
        if let Some(notice) = &state.ended {
            return Err(OpenError::Ended(notice.clone()));
        }
        if state.lanes.contains_key(&channel) {
            return Err(OpenError::InUse(channel));
        }
        let entry = Entry {
            lane,
            place: Place::Away,
            marked: false,
            paused: false,
            credit: 0,
            closing: None,
        };
        state.lanes.insert(channel, entry);
        state.most_lanes = state.most_lanes.max(state.lanes.len());
        Ok(())
    }

    /// Says that the lane of `channel` may have something to send: it is asked when its turn comes. Cheap when it was said already.
    pub fn ready(&self, channel: u32) {
        let mut state = self.state();
        state.mark(channel);
        Self::wake(state);
    }

    /// Queues a control frame, ahead of all DATA. When the peer does not read and too many wait, the link ends with `limit`.
    pub fn control(&self, frame: &Frame) {
        debug_assert!(
            !matches!(frame, Frame::Data { .. }),
            "DATA comes from lanes"
        );
        let message = frame.to_message();
        let mut state = self.state();
        self.queue(&mut state, message);
        Self::wake(state);
    }

    /// Queues a PONG in place of one that still waits: a peer needs the answer to its last PING only (PROTOCOL 6.1).
    pub(super) fn pong(&self, token: u64) {
        let message = Frame::Pong(token).to_message();
        let mut state = self.state();
        match state
            .control
            .iter_mut()
            .rev()
            .find(|waiting| frame::is_pong(&waiting.message))
        {
            Some(waiting) => waiting.message = message,
            None => self.queue(&mut state, message),
        }
        Self::wake(state);
    }

    /// Closes a channel: queues CLOSE, ahead of what the lane still had, and drops the lane. Nothing is called on the lane any more. Does
    /// nothing when the channel is not open.
    pub fn close(&self, channel: u32, notice: &Notice) {
        let mut state = self.state();
        let entry = state.remove(channel);
        if entry.is_some() {
            self.queue(&mut state, close_message(channel, notice));
        }
        Self::wake(state);
        drop(entry);
    }

    /// Closes a channel once its lane has nothing more to send: from now on only [`Lane::transmit`] is called on it, until it says
    /// [`Transmit::Last`] or [`Transmit::Nothing`] and has not been marked ready meanwhile; then CLOSE follows what it sent, and the lane
    /// is dropped. Does nothing when the channel is not open.
    pub fn close_after_drain(&self, channel: u32, notice: &Notice) {
        let mut state = self.state();
        let Some(entry) = state.lanes.get_mut(&channel) else {
            return;
        };
        entry.closing.get_or_insert_with(|| notice.clone());
        let drained = self.take_drained(&mut state, channel);
        Self::wake(state);
        drop(drained);
    }

    /// The lane of an open channel.
    #[must_use]
    pub fn lane(&self, channel: u32) -> Option<Arc<dyn Lane>> {
        self.state()
            .lanes
            .get(&channel)
            .map(|entry| entry.lane.clone())
    }

    /// How many channels are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().lanes.len()
    }

    /// Whether no channel is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no channel is open, or the link has ended. One at a time waits.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn vacant(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.state();
            if state.lanes.is_empty() {
                return Poll::Ready(());
            }
            state.watcher = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Bytes of control frames that wait because the peer does not read, with what is kept beside each: who makes more of them on another
    /// peer's account can stop before the link ends for it.
    #[must_use]
    pub fn control_waiting_bytes(&self) -> usize {
        self.state().control_waiting
    }

    /// Asks the link to send ERROR with this notice and to end. The first one who asks is heard.
    pub fn end(&self, notice: Notice) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.ending.get_or_insert(notice);
        state.hungry = true;
        Self::wake(state);
    }

    /// Whether the link has ended, and why.
    #[must_use]
    pub fn ended(&self) -> Option<Notice> {
        self.state().ended.clone()
    }

    /// Whether somebody wants the link to end.
    #[cfg(test)]
    pub(crate) fn is_to_end(&self) -> bool {
        self.state().ending.is_some()
    }

    /// The link's task is here and can be woken; whether somebody wants the link to end.
    pub(super) fn attend(&self, waker: &Waker) -> Option<Notice> {
        let mut state = self.state();
        match &mut state.task {
            Some(task) => task.clone_from(waker),
            None => state.task = Some(waker.clone()),
        }
        state.ending.clone()
    }

    /// The next message for the socket; `None` when there is nothing, and the task will be woken. Payloads are made in `memory`.
    pub(super) fn next(&self, memory: &mut BytesMut) -> Option<Outgoing> {
        loop {
            let mut state = self.state();
            if let Some(message) = self.pop_control(&mut state) {
                return Some(Outgoing::Control(message));
            }
            let Some(turn) = state.next_turn() else {
                state.hungry = true;
                return None;
            };
            drop(state);
            let channel = turn.channel;
            if let Some(payload) = self.serve(turn, memory) {
                return Some(Outgoing::Data(channel, payload));
            }
        }
    }

    /// The next control frame alone, for a link that ends.
    pub(super) fn next_control(&self) -> Option<Bytes> {
        self.pop_control(&mut self.state())
    }

    /// The link's task begins (`true`) or ends to handle what it read.
    pub(super) fn set_answering(&self, answering: bool) {
        self.answering.store(answering, Relaxed);
    }

    /// Whether more answers wait than a peer that reads leaves waiting.
    pub(super) fn is_clogged(&self) -> bool {
        self.answers_waiting.load(Relaxed) > ANSWERS_WAITING
    }

    /// Charges what the link holds beside control frames: `now` bytes, where it was `before`.
    pub(super) fn recharge(&self, before: usize, now: usize) {
        let Some(ledger) = &self.ledger else { return };
        if now > before {
            ledger.charge(now.saturating_sub(before));
        } else {
            ledger.release(before.saturating_sub(now));
        }
    }

    /// The lane that takes what arrived on `channel`: none when it is not open, or has only to be drained.
    pub(super) fn receiver(&self, channel: u32) -> Option<Arc<dyn Lane>> {
        self.state()
            .lanes
            .get(&channel)
            .filter(|entry| entry.closing.is_none())
            .map(|entry| entry.lane.clone())
    }

    /// The peer closed the channel.
    pub(super) fn closed_by_peer(&self, channel: u32, notice: Notice) {
        let entry = self.state().remove(channel);
        if let Some(Entry {
            lane,
            closing: None,
            ..
        }) = entry
        {
            lane.closed(notice);
        }
    }

    /// The peer paused or resumed the channel.
    pub(super) fn paused_by_peer(&self, channel: u32, paused: bool) {
        let mut state = self.state();
        let Some(entry) = state.lanes.get_mut(&channel) else {
            return;
        };
        if mem::replace(&mut entry.paused, paused) == paused {
            return;
        }
        let lane = entry.closing.is_none().then(|| entry.lane.clone());
        if !paused && mem::take(&mut entry.marked) {
            state.mark(channel);
        }
        Self::wake(state);
        if let Some(lane) = lane {
            lane.paused(paused);
        }
    }

    /// The link has ended: every lane hears of it, and nothing is taken any more.
    pub(super) fn finish(&self, notice: &Notice) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(notice.clone());
        let lanes = mem::take(&mut state.lanes);
        state.tell_watcher();
        (state.fresh, state.round, state.task) = Default::default();
        drop(state);
        for entry in lanes.into_values().filter(|entry| entry.closing.is_none()) {
            entry.lane.closed(notice.clone());
        }
    }

    fn serve(&self, turn: Turn, memory: &mut BytesMut) -> Option<Body> {
        let (payload, more) = match turn.lane.transmit(memory) {
            Transmit::More(payload) => (Some(payload), true),
            Transmit::Last(payload) => (Some(payload), false),
            Transmit::Nothing => (None, false),
        };
        let sent = payload.as_ref().map_or(0, |payload| payload.len());
        if sent > MAX_DATA {
            // A mistake on this side; the peer would end the whole link for it.
            let notice = Notice::new(Code::Limit, format!("a payload of {sent} bytes"));
            self.close(turn.channel, &notice);
            turn.lane.closed(notice);
            return None;
        }
        let mut state = self.state();
        state.settle(turn.channel, sent, more);
        let drained = self.take_drained(&mut state, turn.channel);
        drop(state);
        drop((drained, turn));
        payload
    }

    fn queue(&self, state: &mut State, message: Bytes) {
        let control = Control {
            message,
            is_answer: self.answering.load(Relaxed),
        };
        let (cost, is_answer) = (control.cost(), control.is_answer);
        if !state.queue(control) {
            return;
        }
        if is_answer {
            self.answers_waiting.fetch_add(cost, Relaxed);
        }
        if let Some(ledger) = &self.ledger {
            ledger.charge(cost);
        }
    }

    fn pop_control(&self, state: &mut State) -> Option<Bytes> {
        let control = state.control.pop_front()?;
        let cost = control.cost();
        state.control_waiting = state.control_waiting.saturating_sub(cost);
        if control.is_answer {
            self.answers_waiting.fetch_sub(cost, Relaxed);
        }
        if let Some(ledger) = &self.ledger {
            ledger.release(cost);
        }
        if state.control.is_empty() {
            state.control.shrink_to(CONTROL_KEPT);
        }
        Some(control.message)
    }

    /// Takes a lane out that was to be closed once it has nothing more, and queues its CLOSE.
    fn take_drained(&self, state: &mut State, channel: u32) -> Option<Entry> {
        let notice = state.drained(channel)?;
        self.queue(state, close_message(channel, &notice));
        state.remove(channel)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the task if it waits for something to send and there is something.
    fn wake(mut state: MutexGuard<'_, State>) {
        let wanted = state.hungry && state.has_something();
        let task = if wanted { state.task.clone() } else { None };
        state.hungry &= !wanted;
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl State {
    fn has_something(&self) -> bool {
        self.ending.is_some()
            || !(self.control.is_empty() && self.fresh.is_empty() && self.round.is_empty())
    }

    fn remove(&mut self, channel: u32) -> Option<Entry> {
        let entry = self.lanes.remove(&channel);
        self.shrink();
        self.tell_watcher();
        entry
    }

    /// A link that once had many channels does not keep the tables of that time.
    fn shrink(&mut self) {
        let kept = self
            .lanes
            .len()
            .saturating_mul(SHRINK_FACTOR)
            .max(CONTROL_KEPT);
        if self.lanes.capacity() <= kept.saturating_mul(SHRINK_FACTOR) {
            return;
        }
        self.lanes.shrink_to(kept);
        // Numbers of channels that are gone stay in the circles until their turn.
        let lanes = &self.lanes;
        self.fresh.retain(|channel| {
            lanes
                .get(channel)
                .is_some_and(|entry| entry.place == Place::Fresh)
        });
        self.round.retain(|channel| {
            lanes
                .get(channel)
                .is_some_and(|entry| entry.place == Place::Round)
        });
        self.fresh.shrink_to(kept);
        self.round.shrink_to(kept);
    }

    fn tell_watcher(&mut self) {
        if self.lanes.is_empty()
            && let Some(watcher) = self.watcher.take()
        {
            watcher.wake();
        }
    }

    fn mark(&mut self, channel: u32) {
        let Some(entry) = self.lanes.get_mut(&channel) else {
            return;
        };
        if mem::replace(&mut entry.marked, true) || entry.paused || entry.place != Place::Away {
            return;
        }
        entry.place = Place::Fresh;
        entry.credit = QUANTUM;
        self.fresh.push_back(channel);
    }

    /// Whether the frame was taken: not by a link that has ended, nor by one whose peer leaves too much waiting.
    fn queue(&mut self, control: Control) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let waiting = self.control_waiting.saturating_add(control.cost());
        if waiting > MAX_CONTROL_WAITING + self.most_lanes * CONTROL_PER_LANE {
            self.ending.get_or_insert_with(|| {
                Notice::new(
                    Code::Limit,
                    "too many control frames wait for a peer that does not read",
                )
            });
            self.hungry = true;
            return false;
        }
        self.control_waiting = waiting;
        self.control.push_back(control);
        true
    }

    fn next_turn(&mut self) -> Option<Turn> {
        loop {
            let (channel, circle) = match self.fresh.pop_front() {
                Some(channel) => (channel, Circle::Fresh),
                None => (self.round.pop_front()?, Circle::Round),
            };
            let place = if circle == Circle::Fresh {
                Place::Fresh
            } else {
                Place::Round
            };
            let Some(entry) = self
                .lanes
                .get_mut(&channel)
                .filter(|entry| entry.place == place)
            else {
                continue;
            };
            if entry.paused || !entry.marked {
                entry.place = Place::Away;
            } else if entry.credit <= 0 {
                entry.credit += QUANTUM;
                entry.place = Place::Round;
                self.round.push_back(channel);
            } else {
                entry.place = Place::Serving(circle);
                entry.marked = false;
                return Some(Turn {
                    channel,
                    lane: entry.lane.clone(),
                });
            }
        }
    }

    /// Puts a lane back after its turn.
    fn settle(&mut self, channel: u32, sent: usize, more: bool) {
        let Some(entry) = self.lanes.get_mut(&channel) else {
            return;
        };
        let Place::Serving(circle) = entry.place else {
            return;
        };
        entry.credit -= i64::try_from(sent).unwrap_or(i64::MAX);
        entry.marked |= more && sent > 0;
        if entry.marked && entry.credit > 0 {
            let (place, queue) = match circle {
                Circle::Fresh => (Place::Fresh, &mut self.fresh),
                Circle::Round => (Place::Round, &mut self.round),
            };
            entry.place = place;
            queue.push_front(channel);
        } else if entry.marked || circle == Circle::Fresh {
            // A fresh lane that has nothing left waits out one round: it cannot come first again and again.
            entry.credit = if entry.marked {
                entry.credit + QUANTUM
            } else {
                QUANTUM
            };
            entry.place = Place::Round;
            self.round.push_back(channel);
        } else {
            entry.place = Place::Away;
        }
    }

    /// The notice of a lane that was to be closed once it has nothing more, and has nothing more.
    fn drained(&self, channel: u32) -> Option<Notice> {
        let entry = self.lanes.get(&channel)?;
        let serving = matches!(entry.place, Place::Serving(_));
        entry.closing.clone().filter(|_| !entry.marked && !serving)
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
        if let Some(ledger) = &self.ledger {
            ledger.release(state.control_waiting);
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
