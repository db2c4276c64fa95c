//! The secret with which a role authenticates its links.

use bytes::Bytes;

use report_proto::{
    crypto::{Challenge, Credential, LinkKey},
    frame::Frame,
    id::Id,
};

/// The secret that a role proves to its masters, and its masters to the role.
#[derive(Debug, Clone)]
pub enum LinkSecret {
    /// The key that is derived from the master key.
    MasterKey(LinkKey),
    /// The credential of an account.
    Credential(Credential),
    /// A client without a credential proves nothing: its key is public.
    Anonymous,
}

impl LinkSecret {
    /// Returns the id of the credential, if the secret is one.
    #[must_use]
    pub fn credential(&self) -> Option<Id> {
        match self {
            LinkSecret::Credential(credential) => Some(credential.id()),
            LinkSecret::MasterKey(_) | LinkSecret::Anonymous => None,
        }
    }

    /// Returns the first frame of a role with these encoded claims.
    pub(super) fn hello(&self, challenge: &Challenge, claims: Bytes) -> Frame {
        match self {
            LinkSecret::Credential(credential) => Frame::SignedHello {
                signature: credential.sign_hello(challenge, &claims),
                claims,
            },
            LinkSecret::MasterKey(_) | LinkSecret::Anonymous => Frame::Hello {
                proof: self.welcome_key().prove_hello(challenge, &claims),
                claims,
            },
        }
    }

    /// Returns the key that the master proves in WELCOME.
    pub(super) fn welcome_key(&self) -> LinkKey {
        match self {
            LinkSecret::MasterKey(key) => key.clone(),
            LinkSecret::Credential(credential) => credential.welcome_key().clone(),
            LinkSecret::Anonymous => LinkKey::derive(None),
        }
    }
}

impl From<LinkKey> for LinkSecret {
    fn from(key: LinkKey) -> Self {
        LinkSecret::MasterKey(key)
    }
}
