//! Tests of the web front: responses to ordinary visitors, and the address that a connection counts
//! for.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

/// Returns a listener that acts as the web server, and the fallback that points to it.
pub(super) async fn web_listener() -> (Fallback, TcpListener) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (
        Fallback::Server {
            address: ("127.0.0.1".to_owned(), port),
            proxy_protocol: false,
        },
        listener,
    )
}

pub(super) async fn accepted(listener: &TcpListener) -> TcpStream {
    with_timeout(listener.accept())
        .await
        .expect("a connection")
        .0
}

/// Reads exactly these bytes.
pub(super) async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    with_timeout(stream.read_exact(&mut read))
        .await
        .expect("as many bytes");
    assert_eq!(
        String::from_utf8_lossy(&read),
        String::from_utf8_lossy(bytes)
    );
}

#[tokio::test]
async fn visitor_bytes_reach_the_web_server_unchanged() {
    let (fallback, web) = web_listener().await;
    let master = start_with(|parameters| parameters.fallback = fallback);
    let inputs: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nhOsT: x\r\n\r\n",
        b"get / http/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\nHost: x\n\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"\x16\x03\x01 no HTTP at all",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in inputs {
        let mut visitor = master.connect().await;
        visitor.write_all(bytes).await.expect("sent");
        let mut served = accepted(&web).await;
        expect(&mut served, bytes).await;
        served.write_all(b"any answer, \0 too").await.expect("sent");
        expect(&mut visitor, b"any answer, \0 too").await;
        visitor.shutdown().await.expect("half closed");
        assert_eq!(
            with_timeout(served.read(&mut [0])).await.expect("the end"),
            0
        );
        served.write_all(b" and more").await.expect("sent");
        drop(served);
        expect(&mut visitor, b" and more").await;
        assert_eq!(
            with_timeout(visitor.read(&mut [0])).await.expect("the end"),
            0
        );
    }
}

#[tokio::test]
async fn upgrade_after_other_requests_is_recognised() {
    let (fallback, web) = web_listener().await;
    let master = start_with(|parameters| {
        (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned())
    });
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
        served
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .expect("sent");
        expect(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").await;
    }
    let socket = super::upgrade(stream, "/tunnel").await;
    drop(socket);
    assert_eq!(
        with_timeout(served.expect("served").read(&mut [0]))
            .await
            .expect("the end"),
        0
    );
}

#[tokio::test]
async fn websocket_of_the_web_server_is_proxied() {
    let (fallback, web) = web_listener().await;
    let master = start_with(|parameters| {
        (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned())
    });
    let mut stream = master.connect().await;
    stream
        .write_all(request("/chat").as_bytes())
        .await
        .expect("sent");
    let mut served = accepted(&web).await;
    expect(&mut served, request("/chat").as_bytes()).await;
    served
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello")
        .await
        .expect("sent");
    expect(
        &mut stream,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello",
    )
    .await;
    // The web server no longer parses requests on this connection.
    stream
        .write_all(request("/tunnel").as_bytes())
        .await
        .expect("sent");
    expect(&mut served, request("/tunnel").as_bytes()).await;
}

#[tokio::test]
async fn requests_continue_after_a_refused_websocket() {
    let (fallback, web) = web_listener().await;
    let master = start_with(|parameters| {
        (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned())
    });
    let mut stream = master.connect().await;
    let chunked =
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    stream
        .write_all(format!("{}{chunked}", request("/chat")).as_bytes())
        .await
        .expect("sent");
    let mut served = accepted(&web).await;
    for request in [&request("/chat"), chunked] {
        expect(&mut served, request.as_bytes()).await;
        served
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
            .await
            .expect("sent");
        expect(
            &mut stream,
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        )
        .await;
    }
    drop(super::upgrade(stream, "/tunnel").await);
}

/// Reads up to and including the response 101.
async fn to_upgrade(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("HTTP/1.1 101 ") {
        assert_ne!(
            with_timeout(stream.read_buf(&mut read))
                .await
                .expect("an answer"),
            0,
            "{:?}",
            String::from_utf8_lossy(&read)
        );
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn web_server_responses_complete_before_a_pipelined_upgrade() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n".to_owned() + &"x".repeat(40_000),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9c40\r\n".to_owned()
            + &"x".repeat(40_000)
            + "\r\n0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_owned(),
    ] {
        let (fallback, web) = web_listener().await;
        let master = start_with(|parameters| {
            (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned())
        });
        let mut visitor = master.connect().await;
        let page = "GET /page HTTP/1.1\r\nHost: x\r\n\r\n";
        visitor
            .write_all(format!("{page}{page}{}", request("/tunnel")).as_bytes())
            .await
            .expect("sent");
        let mut served = accepted(&web).await;
        expect(&mut served, page.repeat(2).as_bytes()).await;
        for answer in answer.repeat(2).as_bytes().chunks(10_001) {
            let silence =
                tokio::time::timeout(Duration::from_millis(20), visitor.read(&mut [0])).await;
            assert!(
                silence.is_err(),
                "no response precedes the web server's: {silence:?}"
            );
            served.write_all(answer).await.expect("sent");
            expect(&mut visitor, answer).await;
        }
        assert!(to_upgrade(&mut visitor).await.starts_with("HTTP/1.1 101 "));
    }
}

#[tokio::test]
async fn local_responses_complete_before_a_pipelined_upgrade() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = "x".repeat(200_000);
    std::fs::write(folder.path().join("file"), &file).expect("a file");
    let (server, web) = web_listener().await;
    for (fallback, path, length) in [
        (
            Fallback::Files(folder.path().to_owned()),
            "/file",
            file.len(),
        ),
        (Fallback::NotFound, "/file", 100),
        (server, "/healthz", 3),
    ] {
        let master = start_with(|parameters| {
            (parameters.fallback, parameters.path, parameters.healthz) =
                (fallback, "/tunnel".to_owned(), true);
        });
        for _ in 0..5 {
            let mut visitor = master.connect().await;
            let page = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            visitor
                .write_all(format!("{page}{}", request("/tunnel")).as_bytes())
                .await
                .expect("sent");
            let received = to_upgrade(&mut visitor).await;
            let (before, _) = received.split_once("HTTP/1.1 101 ").expect("an upgrade");
            let (head, body) = before.split_once("\r\n\r\n").expect("an answer");
            assert!(
                head.contains(&format!("content-length: {}", body.len())) && body.len() >= length,
                "{path}: {head}"
            );
        }
    }
    drop(web);
}

#[tokio::test]
async fn visitor_that_closes_before_a_response_gets_no_upgrade() {
    let (fallback, web) = web_listener().await;
    let master = start_with(|parameters| {
        (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned())
    });
    let mut visitor = master.connect().await;
    let page = "GET /page HTTP/1.1\r\nHost: x\r\n\r\n";
    visitor
        .write_all(format!("{page}{}", request("/tunnel")).as_bytes())
        .await
        .expect("sent");
    let mut served = accepted(&web).await;
    expect(&mut served, page.as_bytes()).await;
    visitor.shutdown().await.expect("half closed");
    assert_eq!(
        with_timeout(served.read(&mut [0])).await.expect("the end"),
        0
    );
    served
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .expect("sent");
    drop(served);
    let mut received = String::new();
    with_timeout(visitor.read_to_string(&mut received))
        .await
        .expect("an answer");
    assert_eq!(received, "HTTP/1.1 204 No Content\r\n\r\n");
}

#[tokio::test]
async fn health_check_and_web_server_share_a_connection() {
    let (fallback, web) = web_listener().await;
    let master =
        start_with(|parameters| (parameters.fallback, parameters.healthz) = (fallback, true));
    let mut visitor = master.connect().await;
    let page = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        visitor
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("sent");
        let (head, mut body) = head(&mut visitor).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        if body.is_empty() {
            expect(&mut visitor, b"ok\n").await;
            body = Bytes::from_static(b"ok\n");
        }
        assert_eq!(body, "ok\n");
        visitor.write_all(page).await.expect("sent");
        let mut served = accepted(&web).await;
        expect(&mut served, page).await;
        served
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .expect("sent");
        expect(&mut visitor, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        open.push(served);
    }
}

#[tokio::test]
async fn request_with_too_many_fields_gets_431() {
    let (server, web) = web_listener().await;
    let many = |path: &str| {
        request(path).replacen("\r\n", &format!("\r\n{}", "X-Many: x\r\n".repeat(124)), 1)
    };
    for (fallback, paths) in [
        (Fallback::NotFound, &["/tunnel", "/other"][..]),
        (server, &["/tunnel"]),
    ] {
        let master = start_with(|parameters| {
            (parameters.fallback, parameters.path) = (fallback, "/tunnel".to_owned())
        });
        for path in paths {
            let mut stream = master.connect().await;
            stream.write_all(many(path).as_bytes()).await.expect("sent");
            let (head, mut body) = head(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 431 "), "{path}: {head}");
            if body.is_empty() {
                let mut read = vec![0; 200];
                let length = with_timeout(stream.read(&mut read)).await.expect("a body");
                body = Bytes::copy_from_slice(&read[..length]);
            }
            assert!(
                String::from_utf8_lossy(&body).contains("more than 128 fields"),
                "{body:?}"
            );
            let mut stream = master.connect().await;
            stream
                .write_all(many(path).replacen("X-Many: x\r\n", "", 1).as_bytes())
                .await
                .expect("sent");
            let status = if *path == "/tunnel" { "101" } else { "404" };
            assert!(
                self::head(&mut stream)
                    .await
                    .0
                    .starts_with(&format!("HTTP/1.1 {status} ")),
                "128 fields are not too many"
            );
        }
    }
    drop(web);
}

#[tokio::test]
async fn silent_or_partial_requests_reach_the_web_server_after_the_timeout() {
    let (fallback, web) = web_listener().await;
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
async fn unreachable_web_server_gives_bad_gateway() {
    let (fallback, web) = web_listener().await;
    drop(web);
    let master = start_with(|parameters| parameters.fallback = fallback);
    let mut visitor = master.connect().await;
    visitor
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    let (head, _) = head(&mut visitor).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}
