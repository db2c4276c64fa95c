//! The limits of a hostile master. It sees no plaintext and no port key, and it gets no data out of
//! a service.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use bytes::Bytes;
use report_proto::{
    crypto::{LinkKey, PortKeys},
    frame::{AttachHeader, Code, Frame, Role},
};
use serde_json::json;

use crate::support::{
    bytes as content, memory,
    peer::{Peer, Received},
    proxy::{Path, Proxy},
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
    wait,
};

const ENCRYPTED: [&str; 3] = ["aes-128-cfb", "aes-128-gcm", "chacha20-poly1305"];

/// Larger than what a path buffers, so part of it is in the master's queues too.
const CONTENT: usize = 2 << 20;

/// A service that sends one unique text over and over.
struct MarkedService {
    marker: String,
    port: Port,
    _service: Service,
}

impl MarkedService {
    fn new(encrypt: &'static str) -> MarkedService {
        let marker = format!(
            "a unique text of the service with {encrypt}, {}",
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
        MarkedService {
            marker,
            port,
            _service: service,
        }
    }
}

#[test]
fn neither_path_nor_master_sees_plaintext_or_port_keys() {
    let testbed = Testbed::new(Front::Direct);
    let [server_path, client_path] = [(); 2].map(|()| Proxy::recording(testbed.master_address()));
    let sealed = ENCRYPTED.map(MarkedService::new);
    let plain = MarkedService::new("plain");
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
    let tunnel = Tunnel::on(testbed, ports.clone(), fields);

    // One transfer of each port has completed. A second one of each is in progress, at a low rate.
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
        // Roles mask what they send, and the masking key travels with the payload, so a mask hides
        // nothing.
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
        // The search works: the plain port's text is visible.
        assert!(
            content::contains(from_service, plain.marker.as_bytes()),
            "the plain port is readable on the {name}'s path"
        );
    }
    let found = memory::found_in_memory(tunnel.master.pid(), &secrets);
    assert!(
        found.is_empty(),
        "the master's memory contains {:?}",
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
        "the search finds the key ids, which the master holds"
    );
}

/// The payloads of a role's WebSocket, without the HTTP request before them.
fn unmasked(recorded: &[u8]) -> Vec<u8> {
    let end = recorded
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("the end of the request")
        + 4;
    let mut rest = &recorded[end..];
    let mut payloads = Vec::new();
    // The last frame may be incomplete.
    while let Some((payload, behind)) = first_frame(rest) {
        payloads.extend(payload);
        rest = behind;
    }
    payloads
}

/// The unmasked payload of the first frame (RFC 6455, section 5.2) and the bytes after it. `None`
/// when the frame is incomplete.
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
fn the_logs_contain_no_key() {
    let echo = services::echo();
    let fields = || json!({"log_level": "trace"});
    let fields = Fields {
        master: fields(),
        server: fields(),
        client: fields(),
    };
    let tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        vec![Port::new("echo", echo.address(), Methods::DEFAULT)],
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
            tunnel.testbed.master_key.as_str(),
            spoken,
        ] {
            assert!(!log.contains(secret), "the {name}'s log contains {secret}");
        }
    }
}

/// A master that the test controls, with a real server and a real client linked to it.
struct FalseMaster {
    server: Peer,
    client: Peer,
    /// The client's ATTACH as received.
    attach: (AttachHeader, Bytes),
    /// DATA from the client on the channel, after its ATTACH.
    sent: Vec<Bytes>,
    /// The number of the channel at the client. At the server it is [`FIRST`].
    client_channel: u32,
}

const FIRST: u32 = 1;

impl FalseMaster {
    /// Establishes the client's tunnel to the server. There is one port.
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

    /// Relays DATA in both directions and records what the client sends, for as long as `work`
    /// runs.
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

    /// The code with which the server closes the channel. Frames that the server sends before the
    /// CLOSE are ignored.
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
    let Received::Message(message) = peer.try_read() else {
        return None;
    };
    Some(Frame::decode(message).unwrap())
}

#[test]
fn replayed_or_forged_channels_reach_no_plain_service() {
    replays_reach_nothing("plain");
}

#[test]
fn replayed_or_forged_channels_reach_no_encrypted_service() {
    for encrypt in ENCRYPTED {
        replays_reach_nothing(encrypt);
    }
}

fn replays_reach_nothing(encrypt: &'static str) {
    let testbed = Testbed::new(Front::Direct);
    let listener = TcpListener::bind(testbed.master_address()).unwrap();
    let echo = services::echo();
    let ports = [Port::new(
        "echo",
        echo.address(),
        Methods {
            encrypt,
            compress: "null",
        },
    )];
    let _server = testbed.server("server", &ports, json!({}));
    let _client = testbed.role("client", &testbed.client_configuration(&ports, json!({})));
    let mut master = FalseMaster::join(&listener, &testbed.master_key);
    let local = ports[0].local;
    let mut application = master.relay_during(move || {
        wait::until_true("the client listens", || services::echoes(local));
        let application = services::connect(local);
        services::ping(&application, b"open the door").unwrap();
        application
    });
    let accepted = echo.accepted();
    let sent = master.sent.clone();
    assert!(!sent.is_empty(), "the client's messages were recorded");

    // Replay everything that the client sent, on a new channel.
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

    // A forged handshake, made without the port key.
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
        "{encrypt}: the service saw no new connection"
    );

    // Replay one message on the established channel.
    let again = sent.last().unwrap().clone();
    master.server.send(&Frame::Data {
        channel: FIRST,
        payload: again,
    });
    assert_eq!(master.closed_by_server(FIRST), Code::Seal, "{encrypt}");
    assert_eq!(
        echo.accepted(),
        accepted,
        "{encrypt}: the service saw no new connection"
    );
    // The application must not receive an answer to a request that it never sent.
    application
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(!matches!(application.read(&mut [0]), Ok(1..)), "{encrypt}");
    let _ = application.write(b"!");
}

#[test]
fn a_server_refuses_a_master_without_the_master_key() {
    let testbed = Testbed::new(Front::Direct);
    let listener = TcpListener::bind(testbed.master_address()).unwrap();
    let echo = services::echo();
    let server = testbed.server(
        "server",
        &[Port::new("echo", echo.address(), Methods::DEFAULT)],
        json!({}),
    );
    let mut peer = Peer::accept(&listener);
    // This master accepts every role and sends a WELCOME with a forged proof.
    peer.send_raw(Bytes::copy_from_slice(
        report_proto::crypto::Challenge::new(crate::support::peer::random()).as_bytes(),
    ));
    let Some(Frame::Hello { .. }) = peer.frame() else {
        panic!("the server sends HELLO")
    };
    let terms = json!({"version": 1, "heartbeat_seconds": 20, "max_channels": 10, "max_ports": 10})
        .to_string();
    peer.send(&Frame::Welcome {
        proof: [7; 32],
        terms: terms.into(),
    });
    peer.wait_closed();
    server.wait_for_line(&["master", "key"]);
    assert_eq!(echo.accepted(), 0);
}
