//! Tests of the limits of channels, registrations and unanswered requests.

use super::*;
use crate::master::attach_queue::PENDING_TIMEOUT;
use report_proto::frame::CHANNEL_RENEWAL_THRESHOLD;

#[test]
fn link_is_half_used_then_full_as_channel_numbers_run_out() {
    let mut registry = with_servers(1);
    let channel_of = |attached: RouteResult<Handle>| match attached {
        RouteResult::Assigned(assignment) => Some((assignment.channel, assignment.is_half_used)),
        RouteResult::Waiting(_) | RouteResult::Full => None,
    };
    let half = CHANNEL_RENEWAL_THRESHOLD;
    registry.set_last_channel(half - 2);
    for (attach_id, expected) in [
        (1, (half - 1, false)),
        (2, (half, true)),
        (3, (half + 1, false)),
    ] {
        assert_eq!(
            channel_of(attach(&mut registry, 100, PORT, None, attach_id)),
            Some(expected)
        );
    }
    registry.set_last_channel(u32::MAX - 1);
    assert_eq!(
        channel_of(attach(&mut registry, 100, PORT, None, 4)),
        Some((u32::MAX, false))
    );
    for attach_id in 5..7 {
        assert_eq!(
            attach(&mut registry, 100, PORT, None, attach_id),
            RouteResult::Full,
            "no number is used again"
        );
    }
    // The new link of the instance numbers its channels from 1.
    add_link(&mut registry, 2, Role::Server, id(1), 2, true).expect("entered");
    register(&mut registry, 2, &[PORT]);
    assert_eq!(
        channel_of(attach(&mut registry, 100, PORT, None, 7)),
        Some((1, false))
    );
}

#[test]
fn ports_beyond_the_limit_are_rejected_and_register_is_idempotent() {
    let mut registry = registry(8, 2);
    add_link(&mut registry, 1, Role::Server, id(1), 1, false).expect("entered");
    assert_eq!(
        register(&mut registry, 1, &[id(1), id(2), id(3), id(1)]).accepted,
        [id(1), id(2), id(1)]
    );
    registry.unregister(1, &[id(1), id(9)]);
    assert_eq!(
        register(&mut registry, 1, &[id(2), id(3)]).accepted,
        [id(2), id(3)]
    );
}

#[test]
fn full_client_and_full_server_are_rejected() {
    let mut registry = registry(1, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (101, Role::Client)] {
        add_link(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    register(&mut registry, 1, &[PORT]);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 0)),
        Some(1)
    );
    assert_eq!(
        attach(&mut registry, 100, PORT, None, 1),
        RouteResult::Full,
        "the client is full"
    );
    assert_eq!(
        attach(&mut registry, 101, PORT, None, 2),
        RouteResult::Full,
        "the server is full"
    );
    registry.release_channel(1);
    assert_eq!(
        server_of(&attach(&mut registry, 101, PORT, None, 3)),
        Some(1)
    );
}

#[test]
fn waiting_attach_is_rejected_when_the_server_is_full() {
    let mut registry = registry(1, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (101, Role::Client)] {
        add_link(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    assert!(matches!(
        attach(&mut registry, 100, PORT, None, 0),
        RouteResult::Waiting(_)
    ));
    assert!(matches!(
        attach(&mut registry, 101, PORT, None, 1),
        RouteResult::Waiting(_)
    ));
    let registered = register(&mut registry, 1, &[PORT]);
    assert_eq!(
        (
            registered.dispatch.assigned.len(),
            registered.dispatch.rejected
        ),
        (1, vec![1])
    );
}

#[test]
fn pending_attaches_per_server_are_bounded() {
    let mut registry = registry(4_000, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (200, Role::Client)] {
        add_link(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    register(&mut registry, 1, &[PORT]);
    let tickets: Vec<_> = (0..1_000)
        .map(|attach_id| attach(&mut registry, 100, PORT, None, attach_id))
        .collect();
    let pending = tickets
        .iter()
        .filter(|attached| matches!(attached, RouteResult::Assigned(_)))
        .count();
    assert!((300..500).contains(&pending), "{pending}");
    assert!(matches!(
        attach(&mut registry, 200, PORT, None, 9_999),
        RouteResult::Waiting(_)
    ));
    let answer = |registry: &mut Registry<Handle, AttachId>, attached: &RouteResult<Handle>| {
        let RouteResult::Assigned(assignment) = attached else {
            panic!("the request is not assigned")
        };
        assigned(&registry.on_answer(assignment.ticket, Instant::now()))
    };
    let dispatch: Vec<_> = tickets[..2]
        .iter()
        .flat_map(|attached| answer(&mut registry, attached))
        .collect();
    assert_eq!(dispatch.len(), 2);
    assert!(
        dispatch.contains(&(9_999, 1)),
        "the other party has its turn: {dispatch:?}"
    );
}

#[test]
fn unresponsive_server_is_the_last_choice() {
    let mut registry = with_servers(2);
    let start = Instant::now();
    assert_eq!(
        server_of(&registry.attach(100, &header(&[]), 400, start, 0)),
        Some(1)
    );
    let (expired, _) = registry.expire(start + PENDING_TIMEOUT, 9);
    assert_eq!(
        expired,
        [Expired {
            attach: 0,
            was_pending: true
        }]
    );
    registry.release_channel(1);
    for attach_id in 1..4 {
        assert_eq!(
            server_of(&registry.attach(100, &header(&[]), 400, start, attach_id)),
            Some(2)
        );
    }
    registry.unregister(2, &[PORT]);
    let RouteResult::Assigned(assignment) = registry.attach(100, &header(&[]), 400, start, 4)
    else {
        panic!("server 1 has room")
    };
    registry.on_answer(assignment.ticket, start);
    register(&mut registry, 2, &[PORT]);
    registry.release_channel(1);
    assert_eq!(
        server_of(&registry.attach(100, &header(&[]), 400, start, 5)),
        Some(1),
        "it answers again"
    );
}
