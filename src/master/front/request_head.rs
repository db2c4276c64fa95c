//! Parses a request head as far as the front needs it: is it a role's upgrade, and where does the
//! next head begin? The web server receives the original bytes and judges everything else.

use http::{HeaderMap, HeaderName, Uri, header};

use crate::net::upgrade::{derive_accept_key, header_map};

/// The most header fields of a role's upgrade, and of a request to the local web server. Browsers
/// and proxies together send some forty.
pub(super) const MAX_FIELDS: usize = 128;

/// The most header fields that are parsed, so that a request with more than [`MAX_FIELDS`] gets a
/// clear answer. A head with even more fields goes to the web server.
pub(super) const READ_FIELDS: usize = 1024;

/// The result of parsing the first bytes of a request.
#[derive(Debug)]
pub(super) enum HeadParse {
    /// A complete head.
    Complete(RequestHead),
    /// The beginning of a head.
    Partial,
    /// Not HTTP/1.
    Invalid,
}

/// A complete request head.
#[derive(Debug)]
pub(super) struct RequestHead {
    /// Its length in bytes, including the empty line.
    pub length: usize,
    /// The requested path, without its query.
    pub path: String,
    /// The `Sec-WebSocket-Accept` value, if this is a valid opening handshake (RFC 6455, 4.2.1) for
    /// any path.
    pub accept: Option<String>,
    /// Whether the method is HEAD, so that the response has no body.
    pub is_head: bool,
    /// The kind of body that follows.
    pub body: RequestBody,
    /// Its header fields.
    pub headers: HeaderMap,
}

/// The kind of bytes behind a request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestBody {
    /// This many bytes, then the next head.
    Length(u64),
    /// Chunks, then the next head.
    Chunked,
    /// Another protocol if the web server agrees, otherwise the next head.
    Upgrade,
    /// A body whose end only the web server knows.
    Unknown,
}

impl HeadParse {
    /// Parses the first bytes of a request.
    pub(super) fn of(bytes: &[u8]) -> Self {
        match HeadParse::read(bytes, &mut [httparse::EMPTY_HEADER; MAX_FIELDS]) {
            Err(httparse::Error::TooManyHeaders) => {
                HeadParse::read(bytes, &mut vec![httparse::EMPTY_HEADER; READ_FIELDS])
                    .unwrap_or(HeadParse::Invalid)
            }
            read => read.unwrap_or(HeadParse::Invalid),
        }
    }

    fn read<'b>(
        bytes: &'b [u8],
        fields: &mut [httparse::Header<'b>],
    ) -> Result<Self, httparse::Error> {
        let mut request = httparse::Request::new(fields);
        Ok(match request.parse(bytes)? {
            httparse::Status::Partial => HeadParse::Partial,
            httparse::Status::Complete(length) => {
                RequestHead::read(&request, length).map_or(HeadParse::Invalid, HeadParse::Complete)
            }
        })
    }
}

impl RequestHead {
    fn read(request: &httparse::Request<'_, '_>, length: usize) -> Option<Self> {
        let headers = header_map(request.headers)?;
        let uri: Uri = request.path?.parse().ok()?;
        let is_current = request.version == Some(1);
        let accept = websocket_key(&headers)
            .filter(|_| is_current && request.method == Some("GET"))
            .map(derive_accept_key);
        // An HTTP/1.0 connection carries one request unless it asks for keep-alive.
        let is_followed = is_current || has_token(&headers, &header::CONNECTION, "keep-alive");
        let has_known_body = is_followed && request.method != Some("CONNECT");
        let body = if has_known_body {
            body_kind(&headers, is_current)
        } else {
            RequestBody::Unknown
        };
        Some(RequestHead {
            length,
            path: uri.path().to_owned(),
            accept,
            is_head: request.method == Some("HEAD"),
            body,
            headers,
        })
    }

    /// Whether the head has more fields than a role's upgrade may have.
    pub(super) fn has_too_many_fields(&self) -> bool {
        self.headers.len() > MAX_FIELDS
    }
}

/// Returns the kind of body, if every web server reads it in the same way.
fn body_kind(headers: &HeaderMap, is_current: bool) -> RequestBody {
    let coding = single_value(headers, &header::TRANSFER_ENCODING);
    match (
        coding,
        content_length(headers),
        headers.contains_key(header::UPGRADE),
    ) {
        (SingleValue::None, Some(0), true) => RequestBody::Upgrade,
        (SingleValue::None, Some(length), false) => RequestBody::Length(length),
        (SingleValue::One(b"chunked"), Some(0), false)
            if is_current && !headers.contains_key(header::CONTENT_LENGTH) =>
        {
            RequestBody::Chunked
        }
        _ => RequestBody::Unknown,
    }
}

/// The value of a field that may occur once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SingleValue<'h> {
    /// The field is missing.
    None,
    /// The value of the field.
    One(&'h [u8]),
    /// The field occurs several times.
    Several,
}

/// Returns the only value of a field.
pub(super) fn single_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> SingleValue<'h> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => SingleValue::None,
        (Some(value), None) => SingleValue::One(value.as_bytes()),
        (Some(_), Some(_)) => SingleValue::Several,
    }
}

/// Returns the content length of a head, 0 without the field. Returns `None` when the length is
/// ambiguous.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    match single_value(headers, &header::CONTENT_LENGTH) {
        SingleValue::None => Some(0),
        SingleValue::One(length) => std::str::from_utf8(length).ok().and_then(decimal),
        SingleValue::Several => None,
    }
}

/// Parses digits only. Rust's own parser also accepts a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Returns the key of a valid opening handshake.
fn websocket_key(headers: &HeaderMap) -> Option<&[u8]> {
    let is_valid = has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
        && headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13")
        && headers.contains_key(header::HOST);
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| is_valid)?.as_bytes();
    (keys.next().is_none() && is_sixteen_bytes_in_base64(key)).then_some(key)
}

/// Whether a list-valued field contains this token.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
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

    fn head(text: &str) -> RequestHead {
        match HeadParse::of(text.as_bytes()) {
            HeadParse::Complete(head) => head,
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn valid_opening_handshake_is_recognised() {
        let head = head(UPGRADE);
        assert_eq!(head.accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(
            (head.path.as_str(), head.length),
            ("/tunnel", UPGRADE.len())
        );
    }

    #[test]
    fn invalid_opening_handshakes_are_rejected() {
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
    fn body_kind_is_known_only_when_unambiguous() {
        let with = |fields: &str| head(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).body;
        assert_eq!(with(""), RequestBody::Length(0));
        assert_eq!(with("Content-Length: 7\r\n"), RequestBody::Length(7));
        assert_eq!(with("Transfer-Encoding: chunked\r\n"), RequestBody::Chunked);
        assert_eq!(with("Upgrade: h2c\r\n"), RequestBody::Upgrade);
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
            assert_eq!(with(fields), RequestBody::Unknown, "{fields}");
        }
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n").body, RequestBody::Unknown);
        assert_eq!(
            head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").body,
            RequestBody::Length(0)
        );
        assert_eq!(
            head("GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n")
                .body,
            RequestBody::Unknown
        );
        assert_eq!(
            head("CONNECT a:1 HTTP/1.1\r\n\r\n").body,
            RequestBody::Unknown
        );
    }

    #[test]
    fn head_with_too_many_fields_is_parsed_and_flagged() {
        let with = |count: usize| {
            UPGRADE.replacen("\r\n", &format!("\r\n{}", "X-Many: x\r\n".repeat(count)), 1)
        };
        for (count, has_too_many_fields) in [
            (MAX_FIELDS - 5, false),
            (MAX_FIELDS - 4, true),
            (READ_FIELDS - 5, true),
        ] {
            let head = head(&with(count));
            assert_eq!(
                (head.has_too_many_fields(), head.accept.is_some()),
                (has_too_many_fields, true),
                "{count} fields besides"
            );
        }
        assert!(matches!(
            HeadParse::of(with(READ_FIELDS).as_bytes()),
            HeadParse::Invalid
        ));
    }

    #[test]
    fn partial_heads_and_other_protocols_are_distinguished() {
        assert!(matches!(HeadParse::of(b""), HeadParse::Partial));
        assert!(matches!(HeadParse::of(b"GET /tun"), HeadParse::Partial));
        assert!(matches!(
            HeadParse::of(b"\x16\x03\x01\x00"),
            HeadParse::Invalid
        ));
        assert!(matches!(
            HeadParse::of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            HeadParse::Invalid
        ));
        assert!(matches!(
            HeadParse::of(b"GET / HTTP/1.1\r\nno colon\r\n"),
            HeadParse::Invalid
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = HeadParse::of(&bytes);
            let _ = HeadParse::of(&[UPGRADE.as_bytes(), &bytes].concat());
        }
    }
}
