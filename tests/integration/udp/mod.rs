//! Ports with the protocols `udp` and `both`: datagrams keep their boundaries and sources, nothing
//! old arrives, and no flood of sources harms the others.

mod disturbances;
mod limits;
mod programs;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    bytes,
    datagrams::{Asker, DatagramService},
    ports, services,
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, with},
};

/// The time for an answer on this machine, which is busy with other tests.
const LONG: Duration = Duration::from_secs(10);

/// A tunnel to a service.
fn tunnel_to(port: &Port) -> Tunnel {
    let tunnel = Tunnel::start(Front::Direct, vec![port.clone()]);
    Asker::of(port.local).ask_until_answered(b"are you there?");
    tunnel
}

#[test]
fn datagrams_of_every_length_return_with_their_boundaries() {
    let echo = DatagramService::echo();
    for methods in Methods::TWO.into_iter().chain([Methods::DEFAULT]) {
        let port = Port {
            methods,
            ..Port::udp("echo", echo.address())
        };
        let _tunnel = tunnel_to(&port);
        let asker = Asker::of(port.local);
        for length in [0, 1, 64, 1_200, 1_472, 1_473, 9_000, 65_000, 65_507] {
            let datagram = bytes::random(length as u64, length);
            let answer = asker.ask(&datagram, LONG);
            assert!(answer.as_ref() == Some(&datagram), "{length} {methods}");
        }
        // Several at once, of mixed lengths.
        let sent: Vec<Vec<u8>> = (0..60)
            .map(|number| bytes::mixed(number, [1_200, 1_200, 1_200, 300][number as usize % 4]))
            .collect();
        sent.iter().for_each(|datagram| asker.send(datagram));
        for (number, datagram) in sent.iter().enumerate() {
            let answer = asker.receive(LONG);
            assert!(answer.as_ref() == Some(datagram), "{number} {methods}");
        }
    }
}

#[test]
fn each_source_has_its_own_flow_and_gets_its_own_answers() {
    let echo = DatagramService::echo();
    let port = Port::udp("echo", echo.address());
    let _tunnel = tunnel_to(&port);
    let askers: Vec<Asker> = (0..20).map(|_| Asker::of(port.local)).collect();
    let before = echo.sources().len();
    for round in 0..3_u8 {
        for (number, asker) in askers.iter().enumerate() {
            asker.send(&[round, number as u8]);
        }
        for (number, asker) in askers.iter().enumerate() {
            assert_eq!(asker.receive(LONG), Some(vec![round, number as u8]));
        }
    }
    assert_eq!(echo.sources().len() - before, askers.len());
}

#[test]
fn connections_and_datagrams_share_a_number() {
    let tcp = services::echo();
    let udp = DatagramService::echo_at(tcp.address());
    let port = Port {
        at_both: json!({"protocol": "both"}),
        ..Port::new("game", tcp.address(), Methods::DEFAULT)
    };
    let tunnel = tunnel_to(&port);
    assert!(services::echoes(port.local));
    let asker = Asker::of(port.local);
    assert_eq!(asker.ask(b"datagram", LONG), Some(b"datagram".to_vec()));
    for words in ["listening", "listening for datagrams"] {
        let address = port.local.to_string();
        tunnel.client.wait_for_line(&[words, "port=game", &address]);
    }
    drop(udp);
}

#[test]
fn each_port_of_a_range_leads_to_its_own_service() {
    const COUNT: u16 = 3;
    let (first, local) = (ports::free_range(COUNT), ports::free_range(COUNT));
    let at = |first: std::net::SocketAddr, number: u16| {
        std::net::SocketAddr::new(first.ip(), first.port() + number)
    };
    let services: Vec<DatagramService> = (0..COUNT)
        .map(|number| {
            let answer = move |_: &[u8], _| vec![format!("service {number}").into_bytes()];
            DatagramService::at(at(first, number), answer)
        })
        .collect();
    let testbed = Testbed::new(Front::Direct);
    let range = |first: std::net::SocketAddr| {
        let address = format!("{first}-{}", at(first, COUNT - 1).port());
        json!({"ports": [{"mark": "calls", "protocol": "udp", "local_address": address, "port_key": "the key of the range"}]})
    };
    let _master = testbed.master(json!({}));
    let _server = testbed.server("server", &[], range(first));
    let _client = testbed.role("client", &testbed.client_configuration(&[], range(local)));
    for number in [2, 0, 1] {
        let asker = Asker::of(at(local, number));
        let answer = asker.ask_until_answered(b"which?");
        assert_eq!(
            String::from_utf8_lossy(&answer),
            format!("service {number}")
        );
    }
    drop(services);
}

#[test]
fn the_first_datagram_of_a_flow_has_its_source() {
    // Returns what it received.
    let echo = DatagramService::echo();
    let port = Port {
        at_server: json!({"proxy_protocol": "v2"}),
        ..Port::udp("sourced", echo.address())
    };
    let _tunnel = tunnel_to(&port);
    let asker = Asker::of(port.local);
    let received = asker.ask_until_answered(b"first");
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c".to_vec();
    expected.extend([127, 0, 0, 1, 127, 0, 0, 1]);
    expected.extend(asker.source().port().to_be_bytes());
    expected.extend(port.local.port().to_be_bytes());
    expected.extend(b"first");
    assert_eq!(received, expected);
    assert_eq!(asker.ask(b"second", LONG), Some(b"second".to_vec()));
}

#[test]
fn both_ends_name_a_different_protocol() {
    let echo = DatagramService::echo();
    let port = Port::new("game", echo.address(), Methods::DEFAULT);
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({}));
    let with_protocol = |configuration: Value, protocol: &str| {
        let port = with(
            configuration["ports"][0].clone(),
            json!({"protocol": protocol}),
        );
        with(configuration, json!({"ports": [port]}))
    };
    let ports = std::slice::from_ref(&port);
    let of_server = with_protocol(testbed.server_configuration(ports, json!({})), "tcp");
    let of_client = with_protocol(testbed.client_configuration(ports, json!({})), "udp");
    let server = testbed.role("server", &of_server);
    let client = testbed.role("client", &of_client);
    server.wait_for_line(&[
        "client refused",
        "`protocol` is \"tcp\" here and \"udp\" at the other end",
    ]);
    client.wait_for_line(&["`protocol` is \"udp\" here and \"tcp\" at the other end"]);
    let asker = Asker::of(port.local);
    assert_eq!(asker.ask(b"lost", Duration::from_millis(500)), None);
    assert!(echo.sources().is_empty());
}

/// Fields that make a tunnel over this path.
fn client_over(master: std::net::SocketAddr) -> Fields {
    Fields {
        client: json!({"master": master.to_string()}),
        ..Fields::default()
    }
}
