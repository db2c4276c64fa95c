//! How connections end: half-closed, reset, refused, held, cut off. Each end arrives at the other
//! side as what it was.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    bytes,
    daemon::Signal,
    ports, programs,
    services::{self, Ending, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
    wait,
};

/// Bytes of a transfer that passes several windows.
const SEVERAL_WINDOWS: usize = 3 << 20;

/// A limit for events that must happen immediately. It is far above their usual time and far below
/// `hold_timeout` and the grace period.
const IMMEDIATE: Duration = Duration::from_secs(5);

fn single_port(service: &Service) -> Vec<Port> {
    vec![Port::new("service", service.address(), Methods::DEFAULT)]
}

#[test]
fn an_answer_after_the_end_of_file_arrives_with_every_pair_of_methods() {
    let digest = services::digest_after_end();
    let tunnel = Tunnel::start(
        Front::Direct,
        Port::for_each(&Methods::all(), digest.address()),
    );
    for methods in Methods::all() {
        for content in [
            Vec::new(),
            b"abc".to_vec(),
            bytes::mixed(1, SEVERAL_WINDOWS),
        ] {
            let answer = programs::nc(tunnel.local(methods), &content)
                .succeeded()
                .text();
            assert_eq!(
                answer,
                format!("{} {}", content.len(), bytes::sha256(&content)),
                "{methods}"
            );
        }
    }
}

#[test]
fn a_service_that_half_closed_still_receives_data() {
    let (sender, results) = mpsc::channel();
    let service = Service::start(move |mut stream| {
        stream.write_all(b"that was all").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut content = Vec::new();
        let ending = stream
            .read_to_end(&mut content)
            .map_or_else(Ending::from, |_| Ending::Clean);
        let _ = sender.send((bytes::sha256(&content), ending));
        ending
    });
    let tunnel = Tunnel::start(
        Front::Direct,
        Port::for_each(&Methods::all(), service.address()),
    );
    for methods in Methods::all() {
        let mut stream = services::connect(tunnel.local(methods));
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"that was all", "{methods}");
        let content = bytes::mixed(2, SEVERAL_WINDOWS);
        stream.write_all(&content).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            results.recv_timeout(wait::TIMEOUT),
            Ok((bytes::sha256(&content), Ending::Clean)),
            "{methods}"
        );
    }
}

#[test]
fn an_answer_arrives_when_the_service_closes_with_an_unread_request() {
    const ANSWER: [u8; 555] = [7; 555];
    let service = Service::start(|mut stream| {
        let _ = stream
            .read(&mut [0; 100])
            .and_then(|_| stream.write_all(&ANSWER));
        // The rest of the request is unread, so the system resets the connection.
        Ending::Clean
    });
    let tunnel = Tunnel::start(Front::Direct, single_port(&service));
    for round in 0..20 {
        let mut stream = services::connect(tunnel.local("service"));
        let mut writer = stream.try_clone().unwrap();
        let upload = std::thread::spawn(move || writer.write_all(&vec![1; SEVERAL_WINDOWS]));
        let mut answer = [0; ANSWER.len()];
        stream
            .read_exact(&mut answer)
            .unwrap_or_else(|error| panic!("the answer in round {round}: {error}"));
        assert_eq!(answer, ANSWER);
        drop(stream);
        // The upload may fail: the sockets need not have taken all of it.
        let _ = upload.join().unwrap();
    }
}

#[test]
fn a_reset_by_the_application_arrives_at_the_service_as_a_reset() {
    let service = services::echo();
    let tunnel = Tunnel::start(Front::Direct, single_port(&service));
    let stream = services::connect(tunnel.local("service"));
    services::ping(&stream, b"established").unwrap();
    services::reset(stream);
    assert_eq!(service.wait_for_endings(1), [Ending::Reset]);
}

#[test]
fn a_reset_by_the_service_arrives_at_the_application_as_a_reset() {
    let service = services::resetter();
    let tunnel = Tunnel::start(Front::Direct, single_port(&service));
    let mut stream = services::connect(tunnel.local("service"));
    stream.write_all(b"!").unwrap();
    assert_eq!(
        services::read_to_ending(&stream),
        (Vec::new(), Ending::Reset)
    );
}

#[test]
fn data_before_a_reset_arrives_but_does_not_look_complete() {
    let content = bytes::mixed(3, 100_000);
    let service = services::resets_after(content.clone());
    let tunnel = Tunnel::start(
        Front::Direct,
        Port::for_each(&Methods::all(), service.address()),
    );
    for methods in Methods::all() {
        let mut stream = services::connect(tunnel.local(methods));
        let mut received = vec![0; content.len()];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(received, content, "{methods}");
        stream.write_all(b"!").unwrap();
        assert_eq!(
            services::read_to_ending(&stream),
            (Vec::new(), Ending::Reset),
            "{methods}"
        );
    }
}

#[test]
fn a_refused_service_resets_the_connection_immediately_and_logs_the_cause() {
    let absent = ports::free();
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("absent", absent, Methods::DEFAULT)],
    );
    let start = Instant::now();
    let stream = services::connect(tunnel.local("absent"));
    assert_eq!(
        services::read_to_ending(&stream),
        (Vec::new(), Ending::Reset)
    );
    assert!(start.elapsed() < IMMEDIATE, "after {:?}", start.elapsed());
    tunnel
        .server
        .wait_for_line(&["absent", &absent.to_string(), "refused"]);
    assert!(tunnel.is_connected(), "other ports keep working");
}

#[test]
fn an_unresolvable_service_resets_the_connection_and_logs_its_name() {
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new(
            "nowhere",
            "no-such-host.invalid:80",
            Methods::DEFAULT,
        )],
    );
    let stream = services::connect(tunnel.local("nowhere"));
    assert_eq!(
        services::read_to_ending(&stream),
        (Vec::new(), Ending::Reset)
    );
    tunnel
        .server
        .wait_for_line(&["nowhere", "no-such-host.invalid"]);
}

#[test]
fn a_service_can_have_a_host_name() {
    let echo = services::echo();
    let name = format!("localhost:{}", echo.address().port());
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("named", name, Methods::DEFAULT)],
    );
    assert!(services::echoes(tunnel.local("named")));
}

#[test]
fn a_connection_without_a_server_is_held_for_the_hold_timeout_and_then_reset() {
    let testbed = Testbed::new(Front::Direct);
    let port = Port::new("alone", "127.0.0.1:9", Methods::DEFAULT);
    let _master = testbed.master(json!({}));
    let _client = testbed.client(
        "client",
        std::slice::from_ref(&port),
        json!({"hold_timeout": "2s"}),
    );
    let start = Instant::now();
    let mut stream = services::connect(port.local);
    stream.write_all(b"is anybody there?").unwrap();
    assert_eq!(
        services::read_to_ending(&stream),
        (Vec::new(), Ending::Reset)
    );
    let held = start.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(2) + IMMEDIATE).contains(&held),
        "held for {held:?}"
    );
    assert!(TcpStream::connect(port.local).is_ok(), "the listener stays");
}

#[test]
fn a_connection_made_before_the_server_starts_is_served_later() {
    let testbed = Testbed::new(Front::Direct);
    let echo = services::echo();
    let port = [Port::new("late", echo.address(), Methods::DEFAULT)];
    let _master = testbed.master(json!({}));
    let _client = testbed.client("client", &port, json!({"hold_timeout": "30s"}));
    let mut early = services::connect(port[0].local);
    early.write_all(b"sent before").unwrap();
    early
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(early.read(&mut [0]).is_err(), "no server answers yet");
    let _server = testbed.server("server", &port, json!({}));
    early.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
    let mut answer = [0; 11];
    early.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"sent before");
}

#[test]
fn a_held_connection_is_served_only_if_its_application_still_waits() {
    let testbed = Testbed::new(Front::Direct);
    let (sender, results) = mpsc::channel();
    let service = Service::start(move |mut stream| {
        let mut order = [0; 8];
        let read = stream.read_exact(&mut order);
        let _ = sender.send(order).map(|()| stream.write_all(&order));
        read.map_or_else(Ending::from, |()| Ending::Clean)
    });
    let port = [Port::new("orders", service.address(), Methods::DEFAULT)];
    let _master = testbed.master(json!({}));
    let client = testbed.client("client", &port, json!({"hold_timeout": "60s"}));
    let order = |content: &[u8; 8]| {
        let mut stream = services::connect(port[0].local);
        stream.write_all(content).unwrap();
        stream
    };
    let (waits, half_closed) = (order(b"waiting."), order(b"half-way"));
    half_closed.shutdown(Shutdown::Write).unwrap();
    services::reset(order(b"reset..."));
    client.wait_for_line(&["dropped", "closed it while it waited for a tunnel"]);
    for _ in 0..3 {
        drop(order(b"closed.."));
    }
    let _server = testbed.server("server", &port, json!({}));
    for (mut stream, content) in [(waits, b"waiting."), (half_closed, b"half-way")] {
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, content);
    }
    wait::until_true("the closed connections are dropped", || {
        client
            .log()
            .matches("closed it while it waited for a tunnel")
            .count()
            == 4
    });
    // The server runs now, so this connection is not held. It is served although its application
    // does not wait for an answer.
    drop(order(b"at once."));
    let mut carried_out: Vec<_> = (0..3)
        .map(|_| results.recv_timeout(wait::TIMEOUT).unwrap())
        .collect();
    carried_out.sort_unstable();
    assert_eq!(carried_out, [*b"at once.", *b"half-way", *b"waiting."]);
    assert!(
        results.recv_timeout(Duration::from_millis(500)).is_err(),
        "nothing else is served"
    );
}

#[test]
fn listeners_stay_while_the_master_is_down_and_serve_afterwards() {
    let testbed = Testbed::new(Front::Direct);
    let echo = services::echo();
    let port = [Port::new("patient", echo.address(), Methods::DEFAULT)];
    let mut client = testbed.client("client", &port, json!({"hold_timeout": "30s"}));
    let early = services::connect(port[0].local);
    let _server = testbed.server("server", &port, json!({}));
    let mut master = testbed.master(json!({}));
    services::ping(&early, b"served once all are there").unwrap();
    master.kill();
    let held = services::connect(port[0].local);
    let _master = testbed.master(json!({}));
    services::ping(&held, b"served again").unwrap();
    services::ping(&early, b"as if nothing had happened").unwrap();
    assert!(!client.has_ended());
    assert!(client.stop().success());
}

/// Roles with a short resume timeout.
fn short_resume_timeouts() -> Fields {
    let fields = || json!({"resume_timeout": "1s"});
    Fields {
        server: fields(),
        client: fields(),
        ..Fields::default()
    }
}

/// Starts an endless download and stops one of the roles in the middle of it. Returns how the
/// download ended for the application.
fn download_cut_off_by(end: impl FnOnce(&mut Tunnel)) -> Ending {
    let service = services::endless();
    let mut tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        single_port(&service),
        short_resume_timeouts(),
    );
    let stream = services::connect(tunnel.local("service"));
    (&stream).read_exact(&mut vec![0; SEVERAL_WINDOWS]).unwrap();
    let reader = std::thread::spawn(move || {
        // Keep reading, or the end of the stream waits behind data that the application has not
        // taken. The data is discarded.
        let copied = std::io::copy(&mut &stream, &mut std::io::sink());
        copied.map_or_else(Ending::from, |_| Ending::Clean)
    });
    end(&mut tunnel);
    reader.join().unwrap()
}

#[test]
fn a_download_is_reset_when_the_server_is_killed() {
    assert_eq!(
        download_cut_off_by(|tunnel| {
            tunnel.server.kill();
        }),
        Ending::Reset
    );
}

#[test]
fn a_download_is_reset_when_the_master_is_killed() {
    assert_eq!(
        download_cut_off_by(|tunnel| {
            tunnel.master.kill();
        }),
        Ending::Reset
    );
}

#[test]
fn a_download_is_reset_when_the_client_is_killed() {
    assert_eq!(
        download_cut_off_by(|tunnel| {
            tunnel.client.kill();
        }),
        Ending::Reset
    );
}

#[test]
fn a_download_is_reset_when_the_server_ends_at_once() {
    let ending = download_cut_off_by(|tunnel| {
        tunnel.server.terminate_twice();
        assert!(tunnel.server.wait_for_end(IMMEDIATE).is_some());
    });
    assert_eq!(ending, Ending::Reset);
}

#[test]
fn a_download_is_reset_when_its_grace_period_is_over() {
    let service = services::endless();
    let fields = Fields {
        client: json!({"grace_period": "1s"}),
        ..Fields::default()
    };
    let mut tunnel = Tunnel::on(Testbed::new(Front::Direct), single_port(&service), fields);
    let stream = services::connect(tunnel.local("service"));
    let reader = std::thread::spawn(move || {
        std::io::copy(&mut &stream, &mut std::io::sink())
            .map_or_else(Ending::from, |_| Ending::Clean)
    });
    wait::until_true("the download runs", || service.live() == 1);
    tunnel.client.signal(Signal::Terminate);
    assert!(tunnel.client.wait_for_end(wait::TIMEOUT).is_some());
    assert_eq!(reader.join().unwrap(), Ending::Reset);
}

#[test]
fn curl_detects_a_truncated_download() {
    // An answer without a length is complete only when the connection ends gracefully.
    let service = Service::start(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream
            .write_all(b"HTTP/1.0 200 OK\r\n\r\n")
            .and_then(|()| stream.write_all(&bytes::mixed(4, 500_000)));
        let mut block = [0; 1];
        stream
            .read(&mut block)
            .map_or_else(Ending::from, |_| Ending::Clean)
    });
    let mut tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        single_port(&service),
        short_resume_timeouts(),
    );
    let url = format!("http://{}/", tunnel.local("service"));
    let download = std::thread::spawn(move || {
        programs::run(programs::command("curl").args(["--silent", "--show-error", &url]))
    });
    wait::until_true("the download runs", || service.live() == 1);
    tunnel.server.kill();
    let output = download.join().unwrap();
    assert_ne!(
        output.code,
        Some(0),
        "curl accepted {} bytes as complete",
        output.out.len()
    );
}
