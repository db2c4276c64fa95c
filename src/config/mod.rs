//! The configuration file: parsing, validation and defaults.
//!
//! ```text
//! file ──► text ──document──► raw structs ──validate──► Config, with warnings
//!             syntax, unknown fields, types    addresses, keys, ranges, duplicates
//! ```
//!
//! Each step reports as many problems as possible at once, each with its position and remedy. This
//! module knows the names of the methods and how a master is addressed and dialled. It knows
//! nothing else of the layers. The roles take small structs from here.

mod address;
mod dial_fields;
mod document;
mod error;
mod known_fields;
mod master_fields;
mod quantity;
pub mod raw;
mod reader;
mod secret;
mod syntax_hint;
mod validate;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

pub use address::{HostPort, HostPortError};
pub use error::{ConfigError, ConfigProblem, Fault, FieldPath, PathSegment, Position, Warning};
pub use quantity::{ByteSize, Quantity};
pub use secret::{RawSecret, Secret, SecretError, SecretSources};
#[cfg(test)]
pub(crate) use validate::{CONNECT_TIMEOUT, HOLD_TIMEOUT, RESUME_TIMEOUT};

pub use crate::net::dial::{DialParameters, MasterAddress};
pub use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

/// The values of `log_level`, from the least to the most verbose.
pub const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The default encryption of a port. It is authenticated, and the fastest such method.
pub const DEFAULT_ENCRYPT_METHOD: EncryptMethod = EncryptMethod::Aes128Gcm;

/// The default compression of a port.
pub const DEFAULT_COMPRESS_METHOD: CompressMethod = CompressMethod::Null;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The minimum level of logged events.
    pub log_level: tracing::Level,
    /// The role of the process.
    pub role: RoleConfig,
}

/// The configuration of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleConfig {
    /// A master.
    Master(MasterConfig),
    /// A server.
    Server(ServerConfig),
    /// A client.
    Client(ClientConfig),
}

impl RoleConfig {
    /// Returns the value of `mode`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Master(_) => "master",
            Self::Server(_) => "server",
            Self::Client(_) => "client",
        }
    }

    /// How long a drain may take before the remaining connections are closed.
    #[must_use]
    pub fn grace_period(&self) -> Duration {
        match self {
            Self::Master(master) => master.grace_period,
            Self::Server(server) => server.grace_period,
            Self::Client(client) => client.grace_period,
        }
    }
}

/// The configuration of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterConfig {
    /// The listen addresses. At least one, without overlaps. The system chooses the port of a
    /// listener at port 0.
    pub listen_at: Vec<HostPort>,
    /// The key that authenticates servers.
    pub master_key: Secret,
    /// The path of the WebSocket upgrade. It starts with `/` and has no query.
    pub path: String,
    /// The TLS files, if TLS ends at the master.
    pub tls: Option<TlsFilesConfig>,
    /// Whether `/healthz` answers. `path` then differs from it.
    pub healthz: bool,
    /// The response to HTTP visitors.
    pub fallback: FallbackConfig,
    /// The networks of proxies whose statements about a peer's address are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether each connection from these networks starts with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The limits of the master.
    pub limits: MasterLimitsConfig,
    /// The keep-alive interval in whole seconds. The master sends it to every role.
    pub heartbeat: Duration,
    /// How long a drain may take.
    pub grace_period: Duration,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFilesConfig {
    /// The chain. The end-entity certificate comes first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities that must have signed the certificates of all peers, if set.
    pub client_ca: Option<PathBuf>,
}

/// The response to HTTP visitors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FallbackConfig {
    /// A 404 page.
    #[default]
    NotFound,
    /// The files of a folder.
    Files(PathBuf),
    /// Another web server.
    Server {
        /// The address for plain HTTP.
        address: HostPort,
        /// Whether the master sends the visitor's address in a PROXY protocol header.
        proxy_protocol: bool,
    },
}

/// The limits of a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MasterLimitsConfig {
    /// Concurrent links.
    pub links: u32,
    /// Concurrent links from one address.
    pub links_per_address: u32,
    /// Key ids that one server may register.
    pub ports_per_link: u32,
    /// Channels of one link.
    pub channels_per_link: u32,
    /// The size of a request header.
    pub header_bytes: ByteSize,
    /// The size of all queues of the master.
    pub memory: ByteSize,
}

impl Default for MasterLimitsConfig {
    /// Defaults for a small public machine. All links at rest take about 256 MiB, and the queues
    /// the same.
    fn default() -> Self {
        Self {
            links: 16_384,
            // Behind a proxy, all links have the same address.
            links_per_address: 4_096,
            // One REGISTER holds about 1,800 key ids.
            ports_per_link: 1_024,
            channels_per_link: 4_096,
            header_bytes: ByteSize::kib(16),
            memory: ByteSize::mib(256),
        }
    }
}

/// The limits of a server for its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimitsConfig {
    /// Connections to all services.
    pub streams: u32,
    /// Connections to one service.
    pub streams_per_port: u32,
    /// Connections of one client to one service.
    pub streams_per_tunnel: u32,
    /// Clients of one service.
    pub tunnels_per_port: u32,
    /// The size of all data queued for slow services and clients.
    pub memory: ByteSize,
}

impl Default for ServerLimitsConfig {
    /// Defaults for a machine at home that serves about a hundred users.
    fn default() -> Self {
        Self {
            streams: 32_768,
            streams_per_port: 16_384,
            streams_per_tunnel: 8_192,
            tunnels_per_port: 1_024,
            memory: ByteSize::mib(512),
        }
    }
}

/// The limits of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimitsConfig {
    /// The size of all data queued for slow applications and servers.
    pub memory: ByteSize,
}

impl Default for ClientLimitsConfig {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(512),
        }
    }
}

/// How a server or client connects to its masters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// The addresses. At least one. A failed dial moves on to the next.
    pub masters: Vec<MasterAddress>,
    /// How to dial. The deadline is `connect_timeout`.
    pub dial: DialParameters,
    /// The keep-alive interval.
    pub heartbeat: Duration,
    /// The time limit of a dial, from name resolution to handshake. A server also uses it for its
    /// services.
    pub connect_timeout: Duration,
    /// How long a tunnel waits for the next link before it resets its streams.
    pub resume_timeout: Duration,
    /// The age at which a link is replaced, if set.
    pub rotate_after: Option<Duration>,
    /// The idle time before TCP keep-alive probes on local connections, if set. At least one
    /// second.
    pub tcp_keepalive: Option<Duration>,
}

/// The configuration of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// How the server connects to its masters.
    pub link: LinkConfig,
    /// The key that authenticates the server to its masters.
    pub master_key: Secret,
    /// The services. At least one. Their keys are distinct.
    pub ports: Vec<PortConfig>,
    /// The limits for clients.
    pub limits: ServerLimitsConfig,
    /// Whether clients may measure the path to this server with `report bench`.
    pub bench: bool,
    /// How long a drain may take.
    pub grace_period: Duration,
}

/// The configuration of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// How the client connects to its masters.
    pub link: LinkConfig,
    /// How the client chooses one of several masters.
    pub master_choice: MasterChoice,
    /// The ports. At least one. Their keys and addresses are distinct.
    pub ports: Vec<PortConfig>,
    /// The limits of the client.
    pub limits: ClientLimitsConfig,
    /// How long a new connection waits for a server before it is reset.
    pub hold_timeout: Duration,
    /// How long a drain may take.
    pub grace_period: Duration,
}

/// How a client chooses one of several masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterChoice {
    /// Dials the masters one at a time, in the order of the list.
    Ordered,
    /// Dials the masters concurrently and uses the first that accepts the client.
    Raced,
}

impl MasterChoice {
    /// All choices.
    pub const ALL: [MasterChoice; 2] = [MasterChoice::Ordered, MasterChoice::Raced];
}

impl fmt::Display for MasterChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            MasterChoice::Ordered => "ordered",
            MasterChoice::Raced => "raced",
        })
    }
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// The name of the service in logs.
    pub mark: String,
    /// Server: the address of the service. Client: the listen address, where port 0 lets the system
    /// choose.
    pub local_address: HostPort,
    /// The shared secret of client and server.
    pub port_key: Secret,
    /// The encryption method. Both ends use the same.
    pub encrypt_method: EncryptMethod,
    /// The compression method. Both ends use the same.
    pub compress_method: CompressMethod,
    /// Server: the version of the PROXY protocol header that reports the source of a connection to
    /// the service, if any.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The maximum windows of its tunnels.
    pub windows: Windows,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Version 2, the binary one.
    V2,
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyProtocol::V2 => formatter.write_str("v2"),
        }
    }
}

/// The maximum receive windows of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The maximum of one stream. It does not exceed that of the tunnel.
    pub stream: ByteSize,
    /// The maximum of all streams of a tunnel together.
    pub tunnel: ByteSize,
}

impl Default for Windows {
    /// The values of PROTOCOL 12.
    fn default() -> Self {
        Self {
            stream: ByteSize::mib(16),
            tunnel: ByteSize::mib(32),
        }
    }
}

/// A valid configuration with its warnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// The warnings in the order of the file.
    pub warnings: Vec<Warning>,
}

/// Reads a file. Relative paths in it start at its folder.
///
/// # Errors
/// Returns all problems of the file, see [`ConfigError`].
pub fn load(file: &Path) -> Result<LoadedConfig, ConfigError> {
    let read = crate::text::read_file(file, crate::text::LONG_FILE_MAX);
    let bytes = read.map_err(|error| ConfigError::of_file(file, unreadable(file, &error)))?;
    let text = crate::text::decode(&bytes)
        .map_err(|error| ConfigError::of_file(file, Fault::NotText(error)))?;
    parse(&text, file, &|name| std::env::var_os(name))
}

fn unreadable(file: &Path, error: &std::io::Error) -> Fault {
    if error.kind() == std::io::ErrorKind::NotFound {
        let whole = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        Fault::NoFile(whole.parent().map_or(whole.clone(), Path::to_owned))
    } else {
        Fault::Unreadable(error.to_string())
    }
}

/// Parses the text of a file. `variable` looks up environment variables.
///
/// # Errors
/// Returns all problems of the file, see [`ConfigError`].
pub fn parse(
    text: &str,
    file: &Path,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<LoadedConfig, ConfigError> {
    // Editors on Windows write a byte order mark before UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let folder = file.parent().unwrap_or(Path::new(""));
    validate::read(text, SecretSources { folder, variable }).map_err(|problems| ConfigError {
        file: file.to_owned(),
        problems,
    })
}

#[cfg(test)]
mod tests;
