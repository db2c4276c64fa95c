//! The admin address of a role.

use std::{fmt, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    RoleConfig, TlsFilesConfig,
    address::HostPort,
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
    values::{address_fault, is_default, text_value},
};
use crate::text::without_password;

/// The longest path of a unix socket, in bytes. The kernels allow about 100. The socket is created
/// under a longer name beside its path.
const SOCKET_PATH_MAX: usize = 80;

/// The remedy for an invalid admin address.
const FORMS: &str = "write \"127.0.0.1:9300\", \"[::1]:9300\" or \"unix:/run/report/admin.sock\", with your port or path";

/// The remedy for an admin address that other machines can reach, at a role without tokens.
const LOCAL_FORMS: &str = "write \"127.0.0.1:9300\" or \"unix:/run/report/admin.sock\", with your port or path; \
     only a master with `store` may serve other addresses";

/// The admin address, where a role serves metrics and health checks, and a master with a store the
/// API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, {\"listen_at\": \"127.0.0.1:9300\"}"
)]
pub struct AdminConfig {
    /// `"unix:/PATH"`, a socket with mode 0600, or `"127.0.0.1:PORT"` or `"[::1]:PORT"`, which every
    /// user of this machine can reach. Any other IP address needs `tls`, and a master whose `store`
    /// has a token. With port 0 the system chooses the port.
    pub listen_at: AdminAddress,
    /// [Certificate files](#tls-of-a-master) of the admin address. Only a master may have them.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "no TLS"))]
    pub tls: Option<TlsFilesConfig>,
}

impl AdminConfig {
    /// Creates a configuration without TLS.
    #[must_use]
    pub fn new(listen_at: AdminAddress) -> Self {
        AdminConfig {
            listen_at,
            tls: None,
        }
    }

    /// Checks the rules between fields. Only a master can have tokens, which its store contains.
    pub(super) fn check(&self, role: &RoleConfig, checks: &mut RoleChecks<'_>) {
        let path = FieldPath::root("admin");
        let (listen_at, tls) = (path.field("listen_at"), path.field("tls"));
        let master = match role {
            RoleConfig::Master(master) => Some(master),
            RoleConfig::Server(_) | RoleConfig::Client(_) => None,
        };
        match &self.listen_at {
            AdminAddress::Public(address) if master.is_none_or(|master| master.store.is_none()) => {
                let problem = format!("is \"{address}\", which other machines can reach");
                checks.invalid(&listen_at, InvalidValue::new(problem, LOCAL_FORMS));
            }
            AdminAddress::Public(address) if self.tls.is_none() => {
                let invalid = InvalidValue::new(
                    format!("is missing, and other machines can reach {address}"),
                    "add {\"cert\": \"PATH\", \"key\": \"PATH\"}, or listen at loopback",
                );
                checks.invalid(&tls, invalid);
            }
            AdminAddress::Unix(_) if self.tls.is_some() => {
                let problem = "has no effect on a unix socket";
                checks.invalid(&tls, InvalidValue::new(problem, "remove it"));
            }
            _ if self.tls.is_some() && master.is_none() => {
                let problem = "is only for the admin address of a master";
                checks.invalid(&tls, InvalidValue::new(problem, "remove it"));
            }
            _ => {}
        }
    }
}

/// Where a role listens for the administration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A loopback address.
    Loopback(SocketAddr),
    /// An address that other machines can reach.
    Public(SocketAddr),
    /// The absolute path of a unix socket.
    Unix(PathBuf),
}

impl AdminAddress {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path);
        }
        let address: HostPort = text.parse().map_err(|error| address_fault(text, &error))?;
        let ip = address.ip().ok_or_else(|| {
            let problem = format!("is \"{address}\", a name instead of an IP address");
            InvalidValue::new(problem, FORMS)
        })?;
        let address = SocketAddr::new(ip, address.port);
        Ok(if ip.is_loopback() {
            AdminAddress::Loopback(address)
        } else {
            AdminAddress::Public(address)
        })
    }
}

/// Checks the path of a unix socket.
fn socket_path(path: &str) -> Result<AdminAddress, InvalidValue> {
    let invalid = |problem: String| InvalidValue::new(problem, FORMS);
    let shown = without_password(path);
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(invalid(format!(
            "is \"unix:{shown}\", not the absolute path of a socket"
        )));
    }
    if path.len() > SOCKET_PATH_MAX {
        return Err(invalid(format!(
            "is \"unix:{shown}\", a path of more than {SOCKET_PATH_MAX} bytes"
        )));
    }
    Ok(AdminAddress::Unix(path.into()))
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Loopback(address) | AdminAddress::Public(address) => {
                address.fmt(formatter)
            }
            AdminAddress::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

text_value!(AdminAddress, "address or unix socket", AdminAddress::parse);
