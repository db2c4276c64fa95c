//! The life of the roles: starting, ending, coming back, taking over, and the commands that start all three.

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
    tunnel::{Fields, Front, Methods, Port, REPORT, Scene, Tunnel},
    wait,
};

/// A limit for what is to happen at once; far below the grace period.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Says its name to everybody who comes, then echoes nothing.
fn named(name: &'static str) -> Service {
    services::source_that_stays(name.as_bytes().to_vec())
}

fn name_of(address: SocketAddr) -> String {
    let mut name = [0; 3];
    let read = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        stream.read_exact(&mut name)
    });
    read.map(|()| String::from_utf8_lossy(&name).into_owned())
        .unwrap_or_default()
}

/// Asks one role to end while a connection is in use: it lets the connection finish and exits with 0.
fn drains(role: impl Fn(&mut Tunnel) -> &mut Daemon) {
    let echo = services::echo();
    let mut tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("echo", echo.address(), Methods::USUAL)],
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
        "it waits for the connection"
    );
    drop(stream);
    let status = role(&mut tunnel)
        .wait_for_end(AT_ONCE)
        .expect("it ends when the last connection has");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_server_asked_to_end_lets_its_connections_finish_and_exits_with_zero() {
    drains(|tunnel| &mut tunnel.server);
}

#[test]
fn a_client_asked_to_end_lets_its_connections_finish_and_exits_with_zero() {
    drains(|tunnel| &mut tunnel.client);
}

#[test]
fn a_master_asked_to_end_exits_with_zero_within_its_grace_period() {
    let fields = Fields {
        master: json!({"grace_period": "2s"}),
        ..Fields::default()
    };
    let mut tunnel = Tunnel::on(Scene::new(Front::Direct), Vec::new(), fields);
    tunnel.master.signal(Signal::Terminate);
    let status = tunnel
        .master
        .wait_for_end(Duration::from_secs(2) + AT_ONCE)
        .expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_role_at_rest_ends_at_once_on_either_signal() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
        for role in [&mut tunnel.client, &mut tunnel.server, &mut tunnel.master] {
            role.signal(signal);
            let status = role.wait_for_end(AT_ONCE).expect("it ends at once");
            assert_eq!(status.code(), Some(0), "{signal:?}");
        }
    }
}

#[test]
fn a_second_signal_ends_every_role_at_once() {
    let echo = services::echo();
    let mut tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("echo", echo.address(), Methods::USUAL)],
    );
    let stream = services::connect(tunnel.local("echo"));
    services::ping(&stream, b"in use").unwrap();
    for (name, role) in [
        ("client", &mut tunnel.client),
        ("server", &mut tunnel.server),
        ("master", &mut tunnel.master),
    ] {
        role.terminate_twice();
        assert!(role.wait_for_end(AT_ONCE).is_some(), "the {name} ends");
    }
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
}

#[test]
fn new_connections_work_after_the_server_was_started_again() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let before = services::connect(tunnel.probe().local);
    services::ping(&before, b"before").unwrap();
    tunnel.server.kill();
    tunnel.restart_server();
    assert_eq!(services::read_to_ending(&before).1, Ending::Reset);
    services::ping(&services::connect(tunnel.probe().local), b"after").unwrap();
}

#[test]
fn the_tunnel_works_again_by_itself_after_the_master_was_started_again() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    tunnel.master.kill();
    tunnel.restart_master();
    tunnel.wait_until_joined();
}

#[test]
fn the_tunnel_works_again_by_itself_after_its_links_were_cut() {
    for cut in [Cut::Reset, Cut::EndOfFile] {
        let scene = Scene::new(Front::Direct);
        let path = Proxy::start(scene.master_address());
        let master = || json!({"master": path.address().to_string()});
        let fields = Fields {
            server: master(),
            client: master(),
            ..Fields::default()
        };
        let tunnel = Tunnel::on(scene, Vec::new(), fields);
        path.cut(cut);
        tunnel.wait_until_joined();
    }
}

#[test]
fn a_server_takes_over_its_own_registration_from_a_half_dead_link() {
    let scene = Scene::new(Front::Direct);
    let path = Proxy::start(scene.master_address());
    let fields = Fields {
        server: json!({"master": path.address().to_string()}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(scene, Vec::new(), fields);
    // The server loses its link and comes back, and the master has not noticed anything of the loss.
    path.cut(Cut::NearSide);
    let start = Instant::now();
    tunnel.wait_until_joined();
    // The old link would be found dead after LINK_TIMEOUT, 45 s.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "after {:?}",
        start.elapsed()
    );
    tunnel.master.wait_for_line(&["takes over"]);
    assert_eq!(path.connections(), 2);
}

#[test]
fn a_suspended_client_holds_up_nobody_and_goes_on_when_it_wakes() {
    let content = bytes::mixed(1, 24 << 20);
    let service = services::source(content.clone());
    let port = Port::new("large", service.address(), Methods::USUAL);
    let tunnel = Tunnel::start(Front::Direct, vec![port.clone()]);
    let elsewhere = port.elsewhere();
    let _other = tunnel
        .scene
        .client("other", std::slice::from_ref(&elsewhere), json!({}));
    let slow = services::connect(port.local);
    (&slow).read_exact(&mut vec![0; 1 << 20]).unwrap();
    tunnel.client.signal(Signal::Stop);
    let (copied, ending) = services::read_to_ending(&services::connect(elsewhere.local));
    tunnel.client.signal(Signal::Continue);
    assert_eq!(
        (bytes::sha256(&copied), ending),
        (bytes::sha256(&content), Ending::Clean),
        "another client meanwhile"
    );
    let (rest, ending) = services::read_to_ending(&slow);
    assert_eq!(
        (bytes::sha256(&rest), ending),
        (bytes::sha256(&content[1 << 20..]), Ending::Clean),
        "the client that woke up"
    );
}

#[test]
fn several_servers_under_one_port_key_share_its_tunnels() {
    let scene = Scene::new(Front::Direct);
    let _master = scene.master(json!({}));
    let (one, two) = (named("one"), named("two"));
    let port = Port::new("shared", one.address(), Methods::USUAL);
    let _first = scene.server("first", std::slice::from_ref(&port), json!({}));
    let mut second = scene.server(
        "second",
        &[Port {
            service: two.address().to_string(),
            ..port.clone()
        }],
        json!({}),
    );
    for server in ["first", "second"] {
        wait::until_true("both servers are registered", || {
            registered(scene.folder(), server)
        });
    }
    let elsewhere = port.elsewhere();
    let _near = scene.client("near", std::slice::from_ref(&port), json!({}));
    let near = name_of(port.local);
    let _far = scene.client("far", std::slice::from_ref(&elsewhere), json!({}));
    let mut names = [near, name_of(elsewhere.local)];
    names.sort();
    assert_eq!(names, ["one", "two"]);
    second.kill();
    wait::until_true("both clients reach the server that is left", || {
        [port.local, elsewhere.local]
            .into_iter()
            .all(|local| name_of(local) == "one")
    });
}

/// Starts the master and, one after the other, servers that lead the port to these addresses.
fn servers_of(scene: &Scene, port: &Port, services: &[SocketAddr]) -> Vec<Daemon> {
    let mut daemons = vec![scene.master(json!({}))];
    for (number, service) in services.iter().enumerate() {
        let name = format!("server{number}");
        daemons.push(scene.server(
            &name,
            &[Port {
                service: service.to_string(),
                ..port.clone()
            }],
            json!({}),
        ));
        wait::until_true("the server is registered", || {
            registered(scene.folder(), &name)
        });
    }
    daemons
}

/// How often a client attached to a server.
fn attached(server: &Daemon) -> usize {
    server.log().matches("a client attached").count()
}

#[test]
fn when_the_service_of_one_server_is_down_the_next_connections_go_to_another_server() {
    let scene = Scene::new(Front::Direct);
    let up = named("two");
    let port = Port::new("shared", up.address(), Methods::USUAL);
    let dead = ports::free();
    let daemons = servers_of(&scene, &port, &[dead, dead, up.address()]);
    let client = scene.client("client", std::slice::from_ref(&port), json!({}));
    client.wait_for_line(&["attached to a server"]);
    assert_eq!(
        attached(&daemons[1]),
        1,
        "the master leads the client to the server that came first"
    );
    let mut refused = 0;
    while name_of(port.local) != "two" {
        refused += 1;
        assert!(
            refused <= 2,
            "one connection at each server whose service is down"
        );
    }
    for connection in 0..20 {
        assert_eq!(name_of(port.local), "two", "connection {connection}");
    }
    // A client that comes now learns it too.
    let elsewhere = port.elsewhere();
    let _other = scene.client("other", std::slice::from_ref(&elsewhere), json!({}));
    wait::until_true("the other client reaches the service", || {
        name_of(elsewhere.local) == "two"
    });
    assert!((0..20).all(|_| name_of(elsewhere.local) == "two"));
}

#[test]
fn when_the_services_of_all_servers_are_down_a_client_does_not_run_from_one_to_the_other() {
    for servers in [1, 2] {
        let scene = Scene::new(Front::Direct);
        let port = Port::new("shared", ports::free(), Methods::USUAL);
        let dead = ports::free();
        let daemons = servers_of(&scene, &port, &vec![dead; servers]);
        let client = scene.client("client", std::slice::from_ref(&port), json!({}));
        client.wait_for_line(&["attached to a server"]);
        for _ in 0..50 {
            let start = Instant::now();
            assert_eq!(name_of(port.local), "");
            assert!(start.elapsed() < AT_ONCE, "nothing is held for long");
        }
        let tunnels: usize = daemons[1..].iter().map(attached).sum();
        assert!(
            tunnels <= servers + 1,
            "{tunnels} tunnels at {servers} servers: one each, and one that shows that there is no other"
        );
        // The service comes back: the tunnel that was kept leads there.
        let service = Service::at(dead, |mut stream| {
            let _ = std::io::Write::write_all(&mut stream, b"two");
            Ending::Clean
        });
        wait::until_true("the service is reached", || name_of(port.local) == "two");
        drop(service);
    }
}

/// Whether the server's log says that its ports stand.
fn registered(folder: &Path, server: &str) -> bool {
    fs::read_to_string(folder.join(format!("{server}.log")))
        .is_ok_and(|log| log.contains("registered"))
}

#[test]
fn the_master_shows_a_renewed_certificate_and_disturbs_nobody() {
    let scene = Scene::new(Front::Tls);
    let tunnel = Tunnel::on(scene, Vec::new(), Fields::default());
    let standing = services::connect(tunnel.probe().local);
    services::ping(&standing, b"before").unwrap();
    let address = tunnel.scene.master_address();
    assert_eq!(shown(address), fingerprint(tunnel.scene.leaf()));
    let renewed = tunnel.scene.authority().leaf("leaf");
    wait::until_true("the renewed certificate is shown", || {
        shown(address) == fingerprint(&renewed)
    });
    services::ping(&standing, b"after").unwrap();

    // A file that is half written, or of another key, leaves what was shown before.
    fs::write(&renewed.cert, "-----BEGIN CERTIFICATE-----\nMII").unwrap();
    tunnel.master.wait_for_line(&["certificate"]);
    wait::throughout(
        "the last good certificate is shown",
        Duration::from_secs(2),
        || !shown(address).is_empty(),
    );
    services::ping(&standing, b"and after").unwrap();
}

/// The SHA-256 fingerprint of what the address shows; empty when there is no TLS.
fn shown(address: SocketAddr) -> String {
    let mut client = programs::command("openssl");
    let shown = programs::run(
        client
            .args(["s_client", "-servername", "localhost", "-connect"])
            .arg(address.to_string()),
    )
    .out;
    programs::run_with(
        programs::command("openssl").args(["x509", "-noout", "-fingerprint", "-sha256"]),
        &shown,
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
    let scene = Scene::new(Front::Direct);
    let configuration = scene.master_configuration(json!({}));
    fs::write(
        scene.folder().join("config.json"),
        configuration.to_string(),
    )
    .unwrap();
    let mut master = Daemon::start(
        "unnamed",
        scene.folder(),
        Command::new(REPORT).current_dir(scene.folder()),
    );
    master.wait_ready(|| TcpStream::connect(scene.master_address()).is_ok());
}

#[test]
fn a_role_whose_log_nobody_reads_any_more_goes_on() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let port = tunnel.probe().elsewhere();
    let file = tunnel.scene.write(
        "unread",
        &tunnel
            .scene
            .client_configuration(std::slice::from_ref(&port), json!({})),
    );
    // The reader leaves after the first line.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "\"$0\" --config \"$1\" 2>&1 | head -n 1", REPORT])
        .arg(&file);
    let mut unread = Daemon::start("unread", tunnel.scene.folder(), &mut shell);
    unread.wait_ready(|| services::echoes(port.local));
    // The client wants to say a lot about this.
    tunnel.restart_server();
    wait::until_true(
        "the client that nobody reads carries connections again",
        || services::echoes(port.local),
    );
    assert_eq!(unread.log().lines().count(), 1, "{}", unread.log());
}

#[test]
fn a_role_may_open_as_many_files_as_the_hard_limit_says() {
    let scene = Scene::new(Front::Direct);
    let file = scene.write("limited", &scene.master_configuration(json!({})));
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "ulimit -Sn 64; ulimit -Hn 300; exec \"$0\" --config \"$1\"",
            REPORT,
        ])
        .arg(&file);
    let master = Daemon::start("limited", scene.folder(), &mut shell);
    master.wait_for_line(&[
        "the soft limit of open files is raised",
        "soft=64",
        "hard=300",
    ]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", master.pid())).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line of open files");
    assert_eq!(line.matches("300").count(), 2, "{line}");
}

#[test]
fn every_role_drains_when_its_terminal_goes_unless_it_is_to_outlive_it() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    for role in [&mut tunnel.client, &mut tunnel.server, &mut tunnel.master] {
        role.signal(Signal::Hangup);
        role.wait_for_line(&["draining", "Hangup"]);
        assert_eq!(
            role.wait_for_end(AT_ONCE).and_then(|status| status.code()),
            Some(0)
        );
    }
    let file = tunnel
        .scene
        .write("nohup", &tunnel.scene.master_configuration(json!({})));
    let mut nohup = Command::new("nohup");
    let master = Daemon::start(
        "nohup",
        tunnel.scene.folder(),
        nohup.arg(REPORT).arg("--config").arg(file),
    );
    master.wait_for_line(&["started"]);
    master.signal(Signal::Hangup);
    let ended = wait::within(Duration::from_millis(300), || {
        (master.has_ended() || master.log().contains("draining")).then_some(())
    });
    assert!(ended.is_none(), "{}", master.log());
}
