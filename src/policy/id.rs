//! The ids of accounts, credentials and tokens. A service key has the key id of the protocol.

use std::fmt;

use serde::{Deserialize, Serialize};

use report_proto::id::Id;

/// The id of an account, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct AccountId(pub i64);

impl AccountId {
    /// The account of servers that hold the master key.
    pub const MASTER: AccountId = AccountId(1);

    /// Returns the account of a column, where 0 is no account.
    #[must_use]
    pub fn of_column(value: i64) -> Option<Self> {
        (value != 0).then_some(AccountId(value))
    }

    /// Returns the value of a column, where 0 is no account.
    #[must_use]
    pub fn column(account: Option<Self>) -> i64 {
        account.map_or(0, |account| account.0)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The id of a credential: 32 hexadecimal digits as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct CredentialId(pub Id);

impl fmt::Display for CredentialId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The id of a token of the admin API, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
pub struct TokenId(pub i64);

impl fmt::Display for TokenId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
