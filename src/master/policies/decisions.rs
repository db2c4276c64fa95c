//! Decisions about links, registrations and attachments: collects the live numbers, asks the table,
//! and reports what is denied.

use tracing::warn;

use super::{
    LinkSlotEntry, MasterPolicies,
    link_slots::AccountSlot,
    live_keys::{TunnelCounts, TunnelKey},
};
use crate::{
    master::{
        events::{EventKind, EventPeer},
        identity::Identity,
        registry::Candidate,
        router::LinkPeer,
    },
    metrics::RefusalCounts,
    policy::{
        AccountId, AttachCounts, AttachQuery, CredentialId, Denied, LimitSubject, LiveCounts,
        PolicyTable, RegisterCounts, RegisterQuery,
    },
};
use report_proto::{
    frame::{Code, Notice},
    id::Id,
};

/// The request that a policy has denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) enum DeniedRequest {
    /// A link.
    Link,
    /// The registration of a key id.
    Register(Id),
    /// A channel to a key id.
    Attach(Id),
}

impl DeniedRequest {
    /// Returns the stage for the metrics.
    fn stage(self) -> &'static str {
        match self {
            DeniedRequest::Link => "link",
            DeniedRequest::Register(_) => "register",
            DeniedRequest::Attach(_) => "attach",
        }
    }

    fn key(self) -> Option<Id> {
        match self {
            DeniedRequest::Link => None,
            DeniedRequest::Register(key) | DeniedRequest::Attach(key) => Some(key),
        }
    }
}

/// Returns the notice for the peer.
pub(in crate::master) fn denied_notice(denied: Denied) -> Notice {
    Notice::new(Code::Denied, denied.to_string())
}

impl MasterPolicies {
    /// Decides whether a link is admitted. Its entry counts it until it is dropped.
    ///
    /// # Errors
    /// The policy that denies it.
    pub(in crate::master) fn admit_link(&self, peer: &LinkPeer) -> Result<LinkSlotEntry, Denied> {
        let table = self.table();
        self.link_slots
            .enter(AccountSlot::of(peer), |account, relay| {
                self.decide_link(&table, peer, [account, relay])
            })
    }

    /// Decides whether a link is admitted beside these numbers of other links: of its account, and
    /// of all.
    pub(super) fn decide_link(
        &self,
        table: &PolicyTable,
        peer: &LinkPeer,
        [account, relay]: [u32; 2],
    ) -> Result<(), Denied> {
        let now = self.clock.seconds();
        let identity = peer.identity;
        self.blocks.check(identity, peer.visitor, None, now)?;
        // A removed credential may have been created again in another account. The link keeps the
        // rights of its former one, so it ends.
        let present = table.account_of(identity.into());
        if present.is_some() && present != identity.account() {
            return Err(Denied::CredentialRevoked);
        }
        let links = |own: u32, subject: Option<LimitSubject>| {
            let others = subject.map(|subject| self.others(subject).links);
            LiveCounts {
                links: own.saturating_add(others.unwrap_or(0)),
                ..LiveCounts::default()
            }
        };
        let counts = [
            links(account, identity.account().map(LimitSubject::Account)),
            links(relay, Some(LimitSubject::Relay)),
        ];
        table.decide_link(identity.into(), peer.role, peer.visitor, now, counts)
    }

    /// Decides whether a server may register a key id.
    pub(in crate::master) fn decide_register(
        &self,
        table: &PolicyTable,
        peer: &LinkPeer,
        candidate: &Candidate,
    ) -> Result<(), Denied> {
        let account = peer.identity.account().unwrap_or(AccountId::MASTER);
        let query = RegisterQuery {
            admission: self.admission_of(table, candidate.key),
            key: candidate.key,
            account,
            visitor: peer.visitor,
            holder: candidate.holder,
            now: self.clock.seconds(),
        };
        let of_account = self.others(LimitSubject::Account(account));
        let of_key = self.others(LimitSubject::Key(candidate.key));
        let counts = RegisterCounts {
            account: LiveCounts {
                keys: candidate.account_keys.saturating_add(of_account.keys),
                ..LiveCounts::default()
            },
            key: LiveCounts {
                links: candidate.key_links.saturating_add(of_key.links),
                ..LiveCounts::default()
            },
        };
        table.decide_register(&query, &counts)
    }

    /// Decides whether a client may attach to the key of a tunnel, beside these tunnels. `server` is
    /// the account of a server that has registered the key id.
    pub(in crate::master) fn decide_attach(
        &self,
        table: &PolicyTable,
        client: &LinkPeer,
        key: Id,
        server: Option<AccountId>,
        counts: &TunnelCounts,
    ) -> Result<(), Denied> {
        self.decide_channel(table, client, (key, server), counts, true)
    }

    /// Decides a running channel again. It is no new attachment.
    pub(super) fn decide_running(
        &self,
        table: &PolicyTable,
        client: &LinkPeer,
        key: Id,
        server: Option<AccountId>,
        counts: &TunnelCounts,
    ) -> Result<(), Denied> {
        self.decide_channel(table, client, (key, server), counts, false)
    }

    fn decide_channel(
        &self,
        table: &PolicyTable,
        client: &LinkPeer,
        (key, server): (Id, Option<AccountId>),
        counts: &TunnelCounts,
        is_attachment: bool,
    ) -> Result<(), Denied> {
        let now = self.clock.seconds();
        let identity = client.identity;
        self.blocks
            .check(identity, client.visitor, Some(key), now)?;
        let is_resumption = || self.is_resumption(&TunnelKey::of(client, key));
        let query = AttachQuery {
            key,
            identity: identity.into(),
            server,
            visitor: client.visitor,
            is_new_tunnel: counts.is_further || (counts.is_new && !is_resumption()),
            now,
        };
        let owner = table.owner(key, server);
        let has_reserve = |account: Option<AccountId>| {
            let reserve = table.relay().reserve;
            reserve.is_some_and(|reserve| account == Some(reserve.account))
        };
        let live = |subject: LimitSubject, tunnels: u32, has_reserve: bool| {
            let mut live = self.tunnels(subject, tunnels, has_reserve);
            if !is_attachment {
                live.attachments = 0;
            }
            live
        };
        let account = |id: Option<AccountId>, tunnels: u32| {
            id.map_or_else(LiveCounts::default, |id| {
                live(LimitSubject::Account(id), tunnels, false)
            })
        };
        let counts = AttachCounts {
            key: live(LimitSubject::Key(key), counts.key, false),
            owner: account(owner, counts.owner),
            client: account(identity.account(), counts.client),
            relay: live(LimitSubject::Relay, counts.relay, has_reserve(owner)),
        };
        table.decide_attach(&query, &counts)
    }

    /// Whether a tunnel without a pair ended so recently that its client resumes it.
    #[cfg(feature = "store")]
    fn is_resumption(&self, tunnel: &TunnelKey) -> bool {
        self.meter.is_known_tunnel(tunnel)
    }

    /// The same without a database, and so without limits of numbers.
    #[cfg(not(feature = "store"))]
    fn is_resumption(&self, _: &TunnelKey) -> bool {
        false
    }

    /// Returns the live numbers of a subject with these tunnels at this master.
    fn tunnels(&self, subject: LimitSubject, own: u32, has_reserve: bool) -> LiveCounts {
        let others = self.others(subject);
        let quotas = self.quota_state(subject);
        LiveCounts {
            tunnels: own.saturating_add(others.tunnels),
            attachments: others.attachments,
            is_stopped: if has_reserve {
                quotas.is_reserve_stopped
            } else {
                quotas.is_stopped
            },
            ..LiveCounts::default()
        }
    }

    /// Counts and logs what a policy has denied. The caller does not hold the table.
    pub(in crate::master) fn report_denied(
        &self,
        refusals: &RefusalCounts,
        peer: &LinkPeer,
        request: DeniedRequest,
        denied: Denied,
    ) {
        refusals.count(request.stage(), denied.code());
        let at = self.clock.seconds();
        self.events.send(at, || denied_event(peer, request, denied));
        self.log_limit.log(|left_out| {
            let account = self.account_name(peer.identity);
            let key = request.key().map(|key| self.key_name(key));
            let (account, key) = (account.as_deref(), key.as_deref());
            let (address, reason) = (peer.visitor, denied.code());
            match request {
                DeniedRequest::Link => {
                    warn!(account, %address, reason, left_out, "link denied: {denied}");
                }
                DeniedRequest::Register(_) => {
                    warn!(account, key, %address, reason, left_out, "registration denied: {denied}");
                }
                DeniedRequest::Attach(_) => {
                    warn!(account, key, %address, reason, left_out, "attachment denied: {denied}");
                }
            }
        });
    }

    /// Returns the name of the account of a link, or its number if it is unknown.
    pub(in crate::master) fn account_name(&self, identity: Identity) -> Option<String> {
        let id = identity.account()?;
        let table = self.table();
        let name = table.account(id).map(|account| account.name.clone());
        Some(name.unwrap_or_else(|| id.to_string()))
    }

    /// Returns the label of a key, or its key id if it is unknown.
    pub(in crate::master) fn key_name(&self, key: Id) -> String {
        let table = self.table();
        let label = table.key(key).map(|policy| policy.label.to_string());
        label.unwrap_or_else(|| key.to_string())
    }
}

impl AccountSlot {
    /// Returns the slot of a link.
    pub(super) fn of(peer: &LinkPeer) -> Self {
        AccountSlot {
            account: peer.identity.account(),
            role: peer.role,
            instance: peer.instance,
            slot: peer.slot,
        }
    }
}

impl TunnelKey {
    /// Returns the tunnel of a client's link for a key.
    pub(in crate::master) fn of(client: &LinkPeer, key: Id) -> Self {
        TunnelKey {
            client: client.identity,
            instance: client.instance,
            key,
        }
    }
}

impl EventPeer {
    /// Returns the peer of a link.
    pub(in crate::master) fn of(peer: &LinkPeer) -> Self {
        EventPeer {
            link: peer.number,
            role: peer.role,
            account: peer.identity.account(),
            credential: peer.identity.credential().map(CredentialId),
            address: peer.visitor,
        }
    }
}

fn denied_event(peer: &LinkPeer, request: DeniedRequest, denied: Denied) -> EventKind {
    let peer = EventPeer::of(peer);
    match request {
        DeniedRequest::Link => EventKind::LinkDenied { peer, denied },
        DeniedRequest::Register(key) => EventKind::RegistrationDenied { peer, key, denied },
        DeniedRequest::Attach(key) => EventKind::AttachDenied { peer, key, denied },
    }
}
