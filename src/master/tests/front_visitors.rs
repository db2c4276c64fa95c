//! Tests of the visitor's address: PROXY protocol and forwarded headers.

use tokio::net::TcpListener;

use super::{
    front::{accepted, expect, web_listener},
    *,
};
use crate::net::proxy_protocol;

#[tokio::test]
async fn proxy_protocol_reports_the_visitor_to_the_web_server() {
    let (fallback, web) = web_listener().await;
    let Fallback::Server { address, .. } = fallback else {
        panic!("a server")
    };
    let fallback = Fallback::Server {
        address,
        proxy_protocol: true,
    };
    let master = start_with(|parameters| {
        parameters.fallback = fallback;
        parameters.trusted_proxies = trusting("127.0.0.0/8");
    });
    let mut visitor = master.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    visitor.write_all(request).await.expect("sent");
    let mut served = accepted(&web).await;
    let seen = with_timeout(proxy_protocol::read(&mut served))
        .await
        .expect("a header");
    assert_eq!(seen, Some("192.0.2.7:0".parse().expect("an address")));
    expect(&mut served, request).await;
    let mut direct = master.connect().await;
    direct.write_all(b"nothing forwarded").await.expect("sent");
    direct.shutdown().await.expect("half closed");
    let seen = with_timeout(proxy_protocol::read(&mut accepted(&web).await))
        .await
        .expect("a header");
    assert_eq!(seen, Some(direct.local_addr().expect("connected")));
}

/// Accepts a connection, and checks that its header names `visitor`.
async fn accepted_for(web: &TcpListener, visitor: &str) -> TcpStream {
    let mut stream = accepted(web).await;
    let seen = with_timeout(proxy_protocol::read(&mut stream))
        .await
        .expect("a header");
    let expected = format!("{visitor}:0").parse().expect("an address");
    assert_eq!(seen, Some(expected));
    stream
}

#[tokio::test]
async fn proxy_protocol_reports_each_visitor_of_a_shared_connection() {
    let (fallback, web) = web_listener().await;
    let Fallback::Server { address, .. } = fallback else {
        panic!("a server")
    };
    let master = start_with(|parameters| {
        parameters.fallback = Fallback::Server {
            address,
            proxy_protocol: true,
        };
        parameters.trusted_proxies = trusting("127.0.0.0/8");
    });
    let mut proxy = master.connect().await;
    let of = |visitor: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {visitor}\r\n{body}")
    };
    let bodies = [
        "\r\n".to_owned(),
        "Content-Length: 3\r\n\r\nabc".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned(),
        format!("{}\r\n", "X-Many: x\r\n".repeat(200)),
    ];
    let (first, second) = ("192.0.2.7", "192.0.2.8");
    let requests: Vec<_> = bodies
        .iter()
        .flat_map(|body| [first, first, second].map(|visitor| (visitor, of(visitor, body))))
        .collect();
    // Pipelined: the proxy does not wait for responses.
    let all: String = requests
        .iter()
        .map(|(_, request)| request.as_str())
        .collect();
    proxy.write_all(all.as_bytes()).await.expect("sent");
    let (mut served, mut known) = (None, None);
    for (visitor, request) in &requests {
        if known != Some(visitor) {
            drop(served.take());
            (served, known) = (Some(accepted_for(&web, visitor).await), Some(visitor));
        }
        let served = served.as_mut().expect("a connection");
        expect(served, request.as_bytes()).await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{visitor}",
            visitor.len()
        );
        served.write_all(answer.as_bytes()).await.expect("sent");
        expect(&mut proxy, answer.as_bytes()).await;
    }
}

#[tokio::test]
async fn links_count_for_the_forwarded_visitor() {
    let master = start_with(|parameters| {
        parameters.trusted_proxies = trusting("127.0.0.0/8");
        parameters.limits.links_per_address = 1;
    });
    let through = async |visitor: &str| {
        let (_, mut socket) = master.requested_for(visitor).await;
        let challenge = with_timeout(socket.receive()).await;
        matches!(challenge, Ok(Some(_))).then_some(socket)
    };
    let (mut first, mut other) = (
        through("192.0.2.7").await.expect("accepted"),
        through("192.0.2.8").await.expect("accepted"),
    );
    let _again = through("192.0.2.7").await.expect("accepted");
    assert!(
        !matches!(with_timeout(first.receive()).await, Ok(Some(_))),
        "that visitor is at its limit: its first connection is evicted"
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(100), other.receive())
            .await
            .is_err(),
        "the other visitor's connection stays"
    );
}

#[tokio::test]
async fn proxy_protocol_header_names_the_visitor() {
    let master = start_with(|parameters| {
        parameters.trusted_proxies = trusting("127.0.0.1/32");
        parameters.proxy_protocol = true;
        parameters.limits.links_per_address = 1;
    });
    let visitor = "192.0.2.7:4711".parse().expect("an address");
    let through = async |header: &[u8]| {
        let mut stream = master.connect().await;
        stream.write_all(header).await.expect("sent");
        stream
            .write_all(request("/").as_bytes())
            .await
            .expect("sent");
        let mut read = Vec::new();
        let answered = with_timeout(stream.read_buf(&mut read))
            .await
            .is_ok_and(|length| length > 0);
        answered.then_some((stream, read))
    };
    let version_2 = proxy_protocol::encode(Some((visitor, master.address)));
    let (mut first, answer) = through(&version_2).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let (mut other, _) = through(b"PROXY TCP4 192.0.2.8 203.0.113.1 4711 443\r\n")
        .await
        .expect("another visitor");
    let _again = through(b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\r\n")
        .await
        .expect("the same visitor again");
    let mut rest = Vec::new();
    let _ = with_timeout(first.read_to_end(&mut rest)).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), other.read_to_end(&mut rest))
            .await
            .is_err(),
        "the other visitor's connection stays"
    );
    assert!(through(b"").await.is_none(), "without the header");
}

#[tokio::test]
async fn visitor_at_its_limit_gets_503_instead_of_the_upgrade() {
    let master = start_with(|parameters| {
        parameters.trusted_proxies = trusting("127.0.0.0/8");
        parameters.limits.links_per_address = 1;
    });
    let (_, mut socket) = master.requested_for("192.0.2.7").await;
    let server = identity(Role::Server, 1, 1);
    // A server is never evicted.
    authenticate::join(&mut socket, &key_of(Role::Server), &server, &[])
        .await
        .expect("joined");
    let (refused, _) = master.requested_for("192.0.2.7").await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nRetry-After: 20\r\n"),
        "{refused}"
    );
    let (other, _) = master.requested_for("192.0.2.8").await;
    assert!(other.starts_with("HTTP/1.1 101 "), "{other}");
}
