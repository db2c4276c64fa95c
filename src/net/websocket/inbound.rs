//! The receiving side of a WebSocket: decodes the bytes of a stream into messages. Each message has
//! exclusive memory, so that the receiver can decrypt it in place. Received bytes are moved only if
//! a message does not fit behind the previous one.
//!
//! Knows frames and their order, not the contents of messages.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio_util::io::poll_read_buf;

use super::{
    ByteStream, ReceiveActivity, SocketEnd, SocketError,
    frame::{self, FrameHeader, MAX_HEADER_LENGTH, Opcode},
};
use report_proto::frame::MAX_MESSAGE;

/// The minimum size of a read, in bytes. It is small, because a master may hold ten thousand idle
/// links.
const MIN_READ: usize = 4 * 1024;

/// The maximum size of a read, in bytes. Several full messages per read keep the number of system
/// calls low (measured).
const MAX_READ: usize = 128 * 1024;

/// The read size divided by this is the slack behind whole frames: few enough bytes to be cheap to
/// move.
const SLACK_DIVISOR: usize = 32;

/// The payload length of PING and PONG (PROTOCOL 6). A longer message is neither, which is known
/// before it is complete.
const KEEPALIVE_LENGTH: u64 = 9;

/// A decoded message or control frame.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A binary message.
    Message(BytesMut),
    /// A ping, to be answered by a pong with the same payload.
    Ping(BytesMut),
    /// The peer will send no more messages. Holds the reason.
    Close(BytesMut),
}

/// The receive buffer of a WebSocket, and its decoder.
#[derive(Debug)]
pub(super) struct Inbound {
    end: SocketEnd,
    buffer: BytesMut,
    /// The frame whose payload is at the front of the buffer, or arrives next.
    frame: Option<FrameHeader>,
    /// The received parts of a fragmented message.
    parts: Option<BytesMut>,
    /// The current size of a read.
    read_size: usize,
    /// The maximum of `read_size`.
    max_read: usize,
    /// The length of the last frame, including its header.
    frame_size: usize,
    /// Whether the previous read used little of its room.
    was_small_read: bool,
    /// Whether bytes arrived since the last decoded header.
    has_undecoded_bytes: bool,
    activity: ReceiveActivity,
    /// The number of bytes read.
    received: u64,
    /// The number of messages delivered.
    messages: u64,
    /// The maximum length of a message.
    max_length: usize,
    /// Whether messages are discarded.
    is_discarding: bool,
}

impl Inbound {
    /// Creates a decoder. `read` holds the bytes that arrived with the upgrade.
    pub(super) fn new(end: SocketEnd, read: &[u8]) -> Self {
        Inbound {
            end,
            buffer: BytesMut::from(read),
            frame: None,
            parts: None,
            read_size: MIN_READ,
            // A peer that connects is not authenticated yet.
            max_read: if end == SocketEnd::Accepted {
                MIN_READ
            } else {
                MAX_READ
            },
            frame_size: 0,
            was_small_read: false,
            has_undecoded_bytes: !read.is_empty(),
            activity: ReceiveActivity::default(),
            received: read.len() as u64,
            messages: 0,
            max_length: MAX_MESSAGE,
            is_discarding: false,
        }
    }

    /// Discards all messages from now on, including a partly received one. The link is ending and
    /// waits only for the peer's Close.
    pub(super) fn discard(&mut self) {
        self.is_discarding = true;
        self.parts = None;
        // Stop at a control frame: it is still answered.
        while let Ok(Some(frame)) = self.header() {
            if frame.opcode.is_control() || !self.skip(frame) {
                break;
            }
        }
        self.release_idle_buffers();
    }

    /// Limits the length of later messages, to `MAX_MESSAGE` at most.
    pub(super) fn limit_message_length(&mut self, max_length: usize) {
        self.max_length = max_length.min(MAX_MESSAGE);
    }

    /// Allows large read buffers. The buffers of an unauthenticated peer stay small, and are
    /// released whenever they are empty.
    pub(super) fn allow_large_reads(&mut self) {
        self.max_read = MAX_READ;
    }

    /// Returns which end of the WebSocket this is.
    pub(super) fn end(&self) -> SocketEnd {
        self.end
    }

    /// Returns the number of buffered bytes of an incomplete message.
    pub(super) fn partial_message_bytes(&self) -> usize {
        self.buffer
            .len()
            .saturating_add(self.parts.as_ref().map_or(0, BytesMut::len))
    }

    /// Returns the number of messages delivered.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Reads until a message or a control frame is complete.
    pub(super) fn poll_next(
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

    /// Returns the receive activity since the last call, and resets it.
    pub(super) fn take_activity(&mut self) -> ReceiveActivity {
        std::mem::take(&mut self.activity)
    }

    /// Returns the number of bytes read.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Shrinks the buffer to its contents.
    pub(super) fn release_idle_buffers(&mut self) {
        self.read_size = MIN_READ;
        self.buffer = BytesMut::from(&self.buffer[..]);
    }

    #[cfg(test)]
    pub(super) fn buffer_capacity(&self) -> usize {
        self.buffer.capacity()
    }

    fn poll_fill(
        &mut self,
        stream: &mut dyn ByteStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let needed = match self.frame {
            Some(frame) if !self.is_skipped(&frame) => usize::try_from(frame.length)
                .unwrap_or(MAX_MESSAGE)
                .saturating_sub(self.buffer.len()),
            _ => MAX_HEADER_LENGTH,
        };
        let free = self.buffer.capacity() - self.buffer.len();
        // With much data buffered, moving it costs more than one small read into the remaining
        // room.
        let is_worth_moving = self.buffer.len() < self.read_size / 4;
        if free < needed || is_worth_moving && free < self.read_size / 4 {
            self.buffer
                .reserve(needed.max(self.whole_frames().saturating_sub(self.buffer.len())));
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let polled = poll_read_buf(Pin::new(stream), context, &mut self.buffer);
        match &polled {
            Poll::Ready(Ok(count)) => self.adapt_read_size(*count, room),
            // An idle link keeps no buffer.
            Poll::Pending if self.buffer.is_empty() && self.read_size == MIN_READ => {
                self.buffer = BytesMut::new()
            }
            _ => {}
        }
        polled
    }

    /// Returns the buffer size for one read: whole frames like the last one, plus slack. In a run
    /// of full messages, only the beginning of one then moves to the next buffer, even with small
    /// frames in between.
    fn whole_frames(&self) -> usize {
        match self.frame_size {
            size @ 1.. if size <= self.read_size => {
                self.read_size - self.read_size % size + self.read_size / SLACK_DIVISOR
            }
            _ => self.read_size,
        }
    }

    /// Doubles the read size when a read fills its room, and halves it after two small reads.
    fn adapt_read_size(&mut self, count: usize, room: usize) {
        self.received += count as u64;
        let is_small_read = count < room.min(self.read_size / 4);
        if count == room && !self.is_discarding {
            self.read_size = (self.read_size * 2).min(self.max_read);
        } else if is_small_read && self.was_small_read {
            self.read_size = (self.read_size / 2).max(MIN_READ);
        }
        self.was_small_read = is_small_read;
        self.has_undecoded_bytes = true;
        if self.frame.is_some_and(|frame| !frame.opcode.is_control()) {
            self.record_activity(count as u64);
        }
    }

    /// Records the receipt of bytes of a message.
    fn record_activity(&mut self, bytes: u64) {
        let is_long = self.parts.is_some()
            || self
                .frame
                .is_some_and(|frame| frame.length > KEEPALIVE_LENGTH);
        self.activity.any |= bytes > 0;
        self.activity.long |= bytes > 0 && is_long;
    }

    fn next(&mut self) -> Result<Option<Incoming>, SocketError> {
        loop {
            let Some(frame) = self.header()? else {
                return Ok(None);
            };
            // A discarded payload is dropped as it arrives, so that it takes no memory.
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
            // Without a copy: the message takes over this part of the buffer.
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

    fn is_skipped(&self, frame: &FrameHeader) -> bool {
        self.is_discarding && !frame.opcode.is_control()
    }

    /// Discards the buffered bytes of the current frame. Returns whether the frame is complete.
    fn skip(&mut self, frame: FrameHeader) -> bool {
        let available = usize::try_from(frame.length)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len());
        self.buffer.advance(available);
        let left = frame.length.saturating_sub(available as u64);
        self.frame = (left > 0).then_some(FrameHeader {
            length: left,
            ..frame
        });
        left == 0
    }

    /// Returns the header of the current frame; takes it from the buffer once it is complete.
    fn header(&mut self) -> Result<Option<FrameHeader>, SocketError> {
        if self.frame.is_none() {
            let decoded = FrameHeader::decode(&self.buffer)
                .map_err(|error| SocketError::NotWebSocket(error.to_owned()))?;
            let Some((header, length)) = decoded else {
                // The first byte already distinguishes a message from a control frame.
                self.activity.any |= std::mem::take(&mut self.has_undecoded_bytes)
                    && self.buffer.first().is_some_and(|first| first & 0x08 == 0);
                return Ok(None);
            };
            self.check(&header)?;
            self.buffer.advance(length);
            self.frame_size =
                length.saturating_add(usize::try_from(header.length).unwrap_or(MAX_MESSAGE));
            self.frame = Some(header);
            if !header.opcode.is_control() {
                self.record_activity(length as u64);
            }
        }
        Ok(self.frame)
    }

    fn check(&self, header: &FrameHeader) -> Result<(), SocketError> {
        let violation = match (header.opcode, &self.parts) {
            (Opcode::Text, _) => return Err(SocketError::Text),
            (Opcode::Continuation, None) if !self.is_discarding => {
                Some("a continuation of no message")
            }
            (Opcode::Binary, Some(_)) => Some("a message within another"),
            _ if header.mask.is_some() == (self.end == SocketEnd::Dialled) => {
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
        if size > self.max_length {
            Err(SocketError::TooLong {
                size,
                max_length: self.max_length,
            })
        } else {
            Ok(())
        }
    }

    /// Appends a part to the current message, and returns the message if it is complete.
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
