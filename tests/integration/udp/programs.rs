//! Datagrams of real programs: a name server, a measurement, and the queries of games.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{LONG, tunnel_to};
use crate::support::{
    daemon::Daemon,
    datagrams::{Asker, DatagramService},
    ports, programs,
    tunnel::{Front, Methods, Port, Tunnel},
};

/// The address of every name in the name server.
const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// Starts a name server that knows each name below `test`.
fn name_server(folder: &std::path::Path, address: SocketAddr) -> Daemon {
    let mut command = std::process::Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
        "--local=/test/",
    ]);
    command
        .arg(format!("--listen-address={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .arg(format!("--address=/test/{ANSWER}"));
    let mut daemon = Daemon::start("dnsmasq", folder, &mut command);
    // It answers TCP at the same number.
    daemon.wait_ready(|| ports::has_listener_at(address));
    daemon
}

/// Encodes a query for the address of `NAME.test` (RFC 1035, 4.1).
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [name, "test"] {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Whether this is the answer to a query with this id.
fn is_answer(message: &[u8], id: u16) -> bool {
    let is_response = message.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_response && message.starts_with(&id.to_be_bytes()) && message.ends_with(&ANSWER.octets())
}

#[test]
fn a_name_server_answers_ten_thousand_queries() {
    const SOURCES: u16 = 8;
    const QUERIES: u16 = 1_250;
    let folder = tempfile::tempdir().expect("a folder");
    let server = ports::free();
    let _daemon = name_server(folder.path(), server);
    let port = Port::udp("names", server);
    let tunnel = Tunnel::start(Front::Direct, vec![port.clone()]);
    Asker::of(port.local).ask_until_answered(&query(0, "first"));
    let ask_all = |source: u16| {
        let asker = Asker::of(port.local);
        let is_lost = |number: &u16| {
            let id = source * QUERIES + number;
            let answer = asker.ask(&query(id, &format!("n{id}")), LONG);
            !answer.is_some_and(|answer| is_answer(&answer, id))
        };
        (0..QUERIES).filter(is_lost).count()
    };
    let lost: usize = thread::scope(|scope| {
        let ask_all = &ask_all;
        let asking: Vec<_> = (0..SOURCES)
            .map(|source| scope.spawn(move || ask_all(source)))
            .collect();
        let counts = asking
            .into_iter()
            .map(|asking| asking.join().expect("asked"));
        counts.sum()
    });
    assert_eq!(lost, 0);
    drop(tunnel);
}

/// Measures datagrams through the tunnel. Returns the report.
fn iperf3(local: SocketAddr, arguments: &[&str]) -> Value {
    let mut command = programs::command("iperf3");
    command
        .args(["--client", &local.ip().to_string()])
        .args(["--port", &local.port().to_string()])
        .args(["--udp", "--bitrate", "20M", "--length", "1200"])
        .args(["--time", "3", "--json"])
        .args(arguments);
    programs::run(&mut command).succeeded().json()
}

#[test]
fn iperf3_loses_nothing_below_the_rate_of_the_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = ports::free();
    let mut command = std::process::Command::new("iperf3");
    command
        .args(["--server", "--bind", &server.ip().to_string()])
        .args(["--port", &server.port().to_string()]);
    let mut daemon = Daemon::start("iperf3", folder.path(), &mut command);
    daemon.wait_ready(|| ports::has_listener_at(server));
    // iperf3 controls the measurement over a connection to the same number.
    let port = Port {
        at_both: json!({"protocol": "both"}),
        ..Port::new("iperf3", server, Methods::DEFAULT)
    };
    let _tunnel = Tunnel::start(Front::Direct, vec![port.clone()]);
    for arguments in [&[][..], &["--reverse"]] {
        let report = iperf3(port.local, arguments);
        let sum = &report["end"]["sum"];
        let lost = sum["lost_packets"].as_u64().expect("a number");
        let packets = sum["packets"].as_u64().expect("a number");
        println!("{arguments:?}: {lost} of {packets} lost");
        assert!(packets > 3_000, "{sum}");
        assert_eq!(lost, 0, "{sum}");
    }
}

/// A game server that answers A2S_INFO, as those of the Source engine do: it first returns a number
/// that the query must repeat.
fn game_server() -> DatagramService {
    const HEADER: [u8; 4] = [0xff; 4];
    const QUERY: &[u8] = b"TSource Engine Query\0";
    const CHALLENGE: [u8; 4] = [1, 2, 3, 4];
    DatagramService::start(|datagram, _| {
        let rest = datagram.strip_prefix(&HEADER[..]);
        match rest.and_then(|rest| rest.strip_prefix(QUERY)) {
            Some(challenge) if challenge == CHALLENGE => {
                vec![[&HEADER[..], b"I\x11a game\0a map\0"].concat()]
            }
            Some(_) => vec![[&HEADER[..], b"A", &CHALLENGE[..]].concat()],
            None => Vec::new(),
        }
    })
}

#[test]
fn a_game_server_answers_a_query() {
    let server = game_server();
    let port = Port::udp("game", server.address());
    let tunnel = Tunnel::start(Front::Direct, vec![port.clone()]);
    let asker = Asker::of(port.local);
    let mut query = b"\xff\xff\xff\xffTSource Engine Query\0".to_vec();
    let challenge = asker.ask_until_answered(&query);
    assert_eq!(challenge[..5], *b"\xff\xff\xff\xffA");
    query.extend(&challenge[5..]);
    let info = asker
        .ask(&query, Duration::from_secs(10))
        .expect("an answer");
    assert_eq!(info, b"\xff\xff\xff\xffI\x11a game\0a map\0");
    drop(tunnel);
}

#[test]
fn the_tunnel_of_a_service_without_answers_stays_up() {
    let silent = DatagramService::start(|_, _| Vec::new());
    let echo = DatagramService::echo();
    let port = Port::udp("silent", silent.address());
    let other = Port::udp("echo", echo.address());
    let _tunnel = Tunnel::start(Front::Direct, vec![port.clone(), other.clone()]);
    Asker::of(other.local).ask_until_answered(b"up");
    let asker = Asker::of(port.local);
    crate::support::wait::until_true("the service has the datagram", || {
        asker.send(b"a line of a log");
        !silent.sources().is_empty()
    });
    assert_eq!(asker.receive(Duration::from_millis(200)), None);
    drop(tunnel_to(&other));
}
