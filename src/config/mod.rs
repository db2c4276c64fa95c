//! The configuration file: parsing, validation and defaults.
//!
//! ```text
//! files ──format──► trees ──source_files──► one tree ──document──► MasterConfig, ServerConfig or
//!                                                                  ClientConfig, with warnings
//! ```
//!
//! One set of structs is read from the files, taken by the roles, written by `report quickstart` and
//! documented in `docs/configuration.md`. A field is defined in one place: its name, type, default
//! and description in its struct. Its type contains its range and its syntax. A role checks the
//! rules between fields in its `check`.
//!
//! An error reports as many problems as possible at once, each with its position and remedy. This
//! module knows the constants of the protocol, the names of the methods, the formats of the logs, how
//! a master is addressed and dialled, and how a database is. It knows nothing else of the layers.

mod address;
mod admin;
mod bounded;
mod commented_json;
mod credential;
mod dial_values;
mod diff;
mod document;
mod error;
mod format;
mod include_pattern;
mod invite;
mod json_text;
mod link;
mod local_address;
mod master;
mod mode;
mod node;
mod one_or_more;
mod path;
mod port;
mod position;
mod read_error;
#[cfg(test)]
mod reference;
mod retention;
mod role;
mod secret;
mod secret_error;
mod source_files;
mod store_address;
mod syntax_hint;
mod toml_text;
mod values;
mod variables;
mod word;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

pub use address::{HostPort, HostPortError};
pub use admin::{AdminAddress, AdminConfig};
pub use bounded::{CountIn, DurationIn, DurationOrOff, SizeIn};
pub use credential::CredentialKey;
pub use diff::{ChangedPort, ConfigDiff};
pub use error::{
    ConfigError, ConfigProblem, Fault, FieldPath, InvalidValue, PathSegment, Position, Warning,
};
pub use invite::{Invite, InviteError};
pub use link::{ConnectTimeout, LinkConfig, LinkTlsConfig, LinksConfig, ResumeTimeout};
pub use local_address::{
    LocalAddress, PortRange, RANGE_MAX, Target, UNIX_ADDRESS_MAX, UnixAddress,
};
pub use master::{FallbackConfig, MasterConfig, MasterLimitsConfig, TlsFilesConfig, UnknownKeys};
pub use port::{
    AllowRule, AllowedHost, AllowedPorts, Destinations, HealthCheck, HealthCheckKind, PortConfig,
    ProxyProtocol, RequestPath, SocketMode, SocketOwner, SocksUser, TargetChoice, Windows,
    WindowsConfig,
};
pub use retention::RetentionConfig;
pub use role::{
    ClientConfig, ClientLimitsConfig, HoldTimeout, MasterChoice, ServerConfig, ServerLimitsConfig,
};
pub use secret::{Secret, SecretSources};
pub use secret_error::{SecretError, SecretKind};
pub use store_address::StoreAddress;

pub use crate::{
    net::{
        congestion_control::CongestionControl,
        dial::{DialParameters, MasterAddress},
    },
    quantity::ByteSize,
    telemetry::LogFormat,
    tunnel::ServiceProtocol,
};
pub use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

use mode::{Mode, ModeField};

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The fields of every role.
    pub common: CommonConfig,
    /// The role of the process.
    pub role: RoleConfig,
}

/// The configuration that all roles share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommonConfig {
    /// The minimum level of logged events. Logs go to standard error.
    #[serde(default = "word::default", with = "word")]
    #[schemars(schema_with = "word::schema::<tracing::Level>")]
    pub log_level: tracing::Level,
    /// The [format of logs](diagnostics.md#logs): lines of text, or one JSON object per line.
    #[serde(
        default = "word::default",
        with = "word",
        skip_serializing_if = "word::is_default"
    )]
    #[schemars(schema_with = "word::schema::<LogFormat>")]
    pub log_format: LogFormat,
    /// The [admin address](#admin-address), for metrics, health checks, and the API of a master.
    #[serde(default, skip_serializing_if = "values::is_default")]
    #[schemars(extend("x-default" = "no admin address"))]
    pub admin: Option<AdminConfig>,
    /// How long connections may take to end after SIGINT or SIGTERM, or when a reload removes their
    /// port, and at a master how long links may take to move elsewhere. A second signal ends the
    /// process at once.
    #[serde(default, skip_serializing_if = "values::is_default")]
    pub grace_period: GracePeriod,
    /// Whether the role [reloads its files](deployment.md#change-a-running-role) when one of them
    /// changes, as after SIGHUP.
    #[serde(default, skip_serializing_if = "values::is_default")]
    pub watch: bool,
}

/// How long a drain may take before the remaining connections are closed. The default is below the
/// ten seconds after which container runtimes kill a process.
pub type GracePeriod = DurationIn<0, 3_600_000, 5_000>;

impl Default for CommonConfig {
    fn default() -> Self {
        Self {
            log_level: word::default(),
            log_format: word::default(),
            admin: None,
            grace_period: GracePeriod::default(),
            watch: false,
        }
    }
}

/// The configuration of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
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
        word::Word::word(self.mode())
    }

    /// Returns the congestion control of the role's links.
    #[must_use]
    pub fn congestion_control(&self) -> CongestionControl {
        match self {
            Self::Master(master) => master.congestion_control,
            Self::Server(server) => server.link.congestion_control,
            Self::Client(client) => client.link.congestion_control,
        }
    }

    fn mode(&self) -> Mode {
        match self {
            Self::Master(_) => Mode::Master,
            Self::Server(_) => Mode::Server,
            Self::Client(_) => Mode::Client,
        }
    }
}

impl Serialize for Config {
    /// Writes a file. Omits fields with default values, except those that users often change.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct ConfigFields<'a> {
            #[serde(flatten)]
            mode: ModeField,
            #[serde(flatten)]
            common: &'a CommonConfig,
            #[serde(flatten)]
            role: &'a RoleConfig,
        }
        let fields = ConfigFields {
            mode: ModeField {
                mode: self.role.mode(),
            },
            common: &self.common,
            role: &self.role,
        };
        fields.serialize(serializer)
    }
}

/// A valid configuration with its warnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// The warnings in the order of the file.
    pub warnings: Vec<Warning>,
    /// The files that were read: the given one, then those that it includes.
    pub files: Vec<PathBuf>,
}

/// Reads a file, and those that it includes. The ending of a name selects the format. Relative
/// paths in a file start at its folder.
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

/// Parses the text of a file, whose name selects the format, and reads the files that it includes.
/// `variable` looks up environment variables.
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
    document::read(text, file, variable).map_err(|problems| ConfigError {
        file: file.to_owned(),
        problems,
    })
}

#[cfg(test)]
mod tests;
