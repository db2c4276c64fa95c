//! The payloads of the tunnel handshake (PROTOCOL 7.2, 7.3): the client's offer and the server's
//! answer.

use serde::{Deserialize, Serialize};

use super::parameters::{PortParameters, ZSTD_CONTEXTS};
use report_proto::frame::Code;
use report_proto::{id::Id, mux::PeerGrant};

/// The version of the tunnel protocol. It is separate from the version of the link protocol: the two
/// ends of a tunnel compare it, and the master does not see it.
pub const VERSION: u32 = 1;

/// The client's offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// [`VERSION`].
    pub version: u32,
    /// The client's methods for the port.
    #[serde(flatten)]
    pub methods: Methods,
    /// Credit for the server.
    #[serde(flatten)]
    pub grant: Grant,
    /// Whether the client opens lanes at the server's request (LANES). Absent if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lanes: bool,
    /// The tunnel to resume, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeRequest>,
}

/// The tunnel that the client asks to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeRequest {
    /// Its id.
    pub tunnel: Id,
    /// Attempt number, larger than those of all earlier attempts.
    pub attempt: u64,
    /// The previous attachment works: no data in flight on it is lost.
    #[serde(rename = "join", default)]
    pub joins: bool,
}

/// The methods of a port, by their configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Methods {
    /// Value of `encrypt_method`.
    pub encrypt: String,
    /// Value of `compress_method`.
    pub compress: String,
    /// Value of `protocol`.
    pub protocol: String,
    /// The number of ports in the range of `local_address`, 1 without a range.
    pub ports: u16,
}

/// The limits that one end grants the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Bytes on each stream that the peer opens.
    pub stream_window: u64,
    /// Bytes on all streams together.
    pub tunnel_window: u64,
    /// Running zstd contexts toward this end.
    #[serde(default)]
    pub zstd_contexts: usize,
}

/// The server's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachAnswer {
    /// The server accepts a new tunnel.
    Accept {
        /// Its id.
        tunnel: Id,
        /// Instance id of the server.
        instance: Id,
        /// Uptime of the server process, in milliseconds.
        age_ms: u64,
        /// Whether the server serves benchmark streams. Absent if the server does not know them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bench: Option<bool>,
        /// Whether the server requests the addresses of connections. Absent if not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        addresses: bool,
        /// The lowest client stream id that the server never saw of the ended tunnel that the
        /// client tried to resume. Absent if the server does not know it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<u64>,
        /// Credit for the client.
        #[serde(flatten)]
        grant: Grant,
    },
    /// The server resumes the tunnel.
    Resume {
        /// No data in flight on the previous attachment is lost.
        #[serde(rename = "join")]
        joins: bool,
    },
    /// The server refuses the tunnel.
    Refuse {
        /// The reason.
        code: Code,
        /// The server's protocol version.
        version: u32,
        /// The server's methods for the port.
        #[serde(flatten)]
        methods: Methods,
    },
}

/// The configurations of the two ends of a port differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The ends use different versions of the tunnel protocol.
    #[error(
        "the tunnel protocol is version {here} here and {there} at the other end: upgrade the older one"
    )]
    Version {
        /// The version of this end.
        here: u32,
        /// The version of the peer.
        there: u32,
    },
    /// The ranges of the port differ.
    #[error(
        "`local_address` has {here} port(s) here and {there} at the other end: use ranges of the same size"
    )]
    Range {
        /// The number of ports of this end.
        here: u16,
        /// The number of ports of the peer.
        there: u16,
    },
    /// A field of the port differs.
    #[error("`{field}` is \"{here}\" here and \"{there}\" at the other end: make them equal")]
    Method {
        /// One of `encrypt_method`, `compress_method` and `protocol`.
        field: &'static str,
        /// The value of this end.
        here: String,
        /// The value of the peer.
        there: String,
    },
}

impl Methods {
    /// Returns the configured methods of `port`.
    #[must_use]
    pub fn of(port: &PortParameters) -> Self {
        Methods {
            encrypt: port.encrypt.to_string(),
            compress: port.compress.to_string(),
            protocol: port.protocol.to_string(),
            ports: port.range,
        }
    }

    /// Checks that the peer has the same methods.
    ///
    /// # Errors
    /// The first field that differs, with both values.
    pub fn check(&self, there: &Methods) -> Result<(), Mismatch> {
        let fields = [
            ("encrypt_method", &self.encrypt, &there.encrypt),
            ("compress_method", &self.compress, &there.compress),
            ("protocol", &self.protocol, &there.protocol),
        ];
        match fields.into_iter().find(|(_, here, there)| here != there) {
            Some((field, here, there)) => Err(Mismatch::Method {
                field,
                here: here.clone(),
                there: shortened(there),
            }),
            None if self.ports != there.ports => Err(Mismatch::Range {
                here: self.ports,
                there: there.ports,
            }),
            None => Ok(()),
        }
    }
}

/// Sanitizes a text of the peer for an error message. The peer holds the port key, but it may be
/// faulty.
fn shortened(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(40)
        .collect()
}

impl Grant {
    /// Returns the limits that `port` grants.
    #[must_use]
    pub fn of(port: &PortParameters) -> Self {
        Grant {
            stream_window: port.stream_window.initial,
            tunnel_window: port.tunnel_window.initial,
            zstd_contexts: ZSTD_CONTEXTS,
        }
    }

    /// Returns the part that the mux uses.
    #[must_use]
    pub fn for_mux(&self) -> PeerGrant {
        PeerGrant {
            stream_window: self.stream_window,
            tunnel_window: self.tunnel_window,
        }
    }
}

impl Offer {
    /// Returns the offer of a client for this port.
    #[must_use]
    pub fn of(port: &PortParameters) -> Self {
        Offer {
            version: VERSION,
            methods: Methods::of(port),
            grant: Grant::of(port),
            lanes: true,
            resume: None,
        }
    }

    /// Checks the offer against the server's configuration.
    ///
    /// # Errors
    /// The first difference, with both values.
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
    use crate::tunnel::{ServiceProtocol, tests::plain_port};

    #[test]
    fn the_first_field_that_differs_is_named() {
        let here = plain_port();
        assert_eq!(Offer::of(&here).check(&here), Ok(()));
        let field = |there: PortParameters| match Offer::of(&there).check(&here) {
            Err(Mismatch::Method { field, there, .. }) => (field, there),
            other => panic!("{other:?}"),
        };
        for protocol in ServiceProtocol::ALL.into_iter().skip(1) {
            let there = PortParameters {
                protocol,
                range: 2,
                ..here.clone()
            };
            assert_eq!(field(there), ("protocol", protocol.to_string()));
        }
        let there = PortParameters {
            range: 2,
            ..here.clone()
        };
        let mismatch = Mismatch::Range { here: 1, there: 2 };
        assert_eq!(Offer::of(&there).check(&here), Err(mismatch));
    }

    #[test]
    fn an_offer_without_protocol_or_ports_is_invalid() {
        let offer = serde_json::to_value(Offer::of(&plain_port())).unwrap();
        assert_eq!(offer["protocol"], "tcp");
        assert_eq!(offer["ports"], 1);
        for field in ["protocol", "ports"] {
            let mut without = offer.clone();
            without.as_object_mut().unwrap().remove(field);
            assert!(serde_json::from_value::<Offer>(without).is_err(), "{field}");
        }
    }

    #[test]
    fn bench_is_absent_in_the_answer_of_an_older_server() {
        let answer = |bench| AttachAnswer::Accept {
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
        for (bench, present) in [(None, false), (Some(true), true), (Some(false), true)] {
            let text = serde_json::to_string(&answer(bench)).unwrap();
            assert_eq!(text.contains("bench"), present, "{text}");
            assert_eq!(
                serde_json::from_str::<AttachAnswer>(&text).unwrap(),
                answer(bench)
            );
        }
    }

    #[test]
    fn seen_is_absent_unless_the_server_knows_the_ended_tunnel() {
        let answer = |seen| AttachAnswer::Accept {
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
            assert_eq!(
                serde_json::from_str::<AttachAnswer>(&text).unwrap(),
                answer(seen)
            );
        }
    }

    #[test]
    fn addresses_is_absent_unless_requested() {
        let answer = |addresses| AttachAnswer::Accept {
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
                serde_json::from_str::<AttachAnswer>(&text).unwrap(),
                answer(addresses)
            );
        }
    }
}
