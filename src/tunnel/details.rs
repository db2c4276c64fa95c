//! The details of OPEN and OPEN_FLOW (PROTOCOL 9.2): what a client tells the server about a stream
//! or a flow.
//!
//! The client encodes all of it at once. The server reads what its port needs and ignores the rest.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    origin::{Origin, OriginError, OriginFields},
    parameters::{PortParameters, ServiceProtocol},
};
use report_proto::mux::ResetCode;

/// The longest host of a destination, in bytes. SOCKS5 allows no longer one (RFC 1928).
const HOST_MAX: usize = 255;

/// The details of a stream or a flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenDetails {
    /// The two ends of the application's connection to the client, if the server requests them.
    pub origin: Option<Origin>,
    /// The number of the address in the range of the port, from 0.
    pub offset: u16,
    /// The destination that the application of a SOCKS5 port named.
    pub target: Option<NamedTarget>,
}

/// A destination as an application named it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamedTarget {
    /// A name or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The details that a server expects from the streams of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedDetails {
    /// Whether the service receives the origin.
    pub origin: bool,
    /// The number of addresses of the port.
    pub range: u16,
    /// Whether the application names the destination.
    pub target: bool,
}

/// The fields that select the address of the service.
#[derive(Default, Serialize, Deserialize)]
struct ServiceFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<NamedTarget>,
}

/// All fields, in the order in which they are written.
#[derive(Serialize)]
struct AllFields {
    #[serde(flatten)]
    origin: Option<OriginFields>,
    #[serde(flatten)]
    service: ServiceFields,
}

/// The details are not a JSON object with valid fields.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableDetails {
    /// They are not a JSON object.
    #[error("the details are not a JSON object")]
    NotAnObject,
    /// A field cannot be parsed.
    #[error("cannot parse the details: {0}")]
    Json(#[from] serde_json::Error),
}

/// Why a server refuses the details of a stream or a flow.
#[derive(Debug, thiserror::Error)]
pub enum OpenDetailsError {
    /// They cannot be parsed.
    #[error(transparent)]
    Unreadable(#[from] UnreadableDetails),
    /// The origin is invalid.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The range of the port has no such address.
    #[error("the details name address {offset} of a range of {range}")]
    UnknownOffset {
        /// The number in the details.
        offset: u16,
        /// The number of addresses of the port.
        range: u16,
    },
    /// The destination is missing.
    #[error("the details name no destination")]
    NoTarget,
    /// The destination is invalid.
    #[error("the details name an invalid destination")]
    InvalidTarget,
}

impl OpenDetailsError {
    /// Returns the code with which the server resets the stream or ends the flow.
    #[must_use]
    pub fn reset_code(&self) -> ResetCode {
        match self {
            Self::UnknownOffset { .. } => ResetCode::Refused,
            Self::Unreadable(_) | Self::Origin(_) | Self::NoTarget | Self::InvalidTarget => {
                ResetCode::Protocol
            }
        }
    }
}

impl NamedTarget {
    /// Returns a destination that a server accepts.
    ///
    /// # Errors
    /// When the host is empty, longer than 255 bytes or contains control characters, or the port
    /// is 0.
    pub fn new(host: String, port: u16) -> Result<Self, OpenDetailsError> {
        let target = Self { host, port };
        target.check()?;
        Ok(target)
    }

    fn check(&self) -> Result<(), OpenDetailsError> {
        let is_valid = (1..=HOST_MAX).contains(&self.host.len())
            && !self
                .host
                .chars()
                .any(|letter| letter.is_control() || letter == ' ')
            && self.port != 0;
        is_valid
            .then_some(())
            .ok_or(OpenDetailsError::InvalidTarget)
    }
}

impl WantedDetails {
    /// Returns what a server reads for `port`. `origin` tells whether the service receives the
    /// origin.
    #[must_use]
    pub fn of(port: &PortParameters, origin: bool) -> Self {
        Self {
            origin,
            range: port.range,
            target: port.protocol == ServiceProtocol::Socks5,
        }
    }
}

impl OpenDetails {
    /// Encodes the details. Details without content are empty.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        if *self == Self::default() {
            return Bytes::new();
        }
        let fields = AllFields {
            origin: self.origin.as_ref().map(OriginFields::of),
            service: ServiceFields {
                offset: Some(self.offset).filter(|offset| *offset != 0),
                target: self.target.clone(),
            },
        };
        serde_json::to_vec(&fields).unwrap_or_default().into()
    }

    /// Parses the wanted fields of the details, and ignores the others.
    ///
    /// # Errors
    /// When a wanted field is invalid, or a required one is missing.
    pub fn read(details: &[u8], wanted: WantedDetails) -> Result<Self, OpenDetailsError> {
        let origin = if wanted.origin {
            Origin::read(details)?
        } else {
            None
        };
        if wanted.range <= 1 && !wanted.target {
            return Ok(Self {
                origin,
                ..Self::default()
            });
        }
        let ServiceFields { offset, target } = fields(details)?;
        let offset = offset.filter(|_| wanted.range > 1).unwrap_or_default();
        if offset >= wanted.range.max(1) {
            let range = wanted.range;
            return Err(OpenDetailsError::UnknownOffset { offset, range });
        }
        let target = target.filter(|_| wanted.target);
        match &target {
            Some(target) => target.check()?,
            None if wanted.target => return Err(OpenDetailsError::NoTarget),
            None => {}
        }
        Ok(Self {
            origin,
            offset,
            target,
        })
    }
}

/// Parses the known fields of details. Empty details have none.
///
/// # Errors
/// When the details are not a JSON object, or a field has another type.
pub(super) fn fields<'d, T: Deserialize<'d> + Default>(
    details: &'d [u8],
) -> Result<T, UnreadableDetails> {
    if details.is_empty() {
        return Ok(T::default());
    }
    // Serde would accept a list as the fields in their order.
    if !details.trim_ascii_start().starts_with(b"{") {
        return Err(UnreadableDetails::NotAnObject);
    }
    Ok(serde_json::from_slice(details)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        services: Vec<Vector>,
        malformed_services: Vec<Malformed>,
    }

    #[derive(Deserialize)]
    struct Vector {
        details: String,
        offset: u16,
        target: Option<NamedTarget>,
        is_written_so: bool,
    }

    #[derive(Deserialize)]
    struct Malformed {
        what: String,
        details: String,
        code: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../tests/vectors/details.json")).unwrap()
    }

    /// Returns what a port with a range of this size reads, or one with named destinations.
    fn wanted(range: u16, target: bool) -> WantedDetails {
        WantedDetails {
            origin: false,
            range,
            target,
        }
    }

    #[test]
    fn services_match_the_vectors() {
        for Vector {
            details,
            offset,
            target,
            is_written_so,
        } in vectors().services
        {
            let wanted = wanted(11, target.is_some());
            let read = OpenDetails::read(details.as_bytes(), wanted)
                .unwrap_or_else(|error| panic!("{details}: {error}"));
            let expected = OpenDetails {
                origin: None,
                offset,
                target,
            };
            assert_eq!(read, expected, "{details}");
            if is_written_so {
                assert_eq!(read.encode(), details);
            }
        }
    }

    #[test]
    fn invalid_services_are_rejected() {
        for Malformed {
            what,
            details,
            code,
        } in vectors().malformed_services
        {
            let wants_target = !details.contains("offset");
            let error =
                OpenDetails::read(details.as_bytes(), wanted(11, wants_target)).expect_err(&what);
            assert_eq!(error.reset_code().to_string(), code, "{what}: {error}");
        }
    }

    #[test]
    fn all_fields_travel_together() {
        let origin = Origin::new(
            "203.0.113.9:40312".parse().unwrap(),
            "192.0.2.7:1080".parse().unwrap(),
        );
        let details = OpenDetails {
            origin,
            offset: 3,
            target: Some(NamedTarget::new("nas.lan".to_owned(), 22).unwrap()),
        };
        let encoded = details.encode();
        assert_eq!(
            encoded,
            r#"{"source":"203.0.113.9:40312","destination":"192.0.2.7:1080","offset":3,"target":{"host":"nas.lan","port":22}}"#
        );
        let wanted = WantedDetails {
            origin: true,
            range: 4,
            target: true,
        };
        assert_eq!(OpenDetails::read(&encoded, wanted).unwrap(), details);
        assert!(OpenDetails::default().encode().is_empty());
    }

    #[test]
    fn a_port_ignores_what_it_does_not_want() {
        for details in [
            r#"{"source": 1, "offset": -1, "target": "x"}"#,
            r#"{"offset": 5, "target": {"host": "", "port": 0}}"#,
            "",
        ] {
            let read = OpenDetails::read(details.as_bytes(), wanted(1, false));
            assert_eq!(read.unwrap(), OpenDetails::default(), "{details}");
        }
        let both = br#"{"offset": 5, "target": {"host": "nas.lan", "port": 22}}"#;
        let ranged = OpenDetails::read(both, wanted(6, false)).unwrap();
        assert_eq!((ranged.offset, ranged.target), (5, None));
        let named = OpenDetails::read(both, wanted(1, true)).unwrap();
        assert_eq!((named.offset, named.target.is_some()), (0, true));
    }
}
