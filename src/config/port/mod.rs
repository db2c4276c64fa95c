//! The services of a server or client.

mod allow;
mod protocol;
mod rules;
mod socket;
mod targets;
mod windows;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    LocalAddress, Secret, Target,
    bounded::{DurationIn, DurationOrOff},
    document::RoleChecks,
    error::{Fault, FieldPath, InvalidValue},
    master::PeerCount,
    mode::Mode,
    values::{is_default, is_yes, yes},
    word,
};
use crate::tunnel::ServiceProtocol;
use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

pub use allow::{AllowRule, AllowedHost, AllowedPorts};
pub use protocol::ProxyProtocol;
pub use socket::{SocketMode, SocketOwner, SocksUser};
pub use targets::{HealthCheck, HealthCheckKind, RequestPath, TargetChoice};
pub use windows::{Windows, WindowsConfig};

use windows::WindowLimit;

/// The time after which an idle flow ends.
pub(super) type UdpIdleTimeout = DurationOrOff<100, { 24 * 3_600_000 }, 60_000>;

/// How long a datagram may wait.
pub(super) type MaxDelay = DurationIn<1, 10_000, 200>;

/// One service. A server and a client match by `port_key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, {\"mark\": …, \"local_address\": …, \"port_key\": …}"
)]
pub struct PortConfig {
    /// The name of the service in logs.
    #[serde(default)]
    #[schemars(extend("x-default" = "its `local_address`"))]
    pub mark: String,
    /// Whether the port is used. A file needs one port that is.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    #[schemars(extend("default" = true))]
    pub enabled: bool,
    /// The traffic of the port: `"tcp"` connections, `"udp"` [datagrams](#udp), `"both"` at one
    /// port number, or connections to the [destinations that applications name](#socks5). Must be
    /// the same at both ends.
    #[serde(
        default = "word::default",
        with = "word",
        skip_serializing_if = "word::is_default"
    )]
    #[schemars(schema_with = "word::schema::<ServiceProtocol>")]
    pub protocol: ServiceProtocol,
    /// Server: the service to dial. Client: the address to listen at. `"HOST:PORT"`,
    /// `"HOST:FIRST-LAST"` for a [range of ports](#port-ranges), or `"unix:/PATH"` for a
    /// [unix socket](#unix-sockets). At a client the system chooses the port in place of 0.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend(
        "x-default" = "required, except at a server with `targets` or `\"socks5\"`"
    ))]
    pub local_address: Option<LocalAddress>,
    /// Server only: [several addresses](#targets) of the same service, in place of `local_address`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-type" = "list of addresses or unix sockets", "x-default" = "none"))]
    pub targets: Vec<Target>,
    /// Server only: how the server chooses one of the `targets`. `"ordered"` dials the first that is
    /// healthy, `"spread"` each in turn.
    #[serde(
        default = "word::default",
        with = "word",
        skip_serializing_if = "word::is_default"
    )]
    #[schemars(schema_with = "word::schema::<TargetChoice>")]
    pub target_choice: TargetChoice,
    /// Server only: how the server checks the `targets`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "[no checks](#health_check)"))]
    pub health_check: Option<HealthCheck>,
    /// Server only, with `"socks5"`: the [allowed destinations](#socks5), as `"HOST:PORTS"`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-type" = "list of destinations", "x-default" = "no destination"))]
    pub allow: Vec<AllowRule>,
    /// Client only, with `"socks5"`: the [user](#socks_user) that an application must authenticate
    /// as.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "no authentication"))]
    pub socks_user: Option<SocksUser>,
    /// Client only: the octal mode of the file of a [unix socket](#unix-sockets), as `"0660"`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "`\"0600\"`"))]
    pub socket_mode: Option<SocketMode>,
    /// Client only: the owner of the file of a [unix socket](#unix-sockets), as `"USER"`,
    /// `"USER:GROUP"` or `":GROUP"`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the user of rePort"))]
    pub socket_owner: Option<SocketOwner>,
    /// The shared secret of server and client, different for each port.
    pub port_key: Secret,
    /// The [encryption method](#encryption-and-compression). Must be the same at both ends.
    #[serde(default = "word::default", with = "word")]
    #[schemars(schema_with = "word::schema::<EncryptMethod>")]
    pub encrypt_method: EncryptMethod,
    /// The [compression method](#encryption-and-compression) of connections. Must be the same at
    /// both ends.
    #[serde(default = "word::default", with = "word")]
    #[schemars(schema_with = "word::schema::<CompressMethod>")]
    pub compress_method: CompressMethod,
    /// Server only: sends the [source of each connection](#source-addresses) to the service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The time without datagrams after which a flow ends. 0 never ends it, as WireGuard needs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub udp_idle_timeout: UdpIdleTimeout,
    /// How long a datagram may wait for the path before it is dropped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_delay: MaxDelay,
    /// Concurrent flows of the port at this end. A flow is one source address of datagrams.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_flows: PeerCount<1_024>,
    /// The window of one connection of this port.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "`windows.stream`"))]
    pub stream_window: Option<WindowLimit>,
    /// The window of one tunnel of this port.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "`windows.tunnel`"))]
    pub tunnel_window: Option<WindowLimit>,
}

/// Where the server's connections and flows of a port go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destinations<'a> {
    /// To the address, or to the one in the range that the client names.
    Address(&'a LocalAddress),
    /// To one of several targets.
    Targets(&'a [Target]),
    /// To a destination that the application names and one of the rules allows.
    Allowed(&'a [AllowRule]),
}

impl PortConfig {
    /// Creates a configuration with defaults.
    #[must_use]
    pub fn new(mark: String, local_address: LocalAddress, port_key: Secret) -> Self {
        Self {
            mark,
            enabled: true,
            protocol: word::default(),
            local_address: Some(local_address),
            targets: Vec::new(),
            target_choice: word::default(),
            health_check: None,
            allow: Vec::new(),
            socks_user: None,
            socket_mode: None,
            socket_owner: None,
            port_key,
            encrypt_method: word::default(),
            compress_method: word::default(),
            proxy_protocol: None,
            udp_idle_timeout: UdpIdleTimeout::default(),
            max_delay: MaxDelay::default(),
            max_flows: PeerCount::default(),
            stream_window: None,
            tunnel_window: None,
        }
    }

    /// Returns the maximum windows of the tunnels of this port.
    #[must_use]
    pub fn windows(&self, file: &WindowsConfig) -> Windows {
        let windows = file.windows();
        windows.with(self.stream_window, self.tunnel_window)
    }

    /// Returns the number of addresses of the port, which is the same at both ends.
    #[must_use]
    pub fn range(&self) -> u16 {
        self.local_address.as_ref().map_or(1, LocalAddress::count)
    }

    /// Returns where a server's connections and flows go.
    #[must_use]
    pub fn destinations(&self) -> Destinations<'_> {
        match &self.local_address {
            _ if self.protocol == ServiceProtocol::Socks5 => Destinations::Allowed(&self.allow),
            Some(address) => Destinations::Address(address),
            None => Destinations::Targets(&self.targets),
        }
    }

    /// Completes the paths and the mark, and checks the rules between fields.
    fn check(&mut self, path: &FieldPath, mode: Mode, checks: &mut RoleChecks<'_>) {
        if let Some(address) = &mut self.local_address {
            address.start_at(checks.folder(&path.field("local_address")));
        }
        let targets = path.field("targets");
        for (index, target) in self.targets.iter_mut().enumerate() {
            target.start_at(checks.folder(&targets.index(index)));
        }
        rules::check(self, path, mode, checks);
        if self.mark.is_empty() {
            self.mark = self.default_mark();
        }
    }

    fn default_mark(&self) -> String {
        match (&self.local_address, self.targets.first()) {
            (Some(address), _) => address.to_string(),
            (None, Some(target)) => target.to_string(),
            (None, None) => self.protocol.to_string(),
        }
    }

    /// Whether listeners of the two ports conflict.
    fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (self.protocol, other.protocol);
        let have_common_protocol =
            (one.has_tcp() && two.has_tcp()) || (one.has_udp() && two.has_udp());
        let addresses = self
            .local_address
            .as_ref()
            .zip(other.local_address.as_ref());
        have_common_protocol && addresses.is_some_and(|(one, two)| one.overlaps(two))
    }
}

/// Returns the ports that are used.
pub(super) fn enabled(ports: &[PortConfig]) -> impl Iterator<Item = &PortConfig> {
    ports.iter().filter(|port| port.enabled)
}

/// Checks the ports of a server or client, and completes their marks.
pub(super) fn check_ports(ports: &mut [PortConfig], mode: Mode, checks: &mut RoleChecks<'_>) {
    let path = FieldPath::root("ports");
    if ports.is_empty() {
        checks.missing(&path);
    } else if enabled(ports).next().is_none() {
        let remedy = "remove `enabled` from one of them";
        checks.invalid(&path, InvalidValue::new("are all disabled", remedy));
    }
    for (index, port) in ports.iter_mut().enumerate() {
        port.check(&path.index(index), mode, checks);
    }
    for (index, port) in ports.iter().enumerate().filter(|(_, port)| port.enabled) {
        compare(
            port,
            ports.get(..index).unwrap_or_default(),
            mode,
            &path.index(index),
            checks,
        );
    }
}

/// Compares a port with the earlier ones that are used.
fn compare(
    port: &PortConfig,
    earlier: &[PortConfig],
    mode: Mode,
    path: &FieldPath,
    checks: &mut RoleChecks<'_>,
) {
    let find = |is_same: &dyn Fn(&PortConfig) -> bool| enabled(earlier).find(|port| is_same(port));
    if let Some(other) = find(&|other| other.port_key == port.port_key) {
        let other = other.mark.clone();
        checks.problem(&path.field("port_key"), Fault::DuplicateKey { other });
    }
    if mode == Mode::Client
        && let Some(address) = &port.local_address
        && let Some(other) = find(&|other| other.overlaps(port))
    {
        let fault = Fault::DuplicateAddress {
            found: address.to_string(),
            mark: port.mark.clone(),
            other: other.mark.clone(),
        };
        checks.problem(&path.field("local_address"), fault);
    }
    if find(&|other| other.mark == port.mark).is_some() {
        let message = format!(
            "(\"{}\") is also the mark of another port: logs cannot distinguish them",
            port.mark
        );
        checks.warn(path.field("mark"), message);
    }
}
