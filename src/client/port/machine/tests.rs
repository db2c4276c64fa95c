//! The rules of a port in virtual time: how its tunnels are attached, lost, moved and ended.

mod lanes;
mod random;
mod requested_lanes;
mod requests;
mod retirement;

use super::{requests::MIN_RETRY_WAIT, *};
use crate::client::port::event::{AttachResult, Slots};

const SECOND: Duration = Duration::from_secs(1);

/// The maximum number of lanes of a tunnel at the server's request.
const MAX_LANES: usize = 4;

/// A tunnel, and the server that holds it.
#[derive(Clone, Copy)]
struct TestTunnel {
    id: Id,
    server: Id,
}

fn tunnel(number: u8, server: u8) -> TestTunnel {
    TestTunnel {
        id: Id([number; 16]),
        server: server_id(server),
    }
}

fn server_id(number: u8) -> Id {
    Id([number; 16])
}

fn link(number: u64) -> LinkId {
    LinkId::of_test(number)
}

/// A port, and the time.
struct Port {
    machine: PortMachine,
    now: Moment,
}

impl Port {
    fn new() -> Self {
        let now = Moment {
            awake: Instant::now(),
            suspended: Duration::ZERO,
        };
        Port {
            machine: PortMachine::with_lanes(MAX_LANES),
            now,
        }
    }

    /// Returns a port whose tunnel 1, of server 1, is attached on link 1.
    fn attached() -> (Self, TestTunnel) {
        let (mut port, current) = (Port::new(), tunnel(1, 1));
        let requested = port.link(1);
        port.done(request_of(&requested), new(current, 1));
        (port, current)
    }

    fn on(&mut self, event: PortEvent) -> Vec<PortAction> {
        self.machine.on(event, self.now)
    }

    /// Begins and establishes a link. Returns the actions of its first flight.
    fn link(&mut self, number: u64) -> Vec<PortAction> {
        let first_flight = self.on(PortEvent::LinkBegins(link(number)));
        assert_eq!(self.on(PortEvent::LinkUp(link(number))), []);
        first_flight
    }

    fn done(&mut self, request: RequestNumber, result: AttachResult) -> Vec<PortAction> {
        self.done_with(request, result, 1.0)
    }

    fn done_with(
        &mut self,
        request: RequestNumber,
        result: AttachResult,
        jitter: f64,
    ) -> Vec<PortAction> {
        self.on(PortEvent::AttachDone {
            request,
            result,
            jitter,
        })
    }

    fn changed(&mut self, tunnel: TestTunnel, view: TunnelView) -> Vec<PortAction> {
        self.on(PortEvent::TunnelChanged {
            tunnel: tunnel.id,
            view,
        })
    }

    fn lost(&mut self, tunnel: TestTunnel, code: Code) -> Vec<PortAction> {
        let since = self.now;
        self.changed(tunnel, view(TunnelPhase::Lost { since, code }))
    }

    fn refused(&mut self, tunnel: TestTunnel) -> Vec<PortAction> {
        self.on(PortEvent::ServiceRefused {
            tunnel: tunnel.id,
            server: tunnel.server,
        })
    }

    /// Lets time pass, and every deadline on the way. Returns the actions of the deadlines.
    fn wait(&mut self, duration: Duration) -> Vec<PortAction> {
        let (until, mut actions) = (self.now.awake + duration, Vec::new());
        while let Some(deadline) = self.machine.next_deadline().filter(|at| *at <= until) {
            self.now.awake = self.now.awake.max(deadline);
            actions.extend(self.on(PortEvent::Timeout));
            let next = self.machine.next_deadline();
            assert!(
                next.is_none_or(|next| next > self.now.awake),
                "a deadline that does not end"
            );
        }
        self.now.awake = until;
        actions
    }
}

fn view(phase: TunnelPhase) -> TunnelView {
    TunnelView {
        phase,
        further_lanes: Slots::default(),
        accepts_lanes: matches!(phase, TunnelPhase::Attached { .. }),
        lanes: 1,
        requested_lanes: 1,
        has_lane_to_leave: false,
        is_moving: false,
        is_ending: false,
        has_streams: true,
    }
}

fn attached_on(number: u64) -> TunnelView {
    attached_through(link(number))
}

fn attached_through(link: LinkId) -> TunnelView {
    view(TunnelPhase::Attached { link: Some(link) })
}

/// The reply of a server that has run for an hour.
fn new(tunnel: TestTunnel, number: u64) -> AttachResult {
    new_from(tunnel, link(number), 3600 * SECOND)
}

fn new_from(tunnel: TestTunnel, link: LinkId, server_age: Duration) -> AttachResult {
    AttachResult::New(NewTunnel {
        tunnel: tunnel.id,
        server: tunnel.server,
        server_age,
        seen: None,
        view: attached_through(link),
    })
}

fn failed() -> AttachResult {
    AttachResult::Failed { is_retryable: true }
}

/// Returns what the actions attach, and on which link. They contain nothing else.
fn attaches(actions: &[PortAction]) -> Vec<(AttachPurpose, LinkId)> {
    let attach = |action: &PortAction| match action {
        PortAction::Attach { purpose, link, .. } => (*purpose, *link),
        other => panic!("not an attach request: {other:?}"),
    };
    actions.iter().map(attach).collect()
}

/// Returns the number of the only request among the actions.
fn request_of(actions: &[PortAction]) -> RequestNumber {
    let mut requests = actions.iter().filter_map(|action| match action {
        PortAction::Attach { request, .. } => Some(*request),
        _ => None,
    });
    let request = requests.next().expect("an attach request");
    assert_eq!(requests.next(), None, "one request: {actions:?}");
    request
}

fn resume(tunnel: TestTunnel) -> AttachPurpose {
    AttachPurpose::Resume { tunnel: tunnel.id }
}

fn adopt(tunnel: TestTunnel) -> PortAction {
    PortAction::Adopt { tunnel: tunnel.id }
}

fn ready(tunnel: TestTunnel) -> PortAction {
    PortAction::SetReady(Some(tunnel.id))
}

fn end(tunnel: TestTunnel, reason: EndTunnelReason) -> PortAction {
    PortAction::EndTunnel {
        tunnel: tunnel.id,
        reason,
    }
}

const NOT_READY: PortAction = PortAction::SetReady(None);

#[test]
fn first_link_requests_a_tunnel_in_its_first_flight() {
    let (mut port, first) = (Port::new(), tunnel(1, 1));
    let requested = port.link(1);
    assert_eq!(attaches(&requested), [(AttachPurpose::New, link(1))]);
    assert_eq!(
        port.done(request_of(&requested), new(first, 1)),
        [adopt(first), ready(first)]
    );
    assert_eq!(port.wait(3600 * SECOND), []);
}

#[test]
fn newer_link_takes_the_tunnel_over_in_its_first_flight() {
    let (mut port, current) = Port::attached();
    let requested = port.link(2);
    assert_eq!(attaches(&requested), [(resume(current), link(2))]);
    assert_eq!(port.changed(current, attached_on(2)), []);
    assert_eq!(port.done(request_of(&requested), AttachResult::Resumed), []);
    assert_eq!(port.on(PortEvent::LinkEnded(link(1))), []);
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn second_move_waits_for_the_first() {
    let (mut port, current) = Port::attached();
    let requested = port.link(2);
    let moving = TunnelView {
        is_moving: true,
        ..attached_on(2)
    };
    assert_eq!(port.changed(current, moving), []);
    port.done(request_of(&requested), AttachResult::Resumed);
    // Neither the first flight of a third link nor its join may start another move.
    assert_eq!(port.link(3), []);
    let move_requested = PortEvent::MoveRequested { tunnel: current.id };
    assert_eq!(port.on(move_requested), []);
    assert_eq!(port.changed(current, moving), []);
    let moved = port.changed(current, attached_on(2));
    assert_eq!(
        attaches(&moved),
        [(resume(current), link(3))],
        "once for both"
    );
}

#[test]
fn move_request_needs_a_new_channel_even_on_the_same_link() {
    let (mut port, current) = Port::attached();
    let move_requested = || PortEvent::MoveRequested { tunnel: current.id };
    let requested = port.on(move_requested());
    assert_eq!(attaches(&requested), [(resume(current), link(1))]);
    // The pending request may reach the old link of the server: another one follows it.
    assert_eq!(port.on(move_requested()), []);
    assert_eq!(port.on(move_requested()), []);
    let again = port.done(request_of(&requested), AttachResult::Resumed);
    assert_eq!(attaches(&again), [(resume(current), link(1))]);
    assert_eq!(port.done(request_of(&again), AttachResult::Resumed), []);
}

#[test]
fn lost_tunnel_is_attached_on_the_newest_link_that_is_up() {
    let (mut port, current) = Port::attached();
    let replaced = port.link(2);
    port.done(request_of(&replaced), failed());
    let begun = port.on(PortEvent::LinkBegins(link(3)));
    assert_eq!(attaches(&begun), [(resume(current), link(3))]);
    let actions = port.lost(current, Code::PeerLost);
    assert_eq!(attaches(&actions[..1]), [(resume(current), link(2))]);
    assert_eq!(actions[1..], [NOT_READY]);
    assert_eq!(port.changed(current, attached_on(2)), [ready(current)]);
}

#[test]
fn tunnel_that_is_back_in_time_gets_no_companion() {
    let (mut port, current) = Port::attached();
    let actions = port.lost(current, Code::PeerLost);
    assert_eq!(port.wait(RESUME_PATIENCE / 2), []);
    port.changed(current, attached_on(1));
    port.done(request_of(&actions), AttachResult::Resumed);
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn tunnel_that_stays_lost_gets_a_companion_until_it_is_back() {
    let (mut port, current) = Port::attached();
    let resumed = request_of(&port.lost(current, Code::PeerLost));
    assert_eq!(port.wait(RESUME_PATIENCE - Duration::from_millis(1)), []);
    let requested = port.wait(Duration::from_millis(1));
    assert_eq!(attaches(&requested), [(AttachPurpose::New, link(1))]);
    let request = request_of(&requested);
    assert_eq!(
        port.changed(current, attached_on(1)),
        [PortAction::CancelAttach { request }, ready(current)]
    );
    assert_eq!(port.done(resumed, AttachResult::Resumed), []);
    assert_eq!(port.done(request, AttachResult::Unanswered), []);
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn companion_that_arrives_too_late_is_ended() {
    let (mut port, current) = Port::attached();
    port.lost(current, Code::PeerLost);
    let request = request_of(&port.wait(RESUME_PATIENCE));
    port.changed(current, attached_on(1));
    // The reply was on its way when the request was cancelled.
    let late = tunnel(2, 2);
    assert_eq!(
        port.done(request, new(late, 1)),
        [end(late, EndTunnelReason::Redundant)]
    );
}

#[test]
fn patience_begins_again_with_each_link() {
    let (mut port, current) = Port::attached();
    port.on(PortEvent::LinkEnded(link(1)));
    assert_eq!(port.lost(current, Code::PeerLost), [NOT_READY]);
    assert_eq!(port.wait(60 * SECOND), [], "no link is up");
    assert_eq!(attaches(&port.link(2)), [(resume(current), link(2))]);
    let requested = port.wait(RESUME_PATIENCE);
    assert_eq!(attaches(&requested), [(AttachPurpose::New, link(2))]);
}

#[test]
fn invalid_messages_delay_the_next_attachment() {
    for code in [
        Code::Seal,
        Code::Protocol,
        Code::FlowControl,
        Code::Handshake,
    ] {
        let (mut port, current) = Port::attached();
        assert_eq!(port.lost(current, code), [NOT_READY]);
        let view = port.machine.tunnels[0].view;
        assert_eq!(port.wait(RESUME_PATIENCE / 2), []);
        assert_eq!(port.changed(current, view), [], "the same loss");
        let resumed = port.wait(RESUME_PATIENCE / 2);
        assert_eq!(attaches(&resumed), [(resume(current), link(1))]);
        let requested = port.wait(RESUME_PATIENCE);
        assert_eq!(attaches(&requested), [(AttachPurpose::New, link(1))]);
    }
}

#[test]
fn failed_resumption_is_retried_while_its_link_exists() {
    let (mut port, current) = Port::attached();
    let mut actions = port.lost(current, Code::PeerLost);
    for result in [failed(), AttachResult::Expired, AttachResult::Unanswered] {
        assert_eq!(port.done_with(request_of(&actions), result, 0.5), []);
        assert_eq!(port.wait(MIN_RETRY_WAIT / 2 - SECOND / 1000), []);
        actions = port.wait(SECOND / 1000);
        assert_eq!(attaches(&actions), [(resume(current), link(1))]);
    }
    port.on(PortEvent::LinkEnded(link(1)));
    port.done(request_of(&actions), failed());
    assert_eq!(port.wait(60 * SECOND), []);
}

#[test]
fn restarted_server_ends_the_tunnel_of_its_predecessor() {
    let (mut port, old) = Port::attached();
    let resumed = request_of(&port.lost(old, Code::PeerLost));
    // Time in suspend counts.
    port.now.suspended += 10 * SECOND;
    let successor = tunnel(2, 2);
    assert_eq!(
        port.done(resumed, new_from(successor, link(1), 9 * SECOND)),
        [
            adopt(successor),
            end(old, EndTunnelReason::ServerRestarted),
            ready(successor)
        ]
    );
    let ended = port.changed(old, view(TunnelPhase::Ended));
    assert_eq!(ended, [PortAction::Forget { tunnel: old.id }]);
}

#[test]
fn second_server_leaves_the_tunnel_of_the_first_alone() {
    let (mut port, old) = Port::attached();
    let resumed = request_of(&port.lost(old, Code::PeerLost));
    let second = tunnel(2, 2);
    assert_eq!(
        port.done(resumed, new(second, 1)),
        [adopt(second), ready(second)]
    );
    // The server of the old tunnel may be back by now.
    let again = port.wait(RESUME_PATIENCE);
    assert_eq!(attaches(&again), [(resume(old), link(1))]);
    assert_eq!(port.changed(old, attached_on(1)), []);
    assert_eq!(port.done(request_of(&again), AttachResult::Resumed), []);
}

#[test]
fn old_tunnel_ends_after_its_last_stream() {
    let (mut port, old) = Port::attached();
    let resumed = request_of(&port.lost(old, Code::PeerLost));
    port.done(resumed, new(tunnel(2, 2), 1));
    port.changed(old, attached_on(1));
    assert_eq!(port.wait(10 * EMPTY_CHECK), [], "it has streams");
    let empty = TunnelView {
        has_streams: false,
        ..attached_on(1)
    };
    assert_eq!(port.changed(old, empty), []);
    assert_eq!(port.wait(EMPTY_CHECK), [end(old, EndTunnelReason::Unused)]);
    assert_eq!(port.wait(10 * EMPTY_CHECK), [], "once");
}

#[test]
fn server_that_does_not_know_its_tunnel_gives_a_new_one() {
    let (mut port, old) = Port::attached();
    // The old attachment still exists when the reply arrives.
    let resumed = request_of(&port.link(2));
    let (next, seen) = (tunnel(2, 1), Some(7));
    let reply = AttachResult::New(NewTunnel {
        tunnel: next.id,
        server: next.server,
        server_age: 3600 * SECOND,
        seen,
        view: attached_on(2),
    });
    assert_eq!(
        port.done(resumed, reply),
        [
            end(old, EndTunnelReason::UnknownAtServer { seen }),
            adopt(next),
            ready(next)
        ]
    );
}
