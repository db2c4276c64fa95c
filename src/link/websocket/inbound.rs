//! The receiving side of a WebSocket: from bytes of the stream to messages, each in memory that nobody else writes to, so that what is in it can
//! be opened in place. What came is moved only when a message does not fit behind the one before.
//!
//! Knows frames and how they may follow one another; not what is in a message.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio_util::io::poll_read_buf;

use super::{
    ByteStream, End, Heard, SocketError,
    frame::{self, Header, LONGEST_HEADER, Opcode},
};
use crate::frame::MAX_MESSAGE;

/// What is read at a time at least, in bytes: ten thousand links at rest are to cost a master little.
const LEAST_READ: usize = 4 * 1024;

/// And at most: some full messages, so that a busy link calls the system seldom (measured).
const LARGEST_READ: usize = 128 * 1024;

/// A share of what is read at a time that is little to move.
const LITTLE_MORE: usize = 32;

/// The payload of PING and PONG (PROTOCOL 6). What is longer is neither, which can be said before all of it is there.
const HEARTBEAT_LENGTH: u64 = 9;

/// What has come.
#[derive(Debug)]
pub enum Incoming {
    /// A binary message.
    Message(BytesMut),
    /// To be answered with a pong of the same payload.
    Ping(BytesMut),
    /// The peer sends nothing any more, and gives this reason.
    Close(BytesMut),
}

/// What has been received and not delivered.
#[derive(Debug)]
pub struct Inbound {
    end: End,
    buffer: BytesMut,
    /// The frame whose payload stands at the front of the buffer, or will.
    frame: Option<Header>,
    /// The message that came in parts, so far.
    parts: Option<BytesMut>,
    /// How much is read at a time.
    read_size: usize,
    /// And at most.
    largest_read: usize,
    /// Bytes of the last frame with its header.
    frame_size: usize,
    /// The read before used little of its room.
    was_little: bool,
    /// Bytes came that no frame has been found in yet.
    is_fresh: bool,
    heard: Heard,
    /// Bytes read in all.
    received: u64,
    /// Messages delivered in all.
    messages: u64,
    /// The longest message that is taken.
    longest: usize,
    /// Nothing is kept of messages any more.
    is_discarding: bool,
}

impl Inbound {
    /// `read` came already.
    pub fn new(end: End, read: &[u8]) -> Self {
        Inbound {
            end,
            buffer: BytesMut::from(read),
            frame: None,
            parts: None,
            read_size: LEAST_READ,
            // Whoever connects is a stranger at first.
            largest_read: if end == End::Accepted {
                LEAST_READ
            } else {
                LARGEST_READ
            },
            frame_size: 0,
            was_little: false,
            is_fresh: !read.is_empty(),
            heard: Heard::default(),
            received: read.len() as u64,
            messages: 0,
            longest: MAX_MESSAGE,
            is_discarding: false,
        }
    }

    /// Keeps nothing of messages from now on, also of the one that has come in part: the end is near, and only the peer's Close is waited for.
    pub fn discard(&mut self) {
        self.is_discarding = true;
        self.parts = None;
        while let Ok(Some(frame)) = self.header() {
            if frame.opcode.is_control() || !self.skip(frame) {
                break;
            }
        }
        self.rest();
    }

    /// From now on no message may be longer than this; never more than `MAX_MESSAGE`.
    pub fn limit(&mut self, longest: usize) {
        self.longest = longest.min(MAX_MESSAGE);
    }

    /// From now on the peer may make the buffers large. Those of a stranger stay small, and are let go of whenever nothing is in them.
    pub fn read_largely(&mut self) {
        self.largest_read = LARGEST_READ;
    }

    /// Which end this is.
    pub fn end(&self) -> End {
        self.end
    }

    /// Bytes of a message of which a part has come.
    pub fn unfinished_bytes(&self) -> usize {
        self.buffer
            .len()
            .saturating_add(self.parts.as_ref().map_or(0, BytesMut::len))
    }

    /// Messages delivered in all.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The next of what comes.
    pub fn poll_next(
        &mut self,
        stream: &mut dyn ByteStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<Incoming, SocketError>> {
        loop {
            if let Some(incoming) = self.next()? {
                return Poll::Ready(Ok(incoming));
            }
            if ready!(self.poll_fill(stream, context))? == 0 {
                return Poll::Ready(Err(SocketError::Cut));
            }
        }
    }

    /// What has come of messages since this was last asked.
    pub fn take_heard(&mut self) -> Heard {
        std::mem::take(&mut self.heard)
    }

    /// Bytes read in all.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Keeps no more memory than what is in it.
    pub fn rest(&mut self) {
        self.read_size = LEAST_READ;
        self.buffer = BytesMut::from(&self.buffer[..]);
    }

    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    fn poll_fill(
        &mut self,
        stream: &mut dyn ByteStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let missing = match self.frame {
            Some(frame) if !self.is_skipped(&frame) => usize::try_from(frame.length)
                .unwrap_or(MAX_MESSAGE)
                .saturating_sub(self.buffer.len()),
            _ => LONGEST_HEADER,
        };
        let free = self.buffer.capacity() - self.buffer.len();
        // What is there would have to be moved: to read a little into what is left costs less.
        let is_worth_moving = self.buffer.len() < self.read_size / 4;
        if free < missing || is_worth_moving && free < self.read_size / 4 {
            self.buffer
                .reserve(missing.max(self.whole_frames().saturating_sub(self.buffer.len())));
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let polled = poll_read_buf(Pin::new(stream), context, &mut self.buffer);
        match &polled {
            Poll::Ready(Ok(count)) => self.filled(*count, room),
            // At rest there is nothing to keep a buffer for.
            Poll::Pending if self.buffer.is_empty() && self.read_size == LEAST_READ => {
                self.buffer = BytesMut::new()
            }
            _ => {}
        }
        polled
    }

    /// Room for what is read at a time, in whole frames such as the last one, and a little: in a row of full messages only the beginning of one has to be
    /// moved to the next buffer, also when they differ by small frames.
    fn whole_frames(&self) -> usize {
        match self.frame_size {
            size @ 1.. if size <= self.read_size => {
                self.read_size - self.read_size % size + self.read_size / LITTLE_MORE
            }
            _ => self.read_size,
        }
    }

    /// Reads more at a time while that is used up, and less after two that were not.
    fn filled(&mut self, count: usize, room: usize) {
        self.received += count as u64;
        let is_little = count < room.min(self.read_size / 4);
        if count == room && !self.is_discarding {
            self.read_size = (self.read_size * 2).min(self.largest_read);
        } else if is_little && self.was_little {
            self.read_size = (self.read_size / 2).max(LEAST_READ);
        }
        self.was_little = is_little;
        self.is_fresh = true;
        if self.frame.is_some_and(|frame| !frame.opcode.is_control()) {
            self.hear(count as u64);
        }
    }

    /// Something of a message came.
    fn hear(&mut self, bytes: u64) {
        let is_long = self.parts.is_some()
            || self
                .frame
                .is_some_and(|frame| frame.length > HEARTBEAT_LENGTH);
        self.heard.any |= bytes > 0;
        self.heard.long |= bytes > 0 && is_long;
    }

    fn next(&mut self) -> Result<Option<Incoming>, SocketError> {
        loop {
            let Some(frame) = self.header()? else {
                return Ok(None);
            };
            if self.is_skipped(&frame) {
                if self.skip(frame) {
                    continue;
                }
                return Ok(None);
            }
            let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
            if self.buffer.len() < length {
                return Ok(None);
            }
            self.frame = None;
            let mut payload = self.buffer.split_to(length);
            if let Some(key) = frame.mask {
                frame::apply_mask(&mut payload, key, 0);
            }
            match frame.opcode {
                Opcode::Ping => return Ok(Some(Incoming::Ping(payload))),
                Opcode::Pong => {}
                Opcode::Close => return Ok(Some(Incoming::Close(payload))),
                Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                    if let Some(message) = self.assemble(payload, frame.is_final) {
                        self.messages = self.messages.wrapping_add(1);
                        return Ok(Some(Incoming::Message(message)));
                    }
                }
            }
        }
    }

    fn is_skipped(&self, frame: &Header) -> bool {
        self.is_discarding && !frame.opcode.is_control()
    }

    /// Throws away what is here of the frame under way; answers whether that was all of it.
    fn skip(&mut self, frame: Header) -> bool {
        let here = usize::try_from(frame.length)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len());
        self.buffer.advance(here);
        let left = frame.length.saturating_sub(here as u64);
        self.frame = (left > 0).then_some(Header {
            length: left,
            ..frame
        });
        left == 0
    }

    /// The header of the frame under way; taken from the buffer once it is there in full.
    fn header(&mut self) -> Result<Option<Header>, SocketError> {
        if self.frame.is_none() {
            let decoded = Header::decode(&self.buffer)
                .map_err(|error| SocketError::NotWebSocket(error.to_owned()))?;
            let Some((header, length)) = decoded else {
                // The first byte tells the kind already.
                self.heard.any |= std::mem::take(&mut self.is_fresh)
                    && self.buffer.first().is_some_and(|first| first & 0x08 == 0);
                return Ok(None);
            };
            self.check(&header)?;
            self.buffer.advance(length);
            self.frame_size =
                length.saturating_add(usize::try_from(header.length).unwrap_or(MAX_MESSAGE));
            self.frame = Some(header);
            if !header.opcode.is_control() {
                self.hear(length as u64);
            }
        }
        Ok(self.frame)
    }

    fn check(&self, header: &Header) -> Result<(), SocketError> {
        let violation = match (header.opcode, &self.parts) {
            (Opcode::Text, _) => return Err(SocketError::Text),
            (Opcode::Continuation, None) if !self.is_discarding => {
                Some("a continuation of no message")
            }
            (Opcode::Binary, Some(_)) => Some("a message within another"),
            _ if header.mask.is_some() == (self.end == End::Dialled) => {
                Some("a mask where there must be none, or none where there must be one")
            }
            _ => None,
        };
        if let Some(violation) = violation {
            return Err(SocketError::NotWebSocket(violation.to_owned()));
        }
        let before = self.parts.as_ref().map_or(0, BytesMut::len);
        let size = usize::try_from(header.length)
            .unwrap_or(usize::MAX)
            .saturating_add(before);
        if size > self.longest {
            Err(SocketError::TooLong {
                size,
                longest: self.longest,
            })
        } else {
            Ok(())
        }
    }

    /// The message of which `payload` is the next part, if it is complete.
    fn assemble(&mut self, payload: BytesMut, is_final: bool) -> Option<BytesMut> {
        let message = match self.parts.take() {
            None => payload,
            Some(mut parts) => {
                parts.extend_from_slice(&payload);
                parts
            }
        };
        if is_final {
            return Some(message);
        }
        self.parts = Some(message);
        None
    }
}
