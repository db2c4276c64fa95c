//! Misbehaving peers. The side that can act reports the problem clearly, and other peers keep
//! working.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use report_proto::{
    crypto::{LinkKey, PortKeys},
    frame::{AttachHeader, Code, Frame, Ports, Role},
    id::Id,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    bytes as content, nginx,
    peer::{self, Peer, Received},
    proxy::{Cut, Proxy},
    services::{self, Ending},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
    wait,
};

#[test]
fn a_server_with_a_wrong_master_key_logs_it_and_disturbs_no_other_server() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let established = services::connect(tunnel.probe().local);
    let port = [Port::new("elsewhere", "127.0.0.1:9", Methods::DEFAULT)];
    let unauthorized = tunnel.testbed.server(
        "unauthorized",
        &port,
        json!({"master_key": "not the master's key at all"}),
    );
    unauthorized.wait_for_line(&["ERROR", "master_key"]);
    services::ping(&established, b"undisturbed").unwrap();
    assert!(tunnel.is_connected());
    assert!(!unauthorized.log().contains("not the master's key at all"));
}

#[test]
fn many_wrong_master_keys_are_throttled_and_the_known_server_still_reconnects() {
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.master_address());
    let fields = Fields {
        server: json!({"master": path.address().to_string()}),
        ..Default::default()
    };
    let tunnel = Tunnel::on(testbed, Vec::new(), fields);
    let (key, instance) = (LinkKey::derive(Some("wrong")), Id(peer::random()));
    let codes = (0..200).map(|epoch| {
        let mut unauthorized = Peer::connect(tunnel.testbed.master_address());
        unauthorized.hello(Role::Server, &key, instance, epoch);
        unauthorized.wait_closed().map(|notice| notice.code)
    });
    let codes: Vec<_> = codes
        .take_while(|code| *code != Some(Code::Throttled))
        .collect();
    assert!(codes.len() < 200, "the master throttles the address");
    assert!(
        codes.iter().all(|code| *code == Some(Code::Unauthorized)),
        "{codes:?}"
    );
    path.cut(Cut::Reset);
    tunnel.wait_until_connected();
}

/// Starts a client whose port uses other methods than the server's.
fn assert_mismatch_reported(server: Methods, client: Methods, words: &[&str]) {
    let testbed = Testbed::new(Front::Direct);
    let echo = services::echo();
    let port = Port::new("unequal", echo.address(), server);
    let _master = testbed.master(json!({}));
    let server = testbed.server("server", std::slice::from_ref(&port), json!({}));
    let theirs = [Port {
        methods: client,
        ..port
    }];
    let client = testbed.client("client", &theirs, json!({"hold_timeout": "3s"}));
    let stream = services::connect(theirs[0].local);
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
    for role in [&server, &client] {
        let line = role.wait_for_line(&[&["unequal"], words].concat());
        assert!(line.contains("ERROR") || line.contains("WARN"), "{line}");
    }
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn different_encryption_is_logged_at_both_ends_with_both_values() {
    let [server, client] = ["aes-128-gcm", "aes-128-cfb"].map(|encrypt| Methods {
        encrypt,
        compress: "null",
    });
    assert_mismatch_reported(server, client, &["aes-128-gcm", "aes-128-cfb"]);
}

#[test]
fn different_compression_is_logged_at_both_ends_with_both_values() {
    let [server, client] = ["zstd", "s2"].map(|compress| Methods {
        encrypt: "plain",
        compress,
    });
    assert_mismatch_reported(server, client, &["zstd", "s2"]);
}

#[test]
fn an_unknown_port_key_is_logged_by_the_client_as_an_absent_server() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let unknown = [Port::new("unknown", "127.0.0.1:9", Methods::DEFAULT)];
    let client = tunnel
        .testbed
        .client("unauthorized", &unknown, json!({"hold_timeout": "1s"}));
    let stream = services::connect(unknown[0].local);
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
    client.wait_for_line(&["unknown", "no server for this port key"]);
    assert!(tunnel.is_connected());
}

/// The challenge of a master of another version (PROTOCOL 4.1).
fn challenge_of_version(version: u8) -> Bytes {
    let nonce: [u8; 24] = peer::random();
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    hash.update(b"rePort link");
    hash.update(&[version]);
    hash.update(&nonce);
    nonce
        .into_iter()
        .chain(hash.finish().as_ref()[..8].iter().copied())
        .collect()
}

#[test]
fn a_master_of_another_version_is_logged_with_both_versions() {
    let testbed = Testbed::new(Front::Direct);
    let listener = TcpListener::bind(testbed.master_address()).unwrap();
    let ports = [Port::new("any", "127.0.0.1:9", Methods::DEFAULT)];
    let roles = [
        testbed.server("server", &ports, json!({})),
        testbed.role("client", &testbed.client_configuration(&ports, json!({}))),
    ];
    for _ in &roles {
        let mut peer = Peer::accept(&listener);
        peer.send_raw(challenge_of_version(2));
        peer.wait_closed();
    }
    for role in &roles {
        let line = role.wait_for_line(&["ERROR", "version 2"]);
        assert!(
            line.contains("version 1") || line.contains("we speak 1"),
            "{line}"
        );
    }
}

#[test]
fn a_websocket_server_that_is_not_a_master_is_logged() {
    let testbed = Testbed::new(Front::Direct);
    let listener = TcpListener::bind(testbed.master_address()).unwrap();
    let ports = [Port::new("any", "127.0.0.1:9", Methods::DEFAULT)];
    let server = testbed.server("server", &ports, json!({}));
    let mut peer = Peer::accept(&listener);
    peer.send_raw(Message::text("welcome to the chat"));
    peer.wait_closed();
    server.wait_for_line(&["cannot join the master", "text message"]);
    let mut peer = Peer::accept(&listener);
    peer.send_raw(content::random(3, 32));
    peer.wait_closed();
    server.wait_for_line(&["ERROR", "not a rePort master"]);
}

#[test]
fn a_web_server_in_place_of_the_master_is_logged() {
    let testbed = Testbed::new(Front::Direct);
    std::fs::create_dir(testbed.folder().join("site")).unwrap();
    let _web = nginx::file_server(
        testbed.folder(),
        testbed.master_address(),
        &testbed.folder().join("site"),
    );
    let ports = [Port::new("any", "127.0.0.1:9", Methods::DEFAULT)];
    let server = testbed.server("server", &ports, json!({}));
    let mut client = testbed.client("client", &ports, json!({}));
    for role in [&server, &client] {
        // nginx answers an upgrade request for a folder without an index with 403 or 404.
        let line = role.wait_for_line(&[&testbed.master_address().to_string(), "40"]);
        assert!(line.contains("ERROR") || line.contains("WARN"), "{line}");
    }
    assert!(!client.has_ended(), "roles retry without limit");
    assert!(client.stop().success());
}

#[test]
fn an_untrusted_certificate_is_logged_with_a_remedy() {
    let testbed = Testbed::new(Front::Tls);
    let _master = testbed.master(json!({}));
    let ports = [Port::new("any", "127.0.0.1:9", Methods::DEFAULT)];
    let server = testbed.server("server", &ports, json!({"tls": null}));
    server.wait_for_line(&["certificate", "untrusted", "tls.ca"]);
}

/// Sends messages to the master, before HELLO (`None`) or as a role. Returns the code with which
/// the master ends the link.
fn close_code_after(
    tunnel: &Tunnel,
    role: Option<Role>,
    action: impl FnOnce(&mut Peer),
) -> Option<Code> {
    let mut peer = Peer::connect(tunnel.testbed.master_address());
    if let Some(role) = role {
        let key =
            LinkKey::derive((role == Role::Server).then_some(tunnel.testbed.master_key.as_str()));
        peer.hello(role, &key, Id(peer::random()), 1);
        assert!(
            matches!(peer.frame(), Some(Frame::Welcome { .. })),
            "the master accepts the role"
        );
    } else {
        assert_eq!(peer.message().map(|challenge| challenge.len()), Some(32));
    }
    action(&mut peer);
    peer.wait_closed().map(|notice| notice.code)
}

/// A message of a type byte and these bytes.
fn message(kind: u8, rest: &[u8]) -> Bytes {
    [&[kind], rest].concat().into()
}

#[test]
fn a_connection_that_sends_nonsense_is_closed_and_the_tunnel_keeps_working() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let established = services::connect(tunnel.probe().local);
    let header = AttachHeader {
        port: PortKeys::derive(&tunnel.probe().key).id,
        instance: None,
        avoid: Vec::new(),
    };
    let attach = Frame::Attach {
        channel: 1,
        header,
        message: Bytes::from_static(&[1; 48]),
    };
    type SendAction = Box<dyn FnOnce(&mut Peer)>;
    let nonsense: Vec<(&str, SendAction)> = vec![
        (
            "text",
            Box::new(|peer| peer.send_raw(Message::text("hello?"))),
        ),
        (
            "an empty message",
            Box::new(|peer| peer.send_raw(Bytes::new())),
        ),
        (
            "garbage",
            Box::new(|peer| peer.send_raw(content::random(1, 500))),
        ),
        (
            "an unknown type",
            Box::new(|peer| peer.send_raw(message(0x0f, b"?"))),
        ),
        (
            "an oversized message",
            Box::new(|peer| peer.send_raw(message(0x01, &vec![b' '; 200_000]))),
        ),
        (
            "an oversized control frame",
            Box::new(|peer| peer.send_raw(message(0x01, &vec![b' '; 100_000]))),
        ),
        (
            "a truncated HELLO",
            Box::new(|peer| peer.send_raw(message(0x01, &[0; 20]))),
        ),
        (
            "a HELLO without claims",
            Box::new(|peer| peer.send_raw(message(0x01, &[[b'0'; 32].as_slice(), b"{}"].concat()))),
        ),
        (
            "DATA before HELLO",
            Box::new(|peer| {
                peer.send(&Frame::Data {
                    channel: 1,
                    payload: Bytes::from_static(b"?"),
                })
            }),
        ),
        (
            "ATTACH before HELLO",
            Box::new(move |peer| peer.send(&attach)),
        ),
        (
            "REGISTER before HELLO",
            Box::new(|peer| {
                peer.send(&Frame::Register(Ports {
                    ports: vec![Id([1; 16])],
                }))
            }),
        ),
        (
            "a master's frame",
            Box::new(|peer| peer.send(&Frame::Registered(Ports { ports: Vec::new() }))),
        ),
    ];
    for (name, action) in nonsense {
        let code = close_code_after(&tunnel, None, action);
        assert!(
            matches!(code, None | Some(Code::Protocol)),
            "{name}: {code:?}"
        );
        services::ping(&established, name.as_bytes()).unwrap();
    }
    assert!(tunnel.is_connected());
}

#[test]
fn a_role_that_sends_frames_out_of_state_is_disconnected_and_the_tunnel_keeps_working() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let established = services::connect(tunnel.probe().local);
    // No server has this key id, so the channel stays pending and in use.
    let attach = |channel| {
        let header = AttachHeader {
            port: Id([3; 16]),
            instance: None,
            avoid: Vec::new(),
        };
        Frame::Attach {
            channel,
            header,
            message: Bytes::from_static(&[1; 48]),
        }
    };
    let again = (attach(5), attach(5));
    type SendAction = Box<dyn FnOnce(&mut Peer)>;
    let out_of_state: Vec<(&str, Role, SendAction)> = vec![
        (
            "text",
            Role::Client,
            Box::new(|peer| peer.send_raw(Message::text("hello?"))),
        ),
        (
            "a second HELLO",
            Role::Client,
            Box::new(|peer| {
                peer.send(&Frame::Hello {
                    proof: [0; 32],
                    claims: Bytes::from_static(b"{}"),
                })
            }),
        ),
        (
            "a client that registers",
            Role::Client,
            Box::new(|peer| {
                peer.send(&Frame::Register(Ports {
                    ports: vec![Id([1; 16])],
                }))
            }),
        ),
        (
            "a server that attaches",
            Role::Server,
            Box::new(move |peer| peer.send(&attach(1))),
        ),
        (
            "a channel twice",
            Role::Client,
            Box::new(move |peer| [again.0, again.1].iter().for_each(|frame| peer.send(frame))),
        ),
        (
            "a truncated ATTACH",
            Role::Client,
            Box::new(|peer| peer.send_raw(message(0x06, &[0, 0, 0, 1, 0, 200, b'{']))),
        ),
        (
            "a truncated PAUSE",
            Role::Client,
            Box::new(|peer| peer.send_raw(message(0x08, &[0, 0]))),
        ),
        (
            "broken JSON",
            Role::Server,
            Box::new(|peer| peer.send_raw(message(0x03, b"{\"ports\": ["))),
        ),
        (
            "a WELCOME",
            Role::Server,
            Box::new(|peer| {
                peer.send(&Frame::Welcome {
                    proof: [0; 32],
                    terms: Bytes::from_static(b"{}"),
                })
            }),
        ),
    ];
    for (name, role, action) in out_of_state {
        assert_eq!(
            close_code_after(&tunnel, Some(role), action),
            Some(Code::Protocol),
            "{name}"
        );
        services::ping(&established, name.as_bytes()).unwrap();
    }
    assert!(tunnel.is_connected());
}

#[test]
fn messages_of_later_versions_are_ignored() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let mut peer = Peer::connect(tunnel.testbed.master_address());
    peer.hello(Role::Client, &LinkKey::derive(None), Id(peer::random()), 1);
    assert!(matches!(peer.frame(), Some(Frame::Welcome { .. })));
    peer.send_raw(message(0x80, b"an extension"));
    // Frames for channels that are not open: they crossed a CLOSE.
    peer.send(&Frame::Pause(77));
    peer.send(&Frame::Data {
        channel: 77,
        payload: Bytes::from_static(b"late"),
    });
    peer.send(&Frame::Ping(42));
    assert_eq!(peer.frame(), Some(Frame::Pong(42)));
}

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
fn a_server_refuses_a_garbage_attach_and_serves_other_clients() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let established = services::connect(tunnel.probe().local);
    let mut peer = Peer::connect(tunnel.testbed.master_address());
    peer.hello(Role::Client, &LinkKey::derive(None), Id(peer::random()), 1);
    let header = AttachHeader {
        port: PortKeys::derive(&tunnel.probe().key).id,
        instance: None,
        avoid: Vec::new(),
    };
    peer.send(&Frame::Attach {
        channel: 9,
        header,
        message: content::random(2, 100).into(),
    });
    let closed = wait::until("the channel is closed", || match peer.try_read() {
        Received::Message(message) => match Frame::decode(message).unwrap() {
            Frame::Close { channel: 9, notice } => Some(notice.code),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(closed, Code::Handshake);
    services::ping(&established, b"undisturbed").unwrap();
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
