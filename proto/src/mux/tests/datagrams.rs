//! Tests of flows of datagrams: boundaries, the life of a flow, and lanes.

use bytes::Bytes;

use super::{
    MAX_DELAY, Pair, all_frames, carry, drain, frames,
    lanes::{BULK, CONTROL, messages, pair_with_two_lanes},
    message, next_message,
};
use crate::mux::*;

/// Carries messages in both directions until both ends have nothing to send now.
pub(super) fn exchange(pair: &mut Pair) {
    while carry(&mut pair.client, &mut pair.server, pair.now)
        | carry(&mut pair.server, &mut pair.client, pair.now)
    {}
}

/// Opens a flow that both ends know.
pub(super) fn open_flow(pair: &mut Pair) -> FlowId {
    let flow = pair.client.open_flow(Bytes::from_static(b"{}"));
    send(pair, flow, b"first");
    exchange(pair);
    assert_eq!(read_all(&mut pair.server, flow), ["first"]);
    drain(&mut pair.server);
    flow
}

/// The client sends a datagram.
pub(super) fn send(pair: &mut Pair, flow: FlowId, content: &[u8]) {
    let bytes = Bytes::copy_from_slice(content);
    pair.client.send_datagram(pair.now, flow, bytes).unwrap();
}

pub(super) fn read_all(mux: &mut Mux, flow: FlowId) -> Vec<Bytes> {
    std::iter::from_fn(|| mux.read_datagram(flow).ok().flatten()).collect()
}

/// Returns the flow and the length of each datagram among these frames.
pub(super) fn datagrams(frames: &[TunnelFrame]) -> Vec<(FlowId, usize)> {
    let datagrams = frames.iter().filter_map(|frame| match frame {
        TunnelFrame::Datagram { flow, bytes, .. } => Some((*flow, bytes.len())),
        _ => None,
    });
    datagrams.collect()
}

/// Returns the flows that these frames open, and the ends of flows.
pub(super) fn opens_and_ends(frames: &[TunnelFrame]) -> (Vec<FlowId>, Vec<(FlowId, ResetCode)>) {
    let (mut opens, mut ends) = (Vec::new(), Vec::new());
    for frame in frames {
        match frame {
            TunnelFrame::OpenFlow { flow, .. } => opens.push(*flow),
            TunnelFrame::EndFlow { flow, code } => ends.push((*flow, *code)),
            _ => {}
        }
    }
    (opens, ends)
}

#[test]
fn datagrams_of_every_length_keep_their_boundaries_in_both_directions() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    for length in [0, 1, 63, 64, 1200, 16_383, 16_384, 65_506, DATAGRAM_MAX] {
        let content: Bytes = (0..length).map(|at| (at % 251) as u8).collect();
        for copies in [1, 2] {
            for _ in 0..copies {
                send(&mut pair, flow, &content);
            }
            exchange(&mut pair);
            let received = read_all(&mut pair.server, flow);
            assert_eq!(received, vec![content.clone(); copies], "{length}");
            for datagram in received {
                let sent = pair.server.send_datagram(pair.now, flow, datagram);
                assert_eq!(sent, Ok(()));
            }
            exchange(&mut pair);
            let echoed = read_all(&mut pair.client, flow);
            assert_eq!(echoed, vec![content.clone(); copies], "{length}");
            pair.now += MAX_DELAY;
        }
    }
    assert_eq!(pair.client.datagram_counts().expired, 0);
}

#[test]
fn longer_datagram_is_refused_and_nothing_is_sent() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    let long = Bytes::from(vec![0; DATAGRAM_MAX + 1]);
    let sent = pair.client.send_datagram(pair.now, flow, long);
    assert_eq!(sent, Err(FlowError::TooLong));
    assert_eq!(next_message(&mut pair.client, pair.now), None);
    let unknown = pair.client.send_datagram(pair.now, FlowId(9), Bytes::new());
    assert_eq!(unknown, Err(FlowError::Unknown));
    assert_eq!(
        pair.client.read_datagram(FlowId(9)),
        Err(FlowError::Unknown)
    );
}

#[test]
fn open_flow_precedes_each_message_until_the_server_confirms_it() {
    let mut pair = Pair::new();
    let flow = pair.client.open_flow(Bytes::from_static(b"[1]"));
    assert_eq!(
        next_message(&mut pair.client, pair.now),
        None,
        "no datagram"
    );
    // The first message is lost.
    send(&mut pair, flow, b"lost");
    assert_eq!(
        opens_and_ends(&all_frames(&mut pair.client, pair.now)).0,
        [flow]
    );
    send(&mut pair, flow, b"one");
    send(&mut pair, flow, b"two");
    let second = next_message(&mut pair.client, pair.now).unwrap();
    assert_eq!(opens_and_ends(&frames(second.clone())).0, [flow], "once");
    pair.server
        .handle_message(pair.now, LaneId::FIRST, second)
        .unwrap();
    let details = Bytes::from_static(b"[1]");
    assert_eq!(
        drain(&mut pair.server),
        [MuxEvent::FlowOpened { flow, details }]
    );
    assert_eq!(read_all(&mut pair.server, flow), ["one", "two"]);
    // The answer is lost too, so OPEN_FLOW arrives again.
    Pair::drop_outgoing(&mut pair.server, pair.now);
    send(&mut pair, flow, b"three");
    let third = all_frames(&mut pair.client, pair.now);
    assert_eq!(opens_and_ends(&third).0, [flow]);
    pair.server
        .handle_message(pair.now, LaneId::FIRST, message(&third))
        .unwrap();
    let events = drain(&mut pair.server);
    assert_eq!(events, [MuxEvent::FlowReadable(flow)], "it opens once");
    exchange(&mut pair);
    send(&mut pair, flow, b"four");
    let fourth = all_frames(&mut pair.client, pair.now);
    assert!(opens_and_ends(&fourth).0.is_empty(), "FLOW has arrived");
}

#[test]
fn datagram_of_the_server_confirms_a_flow() {
    let mut pair = Pair::new();
    let flow = pair.client.open_flow(Bytes::new());
    send(&mut pair, flow, b"question");
    carry(&mut pair.client, &mut pair.server, pair.now);
    Pair::drop_outgoing(&mut pair.server, pair.now);
    let answer = Bytes::from_static(b"answer");
    pair.server
        .send_datagram(pair.now, flow, answer.clone())
        .unwrap();
    carry(&mut pair.server, &mut pair.client, pair.now);
    assert_eq!(pair.client.read_datagram(flow), Ok(Some(answer)));
    send(&mut pair, flow, b"next");
    let next = all_frames(&mut pair.client, pair.now);
    assert!(opens_and_ends(&next).0.is_empty());
}

#[test]
fn long_datagram_begins_the_message_after_its_open_flow() {
    let mut pair = Pair::new();
    let flow = pair.client.open_flow(Bytes::from(vec![b' '; 4096]));
    let content = vec![7; DATAGRAM_MAX];
    send(&mut pair, flow, &content);
    let first = frames(next_message(&mut pair.client, pair.now).unwrap());
    assert_eq!(opens_and_ends(&first).0, [flow]);
    assert!(datagrams(&first).is_empty());
    let second = frames(next_message(&mut pair.client, pair.now).unwrap());
    assert_eq!(datagrams(&second), [(flow, DATAGRAM_MAX)]);
    for message in [message(&first), message(&second)] {
        pair.server
            .handle_message(pair.now, LaneId::FIRST, message)
            .unwrap();
    }
    assert_eq!(read_all(&mut pair.server, flow), [content]);
}

#[test]
fn readable_is_reported_once_after_a_read_found_nothing() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    assert_eq!(pair.server.read_datagram(flow), Ok(None));
    for _ in 0..3 {
        send(&mut pair, flow, b"more");
    }
    exchange(&mut pair);
    assert_eq!(drain(&mut pair.server), [MuxEvent::FlowReadable(flow)]);
}

#[test]
fn end_of_a_flow_reaches_the_other_end_from_either_side() {
    let mut pair = Pair::new();
    for is_client in [true, false] {
        let flow = open_flow(&mut pair);
        send(&mut pair, flow, b"last");
        exchange(&mut pair);
        drain(&mut pair.server);
        let (ending, other) = if is_client {
            (&mut pair.client, &mut pair.server)
        } else {
            (&mut pair.server, &mut pair.client)
        };
        ending.end_flow(flow, ResetCode::Refused);
        assert_eq!(ending.read_datagram(flow), Err(FlowError::Unknown));
        carry(ending, other, pair.now);
        let code = ResetCode::Refused;
        assert_eq!(drain(other), [MuxEvent::FlowEnded { flow, code }]);
        if is_client {
            assert_eq!(other.read_datagram(flow).unwrap().unwrap(), "last");
        }
        let ended = FlowError::Ended(code);
        assert_eq!(other.read_datagram(flow), Err(ended));
        let sent = other.send_datagram(pair.now, flow, Bytes::new());
        assert_eq!(sent, Err(ended));
        other.end_flow(flow, ResetCode::Cancelled);
        let answer = all_frames(other, pair.now);
        assert!(opens_and_ends(&answer).1.is_empty(), "no answer");
        assert_eq!((pair.client.flows(), pair.server.flows()), (0, 0));
    }
}

#[test]
fn flow_without_a_datagram_ends_unnoticed() {
    let mut pair = Pair::new();
    let flow = pair.client.open_flow(Bytes::new());
    send(&mut pair, flow, b"never sent");
    pair.client.end_flow(flow, ResetCode::Cancelled);
    pair.client.end_flow(flow, ResetCode::Cancelled);
    assert_eq!(next_message(&mut pair.client, pair.now), None);
    assert_eq!(pair.client.datagram_counts().ended, 1);
}

#[test]
fn frames_of_a_flow_whose_end_was_lost_are_answered_with_the_end() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    pair.server.end_flow(flow, ResetCode::Unreachable);
    Pair::drop_outgoing(&mut pair.server, pair.now);
    send(&mut pair, flow, b"question");
    exchange(&mut pair);
    let code = ResetCode::Unreachable;
    assert_eq!(
        drain(&mut pair.client),
        [MuxEvent::FlowEnded { flow, code }]
    );
    // An OPEN_FLOW that a slow lane delivers late.
    let late = TunnelFrame::OpenFlow {
        flow,
        details: Bytes::new(),
    };
    pair.server
        .handle_message(pair.now, LaneId::FIRST, message(&[late]))
        .unwrap();
    assert!(drain(&mut pair.server).is_empty(), "it does not open again");
    let answer = all_frames(&mut pair.server, pair.now);
    assert_eq!(opens_and_ends(&answer).1, [(flow, code)]);
    assert_eq!(pair.server.datagram_counts().unknown_flow, 1);
}

#[test]
fn end_that_overtakes_its_open_flow_keeps_the_flow_closed() {
    let mut pair = Pair::new();
    let (flow, code) = (FlowId(5), ResetCode::Cancelled);
    let open = TunnelFrame::OpenFlow {
        flow,
        details: Bytes::new(),
    };
    let end = TunnelFrame::EndFlow { flow, code };
    pair.server
        .handle_message(pair.now, LaneId::FIRST, message(&[end, open]))
        .unwrap();
    assert_eq!((drain(&mut pair.server), pair.server.flows()), (vec![], 0));
}

#[test]
fn ends_are_repeated_after_the_loss_of_a_lane_and_after_a_resumption() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    pair.client.end_flow(flow, ResetCode::Timeout);
    Pair::drop_outgoing(&mut pair.client, pair.now);
    pair.attach();
    exchange(&mut pair);
    let code = ResetCode::Timeout;
    assert!(drain(&mut pair.server).contains(&MuxEvent::FlowEnded { flow, code }));
}

/// A datagram frame that arrives in time at a server that has no other.
pub(super) fn datagram(flow: u64, length: usize) -> TunnelFrame {
    TunnelFrame::Datagram {
        flow: FlowId(flow),
        sent: 0,
        bytes: vec![1; length].into(),
    }
}

#[test]
fn datagram_of_a_flow_that_is_not_open_yet_is_dropped_and_one_of_an_older_flow_answered() {
    let mut pair = Pair::new();
    let early = message(&[datagram(7, 10)]);
    pair.server
        .handle_message(pair.now, LaneId::FIRST, early)
        .unwrap();
    assert_eq!(pair.server.datagram_counts().unknown_flow, 1);
    assert_eq!(next_message(&mut pair.server, pair.now), None);
    let open = TunnelFrame::OpenFlow {
        flow: FlowId(9),
        details: Bytes::new(),
    };
    let frames = message(&[open, datagram(7, 10), datagram(9, 10)]);
    pair.server
        .handle_message(pair.now, LaneId::FIRST, frames)
        .unwrap();
    let answer = all_frames(&mut pair.server, pair.now);
    let ended = (FlowId(7), ResetCode::Cancelled);
    assert_eq!(opens_and_ends(&answer).1, [ended]);
    assert_eq!(read_all(&mut pair.server, FlowId(9)), [vec![1; 10]]);
}

#[test]
fn with_several_lanes_datagrams_leave_on_the_control_lane_and_are_never_repeated() {
    let (mut pair, _) = pair_with_two_lanes();
    let flow = pair.client.open_flow(Bytes::new());
    send(&mut pair, flow, b"stalls");
    assert_eq!(messages(&mut pair.client, pair.now, BULK).len(), 0);
    let stalled = messages(&mut pair.client, pair.now, CONTROL);
    let of = |messages: &[Bytes]| {
        let all: Vec<TunnelFrame> = messages.iter().cloned().flat_map(frames).collect();
        datagrams(&all).len()
    };
    assert_eq!(of(&stalled), 1);
    // No answer to the PING behind it: the lane has stalled.
    while pair.client.lanes.control() == Some(CONTROL) {
        pair.now = pair.client.poll_timeout().expect("a deadline");
        pair.client.handle_timeout(pair.now).unwrap();
    }
    send(&mut pair, flow, b"follows");
    let following = messages(&mut pair.client, pair.now, BULK);
    assert_eq!(of(&following), 1, "only the new one");
    for message in following {
        pair.server.handle_message(pair.now, BULK, message).unwrap();
    }
    assert_eq!(read_all(&mut pair.server, flow), ["follows"]);
    pair.now += MAX_DELAY * 2;
    for message in stalled {
        pair.server
            .handle_message(pair.now, CONTROL, message)
            .unwrap();
    }
    assert_eq!(read_all(&mut pair.server, flow), Vec::<Bytes>::new());
    assert_eq!(pair.server.datagram_counts().late, 1);
}
