//! What the request for the upgrade says beside what RFC 6455 wants: headers that a gateway in front of the master asks for.

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::error::DialError;

/// What the request says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestParameters {
    /// `Host`, where it is not the master's own.
    pub host: Option<String>,
    /// `User-Agent`, where it is not rePort's own.
    pub user_agent: Option<HeaderValue>,
    /// More headers.
    pub headers: HeaderMap,
    /// A file with more of them, read again at each dial.
    pub headers_file: Option<PathBuf>,
}

/// Text that is no header of ours to set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is no colon.
    #[error("has no colon: write \"Name: value\"")]
    NoColon,
    /// The name cannot be one.
    #[error("has the name \"{0}\", which no header can have")]
    Name(String),
    /// The value has what no header can have.
    #[error("has a value for \"{0}\" with control characters in it")]
    Value(HeaderName),
    /// The upgrade needs it as it is.
    #[error(
        "sets \"{0}\", which belongs to the upgrade itself: remove it (for `Host` there is the field `host`)"
    )]
    Ours(HeaderName),
}

/// One header, checked.
///
/// # Errors
/// When it cannot be sent.
pub fn header_of(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    let known =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::Name(name.to_owned()))?;
    let ours = [
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    if ours.contains(&known) || known.as_str().starts_with("sec-websocket-") {
        return Err(HeaderError::Ours(known));
    }
    match HeaderValue::from_str(value) {
        Ok(value) => Ok((known, value)),
        Err(_) => Err(HeaderError::Value(known)),
    }
}

/// The lines of a file: `Name: value`, empty ones, and comments that begin with `#`.
fn headers_of(text: &str) -> Result<HeaderMap, (usize, HeaderError)> {
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
        let (name, value) = header_of(name.trim(), value.trim()).map_err(wrong)?;
        headers.append(name, value);
    }
    Ok(headers)
}

impl RequestParameters {
    /// All headers, those of the file as it is now.
    pub(super) async fn all_headers(&self) -> Result<HeaderMap, DialError> {
        let mut headers = self.headers.clone();
        if let Some(path) = &self.headers_file {
            let failed = |problem: String| DialError::HeadersFile {
                path: path.clone(),
                problem,
            };
            let file = path.clone();
            let reading = tokio::task::spawn_blocking(move || {
                crate::text::read_file(&file, crate::text::SHORT_FILE_MAX)
            });
            let read = reading.await.unwrap_or_else(|error| Err(error.into()));
            let bytes = read.map_err(|error| failed(format!("cannot be read: {error}")))?;
            let text = crate::text::decode(&bytes).map_err(|error| failed(error.to_string()))?;
            let more = headers_of(&text)
                .map_err(|(line, error)| failed(format!("line {line} {error}")))?;
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
    fn a_file_of_headers_is_read_line_by_line() {
        let headers =
            headers_of("# rotates\n\nAuthorization: Bearer a:b\r\nX-Tag:  1\nX-Tag: 2\n").unwrap();
        assert_eq!(headers["authorization"], "Bearer a:b");
        assert_eq!(headers.get_all("x-tag").iter().count(), 2);
        for (text, line, says) in [
            ("A: 1\nnothing", 2, "no colon"),
            ("a b: 1", 1, "no header can have"),
            ("Host: x", 1, "field `host`"),
            ("Sec-WebSocket-Protocol: x", 1, "the upgrade itself"),
            ("A: \u{1}", 1, "control characters"),
        ] {
            let (found, error) = headers_of(text).unwrap_err();
            assert!(
                found == line && error.to_string().contains(says),
                "{text:?}: line {found} {error}"
            );
        }
    }
}
