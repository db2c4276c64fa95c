//! The router's view of a link.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    link::{MemoryAccount, Outbox},
    master::{
        account::{LinkAccount, MasterBudget},
        admission::LinkPlace,
        identity::Identity,
        limits::LinkNumber,
        policies::LinkSlotEntry,
    },
    throttle::{TokenBucket, party},
};
use report_proto::{
    frame::{Code, Notice, Role, Slot},
    id::Id,
};

/// Failed handshakes at servers that a client's link may accumulate before it ends. The allowance
/// refills by one every [`FAILED_HANDSHAKE_REFILL`]. A client with a wrong port key tries every 15
/// seconds.
const FAILED_HANDSHAKES: u32 = 20;

/// The time in which the allowance refills by one failed handshake.
const FAILED_HANDSHAKE_REFILL: Duration = Duration::from_secs(1);

/// The role at the far end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct LinkPeer {
    /// The master's number for the link.
    pub(in crate::master) number: LinkNumber,
    /// The role.
    pub(in crate::master) role: Role,
    /// The identity that the role has proven.
    pub(in crate::master) identity: Identity,
    /// The process of the role.
    pub(in crate::master) instance: Id,
    /// The slot of the link.
    pub(in crate::master) slot: Slot,
    /// The address of the role.
    pub(in crate::master) visitor: IpAddr,
}

/// The router's view of a link.
#[derive(Debug)]
pub(in crate::master) struct LinkRef {
    /// The role at the far end.
    pub(in crate::master) peer: LinkPeer,
    /// The master's number for the link.
    pub(in crate::master) number: LinkNumber,
    /// The time at which the link was authenticated, in Unix seconds.
    pub(in crate::master) since: i64,
    /// The sending side of the link.
    pub(in crate::master) outbox: Arc<Outbox>,
    /// Payload bytes received from the link.
    pub(in crate::master) received_bytes: AtomicU64,
    /// Payload bytes sent to the link.
    pub(in crate::master) sent_bytes: AtomicU64,
    /// The memory account of the link.
    pub(super) account: Arc<LinkAccount>,
    /// Whether the master has welcomed the role.
    is_established: AtomicBool,
    /// Whether the link has proven a secret. The account may count an evicted link as proven, too.
    has_proven: AtomicBool,
    /// The link's place among the master's connections.
    place: OnceLock<LinkPlace>,
    /// The link's entry among those of its account.
    slot_entry: OnceLock<LinkSlotEntry>,
    /// The allowance of failed handshakes.
    failures: Mutex<TokenBucket>,
}

impl LinkRef {
    /// Creates a link reference with a new outbox, whose memory is charged to `budget`.
    pub(super) fn new(budget: &Arc<MasterBudget>, peer: LinkPeer, since: i64) -> Arc<Self> {
        let is_proven = peer.identity.is_proven();
        let account = LinkAccount::new(budget, party(peer.visitor), peer.number, is_proven);
        Arc::new(LinkRef {
            peer,
            number: peer.number,
            since,
            outbox: Outbox::with_account(Arc::clone(&account) as Arc<dyn MemoryAccount>),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            account,
            is_established: AtomicBool::new(false),
            has_proven: AtomicBool::new(is_proven),
            place: OnceLock::new(),
            slot_entry: OnceLock::new(),
            failures: Mutex::new(TokenBucket::full(now())),
        })
    }

    /// Returns the party that the link belongs to.
    pub(in crate::master) fn party(&self) -> IpAddr {
        self.account.party()
    }

    /// Records that the master has welcomed the role. The metrics count the link from then on.
    pub(in crate::master) fn mark_established(&self) {
        self.is_established.store(true, Relaxed);
    }

    /// Whether the master has welcomed the role.
    pub(in crate::master) fn is_established(&self) -> bool {
        self.is_established.load(Relaxed)
    }

    /// Whether the link has proven a secret: the master key, a credential, or a port key through a
    /// tunnel.
    pub(in crate::master) fn is_proven(&self) -> bool {
        self.has_proven.load(Relaxed)
    }

    /// Stores the link's place among the connections.
    pub(in crate::master) fn set_place(&self, place: LinkPlace) {
        let _ = self.place.set(place);
    }

    /// Stores the link's entry among those of its account.
    pub(in crate::master) fn set_slot_entry(&self, entry: LinkSlotEntry) {
        let _ = self.slot_entry.set(entry);
    }

    /// Records that a server has answered this link.
    pub(super) fn mark_attached(&self) {
        self.account.mark_proven();
        self.has_proven.store(true, Relaxed);
        self.place.get().inspect(|place| place.mark_attached());
    }

    /// Records a handshake of this link that failed at a server: the client holds another port key,
    /// or none. Ends the link when that happens too often.
    pub(super) fn on_handshake_failed(&self) {
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
pub(in crate::master) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
