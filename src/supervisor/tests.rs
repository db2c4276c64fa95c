//! Tests of uplinks over memory, with scripted masters. Time is paused: it only advances when every
//! task waits.

mod several;

use std::sync::{Mutex, atomic::AtomicBool};

use bytes::BytesMut;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::*;
use crate::{
    link::{
        Lane, Transmit,
        authenticate::{self, AUTHENTICATION_TIMEOUT},
    },
    net::memory,
};
use report_proto::frame::{Claims, Code, Notice};

const SECOND: Duration = Duration::from_secs(1);

/// A keep-alive that never triggers: the masters of these tests do not answer.
const QUIET: KeepAliveTiming = KeepAliveTiming {
    interval: Duration::from_secs(100_000),
    timeout: Duration::from_secs(1_000_000),
    answer_delay: Duration::from_secs(100_000),
    answer_timeout: Duration::from_secs(1_000_000),
};

const TERMS: Terms = Terms {
    version: 1,
    heartbeat_seconds: 100_000,
    max_channels: 9,
    max_ports: 9,
};

/// The longest delay of an immediate attempt, with a margin (PROTOCOL 6.4).
const IMMEDIATE: Duration = Duration::from_millis(15);

/// Connects to a master in memory.
struct MemoryConnector {
    incoming: mpsc::Sender<MessageSocket>,
    state: Arc<ConnectorState>,
}

/// The state of a connector that the test controls and inspects.
struct ConnectorState {
    reachable: AtomicBool,
    /// The duration of a dial.
    dial_time: Mutex<Duration>,
    dials: Mutex<Vec<Instant>>,
}

impl Connector for MemoryConnector {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    async fn dial(&self) -> Result<MessageSocket, DialError> {
        self.state.dials.lock().unwrap().push(Instant::now());
        let dial_time = *self.state.dial_time.lock().unwrap();
        tokio::time::sleep(dial_time).await;
        if !self.state.reachable.load(Ordering::Relaxed) {
            return Err(DialError::Connect {
                peer: crate::net::dial::DialPeer::Master,
                attempts: Vec::new(),
            });
        }
        let (role, master) = memory::pair();
        self.incoming
            .send(master)
            .await
            .expect("the test is running");
        Ok(role)
    }
}

/// A master that the test scripts.
struct FakeMaster {
    incoming: mpsc::Receiver<MessageSocket>,
    connector: Arc<ConnectorState>,
}

impl FakeMaster {
    fn set_reachable(&self, reachable: bool) {
        self.connector.reachable.store(reachable, Ordering::Relaxed);
    }

    /// Sets the duration of all further dials.
    fn set_dial_time(&self, dial_time: Duration) {
        *self.connector.dial_time.lock().unwrap() = dial_time;
    }

    /// Returns when this master was dialled.
    fn dials(&self) -> Vec<Instant> {
        self.connector.dials.lock().unwrap().clone()
    }

    /// Accepts the next link.
    async fn accept(&mut self) -> MasterLink {
        let socket = tokio::time::timeout(300 * SECOND, self.incoming.recv())
            .await
            .expect("a link in time")
            .expect("a link");
        self.welcome(socket).await
    }

    async fn welcome(&self, mut socket: MessageSocket) -> MasterLink {
        let hello = authenticate::hello(&mut socket, AUTHENTICATION_TIMEOUT)
            .await
            .expect("HELLO");
        let key = LinkKey::derive(None);
        authenticate::welcome(&mut socket, &key, &hello, &TERMS)
            .await
            .expect("the link is up");
        MasterLink {
            socket,
            claims: hello.claims,
            at: Instant::now(),
        }
    }

    /// Checks that no link arrives for this long.
    async fn expect_no_link_for(&mut self, time: Duration) {
        assert!(
            tokio::time::timeout(time, self.incoming.recv())
                .await
                .is_err(),
            "another link within {time:?}"
        );
    }
}

/// The master's end of a link.
struct MasterLink {
    socket: MessageSocket,
    claims: Claims,
    at: Instant,
}

impl MasterLink {
    async fn send(&mut self, frame: Frame) {
        self.socket
            .feed(frame.to_message())
            .await
            .expect("the link is up");
        self.socket.flush().await.expect("the link is up");
    }

    async fn send_go_away(&mut self) {
        self.send(Frame::GoAway(Notice::new(
            Code::Shutdown,
            "the master goes down",
        )))
        .await;
    }

    /// Checks that the role still answers.
    async fn expect_alive(&mut self) {
        self.send(Frame::Ping(7)).await;
        assert_eq!(self.receive().await, Some(Frame::Pong(7)));
    }

    async fn receive(&mut self) -> Option<Frame> {
        let message = self
            .socket
            .receive()
            .await
            .expect("a graceful close, if any");
        message.map(|message| Frame::decode(message.freeze()).expect("a frame"))
    }

    /// Waits until the role closes the link gracefully.
    async fn expect_closed(&mut self) {
        assert_eq!(self.receive().await, None);
    }
}

/// A lane that does nothing.
struct IdleLane;

impl Lane for IdleLane {
    fn receive(&self, _payload: BytesMut) -> Result<(), Notice> {
        Ok(())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        Transmit::Nothing
    }

    fn closed(&self, _notice: Notice) {}
}

/// An event that the uplink reported to its role.
#[derive(Debug)]
enum RoleEvent {
    Joined(Arc<Outbox>),
    Retiring(Arc<Outbox>),
}

/// A role that opens channel 1 on each of its links.
struct RecordingRole {
    events: Mutex<mpsc::Sender<RoleEvent>>,
    /// The frames to send with HELLO.
    first: Vec<Frame>,
}

struct RejectFrames;

impl Handler for RejectFrames {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(Code::Protocol, frame.name()))
    }
}

impl LinkedRole for RecordingRole {
    type Session = RejectFrames;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, RejectFrames) {
        outbox.open(1, Arc::new(IdleLane)).expect("a fresh outbox");
        (self.first.clone(), RejectFrames)
    }

    fn joined(&self, outbox: &Arc<Outbox>, _terms: &Terms) {
        self.events
            .lock()
            .unwrap()
            .try_send(RoleEvent::Joined(Arc::clone(outbox)))
            .expect("room");
    }

    fn retiring(&self, outbox: &Arc<Outbox>) {
        self.events
            .lock()
            .unwrap()
            .try_send(RoleEvent::Retiring(Arc::clone(outbox)))
            .expect("room");
    }
}

/// A role with an uplink to scripted masters.
struct Fixture {
    masters: Vec<FakeMaster>,
    events: mpsc::Receiver<RoleEvent>,
    move_requests: MoveRequests,
    cancel: CancellationToken,
    task: JoinSet<()>,
}

impl Fixture {
    fn start(masters: usize, change: impl FnOnce(&mut Uplink<MemoryConnector>)) -> Self {
        Fixture::with_first_frames(masters, Vec::new(), change)
    }

    /// Starts a role that sends these frames with HELLO.
    fn with_first_frames(
        masters: usize,
        first: Vec<Frame>,
        change: impl FnOnce(&mut Uplink<MemoryConnector>),
    ) -> Self {
        let (connectors, masters): (Vec<_>, Vec<_>) = (0..masters)
            .map(|_| {
                let (sender, incoming) = mpsc::channel(8);
                let state = ConnectorState {
                    reachable: AtomicBool::new(true),
                    dial_time: Mutex::default(),
                    dials: Mutex::default(),
                };
                let state = Arc::new(state);
                (
                    MemoryConnector {
                        incoming: sender,
                        state: Arc::clone(&state),
                    },
                    FakeMaster {
                        incoming,
                        connector: state,
                    },
                )
            })
            .unzip();
        let (sender, events) = mpsc::channel(1000);
        let mut uplink = Uplink {
            dialers: connectors,
            strategy: DialStrategy::Ordered,
            key: LinkKey::derive(None),
            role: Role::Client,
            instance: Id([3; 16]),
            timing: QUIET,
            rotate_after: None,
            move_requests: MoveRequests::default(),
        };
        change(&mut uplink);
        let (move_requests, cancel) = (uplink.move_requests.clone(), CancellationToken::new());
        let (role, token) = (
            Arc::new(RecordingRole {
                events: Mutex::new(sender),
                first,
            }),
            cancel.clone(),
        );
        let mut task = JoinSet::new();
        task.spawn(async move { uplink.run(role, &token).await });
        Fixture {
            masters,
            events,
            move_requests,
            cancel,
            task,
        }
    }

    async fn accept(&mut self) -> MasterLink {
        self.masters[0].accept().await
    }

    async fn joined(&mut self) -> Arc<Outbox> {
        match self.events.recv().await {
            Some(RoleEvent::Joined(outbox)) => outbox,
            other => panic!("expected a join: {other:?}"),
        }
    }

    async fn retiring(&mut self) -> Arc<Outbox> {
        match self.events.recv().await {
            Some(RoleEvent::Retiring(outbox)) => outbox,
            other => panic!("expected a retirement: {other:?}"),
        }
    }
}

fn close_channel(outbox: &Outbox) {
    outbox.close(1, &Notice::new(Code::Cancelled, ""));
}

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
    first.expect_closed().await;
    assert!(
        asked.elapsed() <= IMMEDIATE,
        "the first makes room: {:?}",
        asked.elapsed()
    );
    drop(first);
    let mut third = fixture.accept().await;
    assert!(third.claims.moves);
    second.expect_alive().await;
    third.expect_alive().await;
    fixture.masters[0].expect_no_link_for(20 * SECOND).await;
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
        outbox.open(2, Arc::new(IdleLane)).expect("the link is up");
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
    fixture
        .task
        .join_next()
        .await
        .expect("the task ran")
        .expect("no panic");
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
async fn two_addresses_of_one_master_stop_superseding_each_other() {
    let mut fixture = Fixture::start(1, |_| {});
    let mut peer = fixture.accept().await;
    assert!(!peer.claims.moves);
    peer.send(Frame::Error(Notice::new(
        Code::Superseded,
        "a newer link of this instance took over",
    )))
    .await;
    peer.expect_closed().await;
    drop(peer);
    assert!(fixture.accept().await.claims.moves, "both links are up");
}
