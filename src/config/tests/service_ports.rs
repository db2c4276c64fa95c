//! Tests of the ports with several targets, and of those whose applications name the destination.

use std::time::Duration;

use super::{
    ports::{assert_refused, loaded, port, with_warnings},
    *,
};

#[test]
fn targets_replace_the_local_address_of_a_server() {
    let web = loaded(
        "server",
        r#""targets": ["10.0.0.1:80", "[::1]:80"], "target_choice": "spread",
           "health_check": {"kind": "http", "path": "/up?deep=1", "interval": "5s", "unhealthy_after": 2}"#,
    );
    assert!(matches!(web.destinations(), Destinations::Targets([_, _])));
    assert_eq!((web.range(), web.mark.as_str()), (1, "10.0.0.1:80"));
    assert_eq!(web.target_choice, TargetChoice::Spread);
    let check = web.health_check.expect("a health check");
    assert_eq!(
        (check.kind, check.path.as_str()),
        (HealthCheckKind::Http, "/up?deep=1")
    );
    assert_eq!(
        (*check.interval, *check.timeout),
        (Duration::from_secs(5), Duration::from_secs(2))
    );
    assert_eq!((*check.healthy_after, *check.unhealthy_after), (1, 2));
    let plain = loaded("server", r#""targets": ["h:1"], "health_check": {}"#);
    let check = plain.health_check.expect("a health check");
    assert_eq!(
        (check.kind, *check.interval),
        (HealthCheckKind::Tcp, Duration::from_secs(10))
    );
}

#[test]
fn invalid_targets_are_refused() {
    for (fields, field, part) in [
        (
            r#""targets": ["h:1"], "local_address": "h:1""#,
            "targets",
            "beside `local_address`",
        ),
        (
            r#""targets": ["h:1", "h:1"]"#,
            "targets[1]",
            "in the list already",
        ),
        (r#""targets": ["h:0"]"#, "targets[0]", "port 0"),
        (r#""targets": ["h:1-2"]"#, "targets[0]", "is a range"),
        (r#""targets": ["h:1", 5]"#, "targets[1]", "the number 5"),
        (r#""targets": "h:1""#, "targets", "is a text"),
        (r#""targets": []"#, "local_address", "is missing"),
        (
            r#""local_address": "h:1", "target_choice": "spread""#,
            "target_choice",
            "without `targets`",
        ),
        (
            r#""local_address": "h:1", "health_check": {}"#,
            "health_check",
            "without `targets`",
        ),
        (
            r#""targets": ["h:1"], "target_choice": "random""#,
            "target_choice",
            "ordered, spread",
        ),
        (
            r#""targets": ["h:1"], "protocol": "udp", "health_check": {}"#,
            "health_check",
            "with TCP",
        ),
        (
            r#""targets": ["h:1"], "health_check": {"path": "/up"}"#,
            "health_check.path",
            "`kind` is \"tcp\"",
        ),
        (
            r#""targets": ["h:1"], "health_check": {"kind": "http", "path": "up"}"#,
            "health_check.path",
            "starts with \"/\"",
        ),
        (
            r#""targets": ["h:1"], "health_check": {"kind": "http", "path": "/<up>"}"#,
            "health_check.path",
            "as %XX",
        ),
        (
            r#""targets": ["h:1"], "health_check": {"kind": "http", "path": "/up?a=`\u0000"}"#,
            "health_check.path",
            "as %XX",
        ),
        (
            r#""targets": ["h:1"], "health_check": {"kind": "icmp"}"#,
            "health_check.kind",
            "tcp, http",
        ),
        (
            r#""targets": ["h:1"], "health_check": {"interval": "1s"}"#,
            "health_check.timeout",
            "longer than the `interval` of 1s",
        ),
        (
            r#""targets": ["h:1"], "health_check": {"every": 1}"#,
            "health_check.every",
            "is unknown",
        ),
    ] {
        assert_refused("server", fields, field, &[part]);
    }
    let many: Vec<String> = (1..=65).map(|number| format!("\"h:{number}\"")).collect();
    let fields = format!(r#""targets": [{}]"#, many.join(", "));
    assert_refused(
        "server",
        &fields,
        "targets",
        &["has 65 addresses", "at most 64"],
    );
    for (field, value) in [
        ("targets", r#"["h:1"]"#),
        ("target_choice", r#""spread""#),
        ("health_check", "{}"),
    ] {
        let fields = format!(r#""local_address": "127.0.0.1:1", "{field}": {value}"#);
        let line = error_lines(&port("client", &fields)).remove(0);
        assert_contains(&line, &[&format!("ports[0].{field} is only for a server")]);
    }
}

#[test]
fn a_socks_server_names_its_destinations() {
    let exit = loaded(
        "server",
        r#""protocol": "socks5", "allow": ["10.0.0.0/8:22", "*.lan:443", "[2001:db8::/32]:*"]"#,
    );
    assert_eq!((exit.mark.as_str(), exit.range()), ("socks5", 1));
    let Destinations::Allowed(rules) = exit.destinations() else {
        panic!("rules")
    };
    let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["10.0.0.0/8:22", "*.lan:443", "[2001:db8::/32]:*"]);
    let (closed, warnings) = with_warnings("server", r#""protocol": "socks5""#);
    assert_eq!(closed.destinations(), Destinations::Allowed(&[]));
    assert_eq!(warnings.len(), 1);
    assert_contains(
        &warnings[0],
        &["ports[0].allow is missing", "refuses every destination"],
    );
}

#[test]
fn invalid_socks_servers_are_refused() {
    for (fields, field, part) in [
        (
            r#""allow": ["10.0.0.0/33:22"]"#,
            "allow[0]",
            "invalid network",
        ),
        (r#""allow": ["*:*", "nas.lan"]"#, "allow[1]", "no ports"),
        (r#""allow": ["127.1:80"]"#, "allow[0]", "is a number"),
        (r#""allow": ["*:22", 22]"#, "allow[1]", "the number 22"),
        (
            r#""allow": ["*:22"], "local_address": "h:1""#,
            "local_address",
            "list the destinations in `allow`",
        ),
        (
            r#""allow": ["*:22"], "targets": ["h:1"]"#,
            "targets",
            "list the destinations in `allow`",
        ),
        (
            r#""allow": ["*:22"], "proxy_protocol": "v2""#,
            "proxy_protocol",
            "expect no header",
        ),
        (
            r#""allow": ["*:22"], "socks_user": {"name": "a", "password": "b"}"#,
            "socks_user",
            "only for a client",
        ),
    ] {
        let fields = format!(r#""protocol": "socks5", {fields}"#);
        assert_refused("server", &fields, field, &[part]);
    }
    assert_refused(
        "server",
        r#""local_address": "h:1", "allow": ["*:22"]"#,
        "allow",
        &[
            "no effect, because `protocol` is \"tcp\"",
            "\"socks5\" at both ends",
        ],
    );
}

#[test]
fn a_socks_client_may_require_a_user() {
    let proxy = r#""protocol": "socks5", "local_address": "0.0.0.0:1080""#;
    let user = r#""socks_user": {"name": "me", "password": {"env": "PASSWORD"}}"#;
    let text = port("client", &format!("{proxy}, {user}"));
    let variable = |name: &str| (name == "PASSWORD").then(|| OsString::from("hush"));
    let loaded = parse(&text, Path::new("c.json"), &variable).expect("loads");
    assert_eq!(loaded.warnings, []);
    let client = client_of(loaded);
    let user = client.ports[0].socks_user.as_ref().expect("a user");
    assert_eq!((user.name.as_str(), user.password.expose()), ("me", "hush"));
    let (_, warnings) = with_warnings("client", proxy);
    assert_contains(
        &warnings[0],
        &[
            "ports[0].local_address is \"0.0.0.0:1080\"",
            "set `socks_user`",
        ],
    );
    for local in ["127.0.0.1:1080", "[::1]:1080", "localhost:1080"] {
        super::ports::loaded(
            "client",
            &format!(r#""protocol": "socks5", "local_address": "{local}""#),
        );
    }
}

#[test]
fn an_invalid_socks_user_is_refused_without_the_password() {
    let local = r#""local_address": "127.0.0.1:1080""#;
    let long = "hush".repeat(64);
    for (user, field, part) in [
        (
            r#"{"name": "", "password": "hush"}"#.to_owned(),
            "socks_user.name",
            "has 0 bytes",
        ),
        (
            format!(r#"{{"name": "{long}", "password": "hush"}}"#),
            "socks_user.name",
            "has 256 bytes",
        ),
        (
            format!(r#"{{"name": "me", "password": "{long}"}}"#),
            "socks_user.password",
            "has 256 bytes",
        ),
        (
            r#"{"name": "me", "password": ""}"#.to_owned(),
            "socks_user.password",
            "is empty",
        ),
        (
            r#"{"name": "me"}"#.to_owned(),
            "socks_user.password",
            "is missing",
        ),
        (
            r#""me:hush""#.to_owned(),
            "socks_user",
            "{\"name\": \"NAME\"",
        ),
    ] {
        let fields = format!(r#"{local}, "protocol": "socks5", "socks_user": {user}"#);
        assert_refused("client", &fields, field, &[part]);
        assert!(
            !error_line(&port("client", &fields)).contains("hush"),
            "{field}"
        );
    }
    let fields = format!(r#"{local}, "socks_user": {{"name": "me", "password": "hush"}}"#);
    assert_refused(
        "client",
        &fields,
        "socks_user",
        &["no effect, because `protocol` is \"tcp\""],
    );
}
