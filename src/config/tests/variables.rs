//! Tests of environment variables in texts: their values, and errors without them.

use super::*;

fn variable(name: &str) -> Option<OsString> {
    let value = match name {
        "MASTER" => "wss://one.example/tunnel",
        "KEY" => "hush4711-Secret",
        "HOST" => "127.0.0.1",
        "SHORT" => "q7",
        "MARK" => "hush-0815",
        "MODE" => "hushmode",
        "QUOTED" => "a\"b\"c\\d\"e",
        _ => return None,
    };
    Some(value.into())
}

fn read_with(text: &str) -> Result<LoadedConfig, ConfigError> {
    parse(text, Path::new("c.json"), &variable)
}

fn errors_with(text: &str) -> String {
    read_with(text).expect_err(text).to_string()
}

/// Returns a client with these fields of its port.
fn with_port(fields: &str) -> String {
    format!(r#"{{"mode": "client", "master": "host:1", "ports": [{{{fields}}}]}}"#)
}

#[test]
fn variables_are_replaced_in_every_text() {
    let text = r#"{
        "mode": "client", "master": ["${MASTER}", "${NONE:-two.example:443}"],
        "headers": {"X-A": "${MARK}"},
        "ports": [
            {"mark": "$ ${MARK} $$", "local_address": "${HOST}:1", "port_key": "pa$$word${KEY}"},
            {"mark": "$${MARK}", "local_address": "h:2", "port_key": {"env": "${NONE:-KEY}"}}
        ]
    }"#;
    let client = client_of(read_with(text).unwrap_or_else(|error| panic!("{error}")));
    let masters: Vec<String> = client
        .link
        .masters
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        masters,
        ["wss://one.example/tunnel", "ws://two.example:443/"]
    );
    let [one, two] = client.ports.as_slice() else {
        panic!("two ports")
    };
    assert_eq!(one.mark, "$ hush-0815 $$");
    let address = one.local_address.as_ref().map(ToString::to_string);
    assert_eq!(address.as_deref(), Some("127.0.0.1:1"));
    assert_eq!(one.port_key.expose(), "pa$$wordhush4711-Secret");
    assert_eq!(two.mark, "${MARK}");
    assert_eq!(two.port_key.expose(), "hush4711-Secret");
}

#[test]
fn the_names_of_fields_contain_no_variables() {
    assert_contains(
        &errors_with(&master("\"${MARK}\": 1")),
        &["c.json:1:", "${MARK} is unknown here"],
    );
}

#[test]
fn a_variable_that_is_not_set_is_an_error_of_its_field() {
    let text = "{\"mode\": \"client\", \"master\": [\"${A}\", \"host:1\"], \"hold_timeout\": \"${B}\",\n \
        \"ports\": [{\"local_address\": \"${C}:1\", \"port_key\": \"hush${D\"},\n \
        {\"local_address\": \"h:2\", \"port_key\": {\"file\": \"${E}\"}}]}";
    let errors = errors_with(text);
    let lines: Vec<&str> = errors.lines().collect();
    let expected = [
        "c.json:1:31: master[0] names the environment variable A, which is not set: set it",
        "c.json:1:66: hold_timeout names the environment variable B, which is not set: set it",
        "c.json:2:30: ports[0].local_address names the environment variable C, which is not set",
        "c.json:2:52: ports[0].port_key contains \"${\" without \"NAME}\" or",
        "c.json:3:48: ports[1].port_key.file names the environment variable E, which is not set",
    ];
    assert_eq!(lines.len(), expected.len(), "{errors}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "not {expected}: {line}");
    }
    assert!(!errors.contains("hush"), "{errors}");
}

#[test]
fn an_unset_mode_is_the_only_error() {
    assert_eq!(
        errors_with(r#"{"mode": "${NONE}", "unknown": 1}"#),
        "c.json:1:10: mode names the environment variable NONE, which is not set: set it before \
         starting `report`, or write ${NONE:-DEFAULT}"
    );
}

#[test]
fn errors_name_the_variable_in_place_of_its_value() {
    for (text, expected) in [
        (
            with_port(r#""local_address": "${HOST}", "port_key": "p""#),
            "ports[0].local_address (\"${HOST}\") has no port: write it as \"${HOST}:PORT\"",
        ),
        (
            with_port(r#""local_address": "h:1", "port_key": "p", "compress_method": "${KEY}""#),
            "ports[0].compress_method is \"${KEY}\": use one of null, s2, zstd",
        ),
        (r#"{"mode": "${MODE}"}"#.to_owned(), "mode is \"${MODE}\": "),
        (
            client(r#""master": "host:1", "bench": "${KEY}""#),
            "bench is a field of mode \"server\"",
        ),
        (
            server(r#""bench": "x${KEY}""#),
            "bench is the text \"x${KEY}\": write true or false",
        ),
        (
            with_port(r#""local_address": "h:1", "port_key": {"file": "none/${KEY}"}"#),
            "ports[0].port_key names the file none/${KEY}, which cannot be read",
        ),
        (
            server(r#""host": "${KEY} ${MARK}""#),
            "host is \"${KEY} ${MARK}\": write a host name without spaces",
        ),
        (
            server(r#""host": "${SHORT} b""#),
            "host is invalid with the value of ${SHORT}: correct the variable, or the text around it",
        ),
        (
            server(r#""host": "${QUOTED} b""#),
            "host is invalid with the value of ${QUOTED}: correct the variable",
        ),
    ] {
        let errors = errors_with(&text);
        assert_contains(&errors, &["c.json:1:", expected]);
        for value in ["hush", "4711", "q7", "127.0", "b\\\"c", "b\"c"] {
            assert!(!errors.contains(value), "{value} is in {errors}");
        }
    }
}

#[test]
fn rules_between_fields_name_no_values_either() {
    let port = r#""mark": "${MARK}", "local_address": "${HOST}:1", "port_key": "${KEY}""#;
    let errors = errors_with(&with_port(&format!("{port}}}, {{{port}")));
    assert_contains(
        &errors,
        &["ports[1].port_key is the same key as that of \"${MARK}\""],
    );
    assert_contains(&errors, &["ports[1].local_address ", "\"${HOST}:1\""]);
    for value in ["hush", "127.0"] {
        assert!(!errors.contains(value), "{value} is in {errors}");
    }
    let other = port.replace(":1", ":2").replace("${KEY}", "other");
    let loaded = read_with(&with_port(&format!("{port}}}, {{{other}"))).expect("loads");
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_contains(
        &warnings[0],
        &["ports[1].mark (\"${MARK}\") is also the mark"],
    );
}
