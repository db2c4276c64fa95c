//! Tests of sets of links that other sets replace.

use std::sync::Arc;

use super::*;

/// A role whose sets of links the test replaces.
struct PoolFixture {
    pool: Arc<LinkPool<RecordingRole, MemoryConnector>>,
    events: mpsc::Receiver<RoleEvent>,
    drain: drain::Drain,
}

impl PoolFixture {
    fn new() -> PoolFixture {
        let (sender, events) = mpsc::channel(1000);
        let role = RecordingRole {
            events: Mutex::new(sender),
            first: Vec::new(),
            lanes: Arc::default(),
        };
        let drain = drain::Drain::default();
        PoolFixture {
            pool: Arc::new(LinkPool::new(Arc::new(role), &drain)),
            events,
            drain,
        }
    }

    /// Returns a set with a link to a new master.
    fn link_set(&self) -> (LinkSet<MemoryConnector>, FakeMaster) {
        let (connector, master) = FakeMaster::new();
        let uplink = memory_uplink(vec![connector]);
        (LinkSet::new(uplink, 1), master)
    }

    async fn next(&mut self) -> RoleEvent {
        self.events.recv().await.expect("the role exists")
    }

    async fn end(self) {
        self.drain.stop.cancel();
        self.drain.tasks.close();
        self.drain.tasks.wait().await;
    }
}

#[tokio::test(start_paused = true)]
async fn former_set_stays_in_use_until_the_new_one_has_a_link() {
    let mut fixture = PoolFixture::new();
    let (set, mut master) = fixture.link_set();
    fixture.pool.start(vec![set]);
    let mut old = master.accept().await;
    assert!(matches!(fixture.next().await, RoleEvent::Joined(_)));
    let (set, mut other) = fixture.link_set();
    other.set_reachable(false);
    fixture.pool.replace(vec![set]);
    tokio::time::sleep(60 * SECOND).await;
    old.expect_alive().await;
    other.set_reachable(true);
    let mut new = other.accept().await;
    assert!(
        new.claims.moves,
        "the master must not close the former link"
    );
    let RoleEvent::Joined(joined) = fixture.next().await else {
        panic!("not joined")
    };
    let RoleEvent::Retiring(retiring, cause) = fixture.next().await else {
        panic!("not retiring")
    };
    assert_eq!(cause, RetirementCause::Replaced);
    assert!(!Arc::ptr_eq(&joined.outbox, &retiring.outbox));
    old.expect_alive().await;
    close_channel(&retiring.outbox);
    assert!(matches!(old.receive().await, Some(Frame::Close { .. })));
    old.expect_closed().await;
    new.expect_alive().await;
    master.expect_no_link_for(60 * SECOND).await;
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn set_without_a_link_ends_as_soon_as_it_is_replaced() {
    let mut fixture = PoolFixture::new();
    let (set, mut first) = fixture.link_set();
    fixture.pool.start(vec![set]);
    let mut old = first.accept().await;
    assert!(matches!(fixture.next().await, RoleEvent::Joined(_)));
    // Two changes: the second one corrects the first.
    let (set, mut wrong) = fixture.link_set();
    wrong.set_reachable(false);
    fixture.pool.replace(vec![set]);
    tokio::time::sleep(10 * SECOND).await;
    let (set, mut right) = fixture.link_set();
    fixture.pool.replace(vec![set]);
    let dials = wrong.dials().len();
    let _new = right.accept().await;
    assert!(matches!(fixture.next().await, RoleEvent::Joined(_)));
    let RoleEvent::Retiring(retiring, _) = fixture.next().await else {
        panic!("not retiring")
    };
    close_channel(&retiring.outbox);
    assert!(matches!(old.receive().await, Some(Frame::Close { .. })));
    old.expect_closed().await;
    wrong.set_reachable(true);
    wrong.expect_no_link_for(300 * SECOND).await;
    assert!(wrong.dials().len() <= dials + 1, "{:?}", wrong.dials());
    fixture.end().await;
}
