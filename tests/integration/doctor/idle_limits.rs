//! The limit of idle time on a path, and the keep-alive that it needs.

use serde_json::json;

use super::{assert_step, doctor_json};
use crate::support::{
    nginx::Tuning,
    tunnel::{Front, Methods, Port, Testbed},
};

#[test]
fn an_idle_limit_of_the_path_is_found_and_a_keep_alive_suggested() {
    let replacements = vec![
        (
            "proxy_read_timeout 1h;",
            "proxy_read_timeout 2s; proxy_send_timeout 2s;",
        ),
        ("proxy_send_timeout 1h;", ""),
    ];
    let testbed = Testbed::tuned(
        Front::NginxPlain,
        &Tuning {
            replacements,
            ..Tuning::default()
        },
    );
    // The master's own keep-alives would keep the links alive if the doctor did not ask it to be
    // silent.
    let _master = testbed.master(json!({"heartbeat": "1s"}));
    let port = Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT);
    let client = testbed.client_configuration(&[port], json!({"hold_timeout": "0s"}));
    let (_, steps) = doctor_json(&testbed, &client, &["--patient", "--silence-scale", "0.03"]);
    let words = [
        "idle for 1800ms still worked",
        "idle for 2700ms did not",
        "\"heartbeat\": \"1s\"",
    ];
    assert_step(&steps, "silence", "127.0.0.1", "warning", &words);
}

#[test]
fn a_path_without_an_idle_limit_needs_no_other_keep_alive() {
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({"heartbeat": "1s"}));
    let client = testbed.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT)],
        json!({"hold_timeout": "0s"}),
    );
    let (_, steps) = doctor_json(&testbed, &client, &["--patient", "--silence-scale", "0.01"]);
    assert_step(
        &steps,
        "silence",
        "127.0.0.1",
        "ok",
        &["idle for 3s", "can stay at 20s"],
    );
}
