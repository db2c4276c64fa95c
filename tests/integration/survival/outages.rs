//! Paths that are silent or down for a while. Sent data and new connections wait, and memory stays
//! bounded.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::lab::{Lab, load_profile, methods_in_turn};
use crate::support::{
    bytes, memory,
    proxy::{BlackHole, Cut, Path, Proxy},
    services::{self, Ending, Service},
    tunnel::Methods,
    wait,
};

/// `ANSWER_TIMEOUT` of the protocol plus a margin for a busy machine.
const DETECTION_TIME: Duration = Duration::from_secs(10 + 5);

/// Asserts that a bulk transfer continues over a new link after one path has become a black hole.
fn survives_black_hole(disturb: impl Fn(&Proxy), limit: Duration) {
    methods_in_turn()
        .iter()
        .for_each(|&methods| survives_black_hole_with(methods, &disturb, limit));
}

fn survives_black_hole_with(methods: Methods, disturb: impl Fn(&Proxy), limit: Duration) {
    let lab = Lab::new();
    // Slow enough that the transfer is still running when the path is detected as dead.
    lab.set_paths(Path::limited(load_profile().bytes_per_second / 2));
    let load = lab.start_load(methods);
    lab.wait_for_traffic(256 << 10, &load);
    let links = lab.client_path.connections();
    let start = Instant::now();
    disturb(&lab.client_path);
    wait::until_true("the client has a new link", || {
        lab.client_path.connections() > links
    });
    let noticed = start.elapsed();
    println!("{methods}: a new link after {noticed:?}");
    assert!(noticed < limit, "noticed after {noticed:?}");
    assert!(
        !load.is_done(),
        "the transfer ended before it was disturbed"
    );
    load.finish("a black hole");
}

#[test]
fn eight_streams_survive_a_black_hole_that_is_cut_later() {
    survives_black_hole(
        |path| {
            path.black_hole(BlackHole::All);
            wait::pause(Duration::from_secs(8));
            path.thaw();
            path.cut(Cut::Reset);
        },
        DETECTION_TIME,
    );
}

#[test]
fn a_black_hole_that_is_never_cut_is_detected_and_replaced() {
    survives_black_hole(|path| path.black_hole(BlackHole::Existing), DETECTION_TIME);
}

/// Cuts the path and refuses new links, so that both roles notice at once.
fn take_down(path: &Proxy) {
    path.refuse();
    path.cut(Cut::Reset);
}

#[test]
fn data_and_connections_from_an_outage_arrive_after_it() {
    let lab = Lab::new();
    for (number, path) in lab.paths().iter().enumerate() {
        let before = services::connect(lab.echo());
        services::ping(&before, b"before").unwrap();
        take_down(path);
        let mut opened = services::connect(lab.echo());
        for mut stream in [&before, &opened] {
            stream.write_all(b"while it is away").unwrap();
        }
        wait::throughout(
            "neither connection receives an answer or an end",
            Duration::from_secs(2),
            || [&before, &opened].iter().all(|stream| is_silent(stream)),
        );
        path.thaw();
        for mut stream in [&before, &opened] {
            let mut answer = [0; 16];
            stream
                .read_exact(&mut answer)
                .unwrap_or_else(|error| panic!("path {number}: {error}"));
            assert_eq!(&answer, b"while it is away");
        }
        opened.write_all(b"!").unwrap();
    }
    assert_eq!(lab.echo.accepted(), 4);
}

/// Whether nothing can be read: no byte, no end of file, no reset.
fn is_silent(stream: &TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let silent =
        services::read(stream, &mut [0]).is_err_and(|error| Ending::from(error) == Ending::Silent);
    stream.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
    silent
}

#[test]
fn a_connection_made_while_the_master_is_down_is_held_and_served() {
    let mut lab = Lab::new();
    lab.tunnel.master.kill();
    let held = services::connect(lab.echo());
    (&held).write_all(b"is anybody there?").unwrap();
    wait::throughout("the connection is held", Duration::from_secs(1), || {
        is_silent(&held)
    });
    lab.tunnel.restart_master();
    let mut answer = [0; 17];
    (&held).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"is anybody there?");
}

/// Writes without end and never reads. Counts the bytes that the socket accepts.
fn write_forever(mut stream: TcpStream, sent: &AtomicU64) {
    let block = bytes::random(1, 64 << 10);
    let _ = stream.set_write_timeout(None);
    while let Ok(count) = stream.write(&block) {
        sent.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The limit of a role's additional memory during an outage: the windows of a tunnel and their
/// overhead.
const OUTAGE_COST: u64 = 64 << 20;

/// A service that receives without end, and also sends without end when the first byte asks for it.
/// It counts the bytes.
struct BulkService {
    service: Service,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl BulkService {
    fn new() -> BulkService {
        let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (down, drained) = (sent.clone(), received.clone());
        // The first byte selects whether the service also sends, or only drains.
        let service = Service::start(move |mut stream| {
            let mut command = [0; 1 << 16];
            if stream.read(&mut command[..1]).is_err() || command[0] == b'd' {
                write_forever(stream.try_clone().expect("a second handle"), &down);
            }
            while let Ok(count @ 1..) = stream.read(&mut command) {
                drained.fetch_add(count as u64, Ordering::Relaxed);
            }
            Ending::Clean
        });
        BulkService {
            service,
            sent,
            received,
        }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A connection through the tunnel that sends the first byte.
fn connect_with(lab: &Lab, command: u8) -> TcpStream {
    let mut stream = services::connect(lab.tunnel.local("service"));
    stream.write_all(&[command]).unwrap();
    stream
}

/// Waits until the counters stop, and asserts that they do not move for a while. Returns them.
fn wait_until_blocked(count: impl Fn() -> [u64; 2]) -> [u64; 2] {
    let mut last = [0; 2];
    wait::until_true("both writers are blocked", || {
        wait::pause(Duration::from_millis(500));
        std::mem::replace(&mut last, count()) == last
    });
    wait::throughout("they stay blocked", Duration::from_secs(2), || {
        count() == last
    });
    last
}

#[test]
fn writers_block_during_an_outage_and_memory_stays_bounded() {
    let bulk = BulkService::new();
    let lab = Lab::with_service(bulk.service.address(), json!({}));
    let (upload, download) = (connect_with(&lab, b'u'), connect_with(&lab, b'd'));
    let rest = lab
        .tunnel
        .pids()
        .map(|(_, pid)| memory::resident_bytes(pid));
    let kept = [upload.try_clone().unwrap(), download.try_clone().unwrap()];
    let sent = [Arc::new(AtomicU64::new(0)), bulk.sent.clone()];
    let up = sent[0].clone();
    let writer = thread::spawn(move || write_forever(upload, &up));
    let reader = thread::spawn(move || std::io::copy(&mut &download, &mut std::io::sink()));
    let count = || sent.each_ref().map(|sent| sent.load(Ordering::Relaxed));
    wait::until_true("both directions run", || {
        bulk.received() > 8 << 20 && count()[1] > 8 << 20
    });
    take_down(&lab.client_path);
    let last = wait_until_blocked(count);
    for ((name, pid), rest) in lab.tunnel.pids().into_iter().zip(rest) {
        let cost = memory::resident_bytes(pid).saturating_sub(rest);
        println!("{name}: {cost} bytes more than before");
        assert!(cost < OUTAGE_COST, "the {name} grew by {cost} bytes");
    }
    lab.client_path.thaw();
    wait::until_true("both directions continue", || {
        count()
            .iter()
            .zip(last)
            .all(|(now, then)| *now > then + (8 << 20))
            && bulk.received() > last[0]
    });
    kept.iter()
        .for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
    let _ = (writer.join(), reader.join());
}
