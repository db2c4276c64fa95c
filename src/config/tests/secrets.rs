//! Tests of keys and passwords: required keys, and errors without their values.

use super::*;

#[test]
fn errors_never_contain_url_passwords() {
    let url = |scheme: &str| format!("{scheme}ann:hush4711@host:1");
    for (text, shows) in [
        (
            server("")
                .replace("\"host:1\"", &format!("{:?}", url("https://")))
                .replace(", }", "}"),
            "https://ann:***@host:1",
        ),
        (
            server(&format!("\"connect_to\": {:?}", url(""))),
            "ann:***@host:1",
        ),
        (
            server(&format!("\"bind_address\": {:?}", url("http://"))),
            "http://ann:***@host:1",
        ),
        (
            server(&format!("\"host\": \"{} b\"", url(""))),
            "ann:***@host:1 b",
        ),
        (
            server(&format!("\"proxy\": \"{}/path\"", url("http://"))),
            "proxy has a path",
        ),
        (
            server(&format!("\"bench\": {:?}", url("ws://"))),
            "ws://ann:***@host:1",
        ),
        (
            server(&format!("\"log_level\": {:?}", url("ws://"))),
            "ws://ann:***@host:1",
        ),
        (
            master(&format!("\"fallback\": {:?}", url("http://"))),
            "http://ann:***@host:1",
        ),
        (
            master(&format!(
                "\"fallback\": {{\"server\": {:?}}}",
                url("http://")
            )),
            "http://ann:***@host:1",
        ),
    ] {
        let message = error_lines(&text).join("\n");
        assert!(message.contains(shows), "missing {shows:?} in {message}");
        assert!(!message.contains("hush"), "{message}");
    }
}

#[test]
fn errors_never_contain_keys() {
    let hush = "hush4711";
    for text in [
        README_MASTER.replace("\"rePortserver\"", "4711"),
        README_MASTER.replace("\"rePortserver\"", "[\"hush4711\"]"),
        README_MASTER.replace("\"rePortserver\"", "{\"key\": \"hush4711\"}"),
        README_MASTER.replace(
            "\"rePortserver\"",
            "{\"file\": \"a\", \"env\": \"hush4711\"}",
        ),
        ports("client", "\"hush4711\""),
        ports(
            "client",
            r#"{"local_address": "h:1", "port_key": "hush4711"}, {"local_address": "h:2", "port_key": "hush4711"}"#,
        ),
        ports("server", r#"{"local_address": "", "port_key": "hush4711"}"#),
    ] {
        let message = error_lines(&text).join("\n");
        assert!(
            !message.contains(hush) && !message.contains("4711"),
            "{message}"
        );
        assert_contains(&message, &["c.json:1:"]);
    }
}

#[test]
fn empty_missing_and_duplicate_keys_are_rejected() {
    let lines = error_lines(&ports(
        "server",
        r#"{"local_address": "h:1", "port_key": ""}, {"local_address": "h:2"}"#,
    ));
    assert_contains(&lines[0], &["ports[0].port_key is empty", "report keygen"]);
    assert_contains(
        &lines[1],
        &["ports[1].port_key is missing", "report keygen"],
    );
    let twice = r#"{"mark": "A", "local_address": "h:1", "port_key": "p"}, {"mark": "B", "local_address": "h:2", "port_key": "p"}"#;
    assert_contains(
        &error_line(&ports("server", twice)),
        &[
            "ports[1].port_key is the same key as that of \"A\"",
            "separate key",
        ],
    );
    assert_contains(
        &error_line(&README_MASTER.replace("rePortserver", "")),
        &["master_key is empty"],
    );
    let missing =
        error_line(&README_MASTER.replace("\"rePortserver\"", "{\"file\": \"no/such.key\"}"));
    assert_contains(
        &missing,
        &["master_key names the file no/such.key", "cannot be read"],
    );
    let unset =
        error_line(&README_MASTER.replace("\"rePortserver\"", "{\"env\": \"REPORT_NONE\"}"));
    assert_contains(
        &unset,
        &[
            "master_key names the environment variable REPORT_NONE",
            "not set",
        ],
    );
}

/// The secret and the verifier of a credential in `tests/vectors/keys.json`.
const CREDENTIAL: &str = "rc1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const VERIFIER: &str =
    "rv1_b5uQlG-ZuiqXrLCfsLwVbErxN9MGn0C_GOj5cRrqBe9WdMoCD2afT8wJva5fYVxbIUTcJY7GNNsdj730ADqYIw";

/// Returns a server whose secret is this field.
fn server_with(secret: &str) -> String {
    let port = r#"{"mark": "SSH", "local_address": "127.0.0.1:22", "port_key": "p"}"#;
    format!(r#"{{"mode": "server", "master": "host:1", {secret} "ports": [{port}]}}"#)
}

#[test]
fn a_server_has_a_master_key_or_a_credential() {
    let credential = format!("\"credential\": \"{CREDENTIAL}\",");
    let with_credential = server_of(read(&server_with(&credential)).expect("loads"));
    assert_eq!(with_credential.master_key, None);
    let secret = with_credential.credential.expect("a credential");
    assert_eq!(*secret.secret().to_text(), CREDENTIAL);
    let with_key = server_of(read(&server_with(r#""master_key": "k","#)).expect("loads"));
    assert_eq!(
        (with_key.credential, with_key.master_key.is_some()),
        (None, true)
    );
    assert_contains(
        &error_line(&server_with("")),
        &["master_key is missing", "`credential`"],
    );
    assert_contains(
        &error_line(&server_with(&format!(
            "\"master_key\": \"k\", {credential}"
        ))),
        &["credential is set beside `master_key`", "keep one"],
    );
}

#[test]
fn a_client_may_have_a_credential() {
    let fields = format!("\"master\": \"host:1\", \"credential\": \"{CREDENTIAL}\"");
    let with_credential = client_of(read(&client(&fields)).expect("loads"));
    assert!(with_credential.credential.is_some());
    let without = client_of(read(&client("\"master\": \"host:1\"")).expect("loads"));
    assert_eq!(without.credential, None);
    assert_contains(
        &error_line(&master(&format!("\"credential\": \"{CREDENTIAL}\""))),
        &["credential", "this file's mode is \"master\""],
    );
}

#[test]
fn credentials_come_from_files_and_variables_and_are_written_as_their_source() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("cred"), format!("{CREDENTIAL}\n")).expect("written");
    let file = folder.path().join("c.json");
    let variable = |name: &str| (name == "REPORT_CREDENTIAL").then(|| OsString::from(CREDENTIAL));
    for source in [r#"{"file":"cred"}"#, r#"{"env":"REPORT_CREDENTIAL"}"#] {
        let text = server_with(&format!("\"credential\": {source},"));
        let loaded = parse(&text, &file, &variable).expect("loads");
        let written = serde_json::to_string(&loaded.config).expect("serializes");
        assert!(written.contains(source), "{written}");
        assert!(!written.contains("rc1_"), "{written}");
        let secret = server_of(loaded).credential.expect("a credential");
        assert_eq!(*secret.secret().to_text(), CREDENTIAL);
        assert!(!format!("{secret:?}").contains("rc1_"));
    }
}

#[test]
fn malformed_credentials_are_one_error_without_the_text() {
    for (text, parts) in [
        (
            "rc1_hush4711",
            [
                "is not rc1_ followed by 43 characters",
                "report keygen --credential",
            ],
        ),
        (
            "hush4711",
            [
                "is not rc1_ followed by 43 characters",
                "report keygen --credential",
            ],
        ),
        (
            VERIFIER,
            ["is the verifier of a credential", "write the secret"],
        ),
    ] {
        for file in [
            server_with(&format!("\"credential\": \"{text}\",")),
            client(&format!(
                "\"master\": \"host:1\", \"credential\": \"{text}\""
            )),
        ] {
            let line = error_line(&file);
            assert_contains(&line, &["c.json:1:", "credential "]);
            assert_contains(&line, &parts);
            assert!(
                !line.contains("hush4711") && !line.contains("b5uQ"),
                "{line}"
            );
        }
    }
    assert_contains(
        &error_lines(&server_with(r#""credential": {"fil": "hush4711"},"#)).join("\n"),
        &["credential.fil is unknown"],
    );
}

#[test]
fn errors_name_the_command_that_creates_a_credential() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("empty"), "\n").expect("written");
    let file = folder.path().join("c.json");
    let variable = |name: &str| (name == "REPORT_EMPTY").then(OsString::new);
    for (value, problem, remedy) in [
        (r#""""#, "credential is empty", "`report credential add`"),
        (
            r#"{"file": "missing"}"#,
            "which cannot be read",
            "`report credential add ACCOUNT NAME --write FILE`",
        ),
        (
            r#"{"file": "empty"}"#,
            "which is empty",
            "`report credential add ACCOUNT NAME --write FILE`",
        ),
        (
            r#"{"env": "REPORT_EMPTY"}"#,
            "credential names the environment variable REPORT_EMPTY, which is empty",
            "`report keygen --credential`",
        ),
        (
            r#"{"env": "REPORT_NONE"}"#,
            "credential names the environment variable REPORT_NONE, which is not set",
            "set it before",
        ),
    ] {
        let text = server_with(&format!("\"credential\": {value},"));
        let error = parse(&text, &file, &variable).expect_err(value).to_string();
        assert_contains(&error, &[problem, remedy]);
        assert!(!error.contains("report keygen`"), "{error}");
    }
}
