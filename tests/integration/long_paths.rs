//! The throughput of long paths, and the latency of applications beside a full one. These are
//! measurements. Run them by hand on an idle machine: `cargo test --release --test integration
//! long_paths -- --ignored --nocapture --test-threads 1`.
//!
//! The path between client and master has the whole delay and the whole rate limit. The path
//! between server and master has neither. The limited path buffers without bound, like some
//! proxies, so no TCP connection beneath the tunnel keeps the queue short.

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

use serde_json::json;

use crate::support::{
    proxy::{Path, Proxy},
    services::{self, Ending, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
    wait,
};

/// Pings and connections of one measurement at rest. Beside a transfer there are as many as fit
/// into its duration.
const TIMES: usize = 20;

/// The time that a transfer has to reach its rate before pings beside it count. The share includes
/// this start.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// A long path.
#[derive(Debug, Clone, Copy)]
struct LongPath {
    round_trip: Duration,
    megabits: u32,
    lasts: Duration,
}

impl LongPath {
    fn path(self) -> Path {
        Path {
            delay: self.round_trip / 2,
            unbounded: true,
            ..Path::limited(self.bytes_per_second())
        }
    }

    fn bytes_per_second(self) -> u32 {
        self.megabits * 1_000_000 / 8
    }
}

/// A transfer's direction, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Direction {
    Up,
    Down,
}

/// A service that drains, sends or echoes according to the first byte, so that one tunnel carries
/// everything. It counts the bytes that it drains.
fn service() -> (Service, Arc<AtomicU64>) {
    let arrived = Arc::new(AtomicU64::new(0));
    let counter = arrived.clone();
    let service = Service::start(move |mut stream| {
        let mut command = [0];
        match stream.read(&mut command) {
            Ok(1) if command == *b"d" => services::write_until_closed(stream),
            Ok(1) if command == *b"u" => services::count(stream, &counter),
            Ok(1) => echo(stream),
            _ => {}
        }
        Ending::Clean
    });
    (service, arrived)
}

fn echo(mut stream: &TcpStream) {
    let mut block = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        if stream.write_all(&block[..count]).is_err() {
            return;
        }
    }
}

/// Runs a transfer over one connection, from a cold start, for as long as `beside` runs. Returns
/// the bytes that arrived within `lasts`.
fn transfer(
    to: SocketAddr,
    direction: Direction,
    at_service: &AtomicU64,
    lasts: Duration,
    beside: impl FnOnce(),
) -> u64 {
    let mut stream = services::connect(to);
    stream.set_write_timeout(None).unwrap();
    let handle = stream.try_clone().unwrap();
    let here = AtomicU64::new(0);
    thread::scope(|scope| {
        let started = Instant::now();
        let arrived = if direction == Direction::Up {
            at_service
        } else {
            &here
        };
        let before = arrived.load(Ordering::Relaxed);
        stream
            .write_all(if direction == Direction::Up {
                b"u"
            } else {
                b"d"
            })
            .unwrap();
        scope.spawn(|| {
            if direction == Direction::Up {
                services::write_until_closed(&stream)
            } else {
                services::count(&stream, &here)
            }
        });
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

/// A connection whose bytes come back.
fn echoing(to: SocketAddr) -> TcpStream {
    let mut stream = services::connect(to);
    stream.write_all(b"e").unwrap();
    stream
}

/// The round-trip time of 64 bytes.
fn ping(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(&[7; 64]).unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    start.elapsed()
}

/// The time from connecting to the first echoed byte.
fn connection(to: SocketAddr) -> Duration {
    let start = Instant::now();
    let mut stream = services::connect(to);
    stream.write_all(b"ex").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    start.elapsed()
}

/// A quantile of the times.
fn at(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize]
}

/// The measurements of one path to the services.
struct PathMeasurement {
    idle_ping: Duration,
    idle_connection: Duration,
    /// Share of the path's rate, up and down.
    shares: [f64; 2],
    pings: [Duration; 2],
}

/// Measures pings and connections at rest, then beside a transfer in each direction.
fn measure(what: &str, long: LongPath, to: SocketAddr, at_service: &AtomicU64) -> PathMeasurement {
    let mut stream = echoing(to);
    ping(&mut stream);
    let rest: Vec<_> = (0..TIMES).map(|_| ping(&mut stream)).collect();
    let opened: Vec<_> = (0..TIMES).map(|_| connection(to)).collect();
    let (idle_ping, idle_connection) = (at(&rest, 0.5), at(&opened, 0.5));
    println!("{what}: idle ping p50 {idle_ping:.1?}, a new connection p50 {idle_connection:.1?}");
    let measured = [Direction::Up, Direction::Down].map(|direction| {
        let (mut pings, mut connections) = (Vec::new(), Vec::new());
        let start = Instant::now();
        let bytes = transfer(to, direction, at_service, long.lasts, || {
            wait::pause(SETTLE_TIME);
            while start.elapsed() < long.lasts {
                pings.push(ping(&mut stream));
                if pings.len() % 4 == 0 {
                    connections.push(connection(to));
                }
            }
        });
        let share = bytes as f64 / f64::from(long.bytes_per_second()) / long.lasts.as_secs_f64();
        let (p50, p99) = (at(&pings, 0.5), at(&pings, 0.99));
        println!(
            "{what}, {direction:?}: share {share:.3}, concurrent ping p50 {p50:.1?} ({:.2} of the idle one), p99 {p99:.1?}, a new connection p50 {:.1?}",
            p50.as_secs_f64() / idle_ping.as_secs_f64(),
            at(&connections, 0.5)
        );
        // Data in flight must arrive before the next transfer starts.
        wait::pause(SETTLE_TIME);
        (share, p50)
    });
    PathMeasurement {
        idle_ping,
        idle_connection,
        shares: measured.map(|(share, _)| share),
        pings: measured.map(|(_, ping)| ping),
    }
}

/// Measures the path alone, which is the upper bound, and the tunnel over it.
fn measure_tunnel_on(long: LongPath) -> PathMeasurement {
    let (service, at_service) = service();
    let name = format!("{:?}, {} Mbit/s", long.round_trip, long.megabits);
    let alone = Proxy::start(service.address());
    // TCP would fill an unbounded buffer without end.
    alone.set_path(Path {
        unbounded: false,
        ..long.path()
    });
    measure(
        &format!("{name}, the path alone"),
        long,
        alone.address(),
        &at_service,
    );
    drop(alone);
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.public_address());
    let port = Port::new(
        "service",
        service.address(),
        Methods {
            encrypt: "plain",
            compress: "null",
        },
    );
    let client = json!({"master": path.address().to_string(), "log_level": "info"});
    let tunnel = Tunnel::on(
        testbed,
        vec![port],
        Fields {
            client,
            ..Fields::default()
        },
    );
    services::connect(tunnel.local("service"));
    path.set_path(long.path());
    measure(&name, long, tunnel.local("service"), &at_service)
}

#[test]
#[ignore = "measures time: see the head of this file"]
fn a_path_of_100_ms_and_200_megabits_is_filled_with_a_short_queue() {
    let long = LongPath {
        round_trip: Duration::from_millis(100),
        megabits: 200,
        lasts: Duration::from_secs(8),
    };
    let measured = measure_tunnel_on(long);
    assert!(
        measured.shares.iter().all(|share| *share > 0.9),
        "{:?}",
        measured.shares
    );
    assert!(
        measured
            .pings
            .iter()
            .all(|ping| *ping < measured.idle_ping.mul_f64(1.5)),
        "{:?}",
        measured.pings
    );
    assert!(
        measured.idle_connection < long.round_trip.mul_f64(1.1),
        "{:?}",
        measured.idle_connection
    );
}

#[test]
#[ignore = "measures time: see the head of this file"]
fn a_path_of_200_ms_and_500_megabits_is_filled() {
    let long = LongPath {
        round_trip: Duration::from_millis(200),
        megabits: 500,
        lasts: Duration::from_secs(15),
    };
    let measured = measure_tunnel_on(long);
    assert!(
        measured.shares.iter().all(|share| *share > 0.8),
        "{:?}",
        measured.shares
    );
}
