//! UDP ASSOCIATE: datagrams reach the destinations that the rules allow, and no others.

use std::{net::IpAddr, time::Duration};

use super::*;
use crate::support::{
    datagrams::{Asker, DatagramService},
    wait,
};

/// The time for an answer on this machine, which is busy with other tests.
const LONG: Duration = Duration::from_secs(10);

/// The command of UDP ASSOCIATE.
const UDP_ASSOCIATE: u8 = 3;

/// An application with a socket for datagrams.
struct Associated {
    /// The connection that requested the association.
    control: TcpStream,
    application: Asker,
    /// The socket of the proxy.
    relay: SocketAddr,
}

impl Socks {
    /// Starts a proxy with these rules whose tunnel is attached.
    fn start_attached(rules: &[String]) -> Socks {
        let socks = Socks::start(rules, json!({}));
        // The answer comes from the server.
        assert_eq!(socks.refusal(1, "127.0.0.1", 1), 2);
        socks
    }

    /// Requests an association.
    fn associate(&self) -> Associated {
        let mut control = services::connect(self.local);
        control.write_all(&[5, 1, 0]).expect("sent");
        let mut method = [0; 2];
        control.read_exact(&mut method).expect("a method");
        assert_eq!(method, [5, 0]);
        let request = socks_address(vec![5, UDP_ASSOCIATE, 0], "0.0.0.0", 0);
        control.write_all(&request).expect("sent");
        let mut reply = [0; 10];
        control.read_exact(&mut reply).expect("a reply");
        let [5, 0, 0, 1, host @ .., high, low] = reply else {
            panic!("{reply:?}")
        };
        let host: [u8; 4] = host;
        let relay = SocketAddr::from((host, u16::from_be_bytes([high, low])));
        assert_eq!(relay.ip(), self.local.ip());
        Associated {
            control,
            application: Asker::of(relay),
            relay,
        }
    }
}

impl Associated {
    /// Sends content to an echo service. Its answer must be the next datagram.
    #[track_caller]
    fn assert_echoes(&self, host: &str, port: u16, content: &[u8]) {
        let sent = datagram(host, port, content);
        let answer = self.application.ask(&sent, LONG);
        assert!(
            answer.as_ref() == Some(&sent),
            "{host}:{port}: {} bytes in place of {}",
            answer.map_or(0, |answer| answer.len()),
            sent.len()
        );
    }
}

/// Appends a host and a port as SOCKS5 encodes them.
fn socks_address(mut message: Vec<u8>, host: &str, port: u16) -> Vec<u8> {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => {
            message.push(1);
            message.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            message.push(4);
            message.extend(ip.octets());
        }
        Err(_) => {
            message.extend([3, u8::try_from(host.len()).expect("a short name")]);
            message.extend(host.bytes());
        }
    }
    message.extend(port.to_be_bytes());
    message
}

/// Encodes a datagram to a destination. An answer from there has the same header.
fn datagram(host: &str, port: u16, content: &[u8]) -> Vec<u8> {
    let mut datagram = socks_address(vec![0, 0, 0], host, port);
    datagram.extend(content);
    datagram
}

#[test]
fn datagrams_reach_the_destinations_that_the_rules_allow() {
    let (one, other) = (DatagramService::echo(), DatagramService::echo());
    let (port, second) = (one.address().port(), other.address().port());
    let rules = [
        rule(one.address()),
        rule(other.address()),
        format!("localhost:{port}"),
    ];
    let socks = Socks::start_attached(&rules);
    let associated = socks.associate();
    for length in [0, 1, 1_200, 9_000, 65_000] {
        let content = bytes::random(length as u64, length);
        associated.assert_echoes("127.0.0.1", port, &content);
        associated.assert_echoes("localhost", port, &content);
        associated.assert_echoes("127.0.0.1", second, &content);
    }
    // The address and the name are different flows.
    assert_eq!((one.sources().len(), other.sources().len()), (2, 1));
    // Another application has its own flows.
    socks
        .associate()
        .assert_echoes("127.0.0.1", second, b"mine");
    assert_eq!(other.sources().len(), 2);
}

#[test]
fn datagrams_to_other_destinations_are_dropped_and_logged() {
    let (echo, other) = (DatagramService::echo(), DatagramService::echo());
    let (port, denied) = (echo.address().port(), other.address().port());
    let socks = Socks::start_attached(&[rule(echo.address()), format!("*:{denied}")]);
    let associated = socks.associate();
    for host in ["127.0.0.1", "localhost", "127.1", "169.254.169.254"] {
        let sent = datagram(host, denied, b"denied");
        associated.application.send(&sent);
    }
    let place = format!(":{denied}: ");
    let words = ["destination refused", place.as_str()];
    socks.server.wait_for_line(&words);
    let words = ["no datagrams to the destination", "destination_denied"];
    socks.client.wait_for_line(&words);
    associated.assert_echoes("127.0.0.1", port, b"allowed");
    assert!(other.sources().is_empty());
}

#[test]
fn fragments_and_malformed_datagrams_are_dropped() {
    let echo = DatagramService::echo();
    let (host, port) = ("127.0.0.1", echo.address().port());
    let socks = Socks::start_attached(&[rule(echo.address())]);
    let associated = socks.associate();
    let mut fragment = datagram(host, port, b"part");
    fragment[2] = 1;
    let mut reserved = datagram(host, port, b"reserved");
    reserved[0] = 1;
    for dropped in [
        &fragment[..],
        &reserved,
        b"",
        b"\0\0\0",
        b"\0\0\0\x01\x7f\0",
        b"\0\0\0\x03\xffname",
        b"\0\0\0\x07\x7f\0\0\x01\0\x35",
    ] {
        associated.application.send(dropped);
    }
    // Datagrams of one flow keep their order here, so this answer would not be the first.
    associated.assert_echoes(host, port, b"whole");
    assert_eq!(echo.sources().len(), 1);
}

#[test]
fn an_association_serves_its_application_and_ends_with_its_connection() {
    let echo = DatagramService::echo();
    let (host, port) = ("127.0.0.1", echo.address().port());
    let socks = Socks::start_attached(&[rule(echo.address())]);
    let associated = socks.associate();
    associated.assert_echoes(host, port, b"first");
    // The association belongs to the socket of its first datagram. The answer to another one would
    // be the next.
    let stranger = Asker::of(associated.relay);
    stranger.send(&datagram(host, port, b"stolen"));
    associated.assert_echoes(host, port, b"second");
    assert!(ports::has_udp_socket_at(associated.relay));
    let Associated { control, relay, .. } = associated;
    control.shutdown(Shutdown::Write).expect("still open");
    let (rest, ending) = services::read_to_ending(&control);
    assert_eq!((rest.len(), ending), (0, Ending::Clean));
    wait::until_true("the socket of the association is closed", || {
        !ports::has_udp_socket_at(relay)
    });
    // Another association works, and a reset ends it too.
    let Associated {
        control,
        application: _application,
        relay,
    } = socks.associate();
    services::reset(control);
    wait::until_true("the socket of the association is closed", || {
        !ports::has_udp_socket_at(relay)
    });
    assert!(!socks.client.has_ended());
}
