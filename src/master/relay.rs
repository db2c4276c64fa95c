//! The circuit switch: a [`Circuit`] joins a channel of a client to a channel of a server, each end of it being a lane of its link. Knows
//! queues, channel numbers and links' outboxes; not what is carried, and nothing of streams.
//!
//! ```text
//!  [new] ──► calling: waits for a server ──► ringing: ATTACH was sent ──► talking: the server answered ──► over
//!              │                               │                                                            ▲
//!              └── hung up, lost, full, late ──┴────────────────────────────────────────────────────────────┘
//! ```
//!
//! Each link's task works its own lanes, and no call here waits. Locks are taken in this order: a circuit, then the registry or an outbox, then what a link
//! is charged to. A lane is never dropped under a circuit's lock, since its end locks the circuit.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    account::{Account, Budget, Short},
    admission::Seat,
    bucket::Bucket,
    limits::Limits,
    memory::Memory,
    queue::{Overflow, Queue},
    registry::{Attached, Exchange, LinkNumber, Next, Registry},
    unanswered::Ticket,
};
use crate::{
    frame::{AttachHeader, Code, Frame, Notice},
    id::Id,
    link::{
        Lane, Outbox, Transmit,
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

/// Handshakes of a client that may fail at servers before its link ends; one more in each [`FAILED_HANDSHAKE_REFILL`]. A client that is configured with a wrong
/// port key tries every 15 seconds.
const FAILED_HANDSHAKES: u32 = 20;

/// The time in which one more handshake may fail.
const FAILED_HANDSHAKE_REFILL: Duration = Duration::from_secs(1);

/// Attachments that are given up at a time because they are late.
const EXPIRED_AT_ONCE: usize = 1_000;

/// Links that give way to one attachment, at most: more than one only when the first held less than it takes.
const EVICTED_AT_ONCE: usize = 64;

/// How often it is looked whether attachments are late.
pub(super) const KEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// What all links of a master share.
#[derive(Debug)]
pub(super) struct Switch {
    registry: Mutex<Registry<Arc<Line>, Arc<Circuit>>>,
    budget: Arc<Budget>,
}

/// Attachments whose turn has come.
type Turns = Next<Arc<Line>, Arc<Circuit>>;

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
    /// What it makes the master hold.
    account: Arc<Account>,
    /// Its place among the master's connections.
    seat: OnceLock<Seat>,
    /// Handshakes that may fail.
    failures: Mutex<Bucket>,
}

impl Line {
    /// The party that it belongs to.
    pub(super) fn party(&self) -> std::net::IpAddr {
        self.account.party()
    }

    /// Whether it has shown a key, its own or a tunnel's.
    pub(super) fn is_proven(&self) -> bool {
        self.account.is_proven()
    }

    /// It has this place.
    pub(super) fn is_seated(&self, seat: Seat) {
        let _ = self.seat.set(seat);
    }

    /// A server has answered it.
    fn attached(&self) {
        self.account.leave_strangers();
        self.seat.get().inspect(|seat| seat.attached());
    }

    /// A handshake of it failed at a server: it holds another port key, or none. Who makes that happen again and again loses the link.
    fn handshake_failed(&self) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = failures.take(
            now(),
            FAILED_HANDSHAKE_REFILL,
            FAILED_HANDSHAKE_REFILL * (FAILED_HANDSHAKES + 1),
        );
        drop(failures);
        if debt > FAILED_HANDSHAKE_REFILL * FAILED_HANDSHAKES {
            self.outbox.end(Notice::new(
                Code::Limit,
                "too many handshakes of this link failed at servers; compare `port_key`",
            ));
        }
    }
}

/// The time, by the clock that tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Switch {
    /// Nobody is linked.
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Switch {
            registry: Mutex::new(Registry::new(limits)),
            budget: Arc::new(Budget::new(limits.memory_bytes)),
        })
    }

    /// A line over a new outbox, whose memory is charged to the budget.
    pub(super) fn line(
        &self,
        number: LinkNumber,
        party: std::net::IpAddr,
        is_proven: bool,
    ) -> Arc<Line> {
        let account = Account::new(&self.budget, party, number, is_proven);
        Arc::new(Line {
            number,
            outbox: Outbox::charged_to(Arc::clone(&account) as Arc<dyn crate::link::Ledger>),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            account,
            seat: OnceLock::new(),
            failures: Mutex::new(Bucket::full(now())),
        })
    }

    /// The tables. Held only for a look or a change, and never while a circuit is locked afterwards.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry<Arc<Line>, Arc<Circuit>>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that channels and links take now.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    /// Gives up attachments that are late, and what strangers hold beyond what they may, until it is dropped.
    ///
    /// # Cancel safety
    /// Safe: everything is done between two waits.
    pub(super) async fn keep(&self) {
        let mut interval = tokio::time::interval(KEEPING_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => self.expire(),
                () = self.budget.overdrawn.notified() => {}
            }
            while self.budget.to_evict().is_some_and(|link| self.evict(link)) {}
        }
    }

    fn expire(&self) {
        let (expired, next) = self.registry().expire(now(), EXPIRED_AT_ONCE);
        for late in expired {
            let (code, reason) = match late.was_pending {
                true => (Code::Refused, "the server did not answer"),
                false => (Code::Timeout, "no server came"),
            };
            late.attach.give_up(&Notice::new(code, reason));
        }
        self.lead(next);
    }

    /// A link gives way: its oldest attachment, or the link itself when it holds something else as a stranger. Says whether something was given up.
    fn evict(&self, link: LinkNumber) -> bool {
        let attach = self.registry().oldest_of(link);
        if let Some(circuit) = attach {
            circuit.give_up(&Notice::new(
                Code::Overflow,
                "others wait that hold less of the master's memory",
            ));
            return true;
        }
        let line = self.registry().handle(link);
        let Some(line) = line.filter(|line| line.account.leave_strangers() > 0) else {
            return false;
        };
        line.outbox.end(Notice::new(
            Code::Limit,
            "this link holds more of the master's memory than others that have no tunnel",
        ));
        true
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
            return Err(Notice::new(
                Code::Protocol,
                format!("a first handshake message of {} bytes", message.len()),
            ));
        }
        let cost = CIRCUIT_COST + message.len();
        if !self.make_room(client, cost) {
            let notice = Notice::new(Code::Overflow, Overflow::Memory.to_string());
            client.outbox.control(&Frame::Close { channel, notice });
            return Ok(());
        }
        let message = Bytes::copy_from_slice(&message);
        let state = State {
            phase: Phase::New(Box::new(Call { header, message })),
            charge: Charge::Stranger,
            ..State::default()
        };
        let circuit = Arc::new(Circuit {
            switch: Arc::clone(self),
            client: End {
                line: Arc::clone(client),
                channel,
            },
            cost,
            state: Mutex::new(state),
        });
        match client.outbox.open(channel, circuit.lane(Side::Client)) {
            Ok(()) => circuit.dial(),
            Err(OpenError::InUse(_)) => {
                return Err(Notice::new(
                    Code::Protocol,
                    format!("ATTACH to channel {channel}, which is in use"),
                ));
            }
            Err(OpenError::Ended(_)) => {}
        }
        Ok(())
    }

    /// Takes `cost` for an attachment of this client. Others that hold more give way.
    fn make_room(&self, client: &Line, cost: usize) -> bool {
        for _ in 0..EVICTED_AT_ONCE {
            match self.budget.take(client.party(), client.number, cost) {
                Ok(()) => return true,
                Err(Short::Refused) => return false,
                Err(Short::Evict(link)) if self.evict(link) => {}
                Err(Short::Evict(_)) => return false,
            }
        }
        false
    }

    /// Leads those on whose turn has come. What that ends makes room for others.
    pub(super) fn lead(&self, next: Turns) {
        let mut waiting = vec![next];
        while let Some(Next { connected, full }) = waiting.pop() {
            full.iter()
                .for_each(|circuit| circuit.turn_away(&too_many_channels()));
            waiting.extend(
                connected
                    .into_iter()
                    .filter_map(|(circuit, exchange)| circuit.put_through(exchange)),
            );
        }
    }

    /// A server registers key ids (PROTOCOL 5.1). Called from its link's task.
    pub(super) fn register(&self, server: &Line, ports: &[Id]) -> Vec<Id> {
        let registered = self.registry().register(server.number, ports, now());
        self.lead(registered.next);
        registered.standing
    }

    /// An attachment without an answer is over.
    fn cancel(&self, ticket: Ticket) {
        let (_, next) = self.registry().cancel(ticket, now());
        self.lead(next);
    }

    fn memory(&self) -> &Memory {
        &self.budget.proven
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
    /// What it takes of the budget while it stands.
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
    charge: Charge,
    toward_client: Queue,
    toward_server: Queue,
}

/// What the circuit's cost is charged to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Charge {
    #[default]
    Nobody,
    /// The client's link, among those without a proof.
    Stranger,
    Proven,
}

#[derive(Default)]
enum Phase {
    /// Not announced to the registry.
    New(Box<Call>),
    /// Waits for a server.
    Calling(Box<Call>, Ticket),
    /// A server has it and has not answered.
    Ringing(Ticket),
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
        Arc::new(CircuitLane {
            circuit: Arc::clone(self),
            side,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for a server, or waits for one. The client's lane is open.
    fn dial(self: &Arc<Self>) {
        let mut state = self.state();
        let Phase::New(call) = std::mem::take(&mut state.phase) else {
            return;
        };
        let (client, bytes, circuit) = (
            self.client.line.number,
            call.message.len(),
            Arc::clone(self),
        );
        // Under the circuit's lock, so that whoever leads it on in the meantime finds the ticket written down.
        let attached = self
            .switch
            .registry()
            .attach(client, &call.header, bytes, now(), circuit);
        match attached {
            Attached::Waiting(ticket) => {
                state.counted = true;
                state.phase = Phase::Calling(call, ticket);
            }
            Attached::Connected(exchange) => {
                state.counted = true;
                state.phase = Phase::Calling(call, exchange.ticket);
                drop(state);
                if let Some(next) = self.put_through(exchange) {
                    self.switch.lead(next);
                }
            }
            Attached::Full => {
                drop(state);
                self.turn_away(&too_many_channels());
            }
        }
    }

    /// Joins it to the channel that the registry has counted at a server. Answers who has room there now when that comes to nothing.
    fn put_through(self: &Arc<Self>, exchange: Exchange<Arc<Line>>) -> Option<Turns> {
        let Exchange {
            server,
            handle: line,
            channel,
            ticket,
            is_half_used,
        } = exchange;
        if is_half_used {
            line.outbox.control(&Frame::GoAway(Notice::new(
                Code::Limit,
                "half of the channel numbers of this link are used up",
            )));
        }
        if line.outbox.control_waiting_bytes() > SERVER_BACKLOG {
            let mut registry = self.switch.registry();
            registry.release(server);
            let (_, next) = registry.cancel(ticket, now());
            drop(registry);
            self.turn_away(&Notice::new(
                Code::Refused,
                "the server does not keep up with new channels",
            ));
            return Some(next);
        }
        // The lane is there before the server hears of it; its drop gives the channel back to the registry.
        let opened = line
            .outbox
            .open(channel, self.lane_of_server(&line, channel));
        if opened.is_err() {
            return self.dial_again(&line, ticket);
        }
        let mut state = self.state();
        match std::mem::take(&mut state.phase) {
            Phase::Calling(call, ticket) => {
                state.phase = Phase::Ringing(ticket);
                let Call {
                    mut header,
                    message,
                } = *call;
                // It concerns the choice of the server alone.
                header.avoid.clear();
                // Under the lock, so that a CLOSE of the client comes behind it.
                line.outbox.control(&Frame::Attach {
                    channel,
                    header,
                    message,
                });
                None
            }
            over => {
                state.phase = over;
                drop(state);
                // The client hung up in the meantime. The server never heard of the channel, and ignores this.
                line.outbox
                    .close(channel, &Notice::new(Code::Cancelled, "the client hung up"));
                let (_, next) = self.switch.registry().cancel(ticket, now());
                Some(next)
            }
        }
    }

    fn lane_of_server(self: &Arc<Self>, line: &Arc<Line>, channel: u32) -> Arc<dyn Lane> {
        self.state().server = Some(End {
            line: Arc::clone(line),
            channel,
        });
        self.lane(Side::Server)
    }

    /// The server's link had ended when it was to be put through: that one serves nothing any more, and it looks for another.
    fn dial_again(self: &Arc<Self>, ended: &Line, ticket: Ticket) -> Option<Turns> {
        let mut registry = self.switch.registry();
        registry.withdraw_all(ended.number);
        let (_, next) = registry.cancel(ticket, now());
        drop(registry);
        let mut state = self.state();
        state.server = None;
        match std::mem::take(&mut state.phase) {
            Phase::Calling(call, _) => {
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
        Some(next)
    }

    /// It is not put through: the client is told why.
    fn turn_away(&self, notice: &Notice) {
        let mut state = self.state();
        state.phase = Phase::Over;
        self.recharge(&mut state, Charge::Nobody);
        drop(state);
        self.client.line.outbox.close(self.client.channel, notice);
    }

    /// It has no answer, and gets none: both ends are told.
    fn give_up(&self, notice: &Notice) {
        let mut state = self.state();
        let ticket = match std::mem::take(&mut state.phase) {
            Phase::Calling(_, ticket) | Phase::Ringing(ticket) => ticket,
            other => return state.phase = other,
        };
        self.recharge(&mut state, Charge::Nobody);
        let server = state.server.clone();
        drop(state);
        self.client.line.outbox.close(self.client.channel, notice);
        if let Some(End { line, channel }) = server {
            line.outbox.close(
                channel,
                &Notice::new(Code::Cancelled, "the answer took too long"),
            );
        }
        self.switch.cancel(ticket);
    }

    /// The server has answered: it holds the port key, and so does the client that made the offer.
    fn answered(&self, ticket: Ticket) {
        self.client.line.attached();
        let next = self.switch.registry().answered(ticket, now());
        self.switch.lead(next);
    }

    fn recharge(&self, state: &mut State, charge: Charge) {
        let (budget, line) = (&self.switch.budget, &self.client.line);
        match std::mem::replace(&mut state.charge, charge) {
            Charge::Nobody => {}
            Charge::Stranger => budget.give_back(line.party(), line.number, self.cost),
            Charge::Proven => budget.proven.give_back(self.cost),
        }
        if charge == Charge::Proven {
            budget.proven.charge(self.cost);
        }
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
        if let (Phase::Ringing(ticket), Side::Server) = (&state.phase, side) {
            let ticket = *ticket;
            state.phase = Phase::Talking;
            self.recharge(&mut state, Charge::Proven);
            drop(state);
            self.answered(ticket);
            state = self.state();
        }
        match (&state.phase, side) {
            (Phase::Talking, _) => {}
            (Phase::Over, _) => return Ok(()),
            (Phase::New(_) | Phase::Calling(..) | Phase::Ringing(_), _) => {
                drop(state);
                return Err(self.break_off(
                    side,
                    Notice::new(Code::Protocol, "DATA before the channel was answered"),
                ));
            }
        }
        let Some(server) = state.server.clone() else {
            return Ok(());
        };
        let (from, to, queue) = match side {
            Side::Client => (&self.client, &server, &mut state.toward_server),
            Side::Server => (&server, &self.client, &mut state.toward_client),
        };
        match queue.push(payload, self.switch.memory()) {
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
                queue.discard(self.switch.memory());
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
        let Some(popped) = queue.pop(self.switch.memory()) else {
            return Transmit::Nothing;
        };
        let server = state.server.as_ref();
        let ends = match side {
            Side::Client => server.map(|server| (server, &self.client)),
            Side::Server => server.map(|server| (&self.client, server)),
        };
        if let Some((from, to)) = ends {
            to.line
                .sent_bytes
                .fetch_add(popped.message.len() as u64, Relaxed);
            if popped.resume && !matches!(state.phase, Phase::Over) {
                from.line.outbox.control(&Frame::Resume(from.channel));
            }
        }
        drop(state);
        let payload = Body::Shared(popped.message);
        if popped.last {
            Transmit::Last(payload)
        } else {
            Transmit::More(payload)
        }
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
        if state.charge == Charge::Stranger {
            self.recharge(&mut state, Charge::Nobody);
        }
        drop(state);
        match phase {
            Phase::Over => return None,
            Phase::Calling(_, ticket) | Phase::Ringing(ticket) => self.switch.cancel(ticket),
            Phase::New(_) | Phase::Talking => {}
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
            Side::Client => state.toward_client.discard(self.switch.memory()),
            Side::Server => state.toward_server.discard(self.switch.memory()),
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
        let mut state =
            std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.recharge(&mut state, Charge::Nobody);
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Circuit")
            .field("client", &self.client.line.number)
            .finish_non_exhaustive()
    }
}

fn too_many_channels() -> Notice {
    Notice::new(
        Code::Limit,
        "this client, or every server of the port, has as many channels as the master allows",
    )
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
        if self.side == Side::Server
            && notice.code == Code::Handshake
            && matches!(self.circuit.state().phase, Phase::Ringing(_))
        {
            self.circuit.client.line.handshake_failed();
        }
        let ended = self
            .circuit
            .end(self.side)
            .is_some_and(|end| end.line.outbox.ended().is_some());
        let notice = if ended {
            Notice::new(Code::PeerLost, "the link at the other side ended")
        } else {
            notice
        };
        self.circuit.hang_up(self.side, &notice);
    }
}

impl Drop for CircuitLane {
    fn drop(&mut self) {
        self.circuit.leave(self.side);
    }
}
