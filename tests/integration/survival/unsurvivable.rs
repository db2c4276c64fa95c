//! Losses that cannot be survived, and connections that end while a path is down. Each end arrives
//! as what it was, and never as a clean end too early.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use serde_json::json;

use super::lab::{Lab, METHODS};
use crate::support::{
    bytes,
    proxy::{BlackHole, Cut, Proxy},
    services::{self, Ending, Service},
    wait,
};

/// The resume timeout of these tests.
const RESUME_TIMEOUT: Duration = Duration::from_secs(2);

/// The margin for events after a timeout, on a busy machine.
const MARGIN: Duration = Duration::from_secs(5);

fn take_down(path: &Proxy) {
    path.refuse();
    path.cut(Cut::Reset);
}

#[test]
fn a_tunnel_beyond_its_resume_timeout_is_reset_at_both_ends() {
    for side in 0..2 {
        let lab = Lab::with_fields(json!({"resume_timeout": "2s"}));
        let stream = services::connect(lab.echo());
        services::ping(&stream, b"before").unwrap();
        let start = Instant::now();
        take_down(&lab.paths()[side]);
        assert_eq!(
            services::read_to_ending(&stream),
            (Vec::new(), Ending::Reset),
            "the application, path {side}"
        );
        let waited = start.elapsed();
        assert!(
            (RESUME_TIMEOUT..RESUME_TIMEOUT + MARGIN).contains(&waited),
            "the application was reset after {waited:?}"
        );
        assert_eq!(
            lab.echo.wait_for_endings(1),
            [Ending::Reset],
            "the service, path {side}"
        );
        let waited = start.elapsed();
        assert!(
            (RESUME_TIMEOUT..RESUME_TIMEOUT + MARGIN).contains(&waited),
            "the service was reset after {waited:?}"
        );
        lab.paths()[side].thaw();
        services::ping(&services::connect(lab.echo()), b"a new tunnel").unwrap();
    }
}

#[test]
fn a_connection_that_the_server_never_saw_moves_to_the_next_tunnel() {
    let mut lab = Lab::with_fields(json!({"server_role": {"resume_timeout": "1s"}}));
    let seen = services::connect(lab.echo());
    services::ping(&seen, b"before").unwrap();
    // As after the client's machine has slept. The client relies on a link that has ended and on a
    // tunnel that the server has discarded.
    lab.client_path.black_hole(BlackHole::Existing);
    lab.tunnel.restart_master();
    lab.tunnel.server.wait_for_line(&["echo", "tunnel ended"]);
    let unseen = services::connect(lab.echo());
    let content = bytes::mixed(7, 100_000);
    services::ping(&unseen, &content).expect("the next tunnel carries the connection and its data");
    lab.tunnel
        .client
        .wait_for_line(&["before its server saw the connection"]);
    assert_eq!(services::read_to_ending(&seen), (Vec::new(), Ending::Reset));
    assert_eq!(
        lab.echo.accepted(),
        2,
        "the service sees each connection once"
    );
}

#[test]
fn a_transfer_beyond_its_resume_timeout_never_ends_cleanly() {
    let lab = Lab::with_fields(json!({"resume_timeout": "2s"}));
    let service = lab.tunnel.local(METHODS[0]);
    lab.limit();
    // A request to the load service for a download of one gibibyte with the seed 1.
    let mut stream = services::connect(service);
    stream
        .write_all(&[&b"d"[..], &1u64.to_be_bytes(), &(1u64 << 30).to_be_bytes()].concat())
        .unwrap();
    stream.read_exact(&mut vec![0; 100_000]).unwrap();
    take_down(&lab.client_path);
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
    assert_eq!(lab.load.wait_for_endings(1), [Ending::Reset]);
}

#[test]
fn a_restarted_server_resets_old_connections_and_serves_new_ones() {
    let mut lab = Lab::new();
    let idle = services::connect(lab.echo());
    services::ping(&idle, b"before").unwrap();
    let mut download = services::connect(lab.tunnel.local(METHODS[0]));
    download
        .write_all(&[&b"d"[..], &1u64.to_be_bytes(), &(1u64 << 40).to_be_bytes()].concat())
        .unwrap();
    download.read_exact(&mut vec![0; 1 << 20]).unwrap();
    lab.tunnel.server.kill();
    lab.tunnel.restart_server();
    let start = Instant::now();
    for (name, stream) in [("idle", idle), ("download", download)] {
        // Data in flight may still arrive, but it must not end with an end of file.
        let ended = std::io::copy(&mut &stream, &mut std::io::sink())
            .map_or_else(Ending::from, |_| Ending::Clean);
        assert_eq!(ended, Ending::Reset, "{name}");
    }
    println!("reset after {:?}", start.elapsed());
    services::ping(&services::connect(lab.echo()), b"a new one").unwrap();
    println!("served after {:?}", start.elapsed());
    assert!(start.elapsed() < MARGIN * 2, "after {:?}", start.elapsed());
    lab.tunnel
        .client
        .wait_for_line(&["the server was restarted"]);
}

#[test]
fn a_reset_by_the_application_while_the_path_is_down_arrives_as_a_reset() {
    let lab = Lab::new();
    for (number, path) in lab.paths().iter().enumerate() {
        let stream = services::connect(lab.echo());
        services::ping(&stream, b"before").unwrap();
        take_down(path);
        services::reset(stream);
        wait::throughout(
            "the service sees no end",
            Duration::from_millis(500),
            || lab.echo.endings().len() == number,
        );
        path.thaw();
        assert_eq!(lab.echo.wait_for_endings(number + 1)[number], Ending::Reset);
    }
}

#[test]
fn a_reset_by_the_service_while_the_path_is_down_arrives_as_a_reset() {
    let (trigger, wanted) = mpsc::channel::<()>();
    let wanted = Mutex::new(wanted);
    let service = Service::start(move |mut stream| {
        let _ = stream.read(&mut [0]).and_then(|_| stream.write(b"!"));
        let _ = wanted.lock().unwrap().recv_timeout(wait::TIMEOUT);
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        Ending::Reset
    });
    let lab = Lab::with_service(service.address(), json!({}));
    for (number, path) in lab.paths().iter().enumerate() {
        let stream = services::connect(lab.tunnel.local("service"));
        (&stream).write_all(b"?").unwrap();
        (&stream).read_exact(&mut [0]).unwrap();
        take_down(path);
        trigger.send(()).unwrap();
        service.wait_for_endings(number + 1);
        path.thaw();
        assert_eq!(
            services::read_to_ending(&stream),
            (Vec::new(), Ending::Reset),
            "path {number}"
        );
    }
}

#[test]
fn an_end_of_file_while_the_path_is_down_arrives_after_all_data() {
    let digest = services::digest_after_end();
    let lab = Lab::with_service(digest.address(), json!({}));
    for path in lab.paths() {
        let mut stream = services::connect(lab.tunnel.local("service"));
        stream.write_all(b"first, ").unwrap();
        take_down(&path);
        stream
            .write_all(b"last")
            .and_then(|()| stream.shutdown(Shutdown::Write))
            .unwrap();
        wait::pause(Duration::from_millis(300));
        path.thaw();
        let (answer, ending) = services::read_to_ending(&stream);
        let expected = format!("11 {}", bytes::sha256(b"first, last"));
        assert_eq!(
            (String::from_utf8_lossy(&answer).as_ref(), ending),
            (expected.as_str(), Ending::Clean)
        );
    }
    assert_eq!(digest.wait_for_endings(2), [Ending::Clean; 2]);
}
