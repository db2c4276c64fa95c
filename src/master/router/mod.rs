//! The router. A [`ChannelPair`] splices a channel of a client to a channel of a server; each end
//! of the pair belongs to a link. The router knows queues, channel numbers and link outboxes.
//! It never reads payloads and knows nothing of streams.
//!
//! ```text
//!  [new] ──► waiting for a server ──► pending: ATTACH sent ──► spliced: server answered ──► closed
//!              │                        │                                                     ▲
//!              └── closed, lost, full, timed out ─────────────────────────────────────────────┘
//! ```
//!
//! `requests` admits, expires and evicts attach requests, `splice` finds their servers, and
//! `channel_ends` carries the data of spliced channels. `pair_policies` admits them to their tunnel.
//!
//! Each link's task drives the ends on that link, and no call here blocks. Lock order: a channel
//! pair, then the registry, then the table of policies and the live keys, the rate limits or an
//! outbox, then a link's memory account. Dropping an end locks its channel pair, so no end is dropped
//! while that lock is held.

mod channel_ends;
mod link_ref;
mod pair_policies;
mod requests;
mod splice;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

pub(super) use self::link_ref::{LinkPeer, LinkRef, now};
#[cfg(feature = "store")]
use super::usage::PairMeter;
use super::{
    account::MasterBudget,
    attach_queue::Ticket,
    channel_queue::ChannelQueue,
    limits::MasterLimits,
    link_totals::EndedLinks,
    memory::Memory,
    policies::{DeniedRequest, LiveEntry, LiveKeys, MasterPolicies},
    rates::{ChannelLimits, RateDirection, Rates},
    registry::{Dispatch, Registry},
};
use crate::{metrics::RefusalCounts, policy::Denied};
use report_proto::{
    frame::{AttachHeader, Code, Notice},
    id::Id,
};

/// The longest first handshake message in an ATTACH, in bytes. The offer of PROTOCOL 7.2 takes a
/// few hundred bytes, and a message that waits for a server takes memory.
pub(super) const MAX_FIRST_MESSAGE: usize = 4 * 1024;

/// The budget that a channel pair reserves in addition to its first message, in bytes: its own
/// memory and that of its ends, rounded up.
const PAIR_COST: usize = 1024;

/// The interval between checks for expired attach requests.
pub(super) const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The state that all links of a master share.
#[derive(Debug)]
pub(super) struct Router {
    registry: Mutex<Registry<Arc<LinkRef>, Arc<ChannelPair>>>,
    budget: Arc<MasterBudget>,
    /// The policies of the operator.
    pub(super) policies: Arc<MasterPolicies>,
    /// The spliced channel pairs.
    pub(super) live: Arc<LiveKeys<ChannelPair>>,
    /// The rate limits of channel pairs.
    pub(super) rates: Arc<Rates>,
    /// The traffic of the links that have ended.
    pub(super) ended_links: EndedLinks,
    /// Counts what the master refuses.
    pub(super) refusals: Arc<RefusalCounts>,
}

/// The locked registry.
type RegistryGuard<'a> = MutexGuard<'a, Registry<Arc<LinkRef>, Arc<ChannelPair>>>;

/// Waiting attach requests that the registry has assigned or rejected.
type RouterDispatch = Dispatch<Arc<LinkRef>, Arc<ChannelPair>>;

impl Router {
    /// Creates a router without links. The rate limits of the policies apply.
    pub(super) fn new(limits: &MasterLimits, policies: Arc<MasterPolicies>) -> Arc<Self> {
        let rates = Rates::new();
        policies.set_all_rates(&rates);
        Arc::new(Router {
            registry: Mutex::new(Registry::new(limits)),
            budget: Arc::new(MasterBudget::new(limits.memory_bytes)),
            policies,
            live: LiveKeys::new(),
            rates,
            ended_links: EndedLinks::default(),
            refusals: Arc::default(),
        })
    }

    /// Applies other limits to what comes.
    pub(super) fn set_limits(&self, limits: &MasterLimits) {
        self.registry().set_limits(limits);
        self.budget.set_bytes(limits.memory_bytes);
    }

    /// Creates a link reference with a new outbox, whose memory is charged to the budget.
    pub(super) fn new_link(&self, peer: LinkPeer) -> Arc<LinkRef> {
        LinkRef::new(&self.budget, peer, self.policies.clock().seconds())
    }

    /// Locks the registry. Callers hold the lock for one lookup or change, and never lock a channel
    /// pair while they hold it.
    pub(super) fn registry(&self) -> RegistryGuard<'_> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that channels and links hold now.
    pub(super) fn used_bytes(&self) -> usize {
        self.budget.used_bytes()
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

    /// Registers key ids of a server (PROTOCOL 5.1). The link's task calls this. Returns the key ids
    /// that are registered, and those that a policy refuses.
    pub(super) fn register(&self, server: &LinkRef, keys: &[Id]) -> (Vec<Id>, Vec<(Id, Denied)>) {
        self.register_with(self.registry(), server, keys)
    }

    /// Registers those of the key ids that are still refused.
    pub(super) fn register_again(
        &self,
        server: &LinkRef,
        keys: &[Id],
    ) -> (Vec<Id>, Vec<(Id, Denied)>) {
        let registry = self.registry();
        let keys = registry.still_refused(server.number, keys);
        self.register_with(registry, server, &keys)
    }

    fn register_with(
        &self,
        mut registry: RegistryGuard<'_>,
        server: &LinkRef,
        keys: &[Id],
    ) -> (Vec<Id>, Vec<(Id, Denied)>) {
        let policies = &self.policies;
        let table = policies.table();
        let registered = registry.register(server.number, keys, now(), |candidate| {
            policies.decide_register(&table, &server.peer, candidate)
        });
        drop(table);
        drop(registry);
        self.dispatch(registered.dispatch);
        (registered.accepted, registered.refused)
    }

    /// Removes key ids from the registrations of a server (PROTOCOL 5.1).
    pub(super) fn unregister(&self, server: &LinkRef, keys: &[Id]) {
        let mut registry = self.registry();
        registry.unregister(server.number, keys);
        self.recheck_refused(registry);
    }

    /// Wakes the enforcement if a registration has ended that another one may have waited for.
    /// Unlocks the registry.
    pub(super) fn recheck_refused(&self, mut registry: RegistryGuard<'_>) {
        let has_room = registry.take_room_for_refused();
        drop(registry);
        if has_room {
            self.policies.retry_refused();
        }
    }

    /// Counts and logs what a policy has denied.
    pub(super) fn report_denied(&self, peer: &LinkPeer, request: DeniedRequest, denied: Denied) {
        self.policies
            .report_denied(&self.refusals, peer, request, denied);
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

impl PairSide {
    /// Returns the direction of the data that this side sends.
    fn sends(self) -> RateDirection {
        match self {
            PairSide::Client => RateDirection::Up,
            PairSide::Server => RateDirection::Down,
        }
    }

    /// Returns the direction of the data that this side receives.
    fn receives(self) -> RateDirection {
        match self {
            PairSide::Client => RateDirection::Down,
            PairSide::Server => RateDirection::Up,
        }
    }
}

/// A channel of a link.
#[derive(Debug, Clone)]
struct ChannelRef {
    link: Arc<LinkRef>,
    channel: u32,
}

/// Two spliced channels, or a client's channel that waits for a server.
pub(super) struct ChannelPair {
    router: Arc<Router>,
    client: ChannelRef,
    /// The key id of the service.
    key: Id,
    /// The bytes of budget that the pair has reserved.
    cost: usize,
    state: Mutex<PairState>,
}

#[derive(Default)]
struct PairState {
    phase: PairPhase,
    /// The server's end, once it has been opened. It may be closed again.
    server: Option<ChannelRef>,
    /// Whether the registry counts the client's channel.
    counted: bool,
    charge: MemoryClass,
    toward_client: ChannelQueue,
    toward_server: ChannelQueue,
    /// The rate limits, from the splice on.
    limits: Option<ChannelLimits>,
    /// The entry among the live keys, from the splice on.
    live: Option<LiveEntry<ChannelPair>>,
    /// The payload bytes that were passed on.
    moved: MovedBytes,
    /// Counts them for the usage, from the splice on.
    #[cfg(feature = "store")]
    meter: Option<PairMeter>,
}

/// Payload bytes of each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MovedBytes {
    /// From the client to the server.
    pub(super) up: u64,
    /// From the server to the client.
    pub(super) down: u64,
}

impl MovedBytes {
    fn add(&mut self, direction: RateDirection, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let sum = match direction {
            RateDirection::Up => &mut self.up,
            RateDirection::Down => &mut self.down,
        };
        *sum = sum.saturating_add(bytes);
    }
}

impl PairState {
    /// Returns the queue of a direction.
    fn queue(&mut self, direction: RateDirection) -> &mut ChannelQueue {
        match direction {
            RateDirection::Up => &mut self.toward_server,
            RateDirection::Down => &mut self.toward_client,
        }
    }

    /// Counts payload bytes that are passed on.
    fn count(&mut self, direction: RateDirection, bytes: usize) {
        self.moved.add(direction, bytes);
        #[cfg(feature = "store")]
        if let Some(meter) = &self.meter {
            meter.count(direction, bytes);
        }
    }

    /// Applies the rate limits to the size of a queue.
    fn cap_queue(&mut self, direction: RateDirection) {
        if let Some(limits) = &self.limits {
            let cap = limits.queue_cap(direction);
            self.queue(direction).set_cap(cap);
        }
    }

    /// Takes the bytes of the next message of a direction from the rate limits. Returns `false` if
    /// they hold it back. The channel is then marked ready once they admit it.
    fn admit_next(&mut self, direction: RateDirection) -> bool {
        if !self.limits.as_ref().is_some_and(ChannelLimits::is_limited) {
            return true;
        }
        let queue = self.queue(direction);
        let (next, queued) = (queue.next_length(), queue.queued_bytes());
        match (next, &mut self.limits) {
            (Some(length), Some(limits)) => limits.take(direction, length, queued),
            _ => true,
        }
    }
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
    /// Creates the pair of an attach request, whose cost the budget has reserved.
    fn new(
        router: &Arc<Router>,
        client: ChannelRef,
        cost: usize,
        attach: PendingAttach,
    ) -> Arc<Self> {
        let key = attach.header.port;
        let state = PairState {
            phase: PairPhase::New(Box::new(attach)),
            charge: MemoryClass::Unproven,
            ..PairState::default()
        };
        Arc::new(ChannelPair {
            router: Arc::clone(router),
            client,
            key,
            cost,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, PairState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl Drop for ChannelPair {
    fn drop(&mut self) {
        let mut state =
            std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.recharge(&mut state, MemoryClass::Uncharged);
        if let Some(live) = state.live.take() {
            self.router.forget_pair(live);
        }
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
