//! Encodes and decodes link frames.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    AttachHeader, DATA_HEADER_LENGTH, Frame, MAX_AVOIDED, MAX_CONTROL, MAX_MESSAGE, Notice,
    PROOF_LENGTH, Registered, SIGNATURE_LENGTH,
};

/// The type byte of each frame (PROTOCOL 3.1).
mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const WELCOME: u8 = 0x02;
    pub(super) const REGISTER: u8 = 0x03;
    pub(super) const UNREGISTER: u8 = 0x04;
    pub(super) const REGISTERED: u8 = 0x05;
    pub(super) const ATTACH: u8 = 0x06;
    pub(super) const CLOSE: u8 = 0x07;
    pub(super) const PAUSE: u8 = 0x08;
    pub(super) const RESUME: u8 = 0x09;
    pub(super) const PING: u8 = 0x0a;
    pub(super) const PONG: u8 = 0x0b;
    pub(super) const GOAWAY: u8 = 0x0c;
    pub(super) const ERROR: u8 = 0x0d;
    pub(super) const SIGNED_HELLO: u8 = 0x0e;
    pub(super) const DATA: u8 = 0x10;
    /// The first extension type. A receiver ignores unknown types from here up.
    pub(super) const EXTENSION: u8 = 0x80;
}

/// Returns whether the type byte of the message is PING.
#[must_use]
pub fn is_ping(message: &[u8]) -> bool {
    message.first() == Some(&kind::PING)
}

/// Returns whether the type byte of the message is PONG.
#[must_use]
pub fn is_pong(message: &[u8]) -> bool {
    message.first() == Some(&kind::PONG)
}

/// A message that is not a valid frame. Every variant ends the link with `protocol`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message has no bytes.
    #[error("an empty message")]
    Empty,
    /// A type below `0x80` that this version does not know.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// A field is truncated, or bytes follow the last field.
    #[error("a {name} frame of {length} bytes")]
    Length {
        /// The frame's name in the protocol.
        name: &'static str,
        /// Bytes of the whole message.
        length: usize,
    },
    /// The message exceeds `MAX_CONTROL`, or `MAX_MESSAGE` for DATA and extensions.
    #[error("a {name} frame of {length} bytes exceeds the limit of {limit} bytes")]
    TooLong {
        /// The frame's name in the protocol.
        name: &'static str,
        /// Bytes of the whole message.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The JSON text does not parse, or lacks a field.
    #[error("invalid JSON in a {name} frame: {reason}")]
    Json {
        /// The frame's name in the protocol.
        name: &'static str,
        /// The parser's error.
        reason: String,
    },
}

/// The initial capacity of an encoded frame, in bytes. PING and most CLOSE frames fit.
const INITIAL_CAPACITY: usize = 64;

/// Returns the header of a DATA frame: the bytes before its payload.
#[must_use]
pub fn data_header(channel: u32) -> [u8; DATA_HEADER_LENGTH] {
    let [a, b, c, d] = channel.to_be_bytes();
    [kind::DATA, a, b, c, d]
}

/// Returns the channel of a message that is a valid DATA frame.
///
/// The payload starts after [`DATA_HEADER_LENGTH`] bytes and has at least one byte.
#[must_use]
pub fn data_channel(message: &[u8]) -> Option<u32> {
    match message {
        &[kind::DATA, a, b, c, d, _, ..] if message.len() <= MAX_MESSAGE => {
            Some(u32::from_be_bytes([a, b, c, d]))
        }
        _ => None,
    }
}

impl Frame {
    /// Decodes a message. The payload of the frame shares the message's memory.
    ///
    /// # Errors
    /// Returns an error if the message is not a valid frame. The link then ends with `protocol`.
    pub fn decode(mut message: Bytes) -> Result<Frame, FrameError> {
        let length = message.len();
        let kind = message.try_get_u8().map_err(|_| FrameError::Empty)?;
        let name = name(kind);
        let limit = if kind == kind::DATA || kind >= kind::EXTENSION {
            MAX_MESSAGE
        } else {
            MAX_CONTROL
        };
        if length > limit {
            return Err(FrameError::TooLong {
                name,
                length,
                limit,
            });
        }
        FrameReader {
            name,
            length,
            rest: message,
        }
        .read(kind)
    }

    /// Appends the encoded frame to `out`. Truncates a reason to [`MAX_REASON`](super::MAX_REASON).
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Frame::Hello { proof, claims } => proof_frame(kind::HELLO, proof, claims, out),
            Frame::SignedHello { signature, claims } => {
                proof_frame(kind::SIGNED_HELLO, signature, claims, out);
            }
            Frame::Welcome { proof, terms } => proof_frame(kind::WELCOME, proof, terms, out),
            Frame::Register(ports) => json_frame(kind::REGISTER, ports, out),
            Frame::Unregister(ports) => json_frame(kind::UNREGISTER, ports, out),
            Frame::Registered(answer) => json_frame(kind::REGISTERED, &answer.sanitized(), out),
            Frame::Attach {
                channel,
                header,
                message,
            } => attach_frame(*channel, header, message, out),
            Frame::Close { channel, notice } => {
                channel_frame(kind::CLOSE, *channel, out);
                write_json(&notice.sanitized(), out);
            }
            Frame::Pause(channel) => channel_frame(kind::PAUSE, *channel, out),
            Frame::Resume(channel) => channel_frame(kind::RESUME, *channel, out),
            Frame::Ping(token) => token_frame(kind::PING, *token, out),
            Frame::Pong(token) => token_frame(kind::PONG, *token, out),
            Frame::GoAway(notice) => json_frame(kind::GOAWAY, &notice.sanitized(), out),
            Frame::Error(notice) => json_frame(kind::ERROR, &notice.sanitized(), out),
            Frame::Data { channel, payload } => {
                out.put_slice(&data_header(*channel));
                out.put_slice(payload);
            }
            Frame::Extension(kind) => out.put_u8(*kind),
        }
    }

    /// Encodes the frame into a new message.
    #[must_use]
    pub fn to_message(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(INITIAL_CAPACITY);
        self.encode(&mut out);
        out.freeze()
    }

    /// Returns the frame's name in the protocol, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        name(match self {
            Frame::Hello { .. } => kind::HELLO,
            Frame::SignedHello { .. } => kind::SIGNED_HELLO,
            Frame::Welcome { .. } => kind::WELCOME,
            Frame::Register(_) => kind::REGISTER,
            Frame::Unregister(_) => kind::UNREGISTER,
            Frame::Registered(_) => kind::REGISTERED,
            Frame::Attach { .. } => kind::ATTACH,
            Frame::Close { .. } => kind::CLOSE,
            Frame::Pause(_) => kind::PAUSE,
            Frame::Resume(_) => kind::RESUME,
            Frame::Ping(_) => kind::PING,
            Frame::Pong(_) => kind::PONG,
            Frame::GoAway(_) => kind::GOAWAY,
            Frame::Error(_) => kind::ERROR,
            Frame::Data { .. } => kind::DATA,
            Frame::Extension(kind) => *kind,
        })
    }
}

/// Reads the fields of one frame from front to back.
struct FrameReader {
    name: &'static str,
    /// Bytes of the whole message, for errors.
    length: usize,
    /// The bytes that are still to be read.
    rest: Bytes,
}

impl FrameReader {
    fn read(mut self, kind: u8) -> Result<Frame, FrameError> {
        match kind {
            kind::HELLO => Ok(Frame::Hello {
                proof: self.array::<PROOF_LENGTH>()?,
                claims: self.rest,
            }),
            kind::SIGNED_HELLO => Ok(Frame::SignedHello {
                signature: self.array::<SIGNATURE_LENGTH>()?,
                claims: self.rest,
            }),
            kind::WELCOME => Ok(Frame::Welcome {
                proof: self.array::<PROOF_LENGTH>()?,
                terms: self.rest,
            }),
            kind::REGISTER => self.json().map(Frame::Register),
            kind::UNREGISTER => self.json().map(Frame::Unregister),
            kind::REGISTERED => self
                .json::<Registered>()
                .map(|answer| Frame::Registered(answer.sanitized())),
            kind::ATTACH => self.attach(),
            kind::CLOSE => Ok(Frame::Close {
                channel: self.channel()?,
                notice: self.json::<Notice>()?.sanitized(),
            }),
            kind::PAUSE => self.last_channel().map(Frame::Pause),
            kind::RESUME => self.last_channel().map(Frame::Resume),
            kind::PING => self.token().map(Frame::Ping),
            kind::PONG => self.token().map(Frame::Pong),
            kind::GOAWAY => self
                .json::<Notice>()
                .map(|notice| Frame::GoAway(notice.sanitized())),
            kind::ERROR => self
                .json::<Notice>()
                .map(|notice| Frame::Error(notice.sanitized())),
            kind::DATA => self.data(),
            kind::EXTENSION.. => Ok(Frame::Extension(kind)),
            other => Err(FrameError::UnknownType(other)),
        }
    }

    fn data(mut self) -> Result<Frame, FrameError> {
        let channel = self.channel()?;
        if self.rest.is_empty() {
            Err(self.wrong_length())
        } else {
            Ok(Frame::Data {
                channel,
                payload: self.rest,
            })
        }
    }

    fn attach(mut self) -> Result<Frame, FrameError> {
        let channel = self.channel()?;
        let length = self.rest.try_get_u16().map_err(|_| self.wrong_length())?;
        if self.rest.len() < usize::from(length) {
            return Err(self.wrong_length());
        }
        let message = self.rest.split_off(usize::from(length));
        let mut header: AttachHeader = self.json()?;
        // Ignore the ids beyond the limit and free their memory.
        header.avoid.truncate(MAX_AVOIDED);
        header.avoid.shrink_to_fit();
        Ok(Frame::Attach {
            channel,
            header,
            message,
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut bytes = [0; N];
        self.rest
            .try_copy_to_slice(&mut bytes)
            .map_err(|_| self.wrong_length())?;
        Ok(bytes)
    }

    fn channel(&mut self) -> Result<u32, FrameError> {
        self.rest.try_get_u32().map_err(|_| self.wrong_length())
    }

    fn last_channel(mut self) -> Result<u32, FrameError> {
        let channel = self.channel()?;
        if self.rest.is_empty() {
            Ok(channel)
        } else {
            Err(self.wrong_length())
        }
    }

    fn token(mut self) -> Result<u64, FrameError> {
        let token = self.rest.try_get_u64().map_err(|_| self.wrong_length())?;
        if self.rest.is_empty() {
            Ok(token)
        } else {
            Err(self.wrong_length())
        }
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.rest).map_err(|error| FrameError::Json {
            name: self.name,
            reason: error.to_string(),
        })
    }

    fn wrong_length(&self) -> FrameError {
        FrameError::Length {
            name: self.name,
            length: self.length,
        }
    }
}

fn name(kind: u8) -> &'static str {
    match kind {
        kind::HELLO => "HELLO",
        kind::SIGNED_HELLO => "SIGNED_HELLO",
        kind::WELCOME => "WELCOME",
        kind::REGISTER => "REGISTER",
        kind::UNREGISTER => "UNREGISTER",
        kind::REGISTERED => "REGISTERED",
        kind::ATTACH => "ATTACH",
        kind::CLOSE => "CLOSE",
        kind::PAUSE => "PAUSE",
        kind::RESUME => "RESUME",
        kind::PING => "PING",
        kind::PONG => "PONG",
        kind::GOAWAY => "GOAWAY",
        kind::ERROR => "ERROR",
        kind::DATA => "DATA",
        kind::EXTENSION.. => "extension",
        _ => "unknown",
    }
}

fn proof_frame(kind: u8, proof: &[u8], text: &[u8], out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_slice(proof);
    out.put_slice(text);
}

fn channel_frame(kind: u8, channel: u32, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u32(channel);
}

fn token_frame(kind: u8, token: u64, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u64(token);
}

fn json_frame(kind: u8, value: &impl Serialize, out: &mut BytesMut) {
    out.put_u8(kind);
    write_json(value, out);
}

fn attach_frame(channel: u32, header: &AttachHeader, message: &[u8], out: &mut BytesMut) {
    channel_frame(kind::ATTACH, channel, out);
    let mut text = BytesMut::new();
    write_json(header, &mut text);
    // The header has a few hundred bytes, so its length always fits into 16 bits.
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(&text);
    out.put_slice(message);
}

#[expect(
    clippy::expect_used,
    reason = "strings and numbers with string keys always serialize, and memory accepts every write"
)]
fn write_json(value: &impl Serialize, out: &mut BytesMut) {
    serde_json::to_writer(out.writer(), value).expect("control frames serialize to JSON");
}

#[cfg(test)]
mod tests;
