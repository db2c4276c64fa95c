//! Tests of lost links and failed attempts, and of what the uplink learns from them.

use std::sync::Arc;

use super::*;
use report_proto::frame::Frame;

#[tokio::test(start_paused = true)]
async fn cut_link_is_replaced_immediately_each_time() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut epoch = 0;
    let mut cut = Instant::now();
    for _ in 0..180 {
        let peer = fixture.accept().await;
        assert!(cut.elapsed() <= IMMEDIATE, "{:?}", cut.elapsed());
        assert!(
            peer.claims.epoch > epoch && !peer.claims.moves,
            "{:?}",
            peer.claims
        );
        epoch = peer.claims.epoch;
        tokio::time::sleep(SECOND).await;
        cut = Instant::now();
    }
}

#[tokio::test(start_paused = true)]
async fn master_that_ends_links_after_join_is_not_flooded() {
    let mut fixture = Fixture::start(1, |_| {});
    let start = Instant::now();
    let mut links = 0;
    while start.elapsed() < 300 * SECOND {
        drop(fixture.accept().await);
        links += 1;
    }
    assert!(links < 200, "{links} links in five minutes");
}

#[tokio::test(start_paused = true)]
async fn next_master_is_tried_immediately_after_failure() {
    let mut fixture = Fixture::start(3, |_| {});
    fixture.masters[0].set_reachable(false);
    fixture.masters[1].set_reachable(false);
    let start = Instant::now();
    let peer = fixture.masters[2].accept().await;
    assert!(start.elapsed() <= 2 * IMMEDIATE, "{:?}", start.elapsed());
    tokio::time::sleep(100 * SECOND).await;
    fixture.masters[2].set_reachable(false);
    fixture.masters[1].set_reachable(true);
    drop(peer);
    let cut = Instant::now();
    let peer = fixture.masters[1].accept().await;
    assert!(cut.elapsed() <= 3 * IMMEDIATE, "{:?}", cut.elapsed());
    assert!(!peer.claims.moves);
}

#[tokio::test(start_paused = true)]
async fn same_master_is_dialled_first_after_cut() {
    let mut fixture = Fixture::start(2, |_| {});
    for _ in 0..5 {
        let peer = fixture.masters[0].accept().await;
        tokio::time::sleep(2 * SECOND).await;
        drop(peer);
    }
    assert!(fixture.masters[1].incoming.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn end_of_role_closes_both_links_gracefully() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut old = fixture.accept().await;
    let first = fixture.joined().await;
    old.send_go_away().await;
    let mut new = fixture.accept().await;
    let second = fixture.joined().await;
    fixture.retiring().await;
    for outbox in [&first, &second] {
        close_channel(outbox);
        outbox.open(2, Arc::new(IdleEnd)).expect("the link is up");
        close_channel(outbox);
    }
    fixture.cancel.cancel();
    for peer in [&mut old, &mut new] {
        assert!(
            matches!(peer.receive().await, Some(Frame::Close { channel: 1, .. })),
            "queued frames are sent"
        );
        peer.expect_closed().await;
    }
    drop((old, new));
    fixture.ended().await;
    assert!(first.ended().is_some() && second.ended().is_some());
}

#[tokio::test(start_paused = true)]
async fn dropped_uplink_cuts_its_links() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut peer = fixture.accept().await;
    let outbox = fixture.joined().await;
    fixture.task.shutdown().await;
    assert!(peer.socket.receive().await.is_err(), "cut, not closed");
    assert!(outbox.ended().is_some());
}

#[tokio::test(start_paused = true)]
async fn age_limit_of_path_is_learned_and_avoided() {
    let mut fixture = Fixture::start(1, |_| {});
    for _ in 0..2 {
        let mut peer = fixture.accept().await;
        assert!(!peer.claims.moves);
        tokio::time::sleep(59 * SECOND).await;
        peer.expect_alive().await;
        tokio::time::sleep(SECOND).await;
    }
    let mut old = fixture.accept().await;
    for _ in 0..5 {
        let new = fixture.accept().await;
        let lived = new.at - old.at;
        assert!(
            new.claims.moves && lived > 40 * SECOND && lived < 55 * SECOND,
            "{lived:?}"
        );
        old.expect_closed().await;
        old = new;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_limit_of_path_shortens_keep_alive_interval() {
    let mut fixture = Fixture::start(1, |_| {});
    for _ in 0..2 {
        let _peer = fixture.accept().await;
        tokio::time::sleep(10 * SECOND).await;
    }
    let mut peer = fixture.accept().await;
    assert_eq!(peer.receive().await, Some(Frame::Ping(1)));
    assert_eq!(peer.at.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_spread_over_the_range_that_the_master_advised() {
    let terms = Terms {
        retry_within_ms: 60_000,
        ..TERMS
    };
    let mut fixture = Fixture::start(1, |_| {});
    let peer = fixture.masters[0].accept_with(&terms).await;
    fixture.joined().await;
    fixture.masters[0].set_reachable(false);
    drop(peer);
    let lost = Instant::now();
    tokio::time::sleep(300 * SECOND).await;
    let dials = fixture.masters[0].dials();
    // Without the advice there are about eighty.
    assert!(
        dials.len() > 3 && dials.len() < 35,
        "{} dials in five minutes",
        dials.len()
    );
    // The first attempt after the loss follows at once.
    assert!(dials[1] <= lost + IMMEDIATE, "{:?}", dials[1] - lost);
}

/// The answer of a master without room.
fn full() -> Notice {
    Notice::new(Code::Limit, "the master is full").with_retry_after(20 * SECOND)
}

/// Ends a link of a master without room. Returns when.
async fn send_full(mut peer: MasterLink) -> Instant {
    let ended = Instant::now();
    peer.send(Frame::Error(full())).await;
    peer.expect_closed().await;
    ended
}

/// Checks that a role returned after what [`full`] asks for, and a random part of it.
fn assert_waited(waited: Duration) {
    assert!(
        waited >= 20 * SECOND && waited <= 30 * SECOND + IMMEDIATE,
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn master_that_refuses_a_link_says_when_to_return() {
    let mut fixture = Fixture::start(1, |_| {});
    let incoming = &mut fixture.masters[0].incoming;
    let mut socket = incoming.recv().await.expect("a link");
    authenticate::hello(&mut socket, AUTHENTICATION_TIMEOUT)
        .await
        .expect("HELLO");
    let refused = Instant::now();
    authenticate::refuse(socket, &full()).await;
    assert_waited(fixture.accept().await.at - refused);
}

#[tokio::test(start_paused = true)]
async fn master_that_ends_a_link_says_when_to_return() {
    let mut fixture = Fixture::start(1, |_| {});
    let peer = fixture.accept().await;
    // A link that lived would be replaced at once.
    tokio::time::sleep(100 * SECOND).await;
    let ended = send_full(peer).await;
    assert_waited(fixture.accept().await.at - ended);
}

#[tokio::test(start_paused = true)]
async fn next_master_is_tried_at_once_if_one_is_full() {
    let mut fixture = Fixture::start(2, |_| {});
    let peer = fixture.masters[0].accept().await;
    let ended = send_full(peer).await;
    let other = fixture.masters[1].accept().await;
    assert!(other.at - ended <= IMMEDIATE, "{:?}", other.at - ended);
    fixture.masters[0].expect_no_link_for(100 * SECOND).await;
}
