//! The configurations of a server and a client.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CredentialKey, LinkConfig, PortConfig, Secret,
    bounded::DurationIn,
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
    master::{MemoryLimit, PeerCount},
    mode::Mode,
    port::{check_ports, enabled},
    values::{is_default, is_yes, yes},
    word::{self, Word},
};
use report_proto::frame::MAX_SLOTS;

/// How long a new connection waits for a tunnel.
pub type HoldTimeout = DurationIn<0, 3_600_000, 10_000>;

/// The configuration of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// How the server connects to its masters. In the file these fields are beside the others.
    #[serde(skip_deserializing, flatten)]
    #[schemars(skip)]
    pub link: LinkConfig,
    /// The master's key. A server has it or a `credential`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "required without `credential`"))]
    pub master_key: Option<Secret>,
    /// The credential of the server, in place of the master's key. The operator of the master
    /// issues it; `report keygen --credential` generates one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub credential: Option<CredentialKey>,
    /// The limits for clients.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "see [below](#limits-of-a-server-or-client)"))]
    pub limits: ServerLimitsConfig,
    /// Whether clients may [measure the path](diagnostics.md#report-bench) with `report bench`.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    #[schemars(extend("default" = true))]
    pub bench: bool,
    /// The [services](#ports), at least one. Each has a separate key.
    #[schemars(length(min = 1), extend("x-type" = "list of objects"))]
    pub ports: Vec<PortConfig>,
}

/// The configuration of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// How the client connects to its masters. In the file these fields are beside the others.
    #[serde(skip_deserializing, flatten)]
    #[schemars(skip)]
    pub link: LinkConfig,
    /// How the client chooses one of several masters. `"ordered"` dials one at a time, in the order
    /// of the list. `"raced"` dials all, each 250 ms after the one before, and uses the first that
    /// accepts the client. Both prefer masters that have
    /// [not failed recently](resumption.md#length-of-a-pause).
    #[serde(
        default = "word::default",
        with = "word",
        skip_serializing_if = "word::is_default"
    )]
    #[schemars(schema_with = "word::schema::<MasterChoice>")]
    pub master_choice: MasterChoice,
    /// How long a [new connection waits](resumption.md#limits) for a tunnel before the client
    /// resets it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hold_timeout: HoldTimeout,
    /// The credential of the client, if the operator of the master has issued one. With it the
    /// client also verifies the master.
    #[serde(default, skip_serializing_if = "is_default")]
    pub credential: Option<CredentialKey>,
    /// The limits of the client.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "see [below](#limits-of-a-server-or-client)"))]
    pub limits: ClientLimitsConfig,
    /// The [services](#ports), at least one. Their keys and addresses are distinct.
    #[schemars(length(min = 1), extend("x-type" = "list of objects"))]
    pub ports: Vec<PortConfig>,
}

/// The limits of a server for its clients. The defaults fit a machine at home that serves about a
/// hundred users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"streams\": NUMBER, …}"
)]
pub struct ServerLimitsConfig {
    /// Concurrent connections to all services. The process's limit of open files also applies. Half
    /// of them are divided among the ports, as a reserve for each.
    pub streams: PeerCount<32_768>,
    /// Concurrent connections to one service.
    pub streams_per_port: PeerCount<16_384>,
    /// Concurrent connections of one client to one service. A client also leaves a ninth of the
    /// port's connections to other clients.
    pub streams_per_tunnel: PeerCount<8_192>,
    /// Concurrent clients of one service. A new client evicts one that has lost its link.
    pub tunnels_per_port: PeerCount<1_024>,
    /// All data queued for slow services and clients, in all tunnels together. Beyond it each
    /// connection keeps a window of 16 KiB.
    pub memory: MemoryLimit<{ 512 << 20 }>,
}

/// The limits of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"memory\": SIZE}"
)]
pub struct ClientLimitsConfig {
    /// All data queued for slow applications and servers, in all tunnels together. Beyond it each
    /// connection keeps a window of 16 KiB.
    pub memory: MemoryLimit<{ 512 << 20 }>,
}

/// How a client chooses one of several masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterChoice {
    /// Dials the masters one at a time, in the order of the list.
    Ordered,
    /// Dials the masters concurrently and uses the first that accepts the client.
    Raced,
}

impl Word for MasterChoice {
    const ALL: &'static [Self] = &[MasterChoice::Ordered, MasterChoice::Raced];
    const DEFAULT: Self = MasterChoice::Ordered;

    fn word(self) -> &'static str {
        match self {
            MasterChoice::Ordered => "ordered",
            MasterChoice::Raced => "raced",
        }
    }
}

impl fmt::Display for MasterChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl ServerConfig {
    /// Creates a configuration with a master key and defaults.
    #[must_use]
    pub fn new(link: LinkConfig, master_key: Secret, ports: Vec<PortConfig>) -> Self {
        Self {
            link,
            master_key: Some(master_key),
            credential: None,
            limits: ServerLimitsConfig::default(),
            bench: true,
            ports,
        }
    }

    /// Returns the ports that are used.
    pub fn enabled_ports(&self) -> impl Iterator<Item = &PortConfig> {
        enabled(&self.ports)
    }

    /// Checks the rules between fields, and completes the marks of the ports.
    pub(super) fn check(&mut self, checks: &mut RoleChecks<'_>) {
        self.link.check(checks);
        let masters = self.link.masters.len();
        if masters > usize::from(MAX_SLOTS) {
            // The link to each master needs its own slot (PROTOCOL 6.6).
            let invalid = InvalidValue::new(
                format!("has {masters} addresses"),
                format!("a server links to at most {MAX_SLOTS} masters"),
            );
            checks.invalid(&FieldPath::root("master"), invalid);
        }
        self.check_secret(checks);
        check_ports(&mut self.ports, Mode::Server, checks);
    }

    /// Checks that the server has exactly one secret for its links.
    fn check_secret(&self, checks: &mut RoleChecks<'_>) {
        let (master_key, credential) =
            (FieldPath::root("master_key"), FieldPath::root("credential"));
        match (&self.master_key, &self.credential) {
            // A value that cannot be read is a problem already.
            (None, None) if !checks.has_problem(&credential) => checks.missing(&master_key),
            (Some(_), Some(_)) => {
                let invalid = InvalidValue::new(
                    "is set beside `master_key`",
                    "keep one of the two: a server proves the master key or a credential",
                );
                checks.invalid(&credential, invalid);
            }
            _ => {}
        }
    }
}

impl ClientConfig {
    /// Creates a configuration with defaults.
    #[must_use]
    pub fn new(link: LinkConfig, ports: Vec<PortConfig>) -> Self {
        Self {
            link,
            master_choice: word::default(),
            hold_timeout: HoldTimeout::default(),
            credential: None,
            limits: ClientLimitsConfig::default(),
            ports,
        }
    }

    /// Returns the ports that are used.
    pub fn enabled_ports(&self) -> impl Iterator<Item = &PortConfig> {
        enabled(&self.ports)
    }

    /// Checks the rules between fields, and completes the marks of the ports.
    pub(super) fn check(&mut self, checks: &mut RoleChecks<'_>) {
        self.link.check(checks);
        if self.master_choice == MasterChoice::Raced && self.link.masters.len() == 1 {
            let message =
                "is \"raced\", but there is one master: add masters to `master`, or remove it";
            checks.warn(FieldPath::root("master_choice"), message);
        }
        check_ports(&mut self.ports, Mode::Client, checks);
    }
}
