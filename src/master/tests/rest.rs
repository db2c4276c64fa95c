//! What a link at rest costs. The master is a process of its own here, so that nothing else is measured.

#![cfg(target_os = "linux")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::frame::MAX_MESSAGE;

/// Says to the child process that it is one.
const CHILD: &str = "REPORT_TEST_MASTER_AT_REST";

/// What one link may cost, in KiB.
const ALLOWED_KIB: f64 = 24.0;

/// Links let go of what a busy time has left behind in the second heartbeat after it.
const HEARTBEAT: Duration = Duration::from_secs(1);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_thousand_links_at_rest_cost_little_each() {
    measure(1_000);
}

#[test]
#[ignore = "needs 10,000 file descriptors and half a minute: cargo test --release -- --ignored ten_thousand"]
fn ten_thousand_links_at_rest_cost_little_each() {
    measure(10_000);
}

/// The master that is measured. Does nothing when it is not started by a test.
#[test]
fn the_master_that_is_measured() {
    if std::env::var_os(CHILD).is_none() {
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
        parameters.timing.heartbeat = Timing {
            interval: HEARTBEAT,
            timeout: Duration::from_secs(120),
            ..Timing::default()
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
            "master::tests::rest::the_master_that_is_measured",
            "--nocapture",
        ])
        .env(CHILD, "1");
    // Without it glibc keeps what was freed, for the next who needs it: what is to be measured is what links hold.
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
        // What is allocated once is there after the first links.
        let mut peers = join(address, 0..100).await;
        settle().await;
        let before = resident_kib(&process.0);
        peers.extend(join(address, 100..100 + links).await);
        settle().await;
        let fresh = resident_kib(&process.0).saturating_sub(before);
        for peer in &mut peers {
            be_busy(peer).await;
        }
        let busy = resident_kib(&process.0).saturating_sub(before);
        tokio::time::sleep(3 * HEARTBEAT).await;
        let rested = resident_kib(&process.0).saturating_sub(before);
        [fresh, busy, rested].map(|kib| f64::from(kib) / f64::from(links))
    });
    let [fresh, busy, rested] = per_link;
    println!(
        "{links} links at rest: {fresh:.1} KiB each; {busy:.1} after a long message, {rested:.1} once they rest again"
    );
    assert!(
        fresh < ALLOWED_KIB,
        "{fresh:.1} KiB for each of {links} links"
    );
    assert!(
        rested < ALLOWED_KIB,
        "{rested:.1} KiB for each of {links} links that were busy"
    );
}

/// Lets the master's buffers grow: a frame as long as they come, which the master ignores.
async fn be_busy(peer: &mut Peer) {
    let mut extension = vec![0; MAX_MESSAGE];
    extension[0] = 0x80;
    peer.send_raw(extension.into()).await;
    peer.send(Frame::Ping(4711)).await;
    while peer.next().await != Frame::Pong(4711) {}
}

/// A client and a server in turn, each server with a key id of its own.
async fn join(address: SocketAddr, numbers: std::ops::Range<u32>) -> Vec<Peer> {
    let mut peers = Vec::new();
    for number in numbers {
        let id = Id(u128::from(number).to_be_bytes());
        let (role, key, first) = match number % 2 {
            0 => (Role::Client, LinkKey::derive(None), vec![]),
            _ => (
                Role::Server,
                link_key(),
                vec![Frame::Register(Ports { ports: vec![id] })],
            ),
        };
        let stream = TcpStream::connect(address).await.expect("connected");
        crate::link::tcp::prepare(&stream).expect("as a role does");
        let mut socket = upgrade(stream, "/").await;
        let introduction = Introduction {
            role,
            instance: id,
            epoch: 1,
            moves: false,
            agent: "test".to_owned(),
        };
        let terms = authenticate::join(&mut socket, &key, &introduction, &first)
            .await
            .expect("joined");
        let mut peer = Peer { socket, terms };
        if role == Role::Server {
            assert_eq!(
                peer.next().await,
                Frame::Registered(Ports { ports: vec![id] })
            );
        }
        peers.push(peer);
    }
    peers
}

/// The master is idle by then, whatever it did last: a measurement, not a condition.
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
