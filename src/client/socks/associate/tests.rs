//! Tests of associations with flows in memory and real sockets.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{io::DuplexStream, sync::mpsc};

use super::*;
use crate::tunnel::tests::eventually;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LONG: Duration = Duration::from_secs(20);

/// A flow that answers each datagram with itself, unless its host is `silent.lan`.
struct Echo {
    answers: mpsc::Sender<Bytes>,
    received: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    is_silent: bool,
    open: Arc<AtomicUsize>,
    unsent: Arc<AtomicUsize>,
}

impl Flow for Echo {
    fn send(&self, datagram: Bytes) -> Result<(), FlowEnded> {
        if datagram == "end" {
            return Err(FlowEnded);
        }
        if !self.is_silent {
            self.answers.try_send(datagram).map_err(|_| FlowEnded)?;
        }
        Ok(())
    }

    async fn receive(&self) -> Result<Bytes, FlowEnded> {
        self.received.lock().await.recv().await.ok_or(FlowEnded)
    }

    fn count_unsent(&self) {
        self.unsent.fetch_add(1, SeqCst);
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

/// Opens echoing flows and counts them. There is no tunnel for `refused.lan`.
#[derive(Clone)]
struct Opener {
    most: usize,
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    unsent: Arc<AtomicUsize>,
}

impl Default for Opener {
    fn default() -> Self {
        Opener {
            most: usize::MAX,
            opened: Arc::default(),
            open: Arc::default(),
            unsent: Arc::default(),
        }
    }
}

impl FlowOpener for Opener {
    type Flow = Echo;

    fn open(&self, target: &NamedTarget) -> Result<Echo, FlowNotOpened> {
        if target.host == "refused.lan" {
            return Err(FlowNotOpened::NoTunnel);
        }
        if self.open.load(SeqCst) >= self.most {
            return Err(FlowNotOpened::Full);
        }
        self.opened.fetch_add(1, SeqCst);
        self.open.fetch_add(1, SeqCst);
        let (answers, received) = mpsc::channel(16);
        Ok(Echo {
            answers,
            received: tokio::sync::Mutex::new(received),
            is_silent: target.host == "silent.lan",
            open: Arc::clone(&self.open),
            unsent: Arc::clone(&self.unsent),
        })
    }
}

/// A running association, its application, and the connection that requested it.
struct Testbed {
    opener: Opener,
    application: UdpSocket,
    control: DuplexStream,
    running: JoinSet<()>,
}

impl Testbed {
    async fn new(port: u16, idle_timeout: Option<Duration>) -> Testbed {
        Testbed::with(Opener::default(), port, idle_timeout).await
    }

    async fn with(opener: Opener, port: u16, idle_timeout: Option<Duration>) -> Testbed {
        let opened = Association::open(LOCAL, LOCAL, port, opener.clone(), idle_timeout);
        let association = opened.await.expect("a socket");
        let application = UdpSocket::bind((LOCAL, 0)).await.expect("a socket");
        let address = association.local_addr().expect("its address");
        application.connect(address).await.expect("connected");
        let (control, mut end) = tokio::io::duplex(16);
        let mut running = JoinSet::new();
        running.spawn(async move { association.run(&mut end).await });
        Testbed {
            opener,
            application,
            control,
            running,
        }
    }

    async fn send(&self, host: &str, port: u16, content: &[u8]) {
        let target = NamedTarget::new(host.to_owned(), port).expect("valid");
        let datagram = udp_header::encode(&target, content);
        self.application.send(&datagram).await.expect("sent");
    }

    async fn answer(&self) -> (NamedTarget, Vec<u8>) {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let received = tokio::time::timeout(LONG, self.application.recv(&mut buffer));
        let length = received.await.expect("in time").expect("an answer");
        let (target, content) = udp_header::decode(&buffer[..length]).expect("valid");
        (target, content.to_vec())
    }

    async fn assert_echoes(&self, host: &str, port: u16, content: &[u8]) {
        self.send(host, port, content).await;
        let (target, answered) = self.answer().await;
        assert_eq!((target.host.as_str(), target.port), (host, port));
        assert!(answered == content, "{host}: {} bytes", answered.len());
    }

    /// Ends the connection that requested the association.
    async fn end(mut self) {
        drop(self.control);
        let ended = tokio::time::timeout(LONG, self.running.join_next()).await;
        let ended = ended.expect("the association ends");
        ended.expect("a task").expect("no panic");
        assert_eq!(self.opener.open.load(SeqCst), 0, "the flows end with it");
    }
}

#[tokio::test]
async fn each_destination_has_its_own_flow() {
    let testbed = Testbed::new(0, None).await;
    for (host, port) in [
        ("192.0.2.1", 53),
        ("dns.lan", 53),
        ("dns.lan", 54),
        ("2001:db8::1", 53),
        ("dns.lan", 53),
    ] {
        testbed.assert_echoes(host, port, b"query").await;
    }
    assert_eq!(testbed.opener.opened.load(SeqCst), 4);
    let large = vec![7; DATAGRAM_MAX - udp_header::HEADER_MAX];
    testbed.assert_echoes("dns.lan", 53, &large).await;
    testbed.assert_echoes("dns.lan", 53, b"").await;
    testbed.end().await;
}

#[tokio::test]
async fn invalid_datagrams_and_those_of_other_sockets_are_dropped() {
    let testbed = Testbed::new(0, None).await;
    let mut fragment = udp_header::encode(
        &NamedTarget::new("dns.lan".to_owned(), 53).expect("valid"),
        b"part",
    );
    fragment[2] = 1;
    for invalid in [&fragment[..], b"", b"\0\0", b"\0\0\0\x01\0"] {
        testbed.application.send(invalid).await.expect("sent");
    }
    testbed.assert_echoes("dns.lan", 53, b"query").await;
    let other = UdpSocket::bind((LOCAL, 0)).await.expect("a socket");
    let address = testbed.application.peer_addr().expect("connected");
    let target = NamedTarget::new("other.lan".to_owned(), 53).expect("valid");
    let datagram = udp_header::encode(&target, b"query");
    other.send_to(&datagram, address).await.expect("sent");
    testbed.assert_echoes("dns.lan", 53, b"query").await;
    assert_eq!(testbed.opener.opened.load(SeqCst), 1);
    testbed.end().await;
}

#[tokio::test]
async fn a_socket_at_another_port_than_announced_is_not_served() {
    let announced = UdpSocket::bind((LOCAL, 0)).await.expect("a socket");
    let port = announced.local_addr().expect("its address").port();
    let testbed = Testbed::new(port, None).await;
    testbed.send("other.lan", 53, b"query").await;
    let address = testbed.application.peer_addr().expect("connected");
    let testbed = Testbed {
        application: announced,
        ..testbed
    };
    testbed
        .application
        .connect(address)
        .await
        .expect("connected");
    testbed.assert_echoes("dns.lan", 53, b"query").await;
    assert_eq!(testbed.opener.opened.load(SeqCst), 1);
    testbed.end().await;
}

#[tokio::test]
async fn a_flow_that_is_refused_or_has_ended_is_opened_again() {
    let testbed = Testbed::new(0, None).await;
    testbed.assert_echoes("dns.lan", 53, b"query").await;
    testbed.send("refused.lan", 53, b"query").await;
    testbed.assert_echoes("dns.lan", 53, b"query").await;
    assert_eq!(testbed.opener.opened.load(SeqCst), 1, "it is still open");
    testbed.send("dns.lan", 53, b"end").await;
    testbed.assert_echoes("dns.lan", 53, b"query").await;
    assert_eq!(testbed.opener.opened.load(SeqCst), 2);
    testbed.end().await;
}

#[tokio::test]
async fn the_least_recently_used_flow_gives_way() {
    let testbed = Testbed::new(0, None).await;
    let ports = 1..=u16::try_from(FLOWS_MAX).expect("few");
    for port in ports {
        testbed.assert_echoes("dns.lan", port, b"query").await;
    }
    testbed.assert_echoes("dns.lan", 1, b"query").await;
    testbed.assert_echoes("other.lan", 1, b"query").await;
    assert_eq!(testbed.opener.opened.load(SeqCst), FLOWS_MAX + 1);
    testbed.assert_echoes("dns.lan", 1, b"query").await;
    assert_eq!(
        testbed.opener.opened.load(SeqCst),
        FLOWS_MAX + 1,
        "still open"
    );
    testbed.assert_echoes("dns.lan", 2, b"query").await;
    assert_eq!(
        testbed.opener.opened.load(SeqCst),
        FLOWS_MAX + 2,
        "it was ended"
    );
    testbed.end().await;
}

#[tokio::test]
async fn the_oldest_flow_gives_way_when_the_port_is_full() {
    let opener = Opener {
        most: 2,
        ..Opener::default()
    };
    let testbed = Testbed::with(opener, 0, None).await;
    testbed.assert_echoes("dns.lan", 1, b"query").await;
    testbed.assert_echoes("dns.lan", 2, b"query").await;
    testbed.send("dns.lan", 3, b"dropped").await;
    eventually(|| testbed.opener.open.load(SeqCst) == 1).await;
    testbed.assert_echoes("dns.lan", 3, b"query").await;
    testbed.assert_echoes("dns.lan", 2, b"query").await;
    assert_eq!(testbed.opener.opened.load(SeqCst), 3, "the second remained");
    testbed.end().await;
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_is_dropped_and_counted() {
    let (_, answers) = silent(None).await;
    let flow = Arc::clone(&answers.flow);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { answers.carry().await });
    // Valid in the tunnel, and too long with the header.
    let answer = Bytes::from(vec![7; 65_507]);
    flow.answers.send(answer).await.expect("a reader");
    eventually(|| flow.unsent.load(SeqCst) == 1).await;
}

/// Returns the answers of a silent flow at a paused time.
async fn silent(idle_timeout: Option<Duration>) -> (Arc<LastUse>, FlowAnswers<Echo>) {
    let last_use = Arc::new(LastUse::now());
    let target = NamedTarget::new("silent.lan".to_owned(), 53).expect("valid");
    let socket = UdpSocket::bind((LOCAL, 0)).await.expect("a socket");
    let answers = FlowAnswers {
        flow: Arc::new(Opener::default().open(&target).expect("a flow")),
        application: socket.local_addr().expect("its address"),
        target,
        socket: Arc::new(socket),
        last_use: Arc::clone(&last_use),
        idle_timeout,
    };
    (last_use, answers)
}

#[tokio::test(start_paused = true)]
async fn an_idle_flow_ends_and_a_use_postpones_its_end() {
    let minute = Duration::from_secs(60);
    let (last_use, answers) = silent(Some(minute)).await;
    let started = Instant::now();
    let using = async {
        tokio::time::sleep(minute / 2).await;
        last_use.touch();
    };
    tokio::join!(answers.carry(), using);
    let (took, expected) = (started.elapsed(), minute * 3 / 2);
    assert!(
        took >= expected && took < expected + minute / 60,
        "{took:?}"
    );
    let (_, answers) = silent(None).await;
    let carried = tokio::time::timeout(minute * 60 * 24, answers.carry()).await;
    assert!(carried.is_err(), "0 never ends a flow");
}
