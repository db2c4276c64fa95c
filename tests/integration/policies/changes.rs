//! Changes of records in SQLite at one running master.

use std::io::Read as _;

use serde_json::json;

use super::Operator;
use crate::support::{
    bytes, services,
    tunnel::{Front, Methods, Port, Testbed},
    wait,
};
use report_proto::frame::Role;

/// A testbed with a database file, and its address.
fn testbed() -> (Testbed, String) {
    let testbed = Testbed::new(Front::Direct);
    let file = testbed.folder().join("keys.db");
    let url = format!("sqlite:{}", file.display());
    (testbed, url)
}

#[test]
fn a_revoked_credential_ends_its_links_and_a_transfer_of_another_account_runs_through() {
    let (testbed, url) = testbed();
    let operator = Operator::open(&url);
    let content = bytes::mixed(7, 16 << 20);
    let (echo, source) = (services::echo(), services::source(content.clone()));
    let friend_port = Port::new("friend", echo.address(), Methods::DEFAULT);
    let other_port = Port::new("other", source.address(), Methods::DEFAULT);
    let (friend, other) = (operator.account("friend"), operator.account("other"));
    let revoked = operator.credential(&friend, Role::Server);
    let kept = operator.credential(&other, Role::Server);
    // No server has the master key, so the master needs none.
    let master = testbed.master(json!({"store": url, "master_key": null}));
    let ports = |port: &Port| vec![port.clone()];
    let friend_server = testbed.server("friend", &ports(&friend_port), revoked.fields());
    let _other_server = testbed.server("other", &ports(&other_port), kept.fields());
    let clients = [friend_port.clone(), other_port.clone()];
    let _client = testbed.client("client", &clients, json!({}));
    wait::until_true("the friend's service answers", || {
        services::echoes(friend_port.local)
    });

    let mut transfer = services::connect(other_port.local);
    let mut first = vec![0; 1 << 20];
    transfer.read_exact(&mut first).expect("it has begun");
    operator.revoke(&revoked);
    master.wait_for_line(&["link denied", "friend", "credential_revoked"]);
    friend_server.wait_for_line(&["the credential is revoked"]);
    friend_server.wait_for_line(&["access_denied", "the credential is revoked"]);
    let (rest, ending) = services::read_to_ending(&transfer);
    first.extend(rest);
    assert_eq!(
        (bytes::sha256(&first), ending),
        (bytes::sha256(&content), services::Ending::Clean)
    );
    // The file holds neither the secret nor the port key.
    let file = std::fs::read(testbed.folder().join("keys.db")).expect("the database");
    for secret in [&revoked.secret, &friend_port.key] {
        assert!(!bytes::contains(&file, secret.as_bytes()));
    }
}

#[test]
fn owned_refuses_a_foreign_key_and_the_clients_of_the_owner_notice_nothing() {
    let (testbed, url) = testbed();
    let operator = Operator::open(&url);
    let echo = services::echo();
    let port = Port::new("service", echo.address(), Methods::DEFAULT);
    // The impostor knows the port key, too.
    let false_service = services::resetter();
    let mut stolen = port.clone();
    stolen.service = false_service.address().to_string();
    let (owner, thief) = (operator.account("owner"), operator.account("thief"));
    let key = operator.key(&port, &owner);
    let of_owner = operator.credential(&owner, Role::Server);
    let of_thief = operator.credential(&thief, Role::Server);
    let master = testbed.master(json!({"store": url, "admission": "owned"}));
    let ports = std::slice::from_ref(&port);
    let _server = testbed.server("owner", ports, of_owner.fields());
    let _client = testbed.client("client", ports, json!({}));
    wait::until_true("the service answers", || services::echoes(port.local));
    let stream = services::connect(port.local);
    services::ping(&stream, b"before").expect("it answers");

    let thief_server = testbed.server("thief", &[stolen], of_thief.fields());
    thief_server.wait_for_line(&[
        "the master refuses to register the port",
        "the key does not belong to the account",
    ]);
    master.wait_for_line(&["registration denied", "thief", "service", "key_not_owned"]);
    for _ in 0..20 {
        services::ping(&stream, b"unnoticed").expect("it answers");
        assert!(services::echoes(port.local));
    }
    assert_eq!(false_service.accepted(), 0);

    // The operator gives the key away: its servers change without a restart.
    operator.set_key(&key, |key| key.account = Some(thief.id));
    // The client rests for 15 s after each `denied`.
    let is_reached = wait::within(2 * wait::TIMEOUT, || {
        (!services::echoes(port.local) && false_service.accepted() > 0).then_some(())
    });
    assert!(is_reached.is_some(), "the other service is never reached");
}

#[test]
fn a_master_does_not_start_without_its_database() {
    let testbed = Testbed::new(Front::Direct);
    let nowhere = crate::support::ports::free();
    let url = format!("postgres://report:hush4711@{nowhere}/keys");
    let fields = testbed.master_configuration(json!({"store": url}));
    let mut master = testbed.role("master", &fields);
    let ended = master.wait_for_end(wait::TIMEOUT);
    assert_eq!(ended.and_then(|status| status.code()), Some(1));
    let line = master.wait_for_line(&[
        "store: cannot open postgres://report:***@",
        "correct \"store\"",
    ]);
    assert!(!line.contains("hush"), "{line}");
    assert!(!master.log().contains("hush"));
}
