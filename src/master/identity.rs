//! The identity at the far end of a link, and the lookup of its credential. Knows keys and ids, but
//! no links and no decisions.

use std::fmt;

use crate::policy::{AccountId, CredentialId, LinkIdentity};
use report_proto::{crypto::CredentialVerifier, frame::Role, id::Id};

/// The identity that a role has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A server with the master key.
    MasterKey,
    /// A server or a client with a credential.
    Credential {
        /// The credential.
        id: Id,
        /// The account of the credential.
        account: AccountId,
    },
    /// A client without a credential.
    Anonymous,
}

impl Identity {
    /// Whether the role has proven a secret.
    #[must_use]
    pub fn is_proven(self) -> bool {
        self != Identity::Anonymous
    }

    /// Returns the credential that the role has proven.
    #[must_use]
    pub fn credential(self) -> Option<Id> {
        match self {
            Identity::Credential { id, .. } => Some(id),
            Identity::MasterKey | Identity::Anonymous => None,
        }
    }

    /// Returns the account of the link. A client without a credential has none.
    #[must_use]
    pub fn account(self) -> Option<AccountId> {
        match self {
            Identity::MasterKey => Some(AccountId::MASTER),
            Identity::Credential { account, .. } => Some(account),
            Identity::Anonymous => None,
        }
    }
}

impl From<Identity> for LinkIdentity {
    fn from(identity: Identity) -> Self {
        match identity {
            Identity::MasterKey => LinkIdentity::MasterKey,
            Identity::Credential { id, .. } => LinkIdentity::Credential(CredentialId(id)),
            Identity::Anonymous => LinkIdentity::Anonymous,
        }
    }
}

/// A credential that the master accepts.
#[derive(Debug, Clone)]
pub struct KnownCredential {
    /// The account that it belongs to.
    pub account: AccountId,
    /// The role that it is for.
    pub role: Role,
    /// Verifies the signature of the role.
    pub verifier: CredentialVerifier,
}

/// Finds the credentials that a master accepts.
///
/// The master calls it for each SIGNED_HELLO, in the task of the link. An implementation answers
/// from memory.
pub trait CredentialLookup: fmt::Debug + Send + Sync {
    /// Returns the credential with this id.
    fn find(&self, id: Id) -> Option<KnownCredential>;
}
