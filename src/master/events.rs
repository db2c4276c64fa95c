//! Events of a master, for the admin API and the audit log.

use std::net::IpAddr;

use serde::Serialize;
use tokio::sync::broadcast;

use crate::policy::{AccountId, CredentialId, Denied, ThresholdAction};
use report_proto::{frame::Role, id::Id};

/// How many events a slow receiver may be behind before it misses some.
const EVENTS_KEPT: usize = 4_096;

/// An event, with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct MasterEvent {
    /// The time in Unix seconds.
    pub at: i64,
    /// The kind of the event.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The peer of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct EventPeer {
    /// The number of its link.
    pub link: u64,
    /// Its role.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub role: Role,
    /// Its account.
    pub account: Option<AccountId>,
    /// Its credential.
    pub credential: Option<CredentialId>,
    /// Its address.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub address: IpAddr,
}

/// The kind of the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A link was established.
    LinkUp {
        /// The peer.
        peer: EventPeer,
    },
    /// A link has ended.
    LinkEnded {
        /// The peer.
        peer: EventPeer,
        /// The reason.
        reason: String,
    },
    /// A peer has not proven what it claims.
    LinkRefused {
        /// The address of the peer.
        #[cfg_attr(feature = "store", schema(value_type = String))]
        address: IpAddr,
        /// The reason.
        reason: String,
    },
    /// The admin API has refused a token.
    TokenRefused {
        /// The address of the request.
        #[cfg_attr(feature = "store", schema(value_type = String))]
        address: IpAddr,
        /// The reason.
        reason: String,
    },
    /// A policy has refused or ended a link.
    LinkDenied {
        /// The peer.
        peer: EventPeer,
        /// The policy.
        denied: Denied,
    },
    /// A server has registered key ids.
    Registered {
        /// The peer.
        peer: EventPeer,
        /// The key ids.
        #[cfg_attr(feature = "store", schema(value_type = Vec<String>))]
        keys: Vec<Id>,
    },
    /// A policy has refused or ended a registration.
    RegistrationDenied {
        /// The peer.
        peer: EventPeer,
        /// The key id.
        #[cfg_attr(feature = "store", schema(value_type = String))]
        key: Id,
        /// The policy.
        denied: Denied,
    },
    /// A client has a tunnel.
    TunnelUp {
        /// The client.
        peer: EventPeer,
        /// The number of the tunnel.
        tunnel: u64,
        /// The key id.
        #[cfg_attr(feature = "store", schema(value_type = String))]
        key: Id,
    },
    /// A tunnel has no channel any more.
    TunnelEnded {
        /// The number of the tunnel.
        tunnel: u64,
        /// The key id.
        #[cfg_attr(feature = "store", schema(value_type = String))]
        key: Id,
    },
    /// A policy has refused an attachment, or closed its channel.
    AttachDenied {
        /// The client.
        peer: EventPeer,
        /// The key id.
        #[cfg_attr(feature = "store", schema(value_type = String))]
        key: Id,
        /// The policy.
        denied: Denied,
    },
    /// Records have changed.
    PoliciesChanged {
        /// The changed accounts.
        accounts: Vec<AccountId>,
        /// The changed credentials.
        credentials: Vec<CredentialId>,
        /// The changed keys.
        #[cfg_attr(feature = "store", schema(value_type = Vec<String>))]
        keys: Vec<Id>,
        /// Whether the policy of the relay has changed.
        relay: bool,
    },
    /// A part of a quota is used up.
    QuotaReached {
        /// The relay, the account or the key.
        subject: String,
        /// The period of the quota.
        period: String,
        /// The percentage of the threshold.
        percent: u16,
        /// The action of the threshold.
        action: ThresholdAction,
    },
    /// The database does not answer, or has an invalid record.
    StoreDegraded {
        /// The error.
        cause: String,
    },
    /// The database answers again.
    StoreRecovered,
}

/// The sender of events. Without a receiver an event costs nothing.
#[derive(Debug)]
pub(super) struct Events(broadcast::Sender<MasterEvent>);

impl Events {
    /// Creates a sender without receivers.
    pub(super) fn new() -> Self {
        Events(broadcast::channel(EVENTS_KEPT).0)
    }

    /// Sends an event, which is created only if there is a receiver.
    pub(super) fn send(&self, at: i64, kind: impl FnOnce() -> EventKind) {
        if self.0.receiver_count() > 0 {
            // The last receiver may leave in between.
            let _ = self.0.send(MasterEvent { at, kind: kind() });
        }
    }

    /// Returns the events from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<MasterEvent> {
        self.0.subscribe()
    }
}
