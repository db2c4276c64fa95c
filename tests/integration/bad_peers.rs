//! Peers that are not what they should be: the side that can act says so clearly, and nobody else is disturbed.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use report::{
    crypto::{LinkKey, PortKeys},
    frame::{AttachHeader, Code, Frame, Ports, Role},
    id::Id,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    bytes as content, nginx,
    peer::{self, Heard, Peer},
    proxy::{Cut, Proxy},
    services::{self, Ending},
    tunnel::{Fields, Front, Methods, Port, Scene, Tunnel},
    wait,
};

#[test]
fn a_wrong_master_key_is_said_at_the_server_and_disturbs_nobody() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let standing = services::connect(tunnel.probe().local);
    let port = [Port::new("elsewhere", "127.0.0.1:9", Methods::USUAL)];
    let stranger = tunnel.scene.server(
        "stranger",
        &port,
        json!({"master_key": "not the master's key at all"}),
    );
    stranger.wait_for_line(&["ERROR", "master_key"]);
    services::ping(&standing, b"undisturbed").unwrap();
    assert!(tunnel.is_joined());
    assert!(!stranger.log().contains("not the master's key at all"));
}

#[test]
fn many_wrong_master_keys_are_throttled_and_the_known_server_comes_back_all_the_same() {
    let scene = Scene::new(Front::Direct);
    let path = Proxy::start(scene.master_address());
    let fields = Fields {
        server: json!({"master": path.address().to_string()}),
        ..Default::default()
    };
    let tunnel = Tunnel::on(scene, Vec::new(), fields);
    let (key, instance) = (LinkKey::derive(Some("wrong")), Id(peer::random()));
    let codes = (0..200).map(|epoch| {
        let mut stranger = Peer::connect(tunnel.scene.master_address());
        stranger.hello(Role::Server, &key, instance, epoch);
        stranger.ended().map(|notice| notice.code)
    });
    let codes: Vec<_> = codes
        .take_while(|code| *code != Some(Code::Throttled))
        .collect();
    assert!(codes.len() < 200, "the address is throttled at last");
    assert!(
        codes.iter().all(|code| *code == Some(Code::Unauthorized)),
        "{codes:?}"
    );
    path.cut(Cut::Reset);
    tunnel.wait_until_joined();
}

/// A client whose port differs from the server's in its methods.
fn mismatched(server: Methods, client: Methods, words: &[&str]) {
    let scene = Scene::new(Front::Direct);
    let echo = services::echo();
    let port = Port::new("unequal", echo.address(), server);
    let _master = scene.master(json!({}));
    let server = scene.server("server", std::slice::from_ref(&port), json!({}));
    let theirs = [Port {
        methods: client,
        ..port
    }];
    let client = scene.client("client", &theirs, json!({"hold_timeout": "3s"}));
    let stream = services::connect(theirs[0].local);
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
    for role in [&server, &client] {
        let line = role.wait_for_line(&[&["unequal"], words].concat());
        assert!(line.contains("ERROR") || line.contains("WARN"), "{line}");
    }
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn encryption_that_differs_is_said_at_both_ends_with_both_values() {
    let [server, client] = ["aes-128-gcm", "aes-128-cfb"].map(|encrypt| Methods {
        encrypt,
        compress: "null",
    });
    mismatched(server, client, &["aes-128-gcm", "aes-128-cfb"]);
}

#[test]
fn compression_that_differs_is_said_at_both_ends_with_both_values() {
    let [server, client] = ["zstd", "s2"].map(|compress| Methods {
        encrypt: "plain",
        compress,
    });
    mismatched(server, client, &["zstd", "s2"]);
}

#[test]
fn an_unknown_port_key_looks_like_an_absent_server_and_is_said_at_the_client() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let unknown = [Port::new("unknown", "127.0.0.1:9", Methods::USUAL)];
    let client = tunnel
        .scene
        .client("stranger", &unknown, json!({"hold_timeout": "1s"}));
    let stream = services::connect(unknown[0].local);
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
    client.wait_for_line(&["unknown", "no server for this port key"]);
    assert!(tunnel.is_joined());
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
fn a_master_of_another_version_is_named_with_both_versions() {
    let scene = Scene::new(Front::Direct);
    let listener = TcpListener::bind(scene.master_address()).unwrap();
    let ports = [Port::new("any", "127.0.0.1:9", Methods::USUAL)];
    let roles = [
        scene.server("server", &ports, json!({})),
        scene.role("client", &scene.client_configuration(&ports, json!({}))),
    ];
    for _ in &roles {
        let mut peer = Peer::accept(&listener);
        peer.say(challenge_of_version(2));
        peer.ended();
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
fn a_websocket_that_is_no_master_is_said_to_be_none() {
    let scene = Scene::new(Front::Direct);
    let listener = TcpListener::bind(scene.master_address()).unwrap();
    let ports = [Port::new("any", "127.0.0.1:9", Methods::USUAL)];
    let server = scene.server("server", &ports, json!({}));
    let mut peer = Peer::accept(&listener);
    peer.say(Message::text("welcome to the chat"));
    peer.ended();
    server.wait_for_line(&["cannot join the master", "text message"]);
    let mut peer = Peer::accept(&listener);
    peer.say(content::random(3, 32));
    peer.ended();
    server.wait_for_line(&["ERROR", "not a rePort master"]);
}

#[test]
fn a_master_that_is_some_other_web_server_is_said_to_be_one() {
    let scene = Scene::new(Front::Direct);
    std::fs::create_dir(scene.folder().join("site")).unwrap();
    let _web = nginx::file_server(
        scene.folder(),
        scene.master_address(),
        &scene.folder().join("site"),
    );
    let ports = [Port::new("any", "127.0.0.1:9", Methods::USUAL)];
    let server = scene.server("server", &ports, json!({}));
    let mut client = scene.client("client", &ports, json!({}));
    for role in [&server, &client] {
        // What nginx answers to an upgrade of a folder without an index.
        let line = role.wait_for_line(&[&scene.master_address().to_string(), "40"]);
        assert!(line.contains("ERROR") || line.contains("WARN"), "{line}");
    }
    assert!(!client.has_ended(), "roles try for ever");
    assert!(client.stop().success());
}

#[test]
fn a_certificate_that_nobody_trusts_is_said_with_the_remedy() {
    let scene = Scene::new(Front::Tls);
    let _master = scene.master(json!({}));
    let ports = [Port::new("any", "127.0.0.1:9", Methods::USUAL)];
    let server = scene.server("server", &ports, json!({"tls": null}));
    server.wait_for_line(&["certificate", "not trusted", "tls.ca"]);
}

/// Says things to the master, as one who is not yet known or as a role; the end that the master makes of it is given back.
fn said_to(tunnel: &Tunnel, role: Option<Role>, says: impl FnOnce(&mut Peer)) -> Option<Code> {
    let mut peer = Peer::connect(tunnel.scene.master_address());
    if let Some(role) = role {
        let key =
            LinkKey::derive((role == Role::Server).then_some(tunnel.scene.master_key.as_str()));
        peer.hello(role, &key, Id(peer::random()), 1);
        assert!(
            matches!(peer.frame(), Some(Frame::Welcome { .. })),
            "the role is let in"
        );
    } else {
        assert_eq!(peer.message().map(|challenge| challenge.len()), Some(32));
    }
    says(&mut peer);
    peer.ended().map(|notice| notice.code)
}

/// A message of a type byte and these bytes.
fn message(kind: u8, rest: &[u8]) -> Bytes {
    [&[kind], rest].concat().into()
}

#[test]
fn a_stranger_who_speaks_nonsense_is_put_out_and_nobody_is_disturbed() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let standing = services::connect(tunnel.probe().local);
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
    type Say = Box<dyn FnOnce(&mut Peer)>;
    let nonsense: Vec<(&str, Say)> = vec![
        ("text", Box::new(|peer| peer.say(Message::text("hello?")))),
        ("an empty message", Box::new(|peer| peer.say(Bytes::new()))),
        (
            "garbage",
            Box::new(|peer| peer.say(content::random(1, 500))),
        ),
        (
            "an unknown type",
            Box::new(|peer| peer.say(message(0x0f, b"?"))),
        ),
        (
            "an oversized message",
            Box::new(|peer| peer.say(message(0x01, &vec![b' '; 200_000]))),
        ),
        (
            "an oversized control frame",
            Box::new(|peer| peer.say(message(0x01, &vec![b' '; 100_000]))),
        ),
        (
            "a truncated HELLO",
            Box::new(|peer| peer.say(message(0x01, &[0; 20]))),
        ),
        (
            "a HELLO without claims",
            Box::new(|peer| peer.say(message(0x01, &[[b'0'; 32].as_slice(), b"{}"].concat()))),
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
    for (name, say) in nonsense {
        let code = said_to(&tunnel, None, say);
        assert!(
            matches!(code, None | Some(Code::Protocol)),
            "{name}: {code:?}"
        );
        services::ping(&standing, name.as_bytes()).unwrap();
    }
    assert!(tunnel.is_joined());
}

#[test]
fn a_role_that_speaks_out_of_state_is_put_out_and_nobody_is_disturbed() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let standing = services::connect(tunnel.probe().local);
    // Nobody has it, so that the channel waits and stays in use.
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
    type Say = Box<dyn FnOnce(&mut Peer)>;
    let out_of_state: Vec<(&str, Role, Say)> = vec![
        (
            "text",
            Role::Client,
            Box::new(|peer| peer.say(Message::text("hello?"))),
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
            Box::new(|peer| peer.say(message(0x06, &[0, 0, 0, 1, 0, 200, b'{']))),
        ),
        (
            "a truncated PAUSE",
            Role::Client,
            Box::new(|peer| peer.say(message(0x08, &[0, 0]))),
        ),
        (
            "broken JSON",
            Role::Server,
            Box::new(|peer| peer.say(message(0x03, b"{\"ports\": ["))),
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
    for (name, role, say) in out_of_state {
        assert_eq!(
            said_to(&tunnel, Some(role), say),
            Some(Code::Protocol),
            "{name}"
        );
        services::ping(&standing, name.as_bytes()).unwrap();
    }
    assert!(tunnel.is_joined());
}

#[test]
fn what_later_versions_may_say_is_ignored() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let mut peer = Peer::connect(tunnel.scene.master_address());
    peer.hello(Role::Client, &LinkKey::derive(None), Id(peer::random()), 1);
    assert!(matches!(peer.frame(), Some(Frame::Welcome { .. })));
    peer.say(message(0x80, b"an extension"));
    // Frames for channels that are not open crossed a CLOSE.
    peer.send(&Frame::Pause(77));
    peer.send(&Frame::Data {
        channel: 77,
        payload: Bytes::from_static(b"late"),
    });
    peer.send(&Frame::Ping(42));
    assert_eq!(peer.frame(), Some(Frame::Pong(42)));
}

#[test]
fn a_stranger_who_says_nothing_is_put_out_by_the_deadline() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let address = tunnel.scene.master_address();
    let start = Instant::now();
    let mut silent = Peer::connect(address);
    let mut half_a_header = TcpStream::connect(address).unwrap();
    half_a_header
        .write_all(b"GET / HTTP/1.1\r\nHost: ")
        .unwrap();
    let mut nothing_at_all = TcpStream::connect(address).unwrap();
    // They hold nobody up meanwhile.
    assert!(tunnel.is_joined());
    silent.ended();
    let elapsed = start.elapsed();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(20)).contains(&elapsed),
        "AUTHENTICATION_TIMEOUT is 10 s, not {elapsed:?}"
    );
    for stream in [&mut half_a_header, &mut nothing_at_all] {
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(start.elapsed() < wait::PATIENCE, "they are put out too");
}

#[test]
fn a_request_with_a_huge_header_is_refused_and_disturbs_nobody() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let mut stream = services::connect(tunnel.scene.master_address());
    let header = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    // The master may close before it has read all of it.
    let _ = stream.write_all(header.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(tunnel.is_joined());
}

#[test]
fn a_client_that_attaches_garbage_is_refused_by_the_server_and_disturbs_nobody() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let standing = services::connect(tunnel.probe().local);
    let mut peer = Peer::connect(tunnel.scene.master_address());
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
    let closed = wait::until("the channel is closed", || match peer.look() {
        Heard::Message(message) => match Frame::decode(message).unwrap() {
            Frame::Close { channel: 9, notice } => Some(notice.code),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(closed, Code::Handshake);
    services::ping(&standing, b"undisturbed").unwrap();
}

#[test]
fn links_beyond_the_limit_of_an_address_give_way_to_newer_ones_and_disturb_nobody() {
    let scene = Scene::new(Front::Direct);
    let fields = Fields {
        master: json!({"limits": {"links_per_address": 8}}),
        ..Default::default()
    };
    let tunnel = Tunnel::on(scene, Vec::new(), fields);
    let address = tunnel.scene.master_address();
    let link = || {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let (mut socket, _) =
            tokio_tungstenite::tungstenite::client(format!("ws://{address}/"), stream).ok()?;
        // The challenge, or else the end.
        socket
            .read()
            .is_ok_and(|message| message.is_binary())
            .then_some(socket)
    };
    let mut links: Vec<_> = (0..20).filter_map(|_| link()).collect();
    assert!(!links.is_empty(), "a newer one is let in");
    let is_silence = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        )
    };
    let mut standing = 0;
    for socket in &mut links {
        socket
            .get_ref()
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        standing += usize::from(
            matches!(socket.get_mut().read(&mut [0]), Err(error) if is_silence(&error)),
        );
    }
    assert!(
        standing <= 6,
        "{standing} links stand beside the two of the tunnel"
    );
    services::ping(&services::connect(tunnel.probe().local), b"undisturbed").unwrap();
}
