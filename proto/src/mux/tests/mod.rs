//! Tests of the multiplexer's contract: two muxes without a network, one property per test. Longer
//! simulations are in `bandwidth`, `slow_paths`, `credit_under_loss` and `simulation`.

mod bandwidth;
mod credit;
mod credit_under_loss;
mod datagram_bounds;
mod datagram_delays;
mod datagram_lanes;
mod datagrams;
mod lane_relief;
mod lane_stalls;
mod lanes;
mod path_simulation;
mod protocol_violations;
mod resume;
mod resume_lists;
mod simulation;
mod slow_paths;
mod slow_readers;
mod streams;
mod tcp_losses;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::*;

/// How long a datagram may wait.
const MAX_DELAY: Duration = Duration::from_millis(200);

const PARAMETERS: Parameters = Parameters {
    stream_window: WindowSize {
        initial: 64 * 1024,
        max: 1024 * 1024,
    },
    tunnel_window: WindowSize {
        initial: 256 * 1024,
        max: 1024 * 1024,
    },
    streams_max: 100,
    flows_max: 100,
    max_delay: MAX_DELAY,
};

/// The windows that the roles grant.
const WINDOWS: Parameters = Parameters {
    stream_window: WindowSize {
        initial: 16 << 10,
        max: 16 << 20,
    },
    tunnel_window: WindowSize {
        initial: 1 << 20,
        max: 32 << 20,
    },
    streams_max: 5000,
    flows_max: 1024,
    max_delay: MAX_DELAY,
};

/// The size of a message.
const ROOM: usize = 65_536;

/// A client, a server, and virtual time.
struct Pair {
    client: Mux,
    server: Mux,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        Self::with(PARAMETERS)
    }

    fn with(parameters: Parameters) -> Self {
        let now = Instant::now();
        let grant = PeerGrant {
            stream_window: parameters.stream_window.initial,
            tunnel_window: parameters.tunnel_window.initial,
        };
        let mux = |side| Mux::new(side, parameters, grant, now);
        Pair {
            client: mux(TunnelSide::Client),
            server: mux(TunnelSide::Server),
            now,
        }
    }

    /// Carries messages in both directions until both ends are idle, including delayed
    /// acknowledgements.
    fn run_until_idle(&mut self) {
        for _ in 0..1000 {
            self.now += Duration::from_millis(10);
            self.client.handle_timeout(self.now).unwrap();
            self.server.handle_timeout(self.now).unwrap();
            let moved = carry(&mut self.client, &mut self.server, self.now)
                | carry(&mut self.server, &mut self.client, self.now);
            if !moved
                && self.client.poll_timeout().is_none()
                && self.server.poll_timeout().is_none()
            {
                return;
            }
        }
        panic!("the pair does not become idle");
    }

    /// Opens a stream that the server has accepted.
    fn stream(&mut self) -> StreamId {
        let stream = self.client.open(Bytes::new());
        self.run_until_idle();
        while self.server.poll_event().is_some() {}
        stream
    }

    /// Drops everything that the mux sends now. Returns the number of bytes.
    fn drop_outgoing(mux: &mut Mux, now: Instant) -> usize {
        std::iter::from_fn(|| next_message(mux, now))
            .map(|message| message.len())
            .sum()
    }

    /// Establishes a new attachment whose candidates take over at once.
    fn attach(&mut self) {
        let (from_client, from_server) =
            (list(&mut self.client, ROOM), list(&mut self.server, ROOM));
        self.client.resume(self.now, LaneId::FIRST);
        self.client
            .handle_message(self.now, LaneId::FIRST, from_server)
            .unwrap();
        self.server.resume(self.now, LaneId::FIRST);
        self.server
            .handle_message(self.now, LaneId::FIRST, from_client)
            .unwrap();
    }
}

fn next_message(mux: &mut Mux, now: Instant) -> Option<Bytes> {
    let mut out = BytesMut::new();
    mux.poll_transmit(now, LaneId::FIRST, &mut out, 65536)
        .then(|| out.freeze())
}

fn carry(from: &mut Mux, to: &mut Mux, now: Instant) -> bool {
    let mut moved = false;
    while let Some(message) = next_message(from, now) {
        to.handle_message(now, LaneId::FIRST, message).unwrap();
        moved = true;
    }
    moved
}

fn read_all(mux: &mut Mux, now: Instant, stream: StreamId) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(StreamRead::Data(bytes)) = mux.read(stream) {
        mux.consume(now, stream, bytes.len());
        all.extend_from_slice(&bytes);
    }
    all
}

/// Encodes `frames` as one message.
fn message(frames: &[TunnelFrame]) -> Bytes {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out.freeze()
}

fn frames(mut message: Bytes) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| (!message.is_empty()).then(|| TunnelFrame::decode(&mut message).unwrap()))
        .collect()
}

/// Returns all frames that the mux sends now.
fn all_frames(mux: &mut Mux, now: Instant) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| next_message(mux, now))
        .flat_map(frames)
        .collect()
}

fn drain(mux: &mut Mux) -> Vec<MuxEvent> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}

fn list(mux: &mut Mux, room: usize) -> Bytes {
    let mut out = BytesMut::new();
    mux.write_resume(&mut out, room);
    out.freeze()
}
