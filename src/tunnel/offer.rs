//! What travels inside the tunnel handshake (PROTOCOL 7.2, 7.3): the client's offer, and the server's answer.

use serde::{Deserialize, Serialize};

use super::{PortParameters, ZSTD_CONTEXTS};
use crate::{id::Id, link::channel::Code, mux::PeerGrant};

/// The version of the tunnel protocol.
pub const VERSION: u32 = 1;

/// The client's offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// [`VERSION`].
    pub version: u32,
    /// The port's methods, as the client has them.
    #[serde(flatten)]
    pub methods: Methods,
    /// What the server may send before it is granted more.
    #[serde(flatten)]
    pub grant: Grant,
    /// The tunnel that is to go on, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resumption>,
}

/// Which tunnel the client wants to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// Its name.
    pub tunnel: Id,
    /// Larger than those of all earlier attempts at it.
    pub attempt: u64,
    /// The attachment before works: nothing of it is lost.
    #[serde(rename = "move", default)]
    pub moves: bool,
}

/// The methods of a port, by their configured names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Methods {
    /// `encrypt_method`.
    pub encrypt: String,
    /// `compress_method`.
    pub compress: String,
}

/// What one end grants the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Bytes on each stream that the other opens.
    pub stream_window: u64,
    /// Bytes on all streams together.
    pub tunnel_window: u64,
    /// Running zstd frames toward this end.
    #[serde(default)]
    pub zstd_contexts: usize,
}

/// The server's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The tunnel stands.
    Accept {
        /// Its name.
        tunnel: Id,
        /// The server that holds it.
        instance: Id,
        /// For how long that process has been running, in milliseconds.
        age_ms: u64,
        /// Whether it takes measuring streams; absent in the answer of a server that does not know them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bench: Option<bool>,
        /// Whether it wants to be told where connections come from; absent when not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        addresses: bool,
        /// Of the tunnel that was to resume and is over: the lowest number of the client's streams that the server has never seen. Absent when
        /// the server does not know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<u64>,
        /// What the client may send before it is granted more.
        #[serde(flatten)]
        grant: Grant,
    },
    /// The tunnel that was asked for goes on.
    Resume {
        /// Nothing of the attachment before is lost.
        #[serde(rename = "move")]
        moves: bool,
    },
    /// The server will not have it.
    Refuse {
        /// Why.
        code: Code,
        /// The server's own version.
        version: u32,
        /// The port's methods, as the server has them.
        #[serde(flatten)]
        methods: Methods,
    },
}

/// The two ends of a port are configured differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// They speak other versions of the tunnel protocol.
    #[error(
        "the tunnel protocol is version {here} here and {there} at the other end: upgrade the older one"
    )]
    Version {
        /// Ours.
        here: u32,
        /// The peer's.
        there: u32,
    },
    /// A field of the port differs.
    #[error("`{field}` is \"{here}\" here and \"{there}\" at the other end: make them equal")]
    Method {
        /// `encrypt_method` or `compress_method`.
        field: &'static str,
        /// Ours.
        here: String,
        /// The peer's.
        there: String,
    },
}

impl Methods {
    /// The methods that `port` is configured with.
    #[must_use]
    pub fn of(port: &PortParameters) -> Self {
        Methods {
            encrypt: port.encrypt.to_string(),
            compress: port.compress.to_string(),
        }
    }

    /// That the peer has the same.
    ///
    /// # Errors
    /// Which field differs, with both values.
    pub fn check(&self, there: &Methods) -> Result<(), Mismatch> {
        let fields = [
            ("encrypt_method", &self.encrypt, &there.encrypt),
            ("compress_method", &self.compress, &there.compress),
        ];
        match fields.into_iter().find(|(_, here, there)| here != there) {
            Some((field, here, there)) => Err(Mismatch::Method {
                field,
                here: here.clone(),
                there: shortened(there),
            }),
            None => Ok(()),
        }
    }
}

/// A peer's text for an error message: it holds the port key, but may still be broken.
fn shortened(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(40)
        .collect()
}

impl Grant {
    /// What `port` is configured to grant.
    #[must_use]
    pub fn of(port: &PortParameters) -> Self {
        Grant {
            stream_window: port.stream_window.initial,
            tunnel_window: port.tunnel_window.initial,
            zstd_contexts: ZSTD_CONTEXTS,
        }
    }

    /// The part that the mux needs.
    #[must_use]
    pub fn for_mux(&self) -> PeerGrant {
        PeerGrant {
            stream_window: self.stream_window,
            tunnel_window: self.tunnel_window,
        }
    }
}

impl Offer {
    /// The offer of a client with this port.
    #[must_use]
    pub fn of(port: &PortParameters) -> Self {
        Offer {
            version: VERSION,
            methods: Methods::of(port),
            grant: Grant::of(port),
            resume: None,
        }
    }

    /// That the offer fits the server's own configuration.
    ///
    /// # Errors
    /// What differs, with both values.
    pub fn check(&self, port: &PortParameters) -> Result<(), Mismatch> {
        if self.version != VERSION {
            return Err(Mismatch::Version {
                here: VERSION,
                there: self.version,
            });
        }
        Methods::of(port).check(&self.methods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_server_from_before_measuring_streams_says_nothing_of_them() {
        let answer = |bench| Answer::Accept {
            tunnel: Id([1; 16]),
            instance: Id([2; 16]),
            age_ms: 3,
            bench,
            addresses: false,
            seen: None,
            grant: Grant {
                stream_window: 4,
                tunnel_window: 5,
                zstd_contexts: 6,
            },
        };
        for (bench, said) in [(None, false), (Some(true), true), (Some(false), true)] {
            let text = serde_json::to_string(&answer(bench)).unwrap();
            assert_eq!(text.contains("bench"), said, "{text}");
            assert_eq!(
                serde_json::from_str::<Answer>(&text).unwrap(),
                answer(bench)
            );
        }
    }

    #[test]
    fn only_a_server_that_has_given_the_tunnel_up_says_what_it_has_seen_of_it() {
        let answer = |seen| Answer::Accept {
            tunnel: Id([1; 16]),
            instance: Id([2; 16]),
            age_ms: 3,
            bench: None,
            addresses: false,
            seen,
            grant: Grant {
                stream_window: 4,
                tunnel_window: 5,
                zstd_contexts: 6,
            },
        };
        for seen in [None, Some(0), Some(8)] {
            let text = serde_json::to_string(&answer(seen)).unwrap();
            assert_eq!(text.contains("seen"), seen.is_some(), "{text}");
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer(seen));
        }
    }

    #[test]
    fn only_a_server_that_wants_addresses_says_so() {
        let answer = |addresses| Answer::Accept {
            tunnel: Id([1; 16]),
            instance: Id([2; 16]),
            age_ms: 3,
            bench: None,
            addresses,
            seen: None,
            grant: Grant {
                stream_window: 4,
                tunnel_window: 5,
                zstd_contexts: 6,
            },
        };
        for addresses in [false, true] {
            let text = serde_json::to_string(&answer(addresses)).unwrap();
            assert_eq!(text.contains(r#""addresses":true"#), addresses, "{text}");
            assert_eq!(text.contains("addresses"), addresses, "{text}");
            assert_eq!(
                serde_json::from_str::<Answer>(&text).unwrap(),
                answer(addresses)
            );
        }
    }
}
