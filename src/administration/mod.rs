//! The operations on the records of a store, for the admin API and for the commands.
//!
//! ```text
//!  admin API ──┐                      ┌─► validation ─► Change ─► audit row ─► commit
//!  commands ───┴─► Administration ────┤
//!                                     └─► pages of records
//! ```
//!
//! Each write validates, changes the record, and inserts a row into the audit log, in one
//! transaction. Callers make the secrets: the operations take verifiers, hashes and key ids only, so
//! neither an answer nor the store contains a secret.
//!
//! An update names the fields to change. In JSON an absent field is unchanged, and `null` removes an
//! optional value. A caller that passes the version of the record it has read gets a conflict if the
//! record has changed since.
//!
//! The module knows no HTTP, no terminal and no link.

// No input may cause a panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod accounts;
mod actor;
mod audit;
mod credentials;
mod error;
mod keys;
mod lists;
mod patch;
mod relay;
mod secret_text;
#[cfg(test)]
mod tests;
mod tokens;

use std::{fmt, sync::Arc};

use crate::{
    policy::{Problem, TokenRole},
    store::{Change, Store},
};

pub use accounts::{AccountPatch, NewAccount};
pub use actor::{Actor, ActorKind};
pub use credentials::{CredentialPatch, NewCredential, RotateCredential, RotatedCredential};
pub use error::{AdministrationError, ErrorBody, ErrorCode};
pub use keys::{KeyPatch, NewKey, RotateKey, RotatedKey};
pub use lists::{AccountQuery, CredentialQuery, DEFAULT_PAGE, KeyQuery, RecordPage, TokenQuery};
pub use relay::RelayPatch;
pub use secret_text::{
    HashText, InvalidHash, InvalidToken, InvalidVerifier, TokenSecret, VerifierText,
};
pub use tokens::{NewToken, RotateToken, RotatedToken, TokenPatch};

/// Returns the time in Unix seconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The operations on the records of a store.
#[derive(Clone)]
pub struct Administration {
    store: Arc<Store>,
    clock: Clock,
}

impl fmt::Debug for Administration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Administration({})", self.store.url())
    }
}

impl Administration {
    /// Creates the operations of a store.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Clock) -> Self {
        Administration { store, clock }
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Returns the time in Unix seconds.
    fn now(&self) -> i64 {
        (self.clock)()
    }

    /// Begins a change for an actor that may change records.
    ///
    /// The change holds the lock of all changes, so a record that is read afterwards stays the same
    /// until the change is committed.
    async fn begin(&self, actor: &Actor) -> Result<Change<'_>, AdministrationError> {
        actor.require(TokenRole::Own)?;
        Ok(self.store.change().await?)
    }
}

/// Returns an error if there are problems.
fn check(problems: Vec<Problem>) -> Result<(), AdministrationError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(AdministrationError::Invalid(problems))
    }
}
