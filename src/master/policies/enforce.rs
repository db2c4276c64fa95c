//! Decides running links, registrations and tunnels again, when a policy, a number or the time has
//! changed. Everything denied now ends; everything refused before and admitted now begins.
//!
//! The oldest stay: each is decided beside the numbers of the older ones that stay, so a lower limit
//! ends the newest.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use tokio::time::sleep;
use tracing::info;

use super::{
    DeniedRequest, LiveKeys, MasterPolicies, QuotaState, RegistrationRules, denied_notice,
    link_slots::{AccountSlot, LinkSlots},
};
use crate::{
    config::UnknownKeys,
    master::{
        limits::LinkNumber,
        rates::{RateSubject, SubjectLimits},
        registry::Candidate,
        router::{ChannelPair, LinkPeer, LinkRef, Router},
    },
    policy::{
        AccountId, Admission, Affected, CredentialId, Denied, KeyPolicy, LimitSubject, PolicyTable,
    },
};
use report_proto::{
    frame::{RefusedPort, Registered},
    id::Id,
};

/// The longest wait for the next boundary of a validity. The clock of the system may be set in the
/// meantime.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The pause after refused registrations were retried, which visits all of them. Without it, a server
/// with many refused key ids could keep the registry locked.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The decisions to repeat.
#[derive(Debug, Clone, Copy)]
pub(in crate::master) enum Scope<'a> {
    /// Those that these records concern.
    Affected(&'a Affected),
    /// Everything.
    All,
}

impl Scope<'_> {
    fn has_account(self, account: Option<AccountId>) -> bool {
        match self {
            Scope::Affected(affected) => account.is_some_and(|id| affected.accounts.contains(&id)),
            Scope::All => true,
        }
    }

    fn has_key(self, key: Id) -> bool {
        match self {
            Scope::Affected(affected) => affected.keys.contains(&key),
            Scope::All => true,
        }
    }

    fn has_relay(self) -> bool {
        match self {
            Scope::Affected(affected) => affected.relay,
            Scope::All => true,
        }
    }

    fn has_link(self, peer: &LinkPeer) -> bool {
        let has_credential = match self {
            Scope::Affected(affected) => {
                let credential = peer.identity.credential().map(CredentialId);
                credential.is_some_and(|id| affected.credentials.contains(&id))
            }
            Scope::All => true,
        };
        has_credential || self.has_relay() || self.has_account(peer.identity.account())
    }

    /// Whether it contains a registration. The account that owns the key matters too.
    fn has_registration(self, table: &PolicyTable, peer: &LinkPeer, key: Id) -> bool {
        let owner = table.key(key).and_then(KeyPolicy::account);
        self.has_key(key) || self.has_account(peer.identity.account()) || self.has_account(owner)
    }
}

/// The registrations that stay.
#[derive(Debug, Default)]
struct KeptRegistrations {
    keys: HashMap<Option<AccountId>, HashSet<Id>>,
    links: HashMap<Id, u32>,
}

impl KeptRegistrations {
    /// Returns the numbers beside a registration.
    fn candidate(&self, account: Option<AccountId>, key: Id) -> Candidate {
        let keys = self.keys.get(&account);
        let others = keys.map_or(0, |keys| {
            keys.len().saturating_sub(usize::from(keys.contains(&key)))
        });
        Candidate {
            key,
            // It is registered already.
            holder: None,
            key_links: self.links.get(&key).copied().unwrap_or(0),
            account_keys: u32::try_from(others).unwrap_or(u32::MAX),
        }
    }

    fn add(&mut self, account: Option<AccountId>, key: Id) {
        self.keys.entry(account).or_default().insert(key);
        let links = self.links.entry(key).or_default();
        *links = links.saturating_add(1);
    }
}

/// Whether a refused registration may be admitted when another one ends.
fn waits_for_room(denied: Denied) -> bool {
    matches!(
        denied,
        Denied::KeyHeld | Denied::KeyLinks | Denied::AccountKeys
    )
}

impl MasterPolicies {
    /// Returns how long to wait for the next boundary of a validity.
    fn until_boundary(&self) -> Option<Duration> {
        let now = self.clock.now();
        let boundary = self.table().next_boundary(self.clock.seconds())?;
        let boundary = Duration::from_secs(u64::try_from(boundary).unwrap_or(0));
        Some(boundary.saturating_sub(now).min(LONGEST_WAIT))
    }

    /// Returns the records whose validity differs between two times, in either order.
    fn passed_boundaries(&self, from: i64, to: i64) -> Affected {
        self.table().passed_boundaries(from.min(to), from.max(to))
    }
}

impl Router {
    /// Enforces what the passage of time changes, and registers refused key ids that have room, until
    /// the future is dropped.
    ///
    /// # Cancel safety
    /// Safe: the function completes all work between two awaits.
    pub(in crate::master) async fn run_enforcement(&self) {
        let policies = &self.policies;
        let mut enforced_at = policies.clock().seconds();
        loop {
            match policies.until_boundary() {
                None => policies.recheck.notified().await,
                Some(wait) => {
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = policies.recheck.notified() => {}
                    }
                }
            }
            let now = policies.clock().seconds();
            let passed = policies.passed_boundaries(enforced_at, now);
            enforced_at = now;
            if !passed.is_empty() {
                self.enforce(Scope::Affected(&passed));
            }
            if policies.take_room_for_refused() {
                self.register_refused(|_, _, denied| waits_for_room(denied));
                sleep(REFUSED_PAUSE).await;
            }
        }
    }

    /// Changes which key ids servers may register, and decides the present registrations again.
    pub(in crate::master) fn set_registration_rules(
        &self,
        admission: Admission,
        unknown_keys: UnknownKeys,
    ) {
        let rules = RegistrationRules {
            admission,
            unknown_keys,
        };
        if self.policies.set_registration_rules(rules) {
            self.enforce(Scope::All);
        }
    }

    /// Decides everything in a scope again, and applies the rate limits of changed records.
    pub(in crate::master) fn enforce(&self, scope: Scope<'_>) {
        if let Scope::Affected(affected) = scope {
            self.apply_rates(|policies| policies.affected_rates(affected));
        }
        self.enforce_links(scope);
        self.enforce_registrations(scope);
        self.register_refused(|table, (peer, key), _| scope.has_registration(table, peer, key));
        self.enforce_tunnels(scope);
    }

    /// Applies changed states of quotas: slows down, stops, or releases.
    #[cfg_attr(not(feature = "store"), allow(dead_code))]
    pub(in crate::master) fn set_quotas(&self, quotas: Vec<(LimitSubject, QuotaState)>) {
        let mut stopped = Affected::default();
        let mut changed = Vec::new();
        for (subject, state) in quotas {
            let is_stopped = state.is_stopped;
            if !self.policies.set_quota(subject, state) {
                continue;
            }
            changed.push(subject);
            if subject == LimitSubject::Relay {
                // A reserve slows the other accounts down.
                changed.extend(self.policies.accounts().map(LimitSubject::Account));
            }
            match subject {
                _ if !is_stopped => {}
                LimitSubject::Relay => stopped.relay = true,
                LimitSubject::Account(id) => {
                    stopped.accounts.insert(id);
                }
                LimitSubject::Key(id) => {
                    stopped.keys.insert(id);
                }
            }
        }
        self.apply_rates(|policies| policies.rates_of_subjects(changed));
        if !stopped.is_empty() {
            self.enforce_tunnels(Scope::Affected(&stopped));
        }
    }

    /// Applies rates. Changes of policies and of quotas run on several threads: in turn, so that no
    /// rate that was read before the change of the other replaces the one after it.
    fn apply_rates(
        &self,
        rates: impl FnOnce(&MasterPolicies) -> Vec<(RateSubject, SubjectLimits)>,
    ) {
        let turn = &self.policies.rates_turn;
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let rates = rates(&self.policies);
        if !rates.is_empty() {
            self.rates.set_limits(rates);
        }
    }

    fn enforce_links(&self, scope: Scope<'_>) {
        let registry = self.registry();
        let links = registry.handles().map(|(_, link)| link);
        let links = links.filter(|link| scope.has_link(&link.peer));
        let mut links: Vec<Arc<LinkRef>> = links.cloned().collect();
        drop(registry);
        links.sort_unstable_by_key(|link| link.number);
        let (policies, kept) = (&self.policies, LinkSlots::new());
        let mut entries = Vec::new();
        for link in links {
            let table = policies.table();
            let decided = kept.enter(AccountSlot::of(&link.peer), |account, relay| {
                policies.decide_link(&table, &link.peer, [account, relay])
            });
            drop(table);
            match decided {
                Ok(entry) => entries.push(entry),
                Err(denied) => self.end_denied(&link, denied),
            }
        }
    }

    /// Ends a link that a policy denies.
    pub(in crate::master) fn end_denied(&self, link: &LinkRef, denied: Denied) {
        self.report_denied(&link.peer, DeniedRequest::Link, denied);
        link.outbox.end(denied_notice(denied));
    }

    fn enforce_registrations(&self, scope: Scope<'_>) {
        let revoked = self.revoke_registrations(scope);
        for (number, (link, refused)) in revoked {
            for (key, denied) in &refused {
                self.report_denied(&link.peer, DeniedRequest::Register(*key), *denied);
                // Tunnels to a server that lacks room among others may stay.
                if !waits_for_room(*denied) {
                    self.close_tunnels_to(number, *key, *denied);
                }
            }
            answer(&link, Vec::new(), &refused);
        }
    }

    /// Withdraws the registrations that are denied now. Returns them by link.
    fn revoke_registrations(&self, scope: Scope<'_>) -> BTreeMap<LinkNumber, RefusedKeys> {
        let policies = &self.policies;
        let mut registry = self.registry();
        let table = policies.table();
        let registrations = registry.registrations();
        let registrations = registrations
            .filter(|(_, link, key)| scope.has_registration(&table, &link.peer, *key))
            .map(|(number, link, key)| (number, key, Arc::clone(link)));
        let mut registrations: Vec<_> = registrations.collect();
        registrations.sort_unstable_by_key(|(number, key, _)| (*number, *key));
        let mut kept = KeptRegistrations::default();
        let mut revoked: BTreeMap<LinkNumber, RefusedKeys> = BTreeMap::new();
        for (number, key, link) in registrations {
            let account = link.peer.identity.account();
            let candidate = kept.candidate(account, key);
            match policies.decide_register(&table, &link.peer, &candidate) {
                Ok(()) => kept.add(account, key),
                Err(denied) => {
                    registry.refuse(number, key, denied);
                    let (_, keys) = revoked.entry(number).or_insert_with(|| (link, Vec::new()));
                    keys.push((key, denied));
                }
            }
        }
        drop(table);
        self.recheck_refused(registry);
        revoked
    }

    /// Registers the refused key ids that are admitted now, and reports them to their servers.
    fn register_refused(
        &self,
        is_in_scope: impl Fn(&PolicyTable, (&LinkPeer, Id), Denied) -> bool,
    ) {
        let registry = self.registry();
        let table = self.policies.table();
        let mut waiting: Vec<(Arc<LinkRef>, BTreeMap<Id, Denied>)> = Vec::new();
        for (_, link, refused) in registry.refused() {
            let keys = refused.iter().map(|(key, denied)| (*key, *denied));
            let keys =
                keys.filter(|(key, denied)| is_in_scope(&table, (&link.peer, *key), *denied));
            let keys: BTreeMap<_, _> = keys.collect();
            if !keys.is_empty() {
                waiting.push((Arc::clone(link), keys));
            }
        }
        drop(table);
        drop(registry);
        for (link, former) in waiting {
            let keys: Vec<Id> = former.keys().copied().collect();
            let (accepted, mut refused) = self.register_again(&link, &keys);
            refused.retain(|(key, denied)| former.get(key) != Some(denied));
            if !accepted.is_empty() {
                info!(
                    link = link.number,
                    accepted = accepted.len(),
                    "registered after a refusal"
                );
            }
            if !accepted.is_empty() || !refused.is_empty() {
                answer(&link, accepted, &refused);
            }
        }
    }

    fn enforce_tunnels(&self, scope: Scope<'_>) {
        let pairs = match scope {
            Scope::Affected(affected) if !affected.relay => {
                let keys = affected.keys.iter().copied();
                self.live.pairs_of(keys, affected.accounts.iter().copied())
            }
            Scope::Affected(_) | Scope::All => self.live.pairs(),
        };
        let (policies, kept) = (&self.policies, LiveKeys::<()>::new());
        let mut entries = Vec::new();
        for (mut live, pair) in pairs {
            let (key, server) = (live.tunnel.key, live.server_account);
            let table = policies.table();
            let former = live.owner;
            live.owner = table.owner(key, server);
            let owner = live.owner;
            let decided = kept.enter(live, Weak::new(), 0, |counts| {
                policies.decide_running(&table, pair.client(), key, server, counts)
            });
            drop(table);
            match decided {
                Ok(entered) => {
                    entries.push(entered.entry);
                    if owner != former {
                        pair.charge_to(owner);
                    }
                }
                Err(denied) => self.close_denied(&pair, key, denied),
            }
        }
    }

    /// Closes the tunnels of a key to a server.
    fn close_tunnels_to(&self, server: LinkNumber, key: Id, denied: Denied) {
        for (live, pair) in self.live.pairs_of([key], []) {
            if live.server == server {
                self.close_denied(&pair, key, denied);
            }
        }
    }

    /// Closes a channel pair that a policy denies.
    pub(super) fn close_denied(&self, pair: &ChannelPair, key: Id, denied: Denied) {
        if pair.deny(&denied_notice(denied)) {
            self.report_denied(pair.client(), DeniedRequest::Attach(key), denied);
        }
    }
}

/// A link with key ids that are refused.
type RefusedKeys = (Arc<LinkRef>, Vec<(Id, Denied)>);

/// Sends REGISTERED to a server.
pub(in crate::master) fn answer(link: &LinkRef, accepted: Vec<Id>, refused: &[(Id, Denied)]) {
    let refused = refused.iter().map(|(key, denied)| RefusedPort {
        port: *key,
        notice: denied_notice(*denied),
    });
    let registered = Registered {
        ports: accepted,
        refused: refused.collect(),
    };
    for frame in registered.into_frames() {
        link.outbox.control(&frame);
    }
}
