//! The state of an outbox behind its lock: the queue of control frames, and the scheduled channels.

use std::{collections::VecDeque, mem, sync::Arc, task::Waker};

use bytes::Bytes;

use crate::{link::channel::ChannelEnd, net::websocket::MessageBody};
use report_proto::{
    drr::DrrScheduler,
    frame::{Code, Frame, Notice},
    map::Map,
};

/// Bytes that a channel may send before the next one takes its turn: one full message.
const QUANTUM: i64 = 64 * 1024;

/// The limit for queued control frames of a peer that does not read, in bytes: some 8,000 frames.
/// Beyond it the link ends with `limit`.
const MAX_QUEUED_CONTROL: usize = 1024 * 1024;

/// The extra allowance per channel, for the largest number of channels that were open at the same
/// time. It allows closing all of them at once.
const CONTROL_PER_CHANNEL: usize = 1024;

/// The cost of a queued control frame in addition to its bytes.
pub(super) const CONTROL_OVERHEAD: usize = 64;

/// The capacity that an empty queue of control frames keeps.
pub(super) const KEPT_CAPACITY: usize = 16;

/// A table shrinks to this many times its length once its capacity exceeds that by the same factor.
const SHRINK_FACTOR: usize = 4;

/// A queued control frame.
pub(super) struct ControlFrame {
    pub(super) message: Bytes,
    pub(super) is_answer: bool,
}

impl ControlFrame {
    pub(super) fn cost(&self) -> usize {
        self.message.len().saturating_add(CONTROL_OVERHEAD)
    }
}

#[derive(Default)]
pub(super) struct OutboxState {
    pub(super) channels: Map<u32, ChannelEntry>,
    /// The channels whose ends were marked ready, in the order of sending.
    pub(super) schedule: DrrScheduler<u32>,
    /// The channel whose `transmit` runs.
    pub(super) transmitting: Option<u32>,
    pub(super) control: VecDeque<ControlFrame>,
    /// Bytes in `control`, with their overhead.
    pub(super) queued_control: usize,
    /// The largest number of channels that were open at the same time.
    pub(super) max_channels: usize,
    /// The waker of the link's task.
    pub(super) task: Option<Waker>,
    /// Whether the task found nothing to send when it last asked, so that new work must wake it.
    pub(super) task_waits: bool,
    /// The error with which the link shall end.
    pub(super) end_request: Option<Notice>,
    /// The notice with which the link has ended.
    pub(super) ended: Option<Notice>,
    /// The waker of the task that waits until no channel is open.
    pub(super) empty_waker: Option<Waker>,
}

/// An open channel.
pub(super) struct ChannelEntry {
    pub(super) channel_end: Arc<dyn ChannelEnd>,
    /// Whether the end may have something to send.
    pub(super) ready: bool,
    /// Whether the peer paused the channel.
    pub(super) paused: bool,
    /// Whether the end has something to send that a rate limit holds back. It will be marked ready.
    pub(super) held: bool,
    /// The notice with which to close the channel once its end has nothing more to send.
    pub(super) closing: Option<Notice>,
}

/// The next message for the socket.
#[derive(Debug)]
pub(in crate::link) enum Outgoing {
    /// A control frame.
    Control(Bytes),
    /// The payload of a DATA frame, with its channel number.
    Data(u32, MessageBody),
}

/// The state of a channel after the payload of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextPayload {
    /// Another payload, at once.
    Follows,
    /// Nothing, until the end is marked ready.
    Nothing,
    /// A payload that a rate limit holds back until the end is marked ready.
    Held,
}

/// The channel that the scheduler serves next.
pub(super) struct ScheduledChannel {
    pub(super) channel: u32,
    pub(super) channel_end: Arc<dyn ChannelEnd>,
}

impl OutboxState {
    pub(super) fn has_work(&self) -> bool {
        self.end_request.is_some() || !(self.control.is_empty() && self.schedule.is_empty())
    }

    pub(super) fn remove(&mut self, channel: u32) -> Option<ChannelEntry> {
        let entry = self.channels.remove(&channel);
        self.schedule.remove(channel);
        self.transmitting.take_if(|of| *of == channel);
        self.shrink();
        self.wake_if_empty();
        entry
    }

    /// Shrinks the tables of a link that once had many more channels.
    pub(super) fn shrink(&mut self) {
        let kept = self
            .channels
            .len()
            .saturating_mul(SHRINK_FACTOR)
            .max(KEPT_CAPACITY);
        // The gap between the new capacity and this threshold prevents a resize on every change.
        if self.channels.capacity() <= kept.saturating_mul(SHRINK_FACTOR) {
            return;
        }
        self.channels.shrink_to(kept);
        self.schedule.shrink_to(kept);
    }

    pub(super) fn wake_if_empty(&mut self) {
        if self.channels.is_empty()
            && let Some(waker) = self.empty_waker.take()
        {
            waker.wake();
        }
    }

    pub(super) fn mark_ready(&mut self, channel: u32) {
        let Some(entry) = self.channels.get_mut(&channel) else {
            return;
        };
        entry.held = false;
        // A paused channel keeps the mark until RESUME, one in `transmit` until its turn ends.
        if mem::replace(&mut entry.ready, true)
            || entry.paused
            || self.transmitting == Some(channel)
        {
            return;
        }
        self.schedule.add(channel, QUANTUM);
    }

    /// Queues a control frame. Returns `false` if the link has ended or its peer leaves too many
    /// frames unread.
    pub(super) fn queue(&mut self, control: ControlFrame) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let queued = self.queued_control.saturating_add(control.cost());
        if queued > MAX_QUEUED_CONTROL + self.max_channels * CONTROL_PER_CHANNEL {
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

    /// Selects the channel to serve next.
    pub(super) fn next_channel(&mut self) -> Option<ScheduledChannel> {
        loop {
            let channel = self.schedule.next(QUANTUM)?.key;
            let entry = self.channels.get_mut(&channel);
            let Some(entry) = entry.filter(|entry| entry.ready && !entry.paused) else {
                // The next `mark_ready` or RESUME schedules the channel again.
                self.schedule.skip();
                continue;
            };
            self.transmitting = Some(channel);
            // Cleared before `transmit`, so a mark that is set during the call is not lost.
            entry.ready = false;
            entry.held = false;
            return Some(ScheduledChannel {
                channel,
                channel_end: entry.channel_end.clone(),
            });
        }
    }

    /// Ends the turn of a channel.
    pub(super) fn end_turn(&mut self, channel: u32, sent: usize, next: NextPayload) {
        // The channel end may have closed its channel during `transmit`, and the number may be open
        // again.
        if self.transmitting.take_if(|of| *of == channel).is_none() {
            return;
        }
        let Some(entry) = self.channels.get_mut(&channel) else {
            return;
        };
        // An empty payload uses no credit, so `More` with one must not continue the turn.
        entry.ready |= next == NextPayload::Follows && sent > 0;
        // The limit may have released the payload during `transmit`, with a mark that is not lost.
        entry.held = next == NextPayload::Held && !entry.ready;
        self.schedule.sent(sent, entry.ready);
    }

    /// Returns the notice of a draining channel that has nothing more to send. A payload that is
    /// held back must be sent first: CLOSE would overtake it.
    pub(super) fn drained(&self, channel: u32) -> Option<Notice> {
        let entry = self.channels.get(&channel)?;
        let is_transmitting = self.transmitting == Some(channel);
        entry
            .closing
            .clone()
            .filter(|_| !entry.ready && !entry.held && !is_transmitting)
    }
}

pub(super) fn close_message(channel: u32, notice: &Notice) -> Bytes {
    Frame::Close {
        channel,
        notice: notice.clone(),
    }
    .to_message()
}
