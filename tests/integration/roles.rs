//! The life of the roles: starting, ending, coming back, taking over, and the commands that start all three.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    certificates::Leaf,
    daemon::{Daemon, Signal},
    programs,
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
    read.map(|()| String::from_utf8_lossy(&name).into_owned()).unwrap_or_default()
}

/// Asks one role to end while a connection is in use: it lets the connection finish and exits with 0.
fn drains(role: impl Fn(&mut Tunnel) -> &mut Daemon) {
    let echo = services::echo();
    let mut tunnel = Tunnel::start(Front::Direct, vec![Port::new("echo", echo.address(), Methods::USUAL)]);
    let local = tunnel.local("echo");
    let stream = services::connect(local);
    services::ping(&stream, b"before").unwrap();
    role(&mut tunnel).signal(Signal::Terminate);
    for _ in 0..20 {
        wait::pause(Duration::from_millis(10));
        services::ping(&stream, b"while it drains").unwrap();
    }
    assert!(!role(&mut tunnel).has_ended(), "it waits for the connection");
    drop(stream);
    let status = role(&mut tunnel).wait_for_end(AT_ONCE).expect("it ends when the last connection has");
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
    let fields = Fields { master: json!({"grace_period": "2s"}), ..Fields::default() };
    let mut tunnel = Tunnel::on(Scene::new(Front::Direct), Vec::new(), fields);
    tunnel.master.signal(Signal::Terminate);
    let status = tunnel.master.wait_for_end(Duration::from_secs(2) + AT_ONCE).expect("it ends");
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
    let mut tunnel = Tunnel::start(Front::Direct, vec![Port::new("echo", echo.address(), Methods::USUAL)]);
    let stream = services::connect(tunnel.local("echo"));
    services::ping(&stream, b"in use").unwrap();
    for (name, role) in [("client", &mut tunnel.client), ("server", &mut tunnel.server), ("master", &mut tunnel.master)] {
        role.signal(Signal::Terminate);
        role.signal(Signal::Terminate);
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
    assert_eq!(services::read_to_ending(&before).1, Ending::Reset);
    tunnel.restart_server();
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
        let fields = Fields { server: master(), client: master(), ..Fields::default() };
        let tunnel = Tunnel::on(scene, Vec::new(), fields);
        path.cut(cut);
        tunnel.wait_until_joined();
    }
}

#[test]
fn a_server_takes_over_its_own_registration_from_a_half_dead_link() {
    let scene = Scene::new(Front::Direct);
    let path = Proxy::start(scene.master_address());
    let fields = Fields { server: json!({"master": path.address().to_string()}), ..Fields::default() };
    let tunnel = Tunnel::on(scene, Vec::new(), fields);
    // The server loses its link and comes back, and the master has not noticed anything of the loss.
    path.cut(Cut::NearSide);
    let start = Instant::now();
    tunnel.wait_until_joined();
    // The old link would be found dead after LINK_TIMEOUT, 45 s.
    assert!(start.elapsed() < Duration::from_secs(20), "after {:?}", start.elapsed());
    tunnel.master.wait_for_line(&["takes over"]);
    assert_eq!(path.connections(), 2);
}

#[test]
fn several_servers_under_one_port_key_share_its_tunnels() {
    let scene = Scene::new(Front::Direct);
    let _master = scene.master(json!({}));
    let (one, two) = (named("one"), named("two"));
    let port = Port::new("shared", one.address(), Methods::USUAL);
    let _first = scene.server("first", std::slice::from_ref(&port), json!({}));
    let mut second = scene.server("second", &[Port { service: two.address().to_string(), ..port.clone() }], json!({}));
    for server in ["first", "second"] {
        wait::until_true("both servers are registered", || registered(scene.folder(), server));
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
        [port.local, elsewhere.local].into_iter().all(|local| name_of(local) == "one")
    });
}

/// Whether the server's log says that its ports stand.
fn registered(folder: &Path, server: &str) -> bool {
    fs::read_to_string(folder.join(format!("{server}.log"))).is_ok_and(|log| log.contains("registered"))
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
    wait::until_true("the renewed certificate is shown", || shown(address) == fingerprint(&renewed));
    services::ping(&standing, b"after").unwrap();

    // A file that is half written, or of another key, leaves what was shown before.
    fs::write(&renewed.cert, "-----BEGIN CERTIFICATE-----\nMII").unwrap();
    tunnel.master.wait_for_line(&["certificate"]);
    wait::throughout("the last good certificate is shown", Duration::from_secs(2), || !shown(address).is_empty());
    services::ping(&standing, b"and after").unwrap();
}

/// The SHA-256 fingerprint of what the address shows; empty when there is no TLS.
fn shown(address: SocketAddr) -> String {
    let mut client = programs::command("openssl");
    let shown = programs::run(client.args(["s_client", "-servername", "localhost", "-connect"]).arg(address.to_string())).out;
    programs::run_with(programs::command("openssl").args(["x509", "-noout", "-fingerprint", "-sha256"]), &shown).text()
}

fn fingerprint(leaf: &Leaf) -> String {
    let mut openssl = programs::command("openssl");
    programs::run(openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&leaf.cert)).succeeded().text()
}

/// Starts `report quickstart` and waits for the address that it says.
fn quickstart(folder: &Path, arguments: &[&str]) -> (Daemon, SocketAddr) {
    let mut command = Command::new(REPORT);
    let mut daemon = Daemon::start("quickstart", folder, command.arg("quickstart").args(arguments).current_dir(folder));
    let mut address = None;
    daemon.wait_ready(|| {
        let log = fs::read_to_string(folder.join("quickstart.log")).unwrap_or_default();
        address = log
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split(|sign: char| !"0123456789.:".contains(sign)).next()?.parse().ok());
        address.is_some()
    });
    (daemon, address.unwrap())
}

#[test]
fn quickstart_serves_its_page_and_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let (mut daemon, address) = quickstart(folder.path(), &[]);
    let page = String::from_utf8(programs::curl(address, "/")).unwrap();
    assert!(page.contains("rePort"), "{page}");
    for mode in ["master", "server", "client"] {
        assert!(daemon.log().contains(&format!("\"mode\": \"{mode}\"")), "the {mode}'s configuration is printed");
    }
    daemon.signal(Signal::Interrupt);
    assert_eq!(daemon.wait_for_end(AT_ONCE).and_then(|status| status.code()), Some(0));
    assert!(TcpStream::connect(address).is_err(), "nothing listens there any more");
}

#[test]
fn quickstart_leads_to_any_service() {
    let echo = services::echo();
    let folder = tempfile::tempdir().unwrap();
    let to = echo.address().to_string();
    let mut command = Command::new(REPORT);
    let mut daemon = Daemon::start("quickstart", folder.path(), command.args(["quickstart", "--to", &to]));
    let mut reached = false;
    daemon.wait_ready(|| {
        let log = fs::read_to_string(folder.path().join("quickstart.log")).unwrap_or_default();
        let words = log.split(|sign: char| sign.is_whitespace() || "\",/".contains(sign));
        let addresses = words.filter_map(|word| word.parse::<SocketAddr>().ok()).filter(|address| *address != echo.address());
        reached |= addresses.into_iter().any(echoes_promptly);
        reached
    });
}

/// Unlike [`services::echoes`] this may be asked of an address at which something else listens.
fn echoes_promptly(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok_and(|stream| {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        services::ping(&stream, b"are you there?").is_ok()
    })
}

#[test]
fn the_files_that_quickstart_writes_run_the_three_roles() {
    let echo = services::echo();
    let folder = tempfile::tempdir().unwrap();
    let to = echo.address().to_string();
    let mut command = Command::new(REPORT);
    let mut daemon = Daemon::start(
        "quickstart",
        folder.path(),
        command.args(["quickstart", "--to", &to, "--write", "made"]).current_dir(folder.path()),
    );
    let made = folder.path().join("made");
    let files = ["master", "server", "client"].map(|role| made.join(format!("{role}.json")));
    daemon.wait_ready(|| files.iter().all(|file| read(file).is_some()));
    daemon.stop();
    let local = read(&files[2])
        .and_then(|client| client["ports"][0]["local_address"].as_str()?.parse().ok())
        .expect("the client's address");
    let _roles = files.map(|file| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        Daemon::start(&name, folder.path(), Command::new(REPORT).arg("--config").arg(&file))
    });
    wait::until_true("the service is reached", || services::echoes(local));
}

fn read(file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[test]
fn a_role_finds_its_configuration_in_the_working_directory() {
    let scene = Scene::new(Front::Direct);
    let configuration = scene.master_configuration(json!({}));
    fs::write(scene.folder().join("config.json"), configuration.to_string()).unwrap();
    let mut master = Daemon::start("unnamed", scene.folder(), Command::new(REPORT).current_dir(scene.folder()));
    master.wait_ready(|| TcpStream::connect(scene.master_address()).is_ok());
}

#[test]
fn the_master_answers_as_an_ordinary_web_server_and_healthz_only_when_configured() {
    let scene = Scene::new(Front::Direct);
    let status = |path: &str| {
        let mut curl = programs::command("curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        programs::run(curl.arg(format!("http://{}{path}", scene.master_address()))).succeeded().text()
    };
    let master = scene.master(json!({}));
    assert_eq!([status("/"), status("/healthz"), status("/any/thing")], ["404", "404", "404"]);
    drop(master);
    let _master = scene.master(json!({"healthz": true}));
    assert_eq!([status("/"), status("/healthz")], ["404", "200"]);
}

#[test]
fn the_upgrade_is_at_the_configured_path_alone() {
    let scene = Scene::new(Front::Direct);
    let fields = Fields {
        master: json!({"path": "/a/path"}),
        server: json!({"master": format!("ws://{}/a/path", scene.master_address())}),
        client: json!({"master": format!("ws://{}/a/path", scene.master_address())}),
    };
    let tunnel = Tunnel::on(scene, Vec::new(), fields);
    let mut stream = services::connect(tunnel.scene.master_address());
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[test]
fn the_web_site_beside_the_tunnel_is_served_by_nginx() {
    for (front, scheme) in [(Front::NginxPlain, "http"), (Front::NginxTls, "https")] {
        let tunnel = Tunnel::start(front, Vec::new());
        for path in ["/", "/index.html"] {
            let url = format!("{scheme}://localhost:{}{path}", tunnel.scene.public_address().port());
            let mut curl = programs::command("curl");
            let page = programs::run(curl.args(["--silent", "--fail", "--cacert"]).arg(tunnel.scene.authority().path()).arg(url));
            assert_eq!(page.succeeded().text(), "the web site beside the tunnel\n", "{front:?} {path}");
        }
    }
}

#[test]
fn both_paths_that_nginx_has_for_the_tunnel_lead_to_it() {
    for (front, scheme) in [(Front::NginxPlain, "ws"), (Front::NginxTls, "wss")] {
        let scene = Scene::new(front);
        let at = |path: &str| json!({"master": format!("{scheme}://localhost:{}{path}", scene.public_address().port())});
        let fields = Fields { server: at("/"), client: at("/tunnel"), ..Fields::default() };
        Tunnel::on(scene, Vec::new(), fields);
    }
}
