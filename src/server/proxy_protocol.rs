//! What a service that asks for it hears of a connection before its first byte: the header of the PROXY protocol, version 2
//! (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, 2.2), with the two ends of the application's connection to the client.

use std::io;

use ppp::v2::{AddressFamily, Builder, Command, Protocol, Version};

use crate::tunnel::origin::Origin;

/// The header of a connection from there. Without an origin it says LOCAL: the service is to take the connection's own ends for what they are.
///
/// # Errors
/// None for these lengths; the builder checks more than is needed here.
pub fn header(origin: Option<&Origin>) -> io::Result<Vec<u8>> {
    match origin {
        Some(origin) => {
            let ends = (origin.source(), origin.destination());
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, ends).build()
        }
        None => Builder::new(Version::Two | Command::Local, AddressFamily::Unspecified | Protocol::Unspecified).build(),
    }
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
        let vectors: Vectors = serde_json::from_str(include_str!("../../tests/vectors/details.json")).unwrap();
        for Vector { details, header: expected } in vectors.origins {
            let origin = Origin::read(details.as_bytes()).unwrap();
            let written: String = header(origin.as_ref()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(written, expected, "{details}");
        }
    }
}
