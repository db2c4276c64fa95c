//! Requests for a new tunnel: their retries, and the search for another server.

use super::{super::requests::MAX_RETRY_WAIT, *};

#[test]
fn failed_request_is_sent_again_with_growing_waits() {
    let mut port = Port::new();
    let mut actions = port.link(1);
    let mut wait = MIN_RETRY_WAIT;
    for _ in 0..12 {
        assert_eq!(port.done(request_of(&actions), failed()), []);
        assert_eq!(port.wait(wait - SECOND / 1000), []);
        actions = port.wait(SECOND / 1000);
        assert_eq!(
            attaches(&actions),
            [(AttachPurpose::New, link(1))],
            "{wait:?}"
        );
        wait = (wait * 2).min(MAX_RETRY_WAIT);
    }
    assert_eq!(wait, MAX_RETRY_WAIT);
    // A request that expired at the master reached it: no reason to wait.
    assert_eq!(
        port.done_with(request_of(&actions), AttachResult::Expired, 0.5),
        []
    );
    actions = port.wait(MIN_RETRY_WAIT / 2);
    assert_eq!(attaches(&actions), [(AttachPurpose::New, link(1))]);
    assert_eq!(port.done(request_of(&actions), failed()), []);
    assert_eq!(attaches(&port.wait(MIN_RETRY_WAIT)).len(), 1, "reset");
}

#[test]
fn lasting_failure_is_retried_rarely() {
    let mut port = Port::new();
    let lasting = AttachResult::Failed {
        is_retryable: false,
    };
    let request = request_of(&port.link(1));
    assert_eq!(port.done_with(request, lasting, 0.0), []);
    assert_eq!(port.wait(MAX_RETRY_WAIT - SECOND / 1000), []);
    assert_eq!(attaches(&port.wait(SECOND / 1000)).len(), 1);
}

#[test]
fn denied_request_is_retried_rarely() {
    let mut port = Port::new();
    let request = request_of(&port.link(1));
    assert_eq!(port.done_with(request, AttachResult::Denied, 0.0), []);
    assert_eq!(port.wait(MAX_RETRY_WAIT - SECOND / 1000), []);
    assert_eq!(attaches(&port.wait(SECOND / 1000)).len(), 1);
}

#[test]
fn denied_resumption_is_retried_rarely_while_its_link_exists() {
    let (mut port, current) = Port::attached();
    let requested = port.lost(current, Code::PeerLost);
    assert_eq!(port.done(request_of(&requested), AttachResult::Denied), []);
    // The port also requests a new tunnel, which is denied too.
    let replacement = port.wait(RESUME_PATIENCE);
    assert_eq!(attaches(&replacement), [(AttachPurpose::New, link(1))]);
    let replacement = request_of(&replacement);
    assert_eq!(port.done_with(replacement, AttachResult::Denied, 0.0), []);
    assert_eq!(
        port.wait(MAX_RETRY_WAIT - RESUME_PATIENCE - SECOND / 1000),
        []
    );
    let again = port.wait(SECOND / 1000);
    assert_eq!(attaches(&again), [(resume(current), link(1))]);
    // The next link attaches the tunnel at once.
    let first_flight = port.link(2);
    assert_eq!(attaches(&first_flight), [(resume(current), link(2))]);
}

#[test]
fn tunnel_that_the_master_denies_is_attached_again_after_a_rest() {
    let (mut port, current) = Port::attached();
    assert_eq!(port.lost(current, Code::Denied), [NOT_READY]);
    assert_eq!(port.wait(MAX_RETRY_WAIT - SECOND / 1000), []);
    let again = port.wait(SECOND / 1000);
    assert_eq!(attaches(&again), [(resume(current), link(1))]);
}

#[test]
fn link_that_ends_during_a_retry_wait_does_not_block_the_next_one() {
    let (mut port, current) = Port::attached();
    port.lost(current, Code::PeerLost);
    let request = request_of(&port.wait(RESUME_PATIENCE));
    let lasting = AttachResult::Failed {
        is_retryable: false,
    };
    port.done(request, lasting);
    assert_eq!(port.on(PortEvent::LinkEnded(link(1))), []);
    port.link(2);
    let requested = port.wait(RESUME_PATIENCE);
    assert_eq!(attaches(&requested), [(AttachPurpose::New, link(2))]);
}

#[test]
fn newer_link_replaces_a_request_that_is_pending() {
    let mut port = Port::new();
    let first = request_of(&port.link(1));
    let second = request_of(&port.link(2));
    assert_eq!(port.done(first, failed()), []);
    assert_eq!(port.wait(60 * SECOND), [], "only the newer one is retried");
    port.done(second, failed());
    let again = port.wait(MIN_RETRY_WAIT);
    assert_eq!(attaches(&again), [(AttachPurpose::New, link(2))]);
}

/// The client asked for nothing on the older link any more, and a server that came later was not
/// found.
#[test]
fn older_link_is_used_when_a_newer_one_does_not_join() {
    let mut port = Port::new();
    let first = request_of(&port.link(1));
    let begun = port.on(PortEvent::LinkBegins(link(2)));
    let second = request_of(&begun);
    let requested = port.on(PortEvent::LinkEnded(link(2)));
    assert_eq!(attaches(&requested), [(AttachPurpose::New, link(1))]);
    assert_eq!(port.done(second, failed()), []);
    assert_eq!(port.done(first, AttachResult::Expired), []);
    assert_eq!(port.done(request_of(&requested), AttachResult::Expired), []);
    let again = port.wait(MIN_RETRY_WAIT);
    assert_eq!(attaches(&again), [(AttachPurpose::New, link(1))]);
}

#[test]
fn request_without_an_answer_is_sent_again() {
    let mut port = Port::new();
    let request = request_of(&port.link(1));
    assert_eq!(port.done(request, AttachResult::Unanswered), []);
    let again = port.wait(MIN_RETRY_WAIT);
    assert_eq!(attaches(&again), [(AttachPurpose::New, link(1))]);
}

#[test]
fn reply_to_a_replaced_request_is_used() {
    let (mut port, early) = (Port::new(), tunnel(1, 1));
    let first = request_of(&port.link(1));
    let request = request_of(&port.link(2));
    assert_eq!(
        port.done(first, new(early, 1)),
        [
            adopt(early),
            PortAction::CancelAttach { request },
            ready(early)
        ]
    );
}

#[test]
fn request_that_is_not_sent_waits_for_the_next_link() {
    let (mut port, current) = Port::attached();
    let resumed = request_of(&port.lost(current, Code::PeerLost));
    assert_eq!(port.done(resumed, AttachResult::NotSent), []);
    let requested = request_of(&port.wait(RESUME_PATIENCE));
    assert_eq!(port.done(requested, AttachResult::NotSent), []);
    assert_eq!(port.wait(60 * SECOND), []);
    assert_eq!(attaches(&port.link(2)), [(resume(current), link(2))]);
}

#[test]
fn refused_connection_requests_another_server() {
    let (mut port, current) = Port::attached();
    let actions = port.refused(current);
    let request = request_of(&actions[..1]);
    assert_eq!(
        actions,
        [
            PortAction::Attach {
                request,
                link: link(1),
                purpose: AttachPurpose::Alternative {
                    refused: current.server
                },
                avoid: vec![current.server],
            },
            NOT_READY
        ],
        "new connections wait for the other server"
    );
    assert_eq!(port.refused(current), [], "one request at a time");
    let other = tunnel(2, 2);
    assert_eq!(
        port.done(request, new(other, 1)),
        [adopt(other), ready(other)]
    );
    let empty = TunnelView {
        has_streams: false,
        ..attached_on(1)
    };
    port.changed(current, empty);
    assert_eq!(
        port.wait(EMPTY_CHECK),
        [end(current, EndTunnelReason::Unused)]
    );
}

#[test]
fn connections_wait_for_another_server_for_a_limited_time() {
    let (mut port, current) = Port::attached();
    let request = request_of(&port.refused(current));
    assert_eq!(port.wait(SECOND - SECOND / 1000), []);
    assert_eq!(port.wait(SECOND / 1000), [ready(current)]);
    // The server is avoided for that long, and the request is useless after that.
    let cancelled = [PortAction::CancelAttach { request }];
    assert_eq!(port.wait(28 * SECOND), []);
    assert_eq!(port.changed(current, attached_on(1)), []);
    assert_eq!(port.wait(SECOND), []);
    assert_eq!(port.changed(current, attached_on(1)), cancelled);
}

#[test]
fn server_without_an_alternative_is_used_for_a_while() {
    let (mut port, current) = Port::attached();
    let request = request_of(&port.refused(current));
    let same = tunnel(2, 1);
    assert_eq!(
        port.done(request, new(same, 1)),
        [end(same, EndTunnelReason::Redundant), ready(current)]
    );
    assert_eq!(port.wait(29 * SECOND), []);
    assert_eq!(port.refused(current), []);
    port.wait(SECOND);
    assert_eq!(attaches(&port.refused(current)[..1]).len(), 1);
}

#[test]
fn request_for_another_server_that_is_not_sent_holds_no_connection() {
    let (mut port, current) = Port::attached();
    let request = request_of(&port.refused(current));
    assert_eq!(port.done(request, AttachResult::NotSent), [ready(current)]);
}

#[test]
fn tunnel_that_ends_is_replaced_at_once() {
    let (mut port, current) = Port::attached();
    let actions = port.changed(current, view(TunnelPhase::Ended));
    assert_eq!(actions[0], PortAction::Forget { tunnel: current.id });
    assert_eq!(attaches(&actions[1..2]), [(AttachPurpose::New, link(1))]);
    assert_eq!(actions[2..], [NOT_READY]);
}

#[test]
fn client_that_shuts_down_attaches_nothing() {
    let (mut port, current) = Port::attached();
    let resumed = request_of(&port.link(2));
    let waiting = request_of(&port.refused(current));
    assert_eq!(port.on(PortEvent::ShuttingDown), []);
    assert_eq!(port.done(resumed, failed()), []);
    assert_eq!(port.link(3), []);
    assert_eq!(port.lost(current, Code::PeerLost), []);
    assert_eq!(port.done(waiting, failed()), []);
    assert_eq!(port.wait(60 * SECOND), []);
    let ended = port.changed(current, view(TunnelPhase::Ended));
    assert_eq!(ended, [PortAction::Forget { tunnel: current.id }]);
}

#[test]
fn tunnel_that_arrives_during_the_shutdown_is_ended() {
    let (mut port, late) = (Port::new(), tunnel(1, 1));
    let request = request_of(&port.link(1));
    port.on(PortEvent::ShuttingDown);
    assert_eq!(
        port.done(request, new(late, 1)),
        [end(late, EndTunnelReason::Redundant)]
    );
}
