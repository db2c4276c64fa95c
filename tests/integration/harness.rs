//! Tests of the test harness itself, without a tunnel. They show that its checks can fail.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    bytes, certificates, daemon,
    fault_injector::FaultInjector,
    memory, nginx, ports, postgres, programs,
    proxy::{BlackHole, Cut, Path, Proxy},
    services::{self, Ending, Service},
    sshd::Sshd,
    wait,
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

#[test]
fn nginx_serves_a_file_and_ends_with_its_guard() {
    let folder = folder();
    let content = bytes::mixed(1, 1 << 20);
    fs::write(folder.path().join("file"), &content).unwrap();
    let address = ports::free();
    let web = nginx::file_server(folder.path(), address, folder.path());
    assert_eq!(
        bytes::sha256(&programs::curl(address, "/file")),
        bytes::sha256(&content)
    );
    let burst = programs::wrk(address, "/file", 1);
    assert!(burst.requests > 0 && burst.errors.is_empty(), "{burst:?}");
    assert!(ports::has_listener_at(address) && !ports::has_listener_at(ports::free()));
    drop(web);
    assert!(
        TcpStream::connect(address).is_err(),
        "the listener is closed"
    );
}

#[test]
fn sshd_runs_a_command_and_copies_both_ways() {
    let folder = folder();
    let sshd = Sshd::start(folder.path(), ports::free());
    assert_eq!(
        sshd.ssh(sshd.address(), "echo here").succeeded().text(),
        "here\n"
    );
    let (local, there, back) = (
        folder.path().join("local"),
        folder.path().join("there"),
        folder.path().join("back"),
    );
    fs::write(&local, bytes::mixed(2, 1 << 20)).unwrap();
    sshd.copy_to(sshd.address(), &local, &there).succeeded();
    sshd.copy_from(sshd.address(), &there, &back).succeeded();
    assert_eq!(fs::read(&back).unwrap(), fs::read(&local).unwrap());
}

#[test]
fn postgres_answers_a_query_and_takes_a_copy() {
    let folder = folder();
    let database = postgres::Postgres::start(folder.path(), ports::free());
    let address = database.address();
    postgres::psql(address, "create table numbers (number int)").succeeded();
    postgres::psql_with(address, "copy numbers from stdin", b"1\n2\n39\n").succeeded();
    assert_eq!(
        postgres::psql(address, "select sum(number) from numbers")
            .succeeded()
            .text(),
        "42\n"
    );
    assert_ne!(postgres::psql(address, "select nonsense").code, Some(0));
}

#[test]
fn a_shell_and_a_database_answer_line_by_line() {
    let folder = folder();
    let sshd = Sshd::start(folder.path(), ports::free());
    let mut shell = sshd.shell(sshd.address());
    shell.expect("number=6; echo $((number * 7))", "42");
    shell.expect("echo $number", "6");
    shell.send_line("exit 7");
    assert_eq!(shell.finish(), (Some(7), Vec::new()));

    let database = postgres::Postgres::start(folder.path(), ports::free());
    let mut session = postgres::session(database.address());
    session.send_line("create temporary table numbers (number int);");
    session.expect("insert into numbers values (6) returning number * 7;", "42");
    session.expect("select number from numbers;", "6");
    session.send_line("select nonsense;");
    assert!(session.read_line().starts_with("error: ERROR"));
    assert_eq!(
        session.finish().0,
        Some(3),
        "the program stops at the first error"
    );
}

#[test]
fn each_service_ends_connections_as_documented() {
    let echo = services::echo();
    assert_eq!(
        programs::nc(echo.address(), b"there and back")
            .succeeded()
            .text(),
        "there and back"
    );

    let digest = services::digest_after_end();
    let answer = programs::nc(digest.address(), b"abc").succeeded().text();
    assert_eq!(
        answer,
        "3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );

    let resetter = services::resetter();
    let mut stream = services::connect(resetter.address());
    stream.write_all(b"!").unwrap();
    assert_eq!(
        services::read_to_ending(&stream),
        (Vec::new(), Ending::Reset)
    );

    let sink = services::sink();
    services::reset(services::connect(sink.address()));
    assert_eq!(sink.wait_for_endings(1), [Ending::Reset]);
    drop(services::connect(sink.address()));
    assert_eq!(sink.wait_for_endings(2), [Ending::Reset, Ending::Clean]);
}

#[test]
fn the_proxy_carries_a_half_close_and_records_both_directions() {
    let digest = services::digest_after_end();
    let proxy = Proxy::recording(digest.address());
    let content = bytes::mixed(3, 3 << 20);
    let answer = programs::nc(proxy.address(), &content).succeeded().text();
    assert_eq!(
        answer,
        format!("{} {}", content.len(), bytes::sha256(&content))
    );
    let [up, down] = proxy.recorded();
    assert_eq!((up, down), (content, answer.into_bytes()));
}

#[test]
fn the_proxy_cuts_by_reset_and_by_end_of_file() {
    let echo = services::echo();
    let proxy = Proxy::start(echo.address());
    for (cut, ending) in [(Cut::Reset, Ending::Reset), (Cut::EndOfFile, Ending::Clean)] {
        let stream = services::connect(proxy.address());
        services::ping(&stream, b"before the cut").unwrap();
        proxy.cut(cut);
        assert_eq!(services::read_to_ending(&stream).1, ending, "{cut:?}");
    }
    assert_eq!(echo.wait_for_endings(2), [Ending::Reset, Ending::Clean]);
    assert!(services::echoes(proxy.address()), "a new connection works");
}

#[test]
fn the_proxy_forwards_a_reset() {
    let (sink, resetter) = (services::sink(), services::resetter());
    let proxy = Proxy::start(sink.address());
    services::reset(services::connect(proxy.address()));
    assert_eq!(sink.wait_for_endings(1), [Ending::Reset]);
    let proxy = Proxy::start(resetter.address());
    let mut stream = services::connect(proxy.address());
    stream.write_all(b"!").unwrap();
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
}

#[test]
fn the_proxy_delays_limits_and_freezes() {
    let echo = services::echo();
    let proxy = Proxy::start(echo.address());
    let delay = Duration::from_millis(100);
    proxy.set_path(Path {
        delay,
        ..Path::default()
    });
    let stream = services::connect(proxy.address());
    let start = Instant::now();
    services::ping(&stream, b"there and back").unwrap();
    assert!(start.elapsed() >= 2 * delay, "both directions are delayed");

    proxy.set_path(Path {
        bytes_per_second: Some(1 << 20),
        ..Path::default()
    });
    let start = Instant::now();
    services::ping(&stream, &bytes::random(4, 256 << 10)).unwrap();
    // In each direction the last block is sent after the blocks before it have taken their time.
    assert!(
        start.elapsed() >= Duration::from_millis(200),
        "the rate limit applies to both directions"
    );

    proxy.set_path(Path::default());
    proxy.freeze();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    (&stream).write_all(b"!").unwrap();
    assert!(
        (&stream).read(&mut [0]).is_err(),
        "a frozen path delivers nothing"
    );
    proxy.thaw();
    stream.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap(), 1);
    proxy.refuse();
    let refused = services::connect(proxy.address());
    assert_eq!(services::read_to_ending(&refused).1, Ending::Reset);
}

#[test]
fn the_proxy_is_a_silent_black_hole_until_it_is_cut() {
    let echo = services::echo();
    for which in [BlackHole::Existing, BlackHole::All] {
        let proxy = Proxy::start(echo.address());
        let (black_holed, closed) = (
            services::connect(proxy.address()),
            services::connect(proxy.address()),
        );
        for stream in [&black_holed, &closed] {
            services::ping(stream, b"before").unwrap();
        }
        proxy.black_hole(which);
        let ended = echo.endings().len();
        (&black_holed)
            .write_all(&bytes::random(5, 8 << 20))
            .expect("the proxy reads all of it");
        drop(closed);
        black_holed
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        assert_eq!(
            services::read_to_ending(&black_holed),
            (Vec::new(), Ending::Silent)
        );
        assert_eq!(
            echo.endings().len(),
            ended,
            "the target does not see the end of the other connection"
        );
        let new = services::connect(proxy.address());
        new.set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        assert_eq!(
            services::ping(&new, b"a new one").is_ok(),
            which == BlackHole::Existing,
            "{which:?}"
        );
        proxy.thaw();
        assert!(services::echoes(proxy.address()));
        proxy.cut(Cut::Reset);
        black_holed.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
        assert_eq!(services::read_to_ending(&black_holed).1, Ending::Reset);
    }
}

#[test]
fn the_proxy_forwards_byte_by_byte_for_a_while() {
    let echo = services::echo();
    let proxy = Proxy::start(echo.address());
    let stream = services::connect(proxy.address());
    proxy.set_path(Path {
        dribble: Some(Duration::from_millis(2)),
        ..Path::default()
    });
    let content = bytes::random(6, 256 << 10);
    let (start, mut first) = (Instant::now(), [0; 100]);
    (&stream).write_all(&content).unwrap();
    (&stream).read_exact(&mut first).unwrap();
    assert!(
        start.elapsed() >= Duration::from_millis(150),
        "after {:?}",
        start.elapsed()
    );
    assert!(proxy.forwarded()[1] < 50_000, "{:?}", proxy.forwarded());
    proxy.set_path(Path::default());
    let mut rest = vec![0; content.len() - first.len()];
    (&stream).read_exact(&mut rest).unwrap();
    assert_eq!([&first[..], &rest].concat(), content);
}

#[test]
fn the_fault_injector_cuts_every_path_in_both_ways_and_stops_with_its_guard() {
    let echo = services::echo();
    let paths = [(); 2].map(|()| Arc::new(Proxy::start(echo.address())));
    let established = |proxy: &Proxy| {
        (0..2)
            .map(|_| services::connect(proxy.address()))
            .collect::<Vec<_>>()
    };
    let injector = FaultInjector::cutting(&paths, Duration::from_millis(100), 1);
    let seen = paths.each_ref().map(|path| {
        // Each cut ends all connections of a path together.
        [(); 2].map(|()| services::read_to_ending(&established(path)[0]).1)
    });
    assert!(
        seen.iter()
            .all(|endings| endings.contains(&Ending::Reset) && endings.contains(&Ending::Clean)),
        "{seen:?}"
    );
    assert!(injector.cuts() >= 4);
    drop(injector);
    let spared = services::connect(paths[0].address());
    wait::throughout("no more cuts", Duration::from_millis(300), || {
        services::ping(&spared, b"?").is_ok()
    });
}

#[test]
#[ignore = "measures time: run it alone"]
fn the_proxy_is_faster_than_any_tunnel() {
    const LENGTH: usize = 2 << 30;
    let source = Service::start(|mut stream| {
        let block = vec![7; 256 << 10];
        let mut rest = LENGTH;
        while rest > 0 && stream.write_all(&block).is_ok() {
            rest -= block.len();
        }
        Ending::Clean
    });
    for (name, delay) in [
        ("without delay", Duration::ZERO),
        ("with 50 ms each way", Duration::from_millis(50)),
    ] {
        let proxy = Proxy::start(source.address());
        proxy.set_path(Path::delayed(delay));
        let start = Instant::now();
        let (mut block, mut received) = (vec![0; 256 << 10], 0);
        let mut stream = services::connect(proxy.address());
        while received < LENGTH {
            received += stream.read(&mut block).unwrap();
        }
        println!(
            "the proxy {name}: {:.0} MB/s",
            LENGTH as f64 / 1e6 / start.elapsed().as_secs_f64()
        );
    }
}

#[test]
fn the_memory_search_finds_the_content_of_a_process() {
    let folder = folder();
    let secret = "a-secret-in-the-environment-of-a-child";
    let mut child = std::process::Command::new("sleep");
    let sleeper = daemon::Daemon::start(
        "sleeper",
        folder.path(),
        child.arg("60").env("SECRET", secret),
    );
    // Until the child has called exec, its memory is a copy of the test's own.
    wait::until_true("the child has called exec", || {
        fs::read_to_string(format!("/proc/{}/comm", sleeper.pid()))
            .is_ok_and(|name| name.trim() == "sleep")
    });
    let found = memory::found_in_memory(
        sleeper.pid(),
        &[secret.as_bytes(), b"a needle that is in no memory block"],
    );
    assert_eq!(found, [secret.as_bytes()]);
    assert!(memory::resident_bytes(sleeper.pid()) > 100_000);
}

#[test]
fn a_daemon_that_ignores_sigterm_is_killed() {
    let folder = folder();
    let mut shell = std::process::Command::new("sh");
    let script = "trap 'echo asked' TERM; echo started; while :; do sleep 1; done";
    let mut stubborn = daemon::Daemon::start("stubborn", folder.path(), shell.args(["-c", script]));
    stubborn.wait_for_line(&["started"]);
    stubborn.signal(daemon::Signal::Terminate);
    stubborn.wait_for_line(&["asked"]);
    assert!(!stubborn.has_ended());
    assert!(!stubborn.kill().success());
    assert!(stubborn.has_ended());
}

#[test]
fn an_authority_signs_for_loopback() {
    let folder = folder();
    let authority = certificates::Authority::new(folder.path());
    let leaf = authority.leaf("leaf");
    let mut openssl = programs::command("openssl");
    programs::run(
        openssl
            .args(["verify", "-CAfile"])
            .arg(authority.path())
            .arg(&leaf.cert),
    )
    .succeeded();
    let name = |name: &str| {
        programs::run(
            programs::command("openssl")
                .args(["x509", "-noout", "-checkhost", name, "-in"])
                .arg(&leaf.cert),
        )
    };
    assert!(name("localhost").succeeded().text().contains("does match"));
    assert!(name("example.com").text().contains("NOT match"));
}

#[test]
fn a_half_closed_connection_can_still_read() {
    let source = services::source(bytes::mixed(5, 1 << 20));
    let stream = services::connect(source.address());
    stream.shutdown(Shutdown::Write).unwrap();
    let (content, ending) = services::read_to_ending(&stream);
    assert_eq!(
        (bytes::sha256(&content), ending),
        (bytes::sha256(&bytes::mixed(5, 1 << 20)), Ending::Clean)
    );
    assert_eq!(source.wait_for_endings(1), [Ending::Clean]);
}
