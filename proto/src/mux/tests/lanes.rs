//! Tests of several lanes: which lane carries what, any order between lanes, and the end of a lane.

use std::time::Duration;

use bytes::Bytes;

use super::{Pair, drain, frames, message, read_all};
use crate::mux::{
    bandwidth::RttSample,
    gaps::{GAP_TIMEOUT, PIECES_MAX},
    *,
};

pub(super) const CONTROL: LaneId = LaneId::FIRST;
pub(super) const BULK: LaneId = LaneId(1);

/// The most bulk data under way on a control lane that has delivered none.
const CONTROL_BULK: usize = 4 * 1024;

/// A pair with two lanes, and a stream that both ends know.
pub(super) fn pair_with_two_lanes() -> (Pair, StreamId) {
    let mut pair = Pair::new();
    let stream = pair.stream();
    // The acknowledgement shows the client that the server knows the stream.
    pair.client.write(stream, Bytes::from_static(b"x")).unwrap();
    pair.run_until_idle();
    assert_eq!(read_all(&mut pair.server, pair.now, stream), b"x");
    pair.run_until_idle();
    pair.client.add_lane(pair.now, BULK);
    pair.server.add_lane(pair.now, BULK);
    // More lanes need a larger window, of which each end tells the other.
    carry(&mut pair.client, &mut pair.server, pair.now, CONTROL);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    (pair, stream)
}

/// Returns the messages that `mux` sends now on `lane`.
pub(super) fn messages(mux: &mut Mux, now: Instant, lane: LaneId) -> Vec<Bytes> {
    std::iter::from_fn(|| {
        let mut out = bytes::BytesMut::new();
        mux.poll_transmit(now, lane, &mut out, 65_536)
            .then(|| out.freeze())
    })
    .collect()
}

/// Carries what one end sends now on `lane` to the other.
pub(super) fn carry(from: &mut Mux, to: &mut Mux, now: Instant, lane: LaneId) {
    for message in messages(from, now, lane) {
        to.handle_message(now, lane, message).unwrap();
    }
}

pub(super) fn content(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}

pub(super) fn data_bytes(messages: &[Bytes]) -> usize {
    let lengths = messages.iter().cloned().flat_map(frames).map(|frame| {
        if let TunnelFrame::Data { bytes, .. } = frame {
            bytes.len()
        } else {
            0
        }
    });
    lengths.sum()
}

#[test]
fn bulk_data_leaves_the_control_lane_to_small_streams() {
    let (mut pair, bulk) = pair_with_two_lanes();
    let small = pair.client.open(Bytes::new());
    let opening = messages(&mut pair.client, pair.now, CONTROL);
    for message in opening {
        pair.server
            .handle_message(pair.now, CONTROL, message)
            .unwrap();
    }
    pair.client.write(bulk, content(40_000)).unwrap();
    pair.client.write(small, content(100)).unwrap();
    let on_control = messages(&mut pair.client, pair.now, CONTROL);
    let on_bulk = messages(&mut pair.client, pair.now, BULK);
    let (control, rest) = (data_bytes(&on_control), data_bytes(&on_bulk));
    assert_eq!(control + rest, 40_100);
    assert!(control <= 100 + CONTROL_BULK, "{control}");
    let streams = on_control.into_iter().flat_map(frames).filter_map(|frame| {
        if let TunnelFrame::Data { stream, .. } = frame {
            Some(stream)
        } else {
            None
        }
    });
    assert_eq!(streams.collect::<Vec<_>>(), [small, bulk]);
}

#[test]
fn bulk_data_on_the_control_lane_waits_for_what_left_before() {
    let (mut pair, bulk) = pair_with_two_lanes();
    pair.client.write(bulk, content(60_000)).unwrap();
    let first = messages(&mut pair.client, pair.now, CONTROL);
    let bytes = data_bytes(&first);
    assert!(bytes > CONTROL_BULK / 2 && bytes <= CONTROL_BULK, "{bytes}");
    pair.now += Duration::from_millis(50);
    let before_arrival = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&before_arrival), 0);
    for message in first {
        pair.server
            .handle_message(pair.now, CONTROL, message)
            .unwrap();
    }
    pair.server.handle_timeout(pair.now).unwrap();
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    let after_arrival = messages(&mut pair.client, pair.now, CONTROL);
    assert!(data_bytes(&after_arrival) > CONTROL_BULK / 2);
}

#[test]
fn a_stream_uses_the_lane_of_its_open_until_the_peer_knows_it() {
    let (mut pair, _) = pair_with_two_lanes();
    let stream = pair.client.open(Bytes::new());
    pair.client.write(stream, content(20_000)).unwrap();
    pair.client.finish(stream);
    assert_eq!(messages(&mut pair.client, pair.now, BULK).len(), 0);
    let on_control = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&on_control), 20_000);
    for message in on_control {
        pair.server
            .handle_message(pair.now, CONTROL, message)
            .unwrap();
    }
    assert_eq!(
        read_all(&mut pair.server, pair.now, stream),
        content(20_000)
    );
    assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
}

#[test]
fn a_stream_that_the_peer_has_not_named_continues_after_its_lane_was_left() {
    let (mut pair, _) = pair_with_two_lanes();
    let (asking, ending) = (
        pair.client.open(Bytes::new()),
        pair.client.open(Bytes::new()),
    );
    carry(&mut pair.client, &mut pair.server, pair.now, CONTROL);
    // The server's applications wait for a request, so the server sends nothing about the streams.
    pair.client.retire_lane(pair.now, CONTROL);
    pair.client.write(asking, content(100)).unwrap();
    pair.client.finish(asking);
    pair.client.finish(ending);
    let before = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(data_bytes(&before), 0, "they could overtake OPEN");
    for message in before {
        pair.server.handle_message(pair.now, BULK, message).unwrap();
    }
    pair.server.retire_lane(pair.now, CONTROL);
    pair.client.remove_lane(CONTROL);
    carry(&mut pair.client, &mut pair.server, pair.now, BULK);
    assert_eq!(read_all(&mut pair.server, pair.now, asking), content(100));
    for stream in [asking, ending] {
        assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
    }
}

#[test]
fn messages_of_two_lanes_arrive_in_any_order() {
    let (mut pair, stream) = pair_with_two_lanes();
    pair.client.retire_lane(pair.now, CONTROL);
    pair.client.write(stream, content(20_000)).unwrap();
    let first = messages(&mut pair.client, pair.now, BULK);
    pair.client.add_lane(pair.now, LaneId(2));
    pair.client.retire_lane(pair.now, BULK);
    pair.client.write(stream, content(10_000)).unwrap();
    pair.client.finish(stream);
    let later = messages(&mut pair.client, pair.now, LaneId(2));
    assert_eq!((data_bytes(&first), data_bytes(&later)), (20_000, 10_000));
    for message in later {
        pair.server
            .handle_message(pair.now, LaneId(2), message)
            .unwrap();
    }
    assert_eq!(pair.server.read(stream), Ok(StreamRead::Wait));
    assert_eq!(pair.server.held_bytes(), 10_000);
    for message in first {
        pair.server.handle_message(pair.now, BULK, message).unwrap();
    }
    let expected = [content(20_000), content(10_000)].concat();
    assert_eq!(read_all(&mut pair.server, pair.now, stream), expected);
    assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
}

#[test]
fn what_left_on_a_lost_lane_leaves_on_the_others_at_once() {
    let (mut pair, stream) = pair_with_two_lanes();
    pair.client.write(stream, content(30_000)).unwrap();
    let lost = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(data_bytes(&lost), 30_000);
    let before = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&before), 0);
    pair.client.lose_lane(pair.now, BULK);
    let again = messages(&mut pair.client, pair.now, CONTROL);
    assert_eq!(data_bytes(&again), 30_000);
    for message in again.into_iter().chain(lost) {
        pair.server
            .handle_message(pair.now, CONTROL, message)
            .unwrap();
    }
    assert_eq!(
        read_all(&mut pair.server, pair.now, stream),
        content(30_000)
    );
    assert_eq!(pair.server.held_bytes(), 0, "repeated bytes count once");
}

#[test]
fn the_end_of_a_forgotten_stream_is_acknowledged_again() {
    let (mut pair, stream) = pair_with_two_lanes();
    pair.client.finish(stream);
    pair.server.finish(stream);
    pair.client.release(pair.now, stream);
    pair.server.release(pair.now, stream);
    carry(&mut pair.client, &mut pair.server, pair.now, CONTROL);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    pair.now += Duration::from_secs(1);
    pair.client.handle_timeout(pair.now).unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now, CONTROL);
    // The server's acknowledgement is lost with its lane, and the server has forgotten the stream.
    pair.server.handle_timeout(pair.now).unwrap();
    messages(&mut pair.server, pair.now, CONTROL);
    let remaining = (pair.client.streams(), pair.server.streams());
    assert!(remaining.1 == 0, "{remaining:?}");
    pair.client.lose_lane(pair.now, CONTROL);
    pair.server.lose_lane(pair.now, CONTROL);
    pair.client.add_lane(pair.now, LaneId(2));
    pair.server.add_lane(pair.now, LaneId(2));
    for lane in [BULK, LaneId(2)] {
        carry(&mut pair.client, &mut pair.server, pair.now, lane);
    }
    for lane in [BULK, LaneId(2)] {
        carry(&mut pair.server, &mut pair.client, pair.now, lane);
    }
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn the_loss_of_an_old_lane_is_known_after_those_of_many_later_ones() {
    let (mut pair, _) = pair_with_two_lanes();
    drain(&mut pair.client);
    let mut report = |lane: u64| {
        let lost = message(&[TunnelFrame::Lost { lane: LaneId(lane) }]);
        pair.client.handle_message(pair.now, BULK, lost).unwrap();
        drain(&mut pair.client)
    };
    // Another link of the role is cut again and again.
    for lane in 100..400 {
        assert!(report(lane).is_empty(), "lane {lane} is unknown here");
    }
    assert_eq!(report(CONTROL.0), [MuxEvent::LaneLost(CONTROL)]);
    assert!(report(CONTROL.0).is_empty(), "a report counts once");
}

#[test]
fn a_repeated_report_of_a_lost_lane_has_no_effect() {
    let (mut pair, _) = pair_with_two_lanes();
    messages(&mut pair.client, pair.now, CONTROL);
    let mut has_effect = |lane: u64| {
        let lost = message(&[TunnelFrame::Lost { lane: LaneId(lane) }]);
        pair.client.handle_message(pair.now, BULK, lost).unwrap();
        // The bytes that may be lost with a lane are sent again.
        !messages(&mut pair.client, pair.now, CONTROL).is_empty()
    };
    for lane in 100..400 {
        assert!(has_effect(lane), "the first report of lane {lane}");
    }
    // The oldest reports that the client remembers, one in the middle, and forgotten ones.
    for lane in [144, 144, 145, 300, 144, 145, 399, 100, 143] {
        assert!(!has_effect(lane), "lane {lane}");
    }
}

fn data(stream: StreamId, offset: u64, bytes: Bytes) -> Bytes {
    message(&[TunnelFrame::Data {
        stream,
        offset,
        bytes,
    }])
}

#[test]
fn a_gap_that_is_never_filled_ends_the_tunnel() {
    let (mut pair, stream) = pair_with_two_lanes();
    let beyond = data(stream, 11, content(10));
    pair.server.handle_message(pair.now, BULK, beyond).unwrap();
    let deadline = pair.now + GAP_TIMEOUT;
    let almost = deadline - Duration::from_millis(1);
    assert_eq!(pair.server.handle_timeout(almost), Ok(()));
    pair.server.retire_lane(pair.now, CONTROL);
    pair.server.lose_lane(pair.now, BULK);
    assert_eq!(
        pair.server.handle_timeout(deadline),
        Ok(()),
        "without a lane the gap cannot be filled"
    );
    pair.server.add_lane(deadline, LaneId(2));
    assert_eq!(pair.server.handle_timeout(deadline), Ok(()));
    let error = pair.server.handle_timeout(deadline + GAP_TIMEOUT);
    assert_eq!(
        error,
        Err(MuxError::Protocol("a gap in a stream was not filled"))
    );
}

#[test]
fn pieces_behind_a_gap_are_bounded_by_bytes_and_by_number() {
    let (mut pair, stream) = pair_with_two_lanes();
    let most = pair.server.window.limit();
    let beyond = data(stream, 1 << 20, content(1000));
    assert_eq!(
        pair.server.handle_message(pair.now, BULK, beyond),
        Err(MuxError::FlowControl("data beyond the stream window"))
    );
    assert!(pair.server.held_bytes() <= most);
    let error = (0..=PIECES_MAX as u64).find_map(|piece| {
        let byte = data(stream, 2 * piece + 2, content(1));
        pair.server.handle_message(pair.now, BULK, byte).err()
    });
    assert_eq!(
        error,
        Some(MuxError::Protocol("too many pieces behind gaps"))
    );
}

#[test]
fn contradicting_bytes_of_two_lanes_end_the_tunnel() {
    let (mut pair, stream) = pair_with_two_lanes();
    let beyond = data(stream, 11, content(10));
    pair.server.handle_message(pair.now, BULK, beyond).unwrap();
    let same = data(stream, 11, content(10));
    assert_eq!(pair.server.handle_message(pair.now, CONTROL, same), Ok(()));
    let other = data(stream, 12, content(5));
    assert_eq!(
        pair.server.handle_message(pair.now, CONTROL, other),
        Err(MuxError::Protocol("DATA contradicts earlier DATA"))
    );
}

#[test]
fn bytes_that_a_reset_leaves_out_are_no_delivery() {
    const LEFT_OUT: u64 = 60_000;
    let (mut pair, stream) = pair_with_two_lanes();
    let others: Vec<StreamId> = (0..6).map(|_| pair.client.open(Bytes::new())).collect();
    carry(&mut pair.client, &mut pair.server, pair.now, CONTROL);
    let bandwidth = pair.server.window.bandwidth();
    bandwidth.restart(pair.now);
    let sample = RttSample {
        sent: pair.now,
        rtt: Duration::from_millis(100),
        credit_exhausted: false,
        bidirectional: false,
        beside_datagrams: false,
        has_return_queue: false,
        moved: 1 << 20,
        moved_in: Duration::from_millis(100),
    };
    bandwidth.on_rtt_sample(pair.now, sample);
    let (window, received) = (bandwidth.size(), pair.server.window.received());
    assert!(window < 6 * LEFT_OUT, "{window}");
    for at in 0..60 {
        // These overtake their data, which is under way on the other lane.
        for &stream in others.iter().filter(|_| at == 30) {
            let reset = TunnelFrame::Reset {
                stream,
                final_offset: LEFT_OUT,
                code: ResetCode::Cancelled,
            };
            let reset = message(&[reset]);
            pair.server.handle_message(pair.now, BULK, reset).unwrap();
        }
        let piece = data(stream, 1 + at * 100, content(100));
        pair.server.handle_message(pair.now, BULK, piece).unwrap();
        pair.now += Duration::from_millis(10);
    }
    assert_eq!(pair.server.window.bandwidth().size(), window);
    assert_eq!(
        pair.server.window.received(),
        received + 60 * 100 + 6 * LEFT_OUT,
        "they take credit"
    );
}
