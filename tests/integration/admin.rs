//! The admin address of running roles: metrics of a transfer and of a cut link, and readiness.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    bytes,
    daemon::Signal,
    ports,
    proxy::{Cut, Proxy},
    services::{self, Ending},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, with},
    wait,
};

/// The admin addresses of the three roles. The server's is a unix socket.
struct Admins {
    master: SocketAddr,
    server: PathBuf,
    client: SocketAddr,
}

impl Admins {
    fn new(testbed: &Testbed) -> Admins {
        Admins {
            master: ports::free(),
            server: testbed.folder().join("admin.sock"),
            client: ports::free(),
        }
    }

    /// The fields of the roles, with these of the client in addition.
    fn fields(&self, client: Value) -> Fields {
        let admin = |listen_at: String| json!({"admin": {"listen_at": listen_at}});
        // With a database the master has all of its metrics.
        let store = json!({"store": "sqlite:keys.db"});
        Fields {
            master: with(admin(self.master.to_string()), store),
            server: admin(format!("unix:{}", self.server.display())),
            client: with(admin(self.client.to_string()), client),
        }
    }

    fn master(&self) -> Metrics {
        Metrics(get(TcpStream::connect(self.master).unwrap(), "/metrics").1)
    }

    fn server(&self) -> Metrics {
        Metrics(get(UnixStream::connect(&self.server).unwrap(), "/metrics").1)
    }

    fn client(&self) -> Metrics {
        Metrics(get(TcpStream::connect(self.client).unwrap(), "/metrics").1)
    }

    /// Whether the client is ready, and its answer.
    fn client_readiness(&self) -> (u16, String) {
        get(TcpStream::connect(self.client).unwrap(), "/readyz")
    }

    fn server_readiness(&self) -> (u16, String) {
        get(UnixStream::connect(&self.server).unwrap(), "/readyz")
    }
}

/// Sends a request. Returns the status and the body.
#[track_caller]
fn get(mut stream: impl Read + Write, path: &str) -> (u16, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a response");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// The metrics of one role.
struct Metrics(String);

impl Metrics {
    /// The value of a series, or 0 if the role has none with these labels.
    fn value(&self, series: &str) -> f64 {
        assert!(self.0.ends_with("# EOF\n"), "{}", self.0);
        let values = self.0.lines().filter_map(|line| line.rsplit_once(' '));
        let mut values = values.filter(|(name, _)| *name == series);
        values
            .next()
            .map_or(0.0, |(_, value)| value.parse().expect("a number"))
    }
}

/// Asserts that docs/metrics.md has a row for each family of these texts, and for no other family.
#[track_caller]
fn assert_documented(texts: &[String]) {
    let page = include_str!("../../docs/metrics.md");
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `report_")?.split('`').next())
        .filter(|name| !name.contains(' '))
        .collect();
    let families = texts.iter().flat_map(|text| text.lines());
    let families = families.filter_map(|line| line.strip_prefix("# TYPE report_")?.split_once(' '));
    let served: BTreeSet<String> = families
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let served: BTreeSet<&str> = served.iter().map(String::as_str).collect();
    assert_eq!(served, documented);
}

/// Reads the whole content of the service behind a port.
#[track_caller]
fn transfer(port: &Port, content: &[u8]) {
    let (copied, ending) = services::read_to_ending(&services::connect(port.local));
    assert_eq!(
        (bytes::sha256(&copied), ending),
        (bytes::sha256(content), Ending::Clean)
    );
}

const RESUMPTIONS: &str = "report_tunnel_resumptions_total";

/// Asserts that all roles are linked, and serve this many ports.
#[track_caller]
fn assert_linked(admins: &Admins, ports: f64) {
    for role in [admins.server(), admins.client()] {
        assert!(role.value("report_links{peer=\"master\"}") >= 1.0);
        assert_eq!(role.value("report_ports"), ports);
        assert_eq!(role.value("report_ready"), 1.0);
    }
    for peer in ["server", "client"] {
        let links = format!("report_links{{peer=\"{peer}\"}}");
        assert!(admins.master().value(&links) >= 1.0);
    }
    assert_eq!(admins.master().value("report_registered_ports"), ports);
}

/// Asserts that each resumption has a pause.
#[track_caller]
fn assert_pauses(admins: &Admins) {
    for role in [admins.server(), admins.client()] {
        let pauses = role.value("report_tunnel_pause_seconds_count");
        assert_eq!(pauses, role.value(RESUMPTIONS));
        assert_eq!(
            role.value("report_tunnel_pause_seconds_bucket{le=\"+Inf\"}"),
            pauses
        );
    }
}

#[test]
fn bytes_add_up_over_all_roles_and_a_cut_link_is_counted() {
    let content = bytes::mixed(1, 4 << 20);
    let length = content.len() as f64;
    let service = services::source(content.clone());
    let port = Port::new("large \"one\"", service.address(), Methods::DEFAULT);
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.master_address());
    let admins = Admins::new(&testbed);
    let fields = admins.fields(json!({"master": path.address().to_string()}));
    let tunnel = Tunnel::on(testbed, vec![port.clone()], fields);

    let of_port = |direction: &str| {
        format!("report_stream_bytes_total{{port=\"large \\\"one\\\"\",direction=\"{direction}\"}}")
    };
    let relayed = |peer: &str, direction: &str| {
        format!("report_link_bytes_total{{peer=\"{peer}\",direction=\"{direction}\"}}")
    };
    assert_eq!(admins.client().value(&of_port("received")), 0.0);
    assert_eq!(admins.server().value(&of_port("sent")), 0.0);
    assert_eq!(admins.client().value(RESUMPTIONS), 0.0);
    let before = admins.master().value(&relayed("client", "sent"));

    transfer(&port, &content);
    assert_eq!(admins.client().value(&of_port("received")), length);
    assert_eq!(admins.server().value(&of_port("sent")), length);
    let between = admins.master().value(&relayed("client", "sent"));
    assert!(between - before >= length, "{before}, {between}");
    assert!(admins.master().value(&relayed("server", "received")) >= length);
    assert_linked(&admins, 2.0);

    path.cut(Cut::Reset);
    wait::until_true("a tunnel is resumed at both ends", || {
        [admins.server(), admins.client()]
            .iter()
            .all(|role| role.value(RESUMPTIONS) >= 1.0)
    });
    assert!(admins.client().value("report_tunnel_losses_total") >= 1.0);
    assert_pauses(&admins);
    transfer(&port, &content);
    assert_eq!(admins.client().value(&of_port("received")), 2.0 * length);
    assert_eq!(admins.server().value(&of_port("sent")), 2.0 * length);
    let after = admins.master().value(&relayed("client", "sent"));
    assert!(
        after - before >= 2.0 * length,
        "the bytes of the ended link still count: {before}, {after}"
    );

    let texts = [admins.master().0, admins.server().0, admins.client().0];
    assert_documented(&texts);
    for secret in [&tunnel.testbed.master_key, &port.key] {
        let shown = texts.iter().find(|text| text.contains(secret.as_str()));
        assert_eq!(shown, None);
    }
}

#[test]
fn readiness_follows_the_master() {
    let testbed = Testbed::new(Front::Direct);
    let admins = Admins::new(&testbed);
    let fields = admins.fields(json!({}));
    let mut tunnel = Tunnel::on(testbed, Vec::new(), fields);
    assert_eq!(admins.client_readiness().0, 200);
    assert_eq!(admins.server_readiness().0, 200);
    tunnel.master.kill();
    wait::until_true("both roles miss their master", || {
        [admins.client_readiness(), admins.server_readiness()]
            .iter()
            .all(|(status, body)| *status == 503 && body.contains("no link to a master"))
    });
    let alive = get(TcpStream::connect(admins.client).unwrap(), "/livez");
    assert_eq!(alive.0, 200);
    tunnel.restart_master();
    wait::until_true("both roles are ready again", || {
        admins.client_readiness().0 == 200 && admins.server_readiness().0 == 200
    });
}

#[test]
fn roles_of_a_draining_master_are_ready_until_their_links_end() {
    let testbed = Testbed::new(Front::Direct);
    let admins = Admins::new(&testbed);
    let mut fields = admins.fields(json!({}));
    // No other master exists, so the links stay for the whole grace period.
    fields.master = with(fields.master, json!({"grace_period": "5m"}));
    let mut tunnel = Tunnel::on(testbed, Vec::new(), fields);
    let stream = services::connect(tunnel.probe().local);
    services::ping(&stream, b"before").unwrap();
    tunnel.master.signal(Signal::Terminate);
    for role in [&tunnel.client, &tunnel.server] {
        role.wait_for_line(&["the master asks to move to another link"]);
    }
    for readiness in [admins.client_readiness(), admins.server_readiness()] {
        assert_eq!(readiness.0, 200, "{}", readiness.1);
    }
    services::ping(&stream, b"during the drain").unwrap();
    assert!(tunnel.is_connected(), "a new connection works too");
    tunnel.master.kill();
    wait::until_true("both roles miss their master", || {
        [admins.client_readiness(), admins.server_readiness()]
            .iter()
            .all(|(status, body)| *status == 503 && body.contains("no link to a master"))
    });
}

#[test]
fn a_second_process_cannot_take_a_living_admin_socket_and_the_end_removes_it() {
    let testbed = Testbed::new(Front::Direct);
    let admins = Admins::new(&testbed);
    let Fields { server, .. } = admins.fields(json!({}));
    let port = Port::new("none", "127.0.0.1:9", Methods::DEFAULT);
    let mut first = testbed.server("first", std::slice::from_ref(&port), server.clone());
    first.wait_ready(|| admins.server.exists());
    let mut second = testbed.server("second", std::slice::from_ref(&port), server.clone());
    let ended = second.wait_for_end(Duration::from_secs(20));
    assert_eq!(ended.and_then(|status| status.code()), Some(1));
    second.wait_for_line(&["admin.listen_at", "another process listens there"]);
    first.kill();
    assert!(admins.server.exists(), "a killed process leaves its socket");
    let mut third = testbed.server("third", std::slice::from_ref(&port), server);
    third.wait_ready(|| UnixStream::connect(&admins.server).is_ok());
    assert_eq!(third.stop().code(), Some(0));
    assert!(!admins.server.exists());
}
