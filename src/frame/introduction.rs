//! What both ends of a link say about themselves at its start (PROTOCOL 4).

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::FrameError;
use crate::id::Id;

/// What a role is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Registers ports, and proves the master key.
    Server,
    /// Attaches to ports.
    Client,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

/// 32 random bytes, drawn for each link. In text they are 64 hexadecimal digits.
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
        // Two ids one after the other have the very shape of a nonce.
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

/// What a role claims in HELLO (PROTOCOL 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The version that the role speaks.
    pub version: u8,
    /// What it is.
    pub role: Role,
    /// Drawn once when the process started.
    pub instance: Id,
    /// Grows with each link of this instance.
    pub epoch: u64,
    /// Whether the role moves here from its link before, which goes on until the role closes it (PROTOCOL 5.2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moves: bool,
    /// For so many seconds the master is asked to say nothing by itself: the role finds out for how long the path lets a link be silent (PROTOCOL 6.7).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quiet_seconds: u32,
    /// Drawn for this link.
    pub nonce: Nonce,
    /// Free text for the log, like `report/0.1.0`.
    #[serde(default)]
    pub agent: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What the master grants in WELCOME (PROTOCOL 4.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The version that the master speaks.
    pub version: u8,
    /// The heartbeat interval that it asks for.
    pub heartbeat_seconds: u32,
    /// Channels that this link may hold.
    pub max_channels: u32,
    /// Key ids that this link may register.
    pub max_ports: u32,
}

impl Claims {
    /// The JSON text that HELLO carries and its proof covers.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json(self)
    }

    /// The claims in a HELLO.
    ///
    /// # Errors
    /// [`FrameError::Json`] when the text is not what claims look like.
    pub fn decode(text: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(text).map_err(|error| FrameError::Json {
            name: "HELLO",
            reason: error.to_string(),
        })
    }
}

impl Terms {
    /// The JSON text that WELCOME carries and its proof covers.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json(self)
    }

    /// The terms in a WELCOME.
    ///
    /// # Errors
    /// [`FrameError::Json`] when the text is not what terms look like.
    pub fn decode(text: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(text).map_err(|error| FrameError::Json {
            name: "WELCOME",
            reason: error.to_string(),
        })
    }
}

#[expect(
    clippy::expect_used,
    reason = "strings and numbers with string keys always have a JSON form"
)]
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("claims and terms have a JSON form")
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

    #[test]
    fn the_claim_to_be_left_in_silence_is_there_only_when_it_is_made() {
        let claims = Claims {
            version: 1,
            role: Role::Client,
            instance: Id([1; 16]),
            epoch: 7,
            moves: false,
            quiet_seconds: 0,
            nonce: Nonce([2; 32]),
            agent: "vector/1".to_owned(),
        };
        let usual = claims.encode();
        assert!(
            !String::from_utf8_lossy(&usual).contains("quiet"),
            "as every version before wrote it"
        );
        assert_eq!(Claims::decode(&usual), Ok(claims.clone()));
        let quiet = Claims {
            quiet_seconds: 316,
            ..claims
        };
        assert!(String::from_utf8_lossy(&quiet.encode()).contains("\"quiet_seconds\":316"));
        assert_eq!(Claims::decode(&quiet.encode()), Ok(quiet));
    }
}
