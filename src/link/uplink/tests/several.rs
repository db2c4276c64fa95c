//! Several masters, some of which refuse or are silent: in turn, and raced.

use super::{super::race::STAGGER, *};
use crate::frame::AttachHeader;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Longer than a dial may take.
const SILENT: Duration = Duration::from_secs(10_000);

fn raced(uplink: &mut Uplink<Road>) {
    uplink.choice = Choice::Raced;
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

impl Bed {
    /// Nothing is told that has not been looked at.
    fn nothing_is_told(&mut self) {
        assert!(self.told.try_recv().is_err());
    }
}

impl Host {
    /// The next link, on which the master has said nothing yet.
    async fn knock(&mut self) -> MessageSocket {
        tokio::time::timeout(300 * SECOND, self.door.recv())
            .await
            .expect("a link in time")
            .expect("a link")
    }

    /// What connects to it next is no master's: it stays refused until somebody changes something.
    async fn is_no_master(&mut self) {
        let mut socket = self.knock().await;
        socket
            .feed(vec![7; 32].into())
            .await
            .expect("the role is there");
        socket.flush().await.expect("the role is there");
        assert!(
            matches!(socket.receive().await, Err(_) | Ok(None)),
            "a role has nothing to say to it"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn raced_masters_are_dialled_a_moment_apart_and_the_first_that_joins_is_used() {
    let mut bed = Bed::start(4, raced);
    bed.hosts[0].set_length(SILENT);
    bed.hosts[1].set_length(SILENT);
    bed.hosts[3].set_length(SECOND);
    let start = Instant::now();
    let mut peer = bed.hosts[2].accept().await;
    for (position, host) in bed.hosts[..3].iter().enumerate() {
        let [dialled] = host.dials()[..] else {
            panic!("dialled once: {:?}", host.dials())
        };
        let after = dialled - start;
        assert!(
            (position as u32 * STAGGER..position as u32 * (STAGGER + AT_ONCE) + AT_ONCE)
                .contains(&after),
            "{after:?}"
        );
    }
    let used = bed.joined().await;
    assert!(start.elapsed() < 3 * STAGGER, "{:?}", start.elapsed());
    bed.hosts[3].nobody_for(60 * SECOND).await;
    assert!(bed.hosts[3].dials().is_empty(), "there was no need");
    peer.expect_alive().await;
    assert!(used.ended().is_none());
    bed.nothing_is_told();
}

#[tokio::test(start_paused = true)]
async fn in_a_race_a_master_that_refuses_holds_nobody_up() {
    let mut bed = Bed::start(3, raced);
    bed.hosts[0].set_up(false);
    bed.hosts[1].set_up(false);
    let start = Instant::now();
    bed.hosts[2].accept().await;
    assert!(start.elapsed() <= 3 * AT_ONCE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn in_a_race_a_master_that_is_silent_after_the_upgrade_is_dropped_when_another_joins() {
    let mut bed = Bed::wishing(2, vec![attach()], raced);
    let mut silent = bed.hosts[0].knock().await;
    let mut peer = bed.hosts[1].accept().await;
    assert_eq!(
        peer.receive().await,
        Some(attach()),
        "what the role wants follows HELLO"
    );
    bed.joined().await;
    assert!(
        matches!(silent.receive().await, Err(_) | Ok(None)),
        "dropped, without a word"
    );
    peer.expect_alive().await;
    bed.nothing_is_told();
}

#[tokio::test(start_paused = true)]
async fn in_a_race_the_role_asks_for_its_tunnels_at_one_master_at_a_time() {
    let mut bed = Bed::wishing(3, vec![attach()], raced);
    let mut hellos = Vec::new();
    for host in &mut bed.hosts {
        let mut socket = host.knock().await;
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
async fn of_masters_that_take_the_role_in_at_the_same_time_one_is_used_and_the_others_are_left_in_order()
 {
    let mut bed = Bed::start(2, raced);
    let (first, second) = (bed.hosts[0].knock().await, bed.hosts[1].knock().await);
    let (mut peers, mut used) = (Vec::new(), 0);
    let (one, other) = tokio::join!(bed.hosts[0].welcome(first), bed.hosts[1].welcome(second));
    peers.extend([one, other]);
    bed.joined().await;
    for peer in &mut peers {
        match tokio::time::timeout(MILLISECOND, peer.receive()).await {
            Ok(message) => assert_eq!(message, None, "closed in order"),
            Err(_) => used += 1,
        }
    }
    assert_eq!(used, 1);
    bed.nothing_is_told();
}

#[tokio::test(start_paused = true)]
async fn when_the_master_in_use_asks_to_go_the_others_are_raced_while_its_link_goes_on() {
    let mut bed = Bed::start(3, raced);
    let mut old = bed.hosts[0].accept().await;
    let first = bed.joined().await;
    bed.hosts[0].set_up(false);
    bed.hosts[1].set_length(SILENT);
    old.go_away().await;
    let asked = Instant::now();
    let mut new = bed.hosts[2].accept().await;
    assert!(
        asked.elapsed() <= STAGGER + 3 * AT_ONCE,
        "{:?}",
        asked.elapsed()
    );
    bed.joined().await;
    assert!(Arc::ptr_eq(&first, &bed.retiring().await));
    old.expect_alive().await;
    new.expect_alive().await;
    close_channel(&first);
    old.receive().await;
    old.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_that_asks_to_go_is_come_back_to_when_its_successor_answers_first() {
    let mut bed = Bed::start(2, raced);
    let mut old = bed.hosts[0].accept().await;
    old.go_away().await;
    assert!(bed.hosts[0].accept().await.claims.moves);
    assert!(bed.hosts[1].dials().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_replaced_for_its_age_stays_with_its_master() {
    let mut bed = Bed::start(2, |uplink| {
        raced(uplink);
        uplink.rotate_after = Some(60 * SECOND);
    });
    let mut old = bed.hosts[0].accept().await;
    bed.hosts[0].set_length(5 * SECOND);
    let new = bed.hosts[0].accept().await;
    assert!(new.claims.moves);
    old.expect_closed().await;
    assert!(
        bed.hosts[1].dials().is_empty(),
        "{:?}",
        bed.hosts[1].dials()
    );
}

#[tokio::test(start_paused = true)]
async fn in_a_race_a_master_that_refused_is_tried_again_while_another_is_silent() {
    let mut bed = Bed::start(2, raced);
    bed.hosts[0].set_length(SILENT);
    bed.hosts[1].set_up(false);
    tokio::time::sleep(4 * SECOND).await;
    bed.hosts[1].set_up(true);
    let back = Instant::now();
    bed.hosts[1].accept().await;
    assert!(back.elapsed() <= 2 * SECOND, "{:?}", back.elapsed());
    let dials = bed.hosts[1].dials().len();
    assert!((3..60).contains(&dials), "{dials} dials");
    assert_eq!(bed.hosts[0].dials().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn in_order_a_silent_master_is_given_up_before_the_next_one_is_dialled() {
    let mut bed = Bed::start(3, |_| {});
    bed.hosts[0].set_up(false);
    bed.hosts[1].set_up(false);
    bed.hosts[1].set_length(10 * SECOND);
    let start = Instant::now();
    bed.hosts[2].accept().await;
    assert!(
        (10 * SECOND..10 * SECOND + 3 * AT_ONCE).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
}

/// One master of two is none, the other one goes up and down: the first is dialled when the second is away and its own rest is over.
async fn leaves_alone_who_rests(choice: Choice) {
    let mut bed = Bed::start(2, |uplink| uplink.choice = choice);
    bed.hosts[0].is_no_master().await;
    let peer = bed.hosts[1].accept().await;
    let failed = Instant::now();
    bed.hosts[1].set_up(false);
    drop(peer);
    bed.hosts[0].is_no_master().await;
    let rested = failed.elapsed();
    assert!(
        rested >= 5 * SECOND - STAGGER && rested < 40 * SECOND,
        "{rested:?}"
    );
    let meanwhile = bed.hosts[1].dials().len();
    assert!(
        meanwhile > 5,
        "the other one has been tried {meanwhile} times"
    );
    bed.hosts[1].set_up(true);
    let _peer = bed.hosts[1].accept().await;
    bed.hosts[0].nobody_for(100 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn in_order_a_master_that_failed_is_left_alone_while_it_rests() {
    leaves_alone_who_rests(Choice::Ordered).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_race_a_master_that_failed_is_left_alone_while_it_rests() {
    leaves_alone_who_rests(Choice::Raced).await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_another_master_is_given_up_when_none_is_ready_and_keeps_nothing_else_up() {
    let mut bed = Bed::start(2, |uplink| uplink.rotate_after = Some(60 * SECOND));
    let mut old = bed.hosts[0].accept().await;
    bed.hosts[1].set_up(false);
    tokio::time::sleep(59 * SECOND).await;
    bed.mover.move_on();
    let new = bed.hosts[0].accept().await;
    assert!(
        new.claims.moves && (old.at + 60 * SECOND..old.at + 62 * SECOND).contains(&new.at),
        "{:?}",
        new.at - old.at
    );
    old.expect_closed().await;
    assert_eq!(bed.hosts[1].dials().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_role_that_ends_during_a_race_ends_all_its_attempts() {
    let mut bed = Bed::start(3, raced);
    bed.hosts[1].set_length(SILENT);
    let mut silent = bed.hosts[0].knock().await;
    tokio::time::sleep(STAGGER + 2 * AT_ONCE).await;
    assert_eq!(bed.hosts[1].dials().len(), 1);
    bed.cancel.cancel();
    bed.task
        .join_next()
        .await
        .expect("it ran")
        .expect("in order");
    assert!(matches!(silent.receive().await, Err(_) | Ok(None)));
    bed.nothing_is_told();
}
