//! Tests of the addresses of masters, listeners and services.

use super::*;

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
fn every_role_may_have_an_admin_address() {
    for address in [
        "127.0.0.1:9300",
        "127.0.0.2:0",
        "[::1]:9300",
        "unix:/run/report/admin.sock",
    ] {
        let admin = format!(r#""admin": {{"listen_at": "{address}"}}"#);
        for text in [
            master(&admin),
            server(&admin),
            client(&format!(r#""master": "a:1", {admin}"#)),
        ] {
            let loaded = read(&text).expect(address);
            let admin = loaded.config.common.admin.as_ref().expect("an address");
            assert_eq!(admin.listen_at.to_string(), address);
            let written = serde_json::to_string(&loaded.config).expect("serializes");
            assert_eq!(read(&written), Ok(loaded), "{written}");
        }
    }
    let without = read(&master(r#""path": "/""#)).expect("loads");
    assert_eq!(without.config.common.admin, None);
}

#[test]
fn an_admin_address_that_others_can_reach_needs_a_master_with_tls() {
    let tls = r#"{"cert": "/etc/cert.pem", "key": "/etc/key.pem"}"#;
    for address in ["0.0.0.0:9300", "[::]:9300", "192.0.2.1:9300"] {
        let plain = format!(r#""admin": {{"listen_at": "{address}"}}"#);
        assert_contains(
            &error_line(&master(&plain)),
            &["admin.listen_at is", address, "only a master with `store`"],
        );
        let store = r#""store": "sqlite:/keys.db""#;
        let message = format!("admin.tls is missing, and other machines can reach {address}");
        assert_contains(
            &error_line(&master(&format!("{store}, {plain}"))),
            &[&message, "\"cert\": \"PATH\""],
        );
        let sealed = format!(r#""admin": {{"listen_at": "{address}", "tls": {tls}}}"#);
        let loaded = read(&master(&format!("{store}, {sealed}"))).expect(address);
        let admin = loaded.config.common.admin.as_ref().expect("an address");
        assert_eq!(admin.listen_at.to_string(), address);
        let written = serde_json::to_string(&loaded.config).expect("serializes");
        assert_eq!(read(&written), Ok(loaded), "{written}");
        for admin in [plain, sealed] {
            assert_contains(
                &error_line(&server(&admin)),
                &["admin.listen_at is", address, "only a master"],
            );
        }
    }
}

#[test]
fn tls_of_an_admin_address_is_refused_where_it_has_no_effect() {
    let admin = |address: &str| {
        format!(
            r#""admin": {{"listen_at": "{address}", "tls": {{"cert": "c.pem", "key": "k.pem"}}}}"#
        )
    };
    assert_contains(
        &error_line(&master(&admin("unix:/run/admin.sock"))),
        &["admin.tls has no effect on a unix socket", "remove it"],
    );
    assert_contains(
        &error_line(&server(&admin("127.0.0.1:1"))),
        &["admin.tls is only for the admin address of a master"],
    );
    assert!(read(&master(&admin("127.0.0.1:1"))).is_ok());
}

#[test]
fn a_malformed_admin_address_is_refused() {
    let line = |address: &str| {
        error_line(&master(&format!(
            r#""admin": {{"listen_at": "{address}"}}"#
        )))
    };
    assert_contains(
        &line("host:9300"),
        &[
            "admin.listen_at is",
            "host:9300",
            "a name instead of an IP address",
            "write \"127.0.0.1:9300\"",
        ],
    );
    for path in ["unix:", "unix:admin.sock", "unix:/run/"] {
        assert_contains(&line(path), &["admin.listen_at is", path, "absolute path"]);
    }
    let long = format!("unix:/{}", "x".repeat(100));
    assert_contains(&line(&long), &["more than 80 bytes"]);
    assert_contains(&line("127.0.0.1"), &["admin.listen_at", "has no port"]);
    assert_contains(
        &error_line(&master(r#""admin": {}"#)),
        &["admin.listen_at is missing", "\"127.0.0.1:9300\""],
    );
    assert_contains(
        &error_line(&master(
            r#""admin": {"listen": 1, "listen_at": "127.0.0.1:1"}"#,
        )),
        &["admin.listen is unknown", "listen_at"],
    );
}
