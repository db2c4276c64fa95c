//! Tests of the bounds of flows and of the datagrams that wait, of their shares, and of a peer that
//! violates the protocol.

use std::time::Duration;

use bytes::Bytes;

use super::{
    MAX_DELAY, PARAMETERS, Pair, all_frames, carry,
    datagrams::{datagram, datagrams, exchange, open_flow, opens_and_ends, read_all, send},
    drain, frames, message, next_message,
};
use crate::mux::*;

#[test]
fn flows_beyond_the_limit_are_refused_until_another_ends() {
    let mut pair = Pair::with(Parameters {
        flows_max: 3,
        ..PARAMETERS
    });
    let flows: Vec<FlowId> = (0..5)
        .map(|_| pair.client.open_flow(Bytes::new()))
        .collect();
    for &flow in &flows {
        send(&mut pair, flow, b"hello");
    }
    exchange(&mut pair);
    let refused = |flow| MuxEvent::FlowEnded {
        flow,
        code: ResetCode::Limit,
    };
    assert_eq!(
        drain(&mut pair.client),
        [refused(flows[3]), refused(flows[4])]
    );
    assert_eq!(pair.server.flows(), 3);
    // The application of the server must have ended it too.
    pair.client.end_flow(flows[0], ResetCode::Cancelled);
    exchange(&mut pair);
    assert_eq!(pair.server.flows(), 3);
    pair.server.end_flow(flows[0], ResetCode::Cancelled);
    open_flow(&mut pair);
    assert_eq!(pair.server.flows(), 3);
}

#[test]
fn flood_of_flows_and_datagrams_is_bounded() {
    let mut pair = Pair::new();
    let budget = Arc::new(MemoryBudget::new(64 << 20));
    let server = pair.server.with_budget(Arc::clone(&budget));
    pair.server = server;
    for round in 0..200_u64 {
        let frames: Vec<TunnelFrame> = (0..400)
            .flat_map(|index| {
                let flow = round * 400 + index;
                let open = TunnelFrame::OpenFlow {
                    flow: FlowId(flow),
                    details: Bytes::from(vec![b' '; 100]),
                };
                [open, datagram(flow, 20), datagram(flow % 100, 100)]
            })
            .collect();
        pair.server
            .handle_message(pair.now, LaneId::FIRST, message(&frames))
            .unwrap();
    }
    assert_eq!(pair.server.flows(), PARAMETERS.flows_max);
    let opened = drain(&mut pair.server).len();
    assert_eq!(opened, PARAMETERS.flows_max, "the others are refused");
    assert!(budget.used() < 1 << 20, "{}", budget.used());
    let waiting: usize = (0..100)
        .map(|flow| read_all(&mut pair.server, FlowId(flow)).len())
        .sum();
    assert_eq!(waiting, WAITING_MAX);
    let ends = opens_and_ends(&all_frames(&mut pair.server, pair.now)).1;
    assert!(ends.len() <= 1024, "{} answers", ends.len());
}

#[test]
fn details_that_no_application_reads_are_bounded_and_take_memory() {
    const LENGTH: usize = 4096;
    const MOST: usize = (1 << 20) / LENGTH;
    let mut pair = Pair::with(Parameters {
        flows_max: 4 * MOST,
        ..PARAMETERS
    });
    let budget = Arc::new(MemoryBudget::new(64 << 20));
    pair.server = pair.server.with_budget(Arc::clone(&budget));
    let open = |pair: &mut Pair, flow: u64| {
        let details = Bytes::from(vec![b' '; LENGTH]);
        let flow = FlowId(flow);
        let message = message(&[TunnelFrame::OpenFlow { flow, details }]);
        let handled = pair.server.handle_message(pair.now, LaneId::FIRST, message);
        handled.unwrap();
    };
    for flow in 0..2 * MOST as u64 {
        open(&mut pair, flow);
    }
    assert_eq!(
        drain(&mut pair.server).len(),
        MOST,
        "the others are refused"
    );
    let ends = opens_and_ends(&all_frames(&mut pair.server, pair.now)).1;
    assert_eq!(ends.len(), MOST);
    assert!(ends.iter().all(|(_, code)| *code == ResetCode::Limit));
    assert!(budget.used() >= 1 << 20, "{}", budget.used());
    // A flow that is served, and one that ends, make room.
    assert_eq!(pair.server.read_datagram(FlowId(0)), Ok(None));
    pair.server.end_flow(FlowId(1), ResetCode::Cancelled);
    for flow in [3, 4, 5] {
        open(&mut pair, 2 * MOST as u64 + flow);
    }
    assert_eq!(pair.server.flows(), MOST + 1);
    for flow in 0..3 * MOST as u64 {
        pair.server.end_flow(FlowId(flow), ResetCode::Cancelled);
    }
    assert_eq!((pair.server.flows(), budget.used()), (0, 0));
}

#[test]
fn expired_datagrams_and_ended_flows_return_their_memory() {
    const ACCURACY: u64 = 16 * 1024;
    let mut pair = Pair::new();
    let budget = Arc::new(MemoryBudget::new(64 << 20));
    pair.client = pair.client.with_budget(Arc::clone(&budget));
    let flows: Vec<FlowId> = (0..400)
        .map(|_| pair.client.open_flow(Bytes::new()))
        .collect();
    let of_flows = budget.used();
    assert!(of_flows > 64 * 1024, "{of_flows} of 400 flows");
    for &flow in &flows[..50] {
        send(&mut pair, flow, &[1; 10_000]);
    }
    assert!(budget.used() > of_flows + 50 * 10_000 - ACCURACY);
    // Without a lane, nothing else returns it.
    pair.client.lose_lane(pair.now, LaneId::FIRST);
    pair.now += MAX_DELAY;
    pair.client.handle_timeout(pair.now).unwrap();
    assert_eq!(pair.client.datagram_counts().expired, 50);
    assert!(budget.used() <= of_flows + ACCURACY, "{}", budget.used());
    for flow in flows {
        pair.client.end_flow(flow, ResetCode::Cancelled);
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn sender_keeps_the_latest_datagrams_within_its_bounds() {
    for (length, most) in [(8, WAITING_MAX), (10_000, (1 << 20) / 10_000)] {
        let mut pair = Pair::new();
        let flow = open_flow(&mut pair);
        for number in 0..3000_u64 {
            let mut content = vec![0; length];
            content[..8].copy_from_slice(&number.to_be_bytes());
            send(&mut pair, flow, &content);
        }
        assert_eq!(
            pair.client.datagram_counts().dropped_full,
            (3000 - most) as u64
        );
        let mut received = Vec::new();
        while carry(&mut pair.client, &mut pair.server, pair.now) {
            received.extend(read_all(&mut pair.server, flow));
            carry(&mut pair.server, &mut pair.client, pair.now);
        }
        let numbers = received
            .iter()
            .map(|datagram| u64::from_be_bytes(datagram[..8].try_into().unwrap()));
        let latest = 3000 - most as u64..3000;
        assert!(numbers.eq(latest), "{} of {most}", received.len());
    }
}

#[test]
fn receiver_drops_the_oldest_datagrams_that_are_not_read() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    for number in 0..3000_u64 {
        send(&mut pair, flow, &number.to_be_bytes());
        if number % 500 == 0 {
            exchange(&mut pair);
        }
    }
    exchange(&mut pair);
    let received = read_all(&mut pair.server, flow);
    assert_eq!(received.len(), WAITING_MAX);
    assert_eq!(received[WAITING_MAX - 1], 2999_u64.to_be_bytes()[..]);
    let dropped = pair.server.datagram_counts().dropped_full;
    assert_eq!(dropped, 3000 - WAITING_MAX as u64);
}

#[test]
fn small_flow_does_not_wait_behind_a_flood() {
    let mut pair = Pair::new();
    let (flood, small) = (open_flow(&mut pair), open_flow(&mut pair));
    for _ in 0..500 {
        send(&mut pair, flood, &[1; 1000]);
    }
    for _ in 0..10 {
        send(&mut pair, small, &[2; 100]);
    }
    let sent = datagrams(&all_frames(&mut pair.client, pair.now));
    let last = sent.iter().rposition(|(flow, _)| *flow == small).unwrap();
    let count = sent.iter().filter(|(flow, _)| *flow == small).count();
    assert_eq!(count, 10);
    assert!(last < 16, "the last one is number {last} of {}", sent.len());
}

#[test]
fn equal_flows_share_what_leaves() {
    let mut pair = Pair::new();
    let flows: Vec<FlowId> = (0..4).map(|_| open_flow(&mut pair)).collect();
    for &flow in &flows {
        for _ in 0..200 {
            send(&mut pair, flow, &[1; 500]);
        }
    }
    let sent = datagrams(&all_frames(&mut pair.client, pair.now));
    for flow in flows {
        let count = sent.iter().filter(|(of, _)| *of == flow).count();
        let share = sent.len() / 4;
        assert!(count.abs_diff(share) <= 4, "{count} of {}", sent.len());
    }
}

#[test]
fn datagrams_leave_before_bulk_data_and_do_not_starve_it() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    let streams = [pair.stream(), pair.stream()];
    for stream in streams {
        let bulk = Bytes::from(vec![3; 60_000]);
        pair.client.write(stream, bulk).unwrap();
    }
    for _ in 0..3 {
        send(&mut pair, flow, &[1; 60_000]);
    }
    let sent: Vec<usize> = (0..3)
        .map(|_| {
            let message = next_message(&mut pair.client, pair.now).unwrap();
            let lengths = datagrams(&frames(message)).into_iter();
            lengths.map(|(_, length)| length).sum()
        })
        .collect();
    assert_eq!(sent, [60_000, 0, 60_000]);
}

/// Returns frames about flows that break the protocol, whether they come from the client, and what is
/// wrong with each.
fn invalid_flow_frames() -> [(&'static str, bool, Bytes); 9] {
    let flow = FlowId(0);
    let datagram = |length| TunnelFrame::Datagram {
        flow,
        sent: 0,
        bytes: vec![0; length].into(),
    };
    let open = |length| TunnelFrame::OpenFlow {
        flow,
        details: vec![b' '; length].into(),
    };
    let end = TunnelFrame::EndFlow {
        flow,
        code: ResetCode::Cancelled,
    };
    let announced = [0x0a, 0x00, 0x00, 0x05, b'f', b'o', b'u', b'r'];
    [
        ("a datagram too long", true, message(&[datagram(65_508)])),
        ("details too long", true, message(&[open(4097)])),
        (
            "FLOW of a client",
            true,
            message(&[TunnelFrame::Flow { flow }]),
        ),
        (
            "bytes that are missing",
            true,
            Bytes::copy_from_slice(&announced),
        ),
        ("a type without a field", true, Bytes::from_static(&[0x14])),
        ("OPEN_FLOW of a server", false, message(&[open(2)])),
        ("a datagram of no flow", false, message(&[datagram(5)])),
        (
            "FLOW of no flow",
            false,
            message(&[TunnelFrame::Flow { flow }]),
        ),
        ("the end of no flow", false, message(&[end])),
    ]
}

#[test]
fn invalid_flow_frames_are_protocol_errors() {
    for (name, is_of_client, message) in invalid_flow_frames() {
        let mut pair = Pair::new();
        let receiver = if is_of_client {
            &mut pair.server
        } else {
            &mut pair.client
        };
        let result = receiver.handle_message(pair.now, LaneId::FIRST, message);
        assert!(result.is_err(), "{name}");
        assert_eq!(receiver.poll_event(), None, "{name}");
    }
}

#[test]
fn largest_numbers_of_flows_and_times_are_ordinary() {
    let mut pair = Pair::new();
    // The largest number of eight bytes is 2^62 - 1. Larger ones cannot be written.
    let largest = [0xff_u8; 8];
    let open = [&[0x12_u8][..], &largest, &[0]].concat();
    let datagram = [&[0x0a_u8][..], &largest, &largest, &[1, b'x']].concat();
    let report = [&[0x15_u8][..], &largest, &largest].concat();
    let message = [open, datagram, report].concat();
    pair.server
        .handle_message(pair.now, LaneId::FIRST, message.into())
        .unwrap();
    let flow = FlowId((1 << 62) - 1);
    let datagram = pair.server.read_datagram(flow);
    assert_eq!(datagram, Ok(Some(Bytes::from_static(b"x"))));
    pair.server.end_flow(flow, ResetCode::Refused);
    let code = ResetCode::Refused;
    let answer = all_frames(&mut pair.server, pair.now);
    assert!(answer.contains(&TunnelFrame::EndFlow { flow, code }));
}

/// Returns a random frame about flows, with numbers that are close to each other.
fn any_flow_frame(rng: &mut fastrand::Rng) -> TunnelFrame {
    let flow = FlowId(rng.u64(0..150));
    match rng.u32(0..8) {
        0..3 => TunnelFrame::OpenFlow {
            flow,
            details: vec![0; rng.usize(0..20)].into(),
        },
        3..6 => TunnelFrame::Datagram {
            flow,
            sent: rng.u64(..) >> 2 >> rng.u32(0..62),
            bytes: vec![0; rng.usize(0..5000)].into(),
        },
        6 => TunnelFrame::EndFlow {
            flow,
            code: ResetCode::Cancelled,
        },
        _ => TunnelFrame::DatagramsReceived {
            lane: LaneId(rng.u64(0..2)),
            bytes: rng.u64(..) >> 2,
        },
    }
}

#[test]
fn any_frames_about_flows_keep_the_bounds() {
    let mut rng = fastrand::Rng::with_seed(18);
    for _ in 0..200 {
        let mut pair = Pair::new();
        for _ in 0..50 {
            pair.now += Duration::from_millis(rng.u64(0..100));
            pair.server.handle_timeout(pair.now).unwrap();
            let frames: Vec<_> = (0..20).map(|_| any_flow_frame(&mut rng)).collect();
            pair.server
                .handle_message(pair.now, LaneId::FIRST, message(&frames))
                .unwrap();
            let flow = FlowId(rng.u64(0..150));
            match rng.u32(0..4) {
                0 => pair.server.end_flow(flow, ResetCode::Refused),
                1 => drop(pair.server.read_datagram(flow)),
                2 => {
                    let datagram = Bytes::from(vec![0; 2000]);
                    let _ = pair.server.send_datagram(pair.now, flow, datagram);
                }
                _ => drop(all_frames(&mut pair.server, pair.now)),
            }
            assert!(pair.server.flows() <= PARAMETERS.flows_max);
        }
        let flows = pair.server.flows();
        let opened = drain(&mut pair.server).into_iter();
        let opened = opened.filter(|event| matches!(event, MuxEvent::FlowOpened { .. }));
        assert!(opened.count() >= flows, "each is reported");
    }
}
