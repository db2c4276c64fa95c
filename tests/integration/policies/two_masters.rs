//! Two masters that share a PostgreSQL.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{ACTS_WITHIN, Operator};
use crate::support::{
    daemon::Daemon,
    ports,
    postgres::Postgres,
    services,
    tunnel::{Front, Methods, Port, Testbed, with},
    wait,
};
use report_proto::frame::Role;

fn master(testbed: &Testbed, name: &str, address: SocketAddr, fields: &Value) -> Daemon {
    let listen_at = json!({"listen_at": address.to_string()});
    let fields = with(fields.clone(), listen_at);
    let mut master = testbed.role(name, &testbed.master_configuration(fields));
    master.wait_ready(|| ports::has_listener_at(address));
    master
}

/// Waits until both masters have logged a line with these words, for a limited time.
#[track_caller]
fn both_log(masters: [&Daemon; 2], words: &[&str]) {
    let have_logged = || {
        let has_line = |master: &Daemon| {
            let log = master.log();
            let mut lines = log.lines();
            lines.any(|line| words.iter().all(|word| line.contains(word)))
        };
        masters.iter().all(|master| has_line(master)).then_some(())
    };
    assert!(
        wait::within(ACTS_WITHIN, have_logged).is_some(),
        "no line with {words:?} at both masters within {ACTS_WITHIN:?}"
    );
}

#[test]
fn a_change_acts_within_a_second_at_both_masters() {
    let testbed = Testbed::new(Front::Direct);
    let database = Postgres::start(testbed.folder(), ports::free());
    let url = database.create_database("keys");
    let operator = Operator::open(&url);
    let account = operator.account("friend");
    let credential = operator.credential(&account, Role::Server);
    let echo = services::echo();
    let port = Port::new("service", echo.address(), Methods::DEFAULT);
    let key = operator.key(&port, &account);
    let fields = json!({"store": url, "admission": "owned"});
    let addresses = [testbed.master_address(), ports::free()];
    let one = master(&testbed, "one", addresses[0], &fields);
    let two = master(&testbed, "two", addresses[1], &fields);
    let both = json!({"master": addresses.map(|address| address.to_string())});
    let ports = std::slice::from_ref(&port);
    let server = testbed.server("server", ports, with(credential.fields(), both));
    for master in [&one, &two] {
        master.wait_for_line(&["registered", "accepted=1"]);
    }
    let of_two = json!({"master": addresses[1].to_string()});
    let _client = testbed.client("client", ports, of_two);
    wait::until_true("the service answers", || services::echoes(port.local));
    let stream = services::connect(port.local);
    services::ping(&stream, b"before").expect("it answers");

    operator.set_key(&key, |key| key.enabled = false);
    both_log([&one, &two], &["registration denied", "key_disabled"]);
    both_log([&two, &two], &["attachment denied", "key_disabled"]);
    server.wait_for_line(&[
        "the master refuses to register the port",
        "the key is disabled",
    ]);

    operator.set_key(&key, |_| {});
    both_log([&one, &two], &["registered after a refusal"]);
    wait::until_true("the service answers again", || services::echoes(port.local));

    operator.revoke(&credential);
    both_log([&one, &two], &["link denied", "credential_revoked"]);
}
