//! Which requests a web server has answered to their end: only behind that may the connection be used for something else. Knows heads and bodies of
//! answers; passes nothing on.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, header};
use tokio::sync::Notify;

use super::{
    chunks::Chunks,
    head::{Only, content_length, lists, only},
};
use crate::link::upgrade::header_map;

/// Fields of an answer's head that are read.
const MAX_FIELDS: usize = 256;

/// The longest head of an answer that is read, in bytes.
const HEAD_BYTES: usize = 64 * 1024;

/// Requests that may wait for their answers: with more the visitor's connection is the web server's to its end.
const MAX_WAITING: usize = 1024;

/// How far a web server has come with its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Answers are missing.
    Waiting,
    /// Every request has its answer, and the visitor has been sent all of it.
    Settled,
    /// What is still to come ends with the connection: another protocol, a last answer, no HTTP.
    Open,
}

/// The answers of one connection to a web server.
#[derive(Debug, Default)]
pub(super) struct Answers {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// For each request without an answer, whether that has no body whatever its head says.
    waiting: VecDeque<bool>,
    part: Part,
    /// Whether something of the answers is on its way to the visitor.
    is_writing: bool,
}

/// What comes next of an answer.
#[derive(Debug)]
enum Part {
    /// The head, of which that is there.
    Head(Vec<u8>),
    /// So many bytes of the body.
    Length(u64),
    /// The body in chunks.
    Chunked(Chunks),
    /// Nothing whose end is known.
    Open,
}

impl Default for Part {
    fn default() -> Self {
        Part::Head(Vec::new())
    }
}

impl Answers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be sent; `is_head` when it asks for a head alone.
    pub fn expect(&self, is_head: bool) {
        let mut state = self.state();
        state.waiting.push_back(is_head);
        if state.waiting.len() > MAX_WAITING {
            state.open();
        }
    }

    /// The web server has sent these bytes, which are about to be passed on.
    pub fn feed(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.is_writing = true;
        state.feed(bytes);
    }

    /// What was fed has been passed on.
    pub fn passed(&self) {
        self.state().is_writing = false;
        self.changed.notify_waiters();
    }

    /// How far the web server has come, once that is known.
    ///
    /// # Cancel safety
    /// Safe: nothing is consumed.
    pub async fn settled(&self) -> Progress {
        loop {
            let changed = self.changed.notified();
            match self.state().progress() {
                Progress::Waiting => {}
                progress => return progress,
            }
            changed.await;
        }
    }
}

impl State {
    fn progress(&self) -> Progress {
        match &self.part {
            Part::Open => Progress::Open,
            Part::Head(head) if head.is_empty() && self.waiting.is_empty() && !self.is_writing => {
                Progress::Settled
            }
            _ => Progress::Waiting,
        }
    }

    fn open(&mut self) {
        self.part = Part::Open;
        self.waiting = VecDeque::new();
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !matches!(self.part, Part::Open) {
            let taken = self.take(bytes).unwrap_or_else(|| {
                self.open();
                bytes.len()
            });
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// How many of the bytes belong to what is next; nothing if that is not known.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        match &mut self.part {
            Part::Open => None,
            Part::Head(head) => {
                let before = head.len();
                head.extend_from_slice(bytes);
                let head = std::mem::take(head);
                self.head(head, before)
            }
            Part::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                if *left == 0 {
                    self.part = Part::default();
                }
                Some(taken)
            }
            Part::Chunked(chunks) => {
                let (taken, is_over) = chunks.feed(bytes).ok()?;
                if is_over {
                    self.part = Part::default();
                }
                Some(taken)
            }
        }
    }

    /// A head, of which the bytes behind `before` are new.
    fn head(&mut self, bytes: Vec<u8>, before: usize) -> Option<usize> {
        // Without a request there is nothing to answer.
        let is_bodiless = *self.waiting.front()?;
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = answer.parse(&bytes).ok()? else {
            let taken = bytes.len() - before;
            let is_short = bytes.len() < HEAD_BYTES;
            self.part = Part::Head(bytes);
            return is_short.then_some(taken);
        };
        let (status, headers) = (answer.code?, header_map(answer.headers)?);
        match status {
            101 => return None,
            100..=199 => {}
            _ => {
                self.part = body(status, &headers, answer.version == Some(1), is_bodiless)?;
                self.waiting.pop_front();
            }
        }
        Some(length - before)
    }
}

/// What follows a head; nothing if it is the last one, or its end is not known.
fn body(status: u16, headers: &HeaderMap, is_current: bool, is_bodiless: bool) -> Option<Part> {
    let is_last = lists(headers, &header::CONNECTION, "close")
        || !(is_current || lists(headers, &header::CONNECTION, "keep-alive"));
    if is_last {
        return None;
    }
    if is_bodiless || matches!(status, 204 | 304) {
        return Some(Part::default());
    }
    match only(headers, &header::TRANSFER_ENCODING) {
        Only::One(coding) if is_current && coding.eq_ignore_ascii_case(b"chunked") => {
            Some(Part::Chunked(Chunks::default()))
        }
        Only::None if headers.contains_key(header::CONTENT_LENGTH) => {
            match content_length(headers)? {
                0 => Some(Part::default()),
                length => Some(Part::Length(length)),
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

    /// What has become of requests (each with whether it is a HEAD) after these bytes, which come in pieces.
    fn after(requests: &[bool], bytes: &[u8], piece: usize) -> Progress {
        let answers = Answers::default();
        requests.iter().for_each(|is_head| answers.expect(*is_head));
        for piece in bytes.chunks(piece) {
            answers.feed(piece);
            answers.passed();
        }
        answers
            .settled()
            .now_or_never()
            .unwrap_or(Progress::Waiting)
    }

    #[test]
    fn an_answer_is_over_with_the_last_byte_of_it() {
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
                assert_eq!(after(requests, bytes, piece), Progress::Settled, "{shown}");
                assert_eq!(after(requests, &bytes[..bytes.len() - 1], piece), Progress::Waiting, "{shown}");
            }
        }
        assert_eq!(after(&[], b"", 1), Progress::Settled);
        assert_eq!(after(&[false], b"", 1), Progress::Waiting);
    }

    #[test]
    fn an_end_that_is_not_sure_is_that_of_the_connection() {
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
                after(&[false], bytes, 5),
                Progress::Open,
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert_eq!(
            after(&[], b"HTTP/1.1 408 Request Timeout\r\n\r\n", 100),
            Progress::Open
        );
        assert_eq!(after(&[false; MAX_WAITING + 1], b"", 1), Progress::Open);
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES));
        assert_eq!(after(&[false], long.as_bytes(), 1024), Progress::Open);
    }

    #[test]
    fn nothing_is_settled_before_it_has_been_passed_on() {
        let answers = Answers::default();
        answers.expect(false);
        answers.feed(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(answers.settled().now_or_never(), None);
        answers.passed();
        assert_eq!(answers.settled().now_or_never(), Some(Progress::Settled));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), piece in 1_usize..64) {
            after(&[false, true], &bytes, piece);
            after(&[false], &[&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &bytes].concat(), piece);
        }
    }
}
