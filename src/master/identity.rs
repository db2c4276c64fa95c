//! The identity at the far end of a link, and the lookup of its credential. Knows keys and ids, but
//! no links and no policies.

use std::fmt;

use report_proto::{crypto::CredentialVerifier, frame::Role, id::Id};

/// The number of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub i64);

impl fmt::Display for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

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

    /// Returns the account of the credential.
    #[must_use]
    pub fn account(self) -> Option<AccountId> {
        match self {
            Identity::Credential { account, .. } => Some(account),
            Identity::MasterKey | Identity::Anonymous => None,
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

/// The lookup of a master without credentials.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredentials;

impl CredentialLookup for NoCredentials {
    fn find(&self, _: Id) -> Option<KnownCredential> {
        None
    }
}
