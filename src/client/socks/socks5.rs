//! The server side of SOCKS5 (RFC 1928) with a name and a password (RFC 1929): reads the messages of
//! an application and encodes the replies. Never reads beyond a message.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    address::{self, ADDRESS_MAX, SocksAddress},
    credentials::{ProxyCredentials, UserCheck},
    request_error::ProxyRequestError,
};

/// The first byte of a message.
pub(super) const VERSION: u8 = 5;

/// The version of the authentication.
const USER_VERSION: u8 = 1;

/// The methods of authentication.
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;

/// The commands of a request.
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocksReply {
    Succeeded,
    GeneralFailure,
    NotAllowed,
    HostUnreachable,
    ConnectionRefused,
    TtlExpired,
    CommandNotSupported,
    AddressTypeNotSupported,
}

impl SocksReply {
    /// Returns the code of RFC 1928.
    pub(super) fn code(self) -> u8 {
        match self {
            SocksReply::Succeeded => 0,
            SocksReply::GeneralFailure => 1,
            SocksReply::NotAllowed => 2,
            SocksReply::HostUnreachable => 4,
            SocksReply::ConnectionRefused => 5,
            SocksReply::TtlExpired => 6,
            SocksReply::CommandNotSupported => 7,
            SocksReply::AddressTypeNotSupported => 8,
        }
    }
}

/// A request of an application.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SocksRequest {
    /// Connect to this destination.
    Connect(SocksAddress),
    /// Carry datagrams. The address is that from which the application will send, or zeros.
    Associate(SocksAddress),
}

/// Encodes a reply with the address of the proxy's socket.
pub(super) fn encode_reply(reply: SocksReply, bound: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 + ADDRESS_MAX);
    bytes.extend([VERSION, reply.code(), 0]);
    address::encode_socket(&mut bytes, bound);
    bytes
}

/// Returns the address in a reply when the proxy knows none: the socket belongs to the server.
pub(super) fn unspecified() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

/// Performs the handshake of a connection whose first byte was read. `address` is that of the
/// application. Returns its request, which has no reply yet.
///
/// # Errors
/// If the request is refused.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    address: Option<IpAddr>,
    credentials: Option<&ProxyCredentials>,
) -> Result<SocksRequest, ProxyRequestError> {
    authenticate(stream, address, credentials).await?;
    expect(VERSION, stream.read_u8().await?)?;
    let command = stream.read_u8().await?;
    // Reserved. Some applications do not send 0.
    stream.read_u8().await?;
    let destination = SocksAddress::read(stream).await?;
    match command {
        CONNECT => Ok(SocksRequest::Connect(destination)),
        UDP_ASSOCIATE => Ok(SocksRequest::Associate(destination)),
        other => Err(ProxyRequestError::Command(other)),
    }
}

/// Chooses a method of authentication and performs it.
async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    address: Option<IpAddr>,
    credentials: Option<&ProxyCredentials>,
) -> Result<(), ProxyRequestError> {
    let methods = read_text(stream).await?;
    let method = match credentials {
        Some(_) => USER_AND_PASSWORD,
        None => NO_AUTHENTICATION,
    };
    if !methods.contains(&method) {
        let needs_user = credentials.is_some();
        return Err(ProxyRequestError::NoMethod { needs_user });
    }
    stream.write_all(&[VERSION, method]).await?;
    let Some(credentials) = credentials else {
        return Ok(());
    };
    expect(USER_VERSION, stream.read_u8().await?)?;
    let (name, password) = (read_text(stream).await?, read_text(stream).await?);
    match credentials.check(Instant::now(), address, &name, &password) {
        UserCheck::Accepted => {
            stream.write_all(&[USER_VERSION, 0]).await?;
            Ok(())
        }
        UserCheck::Wrong => Err(ProxyRequestError::WrongUser),
        UserCheck::Throttled => Err(ProxyRequestError::Throttled),
    }
}

fn expect(version: u8, found: u8) -> Result<(), ProxyRequestError> {
    if found == version {
        Ok(())
    } else {
        Err(ProxyRequestError::Version(found))
    }
}

/// Reads a length of one byte and that many bytes.
async fn read_text<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Vec<u8>, ProxyRequestError> {
    let length = reader.read_u8().await?;
    let mut text = vec![0; usize::from(length)];
    reader.read_exact(&mut text).await?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, SocksUser};

    fn credentials() -> ProxyCredentials {
        ProxyCredentials::new(&SocksUser {
            name: "user".to_owned(),
            password: Secret::new("pass".to_owned()),
        })
    }

    /// Runs the handshake with everything that an application sends after the version. Returns what
    /// the proxy answered, and what it did not read.
    async fn outcome(
        sent: &[u8],
        credentials: Option<&ProxyCredentials>,
    ) -> (Result<SocksRequest, ProxyRequestError>, Vec<u8>, Vec<u8>) {
        let (mut application, mut proxy) = tokio::io::duplex(4096);
        application.write_all(sent).await.unwrap();
        application.shutdown().await.unwrap();
        let outcome = accept(&mut proxy, None, credentials).await;
        let (mut unread, mut answers) = (Vec::new(), Vec::new());
        proxy.read_to_end(&mut unread).await.unwrap();
        drop(proxy);
        application.read_to_end(&mut answers).await.unwrap();
        (outcome, answers, unread)
    }

    fn named(host: &str, port: u16) -> SocksAddress {
        let host = host.to_owned();
        SocksAddress { host, port }
    }

    #[tokio::test]
    async fn a_request_is_read_and_nothing_after_it() {
        let sent = b"\x01\x00\x05\x01\x00\x03\x07nas.lan\x00\x16early data";
        let (request, answers, unread) = outcome(sent, None).await;
        let expected = SocksRequest::Connect(named("nas.lan", 22));
        assert_eq!(request.expect("valid"), expected);
        assert_eq!(answers, [5, 0]);
        assert_eq!(unread, b"early data");
        let sent = b"\x02\x02\x00\x05\x03\x00\x01\0\0\0\0\0\0";
        let (request, ..) = outcome(sent, None).await;
        let expected = SocksRequest::Associate(named("0.0.0.0", 0));
        assert_eq!(request.expect("valid"), expected);
    }

    #[tokio::test]
    async fn a_user_is_required_if_there_is_one() {
        let credentials = credentials();
        let request = b"\x05\x01\x00\x01\x0a\0\0\x01\0\x50";
        let sent = [&b"\x02\x00\x02\x01\x04user\x04pass"[..], request].concat();
        let (accepted, answers, _) = outcome(&sent, Some(&credentials)).await;
        let expected = SocksRequest::Connect(named("10.0.0.1", 80));
        assert_eq!(accepted.expect("the user"), expected);
        assert_eq!(answers, [5, 2, 1, 0]);
        let sent = [&b"\x01\x02\x01\x04user\x04pasS"[..], request].concat();
        let (refused, answers, _) = outcome(&sent, Some(&credentials)).await;
        let error = refused.expect_err("a wrong password");
        assert!(matches!(error, ProxyRequestError::WrongUser), "{error}");
        assert_eq!(answers, [5, 2]);
        assert_eq!(error.answer(), [1, 1]);
        let (refused, answers, _) = outcome(b"\x01\x00", Some(&credentials)).await;
        let error = refused.expect_err("no method");
        assert!(error.to_string().contains("socks_user"), "{error}");
        assert!(answers.is_empty());
        assert_eq!(error.answer(), [5, 0xff]);
    }

    #[tokio::test]
    async fn invalid_messages_are_refused_with_their_reason() {
        let start = &b"\x01\x00"[..];
        for (after, answer) in [
            // BIND, and an unknown command.
            (&b"\x05\x02\x00\x01\x0a\0\0\x01\0\x50"[..], &[5, 7, 0][..]),
            (&b"\x05\x09\x00\x01\x0a\0\0\x01\0\x50"[..], &[5, 7, 0][..]),
            // An unknown type, and a name that is not text.
            (&b"\x05\x01\x00\x02\x0a\0\0\x01\0\x50"[..], &[5, 8, 0][..]),
            (&b"\x05\x01\x00\x03\x02\xff\xfe\0\x50"[..], &[5, 1, 0][..]),
            // Another version.
            (&b"\x04\x01\x00\x01\x0a\0\0\x01\0\x50"[..], &[][..]),
        ] {
            let (refused, answers, _) = outcome(&[start, after].concat(), None).await;
            let error = refused.expect_err("invalid");
            assert_eq!(answers, [5, 0], "{error}");
            assert!(error.answer().starts_with(answer), "{error}");
            assert_eq!(error.answer().is_empty(), answer.is_empty(), "{error}");
        }
        for no_method in [&b"\x00"[..], b"\x01\x02", b"\x02\x01\xff"] {
            let (refused, ..) = outcome(no_method, None).await;
            let error = refused.expect_err("no method");
            assert_eq!(error.answer(), [5, 0xff]);
        }
    }

    #[tokio::test]
    async fn every_truncation_ends_without_an_answer() {
        let credentials = credentials();
        let sent = b"\x01\x02\x01\x04user\x04pass\x05\x01\x00\x03\x07nas.lan\x00\x16";
        for length in 0..sent.len() {
            let (refused, ..) = outcome(&sent[..length], Some(&credentials)).await;
            let error = refused.expect_err("incomplete");
            assert!(
                matches!(error, ProxyRequestError::Io(_)),
                "{length}: {error}"
            );
            assert!(error.answer().is_empty());
        }
        // A length that promises more than there is.
        let (refused, ..) = outcome(b"\xff\x00\x01", None).await;
        let error = refused.expect_err("incomplete");
        assert!(matches!(error, ProxyRequestError::Io(_)), "{error}");
    }

    #[test]
    fn replies_carry_the_address_of_the_socket() {
        let reply = encode_reply(SocksReply::Succeeded, unspecified());
        assert_eq!(reply, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let bound = "[::1]:258".parse().unwrap();
        let reply = encode_reply(SocksReply::GeneralFailure, bound);
        assert_eq!(reply.len(), 22);
        assert!(reply.starts_with(&[5, 1, 0, 4]) && reply.ends_with(&[1, 1, 2]));
    }
}
