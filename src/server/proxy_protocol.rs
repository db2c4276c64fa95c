//! What a service that asks for it hears of a connection before its first byte: the header of the PROXY protocol, version 2, with the two ends of the
//! application's connection to the client.

use crate::{link::proxy_protocol, tunnel::origin::Origin};

/// The header of a connection from there. Without an origin it says LOCAL: the service is to take the connection's own ends for what they are.
#[must_use]
pub fn header(origin: Option<&Origin>) -> Vec<u8> {
    proxy_protocol::written(origin.map(|origin| (origin.source(), origin.destination())))
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
    fn headers_are_those_of_the_vectors() {
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
