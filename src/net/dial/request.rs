//! The configurable headers of the upgrade request, beyond those that RFC 6455 requires. Gateways
//! in front of the master may ask for them.

use std::{io, path::PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::text::{self, NotText, SHORT_FILE_MAX};

/// The configurable parts of the upgrade request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestParameters {
    /// Overrides the `Host` header.
    pub host: Option<String>,
    /// Overrides the `User-Agent` header.
    pub user_agent: Option<HeaderValue>,
    /// Additional headers.
    pub headers: HeaderMap,
    /// A file with additional headers, read again at each dial.
    pub headers_file: Option<PathBuf>,
}

/// Why a header cannot be added to the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The line has no colon.
    #[error("has no colon: write \"Name: value\"")]
    NoColon,
    /// The header name is invalid.
    #[error("has the invalid header name \"{0}\"")]
    Name(String),
    /// The header value is invalid.
    #[error("has control characters in the value of \"{0}\"")]
    Value(HeaderName),
    /// The upgrade itself sets this header.
    #[error(
        "sets \"{0}\", which the upgrade itself sets: remove it (use the field `host` for `Host`)"
    )]
    Reserved(HeaderName),
}

/// Why the headers file cannot be used. The text follows the name of the file.
#[derive(Debug, thiserror::Error)]
pub enum HeadersFileProblem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// The file has another text encoding.
    #[error("{0}")]
    Encoding(NotText),
    /// A line, counted from 1, is not a header.
    #[error("line {0} {1}")]
    Line(usize, HeaderError),
}

/// The headers file cannot be used.
#[derive(Debug)]
pub(super) struct HeadersFileError {
    pub(super) path: PathBuf,
    pub(super) problem: HeadersFileProblem,
}

/// Parses one header.
///
/// # Errors
/// If the header is invalid or reserved for the upgrade.
pub fn parse_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    let known =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::Name(name.to_owned()))?;
    let reserved = [
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    if reserved.contains(&known) || known.as_str().starts_with("sec-websocket-") {
        return Err(HeaderError::Reserved(known));
    }
    match HeaderValue::from_str(value) {
        Ok(value) => Ok((known, value)),
        Err(_) => Err(HeaderError::Value(known)),
    }
}

/// Parses the lines of a headers file: `Name: value`, empty lines, and comments that begin with
/// `#`.
fn parse_headers(text: &str) -> Result<HeaderMap, (usize, HeaderError)> {
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |error| (index + 1, error);
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| wrong(HeaderError::NoColon))?;
        let (name, value) = parse_header(name.trim(), value.trim()).map_err(wrong)?;
        headers.append(name, value);
    }
    Ok(headers)
}

impl RequestParameters {
    /// Returns all headers, including the current contents of the file.
    pub(super) async fn all_headers(&self) -> Result<HeaderMap, HeadersFileError> {
        let mut headers = self.headers.clone();
        if let Some(path) = &self.headers_file {
            let failed = |problem| HeadersFileError {
                path: path.clone(),
                problem,
            };
            let file = path.clone();
            let reading =
                tokio::task::spawn_blocking(move || text::read_file(&file, SHORT_FILE_MAX));
            let read = reading.await.unwrap_or_else(|error| Err(error.into()));
            let bytes = read.map_err(|error| failed(HeadersFileProblem::Unreadable(error)))?;
            let text = text::decode(&bytes)
                .map_err(|error| failed(HeadersFileProblem::Encoding(error)))?;
            let more = parse_headers(&text)
                .map_err(|(line, error)| failed(HeadersFileProblem::Line(line, error)))?;
            for (name, value) in &more {
                headers.append(name, value.clone());
            }
        }
        let user_agent = self
            .user_agent
            .clone()
            .unwrap_or(HeaderValue::from_static(concat!(
                "report/",
                env!("CARGO_PKG_VERSION")
            )));
        headers.entry(header::USER_AGENT).or_insert(user_agent);
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_file_is_parsed_by_line() {
        let headers =
            parse_headers("# rotates\n\nAuthorization: Bearer a:b\r\nX-Tag:  1\nX-Tag: 2\n")
                .unwrap();
        assert_eq!(headers["authorization"], "Bearer a:b");
        assert_eq!(headers.get_all("x-tag").iter().count(), 2);
        for (text, line, expected) in [
            ("A: 1\nnothing", 2, "no colon"),
            ("a b: 1", 1, "invalid header name"),
            ("Host: x", 1, "field `host`"),
            ("Sec-WebSocket-Protocol: x", 1, "the upgrade itself"),
            ("A: \u{1}", 1, "control characters"),
        ] {
            let (found, error) = parse_headers(text).unwrap_err();
            assert!(
                found == line && error.to_string().contains(expected),
                "{text:?}: line {found} {error}"
            );
        }
    }
}
