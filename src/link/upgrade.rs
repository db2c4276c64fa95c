//! The request that turns a connection into a WebSocket, as the role that dials makes it (RFC 6455, 4.1), with an eye for what else may be
//! listening there.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::{
    client::{Response, generate_key},
    derive_accept_key,
    machine::TryParse,
};

use super::websocket::ByteStream;

/// The largest answer that is read, head and beginning of the body, in bytes: more than any server's headers.
const MAX_ANSWER: usize = 16 * 1024;

/// Characters of evidence that are shown: one line.
const EVIDENCE: usize = 120;

/// Why the connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// An HTTP server answered, but not with 101.
    #[error("{}", .0.describe())]
    Refused(Box<Refusal>),
    /// What answered does not speak HTTP/1.1.
    #[error("what listens there does not speak HTTP/1.1 (it said: {0:?}); check the host and port in `master`")]
    NotHttp(String),
    /// It answered 101, but did not agree to a WebSocket.
    #[error("the answer 101 does not agree to a WebSocket: {0}; a proxy in between may not support them")]
    NotAgreed(&'static str),
    /// The connection was closed before an answer had come.
    #[error("the connection was closed without an answer; does what listens there speak HTTP, and without TLS?")]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// An HTTP answer other than 101.
#[derive(Debug)]
pub struct Refusal {
    /// Of the answer.
    pub status: StatusCode,
    /// What the server calls itself.
    pub server: Option<String>,
    /// Where it wants the request to go instead.
    pub location: Option<String>,
    /// The first line of text in the body.
    pub body: String,
}

impl Refusal {
    fn describe(&self) -> String {
        let mut text = format!("no WebSocket there: HTTP status {}", self.status);
        if let Some(server) = &self.server {
            text.push_str(&format!(" from {server:?}"));
        }
        if !self.body.is_empty() {
            text.push_str(&format!(", it says {:?}", self.body));
        }
        text.push_str("; ");
        text.push_str(&self.remedy());
        text
    }

    fn remedy(&self) -> String {
        match (&self.location, self.status.as_u16()) {
            (Some(location), 300..=399) => {
                let shown = location.replacen("http", "ws", 1);
                format!("it redirects to {location:?}: if that is the master, write {shown:?} in `master`")
            }
            (_, 400 | 497) if self.body.to_ascii_lowercase().contains("https") => {
                "the port expects TLS: write wss:// in `master`".to_owned()
            }
            (_, 502..=504) => "a proxy answers, but the master behind it does not: is it running?".to_owned(),
            (_, 401 | 403 | 407) => "a proxy or firewall in front of the master refuses the request".to_owned(),
            (_, 400 | 426) => "a proxy in front of the master may not pass Upgrade and Connection on".to_owned(),
            _ => "the master may be at another path or port, or this is some other web server: check `master`".to_owned(),
        }
    }
}

/// Asks for the upgrade at `path` of `host`, with more headers, and returns what came behind the answer already: it belongs to the WebSocket.
///
/// # Errors
/// When the peer does not agree.
///
/// # Cancel safety
/// Not safe: part of the answer may have been read then.
pub async fn upgrade(stream: &mut impl ByteStream, path: &str, host: &str, headers: &HeaderMap) -> Result<Bytes, UpgradeError> {
    let key = generate_key();
    stream.write_all(&request(path, host, headers, &key)).await?;
    stream.flush().await?;
    let mut answer = BytesMut::with_capacity(1024);
    let response = loop {
        let read = stream.read_buf(&mut answer).await;
        match Response::try_parse(&answer) {
            Ok(Some((length, response))) => {
                answer.advance(length);
                break response;
            }
            Ok(None) if answer.len() <= MAX_ANSWER => {}
            Ok(None) | Err(_) => return Err(UpgradeError::NotHttp(evidence(&answer))),
        }
        match read {
            Ok(0) if answer.is_empty() => return Err(UpgradeError::Closed),
            Ok(0) => return Err(UpgradeError::NotHttp(evidence(&answer))),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return agreed(response.headers(), &key).map(|()| answer.freeze()).map_err(UpgradeError::NotAgreed);
    }
    let body = body(stream, answer).await;
    Err(UpgradeError::Refused(Box::new(refusal(&response, &body))))
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

fn agreed(headers: &HeaderMap, key: &str) -> Result<(), &'static str> {
    let has = |name: header::HeaderName, token: &str| {
        let values = headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    if !has(header::UPGRADE, "websocket") {
        return Err("it has no `Upgrade: websocket`");
    }
    if !has(header::CONNECTION, "upgrade") {
        return Err("it has no `Connection: Upgrade`");
    }
    if headers
        .get(header::SEC_WEBSOCKET_ACCEPT)
        .is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
    {
        return Err("its `Sec-WebSocket-Accept` does not fit the request");
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) || headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Err("it names an extension or a subprotocol that nobody asked for");
    }
    Ok(())
}

/// The beginning of the body: what has come, and what comes until there is a line of text. The caller's deadline covers it.
async fn body(stream: &mut impl ByteStream, mut body: BytesMut) -> BytesMut {
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);
    while body.len() < MAX_ANSWER && evidence(&body).is_empty() {
        match tokio::time::timeout(PATIENCE, stream.read_buf(&mut body)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => break,
        }
    }
    body
}

fn refusal(response: &Response, body: &[u8]) -> Refusal {
    let text = |name: header::HeaderName| {
        response.headers().get(name).map(|value| evidence(value.as_bytes())).filter(|text| !text.is_empty())
    };
    Refusal { status: response.status(), server: text(header::SERVER), location: text(header::LOCATION), body: evidence(body) }
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
            character if character.is_control() || character == char::REPLACEMENT_CHARACTER => text.push(' '),
            character => text.push(character),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EVIDENCE).collect()
}
