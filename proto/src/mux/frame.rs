//! The codec of tunnel frames (PROTOCOL 9.1). It knows bytes, but not which state allows which
//! frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    error::MuxError,
    varint::{self, MAX_BYTES},
};

/// The number of a stream in its tunnel: even for streams of the client, odd for those of the
/// server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// The reason for a reset (PROTOCOL 9.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetCode {
    /// The application does not need the stream any more.
    Cancelled,
    /// The local service refused the connection.
    Refused,
    /// The local service does not answer, or its name does not resolve.
    Unreachable,
    /// The local connection was reset.
    Reset,
    /// An operation took too long.
    Timeout,
    /// The bytes of the stream could not be decoded.
    Corrupt,
    /// The sender is shutting down.
    Shutdown,
    /// There are too many streams.
    Limit,
    /// The peer broke the protocol.
    Protocol,
    /// The tunnel had no attachment for longer than the resume timeout.
    Expired,
}

impl ResetCode {
    const ALL: [ResetCode; 10] = [
        ResetCode::Cancelled,
        ResetCode::Refused,
        ResetCode::Unreachable,
        ResetCode::Reset,
        ResetCode::Timeout,
        ResetCode::Corrupt,
        ResetCode::Shutdown,
        ResetCode::Limit,
        ResetCode::Protocol,
        ResetCode::Expired,
    ];

    fn wire_code(self) -> u64 {
        Self::ALL
            .iter()
            .position(|&code| code == self)
            .map_or(0, |position| position as u64)
    }

    fn from_wire(code: u64) -> Self {
        usize::try_from(code)
            .ok()
            .and_then(|position| Self::ALL.get(position).copied())
            .unwrap_or(ResetCode::Cancelled)
    }
}

impl std::fmt::Display for ResetCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            ResetCode::Cancelled => "cancelled",
            ResetCode::Refused => "refused",
            ResetCode::Unreachable => "unreachable",
            ResetCode::Reset => "reset",
            ResetCode::Timeout => "timeout",
            ResetCode::Corrupt => "corrupt",
            ResetCode::Shutdown => "shutdown",
            ResetCode::Limit => "limit",
            ResetCode::Protocol => "protocol",
            ResetCode::Expired => "expired",
        })
    }
}

/// One frame of a tunnel message. Offsets, limits and windows are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TunnelFrame {
    /// Opens a stream. The peer may initially send `window` bytes on it.
    Open {
        stream: StreamId,
        window: u64,
        details: Bytes,
    },
    /// Carries bytes of a stream from `offset`.
    Data {
        stream: StreamId,
        offset: u64,
        bytes: Bytes,
    },
    /// Ends the direction at `final_offset`.
    Fin { stream: StreamId, final_offset: u64 },
    /// Resets the stream.
    Reset {
        stream: StreamId,
        final_offset: u64,
        code: ResetCode,
    },
    /// Acknowledges received bytes of a stream, and sets the limit up to which the peer may send.
    Window {
        stream: StreamId,
        received: u64,
        limit: u64,
    },
    /// Sets the limit for the sum of all streams.
    TunnelWindow { limit: u64 },
    /// Requests a [`TunnelFrame::Pong`] with the same token.
    Ping { token: u64 },
    /// Answers a [`TunnelFrame::Ping`].
    Pong { token: u64 },
    /// Begins the list of received data. `seen` is the lowest number of the receiver's streams
    /// whose OPEN has not arrived. `opened` is the lowest number of the sender's streams that it
    /// has not opened.
    Resume { seen: u64, opened: u64 },
    /// Ends the list.
    Resumed,
    /// Ends the tunnel.
    End { code: ResetCode },
}

const OPEN: u8 = 0x01;
const DATA: u8 = 0x02;
const FIN: u8 = 0x03;
const RESET: u8 = 0x04;
const WINDOW: u8 = 0x05;
const TUNNEL_WINDOW: u8 = 0x06;
const PING: u8 = 0x07;
const PONG: u8 = 0x08;
const RESUME: u8 = 0x09;
const RESUMED: u8 = 0x0b;
const END: u8 = 0x0c;

/// The type of MOVED, a message without other frames: the last one that its sender sends on this
/// attachment (PROTOCOL 10.6). It never reaches a mux.
pub const MOVED: u8 = 0x0d;

/// The type of MOVE, a message without other frames: it asks the client to move the tunnel
/// (PROTOCOL 10.7). It never reaches a mux.
pub const MOVE: u8 = 0x0e;

/// The maximum overhead of a DATA frame: type, stream, offset and length.
pub(super) const DATA_OVERHEAD: usize = 1 + 3 * MAX_BYTES;

/// The maximum size of a frame without the details of OPEN or the bytes of DATA: the type and three
/// numbers.
pub(super) const FRAME_MAX: usize = 1 + 3 * MAX_BYTES;

impl TunnelFrame {
    /// Appends the frame to `out`.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            TunnelFrame::Open {
                stream,
                window,
                details,
            } => {
                numbers(out, OPEN, &[stream.0, *window, details.len() as u64]);
                out.put_slice(details);
            }
            TunnelFrame::Data {
                stream,
                offset,
                bytes,
            } => {
                data_header(out, *stream, *offset, bytes.len());
                out.put_slice(bytes);
            }
            TunnelFrame::Fin {
                stream,
                final_offset,
            } => numbers(out, FIN, &[stream.0, *final_offset]),
            TunnelFrame::Reset {
                stream,
                final_offset,
                code,
            } => {
                numbers(out, RESET, &[stream.0, *final_offset, code.wire_code()]);
            }
            TunnelFrame::Window {
                stream,
                received,
                limit,
            } => numbers(out, WINDOW, &[stream.0, *received, *limit]),
            TunnelFrame::TunnelWindow { limit } => numbers(out, TUNNEL_WINDOW, &[*limit]),
            TunnelFrame::Ping { token } => numbers(out, PING, &[*token]),
            TunnelFrame::Pong { token } => numbers(out, PONG, &[*token]),
            TunnelFrame::Resume { seen, opened } => numbers(out, RESUME, &[*seen, *opened]),
            TunnelFrame::Resumed => numbers(out, RESUMED, &[]),
            TunnelFrame::End { code } => numbers(out, END, &[code.wire_code()]),
        }
    }

    /// Takes a frame from the front of `message`, which is not empty.
    ///
    /// # Errors
    /// [`MuxError::Protocol`] if the type is unknown or a field is truncated.
    pub(super) fn decode(message: &mut Bytes) -> Result<Self, MuxError> {
        let truncated = MuxError::Protocol("truncated tunnel frame");
        if message.is_empty() {
            return Err(truncated);
        }
        let frame_type = message.get_u8();
        let frame = match frame_type {
            OPEN => number(message, 3).and_then(|[stream, window, length]| {
                take_bytes(message, length).map(|details| TunnelFrame::Open {
                    stream: StreamId(stream),
                    window,
                    details,
                })
            }),
            DATA => number(message, 3).and_then(|[stream, offset, length]| {
                take_bytes(message, length).map(|bytes| TunnelFrame::Data {
                    stream: StreamId(stream),
                    offset,
                    bytes,
                })
            }),
            FIN => number(message, 2).map(|[stream, final_offset, _]| TunnelFrame::Fin {
                stream: StreamId(stream),
                final_offset,
            }),
            RESET => number(message, 3).map(|[stream, final_offset, code]| TunnelFrame::Reset {
                stream: StreamId(stream),
                final_offset,
                code: ResetCode::from_wire(code),
            }),
            WINDOW => number(message, 3).map(|[stream, received, limit]| TunnelFrame::Window {
                stream: StreamId(stream),
                received,
                limit,
            }),
            TUNNEL_WINDOW => {
                number(message, 1).map(|[limit, ..]| TunnelFrame::TunnelWindow { limit })
            }
            PING => number(message, 1).map(|[token, ..]| TunnelFrame::Ping { token }),
            PONG => number(message, 1).map(|[token, ..]| TunnelFrame::Pong { token }),
            RESUME => {
                number(message, 2).map(|[seen, opened, _]| TunnelFrame::Resume { seen, opened })
            }
            RESUMED => Some(TunnelFrame::Resumed),
            END => number(message, 1).map(|[code, ..]| TunnelFrame::End {
                code: ResetCode::from_wire(code),
            }),
            MOVED | MOVE => {
                return Err(MuxError::Protocol(
                    "MOVED or MOVE beside other frames of a message",
                ));
            }
            _ => return Err(MuxError::Protocol("tunnel frame of unknown type")),
        };
        frame.ok_or(truncated)
    }
}

/// Appends the header of a DATA frame, which its bytes follow.
pub(super) fn data_header(out: &mut BytesMut, stream: StreamId, offset: u64, length: usize) {
    numbers(out, DATA, &[stream.0, offset, length as u64]);
}

fn numbers(out: &mut BytesMut, frame_type: u8, values: &[u64]) {
    out.put_u8(frame_type);
    for &value in values {
        varint::encode(out, value);
    }
}

/// Takes `count` numbers, at most three. The remaining ones are 0.
fn number(message: &mut Bytes, count: usize) -> Option<[u64; 3]> {
    let mut input = &message[..];
    let mut values = [0; 3];
    for value in values.iter_mut().take(count) {
        *value = varint::decode(&mut input)?;
    }
    let used = message.len().saturating_sub(input.len());
    message.advance(used);
    Some(values)
}

fn take_bytes(message: &mut Bytes, length: u64) -> Option<Bytes> {
    let length = usize::try_from(length)
        .ok()
        .filter(|&length| length <= message.len())?;
    Some(message.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = TunnelFrame> {
        let id = (0..varint::MAX).prop_map(StreamId);
        let value = 0..varint::MAX;
        let bytes = proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
        prop_oneof![
            (id.clone(), value.clone(), bytes.clone()).prop_map(|(stream, window, details)| {
                TunnelFrame::Open {
                    stream,
                    window,
                    details,
                }
            }),
            (id.clone(), value.clone(), bytes).prop_map(|(stream, offset, bytes)| {
                TunnelFrame::Data {
                    stream,
                    offset,
                    bytes,
                }
            }),
            (id.clone(), value.clone()).prop_map(|(stream, final_offset)| TunnelFrame::Fin {
                stream,
                final_offset
            }),
            (id.clone(), value.clone(), 0..10_u64).prop_map(|(stream, final_offset, code)| {
                TunnelFrame::Reset {
                    stream,
                    final_offset,
                    code: ResetCode::from_wire(code),
                }
            }),
            (id, value.clone(), value.clone()).prop_map(|(stream, received, limit)| {
                TunnelFrame::Window {
                    stream,
                    received,
                    limit,
                }
            }),
            value
                .clone()
                .prop_map(|limit| TunnelFrame::TunnelWindow { limit }),
            value.clone().prop_map(|token| TunnelFrame::Ping { token }),
            value.clone().prop_map(|token| TunnelFrame::Pong { token }),
            (value.clone(), value).prop_map(|(seen, opened)| TunnelFrame::Resume { seen, opened }),
            Just(TunnelFrame::Resumed),
            (0..10_u64).prop_map(|code| TunnelFrame::End {
                code: ResetCode::from_wire(code)
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_frame_round_trips_and_no_prefix_decodes(frame in any_frame()) {
            let mut out = BytesMut::new();
            frame.encode(&mut out);
            let whole = out.freeze();
            for cut in 0..whole.len() {
                prop_assert!(TunnelFrame::decode(&mut whole.slice(..cut)).is_err());
            }
            let mut message = whole.clone();
            prop_assert_eq!(TunnelFrame::decode(&mut message), Ok(frame));
            prop_assert!(message.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut message = Bytes::from(bytes);
            while !message.is_empty() && TunnelFrame::decode(&mut message).is_ok() {}
        }
    }

    #[derive(serde::Deserialize)]
    struct FrameVector {
        name: String,
        hex: String,
    }

    #[test]
    fn frames_encode_to_the_protocol_vectors() {
        let vectors: Vec<FrameVector> =
            serde_json::from_str(include_str!("../../../tests/vectors/tunnel_frames.json"))
                .unwrap();
        let stream = StreamId(4);
        let frames = [
            TunnelFrame::Open {
                stream,
                window: 262_144,
                details: Bytes::from_static(b"{}"),
            },
            TunnelFrame::Open {
                stream: StreamId(6),
                window: 262_144,
                details: Bytes::from_static(
                    br#"{"source":"203.0.113.9:40312","destination":"192.0.2.7:13389"}"#,
                ),
            },
            TunnelFrame::Data {
                stream,
                offset: 70_000,
                bytes: Bytes::from_static(b"hello"),
            },
            TunnelFrame::Fin {
                stream,
                final_offset: 70_005,
            },
            TunnelFrame::Reset {
                stream: StreamId(5),
                final_offset: 0,
                code: ResetCode::Refused,
            },
            TunnelFrame::Window {
                stream,
                received: 16_384,
                limit: 1_073_741_824,
            },
            TunnelFrame::TunnelWindow { limit: 1_048_576 },
            TunnelFrame::Ping { token: 63 },
            TunnelFrame::Pong { token: 64 },
            TunnelFrame::Resume {
                seen: 6,
                opened: 16_385,
            },
            TunnelFrame::Resumed,
            TunnelFrame::End {
                code: ResetCode::Shutdown,
            },
            TunnelFrame::End {
                code: ResetCode::Protocol,
            },
            TunnelFrame::End {
                code: ResetCode::Expired,
            },
        ];
        let alone = [MOVED, MOVE];
        assert_eq!(vectors.len(), frames.len() + alone.len());
        let (of_the_mux, of_the_tunnel) = vectors.split_at(frames.len());
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        for (vector, frame) in of_the_mux.iter().zip(&frames) {
            let mut out = BytesMut::new();
            frame.encode(&mut out);
            assert_eq!(hex(&out), vector.hex, "{}", vector.name);
        }
        for (vector, frame_type) in of_the_tunnel.iter().zip(alone) {
            assert_eq!(hex(&[frame_type]), vector.hex, "{}", vector.name);
            assert!(
                TunnelFrame::decode(&mut Bytes::copy_from_slice(&[frame_type])).is_err(),
                "{}",
                vector.name
            );
        }
    }
}
