//! Tests of datagrams on several lanes: which flows use other lanes than the control lane, and when.

use bytes::Bytes;

use super::{
    MAX_DELAY, Pair,
    datagrams::{datagrams, opens_and_ends, read_all, send},
    frames,
    lanes::{BULK, CONTROL, carry, content, data_bytes, messages, pair_with_two_lanes},
};
use crate::mux::*;

/// A little more than the window of a lane whose rate is unknown, in datagrams of [`LENGTH`].
const FULL: usize = 70;
const LENGTH: usize = 1000;

/// Opens a flow that both ends know.
fn open_flow(pair: &mut Pair) -> FlowId {
    let flow = pair.client.open_flow(Bytes::new());
    send(pair, flow, b"first");
    carry(&mut pair.client, &mut pair.server, pair.now, CONTROL);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    assert_eq!(read_all(&mut pair.server, flow), ["first"]);
    flow
}

/// Queues datagrams that begin with their number.
fn send_numbers(pair: &mut Pair, flow: FlowId, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let mut content = [0; LENGTH];
        content[..8].copy_from_slice(&(number as u64).to_be_bytes());
        send(pair, flow, &content);
    }
}

fn all_frames(messages: &[Bytes]) -> Vec<TunnelFrame> {
    messages.iter().cloned().flat_map(frames).collect()
}

/// Returns the flows of the datagrams in these messages.
fn flows(messages: &[Bytes]) -> Vec<FlowId> {
    let datagrams = datagrams(&all_frames(messages)).into_iter();
    datagrams.map(|(flow, _)| flow).collect()
}

fn deliver(pair: &mut Pair, lane: LaneId, messages: Vec<Bytes>) {
    for message in messages {
        pair.server.handle_message(pair.now, lane, message).unwrap();
    }
}

#[test]
fn heavy_flow_overflows_to_another_lane_and_each_datagram_arrives_once() {
    let (mut pair, _) = pair_with_two_lanes();
    let flow = open_flow(&mut pair);
    send_numbers(&mut pair, flow, 0..2 * FULL);
    assert!(
        !pair.client.has_transmit(BULK),
        "the control lane has room for them"
    );
    let on_control = messages(&mut pair.client, pair.now, CONTROL);
    assert!(pair.client.has_transmit(BULK));
    let on_bulk = messages(&mut pair.client, pair.now, BULK);
    assert!(!pair.client.has_transmit(BULK), "nothing is left for it");
    let (control, bulk) = (flows(&on_control).len(), flows(&on_bulk).len());
    assert!((60..FULL).contains(&control), "{control}");
    assert!((60..FULL).contains(&bulk), "{bulk}");
    // The other lane is faster.
    deliver(&mut pair, BULK, on_bulk);
    deliver(&mut pair, CONTROL, on_control);
    let mut received = read_all(&mut pair.server, flow);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    carry(&mut pair.client, &mut pair.server, pair.now, CONTROL);
    received.extend(read_all(&mut pair.server, flow));
    let mut numbers: Vec<u64> = received
        .iter()
        .map(|datagram| u64::from_be_bytes(datagram[..8].try_into().unwrap()))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..2 * FULL as u64));
}

#[test]
fn small_and_new_flows_stay_on_the_control_lane() {
    let (mut pair, _) = pair_with_two_lanes();
    let (heavy, small) = (open_flow(&mut pair), open_flow(&mut pair));
    send_numbers(&mut pair, heavy, 0..FULL);
    let full = messages(&mut pair.client, pair.now, CONTROL);
    send_numbers(&mut pair, heavy, FULL..FULL + 20);
    let new = pair.client.open_flow(Bytes::new());
    send_numbers(&mut pair, new, 0..20);
    for _ in 0..10 {
        send(&mut pair, small, &[1; 100]);
    }
    let on_bulk = flows(&messages(&mut pair.client, pair.now, BULK));
    assert!(!on_bulk.is_empty());
    assert!(on_bulk.iter().all(|flow| *flow == heavy), "{on_bulk:?}");
    deliver(&mut pair, CONTROL, full);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    let on_control = flows(&messages(&mut pair.client, pair.now, CONTROL));
    let count = |of: FlowId| on_control.iter().filter(|flow| **flow == of).count();
    assert_eq!((count(small), count(new)), (10, 20));
}

#[test]
fn streams_have_other_lanes_to_themselves() {
    let (mut pair, stream) = pair_with_two_lanes();
    let flow = open_flow(&mut pair);
    send_numbers(&mut pair, flow, 0..2 * FULL);
    let full = messages(&mut pair.client, pair.now, CONTROL);
    assert!(!flows(&full).is_empty());
    pair.client.write(stream, content(40_000)).unwrap();
    let data = messages(&mut pair.client, pair.now, BULK);
    assert_eq!((data_bytes(&data), flows(&data).len()), (40_000, 0));
    assert!(!pair.client.has_transmit(BULK), "the data is under way");
    deliver(&mut pair, BULK, data);
    carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    let after = messages(&mut pair.client, pair.now, BULK);
    assert!(!flows(&after).is_empty(), "the data has arrived");
}

#[test]
fn lane_that_is_ready_to_become_the_control_lane_carries_no_datagrams() {
    let (mut pair, _) = pair_with_two_lanes();
    for lane in [LaneId(2), LaneId(3)] {
        pair.client.add_lane(pair.now, lane);
        pair.server.add_lane(pair.now, lane);
    }
    let flow = open_flow(&mut pair);
    send_numbers(&mut pair, flow, 0..4 * FULL);
    messages(&mut pair.client, pair.now, CONTROL);
    assert!(flows(&messages(&mut pair.client, pair.now, BULK)).is_empty());
    for lane in [LaneId(2), LaneId(3)] {
        let sent = flows(&messages(&mut pair.client, pair.now, lane)).len();
        assert!((60..FULL).contains(&sent), "{sent} on {lane:?}");
    }
}

#[test]
fn heavy_flow_whose_datagrams_expire_or_that_ends_leaves_nothing_to_send() {
    let (mut pair, _) = pair_with_two_lanes();
    for ends in [false, true] {
        let flow = open_flow(&mut pair);
        send_numbers(&mut pair, flow, 0..2 * FULL);
        let full = messages(&mut pair.client, pair.now, CONTROL);
        assert!(pair.client.has_transmit(BULK));
        if ends {
            pair.client.end_flow(flow, ResetCode::Cancelled);
        } else {
            pair.now += MAX_DELAY;
        }
        assert!(messages(&mut pair.client, pair.now, BULK).is_empty());
        assert!(!pair.client.has_transmit(BULK));
        deliver(&mut pair, CONTROL, full);
        carry(&mut pair.server, &mut pair.client, pair.now, CONTROL);
    }
}

#[test]
fn open_flow_is_repeated_on_the_lane_of_its_datagram() {
    let (mut pair, _) = pair_with_two_lanes();
    let flow = pair.client.open_flow(Bytes::from(vec![b' '; 4096]));
    send(&mut pair, flow, &vec![7; DATAGRAM_MAX]);
    let mut out = bytes::BytesMut::new();
    assert!(
        pair.client
            .poll_transmit(pair.now, CONTROL, &mut out, 65_536)
    );
    let first = frames(out.freeze());
    assert_eq!(opens_and_ends(&first).0, [flow]);
    assert!(datagrams(&first).is_empty(), "no room for both");
    pair.client.lose_lane(pair.now, CONTROL);
    let following = all_frames(&messages(&mut pair.client, pair.now, BULK));
    let opened = following
        .iter()
        .position(|frame| matches!(frame, TunnelFrame::OpenFlow { .. }));
    let sent = following
        .iter()
        .position(|frame| matches!(frame, TunnelFrame::Datagram { .. }));
    assert!(opened.is_some() && opened < sent, "{opened:?} {sent:?}");
}
