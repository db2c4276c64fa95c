//! The reasons why a policy denies a link, a registration or an attachment.

use serde::{Deserialize, Serialize};

/// The reason why a policy denies a link, a registration or an attachment. Its text is for the log
/// of the peer, and contains no id and no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Denied {
    /// The operator has blocked the peer for a while.
    #[error("the operator has blocked it for a while")]
    Blocked,
    /// The account is disabled.
    #[error("the account is disabled")]
    AccountDisabled,
    /// The validity of the account begins later.
    #[error("the account is not valid yet")]
    AccountNotYetValid,
    /// The validity of the account has ended.
    #[error("the account has expired")]
    AccountExpired,
    /// The account does not exist any more.
    #[error("the account has been removed")]
    AccountRemoved,
    /// The account may not come from this address.
    #[error("the account may not be used from this address")]
    AccountNetwork,
    /// The account registers its most key ids.
    #[error("the account registers its maximum number of keys")]
    AccountKeys,
    /// The account has its most links.
    #[error("the account has its maximum number of links")]
    AccountLinks,
    /// The account has its most tunnels.
    #[error("the account has its maximum number of tunnels")]
    AccountTunnels,
    /// The account has made its most attachments in a minute.
    #[error("the account has reached its attachments of this minute")]
    AccountAttachments,
    /// A quota of the account is used up.
    #[error("the quota of the account is used up")]
    AccountQuota,
    /// The credential is revoked or removed.
    #[error("the credential is revoked")]
    CredentialRevoked,
    /// The validity of the credential begins later.
    #[error("the credential is not valid yet")]
    CredentialNotYetValid,
    /// The validity of the credential has ended.
    #[error("the credential has expired")]
    CredentialExpired,
    /// The credential is for the other role.
    #[error("the credential is for the other role")]
    CredentialRole,
    /// The key demands a credential.
    #[error("the key can only be used with a credential")]
    CredentialRequired,
    /// The master does not know the key.
    #[error("the master does not know the key")]
    KeyUnknown,
    /// The key is disabled.
    #[error("the key is disabled")]
    KeyDisabled,
    /// The validity of the key begins later.
    #[error("the key is not valid yet")]
    KeyNotYetValid,
    /// The validity of the key has ended.
    #[error("the key has expired")]
    KeyExpired,
    /// The key may not be used from this address.
    #[error("the key may not be used from this address")]
    KeyNetwork,
    /// The account that owns the key is not valid.
    #[error("the account that owns the key is not valid")]
    KeyOwner,
    /// The key does not belong to the account.
    #[error("the key does not belong to the account")]
    KeyNotOwned,
    /// A server of another account has registered the key.
    #[error("a server of another account has registered the key")]
    KeyHeld,
    /// The key is registered by its most links.
    #[error("the key is registered by its maximum number of links")]
    KeyLinks,
    /// The key has its most tunnels.
    #[error("the key has its maximum number of tunnels")]
    KeyTunnels,
    /// The key has had its most attachments in a minute.
    #[error("the key has reached its attachments of this minute")]
    KeyAttachments,
    /// A quota of the key is used up.
    #[error("the quota of the key is used up")]
    KeyQuota,
    /// The relay has its most links.
    #[error("the relay has its maximum number of links")]
    RelayLinks,
    /// The relay has its most tunnels.
    #[error("the relay has its maximum number of tunnels")]
    RelayTunnels,
    /// The relay has had its most attachments in a minute.
    #[error("the relay has reached its attachments of this minute")]
    RelayAttachments,
    /// A quota of the relay is used up.
    #[error("the quota of the relay is used up")]
    RelayQuota,
}

impl Denied {
    /// Returns the stable code, as it is in JSON.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Denied::Blocked => "blocked",
            Denied::AccountDisabled => "account_disabled",
            Denied::AccountNotYetValid => "account_not_yet_valid",
            Denied::AccountExpired => "account_expired",
            Denied::AccountRemoved => "account_removed",
            Denied::AccountNetwork => "account_network",
            Denied::AccountKeys => "account_keys",
            Denied::AccountLinks => "account_links",
            Denied::AccountTunnels => "account_tunnels",
            Denied::AccountAttachments => "account_attachments",
            Denied::AccountQuota => "account_quota",
            Denied::CredentialRevoked => "credential_revoked",
            Denied::CredentialNotYetValid => "credential_not_yet_valid",
            Denied::CredentialExpired => "credential_expired",
            Denied::CredentialRole => "credential_role",
            Denied::CredentialRequired => "credential_required",
            Denied::KeyUnknown => "key_unknown",
            Denied::KeyDisabled => "key_disabled",
            Denied::KeyNotYetValid => "key_not_yet_valid",
            Denied::KeyExpired => "key_expired",
            Denied::KeyNetwork => "key_network",
            Denied::KeyOwner => "key_owner",
            Denied::KeyNotOwned => "key_not_owned",
            Denied::KeyHeld => "key_held",
            Denied::KeyLinks => "key_links",
            Denied::KeyTunnels => "key_tunnels",
            Denied::KeyAttachments => "key_attachments",
            Denied::KeyQuota => "key_quota",
            Denied::RelayLinks => "relay_links",
            Denied::RelayTunnels => "relay_tunnels",
            Denied::RelayAttachments => "relay_attachments",
            Denied::RelayQuota => "relay_quota",
        }
    }
}
