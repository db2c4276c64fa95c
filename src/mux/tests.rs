//! What the mux promises, one promise a test, between two muxes without a network.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{
    load::{STREAM_RESERVE, STREAM_UNSENT_MAX, TUNNEL_UNSENT_MAX},
    stream::Stream,
    updates::ACK_DELAY,
    *,
};

pub const PARAMETERS: Parameters = Parameters {
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

/// A client and a server, and the time.
pub struct Pair {
    pub client: Mux,
    pub server: Mux,
    pub now: Instant,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(PARAMETERS)
    }

    pub fn with(parameters: Parameters) -> Self {
        let now = Instant::now();
        let grant = PeerGrant {
            stream_window: parameters.stream_window.initial,
            tunnel_window: parameters.tunnel_window.initial,
        };
        let mux = |side| Mux::new(side, parameters, grant, now);
        Pair {
            client: mux(Side::Client),
            server: mux(Side::Server),
            now,
        }
    }

    /// Carries everything both ways until nothing moves, and lets the delayed acknowledgements pass.
    pub fn settle(&mut self) {
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
        panic!("the pair does not come to rest");
    }

    /// A stream that the server knows too.
    pub fn stream(&mut self) -> StreamId {
        let stream = self.client.open(Bytes::new());
        self.settle();
        while self.server.poll_event().is_some() {}
        stream
    }
}

pub fn next_message(mux: &mut Mux, now: Instant) -> Option<Bytes> {
    let mut out = BytesMut::new();
    mux.poll_transmit(now, &mut out, 65536)
        .then(|| out.freeze())
}

pub fn carry(from: &mut Mux, to: &mut Mux, now: Instant) -> bool {
    let mut moved = false;
    while let Some(message) = next_message(from, now) {
        to.handle_message(now, message).unwrap();
        moved = true;
    }
    moved
}

pub fn read_all(mux: &mut Mux, now: Instant, stream: StreamId) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(Read::Data(bytes)) = mux.read(stream) {
        mux.consume(now, stream, bytes.len());
        all.extend_from_slice(&bytes);
    }
    all
}

#[test]
fn a_stream_and_its_first_bytes_and_its_end_travel_in_one_message() {
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
        Some(Event::Opened {
            stream,
            details: Bytes::from_static(b"{}")
        })
    );
    assert_eq!(
        pair.server.read(stream),
        Ok(Read::Data(Bytes::from_static(b"hello")))
    );
    assert_eq!(pair.server.read(stream), Ok(Read::End));
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.finish(stream);
    pair.settle();
    assert_eq!(pair.server.read(stream), Ok(Read::End));
    pair.server
        .write(stream, Bytes::from_static(b"answer"))
        .unwrap();
    pair.server.finish(stream);
    pair.settle();
    assert_eq!(read_all(&mut pair.client, pair.now, stream), b"answer");
    assert_eq!(pair.client.read(stream), Ok(Read::End));
    pair.client.release(pair.now, stream);
    pair.server.release(pair.now, stream);
    pair.settle();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn a_stream_that_has_ended_is_no_company_to_one_that_moves_much() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.write(stream, Bytes::from_static(b"k")).unwrap();
    pair.settle();
    assert!(pair.server.window.delivery().company().is_there(pair.now));
    pair.client.finish(stream);
    pair.settle();
    assert!(!pair.server.window.delivery().company().is_there(pair.now));
}

#[test]
fn a_reset_arrives_with_its_code_and_gives_the_window_back() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from(vec![7; 50_000]))
        .unwrap();
    pair.settle();
    assert_eq!(pair.server.held_bytes(), 50_000);
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    pair.client.release(pair.now, stream);
    pair.settle();
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
    pair.settle();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn a_reader_that_stalls_holds_nobody_else_up() {
    let mut pair = Pair::new();
    let stalled: Vec<_> = (0..10).map(|_| pair.stream()).collect();
    for &stream in &stalled {
        while let Ok(room @ 1..) = pair.client.write_room(stream) {
            pair.client
                .write(stream, Bytes::from(vec![1; room]))
                .unwrap();
            pair.settle();
        }
    }
    assert!(
        pair.server.held_bytes() >= 640 * 1024,
        "the floors, and loans"
    );
    let live = pair.stream();
    let mut moved = 0;
    for _ in 0..1000 {
        let room = pair.client.write_room(live).unwrap();
        pair.client.write(live, Bytes::from(vec![2; room])).unwrap();
        pair.settle();
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
fn a_window_grows_when_the_path_is_long_and_the_application_fast() {
    // A pool of which a share is as large as the largest window of a stream.
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
fn more_streams_than_permitted_are_reset_with_a_code() {
    let mut pair = Pair::with(Parameters {
        streams_max: 3,
        ..PARAMETERS
    });
    let streams: Vec<_> = (0..4).map(|_| pair.client.open(Bytes::new())).collect();
    pair.settle();
    assert_eq!(
        pair.client.read(streams[3]),
        Err(StreamError::Reset(ResetCode::Limit))
    );
    assert_eq!(pair.client.read(streams[2]), Ok(Read::Wait));
}

#[test]
fn frames_out_of_state_end_the_tunnel() {
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
fn a_stream_at_rest_costs_less_than_a_kibibyte() {
    assert!(size_of::<Stream>() < 400, "{}", size_of::<Stream>());
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

/// A message of `frames`.
pub fn message(frames: &[TunnelFrame]) -> Bytes {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out.freeze()
}

#[test]
fn pings_that_cannot_be_answered_yet_take_no_memory() {
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
        "the last one counts"
    );
    assert_eq!(next_message(&mut pair.server, pair.now), None);
}

#[test]
fn the_little_that_stalled_readers_leave_is_still_given_out() {
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
        pair.settle();
    }
    assert!(
        pair.server.held_bytes() >= 984 * 1024,
        "nearly as much as the tunnel may lend"
    );
    let mut moved = 0;
    for _ in 0..100 {
        let room = pair.client.write_room(live).unwrap();
        pair.client.write(live, Bytes::from(vec![2; room])).unwrap();
        pair.settle();
        moved += read_all(&mut pair.server, pair.now, live).len();
    }
    assert!(moved > 2 * 1024 * 1024, "{moved}");
}

#[test]
fn a_frame_of_a_stream_whose_opening_has_not_left_ends_the_tunnel() {
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
fn streams_opened_here_do_not_count_for_what_the_peer_may_open() {
    let mut pair = Pair::with(Parameters {
        streams_max: 2,
        ..PARAMETERS
    });
    let own = [0, 1].map(|_| pair.client.open(Bytes::new()));
    pair.settle();
    let opened: Vec<_> = (0..3).map(|_| pair.server.open(Bytes::new())).collect();
    pair.settle();
    assert_eq!(
        own.map(|stream| pair.client.read(stream)),
        [Ok(Read::Wait), Ok(Read::Wait)]
    );
    assert_eq!(pair.server.read(opened[1]), Ok(Read::Wait));
    assert_eq!(
        pair.server.read(opened[2]),
        Err(StreamError::Reset(ResetCode::Limit))
    );
    for stream in [opened[0], opened[2]] {
        pair.client.release(pair.now, stream);
        pair.server.release(pair.now, stream);
    }
    pair.settle();
    let next = pair.server.open(Bytes::new());
    pair.settle();
    assert_eq!(
        pair.server.read(next),
        Ok(Read::Wait),
        "one that is over makes room"
    );
}

#[test]
fn a_peer_that_opens_and_never_ends_what_is_refused_is_not_served() {
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
    assert_eq!(pair.server.poll_event(), None, "nothing was taken");
    assert!(
        pair.server
            .handle_message(pair.now, message(&[open(REFUSED_MIN as u64)]))
            .is_err()
    );
}

#[test]
fn a_reset_that_follows_a_fin_is_sent_even_when_the_fin_is_acknowledged_first() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.server.finish(stream);
    pair.settle();
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
    pair.settle();
    assert_eq!(
        pair.server.read(stream),
        Err(StreamError::Reset(ResetCode::Reset))
    );
    pair.server.release(pair.now, stream);
    pair.settle();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn a_peer_that_grants_much_and_acknowledges_nothing_does_not_fill_the_memory() {
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
        "{written} bytes are kept"
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
        Some(Event::Writable(streams[0])),
        "what is acknowledged makes room"
    );
}

#[test]
fn a_quarter_of_a_window_is_acknowledged_at_once() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from(vec![1; 16 * 1024]))
        .unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    carry(&mut pair.server, &mut pair.client, pair.now);
    assert_eq!(
        pair.client.load.kept, 0,
        "though the application has taken nothing, and no time has passed"
    );
}

#[test]
fn streams_share_a_message_and_one_that_sends_little_goes_first() {
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
    let quantum = schedule::QUANTUM as usize;
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
fn the_window_of_the_tunnel_binds_the_peer_too() {
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
fn bytes_that_repeat_what_has_come_are_skipped() {
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
    assert_eq!(pair.server.read(stream), Ok(Read::End));
}

#[test]
fn a_reset_is_answered_though_the_application_has_not_let_go() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    pair.client.release(pair.now, stream);
    pair.settle();
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
    pair.settle();
    assert_eq!(pair.server.held_bytes(), room as u64);
}

#[test]
fn a_direction_is_delivered_when_its_end_is_acknowledged_and_not_before() {
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
    assert_eq!(pair.client.poll_event(), Some(Event::Writable(stream)));
}

#[test]
fn what_is_unsent_is_bounded_and_a_small_write_never_waits_for_it() {
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
        pair.client.load.unsent <= most,
        "{}",
        pair.client.load.unsent
    );
    assert_eq!(pair.client.write_room(bulk[0]), Ok(0));
    let small = pair.client.open(Bytes::new());
    assert_eq!(pair.client.write_room(small), Ok(STREAM_RESERVE as usize));
    while next_message(&mut pair.client, pair.now).is_some() {}
    assert!(
        std::iter::from_fn(|| pair.client.poll_event())
            .any(|event| event == Event::Writable(bulk[0])),
        "what leaves makes room"
    );
}

#[test]
fn a_reset_wakes_who_waits_at_both_ends() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    assert_eq!(pair.client.read(stream), Ok(Read::Wait));
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    assert_eq!(pair.client.poll_event(), Some(Event::Readable(stream)));
    pair.settle();
    assert_eq!(
        pair.server.poll_event(),
        Some(Event::Reset(stream)),
        "nobody needs to wait for it"
    );
}
