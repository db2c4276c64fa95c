//! Tests of whole files, valid and invalid: their meaning and their errors.

use std::{ffi::OsString, path::Path, time::Duration};

use super::*;

const README_MASTER: &str = r#"{"mode":"master","log_level":"debug","listen_at":"0.0.0.0:51324","master_key":"rePortserver"}"#;
const README_SERVER: &str = r#"{"mode":"server","log_level":"debug","master":"rePort.myserver.com:51324","master_key":"rePortserver","ports":[{"mark":"远程桌面","local_address":"127.0.0.1:3389","port_key":"T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4","encrypt_method":"aes-128-cfb","compress_method":"zstd"},{"mark":"SSH","local_address":"127.0.0.1:22","port_key":"lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE","encrypt_method":"aes-128-cfb","compress_method":"zstd"}]}"#;
const README_CLIENT: &str = r#"{"mode":"client","log_level":"debug","master":"rePort.myserver.com:51324","ports":[{"mark":"远程桌面","local_address":"127.0.0.1:13389","port_key":"T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4","encrypt_method":"aes-128-cfb","compress_method":"zstd"},{"mark":"SSH","local_address":"127.0.0.1:122","port_key":"lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE","encrypt_method":"aes-128-cfb","compress_method":"zstd"}]}"#;

fn no_variable(_: &str) -> Option<OsString> {
    None
}

fn read(text: &str) -> Result<LoadedConfig, ConfigError> {
    parse(text, Path::new("c.json"), &no_variable)
}

/// Returns the error lines of an invalid file.
fn error_lines(text: &str) -> Vec<String> {
    read(text)
        .expect_err(text)
        .to_string()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Returns the only error line of an invalid file.
fn error_line(text: &str) -> String {
    let mut lines = error_lines(text);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.remove(0)
}

#[track_caller]
fn assert_contains(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "missing {part:?} in: {line}");
    }
}

fn master(fields: &str) -> String {
    format!(r#"{{"mode": "master", "listen_at": "127.0.0.1:0", "master_key": "k", {fields}}}"#)
}

fn server(fields: &str) -> String {
    let port = r#"{"mark": "SSH", "local_address": "127.0.0.1:22", "port_key": "p"}"#;
    format!(
        r#"{{"mode": "server", "master": "host:1", "master_key": "k", "ports": [{port}], {fields}}}"#
    )
}

fn ports(mode: &str, ports: &str) -> String {
    let key = if mode == "server" {
        r#""master_key": "k","#
    } else {
        ""
    };
    format!(r#"{{"mode": "{mode}", "master": "host:1", {key} "ports": [{ports}]}}"#)
}

fn server_of(loaded: LoadedConfig) -> ServerConfig {
    let RoleConfig::Server(server) = loaded.config.role else {
        panic!("no server")
    };
    server
}

#[test]
fn the_readme_master_loads() {
    let LoadedConfig { config, warnings } = read(README_MASTER).expect("loads");
    assert_eq!(
        (config.common.log_level, warnings.len()),
        (tracing::Level::DEBUG, 0)
    );
    let RoleConfig::Master(master) = config.role else {
        panic!("no master")
    };
    assert_eq!(
        *master.listen_at,
        ["0.0.0.0:51324".parse().expect("an address")]
    );
    assert_eq!(
        (
            master.master_key.expose(),
            master.path.as_str(),
            master.healthz
        ),
        ("rePortserver", "/", false)
    );
    assert_eq!(
        (master.tls, master.limits),
        (None, MasterLimitsConfig::default())
    );
}

#[test]
fn the_readme_server_loads() {
    let server = server_of(read(README_SERVER).expect("loads"));
    assert_eq!(
        server.link.masters[0].to_string(),
        "ws://rePort.myserver.com:51324/"
    );
    let [desktop, ssh] = server.ports.as_slice() else {
        panic!("two ports")
    };
    assert_eq!(
        (
            desktop.mark.as_str(),
            desktop.local_address.to_string().as_str()
        ),
        ("远程桌面", "127.0.0.1:3389")
    );
    assert_eq!(
        (ssh.encrypt_method, ssh.compress_method),
        (EncryptMethod::Aes128Cfb, CompressMethod::Zstd)
    );
    assert_eq!(ssh.port_key.expose(), "lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE");
}

#[test]
fn the_readme_client_loads() {
    let RoleConfig::Client(client) = read(README_CLIENT).expect("loads").config.role else {
        panic!("no client")
    };
    let addresses: Vec<String> = client
        .ports
        .iter()
        .map(|port| port.local_address.to_string())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:13389", "127.0.0.1:122"]);
    assert_eq!(
        (*client.hold_timeout, *client.link.heartbeat),
        (Duration::from_secs(10), Duration::from_secs(20))
    );
}

#[test]
fn every_example_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples");
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join("keys")).expect("a folder");
    for name in ["master", "ssh", "wiki"] {
        std::fs::write(
            home.path().join(format!("keys/{name}.key")),
            format!("key of {name}\n"),
        )
        .expect("written");
    }
    let variable =
        |name: &str| (name == "REPORT_DATABASE_KEY").then(|| OsString::from("key of the database"));
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the examples") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".json") && !name.ends_with(".schema.json") {
            let text = std::fs::read_to_string(&path).expect("text");
            let loaded = parse(&text, &home.path().join("config.json"), &variable)
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(loaded.warnings, [], "{}", path.display());
            let written = serde_json::to_string(&loaded.config).expect("serializes");
            let again = parse(&written, &home.path().join("config.json"), &variable);
            assert_eq!(again, Ok(loaded), "{written}");
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
    for (name, text) in [
        ("master", README_MASTER),
        ("server", README_SERVER),
        ("client", README_CLIENT),
    ] {
        assert_eq!(
            std::fs::read_to_string(folder.join(format!("readme-{name}.json")))
                .expect("the example"),
            text
        );
    }
}

#[test]
fn all_fields_of_a_file_take_effect() {
    let text = server(
        r#""log_level": "warn", "connect_timeout": 2.5, "heartbeat": "5s", "grace_period": "500ms", "windows": {"stream": "1 MiB"}, "bench": false"#,
    );
    let loaded = read(&text).expect("loads");
    assert_eq!(loaded.config.common.log_level, tracing::Level::WARN);
    assert_eq!(
        *loaded.config.common.grace_period,
        Duration::from_millis(500)
    );
    let server = server_of(loaded);
    assert!(
        !server.bench
            && server_of(read(&self::server(r#""log_level": "warn""#)).expect("loads")).bench,
        "measuring is on unless it is turned off"
    );
    assert_eq!(
        (*server.link.connect_timeout, *server.link.heartbeat),
        (Duration::from_millis(2_500), Duration::from_secs(5))
    );
    assert_eq!(
        server.ports[0].windows(&server.link.windows),
        Windows {
            stream: ByteSize::mib(1),
            tunnel: ByteSize::mib(32)
        }
    );
    assert_eq!(
        (
            server.ports[0].encrypt_method,
            server.ports[0].compress_method
        ),
        (EncryptMethod::Aes128Gcm, CompressMethod::Null)
    );
}

#[test]
fn a_port_window_overrides_the_file_and_adapts_the_other_window() {
    let port = r#"{"local_address": "host:22", "port_key": "p", "tunnel_window": "2 MiB"}"#;
    let server = server_of(read(&ports("server", port)).expect("loads"));
    assert_eq!(
        server.ports[0].windows(&server.link.windows),
        Windows {
            stream: ByteSize::mib(2),
            tunnel: ByteSize::mib(2)
        }
    );
    assert_eq!(
        server.ports[0].mark, "host:22",
        "a port without a mark is called by its address"
    );
    let both = r#""windows": {"stream": "4 MiB", "tunnel": "2 MiB"}"#;
    assert_contains(
        &error_line(&self::server(both)),
        &["windows.stream is 4 MiB", "2 MiB", "windows.tunnel"],
    );
}

#[test]
fn several_masters_keep_their_order() {
    let text = server("")
        .replace(r#""host:1""#, r#"["wss://one/t", "two:2"]"#)
        .replace(", }", "}");
    let masters: Vec<String> = server_of(read(&text).expect("loads"))
        .link
        .masters
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(masters, ["wss://one/t", "ws://two:2/"]);
}

#[test]
fn byte_order_marks_are_accepted_and_other_encodings_rejected() {
    assert!(read(&format!("\u{feff}{README_CLIENT}")).is_ok());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.json");
    for bytes in crate::text::tests::encodings(README_CLIENT) {
        std::fs::write(&file, bytes).expect("written");
        load(&file).expect("UTF-8 or UTF-16 with a mark");
    }
    std::fs::write(&file, b"{\"mark\": \"\xd4\xb6\xb3\xcc\"}").expect("written");
    assert_contains(
        &load(&file).expect_err("GBK").to_string(),
        &[
            "config.json: is neither UTF-8 nor UTF-16 with a byte order mark from byte 13 on",
            "save it as UTF-8",
        ],
    );
}

#[test]
fn a_missing_file_error_names_the_folder_and_the_option() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = load(&folder.path().join("config.json"))
        .expect_err("no file")
        .to_string();
    assert_contains(
        &error,
        &[
            "no such file",
            &folder.path().display().to_string(),
            "--config FILE",
            "report quickstart",
        ],
    );
    let error = load(folder.path())
        .expect_err("a folder is no file")
        .to_string();
    assert_contains(&error, &["cannot be read"]);
}

#[test]
fn tcp_keepalive_defaults_to_a_minute_and_zero_disables_it() {
    let keepalive = |fields: &str| {
        *server_of(read(&server(fields)).expect(fields))
            .link
            .tcp_keepalive
    };
    assert_eq!(keepalive("\"bench\": true"), Some(Duration::from_secs(60)));
    assert_eq!(
        keepalive("\"tcp_keepalive\": \"2h\""),
        Some(Duration::from_secs(7200))
    );
    for zero in ["\"0s\"", "0", "\"0ms\""] {
        assert_eq!(keepalive(&format!("\"tcp_keepalive\": {zero}")), None);
    }
    for wrong in ["\"500ms\"", "\"10h\"", "-1", "\"soon\""] {
        let message = error_line(&server(&format!("\"tcp_keepalive\": {wrong}")));
        assert_contains(
            &message,
            &["tcp_keepalive is ", "0 to turn it off", "from 1s to 32400s"],
        );
    }
}

#[test]
fn syntax_errors_have_line_and_column() {
    assert_contains(
        &error_line("{\n  \"mode\": \"master\"\n  \"path\": \"/\"\n}"),
        &["c.json:3:3: is not JSON: expected `,` or `}`"],
    );
    assert_contains(
        &error_line("{\"mode\": \"master\",\n // why\n}"),
        &["c.json:2:2: ", "JSON has no comments"],
    );
    assert_contains(
        &error_line("{'mode': 1}"),
        &["c.json:1:2: ", "quotes with \""],
    );
    assert_contains(&error_line(""), &["the file is empty"]);
    assert_contains(&error_line("[]"), &["c.json: contains a list", "\"mode\""]);
}

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
fn type_errors_name_field_value_and_remedy() {
    assert_contains(
        &error_line(&master("\"healthz\": \"yes\"")),
        &[
            "c.json:1:",
            "healthz is the text \"yes\"",
            "write true or false",
        ],
    );
    assert_contains(
        &error_line(&master("\"path\": 5")),
        &["path is the number 5", "write text, in quotes"],
    );
    assert_contains(
        &error_line(&master("\"limits\": 5")),
        &["limits is a number", "{\"links\": NUMBER"],
    );
    assert_contains(
        &error_line(&master("\"grace_period\": true")),
        &["grace_period is true", "a number, or text with a unit"],
    );
    let port = r#"{"mark": "m", "local_address": 22, "port_key": "p"}"#;
    assert_contains(
        &error_line(&ports("client", port)),
        &["ports[0].local_address is the number 22", "in quotes"],
    );
    assert_contains(
        &error_line(&ports("client", "\"hush\"")),
        &["ports[0] is a text", "\"local_address\""],
    );
    let list = README_MASTER.replace("\"0.0.0.0:51324\"", "51324");
    assert_contains(
        &error_line(&list),
        &[
            "listen_at is the number 51324",
            "an address in quotes, or a list",
        ],
    );
}

#[test]
fn duplicate_fields_are_rejected() {
    assert_contains(
        &error_line(&master("\"path\": \"/\",\n\"path\": \"/b\"")),
        &["c.json:2:", "duplicate field `path`", "keep one"],
    );
}

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
fn unknown_words_list_the_known_ones() {
    assert_contains(
        &error_line(r#"{"mode": "relay"}"#),
        &["mode is \"relay\"", "use one of master, server, client"],
    );
    assert_contains(
        &error_line(r#"{"mode": "slient"}"#),
        &["did you mean \"client\"?"],
    );
    assert_contains(
        &error_line(r#"{"mode": 5}"#),
        &[
            "mode is the number 5",
            "\"master\", \"server\" or \"client\"",
        ],
    );
    assert_contains(&error_line("{}"), &["mode is missing"]);
    assert_contains(
        &error_line(&master("\"log_level\": \"loud\"")),
        &["log_level is \"loud\"", "error, warn, info, debug, trace"],
    );
    let port = r#"{"local_address": "h:1", "port_key": "p", "encrypt_method": "aes-128-cbf", "compress_method": "gzip"}"#;
    let lines = error_lines(&ports("server", port));
    let methods = "plain, aes-128-cfb, aes-128-gcm, chacha20-poly1305";
    assert_contains(
        &lines[0],
        &[
            "ports[0].encrypt_method is \"aes-128-cbf\"",
            "did you mean \"aes-128-cfb\"?",
            methods,
        ],
    );
    assert_contains(
        &lines[1],
        &["ports[0].compress_method is \"gzip\"", "null, s2, zstd"],
    );
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

#[test]
fn conflicting_listeners_are_both_named() {
    let twice = r#"{"mark": "A", "local_address": "127.0.0.1:80", "port_key": "p"}, {"mark": "B", "local_address": "0.0.0.0:80", "port_key": "q"}"#;
    assert_contains(
        &error_line(&ports("client", twice)),
        &["ports[1].local_address", "0.0.0.0:80", "\"A\"", "\"B\""],
    );
    assert!(
        read(&ports("server", twice)).is_ok(),
        "two keys may lead to one service"
    );
    let master = README_MASTER.replace("\"0.0.0.0:51324\"", "[\"0.0.0.0:1\", \"127.0.0.1:1\"]");
    assert_contains(
        &error_line(&master),
        &["listen_at[1]", "127.0.0.1:1", "conflicts with 0.0.0.0:1"],
    );
}

#[test]
fn incomplete_addresses_suggest_a_fix() {
    let port = r#"{"local_address": "127.0.0.1", "port_key": "p"}"#;
    assert_contains(
        &error_line(&ports("client", port)),
        &[
            "ports[0].local_address (\"127.0.0.1\") has no port",
            "\"127.0.0.1:PORT\"",
        ],
    );
    let port = r#"{"local_address": "127.0.0.1:0", "port_key": "p"}"#;
    assert_contains(&error_line(&ports("server", port)), &["port 0"]);
    assert!(
        read(&ports("client", port)).is_ok(),
        "a listener's port may be the system's choice"
    );
    let url = README_CLIENT.replace("rePort.myserver.com:51324", "https://rePort.myserver.com/");
    assert_contains(&error_line(&url), &["master `https://", "ws:// or wss://"]);
    let list = README_CLIENT.replace("\"rePort.myserver.com:51324\"", "[\"a:1\", \"b\"]");
    assert_contains(&error_line(&list), &["master[1] `b`", "no port", "b:PORT"]);
}

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
            "ports[0].local_address",
            "ports[1]",
            "tls.client_cert",
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
fn range_errors_name_the_range() {
    assert_contains(
        &error_line(&server("\"heartbeat\": 60")),
        &["heartbeat is 60", "from 1s to 20s"],
    );
    assert_contains(
        &error_line(&server("\"connect_timeout\": \"soon\"")),
        &["connect_timeout is \"soon\"", "\"500ms\""],
    );
    assert_contains(
        &error_line(&master(r#""limits": {"memory": "1 KiB"}"#)),
        &["limits.memory is \"1 KiB\"", "from 34 MiB"],
    );
    assert_contains(
        &error_line(&master(r#""limits": {"links": "5"}"#)),
        &["limits.links is \"5\"", "a whole number"],
    );
    assert_contains(
        &error_line(&server(r#""windows": {"tunnel": "64 MiB"}"#)),
        &["windows.tunnel", "to 32 MiB"],
    );
}

#[test]
fn the_upgrade_path_must_differ_from_the_health_check() {
    assert_contains(
        &error_line(&master(r#""path": "/healthz", "healthz": true"#)),
        &["path is \"/healthz\"", "choose another"],
    );
    assert!(read(&master(r#""path": "/healthz", "healthz": false"#)).is_ok());
    for path in ["tunnel", "/a b", "/a?b", "/隧道", ""] {
        assert_contains(
            &error_line(&master(&format!("\"path\": \"{path}\""))),
            &["path is", "starts with \"/\""],
        );
    }
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

#[test]
fn relative_paths_start_at_the_configuration_folder() {
    let text = master(r#""tls": {"cert": "c.pem", "key": "/k.pem"}"#);
    let loaded = parse(&text, Path::new("/etc/report/config.json"), &no_variable).expect("loads");
    let RoleConfig::Master(master) = loaded.config.role else {
        panic!("no master")
    };
    assert_eq!(
        master.tls,
        Some(TlsFilesConfig {
            cert: "/etc/report/c.pem".into(),
            key: "/k.pem".into(),
            client_ca: None
        })
    );
    assert_contains(
        &error_line(&self::master(r#""tls": {"cert": "c.pem"}"#)),
        &["tls.key is missing", "PEM"],
    );
}

fn client(fields: &str) -> String {
    let port = r#"{"mark": "SSH", "local_address": "127.0.0.1:122", "port_key": "p"}"#;
    format!(r#"{{"mode": "client", "ports": [{port}], {fields}}}"#)
}

fn client_of(loaded: LoadedConfig) -> ClientConfig {
    let RoleConfig::Client(client) = loaded.config.role else {
        panic!("no client")
    };
    client
}

#[test]
fn master_choice_defaults_to_ordered() {
    let two = r#""master": ["a:1", "b:2"]"#;
    let loaded = read(&client(&format!(r#"{two}, "master_choice": "raced""#))).expect("loads");
    assert!(
        !loaded
            .warnings
            .iter()
            .any(|warning| warning.field.name() == "master_choice")
    );
    assert_eq!(client_of(loaded).master_choice, MasterChoice::Raced);
    for choice in ["", r#", "master_choice": "ordered""#] {
        let loaded = read(&client(&format!("{two}{choice}"))).expect("loads");
        assert_eq!(client_of(loaded).master_choice, MasterChoice::Ordered);
    }
    let line = error_line(&client(&format!(r#"{two}, "master_choice": "racing""#)));
    assert_contains(&line, &["master_choice", "\"racing\"", "ordered", "raced"]);
    assert_contains(
        &error_line(&server(r#""master_choice": "raced""#)),
        &["master_choice", "field of mode \"client\""],
    );
    let one = read(&client(r#""master": "a:1", "master_choice": "raced""#)).expect("loads");
    let warning = one
        .warnings
        .iter()
        .find(|warning| warning.field.name() == "master_choice")
        .expect("a warning")
        .to_string();
    assert_contains(&warning, &["there is one master", "`master`"]);
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

#[test]
fn links_default_to_at_most_eight() {
    for (fields, max) in [
        (r#""log_level": "info""#, 8),
        (r#""links": {}"#, 8),
        (r#""links": {"max": 1}"#, 1),
        (r#""links": {"max": 16}"#, 16),
    ] {
        let loaded = read(&server(fields)).expect("loads");
        assert_eq!(server_of(loaded).link.links.max(), max, "{fields}");
        let with_master = format!(r#""master": "host:1", {fields}"#);
        let loaded = read(&client(&with_master)).expect("loads");
        assert_eq!(client_of(loaded).link.links.max(), max, "{fields}");
    }
    for max in ["0", "17", "\"8\"", "1.5"] {
        let line = error_line(&server(&format!(r#""links": {{"max": {max}}}"#)));
        assert_contains(&line, &["links.max", "from 1 to 16"]);
    }
    assert_contains(&error_line(&server(r#""links": 8"#)), &["links", "max"]);
}

#[test]
fn a_server_lists_at_most_as_many_masters_as_it_has_slots() {
    let masters = |count: usize| {
        let addresses: Vec<_> = (1..=count).map(|port| format!("\"host:{port}\"")).collect();
        format!("[{}]", addresses.join(", "))
    };
    let server = |count| server("\"bench\": true").replace("\"host:1\"", &masters(count));
    read(&server(16)).expect("loads");
    let line = error_line(&server(17));
    assert_contains(&line, &["master has 17 addresses", "16 masters"]);
    let many = format!("\"master\": {}", masters(17));
    read(&client(&many)).expect("a client links to one of them");
}
