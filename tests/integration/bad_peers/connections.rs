//! Connections to the master that are silent, send a huge header, or are too many.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    peer::Peer,
    services,
    tunnel::{Fields, Front, Testbed, Tunnel},
    wait,
};

#[test]
fn a_silent_connection_is_closed_at_the_authentication_timeout() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let address = tunnel.testbed.master_address();
    let start = Instant::now();
    let mut silent = Peer::connect(address);
    let mut half_a_header = TcpStream::connect(address).unwrap();
    half_a_header
        .write_all(b"GET / HTTP/1.1\r\nHost: ")
        .unwrap();
    let mut nothing_at_all = TcpStream::connect(address).unwrap();
    // The silent connections must not delay other peers.
    assert!(tunnel.is_connected());
    silent.wait_closed();
    let elapsed = start.elapsed();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(20)).contains(&elapsed),
        "AUTHENTICATION_TIMEOUT is 10 s, not {elapsed:?}"
    );
    for stream in [&mut half_a_header, &mut nothing_at_all] {
        stream.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(start.elapsed() < wait::TIMEOUT, "they are closed too");
}

#[test]
fn a_request_with_a_huge_header_is_refused_and_the_tunnel_keeps_working() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let mut stream = services::connect(tunnel.testbed.master_address());
    let header = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    // The master may close the connection before it has read the whole header.
    let _ = stream.write_all(header.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(tunnel.is_connected());
}

#[test]
fn links_beyond_the_limit_per_address_are_evicted_and_the_tunnel_keeps_working() {
    let testbed = Testbed::new(Front::Direct);
    let fields = Fields {
        master: json!({"limits": {"links_per_address": 8}}),
        ..Default::default()
    };
    let tunnel = Tunnel::on(testbed, Vec::new(), fields);
    let address = tunnel.testbed.master_address();
    let link = || {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let (mut socket, _) =
            tokio_tungstenite::tungstenite::client(format!("ws://{address}/"), stream).ok()?;
        // The master sends its challenge or closes the link.
        socket
            .read()
            .is_ok_and(|message| message.is_binary())
            .then_some(socket)
    };
    let mut links: Vec<_> = (0..20).filter_map(|_| link()).collect();
    assert!(!links.is_empty(), "a newer link is accepted");
    let is_silence = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        )
    };
    let mut established = 0;
    for socket in &mut links {
        socket
            .get_ref()
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        established += usize::from(
            matches!(socket.get_mut().read(&mut [0]), Err(error) if is_silence(&error)),
        );
    }
    assert!(
        established <= 6,
        "{established} links are up beside the two of the tunnel"
    );
    services::ping(&services::connect(tunnel.probe().local), b"undisturbed").unwrap();
}
