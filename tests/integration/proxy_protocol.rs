//! Connection sources that a real nginx receives by the PROXY protocol: applications at several
//! addresses, over both families, and after the link was cut.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{
    daemon::Daemon,
    nginx, ports, programs,
    proxy::{Cut, Proxy},
    services,
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, report},
    wait,
};

fn with_proxy_protocol() -> Value {
    json!({"proxy_protocol": "v2"})
}

/// A free port of `[::1]`.
fn free_v6() -> SocketAddr {
    wait::until("a port is free for IPv6 too", || {
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, ports::free().port()));
        TcpListener::bind(address).is_ok().then_some(address)
    })
}

/// An nginx whose response headers show the source and destination of a connection as it sees them.
fn mirror(testbed: &Testbed) -> (Daemon, SocketAddr) {
    let address = ports::free();
    let site = format!(
        "server {{ listen {address} proxy_protocol; real_ip_header proxy_protocol; set_real_ip_from 127.0.0.0/8;\n\
         location / {{ add_header X-Seen \"$proxy_protocol_addr|$proxy_protocol_port\"; add_header X-Remote \"$remote_addr\";\n\
         add_header X-To \"$proxy_protocol_server_addr|$proxy_protocol_server_port\"; return 200 \"seen\\n\"; }} }}"
    );
    (
        nginx::site("mirror", testbed.folder(), address, &site),
        address,
    )
}

/// A tunnel to such an nginx, by one port at `127.0.0.1` and one at `[::1]`. Its paths can be cut
/// and are recorded.
struct MirrorTunnel {
    tunnel: Tunnel,
    v4: SocketAddr,
    v6: SocketAddr,
    /// Paths of the client and of the server.
    paths: [Arc<Proxy>; 2],
    _nginx: Daemon,
}

impl MirrorTunnel {
    fn new(methods: Methods) -> MirrorTunnel {
        let testbed = Testbed::new(Front::Direct);
        let (nginx, web) = mirror(&testbed);
        let port = |mark: &str| Port {
            at_server: with_proxy_protocol(),
            ..Port::new(mark, web, methods)
        };
        let ports = vec![
            port("v4"),
            Port {
                local: free_v6(),
                ..port("v6")
            },
        ];
        let (v4, v6) = (ports[0].local, ports[1].local);
        let paths = [(); 2].map(|()| Arc::new(Proxy::recording(testbed.public_address())));
        let [client, server] = paths
            .each_ref()
            .map(|path| json!({"master": path.address().to_string()}));
        let fields = Fields {
            client,
            server,
            ..Fields::default()
        };
        MirrorTunnel {
            tunnel: Tunnel::on(testbed, ports, fields),
            v4,
            v6,
            paths,
            _nginx: nginx,
        }
    }
}

/// A request as nginx saw it.
#[derive(Debug, PartialEq, Eq)]
struct SeenConnection {
    source: String,
    remote: String,
    destination: String,
}

impl SeenConnection {
    fn of(answer: &str) -> SeenConnection {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let header = |name: &str| {
            let line = answer
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name} in {answer}"))
                .trim()
                .to_owned()
        };
        SeenConnection {
            source: header("X-Seen"),
            remote: header("X-Remote"),
            destination: header("X-To"),
        }
    }

    /// The expected view of a connection with these ends.
    fn expected(source: SocketAddr, destination: SocketAddr) -> SeenConnection {
        let text = |address: SocketAddr| format!("{}|{}", address.ip(), address.port());
        SeenConnection {
            source: text(source),
            remote: source.ip().to_string(),
            destination: text(destination),
        }
    }
}

/// Fetches a page with curl from this address and port.
fn curl_from(source: SocketAddr, to: SocketAddr) -> SeenConnection {
    let mut curl = programs::command("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--include",
        "--globoff",
        "--noproxy",
        "*",
        "--interface",
        &source.ip().to_string(),
    ]);
    curl.args(["--local-port", &source.port().to_string()])
        .arg(format!("http://{to}/"));
    SeenConnection::of(&programs::run(&mut curl).succeeded().text())
}

/// A connection from this address.
fn connect_from(source: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).expect("a socket");
    socket
        .bind(&source.into())
        .expect("an address of this machine");
    socket.connect(&to.into()).expect("the client listens");
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(wait::TIMEOUT))
        .expect("a limit");
    stream
}

/// Sends a request over a connection that stays open.
fn ask(mut stream: &TcpStream) -> SeenConnection {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: mirror\r\n\r\n")
        .expect("the connection is up");
    let (mut answer, mut block) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"seen\n") {
        let length = stream.read(&mut block).expect("nginx answers");
        assert_ne!(
            length,
            0,
            "the connection ended: {}",
            String::from_utf8_lossy(&answer)
        );
        answer.extend_from_slice(&block[..length]);
    }
    SeenConnection::of(&String::from_utf8(answer).expect("text"))
}

#[test]
fn nginx_sees_the_address_and_port_of_the_application_over_both_families() {
    for methods in Methods::TWO {
        let mirrored = MirrorTunnel::new(methods);
        for source in ["127.0.0.9", "127.8.7.6"] {
            let source = SocketAddr::new(source.parse().expect("an address"), ports::free().port());
            assert_eq!(
                curl_from(source, mirrored.v4),
                SeenConnection::expected(source, mirrored.v4),
                "{methods}"
            );
        }
        let source = free_v6();
        assert_eq!(
            curl_from(source, mirrored.v6),
            SeenConnection::expected(source, mirrored.v6),
            "{methods}"
        );
        mirrored
            .tunnel
            .client
            .wait_for_line(&["attached to a server", "tells_addresses=true"]);
    }
}

#[test]
fn a_cut_does_not_change_the_source_that_nginx_sees_or_repeat_the_header() {
    let mirrored = MirrorTunnel::new(Methods::DEFAULT);
    let ends = [("127.0.0.9:0", mirrored.v4), ("[::1]:0", mirrored.v6)].map(|(source, to)| {
        let stream = connect_from(source.parse().expect("an address"), to);
        (stream.local_addr().expect("bound"), to, stream)
    });
    let resumed = |log: String| {
        log.lines()
            .filter(|line| line.contains("tunnel resumed"))
            .count()
    };
    for round in 0..4 {
        for (source, to, stream) in &ends {
            assert_eq!(
                ask(stream),
                SeenConnection::expected(*source, *to),
                "after {round} cuts"
            );
        }
        let before = resumed(mirrored.tunnel.client.log());
        mirrored.paths[round % 2].cut([Cut::Reset, Cut::EndOfFile][round / 2]);
        wait::until_true("both tunnels continue", || {
            resumed(mirrored.tunnel.client.log()) >= before + 2
        });
    }
    // A connection that is opened while the link is down keeps its source in the pending OPEN.
    mirrored.paths[0].refuse();
    mirrored.paths[0].cut(Cut::Reset);
    let stream = connect_from("127.0.0.9:0".parse().expect("an address"), mirrored.v4);
    let source = stream.local_addr().expect("bound");
    mirrored.paths[0].thaw();
    assert_eq!(ask(&stream), SeenConnection::expected(source, mirrored.v4));
}

#[test]
fn paths_and_master_see_the_source_address_only_of_a_plain_port() {
    for (encrypt, is_seen) in [("aes-128-gcm", false), ("plain", true)] {
        let mirrored = MirrorTunnel::new(Methods {
            encrypt,
            compress: "null",
        });
        let source = SocketAddr::new(
            "127.99.98.97".parse().expect("an address"),
            ports::free().port(),
        );
        assert_eq!(
            curl_from(source, mirrored.v4),
            SeenConnection::expected(source, mirrored.v4)
        );
        // As OPEN encodes it. nginx repeats the address in its answer in another form.
        let written = format!("\"source\":\"{source}\"").into_bytes();
        // On the client's path the WebSocket mask hides it, so the test looks at the server's path.
        let [_, toward_server] = mirrored.paths[1].recorded();
        assert_eq!(
            toward_server
                .windows(written.len())
                .any(|window| window == written),
            is_seen,
            "{encrypt}"
        );
    }
}

#[test]
fn a_server_without_proxy_protocol_receives_no_addresses() {
    let testbed = Testbed::new(Front::Direct);
    let service = services::echo();
    let path = Proxy::recording(testbed.public_address());
    let port = Port::new(
        "plain",
        service.address(),
        Methods {
            encrypt: "plain",
            compress: "null",
        },
    );
    let fields = Fields {
        server: json!({"master": path.address().to_string()}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(testbed, vec![port.clone()], fields);
    services::ping(
        &services::connect(port.local),
        b"a message that is readable on the way",
    )
    .expect("an echo");
    let [_, toward_server] = path.recorded();
    let holds = |text: &[u8]| {
        toward_server
            .windows(text.len())
            .any(|window| window == text)
    };
    assert!(
        holds(b"a message that is readable on the way")
            && !holds(b"source")
            && !holds(b"127.0.0.1")
    );
    tunnel
        .client
        .wait_for_line(&["attached to a server", "tells_addresses=false"]);
}

#[test]
fn a_benchmark_does_not_reach_a_service_with_proxy_protocol() {
    let testbed = Testbed::new(Front::Direct);
    let service = services::echo();
    let port = Port {
        at_server: with_proxy_protocol(),
        ..Port::new("measured", service.address(), Methods::DEFAULT)
    };
    let configuration = testbed.client_configuration(std::slice::from_ref(&port), json!({}));
    let tunnel = Tunnel::on(testbed, vec![port], Fields::default());
    let file = tunnel.testbed.write("bench", &configuration);
    let file = file.to_str().expect("a path in UTF-8");
    let output = report(&[
        "bench",
        "--config",
        file,
        "--mark",
        "measured",
        "--seconds",
        "0.05",
        "--json",
    ])
    .succeeded();
    assert!(
        output.text().contains("\"complete\":true") || output.text().contains("\"complete\": true"),
        "{}",
        output.text()
    );
    assert_eq!(service.accepted(), 0);
}
