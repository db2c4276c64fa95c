//! The admin address of a role.

use std::{fmt, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address::HostPort,
    error::InvalidValue,
    values::{address_fault, text_value},
};
use crate::text::without_password;

/// The longest path of a unix socket, in bytes. The kernels allow about 100. The socket is created
/// under a longer name beside its path.
const SOCKET_PATH_MAX: usize = 80;

/// The remedy for an invalid admin address.
const FORMS: &str = "write \"127.0.0.1:9300\", \"[::1]:9300\" or \"unix:/run/report/admin.sock\", with your port or path";

/// The admin address, where a role serves metrics and health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, {\"listen_at\": \"127.0.0.1:9300\"}"
)]
pub struct AdminConfig {
    /// `"127.0.0.1:PORT"` or `"[::1]:PORT"`, which every user of this machine can reach, or
    /// `"unix:/PATH"`, a socket with mode 0600. With port 0 the system chooses the port.
    pub listen_at: AdminAddress,
}

/// Where a role listens for the administration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A loopback address.
    Loopback(SocketAddr),
    /// The absolute path of a unix socket.
    Unix(PathBuf),
}

impl AdminAddress {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path);
        }
        let address: HostPort = text.parse().map_err(|error| address_fault(text, &error))?;
        match address.ip() {
            Some(ip) if ip.is_loopback() => {
                Ok(AdminAddress::Loopback(SocketAddr::new(ip, address.port)))
            }
            Some(_) => Err(InvalidValue::new(
                format!(
                    "is \"{address}\", which is not loopback; this version serves the admin address on loopback or a unix socket only"
                ),
                FORMS,
            )),
            None => Err(InvalidValue::new(
                format!(
                    "is \"{address}\", a name; this version serves the admin address on loopback or a unix socket only"
                ),
                FORMS,
            )),
        }
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
            AdminAddress::Loopback(address) => address.fmt(formatter),
            AdminAddress::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

text_value!(AdminAddress, "address or unix socket", AdminAddress::parse);
