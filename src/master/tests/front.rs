//! What strangers get, and whom a connection is counted for.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;
use crate::link::proxy_protocol;

/// A web server that answers each connection's first bytes with them, and so shows what it was sent.
async fn mirror() -> (Fallback, TcpListener) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (Fallback::Server { address: ("127.0.0.1".to_owned(), port), proxy_protocol: false }, listener)
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    soon(listener.accept()).await.expect("a connection").0
}

/// Reads exactly these bytes.
async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    soon(stream.read_exact(&mut read)).await.expect("as many bytes");
    assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(bytes));
}

#[tokio::test]
async fn a_stranger_speaks_with_the_web_server_byte_for_byte() {
    let (fallback, web) = mirror().await;
    let master = start_with(|parameters| parameters.fallback = fallback);
    let strange: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nhOsT: x\r\n\r\n",
        b"get / http/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\nHost: x\n\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"\x16\x03\x01 no HTTP at all",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in strange {
        let mut visitor = master.connect().await;
        visitor.write_all(bytes).await.expect("sent");
        let mut served = accepted(&web).await;
        expect(&mut served, bytes).await;
        served.write_all(b"any answer, \0 too").await.expect("sent");
        expect(&mut visitor, b"any answer, \0 too").await;
        visitor.shutdown().await.expect("half closed");
        assert_eq!(soon(served.read(&mut [0])).await.expect("the end"), 0);
        served.write_all(b" and more").await.expect("sent");
        drop(served);
        expect(&mut visitor, b" and more").await;
        assert_eq!(soon(visitor.read(&mut [0])).await.expect("the end"), 0);
    }
}

#[tokio::test]
async fn an_upgrade_is_found_behind_other_requests_of_the_same_connection() {
    let (fallback, web) = mirror().await;
    let master = start_with(|parameters| (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned()));
    let mut stream = master.connect().await;
    let others = [
        "GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "POST /tunnel HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nGET / HTT".to_owned(),
    ];
    let mut served = None;
    for request in others {
        stream.write_all(request.as_bytes()).await.expect("sent");
        let served = match &mut served {
            Some(served) => served,
            None => served.insert(accepted(&web).await),
        };
        expect(served, request.as_bytes()).await;
        served.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("sent");
        expect(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").await;
    }
    let socket = super::upgrade(stream, "/tunnel").await;
    drop(socket);
    assert_eq!(soon(served.expect("served").read(&mut [0])).await.expect("the end"), 0);
}

#[tokio::test]
async fn a_websocket_of_the_web_server_goes_through() {
    let (fallback, web) = mirror().await;
    let master = start_with(|parameters| (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned()));
    let mut stream = master.connect().await;
    stream.write_all(request("/chat").as_bytes()).await.expect("sent");
    let mut served = accepted(&web).await;
    expect(&mut served, request("/chat").as_bytes()).await;
    served.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello").await.expect("sent");
    expect(&mut stream, b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello").await;
    // To the web server this is no request any more.
    stream.write_all(request("/tunnel").as_bytes()).await.expect("sent");
    expect(&mut served, request("/tunnel").as_bytes()).await;
}

#[tokio::test]
async fn who_says_nothing_or_half_a_head_is_given_to_the_web_server_in_time() {
    let (fallback, web) = mirror().await;
    let master = start_with(|parameters| {
        parameters.fallback = fallback;
        parameters.timing.header = Duration::from_millis(100);
    });
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHo"] {
        let mut visitor = master.connect().await;
        visitor.write_all(bytes).await.expect("sent");
        let mut served = accepted(&web).await;
        expect(&mut served, bytes).await;
        served.write_all(b"408").await.expect("sent");
        expect(&mut visitor, b"408").await;
    }
}

#[tokio::test]
async fn the_web_server_learns_of_the_visitor_by_the_proxy_protocol() {
    let (fallback, web) = mirror().await;
    let Fallback::Server { address, .. } = fallback else { panic!("a server") };
    let fallback = Fallback::Server { address, proxy_protocol: true };
    let master = start_with(|parameters| {
        parameters.fallback = fallback;
        parameters.trusted_proxies = trusting("127.0.0.0/8");
    });
    let mut visitor = master.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    visitor.write_all(request).await.expect("sent");
    let mut served = accepted(&web).await;
    let seen = soon(proxy_protocol::read(&mut served)).await.expect("a header");
    assert_eq!(seen, Some("192.0.2.7:0".parse().expect("an address")));
    expect(&mut served, request).await;
    let mut direct = master.connect().await;
    direct.write_all(b"nothing forwarded").await.expect("sent");
    direct.shutdown().await.expect("half closed");
    let seen = soon(proxy_protocol::read(&mut accepted(&web).await)).await.expect("a header");
    assert_eq!(seen, Some(direct.local_addr().expect("connected")));
}

#[tokio::test]
async fn a_web_server_that_is_away_is_a_bad_gateway() {
    let (fallback, web) = mirror().await;
    drop(web);
    let master = start_with(|parameters| parameters.fallback = fallback);
    let mut visitor = master.connect().await;
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let (head, _) = head(&mut visitor).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn links_are_counted_for_whom_a_trusted_proxy_names() {
    let master = start_with(|parameters| {
        parameters.trusted_proxies = trusting("127.0.0.0/8");
        parameters.limits.links_per_address = 1;
    });
    let through = async |visitor: &str| {
        let mut stream = master.connect().await;
        let request = request("/").replace("\r\n\r\n", &format!("\r\nX-Forwarded-For: {visitor}\r\n\r\n"));
        stream.write_all(request.as_bytes()).await.expect("sent");
        let (_, rest) = head(&mut stream).await;
        let mut socket = MessageSocket::new(stream, rest, End::Dialled);
        let challenge = soon(socket.receive()).await;
        matches!(challenge, Ok(Some(_))).then_some(socket)
    };
    let (mut first, mut other) = (through("192.0.2.7").await.expect("let in"), through("192.0.2.8").await.expect("let in"));
    let _again = through("192.0.2.7").await.expect("let in");
    assert!(!matches!(soon(first.receive()).await, Ok(Some(_))), "the limit of that visitor is reached: its first gives way");
    assert!(tokio::time::timeout(Duration::from_millis(100), other.receive()).await.is_err(), "the other visitor's does not");
}

#[tokio::test]
async fn a_trusted_proxy_that_relays_connections_says_for_whom() {
    let master = start_with(|parameters| {
        parameters.trusted_proxies = trusting("127.0.0.1/32");
        parameters.proxy_protocol = true;
        parameters.limits.links_per_address = 1;
    });
    let visitor = "192.0.2.7:4711".parse().expect("an address");
    let through = async |header: &[u8]| {
        let mut stream = master.connect().await;
        stream.write_all(header).await.expect("sent");
        stream.write_all(request("/").as_bytes()).await.expect("sent");
        let mut read = Vec::new();
        let answered = soon(stream.read_buf(&mut read)).await.is_ok_and(|length| length > 0);
        answered.then_some((stream, read))
    };
    let version_2 = proxy_protocol::written(Some((visitor, master.address)));
    let (mut first, answer) = through(&version_2).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let (mut other, _) = through(b"PROXY TCP4 192.0.2.8 203.0.113.1 4711 443\r\n").await.expect("another visitor");
    let _again = through(b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\r\n").await.expect("the same visitor again");
    let mut rest = Vec::new();
    let _ = soon(first.read_to_end(&mut rest)).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), other.read_to_end(&mut rest)).await.is_err(),
        "the other visitor's stands"
    );
    assert!(through(b"").await.is_none(), "without the header");
}
