//! Tests of the difference between two configurations.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::{self, ChangedPort, Config, ConfigDiff};

/// Parses a configuration. The variable `KEY` has this value.
fn parse(text: &Value, key: &str) -> Config {
    let variable = |name: &str| (name == "KEY").then(|| key.into());
    let loaded = config::parse(&text.to_string(), Path::new("config.json"), &variable);
    loaded.expect("valid").config
}

fn port(mark: &str, address: &str, key: &str) -> Value {
    json!({"mark": mark, "local_address": address, "port_key": key})
}

fn client(ports: &[Value]) -> Value {
    json!({"mode": "client", "master": "localhost:1", "ports": ports})
}

fn diff(old: &Value, new: &Value) -> ConfigDiff {
    ConfigDiff::between(&parse(old, "a"), &parse(new, "a"))
}

#[test]
fn ports_are_added_removed_changed_or_untouched() {
    let old = client(&[
        port("a", "localhost:10", "key a"),
        port("b", "localhost:11", "key b"),
        port("c", "localhost:12", "key c"),
        port("d", "localhost:13", "key d"),
    ]);
    let mut moved = port("b", "localhost:21", "key b");
    moved["compress_method"] = "zstd".into();
    let new = client(&[
        moved,
        port("a", "localhost:10", "key a"),
        port("d", "localhost:13", "another key"),
        port("e", "localhost:14", "key e"),
    ]);
    let diff = diff(&old, &new);
    let changed = |mark: &str, fields: &[&str]| ChangedPort {
        mark: mark.to_owned(),
        fields: fields.iter().map(|&field| field.to_owned()).collect(),
    };
    let expected = ConfigDiff {
        added: vec!["e".to_owned()],
        removed: vec!["c".to_owned()],
        changed: vec![
            changed("b", &["compress_method", "local_address"]),
            changed("d", &["port_key"]),
        ],
        untouched: vec!["a".to_owned()],
        ..ConfigDiff::default()
    };
    assert_eq!(diff, expected);
    assert_eq!(
        diff.to_string(),
        "added: port \"e\"\nremoved: port \"c\"\nchanged: port \"b\" (`compress_method`, \
         `local_address`), port \"d\" (`port_key`)\nuntouched: port \"a\""
    );
}

#[test]
fn a_port_that_is_turned_off_is_removed() {
    let ports = [
        port("a", "localhost:10", "key a"),
        port("b", "localhost:11", "key b"),
    ];
    let mut off = ports.clone();
    off[1]["enabled"] = false.into();
    let diff = diff(&client(&ports), &client(&off));
    assert_eq!(diff.removed, ["b"]);
    assert_eq!(diff.untouched, ["a"]);
}

#[test]
fn other_fields_are_named_and_the_format_of_the_log_needs_a_restart() {
    let old = client(&[port("a", "localhost:10", "key a")]);
    let mut new = old.clone();
    new["master"] = json!(["localhost:1", "localhost:2"]);
    new["log_format"] = "json".into();
    new["links"] = json!({"max": 3});
    let diff = diff(&old, &new);
    assert_eq!(diff.fields, ["links", "log_format", "master"]);
    assert_eq!(diff.needs_restart.len(), 1, "{diff}");
    assert!(diff.needs_restart[0].starts_with("`log_format`"), "{diff}");
    assert!(
        diff.to_string().contains("needs a restart: `log_format`"),
        "{diff}"
    );
}

#[test]
fn another_content_of_a_secret_is_a_change_and_is_not_shown() {
    let mut config = client(&[port("a", "localhost:10", "key a")]);
    config["ports"][0]["port_key"] = json!({"env": "KEY"});
    let (old, new) = (parse(&config, "first key"), parse(&config, "second key"));
    let diff = ConfigDiff::between(&old, &new);
    assert_eq!(diff.changed[0].fields, ["port_key"]);
    assert!(!diff.to_string().contains("second"), "{diff}");
    let server = json!({
        "mode": "server", "master": "localhost:1", "master_key": {"env": "KEY"},
        "ports": [port("a", "localhost:10", "key a")],
    });
    let diff = ConfigDiff::between(&parse(&server, "first key"), &parse(&server, "second key"));
    assert_eq!(diff.fields, ["master_key"]);
}

#[test]
fn the_same_meaning_in_other_words_is_no_change() {
    let old = client(&[port("a", "localhost:10", "key a")]);
    let mut new = old.clone();
    new["master"] = "ws://localhost:1/".into();
    new["ports"][0]["enabled"] = true.into();
    let diff = diff(&old, &new);
    assert!(diff.is_empty(), "{diff}");
    assert_eq!(diff.to_string(), "nothing has changed");
}
