//! Roles with `"log_format": "json"`: each line of standard error is a JSON object.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{
    tunnel::{Fields, Front, Testbed, Tunnel},
    wait,
};

/// Parses each line of a log.
#[track_caller]
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| -> Value {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string(), "{line}");
        assert!(line["level"].is_string(), "{line}");
        assert!(line["target"].is_string(), "{line}");
        assert!(line["fields"]["message"].is_string(), "{line}");
        assert!(line["spans"].is_array(), "{line}");
        line
    };
    log.lines().map(object).collect()
}

/// Whether the line belongs to a span that has this field.
fn has_span_with(line: &Value, field: &str) -> bool {
    let mut spans = line["spans"].as_array().into_iter().flatten();
    spans.any(|span| !span["fields"][field].is_null())
}

#[test]
fn every_line_of_a_json_log_is_an_object_with_its_spans() {
    let fields = json!({"log_format": "json"});
    let fields = Fields {
        master: fields.clone(),
        server: fields.clone(),
        client: fields,
    };
    let mut tunnel = Tunnel::on(Testbed::new(Front::Direct), Vec::new(), fields);
    for (role, span_field) in [
        (&mut tunnel.client, "port"),
        (&mut tunnel.server, "port"),
        (&mut tunnel.master, "link"),
    ] {
        assert_eq!(role.stop().code(), Some(0), "{role:?}");
        let lines = objects(&role.log());
        for message in ["started", "draining; a second signal ends at once"] {
            assert!(
                lines
                    .iter()
                    .any(|line| line["fields"]["message"] == message),
                "no line \"{message}\" of {role:?}: {}",
                role.log()
            );
        }
        assert!(
            lines.iter().any(|line| has_span_with(line, span_field)),
            "no span with {span_field} in the log of {role:?}: {}",
            role.log()
        );
    }
}

#[test]
fn the_failure_of_a_role_with_a_json_log_is_an_object() {
    let testbed = Testbed::new(Front::Direct);
    let _occupied = TcpListener::bind(testbed.master_address()).unwrap();
    let configuration = testbed.master_configuration(json!({"log_format": "json"}));
    let mut master = testbed.role("master", &configuration);
    let status = master.wait_for_end(wait::TIMEOUT).expect("the master ends");
    assert_eq!(status.code(), Some(1));
    let lines = objects(&master.log());
    let last = lines.last().expect("a line");
    assert_eq!(last["level"], "ERROR", "{last}");
    let message = last["fields"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("in use"), "{last}");
}

#[test]
fn the_errors_of_a_configuration_with_a_json_log_are_text() {
    let testbed = Testbed::new(Front::Direct);
    let fields = json!({"log_format": "json", "listen_at": 5});
    let mut master = testbed.role("master", &testbed.master_configuration(fields));
    let status = master.wait_for_end(wait::TIMEOUT).expect("the master ends");
    assert_eq!(status.code(), Some(1));
    let log = master.log();
    assert!(log.contains("listen_at"), "{log}");
    assert!(
        log.lines().all(|line| line.starts_with("report: ")),
        "{log}"
    );
}
