//! The side of the link's task: takes the next message, and reports what the peer did.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
};

use bytes::{Bytes, BytesMut};

use super::{
    ANSWERS_WAITING, Outbox,
    state::{ChannelEntry, KEPT_CAPACITY, NextPayload, OutboxState, Outgoing, ScheduledChannel},
};
use crate::{
    link::channel::{ChannelEnd, Transmit},
    net::websocket::MessageBody,
};
use report_proto::frame::{self, Code, Frame, MAX_DATA, Notice};

impl Outbox {
    /// Registers the waker of the link's task. Returns the notice if an end of the link was
    /// requested.
    pub(in crate::link) fn register_task(&self, waker: &Waker) -> Option<Notice> {
        let mut state = self.state();
        match &mut state.task {
            // `clone_from` avoids a clone if the waker is the same.
            Some(task) => task.clone_from(waker),
            None => state.task = Some(waker.clone()),
        }
        state.end_request.clone()
    }

    /// Returns the next message for the socket. Returns `None` if there is none; new work then
    /// wakes the task. Channel ends build their payloads in `buffer`.
    pub(in crate::link) fn next(&self, buffer: &mut BytesMut) -> Option<Outgoing> {
        loop {
            let mut state = self.state();
            if let Some(message) = self.pop_control(&mut state) {
                return Some(Outgoing::Control(message));
            }
            let Some(scheduled) = state.next_channel() else {
                // Set under the same lock as the check, so no wake-up is lost.
                state.task_waits = true;
                return None;
            };
            // The channel end may call the outbox from `transmit`.
            drop(state);
            let channel = scheduled.channel;
            if let Some(payload) = self.transmit(scheduled, buffer) {
                return Some(Outgoing::Data(channel, payload));
            }
        }
    }

    /// Returns the next control frame only, for a link that ends.
    pub(in crate::link) fn next_control(&self) -> Option<Bytes> {
        self.pop_control(&mut self.state())
    }

    /// Sets whether the link's task is handling received frames.
    pub(in crate::link) fn set_answering(&self, answering: bool) {
        self.answering.store(answering, Relaxed);
    }

    /// Whether more answers are queued than for a peer that reads.
    pub(in crate::link) fn has_answer_backlog(&self) -> bool {
        self.queued_answers.load(Relaxed) > ANSWERS_WAITING
    }

    /// Counts the bytes of a DATA message that was sent or received.
    pub(in crate::link) fn count_moved(&self, bytes: usize) {
        let bytes = bytes as u64;
        let moved = self.moved.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if moved >= self.awaited.load(Relaxed) {
            self.awaited.store(u64::MAX, Relaxed);
            self.moved_enough.notify_waiters();
        }
    }

    /// Changes the charge for the link's memory other than control frames from `before` to `now`
    /// bytes.
    pub(in crate::link) fn adjust_charge(&self, before: usize, now: usize) {
        let Some(account) = &self.account else {
            return;
        };
        if now > before {
            account.charge(now.saturating_sub(before));
        } else {
            account.refund(before.saturating_sub(now));
        }
    }

    /// Returns the end that receives the payloads of `channel`. Returns `None` if the channel is
    /// not open or only drains.
    pub(in crate::link) fn receiving_end(&self, channel: u32) -> Option<Arc<dyn ChannelEnd>> {
        self.state()
            .channels
            .get(&channel)
            .filter(|entry| entry.closing.is_none())
            .map(|entry| entry.channel_end.clone())
    }

    /// Handles CLOSE from the peer.
    pub(in crate::link) fn on_peer_close(&self, channel: u32, notice: Notice) {
        let entry = self.state().remove(channel);
        // A channel that only drains was closed by this side, so it gets no callback.
        if let Some(ChannelEntry {
            channel_end,
            closing: None,
            ..
        }) = entry
        {
            channel_end.closed(notice);
        }
    }

    /// Handles PAUSE or RESUME from the peer.
    pub(in crate::link) fn on_peer_pause(&self, channel: u32, paused: bool) {
        let mut state = self.state();
        let Some(entry) = state.channels.get_mut(&channel) else {
            return;
        };
        if mem::replace(&mut entry.paused, paused) == paused {
            return;
        }
        let channel_end = entry.closing.is_none().then(|| entry.channel_end.clone());
        // A channel that was marked while paused is not scheduled. Clearing the flag first lets
        // `mark_ready` schedule it.
        if !paused && mem::take(&mut entry.ready) {
            state.mark_ready(channel);
        }
        Self::wake(state);
        if let Some(channel_end) = channel_end {
            channel_end.paused(paused);
        }
    }

    /// Marks the link as ended: notifies every channel end, and accepts nothing more.
    pub(crate) fn finish(&self, notice: &Notice) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(notice.clone());
        let channels = mem::take(&mut state.channels);
        state.wake_if_empty();
        // The waker is dropped as well: it would keep the memory of the ended task.
        (state.schedule, state.task) = Default::default();
        drop(state);
        for entry in channels
            .into_values()
            .filter(|entry| entry.closing.is_none())
        {
            entry.channel_end.closed(notice.clone());
        }
    }

    /// Asks the scheduled channel for a payload, and returns the channel to the scheduler.
    fn transmit(&self, scheduled: ScheduledChannel, buffer: &mut BytesMut) -> Option<MessageBody> {
        let (payload, next) = match scheduled.channel_end.transmit(buffer) {
            Transmit::More(payload) => (Some(payload), NextPayload::Follows),
            Transmit::Last(payload) => (Some(payload), NextPayload::Nothing),
            Transmit::Nothing => (None, NextPayload::Nothing),
            Transmit::Held => (None, NextPayload::Held),
        };
        let sent = payload.as_ref().map_or(0, |payload| payload.len());
        if sent > MAX_DATA {
            // A bug on this side. The peer would end the whole link because of it, so only the
            // channel is closed.
            let notice = Notice::new(Code::Limit, format!("a payload of {sent} bytes"));
            self.close(scheduled.channel, &notice);
            scheduled.channel_end.closed(notice);
            return None;
        }
        let mut state = self.state();
        state.end_turn(scheduled.channel, sent, next);
        let drained = self.close_if_drained(&mut state, scheduled.channel);
        drop(state);
        // Channel ends are dropped without the lock.
        drop((drained, scheduled));
        payload
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

    /// Queues a PONG, or replaces a queued one. A peer only needs the answer to its latest PING
    /// (PROTOCOL 6.1).
    pub(in crate::link) fn pong(&self, token: u64) {
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
}
