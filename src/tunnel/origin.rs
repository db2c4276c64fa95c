//! Where the connection behind a stream comes from and where it was to go, as the details of its OPEN say it (PROTOCOL 9.11).

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The two ends of an application's connection to a client: both IPv4, or both IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    source: SocketAddr,
    destination: SocketAddr,
}

/// The fields of the details that are about it.
#[derive(Serialize, Deserialize)]
struct Fields {
    #[serde(default)]
    source: Option<SocketAddr>,
    #[serde(default)]
    destination: Option<SocketAddr>,
}

/// The details say something of an origin that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// They are no JSON object.
    #[error("the details of the stream are no JSON object")]
    NoObject,
    /// They cannot be read.
    #[error("the addresses in the details of the stream cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// One of the two is missing.
    #[error("one of the two addresses is missing in the details of the stream")]
    Half,
    /// They do not belong together.
    #[error("{0} and {1} in the details of the stream are not of the same family")]
    Families(SocketAddr, SocketAddr),
}

impl Origin {
    /// A connection from `source` that was accepted at `destination`; nothing when they are not of the same family, which those of a socket are.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let (source, destination) = (plain(source), plain(destination));
        (source.is_ipv4() == destination.is_ipv4()).then_some(Origin {
            source,
            destination,
        })
    }

    /// Where the connection comes from.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Where it was accepted.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// The details that say so.
    #[must_use]
    pub fn details(&self) -> Bytes {
        let fields = Fields {
            source: Some(self.source),
            destination: Some(self.destination),
        };
        serde_json::to_vec(&fields).unwrap_or_default().into()
    }

    /// What the details of a stream say of its origin, if anything.
    ///
    /// # Errors
    /// When what they say makes no sense.
    pub fn read(details: &[u8]) -> Result<Option<Origin>, OriginError> {
        if details.is_empty() {
            return Ok(None);
        }
        // A list would pass for the fields in their order.
        if !details.trim_ascii_start().starts_with(b"{") {
            return Err(OriginError::NoObject);
        }
        match serde_json::from_slice(details)? {
            Fields {
                source: None,
                destination: None,
            } => Ok(None),
            Fields {
                source: Some(source),
                destination: Some(destination),
            } => Origin::new(source, destination)
                .map(Some)
                .ok_or(OriginError::Families(source, destination)),
            Fields { .. } => Err(OriginError::Half),
        }
    }
}

/// IPv4 as such where a socket for both families wraps it, and without a scope, which means something on one machine alone.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        origins: Vec<Vector>,
        malformed: Vec<Malformed>,
    }

    #[derive(Deserialize)]
    struct Vector {
        details: String,
        source: Option<SocketAddr>,
        destination: Option<SocketAddr>,
        is_written_so: bool,
    }

    #[derive(Deserialize)]
    struct Malformed {
        what: String,
        details: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../tests/vectors/details.json")).unwrap()
    }

    #[test]
    fn origins_are_read_and_written_as_the_vectors_say() {
        for Vector {
            details,
            source,
            destination,
            is_written_so,
        } in vectors().origins
        {
            let origin = Origin::read(details.as_bytes())
                .unwrap_or_else(|error| panic!("{details}: {error}"));
            assert_eq!(origin.map(|origin| origin.source()), source, "{details}");
            assert_eq!(
                origin.map(|origin| origin.destination()),
                destination,
                "{details}"
            );
            if let Some(origin) = origin.filter(|_| is_written_so) {
                assert_eq!(origin.details(), details);
            }
        }
    }

    #[test]
    fn an_origin_that_makes_no_sense_is_an_error() {
        for Malformed { what, details } in vectors().malformed {
            assert!(
                Origin::read(details.as_bytes()).is_err(),
                "{what}: {details}"
            );
        }
    }

    #[test]
    fn what_a_socket_for_both_families_says_of_ipv4_is_ipv4() {
        let origin = Origin::new(
            "[::ffff:192.0.2.1]:5".parse().unwrap(),
            "[::ffff:192.0.2.2]:6".parse().unwrap(),
        )
        .unwrap();
        assert_eq!(
            (
                origin.source().to_string(),
                origin.destination().to_string()
            ),
            ("192.0.2.1:5".into(), "192.0.2.2:6".into())
        );
        let scoped = Origin::new(
            "[fe80::1%3]:5".parse().unwrap(),
            "[fe80::2%3]:6".parse().unwrap(),
        )
        .unwrap();
        assert_eq!(
            scoped.details(),
            r#"{"source":"[fe80::1]:5","destination":"[fe80::2]:6"}"#
        );
        assert_eq!(
            Origin::new(
                "192.0.2.1:5".parse().unwrap(),
                "[2001:db8::1]:6".parse().unwrap()
            ),
            None
        );
    }

    proptest::proptest! {
        #[test]
        fn every_origin_reads_back_and_arbitrary_bytes_never_panic(
            ip: std::net::IpAddr, ports: (u16, u16), noise: Vec<u8>,
        ) {
            let address = |port| SocketAddr::new(ip, port);
            let origin = Origin::new(address(ports.0), address(ports.1)).unwrap();
            proptest::prop_assert!(origin.details().len() < 200);
            proptest::prop_assert_eq!(Origin::read(&origin.details()).unwrap(), Some(origin));
            let _ = Origin::read(&noise);
        }
    }
}
