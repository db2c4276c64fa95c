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
