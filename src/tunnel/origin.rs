//! The source and destination address of the connection behind a stream, as encoded in the details
//! of OPEN (PROTOCOL 9.11).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::details::{UnreadableDetails, fields};

/// The two ends of an application's connection to a client: both IPv4 or both IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    source: SocketAddr,
    destination: SocketAddr,
}

/// The fields of the details that describe the origin.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct OriginFields {
    #[serde(default)]
    source: Option<SocketAddr>,
    #[serde(default)]
    destination: Option<SocketAddr>,
}

/// The details of a stream contain an invalid origin.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// They cannot be parsed.
    #[error(transparent)]
    Unreadable(#[from] UnreadableDetails),
    /// One of the two addresses is missing.
    #[error("the stream details contain only one of the two addresses")]
    MissingAddress,
    /// The addresses belong to different families.
    #[error("the addresses {0} and {1} in the stream details belong to different families")]
    MixedFamilies(SocketAddr, SocketAddr),
}

impl Origin {
    /// Describes a connection from `source` that was accepted at `destination`. Returns `None` if
    /// their families differ, which never happens with the addresses of one socket.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let (source, destination) = (canonical(source), canonical(destination));
        (source.is_ipv4() == destination.is_ipv4()).then_some(Origin {
            source,
            destination,
        })
    }

    /// Returns the source of the connection.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Returns the address that accepted the connection.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// Parses the origin from the details of a stream; `None` if they contain none.
    ///
    /// # Errors
    /// When the origin is invalid.
    pub fn read(details: &[u8]) -> Result<Option<Origin>, OriginError> {
        match fields(details)? {
            OriginFields {
                source: None,
                destination: None,
            } => Ok(None),
            OriginFields {
                source: Some(source),
                destination: Some(destination),
            } => Origin::new(source, destination)
                .map(Some)
                .ok_or(OriginError::MixedFamilies(source, destination)),
            OriginFields { .. } => Err(OriginError::MissingAddress),
        }
    }
}

impl OriginFields {
    /// Returns the fields of an origin.
    pub(super) fn of(origin: &Origin) -> Self {
        Self {
            source: Some(origin.source),
            destination: Some(origin.destination),
        }
    }
}

/// Unwraps IPv4-mapped addresses of dual-stack sockets, and removes the scope, which is only valid
/// on one machine.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::details::OpenDetails;

    fn details(origin: Origin) -> bytes::Bytes {
        let details = OpenDetails {
            origin: Some(origin),
            ..OpenDetails::default()
        };
        details.encode()
    }

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
    fn origins_match_the_vectors() {
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
            if is_written_so {
                let written = OpenDetails {
                    origin,
                    ..OpenDetails::default()
                };
                assert_eq!(written.encode(), details);
            }
        }
    }

    #[test]
    fn invalid_origins_are_rejected() {
        for Malformed { what, details } in vectors().malformed {
            assert!(
                Origin::read(details.as_bytes()).is_err(),
                "{what}: {details}"
            );
        }
    }

    #[test]
    fn addresses_are_canonical() {
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
            details(scoped),
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
        fn every_origin_round_trips_and_arbitrary_bytes_never_panic(
            ip: std::net::IpAddr, ports: (u16, u16), noise: Vec<u8>,
        ) {
            let address = |port| SocketAddr::new(ip, port);
            let origin = Origin::new(address(ports.0), address(ports.1)).unwrap();
            proptest::prop_assert!(details(origin).len() < 200);
            proptest::prop_assert_eq!(Origin::read(&details(origin)).unwrap(), Some(origin));
            let _ = Origin::read(&noise);
        }
    }
}
