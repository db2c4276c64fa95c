//! A master that replays and forges messages, and one without the master key.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use bytes::Bytes;
use report_proto::{
    crypto::LinkKey,
    frame::{AttachHeader, Code, Frame, Registered, Role},
};
use serde_json::json;

use super::ENCRYPTED;
use crate::support::{
    peer::{Peer, Received},
    services,
    tunnel::{Front, Methods, Port, Testbed},
    wait,
};

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
        server.send(&Frame::Registered(Registered::new(ports.ports)));
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

    /// Sends everything that the client sent to the server, on a new channel.
    fn replay(&mut self, channel: u32) {
        let (header, message) = self.attach.clone();
        self.server.send(&Frame::Attach {
            channel,
            header,
            message,
        });
        for payload in &self.sent {
            self.server.send(&Frame::Data {
                channel,
                payload: payload.clone(),
            });
        }
    }

    /// Opens a channel with a forged handshake, made without the port key.
    fn forge_attach(&mut self, channel: u32) {
        let (header, message) = self.attach.clone();
        let mut invented = message.to_vec();
        invented.iter_mut().for_each(|byte| *byte ^= 0x55);
        self.server.send(&Frame::Attach {
            channel,
            header,
            message: invented.into(),
        });
    }

    /// Sends the client's last message again, on the established channel.
    fn replay_last_message(&mut self) {
        let payload = self.sent.last().unwrap().clone();
        self.server.send(&Frame::Data {
            channel: FIRST,
            payload,
        });
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
    let compress = "null";
    let methods = Methods { encrypt, compress };
    let ports = [Port::new("echo", echo.address(), methods)];
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
    let assert_no_new_connection = || {
        assert_eq!(
            echo.accepted(),
            accepted,
            "{encrypt}: the service saw no new connection"
        );
    };
    assert!(
        !master.sent.is_empty(),
        "the client's messages were recorded"
    );

    master.replay(2);
    assert_eq!(master.closed_by_server(2), Code::Seal, "{encrypt}");
    master.forge_attach(3);
    assert_eq!(master.closed_by_server(3), Code::Handshake, "{encrypt}");
    assert_no_new_connection();

    master.replay_last_message();
    assert_eq!(master.closed_by_server(FIRST), Code::Seal, "{encrypt}");
    assert_no_new_connection();
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
