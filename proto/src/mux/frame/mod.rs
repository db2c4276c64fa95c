//! The codec of tunnel frames (PROTOCOL 9.1). It knows bytes, but not which state allows which
//! frame.

#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    error::{MuxError, ResetCode},
    lanes::LaneId,
    varint::{self, MAX_BYTES},
};

/// The number of a stream in its tunnel: even for streams of the client, odd for those of the
/// server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// The number of a flow of datagrams in its tunnel. Only the client opens flows, and counts up from
/// zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

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
    /// Reports that a lane has ended at the sender of this frame.
    Lost { lane: LaneId },
    /// Reports the bytes of DATA that have arrived on a lane.
    Received { lane: LaneId, bytes: u64 },
    /// Asks the client for this number of lanes. The largest `number` is the latest request.
    Lanes { number: u64, lanes: u64 },
    /// Carries a datagram of a flow. `sent` is the time at which its sender got it, in milliseconds
    /// of the sender's clock.
    Datagram {
        flow: FlowId,
        sent: u64,
        bytes: Bytes,
    },
    /// Opens a flow.
    OpenFlow { flow: FlowId, details: Bytes },
    /// Tells the client that the server knows a flow.
    Flow { flow: FlowId },
    /// Ends a flow.
    EndFlow { flow: FlowId, code: ResetCode },
    /// Reports the bytes of datagrams that have arrived on a lane.
    DatagramsReceived { lane: LaneId, bytes: u64 },
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
const DATAGRAM: u8 = 0x0a;
const RESUMED: u8 = 0x0b;
const END: u8 = 0x0c;

const LOST: u8 = 0x0f;
const RECEIVED: u8 = 0x10;
const LANES: u8 = 0x11;
const OPEN_FLOW: u8 = 0x12;
const FLOW: u8 = 0x13;
const END_FLOW: u8 = 0x14;
const DATAGRAMS_RECEIVED: u8 = 0x15;

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
            TunnelFrame::Lost { lane } => numbers(out, LOST, &[lane.0]),
            TunnelFrame::Received { lane, bytes } => numbers(out, RECEIVED, &[lane.0, *bytes]),
            TunnelFrame::Lanes { number, lanes } => numbers(out, LANES, &[*number, *lanes]),
            frame => frame.encode_flow_frame(out),
        }
    }

    /// Appends a frame about flows of datagrams. Other frames append nothing.
    fn encode_flow_frame(&self, out: &mut BytesMut) {
        match self {
            TunnelFrame::Datagram { flow, sent, bytes } => {
                datagram_header(out, *flow, *sent, bytes.len());
                out.put_slice(bytes);
            }
            TunnelFrame::OpenFlow { flow, details } => {
                numbers(out, OPEN_FLOW, &[flow.0, details.len() as u64]);
                out.put_slice(details);
            }
            TunnelFrame::Flow { flow } => numbers(out, FLOW, &[flow.0]),
            TunnelFrame::EndFlow { flow, code } => {
                numbers(out, END_FLOW, &[flow.0, code.wire_code()]);
            }
            TunnelFrame::DatagramsReceived { lane, bytes } => {
                numbers(out, DATAGRAMS_RECEIVED, &[lane.0, *bytes]);
            }
            _ => {}
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
            OPEN | DATA | FIN | RESET | WINDOW => decode_stream_frame(frame_type, message),
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
            LOST => number(message, 1).map(|[lane, ..]| TunnelFrame::Lost { lane: LaneId(lane) }),
            RECEIVED => number(message, 2).map(|[lane, bytes, _]| TunnelFrame::Received {
                lane: LaneId(lane),
                bytes,
            }),
            LANES => {
                number(message, 2).map(|[number, lanes, _]| TunnelFrame::Lanes { number, lanes })
            }
            DATAGRAM | OPEN_FLOW | FLOW | END_FLOW | DATAGRAMS_RECEIVED => {
                decode_flow_frame(frame_type, message)
            }
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

/// Appends the header of a DATAGRAM frame, which its bytes follow.
pub(super) fn datagram_header(out: &mut BytesMut, flow: FlowId, sent: u64, length: usize) {
    numbers(out, DATAGRAM, &[flow.0, sent, length as u64]);
}

/// Returns the bytes of the header that [`datagram_header`] appends.
pub(super) fn datagram_header_length(flow: FlowId, sent: u64, length: usize) -> usize {
    [flow.0, sent, length as u64]
        .into_iter()
        .fold(1, |total, value| {
            total.saturating_add(varint::length(value))
        })
}

fn numbers(out: &mut BytesMut, frame_type: u8, values: &[u64]) {
    out.put_u8(frame_type);
    for &value in values {
        varint::encode(out, value);
    }
}

/// Takes the fields of a frame that belongs to one stream. Returns `None` if a field is truncated or
/// the type is another one.
fn decode_stream_frame(frame_type: u8, message: &mut Bytes) -> Option<TunnelFrame> {
    match frame_type {
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
        _ => None,
    }
}

/// Takes the fields of a frame about flows of datagrams. Returns `None` if a field is truncated or
/// the type is another one.
fn decode_flow_frame(frame_type: u8, message: &mut Bytes) -> Option<TunnelFrame> {
    match frame_type {
        DATAGRAM => number(message, 3).and_then(|[flow, sent, length]| {
            take_bytes(message, length).map(|bytes| TunnelFrame::Datagram {
                flow: FlowId(flow),
                sent,
                bytes,
            })
        }),
        OPEN_FLOW => number(message, 2).and_then(|[flow, length, _]| {
            take_bytes(message, length).map(|details| TunnelFrame::OpenFlow {
                flow: FlowId(flow),
                details,
            })
        }),
        FLOW => number(message, 1).map(|[flow, ..]| TunnelFrame::Flow { flow: FlowId(flow) }),
        END_FLOW => number(message, 2).map(|[flow, code, _]| TunnelFrame::EndFlow {
            flow: FlowId(flow),
            code: ResetCode::from_wire(code),
        }),
        DATAGRAMS_RECEIVED => {
            number(message, 2).map(|[lane, bytes, _]| TunnelFrame::DatagramsReceived {
                lane: LaneId(lane),
                bytes,
            })
        }
        _ => None,
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
