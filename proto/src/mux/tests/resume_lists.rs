//! Tests of the lists of received data that begin an attachment.

use bytes::{Bytes, BytesMut};

use super::{
    PARAMETERS, Pair, ROOM, all_frames, carry, drain, frames, list, next_message, read_all,
};
use crate::mux::{ack_queue::ACK_DELAY_LITTLE, frame::FRAME_MAX, *};

#[test]
fn list_is_repeated_only_if_it_is_outdated() {
    for (stale, sent_again) in [(false, false), (true, true)] {
        let mut pair = Pair::new();
        let stream = pair.stream();
        let from_server = list(&mut pair.server, ROOM);
        if stale {
            pair.client
                .write(stream, Bytes::from_static(b"late"))
                .unwrap();
            carry(&mut pair.client, &mut pair.server, pair.now);
        }
        pair.client.resume(pair.now, LaneId::FIRST);
        pair.client
            .handle_message(pair.now, LaneId::FIRST, from_server)
            .unwrap();
        pair.server.resume(pair.now, LaneId::FIRST);
        let first = next_message(&mut pair.server, pair.now)
            .map(frames)
            .unwrap_or_default();
        assert_eq!(
            matches!(
                first[..],
                [TunnelFrame::Resume { .. }, .., TunnelFrame::Resumed]
            ),
            sent_again,
            "{first:?}"
        );
    }
}

#[test]
fn list_of_another_candidate_does_not_count() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    list(&mut pair.server, ROOM);
    list(&mut pair.server, ROOM);
    pair.server.resume(pair.now, LaneId::FIRST);
    let from_client = list(&mut pair.client, ROOM);
    pair.server
        .handle_message(pair.now, LaneId::FIRST, from_client)
        .unwrap();
    assert_eq!(
        all_frames(&mut pair.server, pair.now),
        [],
        "both lists are current"
    );
    list(&mut pair.server, ROOM);
    pair.server.resume(pair.now, LaneId::FIRST);
    let first = next_message(&mut pair.server, pair.now)
        .map(frames)
        .unwrap();
    assert!(
        matches!(first[0], TunnelFrame::Resume { .. }),
        "the second of {stream:?} may be the one: {first:?}"
    );
    pair.server.drop_candidates();
    list(&mut pair.server, ROOM);
    pair.server.resume(pair.now, LaneId::FIRST);
    assert_eq!(
        all_frames(&mut pair.server, pair.now),
        [],
        "only the last candidate remains"
    );
}

#[test]
fn late_list_repeats_the_end_at_most_once() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    let late = list(&mut pair.server, ROOM);
    pair.client
        .write(stream, Bytes::from_static(b"came"))
        .unwrap();
    pair.client.finish(stream);
    carry(&mut pair.client, &mut pair.server, pair.now);
    assert_eq!(pair.client.is_delivered(stream), Ok(false));
    pair.client.resume(pair.now, LaneId::FIRST);
    pair.client
        .handle_message(pair.now, LaneId::FIRST, late)
        .unwrap();
    pair.server.resume(pair.now, LaneId::FIRST);
    let second = next_message(&mut pair.server, pair.now).unwrap();
    pair.client
        .handle_message(pair.now, LaneId::FIRST, second)
        .unwrap();
    assert!(drain(&mut pair.client).contains(&MuxEvent::Writable(stream)));
    assert_eq!(pair.client.is_delivered(stream), Ok(true));
    let repeated =
        |frame: &TunnelFrame| matches!(frame, TunnelFrame::Data { .. } | TunnelFrame::Fin { .. });
    assert!(!all_frames(&mut pair.client, pair.now).iter().any(repeated));
}

#[test]
fn long_list_takes_several_messages_and_precedes_everything() {
    let mut pair = Pair::with(Parameters {
        streams_max: 3000,
        ..PARAMETERS
    });
    let streams: Vec<_> = (0..2000).map(|_| pair.client.open(Bytes::new())).collect();
    pair.run_until_idle();
    let part = list(&mut pair.server, 4096);
    assert!(part.len() <= 4096 && !frames(part.clone()).contains(&TunnelFrame::Resumed));
    let from_client = list(&mut pair.client, ROOM);
    pair.server
        .write(streams[0], Bytes::from_static(b"after it"))
        .unwrap();
    pair.server.resume(pair.now, LaneId::FIRST);
    pair.server
        .handle_message(pair.now, LaneId::FIRST, from_client)
        .unwrap();
    let mut named = 0;
    loop {
        let mut out = BytesMut::new();
        assert!(
            pair.server
                .poll_transmit(pair.now, LaneId::FIRST, &mut out, 4096)
                && out.len() <= 4096
        );
        let part = frames(out.freeze());
        named += part
            .iter()
            .filter(|frame| matches!(frame, TunnelFrame::Window { .. }))
            .count();
        let data = part
            .iter()
            .position(|frame| matches!(frame, TunnelFrame::Data { .. }));
        match part.iter().position(|frame| *frame == TunnelFrame::Resumed) {
            Some(end) => break assert!(data.is_none_or(|data| data > end)),
            None => assert_eq!(data, None),
        }
    }
    assert_eq!(named, 2000);
}

#[test]
fn candidate_list_does_not_change_the_state() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from(vec![1; 20_000]))
        .unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    read_all(&mut pair.server, pair.now, stream);
    let state = |mux: &Mux| format!("{:?} {:?} {:?}", mux.streams, mux.window, mux.ack_queue);
    let before = state(&pair.server);
    let first = list(&mut pair.server, ROOM);
    assert_eq!(
        (state(&pair.server), list(&mut pair.server, ROOM)),
        (before, first)
    );
}

#[test]
fn detached_mux_passes_deadlines_once_and_bounds_its_queues() {
    let mut pair = Pair::new();
    let [stream, ..] = [0; 3].map(|_| pair.stream());
    for round in 0..100 {
        pair.client
            .write(stream, Bytes::from_static(b"more"))
            .unwrap();
        carry(&mut pair.client, &mut pair.server, pair.now);
        pair.now += ACK_DELAY_LITTLE;
        pair.server.handle_timeout(pair.now).unwrap();
        assert_eq!(pair.server.poll_timeout(), None);
        let from_client = list(&mut pair.client, ROOM);
        pair.server.resume(pair.now, LaneId::FIRST);
        pair.server
            .handle_message(pair.now, LaneId::FIRST, from_client)
            .unwrap();
        // Room for the list, and for nothing after it.
        let rooms = [2 * FRAME_MAX, FRAME_MAX];
        assert!(rooms.iter().all(|&room| pair.server.poll_transmit(
            pair.now,
            LaneId::FIRST,
            &mut BytesMut::new(),
            room
        )));
        assert!(!pair.server.resume_state.is_list_due());
        assert!(
            pair.server.ack_queue.due.len() + pair.server.ack_queue.pending.len() <= 1,
            "in round {round}"
        );
    }
}
