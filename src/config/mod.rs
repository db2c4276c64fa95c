//! The configuration, as written and as meant.
//!
//! ```text
//! file ──► text ──written──► raw structs ──meaning──► Config, with warnings
//!             syntax, unknown fields, types    addresses, keys, ranges, duplicates
//! ```
//! Every step says what is wrong, where and what to write instead; as much as possible of it at once. Knows the file and the names of
//! the methods, and how a master is named and dialled; no layer's inside. What listens or dials takes small structs from here.

mod address;
mod error;
mod front;
mod hint;
mod known;
mod meaning;
mod quantity;
pub mod raw;
mod reader;
mod secret;
mod way;
mod written;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

pub use address::{AddressError, HostPort};
pub use error::{ConfigError, Fault, FieldPath, Position, Problem, Step, Warning};
#[cfg(test)]
pub(crate) use meaning::{CONNECT_TIMEOUT, HOLD_TIMEOUT, RESUME_TIMEOUT};
pub use quantity::{ByteSize, Quantity};
pub use secret::{RawSecret, Secret, SecretError, Surroundings};

pub use crate::{
    compress::CompressMethod,
    crypto::EncryptMethod,
    link::dial::{DialParameters, MasterAddress},
};

/// The words for `log_level`, from little to much.
pub const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The sealing of a port that names none: authenticated, and the fastest.
pub const DEFAULT_ENCRYPT_METHOD: EncryptMethod = EncryptMethod::Aes128Gcm;

/// The compression of a port that names none.
pub const DEFAULT_COMPRESS_METHOD: CompressMethod = CompressMethod::Null;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is logged.
    pub log_level: tracing::Level,
    /// What the process does.
    pub role: RoleConfig,
}

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleConfig {
    /// The relay.
    Master(MasterConfig),
    /// The agent beside the services.
    Server(ServerConfig),
    /// The visitor.
    Client(ClientConfig),
}

impl RoleConfig {
    /// The word of `mode`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Master(_) => "master",
            Self::Server(_) => "server",
            Self::Client(_) => "client",
        }
    }

    /// How long a drain may take before what is left is cut.
    #[must_use]
    pub fn grace_period(&self) -> Duration {
        match self {
            Self::Master(master) => master.grace_period,
            Self::Server(server) => server.grace_period,
            Self::Client(client) => client.grace_period,
        }
    }
}

/// A master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterConfig {
    /// At least one; none overlaps another. Port 0 lets the system choose.
    pub listen_at: Vec<HostPort>,
    /// What admits servers.
    pub master_key: Secret,
    /// The path of the upgrade; begins with `/`, has no query.
    pub path: String,
    /// TLS at the master itself.
    pub tls: Option<TlsFiles>,
    /// Whether `/healthz` answers. `path` is another then.
    pub healthz: bool,
    /// What everybody sees who is not a role.
    pub fallback: FallbackConfig,
    /// The networks of proxies that are believed about a visitor's address.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether each connection from them begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// What it takes at most.
    pub limits: Limits,
    /// How often an idle link is probed; whole seconds, which every role is told.
    pub heartbeat: Duration,
    /// How long a drain may take.
    pub grace_period: Duration,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities of the certificates that peers must show, if they must.
    pub client_ca: Option<PathBuf>,
}

/// What everybody sees who is not a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FallbackConfig {
    /// A page that says that nothing is there.
    #[default]
    NotFound,
    /// The files of a folder.
    Files(PathBuf),
    /// Another web server.
    Server {
        /// Where it speaks HTTP without TLS.
        address: HostPort,
        /// Whether it is told who the visitor is, by the PROXY protocol.
        proxy_protocol: bool,
    },
}

/// What a master gives away at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Links at a time.
    pub links: u32,
    /// Links at a time from one address.
    pub links_per_address: u32,
    /// Key ids that one server may register.
    pub ports_per_link: u32,
    /// Channels that one link may hold.
    pub channels_per_link: u32,
    /// A request's header.
    pub header_bytes: ByteSize,
    /// All that waits in the master's queues.
    pub memory: ByteSize,
}

impl Default for Limits {
    /// What suits a small public machine: links at rest take some 256 MiB when all are there, and so may the queues.
    fn default() -> Self {
        Self {
            links: 16_384,
            // Behind a proxy all links come from one address.
            links_per_address: 4_096,
            // Some 1,800 fit into one REGISTER.
            ports_per_link: 1_024,
            channels_per_link: 4_096,
            header_bytes: ByteSize::kib(16),
            memory: ByteSize::mib(256),
        }
    }
}

/// What the clients of a server may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections to services in all.
    pub streams: u32,
    /// Connections to one service.
    pub streams_per_port: u32,
    /// Connections of one client to one service.
    pub streams_per_tunnel: u32,
    /// Clients of one service.
    pub tunnels_per_port: u32,
    /// All that waits for slow services and clients.
    pub memory: ByteSize,
}

impl Default for ServerLimits {
    /// What suits a machine at home that shares its services with some hundred people.
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

/// What a client may hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// All that waits for slow applications and servers.
    pub memory: ByteSize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(512),
        }
    }
}

/// How a server or client reaches its master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// At least one; the next one's turn comes when a dial fails.
    pub masters: Vec<MasterAddress>,
    /// How they are dialled; its deadline is `connect_timeout`.
    pub dial: DialParameters,
    /// How often an idle link is probed.
    pub heartbeat: Duration,
    /// How long a dial may take, from name to handshake; a server's dials of its services too.
    pub connect_timeout: Duration,
    /// How long a tunnel waits for its next link before its connections are reset.
    pub resume_timeout: Duration,
    /// After how long each link is replaced, if ever.
    pub rotate_after: Option<Duration>,
    /// After how long at rest local connections are probed, if ever; a second at least.
    pub tcp_keepalive: Option<Duration>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Its master.
    pub link: LinkConfig,
    /// What the master admits it by.
    pub master_key: Secret,
    /// At least one; no two share a key.
    pub ports: Vec<PortConfig>,
    /// What clients may have at most.
    pub limits: ServerLimits,
    /// Whether clients may measure the way to this server with `report bench`.
    pub bench: bool,
    /// How long a drain may take.
    pub grace_period: Duration,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Its master.
    pub link: LinkConfig,
    /// How one of several masters is come to.
    pub master_choice: MasterChoice,
    /// At least one; no two share a key or an address.
    pub ports: Vec<PortConfig>,
    /// What it may hold at most.
    pub limits: ClientLimits,
    /// How long a connection waits for a server before it is reset.
    pub hold_timeout: Duration,
    /// How long a drain may take.
    pub grace_period: Duration,
}

/// How a client comes to one of several masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterChoice {
    /// One at a time, in the order of the list.
    Ordered,
    /// Side by side, the first that takes it in.
    Raced,
}

impl MasterChoice {
    /// All of them.
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
    /// What it is called in logs.
    pub mark: String,
    /// Server: what is dialled for each stream. Client: where to listen; port 0 lets the system choose.
    pub local_address: HostPort,
    /// The secret that client and server share.
    pub port_key: Secret,
    /// How it is sealed; the same at both ends.
    pub encrypt_method: EncryptMethod,
    /// How it is compressed; the same at both ends.
    pub compress_method: CompressMethod,
    /// Server: which version of the PROXY protocol tells the service where a connection comes from, if any.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What the windows of its tunnels may grow to.
    pub windows: Windows,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The binary one.
    V2,
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyProtocol::V2 => formatter.write_str("v2"),
        }
    }
}

/// What windows may grow to, in the direction toward this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Of one stream; not more than that of the tunnel.
    pub stream: ByteSize,
    /// Of all streams of a tunnel together.
    pub tunnel: ByteSize,
}

impl Default for Windows {
    /// PROTOCOL 12.
    fn default() -> Self {
        Self {
            stream: ByteSize::mib(16),
            tunnel: ByteSize::mib(32),
        }
    }
}

/// What a file means, and what about it was probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// In the order of the file.
    pub warnings: Vec<Warning>,
}

/// Reads a file. Relative paths in it begin at its folder.
///
/// # Errors
/// Everything that is wrong with it, see [`ConfigError`].
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
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

/// Reads a file's text; `variable` looks environment variables up.
///
/// # Errors
/// Everything that is wrong with it, see [`ConfigError`].
pub fn parse(
    text: &str,
    file: &Path,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Loaded, ConfigError> {
    // Editors on Windows put a byte order mark before UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let folder = file.parent().unwrap_or(Path::new(""));
    meaning::read(text, Surroundings { folder, variable }).map_err(|problems| ConfigError {
        file: file.to_owned(),
        problems,
    })
}

#[cfg(test)]
mod tests;
