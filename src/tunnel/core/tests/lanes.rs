//! Tests of several lanes: one that joins, one that is left or lost, and their limit.

use super::*;

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
