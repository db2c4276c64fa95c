//! Tests of the credit: what a stream and the tunnel may send, hold and retain.

use std::time::Duration;

use bytes::Bytes;

use super::{PARAMETERS, Pair, carry, message, next_message, read_all};
use crate::mux::{
    send_totals::{STREAM_RESERVE, STREAM_UNSENT_MAX, TUNNEL_UNSENT_MAX},
    *,
};

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
        answers.into_iter().for_each(|answer| {
            pair.client
                .handle_message(pair.now, LaneId::FIRST, answer)
                .unwrap()
        });
    }
    assert!(most > 900 * 1024, "{most}");
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
        let result =
            pair.server
                .handle_message(pair.now, LaneId::FIRST, message(&[open.clone(), frame]));
        assert!(
            matches!(result, Err(MuxError::FlowControl(_))),
            "{result:?}"
        );
    }
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
        .handle_message(pair.now, LaneId::FIRST, message(&frames))
        .unwrap();
    assert_eq!(pair.client.write_room(stream), Ok(room));
    pair.client
        .write(stream, Bytes::from(vec![1; room]))
        .unwrap();
    pair.run_until_idle();
    assert_eq!(pair.server.held_bytes(), room as u64);
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
        .handle_message(pair.now, LaneId::FIRST, message(&frames))
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
        .handle_message(pair.now, LaneId::FIRST, message(&[received]))
        .unwrap();
    assert_eq!(
        pair.client.poll_event(),
        Some(MuxEvent::Writable(streams[0])),
        "an acknowledgement makes room"
    );
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
