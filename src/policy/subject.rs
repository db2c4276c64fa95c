//! The objects that have limits.

use std::fmt;

use report_proto::id::Id;

use super::AccountId;

/// An object that has limits, and whose usage is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitSubject {
    /// All traffic of all masters that share a store.
    Relay,
    /// An account.
    Account(AccountId),
    /// A service, by its key id.
    Key(Id),
}

impl LimitSubject {
    /// Returns the kind of the subject: `relay`, `account` or `key`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            LimitSubject::Relay => "relay",
            LimitSubject::Account(_) => "account",
            LimitSubject::Key(_) => "key",
        }
    }

    /// Returns the id within its kind as text. The relay has an empty one.
    #[must_use]
    pub fn id(self) -> String {
        match self {
            LimitSubject::Relay => String::new(),
            LimitSubject::Account(id) => id.to_string(),
            LimitSubject::Key(id) => id.to_string(),
        }
    }

    /// Returns the subject with this kind and id.
    #[must_use]
    pub fn parse(kind: &str, id: &str) -> Option<Self> {
        match kind {
            "relay" if id.is_empty() => Some(LimitSubject::Relay),
            "account" => id.parse().ok().map(AccountId).map(LimitSubject::Account),
            "key" => id.parse().ok().map(LimitSubject::Key),
            _ => None,
        }
    }
}

impl fmt::Display for LimitSubject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitSubject::Relay => formatter.write_str(self.kind()),
            LimitSubject::Account(id) => write!(formatter, "account {id}"),
            LimitSubject::Key(id) => write!(formatter, "key {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip_as_kind_and_id() {
        for subject in [
            LimitSubject::Relay,
            LimitSubject::Account(AccountId(17)),
            LimitSubject::Key(Id([0xab; 16])),
        ] {
            let parsed = LimitSubject::parse(subject.kind(), &subject.id());
            assert_eq!(parsed, Some(subject), "{subject}");
        }
        for (kind, id) in [
            ("relay", "1"),
            ("account", ""),
            ("account", "x"),
            ("key", "17"),
            ("", ""),
        ] {
            assert_eq!(LimitSubject::parse(kind, id), None, "{kind} {id}");
        }
    }
}
