//! `report doctor`: its findings for working and for broken paths. It disturbs no running role and
//! reveals no secret.

mod idle_limits;
mod keys_and_services;
mod middleboxes;
mod output;
mod working_path;

use serde_json::Value;

use crate::support::{
    programs,
    tunnel::{Testbed, report},
};

/// Runs `report doctor` with this configuration and a short measurement.
fn doctor(testbed: &Testbed, configuration: &Value, arguments: &[&str]) -> programs::ProgramOutput {
    let file = testbed.write("doctor", configuration);
    let file = file.to_str().expect("a path in UTF-8");
    report(
        &[
            &["doctor", "--seconds", "0.05", "--config", file],
            arguments,
        ]
        .concat(),
    )
}

/// Runs `report doctor --json` and checks the form of the output. Returns the exit code and the
/// steps.
#[track_caller]
fn doctor_json(
    testbed: &Testbed,
    configuration: &Value,
    arguments: &[&str],
) -> (Option<i32>, Vec<Value>) {
    let output = doctor(testbed, configuration, &[&["--json"], arguments].concat());
    assert_eq!(output.errors, "", "only the JSON is printed");
    let document = output.json();
    assert_eq!(document["ok"], output.code == Some(0), "{document}");
    let steps = document["steps"]
        .as_array()
        .expect("a list of steps")
        .clone();
    for step in &steps {
        assert_form(step);
    }
    (output.code, steps)
}

/// Asserts that a step has all fields, and a remedy and a code when it is not in order.
#[track_caller]
fn assert_form(step: &Value) {
    let fields: Vec<&str> = step
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        fields,
        [
            "cause",
            "code",
            "evidence",
            "milliseconds",
            "name",
            "outcome",
            "remedy",
            "subject"
        ],
        "{step}"
    );
    let outcome = step["outcome"].as_str().expect("a word");
    assert!(
        ["ok", "warning", "failed", "skipped"].contains(&outcome),
        "{step}"
    );
    for field in ["remedy", "code"] {
        assert_eq!(
            step[field].is_string(),
            ["warning", "failed"].contains(&outcome),
            "{step}"
        );
    }
    assert!(
        step["milliseconds"]
            .as_f64()
            .is_some_and(|time| time >= 0.0),
        "{step}"
    );
}

/// The step of this name whose subject contains `subject`.
#[track_caller]
fn step<'s>(steps: &'s [Value], name: &str, subject: &str) -> &'s Value {
    let is_it = |step: &&Value| {
        step["name"] == name
            && step["subject"]
                .as_str()
                .is_some_and(|text| text.contains(subject))
    };
    steps
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no step {name} of {subject} in {steps:#?}"))
}

#[track_caller]
fn assert_step(steps: &[Value], name: &str, subject: &str, outcome: &str, words: &[&str]) {
    let step = step(steps, name, subject);
    assert_eq!(step["outcome"], outcome, "{step}");
    for word in words {
        assert!(
            step.to_string().replace("\\\"", "\"").contains(word),
            "{word} is missing in {step}"
        );
    }
}

/// The names of the steps with this outcome.
fn step_names<'s>(steps: &'s [Value], outcome: &str) -> Vec<&'s str> {
    steps
        .iter()
        .filter(|step| step["outcome"] == outcome)
        .filter_map(|step| step["name"].as_str())
        .collect()
}
