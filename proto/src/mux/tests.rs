//! Tests of the multiplexer's contract: two muxes without a network, one property per test.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{
    ack_queue::ACK_DELAY,
    send_totals::{STREAM_RESERVE, STREAM_UNSENT_MAX, TUNNEL_UNSENT_MAX},
    stream::StreamState,
    *,
};

pub(super) const PARAMETERS: Parameters = Parameters {
    stream_window: WindowSize {
        initial: 64 * 1024,
        max: 1024 * 1024,
    },
    tunnel_window: WindowSize {
        initial: 256 * 1024,
        max: 1024 * 1024,
    },
    streams_max: 100,
};

/// A client, a server, and virtual time.
pub(super) struct Pair {
    pub client: Mux,
    pub server: Mux,
    pub now: Instant,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(PARAMETERS)
    }

    pub(super) fn with(parameters: Parameters) -> Self {
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
    pub(super) fn run_until_idle(&mut self) {
        for _ in 0..1000 {
            self.now += Duration::from_millis(10);
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
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
    pub(super) fn stream(&mut self) -> StreamId {
        let stream = self.client.open(Bytes::new());
        self.run_until_idle();
        while self.server.poll_event().is_some() {}
        stream
    }
}

pub(super) fn next_message(mux: &mut Mux, now: Instant) -> Option<Bytes> {
    let mut out = BytesMut::new();
    mux.poll_transmit(now, &mut out, 65536)
        .then(|| out.freeze())
}

pub(super) fn carry(from: &mut Mux, to: &mut Mux, now: Instant) -> bool {
    let mut moved = false;
    while let Some(message) = next_message(from, now) {
        to.handle_message(now, message).unwrap();
        moved = true;
    }
    moved
}

pub(super) fn read_all(mux: &mut Mux, now: Instant, stream: StreamId) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(StreamRead::Data(bytes)) = mux.read(stream) {
        mux.consume(now, stream, bytes.len());
        all.extend_from_slice(&bytes);
    }
    all
}

#[test]
fn open_data_and_fin_share_one_message() {
    let mut pair = Pair::new();
    let stream = pair.client.open(Bytes::from_static(b"{}"));
    pair.client
        .write(stream, Bytes::from_static(b"hello"))
        .unwrap();
    pair.client.finish(stream);
    let message = next_message(&mut pair.client, pair.now).unwrap();
    assert_eq!(next_message(&mut pair.client, pair.now), None);
    pair.server.handle_message(pair.now, message).unwrap();
    assert_eq!(
        pair.server.poll_event(),
        Some(MuxEvent::Opened {
            stream,
            details: Bytes::from_static(b"{}")
        })
    );
    assert_eq!(
        pair.server.read(stream),
        Ok(StreamRead::Data(Bytes::from_static(b"hello")))
    );
    assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.finish(stream);
    pair.run_until_idle();
    assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
    pair.server
        .write(stream, Bytes::from_static(b"answer"))
        .unwrap();
    pair.server.finish(stream);
    pair.run_until_idle();
    assert_eq!(read_all(&mut pair.client, pair.now, stream), b"answer");
    assert_eq!(pair.client.read(stream), Ok(StreamRead::End));
    pair.client.release(pair.now, stream);
    pair.server.release(pair.now, stream);
    pair.run_until_idle();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn ended_stream_is_not_interactive() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.write(stream, Bytes::from_static(b"k")).unwrap();
    pair.run_until_idle();
    assert!(
        pair.server
            .window
            .bandwidth()
            .interactive()
            .is_active(pair.now)
    );
    pair.client.finish(stream);
    pair.run_until_idle();
    assert!(
        !pair
            .server
            .window
            .bandwidth()
            .interactive()
            .is_active(pair.now)
    );
}

#[test]
fn reset_carries_its_code_and_returns_the_window() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from(vec![7; 50_000]))
        .unwrap();
    pair.run_until_idle();
    assert_eq!(pair.server.held_bytes(), 50_000);
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    pair.client.release(pair.now, stream);
    pair.run_until_idle();
    assert_eq!(
        pair.server.read(stream),
        Err(StreamError::Reset(ResetCode::Reset))
    );
    assert_eq!(
        pair.server.write_room(stream),
        Err(StreamError::Reset(ResetCode::Reset))
    );
    assert_eq!(pair.server.held_bytes(), 0);
    pair.server.release(pair.now, stream);
    pair.run_until_idle();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn stalled_readers_do_not_block_other_streams() {
    let mut pair = Pair::new();
    let stalled: Vec<_> = (0..10).map(|_| pair.stream()).collect();
    for &stream in &stalled {
        while let Ok(room @ 1..) = pair.client.write_room(stream) {
            pair.client
                .write(stream, Bytes::from(vec![1; room]))
                .unwrap();
            pair.run_until_idle();
        }
    }
    assert!(
        pair.server.held_bytes() >= 640 * 1024,
        "the floors plus loans"
    );
    let live = pair.stream();
    let mut moved = 0;
    for _ in 0..1000 {
        let room = pair.client.write_room(live).unwrap();
        pair.client.write(live, Bytes::from(vec![2; room])).unwrap();
        pair.run_until_idle();
        moved += read_all(&mut pair.server, pair.now, live).len();
    }
    assert!(moved > 50 * 1024 * 1024, "{moved}");
    assert!(
        stalled
            .iter()
            .all(|&stream| pair.client.write_room(stream) == Ok(0))
    );
}

#[test]
fn window_grows_on_a_long_path_with_a_fast_application() {
    // A share of this pool is as large as the largest window of a stream.
    let tunnel_window = WindowSize {
        initial: 256 * 1024,
        max: 32 * 1024 * 1024,
    };
    let mut pair = Pair::with(Parameters {
        tunnel_window,
        ..PARAMETERS
    });
    let stream = pair.stream();
    let mut most = 0;
    for _ in 0..200 {
        let mut in_flight = 0;
        carry(
            &mut pair.client,
            &mut pair.server,
            pair.now + Duration::from_millis(50),
        );
        while let Ok(room @ 1..) = pair.client.write_room(stream) {
            pair.client
                .write(stream, Bytes::from(vec![3; room]))
                .unwrap();
            in_flight += room;
            carry(
                &mut pair.client,
                &mut pair.server,
                pair.now + Duration::from_millis(50),
            );
        }
        most = most.max(in_flight);
        pair.now += Duration::from_millis(50);
        read_all(&mut pair.server, pair.now, stream);
        let answers: Vec<_> =
            std::iter::from_fn(|| next_message(&mut pair.server, pair.now)).collect();
        pair.now += Duration::from_millis(50);
        answers
            .into_iter()
            .for_each(|answer| pair.client.handle_message(pair.now, answer).unwrap());
    }
    assert!(most > 900 * 1024, "{most}");
}

#[test]
fn streams_beyond_the_limit_are_reset() {
    let mut pair = Pair::with(Parameters {
        streams_max: 3,
        ..PARAMETERS
    });
    let streams: Vec<_> = (0..4).map(|_| pair.client.open(Bytes::new())).collect();
    pair.run_until_idle();
    assert_eq!(
        pair.client.read(streams[3]),
        Err(StreamError::Reset(ResetCode::Limit))
    );
    assert_eq!(pair.client.read(streams[2]), Ok(StreamRead::Wait));
}

#[test]
fn out_of_state_frames_are_protocol_errors() {
    let open = |stream| TunnelFrame::Open {
        stream: StreamId(stream),
        window: 10,
        details: Bytes::new(),
    };
    let data = |offset, length| TunnelFrame::Data {
        stream: StreamId(0),
        offset,
        bytes: vec![0; length].into(),
    };
    let fin = |final_offset| TunnelFrame::Fin {
        stream: StreamId(0),
        final_offset,
    };
    let window = |received| TunnelFrame::Window {
        stream: StreamId(0),
        received,
        limit: 0,
    };
    let reset = TunnelFrame::Reset {
        stream: StreamId(0),
        final_offset: 1 << 40,
        code: ResetCode::Reset,
    };
    let details = TunnelFrame::Open {
        stream: StreamId(0),
        window: 10,
        details: vec![b' '; 4097].into(),
    };
    let cases: [(&str, Vec<TunnelFrame>); 13] = [
        ("details that are too long", vec![details]),
        ("data without a byte", vec![open(0), data(0, 0)]),
        ("a stream that skips a number", vec![open(2)]),
        ("a stream of the wrong side", vec![open(1)]),
        ("the same stream twice", vec![open(0), open(0)]),
        ("data of a stream that was never opened", vec![data(0, 1)]),
        ("data that leaves a gap", vec![open(0), data(1, 1)]),
        ("data after the end", vec![open(0), fin(0), data(0, 1)]),
        ("an end beyond the data", vec![open(0), data(0, 5), fin(6)]),
        ("an end before the data", vec![open(0), data(0, 5), fin(4)]),
        (
            "more than the window",
            vec![open(0), data(0, 60_000), data(60_000, 6_000)],
        ),
        ("a reset beyond the window", vec![open(0), reset]),
        (
            "an acknowledgement of what was not sent",
            vec![open(0), window(1)],
        ),
    ];
    for (name, frames) in cases {
        let mut pair = Pair::new();
        assert!(
            pair.server
                .handle_message(pair.now, message(&frames))
                .is_err(),
            "{name}"
        );
    }
}

#[test]
fn idle_stream_takes_less_than_400_bytes() {
    assert!(
        size_of::<StreamState>() < 400,
        "{}",
        size_of::<StreamState>()
    );
}

#[test]
fn arbitrary_messages_never_panic() {
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        let mut pair = Pair::new();
        pair.stream();
        for _ in 0..4 {
            let message: Bytes = (0..rng.usize(1..60)).map(|_| rng.u8(0..12)).collect();
            if pair.server.handle_message(pair.now, message).is_err() {
                break;
            }
            next_message(&mut pair.server, pair.now);
        }
    }
}

/// Encodes `frames` as one message.
pub(super) fn message(frames: &[TunnelFrame]) -> Bytes {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out.freeze()
}

#[test]
fn unanswered_pings_take_no_memory() {
    let mut pair = Pair::new();
    let pings: Vec<_> = (0..10_000)
        .map(|token| TunnelFrame::Ping { token })
        .collect();
    pair.server
        .handle_message(pair.now, message(&pings))
        .unwrap();
    let answer = next_message(&mut pair.server, pair.now).unwrap();
    assert_eq!(
        answer,
        message(&[TunnelFrame::Pong { token: 9_999 }]),
        "only the last PING is answered"
    );
    assert_eq!(next_message(&mut pair.server, pair.now), None);
}

#[test]
fn credit_left_by_stalled_readers_is_granted() {
    let tunnel_window = WindowSize {
        initial: 256 * 1024,
        max: 1024 * 1024,
    };
    let stream_window = WindowSize {
        initial: 984 * 1024,
        max: 1024 * 1024,
    };
    let mut pair = Pair::with(Parameters {
        stream_window,
        tunnel_window,
        ..PARAMETERS
    });
    let (stalled, live) = (pair.stream(), pair.stream());
    while let Ok(room @ 1..) = pair.client.write_room(stalled) {
        pair.client
            .write(stalled, Bytes::from(vec![1; room]))
            .unwrap();
        pair.run_until_idle();
    }
    assert!(
        pair.server.held_bytes() >= 984 * 1024,
        "almost the whole pool"
    );
    let mut moved = 0;
    for _ in 0..100 {
        let room = pair.client.write_room(live).unwrap();
        pair.client.write(live, Bytes::from(vec![2; room])).unwrap();
        pair.run_until_idle();
        moved += read_all(&mut pair.server, pair.now, live).len();
    }
    assert!(moved > 2 * 1024 * 1024, "{moved}");
}

#[test]
fn frame_for_a_stream_with_unsent_open_is_a_protocol_error() {
    let mut pair = Pair::new();
    let stream = pair.client.open(Bytes::new());
    let data = TunnelFrame::Data {
        stream,
        offset: 0,
        bytes: Bytes::from_static(b"early"),
    };
    assert!(
        pair.client
            .handle_message(pair.now, message(&[data]))
            .is_err()
    );
}

#[test]
fn local_streams_do_not_count_toward_the_peer_limit() {
    let mut pair = Pair::with(Parameters {
        streams_max: 2,
        ..PARAMETERS
    });
    let own = [0, 1].map(|_| pair.client.open(Bytes::new()));
    pair.run_until_idle();
    let opened: Vec<_> = (0..3).map(|_| pair.server.open(Bytes::new())).collect();
    pair.run_until_idle();
    assert_eq!(
        own.map(|stream| pair.client.read(stream)),
        [Ok(StreamRead::Wait), Ok(StreamRead::Wait)]
    );
    assert_eq!(pair.server.read(opened[1]), Ok(StreamRead::Wait));
    assert_eq!(
        pair.server.read(opened[2]),
        Err(StreamError::Reset(ResetCode::Limit))
    );
    for stream in [opened[0], opened[2]] {
        pair.client.release(pair.now, stream);
        pair.server.release(pair.now, stream);
    }
    pair.run_until_idle();
    let next = pair.server.open(Bytes::new());
    pair.run_until_idle();
    assert_eq!(
        pair.server.read(next),
        Ok(StreamRead::Wait),
        "a completed stream frees a place"
    );
}

#[test]
fn peer_that_never_ends_refused_streams_breaks_the_protocol() {
    let mut pair = Pair::with(Parameters {
        streams_max: 0,
        ..PARAMETERS
    });
    let open = |stream: u64| TunnelFrame::Open {
        stream: StreamId(stream * 2),
        window: 10,
        details: Bytes::new(),
    };
    let opens: Vec<_> = (0..REFUSED_MIN as u64).map(open).collect();
    pair.server
        .handle_message(pair.now, message(&opens))
        .unwrap();
    assert_eq!(pair.server.poll_event(), None, "no stream was accepted");
    assert!(
        pair.server
            .handle_message(pair.now, message(&[open(REFUSED_MIN as u64)]))
            .is_err()
    );
}

#[test]
fn reset_after_fin_is_sent_even_if_the_fin_is_acknowledged_first() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.server.finish(stream);
    pair.run_until_idle();
    pair.client
        .write(stream, Bytes::from_static(b"unread"))
        .unwrap();
    pair.client.finish(stream);
    carry(&mut pair.client, &mut pair.server, pair.now);
    pair.now += ACK_DELAY;
    pair.server.handle_timeout(pair.now);
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    pair.client.release(pair.now, stream);
    carry(&mut pair.server, &mut pair.client, pair.now);
    pair.run_until_idle();
    assert_eq!(
        pair.server.read(stream),
        Err(StreamError::Reset(ResetCode::Reset))
    );
    pair.server.release(pair.now, stream);
    pair.run_until_idle();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn retained_data_is_bounded_without_acknowledgements() {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..10).map(|_| pair.stream()).collect();
    let limit = 1 << 40;
    let mut frames: Vec<_> = streams
        .iter()
        .map(|&stream| TunnelFrame::Window {
            stream,
            received: 0,
            limit,
        })
        .collect();
    frames.push(TunnelFrame::TunnelWindow { limit });
    pair.client
        .handle_message(pair.now, message(&frames))
        .unwrap();
    let mut written = 0;
    for _ in 0..100 {
        for &stream in &streams {
            let room = pair.client.write_room(stream).unwrap();
            pair.client
                .write(stream, Bytes::from(vec![1; room]))
                .unwrap();
            written += room as u64;
        }
        while next_message(&mut pair.client, pair.now).is_some() {}
    }
    let most = PARAMETERS.tunnel_window.max + STREAM_UNSENT_MAX + 10 * STREAM_RESERVE;
    assert!(
        (PARAMETERS.tunnel_window.max..=most).contains(&written),
        "{written} bytes are retained"
    );
    let received = TunnelFrame::Window {
        stream: streams[0],
        received: STREAM_UNSENT_MAX,
        limit,
    };
    pair.client
        .handle_message(pair.now, message(&[received]))
        .unwrap();
    assert_eq!(
        pair.client.poll_event(),
        Some(MuxEvent::Writable(streams[0])),
        "an acknowledgement makes room"
    );
}

#[test]
fn quarter_of_a_window_is_acknowledged_immediately() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from(vec![1; 16 * 1024]))
        .unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    carry(&mut pair.server, &mut pair.client, pair.now);
    assert_eq!(
        pair.client.send_totals.retained, 0,
        "although the application read nothing and no time passed"
    );
}

#[test]
fn streams_share_a_message_and_a_new_stream_goes_first() {
    let mut pair = Pair::new();
    let bulk = [pair.stream(), pair.stream()];
    for stream in bulk {
        pair.client
            .write(stream, Bytes::from(vec![1; 64 * 1024]))
            .unwrap();
    }
    let shares = |mut message: Bytes| {
        let mut order = Vec::new();
        while !message.is_empty() {
            if let TunnelFrame::Data { stream, bytes, .. } =
                TunnelFrame::decode(&mut message).unwrap()
            {
                order.push((stream, bytes.len()));
            }
        }
        order
    };
    let first = shares(next_message(&mut pair.client, pair.now).unwrap());
    let quantum = send_totals::QUANTUM as usize;
    assert_eq!(
        first[..3],
        [(bulk[0], quantum), (bulk[1], quantum), (bulk[0], quantum)]
    );
    let little = pair.client.open(Bytes::new());
    pair.client.write(little, Bytes::from_static(b"k")).unwrap();
    assert_eq!(
        shares(next_message(&mut pair.client, pair.now).unwrap())[0],
        (little, 1)
    );
}

#[test]
fn tunnel_window_limits_the_peer() {
    let stream_window = WindowSize {
        initial: 1024 * 1024,
        max: 1024 * 1024,
    };
    let open = TunnelFrame::Open {
        stream: StreamId(0),
        window: 10,
        details: Bytes::new(),
    };
    let length = PARAMETERS.tunnel_window.initial + 1;
    let data = TunnelFrame::Data {
        stream: StreamId(0),
        offset: 0,
        bytes: vec![0; length as usize].into(),
    };
    let reset = TunnelFrame::Reset {
        stream: StreamId(0),
        final_offset: length,
        code: ResetCode::Reset,
    };
    for frame in [data, reset] {
        let mut pair = Pair::with(Parameters {
            stream_window,
            ..PARAMETERS
        });
        let result = pair
            .server
            .handle_message(pair.now, message(&[open.clone(), frame]));
        assert!(
            matches!(result, Err(MuxError::FlowControl(_))),
            "{result:?}"
        );
    }
}

#[test]
fn repeated_bytes_are_skipped() {
    let mut pair = Pair::new();
    let stream = StreamId(0);
    let open = TunnelFrame::Open {
        stream,
        window: 10,
        details: Bytes::new(),
    };
    let data = |offset, text: &'static str| TunnelFrame::Data {
        stream,
        offset,
        bytes: Bytes::from_static(text.as_bytes()),
    };
    let fin = TunnelFrame::Fin {
        stream,
        final_offset: 7,
    };
    let frames = [
        open,
        data(0, "abcd"),
        data(0, "ab"),
        data(2, "cdefg"),
        fin.clone(),
        data(3, "de"),
        fin,
    ];
    pair.server
        .handle_message(pair.now, message(&frames))
        .unwrap();
    assert_eq!(read_all(&mut pair.server, pair.now, stream), b"abcdefg");
    assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
}

#[test]
fn reset_is_answered_before_the_application_releases_the_stream() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    pair.client.release(pair.now, stream);
    pair.run_until_idle();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 1));
}

#[test]
fn credit_never_shrinks() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    let room = pair.client.write_room(stream).unwrap();
    let frames = [
        TunnelFrame::Window {
            stream,
            received: 0,
            limit: 1,
        },
        TunnelFrame::TunnelWindow { limit: 1 },
    ];
    pair.client
        .handle_message(pair.now, message(&frames))
        .unwrap();
    assert_eq!(pair.client.write_room(stream), Ok(room));
    pair.client
        .write(stream, Bytes::from(vec![1; room]))
        .unwrap();
    pair.run_until_idle();
    assert_eq!(pair.server.held_bytes(), room as u64);
}

#[test]
fn direction_is_delivered_only_after_its_end_is_acknowledged() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from_static(b"all"))
        .unwrap();
    pair.client.finish(stream);
    while next_message(&mut pair.client, pair.now).is_some() {}
    for (received, delivered) in [(2, false), (3, false), (4, true)] {
        assert_eq!(pair.client.is_delivered(stream), Ok(false));
        let window = TunnelFrame::Window {
            stream,
            received,
            limit: 0,
        };
        pair.client
            .handle_message(pair.now, message(&[window]))
            .unwrap();
        assert_eq!(
            pair.client.is_delivered(stream),
            Ok(delivered),
            "{received}"
        );
    }
    assert_eq!(pair.client.poll_event(), Some(MuxEvent::Writable(stream)));
}

#[test]
fn unsent_data_is_bounded_and_never_blocks_a_small_write() {
    let window = WindowSize {
        initial: 16 * 1024 * 1024,
        max: 16 * 1024 * 1024,
    };
    let mut pair = Pair::with(Parameters {
        stream_window: window,
        tunnel_window: window,
        ..PARAMETERS
    });
    let bulk: Vec<_> = (0..40).map(|_| pair.stream()).collect();
    for _ in 0..3 {
        for &stream in &bulk {
            let room = pair.client.write_room(stream).unwrap();
            pair.client
                .write(stream, Bytes::from(vec![1; room]))
                .unwrap();
        }
    }
    let most = TUNNEL_UNSENT_MAX + 40 * STREAM_RESERVE;
    assert!(
        pair.client.send_totals.unsent <= most,
        "{}",
        pair.client.send_totals.unsent
    );
    assert_eq!(pair.client.write_room(bulk[0]), Ok(0));
    let small = pair.client.open(Bytes::new());
    assert_eq!(pair.client.write_room(small), Ok(STREAM_RESERVE as usize));
    while next_message(&mut pair.client, pair.now).is_some() {}
    assert!(
        std::iter::from_fn(|| pair.client.poll_event())
            .any(|event| event == MuxEvent::Writable(bulk[0])),
        "sent data makes room"
    );
}

#[test]
fn reset_wakes_waiting_applications_at_both_ends() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    assert_eq!(pair.client.read(stream), Ok(StreamRead::Wait));
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    assert_eq!(pair.client.poll_event(), Some(MuxEvent::Readable(stream)));
    pair.run_until_idle();
    assert_eq!(
        pair.server.poll_event(),
        Some(MuxEvent::Reset(stream)),
        "reported even without a waiting application"
    );
}
