//! Tests of rate limits between links in memory. Time is paused: it only advances when every task
//! waits, so the measured times are exact.

mod low_rates;
#[cfg(feature = "store")]
mod quotas;
mod real_time;

use tokio::time::{Instant, timeout_at};

use super::*;
use crate::{
    link::{Handler, KeepAliveTiming, Link},
    master::{
        limits::LinkNumber,
        rates::{RateLimit, RateSubject, SubjectLimits},
        registry::AuthenticatedLink,
        router::LinkRef,
    },
    net::memory,
};
use report_proto::frame;

const SECOND: Duration = Duration::from_secs(1);

/// A keep-alive that never expects an answer.
const PATIENT: KeepAliveTiming = KeepAliveTiming {
    interval: Duration::from_secs(3600),
    timeout: Duration::from_secs(7200),
    answer_delay: Duration::from_secs(3600),
    answer_timeout: Duration::from_secs(3600),
};

/// A router whose links are in memory.
struct MemoryMaster {
    router: Arc<Router>,
    tasks: JoinSet<()>,
    next_link: LinkNumber,
}

/// Passes attach requests to the router.
struct AttachHandler {
    router: Arc<Router>,
    link: Arc<LinkRef>,
}

impl Handler for AttachHandler {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match frame {
            Frame::Attach {
                channel,
                header,
                message,
            } => self.router.attach(&self.link, channel, header, message),
            _ => Ok(()),
        }
    }
}

impl MemoryMaster {
    fn start() -> Self {
        MemoryMaster::with_policies(MasterPolicies::open())
    }

    fn with_policies(policies: Arc<MasterPolicies>) -> Self {
        let (router, mut tasks) = (
            Router::new(&MasterLimits::default(), policies),
            JoinSet::new(),
        );
        let rates = Arc::clone(&router.rates);
        tasks.spawn(async move { rates.run().await });
        MemoryMaster {
            router,
            tasks,
            next_link: 1,
        }
    }

    fn link(&mut self, role: Role, instance: u8) -> (TestPeer, Arc<LinkRef>) {
        let (number, visitor) = (self.next_link, IpAddr::from([10, 0, 0, instance]));
        self.next_link += 1;
        let instance = Id([instance; 16]);
        let identity = match role {
            Role::Server => Identity::MasterKey,
            Role::Client => Identity::Anonymous,
        };
        let link = self.router.new_link(LinkPeer {
            number,
            role,
            identity,
            instance,
            slot: Slot::FIRST,
            visitor,
        });
        let entry = AuthenticatedLink {
            link: number,
            party: visitor,
            role,
            account: identity.account(),
            instance,
            slot: Slot::FIRST,
            epoch: 1,
            moves: false,
            handle: Arc::clone(&link),
        };
        self.router.registry().add_link(entry).expect("entered");
        let (socket, master_socket) = memory::pair();
        let session = Link::new(master_socket, Arc::clone(&link.outbox), PATIENT);
        let mut handler = AttachHandler {
            router: Arc::clone(&self.router),
            link: Arc::clone(&link),
        };
        self.tasks.spawn(async move {
            session.run(&mut handler, std::future::pending()).await;
        });
        let terms = Terms {
            version: frame::VERSION,
            heartbeat_seconds: 20,
            max_channels: 4_096,
            max_ports: 1_024,
            retry_within_ms: 0,
        };
        (TestPeer { socket, terms }, link)
    }

    fn server(&mut self, ports: &[Id]) -> TestPeer {
        let (peer, link) = self.link(Role::Server, 1);
        self.router.register(&link, ports);
        peer
    }

    fn client(&mut self, instance: u8) -> TestPeer {
        self.link(Role::Client, instance).0
    }

    /// Joins a server and a client with a channel, which both number 1.
    async fn pair(&mut self) -> (TestPeer, TestPeer) {
        let (mut server, mut client) = (self.server(&[PORT, OTHER_PORT]), self.client(2));
        assert_eq!(connect(&mut client, &mut server, 1, PORT).await, 1);
        (server, client)
    }

    /// Limits the traffic from servers to clients of a key.
    fn limit(&self, key: Id, bytes_per_second: u64) {
        let limits = SubjectLimits {
            down: Some(RateLimit::of(bytes_per_second)),
            ..SubjectLimits::default()
        };
        self.set(RateSubject::Key(key), limits);
    }

    fn set(&self, subject: RateSubject, limits: SubjectLimits) {
        self.router.rates.set_limits([(subject, limits)]);
    }
}

/// Attaches `channel` of the client. Returns the server's number for it.
async fn connect(client: &mut TestPeer, server: &mut TestPeer, channel: u32, port: Id) -> u32 {
    client.attach(channel, port).await;
    let number = server.answer().await;
    client.expect_data(channel, b"answer").await;
    number
}

/// Returns the bytes of DATA that arrive before the deadline.
async fn received_until(peer: &mut TestPeer, deadline: Instant) -> usize {
    let mut bytes = 0;
    while let Ok(frame) = timeout_at(deadline, peer.next()).await {
        if let Frame::Data { payload, .. } = frame {
            bytes += payload.len();
        }
    }
    bytes
}

/// Sends messages of this length until the deadline, and obeys PAUSE.
async fn send_until(peer: &mut TestPeer, length: usize, deadline: Instant) {
    let payload = vec![7; length];
    loop {
        peer.data(1, &payload).await;
        // The master sends a PAUSE before the PONG.
        peer.send(Frame::Ping(1)).await;
        let (mut paused, mut answered) = (false, false);
        while paused || !answered {
            match timeout_at(deadline, peer.next()).await {
                Ok(Frame::Pause(_)) => paused = true,
                Ok(Frame::Resume(_)) => paused = false,
                Ok(Frame::Pong(_)) => answered = true,
                Ok(other) => panic!("unexpected {other:?}"),
                Err(_) => return,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn limited_channel_gets_its_rate() {
    for (rate, length) in [
        (64 * 1024, 1_400),
        (1_000_000, 16_000),
        (20_000_000, 60_000),
    ] {
        let mut master = MemoryMaster::start();
        let (mut server, mut client) = master.pair().await;
        master.limit(PORT, rate);
        let begun = Instant::now();
        let measured = async {
            received_until(&mut client, begun + SECOND).await;
            received_until(&mut client, begun + 11 * SECOND).await
        };
        let sending = send_until(&mut server, length, begun + 11 * SECOND);
        let ((), received) = tokio::join!(sending, measured);
        let expected = usize::try_from(10 * rate).expect("it fits");
        assert!(
            received.abs_diff(expected) <= expected * 3 / 100,
            "{received} of {expected}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn held_messages_arrive_in_order_and_before_the_close() {
    let mut master = MemoryMaster::start();
    let (mut server, mut client) = master.pair().await;
    master.limit(PORT, 100_000);
    let begun = Instant::now();
    let message = |number: u8| vec![number; usize::from(number) * 500 + 1];
    for number in 0..40 {
        server.data(1, &message(number)).await;
    }
    server.close(1).await;
    for number in 0..40 {
        client.expect_data(1, &message(number)).await;
    }
    client.expect_close(1, Code::Cancelled).await;
    // 390 kB, of which 8 KiB are the burst.
    assert!(begun.elapsed() >= 3 * SECOND, "{:?}", begun.elapsed());
    until("the memory is given back", || {
        master.router.used_bytes() == 0 && master.router.rates.limited_pairs() == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unlimited_channel_beside_a_limited_one_does_not_wait() {
    let mut master = MemoryMaster::start();
    let (mut server, mut client) = master.pair().await;
    assert_eq!(connect(&mut client, &mut server, 2, OTHER_PORT).await, 2);
    master.limit(PORT, 1_000);
    for _ in 0..5 {
        server.data(1, &[1; 20_000]).await;
    }
    let begun = Instant::now();
    for _ in 0..100 {
        server.data(2, &[2; 60_000]).await;
        loop {
            let Frame::Data { channel, payload } = client.next().await else {
                panic!("DATA was expected")
            };
            if channel == 2 {
                break assert_eq!(payload.len(), 60_000);
            }
        }
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn sender_of_a_limited_channel_is_paused_and_resumed() {
    let mut master = MemoryMaster::start();
    let (mut server, mut client) = master.pair().await;
    master.limit(PORT, 64 * 1024);
    let mut sent = 0;
    loop {
        server.data(1, &[5; 1_000]).await;
        sent += 1_000;
        server.send(Frame::Ping(1)).await;
        match server.next().await {
            // The burst and the queue are 24 KiB.
            Frame::Pong(1) => assert!(sent < 30_000, "no PAUSE after {sent} bytes"),
            frame => break assert_eq!(frame, Frame::Pause(1)),
        }
    }
    assert_eq!(server.next().await, Frame::Pong(1));
    let mut received = 0;
    while received < sent {
        let Frame::Data { payload, .. } = client.next().await else {
            panic!("DATA was expected")
        };
        received += payload.len();
    }
    assert_eq!(server.next().await, Frame::Resume(1));
}

#[tokio::test(start_paused = true)]
async fn removed_limit_releases_what_it_held() {
    let mut master = MemoryMaster::start();
    let (mut server, mut client) = master.pair().await;
    master.limit(PORT, 1);
    for number in 0..10 {
        server.data(1, &[number; 30_000]).await;
    }
    client.expect_data(1, &[0; 30_000]).await;
    tokio::time::sleep(5 * SECOND).await;
    let begun = Instant::now();
    master.set(RateSubject::Key(PORT), SubjectLimits::default());
    for number in 1..10 {
        client.expect_data(1, &[number; 30_000]).await;
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(master.router.rates.limited_pairs(), 0);
}

#[tokio::test(start_paused = true)]
async fn raised_limit_acts_at_once() {
    let mut master = MemoryMaster::start();
    let (mut server, mut client) = master.pair().await;
    master.limit(PORT, 1);
    for number in 0..10 {
        server.data(1, &[number; 30_000]).await;
    }
    client.expect_data(1, &[0; 30_000]).await;
    master.limit(PORT, 1_000_000);
    let begun = Instant::now();
    for number in 1..10 {
        client.expect_data(1, &[number; 30_000]).await;
    }
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn limit_of_the_relay_acts_on_running_channels() {
    let mut master = MemoryMaster::start();
    let (mut server, mut client) = master.pair().await;
    let begun = Instant::now();
    for _ in 0..20 {
        server.data(1, &[1; 20_000]).await;
        client.expect_data(1, &[1; 20_000]).await;
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let limits = SubjectLimits {
        both: Some(RateLimit::of(100_000)),
        ..SubjectLimits::default()
    };
    master.set(RateSubject::Relay, limits);
    for _ in 0..20 {
        server.data(1, &[2; 20_000]).await;
    }
    for _ in 0..20 {
        client.expect_data(1, &[2; 20_000]).await;
    }
    assert!(begun.elapsed() >= 3 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn tunnel_with_eight_channels_shares_evenly_with_one_of_a_single_channel() {
    let mut master = MemoryMaster::start();
    let mut server = master.server(&[PORT]);
    let (mut wide, mut narrow) = (master.client(2), master.client(3));
    for channel in 1..=8 {
        let number = connect(&mut wide, &mut server, channel, PORT).await;
        assert_eq!(number, channel);
    }
    assert_eq!(connect(&mut narrow, &mut server, 1, PORT).await, 9);
    master.limit(PORT, 500_000);
    for channel in (1..=9).cycle().take(9 * 150) {
        server.data(channel, &[channel as u8; 10_000]).await;
    }
    let deadline = Instant::now() + 5 * SECOND;
    let (wide, narrow) = tokio::join!(
        received_until(&mut wide, deadline),
        received_until(&mut narrow, deadline)
    );
    // 2.5 MB and the burst.
    assert!((2_400_000..2_600_000).contains(&(wide + narrow)));
    assert!(wide.abs_diff(narrow) <= 100_000, "{wide} and {narrow}");
}

#[tokio::test(start_paused = true)]
async fn closed_channel_with_held_data_leaves_the_tree() {
    let mut master = MemoryMaster::start();
    let (mut server, mut client) = master.pair().await;
    master.limit(PORT, 1_000);
    for _ in 0..12 {
        server.data(1, &[1; 8_000]).await;
    }
    client.expect_data(1, &[1; 8_000]).await;
    assert_eq!(master.router.rates.limited_pairs(), 1);
    client.close(1).await;
    until("the pair is gone", || {
        master.router.rates.limited_pairs() == 0 && master.router.used_bytes() == 0
    })
    .await;
    until("the driver rests", || master.router.rates.is_at_rest()).await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_limits_at_rest_set_no_timer() {
    let mut master = MemoryMaster::start();
    let limits = SubjectLimits {
        up: Some(RateLimit::of(64 * 1024)),
        down: Some(RateLimit::of(64 * 1024)),
        ..SubjectLimits::default()
    };
    let changes =
        (0..10_000_u128).map(|number| (RateSubject::Key(Id(number.to_be_bytes())), limits));
    master.router.rates.set_limits(changes);
    let (mut server, mut client) = master.pair().await;
    client.data(1, b"unlimited").await;
    server.expect_data(1, b"unlimited").await;
    until("the driver rests", || master.router.rates.is_at_rest()).await;
    assert_eq!(master.router.rates.limited_pairs(), 0);
    assert_eq!(master.router.rates.throttled().len(), 10_000);
}
