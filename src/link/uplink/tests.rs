//! Uplinks over memory, with masters that do what the test says. Time is paused: it passes only when nothing else can happen.

mod several;

use std::sync::{Mutex, atomic::AtomicBool};

use bytes::BytesMut;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::*;
use crate::{
    frame::{Claims, Code, Notice},
    link::{
        Lane, Transmit,
        authenticate::{self, AUTHENTICATION_TIMEOUT},
        memory,
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// No heartbeat interferes: the masters of these tests do not answer.
const QUIET: Timing = Timing {
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

/// "At once" is some milliseconds (PROTOCOL 6.4).
const AT_ONCE: Duration = Duration::from_millis(15);

/// The way to a master in memory.
struct Road {
    door: mpsc::Sender<MessageSocket>,
    state: Arc<RoadState>,
}

/// What the test sets of a way, and sees.
struct RoadState {
    up: AtomicBool,
    /// How long a dial takes.
    length: Mutex<Duration>,
    dials: Mutex<Vec<Instant>>,
}

impl Way for Road {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    async fn dial(&self) -> Result<MessageSocket, DialError> {
        self.state.dials.lock().unwrap().push(Instant::now());
        let length = *self.state.length.lock().unwrap();
        tokio::time::sleep(length).await;
        if !self.state.up.load(Ordering::Relaxed) {
            return Err(DialError::Connect {
                peer: crate::link::dial::Peer::Master,
                attempts: Vec::new(),
            });
        }
        let (role, master) = memory::pair();
        self.door.send(master).await.expect("the test is there");
        Ok(role)
    }
}

/// A master of the test.
struct Host {
    door: mpsc::Receiver<MessageSocket>,
    road: Arc<RoadState>,
}

impl Host {
    fn set_up(&self, up: bool) {
        self.road.up.store(up, Ordering::Relaxed);
    }

    /// Dials take so long from now on.
    fn set_length(&self, length: Duration) {
        *self.road.length.lock().unwrap() = length;
    }

    /// When it was dialled.
    fn dials(&self) -> Vec<Instant> {
        self.road.dials.lock().unwrap().clone()
    }

    /// Takes the next link in.
    async fn accept(&mut self) -> Peer {
        let socket = tokio::time::timeout(300 * SECOND, self.door.recv())
            .await
            .expect("a link in time")
            .expect("a link");
        self.welcome(socket).await
    }

    async fn welcome(&self, mut socket: MessageSocket) -> Peer {
        let hello = authenticate::hello(&mut socket, AUTHENTICATION_TIMEOUT)
            .await
            .expect("HELLO");
        let key = LinkKey::derive(None);
        authenticate::welcome(&mut socket, &key, &hello, &TERMS)
            .await
            .expect("the link is up");
        Peer {
            socket,
            claims: hello.claims,
            at: Instant::now(),
        }
    }

    /// Nobody comes for this long.
    async fn nobody_for(&mut self, time: Duration) {
        assert!(
            tokio::time::timeout(time, self.door.recv()).await.is_err(),
            "another link within {time:?}"
        );
    }
}

/// The master's end of a link.
struct Peer {
    socket: MessageSocket,
    claims: Claims,
    at: Instant,
}

impl Peer {
    async fn send(&mut self, frame: Frame) {
        self.socket
            .feed(frame.to_message())
            .await
            .expect("the link is up");
        self.socket.flush().await.expect("the link is up");
    }

    async fn go_away(&mut self) {
        self.send(Frame::GoAway(Notice::new(
            Code::Shutdown,
            "the master goes down",
        )))
        .await;
    }

    /// The role still answers.
    async fn expect_alive(&mut self) {
        self.send(Frame::Ping(7)).await;
        assert_eq!(self.receive().await, Some(Frame::Pong(7)));
    }

    async fn receive(&mut self) -> Option<Frame> {
        let message = self
            .socket
            .receive()
            .await
            .expect("closed in order, if at all");
        message.map(|message| Frame::decode(message.freeze()).expect("a frame"))
    }

    /// Waits until the role closes the link, in order.
    async fn expect_closed(&mut self) {
        assert_eq!(self.receive().await, None);
    }
}

/// A lane that does nothing.
struct Idle;

impl Lane for Idle {
    fn receive(&self, _payload: BytesMut) -> Result<(), Notice> {
        Ok(())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        Transmit::Nothing
    }

    fn closed(&self, _notice: Notice) {}
}

/// What an uplink told its role.
#[derive(Debug)]
enum Told {
    Joined(Arc<Outbox>),
    Retiring(Arc<Outbox>),
}

/// A role that opens channel 1 on each of its links.
struct Recorder {
    told: Mutex<mpsc::Sender<Told>>,
    /// What goes with HELLO.
    first: Vec<Frame>,
}

struct NoFrames;

impl Handler for NoFrames {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(Code::Protocol, frame.name()))
    }
}

impl LinkedRole for Recorder {
    type Session = NoFrames;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, NoFrames) {
        outbox.open(1, Arc::new(Idle)).expect("a fresh outbox");
        (self.first.clone(), NoFrames)
    }

    fn joined(&self, outbox: &Arc<Outbox>, _terms: &Terms) {
        self.told
            .lock()
            .unwrap()
            .try_send(Told::Joined(Arc::clone(outbox)))
            .expect("room");
    }

    fn retiring(&self, outbox: &Arc<Outbox>) {
        self.told
            .lock()
            .unwrap()
            .try_send(Told::Retiring(Arc::clone(outbox)))
            .expect("room");
    }
}

/// A role that is linked to masters of the test.
struct Bed {
    hosts: Vec<Host>,
    told: mpsc::Receiver<Told>,
    mover: Mover,
    cancel: CancellationToken,
    task: JoinSet<()>,
}

impl Bed {
    fn start(masters: usize, change: impl FnOnce(&mut Uplink<Road>)) -> Self {
        Bed::wishing(masters, Vec::new(), change)
    }

    /// The same for a role that sends these with HELLO.
    fn wishing(masters: usize, first: Vec<Frame>, change: impl FnOnce(&mut Uplink<Road>)) -> Self {
        let (roads, hosts): (Vec<_>, Vec<_>) = (0..masters)
            .map(|_| {
                let (sender, door) = mpsc::channel(8);
                let state = RoadState {
                    up: AtomicBool::new(true),
                    length: Mutex::default(),
                    dials: Mutex::default(),
                };
                let state = Arc::new(state);
                (
                    Road {
                        door: sender,
                        state: Arc::clone(&state),
                    },
                    Host { door, road: state },
                )
            })
            .unzip();
        let (sender, told) = mpsc::channel(1000);
        let mut uplink = Uplink {
            dialers: roads,
            choice: Choice::Ordered,
            key: LinkKey::derive(None),
            role: Role::Client,
            instance: Id([3; 16]),
            timing: QUIET,
            rotate_after: None,
            mover: Mover::default(),
        };
        change(&mut uplink);
        let (mover, cancel) = (uplink.mover.clone(), CancellationToken::new());
        let (role, token) = (
            Arc::new(Recorder {
                told: Mutex::new(sender),
                first,
            }),
            cancel.clone(),
        );
        let mut task = JoinSet::new();
        task.spawn(async move { uplink.run(role, &token).await });
        Bed {
            hosts,
            told,
            mover,
            cancel,
            task,
        }
    }

    async fn accept(&mut self) -> Peer {
        self.hosts[0].accept().await
    }

    async fn joined(&mut self) -> Arc<Outbox> {
        match self.told.recv().await {
            Some(Told::Joined(outbox)) => outbox,
            other => panic!("a link was to join: {other:?}"),
        }
    }

    async fn retiring(&mut self) -> Arc<Outbox> {
        match self.told.recv().await {
            Some(Told::Retiring(outbox)) => outbox,
            other => panic!("a link was to retire: {other:?}"),
        }
    }
}

fn close_channel(outbox: &Outbox) {
    outbox.close(1, &Notice::new(Code::Cancelled, ""));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_is_replaced_at_once_however_often() {
    let mut bed = Bed::start(1, |_| {});
    let mut epoch = 0;
    let mut cut = Instant::now();
    for _ in 0..180 {
        let peer = bed.accept().await;
        assert!(cut.elapsed() <= AT_ONCE, "{:?}", cut.elapsed());
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
async fn a_master_that_ends_links_as_soon_as_they_have_joined_is_not_stormed() {
    let mut bed = Bed::start(1, |_| {});
    let start = Instant::now();
    let mut links = 0;
    while start.elapsed() < 300 * SECOND {
        drop(bed.accept().await);
        links += 1;
    }
    assert!(links < 200, "{links} links in five minutes");
}

#[tokio::test(start_paused = true)]
async fn when_the_master_asks_to_go_a_new_link_stands_before_the_old_one_is_closed() {
    let mut bed = Bed::start(1, |_| {});
    let mut old = bed.accept().await;
    let first = bed.joined().await;
    old.go_away().await;
    let asked = Instant::now();
    let mut new = bed.accept().await;
    assert!(asked.elapsed() <= AT_ONCE && new.claims.moves && new.claims.epoch > old.claims.epoch);
    let second = bed.joined().await;
    let retiring = bed.retiring().await;
    assert!(Arc::ptr_eq(&first, &retiring) && !Arc::ptr_eq(&first, &second));
    tokio::time::sleep(20 * SECOND).await;
    old.expect_alive().await;
    close_channel(&first);
    assert!(
        matches!(old.receive().await, Some(Frame::Close { channel: 1, .. })),
        "what waits is sent"
    );
    let vacated = Instant::now();
    old.expect_closed().await;
    assert!(vacated.elapsed() <= AT_ONCE, "{:?}", vacated.elapsed());
    new.expect_alive().await;
    assert!(second.ended().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_old_link_whose_channels_do_not_move_is_closed_after_a_while() {
    let mut bed = Bed::start(1, |_| {});
    let mut old = bed.accept().await;
    old.go_away().await;
    let new = bed.accept().await;
    old.expect_closed().await;
    let kept = new.at.elapsed();
    assert!(kept >= RETIREMENT && kept < RETIREMENT + SECOND, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn the_old_link_of_a_server_is_kept_for_what_is_on_its_way() {
    let mut bed = Bed::start(1, |uplink| uplink.role = Role::Server);
    let mut old = bed.accept().await;
    close_channel(&*bed.joined().await);
    assert!(matches!(old.receive().await, Some(Frame::Close { .. })));
    old.go_away().await;
    let new = bed.accept().await;
    old.expect_closed().await;
    let kept = new.at.elapsed();
    assert!(kept >= SECOND && kept < 2 * SECOND, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn the_old_link_stays_in_use_while_no_new_one_can_be_had() {
    let mut bed = Bed::start(1, |_| {});
    let mut old = bed.accept().await;
    let first = bed.joined().await;
    bed.hosts[0].set_up(false);
    old.go_away().await;
    for _ in 0..60 {
        tokio::time::sleep(SECOND).await;
        old.expect_alive().await;
    }
    assert!(
        bed.told.try_recv().is_err(),
        "nothing has joined or retires"
    );
    bed.hosts[0].set_up(true);
    let new = bed.accept().await;
    assert!(new.claims.moves);
    bed.joined().await;
    assert!(Arc::ptr_eq(&first, &bed.retiring().await));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_ends_before_its_successor_stands_is_replaced_at_once() {
    let mut bed = Bed::start(1, |_| {});
    let mut old = bed.accept().await;
    bed.joined().await;
    bed.hosts[0].set_up(false);
    old.go_away().await;
    tokio::time::sleep(90 * SECOND).await;
    bed.hosts[0].set_up(true);
    drop(old);
    let cut = Instant::now();
    let new = bed.accept().await;
    assert!(
        cut.elapsed() <= AT_ONCE && !new.claims.moves,
        "{:?}",
        cut.elapsed()
    );
    bed.joined().await;
    assert!(bed.told.try_recv().is_err(), "there is nothing to retire");
}

#[tokio::test(start_paused = true)]
async fn links_are_replaced_at_the_age_that_is_configured() {
    let mut bed = Bed::start(1, |uplink| uplink.rotate_after = Some(60 * SECOND));
    let mut old = bed.accept().await;
    for _ in 0..5 {
        let new = bed.accept().await;
        assert!(new.claims.moves && (old.at + 60 * SECOND..old.at + 61 * SECOND).contains(&new.at));
        old.expect_closed().await;
        old = new;
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_to_be_renewed_is_replaced_at_the_same_master() {
    let mut bed = Bed::start(2, |_| {});
    let mut old = bed.accept().await;
    bed.joined().await;
    bed.mover.renew();
    let mut new = bed.accept().await;
    assert!(
        new.claims.moves && new.at <= old.at + AT_ONCE,
        "{:?}",
        new.at - old.at
    );
    old.expect_closed().await;
    new.expect_alive().await;
    bed.hosts[0].nobody_for(20 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_than_two_links() {
    let mut bed = Bed::start(1, |_| {});
    let mut first = bed.accept().await;
    first.go_away().await;
    let mut second = bed.accept().await;
    second.go_away().await;
    let asked = Instant::now();
    first.expect_closed().await;
    assert!(
        asked.elapsed() <= AT_ONCE,
        "the first makes room: {:?}",
        asked.elapsed()
    );
    drop(first);
    let mut third = bed.accept().await;
    assert!(third.claims.moves);
    second.expect_alive().await;
    third.expect_alive().await;
    bed.hosts[0].nobody_for(20 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn when_a_master_fails_the_next_one_is_tried_at_once_and_all_of_them_in_turn() {
    let mut bed = Bed::start(3, |_| {});
    bed.hosts[0].set_up(false);
    bed.hosts[1].set_up(false);
    let start = Instant::now();
    let peer = bed.hosts[2].accept().await;
    assert!(start.elapsed() <= 2 * AT_ONCE, "{:?}", start.elapsed());
    tokio::time::sleep(100 * SECOND).await;
    bed.hosts[2].set_up(false);
    bed.hosts[1].set_up(true);
    drop(peer);
    let cut = Instant::now();
    let peer = bed.hosts[1].accept().await;
    assert!(cut.elapsed() <= 3 * AT_ONCE, "{:?}", cut.elapsed());
    assert!(!peer.claims.moves);
}

#[tokio::test(start_paused = true)]
async fn the_same_master_is_dialled_first_when_a_link_to_it_was_cut() {
    let mut bed = Bed::start(2, |_| {});
    for _ in 0..5 {
        let peer = bed.hosts[0].accept().await;
        tokio::time::sleep(2 * SECOND).await;
        drop(peer);
    }
    assert!(bed.hosts[1].door.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_role_that_wants_another_master_moves_to_the_next_one() {
    let mut bed = Bed::start(2, |_| {});
    let mut old = bed.hosts[0].accept().await;
    let first = bed.joined().await;
    bed.mover.move_on();
    let mut new = bed.hosts[1].accept().await;
    assert!(
        !new.claims.moves,
        "that master knows nothing of the link before"
    );
    bed.joined().await;
    assert!(Arc::ptr_eq(&first, &bed.retiring().await));
    old.expect_alive().await;
    new.expect_alive().await;
    close_channel(&first);
    old.receive().await;
    old.expect_closed().await;
    bed.mover.move_on();
    assert!(bed.hosts[0].accept().await.claims.epoch > new.claims.epoch);
}

#[tokio::test(start_paused = true)]
async fn a_role_with_one_master_stays_there() {
    let mut bed = Bed::start(1, |_| {});
    let mut peer = bed.accept().await;
    bed.mover.move_on();
    bed.hosts[0].nobody_for(60 * SECOND).await;
    peer.expect_alive().await;
}

#[tokio::test(start_paused = true)]
async fn when_the_role_ends_both_links_are_closed_in_order() {
    let mut bed = Bed::start(1, |_| {});
    let mut old = bed.accept().await;
    let first = bed.joined().await;
    old.go_away().await;
    let mut new = bed.accept().await;
    let second = bed.joined().await;
    bed.retiring().await;
    for outbox in [&first, &second] {
        close_channel(outbox);
        outbox.open(2, Arc::new(Idle)).expect("the link is up");
        close_channel(outbox);
    }
    bed.cancel.cancel();
    for peer in [&mut old, &mut new] {
        assert!(
            matches!(peer.receive().await, Some(Frame::Close { channel: 1, .. })),
            "what waits is sent"
        );
        peer.expect_closed().await;
    }
    drop((old, new));
    bed.task
        .join_next()
        .await
        .expect("it ran")
        .expect("in order");
    assert!(first.ended().is_some() && second.ended().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_is_dropped_cuts_its_links() {
    let mut bed = Bed::start(1, |_| {});
    let mut peer = bed.accept().await;
    let outbox = bed.joined().await;
    bed.task.shutdown().await;
    assert!(peer.socket.receive().await.is_err(), "cut, not closed");
    assert!(outbox.ended().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_path_that_cuts_links_at_an_age_is_learned_and_forestalled() {
    let mut bed = Bed::start(1, |_| {});
    for _ in 0..2 {
        let mut peer = bed.accept().await;
        assert!(!peer.claims.moves);
        tokio::time::sleep(59 * SECOND).await;
        peer.expect_alive().await;
        tokio::time::sleep(SECOND).await;
    }
    let mut old = bed.accept().await;
    for _ in 0..5 {
        let new = bed.accept().await;
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
async fn a_path_that_cuts_idle_links_gets_a_faster_heartbeat() {
    let mut bed = Bed::start(1, |_| {});
    for _ in 0..2 {
        let _peer = bed.accept().await;
        tokio::time::sleep(10 * SECOND).await;
    }
    let mut peer = bed.accept().await;
    assert_eq!(peer.receive().await, Some(Frame::Ping(1)));
    assert_eq!(peer.at.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn two_addresses_of_one_master_do_not_take_over_from_each_other_for_ever() {
    let mut bed = Bed::start(1, |_| {});
    let mut peer = bed.accept().await;
    assert!(!peer.claims.moves);
    peer.send(Frame::Error(Notice::new(
        Code::Superseded,
        "a newer link of this instance took over",
    )))
    .await;
    peer.expect_closed().await;
    drop(peer);
    assert!(bed.accept().await.claims.moves, "both stand");
}
