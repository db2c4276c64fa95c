//! Requests that schemathesis generates from the OpenAPI document: valid and invalid ones, for all
//! operations, with each role of token and without one. No request may cause a server error, and no
//! answer and no line of the log may contain a secret.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::client::{Relay, Target, Token};
use crate::support::{
    programs::{self, ProgramOutput},
    tunnel::report,
};

/// Where `tests/run` installs schemathesis.
fn schemathesis() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/test-tools/schemathesis/bin/schemathesis");
    assert!(
        installed.exists(),
        "{} is missing (./tests/run installs it)",
        installed.display()
    );
    installed
}

/// A credential that `report keygen` has made.
struct Credential {
    secret: String,
    verifier: String,
}

impl Credential {
    fn new() -> Credential {
        let text = report(&["keygen", "--credential"]).succeeded().text();
        let with_prefix = |prefix: &str| {
            let found = text
                .split_whitespace()
                .find(|word| word.starts_with(prefix));
            found.expect("a credential").to_owned()
        };
        Credential {
            secret: with_prefix("rc1_"),
            verifier: with_prefix("rv1_"),
        }
    }
}

/// Adds some of each record, so that the requests meet existing ones. Returns what no answer may
/// contain.
#[track_caller]
fn prepare(relay: &Relay, tokens: &[Token]) -> Vec<String> {
    let target = Target::unix(&relay.testbed);
    let mut master = relay.start(&target);
    let add = |path: &str, body: Value| {
        let added = target.post(path, &body).send();
        assert_eq!(added.status, 201, "{added:?}");
        added.header("location").expect("a path").to_owned()
    };
    let account = add("/v1/accounts", json!({"name": "home", "max_keys": 5}));
    let id: i64 = account.rsplit('/').next().unwrap().parse().unwrap();
    add(
        "/v1/keys",
        json!({"id": "0".repeat(32), "label": "ssh", "account": id}),
    );
    let credential = Credential::new();
    let verifier = &credential.verifier;
    let new = json!({"name": "laptop", "role": "server", "verifier": verifier});
    add(&format!("{account}/credentials"), new);
    assert_eq!(master.stop().code(), Some(0));
    // Without their prefixes, so that a part is found too.
    let mut secrets = vec![credential.secret[4..].to_owned(), verifier[4..].to_owned()];
    for token in tokens {
        secrets.extend([token.text[4..].to_owned(), token.hash.clone()]);
    }
    secrets
}

/// Runs schemathesis over all operations except the stream, which does not end.
fn run(relay: &Relay, target: &Target, document: &Path, token: Option<&Token>) -> ProgramOutput {
    let mut command = programs::command(schemathesis());
    command.current_dir(relay.testbed.folder()).arg("run");
    command.arg(document).args(["--url", target.url()]).args([
        "--checks",
        "not_a_server_error,content_type_conformance,response_schema_conformance",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "15",
        "--generation-deterministic",
        "--generation-with-security-parameters",
        "false",
        "--exclude-path",
        "/v1/events",
        "--request-timeout",
        "30",
        "--report-har-path",
        "requests.har",
        "--output-sanitize",
        "false",
        "--warnings",
        "off",
        "--no-color",
    ]);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {}", token.text)]);
    }
    programs::run(&mut command)
}

/// The statuses and the texts of all answers.
fn answers(relay: &Relay) -> Vec<(u64, String)> {
    let path = relay.testbed.folder().join("requests.har");
    let text = fs::read_to_string(path).expect("the requests were recorded");
    let recorded: Value = serde_json::from_str(&text).expect("JSON");
    let entries = recorded["log"]["entries"].as_array().expect("entries");
    let answer = |entry: &Value| {
        let response = &entry["response"];
        let head = response["headers"].to_string();
        let status = response["status"].as_u64().expect("a status");
        let body = response["content"]["text"].as_str().unwrap_or_default();
        (status, head + body)
    };
    entries.iter().map(answer).collect()
}

/// Sends generated requests with the token of a role, or without one.
#[track_caller]
fn check(role: Option<usize>) {
    let relay = Relay::new();
    let tokens = relay.tokens();
    let secrets = prepare(&relay, &tokens);
    let target = Target::loopback();
    let master = relay.start(&target);
    let document = relay.testbed.folder().join("openapi.json");
    let described = target.get("/v1/openapi.json").token(&tokens[0]).send();
    fs::write(&document, &described.body).expect("the document is written");

    let output = run(&relay, &target, &document, role.map(|role| &tokens[role]));
    assert_eq!(output.code, Some(0), "{}{}", output.text(), output.errors);
    let answers = answers(&relay);
    assert!(answers.len() > 500, "{} requests", answers.len());
    let count =
        |wanted: fn(u64) -> bool| answers.iter().filter(|(status, _)| wanted(*status)).count();
    assert_eq!(count(|status| status >= 500), 0);
    match role {
        None => assert_eq!(count(|status| status < 400), 0, "nothing is open"),
        Some(_) => assert!(count(|status| status < 300) > 50),
    }
    let log = master.log();
    for secret in &secrets {
        let shown = answers.iter().find(|(_, text)| text.contains(secret));
        assert_eq!(shown, None);
        assert!(!log.contains(secret), "the log contains a secret");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(target.get("/livez").send().status, 200);
}

#[test]
fn generated_requests_without_a_token_are_refused() {
    check(None);
}

#[test]
fn generated_requests_of_a_reader_cause_no_error() {
    check(Some(0));
}

#[test]
fn generated_requests_of_an_operator_cause_no_error() {
    check(Some(1));
}

#[test]
fn generated_requests_of_an_owner_cause_no_error() {
    check(Some(2));
}
