//! Streams over one ordered channel of messages: the multiplexer of a tunnel, as a state machine without I/O.
//!
//! # Contract
//! The owner tells the mux what happens and when (`handle_*`, with `now`), and asks it what to do: [`Mux::poll_transmit`] for the next
//! message, [`Mux::poll_event`] for what the application should know, [`Mux::poll_timeout`] for when to call
//! [`Mux::handle_timeout`]. After any call all three may have something new. The mux never blocks, and knows neither sockets nor ciphers nor tasks.
//!
//! # Credit
//! Bytes are counted by offset. `window` owns what we grant, `credit` how the streams share it, `stream` what we were granted; what we hold for slow
//! applications is `Σ (received − consumed)` over the streams, and equals what the tunnel's window counts (checked after each operation in debug builds).
//!
//! # What is kept
//! What was sent stays until the peer says it has it, so that it can be sent again on another channel. The owner says when one channel takes the place
//! of another ([`Mux::write_resume`], [`Mux::resume`]); while there is none, it does not ask for messages, and the rest goes on.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod application;
mod best_rate;
mod budget;
mod byte_queue;
mod company;
mod credit;
mod delivery;
mod error;
mod frame;
mod load;
#[cfg(test)]
mod malice_tests;
mod opening;
#[cfg(test)]
mod path_tests;
mod receive;
mod resume;
#[cfg(test)]
mod resume_tests;
mod round_trip;
mod schedule;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stalled_tests;
mod stream;
#[cfg(test)]
mod tests;
mod transmit;
mod updates;
mod varint;
mod window;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use self::{
    budget::Account,
    credit::CreditPool,
    frame::TunnelFrame,
    load::Load,
    resume::{Closing, Resumption},
    round_trip::RoundTrip,
    schedule::Schedule,
    stream::{Stream, Update},
    updates::Updates,
    window::TunnelWindow,
};
pub use self::{
    budget::Budget,
    error::{MuxError, StreamError},
    frame::{MOVE, MOVED, ResetCode, StreamId},
    load::PIECE_MAX,
    window::WindowSize,
};
use crate::map::Map;

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
    /// [`Mux::write_room`] is no longer 0 and worth a wake-up, or [`Mux::is_delivered`] may be true; told once after they were not, or the stream was reset.
    Writable(StreamId),
    /// The peer gave the stream up; told even when nobody waits for the stream.
    Reset(StreamId),
    /// After [`Mux::resume`], the peer has said what it received: the flow goes on.
    Resumed {
        /// How many streams there are.
        streams: usize,
        /// How many bytes are sent again.
        again_bytes: u64,
    },
    /// The peer ended the tunnel.
    Closed(ResetCode),
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

/// One end of a tunnel's multiplexer. See the module's documentation for the contract.
#[derive(Debug)]
pub struct Mux {
    parameters: Parameters,
    streams: Map<StreamId, Stream>,
    /// How many of them the peer opened.
    peer_streams: usize,
    /// The next number to open here, the next whose OPEN will leave for the first time, and the next that the peer will open.
    next_local: u64,
    next_announced: u64,
    next_peer: u64,
    grant: PeerGrant,
    /// The sum of all first sendings, and the peer's limit for it.
    tunnel_sent: u64,
    tunnel_limit: u64,
    load: Load,
    window: TunnelWindow,
    credit: CreditPool,
    account: Account,
    round_trip: RoundTrip,
    schedule: Schedule,
    /// Streams that the tunnel's credit keeps out of the schedule, so that they do not stand before bytes that are sent again without it.
    parked: BTreeSet<StreamId>,
    /// Streams that move little and have written beside others: they may use the last of the credit.
    little: BTreeSet<StreamId>,
    /// Streams whose OPEN is to leave, in the order of their numbers, and then those whose FIN or RESET waits for nothing else: both go
    /// ahead of all data.
    opens: VecDeque<StreamId>,
    ends: VecDeque<StreamId>,
    /// The token of the last PING that is not answered: earlier ones need no answer, so that a flood of them takes no memory.
    pong: Option<u64>,
    updates: Updates,
    events: VecDeque<Event>,
    resumption: Resumption,
    closing: Closing,
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
            streams: Map::default(),
            peer_streams: 0,
            next_local,
            next_announced: next_local,
            next_peer,
            grant,
            tunnel_sent: 0,
            tunnel_limit: grant.tunnel_window,
            load: Load::new(parameters.tunnel_window.max),
            window: TunnelWindow::new(now, parameters.tunnel_window),
            credit: CreditPool::new(parameters.tunnel_window.max),
            account: Account::default(),
            round_trip: RoundTrip::default(),
            schedule: Schedule::default(),
            parked: BTreeSet::new(),
            little: BTreeSet::new(),
            opens: VecDeque::new(),
            ends: VecDeque::new(),
            pong: None,
            updates: Updates::default(),
            events: VecDeque::new(),
            resumption: Resumption::default(),
            closing: Closing::default(),
        }
    }

    /// The same, whose memory is charged to what all tunnels of a process share.
    #[must_use]
    pub fn charged_to(mut self, budget: Arc<Budget>) -> Self {
        self.account = Account::of(budget);
        self
    }

    /// What the application should know next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Mux::handle_timeout`] is to be called, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.updates.deadline()
    }

    /// The time of [`Mux::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for id in self.updates.expire(now) {
            if self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.update == Update::Pending)
            {
                self.update_at_once(id);
            }
        }
    }

    /// How many streams there are, those included that only wait for their last acknowledgement.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that applications have written and that are to be sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> u64 {
        self.load.unsent
    }

    /// Bytes held for applications that have not taken them.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.window.held()
    }

    /// Drops what waits for the application, and gives the credit back.
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
        self.settle();
    }

    /// Tells the application to look at the stream again.
    fn wake(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut stream.wants_read) {
            self.events.push_back(Event::Readable(id));
        }
        if std::mem::take(&mut stream.wants_write) {
            self.events.push_back(Event::Writable(id));
        }
    }

    /// The peer should hear what was received, with the next message.
    fn update_at_once(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.update != Update::Due
        {
            stream.update = Update::Due;
            self.updates.due.push_back(id);
        }
    }

    /// The peer should hear what was received, in a while. Says whether it will only then.
    fn update_in_a_while(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        if stream.update == Update::None {
            stream.update = Update::Pending;
            self.updates.defer(id);
        }
        stream.update == Update::Pending
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

    /// Ends each change: tells the process's budget what is held now.
    fn settle(&mut self) {
        let floors = self
            .parameters
            .stream_window
            .initial
            .saturating_mul(self.streams.len() as u64);
        let room = self.account.settle(
            floors
                .saturating_add(self.credit.lent())
                .saturating_add(self.load.kept),
        );
        self.credit.limit_to(room);
        self.load.limit_to(room);
        self.check();
    }

    /// What is held for applications is what the streams hold, and no stream was sent or has received beyond its credit.
    fn check(&self) {
        // With many streams the sum would take longer than the traffic.
        const STREAMS_CHECKED: usize = 64;
        if cfg!(debug_assertions) && self.streams.len() <= STREAMS_CHECKED {
            let held: u64 = self
                .streams
                .values()
                .map(|stream| stream.receive.held())
                .sum();
            debug_assert_eq!(held, self.window.held(), "credit is conserved");
            debug_assert!(
                self.load.is_sum_of(self.streams.values()),
                "what is unsent and kept is counted"
            );
            debug_assert!(
                self.tunnel_sent <= self.tunnel_limit,
                "nothing is sent beyond the tunnel's credit"
            );
            debug_assert!(
                self.credit
                    .is_sum_of(self.streams.values().map(|stream| &stream.receive)),
                "loans are counted, and bounded"
            );
            let floors = self
                .parameters
                .stream_window
                .initial
                .saturating_mul(self.streams.len() as u64);
            debug_assert!(
                held <= self.parameters.tunnel_window.max.saturating_add(floors),
                "memory is bounded by the pool and the floors"
            );
        }
    }
}
