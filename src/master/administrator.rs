//! Administers a running master: lists what lives, ends it, and blocks peers for a while.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::broadcast;
use tracing::info;

use super::{
    administered::{AdministeredMaster, Block, LimitsInForce, LiveLink, LiveTunnel, MasterStatus},
    events::{EventKind, MasterEvent},
    identity::Identity,
    policies::{TunnelView, denied_notice, limits_of, rate_subject},
    rates::{PerDirection, RateSubject},
    router::{ChannelPair, LinkRef},
    shared::MasterShared,
};
use crate::policy::{CredentialId, Denied, LimitSubject};
#[cfg(feature = "store")]
use crate::store::Store;
use report_proto::{
    frame::{Code, Notice},
    id::Id,
};

/// A running master, administered by its operator.
pub(super) struct Administrator(pub(super) Arc<MasterShared>);

impl Administrator {
    fn now(&self) -> i64 {
        self.0.router.policies.clock().seconds()
    }

    /// Returns an established link.
    fn link(&self, number: u64) -> Option<Arc<LinkRef>> {
        let link = self.0.router.registry().handle(number);
        link.filter(|link| link.is_established())
    }

    fn tunnel(&self, number: u64) -> Option<TunnelView<ChannelPair>> {
        let tunnel = self.0.router.live.tunnel(number);
        tunnel.filter(|tunnel| !tunnel.pairs.is_empty())
    }

    fn block(
        &self,
        identity: Identity,
        address: IpAddr,
        key: Option<Id>,
        time: Duration,
    ) -> Option<Block> {
        let now = self.now();
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let until = now.saturating_add(seconds);
        let blocks = &self.0.router.policies.blocks;
        let block = blocks.add(identity, address, key, [now, until])?;
        info!(
            %address,
            credential = identity.credential().map(tracing::field::display),
            seconds,
            "blocked by the operator"
        );
        Some(block)
    }

    /// Returns the subjects with links, registrations or tunnels, and the relay.
    fn live_subjects(&self) -> BTreeSet<LimitSubject> {
        let router = &self.0.router;
        let mut subjects: BTreeSet<LimitSubject> = router.live.subjects().into_iter().collect();
        let accounts = router.policies.link_slots.accounts().into_iter();
        subjects.extend(accounts.map(LimitSubject::Account));
        let registry = router.registry();
        subjects.extend(
            registry
                .served_keys()
                .map(|(key, _)| LimitSubject::Key(key)),
        );
        subjects.insert(LimitSubject::Relay);
        subjects
    }

    fn limits_in_force(
        &self,
        subject: LimitSubject,
        key_links: &HashMap<Id, usize>,
        throttled: PerDirection<Duration>,
    ) -> LimitsInForce {
        let router = &self.0.router;
        let policies = &router.policies;
        let table = policies.table();
        let limits = limits_of(&table, subject).cloned().unwrap_or_default();
        let (name, links) = match subject {
            LimitSubject::Relay => (None, policies.link_slots.total()),
            LimitSubject::Account(id) => (
                table.account(id).map(|account| account.name.clone()),
                policies.link_slots.of_account(id),
            ),
            LimitSubject::Key(id) => (
                table.key(id).map(|key| key.label.to_string()),
                u32::try_from(key_links.get(&id).copied().unwrap_or(0)).unwrap_or(u32::MAX),
            ),
        };
        drop(table);
        LimitsInForce {
            kind: subject.kind().to_owned(),
            id: subject.id(),
            name,
            limits,
            links,
            tunnels: router.live.tunnels_of(subject),
            is_stopped: policies.quota_state(subject).is_stopped,
            throttled_up_seconds: throttled.up.as_secs(),
            throttled_down_seconds: throttled.down.as_secs(),
        }
    }

    /// Describes a tunnel, whose first pair is named. The bytes are those of its open channels.
    fn live_tunnel(&self, view: &TunnelView<ChannelPair>) -> Option<LiveTunnel> {
        let (first, _) = view.pairs.first()?;
        let (mut up_bytes, mut down_bytes) = (0_u64, 0_u64);
        for (_, pair) in &view.pairs {
            let moved = pair.moved();
            up_bytes = up_bytes.saturating_add(moved.up);
            down_bytes = down_bytes.saturating_add(moved.down);
        }
        let links: BTreeSet<u64> = view.pairs.iter().map(|(pair, _)| pair.client).collect();
        let tunnel = first.tunnel;
        let table = self.0.router.policies.table();
        Some(LiveTunnel {
            number: view.number,
            key: tunnel.key,
            label: table.key(tunnel.key).map(|key| key.label.to_string()),
            owner: first.owner,
            account: tunnel.client.account(),
            credential: tunnel.client.credential().map(CredentialId),
            instance: tunnel.instance,
            address: first.visitor,
            since: view.since,
            links: links.into_iter().collect(),
            channels: u32::try_from(view.pairs.len()).unwrap_or(u32::MAX),
            up_bytes,
            down_bytes,
        })
    }
}

impl AdministeredMaster for Administrator {
    fn links(&self) -> Vec<LiveLink> {
        let registry = self.0.router.registry();
        let established = registry
            .channels()
            .filter(|(_, link, _)| link.is_established());
        let mut links: Vec<LiveLink> = established
            .map(|(_, link, channels)| live_link(link, channels, registry.keys_of(link.number)))
            .collect();
        drop(registry);
        links.sort_by_key(|link| link.number);
        links
    }

    fn tunnels(&self) -> Vec<LiveTunnel> {
        let views = self.0.router.live.tunnels();
        views
            .iter()
            .filter_map(|view| self.live_tunnel(view))
            .collect()
    }

    fn end_link(&self, link: u64) -> bool {
        let Some(link) = self.link(link) else {
            return false;
        };
        // The role connects again at once.
        let notice = Notice::new(Code::Shutdown, "the operator of the master ended the link");
        link.outbox.end(notice);
        true
    }

    fn end_tunnel(&self, tunnel: u64) -> bool {
        let Some(tunnel) = self.tunnel(tunnel) else {
            return false;
        };
        let notice = Notice::new(Code::Denied, "the operator of the master ended the tunnel");
        close_all(&tunnel, &notice);
        true
    }

    fn block_link(&self, link: u64, time: Duration) -> Option<Block> {
        let link = self.link(link)?;
        let peer = &link.peer;
        let block = self.block(peer.identity, peer.visitor, None, time)?;
        self.0.router.end_blocked_links();
        Some(block)
    }

    fn block_tunnel(&self, tunnel: u64, time: Duration) -> Option<Block> {
        let tunnel = self.tunnel(tunnel)?;
        let (first, _) = tunnel.pairs.first()?;
        let identity = first.tunnel.client;
        let key = first.tunnel.key;
        let block = self.block(identity, first.visitor, Some(key), time)?;
        self.0.router.close_blocked_tunnels(key);
        // A client without a credential may have several addresses.
        close_all(&tunnel, &denied_notice(Denied::Blocked));
        Some(block)
    }

    fn blocks(&self) -> Vec<Block> {
        self.0.router.policies.blocks.all(self.now())
    }

    fn unblock(&self, block: u64) -> bool {
        self.0.router.policies.blocks.remove(block)
    }

    fn limits(&self) -> Vec<LimitsInForce> {
        let router = &self.0.router;
        let throttled: HashMap<RateSubject, _> = router.rates.throttled().into_iter().collect();
        let key_links: HashMap<Id, usize> = router.registry().served_keys().collect();
        let subjects = self.live_subjects().into_iter();
        let limits = subjects.map(|subject| {
            let throttled = throttled.get(&rate_subject(subject)).copied();
            self.limits_in_force(subject, &key_links, throttled.unwrap_or_default())
        });
        limits.collect()
    }

    fn report_refused_token(&self, address: IpAddr, reason: String) {
        let events = &self.0.router.policies.events;
        events.send(self.now(), || EventKind::TokenRefused { address, reason });
    }

    fn events(&self) -> broadcast::Receiver<MasterEvent> {
        self.0.router.policies.events.subscribe()
    }

    fn status(&self) -> MasterStatus {
        let router = &self.0.router;
        let policies = &router.policies;
        let links = router.registry().links();
        #[cfg(feature = "store")]
        let store = policies.store().map(|store| store.url().to_string());
        #[cfg(not(feature = "store"))]
        let store = None;
        MasterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            admission: policies.admission(),
            store,
            degraded: policies.problem(),
            is_draining: self.0.draining.is_cancelled(),
            links: links as u64,
            tunnels: router.live.tunnels_of(LimitSubject::Relay).into(),
        }
    }

    #[cfg(feature = "store")]
    fn store(&self) -> Option<Arc<Store>> {
        self.0.router.policies.store().cloned()
    }
}

fn close_all(tunnel: &TunnelView<ChannelPair>, notice: &Notice) {
    for (_, pair) in &tunnel.pairs {
        // The pair may have closed in the meantime.
        let _ = pair.deny(notice);
    }
}

fn live_link(link: &LinkRef, channels: u32, keys: Vec<Id>) -> LiveLink {
    let peer = &link.peer;
    LiveLink {
        number: link.number,
        role: peer.role,
        account: peer.identity.account(),
        credential: peer.identity.credential().map(CredentialId),
        instance: peer.instance,
        address: peer.visitor,
        since: link.since,
        channels,
        keys,
        received_bytes: link.received_bytes.load(Relaxed),
        sent_bytes: link.sent_bytes.load(Relaxed),
    }
}
