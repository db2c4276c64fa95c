//! Streams over one ordered channel of messages: the multiplexer of a tunnel, as a state machine without I/O.
//!
//! # Contract
//! The owner tells the mux what happens and when (`handle_*`, with `now`), and asks it what to do: [`Mux::poll_transmit`] for the next
//! message, [`Mux::poll_event`] for what the application should know, [`Mux::poll_timeout`] for when to call
//! [`Mux::handle_timeout`]. After any call all three may have something new. The mux never blocks, and knows neither sockets nor ciphers nor tasks.
//!
//! # Credit
//! Bytes are counted by offset. `window` owns what we grant, `stream` what we were granted; what we hold for slow applications is
//! `Σ (received − consumed)` over the streams, and equals what the tunnel's window counts (checked after each operation in debug builds).
//!
//! # What is kept
//! What was sent stays until the peer says it has it, so that it can be sent again on another channel.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod byte_queue;
mod error;
mod frame;
mod receive;
mod round_trip;
mod schedule;
#[cfg(test)]
mod simulation;
mod stream;
#[cfg(test)]
mod tests;
mod transmit;
mod varint;
mod window;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use self::{
    error::{MuxError, StreamError},
    frame::{ResetCode, StreamId},
    window::WindowSize,
};
use self::{
    frame::TunnelFrame,
    round_trip::RoundTrip,
    schedule::Schedule,
    stream::{End, Stream, Update},
    window::TunnelWindow,
};

/// What was received is acknowledged at the latest after this long (PROTOCOL 12), the value of QUIC (RFC 9000, section 18.2): the peer keeps it in memory until then.
const ACK_DELAY: Duration = Duration::from_millis(25);

/// What a stream may have written and not sent, in bytes: two messages, so that the link never waits for the application while a
/// short queue keeps what is sent next undecided.
const STREAM_UNSENT_MAX: u64 = 128 * 1024;

/// The same for the tunnel. Beyond it a stream may write only when it has nothing unsent, and only [`STREAM_RESERVE`].
const TUNNEL_UNSENT_MAX: u64 = 2 * 1024 * 1024;

/// What every stream may have unsent in any case, in bytes: a keystroke never waits for the memory of a bulk copy.
const STREAM_RESERVE: u64 = 16 * 1024;

/// Room under this many bytes is not offered: it would make small messages when the credit is nearly used up (the silly window of RFC 1122).
/// Credit comes back when a quarter of a window is consumed, so that windows from 4 KiB up cannot stall on it.
const WRITE_ROOM_MIN: u64 = 1024;

/// The largest `details` of OPEN, in bytes: well inside one message (PROTOCOL 9.2).
const DETAILS_MAX: usize = 4096;

/// What the peer may have opened beyond what it is permitted, before it can know of the resets: at least this many streams.
const REFUSED_MIN: usize = 1024;

/// Which end of the tunnel this is: it decides the numbers of its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its streams have even numbers.
    Client,
    /// Its streams have odd numbers.
    Server,
}

/// What this end of the tunnel grants and permits.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// The window of each stream.
    pub stream_window: WindowSize,
    /// The window of all streams together; its largest size bounds what is held for slow applications, and what is kept until the peer
    /// acknowledges it.
    pub tunnel_window: WindowSize,
    /// How many streams the peer may have open at a time; one more is reset with [`ResetCode::Limit`].
    pub streams_max: usize,
}

/// What the peer granted in its handshake.
#[derive(Debug, Clone, Copy)]
pub struct PeerGrant {
    /// What may be sent on each stream that is opened here, in bytes, before the peer grants more.
    pub stream_window: u64,
    /// The same for all streams together.
    pub tunnel_window: u64,
}

/// What the application should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream.
    Opened {
        /// Its number.
        stream: StreamId,
        /// What the peer says of it; JSON or empty.
        details: Bytes,
    },
    /// [`Mux::read`] has something new; told once after it had nothing.
    Readable(StreamId),
    /// [`Mux::write_room`] is no longer 0, or [`Mux::is_delivered`] may be true; told once after they were not, or the stream was reset.
    Writable(StreamId),
    /// The peer gave the stream up; told even when nobody waits for the stream.
    Reset(StreamId),
}

/// What [`Mux::read`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next bytes.
    Data(Bytes),
    /// Nothing now; an [`Event::Readable`] will follow.
    Wait,
    /// The peer finished this direction, and everything was read.
    End,
}

/// A frame that waits to be sent, in order, ahead of all data.
#[derive(Debug)]
enum Control {
    Open { stream: StreamId, window: u64, details: Bytes },
    End(StreamId),
}

/// What all streams have written, in bytes.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// And not sent.
    unsent: u64,
    /// And the peer has not acknowledged.
    kept: u64,
    /// What may be kept, whatever the peer grants: it need not acknowledge what it takes. Beyond it a stream may write only when nothing of
    /// it is kept, and only [`STREAM_RESERVE`].
    kept_max: u64,
}

/// One end of a tunnel's multiplexer. See the module's documentation for the contract.
#[derive(Debug)]
pub struct Mux {
    parameters: Parameters,
    streams: HashMap<StreamId, Stream>,
    /// How many of them the peer opened.
    peer_streams: usize,
    /// The next number to open here, and the next that the peer will open.
    next_local: u64,
    next_peer: u64,
    grant: PeerGrant,
    /// The sum of all first sendings, and the peer's limit for it.
    tunnel_sent: u64,
    tunnel_limit: u64,
    load: Load,
    window: TunnelWindow,
    round_trip: RoundTrip,
    schedule: Schedule,
    control: VecDeque<Control>,
    /// The token of the last PING that is not answered: earlier ones need no answer, so that a flood of them takes no memory.
    pong: Option<u64>,
    /// Streams whose update is due with the next message, and those whose update waits for the deadline.
    due: VecDeque<StreamId>,
    pending: Vec<StreamId>,
    deadline: Option<Instant>,
    events: VecDeque<Event>,
}

impl Mux {
    /// A mux whose handshake has told both sides' grants.
    #[must_use]
    pub fn new(side: Side, parameters: Parameters, grant: PeerGrant, now: Instant) -> Self {
        let (next_local, next_peer) = match side {
            Side::Client => (0, 1),
            Side::Server => (1, 0),
        };
        Mux {
            parameters,
            streams: HashMap::new(),
            peer_streams: 0,
            next_local,
            next_peer,
            grant,
            tunnel_sent: 0,
            tunnel_limit: grant.tunnel_window,
            load: Load { unsent: 0, kept: 0, kept_max: parameters.tunnel_window.max },
            window: TunnelWindow::new(parameters.tunnel_window),
            round_trip: RoundTrip::new(now),
            schedule: Schedule::default(),
            control: VecDeque::new(),
            pong: None,
            due: VecDeque::new(),
            pending: Vec::new(),
            deadline: None,
            events: VecDeque::new(),
        }
    }

    /// Opens a stream. Its first bytes can be written at once: they travel with the opening. `details` beyond a few KiB are cut.
    pub fn open(&mut self, mut details: Bytes) -> StreamId {
        let stream = StreamId(self.next_local);
        self.next_local = self.next_local.saturating_add(2);
        details.truncate(DETAILS_MAX);
        let window = self.parameters.stream_window;
        self.streams.insert(stream, Stream::new(window, self.grant.stream_window, false));
        self.control.push_back(Control::Open { stream, window: window.initial, details });
        stream
    }

    /// How many bytes [`Mux::write`] takes now. 0 means to wait for [`Event::Writable`].
    ///
    /// # Errors
    /// When the stream was reset or finished, or is unknown.
    pub fn write_room(&mut self, id: StreamId) -> Result<usize, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        if stream.send.end().is_some() {
            return Err(StreamError::Finished);
        }
        let room = room(stream, self.load);
        stream.wants_write = room == 0;
        Ok(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Takes bytes to be sent, within [`Mux::write_room`]; what exceeds the peer's credit is refused whole.
    ///
    /// # Errors
    /// When the stream was reset or finished, or is unknown, or has no credit for so much.
    pub fn write(&mut self, id: StreamId, bytes: Bytes) -> Result<(), StreamError> {
        self.write_room(id)?;
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        let length = bytes.len() as u64;
        if length > stream.send.credit() {
            return Err(StreamError::NoCredit);
        }
        if length > 0 {
            stream.send.write(bytes);
            self.load.unsent = self.load.unsent.saturating_add(length);
            self.load.kept = self.load.kept.saturating_add(length);
            self.schedule.add(id);
        }
        self.check();
        Ok(())
    }

    /// Ends this direction after what was written: a half-close. No effect when it has ended already.
    pub fn finish(&mut self, id: StreamId) {
        self.end(id, End::Fin);
    }

    /// Whether the peer has everything that was written, the end included. When not, an [`Event::Writable`] will say when to ask again.
    ///
    /// # Errors
    /// When the stream was reset, or is unknown.
    pub fn is_delivered(&mut self, id: StreamId) -> Result<bool, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        let delivered = stream.send.is_end_acknowledged();
        stream.wants_write |= !delivered;
        Ok(delivered)
    }

    /// Gives the stream up in both directions: what was not sent is dropped, and what comes is discarded.
    pub fn reset(&mut self, now: Instant, id: StreamId, code: ResetCode) {
        self.discard(now, id);
        self.end(id, End::Reset(code));
    }

    /// The next bytes from the peer. Each piece must be given back with [`Mux::consume`] when the application has it.
    ///
    /// # Errors
    /// When the stream was reset by the peer or here, or is unknown.
    pub fn read(&mut self, id: StreamId) -> Result<Read, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        match (stream.receive.end(), stream.receive.take()) {
            (_, Some(bytes)) => Ok(Read::Data(bytes)),
            (Some(_), None) => Ok(Read::End),
            (None, None) => {
                stream.wants_read = true;
                Ok(Read::Wait)
            }
        }
    }

    /// The application has `bytes` more of the stream: the peer gets credit for them.
    pub fn consume(&mut self, now: Instant, id: StreamId, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let bytes = (bytes as u64).min(stream.receive.held());
        let window_time = self.round_trip.window_time();
        self.window.release(now, bytes, window_time);
        let urgent = stream.receive.window().consume(now, bytes, window_time);
        if urgent && stream.receive.end().is_none() {
            self.update(now, id, Update::Due);
        }
        self.check();
    }

    /// The application has no more use for the stream. A direction that has not ended is reset; the rest goes on by itself.
    pub fn release(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.released = true;
        if stream.send.end().is_none() || stream.receive.end().is_none() {
            self.end(id, End::Reset(ResetCode::Cancelled));
        }
        self.discard(now, id);
        self.forget_if_over(id);
    }

    /// What the application should know next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Mux::handle_timeout`] is to be called, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time of [`Mux::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        self.deadline = None;
        for id in std::mem::take(&mut self.pending) {
            if let Some(stream) = self.streams.get_mut(&id)
                && stream.update == Update::Pending
            {
                stream.update = Update::Due;
                self.due.push_back(id);
            }
        }
    }

    /// How many streams there are, those included that only wait for their last acknowledgement.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes held for applications that have not taken them.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.window.held()
    }

    /// Why the stream was given up, if it was.
    #[must_use]
    pub fn reset_code(&self, id: StreamId) -> Option<ResetCode> {
        self.streams.get(&id).and_then(Stream::reset_code)
    }

    /// Decides the end of the sending direction.
    fn end(&mut self, id: StreamId, end: End) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.send.end().is_some() && end == End::Fin || matches!(stream.send.end(), Some(End::Reset(_))) {
            return;
        }
        let kept = stream.send.kept();
        self.load.unsent = self.load.unsent.saturating_sub(stream.send.finish(end));
        self.load.kept = self.load.kept.saturating_sub(kept.saturating_sub(stream.send.kept()));
        if stream.send.is_end_due() {
            self.control.push_back(Control::End(id));
        }
        if let End::Reset(_) = end {
            self.wake(id);
        }
        self.check();
    }

    /// Drops what waits for the application, and gives the credit back.
    fn discard(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.receive.discard();
        let held = stream.receive.held();
        let window_time = self.round_trip.window_time();
        self.window.release(now, held, window_time);
        stream.receive.window().consume(now, held, window_time);
        self.check();
    }

    /// Tells the application to look at the stream again.
    fn wake(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if std::mem::take(&mut stream.wants_read) {
            self.events.push_back(Event::Readable(id));
        }
        if std::mem::take(&mut stream.wants_write) {
            self.events.push_back(Event::Writable(id));
        }
    }

    /// Notes that the peer should hear what was received.
    fn update(&mut self, now: Instant, id: StreamId, update: Update) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match (stream.update, update) {
            (Update::None, Update::Pending) => {
                stream.update = Update::Pending;
                self.pending.push(id);
                self.deadline.get_or_insert_with(|| now.checked_add(ACK_DELAY).unwrap_or(now));
            }
            (Update::None | Update::Pending, Update::Due) => {
                stream.update = Update::Due;
                self.due.push_back(id);
            }
            _ => {}
        }
    }

    fn is_local(&self, id: StreamId) -> bool {
        id.0 % 2 == self.next_local % 2
    }

    fn forget_if_over(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Stream::is_over) {
            self.streams.remove(&id);
            if !self.is_local(id) {
                self.peer_streams = self.peer_streams.saturating_sub(1);
            }
            if self.streams.is_empty() {
                self.streams.shrink_to_fit();
            }
        }
    }

    /// What is held for applications is what the streams hold, and no stream was sent or has received beyond its credit.
    fn check(&self) {
        // With many streams the sum would take longer than the traffic.
        const STREAMS_CHECKED: usize = 64;
        if cfg!(debug_assertions) && self.streams.len() <= STREAMS_CHECKED {
            let held: u64 = self.streams.values().map(|stream| stream.receive.held()).sum();
            debug_assert_eq!(held, self.window.held(), "credit is conserved");
            let unsent: u64 = self.streams.values().map(|stream| stream.send.unsent()).sum();
            debug_assert_eq!(unsent, self.load.unsent, "what is unsent is counted");
            let kept: u64 = self.streams.values().map(|stream| stream.send.kept()).sum();
            debug_assert_eq!(kept, self.load.kept, "what is kept is counted");
            debug_assert!(self.tunnel_sent <= self.tunnel_limit, "nothing is sent beyond the tunnel's credit");
            debug_assert!(held <= self.window.max(), "memory is bounded by the largest window");
        }
    }
}

/// How many bytes the application may write to `stream` now.
fn room(stream: &Stream, load: Load) -> u64 {
    let unsent = stream.send.unsent();
    let buffer = if load.kept >= load.kept_max {
        STREAM_RESERVE.saturating_sub(stream.send.kept())
    } else if load.unsent < TUNNEL_UNSENT_MAX {
        STREAM_UNSENT_MAX.saturating_sub(unsent)
    } else if unsent == 0 {
        STREAM_RESERVE
    } else {
        0
    };
    let room = buffer.min(stream.send.credit());
    if room < WRITE_ROOM_MIN { 0 } else { room }
}
