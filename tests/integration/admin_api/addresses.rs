//! The API over the unix socket, loopback and TLS, and the rights of each.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::json;

use super::client::{Relay, Target, Token};

/// Adds, changes and removes an account.
#[track_caller]
fn assert_changes(target: &Target, name: &str, token: Option<&Token>) {
    let with_token = |curl: super::client::Curl| match token {
        Some(token) => curl.token(token),
        None => curl,
    };
    let added = with_token(target.post("/v1/accounts", &json!({ "name": name }))).send();
    assert_eq!(added.status, 201, "{added:?}");
    let path = added.header("location").expect("a path").to_owned();
    let tag = added.header("etag").expect("a version").to_owned();
    let change = target.request("PATCH", &path).json(&json!({"note": "x"}));
    let change = with_token(change.header(&format!("If-Match: {tag}"))).send();
    assert_eq!(change.status, 200, "{change:?}");
    assert_eq!(change.json()["record"]["note"], "x");
    let remove = |tag: &str| {
        let remove = target.request("DELETE", &path);
        with_token(remove.header(&format!("If-Match: {tag}"))).send()
    };
    assert_eq!(remove(&tag).status, 412, "the account has changed");
    assert_eq!(
        remove(change.header("etag").expect("a version")).status,
        204
    );
    assert_eq!(with_token(target.get(&path)).send().status, 404);
}

/// The statuses of requests that need `read`, `operate` and `own`.
#[track_caller]
fn statuses(target: &Target, token: Option<&Token>) -> [u16; 3] {
    let requests = [
        target.get("/v1/accounts"),
        target.request("DELETE", "/v1/links/4000000000"),
        target.post("/v1/accounts", &json!({"name": ""})),
    ];
    requests.map(|request| match token {
        Some(token) => request.token(token).send().status,
        None => request.send().status,
    })
}

#[test]
fn the_unix_socket_has_all_rights() {
    let relay = Relay::new();
    let target = Target::unix(&relay.testbed);
    let _master = relay.start(&target);
    let socket = relay.testbed.folder().join("admin.sock");
    let mode = fs::metadata(socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(statuses(&target, None), [200, 404, 422]);
    assert_changes(&target, "home", None);
    let status = target.get("/v1/status").send().json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn loopback_needs_a_token_with_the_rights() {
    let relay = Relay::new();
    let [read, operate, own] = relay.tokens();
    let target = Target::loopback();
    let _master = relay.start(&target);
    assert_eq!(statuses(&target, None), [401; 3]);
    assert_eq!(statuses(&target, Some(&Token::new())), [401; 3]);
    assert_eq!(statuses(&target, Some(&read)), [200, 403, 403]);
    assert_eq!(statuses(&target, Some(&operate)), [200, 404, 403]);
    assert_eq!(statuses(&target, Some(&own)), [200, 404, 422]);
    assert_changes(&target, "home", Some(&own));
    assert_eq!(target.get("/metrics").send().status, 200);
    let rebound = target.get("/v1/accounts").token(&own);
    assert_eq!(rebound.header("Host: rebound.example").send().status, 403);
}

#[test]
fn other_machines_need_tls_and_a_token() {
    let relay = Relay::new();
    let [read, _, own] = relay.tokens();
    let target = Target::tls(&relay.testbed);
    let _master = relay.start(&target);
    assert_eq!(statuses(&target, None), [401; 3]);
    assert_eq!(statuses(&target, Some(&read)), [200, 403, 403]);
    assert_changes(&target, "home", Some(&own));
    assert_eq!(target.get("/metrics").send().status, 401);
    assert_eq!(target.get("/metrics").token(&read).send().status, 200);
    assert_eq!(target.get("/livez").send().status, 200);
}

#[test]
fn a_public_address_does_not_start_without_a_token() {
    let relay = Relay::new();
    let target = Target::tls(&relay.testbed);
    let configuration = relay.configuration(&target);
    let mut master = relay.testbed.role("master", &configuration);
    let ended = master.wait_for_end(Duration::from_secs(30));
    assert_eq!(ended.and_then(|status| status.code()), Some(1));
    master.wait_for_line(&["`admin.listen_at`", "no valid token", "report token add"]);
}

#[test]
fn wrong_tokens_are_throttled_and_never_logged() {
    let relay = Relay::new();
    let [read, _, own] = relay.tokens();
    let target = Target::loopback();
    let master = relay.start(&target);
    let status = |token: &Token| target.get("/v1/status").token(token).send();
    assert_eq!(status(&read).status, 200);
    let guesses: Vec<Token> = (0..10).map(|_| Token::new()).collect();
    for guess in &guesses {
        let refused = status(guess);
        assert_eq!(refused.status, 401, "{refused:?}");
        assert!(!refused.body.contains(&guess.text), "{refused:?}");
    }
    let throttled = status(&own);
    assert_eq!(throttled.status, 429, "{throttled:?}");
    assert_eq!(throttled.header("retry-after"), Some("10"));
    assert_eq!(status(&read).status, 200, "it was valid before");
    master.wait_for_line(&["admin request refused", "127.0.0.1", "throttled now"]);
    let log = master.log();
    for token in guesses.iter().chain([&read, &own]) {
        assert!(!log.contains(&token.text[4..]) && !log.contains(&token.hash));
    }
}
