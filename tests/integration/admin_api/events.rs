//! The stream of events.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};

use super::client::{Relay, Target};

/// The next event of the stream with this name.
#[track_caller]
fn next_event(lines: &mut impl Iterator<Item = std::io::Result<String>>, name: &str) -> Value {
    for line in lines {
        let line = line.expect("the stream continues");
        if let Some(data) = line.strip_prefix("data: ") {
            let event: Value = serde_json::from_str(data).expect("JSON");
            if event["event"] == name {
                return event;
            }
        }
    }
    panic!("the stream ends without {name}");
}

#[test]
fn events_show_changes_of_records() {
    let relay = Relay::new();
    let target = Target::unix(&relay.testbed);
    let mut master = relay.start(&target);
    let mut curl = target.get("/v1/events").command();
    curl.args(["--no-buffer", "--max-time", "120"]);
    let mut stream = curl.stdout(Stdio::piped()).spawn().expect("curl starts");
    let output = stream.stdout.take().expect("its output");
    let mut lines = BufReader::new(output).lines();
    // The first comment comes at once, so the stream exists before the change.
    let first = lines.next().expect("a line").expect("a comment");
    assert!(first.starts_with(':'), "{first}");
    let added = target.post("/v1/accounts", &json!({"name": "home"})).send();
    assert_eq!(added.status, 201, "{added:?}");
    let event = next_event(&mut lines, "policies_changed");
    let account = &added.json()["record"]["id"];
    assert!(
        event["accounts"]
            .as_array()
            .expect("accounts")
            .contains(account),
        "{event}"
    );
    assert!(event["at"].as_i64().is_some_and(|at| at > 1_700_000_000));
    // A stream does not hold the process back.
    assert_eq!(master.stop().code(), Some(0));
    stream.wait().expect("curl ends with the stream");
}
