//! Configurations in formats other than JSON, in several files, and with environment variables. Keys
//! in files.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::{
    bad_configuration::{Files, port_with, server_with},
    support::{
        daemon::Daemon,
        programs, services,
        tunnel::{Front, Methods, Port, REPORT, Testbed},
        wait,
    },
};

#[test]
fn a_tunnel_runs_from_toml_and_commented_json_with_includes_and_variables() {
    let testbed = Testbed::new(Front::Direct);
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let write = |name: &str, text: String| fs::write(testbed.folder().join(name), text).unwrap();
    fs::create_dir(testbed.folder().join("services")).unwrap();
    let address = echo.address();
    write(
        "services/echo.toml",
        format!("[[ports]]\nlocal_address = \"{address}\"\nport_key = \"${{THE_PORT_KEY}}\"\n"),
    );
    let (url, key) = (testbed.master_url(), &testbed.master_key);
    write(
        "server.toml",
        format!(
            "mode = 'server' # a comment\nmaster = \"{url}\"\nmaster_key = \"{key}\"\ninclude = [\"services/*\"]\n"
        ),
    );
    let local = port.local;
    write(
        "client.jsonc",
        format!(
            r#"{{
                "mode": "client", // a comment
                "master": "{url}",
                "ports": [{{"local_address": "{local}", "port_key": "${{THE_PORT_KEY:-none}}"}},],
            }}"#
        ),
    );
    let command = |arguments: &[&str], name: &str| {
        let mut command = Command::new(REPORT);
        command.args(arguments).arg("--config");
        command.arg(testbed.folder().join(name));
        command.env("THE_PORT_KEY", &port.key);
        command
    };
    let start =
        |role: &str, name: &str| Daemon::start(role, testbed.folder(), &mut command(&[], name));
    let checked = programs::run(&mut command(&["check"], "server.toml")).succeeded();
    let included = testbed.folder().join("services/echo.toml");
    let line = format!("includes: {}\n", included.display());
    assert!(checked.text().contains(&line), "{}", checked.text());

    let _master = testbed.master(json!({}));
    let _server = start("server", "server.toml");
    let _client = start("client", "client.jsonc");
    wait::until_true("the tunnel is up", || services::echoes(local));
}

#[test]
fn broken_files_of_every_format_are_located_by_line_and_column() {
    let files = Files::new();
    for (name, text, words) in [
        (
            "a.jsonc",
            "{ // why\n \"mode\": }",
            &["a.jsonc:2:10", "is not JSON with comments"][..],
        ),
        ("a.jsonc", "{\n \"mode\": 'x'}", &["a.jsonc:2:10", ".json5"]),
        ("a.json5", "{\n mode: 'x}", &["a.json5:2:8", "is not JSON5"]),
        (
            "a.toml",
            "mode = \"master\"\nmode = \"client\"",
            &["a.toml:2:1", "duplicate key"],
        ),
        (
            "a.toml",
            "mode = \"master\"\nlisten = 1",
            &["a.toml:2:10", "listen_at"],
        ),
        (
            "a.json",
            "{\"mode\": \"master\",}",
            &["a.json:1:19", ".jsonc"],
        ),
    ] {
        files.assert_file_refused(name, text, words);
    }
}

#[test]
fn wrong_includes_and_variables_are_refused() {
    let files = Files::new();
    let including = |patterns: Value| server_with(json!({ "include": patterns }));
    for (name, text) in [
        ("other.toml", "heartbeat = \"10s\"\nlog_level = \"warn\""),
        ("broken.jsonc", "{\n\"heartbeat\" 1}"),
        ("loop.json5", "{include: ['loop.json?']}"),
    ] {
        fs::write(files.0.path().join(name), text).unwrap();
    }
    for (text, words) in [
        (
            including(json!(["none.json"])),
            &["include[0]", "none.json, which cannot be read"][..],
        ),
        (
            including(json!(["other.toml"])),
            &["other.toml:2:13: log_level is also in ", "config.json:1:"],
        ),
        (
            including(json!(["*.jsonc"])),
            &["broken.jsonc:2:13: is not JSON with comments"],
        ),
        (
            including(json!(["loop.*"])),
            &["loop.json5:1:12: include[0] is an include loop: "],
        ),
        (
            including(json!(["[a"])),
            &["include[0] (\"[a\") is not a pattern"],
        ),
        (
            including(json!("other.toml")),
            &["include is the text", "write a list of paths"],
        ),
        (
            server_with(json!({"host": "${REPORT_NONE}"})),
            &["host names", "REPORT_NONE", "is not set"],
        ),
        (
            port_with(json!({"port_key": "a${"})),
            &["ports[1].port_key contains \"${\"", "$${"],
        ),
    ] {
        files.assert_refused(&text, words);
    }
    let without = files.check(&including(json!(["none/*.json"]))).succeeded();
    let printed = without.errors;
    assert!(printed.contains("matches no file"), "{printed}");
}

#[test]
fn the_value_of_a_variable_is_never_printed() {
    let files = Files::new();
    let path = files.0.path().join("config.json");
    let hush = "${REPORT_HUSH}";
    let fields = json!({"host": format!("{hush} b"), "log_level": hush, "proxy": hush});
    fs::write(&path, server_with(fields)).unwrap();
    let mut check = Command::new(REPORT);
    check.args(["check", "--config"]).arg(&path);
    let output = programs::run(check.env("REPORT_HUSH", "hush4711 secret"));
    let printed = output.text() + &output.errors;
    assert_ne!(output.code, Some(0));
    assert!(printed.contains(hush), "{printed}");
    let is_hidden = !printed.contains("hush") && !printed.contains("4711");
    assert!(is_hidden, "{printed}");
}

#[test]
fn a_key_can_come_from_a_file_or_the_environment() {
    let testbed = Testbed::new(Front::Direct);
    let file = testbed.folder().join("master.key");
    fs::write(&file, format!("{}\n", testbed.master_key)).unwrap();
    let _master = testbed.master(json!({"master_key": {"file": file}}));
    let echo = services::echo();
    let ports = [Port::new("echo", echo.address(), Methods::DEFAULT)];
    let path = testbed.write(
        "server",
        &testbed.server_configuration(&ports, json!({"master_key": {"env": "THE_MASTER_KEY"}})),
    );
    let mut server = Command::new(REPORT);
    let _server = Daemon::start(
        "server",
        testbed.folder(),
        server
            .arg("--config")
            .arg(path)
            .env("THE_MASTER_KEY", &testbed.master_key),
    );
    let _client = testbed.client("client", &ports, json!({}));
    wait::until_true("the tunnel is up", || services::echoes(ports[0].local));
}
