//! Tracks which requests a web server has answered completely. Only then may the connection serve
//! another purpose. Knows the heads and bodies of responses, but forwards nothing.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, header};
use tokio::sync::Notify;

use super::{
    chunked_body::ChunkedBody,
    request_head::{SingleValue, content_length, has_token, single_value},
};
use crate::net::upgrade::header_map;

/// The most header fields of a response that are parsed.
const MAX_FIELDS: usize = 256;

/// The longest response head that is parsed, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most unanswered requests. With more, the connection stays with the web server until it
/// closes.
const MAX_PENDING_REQUESTS: usize = 1024;

/// The state of a web server's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseProgress {
    /// Responses are missing.
    Waiting,
    /// Every request is answered, and the visitor has received all responses.
    Complete,
    /// The rest ends with the connection: another protocol, a last response, or no HTTP.
    Opaque,
}

/// The responses on one connection to a web server.
#[derive(Debug, Default)]
pub(super) struct ResponseTracker {
    state: Mutex<TrackerState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct TrackerState {
    /// For each unanswered request, whether its response has no body, whatever its head says.
    waiting: VecDeque<bool>,
    part: ResponsePart,
    /// Whether parts of a response are being forwarded to the visitor.
    is_forwarding: bool,
}

/// The next part of a response.
#[derive(Debug)]
enum ResponsePart {
    /// The head, with the bytes received so far.
    Head(Vec<u8>),
    /// This many bytes of the body.
    Length(u64),
    /// A chunked body.
    Chunked(ChunkedBody),
    /// Bytes without a known end.
    Opaque,
}

impl Default for ResponsePart {
    fn default() -> Self {
        ResponsePart::Head(Vec::new())
    }
}

impl ResponseTracker {
    fn state(&self) -> MutexGuard<'_, TrackerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a request that is about to be sent. `is_head` marks a HEAD request.
    pub(super) fn expect_response(&self, is_head: bool) {
        let mut state = self.state();
        state.waiting.push_back(is_head);
        if state.waiting.len() > MAX_PENDING_REQUESTS {
            state.mark_opaque();
        }
    }

    /// Reads bytes of the web server, which are about to be forwarded.
    pub(super) fn feed(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.is_forwarding = true;
        state.feed(bytes);
    }

    /// Records that all fed bytes have been forwarded.
    pub(super) fn mark_forwarded(&self) {
        self.state().is_forwarding = false;
        self.changed.notify_waiters();
    }

    /// Waits until all responses are complete or opaque.
    ///
    /// # Cancel safety
    /// Safe: the call consumes nothing.
    pub(super) async fn completed(&self) -> ResponseProgress {
        loop {
            // Created before the check, so that a change between check and wait is not lost.
            let changed = self.changed.notified();
            match self.state().progress() {
                ResponseProgress::Waiting => {}
                progress => return progress,
            }
            changed.await;
        }
    }
}

impl TrackerState {
    fn progress(&self) -> ResponseProgress {
        match &self.part {
            ResponsePart::Opaque => ResponseProgress::Opaque,
            ResponsePart::Head(head)
                if head.is_empty() && self.waiting.is_empty() && !self.is_forwarding =>
            {
                ResponseProgress::Complete
            }
            _ => ResponseProgress::Waiting,
        }
    }

    fn mark_opaque(&mut self) {
        self.part = ResponsePart::Opaque;
        self.waiting = VecDeque::new();
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !matches!(self.part, ResponsePart::Opaque) {
            let taken = self.consume(bytes).unwrap_or_else(|| {
                self.mark_opaque();
                bytes.len()
            });
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Returns how many of the bytes belong to the next part, or `None` when that is unknown.
    fn consume(&mut self, bytes: &[u8]) -> Option<usize> {
        match &mut self.part {
            ResponsePart::Opaque => None,
            ResponsePart::Head(head) => {
                let before = head.len();
                head.extend_from_slice(bytes);
                let head = std::mem::take(head);
                self.parse_head(head, before)
            }
            ResponsePart::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                if *left == 0 {
                    self.part = ResponsePart::default();
                }
                Some(taken)
            }
            ResponsePart::Chunked(chunks) => {
                let (taken, is_complete) = chunks.feed(bytes).ok()?;
                if is_complete {
                    self.part = ResponsePart::default();
                }
                Some(taken)
            }
        }
    }

    /// Parses a head. Its bytes from `before` on are new.
    fn parse_head(&mut self, bytes: Vec<u8>, before: usize) -> Option<usize> {
        // A response without a request has no meaning.
        let is_bodiless = *self.waiting.front()?;
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = answer.parse(&bytes).ok()? else {
            let taken = bytes.len() - before;
            let is_short = bytes.len() < MAX_HEAD_BYTES;
            self.part = ResponsePart::Head(bytes);
            return is_short.then_some(taken);
        };
        let (status, headers) = (answer.code?, header_map(answer.headers)?);
        match status {
            101 => return None,
            100..=199 => {}
            _ => {
                self.part = body_after(status, &headers, answer.version == Some(1), is_bodiless)?;
                self.waiting.pop_front();
            }
        }
        Some(length - before)
    }
}

/// Returns the part behind a head, or `None` if this response is the last one or its end is
/// unknown.
fn body_after(
    status: u16,
    headers: &HeaderMap,
    is_current: bool,
    is_bodiless: bool,
) -> Option<ResponsePart> {
    let is_last = has_token(headers, &header::CONNECTION, "close")
        || !(is_current || has_token(headers, &header::CONNECTION, "keep-alive"));
    if is_last {
        return None;
    }
    if is_bodiless || matches!(status, 204 | 304) {
        return Some(ResponsePart::default());
    }
    match single_value(headers, &header::TRANSFER_ENCODING) {
        SingleValue::One(coding) if is_current && coding.eq_ignore_ascii_case(b"chunked") => {
            Some(ResponsePart::Chunked(ChunkedBody::default()))
        }
        SingleValue::None if headers.contains_key(header::CONTENT_LENGTH) => {
            match content_length(headers)? {
                0 => Some(ResponsePart::default()),
                length => Some(ResponsePart::Length(length)),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    /// Feeds these bytes in pieces, after these requests (true for HEAD), and returns the progress.
    fn progress_after(requests: &[bool], bytes: &[u8], piece: usize) -> ResponseProgress {
        let answers = ResponseTracker::default();
        requests
            .iter()
            .for_each(|is_head| answers.expect_response(*is_head));
        for piece in bytes.chunks(piece) {
            answers.feed(piece);
            answers.mark_forwarded();
        }
        answers
            .completed()
            .now_or_never()
            .unwrap_or(ResponseProgress::Waiting)
    }

    #[test]
    fn response_completes_with_its_last_byte() {
        for (requests, bytes) in [
            (&[false][..], &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..]),
            (&[false], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            (&[false], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            (&[false], b"HTTP/1.1 204 No Content\r\n\r\n"),
            (&[false], b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
            (&[true], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
            (&[false], b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"),
            (&[false], b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No\r\n\r\n"),
            (
                &[true, false, false],
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 204 No\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\na",
            ),
        ] {
            let shown = String::from_utf8_lossy(bytes);
            for piece in [1, 7, bytes.len()] {
                assert_eq!(progress_after(requests, bytes, piece), ResponseProgress::Complete, "{shown}");
                assert_eq!(progress_after(requests, &bytes[..bytes.len() - 1], piece), ResponseProgress::Waiting, "{shown}");
            }
        }
        assert_eq!(progress_after(&[], b"", 1), ResponseProgress::Complete);
        assert_eq!(progress_after(&[false], b"", 1), ResponseProgress::Waiting);
    }

    #[test]
    fn uncertain_response_end_is_opaque() {
        for bytes in [
            &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 408 Request Timeout\r\n\r\n",
            b"any answer",
        ] {
            assert_eq!(
                progress_after(&[false], bytes, 5),
                ResponseProgress::Opaque,
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert_eq!(
            progress_after(&[], b"HTTP/1.1 408 Request Timeout\r\n\r\n", 100),
            ResponseProgress::Opaque
        );
        assert_eq!(
            progress_after(&[false; MAX_PENDING_REQUESTS + 1], b"", 1),
            ResponseProgress::Opaque
        );
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(
            progress_after(&[false], long.as_bytes(), 1024),
            ResponseProgress::Opaque
        );
    }

    #[test]
    fn response_completes_only_after_forwarding() {
        let answers = ResponseTracker::default();
        answers.expect_response(false);
        answers.feed(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(answers.completed().now_or_never(), None);
        answers.mark_forwarded();
        assert_eq!(
            answers.completed().now_or_never(),
            Some(ResponseProgress::Complete)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), piece in 1_usize..64) {
            progress_after(&[false, true], &bytes, piece);
            progress_after(&[false], &[&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &bytes].concat(), piece);
        }
    }
}
