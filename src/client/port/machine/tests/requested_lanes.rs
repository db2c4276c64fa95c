//! Lanes that the server asks for.

use super::*;
use crate::client::port::machine::{lanes::LANE_RETRY, requested_lanes::LANE_CHANGE};

fn lane(tunnel: TestTunnel) -> AttachPurpose {
    AttachPurpose::RequestedLane { tunnel: tunnel.id }
}

fn keep(tunnel: TestTunnel, keep: usize) -> PortAction {
    let tunnel = tunnel.id;
    PortAction::LeaveLanes { tunnel, keep }
}

/// The view of a tunnel with this many lanes on link 1, and this request of its server.
fn with(lanes: usize, requested_lanes: usize) -> TunnelView {
    TunnelView {
        lanes,
        requested_lanes,
        ..attached_on(1)
    }
}

fn further(slot: usize, number: u64) -> PortEvent {
    PortEvent::FurtherLinkUp {
        slot,
        link: link(number),
    }
}

/// The view of a tunnel that has a lane on the link of slot 1 too.
fn on_both(lanes: usize, requested_lanes: usize) -> TunnelView {
    TunnelView {
        further_lanes: [1].into_iter().collect(),
        ..with(lanes, requested_lanes)
    }
}

fn requests_of(actions: &[PortAction]) -> Vec<RequestNumber> {
    let request = |action: &PortAction| match action {
        PortAction::Attach { request, .. } => *request,
        other => panic!("not an attach request: {other:?}"),
    };
    actions.iter().map(request).collect()
}

#[test]
fn one_link_carries_the_lanes_that_the_server_asks_for() {
    let (mut port, current) = Port::attached();
    let requested = port.changed(current, with(1, 3));
    assert_eq!(attaches(&requested), [(lane(current), link(1)); 2]);
    assert_eq!(port.wait(60 * SECOND), [], "both requests are in flight");
    for (index, request) in requests_of(&requested).into_iter().enumerate() {
        assert_eq!(port.changed(current, with(2 + index, 3)), []);
        assert_eq!(port.done(request, AttachResult::Resumed), []);
    }
    assert_eq!(port.wait(60 * SECOND), []);
    let moving = TunnelView {
        is_moving: true,
        ..with(3, 1)
    };
    assert_eq!(port.changed(current, moving), [], "one is being left");
    assert_eq!(port.changed(current, with(3, 1)), [keep(current, 1)]);
    assert_eq!(port.changed(current, with(1, 1)), []);
}

#[test]
fn the_maximum_of_the_client_bounds_the_request() {
    let (mut port, current) = Port::attached();
    let requested = port.changed(current, with(1, usize::MAX / 2));
    assert_eq!(attaches(&requested).len(), MAX_LANES - 1);
    assert_eq!(port.changed(current, with(MAX_LANES, usize::MAX)), []);
}

#[test]
fn the_number_changes_once_a_second_at_most() {
    let (mut port, current) = Port::attached();
    assert_eq!(port.changed(current, with(1, 3)).len(), 2);
    for requested in [1, 4, 2, 4] {
        assert_eq!(port.changed(current, with(1, requested)), []);
    }
    assert_eq!(port.wait(LANE_CHANGE / 2), []);
    let third = port.wait(LANE_CHANGE / 2);
    assert_eq!(attaches(&third), [(lane(current), link(1))]);
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn failed_lanes_are_requested_again_after_a_second() {
    let (mut port, current) = Port::attached();
    let requested = port.changed(current, with(1, 2));
    assert_eq!(port.done(request_of(&requested), failed()), []);
    assert_eq!(port.wait(LANE_CHANGE / 2), []);
    let again = port.wait(LANE_CHANGE);
    assert_eq!(attaches(&again), [(lane(current), link(1))]);
}

/// A port with two links, whose tunnel has a lane on each of them.
fn with_two_links() -> (Port, TestTunnel) {
    let (mut port, current) = Port::attached();
    let first = port.on(further(1, 11));
    port.changed(current, on_both(2, 1));
    port.done(request_of(&first), AttachResult::Resumed);
    (port, current)
}

#[test]
fn several_links_carry_them_in_turn_and_keep_one_each() {
    let (mut port, current) = with_two_links();
    let requested = port.changed(current, on_both(2, 4));
    let each = [(lane(current), link(1)), (lane(current), link(11))];
    assert_eq!(attaches(&requested), each);
    for request in requests_of(&requested) {
        port.done(request, AttachResult::Resumed);
    }
    port.wait(LANE_CHANGE);
    assert_eq!(port.changed(current, on_both(4, 1)), [keep(current, 2)]);
}

#[test]
fn a_lost_tunnel_gets_its_lanes_back_when_it_is_resumed() {
    let (mut port, current) = Port::attached();
    let requested = port.changed(current, with(1, 2));
    port.changed(current, with(2, 2));
    port.done(request_of(&requested), AttachResult::Resumed);
    port.wait(60 * SECOND);
    let resumed = port.lost(current, Code::PeerLost);
    let resumed: Vec<_> = resumed
        .into_iter()
        .filter(|action| matches!(action, PortAction::Attach { .. }))
        .collect();
    assert_eq!(attaches(&resumed), [(resume(current), link(1))]);
    let again = port.changed(current, with(1, 2));
    assert_eq!(attaches(&again[..1]), [(lane(current), link(1))]);
}

/// A port with two links, whose tunnel has a lane on each of them and two more, as its server asks.
fn with_four_lanes() -> (Port, TestTunnel) {
    let (mut port, current) = with_two_links();
    let requested = port.changed(current, on_both(2, 4));
    port.changed(current, on_both(4, 4));
    for request in requests_of(&requested) {
        port.done(request, AttachResult::Resumed);
    }
    port.wait(60 * SECOND);
    (port, current)
}

#[test]
fn a_link_that_lost_its_lane_gets_the_replacement() {
    let (mut port, current) = with_four_lanes();
    // The lanes on link 1 remain.
    assert_eq!(port.changed(current, with(3, 4)), [], "no second lane");
    let again = port.wait(LANE_RETRY);
    let further_lane = AttachPurpose::Lane { tunnel: current.id };
    assert_eq!(attaches(&again), [(further_lane, link(11))]);
    assert_eq!(port.changed(current, on_both(4, 4)), []);
    port.done(request_of(&again), AttachResult::Resumed);
    assert_eq!(port.wait(60 * SECOND), [], "none is left again");
}

#[test]
fn a_lane_under_way_on_a_link_is_the_lane_of_that_link() {
    let (mut port, current) = with_two_links();
    let requested = port.changed(current, on_both(2, 4));
    let each = [(lane(current), link(1)), (lane(current), link(11))];
    assert_eq!(attaches(&requested), each);
    // The first lane on link 11 is lost while its second one is under way.
    assert_eq!(port.changed(current, with(1, 4)), []);
    let later = port.wait(LANE_RETRY + LANE_CHANGE);
    let purposes: Vec<_> = attaches(&later)
        .iter()
        .map(|(purpose, _)| *purpose)
        .collect();
    assert_eq!(purposes, [lane(current)], "in place of the lost one");
}

#[test]
fn a_link_that_is_being_established_has_room_for_its_lane() {
    let (mut port, current) = Port::attached();
    let begins = PortEvent::FurtherLinkBegins {
        slot: 1,
        link: link(11),
    };
    assert_eq!(port.on(begins), []);
    let requested = port.changed(current, with(1, 3));
    assert_eq!(attaches(&requested), [(lane(current), link(1))]);
    port.changed(current, with(2, 3));
    port.done(request_of(&requested), AttachResult::Resumed);
    let further_lane = AttachPurpose::Lane { tunnel: current.id };
    let last = port.on(further(1, 11));
    assert_eq!(attaches(&last), [(further_lane, link(11))]);
    assert_eq!(port.changed(current, on_both(3, 3)), []);
    port.done(request_of(&last), AttachResult::Resumed);
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn a_link_that_fails_to_join_leaves_its_room_to_another_lane() {
    let (mut port, current) = Port::attached();
    let begins = PortEvent::FurtherLinkBegins {
        slot: 1,
        link: link(11),
    };
    port.on(begins);
    assert_eq!(port.changed(current, with(1, 2)), []);
    let requested = port.on(PortEvent::LinkEnded(link(11)));
    assert_eq!(attaches(&requested), [(lane(current), link(1))]);
}

#[test]
fn a_link_that_is_being_established_does_not_hold_a_lane_back_unnoticed() {
    let (mut port, current) = Port::attached();
    port.on(PortEvent::FurtherLinkBegins {
        slot: 1,
        link: link(11),
    });
    assert_eq!(port.changed(current, with(1, 2)), []);
    // No event reports its failure: the caller looks at the links before each deadline's event.
    let deadline = port.machine.next_deadline();
    assert_eq!(deadline, Some(port.now.awake + LANE_CHANGE));
    assert_eq!(port.wait(LANE_CHANGE), []);
    assert!(port.machine.next_deadline().is_some(), "it looks again");
    port.on(further(1, 11));
    assert_eq!(port.machine.next_deadline(), None);
}

#[test]
fn requested_lanes_join_a_resumed_tunnel_when_the_server_carries_it_too() {
    let (mut port, current) = Port::attached();
    let at_client_alone = TunnelView {
        accepts_lanes: false,
        ..with(1, 3)
    };
    assert_eq!(port.changed(current, at_client_alone), []);
    let requested = port.changed(current, with(1, 3));
    assert_eq!(attaches(&requested), [(lane(current), link(1)); 2]);
    // The whole tunnel is lost and resumed at once: the lanes do not wait either.
    for request in requests_of(&requested) {
        port.done(request, AttachResult::Resumed);
    }
    port.changed(current, with(3, 3));
    port.lost(current, Code::PeerLost);
    assert_eq!(port.changed(current, at_client_alone), [ready(current)]);
    let again = port.changed(current, with(1, 3));
    assert_eq!(attaches(&again), [(lane(current), link(1)); 2]);
}
