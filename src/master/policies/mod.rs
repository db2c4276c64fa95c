//! The policies of a master at work: the table in memory, the decisions about links, registrations
//! and attachments, and their enforcement when a policy, a count or the time changes.
//!
//! ```text
//!  database ──sync──► PolicyTable ──► decisions ◄── serve_link, link_handler, router
//!                        │  ▲             ▲
//!             Affected   │  └── time      └── live_keys, the registry: live numbers
//!                        ▼
//!                     enforce ──► ERROR, REGISTERED, CLOSE `denied`; rate limits
//! ```
//!
//! The data path asks for no decision. Without a database the table is empty and the relay is open.
//! While the database is away the table stays as it is. A record that cannot be read is denied.
//!
//! # Locks
//! The turn of the rates, then a channel pair, then the registry, then the table, then the live keys
//! or the rates. The table is locked for reading by one decision at a time, and for writing by a
//! change that holds no other lock.

mod blocks;
#[cfg(any(test, feature = "store"))]
mod changes;
mod clock;
mod decisions;
mod enforce;
mod link_slots;
mod live_keys;
mod rate_limits;
#[cfg(feature = "store")]
mod sync;
#[cfg(feature = "store")]
mod unreadable;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

pub use self::clock::{Clock, SystemClock};
#[cfg(test)]
pub(super) use self::live_keys::PAIRS_PER_TUNNEL;
#[cfg(feature = "store")]
pub(super) use self::live_keys::begins_tunnel;
use self::{blocks::Blocks, link_slots::LinkSlots};
pub(super) use self::{
    decisions::{DeniedRequest, denied_notice},
    enforce::answer,
    link_slots::LinkSlotEntry,
    live_keys::{LiveEntry, LiveKeys, LivePair, TunnelKey, TunnelView},
    rate_limits::{account_number, limits_of, rate_subject},
};
#[cfg(feature = "store")]
use super::usage::UsageMeter;
use super::{
    administered::StoreProblem,
    events::Events,
    identity::{CredentialLookup, KnownCredential},
};
#[cfg(feature = "store")]
use crate::store::Store;
use crate::{
    config::UnknownKeys,
    policy::{AccountId, Admission, CredentialId, LimitSubject, LiveCounts, PolicyTable, Rates},
    throttle::LogLimit,
};
use report_proto::{crypto::CredentialVerifier, id::Id};

/// The additions of a subject's usage to its policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaState {
    /// Whether a quota has stopped the traffic.
    pub is_stopped: bool,
    /// For the relay: whether the traffic of the account with a reserve is stopped as well.
    pub is_reserve_stopped: bool,
    /// The rates to which used-up quotas slow the traffic down.
    pub slow: Rates,
    /// For the relay: the rates to which each account is slowed down, except the one with a reserve.
    pub slow_others: Rates,
    /// For the relay: the account with a reserve.
    pub reserve: Option<AccountId>,
}

/// The policies of a master.
pub struct MasterPolicies {
    table: RwLock<PolicyTable>,
    /// Counts the changes of the table.
    version: AtomicU64,
    /// Counts bytes and new tunnels.
    #[cfg(feature = "store")]
    pub(super) meter: Arc<UsageMeter>,
    registration_rules: RwLock<RegistrationRules>,
    clock: Arc<dyn Clock>,
    problem: RwLock<Option<StoreProblem>>,
    usage: Mutex<UsageNumbers>,
    /// Held from the moment at which rates are read until they apply.
    rates_turn: Mutex<()>,
    /// The links by account.
    pub(super) link_slots: Arc<LinkSlots>,
    pub(super) blocks: Blocks,
    pub(super) events: Events,
    /// The limit of log lines about denied peers.
    log_limit: LogLimit,
    /// Wakes the enforcement: a registration has ended, or a boundary has moved.
    recheck: Notify,
    /// Whether a registration has ended that a refused one may have waited for.
    has_room_for_refused: AtomicBool,
    #[cfg(feature = "store")]
    followed: std::sync::OnceLock<sync::FollowedStore>,
}

/// Which key ids servers may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RegistrationRules {
    admission: Admission,
    unknown_keys: UnknownKeys,
}

/// Numbers that the usage of all masters adds to those of this one.
#[derive(Debug, Default)]
struct UsageNumbers {
    /// The live numbers of the other masters.
    others: HashMap<LimitSubject, LiveCounts>,
    quotas: HashMap<LimitSubject, QuotaState>,
}

impl MasterPolicies {
    /// Creates policies without records.
    #[must_use]
    pub fn new(
        admission: Admission,
        unknown_keys: UnknownKeys,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(MasterPolicies {
            table: RwLock::default(),
            version: AtomicU64::new(0),
            #[cfg(feature = "store")]
            meter: UsageMeter::new(),
            registration_rules: RwLock::new(RegistrationRules {
                admission,
                unknown_keys,
            }),
            clock,
            problem: RwLock::default(),
            usage: Mutex::default(),
            rates_turn: Mutex::default(),
            link_slots: LinkSlots::new(),
            blocks: Blocks::default(),
            events: Events::new(),
            log_limit: LogLimit::new(),
            recheck: Notify::new(),
            has_room_for_refused: AtomicBool::new(false),
            #[cfg(feature = "store")]
            followed: std::sync::OnceLock::new(),
        })
    }

    /// Creates the policies of a master without a database: everything is admitted.
    #[must_use]
    pub fn open() -> Arc<Self> {
        MasterPolicies::new(
            Admission::Open,
            UnknownKeys::default(),
            Arc::new(SystemClock),
        )
    }

    /// Returns the clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Returns which key ids servers may register.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.registration_rules().admission
    }

    /// Changes which key ids servers may register. Returns whether it was another choice.
    fn set_registration_rules(&self, rules: RegistrationRules) -> bool {
        let current = self.registration_rules.write();
        let mut current = current.unwrap_or_else(PoisonError::into_inner);
        let has_changed = *current != rules;
        *current = rules;
        has_changed
    }

    fn registration_rules(&self) -> RegistrationRules {
        let rules = self.registration_rules.read();
        *rules.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns why the policies may be outdated.
    #[must_use]
    pub fn problem(&self) -> Option<StoreProblem> {
        self.problem
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the database that the policies follow.
    #[cfg(feature = "store")]
    #[must_use]
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.followed.get().map(|followed| &followed.store)
    }

    /// Whether the master has a database.
    pub(super) fn has_store(&self) -> bool {
        #[cfg(feature = "store")]
        return self.followed.get().is_some();
        #[cfg(not(feature = "store"))]
        return false;
    }

    /// Wakes the enforcement, because a registration has ended that a refused one may have waited
    /// for.
    pub(super) fn retry_refused(&self) {
        self.has_room_for_refused.store(true, Relaxed);
        self.recheck.notify_one();
    }

    fn take_room_for_refused(&self) -> bool {
        self.has_room_for_refused.swap(false, Relaxed)
    }

    /// Changes the state of the quotas of a subject. Returns whether it was another one.
    fn set_quota(&self, subject: LimitSubject, state: QuotaState) -> bool {
        let mut usage = self.usage();
        let former = if state == QuotaState::default() {
            usage.quotas.remove(&subject)
        } else {
            usage.quotas.insert(subject, state.clone())
        };
        former.unwrap_or_default() != state
    }

    /// Changes the live numbers of the other masters.
    #[cfg(any(feature = "store", test))]
    pub(super) fn set_others(&self, others: HashMap<LimitSubject, LiveCounts>) {
        self.usage().others = others;
    }

    /// Returns the state of the quotas of a subject.
    pub(super) fn quota_state(&self, subject: LimitSubject) -> QuotaState {
        self.usage()
            .quotas
            .get(&subject)
            .cloned()
            .unwrap_or_default()
    }

    /// Returns the numbers of the other masters for a subject, and the new tunnels of all.
    fn others(&self, subject: LimitSubject) -> LiveCounts {
        let others = self.usage().others.get(&subject).copied();
        let others = others.unwrap_or_default();
        #[cfg(feature = "store")]
        let others = LiveCounts {
            attachments: others
                .attachments
                .saturating_add(self.meter.attachments(subject)),
            ..others
        };
        others
    }

    /// Returns a number that differs after each change of the table.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Returns the admission that applies to a key id: while the database is away, unknown key ids
    /// are admitted if so configured.
    fn admission_of(&self, table: &PolicyTable, key: Id) -> Admission {
        let rules = self.registration_rules();
        let is_admitted = rules.unknown_keys == UnknownKeys::Admit
            && table.key(key).is_none()
            && self.problem().is_some_and(|problem| problem.is_away);
        if is_admitted {
            Admission::Open
        } else {
            rules.admission
        }
    }

    /// Locks the table for reading. A caller that holds it may not lock it again.
    pub(super) fn table(&self) -> RwLockReadGuard<'_, PolicyTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn usage(&self) -> MutexGuard<'_, UsageNumbers> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CredentialLookup for MasterPolicies {
    fn find(&self, id: Id) -> Option<KnownCredential> {
        let table = self.table();
        let record = table.credential(CredentialId(id))?;
        let verifier = &record.verifier;
        Some(KnownCredential {
            account: record.credential.account,
            role: record.credential.role,
            verifier: CredentialVerifier::from_parts(verifier.public_key, verifier.welcome_key),
        })
    }
}

impl fmt::Debug for MasterPolicies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MasterPolicies")
            .field("admission", &self.admission())
            .finish_non_exhaustive()
    }
}
