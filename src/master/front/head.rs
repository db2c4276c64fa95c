//! The head of a request, as far as the front must understand it: is it a role's upgrade, and where does the next head begin? Everything else about
//! it is the web server's to judge, which gets the very bytes.

use http::{HeaderMap, HeaderName, Uri, header};

use crate::link::{accept::derive_accept_key, upgrade::header_map};

/// Header fields that a role's upgrade, and a request to the master's own web server, may have. Browsers and proxies together send some forty.
pub(super) const MAX_FIELDS: usize = 128;

/// Header fields of one head that are read at all, so that a request with more than [`MAX_FIELDS`] can be answered in words. A head with more than
/// these is left to the web server.
pub(super) const READ_FIELDS: usize = 1024;

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
    /// Whether it asks for the fields alone: the answer has no body.
    pub is_head: bool,
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
    /// Chunks, and then the next head.
    Chunked,
    /// Another protocol if the web server agrees, otherwise the next head.
    Upgrade,
    /// Something whose end only the web server knows.
    Open,
}

impl Beginning {
    /// Looks at the first bytes of a request.
    pub fn of(bytes: &[u8]) -> Self {
        match Beginning::read(bytes, &mut [httparse::EMPTY_HEADER; MAX_FIELDS]) {
            Err(httparse::Error::TooManyHeaders) => {
                Beginning::read(bytes, &mut vec![httparse::EMPTY_HEADER; READ_FIELDS])
                    .unwrap_or(Beginning::Foreign)
            }
            read => read.unwrap_or(Beginning::Foreign),
        }
    }

    fn read<'b>(
        bytes: &'b [u8],
        fields: &mut [httparse::Header<'b>],
    ) -> Result<Self, httparse::Error> {
        let mut request = httparse::Request::new(fields);
        Ok(match request.parse(bytes)? {
            httparse::Status::Partial => Beginning::Partial,
            httparse::Status::Complete(length) => {
                Head::read(&request, length).map_or(Beginning::Foreign, Beginning::Head)
            }
        })
    }
}

impl Head {
    fn read(request: &httparse::Request<'_, '_>, length: usize) -> Option<Self> {
        let headers = header_map(request.headers)?;
        let uri: Uri = request.path?.parse().ok()?;
        let is_current = request.version == Some(1);
        let accept = websocket_key(&headers)
            .filter(|_| is_current && request.method == Some("GET"))
            .map(derive_accept_key);
        // An older request has no next one unless it says so.
        let is_followed = is_current || lists(&headers, &header::CONNECTION, "keep-alive");
        let is_plain = is_followed && request.method != Some("CONNECT");
        let body = if is_plain {
            body(&headers, is_current)
        } else {
            Body::Open
        };
        Some(Head {
            length,
            path: uri.path().to_owned(),
            accept,
            is_head: request.method == Some("HEAD"),
            body,
            headers,
        })
    }

    /// Whether it has more fields than a role's upgrade may have.
    pub fn is_crowded(&self) -> bool {
        self.headers.len() > MAX_FIELDS
    }
}

/// What follows, where every web server understands it in the same way.
fn body(headers: &HeaderMap, is_current: bool) -> Body {
    let coding = only(headers, &header::TRANSFER_ENCODING);
    match (
        coding,
        content_length(headers),
        headers.contains_key(header::UPGRADE),
    ) {
        (Only::None, Some(0), true) => Body::Upgrade,
        (Only::None, Some(length), false) => Body::Length(length),
        (Only::One(b"chunked"), Some(0), false)
            if is_current && !headers.contains_key(header::CONTENT_LENGTH) =>
        {
            Body::Chunked
        }
        _ => Body::Open,
    }
}

/// The value of a field that may be there once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Only<'h> {
    /// It is not there.
    None,
    /// Its value.
    One(&'h [u8]),
    /// It is there several times.
    Several,
}

/// The one value of a field.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Only<'h> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Only::None,
        (Some(value), None) => Only::One(value.as_bytes()),
        (Some(_), Some(_)) => Only::Several,
    }
}

/// The length that the head names, 0 if it names none; nothing if it is not sure.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    match only(headers, &header::CONTENT_LENGTH) {
        Only::None => Some(0),
        Only::One(length) => std::str::from_utf8(length).ok().and_then(decimal),
        Only::Several => None,
    }
}

/// Digits and nothing else: Rust's own parser takes a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// The key of a proper opening handshake.
fn websocket_key(headers: &HeaderMap) -> Option<&[u8]> {
    let proper = lists(headers, &header::CONNECTION, "upgrade")
        && lists(headers, &header::UPGRADE, "websocket")
        && headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13")
        && headers.contains_key(header::HOST);
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| proper)?.as_bytes();
    (keys.next().is_none() && is_sixteen_bytes_in_base64(key)).then_some(key)
}

/// Whether one of the values of a field, which is a list, is this word.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
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
        assert_eq!(
            (head.path.as_str(), head.length),
            ("/tunnel", UPGRADE.len())
        );
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
            (
                "Upgrade: WebSocket",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
        ];
        for (from, to) in changes {
            assert_eq!(
                head(&UPGRADE.replacen(from, to, 1)).accept,
                None,
                "{to} for {from}"
            );
        }
    }

    #[test]
    fn the_next_head_is_found_only_where_that_is_sure() {
        let with = |fields: &str| head(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).body;
        assert_eq!(with(""), Body::Length(0));
        assert_eq!(with("Content-Length: 7\r\n"), Body::Length(7));
        assert_eq!(with("Transfer-Encoding: chunked\r\n"), Body::Chunked);
        assert_eq!(with("Upgrade: h2c\r\n"), Body::Upgrade);
        for fields in [
            "Content-Length: +7\r\n",
            "Content-Length: 7, 7\r\n",
            "Content-Length: 7\r\nContent-Length: 8\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 7\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            "Upgrade: h2c\r\nContent-Length: 7\r\n",
            "Upgrade: h2c\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(with(fields), Body::Open, "{fields}");
        }
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n").body, Body::Open);
        assert_eq!(
            head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").body,
            Body::Length(0)
        );
        assert_eq!(
            head("GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n")
                .body,
            Body::Open
        );
        assert_eq!(head("CONNECT a:1 HTTP/1.1\r\n\r\n").body, Body::Open);
    }

    #[test]
    fn a_head_with_too_many_fields_is_read_and_known_for_it() {
        let with = |count: usize| {
            UPGRADE.replacen("\r\n", &format!("\r\n{}", "X-Many: x\r\n".repeat(count)), 1)
        };
        for (count, is_crowded) in [
            (MAX_FIELDS - 5, false),
            (MAX_FIELDS - 4, true),
            (READ_FIELDS - 5, true),
        ] {
            let head = head(&with(count));
            assert_eq!(
                (head.is_crowded(), head.accept.is_some()),
                (is_crowded, true),
                "{count} fields besides"
            );
        }
        assert!(matches!(
            Beginning::of(with(READ_FIELDS).as_bytes()),
            Beginning::Foreign
        ));
    }

    #[test]
    fn half_a_head_may_become_one_and_another_protocol_never() {
        assert!(matches!(Beginning::of(b""), Beginning::Partial));
        assert!(matches!(Beginning::of(b"GET /tun"), Beginning::Partial));
        assert!(matches!(
            Beginning::of(b"\x16\x03\x01\x00"),
            Beginning::Foreign
        ));
        assert!(matches!(
            Beginning::of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            Beginning::Foreign
        ));
        assert!(matches!(
            Beginning::of(b"GET / HTTP/1.1\r\nno colon\r\n"),
            Beginning::Foreign
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Beginning::of(&bytes);
            let _ = Beginning::of(&[UPGRADE.as_bytes(), &bytes].concat());
        }
    }
}
