//! Tests of lanes that stall: what they carry leaves on another one.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Pair, drain, frames,
    lanes::{BULK, CONTROL, carry, content, data_bytes, messages, pair_with_two_lanes},
    read_all,
};
use crate::mux::{transmit_data::URGENT_MAX, *};

/// Returns the most bytes of a stream that these messages acknowledge.
fn acknowledged(messages: Vec<Bytes>) -> Option<u64> {
    let frames = messages.into_iter().flat_map(frames);
    let received = frames.filter_map(|frame| {
        if let TunnelFrame::Window { received, .. } = frame {
            Some(received)
        } else {
            None
        }
    });
    received.max()
}

/// Delivers messages to the server.
fn deliver(pair: &mut Pair, lane: LaneId, messages: Vec<Bytes>) {
    for message in messages {
        pair.server.handle_message(pair.now, lane, message).unwrap();
    }
}

/// Lets the client's next deadline pass.
fn pass_deadline(pair: &mut Pair) {
    pair.now = pair.client.poll_timeout().expect("a deadline");
    pair.client.handle_timeout(pair.now).unwrap();
}

#[test]
fn what_left_on_a_stalled_control_lane_leaves_on_another() {
    let (mut pair, stream) = pair_with_two_lanes();
    pair.client.write(stream, content(100)).unwrap();
    let stalled = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&stalled), 100);
    assert_eq!(messages(&mut pair.client, pair.now, BULK).len(), 0);
    pass_deadline(&mut pair);
    let again = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(data_bytes(&again), 100);
    deliver(&mut pair, BULK, again);
    deliver(&mut pair, CONTROL, stalled);
    assert_eq!(read_all(&mut pair.server, pair.now, stream), content(100));
    assert_eq!(pair.server.read(stream), Ok(StreamRead::Wait));
}

#[test]
fn credit_that_left_on_a_stalled_control_lane_leaves_on_another() {
    let (mut pair, stream) = pair_with_two_lanes();
    pair.client.write(stream, content(60_000)).unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now, BULK);
    assert_eq!(
        read_all(&mut pair.server, pair.now, stream),
        content(60_000)
    );
    pair.now += Duration::from_millis(100);
    pair.server.handle_timeout(pair.now).unwrap();
    let stalled = messages(&mut pair.server, pair.now, CONTROL);
    assert_eq!(acknowledged(stalled), Some(60_001));
    pair.now = pair.server.poll_timeout().unwrap();
    pair.server.handle_timeout(pair.now).unwrap();
    assert_eq!(
        acknowledged(messages(&mut pair.server, pair.now, BULK)),
        Some(60_001)
    );
}

#[test]
fn control_returns_to_its_home_when_that_delivers_again() {
    let (mut pair, stream) = pair_with_two_lanes();
    for lane in [LaneId(2), LaneId(3)] {
        pair.client.add_lane(pair.now, lane);
        pair.server.add_lane(pair.now, lane);
    }
    pair.client.write(stream, content(100)).unwrap();
    let stalled = messages(&mut pair.client, pair.now, CONTROL);
    pass_deadline(&mut pair);
    carry(&mut pair.client, &mut pair.server, pair.now, BULK);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    let control = |pair: &Pair| pair.client.lanes.control();
    assert_eq!(control(&pair), Some(BULK), "the home has not answered");
    deliver(&mut pair, CONTROL, stalled);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    assert_eq!(control(&pair), Some(CONTROL));
    pair.client.write(stream, content(10)).unwrap();
    let messages = [BULK, CONTROL].map(|lane| messages(&mut pair.client, pair.now, lane));
    assert_eq!(messages.map(|messages| data_bytes(&messages)), [0, 10]);
}

#[test]
fn what_a_lane_carries_that_is_left_while_it_stalls_leaves_on_another() {
    let (mut pair, stream) = pair_with_two_lanes();
    let opened = pair.client.open(Bytes::new());
    pair.client.write(stream, content(100)).unwrap();
    pair.client.finish(opened);
    let stalled = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&stalled), 100);
    pair.client.retire_lane(pair.now, CONTROL);
    let before = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(data_bytes(&before), 0, "the answer to MOVED may arrive");
    pass_deadline(&mut pair);
    let again = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(data_bytes(&again), 100);
    deliver(&mut pair, BULK, again);
    assert_eq!(read_all(&mut pair.server, pair.now, stream), content(100));
    assert_eq!(pair.server.read(opened), Ok(StreamRead::End));
    deliver(&mut pair, CONTROL, stalled);
    assert_eq!(pair.server.read(stream), Ok(StreamRead::Wait));
    assert_eq!(pair.server.read(opened), Ok(StreamRead::End));
}

#[test]
fn credit_on_an_only_lane_that_is_left_while_it_stalls_leaves_on_the_next_one() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.write(stream, content(60_000)).unwrap();
    let data = messages(&mut pair.client, pair.now, CONTROL);
    deliver(&mut pair, CONTROL, data);
    assert_eq!(
        read_all(&mut pair.server, pair.now, stream),
        content(60_000)
    );
    pair.now += Duration::from_millis(100);
    pair.server.handle_timeout(pair.now).unwrap();
    let stalled = messages(&mut pair.server, pair.now, CONTROL);
    assert_eq!(acknowledged(stalled), Some(60_000));
    pair.server.add_lane(pair.now, BULK);
    pair.server.retire_lane(pair.now, CONTROL);
    let before = messages(&mut pair.server, pair.now, BULK);
    assert_eq!(acknowledged(before), None);
    pair.now += Duration::from_secs(2);
    pair.server.handle_timeout(pair.now).unwrap();
    let again = messages(&mut pair.server, pair.now, BULK);
    assert_eq!(acknowledged(again), Some(60_000));
}

#[test]
fn nothing_is_repeated_from_a_lane_that_is_left_and_delivers_in_time() {
    let (mut pair, stream) = pair_with_two_lanes();
    pair.client.write(stream, content(100)).unwrap();
    let sent = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&sent), 100);
    deliver(&mut pair, CONTROL, sent);
    pair.client.retire_lane(pair.now, CONTROL);
    pair.client.remove_lane(CONTROL);
    pair.now += Duration::from_secs(10);
    pair.client.handle_timeout(pair.now).unwrap();
    let later = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(data_bytes(&later), 0);
}

#[test]
fn what_waits_for_a_new_control_lane_with_a_full_socket_leaves_on_another() {
    const THIRD: LaneId = LaneId(2);
    let (mut pair, stream) = pair_with_two_lanes();
    pair.client.add_lane(pair.now, THIRD);
    pair.server.add_lane(pair.now, THIRD);
    pair.client.write(stream, content(100)).unwrap();
    let stalled = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&stalled), 100);
    pass_deadline(&mut pair);
    // The second lane is the control lane now. Its socket takes no message.
    let since = pair.now;
    pass_deadline(&mut pair);
    assert!(pair.now > since);
    assert_eq!(messages(&mut pair.client, pair.now, BULK).len(), 0);
    let again = messages(&mut pair.client, pair.now, THIRD);
    assert_eq!(data_bytes(&again), 100);
    deliver(&mut pair, THIRD, again);
    assert_eq!(read_all(&mut pair.server, pair.now, stream), content(100));
}

#[test]
fn an_open_with_much_data_on_a_stalled_control_lane_leaves_on_another() {
    let (mut pair, _) = pair_with_two_lanes();
    drain(&mut pair.server);
    let stream = pair.client.open(Bytes::from_static(b"{}"));
    pair.client.write(stream, content(20_000)).unwrap();
    pair.client.finish(stream);
    let stalled = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&stalled), 20_000);
    pass_deadline(&mut pair);
    let again = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(data_bytes(&again) as u64, URGENT_MAX, "only the beginning");
    deliver(&mut pair, BULK, again);
    let details = Bytes::from_static(b"{}");
    assert_eq!(
        drain(&mut pair.server),
        [MuxEvent::Opened { stream, details }]
    );
    let (first, rest) = (content(20_000), content(20_000).split_off(8 * 1024));
    let beginning = read_all(&mut pair.server, pair.now, stream);
    assert_eq!(beginning, first.slice(..8 * 1024));
    deliver(&mut pair, CONTROL, stalled);
    assert_eq!(read_all(&mut pair.server, pair.now, stream), rest);
    assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
    let again = drain(&mut pair.server).into_iter();
    let opened = again.filter(|event| matches!(event, MuxEvent::Opened { .. }));
    assert_eq!(opened.count(), 0, "a stream opens once");
}
