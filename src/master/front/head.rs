//! The head of a request, as far as the front must understand it: is it a role's upgrade, and where does the next head begin? Everything else about
//! it is the web server's to judge, which gets the very bytes.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::link::accept::derive_accept_key;

/// Header fields of one head; one with more is left to the web server. Browsers and proxies together send some forty.
const MAX_HEADERS: usize = 128;

/// What the bytes that came so far begin with.
#[derive(Debug)]
pub(super) enum Beginning {
    /// A whole head.
    Head(Head),
    /// Something that may become one.
    Partial,
    /// Nothing that HTTP/1 knows.
    Foreign,
}

/// A whole head.
#[derive(Debug)]
pub(super) struct Head {
    /// Its bytes, the empty line included.
    pub length: usize,
    /// The path that it asks for, without its query.
    pub path: String,
    /// The `Sec-WebSocket-Accept` for it, if it is a proper opening handshake (RFC 6455, 4.2.1), whatever its path.
    pub accept: Option<String>,
    /// What follows it.
    pub body: Body,
    /// Its header fields.
    pub headers: HeaderMap,
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes, and then the next head.
    Length(u64),
    /// Something whose end only the web server knows: chunks, another protocol, nothing more.
    Open,
}

impl Beginning {
    /// Looks at the first bytes of a request.
    pub fn of(bytes: &[u8]) -> Self {
        let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Partial) => Beginning::Partial,
            Ok(httparse::Status::Complete(length)) => Head::read(&request, length).map_or(Beginning::Foreign, Beginning::Head),
            Err(_) => Beginning::Foreign,
        }
    }
}

impl Head {
    fn read(request: &httparse::Request<'_, '_>, length: usize) -> Option<Self> {
        let mut headers = HeaderMap::with_capacity(request.headers.len());
        for field in request.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
        let uri: Uri = request.path?.parse().ok()?;
        let is_current = request.version == Some(1);
        let accept = websocket_key(&headers).filter(|_| is_current && request.method == Some("GET")).map(derive_accept_key);
        let is_plain = is_current && request.method != Some("CONNECT");
        let body = if is_plain { body(&headers) } else { Body::Open };
        Some(Head { length, path: uri.path().to_owned(), accept, body, headers })
    }
}

fn body(headers: &HeaderMap) -> Body {
    if headers.contains_key(header::TRANSFER_ENCODING) || headers.contains_key(header::UPGRADE) {
        return Body::Open;
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Body::Length(0),
        (Some(length), None) => length.to_str().ok().and_then(decimal).map_or(Body::Open, Body::Length),
        (Some(_), Some(_)) => Body::Open,
    }
}

/// Digits and nothing else: Rust's own parser takes a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The key of a proper opening handshake.
fn websocket_key(headers: &HeaderMap) -> Option<&[u8]> {
    let proper = lists(headers, &header::CONNECTION, "upgrade")
        && lists(headers, &header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && headers.contains_key(header::HOST);
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| proper)?.as_bytes();
    (keys.next().is_none() && is_sixteen_bytes_in_base64(key)).then_some(key)
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn is_sixteen_bytes_in_base64(key: &[u8]) -> bool {
    matches!(key.strip_suffix(b"=="), Some(digits) if digits.len() == 22
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The request of RFC 6455, 1.3.
    const UPGRADE: &str = "GET /tunnel?via=cdn HTTP/1.1\r\nHost: tunnel.example.com\r\nConnection: keep-alive, Upgrade\r\n\
                           Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn head(text: &str) -> Head {
        match Beginning::of(text.as_bytes()) {
            Beginning::Head(head) => head,
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn a_proper_opening_handshake_is_recognised() {
        let head = head(UPGRADE);
        assert_eq!(head.accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!((head.path.as_str(), head.length), ("/tunnel", UPGRADE.len()));
    }

    #[test]
    fn what_is_not_proper_is_none() {
        let changes = [
            ("GET", "POST"),
            ("GET", "get"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Host", "X-Host"),
            ("keep-alive, Upgrade", "keep-alive"),
            ("WebSocket\r\n", "h2c\r\n"),
            ("13", "8"),
            ("ZQ==", "ZQ"),
            ("ZQ==", "ZQ=?"),
            ("Sec-WebSocket-Key", "X-Key"),
            ("Upgrade: WebSocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (from, to) in changes {
            assert_eq!(head(&UPGRADE.replacen(from, to, 1)).accept, None, "{to} for {from}");
        }
    }

    #[test]
    fn the_next_head_is_found_only_where_that_is_sure() {
        let with = |fields: &str| head(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).body;
        assert_eq!(with(""), Body::Length(0));
        assert_eq!(with("Content-Length: 7\r\n"), Body::Length(7));
        for fields in [
            "Content-Length: +7\r\n",
            "Content-Length: 7, 7\r\n",
            "Content-Length: 7\r\nContent-Length: 8\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 7\r\n",
            "Upgrade: h2c\r\n",
        ] {
            assert_eq!(with(fields), Body::Open, "{fields}");
        }
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n").body, Body::Open);
        assert_eq!(head("CONNECT a:1 HTTP/1.1\r\n\r\n").body, Body::Open);
    }

    #[test]
    fn half_a_head_may_become_one_and_another_protocol_never() {
        assert!(matches!(Beginning::of(b""), Beginning::Partial));
        assert!(matches!(Beginning::of(b"GET /tun"), Beginning::Partial));
        assert!(matches!(Beginning::of(b"\x16\x03\x01\x00"), Beginning::Foreign));
        assert!(matches!(Beginning::of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Beginning::Foreign));
        assert!(matches!(Beginning::of(b"GET / HTTP/1.1\r\nno colon\r\n"), Beginning::Foreign));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Beginning::of(&bytes);
            let _ = Beginning::of(&[UPGRADE.as_bytes(), &bytes].concat());
        }
    }
}
