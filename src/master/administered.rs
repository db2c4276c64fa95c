//! A master as its operator administers it: live links and tunnels, blocks, limits in force and
//! events. The types are data, so that the admin API and tests need nothing else of a master.

use std::{net::IpAddr, time::Duration};

use serde::Serialize;
use tokio::sync::broadcast;

use super::events::MasterEvent;
use crate::policy::{AccountId, Admission, CredentialId, Limits};
#[cfg(feature = "store")]
use crate::store::Store;
use report_proto::{frame::Role, id::Id};

/// A master as its operator administers it. All methods answer from memory.
pub trait AdministeredMaster: Send + Sync {
    /// Returns the links that are up, in the order of their numbers.
    fn links(&self) -> Vec<LiveLink>;

    /// Returns the tunnels, in the order of their numbers.
    fn tunnels(&self) -> Vec<LiveTunnel>;

    /// Ends a link. Its role may connect again. Returns whether the link was up.
    fn end_link(&self, link: u64) -> bool;

    /// Closes the channels of a tunnel. Its client may attach again after a pause. Returns whether
    /// the tunnel existed.
    fn end_tunnel(&self, tunnel: u64) -> bool;

    /// Refuses the peer of a link for a time: the credential, or the address without one. Ends all
    /// links of that peer. Returns `None` if the link is not up, or if there are too many blocks.
    fn block_link(&self, link: u64, time: Duration) -> Option<Block>;

    /// Refuses the client of a tunnel at its key for a time. Ends all tunnels of that client to the
    /// key. Returns `None` if the tunnel does not exist, or if there are too many blocks.
    fn block_tunnel(&self, tunnel: u64, time: Duration) -> Option<Block>;

    /// Returns the blocks that are in force.
    fn blocks(&self) -> Vec<Block>;

    /// Removes a block. Returns whether it was in force.
    fn unblock(&self, block: u64) -> bool;

    /// Returns the limits of the relay, and of the accounts and keys with links, registrations or
    /// tunnels at present.
    fn limits(&self) -> Vec<LimitsInForce>;

    /// Reports that the admin API has refused a token, as an event and for the audit log.
    fn report_refused_token(&self, address: IpAddr, reason: String);

    /// Returns the events from now on. A receiver that is too slow misses some.
    fn events(&self) -> broadcast::Receiver<MasterEvent>;

    /// Returns the state of the master.
    fn status(&self) -> MasterStatus;

    /// Returns the database of the master.
    #[cfg(feature = "store")]
    fn store(&self) -> Option<std::sync::Arc<Store>>;
}

/// A link that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct LiveLink {
    /// The master's number of the link.
    pub number: u64,
    /// The role at the other end.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub role: Role,
    /// The account of the peer. A client without a credential has none.
    pub account: Option<AccountId>,
    /// The credential that the peer has proven.
    pub credential: Option<CredentialId>,
    /// The process of the role.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub instance: Id,
    /// The address of the peer.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub address: IpAddr,
    /// The time at which the link was established, in Unix seconds.
    pub since: i64,
    /// The open channels.
    pub channels: u32,
    /// The key ids that the server has registered.
    #[cfg_attr(feature = "store", schema(value_type = Vec<String>))]
    pub keys: Vec<Id>,
    /// Payload bytes received from the link.
    pub received_bytes: u64,
    /// Payload bytes sent to the link.
    pub sent_bytes: u64,
}

/// A tunnel: the channels of one client process for one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct LiveTunnel {
    /// The master's number of the tunnel.
    pub number: u64,
    /// The key id.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub key: Id,
    /// The label of the key, if the master knows the key.
    pub label: Option<String>,
    /// The account to which the traffic is charged.
    pub owner: Option<AccountId>,
    /// The account of the client.
    pub account: Option<AccountId>,
    /// The credential of the client.
    pub credential: Option<CredentialId>,
    /// The process of the client.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub instance: Id,
    /// The address of the client.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub address: IpAddr,
    /// The time of the first attachment, in Unix seconds.
    pub since: i64,
    /// The numbers of the client's links that carry it.
    pub links: Vec<u64>,
    /// The channels that carry it.
    pub channels: u32,
    /// Payload bytes from the client to the server in the channels that are open.
    pub up_bytes: u64,
    /// Payload bytes from the server to the client in the channels that are open.
    pub down_bytes: u64,
}

/// A peer that the master refuses for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct Block {
    /// The master's number of the block.
    pub number: u64,
    /// The blocked credential.
    pub credential: Option<CredentialId>,
    /// The blocked address, or an IPv6 network of 64 bits. It applies to peers without a credential.
    #[cfg_attr(feature = "store", schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// Whether the block applies to servers with the master key. Otherwise an address is that of
    /// clients.
    pub master_key: bool,
    /// The only key that the block applies to. Without it, the peer may not link.
    #[cfg_attr(feature = "store", schema(value_type = Option<String>))]
    pub key: Option<Id>,
    /// The end of the block, in Unix seconds.
    pub until: i64,
}

/// The limits of the relay, of an account or of a key, and its present numbers at this master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct LimitsInForce {
    /// The kind of the object with the limits: `relay`, `account` or `key`.
    pub kind: String,
    /// The id of the account or the key.
    pub id: String,
    /// The name of the account, or the label of the key.
    pub name: Option<String>,
    /// The limits of its policy.
    pub limits: Limits,
    /// Links. For a key: links of servers that register it.
    pub links: u32,
    /// Tunnels.
    pub tunnels: u32,
    /// Whether a quota has stopped the traffic.
    pub is_stopped: bool,
    /// The time for which traffic from clients to servers had to wait for rate limits.
    pub throttled_up_seconds: u64,
    /// The time for which traffic from servers to clients had to wait for rate limits.
    pub throttled_down_seconds: u64,
}

/// The state of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct MasterStatus {
    /// The version of the program.
    pub version: String,
    /// Which key ids servers may register.
    pub admission: Admission,
    /// The database without its password, if the master has one.
    pub store: Option<String>,
    /// Why the policies may be outdated: the database does not answer, or has an invalid record.
    pub degraded: Option<StoreProblem>,
    /// Whether the master is draining.
    pub is_draining: bool,
    /// Links that are up.
    pub links: u64,
    /// Tunnels.
    pub tunnels: u64,
}

/// The reason why the policies of a master may be outdated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct StoreProblem {
    /// The error of the database.
    pub cause: String,
    /// The time at which it began, in Unix seconds.
    pub since: i64,
    /// Whether the database does not answer.
    pub is_away: bool,
}
