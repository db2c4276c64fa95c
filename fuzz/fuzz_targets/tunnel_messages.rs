//! Feeds arbitrary sequences of tunnel messages to a server that has an open stream and reads.
//!
//! The server continues or ends the tunnel, and never buffers more than its window. An empty message
//! represents a new attachment.
#![no_main]

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use report::{bench::BenchRequest, tunnel::origin::Origin};
use report_proto::mux::{Mux, MuxEvent, Parameters, PeerGrant, TunnelSide, WindowSize};

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
            mux.resume(now);
        }
        if mux.handle_message(now, Bytes::from(message)).is_err() {
            return;
        }
        assert!(mux.held_bytes() <= PARAMETERS.tunnel_window.max);
        while let Some(event) = mux.poll_event() {
            if let MuxEvent::Opened { stream, details } = event {
                let _ = BenchRequest::read(&details);
                let _ = Origin::read(&details);
                let _ = mux.read(stream);
                mux.consume(now, stream, 100);
            }
        }
        let mut out = BytesMut::new();
        while mux.poll_transmit(now, &mut out, 8192) {
            out.clear();
        }
    }
});
