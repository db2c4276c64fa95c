//! Findings about keys, methods and services, and about the master's listening address.

use serde_json::{Value, json};

use super::{assert_step, doctor_json};
use crate::support::{
    ports, services,
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, with},
};

/// Asserts that the client's port key is unknown to the master, because no server runs.
#[track_caller]
fn assert_server_is_missing(testbed: &Testbed, client: &Value) {
    let (code, steps) = doctor_json(testbed, client, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "port_key",
        "up",
        "failed",
        &["no server for this port key", "compare `port_key`"],
    );
    assert_step(&steps, "service", "up", "skipped", &[]);
}

/// Asserts that both services are reached through their server, and only one of them runs.
#[track_caller]
fn assert_one_service_is_down(testbed: &Testbed, client: &Value) {
    let (code, steps) = doctor_json(testbed, client, &[]);
    assert_eq!(code, Some(1));
    assert_step(&steps, "port_key", "down", "ok", &[]);
    assert_step(&steps, "service", "up", "ok", &[]);
    assert_step(
        &steps,
        "service",
        "down",
        "failed",
        &["refuses connections", "not running", "start the service"],
    );
    assert_step(
        &steps,
        "throughput_up",
        "up",
        "skipped",
        &["\"bench\": false"],
    );
}

/// Asserts that a wrong port key and a method that the server does not have are distinguished.
#[track_caller]
fn assert_key_and_method_differ(testbed: &Testbed, mut client: Value) {
    client["ports"][0]["port_key"] = json!("an unknown key");
    client["ports"][1]["encrypt_method"] = json!("plain");
    let (code, steps) = doctor_json(testbed, &client, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "port_key",
        "up",
        "failed",
        &["no server for this port key"],
    );
    assert_step(
        &steps,
        "port_key",
        "down",
        "failed",
        &["`encrypt_method`", "plain", "aes-128-gcm"],
    );
}

#[test]
fn missing_server_service_and_matching_methods_are_distinguished() {
    let echo = services::echo();
    let [up, down] = [("up", echo.address()), ("down", ports::free())]
        .map(|(mark, at)| Port::new(mark, at, Methods::DEFAULT));
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({}));
    let client = testbed.client_configuration(
        &[up.clone(), down.clone()],
        json!({"hold_timeout": "100ms"}),
    );
    assert_server_is_missing(&testbed, &client);

    let tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        vec![up, down],
        Fields {
            server: json!({"bench": false}),
            ..Fields::default()
        },
    );
    let client = with(client, json!({"master": tunnel.testbed.master_url()}));
    assert_one_service_is_down(&tunnel.testbed, &client);
    assert_key_and_method_differ(&tunnel.testbed, client);
}

#[test]
fn a_wrong_master_key_fails_its_step_and_the_services_are_still_checked() {
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({}));
    let port = Port::new("SSH", ports::free(), Methods::DEFAULT);
    let server = testbed.server_configuration(
        std::slice::from_ref(&port),
        json!({"master_key": "another key"}),
    );
    let (code, steps) = doctor_json(&testbed, &server, &[]);
    assert_eq!(code, Some(1));
    assert_step(&steps, "upgrade", "127.0.0.1", "ok", &["101"]);
    assert_step(
        &steps,
        "master_key",
        "127.0.0.1",
        "failed",
        &[
            "refused the master key",
            "compare `master_key` at both ends",
        ],
    );
    assert_step(&steps, "port_key", "SSH", "skipped", &[]);
    assert_step(
        &steps,
        "service",
        "SSH",
        "failed",
        &["refused", "`local_address`"],
    );
}

#[test]
fn a_server_that_is_not_running_yet_is_a_warning() {
    let (testbed, echo) = (Testbed::new(Front::Direct), services::echo());
    let _master = testbed.master(json!({}));
    let port = Port::new("SSH", echo.address(), Methods::DEFAULT);
    let (code, steps) = doctor_json(
        &testbed,
        &testbed.server_configuration(&[port], json!({})),
        &[],
    );
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(
        &steps,
        "port_key",
        "SSH",
        "warning",
        &["this server is not running"],
    );
}

#[test]
fn a_listening_address_of_another_program_is_reported() {
    let (testbed, other) = (Testbed::new(Front::Direct), services::echo());
    let taken = testbed.master_configuration(json!({"listen_at": other.address().to_string()}));
    let (code, steps) = doctor_json(&testbed, &taken, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "listen",
        &other.address().to_string(),
        "failed",
        &["another program listens there", "`listen_at`"],
    );
    let (code, steps) = doctor_json(&testbed, &testbed.master_configuration(json!({})), &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(&steps, "listen", "127.0.0.1", "ok", &["not running"]);
}
