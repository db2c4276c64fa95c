//! The rules between the fields of one port.

use super::super::{
    LocalAddress, Target, UnixAddress,
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
    mode::Mode,
    values::{address_fault, is_default},
    word,
};
use super::{PortConfig, windows::check_windows};
use crate::tunnel::ServiceProtocol;

/// The maximum number of targets of a port.
const TARGETS_MAX: usize = 64;

/// Checks the rules between the fields of `port`.
pub(super) fn check(port: &PortConfig, path: &FieldPath, mode: Mode, checks: &mut RoleChecks<'_>) {
    let mut rules = Rules {
        port,
        path,
        mode,
        checks,
    };
    rules.check_role();
    // After an invalid protocol, other problems are unlikely to be mistakes.
    if !rules.has_problem("protocol") {
        rules.check_presence();
        rules.check_datagrams();
        rules.check_socks();
    }
    rules.check_addresses();
    rules.check_targets();
    rules.check_socket_rights();
    check_windows(
        (&path.field("stream_window"), port.stream_window),
        (&path.field("tunnel_window"), port.tunnel_window),
        rules.checks,
    );
}

/// A port, and where to record its problems.
struct Rules<'a, 'd> {
    port: &'a PortConfig,
    path: &'a FieldPath,
    mode: Mode,
    checks: &'a mut RoleChecks<'d>,
}

impl Rules<'_, '_> {
    /// Records a problem of a field, and its remedy.
    fn invalid(&mut self, field: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let invalid = InvalidValue::new(problem, remedy);
        self.checks.invalid(&self.path.field(field), invalid);
    }

    /// Records the same problem of each of these fields that is set.
    fn invalid_if_set(&mut self, fields: &[(&str, bool)], problem: &str, remedy: &str) {
        for (field, _) in fields.iter().filter(|(_, is_set)| *is_set) {
            self.invalid(field, problem, remedy);
        }
    }

    fn has_problem(&self, field: &str) -> bool {
        self.checks.has_problem(&self.path.field(field))
    }

    fn is_socks(&self) -> bool {
        self.port.protocol == ServiceProtocol::Socks5
    }

    /// Checks that the port has no field of the other role.
    fn check_role(&mut self) {
        let port = self.port;
        if self.mode == Mode::Client && port.proxy_protocol.is_some() {
            self.invalid(
                "proxy_protocol",
                "is not for a client, because the server's port requests the source addresses",
                "remove it here, and set it at the server",
            );
        }
        let of_server = [
            ("targets", !port.targets.is_empty()),
            ("target_choice", !word::is_default(&port.target_choice)),
            ("health_check", port.health_check.is_some()),
            ("allow", !port.allow.is_empty()),
        ];
        let of_client = [
            ("socks_user", port.socks_user.is_some()),
            ("socket_mode", port.socket_mode.is_some()),
            ("socket_owner", port.socket_owner.is_some()),
        ];
        if self.mode == Mode::Client {
            self.invalid_if_set(
                &of_server,
                "is only for a server",
                "remove it here, and set it at the server",
            );
        } else {
            self.invalid_if_set(
                &of_client,
                "is only for a client",
                "remove it here, and set it at the client",
            );
        }
    }

    /// Checks that the port has one kind of address.
    fn check_presence(&mut self) {
        let (address, targets) = (&self.port.local_address, &self.port.targets);
        match (address, self.mode) {
            (None, Mode::Client) => self.missing_address(),
            (None, _) if !self.is_socks() && targets.is_empty() && !self.has_problem("targets") => {
                self.missing_address();
            }
            (Some(_), Mode::Server) if self.is_socks() => self.invalid(
                "local_address",
                "is set, but applications of a \"socks5\" port name the destination",
                "remove it, and list the destinations in `allow`",
            ),
            (Some(_), Mode::Server) if !targets.is_empty() => self.invalid(
                "targets",
                "is set beside `local_address`",
                "keep one of the two: `targets` lists all addresses of the service",
            ),
            _ => {}
        }
    }

    fn missing_address(&mut self) {
        self.checks.missing(&self.path.field("local_address"));
    }

    /// Checks that the addresses can be dialled, or listened at.
    fn check_addresses(&mut self) {
        match &self.port.local_address {
            Some(LocalAddress::Tcp(address)) if self.mode == Mode::Server => {
                if let Err(reason) = address.clone().dialable() {
                    let invalid = address_fault(&address.to_string(), &reason);
                    let field = self.path.field("local_address");
                    self.checks.invalid(&field, invalid);
                }
            }
            Some(LocalAddress::Unix(address)) => {
                if let Some(invalid) = address.unusable() {
                    let field = self.path.field("local_address");
                    self.checks.invalid(&field, invalid);
                }
            }
            Some(LocalAddress::Range(range)) if self.is_socks() => {
                let problem = format!("is the range \"{range}\", but a proxy has one address");
                self.invalid("local_address", problem, "write \"HOST:PORT\"");
            }
            _ => {}
        }
    }

    /// Checks the fields of datagrams.
    fn check_datagrams(&mut self) {
        let port = self.port;
        let protocol = port.protocol;
        let has_unix = port
            .local_address
            .as_ref()
            .is_some_and(LocalAddress::is_unix)
            || port
                .targets
                .iter()
                .any(|target| matches!(target, Target::Unix(_)));
        if protocol.has_udp() && has_unix {
            self.invalid(
                "protocol",
                format!("is \"{protocol}\", but unix sockets carry connections only"),
                "set it to \"tcp\", or write the address as \"HOST:PORT\"",
            );
        }
        if !protocol.has_flows() {
            let fields = [
                ("udp_idle_timeout", !is_default(&port.udp_idle_timeout)),
                ("max_delay", !is_default(&port.max_delay)),
                ("max_flows", !is_default(&port.max_flows)),
            ];
            self.invalid_if_set(
                &fields,
                &format!("has no effect, because `protocol` is \"{protocol}\""),
                "set `protocol` to \"udp\" or \"both\" at both ends, or remove it",
            );
        }
    }

    /// Checks the fields of a SOCKS5 port.
    fn check_socks(&mut self) {
        let port = self.port;
        if !self.is_socks() {
            let fields = [
                ("allow", !port.allow.is_empty()),
                ("socks_user", port.socks_user.is_some()),
            ];
            self.invalid_if_set(
                &fields,
                &format!("has no effect, because `protocol` is \"{}\"", port.protocol),
                "set `protocol` to \"socks5\" at both ends, or remove it",
            );
            return;
        }
        if port.proxy_protocol.is_some() {
            self.invalid(
                "proxy_protocol",
                "is not for a \"socks5\" port, whose destinations expect no header",
                "remove it",
            );
        }
        if !port.targets.is_empty() {
            self.invalid(
                "targets",
                "is set, but applications of a \"socks5\" port name the destination",
                "remove it, and list the destinations in `allow`",
            );
        }
        if self.mode == Mode::Server && port.allow.is_empty() && !self.has_problem("allow") {
            let message = "is missing, so the server refuses every destination: list those that applications may use, as \"nas.lan:22\"";
            self.checks.warn(self.path.field("allow"), message);
        }
        if let Some(user) = &port.socks_user {
            user.check(&self.path.field("socks_user"), self.checks);
        } else if self.mode == Mode::Client {
            self.warn_of_open_proxy();
        }
    }

    /// Warns of a proxy that other machines can use without authentication.
    fn warn_of_open_proxy(&mut self) {
        let Some(LocalAddress::Tcp(address)) = &self.port.local_address else {
            return;
        };
        let is_local =
            address.host == "localhost" || address.ip().is_some_and(|ip| ip.is_loopback());
        if !is_local {
            let message = format!(
                "is \"{address}\", so other machines can use the proxy without a password: set `socks_user`, or listen at \"127.0.0.1\""
            );
            self.checks.warn(self.path.field("local_address"), message);
        }
    }

    /// Checks the targets and their health check.
    fn check_targets(&mut self) {
        let port = self.port;
        let count = port.targets.len();
        if count > TARGETS_MAX {
            let problem = format!("has {count} addresses");
            self.invalid("targets", problem, format!("list at most {TARGETS_MAX}"));
        }
        let path = self.path.field("targets");
        for (index, target) in port.targets.iter().enumerate().take(TARGETS_MAX) {
            let path = path.index(index);
            if port.targets.iter().take(index).any(|other| other == target) {
                let problem = format!("(\"{target}\") is in the list already");
                let invalid = InvalidValue::new(problem, "remove one of them");
                self.checks.invalid(&path, invalid);
            } else if let Target::Unix(address) = target
                && let Some(invalid) = address.unusable()
            {
                self.checks.invalid(&path, invalid);
            }
        }
        self.check_health(count);
    }

    fn check_health(&mut self, targets: usize) {
        let port = self.port;
        let fields = [
            ("target_choice", !word::is_default(&port.target_choice)),
            ("health_check", port.health_check.is_some()),
        ];
        if targets == 0 && !self.has_problem("targets") {
            self.invalid_if_set(
                &fields,
                "has no effect without `targets`",
                "list the addresses of the service in `targets`, or remove it",
            );
        }
        if let Some(health_check) = &port.health_check {
            if port.protocol == ServiceProtocol::Udp {
                self.invalid(
                    "health_check",
                    "connects with TCP, but `protocol` is \"udp\"",
                    "remove it",
                );
            }
            health_check.check(&self.path.field("health_check"), self.checks);
        }
    }

    /// Checks that mode and owner have a socket file.
    fn check_socket_rights(&mut self) {
        let port = self.port;
        let address = port.local_address.as_ref();
        let reason = match address.and_then(LocalAddress::unix) {
            Some(UnixAddress::Path(_)) => return,
            Some(UnixAddress::Abstract(_)) => "an abstract unix socket has no file",
            None => "`local_address` is no unix socket",
        };
        if self.mode != Mode::Client || address.is_none() {
            return;
        }
        let fields = [
            ("socket_mode", port.socket_mode.is_some()),
            ("socket_owner", port.socket_owner.is_some()),
        ];
        self.invalid_if_set(
            &fields,
            &format!("has no effect, because {reason}"),
            "set `local_address` to \"unix:/PATH\", or remove it",
        );
    }
}
