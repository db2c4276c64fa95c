//! The WebSocket upgrade (RFC 6455, 4.1): the request and the answer, with diagnostics for other
//! services that may answer instead of a master, and the socket at the end that accepts.

mod refusal;
pub(super) mod retry_after;

use std::{fmt, io};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub use self::refusal::UpgradeRefusal;
use super::{
    evidence::first_line,
    middlebox::middlebox,
    websocket::{ByteStream, MessageSocket, SocketEnd},
};
use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// The maximum length of a response's head, in bytes. Web servers send a few hundred bytes; many
/// cookies and policies add a few thousand.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// The maximum number of header fields in a response.
pub(super) const MAX_FIELDS: usize = 256;

/// The maximum number of bytes read from a body, as evidence.
const MAX_BODY: usize = 16 * 1024;

/// Creates the socket over a stream on which the master has answered 101. `read` holds the bytes
/// that arrived directly after the request: they belong to the WebSocket.
#[must_use]
pub fn upgraded(stream: impl ByteStream, read: Bytes) -> MessageSocket {
    MessageSocket::new(stream, read, SocketEnd::Accepted)
}

/// Why the connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.diagnosis())]
pub enum UpgradeError {
    /// An HTTP server answered with a status other than 101.
    Refused(Box<UpgradeRefusal>),
    /// The peer does not speak HTTP/1.1. Holds its first line.
    NotHttp(String),
    /// The head of the response exceeds a limit.
    LargeHead {
        /// The limit.
        limit: HeadLimit,
        /// The first line of the response.
        begins: String,
    },
    /// The status is 101, but the headers do not complete the handshake.
    NotAgreed {
        /// The problems with the response.
        problems: Vec<&'static str>,
        /// The product that answered, if known.
        middlebox: Option<&'static str>,
    },
    /// The connection was closed before a response.
    Closed,
    /// The connection failed.
    Io(#[from] io::Error),
}

/// A limit on the head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadLimit {
    /// Its length.
    Bytes,
    /// The number of its fields.
    Fields,
}

impl fmt::Display for HeadLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadLimit::Bytes => write!(formatter, "is longer than {} KiB", MAX_HEAD / 1024),
            HeadLimit::Fields => write!(formatter, "has more than {MAX_FIELDS} fields"),
        }
    }
}

impl UpgradeError {
    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            UpgradeError::Refused(refusal) => refusal.diagnosis(),
            UpgradeError::NotHttp(received) => Diagnosis::new(
                DiagnosisCode::HttpNotSpoken,
                format!("the port does not speak HTTP/1.1 (it sent {received:?})"),
                "another program listens there, or the port expects TLS",
                "check the host and port in `master`, and whether it must begin with wss://",
            ),
            UpgradeError::LargeHead { limit, begins } => Diagnosis::new(
                DiagnosisCode::HttpHeadTooLarge,
                format!("the response head {limit} (it begins with {begins:?})"),
                "a proxy or web server on the path adds many or long fields, such as cookies or policies",
                "let it add fewer for this path, and check the host, port and path in `master`",
            ),
            UpgradeError::NotAgreed {
                problems,
                middlebox,
            } => Diagnosis::new(
                DiagnosisCode::HttpHandshakeAltered,
                format!(
                    "the 101 response does not complete the WebSocket handshake: {}",
                    problems.join(", ")
                ),
                match middlebox {
                    Some(name) => {
                        format!("{name} changed the response: it may not support WebSockets")
                    }
                    None => {
                        "a proxy on the path changed the response: it may not support WebSockets"
                            .to_owned()
                    }
                },
                "let it forward Upgrade, Connection and Sec-WebSocket-Accept, or bypass it with wss:// in `master` or with `proxy`",
            ),
            UpgradeError::Closed => Diagnosis::new(
                DiagnosisCode::HttpClosed,
                "the connection was closed without an answer",
                "the port expects TLS or belongs to another program, or a device on the path closes unknown protocols",
                "check that the port speaks HTTP; if it expects TLS, write wss:// in `master`",
            ),
            UpgradeError::Io(error) => Diagnosis::new(
                DiagnosisCode::HttpFailed,
                format!("the connection failed before a response arrived: {error}"),
                "a device on the path cuts WebSockets, or the server refuses them",
                "write wss:// in `master`, so that no device on the path can read the request, or try another port or network",
            ),
        }
    }
}

/// Requests the upgrade at `path` of `host` with additional `headers`. Returns the bytes received
/// after the response's head: they belong to the WebSocket. Passes the response's status and headers
/// to `report`, whatever the status.
///
/// # Errors
/// If the peer does not complete the handshake.
///
/// # Cancel safety
/// Not cancel safe: part of the response may have been read.
pub async fn upgrade(
    stream: &mut impl ByteStream,
    path: &str,
    host: &str,
    headers: &HeaderMap,
    report: impl FnOnce(StatusCode, &HeaderMap),
) -> Result<Bytes, UpgradeError> {
    let key = generate_key();
    stream
        .write_all(&request(path, host, headers, &key))
        .await?;
    stream.flush().await?;
    let mut answer = BytesMut::with_capacity(1024);
    let ResponseHead {
        status,
        headers: response_headers,
        ..
    } = loop {
        let read = stream.read_buf(&mut answer).await;
        if let Some(head) = ResponseHead::read(&answer)? {
            answer.advance(head.length);
            break head;
        }
        match read {
            Ok(0) if answer.is_empty() => return Err(UpgradeError::Closed),
            Ok(0) => return Err(UpgradeError::NotHttp(first_line(&answer))),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    };
    report(status, &response_headers);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let problems = handshake_problems(&response_headers, &key);
        if problems.is_empty() {
            return Ok(answer.freeze());
        }
        return Err(UpgradeError::NotAgreed {
            problems,
            middlebox: middlebox(&response_headers, &[]),
        });
    }
    let body = body(stream, answer).await;
    Err(UpgradeError::Refused(Box::new(UpgradeRefusal::new(
        status,
        &response_headers,
        &body,
        host,
    ))))
}

/// The parsed head of a response.
struct ResponseHead {
    length: usize,
    status: StatusCode,
    headers: HeaderMap,
}

impl ResponseHead {
    /// Parses a head. Returns `None` until it is complete.
    fn read(bytes: &[u8]) -> Result<Option<Self>, UpgradeError> {
        let large = |limit| {
            Err(UpgradeError::LargeHead {
                limit,
                begins: first_line(bytes),
            })
        };
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => {
                let head = ResponseHead::of(&answer, length);
                head.map(Some)
                    .ok_or_else(|| UpgradeError::NotHttp(first_line(bytes)))
            }
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => Ok(None),
            Ok(_) => large(HeadLimit::Bytes),
            Err(httparse::Error::TooManyHeaders) => large(HeadLimit::Fields),
            Err(_) => Err(UpgradeError::NotHttp(first_line(bytes))),
        }
    }

    fn of(answer: &httparse::Response<'_, '_>, length: usize) -> Option<Self> {
        let status = answer.code.filter(|_| answer.version == Some(1))?;
        Some(ResponseHead {
            length,
            status: StatusCode::from_u16(status).ok()?,
            headers: header_map(answer.headers)?,
        })
    }
}

/// Converts parsed fields into a header map. Returns `None` if a field is invalid.
#[must_use]
pub fn header_map(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        headers.append(
            HeaderName::from_bytes(field.name.as_bytes()).ok()?,
            HeaderValue::from_bytes(field.value).ok()?,
        );
    }
    Some(headers)
}

fn request(path: &str, host: &str, headers: &HeaderMap, key: &str) -> Vec<u8> {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n"
    )
    .into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(name.as_str().as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// Returns the deviations of a 101 response from RFC 6455. Usually a middlebox removed or changed a
/// header.
fn handshake_problems(headers: &HeaderMap, key: &str) -> Vec<&'static str> {
    let has = |name: header::HeaderName, token: &str| {
        let values = headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(token))
            })
    };
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
    let fits =
        |accept: &HeaderValue| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes();
    let extras = headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
        || headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    [
        (
            !has(header::UPGRADE, "websocket"),
            "it has no `Upgrade: websocket`",
        ),
        (
            !has(header::CONNECTION, "upgrade"),
            "it has no `Connection: Upgrade`",
        ),
        (accept.is_none(), "it has no `Sec-WebSocket-Accept`"),
        (
            accept.is_some_and(|accept| !fits(accept)),
            "its `Sec-WebSocket-Accept` does not match the request",
        ),
        (
            extras,
            "it names an extension or a subprotocol that was not requested",
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, problem)| is_so.then_some(problem))
    .collect()
}

/// Reads the beginning of the body, until it contains a line of text. The caller's deadline
/// applies.
async fn body(stream: &mut impl ByteStream, mut body: BytesMut) -> BytesMut {
    const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);
    while body.len() < MAX_BODY && first_line(&body).is_empty() {
        match tokio::time::timeout(BODY_TIMEOUT, stream.read_buf(&mut body)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => break,
        }
    }
    body
}
