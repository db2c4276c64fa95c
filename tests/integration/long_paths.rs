//! What long paths carry, and what applications feel beside a full one. Measurements, run by hand on a machine that does nothing else:
//! `cargo test --release --test integration long_paths -- --ignored --nocapture --test-threads 1`.
//!
//! The path between client and master has the whole length and the whole limit, that between server and master has none. It takes in as much as it
//! is sent, as a proxy does that buffers without limit: no TCP beneath the tunnel keeps the queue short.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    bytes,
    proxy::{Path, Proxy},
    services::{self, Ending, Service},
    tunnel::{Fields, Front, Methods, Port, Scene, Tunnel},
    wait,
};

/// Pings, and connections, of one measurement at rest; beside a transfer there are as many as it takes.
const TIMES: usize = 20;

/// Time that a transfer has to reach its pace before pings beside it count: its start is in the share.
const SETTLES: Duration = Duration::from_secs(2);

/// A long path.
#[derive(Debug, Clone, Copy)]
struct Long {
    round_trip: Duration,
    megabits: u32,
    lasts: Duration,
}

impl Long {
    fn path(self) -> Path {
        Path { delay: self.round_trip / 2, unbounded: true, ..Path::limited(self.bytes_per_second()) }
    }

    fn bytes_per_second(self) -> u32 {
        self.megabits * 1_000_000 / 8
    }
}

/// A transfer's direction, seen from the client, and the byte that asks the service for it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Direction {
    Up,
    Down,
}

/// A service that drains or pours by its first byte, and counts what it drained.
fn bulk() -> (Service, Arc<AtomicU64>) {
    let arrived = Arc::new(AtomicU64::new(0));
    let counter = arrived.clone();
    let service = Service::start(move |mut stream| {
        let mut command = [0];
        match stream.read(&mut command) {
            Ok(1) if command == *b"d" => pour(stream),
            Ok(1) => drain(stream, &counter),
            _ => {}
        }
        Ending::Clean
    });
    (service, arrived)
}

fn pour(mut stream: &TcpStream) {
    let block = bytes::random(1, 256 << 10);
    while stream.write_all(&block).is_ok() {}
}

fn drain(mut stream: &TcpStream, arrived: &AtomicU64) {
    let mut block = vec![0; 256 << 10];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        arrived.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A transfer over one connection for as long as `beside` takes, from a cold start. Returns the bytes that arrived in the first while.
fn transfer(to: SocketAddr, direction: Direction, at_service: &AtomicU64, lasts: Duration, beside: impl FnOnce()) -> u64 {
    let mut stream = services::connect(to);
    stream.set_write_timeout(None).unwrap();
    let handle = stream.try_clone().unwrap();
    let here = AtomicU64::new(0);
    thread::scope(|scope| {
        let started = Instant::now();
        let arrived = if direction == Direction::Up { at_service } else { &here };
        let before = arrived.load(Ordering::Relaxed);
        stream.write_all(if direction == Direction::Up { b"u" } else { b"d" }).unwrap();
        scope.spawn(|| if direction == Direction::Up { pour(&stream) } else { drain(&stream, &here) });
        let measured = scope.spawn(move || {
            wait::pause(lasts.saturating_sub(started.elapsed()));
            arrived.load(Ordering::Relaxed) - before
        });
        beside();
        let bytes = measured.join().unwrap();
        let _ = handle.shutdown(Shutdown::Both);
        bytes
    })
}

/// The median time of an echo of 64 bytes.
fn ping(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(&[7; 64]).unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    start.elapsed()
}

/// From connecting to the first byte that comes back.
fn connection(to: SocketAddr) -> Duration {
    let start = Instant::now();
    let mut stream = services::connect(to);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    start.elapsed()
}

/// A share of times in order.
fn at(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize]
}

/// What is measured of a way from here to the services.
struct Found {
    idle_ping: Duration,
    idle_connection: Duration,
    /// Of the path, up and down.
    shares: [f64; 2],
    pings: [Duration; 2],
}

/// Pings and connections at rest, then beside a transfer each way.
fn measure(what: &str, long: Long, echo: SocketAddr, bulk: SocketAddr, at_service: &AtomicU64) -> Found {
    let mut stream = services::connect(echo);
    let rest: Vec<_> = (0..TIMES).map(|_| ping(&mut stream)).collect();
    let opened: Vec<_> = (0..TIMES).map(|_| connection(echo)).collect();
    let (idle_ping, idle_connection) = (at(&rest, 0.5), at(&opened, 0.5));
    println!("{what}: at rest ping p50 {idle_ping:.1?}, a new connection p50 {idle_connection:.1?}");
    let measured = [Direction::Up, Direction::Down].map(|direction| {
        let (mut pings, mut connections) = (Vec::new(), Vec::new());
        let start = Instant::now();
        let bytes = transfer(bulk, direction, at_service, long.lasts, || {
            wait::pause(SETTLES);
            while start.elapsed() < long.lasts {
                pings.push(ping(&mut stream));
                if pings.len() % 4 == 0 {
                    connections.push(connection(echo));
                }
            }
        });
        let share = bytes as f64 / f64::from(long.bytes_per_second()) / long.lasts.as_secs_f64();
        let (p50, p99) = (at(&pings, 0.5), at(&pings, 0.99));
        println!(
            "{what}, {direction:?}: share {share:.3}, beside it ping p50 {p50:.1?} ({:.2} of that at rest), p99 {p99:.1?}, a new connection p50 {:.1?}",
            p50.as_secs_f64() / idle_ping.as_secs_f64(),
            at(&connections, 0.5)
        );
        // What is still under way comes before the next transfer.
        wait::pause(SETTLES);
        (share, p50)
    });
    Found { idle_ping, idle_connection, shares: measured.map(|(share, _)| share), pings: measured.map(|(_, ping)| ping) }
}

/// The tunnel beside the path alone, which is the most that can be had.
fn on_a_long_path(long: Long) -> Found {
    let ((bulk, at_service), echo) = (bulk(), services::echo());
    let raw = [echo.address(), bulk.address()].map(|service| {
        let path = Proxy::start(service);
        path.set_path(long.path());
        path
    });
    let name = format!("{:?}, {} Mbit/s", long.round_trip, long.megabits);
    raw_shares(&format!("{name}, the path alone"), long, raw[1].address(), &at_service);
    let scene = Scene::new(Front::Direct);
    let path = Proxy::start(scene.public_address());
    let methods = Methods { encrypt: "plain", compress: "null" };
    let ports = [("echo-here", echo.address()), ("bulk", bulk.address())].map(|(mark, service)| Port::new(mark, service, methods));
    // One tunnel for both: their port key is the same.
    let fields = Fields { client: serde_json::json!({"master": path.address().to_string()}), ..Fields::default() };
    let tunnel = Tunnel::on(scene, ports.to_vec(), fields);
    path.set_path(long.path());
    measure(&name, long, tunnel.local("echo-here"), tunnel.local("bulk"), &at_service)
}

fn raw_shares(what: &str, long: Long, bulk: SocketAddr, at_service: &AtomicU64) {
    for direction in [Direction::Up, Direction::Down] {
        let bytes = transfer(bulk, direction, at_service, long.lasts, || {});
        println!("{what}, {direction:?}: share {:.3}", bytes as f64 / f64::from(long.bytes_per_second()) / long.lasts.as_secs_f64());
    }
}
