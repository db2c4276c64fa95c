//! The lines of `report check` that describe the services of a server or client.

use std::fmt::Display;

use crate::config::{
    Destinations, HealthCheckKind, LinkConfig, PortConfig, ServiceProtocol, TargetChoice,
};

/// Describes the services of a server.
pub(super) fn describe_services(ports: &[PortConfig], link: &LinkConfig) -> Vec<String> {
    let lines = ports.iter().flat_map(|port| {
        let does = match port.destinations() {
            Destinations::Address(address) => format!("dials {address}"),
            Destinations::Targets(targets) => match port.target_choice {
                TargetChoice::Ordered => format!("dials the first of {}", list(targets)),
                TargetChoice::Spread => format!("dials in turn {}", list(targets)),
            },
            Destinations::Allowed([]) => "refuses every destination".to_owned(),
            Destinations::Allowed(rules) => {
                format!("dials what applications name in {}", list(rules))
            }
        };
        let health = health_line(port);
        [describe_port(port, &does, link)].into_iter().chain(health)
    });
    lines.collect()
}

/// Describes the listeners of a client.
pub(super) fn describe_listeners(ports: &[PortConfig], link: &LinkConfig) -> Vec<String> {
    let lines = ports.iter().map(|port| {
        let address = port.local_address.as_ref();
        let address = address.map_or_else(String::new, ToString::to_string);
        let user = port.socks_user.as_ref();
        let user = user.map_or_else(String::new, |user| format!(" for the user {}", user.name));
        let mode = port.socket_mode;
        let mode = mode.map_or_else(String::new, |mode| format!(" with mode {mode}"));
        let owner = port.socket_owner.as_ref();
        let owner = owner.map_or_else(String::new, |owner| format!(" for {owner}"));
        let names = names_in_logs(port);
        let does = format!("listens at {address}{names}{user}{mode}{owner}");
        describe_port(port, &does, link)
    });
    lines.collect()
}

/// Names the addresses of a range as the log of the client does.
fn names_in_logs(port: &PortConfig) -> String {
    match port.range() {
        0 | 1 => String::new(),
        range => {
            let (mark, last) = (&port.mark, range - 1);
            format!(" (\"{mark}+0\" to \"{mark}+{last}\" in logs)")
        }
    }
}

fn describe_port(port: &PortConfig, does: &str, link: &LinkConfig) -> String {
    let PortConfig {
        mark,
        encrypt_method,
        compress_method,
        ..
    } = port;
    let windows = port.windows(&link.windows);
    let state = if port.enabled { "" } else { "disabled, " };
    let carries = match port.protocol {
        ServiceProtocol::Tcp => "",
        ServiceProtocol::Udp => " (UDP)",
        ServiceProtocol::Both => " (TCP and UDP)",
        ServiceProtocol::Socks5 => " (SOCKS5 and HTTP CONNECT)",
    };
    let header = port.proxy_protocol.map_or_else(String::new, |version| {
        format!(", with a PROXY protocol {version} header")
    });
    format!(
        "port \"{mark}\": {state}{does}{carries}{header}; {encrypt_method}, {compress_method}; windows up to {} per stream, {} per tunnel{}",
        windows.stream,
        windows.tunnel,
        describe_flows(port)
    )
}

/// Describes the limits of datagrams, if the port carries them.
fn describe_flows(port: &PortConfig) -> String {
    if !port.protocol.has_flows() {
        return String::new();
    }
    let end = port.udp_idle_timeout.map_or_else(
        || "without an idle timeout".to_owned(),
        |idle| format!("idle for at most {idle:?}"),
    );
    format!(
        "; up to {} flows, {end}, datagrams wait at most {:?}",
        port.max_flows, port.max_delay
    )
}

/// Describes the health check of a port, if it has one.
fn health_line(port: &PortConfig) -> Option<String> {
    let check = port.health_check.as_ref()?;
    let does = match check.kind {
        HealthCheckKind::Tcp => "a connection".to_owned(),
        HealthCheckKind::Http => format!("GET {}", check.path),
    };
    Some(format!(
        "port \"{}\": checks its targets every {:?} with {does}, {:?} each; unhealthy after {} failures, healthy after {}",
        port.mark, check.interval, check.timeout, check.unhealthy_after, check.healthy_after
    ))
}

fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, RoleConfig};

    /// Returns the lines of the ports of a role.
    fn described(mode: &str, ports: &str) -> Vec<String> {
        let key = match mode {
            "server" => r#""master_key": "k","#,
            _ => "",
        };
        let text = format!(r#"{{"mode": "{mode}", "master": "host:1", {key} "ports": [{ports}]}}"#);
        let loaded = config::parse(&text, Path::new("/etc/c.json"), &|_| None);
        match loaded.expect("loads").config.role {
            RoleConfig::Server(server) => describe_services(&server.ports, &server.link),
            RoleConfig::Client(client) => describe_listeners(&client.ports, &client.link),
            RoleConfig::Master(_) => panic!("a master"),
        }
    }

    #[track_caller]
    fn assert_contains(line: &str, parts: &[&str]) {
        for part in parts {
            assert!(line.contains(part), "missing {part:?} in: {line}");
        }
    }

    #[test]
    fn the_kinds_of_a_servers_ports_are_described() {
        let lines = described(
            "server",
            r#"{"mark": "game", "protocol": "both", "local_address": "127.0.0.1:27015", "port_key": "a", "udp_idle_timeout": 0},
               {"mark": "rtp", "protocol": "udp", "local_address": "127.0.0.1:13000-13010", "port_key": "b"},
               {"mark": "web", "targets": ["10.0.0.1:80", "10.0.0.2:80"], "target_choice": "spread",
                "health_check": {"kind": "http", "path": "/up"}, "port_key": "c"},
               {"mark": "exit", "protocol": "socks5", "allow": ["*.lan:443", "10.0.0.0/8:22"], "port_key": "d"},
               {"mark": "none", "protocol": "socks5", "port_key": "e", "enabled": false}"#,
        );
        let [game, rtp, web, health, exit, none] = lines.as_slice() else {
            panic!("{lines:#?}")
        };
        assert_contains(
            game,
            &[
                "dials 127.0.0.1:27015 (TCP and UDP);",
                "without an idle timeout",
                "at most 200ms",
            ],
        );
        assert_contains(
            rtp,
            &[
                "dials 127.0.0.1:13000-13010 (UDP);",
                "up to 1024 flows, idle for at most 60s",
            ],
        );
        assert_contains(web, &["dials in turn 10.0.0.1:80, 10.0.0.2:80;"]);
        assert!(!web.contains("flows"), "{web}");
        assert_contains(
            health,
            &["every 10s with GET /up, 2s each", "after 3 failures"],
        );
        assert_contains(
            exit,
            &["dials what applications name in *.lan:443, 10.0.0.0/8:22 (SOCKS5"],
        );
        assert_contains(none, &["\"none\": disabled, refuses every destination"]);
    }

    #[test]
    fn the_addresses_of_a_range_are_named_as_in_logs() {
        let lines = described(
            "client",
            r#"{"mark": "calls", "local_address": "127.0.0.1:13000-13010", "port_key": "a"}"#,
        );
        assert_contains(
            &lines[0],
            &["listens at 127.0.0.1:13000-13010 (\"calls+0\" to \"calls+10\" in logs);"],
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_kinds_of_a_clients_ports_are_described() {
        let lines = described(
            "client",
            r#"{"mark": "docker", "local_address": "unix:run/docker.sock", "socket_mode": "0660", "socket_owner": ":docker", "port_key": "a"},
               {"mark": "exit", "protocol": "socks5", "local_address": "0.0.0.0:1080",
                "socks_user": {"name": "me", "password": "hush"}, "port_key": "b"}"#,
        );
        let [docker, exit] = lines.as_slice() else {
            panic!("{lines:#?}")
        };
        assert_contains(
            docker,
            &["listens at unix:/etc/run/docker.sock with mode 0660 for :docker;"],
        );
        assert_contains(exit, &["listens at 0.0.0.0:1080 for the user me (SOCKS5"]);
        assert!(!exit.contains("hush"), "{exit}");
    }
}
