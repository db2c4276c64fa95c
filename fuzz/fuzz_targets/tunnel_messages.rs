//! Feeds arbitrary sequences of tunnel messages to a server that has an open stream and reads.
//!
//! The server continues or ends the tunnel, never buffers more than its window, and echoes datagrams.
//! An empty message represents a new attachment.
#![no_main]

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use report::{bench::BenchRequest, tunnel::origin::Origin};
use report_proto::mux::{LaneId, Mux, MuxEvent, Parameters, PeerGrant, TunnelSide, WindowSize};

/// A second lane beside the first.
const SECOND: LaneId = LaneId(1);

const PARAMETERS: Parameters = Parameters {
    stream_window: WindowSize {
        initial: 4096,
        max: 65_536,
    },
    tunnel_window: WindowSize {
        initial: 16_384,
        max: 131_072,
    },
    streams_max: 8,
    flows_max: 8,
    max_delay: Duration::from_millis(200),
};

fuzz_target!(|messages: Vec<Vec<u8>>| {
    let now = Instant::now();
    let grant = PeerGrant {
        stream_window: 4096,
        tunnel_window: 16_384,
    };
    let mut mux = Mux::new(TunnelSide::Server, PARAMETERS, grant, now);
    let own = mux.open(Bytes::new());
    let _ = mux.write(own, Bytes::from_static(b"hello"));
    for message in messages {
        if message.is_empty() {
            let mut list = BytesMut::new();
            mux.write_resume(&mut list, 64);
            assert!(list.len() <= 64);
            mux.resume(now, LaneId::FIRST);
        }
        // The first byte selects one of two lanes, and may end the second one.
        let lane = match message.first() {
            Some(first) if first & 0x40 != 0 => SECOND,
            _ => LaneId::FIRST,
        };
        match message.first() {
            Some(first) if first & 0x80 != 0 => mux.lose_lane(now, SECOND),
            _ => mux.add_lane(now, SECOND),
        }
        mux.request_lanes(message.first().copied().map_or(1, u64::from));
        let mut content = Bytes::from(message);
        if !content.is_empty() {
            content.advance(1);
        }
        if mux.handle_message(now, lane, content).is_err() {
            return;
        }
        assert!(mux.held_bytes() <= PARAMETERS.tunnel_window.max);
        while let Some(event) = mux.poll_event() {
            match event {
                MuxEvent::Opened { stream, details } => {
                    let _ = BenchRequest::read(&details);
                    let _ = Origin::read(&details);
                    let _ = mux.read(stream);
                    mux.consume(now, stream, 100);
                }
                MuxEvent::FlowOpened { flow, details } => {
                    let _ = mux.send_datagram(now, flow, details);
                    while let Ok(Some(_)) = mux.read_datagram(flow) {}
                }
                MuxEvent::FlowReadable(flow) => {
                    while let Ok(Some(datagram)) = mux.read_datagram(flow) {
                        let _ = mux.send_datagram(now, flow, datagram);
                    }
                }
                MuxEvent::FlowEnded { flow, code } => mux.end_flow(flow, code),
                _ => {}
            }
        }
        assert!(mux.flows() <= PARAMETERS.flows_max);
        let mut out = BytesMut::new();
        for lane in [LaneId::FIRST, SECOND] {
            while mux.poll_transmit(now, lane, &mut out, 8192) {
                out.clear();
            }
        }
    }
});
