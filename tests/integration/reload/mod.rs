//! Roles that reload their configuration while they run: by `report reload`, by SIGHUP and by a
//! changed file.

mod traffic;

use std::{
    fs,
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use self::traffic::{PauseProbe, Transfer, digest_service};
use crate::support::{
    daemon::Signal,
    ports,
    programs::ProgramOutput,
    services::{self, Ending, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, report, with},
    wait,
};

/// Reloads during a transfer.
const RELOADS: usize = 1_000;

/// A connected tunnel whose configurations the test changes.
struct ReloadLab {
    tunnel: Tunnel,
    /// All ports of the running roles.
    ports: Vec<Port>,
}

impl ReloadLab {
    fn new(ports: Vec<Port>) -> ReloadLab {
        ReloadLab::with(ports, Fields::default())
    }

    fn with(mut ports: Vec<Port>, fields: Fields) -> ReloadLab {
        let tunnel = Tunnel::on(Testbed::new(Front::Direct), ports.clone(), fields);
        ports.push(tunnel.probe().clone());
        ReloadLab { tunnel, ports }
    }

    fn file(&self, role: &str) -> PathBuf {
        self.tunnel.testbed.folder().join(format!("{role}.json"))
    }

    fn reload(&self, role: &str) -> ProgramOutput {
        let file = self.file(role);
        report(&["reload", "--config", file.to_str().expect("UTF-8")])
    }

    /// Writes the configurations of server and client with these ports, without a reload.
    fn write(&self, ports: &[Port], fields: &Value) {
        let testbed = &self.tunnel.testbed;
        let server = testbed.server_configuration(ports, fields.clone());
        testbed.write("server", &server);
        let client = testbed.client_configuration(ports, fields.clone());
        testbed.write("client", &client);
    }

    /// Changes the ports of server and client. Returns the reports of both.
    #[track_caller]
    fn change(&mut self, ports: Vec<Port>, fields: &Value) -> [String; 2] {
        self.write(&ports, fields);
        self.ports = ports;
        ["server", "client"].map(|role| self.reload(role).succeeded().text())
    }
}

fn echo_port(mark: &str, echo: &Service) -> Port {
    Port::new(mark, echo.address(), Methods::DEFAULT)
}

#[test]
fn a_thousand_reloads_during_a_transfer_lose_no_byte() {
    let (echo, digests) = (services::echo(), digest_service());
    let extra = echo_port("extra", &echo);
    let lab = ReloadLab::new(vec![
        Port::new("digests", digests.address(), Methods::DEFAULT),
        extra.clone(),
    ]);
    let transfer = Transfer::start(lab.tunnel.local("digests"));
    let probe = PauseProbe::start(lab.tunnel.probe().local);
    let client = lab
        .tunnel
        .testbed
        .client_configuration(&lab.ports, json!({}));
    let server = lab
        .tunnel
        .testbed
        .server_configuration(&lab.ports, json!({}));
    for number in 0..RELOADS / 2 {
        for (role, configuration) in [("client", &client), ("server", &server)] {
            let mut changed = configuration.clone();
            changed["ports"][1]["enabled"] = (number % 2 == 1).into();
            lab.tunnel.testbed.write(role, &changed);
            let text = lab.reload(role).succeeded().text();
            assert!(text.contains("\"extra\""), "{text}");
            assert!(text.contains("untouched: port \"digests\""), "{text}");
        }
    }
    probe.finish("1,000 reloads");
    println!("{} bytes during 1,000 reloads", transfer.finish());
    wait::until_true("the port is back", || services::echoes(extra.local));
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        assert!(!role.log().contains("the link was lost"), "{}", role.log());
        assert!(!role.log().contains("panicked"), "{}", role.log());
    }
}

#[test]
fn ports_are_added_moved_and_removed_while_others_carry_connections() {
    let echo = services::echo();
    let (first, second) = (echo_port("first", &echo), echo_port("second", &echo));
    let mut lab = ReloadLab::new(vec![first.clone()]);
    let probe = PauseProbe::start(lab.tunnel.probe().local);
    let before = services::connect(first.local);
    services::ping(&before, b"before").expect("up");
    let mut ports = lab.ports.clone();
    ports.push(second.clone());
    for report in lab.change(ports, &json!({})) {
        assert!(report.contains("added: port \"second\""), "{report}");
    }
    wait::until_true("the new port works", || services::echoes(second.local));
    // The client listens elsewhere, and the server dials another service.
    let other = services::echo();
    let moved = Port {
        service: other.address().to_string(),
        ..first.at_another_address()
    };
    let mut ports = lab.ports.clone();
    ports[0] = moved.clone();
    for report in lab.change(ports, &json!({})) {
        assert!(
            report.contains("port \"first\" (`local_address`)"),
            "{report}"
        );
    }
    assert!(services::echoes(moved.local));
    assert_eq!(other.accepted(), 1);
    assert!(!ports::has_listener_at(first.local));
    services::ping(&before, b"after").expect("the connection notices nothing");
    // Swapped addresses.
    let mut ports = lab.ports.clone();
    let (one, two) = (ports[0].local, ports[2].local);
    (ports[0].local, ports[2].local) = (two, one);
    lab.change(ports, &json!({}));
    assert!(services::echoes(one) && services::echoes(two));
    services::ping(&before, b"still").expect("the connection notices nothing");
    probe.finish("changes of ports");
}

#[test]
fn a_removed_port_drains_for_the_grace_period() {
    let echo = services::echo();
    let (short, long) = (echo_port("short", &echo), echo_port("long", &echo));
    let fields = json!({"grace_period": "5s"});
    let mut lab = ReloadLab::with(
        vec![short.clone(), long.clone()],
        Fields {
            master: Value::Null,
            server: fields.clone(),
            client: fields.clone(),
        },
    );
    let ending = services::connect(short.local);
    let staying = services::connect(long.local);
    for stream in [&ending, &staying] {
        services::ping(stream, b"up").expect("up");
    }
    let probe = lab.tunnel.probe().clone();
    for report in lab.change(vec![probe.clone()], &fields) {
        assert!(
            report.contains("removed: port \"short\", port \"long\""),
            "{report}"
        );
    }
    let removed = Instant::now();
    assert!(!ports::has_listener_at(short.local));
    services::ping(&ending, b"may end").expect("within the grace period");
    ending.shutdown(Shutdown::Write).expect("up");
    assert_eq!(services::read_to_ending(&ending).1, Ending::Clean);
    assert_eq!(services::read_to_ending(&staying).1, Ending::Reset);
    assert!(removed.elapsed() >= Duration::from_secs(1), "{removed:?}");
    assert!(services::echoes(probe.local));
}

#[test]
fn a_changed_method_attaches_anew_and_connections_keep_theirs() {
    let echo = services::echo();
    let port = echo_port("echo", &echo);
    let mut lab = ReloadLab::new(vec![port.clone()]);
    let before = services::connect(port.local);
    services::ping(&before, b"before").expect("up");
    let mut ports = lab.ports.clone();
    ports[0].methods = Methods {
        encrypt: "chacha20-poly1305",
        compress: "zstd",
    };
    for report in lab.change(ports, &json!({})) {
        assert!(
            report.contains("(`compress_method`, `encrypt_method`)"),
            "{report}"
        );
    }
    wait::until_true("new connections work", || services::echoes(port.local));
    services::ping(&before, b"after").expect("the former tunnel continues");
    let log = lab.tunnel.client.wait_for_line(&["port changed", "echo"]);
    assert!(log.contains("another tunnel"), "{log}");
    // A lost link: both tunnels resume, each with its method.
    lab.tunnel.restart_master();
    wait::until_true("new connections work", || services::echoes(port.local));
    services::ping(&before, b"resumed").expect("the former tunnel resumes");
}

#[test]
fn a_changed_master_list_moves_by_handover() {
    let mut lab = ReloadLab::new(Vec::new());
    let address = ports::free();
    let second = lab.tunnel.testbed.another_master("second", address);
    let probe = PauseProbe::start(lab.tunnel.probe().local);
    let both = [lab.tunnel.testbed.master_url(), address.to_string()];
    let ports = lab.ports.clone();
    lab.change(ports.clone(), &json!({"master": both}));
    lab.tunnel
        .server
        .wait_for_line(&["linked to the master", &address.to_string()]);
    lab.change(ports, &json!({"master": address.to_string()}));
    wait::until_true("the first master has no link", || {
        let log = lab.tunnel.master.log();
        log.matches("link up").count() <= log.matches("link ended").count()
    });
    assert!(services::echoes(lab.tunnel.probe().local));
    probe.finish("a handover to another master");
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        assert!(!role.log().contains("the link was lost"), "{}", role.log());
    }
    assert!(!second.log().contains("panicked"), "{}", second.log());
}

#[test]
fn a_wrong_file_changes_nothing_and_the_answer_names_the_field() {
    let echo = services::echo();
    let port = echo_port("echo", &echo);
    let lab = ReloadLab::new(vec![port.clone()]);
    let before = services::connect(port.local);
    for (fields, named) in [
        (json!({"hold_timeout": "soon"}), "hold_timeout"),
        (json!({"prots": []}), "prots"),
        (json!({"ports": []}), "ports"),
        (json!({"mode": "master"}), "mode"),
    ] {
        let client = lab.tunnel.testbed.client_configuration(&lab.ports, fields);
        lab.tunnel.testbed.write("client", &client);
        let output = lab.reload("client");
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.errors.contains(named), "{output:?}");
    }
    fs::write(lab.file("client"), "{\"mode\": \"client\",").expect("written");
    let output = lab.reload("client");
    assert!(output.errors.contains("client.json:1:"), "{output:?}");
    // An address that another program uses is refused too.
    let mut taken = lab.ports.clone();
    taken[0].local = echo.address();
    lab.write(&taken, &json!({}));
    let output = lab.reload("client");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.errors.contains("cannot listen"), "{output:?}");
    services::ping(&before, b"after").expect("the former configuration stays");
    assert!(services::echoes(port.local));
}

#[test]
fn reloads_at_the_same_time_all_succeed() {
    let lab = ReloadLab::new(Vec::new());
    let echo = services::echo();
    let added = echo_port("added", &echo);
    let mut ports = lab.ports.clone();
    ports.push(added.clone());
    lab.write(&ports, &json!({}));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| lab.reload("client").succeeded());
        }
    });
    lab.reload("server").succeeded();
    wait::until_true("the port works", || services::echoes(added.local));
}

#[test]
fn a_role_reloads_at_hangup_and_when_a_watched_file_changes() {
    let echo = services::echo();
    let mut lab = ReloadLab::new(Vec::new());
    let mut ports = lab.ports.clone();
    for (mark, fields) in [("hangup", json!({"watch": true})), ("watched", json!({}))] {
        let port = echo_port(mark, &echo);
        ports.push(port.clone());
        lab.write(&ports, &fields);
        if mark == "hangup" {
            for role in [&lab.tunnel.client, &lab.tunnel.server] {
                role.signal(Signal::Hangup);
            }
        }
        wait::until_true("the new port works", || services::echoes(port.local));
    }
    // The last configuration is not watched any more.
    lab.ports = ports;
    let log = lab.tunnel.client.log();
    assert!(
        log.contains("a changed file") && log.contains("SIGHUP"),
        "{log}"
    );
    assert!(!lab.tunnel.client.has_ended());
}

#[test]
fn a_master_reloads_its_address_and_its_limits() {
    let lab = ReloadLab::new(Vec::new());
    let other = ports::free();
    let both =
        json!({"listen_at": [lab.tunnel.testbed.master_address().to_string(), other.to_string()]});
    let master = lab.tunnel.testbed.master_configuration(both);
    lab.tunnel.testbed.write("master", &master);
    let text = lab.reload("master").succeeded().text();
    assert!(text.contains("changed: `listen_at`"), "{text}");
    assert!(ports::has_listener_at(other));
    assert!(lab.tunnel.is_connected());
    let changed = with(master, json!({"log_format": "json"}));
    lab.tunnel.testbed.write("master", &changed);
    let text = lab.reload("master").succeeded().text();
    assert!(text.contains("needs a restart: `log_format`"), "{text}");
}

#[test]
fn a_master_restarts_by_command_and_other_roles_refuse() {
    let lab = ReloadLab::new(Vec::new());
    let stream = services::connect(lab.tunnel.probe().local);
    services::ping(&stream, b"before").expect("up");
    let restart = |role: &str| {
        let file = lab.file(role);
        report(&[
            "master",
            "restart",
            "--config",
            file.to_str().expect("UTF-8"),
        ])
    };
    let text = restart("master").succeeded().text();
    assert!(text.contains("has taken over"), "{text}");
    services::ping(&stream, b"after").expect("the connection notices nothing");
    // The new process has the control socket.
    let text = lab.reload("master").succeeded().text();
    assert!(text.contains("nothing has changed"), "{text}");
    let output = restart("client");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.errors.contains("only a master"), "{output:?}");
}

#[test]
fn a_reload_without_a_running_role_fails() {
    let testbed = Testbed::new(Front::Direct);
    let file = testbed.write("master", &testbed.master_configuration(json!({})));
    let output = report(&["reload", "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.errors.contains("no running role"), "{output:?}");
    let output = report(&["reload", "--config", "nowhere.json"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.errors.contains("--config"), "{output:?}");
}

#[test]
fn the_admin_address_moves() {
    let (first, second) = (ports::free(), ports::free());
    let admin = |address: SocketAddr| json!({"admin": {"listen_at": address.to_string()}});
    let lab = ReloadLab::with(
        Vec::new(),
        Fields {
            client: admin(first),
            ..Fields::default()
        },
    );
    let client = lab
        .tunnel
        .testbed
        .client_configuration(&lab.ports, admin(second));
    lab.tunnel.testbed.write("client", &client);
    let text = lab.reload("client").succeeded().text();
    assert!(text.contains("changed: `admin`"), "{text}");
    assert!(TcpStream::connect(second).is_ok());
    assert!(!ports::has_listener_at(first));
}
