//! A path without faults, from the configuration of each role.

use serde_json::{Value, json};

use super::{assert_step, doctor_json, step, step_names};
use crate::support::tunnel::{Fields, Front, Testbed, Tunnel};

/// Asserts the steps of the client, up to the service.
#[track_caller]
fn assert_client_steps(steps: &[Value], fingerprint: &str) {
    assert_eq!(step_names(steps, "failed"), [""; 0]);
    for name in ["name", "proxy", "upgrade", "clock", "small_messages"] {
        assert_step(steps, name, "localhost", "ok", &[]);
    }
    assert_step(
        steps,
        "tls",
        "localhost",
        "ok",
        &[
            "TLS 1.3",
            "\"localhost\"",
            "rePort test authority",
            fingerprint,
        ],
    );
    assert_step(steps, "tcp", "127.0.0.1", "ok", &["connected"]);
    let stays = "stays on this machine";
    assert_step(steps, "congestion", "localhost", "ok", &[stays]);
    assert_step(steps, "master_key", "localhost", "ok", &["not needed"]);
    assert_step(steps, "port_key", "probe", "ok", &["aes-128-gcm and null"]);
    assert_step(steps, "service", "probe", "ok", &["not reset"]);
    for (name, unit) in [
        ("round_trip", "p50"),
        ("throughput_up", "MB/s"),
        ("throughput_down", "MB/s"),
    ] {
        assert_step(steps, name, "probe", "ok", &[unit]);
    }
    step(steps, "buffering", "probe");
}

/// Asserts the steps of the master.
#[track_caller]
fn assert_master_steps(steps: &[Value], fingerprint: &str) {
    assert_step(
        steps,
        "listen",
        "127.0.0.1",
        "ok",
        &["a master with this master key and path is running"],
    );
    assert_step(
        steps,
        "certificate",
        "leaf.pem",
        "ok",
        &["\"localhost\"", fingerprint],
    );
    assert_step(steps, "health", "/healthz", "ok", &["200"]);
    assert_step(steps, "congestion", "", "ok", &["stays on this machine"]);
}

#[test]
fn all_steps_pass_on_a_working_path_and_the_roles_are_not_disturbed() {
    let fields = Fields {
        master: json!({"healthz": true}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(Testbed::new(Front::Tls), Vec::new(), fields);
    let (testbed, ports) = (&tunnel.testbed, [tunnel.probe().clone()]);
    let fingerprint = testbed.leaf().fingerprint();
    let fingerprint = fingerprint.replace(':', "").to_lowercase();

    let client = testbed.client_configuration(&ports, json!({}));
    let (code, steps) = doctor_json(testbed, &client, &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_client_steps(&steps, &fingerprint);

    let server = testbed.server_configuration(&ports, json!({}));
    let (code, steps) = doctor_json(testbed, &server, &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(
        &steps,
        "master_key",
        "localhost",
        "ok",
        &["joined as a server", "nothing was registered"],
    );
    assert_step(&steps, "service", "probe", "ok", &["accepts connections"]);

    let master = testbed.master_configuration(json!({"healthz": true}));
    let (code, steps) = doctor_json(testbed, &master, &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_master_steps(&steps, &fingerprint);

    assert!(tunnel.is_connected(), "the roles keep running");
    assert_eq!(
        tunnel.master.log().matches("registered").count(),
        1,
        "only the server's registration"
    );
    assert!(
        !tunnel.master.log().contains("takes over"),
        "{}",
        tunnel.master.log()
    );
}
