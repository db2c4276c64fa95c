//! Tests of streams: opening, data, ends, resets and the limit of their number.

use bytes::Bytes;

use super::{PARAMETERS, Pair, carry, message, next_message, read_all};
use crate::mux::{ack_queue::ACK_DELAY, stream::StreamState, *};

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
    pair.server
        .handle_message(pair.now, LaneId::FIRST, message)
        .unwrap();
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
fn idle_stream_takes_less_than_400_bytes() {
    assert!(
        size_of::<StreamState>() < 400,
        "{}",
        size_of::<StreamState>()
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
    pair.server.handle_timeout(pair.now).unwrap();
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
        .handle_message(pair.now, LaneId::FIRST, message(&frames))
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
            .handle_message(pair.now, LaneId::FIRST, message(&[window]))
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
