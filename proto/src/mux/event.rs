//! The reports of the mux to the application: events, and the result of a read.

use bytes::Bytes;

use super::{FlowId, LaneId, ResetCode, StreamId};

/// An event for the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MuxEvent {
    /// The peer opened a stream.
    Opened {
        /// The number of the stream.
        stream: StreamId,
        /// The peer's description of the stream: JSON or empty.
        details: Bytes,
    },
    /// [`Mux::read`](super::Mux::read) has new data. Reported once after it returned
    /// [`StreamRead::Wait`].
    Readable(StreamId),
    /// [`Mux::write_room`](super::Mux::write_room) is large enough to justify a wake-up,
    /// [`Mux::is_delivered`](super::Mux::is_delivered) may be true, or the stream was reset. Reported
    /// once after the application had to wait.
    Writable(StreamId),
    /// The peer reset the stream. Reported even if no task waits for the stream.
    Reset(StreamId),
    /// After [`Mux::resume`](super::Mux::resume), the peer's list of received data is complete and
    /// data flows again.
    Resumed {
        /// The number of streams.
        streams: usize,
        /// The number of bytes to send again.
        again_bytes: u64,
    },
    /// The peer reports that a lane has ended. The caller closes its attachment.
    LaneLost(LaneId),
    /// The server asks for another number of lanes, which [`Mux::requested_lanes`](super::Mux::requested_lanes)
    /// returns.
    LanesRequested,
    /// The client opened a flow of datagrams.
    FlowOpened {
        /// The number of the flow.
        flow: FlowId,
        /// The client's description of the flow: JSON or empty.
        details: Bytes,
    },
    /// [`Mux::read_datagram`](super::Mux::read_datagram) has a datagram. Reported once after it
    /// returned none.
    FlowReadable(FlowId),
    /// The peer ended a flow. The application calls [`Mux::end_flow`](super::Mux::end_flow) when it
    /// has read what arrived before.
    FlowEnded {
        /// The number of the flow.
        flow: FlowId,
        /// The reason of the peer.
        code: ResetCode,
    },
    /// The peer ended the tunnel.
    Closed(ResetCode),
}

/// The result of [`Mux::read`](super::Mux::read).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamRead {
    /// The next bytes.
    Data(Bytes),
    /// No data is available now; a [`MuxEvent::Readable`] will follow.
    Wait,
    /// The peer finished this direction, and the application has read everything.
    End,
}
