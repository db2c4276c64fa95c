//! Tests of ports: what they carry, their addresses, and the rules between their fields.

use std::time::Duration;

use super::*;

/// Returns a file of this mode with one port.
pub(super) fn port(mode: &str, fields: &str) -> String {
    ports(mode, &format!(r#"{{"port_key": "p", {fields}}}"#))
}

/// Returns the port of a valid file, which is written and read again unchanged.
pub(super) fn loaded(mode: &str, fields: &str) -> PortConfig {
    let (port, warnings) = with_warnings(mode, fields);
    assert_eq!(warnings, [""; 0], "{fields}");
    port
}

/// Returns the port of a valid file, and the warnings.
pub(super) fn with_warnings(mode: &str, fields: &str) -> (PortConfig, Vec<String>) {
    let loaded = read(&port(mode, fields)).unwrap_or_else(|error| panic!("{fields}: {error}"));
    let written = serde_json::to_string(&loaded.config).expect("serializes");
    assert_eq!(read(&written), Ok(loaded.clone()), "{written}");
    let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    let mut found = match loaded.config.role {
        RoleConfig::Server(server) => server.ports,
        RoleConfig::Client(client) => client.ports,
        RoleConfig::Master(_) => panic!("a master"),
    };
    (found.remove(0), warnings)
}

/// Checks that a file with this port has one problem, at this field.
#[track_caller]
pub(super) fn assert_refused(mode: &str, fields: &str, field: &str, parts: &[&str]) {
    let line = error_line(&port(mode, fields));
    assert_contains(&line, &[&format!("ports[0].{field} ")]);
    assert_contains(&line, parts);
}

#[test]
fn a_udp_port_has_defaults_and_limits() {
    let game = loaded(
        "client",
        r#""local_address": "127.0.0.1:27015", "protocol": "udp""#,
    );
    assert_eq!(game.protocol, ServiceProtocol::Udp);
    assert_eq!(*game.udp_idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(*game.max_delay, Duration::from_millis(200));
    assert_eq!(*game.max_flows, 1_024);
    let wireguard = loaded(
        "server",
        r#""local_address": "127.0.0.1:51820", "protocol": "udp", "udp_idle_timeout": 0, "max_delay": "1s", "max_flows": 3"#,
    );
    assert_eq!(*wireguard.udp_idle_timeout, None);
    assert_eq!(*wireguard.max_delay, Duration::from_secs(1));
    assert_eq!(*wireguard.max_flows, 3);
    let tcp = loaded("client", r#""local_address": "127.0.0.1:1""#);
    assert_eq!((tcp.protocol, tcp.enabled), (ServiceProtocol::Tcp, true));
    let at = r#""local_address": "127.0.0.1:1", "protocol": "udp""#;
    for (field, value, range) in [
        ("max_delay", "0", "from 1ms to 10s"),
        ("max_delay", "\"11s\"", "from 1ms to 10s"),
        ("udp_idle_timeout", "\"50ms\"", "0 to turn it off"),
        ("max_flows", "0", "from 1 to"),
    ] {
        let fields = format!(r#"{at}, "{field}": {value}"#);
        assert_refused("server", &fields, field, &[range]);
    }
    assert_refused(
        "server",
        r#""local_address": "127.0.0.1:1", "protocol": "sctp""#,
        "protocol",
        &["is \"sctp\"", "tcp, udp, both, socks5"],
    );
}

#[test]
fn fields_of_datagrams_need_a_protocol_with_datagrams() {
    for (field, value) in [
        ("udp_idle_timeout", "0"),
        ("max_delay", "\"1s\""),
        ("max_flows", "5"),
    ] {
        let fields = format!(r#""local_address": "127.0.0.1:1", "{field}": {value}"#);
        assert_refused(
            "client",
            &fields,
            field,
            &[
                "no effect, because `protocol` is \"tcp\"",
                "\"udp\" or \"both\"",
            ],
        );
        for protocol in ["udp", "both", "socks5"] {
            let fields = format!(r#"{fields}, "protocol": "{protocol}""#);
            loaded("client", &fields);
        }
    }
}

#[test]
fn an_invalid_protocol_hides_the_rules_that_depend_on_it() {
    let fields = r#""protocol": "socks", "allow": ["*:22"]"#;
    assert_refused("server", fields, "protocol", &["did you mean \"socks5\"?"]);
}

#[test]
fn a_range_is_a_local_address() {
    let range = loaded("server", r#""local_address": "10.0.0.1:13000-13010""#);
    assert_eq!(
        (range.range(), range.mark.as_str()),
        (11, "10.0.0.1:13000-13010")
    );
    assert!(matches!(
        range.destinations(),
        Destinations::Address(LocalAddress::Range(_))
    ));
    assert_refused(
        "client",
        r#""local_address": "127.0.0.1:5-1""#,
        "local_address",
        &["ends before it starts", "HOST:FIRST-LAST"],
    );
    assert_refused(
        "client",
        r#""local_address": "127.0.0.1:5-6", "protocol": "socks5""#,
        "local_address",
        &["a proxy has one address"],
    );
}

#[test]
fn listeners_conflict_by_ranges_and_protocols() {
    let two = |one: &str, two: &str| {
        let entry = |key, fields| format!(r#"{{"mark": "{key}", "port_key": "{key}", {fields}}}"#);
        ports(
            "client",
            &format!("{}, {}", entry("a", one), entry("b", two)),
        )
    };
    let range = r#""local_address": "127.0.0.1:10-20""#;
    let inside = r#""local_address": "127.0.0.1:15""#;
    assert_contains(
        &error_line(&two(range, inside)),
        &[
            "ports[1].local_address (\"127.0.0.1:15\", of \"b\")",
            "\"a\"",
        ],
    );
    let udp = format!(r#"{inside}, "protocol": "udp""#);
    assert!(
        read(&two(range, &udp)).is_ok(),
        "TCP and UDP have separate ports"
    );
    let both = format!(r#"{inside}, "protocol": "both""#);
    assert_contains(&error_line(&two(&udp, &both)), &["ports[1].local_address"]);
    let socks = format!(r#"{inside}, "protocol": "socks5""#);
    assert!(read(&two(&udp, &socks)).is_ok());
    assert_contains(
        &error_line(&two(inside, &socks)),
        &["ports[1].local_address"],
    );
    let disabled = format!(r#"{inside}, "enabled": false"#);
    assert!(read(&two(range, &disabled)).is_ok());
}

#[test]
fn a_disabled_port_is_checked_but_conflicts_with_none() {
    let of = |other: &str| {
        let port = r#"{"mark": "SSH", "local_address": "h:1", "port_key": "p"}"#;
        ports("server", &format!("{port}, {other}"))
    };
    let same = of(r#"{"mark": "SSH", "local_address": "h:1", "port_key": "p", "enabled": false}"#);
    let server = server_of(read(&same).expect("loads"));
    assert_eq!((server.ports.len(), server.enabled_ports().count()), (2, 1));
    assert_contains(
        &error_line(&of(
            r#"{"local_address": "h:0", "port_key": "q", "enabled": false}"#,
        )),
        &["ports[1].local_address", "port 0"],
    );
    let all = ports(
        "server",
        r#"{"local_address": "h:1", "port_key": "p", "enabled": false}"#,
    );
    assert_contains(&error_line(&all), &["ports are all disabled", "`enabled`"]);
    assert_contains(
        &error_line(&of(
            r#"{"local_address": "h:2", "port_key": "q", "enabled": "no"}"#,
        )),
        &["ports[1].enabled", "true or false"],
    );
}

#[cfg(unix)]
#[test]
fn a_unix_socket_starts_at_the_folder_of_the_file() {
    let text = port(
        "client",
        r#""local_address": "unix:run/app.sock", "socket_mode": "0660""#,
    );
    let loaded = parse(&text, Path::new("/etc/report/c.json"), &no_variable).expect("loads");
    let client = client_of(loaded);
    let address = client.ports[0].local_address.as_ref();
    let path = UnixAddress::Path("/etc/report/run/app.sock".into());
    assert_eq!(address, Some(&LocalAddress::Unix(path)));
    assert_eq!(client.ports[0].mark, "unix:/etc/report/run/app.sock");
    let text = port("server", r#""targets": ["unix:a.sock", "unix:/b.sock"]"#);
    let server = server_of(parse(&text, Path::new("/etc/c.json"), &no_variable).expect("loads"));
    let targets: Vec<String> = server.ports[0]
        .targets
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(targets, ["unix:/etc/a.sock", "unix:/b.sock"]);
}

#[cfg(unix)]
#[test]
fn a_unix_socket_that_is_too_long_is_refused() {
    let long = "x".repeat(UNIX_ADDRESS_MAX);
    let longest = format!(r#""local_address": "unix:{long}""#);
    loaded("server", &longest);
    for (field, fields) in [
        (
            "local_address",
            format!(r#""local_address": "unix:{long}x""#),
        ),
        (
            "targets[1]",
            format!(r#""targets": ["h:1", "unix:{long}x"]"#),
        ),
    ] {
        let length = format!("a path of {} bytes", UNIX_ADDRESS_MAX + 1);
        let limit = format!("at most {UNIX_ADDRESS_MAX} bytes");
        assert_refused("server", &fields, field, &[&length, &limit]);
    }
}

#[cfg(unix)]
#[test]
fn a_unix_socket_carries_connections_only() {
    for (mode, address) in [
        ("client", r#""local_address": "unix:/run/app.sock""#),
        ("server", r#""targets": ["h:1", "unix:/run/app.sock"]"#),
    ] {
        for protocol in ["udp", "both"] {
            let fields = format!(r#"{address}, "protocol": "{protocol}""#);
            assert_refused(
                mode,
                &fields,
                "protocol",
                &["unix sockets carry connections only"],
            );
        }
        loaded(mode, address);
    }
}

#[cfg(unix)]
#[test]
fn rights_of_a_socket_need_a_file() {
    let rights = r#""socket_mode": "0660", "socket_owner": "report:www-data""#;
    let port = loaded(
        "client",
        &format!(r#""local_address": "unix:/run/a", {rights}"#),
    );
    assert_eq!(port.socket_mode.map(SocketMode::bits), Some(0o660));
    assert_eq!(
        port.socket_owner.map(|owner| owner.to_string()).as_deref(),
        Some("report:www-data")
    );
    for (field, value) in [("socket_mode", "0660"), ("socket_owner", "report")] {
        let tcp = format!(r#""local_address": "127.0.0.1:1", "{field}": "{value}""#);
        assert_refused("client", &tcp, field, &["no unix socket"]);
        let server = format!(r#""local_address": "unix:/run/a", "{field}": "{value}""#);
        assert_refused("server", &server, field, &["is only for a client"]);
        #[cfg(target_os = "linux")]
        assert_refused(
            "client",
            &format!(r#""local_address": "unix:@a", "{field}": "{value}""#),
            field,
            &["an abstract unix socket has no file"],
        );
    }
    assert_refused(
        "client",
        r#""local_address": "unix:/run/a", "socket_mode": "rw""#,
        "socket_mode",
        &["is \"rw\"", "octal mode"],
    );
    assert_refused(
        "client",
        r#""local_address": "unix:/run/a", "socket_mode": 432"#,
        "socket_mode",
        &["is the number 432", "in quotes"],
    );
}

#[test]
fn a_port_without_an_address_is_refused() {
    assert_refused(
        "server",
        r#""mark": "SSH""#,
        "local_address",
        &["is missing", "\"HOST:PORT\" or \"unix:/PATH\""],
    );
    for protocol in ["tcp", "udp", "both", "socks5"] {
        let fields = format!(r#""protocol": "{protocol}""#);
        assert_refused(
            "client",
            &fields,
            "local_address",
            &["is missing", "\"127.0.0.1:PORT\""],
        );
    }
}
