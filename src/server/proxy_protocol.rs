//! The header that a service receives before the first byte of a connection, if it asks for it:
//! PROXY protocol version 2, with the two ends of the application's connection to the client.

use crate::{net::proxy_protocol, tunnel::origin::Origin};

/// Encodes the header. Without an origin it is LOCAL: the service then uses the addresses of the
/// connection itself.
#[must_use]
pub(super) fn header(origin: Option<&Origin>) -> Vec<u8> {
    proxy_protocol::encode(origin.map(|origin| (origin.source(), origin.destination())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Vectors {
        origins: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        details: String,
        header: String,
    }

    #[test]
    fn headers_match_the_vectors() {
        let vectors: Vectors =
            serde_json::from_str(include_str!("../../tests/vectors/details.json")).unwrap();
        for Vector {
            details,
            header: expected,
        } in vectors.origins
        {
            let origin = Origin::read(details.as_bytes()).unwrap();
            let written: String = header(origin.as_ref())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(written, expected, "{details}");
        }
    }
}
