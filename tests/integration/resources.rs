//! The cost of stalled readers, idle connections and idle links, in memory and in the latency of
//! other connections.
//!
//! Each change runs the checks of bounds that do not depend on the machine's speed. Run the
//! measurements of time and the large numbers by hand on an idle machine: `cargo test --release
//! --test integration resources -- --ignored --nocapture --test-threads 1`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use report_proto::{
    crypto::LinkKey,
    frame::{Frame, Role},
    id::Id,
};
use serde_json::json;

use crate::support::{
    bytes, files, memory,
    peer::{self, Peer},
    scale,
    services::{self, Ending, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
    wait,
};

/// Stalled readers in each test of this file.
const STALLED: usize = 20;

/// The memory limit of a role for stalled readers: the windows of one tunnel and their overhead.
const STALLED_COST: u64 = 64 << 20;

/// Waits until the resident memory is stable and returns it.
pub(crate) fn stable_memory(pid: u32) -> u64 {
    let mut last = memory::resident_bytes(pid);
    wait::until("the memory is stable", || {
        wait::pause(Duration::from_millis(200));
        let now = memory::resident_bytes(pid);
        let still = now.abs_diff(last) < 64 << 10;
        last = now;
        still.then_some(now)
    })
}

/// Starts one service for everything, so that all connections share one tunnel. The first byte
/// selects what the connection does. The counter has the bytes written to connections whose readers
/// may stall.
fn command_service(length: usize) -> (Service, Arc<AtomicU64>) {
    /// Bytes written at a time to a reader that may stall.
    const PIECE: usize = 64 << 10;
    let content = bytes::random(1, length);
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let service = Service::start(move |mut stream| {
        let mut command = [0];
        match stream.read(&mut command).map(|count| &command[..count]) {
            Ok(b"e") => loop {
                match stream.write(&content[..PIECE]) {
                    Ok(count) => drop(counter.fetch_add(count as u64, Ordering::Relaxed)),
                    Err(error) => return error.into(),
                }
            },
            Ok(b"c") => match stream.write_all(&content) {
                Ok(()) => Ending::Clean,
                Err(error) => error.into(),
            },
            // Reads nothing for as long as the test may last.
            Ok(b"d") => {
                let gone = || stream.peer_addr().is_err().then_some(());
                let _ = wait::within(Duration::from_secs(120), gone);
                Ending::Reset
            }
            Ok(_) => {
                let mut byte = [0];
                while stream
                    .read_exact(&mut byte)
                    .and_then(|()| stream.write_all(&byte))
                    .is_ok()
                {}
                Ending::Clean
            }
            Err(error) => error.into(),
        }
    });
    (service, sent)
}

fn ask(address: SocketAddr, command: u8) -> TcpStream {
    let mut stream = services::connect(address);
    stream.write_all(&[command]).unwrap();
    stream
}

/// Copies the whole content. Returns the time that it took.
fn copy(address: SocketAddr, length: usize) -> Duration {
    let start = Instant::now();
    let copied = std::io::copy(&mut ask(address, b'c'), &mut std::io::sink()).unwrap();
    assert_eq!(copied, length as u64);
    start.elapsed()
}

/// The 99th percentile of the round trips of one byte on an existing connection.
fn slow_ping(stream: &TcpStream, count: usize) -> Duration {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let start = Instant::now();
            services::ping(stream, b"!").unwrap();
            let took = start.elapsed();
            wait::pause(Duration::from_millis(5));
            took
        })
        .collect();
    times.sort();
    times[count * 99 / 100 - 1]
}

/// Connects readers that never read, and waits until all of them block their senders. Until then
/// the data that fills the buffers competes with other traffic.
fn stall(address: SocketAddr, sent: &AtomicU64) -> Vec<TcpStream> {
    let stalled: Vec<TcpStream> = (0..STALLED).map(|_| ask(address, b'e')).collect();
    for mut stream in &stalled {
        stream.read_exact(&mut [0]).unwrap();
    }
    let mut last = 0;
    wait::until_true("the stalled readers receive no more data", || {
        wait::pause(Duration::from_millis(300));
        let now = sent.load(Ordering::Relaxed);
        std::mem::replace(&mut last, now) == now
    });
    stalled
}

/// The largest resident memory of each role while `work` runs.
pub(crate) fn peak_during<T: Send>(
    tunnel: &Tunnel,
    work: impl FnOnce() -> T + Send,
) -> ([u64; 3], T) {
    /// Ends the monitor when `work` ends, by a panic too, because a scope waits for its threads.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let monitor_thread = scope.spawn(|| {
            let mut peaks = [0; 3];
            while !done.load(Ordering::Relaxed) {
                for (peak, (_, pid)) in peaks.iter_mut().zip(tunnel.pids()) {
                    *peak = memory::resident_bytes(pid).max(*peak);
                }
                wait::pause(Duration::from_millis(20));
            }
            peaks
        });
        let result = {
            let _done = Done(&done);
            work()
        };
        (monitor_thread.join().unwrap(), result)
    })
}

#[test]
fn stalled_readers_block_no_other_stream_and_cost_at_most_the_tunnels_windows() {
    let length = scale().file_bytes;
    let (service, sent) = command_service(length);
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("all", service.address(), Methods::DEFAULT)],
    );
    let address = tunnel.local("all");
    copy(address, length);
    let idle = tunnel.pids().map(|(_, pid)| stable_memory(pid));
    let (peaks, _) = peak_during(&tunnel, || {
        let stalled = stall(address, &sent);
        copy(address, length);
        services::ping(&ask(address, b'p'), b"!").unwrap();
        stalled
    });
    for ((name, _), (idle, peak)) in tunnel.pids().iter().zip(idle.iter().zip(peaks)) {
        let cost = peak.saturating_sub(*idle);
        println!("{name}: {cost} bytes more than when idle");
        assert!(cost < STALLED_COST, "the {name} grew by {cost} bytes");
    }
}

/// Starts uploads that the service never reads, and fills each until it blocks.
fn stall_uploads(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let piece = vec![7; 64 << 10];
    let mut stalled: Vec<TcpStream> = (0..count).map(|_| ask(address, b'd')).collect();
    stalled
        .iter()
        .for_each(|stream| stream.set_nonblocking(true).unwrap());
    let mut quiet_looks = 0;
    wait::until_true("all uploads are blocked", || {
        wait::pause(Duration::from_millis(100));
        let moved: usize = stalled
            .iter_mut()
            .map(|stream| stream.write(&piece).unwrap_or(0))
            .sum();
        quiet_looks = if moved == 0 { quiet_looks + 1 } else { 0 };
        quiet_looks == 3
    });
    stalled
}

#[test]
fn hundreds_of_stalled_streams_leave_the_tunnel_usable() {
    const LENGTH: usize = 8 << 20;
    const STALLED_EACH_WAY: usize = 150;
    let (service, _poured) = command_service(LENGTH);
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("all", service.address(), Methods::DEFAULT)],
    );
    let address = tunnel.local("all");
    copy(address, LENGTH);
    let idle = tunnel.pids().map(|(_, pid)| stable_memory(pid));
    let (peaks, _) = peak_during(&tunnel, || {
        let downloads: Vec<TcpStream> = (0..STALLED_EACH_WAY).map(|_| ask(address, b'e')).collect();
        let uploads = stall_uploads(address, STALLED_EACH_WAY);
        copy(address, LENGTH);
        services::ping(&ask(address, b'p'), b"!").unwrap();
        (downloads, uploads)
    });
    for ((name, _), (idle, peak)) in tunnel.pids().iter().zip(idle.iter().zip(peaks)) {
        let cost = peak.saturating_sub(*idle);
        println!("{name}: {cost} bytes more than when idle");
        assert!(cost < STALLED_COST, "the {name} grew by {cost} bytes");
    }
}

#[test]
#[ignore = "measures time: run it alone, see the head of this file"]
fn a_copy_and_a_ping_beside_stalled_readers_are_as_fast_as_without_them() {
    const LENGTH: usize = 256 << 20;
    const ROUNDS: usize = 7;
    let (service, sent) = command_service(LENGTH);
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("all", service.address(), Methods::DEFAULT)],
    );
    let address = tunnel.local("all");
    let ping = ask(address, b'p');
    copy(address, LENGTH);
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[ROUNDS / 2]
    };
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut pings = [Vec::new(), Vec::new()];
    // Alternate, so that a slow phase of the machine affects both.
    for _ in 0..ROUNDS {
        alone.push(copy(address, LENGTH));
        pings[0].push(slow_ping(&ping, 500));
        let stalled = stall(address, &sent);
        beside.push(copy(address, LENGTH));
        pings[1].push(slow_ping(&ping, 500));
        drop(stalled);
        wait::until_true("the stalled connections are gone", || service.live() == 1);
    }
    let [idle, disturbed] = pings.map(median);
    let (alone, beside) = (median(alone), median(beside));
    println!(
        "copy of {LENGTH} bytes: {alone:?} alone, {beside:?} beside {STALLED} stalled readers"
    );
    println!("ping p99: {idle:?} idle, {disturbed:?} beside them");
    assert!(beside < alone.mul_f64(1.2));
    assert!(disturbed < idle * 2);
}

/// The bytes that each of many idle connections costs master, server and client.
fn idle_cost(count: usize) -> [f64; 3] {
    files::raise_limit();
    let echo = services::echo();
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("echo", echo.address(), Methods::DEFAULT)],
    );
    let address = tunnel.local("echo");
    let open = |count: usize| -> Vec<TcpStream> {
        let streams: Vec<TcpStream> = (0..count).map(|_| services::connect(address)).collect();
        streams
            .iter()
            .for_each(|stream| services::ping(stream, b"once").unwrap());
        streams
    };
    // Allocations that are made once and kept must not count.
    drop(open(50));
    wait::until_true("the first connections are gone", || echo.live() == 0);
    let idle = tunnel.pids().map(|(_, pid)| stable_memory(pid));
    let streams = open(count);
    let loaded = tunnel.pids().map(|(_, pid)| stable_memory(pid));
    services::ping(&streams[0], b"still there").unwrap();
    let costs =
        std::array::from_fn(|role| loaded[role].saturating_sub(idle[role]) as f64 / count as f64);
    println!("each of {count} idle connections costs master, server, client {costs:.0?} bytes");
    costs
}

#[test]
fn idle_connections_cost_the_master_nothing_and_the_roles_little() {
    let [master, server, client] = idle_cost(1000);
    // The allocator takes some pages for other reasons. They count here, divided by the number of
    // connections.
    assert!(master < 1024.0, "{master} bytes at the master");
    assert!(server < 12.0 * 1024.0, "{server} bytes at the server");
    assert!(client < 12.0 * 1024.0, "{client} bytes at the client");
}

#[test]
#[ignore = "needs 20,000 open files: see the head of this file"]
fn six_thousand_idle_connections_cost_the_master_less_than_a_hundred_bytes_each() {
    let [master, server, client] = idle_cost(6000);
    assert!(master < 100.0, "{master} bytes at the master");
    assert!(server < 12.0 * 1024.0, "{server} bytes at the server");
    assert!(client < 12.0 * 1024.0, "{client} bytes at the client");
}

#[test]
#[ignore = "needs 10,000 open files: see the head of this file"]
fn ten_thousand_idle_links_cost_the_master_little() {
    const LINKS: usize = 9_500;
    files::raise_limit();
    let limits = json!({"limits": {"links": 20_000, "links_per_address": 20_000}});
    let tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        Vec::new(),
        Fields {
            master: limits,
            ..Fields::default()
        },
    );
    let key = LinkKey::derive(None);
    let link = |_| {
        let mut peer = Peer::connect(tunnel.testbed.master_address());
        peer.hello(Role::Client, &key, Id(peer::random()), 1);
        assert!(matches!(peer.frame(), Some(Frame::Welcome { .. })));
        peer
    };
    let first: Vec<Peer> = (0..100).map(link).collect();
    let idle = stable_memory(tunnel.master.pid());
    let mut links: Vec<Peer> = (0..LINKS).map(link).collect();
    let cost = stable_memory(tunnel.master.pid()).saturating_sub(idle) as f64 / LINKS as f64;
    println!("each of {LINKS} idle links costs the master {cost:.0} bytes");
    assert!(cost < 24.0 * 1024.0);
    links[LINKS - 1].send(&Frame::Ping(1));
    assert_eq!(
        links[LINKS - 1].frame(),
        Some(Frame::Pong(1)),
        "the links are up"
    );
    drop(first);
    assert!(tunnel.is_connected());
}
