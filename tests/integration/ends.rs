//! How connections end: half-closed, reset, refused, held, cut off. What happens at one end arrives at the other as what it was.

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
    tunnel::{Fields, Front, Methods, Port, Scene, Tunnel},
    wait,
};

/// Bytes of a transfer that passes several windows.
const SOME_WINDOWS: usize = 3 << 20;

/// A limit for what is to happen at once: far above what it takes, far below `hold_timeout` and the grace period.
const AT_ONCE: Duration = Duration::from_secs(5);

fn usual(service: &Service) -> Vec<Port> {
    vec![Port::new("service", service.address(), Methods::USUAL)]
}

#[test]
fn a_service_that_answers_only_after_the_end_of_file_is_heard_with_every_pair_of_methods() {
    let digest = services::digest_after_end();
    let tunnel = Tunnel::start(
        Front::Direct,
        Port::for_each(&Methods::all(), digest.address()),
    );
    for methods in Methods::all() {
        for content in [Vec::new(), b"abc".to_vec(), bytes::mixed(1, SOME_WINDOWS)] {
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
fn a_service_that_ended_its_direction_still_hears_the_application() {
    let (sender, heard) = mpsc::channel();
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
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"that was all", "{methods}");
        let content = bytes::mixed(2, SOME_WINDOWS);
        stream.write_all(&content).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            heard.recv_timeout(wait::PATIENCE),
            Ok((bytes::sha256(&content), Ending::Clean)),
            "{methods}"
        );
    }
}

#[test]
fn an_answer_arrives_although_the_service_closes_with_the_request_unread() {
    const ANSWER: [u8; 555] = [7; 555];
    let service = Service::start(|mut stream| {
        let _ = stream
            .read(&mut [0; 100])
            .and_then(|_| stream.write_all(&ANSWER));
        // The rest of the request is unread: the system resets the connection.
        Ending::Clean
    });
    let tunnel = Tunnel::start(Front::Direct, usual(&service));
    for round in 0..20 {
        let mut stream = services::connect(tunnel.local("service"));
        let mut writer = stream.try_clone().unwrap();
        let upload = std::thread::spawn(move || writer.write_all(&vec![1; SOME_WINDOWS]));
        let mut answer = [0; ANSWER.len()];
        stream
            .read_exact(&mut answer)
            .unwrap_or_else(|error| panic!("the answer in round {round}: {error}"));
        assert_eq!(answer, ANSWER);
        drop(stream);
        // Whether the sockets took all of it is of no interest.
        let _ = upload.join().unwrap();
    }
}

#[test]
fn a_reset_by_the_application_arrives_at_the_service_as_a_reset() {
    let service = services::echo();
    let tunnel = Tunnel::start(Front::Direct, usual(&service));
    let stream = services::connect(tunnel.local("service"));
    services::ping(&stream, b"established").unwrap();
    services::reset(stream);
    assert_eq!(service.wait_for_endings(1), [Ending::Reset]);
}

#[test]
fn a_reset_by_the_service_arrives_at_the_application_as_a_reset() {
    let service = services::resetter();
    let tunnel = Tunnel::start(Front::Direct, usual(&service));
    let mut stream = services::connect(tunnel.local("service"));
    stream.write_all(b"!").unwrap();
    assert_eq!(
        services::read_to_ending(&stream),
        (Vec::new(), Ending::Reset)
    );
}

#[test]
fn what_a_service_sent_before_its_reset_is_no_complete_download() {
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
fn a_refused_service_resets_the_connection_at_once_and_the_log_says_why() {
    let nobody = ports::free();
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("nobody", nobody, Methods::USUAL)],
    );
    let start = Instant::now();
    let stream = services::connect(tunnel.local("nobody"));
    assert_eq!(
        services::read_to_ending(&stream),
        (Vec::new(), Ending::Reset)
    );
    assert!(start.elapsed() < AT_ONCE, "after {:?}", start.elapsed());
    tunnel
        .server
        .wait_for_line(&["nobody", &nobody.to_string(), "refused"]);
    assert!(tunnel.is_joined(), "other ports are not disturbed");
}

#[test]
fn a_service_whose_name_does_not_resolve_resets_the_connection_and_the_log_names_it() {
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new(
            "nowhere",
            "no-such-host.invalid:80",
            Methods::USUAL,
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
fn a_service_may_be_named_by_its_host_name() {
    let echo = services::echo();
    let name = format!("localhost:{}", echo.address().port());
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("named", name, Methods::USUAL)],
    );
    assert!(services::echoes(tunnel.local("named")));
}

#[test]
fn a_connection_without_a_server_is_held_for_the_hold_timeout_and_then_reset() {
    let scene = Scene::new(Front::Direct);
    let port = Port::new("alone", "127.0.0.1:9", Methods::USUAL);
    let _master = scene.master(json!({}));
    let _client = scene.client(
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
        (Duration::from_secs(2)..Duration::from_secs(2) + AT_ONCE).contains(&held),
        "held for {held:?}"
    );
    assert!(TcpStream::connect(port.local).is_ok(), "the listener stays");
}

#[test]
fn a_connection_made_before_the_server_came_is_served_when_it_comes() {
    let scene = Scene::new(Front::Direct);
    let echo = services::echo();
    let port = [Port::new("late", echo.address(), Methods::USUAL)];
    let _master = scene.master(json!({}));
    let _client = scene.client("client", &port, json!({"hold_timeout": "30s"}));
    let mut early = services::connect(port[0].local);
    early.write_all(b"sent before").unwrap();
    early
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(early.read(&mut [0]).is_err(), "nobody is there to answer");
    let _server = scene.server("server", &port, json!({}));
    early.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let mut answer = [0; 11];
    early.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"sent before");
}

#[test]
fn a_held_connection_whose_application_has_gone_is_not_carried_out_and_one_that_waits_is() {
    let scene = Scene::new(Front::Direct);
    let (sender, heard) = mpsc::channel();
    let service = Service::start(move |mut stream| {
        let mut order = [0; 8];
        let read = stream.read_exact(&mut order);
        let _ = sender.send(order).map(|()| stream.write_all(&order));
        read.map_or_else(Ending::from, |()| Ending::Clean)
    });
    let port = [Port::new("orders", service.address(), Methods::USUAL)];
    let _master = scene.master(json!({}));
    let client = scene.client("client", &port, json!({"hold_timeout": "60s"}));
    let order = |content: &[u8; 8]| {
        let mut stream = services::connect(port[0].local);
        stream.write_all(content).unwrap();
        stream
    };
    let (waits, half_closed) = (order(b"waiting."), order(b"half-way"));
    half_closed.shutdown(Shutdown::Write).unwrap();
    services::reset(order(b"reset..."));
    client.wait_for_line(&["dropped", "closed the connection while it was held"]);
    for _ in 0..3 {
        drop(order(b"closed.."));
    }
    let _server = scene.server("server", &port, json!({}));
    for (mut stream, content) in [(waits, b"waiting."), (half_closed, b"half-way")] {
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, content);
    }
    wait::until_true("the closed ones are dropped", || {
        client
            .log()
            .matches("closed the connection while it was held")
            .count()
            == 4
    });
    // One that came when the server was there and did not wait for an answer is carried out.
    drop(order(b"at once."));
    let mut carried_out: Vec<_> = (0..3)
        .map(|_| heard.recv_timeout(wait::PATIENCE).unwrap())
        .collect();
    carried_out.sort_unstable();
    assert_eq!(carried_out, [*b"at once.", *b"half-way", *b"waiting."]);
    assert!(
        heard.recv_timeout(Duration::from_millis(500)).is_err(),
        "nothing else is carried out"
    );
}

#[test]
fn listeners_stay_while_the_master_is_away_and_serve_when_it_is_back() {
    let scene = Scene::new(Front::Direct);
    let echo = services::echo();
    let port = [Port::new("patient", echo.address(), Methods::USUAL)];
    let mut client = scene.client("client", &port, json!({"hold_timeout": "30s"}));
    let early = services::connect(port[0].local);
    let _server = scene.server("server", &port, json!({}));
    let mut master = scene.master(json!({}));
    services::ping(&early, b"served once all are there").unwrap();
    master.kill();
    let held = services::connect(port[0].local);
    let _master = scene.master(json!({}));
    services::ping(&held, b"served again").unwrap();
    services::ping(&early, b"as if nothing had happened").unwrap();
    assert!(!client.has_ended());
    assert!(client.stop().success());
}

/// Roles that do not wait long for each other.
fn soon_given_up() -> Fields {
    let patience = || json!({"resume_timeout": "1s"});
    Fields {
        server: patience(),
        client: patience(),
        ..Fields::default()
    }
}

/// Starts a download without end, ends one of the roles in the middle of it, and tells what the application saw.
fn download_cut_off_by(end: impl FnOnce(&mut Tunnel)) -> Ending {
    let service = services::endless();
    let mut tunnel = Tunnel::on(Scene::new(Front::Direct), usual(&service), soon_given_up());
    let stream = services::connect(tunnel.local("service"));
    (&stream).read_exact(&mut vec![0; SOME_WINDOWS]).unwrap();
    let reader = std::thread::spawn(move || {
        // Read on, or the cut would wait behind what the application has not taken; what came is not kept.
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
        assert!(tunnel.server.wait_for_end(AT_ONCE).is_some());
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
    let mut tunnel = Tunnel::on(Scene::new(Front::Direct), usual(&service), fields);
    let stream = services::connect(tunnel.local("service"));
    let reader = std::thread::spawn(move || {
        std::io::copy(&mut &stream, &mut std::io::sink())
            .map_or_else(Ending::from, |_| Ending::Clean)
    });
    wait::until_true("the download runs", || service.live() == 1);
    tunnel.client.signal(Signal::Terminate);
    assert!(tunnel.client.wait_for_end(wait::PATIENCE).is_some());
    assert_eq!(reader.join().unwrap(), Ending::Reset);
}

#[test]
fn curl_says_that_a_download_was_cut_off() {
    // An answer without a length: only the end of the connection says that it is whole.
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
    let mut tunnel = Tunnel::on(Scene::new(Front::Direct), usual(&service), soon_given_up());
    let url = format!("http://{}/", tunnel.local("service"));
    let download = std::thread::spawn(move || {
        programs::run(programs::command("curl").args(["--silent", "--show-error", &url]))
    });
    wait::until_true("the download runs", || service.live() == 1);
    tunnel.server.kill();
    let ran = download.join().unwrap();
    assert_ne!(
        ran.code,
        Some(0),
        "curl took a part of {} bytes for the whole",
        ran.out.len()
    );
}
