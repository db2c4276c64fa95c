//! The header of datagrams between an application and a SOCKS5 proxy (RFC 1928, section 7): the
//! destination, or the source of an answer. Pure.

use std::net::{IpAddr, SocketAddr};

use super::address::{ADDRESS_MAX, NAME, SocksAddress, encode_socket};
use crate::tunnel::details::NamedTarget;

/// The length of the fields before the address: two reserved bytes and the number of the fragment.
const START: usize = 3;

/// The length of the longest header.
pub(super) const HEADER_MAX: usize = START + ADDRESS_MAX;

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UdpHeaderError {
    /// It is a fragment. The proxy does not reassemble, as RFC 1928 allows.
    #[error("it is a fragment")]
    Fragment,
    /// It has no valid header.
    #[error("its header is invalid")]
    Invalid,
}

/// Decodes the header of a datagram of an application. Returns its destination and its content.
///
/// # Errors
/// If the proxy must drop the datagram.
pub(super) fn decode(datagram: &[u8]) -> Result<(NamedTarget, &[u8]), UdpHeaderError> {
    let (start, rest) = datagram
        .split_first_chunk::<START>()
        .ok_or(UdpHeaderError::Invalid)?;
    match start {
        [0, 0, 0] => {}
        [0, 0, _] => return Err(UdpHeaderError::Fragment),
        _ => return Err(UdpHeaderError::Invalid),
    }
    let (SocksAddress { host, port }, content) =
        SocksAddress::decode(rest).map_err(|_| UdpHeaderError::Invalid)?;
    let target = NamedTarget::new(host, port).map_err(|_| UdpHeaderError::Invalid)?;
    Ok((target, content))
}

/// Encodes a datagram from `source`, which is the destination of the flow as the application named
/// it: applications expect answers from there.
pub(super) fn encode(source: &NamedTarget, content: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(HEADER_MAX.saturating_add(content.len()));
    datagram.extend([0; START]);
    encode_host(&mut datagram, &source.host, source.port);
    datagram.extend_from_slice(content);
    datagram
}

/// Appends a host and a port. A name beyond 255 bytes is cut, which no valid destination has.
pub(super) fn encode_host(buffer: &mut Vec<u8>, host: &str, port: u16) {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return encode_socket(buffer, SocketAddr::new(ip, port));
    }
    let length = u8::try_from(host.len()).unwrap_or(u8::MAX);
    buffer.extend([NAME, length]);
    buffer.extend(host.bytes().take(usize::from(length)));
    buffer.extend(port.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16) -> NamedTarget {
        NamedTarget::new(host.to_owned(), port).expect("valid")
    }

    #[test]
    fn datagrams_round_trip() {
        for target in [
            target("192.0.2.1", 53),
            target("2001:db8::1", 65535),
            target("dns.lan", 53),
            target(&"n".repeat(255), 1),
        ] {
            for content in [&b""[..], b"query"] {
                let datagram = encode(&target, content);
                assert!(datagram.len() <= HEADER_MAX + content.len());
                assert_eq!(decode(&datagram), Ok((target.clone(), content)));
            }
        }
        let datagram = encode(&target("192.0.2.1", 53), b"query");
        assert_eq!(datagram, b"\0\0\0\x01\xc0\0\x02\x01\0\x35query");
    }

    #[test]
    fn fragments_are_refused() {
        let mut datagram = encode(&target("192.0.2.1", 53), b"query");
        for fragment in [1, 2, 0x80, 0xff] {
            datagram[2] = fragment;
            assert_eq!(decode(&datagram), Err(UdpHeaderError::Fragment));
        }
    }

    #[test]
    fn invalid_headers_are_refused() {
        for target in [target("192.0.2.1", 53), target("dns.lan", 53)] {
            let datagram = encode(&target, b"");
            for length in 0..datagram.len() {
                let decoded = decode(&datagram[..length]);
                assert_eq!(decoded, Err(UdpHeaderError::Invalid), "{length}");
            }
        }
        for datagram in [
            // Reserved bytes, an unknown type, port 0, an empty name, a name with a space.
            &b"\x01\0\0\x01\xc0\0\x02\x01\0\x35"[..],
            b"\0\x01\0\x01\xc0\0\x02\x01\0\x35",
            b"\0\0\0\x02\xc0\0\x02\x01\0\x35",
            b"\0\0\0\x01\xc0\0\x02\x01\0\0",
            b"\0\0\0\x03\0\0\x35",
            b"\0\0\0\x03\x03a b\0\x35",
        ] {
            assert_eq!(decode(datagram), Err(UdpHeaderError::Invalid));
        }
    }
}
