//! Tests of several lanes: one that joins, one that is left or lost, and their limit.

use super::*;
use crate::tunnel::core::state::TAKEOVER_WAIT;

/// Lets an attachment join at both ends. Returns its channels: the client's, then the server's.
fn join(now: Moment, client: &mut End, server: &mut End) -> (u64, [Arc<TestChannel>; 2]) {
    let attempt = client.core.next_attempt();
    assert_eq!(server.core.admit(attempt, true), Ok(TakeoverKind::Join));
    let channels =
        [&mut *client, &mut *server].map(|end| end.take_over(now, attempt, TakeoverKind::Join));
    (attempt, channels)
}

#[test]
fn a_move_ends_after_moved_in_both_directions_and_the_client_closes_the_old_channel() {
    let now = Moment::now();
    let (mut client, mut server, old) = attached(now);
    let (attempt, new) = join(now, &mut client, &mut server);
    client.core.leave_replaced(now, attempt, &[old[0].link]);
    client.settle();
    assert!(client.core.is_moving() && !client.core.is_attached_through(old[0].link));
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    for end in [&client, &server] {
        assert_eq!(end.events, [TunnelEvent::Moved]);
    }
    assert!(!client.core.is_moving());
    assert_eq!(old[0].closes(), [Code::Cancelled]);
    assert!(old[1].closes().is_empty() && new[0].closes().is_empty());
    assert!(client.core.is_attached_through(new[0].link));
    let closed = Notice::new(Code::Cancelled, "");
    server.core.attachment_lost(now, FIRST_ATTEMPT, closed);
    server.settle();
    assert_eq!(server.events, [TunnelEvent::Moved], "nothing was lost");
    assert!(!server.core.is_moving() && server.core.is_attached_through(new[1].link));
}

#[test]
fn a_lane_is_left_only_when_the_server_knows_the_one_that_replaces_it() {
    let now = Moment::now();
    let (mut client, mut server, old) = attached(now);
    let attempt = client.core.next_attempt();
    client.take_over(now, attempt, TakeoverKind::Join);
    client.core.leave_replaced(now, attempt, &[old[0].link]);
    client.settle();
    // MOVED overtakes the first message on the other link.
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert!(!server.core.is_detached() && !server.core.is_moving());
    server.take_over(now, attempt, TakeoverKind::Join);
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    for end in [&client, &server] {
        assert_eq!(end.events, [TunnelEvent::Moved]);
    }
}

#[test]
fn a_lane_that_is_not_left_in_time_is_closed() {
    let start = Moment::now();
    let (mut client, mut server, old) = attached(start);
    let (attempt, new) = join(start, &mut client, &mut server);
    client.core.leave_replaced(start, attempt, &[old[0].link]);
    client.core.handle_timeout(later(start, MOVE_TIMEOUT));
    client.settle();
    assert!(!client.core.is_moving() && !client.core.is_detached());
    assert_eq!(
        (old[0].closes(), new[0].closes()),
        (vec![Code::Timeout], vec![])
    );
}

#[test]
fn what_a_lost_lane_carried_leaves_on_another_at_once() {
    let now = Moment::now();
    let (mut client, mut server, _) = attached(now);
    let stream = client.core.mux.open(Bytes::new());
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    let (attempt, _) = join(now, &mut client, &mut server);
    let write = client.core.mux.write(stream, Bytes::from_static(b"lost"));
    write.unwrap();
    drop(client.messages(now, FIRST_ATTEMPT));
    let why = Notice::new(Code::PeerLost, "cut");
    client.core.attachment_lost(now, FIRST_ATTEMPT, why.clone());
    client.settle();
    let event = TunnelEvent::LaneLost { lanes: 1, why };
    assert_eq!(client.events, [event]);
    exchange(now, &mut client, &mut server, attempt);
    assert_eq!(
        server.core.mux.read(stream),
        Ok(mux::StreamRead::Data(Bytes::from_static(b"lost")))
    );
    assert!(!client.core.is_detached() && !server.core.is_detached());
    assert!(
        matches!(server.events[..], [TunnelEvent::LaneLost { lanes: 1, .. }]),
        "the client reports the loss: {:?}",
        server.events
    );
}

#[test]
fn a_tunnel_has_only_so_many_lanes() {
    let now = Moment::now();
    let (mut client, mut server, _) = attached(now);
    for _ in 1..LANES_MAX {
        join(now, &mut client, &mut server);
    }
    let next = client.core.next_attempt();
    assert_eq!(server.core.admit(next, true), Err(AdmitError::TooManyLanes));
    assert_eq!(server.core.admit(next, false), Ok(TakeoverKind::Resume));
}

#[test]
fn a_move_request_reaches_only_a_client_on_that_link() {
    let now = Moment::now();
    let (mut client, mut server, channels) = attached(now);
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    server.core.request_move(channels[0].link);
    server.settle();
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert!(client.events.is_empty(), "another link");
    server.core.request_move(channels[1].link);
    server.settle();
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert_eq!(client.events, [TunnelEvent::MoveRequested]);
    let (attempt, _) = join(now, &mut client, &mut server);
    client.core.leave_replaced(now, attempt, &[]);
    assert!(
        !client.core.is_attached_through(channels[0].link),
        "the lane that the server asked to leave"
    );
}

/// Lets an end take over with the message that the peer's candidate sent.
fn take_over(
    now: Moment,
    end: &mut End,
    attempt: u64,
    kind: TakeoverKind,
    from_peer: VecDeque<Bytes>,
) {
    end.take_over(now, attempt, kind);
    end.receive(now, attempt, from_peer);
    end.settle();
}

/// Ends the lane of an attempt without MOVED.
fn cut(now: Moment, end: &mut End, attempt: u64) {
    let why = Notice::new(Code::PeerLost, "cut");
    end.core.attachment_lost(now, attempt, why);
    end.settle();
}

/// Returns how often an end has reported a resumption.
fn resumptions(end: &End) -> usize {
    let is_resumed = |event: &&TunnelEvent| matches!(event, TunnelEvent::Resumed { .. });
    end.events.iter().filter(is_resumed).count()
}

#[test]
fn lanes_join_a_resumed_tunnel_when_the_server_has_taken_over_too() {
    let now = Moment::now();
    let (mut client, mut server, _) = attached(now);
    for end in [&mut client, &mut server] {
        cut(now, end, FIRST_ATTEMPT);
    }
    let (attempt, kind) = (client.core.next_attempt(), TakeoverKind::Resume);
    assert_eq!(server.core.admit(attempt, false), Ok(kind));
    let [from_client, from_server] = first_messages(now, &mut client, &mut server, attempt, kind);
    take_over(now, &mut client, attempt, kind, from_server);
    // The client's message is still under way.
    let early = client.core.next_attempt();
    assert_eq!(server.core.admit(early, true), Ok(kind), "not a lane");
    assert!(client.core.can_join() && !client.core.accepts_lanes());
    assert_eq!(client.lanes_accepted, 0);
    take_over(now, &mut server, attempt, kind, from_client);
    // No stream has anything to send.
    exchange(now, &mut client, &mut server, attempt);
    assert!(client.core.accepts_lanes());
    assert_eq!((client.lanes_accepted, server.lanes_accepted), (1, 0));
    for _ in 0..3 {
        join(now, &mut client, &mut server);
    }
    assert_eq!((client.core.lanes(), server.core.lanes()), (4, 4));
    assert_eq!((resumptions(&client), resumptions(&server)), (1, 1));
}

#[test]
fn lanes_do_not_wait_long_for_the_takeover_of_the_server() {
    let now = Moment::now();
    let (mut client, mut server, _) = attached(now);
    for end in [&mut client, &mut server] {
        cut(now, end, FIRST_ATTEMPT);
    }
    let (attempt, kind) = (client.core.next_attempt(), TakeoverKind::Resume);
    let [_, from_server] = first_messages(now, &mut client, &mut server, attempt, kind);
    take_over(now, &mut client, attempt, kind, from_server);
    let deadline = client.core.rearm();
    assert_eq!(deadline, Some(now.awake + TAKEOVER_WAIT));
    assert!(!client.core.accepts_lanes());
    client.core.handle_timeout(later(now, TAKEOVER_WAIT));
    client.settle();
    assert!(client.core.accepts_lanes());
    assert_eq!(client.lanes_accepted, 1);
}

#[test]
fn lanes_join_a_new_tunnel_when_the_server_has_taken_over_too() {
    let now = Moment::now();
    let mut client = End::new(TunnelSide::Client, now);
    let mut server = End::new(TunnelSide::Server, now);
    let kind = TakeoverKind::Resume;
    let [from_client, from_server] =
        first_messages(now, &mut client, &mut server, FIRST_ATTEMPT, kind);
    take_over(now, &mut client, FIRST_ATTEMPT, kind, from_server);
    assert!(client.core.can_join() && !client.core.accepts_lanes());
    take_over(now, &mut server, FIRST_ATTEMPT, kind, from_client);
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert!(client.core.accepts_lanes());
    join(now, &mut client, &mut server);
}

#[test]
fn a_lane_that_joined_after_the_loss_of_the_others_is_awaited_at_the_server_too() {
    let now = Moment::now();
    let (mut client, mut server, _) = attached(now);
    resume(now, &mut client, &mut server);
    assert!(client.core.accepts_lanes());
    let (attempt, kind) = (client.core.next_attempt(), TakeoverKind::Join);
    assert_eq!(server.core.admit(attempt, true), Ok(kind));
    let [from_client, from_server] = first_messages(now, &mut client, &mut server, attempt, kind);
    // The server does not know of the loss, and answers PING on the lane that is lost.
    cut(now, &mut client, attempt - 1);
    take_over(now, &mut client, attempt, kind, from_server);
    assert!(!client.core.accepts_lanes());
    take_over(now, &mut server, attempt, kind, from_client);
    exchange(now, &mut client, &mut server, attempt);
    assert!(client.core.accepts_lanes());
    assert_eq!(client.lanes_accepted, 2);
}

#[test]
fn the_later_of_two_resumptions_wins_in_any_order_of_their_messages() {
    for is_later_first in [false, true] {
        let now = Moment::now();
        let (_, mut server, _) = attached(now);
        cut(now, &mut server, FIRST_ATTEMPT);
        // Without a lane, a lane that would join resumes the tunnel.
        for (attempt, joins) in [(1, false), (2, true)] {
            let admitted = server.core.admit(attempt, joins);
            assert_eq!(admitted, Ok(TakeoverKind::Resume));
        }
        if is_later_first {
            server.take_over(now, 2, TakeoverKind::Resume);
            let earlier = server.core.admit(1, false);
            assert_eq!(earlier, Err(AdmitError::Superseded));
            let handle: Channel = TestChannel::new();
            let refused = server.core.take_over(now, 1, handle, TakeoverKind::Resume);
            assert_eq!(refused.map_err(|notice| notice.code), Err(Code::Superseded));
        } else {
            let earlier = server.take_over(now, 1, TakeoverKind::Resume);
            assert_eq!(server.core.admit(3, true), Ok(TakeoverKind::Join));
            server.take_over(now, 2, TakeoverKind::Resume);
            assert_eq!(earlier.closes(), [Code::Superseded]);
        }
        assert_eq!(server.core.lanes(), 1);
    }
}
