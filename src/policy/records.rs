//! The records of a store: accounts, credentials, service keys, tokens, and the policy of the
//! relay. The JSON of a record contains neither a verifier nor a hash.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    AccountId, ByteSize, CredentialId, Limits, Networks, TokenId, UnixTime, Validity,
    ValidityState, is_default,
    problem::{Problem, Problems},
};
use report_proto::{frame::Role, id::Id};

/// The most characters of a name or a label.
const MAX_NAME: usize = 64;

/// The most bytes of a note.
const MAX_NOTE: usize = 4096;

/// A group of servers and clients under one policy: a person, a team, a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The id. The store assigns it.
    pub id: AccountId,
    /// The name, which no other account has.
    pub name: String,
    /// Whether its links are admitted.
    pub enabled: bool,
    /// The time from which its links are admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixTime>,
    /// The time until which its links are admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// The most key ids that it registers at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_keys: Option<u32>,
    /// The networks from which its links may come. Empty for all networks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub networks: Networks,
    /// The limits of its keys and tunnels together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// A note for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Account {
    /// Creates an enabled account without limits.
    #[must_use]
    pub fn new(id: AccountId, name: impl Into<String>) -> Self {
        Account {
            id,
            name: name.into(),
            enabled: true,
            not_before: None,
            expires: None,
            max_keys: None,
            networks: Networks::default(),
            limits: Limits::default(),
            note: String::new(),
        }
    }

    /// Returns the time of its validity.
    #[must_use]
    pub fn validity(&self) -> Validity {
        Validity::new(self.not_before, self.expires)
    }

    /// Returns the problems of the record.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        check_name("name", &self.name, &mut problems);
        self.validity().check(&mut problems);
        problems.check_maximum("max_keys", self.max_keys);
        self.networks.check("networks", &mut problems);
        self.limits.check("limits", &mut problems);
        check_note(&self.note, &mut problems);
        problems.into_vec()
    }
}

/// A secret of an account, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The id, derived from the secret.
    pub id: CredentialId,
    /// The account.
    pub account: AccountId,
    /// The name, which no other credential of the account has.
    pub name: String,
    /// The role of the links that it admits.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub role: Role,
    /// The time from which it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixTime>,
    /// The time until which it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// Whether it is revoked. A revoked credential is never valid again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revoked: bool,
}

impl Credential {
    /// Returns the time of its validity.
    #[must_use]
    pub fn validity(&self) -> Validity {
        Validity::new(self.not_before, self.expires)
    }

    /// Returns the problems of the record.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        check_name("name", &self.name, &mut problems);
        self.validity().check(&mut problems);
        problems.into_vec()
    }
}

/// The keys with which a master verifies a credential and proves itself to its holder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verifier {
    /// The public key of the holder's signatures.
    pub public_key: [u8; 32],
    /// The key of the master's answer.
    pub welcome_key: [u8; 32],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier(…)")
    }
}

/// A credential with its verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRecord {
    /// The credential.
    pub credential: Credential,
    /// Its verifier.
    pub verifier: Verifier,
}

/// The policy of a service key. The key itself is known to its server and its clients only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceKey {
    /// The key id.
    #[cfg_attr(feature = "store", schema(value_type = String))]
    pub id: Id,
    /// The label for people and for metrics.
    pub label: String,
    /// The account that owns the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// Whether it may be registered and attached to.
    pub enabled: bool,
    /// The time from which it may be registered and attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixTime>,
    /// The time until which it may be registered and attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// Whether clients need a credential.
    #[serde(default, skip_serializing_if = "is_default")]
    pub needs_credential: bool,
    /// The networks from which servers may register it. Empty for all networks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub register_networks: Networks,
    /// The networks from which clients may attach to it. Empty for all networks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attach_networks: Networks,
    /// The limits of its tunnels together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// A note for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl ServiceKey {
    /// Creates an enabled key without an owner and without limits.
    #[must_use]
    pub fn new(id: Id, label: impl Into<String>) -> Self {
        ServiceKey {
            id,
            label: label.into(),
            account: None,
            enabled: true,
            not_before: None,
            expires: None,
            needs_credential: false,
            register_networks: Networks::default(),
            attach_networks: Networks::default(),
            limits: Limits::default(),
            note: String::new(),
        }
    }

    /// Returns the time of its validity.
    #[must_use]
    pub fn validity(&self) -> Validity {
        Validity::new(self.not_before, self.expires)
    }

    /// Returns the problems of the record.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        check_name("label", &self.label, &mut problems);
        self.validity().check(&mut problems);
        self.register_networks
            .check("register_networks", &mut problems);
        self.attach_networks.check("attach_networks", &mut problems);
        self.limits.check("limits", &mut problems);
        check_note(&self.note, &mut problems);
        problems.into_vec()
    }
}

/// The rights of a token of the admin API. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// Reads records and live values.
    Read,
    /// Ends and blocks links and tunnels.
    Operate,
    /// Changes records.
    Own,
}

/// A token of the admin API, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The id. The store assigns it.
    pub id: TokenId,
    /// The name, which no other token has.
    pub name: String,
    /// Its rights.
    pub role: TokenRole,
    /// The time until which it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// Whether it is revoked. A revoked token is never valid again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revoked: bool,
}

impl Token {
    /// Returns the time of its validity, which begins with the token.
    #[must_use]
    pub fn validity(&self) -> Validity {
        Validity::new(None, self.expires)
    }

    /// Whether the token is valid at a time.
    #[must_use]
    pub fn is_valid(&self, now: i64) -> bool {
        !self.revoked && self.validity().at(now) == ValidityState::Valid
    }

    /// Returns the problems of the record.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        check_name("name", &self.name, &mut problems);
        problems.into_vec()
    }
}

/// The SHA-256 of a token's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenHash(…)")
    }
}

/// A token with its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// The token.
    pub token: Token,
    /// The hash of its text.
    pub hash: TokenHash,
}

/// The policy of the whole relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RelayPolicy {
    /// The limits of all tunnels together.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// The part of the quotas that one account keeps for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Reserve>,
}

/// A part of the relay's quotas that is kept for one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// The account.
    pub account: AccountId,
    /// The percentage of each quota, 1 to 99.
    pub percent: u8,
}

impl RelayPolicy {
    /// Returns the part of a quota's bytes that the traffic of an account may use. `None` is
    /// traffic without an account.
    #[must_use]
    pub fn bytes_for(&self, account: Option<AccountId>, bytes: ByteSize) -> ByteSize {
        let kept = match self.reserve {
            Some(reserve) if account != Some(reserve.account) => u128::from(reserve.percent),
            _ => 0,
        };
        let part = u128::from(bytes.0).saturating_mul(100_u128.saturating_sub(kept)) / 100;
        ByteSize(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// Returns the problems of the policy.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.limits.check("limits", &mut problems);
        if let Some(Reserve { percent, .. }) = self.reserve {
            if !(1..=99).contains(&percent) {
                let message = "write a percentage from 1 to 99";
                problems.add("reserve.percent", percent, message);
            }
            if self.limits.quotas.is_empty() {
                let message = "the relay has no quota of which a part could be kept (add one)";
                problems.add("reserve", "", message);
            }
        }
        problems.into_vec()
    }
}

fn check_name(field: &str, name: &str, problems: &mut Problems) {
    let message = if name.is_empty() {
        "write a name".to_owned()
    } else if name.chars().count() > MAX_NAME {
        format!("write at most {MAX_NAME} characters")
    } else if name.trim() != name || name.chars().any(char::is_control) {
        "write a name without spaces at its ends and without control characters".to_owned()
    } else {
        return;
    };
    let start: String = name.chars().take(MAX_NAME).collect();
    problems.add(field, format_args!("{start:?}"), message);
}

fn check_note(note: &str, problems: &mut Problems) {
    if note.len() > MAX_NOTE {
        let found = format!("{} bytes long", note.len());
        problems.add("note", found, format!("write at most {MAX_NOTE} bytes"));
    } else if note.contains('\0') {
        // PostgreSQL takes none.
        problems.add("note", "", "write a text without the character NUL");
    }
}
