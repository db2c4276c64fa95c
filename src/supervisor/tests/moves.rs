//! Tests of moves to a new link before the old one ends.

use std::sync::Arc;

use super::{super::managed_link::GOAWAY_RETIREMENT, *};
use report_proto::frame::{Frame, Role};

#[tokio::test(start_paused = true)]
async fn go_away_establishes_new_link_before_old_one_closes() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut old = fixture.accept().await;
    let first = fixture.joined().await;
    old.send_go_away().await;
    let asked = Instant::now();
    let mut new = fixture.accept().await;
    assert!(
        asked.elapsed() <= IMMEDIATE && new.claims.moves && new.claims.epoch > old.claims.epoch
    );
    let second = fixture.joined().await;
    let retiring = fixture.retiring().await;
    assert!(Arc::ptr_eq(&first, &retiring) && !Arc::ptr_eq(&first, &second));
    tokio::time::sleep(20 * SECOND).await;
    old.expect_alive().await;
    close_channel(&first);
    assert!(
        matches!(old.receive().await, Some(Frame::Close { channel: 1, .. })),
        "queued frames are sent"
    );
    let closed_channel = Instant::now();
    old.expect_closed().await;
    assert!(
        closed_channel.elapsed() <= IMMEDIATE,
        "{:?}",
        closed_channel.elapsed()
    );
    new.expect_alive().await;
    assert!(second.ended().is_none());
}

#[tokio::test(start_paused = true)]
async fn old_link_with_open_channels_closes_after_retirement() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut old = fixture.accept().await;
    old.send_go_away().await;
    let new = fixture.accept().await;
    old.expect_closed().await;
    let kept = new.at.elapsed();
    assert!(kept >= RETIREMENT && kept < RETIREMENT + SECOND, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn old_link_of_server_lingers_for_frames_in_flight() {
    let mut fixture = Fixture::start(1, |uplink| uplink.role = Role::Server);
    let mut old = fixture.accept().await;
    close_channel(&*fixture.joined().await);
    assert!(matches!(old.receive().await, Some(Frame::Close { .. })));
    old.send_go_away().await;
    let new = fixture.accept().await;
    old.expect_closed().await;
    let kept = new.at.elapsed();
    assert!(kept >= SECOND && kept < 2 * SECOND, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn old_link_stays_in_use_until_new_one_joins() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut old = fixture.accept().await;
    let first = fixture.joined().await;
    fixture.masters[0].set_reachable(false);
    old.send_go_away().await;
    for _ in 0..60 {
        tokio::time::sleep(SECOND).await;
        old.expect_alive().await;
    }
    assert!(
        fixture.events.try_recv().is_err(),
        "no link has joined or retires"
    );
    fixture.masters[0].set_reachable(true);
    let new = fixture.accept().await;
    assert!(new.claims.moves);
    fixture.joined().await;
    assert!(Arc::ptr_eq(&first, &fixture.retiring().await));
}

#[tokio::test(start_paused = true)]
async fn link_that_ends_before_its_successor_joins_is_replaced_immediately() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut old = fixture.accept().await;
    fixture.joined().await;
    fixture.masters[0].set_reachable(false);
    old.send_go_away().await;
    tokio::time::sleep(90 * SECOND).await;
    fixture.masters[0].set_reachable(true);
    drop(old);
    let cut = Instant::now();
    let new = fixture.accept().await;
    assert!(
        cut.elapsed() <= IMMEDIATE && !new.claims.moves,
        "{:?}",
        cut.elapsed()
    );
    fixture.joined().await;
    assert!(fixture.events.try_recv().is_err(), "no link retires");
}

#[tokio::test(start_paused = true)]
async fn links_are_replaced_at_configured_age() {
    let mut fixture = Fixture::start(1, |uplink| uplink.rotate_after = Some(60 * SECOND));
    let mut old = fixture.accept().await;
    for _ in 0..5 {
        let new = fixture.accept().await;
        assert!(new.claims.moves && (old.at + 60 * SECOND..old.at + 61 * SECOND).contains(&new.at));
        old.expect_closed().await;
        old = new;
    }
}

#[tokio::test(start_paused = true)]
async fn requested_new_link_goes_to_same_master() {
    let mut fixture = Fixture::start(2, |_| {});
    let mut old = fixture.accept().await;
    fixture.joined().await;
    fixture.move_requests.request_new_link();
    let mut new = fixture.accept().await;
    assert!(
        new.claims.moves && new.at <= old.at + IMMEDIATE,
        "{:?}",
        new.at - old.at
    );
    old.expect_closed().await;
    new.expect_alive().await;
    fixture.masters[0].expect_no_link_for(20 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn at_most_two_links_are_up() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut first = fixture.accept().await;
    first.send_go_away().await;
    let mut second = fixture.accept().await;
    second.send_go_away().await;
    let asked = Instant::now();
    first.expect_alive().await;
    first.expect_closed().await;
    let kept = asked.elapsed();
    assert!(
        kept >= GOAWAY_RETIREMENT && kept < GOAWAY_RETIREMENT + SECOND,
        "the first, whose channel is open, makes room: {kept:?}"
    );
    drop(first);
    let mut third = fixture.accept().await;
    assert!(third.claims.moves);
    second.expect_alive().await;
    third.expect_alive().await;
    fixture.masters[0].expect_no_link_for(20 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn go_away_waits_until_the_older_link_is_unused() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut first = fixture.accept().await;
    let outbox = fixture.joined().await;
    first.send_go_away().await;
    let mut second = fixture.accept().await;
    second.send_go_away().await;
    fixture.masters[0].expect_no_link_for(SECOND).await;
    first.expect_alive().await;
    close_channel(&outbox);
    let left = Instant::now();
    assert!(matches!(first.receive().await, Some(Frame::Close { .. })));
    first.expect_closed().await;
    drop(first);
    let third = fixture.accept().await;
    assert!(third.claims.moves && left.elapsed() <= IMMEDIATE);
    second.expect_alive().await;
}

#[tokio::test(start_paused = true)]
async fn requested_other_master_is_next_in_list() {
    let mut fixture = Fixture::start(2, |_| {});
    let mut old = fixture.masters[0].accept().await;
    let first = fixture.joined().await;
    fixture.move_requests.request_other_master();
    let mut new = fixture.masters[1].accept().await;
    assert!(
        !new.claims.moves,
        "that master does not know the previous link"
    );
    fixture.joined().await;
    assert!(Arc::ptr_eq(&first, &fixture.retiring().await));
    old.expect_alive().await;
    new.expect_alive().await;
    close_channel(&first);
    old.receive().await;
    old.expect_closed().await;
    fixture.move_requests.request_other_master();
    assert!(fixture.masters[0].accept().await.claims.epoch > new.claims.epoch);
}

#[tokio::test(start_paused = true)]
async fn role_with_one_master_stays_there() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut peer = fixture.accept().await;
    fixture.move_requests.request_other_master();
    fixture.masters[0].expect_no_link_for(60 * SECOND).await;
    peer.expect_alive().await;
}
