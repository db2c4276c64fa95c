//! Answers to the upgrade: of a master, of other servers, and none.

use super::*;

#[tokio::test]
async fn dial_reaches_master_and_keeps_its_first_message() {
    let master = TestListener::master().await;
    exchange_messages(&master.dialer()).await;
}

#[tokio::test]
async fn request_follows_rfc_6455() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let server = TestListener::with(move |mut stream| {
        let sender = sender.clone();
        async move { sender.send(read_request(&mut stream).await).await.unwrap() }
    })
    .await;
    failure(&server.dialer()).await;
    let request = receiver.recv().await.unwrap();
    assert!(
        request.starts_with("GET /report?x=1 HTTP/1.1\r\n"),
        "{request}"
    );
    for header in [
        &format!("Host: 127.0.0.1:{}", server.address.port()),
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
    ] {
        assert!(
            request.contains(&format!("\r\n{header}\r\n")),
            "{header} in {request}"
        );
    }
    assert_eq!(key(&request).len(), 24);
}

#[tokio::test]
async fn error_quotes_status_server_and_text_of_another_web_server() {
    let page = "HTTP/1.1 404 Not Found\r\nServer: nginx/1.24.0\r\nContent-Type: text/html\r\n\r\n<html>\r\n<head><title>404 Not Found</title></head>\r\n";
    let message = TestListener::answering(page).await.refusal().await;
    for part in [
        "HTTP status 404 Not Found",
        "\"nginx/1.24.0\"",
        "\"404 Not Found\"",
        "check the path in `master`",
        "ws://127.0.0.1:",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(
        !message.contains('\n') && !message.contains('<'),
        "one line of text: {message}"
    );
}

#[tokio::test]
async fn remedy_depends_on_the_response() {
    for (answer, expected) in [
        (
            "HTTP/1.1 301 Moved\r\nLocation: https://example.com/report\r\n\r\n",
            "write \"wss://example.com/report\"",
        ),
        (
            "HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port",
            "write wss://",
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "the master behind it does not",
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "refuses"),
        ("HTTP/1.1 200 OK\r\n\r\nwelcome", "another web server"),
        (
            "HTTP/1.1 426 Upgrade Required\r\n\r\n",
            "Upgrade and Connection",
        ),
        ("HTTP/1.0 200 OK\r\n\r\nold", "HTTP/1.0 200 OK"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            "no `Upgrade: websocket`",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "no `Connection: Upgrade`",
        ),
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
            "does not match the request",
        ),
        ("SSH-2.0-OpenSSH_9.6\r\n", "\"SSH-2.0-OpenSSH_9.6\""),
        ("\x15\x03\x03\x00\x02\x02\x46", "does not speak HTTP"),
        ("", "closed without an answer"),
        ("HTTP/1.1 404 Not", "HTTP/1.1 404 Not"),
    ] {
        let message = TestListener::answering(answer).await.refusal().await;
        assert!(message.contains(expected), "{expected} in {message}");
    }
}

#[tokio::test]
async fn large_head_is_read_and_too_large_head_is_reported() {
    for (count, length) in [(60, 1024), (250, 20)] {
        let fields = fields(count, length);
        let master = TestListener::with(move |stream| {
            let fields = fields.clone();
            async move { echo_with(&fields, stream).await }
        })
        .await;
        exchange_messages(&master.dialer()).await;
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\n{}\r\nnot here",
            self::fields(count, length)
        );
        let message = TestListener::answering(answer).await.refusal().await;
        assert!(
            message.contains("HTTP status 403") && message.contains("\"not here\""),
            "{message}"
        );
    }
    for (count, length, expected) in [
        (70, 1024, "head is longer than 64 KiB"),
        (300, 20, "head has more than 256 fields"),
    ] {
        for end in ["", "\r\n"] {
            let answer = format!("HTTP/1.1 302 Found\r\n{}{end}", fields(count, length));
            let message = TestListener::answering(answer).await.refusal().await;
            assert!(
                message.contains(expected) && message.contains("\"HTTP/1.1 302 Found\""),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn endless_response_is_rejected() {
    let server = TestListener::with(|mut stream| async move {
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
    })
    .await;
    assert!(server.refusal().await.contains("does not speak HTTP"));
}

#[tokio::test]
async fn silent_server_exceeds_the_deadline() {
    let server = TestListener::with(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let parameters = DialParameters {
        deadline: Duration::from_millis(200),
        ..parameters()
    };
    let error = failure(&dialer(&server.url("ws", "127.0.0.1"), parameters)).await;
    assert!(
        matches!(
            error,
            DialError::Deadline {
                step: DialStep::Http,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn retry_after_of_a_refusal_is_reported() {
    let full = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n";
    let server = TestListener::answering(full).await;
    let error = failure(&server.dialer()).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(20)));
    assert!(error.to_string().contains("Retry-After 20 s"), "{error}");
    let other = "HTTP/1.1 502 Bad Gateway\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n";
    let server = TestListener::answering(other).await;
    assert_eq!(failure(&server.dialer()).await.retry_after(), None);
}
