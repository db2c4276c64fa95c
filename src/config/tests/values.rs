//! Tests of the values of fields: their effect, types, words and ranges.

use std::time::Duration;

use super::*;

#[test]
fn all_fields_of_a_file_take_effect() {
    let text = server(
        r#""log_level": "warn", "log_format": "json", "connect_timeout": 2.5, "heartbeat": "5s", "grace_period": "500ms", "windows": {"stream": "1 MiB"}, "bench": false"#,
    );
    let loaded = read(&text).expect("loads");
    assert_eq!(loaded.config.common.log_level, tracing::Level::WARN);
    assert_eq!(loaded.config.common.log_format, LogFormat::Json);
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
    assert_contains(
        &error_line(&master("\"log_format\": \"xml\"")),
        &["log_format is \"xml\"", "text, json"],
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
    // The request for such a path cannot be parsed.
    assert_contains(
        &error_line(&master(r#""path": "/<a>""#)),
        &["path is \"/<a>\"", "as %XX"],
    );
    for path in ["tunnel", "/a b", "/a?b", "/隧道", ""] {
        assert_contains(
            &error_line(&master(&format!("\"path\": \"{path}\""))),
            &["path is", "starts with \"/\""],
        );
    }
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
fn the_minimum_of_links_is_at_most_the_maximum() {
    for (fields, min) in [
        (r#""log_level": "info""#, 1),
        (r#""links": {"max": 16}"#, 1),
        (r#""links": {"min": 8}"#, 8),
        (r#""links": {"min": 16, "max": 16}"#, 16),
    ] {
        let loaded = read(&server(fields)).expect("loads");
        assert_eq!(server_of(loaded).link.links.min(), min, "{fields}");
    }
    for min in ["0", "17"] {
        let line = error_line(&server(&format!(r#""links": {{"min": {min}, "max": 16}}"#)));
        assert_contains(&line, &["links.min", "from 1 to 16"]);
    }
    for fields in [r#""links": {"min": 9}"#, r#""links": {"min": 9, "max": 8}"#] {
        let with_master = format!(r#""master": "host:1", {fields}"#);
        for line in [
            error_line(&server(fields)),
            error_line(&client(&with_master)),
        ] {
            assert_contains(&line, &["links.min is 9", "the 8 of links.max"]);
        }
    }
}

#[test]
fn congestion_control_is_auto_system_or_a_name() {
    for (fields, setting) in [
        (r#""log_level": "info""#, "auto"),
        (r#""congestion_control": "auto""#, "auto"),
        (r#""congestion_control": "system""#, "system"),
        (r#""congestion_control": "bbr""#, "bbr"),
    ] {
        for text in [master(fields), server(fields)] {
            let role = read(&text).expect("loads").config.role;
            assert_eq!(role.congestion_control().to_string(), setting, "{text}");
        }
    }
    for wrong in ["", "BBR", "b r", "sixteen__letters"] {
        let line = error_line(&master(&format!(r#""congestion_control": "{wrong}""#)));
        assert_contains(&line, &["congestion_control is ", wrong, "\"system\""]);
    }
    let line = error_line(&server(r#""congestion_control": 5"#));
    assert_contains(&line, &["congestion_control is the number 5"]);
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
