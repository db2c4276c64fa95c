//! Measures the memory of idle links. The master runs in a separate process, so that nothing else
//! is measured.

#![cfg(target_os = "linux")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::link::KeepAliveTiming;
use report_proto::frame::MAX_MESSAGE;

/// The environment variable that marks the child process.
const CHILD_ENV: &str = "REPORT_TEST_MASTER_AT_REST";

/// The memory bound for one link, in KiB.
const MAX_KIB_PER_LINK: f64 = 24.0;

/// The keep-alive interval. Idle links free their buffers in the second interval after the last
/// traffic.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_thousand_idle_links_stay_within_the_memory_bound() {
    measure(1_000);
}

#[test]
#[ignore = "needs 10,000 file descriptors and half a minute: cargo test --release -- --ignored ten_thousand"]
fn ten_thousand_idle_links_stay_within_the_memory_bound() {
    measure(10_000);
}

/// Runs the measured master. Does nothing unless a test starts it as a child process.
#[test]
fn measured_master_process() {
    if std::env::var_os(CHILD_ENV).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut parameters = parameters();
        parameters.limits.links_per_address = parameters.limits.links;
        parameters.timing.keep_alive = KeepAliveTiming {
            interval: KEEP_ALIVE_INTERVAL,
            timeout: Duration::from_secs(120),
            ..KeepAliveTiming::default()
        };
        let master = Master::bind(parameters).expect("a free port");
        println!("\nlistening {}", master.local_addr());
        master.run(CancellationToken::new(), Duration::ZERO).await;
    });
}

fn measure(links: u32) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args([
            "--exact",
            "master::tests::idle_links::measured_master_process",
            "--nocapture",
        ])
        .env(CHILD_ENV, "1");
    // glibc would keep freed memory for later allocations. The test measures what the links hold.
    command.env("MALLOC_TRIM_THRESHOLD_", "131072");
    let mut process = Process(command.stdout(Stdio::piped()).spawn().expect("started"));
    let lines = BufReader::new(process.0.stdout.take().expect("piped")).lines();
    let listening = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening ")?.parse().ok());
    let address: SocketAddr = listening.expect("it listens");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let per_link = runtime.block_on(async {
        // One-time allocations happen with the first links.
        let mut peers = join(address, 0..100).await;
        settle().await;
        let before = resident_kib(&process.0);
        peers.extend(join(address, 100..100 + links).await);
        settle().await;
        let fresh = resident_kib(&process.0).saturating_sub(before);
        for peer in &mut peers {
            grow_buffers(peer).await;
        }
        let busy = resident_kib(&process.0).saturating_sub(before);
        tokio::time::sleep(3 * KEEP_ALIVE_INTERVAL).await;
        let rested = resident_kib(&process.0).saturating_sub(before);
        [fresh, busy, rested].map(|kib| f64::from(kib) / f64::from(links))
    });
    let [fresh, busy, rested] = per_link;
    println!(
        "{links} idle links: {fresh:.1} KiB each; {busy:.1} after a long message, {rested:.1} when idle again"
    );
    for (kib, state) in [(fresh, "fresh"), (rested, "rested")] {
        assert!(
            kib < MAX_KIB_PER_LINK,
            "{kib:.1} KiB for each of {links} {state} links"
        );
    }
}

/// Grows the master's buffers with a frame of maximum length, which the master ignores.
async fn grow_buffers(peer: &mut TestPeer) {
    let mut extension = vec![0; MAX_MESSAGE];
    extension[0] = 0x80;
    peer.send_raw(extension.into()).await;
    peer.send(Frame::Ping(4711)).await;
    while peer.next().await != Frame::Pong(4711) {}
}

/// Joins clients and servers in turn, each server with a separate key id.
async fn join(address: SocketAddr, numbers: std::ops::Range<u32>) -> Vec<TestPeer> {
    let mut peers = Vec::new();
    for number in numbers {
        let id = Id(u128::from(number).to_be_bytes());
        let (role, key, first) = match number % 2 {
            0 => (Role::Client, key_of(Role::Client), vec![]),
            _ => (
                Role::Server,
                key_of(Role::Server),
                vec![Frame::Register(Ports { ports: vec![id] })],
            ),
        };
        let stream = TcpStream::connect(address).await.expect("connected");
        crate::net::tcp::set_link_options(&stream).expect("as a role does");
        let mut socket = upgrade(stream, "/").await;
        let introduction = RoleIdentity {
            role,
            instance: id,
            slot: Slot::FIRST,
            epoch: 1,
            moves: false,
            agent: "test".to_owned(),
        };
        let terms = authenticate::join(&mut socket, &key, &introduction, &first)
            .await
            .expect("joined");
        let mut peer = TestPeer { socket, terms };
        if role == Role::Server {
            assert_eq!(
                peer.next().await,
                Frame::Registered(Registered::new(vec![id]))
            );
        }
        peers.push(peer);
    }
    peers
}

/// Waits until the master is likely idle. The result is a measurement, not a condition.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn resident_kib(process: &Child) -> u32 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a size");
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .expect("a number")
}
