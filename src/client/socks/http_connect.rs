//! The server side of HTTP CONNECT (RFC 9110, section 9.3.6): parses the head of a request and
//! encodes the responses. Data behind the head belongs to the destination.

use std::{net::IpAddr, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header, Request, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    credentials::{ProxyCredentials, UserCheck},
    failure::ConnectFailure,
    request_error::ProxyRequestError,
};
use crate::{
    net::authority::{Authority, parse_port},
    tunnel::details::NamedTarget,
};

/// The longest head of a request, in bytes. A browser sends a few hundred.
const HEAD_MAX: usize = 8 * 1024;

/// The most fields of a request.
const FIELDS_MAX: usize = 64;

/// The response to a request whose connection is up. Everything after it comes from the
/// destination.
pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// A status of a response without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpStatus {
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    UserRequired,
    HeadTooLarge,
    BadGateway,
    Unavailable,
    GatewayTimeout,
}

impl HttpStatus {
    /// Returns the code.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::MethodNotAllowed => 405,
            Self::UserRequired => 407,
            Self::HeadTooLarge => 431,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::UserRequired => "Proxy Authentication Required",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::BadGateway => "Bad Gateway",
            Self::Unavailable => "Service Unavailable",
            Self::GatewayTimeout => "Gateway Timeout",
        }
    }

    /// Returns the field that the status requires.
    fn field(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "Allow: CONNECT\r\n",
            Self::UserRequired => "Proxy-Authenticate: Basic realm=\"rePort\"\r\n",
            _ => "",
        }
    }
}

/// Why the proxy refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpRefusal {
    /// The head is not HTTP/1.
    #[error("the request is malformed")]
    Malformed,
    /// The head is too long, or has too many fields.
    #[error("the head of the request is too large")]
    TooLarge,
    /// The method is another one.
    #[error(
        "the proxy supports only CONNECT (let the application tunnel plain HTTP too, as curl does with --proxytunnel)"
    )]
    Method,
    /// The request announces a body, which CONNECT does not have.
    #[error("CONNECT has no body")]
    Body,
    /// The destination is no host with a port.
    #[error("the destination is not HOST:PORT")]
    Target,
    /// The request has no user.
    #[error("the proxy requires a user and a password")]
    NoUser,
    /// The name or the password is wrong.
    #[error("wrong user or password")]
    WrongUser,
    /// Too many wrong passwords came from the address.
    #[error("too many wrong passwords")]
    Throttled,
}

impl HttpRefusal {
    fn status(self) -> HttpStatus {
        match self {
            Self::Malformed | Self::Body | Self::Target => HttpStatus::BadRequest,
            Self::TooLarge => HttpStatus::HeadTooLarge,
            Self::Method => HttpStatus::MethodNotAllowed,
            Self::NoUser | Self::WrongUser | Self::Throttled => HttpStatus::UserRequired,
        }
    }
}

/// A request for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConnectRequest {
    pub target: NamedTarget,
    /// Data for the destination that arrived with the head.
    pub early: Bytes,
}

/// Encodes the response to a request that is refused.
pub(super) fn refusal_response(refusal: &HttpRefusal) -> Vec<u8> {
    response(refusal.status(), &refusal.to_string())
}

/// Encodes the response to a request without a connection.
pub(super) fn failure_response(failure: ConnectFailure) -> Vec<u8> {
    response(failure.status(), failure.text())
}

fn response(status: HttpStatus, text: &str) -> Vec<u8> {
    let body = format!("rePort: {text}\n");
    let head = format!(
        "HTTP/1.1 {} {}\r\n{}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.code(),
        status.phrase(),
        status.field(),
        body.len()
    );
    (head + &body).into_bytes()
}

/// Reads a request whose first byte was read. `address` is that of the application.
///
/// # Errors
/// If the connection ends, or the request is refused.
pub(super) async fn accept<R: AsyncRead + Unpin>(
    first: u8,
    reader: &mut R,
    address: Option<IpAddr>,
    credentials: Option<&ProxyCredentials>,
) -> Result<ConnectRequest, ProxyRequestError> {
    let mut received = BytesMut::from(&[first][..]);
    loop {
        if let Some((length, target)) = parse(&received, address, credentials)? {
            let early = received.split_off(length).freeze();
            return Ok(ConnectRequest { target, early });
        }
        let room = HEAD_MAX.saturating_sub(received.len());
        if room == 0 {
            return Err(HttpRefusal::TooLarge.into());
        }
        let mut limited = (&mut *reader).take(room as u64);
        if limited.read_buf(&mut received).await? == 0 {
            let ended = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(ended.into());
        }
    }
}

/// Parses a request. Returns the length of its head and its destination, or `None` if the head is
/// incomplete.
fn parse(
    bytes: &[u8],
    address: Option<IpAddr>,
    credentials: Option<&ProxyCredentials>,
) -> Result<Option<(usize, NamedTarget)>, HttpRefusal> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpRefusal::TooLarge),
        Err(_) => return Err(HttpRefusal::Malformed),
    };
    if request.method != Some("CONNECT") {
        return Err(HttpRefusal::Method);
    }
    if request.headers.iter().any(announces_body) {
        return Err(HttpRefusal::Body);
    }
    if let Some(credentials) = credentials {
        authenticate(request.headers, address, credentials)?;
    }
    let target = request.path.and_then(target_of);
    Ok(Some((length, target.ok_or(HttpRefusal::Target)?)))
}

/// Returns whether a field announces a body. A length of 0 announces none.
fn announces_body(field: &Header<'_>) -> bool {
    field.name.eq_ignore_ascii_case("transfer-encoding")
        || (field.name.eq_ignore_ascii_case("content-length") && field.value.trim_ascii() != b"0")
}

/// Checks the user of a request.
fn authenticate(
    fields: &[Header<'_>],
    address: Option<IpAddr>,
    credentials: &ProxyCredentials,
) -> Result<(), HttpRefusal> {
    let field = fields
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("proxy-authorization"));
    let value = field.ok_or(HttpRefusal::NoUser)?.value.trim_ascii();
    let (name, password) = basic_user(value).ok_or(HttpRefusal::WrongUser)?;
    match credentials.check(Instant::now(), address, &name, &password) {
        UserCheck::Accepted => Ok(()),
        UserCheck::Wrong => Err(HttpRefusal::WrongUser),
        UserCheck::Throttled => Err(HttpRefusal::Throttled),
    }
}

/// Parses the name and the password of the Basic scheme (RFC 7617).
fn basic_user(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, token) = value.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut name = STANDARD.decode(token.trim_ascii()).ok()?;
    let colon = name.iter().position(|byte| *byte == b':')?;
    let password = name.split_off(colon).split_off(1);
    Some((name, password))
}

/// Parses `HOST:PORT`.
fn target_of(path: &str) -> Option<NamedTarget> {
    let authority = Authority::split(path)?;
    let is_v6 = authority.host.contains(':');
    if authority.in_brackets != is_v6 {
        return None;
    }
    let port = parse_port(authority.port().ok()??)?;
    NamedTarget::new(authority.host.to_owned(), port).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, SocksUser};

    fn credentials() -> ProxyCredentials {
        ProxyCredentials::new(&SocksUser {
            name: "user".to_owned(),
            password: Secret::new("pa:ss".to_owned()),
        })
    }

    async fn accepted(
        request: &[u8],
        credentials: Option<&ProxyCredentials>,
    ) -> Result<ConnectRequest, ProxyRequestError> {
        let (first, mut rest) = request.split_first().expect("a byte");
        let accepted = accept(*first, &mut rest, None, credentials).await?;
        // A part of the early data may still be in the connection.
        let early = [&accepted.early[..], rest].concat().into();
        Ok(ConnectRequest { early, ..accepted })
    }

    /// Returns the refusal of a request.
    async fn refused(request: &str, credentials: Option<&ProxyCredentials>) -> HttpRefusal {
        match accepted(request.as_bytes(), credentials).await {
            Err(ProxyRequestError::Http(refusal)) => refusal,
            other => panic!("{request}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_request_is_parsed_with_the_data_behind_it() {
        for (path, host, port) in [
            ("nas.lan:22", "nas.lan", 22),
            ("10.0.0.1:65535", "10.0.0.1", 65535),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
        ] {
            let request =
                format!("CONNECT {path} HTTP/1.1\r\nHost: other\r\nContent-Length: 0\r\n\r\nearly");
            let accepted = accepted(request.as_bytes(), None).await.expect("valid");
            let host = host.to_owned();
            assert_eq!(accepted.target, NamedTarget { host, port });
            assert_eq!(accepted.early, "early");
        }
    }

    #[tokio::test]
    async fn a_head_may_arrive_byte_by_byte() {
        let (mut application, mut proxy) = tokio::io::duplex(1);
        let sending = async {
            let request = b"ONNECT nas.lan:22 HTTP/1.0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut application, request).await
        };
        let (accepted, sent) = tokio::join!(accept(b'C', &mut proxy, None, None), sending);
        sent.expect("sent");
        assert_eq!(accepted.expect("valid").target.host, "nas.lan");
    }

    #[tokio::test]
    async fn invalid_requests_are_refused_with_their_status() {
        let many = "a: b\r\n".repeat(FIELDS_MAX + 1);
        let many = format!("CONNECT nas.lan:1 HTTP/1.1\r\n{many}\r\n");
        let long = "b".repeat(HEAD_MAX);
        let long = format!("CONNECT nas.lan:1 HTTP/1.1\r\na: {long}\r\n\r\n");
        for (request, refusal, status) in [
            (
                "GET http://nas.lan/ HTTP/1.1\r\n\r\n",
                HttpRefusal::Method,
                405,
            ),
            (
                "connect nas.lan:1 HTTP/1.1\r\n\r\n",
                HttpRefusal::Method,
                405,
            ),
            (
                "CONNECT nas.lan:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
                HttpRefusal::Body,
                400,
            ),
            (
                "CONNECT nas.lan:1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
                HttpRefusal::Body,
                400,
            ),
            ("CONNECT nas.lan HTTP/1.1\r\n\r\n", HttpRefusal::Target, 400),
            (
                "CONNECT nas.lan:0 HTTP/1.1\r\n\r\n",
                HttpRefusal::Target,
                400,
            ),
            (
                "CONNECT nas.lan:65536 HTTP/1.1\r\n\r\n",
                HttpRefusal::Target,
                400,
            ),
            ("CONNECT :22 HTTP/1.1\r\n\r\n", HttpRefusal::Target, 400),
            ("CONNECT ::1:22 HTTP/1.1\r\n\r\n", HttpRefusal::Target, 400),
            (
                "CONNECT [nas]:22 HTTP/1.1\r\n\r\n",
                HttpRefusal::Target,
                400,
            ),
            (
                "CONNECT http://nas.lan:80/ HTTP/1.1\r\n\r\n",
                HttpRefusal::Target,
                400,
            ),
            (
                "CONNECT nas.lan:22 HTTP/2.0\r\n\r\n",
                HttpRefusal::Malformed,
                400,
            ),
            ("CONNECT nas.lan:22\r\n\r\n", HttpRefusal::Malformed, 400),
            (many.as_str(), HttpRefusal::TooLarge, 431),
            (long.as_str(), HttpRefusal::TooLarge, 431),
        ] {
            assert_eq!(refused(request, None).await, refusal, "{request}");
            assert_eq!(refusal.status().code(), status, "{request}");
        }
    }

    #[tokio::test]
    async fn an_incomplete_head_is_an_interrupted_connection() {
        let request = "CONNECT nas.lan:1 HTTP/1.1\r\nHost: nas.lan\r\n\r\n";
        for length in 1..request.len() {
            let part = request.as_bytes().get(..length).expect("a part");
            let error = accepted(part, None).await.expect_err("incomplete");
            assert!(
                matches!(error, ProxyRequestError::Io(_)),
                "{length}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_user_is_required_if_there_is_one() {
        let credentials = credentials();
        let request = |field: &str| format!("CONNECT nas.lan:1 HTTP/1.1\r\n{field}\r\n");
        let token = STANDARD.encode("user:pa:ss");
        for scheme in ["Basic", "basic", "BASIC "] {
            let request = request(&format!("Proxy-Authorization: {scheme} {token}\r\n"));
            let accepted = accepted(request.as_bytes(), Some(&credentials)).await;
            assert!(accepted.is_ok(), "{request}: {accepted:?}");
        }
        let missing = refused(&request(""), Some(&credentials)).await;
        assert_eq!(missing, HttpRefusal::NoUser);
        let response = String::from_utf8(refusal_response(&missing)).expect("text");
        assert!(response.starts_with("HTTP/1.1 407 "), "{response}");
        assert!(response.contains("\r\nProxy-Authenticate: Basic "));
        for value in [
            format!("Basic {}", STANDARD.encode("user:pass")),
            format!("Bearer {token}"),
            "Basic ?".to_owned(),
            "Basic".to_owned(),
            format!("Basic {}", STANDARD.encode("user")),
        ] {
            let request = request(&format!("Proxy-Authorization: {value}\r\n"));
            let refusal = refused(&request, Some(&credentials)).await;
            assert_eq!(refusal, HttpRefusal::WrongUser, "{value}");
        }
    }

    #[test]
    fn responses_state_their_length_and_close() {
        let response = String::from_utf8(failure_response(ConnectFailure::Denied)).expect("text");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
        assert!(head.contains("\r\nConnection: close"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
        assert_eq!(
            body,
            "rePort: the rules of the server do not allow the destination\n"
        );
    }
}
