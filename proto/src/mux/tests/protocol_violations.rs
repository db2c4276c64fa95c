//! Tests with a peer that violates the protocol: the result is an error, and nothing worse.

use bytes::Bytes;

use super::{PARAMETERS, Pair, all_frames, drain, message, next_message};
use crate::mux::*;

/// Returns the entry of a list for a stream.
fn listed(stream: u64, received: u64) -> TunnelFrame {
    TunnelFrame::Window {
        stream: StreamId(stream),
        received,
        limit: 0,
    }
}

/// Returns lists that break the protocol, and what is wrong with each.
fn invalid_lists() -> [(&'static str, Vec<TunnelFrame>); 12] {
    let resume = |seen, opened| TunnelFrame::Resume { seen, opened };
    let window = listed;
    let done = TunnelFrame::Resumed;
    let list = [resume(0, 1), done.clone()];
    [
        ("RESUMED without RESUME", vec![done.clone()]),
        (
            "a frame before the list",
            vec![TunnelFrame::Ping { token: 1 }],
        ),
        ("an update before the list", vec![window(0, 0)]),
        (
            "a frame in the list",
            vec![resume(2, 1), TunnelFrame::Pong { token: 1 }],
        ),
        ("seen beyond the opened streams", vec![resume(4, 1)]),
        ("the numbers of the wrong side", vec![resume(1, 2)]),
        (
            "a stream that was never opened here",
            vec![resume(2, 1), window(2, 0)],
        ),
        (
            "a stream that was never opened there",
            vec![resume(2, 3), window(3, 0)],
        ),
        (
            "an acknowledgement of data that was never sent",
            vec![resume(2, 1), window(0, 6)],
        ),
        (
            "a stream forgotten before its end",
            vec![resume(2, 1), done.clone()],
        ),
        (
            "a list three times",
            [&list[..], &list, &list[..1]].concat(),
        ),
        (
            "a list after other frames",
            vec![
                resume(0, 1),
                done.clone(),
                TunnelFrame::Ping { token: 1 },
                resume(2, 1),
                done,
            ],
        ),
    ]
}

#[test]
fn invalid_lists_are_protocol_errors() {
    for (name, frames) in invalid_lists() {
        let mut pair = Pair::with(PARAMETERS);
        let stream = pair.client.open(Bytes::new());
        pair.client
            .write(stream, Bytes::from_static(b"sent!"))
            .unwrap();
        Pair::drop_outgoing(&mut pair.client, pair.now);
        pair.client.resume(pair.now, LaneId::FIRST);
        let result = pair
            .client
            .handle_message(pair.now, LaneId::FIRST, message(&frames));
        assert!(
            matches!(result, Err(MuxError::Protocol(_))),
            "{name}: {result:?}"
        );
    }
}

#[test]
fn a_list_may_be_older_than_an_acknowledgement() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.write(stream, Bytes::from_static(b"x")).unwrap();
    pair.run_until_idle();
    pair.client.resume(pair.now, LaneId::FIRST);
    let unseen = [
        TunnelFrame::Resume { seen: 0, opened: 1 },
        TunnelFrame::Resumed,
    ];
    // The acknowledgement of a list on one lane may overtake the next list on another.
    for _ in 0..2 {
        let message = message(&unseen);
        let result = pair.client.handle_message(pair.now, LaneId::FIRST, message);
        assert_eq!(result, Ok(()));
    }
    assert_eq!(pair.client.streams(), 1);
}

/// Returns a random frame of a malicious peer. Its numbers are close to valid ones.
fn any_frame(rng: &mut fastrand::Rng) -> TunnelFrame {
    let stream = StreamId(rng.u64(0..6));
    let number = rng.u64(0..12);
    match rng.u32(0..24) {
        0 => TunnelFrame::Open {
            stream,
            window: number,
            details: Bytes::new(),
        },
        1..4 => TunnelFrame::Data {
            stream,
            offset: number / 2,
            bytes: Bytes::from_static(b"12345"),
        },
        4 => TunnelFrame::Fin {
            stream,
            final_offset: number,
        },
        5 => TunnelFrame::Reset {
            stream,
            final_offset: number,
            code: ResetCode::Reset,
        },
        6..11 => TunnelFrame::Window {
            stream,
            received: number,
            limit: number * 1000,
        },
        11 => TunnelFrame::TunnelWindow {
            limit: number * 30_000,
        },
        12 => TunnelFrame::Ping { token: number },
        13..18 => TunnelFrame::Resume {
            seen: number & !1,
            opened: stream.0 | 1,
        },
        18..23 => TunnelFrame::Resumed,
        _ => TunnelFrame::End {
            code: ResetCode::Cancelled,
        },
    }
}

/// Returns a random list of these streams, most of it wrong.
fn any_list(rng: &mut fastrand::Rng, streams: [StreamId; 3]) -> Vec<TunnelFrame> {
    let mut list = vec![TunnelFrame::Resume {
        seen: 2 * rng.u64(0..4),
        opened: 1 + 2 * rng.u64(0..2),
    }];
    let window = |stream| TunnelFrame::Window {
        stream,
        received: rng.u64(0..12),
        limit: 0,
    };
    list.extend(streams.map(window));
    list.truncate(rng.usize(1..5));
    list.push(TunnelFrame::Resumed);
    list
}

#[test]
fn malicious_acknowledgements_keep_the_ledgers_consistent() {
    let mut rng = fastrand::Rng::with_seed(10);
    let mut resumed = 0;
    for _ in 0..20_000 {
        let mut pair = Pair::new();
        let streams = [0; 3].map(|_| pair.stream());
        pair.server.open(Bytes::new());
        for _ in 0..12 {
            let stream = streams[rng.usize(0..3)];
            let _ = pair.client.write(stream, Bytes::from_static(b"bytes"));
            let mut malice = Vec::new();
            match rng.u32(0..12) {
                0 => pair.client.finish(stream),
                1 => pair.client.reset(pair.now, stream, ResetCode::Reset),
                2 => pair.client.release(pair.now, stream),
                3..6 => drop(all_frames(&mut pair.client, pair.now)),
                6..9 => {
                    pair.client.resume(pair.now, LaneId::FIRST);
                    malice = any_list(&mut rng, streams);
                }
                _ => {}
            }
            malice.extend((0..rng.usize(0..3)).map(|_| any_frame(&mut rng)));
            if pair
                .client
                .handle_message(pair.now, LaneId::FIRST, message(&malice))
                .is_err()
            {
                break;
            }
            resumed += drain(&mut pair.client)
                .iter()
                .filter(|event| matches!(event, MuxEvent::Resumed { .. }))
                .count();
            assert!(
                pair.client.streams() <= 100
                    && pair.client.held_bytes() <= PARAMETERS.tunnel_window.max
            );
        }
    }
    assert!(resumed > 200, "{resumed}");
}

/// Returns an OPEN.
fn open_with_details(stream: u64, details: Vec<u8>) -> TunnelFrame {
    TunnelFrame::Open {
        stream: StreamId(stream),
        window: 10,
        details: details.into(),
    }
}

/// Returns frames that break the protocol in their state, and what is wrong with each.
fn out_of_state_frames() -> [(&'static str, Vec<TunnelFrame>); 13] {
    let open = |stream| open_with_details(stream, Vec::new());
    let data = |offset, length| TunnelFrame::Data {
        stream: StreamId(0),
        offset,
        bytes: vec![0; length].into(),
    };
    let fin = |final_offset| TunnelFrame::Fin {
        stream: StreamId(0),
        final_offset,
    };
    let reset = TunnelFrame::Reset {
        stream: StreamId(0),
        final_offset: 1 << 40,
        code: ResetCode::Reset,
    };
    let details = open_with_details(0, vec![b' '; 4097]);
    [
        ("details that are too long", vec![details]),
        ("data without a byte", vec![open(0), data(0, 0)]),
        ("a stream that skips very many numbers", vec![open(1 << 40)]),
        ("a stream of the wrong side", vec![open(1)]),
        ("data of a stream that was never opened", vec![data(0, 1)]),
        (
            "data beyond an end that waits for it",
            vec![open(0), fin(1), data(1, 1)],
        ),
        ("data after the end", vec![open(0), fin(0), data(0, 1)]),
        ("a second end", vec![open(0), fin(6), fin(7)]),
        (
            "an end before data that follows a gap",
            vec![open(0), data(5, 5), fin(7)],
        ),
        ("an end before the data", vec![open(0), data(0, 5), fin(4)]),
        (
            "more than the window",
            vec![open(0), data(0, 60_000), data(60_000, 6_000)],
        ),
        ("a reset beyond the window", vec![open(0), reset]),
        (
            "an acknowledgement of what was not sent",
            vec![open(0), listed(0, 1)],
        ),
    ]
}

#[test]
fn out_of_state_frames_are_protocol_errors() {
    for (name, frames) in out_of_state_frames() {
        let mut pair = Pair::new();
        assert!(
            pair.server
                .handle_message(pair.now, LaneId::FIRST, message(&frames))
                .is_err(),
            "{name}"
        );
    }
}

#[test]
fn arbitrary_messages_never_panic() {
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        let mut pair = Pair::new();
        pair.stream();
        for _ in 0..4 {
            let message: Bytes = (0..rng.usize(1..60)).map(|_| rng.u8(0..12)).collect();
            if pair
                .server
                .handle_message(pair.now, LaneId::FIRST, message)
                .is_err()
            {
                break;
            }
            next_message(&mut pair.server, pair.now);
        }
    }
}

#[test]
fn unanswered_pings_take_no_memory() {
    let mut pair = Pair::new();
    let pings: Vec<_> = (0..10_000)
        .map(|token| TunnelFrame::Ping { token })
        .collect();
    pair.server
        .handle_message(pair.now, LaneId::FIRST, message(&pings))
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
            .handle_message(pair.now, LaneId::FIRST, message(&[data]))
            .is_err()
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
        .handle_message(pair.now, LaneId::FIRST, message(&opens))
        .unwrap();
    assert_eq!(pair.server.poll_event(), None, "no stream was accepted");
    assert!(
        pair.server
            .handle_message(
                pair.now,
                LaneId::FIRST,
                message(&[open(REFUSED_MIN as u64)])
            )
            .is_err()
    );
}
