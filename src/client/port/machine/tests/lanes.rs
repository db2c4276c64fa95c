//! Lanes on further links.

use super::*;
use crate::client::port::machine::lanes::LANE_RETRY;

fn lane(tunnel: TestTunnel) -> AttachPurpose {
    AttachPurpose::Lane { tunnel: tunnel.id }
}

fn with_lanes(view: TunnelView, slots: &[usize]) -> TunnelView {
    TunnelView {
        further_lanes: slots.iter().copied().collect(),
        ..view
    }
}

fn further(slot: usize, number: u64) -> PortEvent {
    PortEvent::FurtherLinkUp {
        slot,
        link: link(number),
    }
}

#[test]
fn each_further_link_gets_a_lane_of_an_attached_tunnel() {
    let (mut port, current) = Port::attached();
    let requested = port.on(further(1, 11));
    assert_eq!(attaches(&requested), [(lane(current), link(11))]);
    assert_eq!(port.wait(10 * SECOND), [], "one request at a time");
    let on_both = with_lanes(attached_on(1), &[1]);
    assert_eq!(port.changed(current, on_both), []);
    assert_eq!(port.done(request_of(&requested), AttachResult::Resumed), []);
    let requested = port.on(further(2, 12));
    assert_eq!(attaches(&requested), [(lane(current), link(12))]);
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn a_tunnel_without_an_attachment_gets_no_lane_until_it_is_resumed() {
    let (mut port, current) = Port::attached();
    port.on(PortEvent::LinkEnded(link(1)));
    port.lost(current, Code::PeerLost);
    assert_eq!(port.on(further(1, 11)), []);
    let resumed = port.link(2);
    assert_eq!(attaches(&resumed), [(resume(current), link(2))]);
    let requested = port.changed(current, attached_on(2));
    assert_eq!(attaches(&requested[..1]), [(lane(current), link(11))]);
}

#[test]
fn a_lost_lane_is_requested_again_after_a_while() {
    let (mut port, current) = Port::attached();
    let requested = port.on(further(1, 11));
    port.changed(current, with_lanes(attached_on(1), &[1]));
    port.done(request_of(&requested), AttachResult::Resumed);
    assert_eq!(port.changed(current, attached_on(1)), [], "lost");
    assert_eq!(port.wait(LANE_RETRY / 2), []);
    let again = port.wait(LANE_RETRY);
    assert_eq!(attaches(&again), [(lane(current), link(11))]);
    assert_eq!(port.done(request_of(&again), failed()), []);
    let again = port.wait(LANE_RETRY);
    assert_eq!(attaches(&again), [(lane(current), link(11))]);
}

#[test]
fn the_lanes_of_a_retiring_link_are_left() {
    let (mut port, current) = Port::attached();
    let requested = port.on(further(1, 11));
    port.changed(current, with_lanes(attached_on(1), &[1]));
    port.done(request_of(&requested), AttachResult::Resumed);
    let (tunnel, link) = (current.id, link(11));
    assert_eq!(
        port.on(PortEvent::FurtherLinkRetiring(link)),
        [PortAction::LeaveLink { tunnel, link }]
    );
    assert_eq!(port.changed(current, attached_on(1)), []);
    assert_eq!(port.on(PortEvent::LinkEnded(link)), []);
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn a_tunnel_whose_first_lane_is_lost_gets_it_back_without_a_companion() {
    let (mut port, current) = Port::attached();
    let requested = port.on(further(1, 11));
    port.changed(current, with_lanes(attached_on(1), &[1]));
    port.done(request_of(&requested), AttachResult::Resumed);
    let on_further = with_lanes(view(TunnelPhase::Attached { link: None }), &[1]);
    let again = port.changed(current, on_further);
    assert_eq!(attaches(&again), [(resume(current), link(1))]);
    assert_eq!(port.wait(60 * SECOND), [], "the tunnel is attached");
}

#[test]
fn a_new_link_of_the_slot_gets_a_lane_although_the_old_one_has_one() {
    let (mut port, current) = Port::attached();
    let requested = port.on(further(1, 11));
    port.changed(current, with_lanes(attached_on(1), &[1]));
    port.done(request_of(&requested), AttachResult::Resumed);
    // The lane on the old link does not count for the slot any more.
    port.changed(current, attached_on(1));
    let requested = port.on(further(1, 21));
    assert_eq!(attaches(&requested), [(lane(current), link(21))]);
}

#[test]
fn a_lane_that_could_not_be_left_at_first_is_left_when_others_carry_on() {
    let (mut port, current) = Port::attached();
    let requested = port.on(further(1, 11));
    port.changed(current, with_lanes(attached_on(1), &[1]));
    port.done(request_of(&requested), AttachResult::Resumed);
    let to_leave = |view| TunnelView {
        has_lane_to_leave: true,
        ..view
    };
    let tunnel = current.id;
    let leave = [PortAction::LeaveRetiringLinks { tunnel }];
    assert_eq!(port.changed(current, to_leave(attached_on(1))), leave);
    assert_eq!(port.on(PortEvent::LinkEnded(link(99))), [], "once");
    assert_eq!(port.changed(current, to_leave(attached_on(1))), leave);
    let since = port.now;
    let code = Code::PeerLost;
    let lost = port.changed(current, to_leave(view(TunnelPhase::Lost { since, code })));
    assert!(!lost.contains(&leave[0]), "{lost:?}");
}

#[test]
fn lanes_join_a_resumed_tunnel_when_the_server_carries_it_too() {
    let (mut port, current) = Port::attached();
    port.on(PortEvent::LinkEnded(link(1)));
    port.lost(current, Code::PeerLost);
    for (slot, number) in [(1, 11), (2, 12)] {
        assert_eq!(port.on(further(slot, number)), []);
    }
    let resumed = port.link(2);
    let at_client_alone = TunnelView {
        accepts_lanes: false,
        ..attached_on(2)
    };
    assert_eq!(port.changed(current, at_client_alone), [ready(current)]);
    assert_eq!(port.done(request_of(&resumed), AttachResult::Resumed), []);
    let requested = port.changed(current, attached_on(2));
    let both = [(lane(current), link(11)), (lane(current), link(12))];
    assert_eq!(attaches(&requested), both, "at once");
}

#[test]
fn lanes_that_were_lost_with_the_tunnel_join_again_without_a_wait() {
    let (mut port, current) = Port::attached();
    let requested = port.on(further(1, 11));
    port.changed(current, with_lanes(attached_on(1), &[1]));
    port.done(request_of(&requested), AttachResult::Resumed);
    port.lost(current, Code::PeerLost);
    let again = port.changed(current, attached_on(1));
    assert_eq!(attaches(&again[..1]), [(lane(current), link(11))]);
}
