//! Tests of a lane that joins while the only other one has a long queue.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Pair,
    lanes::{carry, content, data_bytes, messages},
    read_all,
};
use crate::mux::*;

const FURTHER: [LaneId; 2] = [LaneId(1), LaneId(2)];
const STREAMS: usize = 3;
const LENGTH: usize = 60_000;

/// Returns a pair whose client has sent content of three streams on its only lane, where it still
/// waits, and the messages.
fn queued() -> (Pair, Vec<StreamId>, Vec<Bytes>) {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..STREAMS).map(|_| pair.stream()).collect();
    // The acknowledgement shows the client that the server knows the stream.
    for &stream in &streams {
        pair.client.write(stream, Bytes::from_static(b"x")).unwrap();
        pair.run_until_idle();
        assert_eq!(read_all(&mut pair.server, pair.now, stream), b"x");
    }
    pair.run_until_idle();
    // So much later that a PING is due with the data.
    pair.now += Duration::from_secs(1);
    for &stream in &streams {
        pair.client.write(stream, content(LENGTH)).unwrap();
    }
    let queued = messages(&mut pair.client, pair.now, LaneId::FIRST);
    assert_eq!(data_bytes(&queued), STREAMS * LENGTH);
    (pair, streams, queued)
}

/// Adds the further lanes, and carries what both ends send on them. Returns the bytes of DATA from
/// the client.
fn carry_on_further_lanes(pair: &mut Pair) -> usize {
    for lane in FURTHER {
        pair.client.add_lane(pair.now, lane);
        pair.server.add_lane(pair.now, lane);
    }
    let mut bytes = 0;
    for _ in 0..50 {
        pair.now += Duration::from_millis(10);
        pair.client.handle_timeout(pair.now).unwrap();
        pair.server.handle_timeout(pair.now).unwrap();
        for lane in FURTHER {
            let messages = messages(&mut pair.client, pair.now, lane);
            bytes += data_bytes(&messages);
            for message in messages {
                pair.server.handle_message(pair.now, lane, message).unwrap();
            }
            carry(&mut pair.server, &mut pair.client, pair.now, lane);
        }
        // Only one direction of the first lane is slow.
        carry(&mut pair.server, &mut pair.client, pair.now, LaneId::FIRST);
    }
    bytes
}

#[test]
fn what_waits_in_a_long_queue_leaves_on_the_further_lanes() {
    let (mut pair, streams, queued) = queued();
    pair.now += Duration::from_secs(1);
    let repeated = carry_on_further_lanes(&mut pair);
    assert_eq!(repeated, STREAMS * LENGTH);
    for &stream in &streams {
        let received = read_all(&mut pair.server, pair.now, stream);
        assert_eq!(received, content(LENGTH));
    }
    for message in queued {
        let received = pair.server.handle_message(pair.now, LaneId::FIRST, message);
        received.expect("the same bytes twice are no violation");
    }
    for stream in streams {
        assert_eq!(pair.server.read(stream), Ok(StreamRead::Wait));
    }
}

#[test]
fn a_short_queue_is_left_to_its_lane() {
    let (mut pair, _, _) = queued();
    pair.now += Duration::from_millis(20);
    assert_eq!(carry_on_further_lanes(&mut pair), 0);
}

#[test]
fn small_frames_do_not_wait_in_the_long_queue() {
    let (mut pair, _, _) = queued();
    pair.now += Duration::from_secs(1);
    pair.client.add_lane(pair.now, FURTHER[0]);
    let opened = pair.client.open(Bytes::new());
    let frames: Vec<_> = messages(&mut pair.client, pair.now, FURTHER[0])
        .into_iter()
        .flat_map(super::frames)
        .collect();
    let is_open = |frame: &TunnelFrame| matches!(frame, TunnelFrame::Open { stream, .. } if *stream == opened);
    assert!(frames.iter().any(is_open), "{frames:?}");
}
