//! Tests of the first bytes of an application, and of how a refused one reads its answer.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Secret;

/// Returns an application and the proxy's end of its connection.
async fn connected() -> (TcpStream, LocalStream, LocalPeer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (application, accepted) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let (socket, address) = accepted.unwrap();
    (
        application.unwrap(),
        socket.into(),
        LocalPeer::Address(address),
    )
}

/// Returns the outcome of a handshake in which the application sends this and nothing more.
async fn outcome(sent: &[u8], user: Option<&SocksUser>) -> Result<ProxyRequest, ProxyRequestError> {
    let (mut application, mut socket, peer) = connected().await;
    application.write_all(sent).await.unwrap();
    application.shutdown().await.unwrap();
    handshake(&mut socket, peer, &SocksProxy::new(user)).await
}

/// Returns the request for a connection.
fn connection(request: Result<ProxyRequest, ProxyRequestError>) -> ConnectRequest {
    match request.expect("a valid request") {
        ProxyRequest::Connect(request) => request,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_byte_selects_the_protocol() {
    let request = outcome(b"\x05\x01\x00\x05\x01\x00\x03\x07nas.lan\x00\x16", None).await;
    let request = connection(request);
    assert_eq!(request.protocol, ProxyDialect::Socks5);
    assert_eq!(
        request.target,
        NamedTarget::new("nas.lan".to_owned(), 22).unwrap()
    );
    let request = outcome(b"CONNECT nas.lan:22 HTTP/1.1\r\n\r\nearly", None).await;
    let request = connection(request);
    assert_eq!(request.protocol, ProxyDialect::Http);
    assert_eq!(request.early, "early");
}

#[tokio::test]
async fn other_first_bytes_are_refused() {
    let error = outcome(b"\x04\x01\0\x16\x0a\0\0\x01user\0", None).await;
    let error = error.expect_err("SOCKS4");
    assert!(error.to_string().contains("configure SOCKS5"), "{error}");
    assert_eq!(error.answer(), [0, 0x5b, 0, 0, 0, 0, 0, 0]);
    // A ClientHello, SSH in another order, and nothing.
    for first in [0x16, 0, 0xff, b' ', b'1'] {
        let error = outcome(&[first, 1, 2, 3], None).await.expect_err("refused");
        assert!(
            matches!(error, ProxyRequestError::OtherProtocol(byte) if byte == first),
            "{error}"
        );
        assert!(error.answer().is_empty());
    }
    let error = outcome(b"", None).await.expect_err("nothing");
    assert!(matches!(error, ProxyRequestError::Io(_)), "{error}");
}

#[tokio::test]
async fn datagrams_need_an_application_with_an_address() {
    for (port, announced) in [(0, b"\0\0"), (258, b"\x01\x02")] {
        // The named host is not that of the application.
        let sent = [
            &b"\x05\x01\x00\x05\x03\x00\x01\xc0\0\x02\x01"[..],
            announced,
        ]
        .concat();
        let request = outcome(&sent, None).await.expect("UDP ASSOCIATE");
        let expected = AssociateRequest {
            application: [127, 0, 0, 1].into(),
            port,
        };
        assert!(
            matches!(&request, ProxyRequest::Associate(request) if *request == expected),
            "{request:?}"
        );
    }
    let (mut application, mut socket, _) = connected().await;
    let sent = b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0";
    application.write_all(sent).await.unwrap();
    let peer = LocalPeer::Process {
        user: None,
        process: None,
    };
    let error = handshake(&mut socket, peer, &SocksProxy::new(None)).await;
    let error = error.expect_err("a unix socket");
    assert!(error.answer().starts_with(&[5, 7, 0]), "{error}");
    assert!(error.to_string().contains("unix socket"), "{error}");
}

#[tokio::test]
async fn invalid_destinations_are_refused() {
    for target in [
        &b"\x01\x0a\0\0\x01\0\0"[..],
        b"\x03\x00\0\x50",
        b"\x03\x03a b\0\x50",
    ] {
        let sent = [&b"\x05\x01\x00\x05\x01\x00"[..], target].concat();
        let error = outcome(&sent, None).await.expect_err("invalid");
        assert!(matches!(error, ProxyRequestError::Target), "{error}");
        assert!(error.answer().starts_with(&[5, 1, 0]), "{error}");
    }
}

#[tokio::test]
async fn both_protocols_require_the_user() {
    let user = SocksUser {
        name: "user".to_owned(),
        password: Secret::new("pass".to_owned()),
    };
    for sent in [
        &b"\x05\x01\x00"[..],
        b"CONNECT nas.lan:22 HTTP/1.1\r\n\r\n",
        b"CONNECT nas.lan:22 HTTP/1.1\r\nProxy-Authorization: Basic dXNlcjp4\r\n\r\n",
    ] {
        let error = outcome(sent, Some(&user)).await.expect_err("no user");
        assert!(error.reason().starts_with("proxy_user_"), "{error}");
        assert!(!error.to_string().contains("pass "), "{error}");
    }
    // user:pass
    let sent = b"CONNECT nas.lan:22 HTTP/1.1\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n";
    assert!(outcome(sent, Some(&user)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_application_that_sends_nothing_is_refused_after_a_while() {
    let (application, mut socket, peer) = connected().await;
    let started = Instant::now();
    let error = handshake(&mut socket, peer, &SocksProxy::new(None)).await;
    assert!(matches!(error, Err(ProxyRequestError::Timeout)));
    assert!(started.elapsed() >= HANDSHAKE_TIMEOUT);
    drop(application);
}

#[test]
fn peers_without_an_address_are_served_too() {
    let user = SocksUser {
        name: "user".to_owned(),
        password: Secret::new("pass".to_owned()),
    };
    let credentials = ProxyCredentials::new(&user);
    let unknown = LocalPeer::Process {
        user: None,
        process: None,
    };
    let address = unknown.address().map(|address: SocketAddr| address.ip());
    let now = std::time::Instant::now();
    let checked = credentials.check(now, address, b"user", b"pass");
    assert_eq!(checked, credentials::UserCheck::Accepted);
}
