//! What the master can see and do: no plaintext, no port key, and nothing of a service.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use bytes::Bytes;
use report::{
    crypto::{LinkKey, PortKeys},
    frame::{AttachHeader, Code, Frame, Role},
};
use serde_json::json;

use crate::support::{
    bytes as content, memory,
    peer::{Heard, Peer},
    proxy::{Path, Proxy},
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, Scene, Tunnel},
    wait,
};

const ENCRYPTED: [&str; 3] = ["aes-128-cfb", "aes-128-gcm", "chacha20-poly1305"];

/// More than a path holds, so that it is in the master's queues too.
const CONTENT: usize = 2 << 20;

/// A service full of a text that is nowhere else.
struct Marked {
    marker: String,
    port: Port,
    _service: Service,
}

impl Marked {
    fn new(encrypt: &'static str) -> Marked {
        let marker = format!(
            "a text that only the service of {encrypt} knows, {}",
            content::hexadecimal(&content::random(fastrand::u64(..), 16))
        );
        let repeated = marker
            .as_bytes()
            .iter()
            .copied()
            .cycle()
            .take(CONTENT)
            .collect();
        let service = services::source_that_stays(repeated);
        let port = Port::new(
            encrypt,
            service.address(),
            Methods {
                encrypt,
                compress: "null",
            },
        );
        Marked {
            marker,
            port,
            _service: service,
        }
    }
}

#[test]
fn neither_the_path_nor_the_master_sees_plaintext_or_port_keys() {
    let scene = Scene::new(Front::Direct);
    let [server_path, client_path] = [(); 2].map(|()| Proxy::recording(scene.master_address()));
    let sealed = ENCRYPTED.map(Marked::new);
    let plain = Marked::new("plain");
    let ports = sealed
        .iter()
        .chain([&plain])
        .map(|marked| marked.port.clone())
        .collect::<Vec<_>>();
    let fields = Fields {
        server: json!({"master": server_path.address().to_string()}),
        client: json!({"master": client_path.address().to_string()}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(scene, ports.clone(), fields);

    // One transfer of each port has gone through, another is under way, slowly.
    for port in &ports {
        services::connect(port.local)
            .read_exact(&mut vec![0; CONTENT])
            .unwrap();
    }
    client_path.set_path(Path {
        bytes_per_second: Some(128 << 10),
        ..Path::default()
    });
    let under_way: Vec<_> = ports
        .iter()
        .map(|port| services::connect(port.local))
        .collect();
    for mut stream in &under_way {
        stream.read_exact(&mut [0]).unwrap();
    }

    let mut secrets: Vec<&[u8]> = sealed
        .iter()
        .map(|marked| marked.marker.as_bytes())
        .collect();
    secrets.extend(ports.iter().map(|port| port.key.as_bytes()));
    for (name, path) in [("server", &server_path), ("client", &client_path)] {
        let [up, down] = path.recorded();
        // Roles mask what they send, and the key stands beside it: a mask hides nothing.
        let up = [unmasked(&up), up].concat();
        for secret in &secrets {
            let seen = content::contains(&up, secret) || content::contains(&down, secret);
            assert!(
                !seen,
                "on the {name}'s path: {}",
                String::from_utf8_lossy(secret)
            );
        }
        let from_service = if name == "server" { &up } else { &down };
        assert!(
            from_service.len() > ports.len() * CONTENT,
            "the {name}'s path was recorded"
        );
        // What is looked for would be found: plain hides nothing.
        assert!(
            content::contains(from_service, plain.marker.as_bytes()),
            "plain is readable on the {name}'s path"
        );
    }
    let found = memory::found_in_memory(tunnel.master.pid(), &secrets);
    assert!(
        found.is_empty(),
        "the master holds {:?}",
        found
            .iter()
            .map(|secret| String::from_utf8_lossy(secret))
            .collect::<Vec<_>>()
    );
    let ids: Vec<[u8; 16]> = ports
        .iter()
        .map(|port| PortKeys::derive(&port.key).id.0)
        .collect();
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_slice()).collect();
    let held = memory::found_in_memory(tunnel.master.pid(), &ids);
    assert!(
        ids.iter().all(|id| held.contains(id)),
        "the search finds what the master does hold: the key ids"
    );
}

/// The payloads of a role's WebSocket, the HTTP request before them left out.
fn unmasked(recorded: &[u8]) -> Vec<u8> {
    let end = recorded
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("the end of the request")
        + 4;
    let mut rest = &recorded[end..];
    let mut payloads = Vec::new();
    // The last frame may have been under way.
    while let Some((payload, behind)) = first_frame(rest) {
        payloads.extend(payload);
        rest = behind;
    }
    payloads
}

/// The unmasked payload of the first frame (RFC 6455, section 5.2) and what follows it; nothing when it is not whole.
fn first_frame(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&[_, length], rest) = bytes.split_first_chunk()?;
    assert!(length & 0x80 != 0, "a role masks");
    let (length, rest) = match length & 0x7f {
        126 => rest
            .split_first_chunk()
            .map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest
            .split_first_chunk()
            .map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        length => (u64::from(length), rest),
    };
    let (mask, rest) = rest.split_first_chunk::<4>()?;
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect(),
        rest,
    ))
}

#[test]
fn the_logs_hold_no_key() {
    let echo = services::echo();
    let fields = || json!({"log_level": "trace"});
    let fields = Fields {
        master: fields(),
        server: fields(),
        client: fields(),
    };
    let tunnel = Tunnel::on(
        Scene::new(Front::Direct),
        vec![Port::new("echo", echo.address(), Methods::USUAL)],
        fields,
    );
    let spoken = "a line that passes through the tunnel";
    services::ping(&services::connect(tunnel.local("echo")), spoken.as_bytes()).unwrap();
    for (name, role) in [
        ("master", &tunnel.master),
        ("server", &tunnel.server),
        ("client", &tunnel.client),
    ] {
        let log = role.log();
        assert!(!log.is_empty(), "the {name} logs at trace");
        for secret in [
            tunnel.probe().key.as_str(),
            tunnel.scene.master_key.as_str(),
            spoken,
        ] {
            assert!(!log.contains(secret), "the {name}'s log holds {secret}");
        }
    }
}

/// A master in the test's hands, with a real server and a real client at it.
struct FalseMaster {
    server: Peer,
    client: Peer,
    /// The client's ATTACH as it came.
    attach: (AttachHeader, Bytes),
    /// What the client sent on the channel after it.
    sent: Vec<Bytes>,
    /// The number of the channel at the client; at the server it is [`FIRST`].
    client_channel: u32,
}

const FIRST: u32 = 1;

impl FalseMaster {
    /// Lets the client's tunnel to the server come up. There is one port.
    fn join(listener: &TcpListener, master_key: &str) -> FalseMaster {
        let key = LinkKey::derive(Some(master_key));
        let [one, other] = [(); 2].map(|()| {
            let mut peer = Peer::accept(listener);
            let role = peer.welcome(&key).role;
            (role, peer)
        });
        let ((_, mut server), (_, mut client)) = if one.0 == Role::Server {
            (one, other)
        } else {
            (other, one)
        };
        let Some(Frame::Register(ports)) = server.frame() else {
            panic!("the server registers")
        };
        server.send(&Frame::Registered(ports));
        let Some(Frame::Attach {
            channel,
            header,
            message,
        }) = client.frame()
        else {
            panic!("the client attaches")
        };
        server.send(&Frame::Attach {
            channel: FIRST,
            header: header.clone(),
            message: message.clone(),
        });
        FalseMaster {
            server,
            client,
            attach: (header, message),
            sent: Vec::new(),
            client_channel: channel,
        }
    }

    /// Carries DATA both ways, and notes what the client sends, while the work goes on.
    fn relay_during<T: Send>(&mut self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = scope.spawn(work);
            while !worker.is_finished() {
                self.relay();
            }
            worker.join().unwrap()
        })
    }

    fn relay(&mut self) {
        if let Some(Frame::Data { payload, .. }) = frame_of(&mut self.client) {
            self.sent.push(payload.clone());
            self.server.send(&Frame::Data {
                channel: FIRST,
                payload,
            });
        }
        if let Some(Frame::Data { payload, .. }) = frame_of(&mut self.server) {
            self.client.send(&Frame::Data {
                channel: self.client_channel,
                payload,
            });
        }
    }

    /// The code with which the server closes the channel; what it sends there before is not looked at.
    fn closed_by_server(&mut self, channel: u32) -> Code {
        loop {
            match self.server.frame() {
                Some(Frame::Close {
                    channel: closed,
                    notice,
                }) if closed == channel => return notice.code,
                Some(_) => {}
                None => panic!("the server ended its link"),
            }
        }
    }
}

fn frame_of(peer: &mut Peer) -> Option<Frame> {
    let Heard::Message(message) = peer.look() else {
        return None;
    };
    Some(Frame::decode(message).unwrap())
}

#[test]
fn a_master_that_replays_or_invents_channels_gets_nothing_out_of_a_plain_service() {
    replays_reach_nothing("plain");
}

#[test]
fn a_master_that_replays_or_invents_channels_gets_nothing_out_of_a_sealed_service() {
    for encrypt in ENCRYPTED {
        replays_reach_nothing(encrypt);
    }
}

fn replays_reach_nothing(encrypt: &'static str) {
    let scene = Scene::new(Front::Direct);
    let listener = TcpListener::bind(scene.master_address()).unwrap();
    let echo = services::echo();
    let ports = [Port::new(
        "echo",
        echo.address(),
        Methods {
            encrypt,
            compress: "null",
        },
    )];
    let _server = scene.server("server", &ports, json!({}));
    let _client = scene.role("client", &scene.client_configuration(&ports, json!({})));
    let mut master = FalseMaster::join(&listener, &scene.master_key);
    let local = ports[0].local;
    let mut application = master.relay_during(move || {
        wait::until_true("the client listens", || services::echoes(local));
        let application = services::connect(local);
        services::ping(&application, b"open the door").unwrap();
        application
    });
    let accepted = echo.accepted();
    let sent = master.sent.clone();
    assert!(!sent.is_empty(), "the client's messages were noted");

    // The whole flight of the client again, on a channel of the master's own.
    let (header, message) = master.attach.clone();
    master.server.send(&Frame::Attach {
        channel: 2,
        header: header.clone(),
        message: message.clone(),
    });
    for payload in &sent {
        master.server.send(&Frame::Data {
            channel: 2,
            payload: payload.clone(),
        });
    }
    assert_eq!(master.closed_by_server(2), Code::Seal, "{encrypt}");

    // A handshake of the master's own making, without the port key.
    let mut invented = message.to_vec();
    invented.iter_mut().for_each(|byte| *byte ^= 0x55);
    master.server.send(&Frame::Attach {
        channel: 3,
        header,
        message: invented.into(),
    });
    assert_eq!(master.closed_by_server(3), Code::Handshake, "{encrypt}");
    assert_eq!(
        echo.accepted(),
        accepted,
        "{encrypt}: the service saw nobody new"
    );

    // A message twice on the channel that stands.
    let again = sent.last().unwrap().clone();
    master.server.send(&Frame::Data {
        channel: FIRST,
        payload: again,
    });
    assert_eq!(master.closed_by_server(FIRST), Code::Seal, "{encrypt}");
    assert_eq!(
        echo.accepted(),
        accepted,
        "{encrypt}: the service saw nobody new"
    );
    // And the application was not given an answer to what it never said.
    application
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(!matches!(application.read(&mut [0]), Ok(1..)), "{encrypt}");
    let _ = application.write(b"!");
}

#[test]
fn a_false_master_that_does_not_know_the_master_key_is_refused_by_the_server() {
    let scene = Scene::new(Front::Direct);
    let listener = TcpListener::bind(scene.master_address()).unwrap();
    let echo = services::echo();
    let server = scene.server(
        "server",
        &[Port::new("echo", echo.address(), Methods::USUAL)],
        json!({}),
    );
    let mut peer = Peer::accept(&listener);
    // It lets everybody in, and proves what it does not know with a key of its own.
    peer.say(Bytes::copy_from_slice(
        report::crypto::Challenge::new(crate::support::peer::random()).as_bytes(),
    ));
    let Some(Frame::Hello { .. }) = peer.frame() else {
        panic!("the server says HELLO")
    };
    let terms = json!({"version": 1, "heartbeat_seconds": 20, "max_channels": 10, "max_ports": 10})
        .to_string();
    peer.send(&Frame::Welcome {
        proof: [7; 32],
        terms: terms.into(),
    });
    peer.ended();
    server.wait_for_line(&["master", "key"]);
    assert_eq!(echo.accepted(), 0);
}
