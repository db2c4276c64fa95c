//! The circuit switch: a [`Circuit`] joins a channel of a client to a channel of a server, each end of it being a lane of its link. Knows
//! queues, channel numbers and links' outboxes; not what is carried, and nothing of streams.
//!
//! ```text
//!  [new] ──► calling: waits for a server ──► ringing: ATTACH was sent ──► talking: the server answered ──► over
//!              │                               │                                                            ▲
//!              └── hung up, lost, full ────────┴────────────────────────────────────────────────────────────┘
//! ```
//!
//! Each link's task works its own lanes, and no call here waits. Locks are taken in this order: a circuit, then the registry or an outbox.
//! A lane is never dropped under a circuit's lock, since its end locks the circuit.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};

use super::{
    limits::Limits,
    memory::Memory,
    queue::{Overflow, Queue},
    registry::{Attached, Exchange, LinkNumber, Registry, Wait},
};
use crate::{
    frame::{AttachHeader, Code, Frame, Notice},
    id::Id,
    link::{
        Lane, Ledger, Outbox, Transmit,
        channel::{Body, OpenError},
    },
};

/// The longest first handshake message that an ATTACH may carry: the offer of PROTOCOL 7.2 takes a few hundred bytes, and a message that
/// waits for a server takes memory.
pub(super) const MAX_FIRST_MESSAGE: usize = 4 * 1024;

/// What a circuit takes of the budget while it stands, beside its first message: its own memory and that of its lanes, rounded up.
const CIRCUIT_COST: usize = 1024;

/// Control frames that may wait for a server before no more channels are opened to it, in bytes: half of what its link bears. Whoever knows
/// a key id could otherwise end a server's link by opening and closing channels faster than it reads.
const SERVER_BACKLOG: usize = 512 * 1024;

/// What all links of a master share.
#[derive(Debug)]
pub(super) struct Switch {
    registry: Mutex<Registry<Arc<Line>, Arc<Circuit>>>,
    memory: Memory,
}

/// A link, as the switch sees it.
#[derive(Debug)]
pub(super) struct Line {
    /// The master's number of it.
    pub(super) number: LinkNumber,
    /// Its sending side.
    pub(super) outbox: Arc<Outbox>,
    /// Bytes of payload that came from it.
    pub(super) received_bytes: AtomicU64,
    /// Bytes of payload that went to it.
    pub(super) sent_bytes: AtomicU64,
}

impl Line {
    /// A line over this outbox.
    pub(super) fn new(number: LinkNumber, outbox: Arc<Outbox>) -> Arc<Self> {
        Arc::new(Line { number, outbox, received_bytes: AtomicU64::new(0), sent_bytes: AtomicU64::new(0) })
    }
}

impl Switch {
    /// Nobody is linked.
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Switch { registry: Mutex::new(Registry::new(limits)), memory: Memory::new(limits.memory_bytes) })
    }

    /// A line over a new outbox, whose memory is charged to the budget.
    pub(super) fn line(self: &Arc<Self>, number: LinkNumber) -> Arc<Line> {
        Line::new(number, Outbox::charged_to(Arc::clone(self) as Arc<dyn Ledger>))
    }

    /// The tables. Held only for a look or a change, and never while a circuit is locked afterwards.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry<Arc<Line>, Arc<Circuit>>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that channels take now.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.memory.used_bytes()
    }

    /// A client opens a channel (PROTOCOL 5.3). Called from its link's task.
    ///
    /// # Errors
    /// When the client broke the protocol: its link is to end.
    pub(super) fn attach(
        self: &Arc<Self>,
        client: &Arc<Line>,
        channel: u32,
        header: AttachHeader,
        message: Bytes,
    ) -> Result<(), Notice> {
        if message.len() > MAX_FIRST_MESSAGE {
            return Err(Notice::new(Code::Protocol, format!("a first handshake message of {} bytes", message.len())));
        }
        let cost = CIRCUIT_COST + message.len();
        if !self.memory.try_take(cost) {
            let notice = Notice::new(Code::Overflow, Overflow::Memory.to_string());
            client.outbox.control(&Frame::Close { channel, notice });
            return Ok(());
        }
        let message = Bytes::copy_from_slice(&message);
        let circuit = Arc::new(Circuit {
            switch: Arc::clone(self),
            client: End { line: Arc::clone(client), channel },
            cost,
            state: Mutex::new(State { phase: Phase::New(Box::new(Call { header, message })), ..State::default() }),
        });
        match client.outbox.open(channel, circuit.lane(Side::Client)) {
            Ok(()) => circuit.dial(),
            Err(OpenError::InUse(_)) => {
                return Err(Notice::new(Code::Protocol, format!("ATTACH to channel {channel}, which is in use")));
            }
            Err(OpenError::Ended(_)) => {}
        }
        Ok(())
    }

    /// A server registers key ids (PROTOCOL 5.1). Called from its link's task.
    pub(super) fn register(&self, server: &Line, ports: &[Id]) -> Vec<Id> {
        let registered = self.registry().register(server.number, ports);
        for (circuit, exchange) in registered.connected {
            circuit.put_through(exchange);
        }
        for circuit in registered.full {
            circuit.turn_away(&full());
        }
        registered.standing
    }
}

impl Ledger for Switch {
    fn charge(&self, bytes: usize) {
        self.memory.charge(bytes);
    }

    fn release(&self, bytes: usize) {
        self.memory.give_back(bytes);
    }
}

/// Which end of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// A channel of a link.
#[derive(Debug, Clone)]
struct End {
    line: Arc<Line>,
    channel: u32,
}

/// Two joined channels, or one that waits for its other.
pub(super) struct Circuit {
    switch: Arc<Switch>,
    client: End,
    /// What was taken of the budget for it.
    cost: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Where the server's lane is, once it has been opened; it may be gone again.
    server: Option<End>,
    /// Whether the registry counts the client's channel.
    counted: bool,
    toward_client: Queue,
    toward_server: Queue,
}

#[derive(Default)]
enum Phase {
    /// Not announced to the registry.
    New(Box<Call>),
    /// In the line of its key id.
    Calling(Box<Call>, Wait),
    /// A server has it and has not answered.
    Ringing,
    Talking,
    #[default]
    Over,
}

/// What is passed on to the server.
struct Call {
    header: AttachHeader,
    message: Bytes,
}

impl Circuit {
    fn lane(self: &Arc<Self>, side: Side) -> Arc<dyn Lane> {
        Arc::new(CircuitLane { circuit: Arc::clone(self), side })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for a server, or gets in line. The client's lane is open.
    fn dial(self: &Arc<Self>) {
        let mut state = self.state();
        let Phase::New(call) = std::mem::take(&mut state.phase) else { return };
        let AttachHeader { port, instance, avoid } = &call.header;
        // Under the circuit's lock, so that whoever puts it through meanwhile finds the place in the line written down.
        let attached = self.switch.registry().attach_avoiding(self.client.line.number, *port, *instance, avoid, Arc::clone(self));
        match attached {
            Attached::Waiting(wait) => {
                state.counted = true;
                state.phase = Phase::Calling(call, wait);
            }
            Attached::Connected(exchange) => {
                state.counted = true;
                state.phase = Phase::New(call);
                drop(state);
                self.put_through(exchange);
            }
            Attached::Full => {
                drop(state);
                self.turn_away(&full());
            }
        }
    }

    /// Joins it to the channel that the registry has counted at a server.
    fn put_through(self: &Arc<Self>, exchange: Exchange<Arc<Line>>) {
        let End { line, channel } = End { line: exchange.handle, channel: exchange.channel };
        if line.outbox.control_waiting_bytes() > SERVER_BACKLOG {
            self.switch.registry().release(exchange.server);
            return self.turn_away(&Notice::new(Code::Refused, "the server does not keep up with new channels"));
        }
        // The lane is there before the server hears of it; its drop gives the channel back to the registry.
        let opened = line.outbox.open(channel, self.lane_of_server(&line, channel));
        if opened.is_err() {
            return self.dial_again(&line);
        }
        let mut state = self.state();
        match std::mem::take(&mut state.phase) {
            Phase::New(call) | Phase::Calling(call, _) => {
                state.phase = Phase::Ringing;
                let Call { mut header, message } = *call;
                // It concerns the choice of the server alone.
                header.avoid.clear();
                // Under the lock, so that a CLOSE of the client comes behind it.
                line.outbox.control(&Frame::Attach { channel, header, message });
            }
            over => {
                state.phase = over;
                drop(state);
                // The client hung up meanwhile. The server never heard of the channel, and ignores this.
                line.outbox.close(channel, &Notice::new(Code::Cancelled, "the client hung up"));
            }
        }
    }

    fn lane_of_server(self: &Arc<Self>, line: &Arc<Line>, channel: u32) -> Arc<dyn Lane> {
        self.state().server = Some(End { line: Arc::clone(line), channel });
        self.lane(Side::Server)
    }

    /// The server's link had ended when it was to be put through: that one serves nothing any more, and it looks for another.
    fn dial_again(self: &Arc<Self>, ended: &Line) {
        self.switch.registry().withdraw_all(ended.number);
        let mut state = self.state();
        state.server = None;
        match std::mem::take(&mut state.phase) {
            Phase::New(call) | Phase::Calling(call, _) => {
                state.phase = Phase::New(call);
                // It is counted once more when it is dialled again.
                let counted = std::mem::take(&mut state.counted);
                drop(state);
                if counted {
                    self.switch.registry().release(self.client.line.number);
                }
                self.dial();
            }
            over => state.phase = over,
        }
    }

    /// It is not put through: the client is told why.
    fn turn_away(&self, notice: &Notice) {
        self.state().phase = Phase::Over;
        self.client.line.outbox.close(self.client.channel, notice);
    }

    fn end(&self, side: Side) -> Option<End> {
        match side {
            Side::Client => Some(self.client.clone()),
            Side::Server => self.state().server.clone(),
        }
    }

    /// A payload came from `side`.
    fn take(&self, side: Side, payload: Bytes) -> Result<(), Notice> {
        let length = payload.len() as u64;
        let mut state = self.state();
        match (&state.phase, side) {
            (Phase::Talking, _) => {}
            (Phase::Ringing, Side::Server) => state.phase = Phase::Talking,
            (Phase::Over, _) => return Ok(()),
            (Phase::New(_) | Phase::Calling(..) | Phase::Ringing, _) => {
                drop(state);
                return Err(self.break_off(side, Notice::new(Code::Protocol, "DATA before the channel was answered")));
            }
        }
        let Some(server) = state.server.clone() else { return Ok(()) };
        let (from, to, queue) = match side {
            Side::Client => (&self.client, &server, &mut state.toward_server),
            Side::Server => (&server, &self.client, &mut state.toward_client),
        };
        match queue.push(payload, &self.switch.memory) {
            Ok(pushed) => {
                from.line.received_bytes.fetch_add(length, Relaxed);
                if pushed.pause {
                    from.line.outbox.control(&Frame::Pause(from.channel));
                }
                drop(state);
                if pushed.first {
                    to.line.outbox.ready(to.channel);
                }
                Ok(())
            }
            Err(overflow) => {
                queue.discard(&self.switch.memory);
                drop(state);
                Err(self.break_off(side, Notice::new(Code::Overflow, overflow.to_string())))
            }
        }
    }

    /// The link toward `side` has room.
    fn give(&self, side: Side) -> Transmit {
        let mut state = self.state();
        let queue = match side {
            Side::Client => &mut state.toward_client,
            Side::Server => &mut state.toward_server,
        };
        let Some(popped) = queue.pop(&self.switch.memory) else { return Transmit::Nothing };
        let server = state.server.as_ref();
        let ends = match side {
            Side::Client => server.map(|server| (server, &self.client)),
            Side::Server => server.map(|server| (&self.client, server)),
        };
        if let Some((from, to)) = ends {
            to.line.sent_bytes.fetch_add(popped.message.len() as u64, Relaxed);
            if popped.resume && !matches!(state.phase, Phase::Over) {
                from.line.outbox.control(&Frame::Resume(from.channel));
            }
        }
        drop(state);
        let payload = Body::Shared(popped.message);
        if popped.last { Transmit::Last(payload) } else { Transmit::More(payload) }
    }

    /// `side` is closed, or its link has ended: the other hears of it behind what was queued for it.
    fn hang_up(&self, side: Side, notice: &Notice) {
        if let Some(other) = self.finish(side) {
            other.line.outbox.close_after_drain(other.channel, notice);
        }
    }

    /// The channel cannot go on for a fault at `side`: the other is closed at once. The notice is for both.
    fn break_off(&self, side: Side, notice: Notice) -> Notice {
        if let Some(other) = self.finish(side) {
            other.line.outbox.close(other.channel, &notice);
        }
        notice
    }

    /// Ends it on account of `side`, and answers the other end, if that is there and does not know.
    fn finish(&self, side: Side) -> Option<End> {
        let mut state = self.state();
        let server = state.server.clone();
        let phase = std::mem::take(&mut state.phase);
        drop(state);
        match phase {
            Phase::Over => return None,
            Phase::Calling(_, wait) => drop(self.switch.registry().cancel(wait)),
            Phase::New(_) | Phase::Ringing | Phase::Talking => {}
        }
        match side {
            Side::Client => server,
            Side::Server => Some(self.client.clone()),
        }
    }

    /// The lane of `side` is gone from its outbox: what waited for it is dropped, and its place at the link is free.
    fn leave(&self, side: Side) {
        let mut state = self.state();
        match side {
            Side::Client => state.toward_client.discard(&self.switch.memory),
            Side::Server => state.toward_server.discard(&self.switch.memory),
        }
        let number = match side {
            Side::Client => std::mem::take(&mut state.counted).then_some(self.client.line.number),
            Side::Server => state.server.as_ref().map(|server| server.line.number),
        };
        drop(state);
        if let Some(number) = number {
            self.switch.registry().release(number);
        }
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.switch.memory.give_back(self.cost);
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Circuit").field("client", &self.client.line.number).finish_non_exhaustive()
    }
}

fn full() -> Notice {
    Notice::new(Code::Limit, "this client, or every server of the port, has as many channels as the master allows")
}

/// One end of a circuit, at its link.
struct CircuitLane {
    circuit: Arc<Circuit>,
    side: Side,
}

impl Lane for CircuitLane {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        self.circuit.take(self.side, payload.freeze())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        self.circuit.give(self.side)
    }

    fn closed(&self, notice: Notice) {
        let ended = self.circuit.end(self.side).is_some_and(|end| end.line.outbox.ended().is_some());
        let notice = if ended { Notice::new(Code::PeerLost, "the link at the other side ended") } else { notice };
        self.circuit.hang_up(self.side, &notice);
    }
}

impl Drop for CircuitLane {
    fn drop(&mut self) {
        self.circuit.leave(self.side);
    }
}
