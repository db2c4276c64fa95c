//! Peers with a wrong key, method, version, address or certificate.

use std::net::TcpListener;

use bytes::Bytes;
use report_proto::{
    crypto::LinkKey,
    frame::{Code, Role},
    id::Id,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    bytes as content, nginx,
    peer::{self, Peer},
    proxy::{Cut, Proxy},
    services::{self, Ending},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
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
fn a_port_that_is_udp_at_the_server_only_is_logged_at_both_ends() {
    let testbed = Testbed::new(Front::Direct);
    let port = [Port {
        at_server: json!({"protocol": "udp"}),
        ..Port::new("unequal", "127.0.0.1:9", Methods::DEFAULT)
    }];
    let _master = testbed.master(json!({}));
    let server = testbed.server("server", &port, json!({}));
    let client = testbed.client("client", &port, json!({"hold_timeout": "3s"}));
    let stream = services::connect(port[0].local);
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
    for role in [&server, &client] {
        let line = role.wait_for_line(&["unequal", "protocol", "udp", "tcp"]);
        assert!(line.contains("ERROR") || line.contains("WARN"), "{line}");
    }
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
