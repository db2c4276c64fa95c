//! Decisions: whether a policy admits a link, a registration or an attachment.
//!
//! A decision is made when a peer asks, and again when a policy or the time changes. The counts are
//! arguments, and never include the link, the registration or the tunnel of the decision itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    Account, AccountId, Counts, CredentialId, Denied, KeyPolicy, PolicyTable, Validity,
    ValidityState,
};
use report_proto::{frame::Role, id::Id};

/// Which key ids servers may register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// All. Known keys obey their policy, and an account cannot take over the key id that a living
    /// server of another account holds.
    #[default]
    Open,
    /// Those of known keys.
    Known,
    /// Those of keys that their account owns.
    Owned,
}

/// The identity that a link has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkIdentity {
    /// The master key, so that the link belongs to [`AccountId::MASTER`].
    MasterKey,
    /// A credential.
    Credential(CredentialId),
    /// Nothing, as clients without a credential.
    Anonymous,
}

/// Live numbers of an account, of a key, or of the relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveCounts {
    /// Links. For a key: links of servers that register it.
    pub links: u32,
    /// Tunnels.
    pub tunnels: u32,
    /// Registered key ids of an account.
    pub keys: u32,
    /// New tunnels in the last minute.
    pub attachments: u32,
    /// Whether a quota has stopped the traffic.
    pub is_stopped: bool,
}

/// A registration to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterQuery {
    /// Which key ids servers may register.
    pub admission: Admission,
    /// The key id.
    pub key: Id,
    /// The account of the server's link.
    pub account: AccountId,
    /// The address of the server.
    pub visitor: IpAddr,
    /// The account of a living server that has registered the key id, except this link.
    pub holder: Option<AccountId>,
    /// The time.
    pub now: i64,
}

/// The live numbers for a registration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegisterCounts {
    /// Those of the account.
    pub account: LiveCounts,
    /// Those of the key.
    pub key: LiveCounts,
}

/// An attachment to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachQuery {
    /// The key id.
    pub key: Id,
    /// The identity that the client's link has proven.
    pub identity: LinkIdentity,
    /// The account of the server's link, if a server has registered the key id.
    pub server: Option<AccountId>,
    /// The address of the client.
    pub visitor: IpAddr,
    /// Whether the client has no tunnel for this key id. Further lanes and resumptions are not
    /// counted.
    pub is_new_tunnel: bool,
    /// The time.
    pub now: i64,
}

/// The live numbers for an attachment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachCounts {
    /// Those of the key.
    pub key: LiveCounts,
    /// Those of the account that owns the key ([`PolicyTable::owner`]).
    pub owner: LiveCounts,
    /// Those of the client's account.
    pub client: LiveCounts,
    /// Those of the relay.
    pub relay: LiveCounts,
}

impl PolicyTable {
    /// Returns the account of a link.
    #[must_use]
    pub fn account_of(&self, identity: LinkIdentity) -> Option<AccountId> {
        match identity {
            LinkIdentity::MasterKey => Some(AccountId::MASTER),
            LinkIdentity::Credential(id) => {
                let record = self.credential(id)?;
                Some(record.credential.account)
            }
            LinkIdentity::Anonymous => None,
        }
    }

    /// Returns the account to which the traffic of a key is charged: its owner, otherwise the
    /// account of the server's link.
    #[must_use]
    pub fn owner(&self, key: Id, server: Option<AccountId>) -> Option<AccountId> {
        self.key(key).and_then(KeyPolicy::account).or(server)
    }

    /// Decides whether a link is admitted. `account` and `relay` are the counts of the other links.
    ///
    /// # Errors
    /// The reason why it is denied.
    pub fn decide_link(
        &self,
        identity: LinkIdentity,
        role: Role,
        visitor: IpAddr,
        now: i64,
        [account, relay]: [LiveCounts; 2],
    ) -> Result<(), Denied> {
        let policy = self.check_identity(identity, role, visitor, now)?;
        if let Some(policy) = policy {
            let maximum = policy.limits.counts.links;
            check_count(account.links, maximum, Denied::AccountLinks)?;
        }
        let maximum = self.relay().limits.counts.links;
        check_count(relay.links, maximum, Denied::RelayLinks)
    }

    /// Decides whether a server may register a key id. The link itself is admitted already.
    ///
    /// # Errors
    /// The reason why it is denied.
    pub fn decide_register(
        &self,
        query: &RegisterQuery,
        counts: &RegisterCounts,
    ) -> Result<(), Denied> {
        let key = self.key(query.key);
        match query.admission {
            Admission::Open => {}
            Admission::Known if key.is_none() => return Err(Denied::KeyUnknown),
            Admission::Known => {}
            // The answer does not tell whether another account has the key.
            Admission::Owned => {
                let is_owned = key.is_some_and(|key| key.account() == Some(query.account));
                is_owned.then_some(()).ok_or(Denied::KeyNotOwned)?;
            }
        }
        if let Some(key) = key {
            check_key(key, query.now)?;
            check_network(key.allows_server(query.visitor), Denied::KeyNetwork)?;
            self.check_owner(key, query.account, query.now)?;
            check_count(counts.key.links, key.counts().links, Denied::KeyLinks)?;
        }
        // An owner gets its key although another account still holds it.
        let is_held = query.holder.is_some_and(|holder| holder != query.account);
        if is_held && query.admission != Admission::Owned {
            return Err(Denied::KeyHeld);
        }
        let maximum = self
            .account(query.account)
            .and_then(|account| account.max_keys);
        check_count(counts.account.keys, maximum, Denied::AccountKeys)
    }

    /// Decides whether a client may attach to a key id. An unknown key id is admitted: without a
    /// registration the request waits, as it does for an absent server, so that clients cannot find
    /// out which keys exist.
    ///
    /// # Errors
    /// The reason why it is denied.
    pub fn decide_attach(&self, query: &AttachQuery, counts: &AttachCounts) -> Result<(), Denied> {
        let AttachQuery { visitor, now, .. } = *query;
        let client = self.check_identity(query.identity, Role::Client, visitor, now)?;
        let key = self.key(query.key);
        if let Some(key) = key {
            check_key(key, now)?;
            if key.needs_credential && query.identity == LinkIdentity::Anonymous {
                return Err(Denied::CredentialRequired);
            }
            check_network(key.allows_client(visitor), Denied::KeyNetwork)?;
        }
        let owner = self.owner(query.key, query.server);
        let owner = match owner {
            Some(id) => self.active_account(id, now).map_err(|_| Denied::KeyOwner)?,
            None => None,
        };
        // A client of the owner's account is counted once.
        let client = client.filter(|client| owner.is_none_or(|owner| owner.id != client.id));
        let usage = |counts, is_new| Usage { counts, is_new };
        let is_new = query.is_new_tunnel;
        let maximum = key.map(KeyPolicy::counts).unwrap_or_default();
        usage(counts.key, is_new).check(maximum, &KEY_DENIALS)?;
        let maximum = owner
            .map(|account| account.limits.counts)
            .unwrap_or_default();
        usage(counts.owner, is_new).check(maximum, &ACCOUNT_DENIALS)?;
        if let Some(client) = client {
            usage(counts.client, is_new).check(client.limits.counts, &ACCOUNT_DENIALS)?;
        }
        usage(counts.relay, is_new).check(self.relay().limits.counts, &RELAY_DENIALS)
    }

    /// Checks the identity of a link. Returns the policy of its account, if it has one.
    fn check_identity(
        &self,
        identity: LinkIdentity,
        role: Role,
        visitor: IpAddr,
        now: i64,
    ) -> Result<Option<&Account>, Denied> {
        if let LinkIdentity::Credential(id) = identity {
            // A credential that was admitted and is absent now has been removed.
            let record = self.credential(id).ok_or(Denied::CredentialRevoked)?;
            let credential = &record.credential;
            if credential.role != role {
                return Err(Denied::CredentialRole);
            }
            check_validity(
                !credential.revoked,
                credential.validity(),
                now,
                [
                    Denied::CredentialRevoked,
                    Denied::CredentialNotYetValid,
                    Denied::CredentialExpired,
                ],
            )?;
        }
        let Some(id) = self.account_of(identity) else {
            return Ok(None);
        };
        let account = self.active_account(id, now)?;
        let is_allowed = account.is_none_or(|account| account.networks.allow(visitor));
        check_network(is_allowed, Denied::AccountNetwork)?;
        Ok(account)
    }

    /// Returns an account that is valid at this time. The account of the master key may have no
    /// policy.
    fn active_account(&self, id: AccountId, now: i64) -> Result<Option<&Account>, Denied> {
        let Some(account) = self.account(id) else {
            let is_master = id == AccountId::MASTER;
            return is_master.then_some(None).ok_or(Denied::AccountRemoved);
        };
        let denials = [
            Denied::AccountDisabled,
            Denied::AccountNotYetValid,
            Denied::AccountExpired,
        ];
        check_validity(account.enabled, account.validity(), now, denials)?;
        Ok(Some(account))
    }

    /// Checks the owner of a key that a server of an account registers.
    fn check_owner(&self, key: &KeyPolicy, account: AccountId, now: i64) -> Result<(), Denied> {
        if let Some(owner) = key.account()
            && owner != account
        {
            self.active_account(owner, now)
                .map_err(|_| Denied::KeyOwner)?;
        }
        Ok(())
    }
}

/// The live numbers of one subject of an attachment.
struct Usage {
    counts: LiveCounts,
    is_new: bool,
}

/// The reasons of one kind of subject: too many tunnels, too many attachments, quota used up.
type Denials = [Denied; 3];

const KEY_DENIALS: Denials = [Denied::KeyTunnels, Denied::KeyAttachments, Denied::KeyQuota];

const ACCOUNT_DENIALS: Denials = [
    Denied::AccountTunnels,
    Denied::AccountAttachments,
    Denied::AccountQuota,
];

const RELAY_DENIALS: Denials = [
    Denied::RelayTunnels,
    Denied::RelayAttachments,
    Denied::RelayQuota,
];

impl Usage {
    /// Checks the numbers against the highest ones.
    fn check(&self, maximum: Counts, denials: &Denials) -> Result<(), Denied> {
        let [tunnels, attachments, quota] = *denials;
        if self.counts.is_stopped {
            return Err(quota);
        }
        if !self.is_new {
            return Ok(());
        }
        check_count(self.counts.tunnels, maximum.tunnels, tunnels)?;
        let maximum = maximum.attachments_per_minute;
        check_count(self.counts.attachments, maximum, attachments)
    }
}

fn check_key(key: &KeyPolicy, now: i64) -> Result<(), Denied> {
    let denials = [
        Denied::KeyDisabled,
        Denied::KeyNotYetValid,
        Denied::KeyExpired,
    ];
    check_validity(key.enabled, key.validity(), now, denials)
}

fn check_validity(
    enabled: bool,
    validity: Validity,
    now: i64,
    [disabled, not_yet, expired]: [Denied; 3],
) -> Result<(), Denied> {
    if !enabled {
        return Err(disabled);
    }
    match validity.at(now) {
        ValidityState::NotYet => Err(not_yet),
        ValidityState::Valid => Ok(()),
        ValidityState::Expired => Err(expired),
    }
}

fn check_network(is_allowed: bool, denied: Denied) -> Result<(), Denied> {
    is_allowed.then_some(()).ok_or(denied)
}

/// Denies one more than the maximum.
fn check_count(others: u32, maximum: Option<u32>, denied: Denied) -> Result<(), Denied> {
    match maximum {
        Some(maximum) if others >= maximum => Err(denied),
        _ => Ok(()),
    }
}
