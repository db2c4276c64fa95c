//! Paths that go silent or away for a while: what is sent waits, what is opened waits, and memory stays what it was.

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

use super::lab::{Lab, methods_in_turn, pace};
use crate::support::{
    bytes, memory,
    proxy::{Cut, Path, Proxy, Swallow},
    services::{self, Ending, Service},
    tunnel::Methods,
    wait,
};

/// `ANSWER_TIMEOUT` of the protocol, and what a busy machine adds to it.
const NOTICED: Duration = Duration::from_secs(10 + 5);

/// The bulk goes on after one path swallowed it: through a new link.
fn survives_swallowing(swallow: impl Fn(&Proxy), limit: Duration) {
    methods_in_turn()
        .iter()
        .for_each(|&methods| survives_swallowing_with(methods, &swallow, limit));
}

fn survives_swallowing_with(methods: Methods, swallow: impl Fn(&Proxy), limit: Duration) {
    let lab = Lab::new();
    // So slow that the transfer is not over when the path is found dead.
    lab.set_paths(Path::limited(pace().bytes_per_second / 2));
    let load = lab.start_load(methods);
    lab.wait_for_traffic(256 << 10, &load);
    let links = lab.client_path.connections();
    let start = Instant::now();
    swallow(&lab.client_path);
    wait::until_true("the client has a new link", || {
        lab.client_path.connections() > links
    });
    let noticed = start.elapsed();
    println!("{methods}: a new link after {noticed:?}");
    assert!(noticed < limit, "noticed after {noticed:?}");
    assert!(
        !load.is_done(),
        "the transfer was over before it was disturbed"
    );
    load.finish("a path that swallowed");
}

#[test]
fn eight_streams_survive_a_path_that_swallows_everything_and_is_cut_at_last() {
    survives_swallowing(
        |path| {
            path.swallow(Swallow::All);
            wait::pause(Duration::from_secs(8));
            path.thaw();
            path.cut(Cut::Reset);
        },
        NOTICED,
    );
}

#[test]
fn a_path_that_swallows_everything_and_is_never_cut_is_found_dead_and_left() {
    survives_swallowing(|path| path.swallow(Swallow::Present), NOTICED);
}

/// Cuts the path and keeps new links from coming, so that both roles know at once.
fn take_away(path: &Proxy) {
    path.refuse();
    path.cut(Cut::Reset);
}

#[test]
fn what_is_sent_and_opened_while_a_path_is_away_arrives_when_it_is_back() {
    let lab = Lab::new();
    for (number, path) in lab.paths().iter().enumerate() {
        let before = services::connect(lab.echo());
        services::ping(&before, b"before").unwrap();
        take_away(path);
        let mut opened = services::connect(lab.echo());
        for mut stream in [&before, &opened] {
            stream.write_all(b"while it is away").unwrap();
        }
        wait::throughout(
            "nobody hears an end or an answer",
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

/// Whether nothing can be read: no byte, no end, no reset.
fn is_silent(stream: &TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let silent =
        services::read(stream, &mut [0]).is_err_and(|error| Ending::from(error) == Ending::Silent);
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    silent
}

#[test]
fn a_connection_made_while_the_master_is_away_is_held_and_served() {
    let mut lab = Lab::new();
    lab.tunnel.master.kill();
    let held = services::connect(lab.echo());
    (&held).write_all(b"is anybody there?").unwrap();
    wait::throughout("it is held", Duration::from_secs(1), || is_silent(&held));
    lab.tunnel.restart_master();
    let mut answer = [0; 17];
    (&held).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"is anybody there?");
}

/// Writes without end and never reads; counts what it got rid of.
fn pour(mut stream: TcpStream, poured: &AtomicU64) {
    let block = bytes::random(1, 64 << 10);
    let _ = stream.set_write_timeout(None);
    while let Ok(count) = stream.write(&block) {
        poured.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// What an outage may cost a role beside what it had already: the windows of a tunnel and their surroundings.
const OUTAGE_COST: u64 = 64 << 20;

#[test]
fn writers_are_held_while_a_path_is_away_and_memory_stays_bounded() {
    let poured = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let (down, up) = (poured.clone(), poured.clone());
    let drained = Arc::new(AtomicU64::new(0));
    let counter = drained.clone();
    // The first byte says whether the service pours, too, or drains.
    let service = Service::start(move |mut stream| {
        let mut command = [0; 1 << 16];
        if stream.read(&mut command[..1]).is_err() || command[0] == b'd' {
            pour(stream.try_clone().expect("a second handle"), &down[1]);
        }
        while let Ok(count @ 1..) = stream.read(&mut command) {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
        Ending::Clean
    });
    let lab = Lab::with_service(service.address(), json!({}));
    let connect = |command: &[u8]| {
        let mut stream = services::connect(lab.tunnel.local("service"));
        stream.write_all(command).unwrap();
        stream
    };
    let (upload, download) = (connect(b"u"), connect(b"d"));
    let rest = lab
        .tunnel
        .pids()
        .map(|(_, pid)| memory::resident_bytes(pid));
    let kept = [upload.try_clone().unwrap(), download.try_clone().unwrap()];
    let writer = thread::spawn(move || pour(upload, &up[0]));
    let reader = thread::spawn(move || std::io::copy(&mut &download, &mut std::io::sink()));
    wait::until_true("both directions run", || {
        drained.load(Ordering::Relaxed) > 8 << 20 && poured[1].load(Ordering::Relaxed) > 8 << 20
    });
    take_away(&lab.client_path);
    let count = || {
        poured
            .each_ref()
            .map(|poured| poured.load(Ordering::Relaxed))
    };
    let mut last = [0; 2];
    wait::until_true("both writers are held", || {
        wait::pause(Duration::from_millis(500));
        std::mem::replace(&mut last, count()) == last
    });
    wait::throughout("they stay held", Duration::from_secs(2), || count() == last);
    for ((name, pid), rest) in lab.tunnel.pids().into_iter().zip(rest) {
        let cost = memory::resident_bytes(pid).saturating_sub(rest);
        println!("{name}: {cost} bytes more than before");
        assert!(cost < OUTAGE_COST, "the {name} grew by {cost} bytes");
    }
    lab.client_path.thaw();
    wait::until_true("both go on", || {
        count()
            .iter()
            .zip(last)
            .all(|(now, then)| *now > then + (8 << 20))
            && drained.load(Ordering::Relaxed) > last[0]
    });
    kept.iter()
        .for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
    let _ = (writer.join(), reader.join());
}
