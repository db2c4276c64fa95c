//! The services of a server or client, and their windows.

use std::{borrow::Cow, fmt};

use report_proto::{compress::CompressMethod, crypto::EncryptMethod};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    ByteSize, HostPort, Secret,
    bounded::SizeIn,
    document::RoleChecks,
    error::{Fault, FieldPath, InvalidValue},
    mode::Mode,
    values::{address_fault, is_default},
    word::{self, Word},
};

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
    /// Server: the service to dial. Client: the address to listen at. With port 0 the system
    /// chooses the port.
    pub local_address: HostPort,
    /// The shared secret of server and client, different for each port.
    pub port_key: Secret,
    /// The [encryption method](#encryption-and-compression). Must be the same at both ends.
    #[serde(default = "word::default", with = "word")]
    #[schemars(schema_with = "word::schema::<EncryptMethod>")]
    pub encrypt_method: EncryptMethod,
    /// The [compression method](#encryption-and-compression). Must be the same at both ends.
    #[serde(default = "word::default", with = "word")]
    #[schemars(schema_with = "word::schema::<CompressMethod>")]
    pub compress_method: CompressMethod,
    /// Server only: sends the [source of each connection](#source-addresses) to the service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The window of one connection of this port.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "`windows.stream`"))]
    pub stream_window: Option<WindowLimit>,
    /// The window of one tunnel of this port.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "`windows.tunnel`"))]
    pub tunnel_window: Option<WindowLimit>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Version 2, the binary one.
    V2,
}

impl Word for ProxyProtocol {
    const ALL: &'static [Self] = &[ProxyProtocol::V2];
    const DEFAULT: Self = ProxyProtocol::V2;

    fn word(self) -> &'static str {
        match self {
            ProxyProtocol::V2 => "v2",
        }
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl<'de> Deserialize<'de> for ProxyProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word::deserialize(deserializer)
    }
}

impl Serialize for ProxyProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        word::serialize(self, serializer)
    }
}

impl JsonSchema for ProxyProtocol {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "proxy_protocol".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = word::schema::<Self>(generator);
        schema.remove("default");
        schema
    }
}

/// A maximum receive window. The minimum is one whole message. A tunnel's maximum must fit into the
/// `CHANNEL_LIMIT` of a master (PROTOCOL 12).
pub(super) type WindowLimit = SizeIn<{ 64 << 10 }, { 32 << 20 }, 0>;

/// The largest receive windows. A window bounds the data on the way to this end, and so the memory.
/// Windows start small and grow only when the path needs it. If only one of them is set, the
/// default of the other adapts to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"stream\": SIZE, \"tunnel\": SIZE}"
)]
pub struct WindowsConfig {
    /// The window of one connection, at most `tunnel`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "16 MiB"))]
    pub stream: Option<WindowLimit>,
    /// The window of all connections of one tunnel together.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "32 MiB"))]
    pub tunnel: Option<WindowLimit>,
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

impl Windows {
    /// Overrides these windows. If only one is set, the other adapts to it.
    fn with(self, stream: Option<WindowLimit>, tunnel: Option<WindowLimit>) -> Self {
        let stream_size = stream.map_or(self.stream, |size| *size);
        let tunnel_size = tunnel.map_or(self.tunnel, |size| *size);
        match (stream, tunnel) {
            (Some(_), None) => Self {
                stream: stream_size,
                tunnel: tunnel_size.max(stream_size),
            },
            _ => Self {
                stream: stream_size.min(tunnel_size),
                tunnel: tunnel_size,
            },
        }
    }
}

/// Checks that the window of a stream does not exceed that of its tunnel.
fn check_windows(
    (stream_path, stream): (&FieldPath, Option<WindowLimit>),
    (tunnel_path, tunnel): (&FieldPath, Option<WindowLimit>),
    checks: &mut RoleChecks<'_>,
) {
    if let Some((stream, tunnel)) = stream.zip(tunnel)
        && stream > tunnel
    {
        let problem =
            format!("is {stream}, more than the {tunnel} of the whole tunnel ({tunnel_path})");
        checks.invalid(stream_path, InvalidValue::new(problem, "lower it"));
    }
}

impl WindowsConfig {
    fn windows(&self) -> Windows {
        Windows::default().with(self.stream, self.tunnel)
    }

    pub(super) fn check(&self, path: &FieldPath, checks: &mut RoleChecks<'_>) {
        check_windows(
            (&path.field("stream"), self.stream),
            (&path.field("tunnel"), self.tunnel),
            checks,
        );
    }
}

impl PortConfig {
    /// Creates a configuration with defaults.
    #[must_use]
    pub fn new(mark: String, local_address: HostPort, port_key: Secret) -> Self {
        Self {
            mark,
            local_address,
            port_key,
            encrypt_method: word::default(),
            compress_method: word::default(),
            proxy_protocol: None,
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

    fn check(&mut self, path: &FieldPath, mode: Mode, checks: &mut RoleChecks<'_>) {
        if mode == Mode::Server
            && let Err(reason) = self.local_address.clone().dialable()
        {
            let invalid = address_fault(&self.local_address.to_string(), &reason);
            checks.invalid(&path.field("local_address"), invalid);
        }
        if mode == Mode::Client && self.proxy_protocol.is_some() {
            let invalid = InvalidValue::new(
                "is not for a client, because the server's port requests the source addresses",
                "remove it here, and set it at the server",
            );
            checks.invalid(&path.field("proxy_protocol"), invalid);
        }
        check_windows(
            (&path.field("stream_window"), self.stream_window),
            (&path.field("tunnel_window"), self.tunnel_window),
            checks,
        );
        if self.mark.is_empty() {
            self.mark = self.local_address.to_string();
        }
    }
}

/// Checks the ports of a server or client, and completes their marks.
pub(super) fn check_ports(ports: &mut [PortConfig], mode: Mode, checks: &mut RoleChecks<'_>) {
    let path = FieldPath::root("ports");
    if ports.is_empty() {
        checks.missing(&path);
    }
    for (index, port) in ports.iter_mut().enumerate() {
        port.check(&path.index(index), mode, checks);
    }
    for (index, port) in ports.iter().enumerate() {
        compare(
            port,
            ports.get(..index).unwrap_or_default(),
            mode,
            &path.index(index),
            checks,
        );
    }
}

/// Compares a port with the earlier ones.
fn compare(
    port: &PortConfig,
    earlier: &[PortConfig],
    mode: Mode,
    path: &FieldPath,
    checks: &mut RoleChecks<'_>,
) {
    let find = |is_same: &dyn Fn(&PortConfig) -> bool| earlier.iter().find(|port| is_same(port));
    if let Some(other) = find(&|other| other.port_key == port.port_key) {
        let other = other.mark.clone();
        checks.problem(&path.field("port_key"), Fault::DuplicateKey { other });
    }
    if mode == Mode::Client
        && let Some(other) = find(&|other| other.local_address.overlaps(&port.local_address))
    {
        let fault = Fault::DuplicateAddress {
            found: port.local_address.to_string(),
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
