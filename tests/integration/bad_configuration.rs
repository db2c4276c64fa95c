//! Bad configuration files. `report check` and a normal start both refuse each file and name its
//! location, the field and the remedy.

use std::{fs, net::TcpListener, path::Path};

use serde_json::{Value, json};

use crate::support::{
    certificates::Authority,
    ports,
    programs::ProgramOutput,
    services,
    tunnel::{Front, Methods, Port, Testbed, Tunnel, report, with},
    wait,
};

/// The examples of the README, byte for byte.
const MASTER: &str = r#"{"mode":"master","log_level":"debug","listen_at":"0.0.0.0:51324","master_key":"rePortserver"}"#;
const SERVER: &str = r#"{"mode":"server","log_level":"debug","master":"rePort.myserver.com:51324","master_key":"rePortserver","ports":[{"mark":"远程桌面","local_address":"127.0.0.1:3389","port_key":"T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4","encrypt_method":"aes-128-cfb","compress_method":"zstd"},{"mark":"SSH","local_address":"127.0.0.1:22","port_key":"lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE","encrypt_method":"aes-128-cfb","compress_method":"zstd"}]}"#;
const CLIENT: &str = r#"{"mode":"client","log_level":"debug","master":"rePort.myserver.com:51324","ports":[{"mark":"远程桌面","local_address":"127.0.0.1:13389","port_key":"T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4","encrypt_method":"aes-128-cfb","compress_method":"zstd"},{"mark":"SSH","local_address":"127.0.0.1:122","port_key":"lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE","encrypt_method":"aes-128-cfb","compress_method":"zstd"}]}"#;

/// A folder for configuration files.
pub(crate) struct Files(pub tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    pub(crate) fn check(&self, text: &str) -> ProgramOutput {
        self.check_file("config.json", text)
    }

    fn check_file(&self, name: &str, text: &str) -> ProgramOutput {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        report(&["check", "--config", path.to_str().unwrap()])
    }

    /// Asserts that both `check` and a normal start refuse the text with output that contains all
    /// `words`.
    #[track_caller]
    pub(crate) fn assert_refused(&self, text: &str, words: &[&str]) {
        self.assert_file_refused("config.json", text, words);
    }

    /// The same for a file with this name.
    #[track_caller]
    pub(crate) fn assert_file_refused(&self, name: &str, text: &str, words: &[&str]) {
        let checked = self.check_file(name, text);
        let path = self.0.path().join(name);
        let run = report(&["--config", path.to_str().unwrap()]);
        for (how, output) in [("check", checked), ("run", run)] {
            assert!(
                output.code.is_some_and(|code| code != 0),
                "{how} accepts {text}"
            );
            let printed = output.text() + &output.errors;
            for word in words {
                assert!(
                    printed.contains(word),
                    "{how} of {text} does not mention {word}:\n{printed}"
                );
            }
            assert!(!printed.contains("panicked"), "{printed}");
        }
    }
}

/// The server example with these fields added or replaced.
pub(crate) fn server_with(fields: Value) -> String {
    with(serde_json::from_str(SERVER).unwrap(), fields).to_string()
}

/// The client example with these fields added or replaced in its second port.
pub(crate) fn port_with(fields: Value) -> String {
    let mut client: Value = serde_json::from_str(CLIENT).unwrap();
    client["ports"][1] = with(client["ports"][1].take(), fields);
    client.to_string()
}

#[test]
fn the_readme_examples_load_unchanged() {
    let files = Files::new();
    for example in [MASTER, SERVER, CLIENT] {
        files.check(example).succeeded();
    }
}

#[test]
fn every_method_loads() {
    let files = Files::new();
    for Methods { encrypt, compress } in Methods::all() {
        files
            .check(&port_with(
                json!({"encrypt_method": encrypt, "compress_method": compress}),
            ))
            .succeeded();
    }
}

#[test]
fn every_form_of_a_master_address_loads() {
    let files = Files::new();
    for master in [
        "localhost:1",
        "127.0.0.1:1",
        "[::1]:1",
        "ws://localhost",
        "ws://localhost:1/path",
        "wss://localhost/path",
    ] {
        files
            .check(&server_with(json!({"master": master})))
            .succeeded();
    }
}

#[test]
fn a_missing_file_is_reported_with_its_path() {
    for arguments in [
        &["check", "--config", "/nowhere/at-all.json"][..],
        &["--config", "/nowhere/at-all.json"],
    ] {
        let output = report(arguments);
        assert_ne!(output.code, Some(0));
        assert!(
            output.errors.contains("/nowhere/at-all.json"),
            "{}",
            output.errors
        );
    }
}

#[test]
fn broken_json_is_located_by_line_and_column() {
    let files = Files::new();
    files.assert_refused(
        "{\n  \"mode\": \"master\",\n  \"listen_at\" \"0.0.0.0:1\"\n}",
        &["config.json:3:15"],
    );
    files.assert_refused("{\"mode\": \"master\"", &["config.json:1:"]);
    files.assert_refused("", &["config.json"]);
    files.assert_refused("[]", &["config.json", "object"]);
}

#[test]
fn an_unknown_field_is_reported_with_the_nearest_known_one() {
    let files = Files::new();
    files.assert_refused(
        &server_with(json!({"masterkey": "x"})),
        &["masterkey", "master_key"],
    );
    files.assert_refused(
        &port_with(json!({"encryption_method": "plain"})),
        &["ports[1].encryption_method", "encrypt_method"],
    );
}

#[test]
fn a_value_of_the_wrong_type_is_reported_with_its_field() {
    let files = Files::new();
    files.assert_refused(&server_with(json!({"log_level": 3})), &["log_level", "3"]);
    files.assert_refused(&server_with(json!({"ports": {}})), &["ports"]);
    files.assert_refused(
        &port_with(json!({"port_key": true})),
        &["ports[1].port_key", "true"],
    );
}

#[test]
fn an_unknown_mode_or_method_is_reported_with_the_known_ones() {
    let files = Files::new();
    files.assert_refused(
        &server_with(json!({"mode": "sever"})),
        &["mode", "sever", "server"],
    );
    files.assert_refused(&server_with(json!({"mode": null})), &["mode"]);
    files.assert_refused(
        &port_with(json!({"encrypt_method": "rot13"})),
        &["ports[1].encrypt_method", "rot13", "aes-128-cfb"],
    );
    files.assert_refused(
        &port_with(json!({"compress_method": "zip"})),
        &["ports[1].compress_method", "zip", "zstd"],
    );
    files.assert_refused(
        &server_with(json!({"log_level": "verbose"})),
        &["log_level", "verbose", "debug"],
    );
}

#[test]
fn an_empty_or_duplicate_port_key_is_refused() {
    let files = Files::new();
    files.assert_refused(
        &port_with(json!({"port_key": ""})),
        &["ports[1].port_key", "empty"],
    );
    files.assert_refused(
        &port_with(json!({"port_key": null})),
        &["ports[1].port_key"],
    );
    let key = "T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4";
    let twice = port_with(json!({ "port_key": key }));
    files.assert_refused(&twice, &["ports[1].port_key", "远程桌面"]);
    let printed = files.check(&twice);
    assert!(
        !(printed.text() + &printed.errors).contains(key),
        "the message does not repeat the key"
    );
}

#[test]
fn a_duplicate_local_address_of_a_client_is_refused() {
    Files::new().assert_refused(
        &port_with(json!({"local_address": "127.0.0.1:13389"})),
        &["ports[1].local_address", "127.0.0.1:13389"],
    );
}

#[test]
fn a_port_whose_fields_contradict_each_other_is_refused() {
    let files = Files::new();
    for (fields, words) in [
        (
            json!({"local_address": "unix:/run/app.sock", "protocol": "udp"}),
            ["ports[1].protocol", "unix sockets carry connections only"],
        ),
        (
            json!({"local_address": format!("unix:/{}", "x".repeat(200))}),
            ["ports[1].local_address", "a path of 201 bytes"],
        ),
        (
            json!({"local_address": "127.0.0.1:9-8"}),
            ["ports[1].local_address", "ends before it starts"],
        ),
        (
            json!({"local_address": "127.0.0.1:13380-13390"}),
            ["ports[1].local_address", "127.0.0.1:13380-13390"],
        ),
        (
            json!({"allow": ["10.0.0.0/33:22"]}),
            ["ports[1].allow[0]", "invalid network"],
        ),
        (
            json!({"targets": ["127.0.0.1:1"]}),
            ["ports[1].targets", "only for a server"],
        ),
        (
            json!({"max_delay": "1s"}),
            ["ports[1].max_delay", "`protocol` is \"tcp\""],
        ),
    ] {
        files.assert_refused(&port_with(fields), &words);
    }
}

#[test]
fn a_file_whose_ports_are_all_disabled_is_refused() {
    let mut client: Value = serde_json::from_str(CLIENT).unwrap();
    for port in client["ports"].as_array_mut().unwrap() {
        port["enabled"] = json!(false);
    }
    Files::new().assert_refused(&client.to_string(), &["ports", "all disabled"]);
}

#[test]
fn an_address_without_a_port_is_refused() {
    let files = Files::new();
    files.assert_refused(
        &port_with(json!({"local_address": "127.0.0.1"})),
        &["ports[1].local_address", "127.0.0.1", "port"],
    );
    files.assert_refused(
        &server_with(json!({"master": "rePort.myserver.com"})),
        &["master", "port"],
    );
    files.assert_refused(
        &server_with(json!({"master": "http://rePort.myserver.com/"})),
        &["master", "http", "ws"],
    );
}

#[test]
fn a_weak_key_is_a_warning_with_a_remedy() {
    let files = Files::new();
    let weak = files
        .check(&port_with(json!({"port_key": "secret"})))
        .succeeded();
    let printed = weak.text() + &weak.errors;
    assert!(
        printed.contains("ports[1].port_key") && printed.contains("report keygen"),
        "{printed}"
    );
    assert!(
        !printed.contains("\"secret\""),
        "the message does not contain the key"
    );
    let strong = report(&["keygen"]).succeeded().text();
    assert!(strong.trim().len() >= 32, "{strong}");
    assert_ne!(strong, report(&["keygen"]).succeeded().text());
    let checked = files
        .check(&port_with(json!({"port_key": strong.trim()})))
        .succeeded();
    assert!(!(checked.text() + &checked.errors).contains("ports[1].port_key"));
}

#[test]
fn terminal_control_characters_are_escaped() {
    let files = Files::new();
    let steering = "a\u{1b}[2J\u{9b}\u{202e}\u{2066}\u{2028}\u{feff}b";
    let is_hostile = |letter: char| steering.contains(letter) && !letter.is_ascii_graphic();
    let master = json!({"master": format!("ws://{}/", ports::free())});
    let mut client: Value = serde_json::from_str(CLIENT).unwrap();
    client["ports"][1]["mark"] = json!(steering);
    let text = with(client.clone(), master.clone()).to_string();
    client["ports"][1]["compress_method"] = json!(steering);
    let refused = with(client, master).to_string();
    for (text, arguments) in [
        (&text, &["check"][..]),
        (&refused, &["check"]),
        (&text, &["doctor"]),
        (&text, &["doctor", "--json"]),
        (&refused, &["doctor"]),
    ] {
        files.check(text);
        let file = files.0.path().join("config.json");
        let output = report(&[arguments, &["--config", file.to_str().unwrap()]].concat());
        let printed = output.text() + &output.errors;
        assert!(!printed.contains(is_hostile), "{arguments:?}: {printed:?}");
        assert!(printed.contains("202e"), "{arguments:?}: {printed}");
        if arguments.contains(&"--json") {
            let document: Value = serde_json::from_str(&output.text()).unwrap();
            assert!(
                document["steps"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|step| step["subject"] == steering),
                "{document}"
            );
        }
    }
}

fn master_with_tls(cert: &Path, key: &Path) -> String {
    with(
        serde_json::from_str(MASTER).unwrap(),
        json!({"listen_at": ports::free().to_string(), "tls": {"cert": cert, "key": key}}),
    )
    .to_string()
}

#[test]
fn an_unreadable_or_mismatched_certificate_is_refused() {
    let files = Files::new();
    let authority = Authority::new(files.0.path());
    let (one, other) = (authority.leaf("one"), authority.leaf("other"));
    files
        .check(&master_with_tls(&one.cert, &one.key))
        .succeeded();
    let nowhere = files.0.path().join("nowhere.pem");
    files.assert_refused(&master_with_tls(&nowhere, &one.key), &["nowhere.pem"]);
    files.assert_refused(&master_with_tls(&one.cert, &nowhere), &["nowhere.pem"]);
    files.assert_refused(&master_with_tls(&one.cert, &other.key), &["other.key"]);
    let garbage = files.0.path().join("garbage.pem");
    fs::write(&garbage, "no certificate").unwrap();
    files.assert_refused(&master_with_tls(&garbage, &one.key), &["garbage.pem"]);
    files.assert_refused(
        &server_with(json!({"master": "wss://localhost/", "tls": {"ca": garbage}})),
        &["garbage.pem"],
    );
}

#[test]
fn an_address_in_use_ends_the_role_and_is_logged() {
    let testbed = Testbed::new(Front::Direct);
    let occupied = TcpListener::bind(testbed.master_address()).unwrap();
    let mut master = testbed.role("master", &testbed.master_configuration(json!({})));
    let status = master.wait_for_end(wait::TIMEOUT).expect("the master ends");
    assert_ne!(status.code(), Some(0));
    master.wait_for_line(&["in use", &testbed.master_address().to_string()]);

    let port = Port {
        local: occupied.local_addr().unwrap(),
        ..Port::new("occupied", "127.0.0.1:9", Methods::DEFAULT)
    };
    let mut client = testbed.role("client", &testbed.client_configuration(&[port], json!({})));
    let status = client.wait_for_end(wait::TIMEOUT).expect("the client ends");
    assert_ne!(status.code(), Some(0));
    client.wait_for_line(&["in use", "occupied"]);
}

#[test]
fn a_client_starts_while_a_local_address_is_in_use_and_binds_it_later() {
    let echo = services::echo();
    let occupied = TcpListener::bind(ports::free()).unwrap();
    let taken = Port {
        local: occupied.local_addr().unwrap(),
        ..Port::new("taken", echo.address(), Methods::DEFAULT)
    };
    let tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("free", echo.address(), Methods::DEFAULT), taken],
    );
    tunnel.client.wait_for_line(&["taken", "in use", "retries"]);
    services::ping(&services::connect(tunnel.local("free")), b"!").unwrap();
    drop(occupied);
    // The log tells, because a child process of another test may hold the old listener until it has
    // started its program.
    tunnel.client.wait_for_line(&["listening", "port=taken"]);
    services::ping(&services::connect(tunnel.local("taken")), b"!").unwrap();
}

#[test]
fn unknown_arguments_are_refused() {
    for arguments in [&["nonsense"][..], &["--nonsense"], &["check", "--config"]] {
        let output = report(arguments);
        assert_eq!(output.code, Some(2), "{arguments:?}");
    }
    assert!(
        report(&["--help"])
            .succeeded()
            .text()
            .contains("quickstart")
    );
    assert!(
        report(&["--version"])
            .succeeded()
            .text()
            .contains(env!("CARGO_PKG_VERSION"))
    );
}
