//! The output for an invalid configuration file, and the output as text.

use serde_json::json;

use super::{assert_step, doctor, doctor_json};
use crate::support::tunnel::{Front, Methods, Port, Testbed};

#[test]
fn an_invalid_configuration_file_is_a_failed_step_with_its_location() {
    let testbed = Testbed::new(Front::Direct);
    let client = testbed.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT)],
        json!({"mster": 1}),
    );
    let (code, steps) = doctor_json(&testbed, &client, &[]);
    assert_eq!((code, steps.len()), (Some(1), 1));
    assert_step(
        &steps,
        "configuration",
        "doctor.json",
        "failed",
        &["mster", "master"],
    );
}

#[test]
fn the_text_output_has_a_line_for_each_step_with_its_remedy_below() {
    let testbed = Testbed::new(Front::Direct);
    let client = testbed.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT)],
        json!({}),
    );
    let output = doctor(&testbed, &client, &[]);
    assert_eq!((output.code, output.errors.as_str()), (Some(1), ""));
    let text = output.text();
    assert!(
        !text.contains('\u{1b}'),
        "no colour without a terminal: {text}"
    );
    let lines: Vec<&str> = text.lines().collect();
    let failed = lines
        .iter()
        .position(|line| line.starts_with("FAILED") && line.contains("tcp"))
        .expect("a failed line");
    assert!(
        lines[failed + 1]
            .trim_start()
            .starts_with("why: no program listens there"),
        "{text}"
    );
    assert!(
        lines[failed + 2]
            .trim_start()
            .starts_with("do: check that it is running"),
        "{text}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("skipped") && line.contains("port_key")),
        "{text}"
    );
    assert!(text.contains("checks failed: "), "{text}");
}
