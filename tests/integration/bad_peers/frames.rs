//! Messages and frames that the protocol does not allow, and those of later versions.

use bytes::Bytes;
use report_proto::{
    crypto::{LinkKey, PortKeys},
    frame::{AttachHeader, Code, Frame, Ports, Registered, Role},
    id::Id,
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    bytes as content,
    peer::{self, Peer, Received},
    services,
    tunnel::{Front, Tunnel},
    wait,
};

/// Sends messages to the master, before HELLO (`None`) or as a role. Returns the code with which
/// the master ends the link.
fn close_code_after(tunnel: &Tunnel, role: Option<Role>, messages: Vec<Message>) -> Option<Code> {
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
    for message in messages {
        peer.send_raw(message);
    }
    peer.wait_closed().map(|notice| notice.code)
}

/// A message of a type byte and these bytes.
fn message(kind: u8, rest: &[u8]) -> Message {
    Message::binary([&[kind], rest].concat())
}

/// The message of a frame.
fn encoded(frame: &Frame) -> Message {
    Message::binary(frame.to_message())
}

/// ATTACH with a message that is not the first one of a handshake.
fn attach(channel: u32, port: Id) -> Message {
    let header = AttachHeader {
        port,
        instance: None,
        avoid: Vec::new(),
    };
    encoded(&Frame::Attach {
        channel,
        header,
        message: Bytes::from_static(&[1; 48]),
    })
}

/// REGISTER of one key id.
fn register() -> Message {
    let ports = vec![Id([1; 16])];
    encoded(&Frame::Register(Ports { ports }))
}

/// Messages that no peer sends before HELLO, with their names. The service has the key id `port`.
fn nonsense(port: Id) -> [(&'static str, Message); 12] {
    let data = Frame::Data {
        channel: 1,
        payload: Bytes::from_static(b"?"),
    };
    let registered = Frame::Registered(Registered::default());
    let without_claims = [[b'0'; 32].as_slice(), b"{}"].concat();
    [
        ("text", Message::text("hello?")),
        ("an empty message", Message::binary(Bytes::new())),
        ("garbage", Message::binary(content::random(1, 500))),
        ("an unknown type", message(0x0f, b"?")),
        ("an oversized message", message(0x01, &vec![b' '; 200_000])),
        (
            "an oversized control frame",
            message(0x01, &vec![b' '; 100_000]),
        ),
        ("a truncated HELLO", message(0x01, &[0; 20])),
        ("a HELLO without claims", message(0x01, &without_claims)),
        ("DATA before HELLO", encoded(&data)),
        ("ATTACH before HELLO", attach(1, port)),
        ("REGISTER before HELLO", register()),
        ("a master's frame", encoded(&registered)),
    ]
}

#[test]
fn a_connection_that_sends_nonsense_is_closed_and_the_tunnel_keeps_working() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let established = services::connect(tunnel.probe().local);
    let port = PortKeys::derive(&tunnel.probe().key).id;
    for (name, message) in nonsense(port) {
        let code = close_code_after(&tunnel, None, vec![message]);
        assert!(
            matches!(code, None | Some(Code::Protocol)),
            "{name}: {code:?}"
        );
        services::ping(&established, name.as_bytes()).unwrap();
    }
    assert!(tunnel.is_connected());
}

/// Messages that end the link of a role, with their names and the role.
fn out_of_state() -> [(&'static str, Role, Vec<Message>); 9] {
    // No server has this key id, so the channel stays pending and in use.
    let attach = |channel| attach(channel, Id([3; 16]));
    let hello = Frame::Hello {
        proof: [0; 32],
        claims: Bytes::from_static(b"{}"),
    };
    let welcome = Frame::Welcome {
        proof: [0; 32],
        terms: Bytes::from_static(b"{}"),
    };
    let truncated_attach = message(0x06, &[0, 0, 0, 1, 0, 200, b'{']);
    let truncated_pause = message(0x08, &[0, 0]);
    let broken_json = message(0x03, b"{\"ports\": [");
    [
        ("text", Role::Client, vec![Message::text("hello?")]),
        ("a second HELLO", Role::Client, vec![encoded(&hello)]),
        ("a client that registers", Role::Client, vec![register()]),
        ("a server that attaches", Role::Server, vec![attach(1)]),
        ("a channel twice", Role::Client, vec![attach(5), attach(5)]),
        ("a truncated ATTACH", Role::Client, vec![truncated_attach]),
        ("a truncated PAUSE", Role::Client, vec![truncated_pause]),
        ("broken JSON", Role::Server, vec![broken_json]),
        ("a WELCOME", Role::Server, vec![encoded(&welcome)]),
    ]
}

#[test]
fn a_role_that_sends_frames_out_of_state_is_disconnected_and_the_tunnel_keeps_working() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let established = services::connect(tunnel.probe().local);
    for (name, role, messages) in out_of_state() {
        assert_eq!(
            close_code_after(&tunnel, Some(role), messages),
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
