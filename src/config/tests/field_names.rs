//! Tests of the names of fields: unknown, duplicate, absent, and those of another mode.

use super::*;

#[test]
fn unknown_fields_suggest_known_ones() {
    assert_contains(
        &error_line(&master("\"helthz\": true")),
        &[
            "c.json:1:",
            "helthz is unknown",
            "did you mean \"healthz\"?",
        ],
    );
    let nested = error_line(&master(r#""tls": {"cert": "c", "key": "k", "colour": 1}"#));
    assert_contains(&nested, &["tls.colour is unknown", "use one of cert, key"]);
    let port = r#"{"mark": "m", "local_adress": "127.0.0.1:1", "port_key": "p"}"#;
    let lines = error_lines(&ports("client", port));
    assert_contains(
        &lines[0],
        &[
            "ports[0].local_adress is unknown",
            "did you mean \"local_address\"?",
        ],
    );
    assert_contains(
        &error_line(&master(r#""limits": {"link": 1}"#)),
        &["limits.link is unknown", "\"links\""],
    );
    assert_contains(
        &error_lines(&server(r#""tls": {"cert": "c"}"#))[0],
        &["tls.cert is unknown", "ca"],
    );
}

#[test]
fn fields_of_another_mode_are_rejected() {
    assert_contains(
        &error_line(&master("\"hold_timeout\": 1")),
        &[
            "hold_timeout",
            "mode \"client\"",
            "this file's mode is \"master\"",
        ],
    );
    let client = README_SERVER.replace("\"server\"", "\"client\"");
    assert_contains(
        &error_line(&client),
        &["master_key is not for a client", "remove it"],
    );
}

#[test]
fn duplicate_fields_are_rejected() {
    assert_contains(
        &error_line(&master("\"path\": \"/\",\n\"path\": \"/b\"")),
        &["c.json:2:", "duplicate field `path`", "keep one"],
    );
    let modes = "{\"mode\": \"server\",\n \"mode\": \"client\", \"ports\": []}";
    assert_contains(
        &error_lines(modes)[0],
        &["c.json:2:10: duplicate field `mode`: keep one"],
    );
    let key = r#"{"env": "A", "env": "B"}"#;
    let port = format!(r#"{{"local_address": "h:1", "port_key": {key}}}"#);
    let text = ports("client", &port);
    let set = |name: &str| Some(OsString::from(name));
    let error = parse(&text, Path::new("c.json"), &set).expect_err("two variables");
    assert_contains(
        &error.to_string(),
        &["ports[0].port_key duplicate field `env`"],
    );
    assert_contains(
        &error_line(&client(
            r#""master": "host:1", "headers": {"X-A": "hush1", "x-a": "hush2"}"#,
        )),
        &["headers contains `x-a` twice: keep one of them"],
    );
}

#[test]
fn null_is_an_absent_field() {
    assert!(
        read(&master(
            r#""path": null, "tls": null, "limits": {"links": null}"#
        ))
        .is_ok()
    );
    assert_contains(
        &error_line(&master(r#""unknown": null"#)),
        &["unknown is unknown here"],
    );
}

#[test]
fn proxy_protocol_is_a_field_of_server_ports() {
    let port = |mode: &str, protocol: &str| {
        let port = format!(
            r#"{{"local_address": "127.0.0.1:80", "port_key": "p", "proxy_protocol": {protocol}}}"#
        );
        ports(mode, &port)
    };
    let parsed = |text: &str| server_of(read(text).expect("loads")).ports[0].proxy_protocol;
    assert_eq!(parsed(&port("server", r#""v2""#)), Some(ProxyProtocol::V2));
    assert_eq!(parsed(&server(r#""log_level": "warn""#)), None);
    assert_contains(
        &error_line(&port("server", r#""v1""#)),
        &["ports[0].proxy_protocol", "\"v1\"", "v2"],
    );
    assert_contains(
        &error_line(&port("server", "true")),
        &["ports[0].proxy_protocol", "true"],
    );
    let line = error_line(&port("client", r#""v2""#));
    assert_contains(
        &line,
        &[
            "ports[0].proxy_protocol is not for a client",
            "remove it here",
            "at the server",
        ],
    );
    assert_contains(
        &error_line(&server(r#""proxy_protocol": "v2""#)),
        &["proxy_protocol", "in an element of `ports`"],
    );
    assert_contains(
        &error_line(&master(r#""ports": [{"proxy_protocol": "v2"}]"#)),
        &["ports", "remove it here"],
    );
}
