//! Tests of several links of one role to the same master.

use std::sync::Arc;

use super::*;
use report_proto::frame::MAX_SLOTS;

/// Longer than any wait of a supervisor that may dial.
pub(super) const LONG: Duration = Duration::from_secs(60);

impl Fixture {
    /// Starts a role with up to `max` links, of which it wants one.
    pub(super) fn of_links(masters: usize, max: usize) -> Self {
        Fixture::with_links(masters, max, Vec::new(), |_| {})
    }

    /// Sets how many links the role wants, and accepts the missing ones at a master.
    pub(super) async fn want(
        &mut self,
        links: usize,
        master: usize,
        missing: usize,
    ) -> Vec<MasterLink> {
        self.links.set_wanted(links);
        let mut accepted = Vec::new();
        for _ in 0..missing {
            accepted.push(self.masters[master].accept().await);
        }
        accepted.sort_by_key(|link| link.claims.slot);
        accepted
    }

    /// Takes the next events, which have to be joins. Returns the links, the lowest slot first.
    pub(super) async fn joins(&mut self, count: usize) -> Vec<RoleLink> {
        let mut links = Vec::new();
        for _ in 0..count {
            match self.events.recv().await {
                Some(RoleEvent::Joined(link)) => links.push(link),
                other => panic!("expected a join: {other:?}"),
            }
        }
        links.sort_by_key(|link| link.slot);
        links
    }

    /// Returns the number of dials so far.
    pub(super) fn dials(&self, master: usize) -> usize {
        self.masters[master].dials().len()
    }
}

pub(super) fn slots(links: &[MasterLink]) -> Vec<u8> {
    links.iter().map(|link| link.claims.slot.number()).collect()
}

#[tokio::test(start_paused = true)]
async fn role_has_one_link_until_it_wants_more() {
    let mut fixture = Fixture::of_links(1, 4);
    let first = fixture.accept().await;
    assert_eq!(
        (first.claims.slot, fixture.links.wanted()),
        (Slot::FIRST, 1)
    );
    fixture.masters[0].expect_no_link_for(LONG).await;
    let wanted = Instant::now();
    let more = fixture.want(3, 0, 2).await;
    assert!(wanted.elapsed() <= IMMEDIATE, "{:?}", wanted.elapsed());
    assert_eq!(slots(&more), [1, 2]);
    for link in &more {
        assert!(!link.claims.moves && link.claims.epoch > first.claims.epoch);
        assert_eq!(link.claims.instance, first.claims.instance);
    }
    let last = fixture.want(99, 0, 1).await;
    assert_eq!((slots(&last), fixture.links.wanted()), (vec![3], 4));
    fixture.masters[0].expect_no_link_for(LONG).await;
    let joined = fixture.joins(4).await;
    let kinds: Vec<_> = joined.iter().map(|link| link.is_additional).collect();
    assert_eq!(kinds, [false, true, true, true]);
    assert!(joined.iter().all(|link| link.outbox.ended().is_none()));
}

#[tokio::test(start_paused = true)]
async fn role_always_keeps_its_minimum_of_links() {
    let mut fixture = Fixture::with_min_links(1, (3, 4), Vec::new(), |_| {});
    let _first = fixture.accept().await;
    let more = fixture.want(1, 0, 2).await;
    assert_eq!((slots(&more), fixture.links.wanted()), (vec![1, 2], 3));
    fixture.joins(3).await;
    fixture.masters[0].expect_no_link_for(LONG).await;
    assert!(fixture.events.try_recv().is_err(), "no link retires");
    assert_eq!(slots(&fixture.want(4, 0, 1).await), [3]);
}

#[tokio::test(start_paused = true)]
async fn lost_link_is_redialled_with_its_slot() {
    let mut fixture = Fixture::of_links(1, 3);
    let _first = fixture.accept().await;
    let mut more = fixture.want(3, 0, 2).await;
    let lost = more.remove(0);
    let (slot, epoch) = (lost.claims.slot, lost.claims.epoch);
    drop(lost);
    let cut = Instant::now();
    let new = fixture.accept().await;
    assert!(cut.elapsed() <= IMMEDIATE, "{:?}", cut.elapsed());
    assert!(new.claims.slot == slot && new.claims.epoch > epoch && !new.claims.moves);
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn first_link_alone_dials_when_all_are_lost() {
    let mut fixture = Fixture::of_links(1, 4);
    let first = fixture.accept().await;
    let more = fixture.want(4, 0, 3).await;
    // One dial takes so long that each supervisor dials at most once.
    fixture.masters[0].set_dial_time(LONG);
    let before = fixture.dials(0);
    drop((first, more));
    tokio::time::sleep(LONG / 2).await;
    assert_eq!(fixture.dials(0), before + 1);
    fixture.masters[0].set_dial_time(Duration::ZERO);
    let first = fixture.accept().await;
    assert_eq!(first.claims.slot, Slot::FIRST);
    let mut more = Vec::new();
    for _ in 0..3 {
        more.push(fixture.accept().await);
    }
    more.sort_by_key(|link| link.claims.slot);
    assert_eq!(slots(&more), [1, 2, 3], "the wanted number is unchanged");
}

#[tokio::test(start_paused = true)]
async fn other_links_continue_while_the_first_is_down() {
    let mut fixture = Fixture::of_links(1, 3);
    let first = fixture.accept().await;
    let mut more = fixture.want(3, 0, 2).await;
    fixture.masters[0].set_dial_time(LONG);
    let before = fixture.dials(0);
    drop(first);
    tokio::time::sleep(SECOND).await;
    assert_eq!(fixture.dials(0), before + 1);
    more[0].expect_alive().await;
    more[1].expect_alive().await;
    drop(more.remove(1));
    tokio::time::sleep(SECOND).await;
    assert_eq!(fixture.dials(0), before + 2, "slot 1 is up at the master");
}

#[tokio::test(start_paused = true)]
async fn links_follow_the_first_one_to_another_master() {
    let mut fixture = Fixture::of_links(2, 3);
    let mut old_first = fixture.accept().await;
    let mut old = fixture.want(3, 0, 2).await;
    fixture.joins(3).await;
    fixture.move_requests.request_other_master();
    let mut new_first = fixture.masters[1].accept().await;
    assert_eq!(new_first.claims.slot, Slot::FIRST);
    let mut new = vec![
        fixture.masters[1].accept().await,
        fixture.masters[1].accept().await,
    ];
    new.sort_by_key(|link| link.claims.slot);
    assert_eq!(slots(&new), [1, 2]);
    let moved = Instant::now();
    for link in &mut old {
        link.expect_closed().await;
    }
    old_first.expect_closed().await;
    let kept = moved.elapsed();
    assert!(
        kept >= RETIREMENT - SECOND && kept < RETIREMENT + SECOND,
        "the old links have open channels: {kept:?}"
    );
    for link in new.iter_mut().chain([&mut new_first]) {
        link.expect_alive().await;
    }
    fixture.masters[0].expect_no_link_for(LONG).await;
    fixture.masters[1].expect_no_link_for(LONG).await;
    // Back to the master whose supervisors have retired.
    fixture.move_requests.request_other_master();
    let back = fixture.accept().await;
    assert_eq!(back.claims.slot, Slot::FIRST);
    let mut again = vec![fixture.accept().await, fixture.accept().await];
    again.sort_by_key(|link| link.claims.slot);
    assert_eq!(slots(&again), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn links_leave_the_master_that_the_first_one_cannot_reach() {
    let mut fixture = Fixture::of_links(2, 2);
    let first = fixture.accept().await;
    let mut old = fixture.want(2, 0, 1).await;
    fixture.masters[0].set_reachable(false);
    drop(first);
    let new_first = fixture.masters[1].accept().await;
    assert_eq!(new_first.claims.slot, Slot::FIRST);
    let new = fixture.masters[1].accept().await;
    assert_eq!(new.claims.slot.number(), 1);
    old[0].expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn each_link_moves_on_go_away_within_its_slot() {
    let mut fixture = Fixture::of_links(1, 2);
    let mut first = fixture.accept().await;
    let mut second = fixture.want(2, 0, 1).await.remove(0);
    fixture.joins(2).await;
    second.send_go_away().await;
    let new = fixture.accept().await;
    assert!(new.claims.moves && new.claims.slot == second.claims.slot);
    fixture.joined().await;
    match fixture.events.recv().await {
        Some(RoleEvent::Retiring(link, RetirementCause::Replaced)) => {
            assert_eq!(link.slot, second.claims.slot);
        }
        other => panic!("expected a replacement: {other:?}"),
    }
    first.send_go_away().await;
    let new = fixture.accept().await;
    assert!(new.claims.moves && new.claims.slot == Slot::FIRST);
}

#[tokio::test(start_paused = true)]
async fn request_for_a_new_link_concerns_one_slot() {
    let mut fixture = Fixture::of_links(1, 3);
    let _first = fixture.accept().await;
    let _more = fixture.want(3, 0, 2).await;
    let links = fixture.joins(3).await;
    links[2].move_requests.request_new_link();
    let new = fixture.accept().await;
    assert!(new.claims.moves && new.claims.slot.number() == 2);
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn end_of_role_closes_all_links_gracefully() {
    let mut fixture = Fixture::of_links(1, 4);
    let mut links = vec![fixture.accept().await];
    links.extend(fixture.want(4, 0, 3).await);
    fixture.joins(4).await;
    fixture.links.set_wanted(3);
    fixture.surplus().await;
    fixture.cancel.cancel();
    for link in &mut links {
        link.expect_closed().await;
    }
    drop(links);
    fixture.ended().await;
    fixture.masters[0].expect_no_link_for(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_set_cuts_its_links() {
    let mut fixture = Fixture::of_links(1, 2);
    let mut first = fixture.accept().await;
    let mut second = fixture.want(2, 0, 1).await.remove(0);
    fixture.joins(2).await;
    fixture.task.shutdown().await;
    for link in [&mut first, &mut second] {
        assert!(link.socket.receive().await.is_err(), "cut, not closed");
    }
}

/// Returns an uplink to this many masters in memory.
fn uplink(masters: usize) -> Uplink<MemoryConnector> {
    Uplink {
        dialers: (0..masters).map(|_| FakeMaster::new().0).collect(),
        strategy: DialStrategy::Ordered,
        secret: LinkSecret::MasterKey(LinkKey::derive(None)),
        role: Role::Server,
        instance: Id([3; 16]),
        slot: Slot::FIRST,
        timing: QUIET,
        rotate_after: None,
        move_requests: MoveRequests::default(),
    }
}

#[test]
fn sets_of_several_masters_share_no_slot() {
    for masters in 1..=usize::from(MAX_SLOTS) {
        let sets = LinkSet::each(uplink(masters), 8);
        let mut slots: Vec<_> = sets.iter().flat_map(LinkSet::slots).copied().collect();
        let all = slots.len();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), all, "{masters} masters");
        for (position, set) in sets.iter().enumerate() {
            assert_eq!(usize::from(set.slots()[0].number()), position);
            assert_eq!(set.count().max(), set.slots().len());
            assert!((1..=8).contains(&set.slots().len()));
        }
    }
    assert_eq!(LinkSet::each(uplink(2), 8)[1].count().max(), 8);
    assert_eq!(LinkSet::each(uplink(3), 8)[2].count().max(), 5);
    assert_eq!(LinkSet::new(uplink(1), 99).count().max(), 16);
    assert_eq!(LinkSet::new(uplink(1), 0).count().max(), 1);
    let third = LinkSet::each(uplink(3), 8).remove(2).with_min(8);
    assert_eq!(third.count().wanted(), 5, "all slots that it has");
}

#[test]
fn uplinks_to_several_masters_have_different_slots() {
    let slots: Vec<_> = uplink(16).each().iter().map(|one| one.slot).collect();
    assert_eq!(slots, Slot::all().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn log_names_the_events_of_the_first_link_only() {
    let log = Log::default();
    let subscriber = |log: Log| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(log)
            .finish()
    };
    // With a single subscriber, the first thread that reaches an event decides whether it is
    // enabled. That may be the thread of another test, which has none.
    let _another = tracing::Dispatch::new(subscriber(Log::default()));
    let _guard = tracing::subscriber::set_default(subscriber(log.clone()));
    tracing::callsite::rebuild_interest_cache();
    let mut fixture = Fixture::of_links(1, 8);
    let mut links = vec![fixture.accept().await];
    links.extend(fixture.want(8, 0, 7).await);
    fixture.joins(8).await;
    for link in &mut links {
        link.send_go_away().await;
    }
    for _ in 0..8 {
        links.push(fixture.accept().await);
    }
    fixture.masters[0].set_reachable(false);
    drop(links);
    tokio::time::sleep(SECOND).await;
    let text = log.text();
    for (event, times) in [
        ("linked to the master", 1),
        ("the master asks to move", 1),
        ("moved to a new link", 1),
        ("the link was lost", 1),
    ] {
        assert_eq!(text.matches(event).count(), times, "{event} in:\n{text}");
    }
    assert!(text.contains("cannot reach the master"), "{text}");
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
