//! The address of a destination as SOCKS5 encodes it (RFC 1928, section 5), in requests, replies and
//! datagrams: type, host and port. Pure, except for reading from a connection.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

const IPV4: u8 = 1;
/// The type of a name.
pub(super) const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The length of an encoded address with the longest name.
pub(super) const ADDRESS_MAX: usize = 1 + 1 + 255 + 2;

/// Why an address cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// Its type is unknown.
    #[error("the type of the address is {0}")]
    Type(u8),
    /// It ends too early.
    #[error("the address is incomplete")]
    Incomplete,
    /// The name is not text.
    #[error("the name is not UTF-8")]
    NotText,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// A host and a port, as an application named them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocksAddress {
    /// A name or an IP address without brackets. A name may be empty.
    pub host: String,
    pub port: u16,
}

impl SocksAddress {
    /// Decodes the address at the start of `bytes`. Returns the rest too.
    ///
    /// # Errors
    /// If there is no valid address.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), AddressError> {
        let (kind, rest) = bytes.split_first().ok_or(AddressError::Incomplete)?;
        let (host, rest) = match *kind {
            IPV4 => {
                let (octets, rest) = split::<4>(rest)?;
                (Ipv4Addr::from(octets).to_string(), rest)
            }
            IPV6 => {
                let (octets, rest) = split::<16>(rest)?;
                (Ipv6Addr::from(octets).to_string(), rest)
            }
            NAME => {
                let (length, rest) = rest.split_first().ok_or(AddressError::Incomplete)?;
                let (name, rest) = rest
                    .split_at_checked(usize::from(*length))
                    .ok_or(AddressError::Incomplete)?;
                let name = std::str::from_utf8(name).map_err(|_| AddressError::NotText)?;
                (name.to_owned(), rest)
            }
            other => return Err(AddressError::Type(other)),
        };
        let (port, rest) = split::<2>(rest)?;
        let port = u16::from_be_bytes(port);
        Ok((SocksAddress { host, port }, rest))
    }

    /// Reads an address, and nothing after it.
    ///
    /// # Errors
    /// If the connection ends, or the address is invalid.
    pub(super) async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Self, AddressError> {
        let mut bytes = vec![reader.read_u8().await?];
        let length = match bytes.first().copied() {
            Some(IPV4) => 4,
            Some(IPV6) => 16,
            Some(NAME) => {
                let length = reader.read_u8().await?;
                bytes.push(length);
                usize::from(length)
            }
            Some(other) => return Err(AddressError::Type(other)),
            None => return Err(AddressError::Incomplete),
        };
        let mut rest = vec![0; length.saturating_add(2)];
        reader.read_exact(&mut rest).await?;
        bytes.append(&mut rest);
        Self::decode(&bytes).map(|(address, _)| address)
    }
}

/// Splits an array off the start of `bytes`.
fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), AddressError> {
    let (array, rest) = bytes
        .split_first_chunk::<N>()
        .ok_or(AddressError::Incomplete)?;
    Ok((*array, rest))
}

/// Appends an address of a socket.
pub(super) fn encode_socket(buffer: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            buffer.push(IPV4);
            buffer.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            buffer.push(IPV6);
            buffer.extend(ip.octets());
        }
    }
    buffer.extend(address.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::socks::udp_header::encode_host;

    fn encoded(host: &str, port: u16) -> Vec<u8> {
        let mut buffer = Vec::new();
        encode_host(&mut buffer, host, port);
        buffer
    }

    #[tokio::test]
    async fn addresses_round_trip_and_leave_the_rest() {
        let long = "n".repeat(255);
        for (host, start) in [
            ("192.0.2.1", &[1, 192, 0, 2, 1][..]),
            ("2001:db8::1", &[4, 0x20, 0x01, 0x0d, 0xb8][..]),
            ("nas.lan", &b"\x03\x07nas.lan"[..]),
            ("", &b"\x03\x00"[..]),
            (long.as_str(), &b"\x03\xffnnn"[..]),
        ] {
            let mut bytes = encoded(host, 258);
            assert!(bytes.starts_with(start), "{host}");
            assert!(bytes.ends_with(&[1, 2]), "{host}");
            assert!(bytes.len() <= ADDRESS_MAX);
            bytes.extend(b"rest");
            let (address, rest) = SocksAddress::decode(&bytes).expect("valid");
            let host = host.to_owned();
            assert_eq!(address, SocksAddress { host, port: 258 });
            assert_eq!(rest, b"rest");
            let mut reader = &bytes[..];
            let read = SocksAddress::read(&mut reader).await.expect("valid");
            assert_eq!(read, address);
            assert_eq!(reader, b"rest");
        }
    }

    #[tokio::test]
    async fn every_truncation_is_an_error() {
        for host in ["192.0.2.1", "2001:db8::1", "nas.lan"] {
            let bytes = encoded(host, 80);
            for length in 0..bytes.len() {
                let mut part = &bytes[..length];
                let error = SocksAddress::decode(part).expect_err(host);
                assert!(matches!(error, AddressError::Incomplete), "{host} {length}");
                let error = SocksAddress::read(&mut part).await.expect_err(host);
                assert!(matches!(error, AddressError::Io(_)), "{host} {length}");
            }
        }
    }

    #[tokio::test]
    async fn unknown_types_and_names_that_are_not_text_are_errors() {
        for kind in [0, 2, 5, 255] {
            let bytes = [kind, 1, 2, 3, 4, 5, 6];
            let error = SocksAddress::decode(&bytes).expect_err("unknown");
            assert!(matches!(error, AddressError::Type(found) if found == kind));
            let error = SocksAddress::read(&mut &bytes[..]).await.expect_err("too");
            assert!(matches!(error, AddressError::Type(found) if found == kind));
        }
        let bytes = b"\x03\x02\xff\xfe\0\x50";
        let error = SocksAddress::decode(bytes).expect_err("not text");
        assert!(matches!(error, AddressError::NotText));
    }
}
