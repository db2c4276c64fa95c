//! The JSON contents of HELLO, SIGNED_HELLO and WELCOME (PROTOCOL 4).

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{FrameError, Slot};
use crate::id::Id;

/// The kind of process at the far end of a master's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Registers ports and authenticates with the master key or a credential.
    Server,
    /// Attaches to ports.
    Client,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

/// 32 random bytes, unique to each link. The text form has 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

impl fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A nonce has the text form of two concatenated ids.
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let halves = text
            .split_at_checked(32)
            .and_then(|(left, right)| Some((left.parse().ok()?, right.parse().ok()?)));
        let Some((Id(left), Id(right))) = halves else {
            return Err(D::Error::custom("a nonce is 64 hexadecimal digits"));
        };
        let mut bytes = [0; 32];
        bytes
            .iter_mut()
            .zip(left.into_iter().chain(right))
            .for_each(|(to, from)| *to = from);
        Ok(Nonce(bytes))
    }
}

/// The claims of a role in HELLO or SIGNED_HELLO (PROTOCOL 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The protocol version of the role.
    pub version: u8,
    /// Server or client.
    pub role: Role,
    /// The random id of the process, chosen at its start.
    pub instance: Id,
    /// The slot of the link. Links of one instance with different slots exist beside each other.
    #[serde(default, skip_serializing_if = "Slot::is_first")]
    pub slot: Slot,
    /// The number of the link. It increases with each link of the slot.
    pub epoch: u64,
    /// Whether the role moves from the previous link of the slot to this one.
    ///
    /// The previous link stays up until the role closes it (PROTOCOL 5.2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moves: bool,
    /// Seconds for which the master must not send anything unasked; 0 is the normal case.
    ///
    /// The role uses this to measure how long the path tolerates an idle link (PROTOCOL 6.7).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quiet_seconds: u32,
    /// The nonce of this link.
    pub nonce: Nonce,
    /// The id of the credential that the role proves. SIGNED_HELLO needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Id>,
    /// Free text for the log, such as `report/0.1.0`.
    #[serde(default)]
    pub agent: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The terms of the master in WELCOME (PROTOCOL 4.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The protocol version of the master.
    pub version: u8,
    /// The keep-alive interval that the master requests.
    pub heartbeat_seconds: u32,
    /// The maximum number of open channels on this link.
    pub max_channels: u32,
    /// The maximum number of key ids that this link may register.
    pub max_ports: u32,
    /// The range, in milliseconds, from which the role should draw its wait after repeated failed
    /// attempts; 0 is no advice.
    ///
    /// It grows with the number of the master's links, so that they return at a rate that the
    /// master can serve (PROTOCOL 6.4). Earlier versions ignore it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_within_ms: u32,
}

impl Claims {
    /// Encodes the claims as JSON. HELLO carries this text, and its proof or signature covers it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json(self)
    }

    /// Decodes the claims of a HELLO or SIGNED_HELLO.
    ///
    /// # Errors
    /// Returns [`FrameError::Json`] if the text is not valid JSON, lacks a field, or names a slot
    /// that does not exist.
    pub fn decode(text: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(text).map_err(|error| FrameError::Json {
            name: "HELLO",
            reason: error.to_string(),
        })
    }
}

impl Terms {
    /// Encodes the terms as JSON. WELCOME carries this text, and its proof covers it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json(self)
    }

    /// Decodes the terms of a WELCOME.
    ///
    /// # Errors
    /// Returns [`FrameError::Json`] if the text is not valid JSON or lacks a field.
    pub fn decode(text: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(text).map_err(|error| FrameError::Json {
            name: "WELCOME",
            reason: error.to_string(),
        })
    }
}

#[expect(
    clippy::expect_used,
    reason = "strings and numbers with string keys always serialize"
)]
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("claims and terms serialize to JSON")
        .into()
}

impl FromStr for Nonce {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Nonce::deserialize(serde::de::value::StrDeserializer::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            version: 1,
            role: Role::Client,
            instance: Id([1; 16]),
            slot: Slot::FIRST,
            epoch: 7,
            moves: false,
            quiet_seconds: 0,
            nonce: Nonce([2; 32]),
            credential: None,
            agent: "vector/1".to_owned(),
        }
    }

    fn text(claims: &Claims) -> String {
        String::from_utf8_lossy(&claims.encode()).into_owned()
    }

    #[test]
    fn claims_omit_quiet_seconds_when_zero() {
        let usual = claims();
        assert!(
            !text(&usual).contains("quiet"),
            "encoded as in earlier versions"
        );
        assert_eq!(Claims::decode(&usual.encode()), Ok(usual));
        let quiet = Claims {
            quiet_seconds: 316,
            ..claims()
        };
        assert!(text(&quiet).contains("\"quiet_seconds\":316"));
        assert_eq!(Claims::decode(&quiet.encode()), Ok(quiet));
    }

    #[test]
    fn claims_omit_the_credential_when_there_is_none() {
        assert!(!text(&claims()).contains("credential"));
        let proven = Claims {
            credential: Some(Id([9; 16])),
            ..claims()
        };
        assert!(text(&proven).contains(&format!("\"credential\":\"{}\"", Id([9; 16]))));
        assert_eq!(Claims::decode(&proven.encode()), Ok(proven));
        let short = text(&claims()).replace("\"epoch\"", "\"credential\":\"09\",\"epoch\"");
        assert!(Claims::decode(short.as_bytes()).is_err());
    }

    #[test]
    fn claims_omit_the_first_slot() {
        for slot in Slot::all() {
            let of_slot = Claims { slot, ..claims() };
            let named = format!("\"slot\":{slot}");
            assert_eq!(text(&of_slot).contains(&named), slot != Slot::FIRST);
            assert_eq!(text(&of_slot).contains("slot"), slot != Slot::FIRST);
            assert_eq!(Claims::decode(&of_slot.encode()), Ok(of_slot));
        }
    }

    #[test]
    fn terms_omit_the_advice_when_zero_and_are_read_without_it() {
        let silent = Terms {
            version: 1,
            heartbeat_seconds: 20,
            max_channels: 9,
            max_ports: 8,
            retry_within_ms: 0,
        };
        let text = |terms: &Terms| String::from_utf8_lossy(&terms.encode()).into_owned();
        assert!(
            !text(&silent).contains("retry"),
            "encoded as in earlier versions"
        );
        assert_eq!(Terms::decode(&silent.encode()), Ok(silent.clone()));
        let advised = Terms {
            retry_within_ms: 7_500,
            ..silent
        };
        assert!(text(&advised).contains("\"retry_within_ms\":7500"));
        assert_eq!(Terms::decode(&advised.encode()), Ok(advised));
    }

    #[test]
    fn claims_with_a_slot_that_does_not_exist_are_an_error_that_names_it() {
        let good = text(&claims()).replace("\"epoch\"", "\"slot\":15,\"epoch\"");
        assert_eq!(
            Claims::decode(good.as_bytes()).map(|claims| claims.slot),
            Ok(Slot::new(15).unwrap())
        );
        let bad = good.replace(":15,", ":16,");
        let error = Claims::decode(bad.as_bytes()).unwrap_err().to_string();
        assert!(
            error.contains("HELLO") && error.contains("`slot`") && error.contains("`16`"),
            "{error}"
        );
    }
}
