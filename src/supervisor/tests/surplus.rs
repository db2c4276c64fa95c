//! Tests of links that the role does not want any more, alone and while they are replaced. A link
//! with open channels keeps its time to be left in any case.

use super::{
    super::managed_link::GOAWAY_RETIREMENT,
    link_set::{LONG, slots},
    *,
};

/// The master's ends of the links of a role, whose second one was replaced. The role keeps a
/// channel open on each of them.
struct Replaced {
    first: MasterLink,
    old: MasterLink,
    new: MasterLink,
    /// The role's end of the old link.
    old_link: RoleLink,
}

impl Fixture {
    /// Starts a role with two links at the first of the masters.
    async fn with_two_links(masters: usize) -> (Self, [MasterLink; 2], RoleLink) {
        let mut fixture = Fixture::of_links(masters, 2);
        let first = fixture.accept().await;
        let second = fixture.want(2, 0, 1).await.remove(0);
        let second_link = fixture.joins(2).await.remove(1);
        (fixture, [first, second], second_link)
    }

    /// Starts a role with two links at the first of the masters. The second one was just replaced.
    async fn with_replaced_link(masters: usize) -> (Self, Replaced) {
        let (mut fixture, [first, old], second_link) = Fixture::with_two_links(masters).await;
        second_link.move_requests.request_new_link();
        let new = fixture.accept().await;
        assert!(new.claims.moves && new.claims.slot == old.claims.slot);
        fixture.joined().await;
        let old_link = match fixture.events.recv().await {
            Some(RoleEvent::Retiring(link, RetirementCause::Replaced)) => link,
            other => panic!("expected a retirement with a successor: {other:?}"),
        };
        let links = Replaced {
            first,
            old,
            new,
            old_link,
        };
        (fixture, links)
    }

    /// Takes the next event, which has to be the retirement of a surplus link. Returns the link.
    pub(super) async fn surplus(&mut self) -> RoleLink {
        match self.events.recv().await {
            Some(RoleEvent::Retiring(link, RetirementCause::Surplus)) => link,
            other => panic!("expected a retirement without a successor: {other:?}"),
        }
    }
}

fn is_closing(frame: Option<Frame>) -> bool {
    matches!(frame, Some(Frame::Close { channel: 1, .. }))
}

/// Closes the channel of a retiring link. Checks that the role closes the link at once.
async fn expect_closed_when_unused(peer: &mut MasterLink, link: &RoleLink) {
    close_channel(&link.outbox);
    let left = Instant::now();
    assert!(is_closing(peer.receive().await));
    peer.expect_closed().await;
    assert!(left.elapsed() <= IMMEDIATE, "{:?}", left.elapsed());
}

/// Checks that the role closes a link with an open channel after this time.
async fn expect_closed_after(peer: &mut MasterLink, since: Instant, time: Duration) {
    peer.expect_closed().await;
    let kept = since.elapsed();
    assert!(kept >= time && kept < time + SECOND, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn highest_links_retire_gracefully_when_fewer_are_wanted() {
    let mut fixture = Fixture::of_links(1, 4);
    let mut first = fixture.accept().await;
    let mut more = fixture.want(3, 0, 2).await;
    fixture.joins(3).await;
    fixture.links.set_wanted(0);
    assert_eq!(fixture.links.wanted(), 1);
    let asked = Instant::now();
    let mut retiring = [fixture.surplus().await, fixture.surplus().await];
    retiring.sort_by_key(|link| link.slot);
    assert_eq!(retiring.each_ref().map(|link| link.slot.number()), [1, 2]);
    more[0].expect_alive().await;
    more[1].expect_alive().await;
    close_channel(&retiring[1].outbox);
    assert!(is_closing(more[1].receive().await));
    more[1].expect_closed().await;
    assert!(asked.elapsed() <= IMMEDIATE, "{:?}", asked.elapsed());
    more[0].expect_closed().await;
    let kept = asked.elapsed();
    assert!(kept >= RETIREMENT && kept < RETIREMENT + SECOND, "{kept:?}");
    first.expect_alive().await;
    fixture.masters[0].expect_no_link_for(LONG).await;
    let again = fixture.want(2, 0, 1).await;
    assert_eq!(slots(&again), [1]);
}

#[tokio::test(start_paused = true)]
async fn link_that_is_wanted_again_joins_beside_the_retiring_one() {
    let mut fixture = Fixture::of_links(1, 2);
    let _first = fixture.accept().await;
    let mut old = fixture.want(2, 0, 1).await.remove(0);
    fixture.joins(2).await;
    fixture.links.set_wanted(1);
    let retiring = fixture.surplus().await;
    let mut new = fixture.want(2, 0, 1).await.remove(0);
    assert!(
        new.claims.moves && new.claims.slot == old.claims.slot,
        "the master must not end the old link: {:?}",
        new.claims
    );
    old.expect_alive().await;
    close_channel(&retiring.outbox);
    assert!(is_closing(old.receive().await));
    old.expect_closed().await;
    new.expect_alive().await;
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_at_unneeded_links_end() {
    let mut fixture = Fixture::of_links(1, 3);
    let _first = fixture.accept().await;
    fixture.joined().await;
    fixture.masters[0].set_dial_time(10 * SECOND);
    fixture.links.set_wanted(3);
    tokio::time::sleep(SECOND).await;
    assert_eq!(fixture.dials(0), 3);
    fixture.links.set_wanted(1);
    fixture.masters[0].expect_no_link_for(LONG).await;
    assert!(fixture.events.try_recv().is_err(), "no link has joined");
}

#[tokio::test(start_paused = true)]
async fn replaced_link_keeps_its_time_when_its_replacement_is_surplus() {
    let (mut fixture, mut links) = Fixture::with_replaced_link(1).await;
    fixture.links.set_wanted(1);
    let surplus = fixture.surplus().await;
    assert_eq!(surplus.slot, links.old_link.slot);
    tokio::time::sleep(10 * SECOND).await;
    links.old.expect_alive().await;
    links.new.expect_alive().await;
    expect_closed_when_unused(&mut links.old, &links.old_link).await;
    links.new.expect_alive().await;
    expect_closed_when_unused(&mut links.new, &surplus).await;
    links.first.expect_alive().await;
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn each_retiring_link_has_its_own_time() {
    let (mut fixture, mut links) = Fixture::with_replaced_link(1).await;
    let replaced = Instant::now();
    tokio::time::sleep(10 * SECOND).await;
    fixture.links.set_wanted(1);
    fixture.surplus().await;
    let given_up = Instant::now();
    expect_closed_after(&mut links.old, replaced, RETIREMENT).await;
    links.new.expect_alive().await;
    expect_closed_after(&mut links.new, given_up, RETIREMENT).await;
    links.first.expect_alive().await;
}

#[tokio::test(start_paused = true)]
async fn link_that_is_wanted_again_waits_while_two_retire() {
    let (mut fixture, links) = Fixture::with_replaced_link(1).await;
    let Replaced {
        mut old,
        mut new,
        old_link,
        ..
    } = links;
    for _ in 0..3 {
        fixture.links.set_wanted(1);
        fixture.masters[0].expect_no_link_for(SECOND).await;
        fixture.links.set_wanted(2);
        fixture.masters[0].expect_no_link_for(SECOND).await;
        old.expect_alive().await;
        new.expect_alive().await;
    }
    fixture.surplus().await;
    assert!(fixture.events.try_recv().is_err(), "it retired once");
    expect_closed_when_unused(&mut old, &old_link).await;
    drop(old);
    let third = fixture.accept().await;
    assert!(third.claims.moves && third.claims.epoch > new.claims.epoch);
    assert_eq!(third.claims.slot, new.claims.slot);
    new.expect_alive().await;
    fixture.masters[0].expect_no_link_for(LONG).await;
}

/// Lets the number fall while a replacement of `old` is dialled, and expects that the attempt ends
/// and `old` keeps its time.
async fn expect_time_in_spite_of_dial(fixture: &mut Fixture, old: &mut MasterLink) {
    tokio::time::sleep(SECOND).await;
    assert_eq!(fixture.dials(0), 3);
    fixture.links.set_wanted(1);
    let retiring = fixture.surplus().await;
    fixture.masters[0].expect_no_link_for(20 * SECOND).await;
    old.expect_alive().await;
    expect_closed_when_unused(old, &retiring).await;
}

#[tokio::test(start_paused = true)]
async fn surplus_link_keeps_its_time_while_its_replacement_is_dialled() {
    let (mut fixture, [mut first, mut old], second_link) = Fixture::with_two_links(1).await;
    fixture.masters[0].set_dial_time(10 * SECOND);
    second_link.move_requests.request_new_link();
    expect_time_in_spite_of_dial(&mut fixture, &mut old).await;
    first.expect_alive().await;
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn number_may_fall_and_rise_while_a_replacement_joins() {
    let (mut fixture, [mut first, mut old], second_link) = Fixture::with_two_links(1).await;
    second_link.move_requests.request_new_link();
    let mut joining = fixture.masters[0].incoming.recv().await.expect("a link");
    let hello = authenticate::hello(&mut joining, AUTHENTICATION_TIMEOUT)
        .await
        .expect("HELLO");
    fixture.links.set_wanted(1);
    let retiring = fixture.surplus().await;
    fixture.links.set_wanted(2);
    assert!(matches!(joining.receive().await, Err(_) | Ok(None)));
    let mut new = fixture.accept().await;
    assert!(new.claims.moves && new.claims.epoch > hello.claims.epoch);
    assert_eq!(new.claims.slot, old.claims.slot);
    old.expect_alive().await;
    expect_closed_when_unused(&mut old, &retiring).await;
    new.expect_alive().await;
    first.expect_alive().await;
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn number_that_falls_and_rises_at_once_changes_nothing() {
    let (mut fixture, [mut first, mut second], _) = Fixture::with_two_links(1).await;
    fixture.links.set_wanted(1);
    fixture.links.set_wanted(2);
    fixture.masters[0].expect_no_link_for(LONG).await;
    first.expect_alive().await;
    second.expect_alive().await;
    assert!(fixture.events.try_recv().is_err(), "no link retires");
}

#[tokio::test(start_paused = true)]
async fn surplus_link_keeps_its_time_after_go_away() {
    let (mut fixture, [mut first, mut old], _) = Fixture::with_two_links(1).await;
    fixture.masters[0].set_dial_time(10 * SECOND);
    old.send_go_away().await;
    expect_time_in_spite_of_dial(&mut fixture, &mut old).await;
    first.expect_alive().await;
}

#[tokio::test(start_paused = true)]
async fn go_away_shortens_the_time_of_a_replaced_link_when_the_number_falls_too() {
    let (mut fixture, mut links) = Fixture::with_replaced_link(1).await;
    links.new.send_go_away().await;
    let asked = Instant::now();
    // The answer follows the receipt of GOAWAY.
    links.new.expect_alive().await;
    fixture.links.set_wanted(1);
    let surplus = fixture.surplus().await;
    links.old.expect_alive().await;
    expect_closed_after(&mut links.old, asked, GOAWAY_RETIREMENT).await;
    links.new.expect_alive().await;
    expect_closed_when_unused(&mut links.new, &surplus).await;
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn replaced_link_keeps_its_time_when_the_set_moves_to_another_master() {
    let (mut fixture, mut links) = Fixture::with_replaced_link(2).await;
    let replaced = Instant::now();
    fixture.move_requests.request_other_master();
    let moved = [
        fixture.masters[1].accept().await,
        fixture.masters[1].accept().await,
    ];
    assert_eq!(slots(&moved), [0, 1]);
    tokio::time::sleep(10 * SECOND).await;
    links.old.expect_alive().await;
    links.new.expect_alive().await;
    expect_closed_after(&mut links.old, replaced, RETIREMENT).await;
    links.new.expect_closed().await;
    links.first.expect_closed().await;
}
