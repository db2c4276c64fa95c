//! The life cycle of the roles: start, end, recovery, takeover, and the default configuration file.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    bytes,
    certificates::Leaf,
    daemon::{Daemon, Signal},
    ports, programs,
    proxy::{Cut, Proxy},
    services::{self, Ending, Service},
    tunnel::{Fields, Front, Methods, Port, REPORT, Testbed, Tunnel},
    wait,
};

/// A limit for events that must happen immediately. It is far below the grace period.
const IMMEDIATE: Duration = Duration::from_secs(5);

/// A service that sends its name to each connection.
fn name_service(name: &'static str) -> Service {
    services::source_that_stays(name.as_bytes().to_vec())
}

fn read_name(address: SocketAddr) -> String {
    let mut name = [0; 3];
    let read = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(wait::TIMEOUT))?;
        stream.read_exact(&mut name)
    });
    read.map(|()| String::from_utf8_lossy(&name).into_owned())
        .unwrap_or_default()
}

/// Terminates one role while a connection is in use. The role lets the connection finish and exits
/// with 0.
fn assert_drains(role: impl Fn(&mut Tunnel) -> &mut Daemon) {
    let echo = services::echo();
    let mut tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("echo", echo.address(), Methods::DEFAULT)],
    );
    let local = tunnel.local("echo");
    let stream = services::connect(local);
    services::ping(&stream, b"before").unwrap();
    role(&mut tunnel).signal(Signal::Terminate);
    for _ in 0..20 {
        wait::pause(Duration::from_millis(10));
        services::ping(&stream, b"while it drains").unwrap();
    }
    assert!(
        !role(&mut tunnel).has_ended(),
        "the role waits for the connection"
    );
    drop(stream);
    let status = role(&mut tunnel)
        .wait_for_end(IMMEDIATE)
        .expect("the role ends after the last connection");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_terminated_server_lets_its_connections_finish_and_exits_with_zero() {
    assert_drains(|tunnel| &mut tunnel.server);
}

#[test]
fn a_terminated_client_lets_its_connections_finish_and_exits_with_zero() {
    assert_drains(|tunnel| &mut tunnel.client);
}

#[test]
fn a_terminated_master_exits_with_zero_within_its_grace_period() {
    let fields = Fields {
        master: json!({"grace_period": "2s"}),
        ..Fields::default()
    };
    let mut tunnel = Tunnel::on(Testbed::new(Front::Direct), Vec::new(), fields);
    tunnel.master.signal(Signal::Terminate);
    let status = tunnel
        .master
        .wait_for_end(Duration::from_secs(2) + IMMEDIATE)
        .expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_idle_role_ends_immediately_on_either_signal() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
        for role in [&mut tunnel.client, &mut tunnel.server, &mut tunnel.master] {
            role.signal(signal);
            let status = role
                .wait_for_end(IMMEDIATE)
                .expect("the role ends immediately");
            assert_eq!(status.code(), Some(0), "{signal:?}");
        }
    }
}

#[test]
fn a_second_signal_ends_every_role_immediately() {
    let echo = services::echo();
    let mut tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("echo", echo.address(), Methods::DEFAULT)],
    );
    let stream = services::connect(tunnel.local("echo"));
    services::ping(&stream, b"in use").unwrap();
    for (name, role) in [
        ("client", &mut tunnel.client),
        ("server", &mut tunnel.server),
        ("master", &mut tunnel.master),
    ] {
        role.terminate_twice();
        assert!(role.wait_for_end(IMMEDIATE).is_some(), "the {name} ends");
    }
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
}

#[test]
fn new_connections_work_after_a_restart_of_the_server() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let before = services::connect(tunnel.probe().local);
    services::ping(&before, b"before").unwrap();
    tunnel.server.kill();
    tunnel.restart_server();
    assert_eq!(services::read_to_ending(&before).1, Ending::Reset);
    services::ping(&services::connect(tunnel.probe().local), b"after").unwrap();
}

#[test]
fn the_tunnel_recovers_after_a_restart_of_the_master() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    tunnel.master.kill();
    tunnel.restart_master();
    tunnel.wait_until_connected();
}

#[test]
fn the_tunnel_recovers_after_its_links_are_cut() {
    for cut in [Cut::Reset, Cut::EndOfFile] {
        let testbed = Testbed::new(Front::Direct);
        let path = Proxy::start(testbed.master_address());
        let master = || json!({"master": path.address().to_string()});
        let fields = Fields {
            server: master(),
            client: master(),
            ..Fields::default()
        };
        let tunnel = Tunnel::on(testbed, Vec::new(), fields);
        path.cut(cut);
        tunnel.wait_until_connected();
    }
}

#[test]
fn a_server_takes_over_its_own_registration_from_a_half_dead_link() {
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.master_address());
    let fields = Fields {
        server: json!({"master": path.address().to_string()}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(testbed, Vec::new(), fields);
    // The server loses its link and redials. The master has not noticed the loss.
    path.cut(Cut::NearSide);
    let start = Instant::now();
    tunnel.wait_until_connected();
    // The master would time out the old link after LINK_TIMEOUT, 45 s.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "after {:?}",
        start.elapsed()
    );
    tunnel.master.wait_for_line(&["takes over"]);
    assert_eq!(path.connections(), 2);
}

#[test]
fn a_suspended_client_blocks_no_other_client_and_continues_after_resuming() {
    let content = bytes::mixed(1, 24 << 20);
    let service = services::source(content.clone());
    let port = Port::new("large", service.address(), Methods::DEFAULT);
    let tunnel = Tunnel::start(Front::Direct, vec![port.clone()]);
    let elsewhere = port.at_another_address();
    let _other = tunnel
        .testbed
        .client("other", std::slice::from_ref(&elsewhere), json!({}));
    let slow = services::connect(port.local);
    (&slow).read_exact(&mut vec![0; 1 << 20]).unwrap();
    tunnel.client.signal(Signal::Stop);
    let (copied, ending) = services::read_to_ending(&services::connect(elsewhere.local));
    tunnel.client.signal(Signal::Continue);
    assert_eq!(
        (bytes::sha256(&copied), ending),
        (bytes::sha256(&content), Ending::Clean),
        "another client in the meantime"
    );
    let (rest, ending) = services::read_to_ending(&slow);
    assert_eq!(
        (bytes::sha256(&rest), ending),
        (bytes::sha256(&content[1 << 20..]), Ending::Clean),
        "the resumed client"
    );
}

#[test]
fn several_servers_under_one_port_key_share_its_tunnels() {
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({}));
    let (one, two) = (name_service("one"), name_service("two"));
    let port = Port::new("shared", one.address(), Methods::DEFAULT);
    let _first = testbed.server("first", std::slice::from_ref(&port), json!({}));
    let mut second = testbed.server(
        "second",
        &[Port {
            service: two.address().to_string(),
            ..port.clone()
        }],
        json!({}),
    );
    for server in ["first", "second"] {
        wait::until_true("both servers are registered", || {
            is_registered(testbed.folder(), server)
        });
    }
    let elsewhere = port.at_another_address();
    let _near = testbed.client("near", std::slice::from_ref(&port), json!({}));
    let near = read_name(port.local);
    let _far = testbed.client("far", std::slice::from_ref(&elsewhere), json!({}));
    let mut names = [near, read_name(elsewhere.local)];
    names.sort();
    assert_eq!(names, ["one", "two"]);
    second.kill();
    wait::until_true("both clients reach the remaining server", || {
        [port.local, elsewhere.local]
            .into_iter()
            .all(|local| read_name(local) == "one")
    });
}

/// Starts the master, then one server after the other. The servers lead the port to these
/// addresses.
fn start_servers(testbed: &Testbed, port: &Port, services: &[SocketAddr]) -> Vec<Daemon> {
    let mut daemons = vec![testbed.master(json!({}))];
    for (number, service) in services.iter().enumerate() {
        let name = format!("server{number}");
        daemons.push(testbed.server(
            &name,
            &[Port {
                service: service.to_string(),
                ..port.clone()
            }],
            json!({}),
        ));
        wait::until_true("the server is registered", || {
            is_registered(testbed.folder(), &name)
        });
    }
    daemons
}

/// The number of clients that attached to a server.
fn attach_count(server: &Daemon) -> usize {
    server.log().matches("client attached").count()
}

#[test]
fn connections_avoid_a_server_whose_service_is_down() {
    let testbed = Testbed::new(Front::Direct);
    let up = name_service("two");
    let port = Port::new("shared", up.address(), Methods::DEFAULT);
    let dead = ports::free();
    let daemons = start_servers(&testbed, &port, &[dead, dead, up.address()]);
    let client = testbed.client("client", std::slice::from_ref(&port), json!({}));
    client.wait_for_line(&["attached to a server"]);
    // The master selects the server that registered first. A busy machine writes the server's log
    // later than the client's.
    daemons[1].wait_for_line(&["client attached"]);
    assert_eq!(attach_count(&daemons[1]), 1);
    let mut refused = 0;
    while read_name(port.local) != "two" {
        refused += 1;
        assert!(
            refused <= 2,
            "at most one connection per server whose service is down"
        );
    }
    for connection in 0..20 {
        assert_eq!(read_name(port.local), "two", "connection {connection}");
    }
    // A new client learns it too.
    let elsewhere = port.at_another_address();
    let _other = testbed.client("other", std::slice::from_ref(&elsewhere), json!({}));
    wait::until_true("the other client reaches the service", || {
        read_name(elsewhere.local) == "two"
    });
    assert!((0..20).all(|_| read_name(elsewhere.local) == "two"));
}

#[test]
fn a_client_does_not_switch_servers_endlessly_when_all_services_are_down() {
    for servers in [1, 2] {
        let testbed = Testbed::new(Front::Direct);
        let port = Port::new("shared", ports::free(), Methods::DEFAULT);
        let dead = ports::free();
        let daemons = start_servers(&testbed, &port, &vec![dead; servers]);
        let client = testbed.client("client", std::slice::from_ref(&port), json!({}));
        client.wait_for_line(&["attached to a server"]);
        for _ in 0..50 {
            let start = Instant::now();
            assert_eq!(read_name(port.local), "");
            assert!(start.elapsed() < IMMEDIATE, "no connection is held");
        }
        let tunnels: usize = daemons[1..].iter().map(attach_count).sum();
        assert!(
            tunnels <= servers + 1,
            "{tunnels} tunnels at {servers} servers: one each, and one attempt at another server"
        );
        // The service comes back. The tunnel that was kept leads to it.
        let service = Service::at(dead, |mut stream| {
            let _ = std::io::Write::write_all(&mut stream, b"two");
            Ending::Clean
        });
        wait::until_true("the service is reached", || read_name(port.local) == "two");
        drop(service);
    }
}

/// Whether the server has logged its registration.
fn is_registered(folder: &Path, server: &str) -> bool {
    fs::read_to_string(folder.join(format!("{server}.log")))
        .is_ok_and(|log| log.contains("registered"))
}

#[test]
fn the_master_presents_a_renewed_certificate_without_disturbing_connections() {
    let testbed = Testbed::new(Front::Tls);
    let tunnel = Tunnel::on(testbed, Vec::new(), Fields::default());
    let established = services::connect(tunnel.probe().local);
    services::ping(&established, b"before").unwrap();
    let address = tunnel.testbed.master_address();
    assert_eq!(
        presented_fingerprint(address),
        fingerprint(tunnel.testbed.leaf())
    );
    let renewed = tunnel.testbed.authority().leaf("leaf");
    wait::until_true("the renewed certificate is presented", || {
        presented_fingerprint(address) == fingerprint(&renewed)
    });
    services::ping(&established, b"after").unwrap();

    // A truncated certificate file, or one that does not match the key, leaves the old certificate
    // in use.
    fs::write(&renewed.cert, "-----BEGIN CERTIFICATE-----\nMII").unwrap();
    tunnel.master.wait_for_line(&["certificate"]);
    wait::throughout(
        "the last valid certificate is presented",
        Duration::from_secs(2),
        || !presented_fingerprint(address).is_empty(),
    );
    services::ping(&established, b"and after").unwrap();
}

/// The SHA-256 fingerprint of the certificate at the address. Empty when there is no TLS.
fn presented_fingerprint(address: SocketAddr) -> String {
    let mut client = programs::command("openssl");
    let presented_fingerprint = programs::run(
        client
            .args(["s_client", "-servername", "localhost", "-connect"])
            .arg(address.to_string()),
    )
    .out;
    programs::run_with(
        programs::command("openssl").args(["x509", "-noout", "-fingerprint", "-sha256"]),
        &presented_fingerprint,
    )
    .text()
}

fn fingerprint(leaf: &Leaf) -> String {
    let mut openssl = programs::command("openssl");
    programs::run(
        openssl
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(&leaf.cert),
    )
    .succeeded()
    .text()
}

#[test]
fn a_role_finds_its_configuration_in_the_working_directory() {
    let testbed = Testbed::new(Front::Direct);
    let configuration = testbed.master_configuration(json!({}));
    fs::write(
        testbed.folder().join("config.json"),
        configuration.to_string(),
    )
    .unwrap();
    let mut master = Daemon::start(
        "unnamed",
        testbed.folder(),
        Command::new(REPORT).current_dir(testbed.folder()),
    );
    master.wait_ready(|| TcpStream::connect(testbed.master_address()).is_ok());
}

#[test]
fn a_role_keeps_running_after_its_log_reader_exits() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let port = tunnel.probe().at_another_address();
    let file = tunnel.testbed.write(
        "unread",
        &tunnel
            .testbed
            .client_configuration(std::slice::from_ref(&port), json!({})),
    );
    // The reader exits after the first line.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "\"$0\" --config \"$1\" 2>&1 | head -n 1", REPORT])
        .arg(&file);
    let mut unread = Daemon::start("unread", tunnel.testbed.folder(), &mut shell);
    unread.wait_ready(|| services::echoes(port.local));
    // The restart makes the client log many lines.
    tunnel.restart_server();
    wait::until_true(
        "the client without a log reader carries connections again",
        || services::echoes(port.local),
    );
    assert_eq!(unread.log().lines().count(), 1, "{}", unread.log());
}

#[test]
fn a_role_raises_its_open_file_limit_to_the_hard_limit() {
    let testbed = Testbed::new(Front::Direct);
    let file = testbed.write("limited", &testbed.master_configuration(json!({})));
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "ulimit -Sn 64; ulimit -Hn 300; exec \"$0\" --config \"$1\"",
            REPORT,
        ])
        .arg(&file);
    let master = Daemon::start("limited", testbed.folder(), &mut shell);
    master.wait_for_line(&["soft limit of open files raised", "soft=64", "hard=300"]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", master.pid())).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line of open files");
    assert_eq!(line.matches("300").count(), 2, "{line}");
}

#[test]
fn every_role_drains_on_hangup_except_under_nohup() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    for role in [&mut tunnel.client, &mut tunnel.server, &mut tunnel.master] {
        role.signal(Signal::Hangup);
        role.wait_for_line(&["draining", "Hangup"]);
        assert_eq!(
            role.wait_for_end(IMMEDIATE)
                .and_then(|status| status.code()),
            Some(0)
        );
    }
    let file = tunnel
        .testbed
        .write("nohup", &tunnel.testbed.master_configuration(json!({})));
    let mut nohup = Command::new("nohup");
    let master = Daemon::start(
        "nohup",
        tunnel.testbed.folder(),
        nohup.arg(REPORT).arg("--config").arg(file),
    );
    master.wait_for_line(&["started"]);
    master.signal(Signal::Hangup);
    let ended = wait::within(Duration::from_millis(300), || {
        (master.has_ended() || master.log().contains("draining")).then_some(())
    });
    assert!(ended.is_none(), "{}", master.log());
}
