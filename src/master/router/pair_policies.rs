//! The policies of the operator for channel pairs: they admit them, limit their rates, charge
//! their traffic to an account, and close them.

use std::sync::Arc;

use super::{ChannelPair, ChannelRef, LinkPeer, MovedBytes, PairSide, PairState, Router};
#[cfg(feature = "store")]
use crate::master::usage::Charge;
use crate::{
    master::{
        events::{EventKind, EventPeer},
        policies::{LiveEntry, LivePair, TunnelKey, account_number},
        rates::{ChannelLimits, PairSubjects, PerDirection, RateParty},
    },
    policy::{AccountId, Denied},
};
use report_proto::{frame::Notice, id::Id};

impl Router {
    /// Decides whether a client may attach to a key id. If no server has registered it, the request
    /// waits, so the tunnel is decided again once a server has answered.
    pub(super) fn decide_attach(&self, client: &LinkPeer, key: Id) -> Result<(), Denied> {
        let server = self.registry().server_account(key);
        let table = self.policies.table();
        let owner = table.owner(key, server);
        let counts = self.live.counts(&TunnelKey::of(client, key), owner);
        self.policies
            .decide_attach(&table, client, key, server, &counts)
    }

    /// Forgets a pair that has ended.
    pub(super) fn forget_pair(&self, live: LiveEntry<ChannelPair>) {
        if let Some(tunnel) = live.forget() {
            let at = self.policies.clock().seconds();
            self.policies.events.send(at, || EventKind::TunnelEnded {
                tunnel: tunnel.number,
                key: tunnel.key,
            });
        }
    }
}

impl ChannelPair {
    /// Enters the pair that has just been spliced to `server` into its tunnel and the rate limits, if
    /// the policies admit it.
    pub(super) fn enter_tunnel(
        self: &Arc<Self>,
        state: &mut PairState,
        server: &ChannelRef,
    ) -> Result<(), Denied> {
        let (router, client) = (&self.router, &self.client.link.peer);
        let policies = &router.policies;
        let server_account = server.link.peer.identity.account();
        let now = policies.clock().seconds();
        let table = policies.table();
        let owner = table.owner(self.key, server_account);
        let pair = LivePair {
            tunnel: TunnelKey::of(client, self.key),
            client: client.number,
            server: server.link.number,
            server_account,
            owner,
            visitor: client.visitor,
        };
        let handle = Arc::downgrade(self);
        let entered = router.live.enter(pair, handle, now, |counts| {
            policies.decide_attach(&table, client, self.key, server_account, counts)
        })?;
        drop(table);
        if entered.is_new {
            policies.events.send(now, || EventKind::TunnelUp {
                peer: EventPeer::of(client),
                tunnel: entered.tunnel,
                key: self.key,
            });
        }
        #[cfg(feature = "store")]
        {
            state.meter = policies.meter.enter(
                TunnelKey::of(client, self.key),
                Charge {
                    key: self.key,
                    owner: Some(owner.unwrap_or(AccountId::MASTER)),
                    client: client.identity.account(),
                },
            );
        }
        state.live = Some(entered.entry);
        state.limits = Some(self.limit_rate(server, owner));
        Ok(())
    }

    /// Enters the pair into the rate limits.
    fn limit_rate(&self, server: &ChannelRef, owner: Option<AccountId>) -> ChannelLimits {
        let client = &self.client;
        let peer = &client.link.peer;
        let credential = peer.identity.credential();
        let subjects = PairSubjects {
            // Every server has an account.
            owner_account: account_number(owner.unwrap_or(AccountId::MASTER)),
            key: self.key,
            party: credential.map_or_else(
                || RateParty::Address(client.link.party()),
                RateParty::Credential,
            ),
            instance: peer.instance,
            client_account: peer.identity.account().map(account_number),
        };
        let channels = PerDirection {
            up: server.link.outbox.handle(server.channel),
            down: client.link.outbox.handle(client.channel),
        };
        self.router.rates.attach(subjects, channels)
    }

    /// Charges the traffic to another account from now on.
    pub(in crate::master) fn charge_to(&self, owner: Option<AccountId>) {
        let mut state = self.state();
        let (Some(live), Some(server)) = (&state.live, state.server.clone()) else {
            return;
        };
        live.set_owner(owner);
        #[cfg(feature = "store")]
        if let Some(meter) = &state.meter {
            meter.set_owner(Some(owner.unwrap_or(AccountId::MASTER)));
        }
        let former = state.limits.replace(self.limit_rate(&server, owner));
        drop(state);
        drop(former);
        // The former limits may have held messages back, and will not release them any more.
        let client = &self.client;
        client.link.outbox.ready(client.channel);
        server.link.outbox.ready(server.channel);
    }

    /// Closes both channels at once. Returns whether they were open.
    pub(in crate::master) fn deny(&self, notice: &Notice) -> bool {
        let Some(server) = self.finish(PairSide::Client) else {
            return false;
        };
        let client = &self.client;
        client.link.outbox.close(client.channel, notice);
        server.link.outbox.close(server.channel, notice);
        true
    }

    /// Returns the link of the client.
    pub(in crate::master) fn client(&self) -> &LinkPeer {
        &self.client.link.peer
    }

    /// Returns the payload bytes that were passed on so far.
    pub(in crate::master) fn moved(&self) -> MovedBytes {
        self.state().moved
    }
}
