//! The PROXY protocol (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>): the header
//! with which a proxy states the origin of a relayed connection. Reads versions 1 and 2, writes
//! version 2.

use std::{io, net::SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The signature of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The length of the signature, version and command, family, and length fields.
const FIXED: usize = 16;

/// The maximum length of a version 2 header: the addresses, and the fields that proxies add (TLS
/// names, cloud identities).
const MAX_V2_HEADER: usize = 4096;

/// The maximum length of a version 1 line, including its end.
const MAX_V1_LINE: usize = 107;

/// Why the origin of a connection is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The connection ended or failed.
    #[error("the connection ended within the PROXY protocol header ({0})")]
    Io(#[from] io::Error),
    /// The data is not a PROXY protocol header.
    #[error("no PROXY protocol header ({0})")]
    Malformed(String),
    /// The header exceeds the maximum length.
    #[error("a PROXY protocol header of {0} bytes, more than {MAX_V2_HEADER}")]
    TooLong(usize),
}

/// Reads exactly one header. Returns `None` if the proxy connects for itself, as in a health check,
/// or the origin has no IP address.
///
/// # Errors
/// If there is no valid header.
///
/// # Cancel safety
/// Not cancel safe: the bytes read so far are lost.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    // The shortest version 1 line is also longer than this.
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        read_v2(stream, header).await
    } else {
        read_v1(stream, header).await
    }
}

async fn read_v2(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    header.resize(FIXED, 0);
    stream
        .read_exact(header.split_at_mut(SIGNATURE.len()).1)
        .await?;
    let length = header
        .last_chunk()
        .map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    if FIXED + length > MAX_V2_HEADER {
        return Err(ProxyHeaderError::TooLong(FIXED + length));
    }
    header.resize(FIXED + length, 0);
    stream.read_exact(header.split_at_mut(FIXED).1).await?;
    let header = v2::Header::try_from(header.as_slice())
        .map_err(|error| ProxyHeaderError::Malformed(error.to_string()))?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => Some(SocketAddr::new(
            addresses.source_address.into(),
            addresses.source_port,
        )),
        (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => Some(SocketAddr::new(
            addresses.source_address.into(),
            addresses.source_port,
        )),
        _ => None,
    })
}

async fn read_v1(
    stream: &mut (impl AsyncRead + Unpin),
    mut line: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    if !line.starts_with(b"PROXY ") {
        return Err(ProxyHeaderError::Malformed(
            "it does not begin with `PROXY `".to_owned(),
        ));
    }
    while !line.ends_with(b"\n") && line.len() < MAX_V1_LINE {
        line.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(line.as_slice())
        .map_err(|error| ProxyHeaderError::Malformed(error.to_string()))?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(addresses) => Some(SocketAddr::new(
            addresses.source_address.into(),
            addresses.source_port,
        )),
        v1::Addresses::Tcp6(addresses) => Some(SocketAddr::new(
            addresses.source_address.into(),
            addresses.source_port,
        )),
        v1::Addresses::Unknown => None,
    })
}

/// Encodes a version 2 header for a connection from the first address to the second. Without
/// addresses, the header states that the sender connects for itself.
#[must_use]
pub fn encode(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    encode_for(v2::Protocol::Stream, ends)
}

/// Encodes a version 2 header for datagrams from the first address to the second, as [`encode`] does
/// for a connection. It precedes the content of the first datagram.
#[must_use]
pub fn encode_for_datagrams(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    encode_for(v2::Protocol::Datagram, ends)
}

fn encode_for(protocol: v2::Protocol, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let builder = match ends {
        Some((source, destination)) => {
            let ends = (canonical(source), canonical(destination));
            v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, protocol, ends)
        }
        None => {
            let unspecified = v2::AddressFamily::Unspecified | v2::Protocol::Unspecified;
            v2::Builder::new(v2::Version::Two | v2::Command::Local, unspecified)
        }
    };
    // The builder fails only on excessive length, which addresses do not reach.
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a header from `bytes`, and returns the result and the number of bytes left.
    fn read_from(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeaderError>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let mut rest = bytes;
        (runtime.block_on(read(&mut rest)), rest.len())
    }

    fn visitor(bytes: &[u8]) -> Option<String> {
        read_from(bytes)
            .0
            .expect("a header")
            .map(|address| address.to_string())
    }

    #[test]
    fn both_versions_are_read_exactly() {
        let version_1 = b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\r\nGET /";
        assert!(
            matches!(read_from(version_1), (Ok(Some(address)), 5) if address == "192.0.2.7:4711".parse().expect("an address"))
        );
        assert_eq!(
            visitor(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n").as_deref(),
            Some("[2001:db8::7]:4711")
        );
        assert_eq!(visitor(b"PROXY UNKNOWN\r\n"), None);
        let pair = |source: &str| {
            (
                source.parse().expect("an address"),
                "203.0.113.1:443".parse().expect("an address"),
            )
        };
        let (source, destination) = pair("192.0.2.7:4711");
        let version_2 = [encode(Some((source, destination))), b"GET /".to_vec()].concat();
        assert!(matches!(read_from(&version_2), (Ok(Some(address)), 5) if address == source));
        let (source, destination) = (
            "[2001:db8::7]:1".parse().expect("one"),
            "[2001:db8::1]:2".parse().expect("one"),
        );
        assert_eq!(
            visitor(&encode(Some((source, destination)))).as_deref(),
            Some("[2001:db8::7]:1")
        );
    }

    #[test]
    fn local_header_has_no_origin() {
        assert_eq!(encode(None), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
        assert_eq!(visitor(&encode(None)), None);
        assert_eq!(encode_for_datagrams(None), encode(None));
    }

    #[test]
    fn invalid_headers_are_rejected() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 nobody 203.0.113.1 1 2\r\n",
            b"PROXY ",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x02ab",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        ] {
            assert!(read_from(bytes).0.is_err(), "{bytes:?}");
        }
        assert!(
            read_from(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 500]].concat())
                .0
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_from(&bytes);
            let _ = read_from(&[SIGNATURE.as_slice(), &bytes].concat());
            let _ = read_from(&[b"PROXY TCP4 ".as_slice(), &bytes].concat());
        }
    }
}
