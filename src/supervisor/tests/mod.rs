//! Tests of uplinks over memory, with scripted masters. Time is paused: it only advances when every
//! task waits.

mod link_set;
mod losses;
mod moves;
mod pool;
mod several;
mod spread;
mod surplus;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    link::{
        ChannelEnd, Handler, KeepAliveTiming, Outbox, Transmit,
        authenticate::{self, AUTHENTICATION_TIMEOUT, LinkSecret},
    },
    net::{dial::DialError, memory, websocket::MessageSocket},
    tcp_table::TcpConnection,
};
use report_proto::{
    crypto::LinkKey,
    frame::{Claims, Code, Frame, Notice, Role, Slot, Terms},
    id::Id,
};

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
    retry_within_ms: 0,
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
    name: Mutex<MasterName>,
}

/// The addresses to which the name of a master leads. Without any, no link has an address.
#[derive(Default)]
struct MasterName {
    addresses: Vec<IpAddr>,
    /// Those that accept no connection.
    down: Vec<IpAddr>,
    /// Those of the links, in the order of the dials.
    dialled: Vec<IpAddr>,
}

impl MasterName {
    /// Connects to one of the addresses, if possible to none of `used`.
    fn connect(&mut self, used: &[IpAddr]) -> Option<TcpConnection> {
        let is_up = |address: &&IpAddr| !self.down.contains(address);
        let mut up: Vec<_> = self.addresses.iter().filter(is_up).copied().collect();
        up.sort_by_key(|address| used.contains(address));
        let address = *up.first()?;
        self.dialled.push(address);
        Some(TcpConnection {
            local: ([127, 0, 0, 1], 1).into(),
            peer: (address, 443).into(),
            interface: 0,
        })
    }
}

impl Connector for MemoryConnector {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    async fn dial(&self) -> Result<MessageSocket, DialError> {
        self.dial_apart(Vec::new()).await
    }

    async fn addresses(&self) -> Vec<IpAddr> {
        self.state.name.lock().unwrap().addresses.clone()
    }

    async fn accepts_at(&self, address: IpAddr) -> bool {
        !self.state.name.lock().unwrap().down.contains(&address)
    }

    async fn dial_apart(&self, used: Vec<IpAddr>) -> Result<MessageSocket, DialError> {
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
        let connection = self.state.name.lock().unwrap().connect(&used);
        Ok(role.with_connection(connection))
    }
}

/// A master that the test scripts.
struct FakeMaster {
    incoming: mpsc::Receiver<MessageSocket>,
    connector: Arc<ConnectorState>,
}

impl FakeMaster {
    /// Creates a master that can be reached, and a connector to it.
    fn new() -> (MemoryConnector, Self) {
        let (sender, incoming) = mpsc::channel(8);
        let state = Arc::new(ConnectorState {
            reachable: AtomicBool::new(true),
            dial_time: Mutex::default(),
            dials: Mutex::default(),
            name: Mutex::default(),
        });
        let connector = MemoryConnector {
            incoming: sender,
            state: Arc::clone(&state),
        };
        let master = FakeMaster {
            incoming,
            connector: state,
        };
        (connector, master)
    }

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
        self.accept_with(&TERMS).await
    }

    /// Accepts the next link with these terms.
    async fn accept_with(&mut self, terms: &Terms) -> MasterLink {
        let socket = tokio::time::timeout(300 * SECOND, self.incoming.recv())
            .await
            .expect("a link in time")
            .expect("a link");
        self.welcome_with(socket, terms).await
    }

    async fn welcome(&self, socket: MessageSocket) -> MasterLink {
        self.welcome_with(socket, &TERMS).await
    }

    async fn welcome_with(&self, mut socket: MessageSocket, terms: &Terms) -> MasterLink {
        let hello = authenticate::hello(&mut socket, AUTHENTICATION_TIMEOUT)
            .await
            .expect("HELLO");
        let key = LinkKey::derive(None);
        authenticate::welcome(&mut socket, &key, &hello, terms)
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
        let next = tokio::time::timeout(time, self.incoming.recv()).await;
        // The connectors are gone after the end of the role.
        assert!(
            matches!(next, Err(_) | Ok(None)),
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

/// A channel end that does nothing.
struct IdleEnd;

impl ChannelEnd for IdleEnd {
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
    Joined(RoleLink),
    Retiring(RoleLink, RetirementCause),
}

/// A role that opens channel 1 on each of its links.
struct RecordingRole {
    events: Mutex<mpsc::Sender<RoleEvent>>,
    /// The frames to send with HELLO.
    first: Vec<Frame>,
    /// The numbers of lanes that were reported.
    lanes: Arc<Mutex<Vec<usize>>>,
}

struct RejectFrames;

impl Handler for RejectFrames {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(Code::Protocol, frame.name()))
    }
}

impl LinkedRole for RecordingRole {
    type Session = RejectFrames;

    fn begin(&self, link: &RoleLink) -> (Vec<Frame>, RejectFrames) {
        link.outbox
            .open(1, Arc::new(IdleEnd))
            .expect("a fresh outbox");
        (self.first.clone(), RejectFrames)
    }

    fn joined(&self, link: &RoleLink, _terms: &Terms) {
        self.record(RoleEvent::Joined(link.clone()));
    }

    fn on_lanes_wanted(&self, _slots: &[Slot], lanes: usize) {
        self.lanes.lock().unwrap().push(lanes);
    }

    fn retiring(&self, link: &RoleLink, cause: RetirementCause) {
        self.record(RoleEvent::Retiring(link.clone(), cause));
    }
}

impl RecordingRole {
    fn record(&self, event: RoleEvent) {
        self.events.lock().unwrap().try_send(event).expect("room");
    }
}

/// A role with links to scripted masters.
struct Fixture {
    masters: Vec<FakeMaster>,
    events: mpsc::Receiver<RoleEvent>,
    move_requests: MoveRequests,
    links: LinkCount,
    lanes: Arc<Mutex<Vec<usize>>>,
    cancel: CancellationToken,
    task: JoinSet<()>,
}

impl Fixture {
    fn start(masters: usize, change: impl FnOnce(&mut Uplink<MemoryConnector>)) -> Self {
        Fixture::with_links(masters, 1, Vec::new(), change)
    }

    /// Starts a role that sends these frames with HELLO.
    fn with_first_frames(
        masters: usize,
        first: Vec<Frame>,
        change: impl FnOnce(&mut Uplink<MemoryConnector>),
    ) -> Self {
        Fixture::with_links(masters, 1, first, change)
    }

    /// Starts a role with up to `max` links.
    fn with_links(
        masters: usize,
        max: usize,
        first: Vec<Frame>,
        change: impl FnOnce(&mut Uplink<MemoryConnector>),
    ) -> Self {
        Fixture::with_min_links(masters, (1, max), first, change)
    }

    /// Starts a role with a minimum and a maximum of links.
    fn with_min_links(
        masters: usize,
        (min, max): (usize, usize),
        first: Vec<Frame>,
        change: impl FnOnce(&mut Uplink<MemoryConnector>),
    ) -> Self {
        let (connectors, masters): (Vec<_>, Vec<_>) =
            (0..masters).map(|_| FakeMaster::new()).unzip();
        let (sender, events) = mpsc::channel(1000);
        let mut uplink = memory_uplink(connectors);
        change(&mut uplink);
        let (move_requests, cancel) = (uplink.move_requests.clone(), CancellationToken::new());
        let lanes: Arc<Mutex<Vec<usize>>> = Arc::default();
        let (role, token) = (
            Arc::new(RecordingRole {
                events: Mutex::new(sender),
                first,
                lanes: Arc::clone(&lanes),
            }),
            cancel.clone(),
        );
        let link_set = LinkSet::new(uplink, max).with_min(min);
        let links = link_set.count();
        let mut task = JoinSet::new();
        task.spawn(async move { link_set.run(role, &token).await });
        Fixture {
            masters,
            events,
            move_requests,
            links,
            lanes,
            cancel,
            task,
        }
    }

    async fn accept(&mut self) -> MasterLink {
        self.masters[0].accept().await
    }

    async fn joined(&mut self) -> Arc<Outbox> {
        match self.events.recv().await {
            Some(RoleEvent::Joined(link)) => link.outbox,
            other => panic!("expected a join: {other:?}"),
        }
    }

    async fn retiring(&mut self) -> Arc<Outbox> {
        match self.events.recv().await {
            Some(RoleEvent::Retiring(link, _)) => link.outbox,
            other => panic!("expected a retirement: {other:?}"),
        }
    }

    /// Waits for the end of the role.
    async fn ended(&mut self) {
        let end = self.task.join_next().await;
        end.expect("the task ran").expect("no panic");
    }
}

/// Returns the parameters of a client without a secret.
fn memory_uplink(dialers: Vec<MemoryConnector>) -> Uplink<MemoryConnector> {
    Uplink {
        dialers,
        strategy: DialStrategy::Ordered,
        secret: LinkSecret::Anonymous,
        role: Role::Client,
        instance: Id([3; 16]),
        slot: Slot::FIRST,
        timing: QUIET,
        rotate_after: None,
        move_requests: MoveRequests::default(),
    }
}

fn close_channel(outbox: &Outbox) {
    outbox.close(1, &Notice::new(Code::Cancelled, ""));
}
