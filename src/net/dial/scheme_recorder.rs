//! A connection to a proxy that records the authentication scheme of its requests. It does not read
//! the credentials that follow the scheme.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::websocket::ByteStream;

/// The header to search for.
const HEADER: &[u8] = b"\r\nproxy-authorization: ";

/// The maximum length of a scheme's name.
const SCHEME_LENGTH: usize = 16;

/// The scheme of the last request.
pub(super) type RecordedScheme = Arc<Mutex<Option<String>>>;

/// A connection that records the authentication scheme written to it.
pub(super) struct SchemeRecorder {
    stream: Box<dyn ByteStream>,
    scheme: RecordedScheme,
}

impl SchemeRecorder {
    pub(super) fn new(stream: Box<dyn ByteStream>, scheme: &RecordedScheme) -> Self {
        SchemeRecorder {
            stream,
            scheme: Arc::clone(scheme),
        }
    }
}

/// Returns the scheme in the head of a request.
fn find_scheme(head: &[u8]) -> Option<String> {
    let at = head
        .windows(HEADER.len())
        .position(|window| window.eq_ignore_ascii_case(HEADER))?;
    let value = head.get(at + HEADER.len()..)?;
    let word: Vec<u8> = value
        .iter()
        .copied()
        .take_while(u8::is_ascii_alphabetic)
        .take(SCHEME_LENGTH + 1)
        .collect();
    if value.get(word.len()) != Some(&b' ') || word.len() > SCHEME_LENGTH {
        return None;
    }
    String::from_utf8(word).ok()
}

impl AsyncRead for SchemeRecorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for SchemeRecorder {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.starts_with(b"CONNECT ")
            && let Some(scheme) = find_scheme(bytes)
        {
            *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheme);
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_scheme_is_recorded() {
        let head = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic YW5uOnNlc2FtZQ==\r\n\r\n";
        assert_eq!(find_scheme(head).as_deref(), Some("Basic"));
        for nothing in [
            &b"CONNECT a:1 HTTP/1.1\r\n\r\n"[..],
            b"\r\nProxy-Authorization: Secret\r\n",
            b"\r\nProxy-Authorization: ",
        ] {
            assert_eq!(find_scheme(nothing), None);
        }
    }
}
