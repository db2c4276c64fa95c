//! Tests of the formats: JSON with comments, JSON5 and TOML mean the same as JSON, and have errors
//! with positions.

use super::*;

fn read_as(name: &str, text: &str) -> Result<LoadedConfig, ConfigError> {
    parse(text, Path::new(name), &no_variable)
}

fn error_of(name: &str, text: &str) -> String {
    read_as(name, text).expect_err(text).to_string()
}

const JSON: &str = r#"{
  "mode": "client",
  "master": ["wss://one.example/tunnel", "two.example:443"],
  "heartbeat": "10s",
  "hold_timeout": 0.5,
  "headers": {"X-A": "b"},
  "links": {"max": 3},
  "ports": [
    {"mark": "SSH", "local_address": "127.0.0.1:122", "port_key": "p", "compress_method": "zstd"},
    {"mark": "远程\n", "local_address": "127.0.0.1:123", "port_key": "\"'\\", "stream_window": 65536}
  ]
}"#;

const COMMENTED_JSON: &str = r#"// The client.
{
  "mode": "client", /* not a server */
  "master": ["wss://one.example/tunnel", "two.example:443",],
  "heartbeat": "10s",
  "hold_timeout": 0.5,
  "headers": {"X-A": "b"},
  "links": {"max": 3},
  "ports": [
    // "mark": "none"
    {"mark": "SSH", "local_address": "127.0.0.1:122", "port_key": "p", "compress_method": "zstd"},
    {"mark": "远程\n", "local_address": "127.0.0.1:123", "port_key": "\"'\\", "stream_window": 65536,},
  ],
}"#;

const JSON5: &str = r#"
{
  mode: 'client',
  master: ["wss://one.example/tunnel", 'two.\
example:443',],
  heartbeat: "10s", hold_timeout: .5,
  headers: {'X-A': "\x62"},
  links: {max: +3},
  ports: [
    {mark: 'SSH', local_address: '127.0.0.1:122', port_key: 'p', compress_method: 'zstd'}, // one
    {mark: "远程\n", local_address: "127.0.0.1:123", port_key: '"\'\\', stream_window: 0x10000},
  ],
}"#;

const TOML: &str = r#"
mode = "client"  # not a server
master = [
  "wss://one.example/tunnel",
  "two.example:443",
]
heartbeat = '10s'
hold_timeout = 0.5
headers.X-A = "b"

[links]
max = 3

[[ports]]
mark = "SSH"
local_address = "127.0.0.1:122"
port_key = "p"
compress_method = "zstd"

[[ports]]
mark = "远程\n"
local_address = "127.0.0.1:123"
port_key = '''"'\'''
stream_window = 65_536
"#;

#[test]
fn the_same_configuration_in_every_format_is_equal() {
    let expected = read_as("c.json", JSON).expect("JSON").config;
    for (name, text) in [
        ("c.conf", JSON),
        ("c.jsonc", JSON),
        ("c.jsonc", COMMENTED_JSON),
        ("c.JSONC", COMMENTED_JSON),
        ("c.json5", COMMENTED_JSON),
        ("c.json5", JSON5),
        ("c.toml", TOML),
    ] {
        let loaded = read_as(name, text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.config, expected, "{name}");
        assert_eq!(loaded.files, [Path::new(name)]);
    }
}

#[test]
fn errors_of_fields_have_the_position_in_every_format() {
    for (name, text, expected) in [
        (
            "c.jsonc",
            COMMENTED_JSON.replace("\"zstd\"", "\"远程\""),
            "c.jsonc:11:91: ports[0].compress_method is \"远程\": use one of",
        ),
        (
            "c.json5",
            JSON5.replace("'zstd'", "'zip'"),
            "c.json5:10:83: ports[0].compress_method is \"zip\": use one of",
        ),
        (
            "c.toml",
            TOML.replace("\"zstd\"", "\"zip\""),
            "c.toml:18:19: ports[0].compress_method is \"zip\": use one of",
        ),
        (
            "c.toml",
            TOML.replace("[links]", "[linsk]"),
            "c.toml:11:1: linsk is unknown here: did you mean \"links\"?",
        ),
        (
            "c.toml",
            TOML.replace("port_key = \"p\"\n", ""),
            "c.toml:14:1: ports[0].port_key is missing: add the shared secret",
        ),
        (
            "c.toml",
            TOML.replace("max = 3", "max = 1979-05-27"),
            "c.toml:12:7: links.max is \"1979-05-27\": write a whole number",
        ),
        (
            "c.json5",
            "[]".to_owned(),
            "c.json5: contains a list: a configuration is an object",
        ),
    ] {
        let error = error_of(name, &text);
        assert!(error.starts_with(expected), "not {expected}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn syntax_errors_name_the_format_and_the_position() {
    for (name, text, expected) in [
        (
            "c.jsonc",
            "",
            "c.jsonc:1:1: is not JSON with comments: the file is empty",
        ),
        (
            "c.jsonc",
            "{\"mode\": \"master\"\n \"path\": 1}",
            "c.jsonc:1:18: is not JSON with comments: expected comma",
        ),
        (
            "c.jsonc",
            "{\"a\": \"远程\", 'b': 1}",
            "c.jsonc:1:13: is not JSON with comments: single-quoted strings are not allowed; write it in double quotes, or name the file .json5",
        ),
        (
            "c.jsonc",
            "{\n  mode: 1}",
            "c.jsonc:2:3: is not JSON with comments: expected string for object property; write it in double quotes",
        ),
        (
            "c.jsonc",
            "{\"a\": 0x10}",
            "c.jsonc:1:7: is not JSON with comments: hexadecimal numbers are not allowed; write a plain number",
        ),
        (
            "c.jsonc",
            "{# why\n}",
            "c.jsonc:1:2: is not JSON with comments: unexpected token; a comment starts with //",
        ),
        (
            "c.jsonc",
            "{\"a\": \"b,\n \"c\": 1}",
            "c.jsonc:1:7: is not JSON with comments: the string does not end on its line",
        ),
        (
            "c.jsonc",
            r#"{"a": "C:\Users"}"#,
            "c.jsonc:1:10: is not JSON with comments: invalid escape; a backslash is written twice",
        ),
        (
            "c.json5",
            "{“mode”: 1}",
            "c.json5:1:2: is not JSON5: unexpected token; “ (U+201C) is not JSON5: write \"",
        ),
        ("c.json5", "{a: 1}}", "c.json5:1:7: is not JSON5: "),
        (
            "c.json5",
            "{a: Infinity}",
            "c.json5:1:5: is not JSON5: unexpected ",
        ),
        (
            "c.json5",
            "{a: 1e999}",
            "c.json5:1:5: is not JSON5: the number does not fit into 64 bits",
        ),
        ("c.toml", "mode = \"client\"\nmaster \"x\"\n", "c.toml:2:"),
        (
            "c.toml",
            "mode = \"client\"\nmode = \"x\"\n",
            "c.toml:2:1: is not TOML: duplicate key",
        ),
        ("c.toml", "{\"mode\": 1}", "c.toml:1:"),
        ("c.toml", "mode = “client”\n", "c.toml:1:8: is not TOML: "),
    ] {
        let error = error_of(name, text);
        assert!(error.starts_with(expected), "not {expected}: {error}");
    }
    let typographic = error_of("c.toml", "mode = “client”\n");
    assert_contains(&typographic, &["“ (U+201C) is not TOML: write \""]);
}

#[test]
fn json_has_neither_comments_nor_trailing_commas() {
    for (text, hint) in [
        (
            "{\"mode\": \"master\", // why\n}",
            "JSON has no comments: remove it, or name the file .jsonc",
        ),
        (
            "{\"mode\": \"master\",}",
            "JSON has no comma after the last element: remove it, or name the file .jsonc",
        ),
        ("{'mode': 1}", "or name the file .json5"),
    ] {
        assert_contains(&error_of("c.json", text), &["is not JSON: ", hint]);
    }
}

#[test]
fn duplicate_fields_are_rejected_in_every_format() {
    let fields = "\"mode\": \"master\", \"listen_at\": \"a:1\", \"master_key\": \"k\"";
    for name in ["c.jsonc", "c.json5"] {
        let text = format!("{{{fields},\n\"path\": \"/\",\n\"path\": \"/b\"}}");
        assert_contains(&error_of(name, &text), &[":3:", "duplicate field `path`"]);
    }
}

#[test]
fn deeply_nested_values_are_errors() {
    let nested = "[".repeat(100_000);
    for name in ["c.json", "c.jsonc", "c.json5", "c.toml"] {
        let text = format!("a = {nested}");
        let text = if name == "c.toml" { &text } else { &nested };
        assert_contains(&error_of(name, text), &[name, ": is not "]);
    }
}

#[test]
fn a_schema_for_editors_is_ignored() {
    let text = r#""$schema": "https://example.com/report.schema.json""#;
    assert_eq!(
        read(&master(text)).map(|loaded| loaded.warnings),
        Ok(vec![])
    );
    assert_contains(
        &error_line(&master("\"$schema\": 5")),
        &[
            "c.json:1:",
            "$schema is the number 5: write the address of a schema",
        ],
    );
}
