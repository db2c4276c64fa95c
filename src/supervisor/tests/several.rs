//! Tests with several masters, some of which refuse or do not answer, in list order and raced.

use std::{sync::Arc, time::Duration};

use super::{super::race::STAGGER, *};
use crate::net::websocket::MessageSocket;
use report_proto::{
    frame::{AttachHeader, Frame},
    id::Id,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Longer than the dial timeout.
const NEVER_ANSWERS: Duration = Duration::from_secs(10_000);

fn raced(uplink: &mut Uplink<MemoryConnector>) {
    uplink.strategy = DialStrategy::Raced;
}

fn attach() -> Frame {
    let header = AttachHeader {
        port: Id([1; 16]),
        instance: None,
        avoid: Vec::new(),
    };
    Frame::Attach {
        channel: 1,
        header,
        message: b"first".as_slice().into(),
    }
}

impl Fixture {
    /// Checks that no unexamined event is left.
    fn expect_no_event(&mut self) {
        assert!(self.events.try_recv().is_err());
    }
}

impl FakeMaster {
    /// Returns the next socket, on which the master has sent nothing yet.
    async fn next_socket(&mut self) -> MessageSocket {
        tokio::time::timeout(300 * SECOND, self.incoming.recv())
            .await
            .expect("a link in time")
            .expect("a link")
    }

    /// Answers the next link as a program that is not a master: an error that requires a change.
    async fn answer_as_other_program(&mut self) {
        let mut socket = self.next_socket().await;
        socket
            .feed(vec![7; 32].into())
            .await
            .expect("the role is connected");
        socket.flush().await.expect("the role is connected");
        assert!(
            matches!(socket.receive().await, Err(_) | Ok(None)),
            "the role sends nothing"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn raced_masters_are_dialled_with_stagger_and_first_join_wins() {
    let mut fixture = Fixture::start(4, raced);
    fixture.masters[0].set_dial_time(NEVER_ANSWERS);
    fixture.masters[1].set_dial_time(NEVER_ANSWERS);
    fixture.masters[3].set_dial_time(SECOND);
    let start = Instant::now();
    let mut peer = fixture.masters[2].accept().await;
    for (position, master) in fixture.masters[..3].iter().enumerate() {
        let [dialled] = master.dials()[..] else {
            panic!("dialled once: {:?}", master.dials())
        };
        let after = dialled - start;
        assert!(
            (position as u32 * STAGGER..position as u32 * (STAGGER + IMMEDIATE) + IMMEDIATE)
                .contains(&after),
            "{after:?}"
        );
    }
    let used = fixture.joined().await;
    assert!(start.elapsed() < 3 * STAGGER, "{:?}", start.elapsed());
    fixture.masters[3].expect_no_link_for(60 * SECOND).await;
    assert!(
        fixture.masters[3].dials().is_empty(),
        "not dialled after the join"
    );
    peer.expect_alive().await;
    assert!(used.ended().is_none());
    fixture.expect_no_event();
}

#[tokio::test(start_paused = true)]
async fn raced_master_that_refuses_does_not_delay_others() {
    let mut fixture = Fixture::start(3, raced);
    fixture.masters[0].set_reachable(false);
    fixture.masters[1].set_reachable(false);
    let start = Instant::now();
    fixture.masters[2].accept().await;
    assert!(start.elapsed() <= 3 * IMMEDIATE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn raced_master_that_is_silent_after_upgrade_is_dropped_on_join() {
    let mut fixture = Fixture::with_first_frames(2, vec![attach()], raced);
    let mut silent = fixture.masters[0].next_socket().await;
    let mut peer = fixture.masters[1].accept().await;
    assert_eq!(
        peer.receive().await,
        Some(attach()),
        "the role's frames follow HELLO"
    );
    fixture.joined().await;
    assert!(
        matches!(silent.receive().await, Err(_) | Ok(None)),
        "dropped without a message"
    );
    peer.expect_alive().await;
    fixture.expect_no_event();
}

#[tokio::test(start_paused = true)]
async fn race_requests_tunnels_at_one_master_at_a_time() {
    let mut fixture = Fixture::with_first_frames(3, vec![attach()], raced);
    let mut hellos = Vec::new();
    for master in &mut fixture.masters {
        let mut socket = master.next_socket().await;
        let hello = authenticate::hello(&mut socket, AUTHENTICATION_TIMEOUT)
            .await
            .expect("HELLO");
        hellos.push((socket, hello));
    }
    for (position, (socket, _)) in hellos.iter_mut().enumerate() {
        let first = tokio::time::timeout(MILLISECOND, socket.receive()).await;
        let asked = first.is_ok_and(|message| {
            Frame::decode(message.unwrap().unwrap().freeze()).unwrap() == attach()
        });
        assert_eq!(asked, position == 0, "master {position}");
    }
}

#[tokio::test(start_paused = true)]
async fn simultaneous_joins_use_one_link_and_close_others_gracefully() {
    let mut fixture = Fixture::start(2, raced);
    let (first, second) = (
        fixture.masters[0].next_socket().await,
        fixture.masters[1].next_socket().await,
    );
    let (mut peers, mut used) = (Vec::new(), 0);
    let (one, other) = tokio::join!(
        fixture.masters[0].welcome(first),
        fixture.masters[1].welcome(second)
    );
    peers.extend([one, other]);
    fixture.joined().await;
    for peer in &mut peers {
        match tokio::time::timeout(MILLISECOND, peer.receive()).await {
            Ok(message) => assert_eq!(message, None, "closed gracefully"),
            Err(_) => used += 1,
        }
    }
    assert_eq!(used, 1);
    fixture.expect_no_event();
}

#[tokio::test(start_paused = true)]
async fn go_away_races_other_masters_while_current_link_continues() {
    let mut fixture = Fixture::start(3, raced);
    let mut old = fixture.masters[0].accept().await;
    let first = fixture.joined().await;
    fixture.masters[0].set_reachable(false);
    fixture.masters[1].set_dial_time(NEVER_ANSWERS);
    old.send_go_away().await;
    let asked = Instant::now();
    let mut new = fixture.masters[2].accept().await;
    assert!(
        asked.elapsed() <= STAGGER + 3 * IMMEDIATE,
        "{:?}",
        asked.elapsed()
    );
    fixture.joined().await;
    assert!(Arc::ptr_eq(&first, &fixture.retiring().await));
    old.expect_alive().await;
    new.expect_alive().await;
    close_channel(&first);
    old.receive().await;
    old.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn go_away_returns_to_same_master_if_it_answers_first() {
    let mut fixture = Fixture::start(2, raced);
    let mut old = fixture.masters[0].accept().await;
    old.send_go_away().await;
    assert!(fixture.masters[0].accept().await.claims.moves);
    assert!(fixture.masters[1].dials().is_empty());
}

#[tokio::test(start_paused = true)]
async fn rotation_stays_at_same_master() {
    let mut fixture = Fixture::start(2, |uplink| {
        raced(uplink);
        uplink.rotate_after = Some(60 * SECOND);
    });
    let mut old = fixture.masters[0].accept().await;
    fixture.masters[0].set_dial_time(5 * SECOND);
    let new = fixture.masters[0].accept().await;
    assert!(new.claims.moves);
    old.expect_closed().await;
    assert!(
        fixture.masters[1].dials().is_empty(),
        "{:?}",
        fixture.masters[1].dials()
    );
}

#[tokio::test(start_paused = true)]
async fn raced_master_that_refused_is_retried_while_another_is_silent() {
    let mut fixture = Fixture::start(2, raced);
    fixture.masters[0].set_dial_time(NEVER_ANSWERS);
    fixture.masters[1].set_reachable(false);
    tokio::time::sleep(4 * SECOND).await;
    fixture.masters[1].set_reachable(true);
    let back = Instant::now();
    fixture.masters[1].accept().await;
    assert!(back.elapsed() <= 2 * SECOND, "{:?}", back.elapsed());
    let dials = fixture.masters[1].dials().len();
    assert!((3..60).contains(&dials), "{dials} dials");
    assert_eq!(fixture.masters[0].dials().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn ordered_silent_master_is_abandoned_before_next_is_dialled() {
    let mut fixture = Fixture::start(3, |_| {});
    fixture.masters[0].set_reachable(false);
    fixture.masters[1].set_reachable(false);
    fixture.masters[1].set_dial_time(10 * SECOND);
    let start = Instant::now();
    fixture.masters[2].accept().await;
    assert!(
        (10 * SECOND..10 * SECOND + 3 * IMMEDIATE).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
}

/// One address of two is not a master; the other master goes up and down. The first is only dialled
/// while the second is down and its own rest is over.
async fn check_resting_master_is_not_dialled(strategy: DialStrategy) {
    let mut fixture = Fixture::start(2, |uplink| uplink.strategy = strategy);
    fixture.masters[0].answer_as_other_program().await;
    let peer = fixture.masters[1].accept().await;
    let failed = Instant::now();
    fixture.masters[1].set_reachable(false);
    drop(peer);
    fixture.masters[0].answer_as_other_program().await;
    let rest = failed.elapsed();
    assert!(
        rest >= 5 * SECOND - STAGGER && rest < 40 * SECOND,
        "{rest:?}"
    );
    let retries = fixture.masters[1].dials().len();
    assert!(retries > 5, "the other one was tried {retries} times");
    fixture.masters[1].set_reachable(true);
    let _peer = fixture.masters[1].accept().await;
    fixture.masters[0].expect_no_link_for(100 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn ordered_master_that_failed_is_not_dialled_while_it_rests() {
    check_resting_master_is_not_dialled(DialStrategy::Ordered).await;
}

#[tokio::test(start_paused = true)]
async fn raced_master_that_failed_is_not_dialled_while_it_rests() {
    check_resting_master_is_not_dialled(DialStrategy::Raced).await;
}

#[tokio::test(start_paused = true)]
async fn request_for_other_master_is_dropped_if_none_is_ready() {
    let mut fixture = Fixture::start(2, |uplink| uplink.rotate_after = Some(60 * SECOND));
    let mut old = fixture.masters[0].accept().await;
    fixture.masters[1].set_reachable(false);
    tokio::time::sleep(59 * SECOND).await;
    fixture.move_requests.request_other_master();
    let new = fixture.masters[0].accept().await;
    assert!(
        new.claims.moves && (old.at + 60 * SECOND..old.at + 62 * SECOND).contains(&new.at),
        "{:?}",
        new.at - old.at
    );
    old.expect_closed().await;
    assert_eq!(fixture.masters[1].dials().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn end_of_role_during_race_ends_all_attempts() {
    let mut fixture = Fixture::start(3, raced);
    fixture.masters[1].set_dial_time(NEVER_ANSWERS);
    let mut silent = fixture.masters[0].next_socket().await;
    tokio::time::sleep(STAGGER + 2 * IMMEDIATE).await;
    assert_eq!(fixture.masters[1].dials().len(), 1);
    fixture.cancel.cancel();
    fixture.ended().await;
    assert!(matches!(silent.receive().await, Err(_) | Ok(None)));
    fixture.expect_no_event();
}
