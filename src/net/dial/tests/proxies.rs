//! Tunnels through a proxy.

use super::*;

/// Returns a dialer for a master that only `proxy` can reach.
pub(super) fn dialer_through(proxy: &TestListener, scheme: &str, user: &str) -> Dialer {
    let address = format!("{scheme}://{user}127.0.0.1:{}", proxy.address.port())
        .parse()
        .unwrap();
    let parameters = DialParameters {
        proxy: ProxyChoice::Fixed(Box::new(address)),
        ..parameters()
    };
    dialer("ws://master.invalid/report?x=1", parameters)
}

/// A proxy that keeps connections open, requires authentication, and then acts as the master.
pub(super) async fn authenticating_proxy(mut stream: TcpStream) {
    loop {
        let request = read_request(&mut stream).await;
        if !request.starts_with("CONNECT master.invalid:80 HTTP/1.1\r\n") {
            return;
        }
        if request.contains("\r\nProxy-Authorization: Basic YW5uOnNlc2FtZQ==\r\n") {
            stream
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await
                .unwrap();
            return echo(stream).await;
        }
        let answer = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 5\r\n\r\nwho?\n";
        stream.write_all(answer).await.unwrap();
    }
}

#[tokio::test]
async fn proxy_authentication_reuses_the_connection() {
    let proxy = TestListener::with(authenticating_proxy).await;
    exchange_messages(&dialer_through(&proxy, "http", "ann:sesame@")).await;
    for (user, expected) in [
        ("", "it offers Basic"),
        ("ann:wrong@", "refuses \"ann\" (tried Basic)"),
    ] {
        let dialer = dialer_through(&proxy, "http", user);
        let error = failure(&dialer).await.to_string();
        assert!(
            error.contains(expected) && error.contains("proxy http://127.0.0.1:"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn proxy_refusal_is_reported_with_a_remedy() {
    for (answer, expected) in [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 15\r\n\r\n<b>not here</b>",
            "\"not here\"; its rules do not allow that",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
            "open it in a browser",
        ),
        (
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            "it cannot reach the master",
        ),
        (
            "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n",
            "a web server instead of a proxy",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        ("", "closed the connection without an answer"),
        (
            &format!(
                "HTTP/1.1 403 No\r\n{}Content-Length: 2\r\n\r\nno",
                fields(250, 20)
            ),
            "HTTP status 403",
        ),
        (
            &format!("HTTP/1.1 403 No\r\n{}\r\n", fields(300, 20)),
            "longer than 64 KiB or has more than 256 fields",
        ),
        (
            &format!("HTTP/1.1 403 No\r\n{}\r\n", fields(200, 1024)),
            "longer than 64 KiB or has more than 256 fields",
        ),
    ] {
        let proxy = TestListener::answering(answer.to_owned()).await;
        let dialer = dialer_through(&proxy, "http", "");
        let error = failure(&dialer).await.to_string();
        assert!(
            error.contains(expected),
            "{:?}: {error}",
            answer.lines().next()
        );
    }
}

#[tokio::test]
async fn closing_proxy_is_reported_whether_or_not_it_read_the_request() {
    for scheme in ["http", "socks5h"] {
        for reads in [true, false] {
            let proxy = TestListener::with(move |mut stream| async move {
                // Wait for data first: closing with unread data resets the connection.
                let _ = stream.peek(&mut [0]).await;
                if reads {
                    let _ = stream.read(&mut [0; 1024]).await;
                }
            })
            .await;
            let dialer = dialer_through(&proxy, scheme, "");
            let error = failure(&dialer).await.to_string();
            assert!(
                error.contains("closed the connection without an answer"),
                "{scheme}, reads {reads}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn retry_after_of_a_proxy_is_reported() {
    for (answer, expected) in [
        ("503 Busy\r\nRetry-After: 7", Some(7)),
        ("429 Slow down\r\nRetry-After: 8", Some(8)),
        ("503 Busy\r\nRetry-After: 86400", Some(60)),
        ("503 Busy\r\nRetry-After: soon", None),
        ("503 Busy", None),
        ("403 No\r\nRetry-After: 9", None),
        (
            "407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nRetry-After: 9",
            None,
        ),
    ] {
        let response = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
        let proxy = TestListener::answering(response).await;
        let error = failure(&dialer_through(&proxy, "http", "")).await;
        let wait = error.retry_after().map(|wait| wait.as_secs());
        assert_eq!(wait, expected, "{answer:?}: {error}");
        let text = wait.map(|seconds| format!("Retry-After {seconds} s"));
        assert!(
            text.is_none_or(|text| error.to_string().contains(&text)),
            "{error}"
        );
    }
}
