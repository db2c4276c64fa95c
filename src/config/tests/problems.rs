//! Tests of several problems of one file, and of warnings.

use super::*;

#[test]
fn all_missing_fields_are_reported_at_once() {
    let message = error_lines(r#"{"mode": "server", "ports": []}"#);
    assert_eq!(message.len(), 3, "{message:#?}");
    for (line, field) in message.iter().zip([
        "master is missing",
        "master_key is missing",
        "ports is missing",
    ]) {
        assert_contains(line, &["c.json:1:", field]);
    }
}

#[test]
fn problems_of_every_kind_are_reported_at_once() {
    let text = r#"{
        "mode": "server", "unknown": 1, "master": ["a:1", 5, "b"], "heartbeat": true,
        "tls": {"cert": "x", "ca": 5, "pin_sha256": ["aa", 7], "client_key": "k"},
        "headers": {"a b": "1", "X-A": 2},
        "master_key": {"fil": "x"},
        "limits": {"streams": "x", "memory": 1},
        "ports": [
            {"mark": 1, "port_key": "p", "windw": 1},
            "x",
            {"local_address": "h:0", "port_key": "p"},
            {"local_address": "h:1", "port_key": "q", "stream_window": "2 MiB", "tunnel_window": "1 MiB"}
        ]
    }"#;
    let fields: Vec<String> = error_lines(text)
        .into_iter()
        .map(|line| line.split(' ').nth(1).unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        fields,
        [
            "unknown",
            "tls.cert",
            "master_key.fil",
            "ports[0].windw",
            "master[1]",
            "master[2]",
            "heartbeat",
            "tls.ca",
            "tls.pin_sha256[0]",
            "tls.pin_sha256[1]",
            "headers.a",
            "headers.X-A",
            "master_key",
            "limits.streams",
            "limits.memory",
            "ports[0].mark",
            "ports[1]",
            "tls.client_cert",
            "ports[0].local_address",
            "ports[2].local_address",
            "ports[3].stream_window",
            "ports[2].port_key",
        ]
    );
}

#[test]
fn an_invalid_element_of_an_optional_list_hides_no_other_problem() {
    let text =
        master(r#""trusted_proxies": ["x", 5, "10.0.0.0/8"], "proxy_protocol": true, "path": "x""#);
    let lines = error_lines(&text);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_contains(&lines[0], &["trusted_proxies[0] is \"x\""]);
    assert_contains(&lines[1], &["trusted_proxies[1] is the number 5"]);
    assert_contains(&lines[2], &["path is \"x\""]);
}

#[test]
fn a_file_with_many_problems_is_refused_with_the_first() {
    let port = r#"{"local_address": "h", "port_key": ""}"#;
    let lines = error_lines(&ports("server", &[port; 1000].join(",")));
    assert_eq!(lines.len(), 100);
    assert_contains(&lines[99], &["ports[49].port_key"]);
}

#[test]
fn probable_mistakes_are_warnings() {
    let loaded = read(&server(r#""tls": {"ca": "ca.pem"}"#)).expect("loads");
    assert_eq!(loaded.warnings.len(), 1);
    assert_contains(
        &loaded.warnings[0].to_string(),
        &["tls.ca has no effect", "wss://"],
    );
    let same = r#"{"mark": "A", "local_address": "h:1", "port_key": "p"}, {"mark": "A", "local_address": "h:2", "port_key": "q"}"#;
    assert_contains(
        &read(&ports("server", same)).expect("loads").warnings[0].to_string(),
        &["ports[1].mark (\"A\")"],
    );
}
