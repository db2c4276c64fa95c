//! Tunnels over a long path that loses, reorders and cuts. The client is at one end, and the master
//! and the server are at the other. The TCP connections of the links recover as on a real path.
//!
//! The tests create network namespaces and TUN devices, so they need root.

use std::{
    io::{self, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    content::Content,
    daemon::Daemon,
    datagrams::DatagramService,
    namespace::NetworkNamespace,
    path::{
        End, LossyPath,
        conditions::Conditions,
        tcp_flows::{CutTarget, FlowTraffic},
    },
    ports,
    services::{self, Ending, Service},
    tunnel::{Front, Methods, Port, REPORT, Testbed},
    wait,
};

const SEED: u64 = 1;

/// Sends as much at a time as a usual copy program.
const BLOCK: usize = 64 << 10;

/// The bytes of a connection that carried more than handshakes and keep-alives.
const BULK_BYTES: u64 = 200_000;

/// A service at the far end. Its sockets are in the namespace there.
struct FarService {
    service: Option<Service>,
    address: SocketAddr,
    namespace: Arc<NetworkNamespace>,
}

impl FarService {
    fn start(path: &LossyPath, start: impl FnOnce() -> Service + Send) -> FarService {
        let namespace = Arc::clone(path.namespace(End::B));
        let service = namespace.run(start).expect("the namespace is entered");
        FarService {
            address: service.address(),
            service: Some(service),
            namespace,
        }
    }

    fn service(&self) -> &Service {
        self.service.as_ref().expect("the service runs")
    }
}

impl Drop for FarService {
    fn drop(&mut self) {
        // A service ends with a connection to itself, which works only in its namespace.
        let service = self.service.take();
        let _ = self.namespace.run(move || drop(service));
    }
}

/// Both directions of a path with cubic, which takes each loss for congestion.
fn lossy_path(conditions: Conditions) -> LossyPath {
    let path = LossyPath::new(SEED, [conditions; 2]).expect("run the tests as root");
    path.set_congestion_control("cubic")
        .expect("cubic is allowed");
    path
}

/// Where applications reach the client: its address, and the namespace that has it.
pub(super) struct ClientAddress {
    local: SocketAddr,
    /// Where datagrams reach the client.
    pub(super) datagrams: SocketAddr,
    namespace: Arc<NetworkNamespace>,
}

impl ClientAddress {
    /// Runs `work` in the namespace of the client.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).expect("the namespace is entered")
    }

    /// A connection through the tunnel to the echo service.
    fn connect(&self) -> TcpStream {
        self.run(|| services::connect(self.local))
    }

    /// Sends content through the tunnel and back on a new connection, and compares it.
    fn transfer(&self, content: Content) -> io::Result<()> {
        let stream = self.connect();
        thread::scope(|scope| {
            let writing = scope.spawn(|| send(&stream, content));
            let compared = compare(&stream, content);
            if compared.is_err() {
                // Wakes the writer.
                let _ = stream.shutdown(Shutdown::Both);
            }
            let written = writing.join().expect("the writer does not panic");
            compared.and(written)
        })
    }
}

/// A client at the near end, and a master, a server and echo services at the far end. The roles end
/// before the path.
pub(super) struct LossyTunnel {
    client: Daemon,
    _server: Daemon,
    _master: Daemon,
    pub(super) address: ClientAddress,
    _echo: FarService,
    _datagrams: DatagramService,
    _testbed: Testbed,
    path: LossyPath,
}

impl LossyTunnel {
    pub(super) fn start(conditions: Conditions) -> LossyTunnel {
        let path = lossy_path(conditions);
        let testbed = Testbed::new(Front::Direct);
        let echo = FarService::start(&path, services::echo);
        let far = || SocketAddr::from((End::B.address(), ports::free().port()));
        let (master, datagrams) = (far(), far());
        let datagrams = path
            .namespace(End::B)
            .run(|| DatagramService::echo_at(datagrams))
            .expect("the namespace is entered");
        let port = Port::new("echo", echo.address, Methods::DEFAULT);
        let udp = Port::udp("datagrams", datagrams.address());
        let ports = &[port.clone(), udp.clone()];
        let role = |end, name: &str, configuration: &Value| {
            let file = testbed.write(name, configuration);
            let mut command = path.namespace(end).command(REPORT);
            command.arg("--config").arg(file).env("RUST_BACKTRACE", "1");
            Daemon::start(name, testbed.folder(), &mut command)
        };
        // With BBR the transfers would be over before further links are wanted.
        let (cubic, listen_at) = ("cubic", master.to_string());
        let of_master = testbed
            .master_configuration(json!({"listen_at": listen_at, "congestion_control": cubic}));
        let uplink = json!({"master": listen_at, "links": {"max": 8}, "congestion_control": cubic});
        let mut master_role = role(End::B, "master", &of_master);
        master_role.wait_ready(|| {
            let listens = || TcpStream::connect(master).is_ok();
            path.namespace(End::B).run(listens).unwrap_or(false)
        });
        let of_server = testbed.server_configuration(ports, uplink.clone());
        let server = role(End::B, "server", &of_server);
        let of_client = testbed.client_configuration(ports, uplink);
        let client = role(End::A, "client", &of_client);
        let tunnel = LossyTunnel {
            client,
            _server: server,
            _master: master_role,
            address: ClientAddress {
                local: port.local,
                datagrams: udp.local,
                namespace: Arc::clone(path.namespace(End::A)),
            },
            _echo: echo,
            _datagrams: datagrams,
            _testbed: testbed,
            path,
        };
        let address = &tunnel.address;
        wait::until_true("the tunnel is up", || {
            address.run(|| services::echoes(address.local))
        });
        tunnel
    }

    /// The links that carry or carried more than a handshake, the busiest one first.
    fn links_with_bulk(&self) -> Vec<FlowTraffic> {
        let mut links = self.path.traffic();
        links.retain(|link| link.bytes > BULK_BYTES);
        links
    }

    /// Repeats transfers of `length` bytes on `connections` connections, and echoes beside them, while
    /// `beside` runs.
    pub(super) fn under_load(
        &self,
        connections: u64,
        length: u64,
        beside: impl FnOnce(),
    ) -> LoadResult {
        let (stop, completed) = (AtomicBool::new(false), AtomicUsize::new(0));
        let address = &self.address;
        let pings = address.connect();
        let repeat = |first_seed: u64| -> io::Result<()> {
            let mut seed = first_seed;
            while !stop.load(Ordering::Relaxed) {
                address.transfer(Content { seed, length })?;
                completed.fetch_add(1, Ordering::Relaxed);
                seed += connections;
            }
            Ok(())
        };
        let (broken, longest_ping) = thread::scope(|scope| {
            let stop_after = StopOnDrop(&stop);
            let transfers: Vec<_> = (0..connections)
                .map(|seed| scope.spawn(move || repeat(seed)))
                .collect();
            let pinging = scope.spawn(|| longest_ping(&pings, &stop));
            beside();
            drop(stop_after);
            let mut broken = Vec::new();
            for transfer in transfers {
                broken.extend(transfer.join().expect("a transfer does not panic").err());
            }
            (broken, pinging.join().expect("the pings do not panic"))
        });
        LoadResult {
            completed: completed.load(Ordering::Relaxed),
            broken,
            longest_ping: longest_ping.expect("each ping is answered"),
        }
    }
}

/// Stops the load when a test fails too. The scope waits for its threads in any case.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The outcome of transfers and echoes.
pub(super) struct LoadResult {
    completed: usize,
    broken: Vec<io::Error>,
    longest_ping: Duration,
}

impl LoadResult {
    #[track_caller]
    pub(super) fn assert_complete(&self, what: &str) {
        let LoadResult {
            completed,
            broken,
            longest_ping,
        } = self;
        println!("{what}: {completed} transfers, longest pause of an echo {longest_ping:.1?}");
        assert!(broken.is_empty(), "{broken:?}");
        assert!(*completed > 0, "no transfer completed");
    }
}

fn send(mut stream: &TcpStream, content: Content) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut offset = 0;
    while offset < content.length {
        let part = content.fill(offset, &mut block);
        stream.write_all(part)?;
        offset += part.len() as u64;
    }
    stream.shutdown(Shutdown::Write)
}

fn compare(stream: &TcpStream, content: Content) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut offset = 0;
    loop {
        let count = services::read(stream, &mut block)?;
        if count == 0 {
            break;
        }
        if let Some(wrong) = content.first_difference(offset, &block[..count]) {
            return Err(io::Error::other(format!("byte {wrong} differs")));
        }
        offset += count as u64;
    }
    if offset != content.length {
        let length = content.length;
        let what = format!("the stream ended after {offset} of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
    }
    Ok(())
}

/// Repeats echoes until `stop`. Returns the longest round trip.
fn longest_ping(stream: &TcpStream, stop: &AtomicBool) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        services::ping(stream, &[7; 64])?;
        longest = longest.max(begun.elapsed());
    }
    Ok(longest)
}

pub(super) fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_cut_of_a_connection_resets_both_ends() {
    let path = lossy_path(Conditions::new(milliseconds(40), 100));
    let address = SocketAddr::from((End::B.address(), 0));
    let reading = || Service::at(address, |stream| services::read_to_ending(stream).1);
    let far = FarService::start(&path, reading);
    let to = far.address;
    let connect = move || {
        let begun = Instant::now();
        (services::connect(to), begun.elapsed())
    };
    let ((cut, took), (mut other, _)) = path
        .namespace(End::A)
        .run(move || (connect(), connect()))
        .expect("the namespace is entered");
    assert!(took >= milliseconds(40), "{took:?}");
    (&cut).write_all(&[7; 100_000]).unwrap();
    let port = cut.local_addr().unwrap().port();
    // The bytes are on the way, so the far end expects another sequence number soon.
    wait::until_true("the connection is known", || {
        let traffic = path.traffic();
        traffic.iter().any(|flow| flow.bytes > 10_000)
    });
    let flow = path.cut_connection(CutTarget::Busiest).unwrap();
    assert_eq!(flow.a.port(), port);
    assert_eq!(services::read_to_ending(&cut).1, Ending::Reset);
    assert_eq!(far.service().wait_for_endings(1), [Ending::Reset]);
    other.write_all(b"still open").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    let endings = far.service().wait_for_endings(2);
    assert_eq!(endings, [Ending::Reset, Ending::Clean]);
}

#[test]
fn losses_make_a_tunnel_use_several_links_and_no_byte_changes() {
    let conditions = Conditions::new(milliseconds(100), 100).with_loss(0.01);
    let tunnel = LossyTunnel::start(conditions);
    let address = &tunnel.address;
    let transfer = |seed| {
        let length = 3 << 20;
        address.transfer(Content { seed, length })
    };
    thread::scope(|scope| {
        for transfer in [1, 2].map(|seed| scope.spawn(move || transfer(seed))) {
            transfer.join().unwrap().expect("the content returns");
        }
    });
    println!("{}", tunnel.client.wait_for_line(&["links wanted"]));
    let links = tunnel.links_with_bulk();
    println!("{links:?}");
    assert!(links.len() > 1, "one link carried everything");
    for end in End::BOTH {
        assert!(tunnel.path.counts(end).lost > 10, "the path loses packets");
    }
}

#[test]
fn cuts_of_single_links_break_no_stream() {
    /// Once a second.
    const CUTS: usize = 6;
    let conditions = Conditions::new(milliseconds(40), 100).with_loss(0.005);
    let tunnel = LossyTunnel::start(conditions);
    // The links are added under load.
    let warm_up = tunnel.under_load(2, 1 << 20, || {
        wait::until_true("several links carry the tunnel", || {
            tunnel.links_with_bulk().len() > 2
        });
    });
    warm_up.assert_complete("before the cuts");
    let cut = tunnel.under_load(4, 1 << 20, || {
        for _ in 0..CUTS {
            wait::pause(Duration::from_secs(1));
            let link = tunnel.path.cut_connection(CutTarget::Busiest);
            println!("cut {:?}", link.expect("a link"));
        }
        wait::pause(Duration::from_secs(1));
    });
    cut.assert_complete("with a cut per second");
    assert!(
        cut.longest_ping <= Duration::from_secs(1),
        "{:?}",
        cut.longest_ping
    );
}

#[test]
fn a_cut_of_all_links_pauses_the_streams_and_loses_nothing() {
    const OUTAGE: Duration = Duration::from_secs(3);
    let tunnel = LossyTunnel::start(Conditions::new(milliseconds(40), 100));
    let result = tunnel.under_load(2, 8 << 20, || {
        wait::until_true("the transfers run", || {
            tunnel
                .links_with_bulk()
                .iter()
                .any(|link| link.bytes > 4 << 20)
        });
        tunnel.path.set_blocked(true);
        assert!(tunnel.path.cut_all_connections() > 0);
        wait::pause(OUTAGE);
        tunnel.path.set_blocked(false);
    });
    result.assert_complete("with an outage of 3 s");
    // An echo that began before the outage ends after it.
    assert!(result.longest_ping >= OUTAGE - milliseconds(200));
    assert!(
        result.longest_ping < 6 * OUTAGE,
        "{:?}",
        result.longest_ping
    );
    assert!(tunnel.path.counts(End::A).blocked > 0);
}

#[test]
fn reordering_and_bursts_of_losses_change_no_byte() {
    let conditions = Conditions::new(milliseconds(40), 100)
        .with_reordering(0.02, milliseconds(15))
        .with_bursts(20, Duration::from_secs(1));
    let tunnel = LossyTunnel::start(conditions);
    let result = tunnel.under_load(2, 1 << 20, || wait::pause(Duration::from_secs(6)));
    result.assert_complete("with reordering and bursts");
    for end in End::BOTH {
        let counts = tunnel.path.counts(end);
        println!("{end:?}: {counts:?}");
        assert!(counts.late > 0 && counts.lost_in_bursts > 20);
    }
}
