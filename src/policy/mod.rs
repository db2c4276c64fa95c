//! Policies: what an operator allows for accounts, credentials, service keys and the whole relay.
//!
//! ```text
//!  JSON, columns ──► Account, Credential, ServiceKey, RelayPolicy ──► PolicyTable ──► decisions
//!                       │ problems()                                                 └─► Denied
//! ```
//!
//! The module is pure: the time, the address of a visitor and the live counts are arguments. A time
//! is a number of Unix seconds. The module knows no database, no link and no HTTP.

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

mod decide;
mod denied;
mod id;
mod key_policy;
mod limits;
mod networks;
mod period;
mod problem;
mod quota;
mod records;
mod subject;
mod table;
#[cfg(test)]
mod tests;
mod validity;

pub use crate::quantity::{ByteSize, Rate};
pub use decide::{
    Admission, AttachCounts, AttachQuery, LinkIdentity, LiveCounts, RegisterCounts, RegisterQuery,
};
pub use denied::Denied;
pub use id::{AccountId, CredentialId, TokenId};
pub use key_policy::KeyPolicy;
pub use limits::{Counts, Limits, RateLimit, Rates};
pub use networks::{InvalidNetwork, Network, Networks};
pub use period::{
    InvalidTimeOfDay, Period, PeriodBounds, PeriodUnit, TimeOfDay, UnknownZone, Zone,
};
pub use problem::{Problem, from_json};
pub use quota::{DEFAULT_SLOW_RATE, Direction, Moved, Quota, Threshold, ThresholdAction};
pub use records::{
    Account, Credential, CredentialRecord, RelayPolicy, Reserve, ServiceKey, Token, TokenHash,
    TokenRecord, TokenRole, Verifier,
};
pub use subject::LimitSubject;
pub use table::{Affected, Changes, PolicyTable};
pub use validity::{InvalidTime, UnixTime, Validity, ValidityState};

/// Whether the value is the default, so that it need not be written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
