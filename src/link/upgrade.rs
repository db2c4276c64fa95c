//! The request that turns a connection into a WebSocket, as the role that dials makes it (RFC 6455, 4.1), with an eye for what else may be
//! listening there.

mod middlebox;
mod refusal;

use std::{fmt, io, time::SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

pub use self::refusal::Refusal;
use super::{Reason, websocket::ByteStream};

/// The longest head of an answer that is read, in bytes. Web servers write some hundred, and with many cookies and policies some thousand.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// The header fields of an answer that are read.
pub(super) const MAX_FIELDS: usize = 256;

/// How much is read for the beginning of a body, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// Characters of evidence that are shown: one line.
const EVIDENCE: usize = 120;

/// Why the connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.reason())]
pub enum UpgradeError {
    /// An HTTP server answered, but not with 101.
    Refused(Box<Refusal>),
    /// What answered does not speak HTTP/1.1.
    NotHttp(String),
    /// The head of the answer is larger than what is read.
    LargeHead {
        /// In what.
        limit: HeadLimit,
        /// Its first line.
        begins: String,
    },
    /// It answered 101, but did not agree to a WebSocket.
    NotAgreed {
        /// What is wrong with the answer.
        problems: Vec<&'static str>,
        /// What answered, as far as that is known.
        middlebox: Option<&'static str>,
    },
    /// The connection was closed before an answer had come.
    Closed,
    /// The connection failed.
    Io(#[from] io::Error),
}

/// What is too large about a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadLimit {
    /// All of it.
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
    /// What is told of it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            UpgradeError::Refused(refusal) => refusal.reason(),
            UpgradeError::NotHttp(said) => Reason::new(
                format!("what listens there does not speak HTTP/1.1 (it said: {said:?})"),
                "another program listens there, or that port expects TLS",
                "check the host and port in `master`, and whether it is to begin with wss://",
            ),
            UpgradeError::LargeHead { limit, begins } => Reason::new(
                format!("the answer's head {limit} (it begins: {begins:?})"),
                "a proxy or web server on the way writes many or long fields into it, such as cookies or policies",
                "let it write fewer for this path; and check that the host, port and path in `master` are the master's",
            ),
            UpgradeError::NotAgreed {
                problems,
                middlebox,
            } => Reason::new(
                format!(
                    "the answer 101 does not agree to a WebSocket: {}",
                    problems.join(", ")
                ),
                match middlebox {
                    Some(name) => {
                        format!("{name} has changed the answer: it may not support WebSockets")
                    }
                    None => {
                        "a proxy in between has changed the answer: it may not support WebSockets"
                            .to_owned()
                    }
                },
                "let it pass Upgrade, Connection and Sec-WebSocket-Accept on; or go around it: wss:// in `master`, or `proxy`",
            ),
            UpgradeError::Closed => Reason::new(
                "the connection was closed without an answer",
                "that port expects TLS or is another program's, or something in between ends what it does not know",
                "does what listens there speak HTTP, and without TLS? write wss:// in `master` where it does not",
            ),
            UpgradeError::Io(error) => Reason::new(
                format!("the connection failed before an answer had come: {error}"),
                "something in between cuts WebSockets, or what listens there refuses them",
                "write wss:// in `master`, where nobody in between can read the request; or try another port or network",
            ),
        }
    }
}

/// What an answer says beside its status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// The headers that tell who answered.
    pub telling: Vec<(&'static str, String)>,
    /// What answered, as far as that is known.
    pub middlebox: Option<&'static str>,
    /// The time there.
    pub date: Option<SystemTime>,
}

impl Answered {
    fn read(headers: &HeaderMap) -> Self {
        let date = headers
            .get(header::DATE)
            .and_then(|date| date.to_str().ok()?.parse::<httpdate::HttpDate>().ok());
        Answered {
            telling: middlebox::telling(headers, evidence),
            middlebox: middlebox::middlebox(headers, &[]),
            date: date.map(SystemTime::from),
        }
    }
}

/// Asks for the upgrade at `path` of `host`, with more headers, and returns what came behind the answer already: it belongs to the WebSocket. Tells what
/// the answer says, whatever it is.
///
/// # Errors
/// When the peer does not agree.
///
/// # Cancel safety
/// Not safe: part of the answer may have been read then.
pub async fn upgrade(
    stream: &mut impl ByteStream,
    path: &str,
    host: &str,
    headers: &HeaderMap,
    tell: impl FnOnce(Answered),
) -> Result<Bytes, UpgradeError> {
    let key = generate_key();
    stream
        .write_all(&request(path, host, headers, &key))
        .await?;
    stream.flush().await?;
    let mut answer = BytesMut::with_capacity(1024);
    let Head {
        status,
        headers: told,
        ..
    } = loop {
        let read = stream.read_buf(&mut answer).await;
        if let Some(head) = Head::read(&answer)? {
            answer.advance(head.length);
            break head;
        }
        match read {
            Ok(0) if answer.is_empty() => return Err(UpgradeError::Closed),
            Ok(0) => return Err(UpgradeError::NotHttp(evidence(&answer))),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    };
    tell(Answered::read(&told));
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let problems = disagreements(&told, &key);
        if problems.is_empty() {
            return Ok(answer.freeze());
        }
        return Err(UpgradeError::NotAgreed {
            problems,
            middlebox: middlebox::middlebox(&told, &[]),
        });
    }
    let body = body(stream, answer).await;
    Err(UpgradeError::Refused(Box::new(Refusal::new(
        status, &told, &body, host,
    ))))
}

/// The head of an answer.
struct Head {
    length: usize,
    status: StatusCode,
    headers: HeaderMap,
}

impl Head {
    /// Reads it; nothing until it is whole.
    fn read(bytes: &[u8]) -> Result<Option<Self>, UpgradeError> {
        let large = |limit| {
            Err(UpgradeError::LargeHead {
                limit,
                begins: evidence(bytes),
            })
        };
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => {
                let head = Head::of(&answer, length);
                head.map(Some)
                    .ok_or_else(|| UpgradeError::NotHttp(evidence(bytes)))
            }
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => Ok(None),
            Ok(_) => large(HeadLimit::Bytes),
            Err(httparse::Error::TooManyHeaders) => large(HeadLimit::Fields),
            Err(_) => Err(UpgradeError::NotHttp(evidence(bytes))),
        }
    }

    fn of(answer: &httparse::Response<'_, '_>, length: usize) -> Option<Self> {
        let status = answer.code.filter(|_| answer.version == Some(1))?;
        Some(Head {
            length,
            status: StatusCode::from_u16(status).ok()?,
            headers: header_map(answer.headers)?,
        })
    }
}

/// The fields of a head; nothing when one of them is none.
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

/// What of an answer 101 is not as RFC 6455 wants it: what was lost on the way, most of the time.
fn disagreements(headers: &HeaderMap, key: &str) -> Vec<&'static str> {
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
            "its `Sec-WebSocket-Accept` does not fit the request",
        ),
        (
            extras,
            "it names an extension or a subprotocol that nobody asked for",
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, problem)| is_so.then_some(problem))
    .collect()
}

/// The beginning of the body: what has come, and what comes until there is a line of text. The caller's deadline covers it.
async fn body(stream: &mut impl ByteStream, mut body: BytesMut) -> BytesMut {
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);
    while body.len() < MAX_BODY && evidence(&body).is_empty() {
        match tokio::time::timeout(PATIENCE, stream.read_buf(&mut body)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => break,
        }
    }
    body
}

/// The first line of text in what came, without HTML tags and control characters.
pub(super) fn evidence(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '<' => in_tag = true,
            '>' if in_tag => in_tag = false,
            _ if in_tag => {}
            '\n' | '\r' if !text.trim().is_empty() => break,
            character if character.is_control() || character == char::REPLACEMENT_CHARACTER => {
                text.push(' ')
            }
            character => text.push(character),
        }
    }
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(EVIDENCE)
        .collect()
}
