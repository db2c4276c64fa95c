//! The router. A [`ChannelPair`] splices a channel of a client to a channel of a server; each end
//! of the pair is a lane of its link. The router knows queues, channel numbers and link outboxes.
//! It never reads payloads and knows nothing of streams.
//!
//! ```text
//!  [new] ──► waiting for a server ──► pending: ATTACH sent ──► spliced: server answered ──► closed
//!              │                        │                                                     ▲
//!              └── closed, lost, full, timed out ─────────────────────────────────────────────┘
//! ```
//!
//! Each link's task drives the lanes of that link, and no call here blocks. Lock order: a channel
//! pair, then the registry or an outbox, then a link's memory account. Dropping a lane locks its
//! channel pair, so no lane is dropped while that lock is held.

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
    account::{LinkAccount, MasterBudget, ReserveError},
    admission::LinkSlot,
    attach_queue::Ticket,
    channel_queue::{ChannelQueue, Overflow},
    limits::MasterLimits,
    memory::Memory,
    registry::{Assignment, Dispatch, LinkNumber, Registry, RouteResult},
    token_bucket::TokenBucket,
};
use crate::{
    link::{Lane, Outbox, Transmit, channel::OpenError},
    net::websocket::MessageBody,
};
use report_proto::{
    frame::{AttachHeader, Code, Frame, Notice},
    id::Id,
};

/// The longest first handshake message in an ATTACH, in bytes. The offer of PROTOCOL 7.2 takes a
/// few hundred bytes, and a message that waits for a server takes memory.
pub(super) const MAX_FIRST_MESSAGE: usize = 4 * 1024;

/// The budget that a channel pair reserves in addition to its first message, in bytes: its own
/// memory and that of its lanes, rounded up.
const PAIR_COST: usize = 1024;

/// Queued control bytes of a server's link above which the router opens no more channels to it:
/// half of the link's limit. Without this bound, a client that knows a key id could open and close
/// channels faster than the server reads, and so end the server's link.
const MAX_CONTROL_BACKLOG: usize = 512 * 1024;

/// Failed handshakes at servers that a client's link may accumulate before it ends. The allowance
/// refills by one every [`FAILED_HANDSHAKE_REFILL`]. A client with a wrong port key tries every 15
/// seconds.
const FAILED_HANDSHAKES: u32 = 20;

/// The time in which the allowance refills by one failed handshake.
const FAILED_HANDSHAKE_REFILL: Duration = Duration::from_secs(1);

/// The most attach requests that one maintenance tick expires.
const MAX_EXPIRED_PER_TICK: usize = 1_000;

/// The most links evicted for one attach request. More than one is needed only when the first link
/// held less than the request needs.
const MAX_EVICTIONS: usize = 64;

/// The interval between checks for expired attach requests.
pub(super) const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The state that all links of a master share.
#[derive(Debug)]
pub(super) struct Router {
    registry: Mutex<Registry<Arc<LinkRef>, Arc<ChannelPair>>>,
    budget: Arc<MasterBudget>,
}

/// Waiting attach requests that the registry has assigned or rejected.
type RouterDispatch = Dispatch<Arc<LinkRef>, Arc<ChannelPair>>;

/// The router's view of a link.
#[derive(Debug)]
pub(super) struct LinkRef {
    /// The master's number for the link.
    pub(super) number: LinkNumber,
    /// The sending side of the link.
    pub(super) outbox: Arc<Outbox>,
    /// Payload bytes received from the link.
    pub(super) received_bytes: AtomicU64,
    /// Payload bytes sent to the link.
    pub(super) sent_bytes: AtomicU64,
    /// The memory account of the link.
    account: Arc<LinkAccount>,
    /// The link's slot among the master's connections.
    slot: OnceLock<LinkSlot>,
    /// The allowance of failed handshakes.
    failures: Mutex<TokenBucket>,
}

impl LinkRef {
    /// Returns the party that the link belongs to.
    pub(super) fn party(&self) -> std::net::IpAddr {
        self.account.party()
    }

    /// Whether the link has proven a key: the master key, or a port key through a tunnel.
    pub(super) fn is_proven(&self) -> bool {
        self.account.is_proven()
    }

    /// Stores the link's connection slot.
    pub(super) fn set_slot(&self, slot: LinkSlot) {
        let _ = self.slot.set(slot);
    }

    /// Records that a server has answered this link.
    fn mark_attached(&self) {
        self.account.mark_proven();
        self.slot.get().inspect(|slot| slot.mark_attached());
    }

    /// Records a handshake of this link that failed at a server: the client holds another port key,
    /// or none. Ends the link when that happens too often.
    fn on_handshake_failed(&self) {
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

/// Returns the current time of the tokio clock, which tests can pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Router {
    /// Creates a router without links.
    pub(super) fn new(limits: &MasterLimits) -> Arc<Self> {
        Arc::new(Router {
            registry: Mutex::new(Registry::new(limits)),
            budget: Arc::new(MasterBudget::new(limits.memory_bytes)),
        })
    }

    /// Creates a link reference with a new outbox, whose memory is charged to the budget.
    pub(super) fn new_link(
        &self,
        number: LinkNumber,
        party: std::net::IpAddr,
        is_proven: bool,
    ) -> Arc<LinkRef> {
        let account = LinkAccount::new(&self.budget, party, number, is_proven);
        Arc::new(LinkRef {
            number,
            outbox: Outbox::with_account(
                Arc::clone(&account) as Arc<dyn crate::link::MemoryAccount>
            ),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            account,
            slot: OnceLock::new(),
            failures: Mutex::new(TokenBucket::full(now())),
        })
    }

    /// Locks the registry. Callers hold the lock for one lookup or change, and never lock a channel
    /// pair while they hold it.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry<Arc<LinkRef>, Arc<ChannelPair>>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that channels and links hold now.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    /// Expires attach requests and evicts unproven links above their share, until the future is
    /// dropped.
    ///
    /// # Cancel safety
    /// Safe: the function completes all work between two awaits.
    pub(super) async fn run_maintenance(&self) {
        let mut interval = tokio::time::interval(MAINTENANCE_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => self.expire(),
                () = self.budget.over_quota.notified() => {}
            }
            while self
                .budget
                .link_over_quota()
                .is_some_and(|link| self.evict(link))
            {}
        }
    }

    fn expire(&self) {
        let (expired, dispatch) = self.registry().expire(now(), MAX_EXPIRED_PER_TICK);
        for late in expired {
            let (code, reason) = match late.was_pending {
                true => (Code::Refused, "the server did not answer"),
                false => (Code::Timeout, "no server registered this port in time"),
            };
            late.attach.abandon(&Notice::new(code, reason));
        }
        self.dispatch(dispatch);
    }

    /// Evicts the link's oldest attach request. If the link has none but holds other memory as an
    /// unproven link, ends the link. Returns whether anything was evicted.
    fn evict(&self, link: LinkNumber) -> bool {
        let attach = self.registry().oldest_of(link);
        if let Some(pair) = attach {
            pair.abandon(&Notice::new(
                Code::Overflow,
                "evicted for a link that holds less of the master's memory",
            ));
            return true;
        }
        let link = self.registry().handle(link);
        let Some(link) = link.filter(|link| link.account.mark_proven() > 0) else {
            return false;
        };
        link.outbox.end(Notice::new(
            Code::Limit,
            "this link holds more of the master's memory than other links without a tunnel",
        ));
        true
    }

    /// Opens a channel of a client (PROTOCOL 5.3). The link's task calls this.
    ///
    /// # Errors
    /// When the client violated the protocol; the caller must end its link.
    pub(super) fn attach(
        self: &Arc<Self>,
        client: &Arc<LinkRef>,
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
        let cost = PAIR_COST + message.len();
        if !self.reserve(client, cost) {
            let notice = Notice::new(Code::Overflow, Overflow::Memory.to_string());
            client.outbox.control(&Frame::Close { channel, notice });
            return Ok(());
        }
        // A copy, so that a waiting request does not keep the whole read buffer alive.
        let message = Bytes::copy_from_slice(&message);
        let state = PairState {
            phase: PairPhase::New(Box::new(PendingAttach { header, message })),
            charge: MemoryClass::Unproven,
            ..PairState::default()
        };
        let pair = Arc::new(ChannelPair {
            router: Arc::clone(self),
            client: ChannelEnd {
                link: Arc::clone(client),
                channel,
            },
            cost,
            state: Mutex::new(state),
        });
        match client.outbox.open(channel, pair.lane(PairSide::Client)) {
            Ok(()) => pair.find_server(),
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

    /// Reserves `cost` for an attach request of this client and evicts links that hold more.
    fn reserve(&self, client: &LinkRef, cost: usize) -> bool {
        for _ in 0..MAX_EVICTIONS {
            match self.budget.reserve(client.party(), client.number, cost) {
                Ok(()) => return true,
                Err(ReserveError::Refused) => return false,
                Err(ReserveError::Evict(link)) if self.evict(link) => {}
                Err(ReserveError::Evict(_)) => return false,
            }
        }
        false
    }

    /// Splices assigned attach requests and rejects the others. A failed splice can free room, so
    /// the loop also handles the requests that this room admits.
    pub(super) fn dispatch(&self, dispatch: RouterDispatch) {
        let mut waiting = vec![dispatch];
        while let Some(Dispatch { assigned, rejected }) = waiting.pop() {
            rejected
                .iter()
                .for_each(|pair| pair.reject(&too_many_channels()));
            waiting.extend(
                assigned
                    .into_iter()
                    .filter_map(|(pair, assignment)| pair.splice(assignment)),
            );
        }
    }

    /// Registers key ids of a server (PROTOCOL 5.1). The link's task calls this.
    pub(super) fn register(&self, server: &LinkRef, ports: &[Id]) -> Vec<Id> {
        let registered = self.registry().register(server.number, ports, now());
        self.dispatch(registered.dispatch);
        registered.accepted
    }

    /// Cancels an unanswered attach request.
    fn cancel(&self, ticket: Ticket) {
        let (_, dispatch) = self.registry().cancel(ticket, now());
        self.dispatch(dispatch);
    }

    fn memory(&self) -> &Memory {
        &self.budget.proven
    }
}

/// One side of a channel pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PairSide {
    Client,
    Server,
}

/// A channel of a link.
#[derive(Debug, Clone)]
struct ChannelEnd {
    link: Arc<LinkRef>,
    channel: u32,
}

/// Two spliced channels, or a client's channel that waits for a server.
pub(super) struct ChannelPair {
    router: Arc<Router>,
    client: ChannelEnd,
    /// The bytes of budget that the pair has reserved.
    cost: usize,
    state: Mutex<PairState>,
}

#[derive(Default)]
struct PairState {
    phase: PairPhase,
    /// The server's lane, once it has been opened. The lane may be closed again.
    server: Option<ChannelEnd>,
    /// Whether the registry counts the client's channel.
    counted: bool,
    charge: MemoryClass,
    toward_client: ChannelQueue,
    toward_server: ChannelQueue,
}

/// The part of the budget that carries the pair's cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum MemoryClass {
    #[default]
    Uncharged,
    /// The unproven part, on the account of the client's link.
    Unproven,
    Proven,
}

#[derive(Default)]
enum PairPhase {
    /// Not yet known to the registry.
    New(Box<PendingAttach>),
    /// Waits for a server.
    Waiting(Box<PendingAttach>, Ticket),
    /// Forwarded to a server that has not answered yet.
    Pending(Ticket),
    Spliced,
    #[default]
    Closed,
}

/// The attach request that the router forwards to the server.
struct PendingAttach {
    header: AttachHeader,
    message: Bytes,
}

impl ChannelPair {
    fn lane(self: &Arc<Self>, side: PairSide) -> Arc<dyn Lane> {
        Arc::new(PairLane {
            pair: Arc::clone(self),
            side,
        })
    }

    fn state(&self) -> MutexGuard<'_, PairState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the registry for a server, or waits for one. The client's lane must be open.
    fn find_server(self: &Arc<Self>) {
        let mut state = self.state();
        let PairPhase::New(attach) = std::mem::take(&mut state.phase) else {
            return;
        };
        let (client, bytes, pair) = (
            self.client.link.number,
            attach.message.len(),
            Arc::clone(self),
        );
        // Holds the pair's lock: a thread that dispatches this request in the meantime must find
        // the ticket in `phase`.
        let attached = self
            .router
            .registry()
            .attach(client, &attach.header, bytes, now(), pair);
        match attached {
            RouteResult::Waiting(ticket) => {
                state.counted = true;
                state.phase = PairPhase::Waiting(attach, ticket);
            }
            RouteResult::Assigned(assignment) => {
                state.counted = true;
                state.phase = PairPhase::Waiting(attach, assignment.ticket);
                drop(state);
                if let Some(dispatch) = self.splice(assignment) {
                    self.router.dispatch(dispatch);
                }
            }
            RouteResult::Full => {
                drop(state);
                self.reject(&too_many_channels());
            }
        }
    }

    /// Splices the pair to the channel that the registry has counted at a server. On failure,
    /// returns the requests that can use the freed room.
    fn splice(self: &Arc<Self>, assignment: Assignment<Arc<LinkRef>>) -> Option<RouterDispatch> {
        let Assignment {
            server,
            handle: link,
            channel,
            ticket,
            is_half_used,
        } = assignment;
        // The server replaces its link long before the numbers run out.
        if is_half_used {
            link.outbox.control(&Frame::GoAway(Notice::new(
                Code::Limit,
                "half of the channel numbers of this link are used up",
            )));
        }
        if link.outbox.queued_control_bytes() > MAX_CONTROL_BACKLOG {
            let mut registry = self.router.registry();
            registry.release_channel(server);
            let (_, dispatch) = registry.cancel(ticket, now());
            drop(registry);
            self.reject(&Notice::new(
                Code::Refused,
                "the server is too slow to accept new channels",
            ));
            return Some(dispatch);
        }
        // The lane must exist before the server learns of the channel. Its drop releases the
        // channel in the registry.
        let opened = link
            .outbox
            .open(channel, self.open_server_lane(&link, channel));
        if opened.is_err() {
            return self.find_another_server(&link, ticket);
        }
        let mut state = self.state();
        match std::mem::take(&mut state.phase) {
            PairPhase::Waiting(attach, ticket) => {
                state.phase = PairPhase::Pending(ticket);
                let PendingAttach {
                    mut header,
                    message,
                } = *attach;
                // `avoid` concerns only the choice of the server.
                header.avoid.clear();
                // Queued under the lock, so that a CLOSE of the client follows the ATTACH.
                link.outbox.control(&Frame::Attach {
                    channel,
                    header,
                    message,
                });
                None
            }
            closed => {
                state.phase = closed;
                drop(state);
                // The client closed the channel in the meantime. The server never learned of it and
                // ignores this CLOSE.
                link.outbox.close(
                    channel,
                    &Notice::new(Code::Cancelled, "the client closed the channel"),
                );
                let (_, dispatch) = self.router.registry().cancel(ticket, now());
                Some(dispatch)
            }
        }
    }

    fn open_server_lane(self: &Arc<Self>, link: &Arc<LinkRef>, channel: u32) -> Arc<dyn Lane> {
        self.state().server = Some(ChannelEnd {
            link: Arc::clone(link),
            channel,
        });
        self.lane(PairSide::Server)
    }

    /// Handles a server link that ended before the splice: withdraws its registrations and looks
    /// for another server.
    fn find_another_server(
        self: &Arc<Self>,
        ended: &LinkRef,
        ticket: Ticket,
    ) -> Option<RouterDispatch> {
        let mut registry = self.router.registry();
        registry.withdraw_all(ended.number);
        let (_, dispatch) = registry.cancel(ticket, now());
        drop(registry);
        let mut state = self.state();
        state.server = None;
        match std::mem::take(&mut state.phase) {
            PairPhase::Waiting(attach, _) => {
                state.phase = PairPhase::New(attach);
                // The next attach counts the channel again, so release the present count.
                let counted = std::mem::take(&mut state.counted);
                drop(state);
                if counted {
                    self.router
                        .registry()
                        .release_channel(self.client.link.number);
                }
                self.find_server();
            }
            closed => state.phase = closed,
        }
        Some(dispatch)
    }

    /// Rejects the attach request and closes the client's channel with `notice`.
    fn reject(&self, notice: &Notice) {
        let mut state = self.state();
        state.phase = PairPhase::Closed;
        self.recharge(&mut state, MemoryClass::Uncharged);
        drop(state);
        self.client.link.outbox.close(self.client.channel, notice);
    }

    /// Gives up an unanswered attach request and closes both ends.
    fn abandon(&self, notice: &Notice) {
        let mut state = self.state();
        let ticket = match std::mem::take(&mut state.phase) {
            PairPhase::Waiting(_, ticket) | PairPhase::Pending(ticket) => ticket,
            other => return state.phase = other,
        };
        self.recharge(&mut state, MemoryClass::Uncharged);
        let server = state.server.clone();
        drop(state);
        self.client.link.outbox.close(self.client.channel, notice);
        if let Some(ChannelEnd { link, channel }) = server {
            link.outbox.close(
                channel,
                &Notice::new(Code::Cancelled, "the attach timed out or was evicted"),
            );
        }
        self.router.cancel(ticket);
    }

    /// Handles the server's first answer. It proves that the server holds the port key, and so does
    /// the client that made the offer.
    fn on_answer(&self, ticket: Ticket) {
        self.client.link.mark_attached();
        let dispatch = self.router.registry().on_answer(ticket, now());
        self.router.dispatch(dispatch);
    }

    fn recharge(&self, state: &mut PairState, charge: MemoryClass) {
        let (budget, link) = (&self.router.budget, &self.client.link);
        match std::mem::replace(&mut state.charge, charge) {
            MemoryClass::Uncharged => {}
            MemoryClass::Unproven => budget.refund(link.party(), link.number, self.cost),
            MemoryClass::Proven => budget.proven.refund(self.cost),
        }
        if charge == MemoryClass::Proven {
            budget.proven.charge(self.cost);
        }
    }

    fn end(&self, side: PairSide) -> Option<ChannelEnd> {
        match side {
            PairSide::Client => Some(self.client.clone()),
            PairSide::Server => self.state().server.clone(),
        }
    }

    /// Queues a payload that `side` sent.
    fn enqueue(&self, side: PairSide, payload: Bytes) -> Result<(), Notice> {
        let length = payload.len() as u64;
        let mut state = self.state();
        // The first DATA of the server answers the ATTACH.
        if let (PairPhase::Pending(ticket), PairSide::Server) = (&state.phase, side) {
            let ticket = *ticket;
            state.phase = PairPhase::Spliced;
            self.recharge(&mut state, MemoryClass::Proven);
            drop(state);
            self.on_answer(ticket);
            // `on_answer` dispatched other requests, so the pair's lock was free in between.
            state = self.state();
        }
        match (&state.phase, side) {
            (PairPhase::Spliced, _) => {}
            (PairPhase::Closed, _) => return Ok(()),
            (PairPhase::New(_) | PairPhase::Waiting(..) | PairPhase::Pending(_), _) => {
                drop(state);
                return Err(self.abort(
                    side,
                    Notice::new(Code::Protocol, "DATA before the server's answer"),
                ));
            }
        }
        let Some(server) = state.server.clone() else {
            return Ok(());
        };
        let (from, to, queue) = match side {
            PairSide::Client => (&self.client, &server, &mut state.toward_server),
            PairSide::Server => (&server, &self.client, &mut state.toward_client),
        };
        match queue.push(payload, self.router.memory()) {
            Ok(pushed) => {
                from.link.received_bytes.fetch_add(length, Relaxed);
                if pushed.pause {
                    from.link.outbox.control(&Frame::Pause(from.channel));
                }
                drop(state);
                // Only the first message wakes the other link: its task drains the queue from then
                // on.
                if pushed.first {
                    to.link.outbox.ready(to.channel);
                }
                Ok(())
            }
            Err(overflow) => {
                queue.discard(self.router.memory());
                drop(state);
                Err(self.abort(side, Notice::new(Code::Overflow, overflow.to_string())))
            }
        }
    }

    /// Returns the next payload for `side`, whose link has room.
    fn dequeue(&self, side: PairSide) -> Transmit {
        let mut state = self.state();
        let queue = match side {
            PairSide::Client => &mut state.toward_client,
            PairSide::Server => &mut state.toward_server,
        };
        let Some(popped) = queue.pop(self.router.memory()) else {
            return Transmit::Nothing;
        };
        let server = state.server.as_ref();
        let ends = match side {
            PairSide::Client => server.map(|server| (server, &self.client)),
            PairSide::Server => server.map(|server| (&self.client, server)),
        };
        if let Some((from, to)) = ends {
            to.link
                .sent_bytes
                .fetch_add(popped.message.len() as u64, Relaxed);
            // A closed sender needs no RESUME.
            if popped.resume && !matches!(state.phase, PairPhase::Closed) {
                from.link.outbox.control(&Frame::Resume(from.channel));
            }
        }
        drop(state);
        let payload = MessageBody::Shared(popped.message);
        if popped.last {
            Transmit::Last(payload)
        } else {
            Transmit::More(payload)
        }
    }

    /// Closes the other end after its queued data, because `side` closed or its link ended.
    fn close_peer(&self, side: PairSide, notice: &Notice) {
        if let Some(other) = self.finish(side) {
            other.link.outbox.close_after_drain(other.channel, notice);
        }
    }

    /// Closes the other end at once, because `side` violated the protocol or its queue overflowed.
    /// Returns the notice for `side`.
    fn abort(&self, side: PairSide, notice: Notice) -> Notice {
        if let Some(other) = self.finish(side) {
            other.link.outbox.close(other.channel, &notice);
        }
        notice
    }

    /// Ends the pair because of `side`. Returns the other end if it exists and has not closed yet.
    fn finish(&self, side: PairSide) -> Option<ChannelEnd> {
        let mut state = self.state();
        let server = state.server.clone();
        let phase = std::mem::take(&mut state.phase);
        if state.charge == MemoryClass::Unproven {
            self.recharge(&mut state, MemoryClass::Uncharged);
        }
        drop(state);
        match phase {
            PairPhase::Closed => return None,
            PairPhase::Waiting(_, ticket) | PairPhase::Pending(ticket) => {
                self.router.cancel(ticket)
            }
            PairPhase::New(_) | PairPhase::Spliced => {}
        }
        match side {
            PairSide::Client => server,
            PairSide::Server => Some(self.client.clone()),
        }
    }

    /// Handles the removal of the lane of `side` from its outbox: drops the queued data and
    /// releases the channel in the registry.
    fn release_lane(&self, side: PairSide) {
        let mut state = self.state();
        match side {
            PairSide::Client => state.toward_client.discard(self.router.memory()),
            PairSide::Server => state.toward_server.discard(self.router.memory()),
        }
        let number = match side {
            PairSide::Client => {
                std::mem::take(&mut state.counted).then_some(self.client.link.number)
            }
            PairSide::Server => state.server.as_ref().map(|server| server.link.number),
        };
        drop(state);
        if let Some(number) = number {
            self.router.registry().release_channel(number);
        }
    }
}

impl Drop for ChannelPair {
    fn drop(&mut self) {
        let mut state =
            std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.recharge(&mut state, MemoryClass::Uncharged);
    }
}

impl fmt::Debug for ChannelPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChannelPair")
            .field("client", &self.client.link.number)
            .finish_non_exhaustive()
    }
}

fn too_many_channels() -> Notice {
    Notice::new(
        Code::Limit,
        "this client, or every server of the port, is at the channel limit of the master",
    )
}

/// One end of a channel pair, as a lane of its link.
struct PairLane {
    pair: Arc<ChannelPair>,
    side: PairSide,
}

impl Lane for PairLane {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        self.pair.enqueue(self.side, payload.freeze())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        self.pair.dequeue(self.side)
    }

    fn closed(&self, notice: Notice) {
        // A server that closes a pending channel with `handshake` does not know the client's key.
        if self.side == PairSide::Server
            && notice.code == Code::Handshake
            && matches!(self.pair.state().phase, PairPhase::Pending(_))
        {
            self.pair.client.link.on_handshake_failed();
        }
        let ended = self
            .pair
            .end(self.side)
            .is_some_and(|end| end.link.outbox.ended().is_some());
        let notice = if ended {
            Notice::new(Code::PeerLost, "the link at the other side ended")
        } else {
            notice
        };
        self.pair.close_peer(self.side, &notice);
    }
}

impl Drop for PairLane {
    fn drop(&mut self) {
        self.pair.release_lane(self.side);
    }
}
