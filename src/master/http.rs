//! What the master looks like to HTTP: an ordinary web server that has nothing, but for one path that upgrades to a WebSocket. Knows
//! requests and streams; nothing of links.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;

use crate::link::{accept::derive_accept_key, websocket::ByteStream};

/// Where liveness is asked for, when it is configured.
pub const HEALTH_PATH: &str = "/healthz";

/// The smallest limit of a request's head that can be set: hyper's own buffer.
pub const MIN_HEADER_BYTES: usize = 8 * 1024;

/// The page for everything that is not there, as web servers send it.
const NOT_FOUND: &str = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n\
                         </body>\r\n</html>\r\n";

/// How long the closing of a connection may take that was answered.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// The HTTP face of a master.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// The one path that upgrades.
    pub(super) path: String,
    /// Whether [`HEALTH_PATH`] answers.
    pub(super) healthz: bool,
    /// Of a request's head.
    pub(super) header_bytes: usize,
    /// The time for a head, and between two requests.
    pub(super) header_timeout: Duration,
    /// The time of a connection before it is upgraded, whatever it does.
    pub(super) connection_timeout: Duration,
}

/// A connection that has become a WebSocket.
pub(super) struct Upgraded<S> {
    /// What it runs on.
    pub(super) stream: S,
    /// What came right behind the request.
    pub(super) read: Bytes,
    /// For whom the peer says that it speaks, if it is a proxy: to be believed only from one's own.
    pub(super) forwarded_for: Option<IpAddr>,
}

/// What a request gets.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// 101, with this `Sec-WebSocket-Accept`.
    Upgrade(String),
    Health,
    NotFound,
}

impl Endpoint {
    /// Serves HTTP on a stream, until it has been upgraded. Nothing when the connection ended otherwise.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the connection.
    pub(super) async fn serve<S: ByteStream>(&self, stream: S) -> Option<Upgraded<S>> {
        let upgrade = Arc::new(OnceLock::new());
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let answer = self.judge(&request);
            if matches!(answer, Answer::Upgrade(_)) {
                upgrade.get_or_init(|| forwarded_for(request.headers()));
            }
            std::future::ready(Ok::<_, Infallible>(answer.response(request.method() == Method::HEAD)))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(self.header_bytes.max(MIN_HEADER_BYTES))
            .max_header_size(self.header_bytes)
            .serve_connection(TokioIo::new(stream), service);
        // Without hyper's own way of upgrading, which would box the stream: its state is gone when this returns.
        let parts = tokio::time::timeout(self.connection_timeout, connection.without_shutdown()).await.ok()?.ok()?;
        let mut stream = parts.io.into_inner();
        if let Some(forwarded_for) = upgrade.get().copied() {
            return Some(Upgraded { stream, read: parts.read_buf, forwarded_for });
        }
        let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, stream.shutdown()).await;
        None
    }

    fn judge<B>(&self, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        if path == self.path
            && request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && let Some(key) = websocket_key(request.headers())
        {
            return Answer::Upgrade(derive_accept_key(key));
        }
        if self.healthz && path == HEALTH_PATH && matches!(*request.method(), Method::GET | Method::HEAD) {
            return Answer::Health;
        }
        Answer::NotFound
    }
}

impl Answer {
    fn response(self, head: bool) -> Response<Full<Bytes>> {
        let (status, kind, body) = match self {
            Answer::Upgrade(accept) => return switching(&accept),
            Answer::Health => (StatusCode::OK, "text/plain", "ok\n"),
            Answer::NotFound => (StatusCode::NOT_FOUND, "text/html", NOT_FOUND),
        };
        let mut response = Response::new(Full::new(if head { Bytes::new() } else { Bytes::from_static(body.as_bytes()) }));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        response
    }
}

fn switching(accept: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is always a valid header; without it the peer would refuse the upgrade, and nothing worse.
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// The key of a proper opening handshake (RFC 6455, 4.2.1).
fn websocket_key(headers: &HeaderMap) -> Option<&[u8]> {
    let proper = lists(headers, &header::CONNECTION, "upgrade")
        && lists(headers, &header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && headers.contains_key(header::HOST);
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| proper)?.as_bytes();
    (keys.next().is_none() && is_sixteen_bytes_in_base64(key)).then_some(key)
}

/// The address that the last proxy on the way put down: those before it are what it was told.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim();
    last.parse().ok()
}

fn lists(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn is_sixteen_bytes_in_base64(key: &[u8]) -> bool {
    matches!(key.strip_suffix(b"=="), Some(digits) if digits.len() == 22
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            path: "/tunnel".to_owned(),
            healthz: true,
            header_bytes: 16 * 1024,
            header_timeout: Duration::from_secs(10),
            connection_timeout: Duration::from_secs(60),
        }
    }

    /// The request of RFC 6455, 1.3, with something changed.
    fn judged(change: impl FnOnce(&mut Request<()>)) -> Answer {
        let mut request = Request::builder()
            .uri("/tunnel")
            .header("host", "tunnel.example.com")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .expect("a request");
        change(&mut request);
        endpoint().judge(&request)
    }

    #[test]
    fn a_proper_opening_handshake_is_upgraded() {
        assert_eq!(judged(|_| {}), Answer::Upgrade("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()));
        assert_eq!(judged(|request| *request.uri_mut() = "/tunnel?via=cdn".parse().expect("a path")), judged(|_| {}));
    }

    #[test]
    fn whatever_is_not_proper_finds_nothing() {
        for name in ["host", "connection", "upgrade", "sec-websocket-version", "sec-websocket-key"] {
            assert_eq!(judged(|request| drop(request.headers_mut().remove(name))), Answer::NotFound, "without {name}");
            let wrong = HeaderValue::from_static("wrong");
            let expected = if name == "host" { judged(|_| {}) } else { Answer::NotFound };
            assert_eq!(judged(|request| drop(request.headers_mut().insert(name, wrong))), expected, "with a wrong {name}");
        }
        assert_eq!(judged(|request| *request.method_mut() = Method::POST), Answer::NotFound);
        assert_eq!(judged(|request| *request.version_mut() = Version::HTTP_10), Answer::NotFound);
        assert_eq!(judged(|request| *request.uri_mut() = "/tunnel/".parse().expect("a path")), Answer::NotFound);
        assert_eq!(judged(|request| *request.uri_mut() = "/".parse().expect("a path")), Answer::NotFound);
        let second = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(judged(|request| assert!(request.headers_mut().append("sec-websocket-key", second))), Answer::NotFound);
    }

    #[test]
    fn the_last_address_that_was_forwarded_counts() {
        let forwarded = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_static(line));
            }
            forwarded_for(&headers).map(|address| address.to_string())
        };
        assert_eq!(forwarded(&["10.0.0.1, 192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(forwarded(&["192.0.2.7", "2001:db8::1"]).as_deref(), Some("2001:db8::1"));
        for nothing in [&[][..], &["unknown"], &["192.0.2.7, "]] {
            assert_eq!(forwarded(nothing), None);
        }
    }

    #[test]
    fn health_is_answered_only_where_it_is_configured() {
        let request = Request::builder().uri(HEALTH_PATH).body(()).expect("a request");
        assert_eq!(endpoint().judge(&request), Answer::Health);
        assert_eq!(Endpoint { healthz: false, ..endpoint() }.judge(&request), Answer::NotFound);
    }

    #[test]
    fn no_answer_names_the_program() {
        for answer in [Answer::Upgrade("key".to_owned()), Answer::Health, Answer::NotFound] {
            let response = answer.response(false);
            assert!(!format!("{response:?}").to_ascii_lowercase().contains("report"), "{response:?}");
        }
    }
}
