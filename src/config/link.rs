//! How a server or client connects to its masters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bounded::{CountIn, DurationIn, DurationOrOff},
    dial_values::{Headers, ProxySetting},
    document::RoleChecks,
    error::{Fault, FieldPath},
    master::Heartbeat,
    one_or_more::OneOrMore,
    path::FilePath,
    port::WindowsConfig,
    values::{CertificatePin, DialableAddress, HeaderText, HostName, is_default},
};
use crate::net::{
    congestion_control::CongestionControl,
    dial::{Bind, DialParameters, MasterAddress, ProxyChoice, RequestParameters, TlsParameters},
};
use report_proto::{constants::RESUME_TIMEOUT, frame::MAX_SLOTS};

/// The time limit of a dial.
pub type ConnectTimeout = DurationIn<100, 300_000, 10_000>;

/// How long a tunnel waits for its next link. The default is that of the protocol.
pub type ResumeTimeout = DurationIn<0, { 24 * 3_600_000 }, { RESUME_TIMEOUT.as_millis() as u64 }>;

/// The age at which a link is replaced. The minimum is the time that a handover takes.
pub(super) type RotationAge = DurationIn<1_000, { 7 * 24 * 3_600_000 }, 0>;

/// The maximum number of links to one master.
type LinkMax = CountIn<{ MAX_SLOTS as u32 }, 8>;

/// The minimum number of links to one master.
type LinkMin = CountIn<{ MAX_SLOTS as u32 }, 1>;

/// The idle time before TCP keep-alive probes. The default is below the idle timeouts of firewalls
/// and NATs, most of which are minutes. Linux accepts at most 32767 s.
pub(super) type TcpKeepAlive = DurationOrOff<1_000, { 9 * 3_600_000 }, 60_000>;

/// How a server or client connects to its masters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// `"HOST:PORT"` (short for `ws://HOST:PORT/`), `"ws://HOST/PATH"` (port 80) or
    /// `"wss://HOST/PATH"` (port 443). With a list, a server links to all masters and a client to
    /// one at a time. A failed dial moves on to the next.
    #[serde(rename = "master")]
    #[schemars(extend("x-type" = "text or list"))]
    pub masters: OneOrMore<MasterAddress>,
    /// The [proxy](#proxies) to dial through. `"none"` disables the environment's proxy.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the environment's"))]
    pub proxy: Option<ProxySetting>,
    /// The address to connect to, such as a fixed address of a CDN. TLS and the request still name
    /// the master.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the master's"))]
    pub connect_to: Option<DialableAddress>,
    /// The local IP address without a port, or on Linux the interface, to dial from. `report check`
    /// warns if it does not exist.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the system's choice", "x-type" = "text"))]
    pub bind_address: Option<Bind>,
    /// The `Host` header of the request.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the master's"))]
    pub host: Option<HostName>,
    /// The `User-Agent` header of the request.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "rePort's"))]
    pub user_agent: Option<HeaderText>,
    /// Additional headers, as `{"Name": "value"}`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "none"))]
    pub headers: Headers,
    /// A file with additional headers, one `Name: value` per line. The role reads it again at each
    /// dial.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers_file: Option<FilePath>,
    /// [How the role verifies the master](#tls-of-a-server-or-client) of a `wss://` address.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the system's authorities"))]
    pub tls: LinkTlsConfig,
    /// The time limit for reaching a master, from name resolution to handshake. At a server also
    /// for reaching a service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect_timeout: ConnectTimeout,
    /// The keep-alive interval of an idle link ([deployment.md](deployment.md#keep-alive)).
    #[serde(default, skip_serializing_if = "is_default")]
    pub heartbeat: Heartbeat,
    /// The [congestion control](deployment.md#congestion-control) of the links' TCP connections:
    /// `"auto"`, `"system"`, or a name such as `"bbr"`. `"auto"` uses BBR with other hosts where
    /// Linux permits it.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "auto"))]
    pub congestion_control: CongestionControl,
    /// How long [connections wait](resumption.md#limits) without a link before they are reset. The
    /// shorter value of both ends decides.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resume_timeout: ResumeTimeout,
    /// The age at which a role [replaces a link](deployment.md#link-lifetimes-and-reloads) without
    /// a pause.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "never"))]
    pub rotate_after: Option<RotationAge>,
    /// How many links the role keeps to a master.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "see [below](#links)"))]
    pub links: LinksConfig,
    /// The idle time before TCP probes the connections to applications and services. Set it below
    /// the idle timeout of a firewall on that path. On Linux it is also the time after which rePort
    /// checks a peer for which data waits. 0 disables both.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp_keepalive: TcpKeepAlive,
    /// The largest receive windows.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "see [below](#windows)"))]
    pub windows: WindowsConfig,
}

/// How many links a role keeps to a master.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"max\": NUMBER}"
)]
pub struct LinksConfig {
    /// The maximum number of links to one master at a time. A server with several masters divides
    /// 16 links among them.
    pub max: LinkMax,
    /// The number of links that the role always keeps. Set it only for a path that is known to
    /// need several. At most `max`.
    pub min: LinkMin,
}

impl LinksConfig {
    /// Returns the maximum number of links to one master.
    #[must_use]
    pub fn max(&self) -> usize {
        *self.max as usize
    }

    /// Returns the number of links to one master that the role always keeps.
    #[must_use]
    pub fn min(&self) -> usize {
        *self.min as usize
    }

    /// Checks that the minimum does not exceed the maximum.
    fn check(&self, path: &FieldPath, checks: &mut RoleChecks<'_>) {
        if self.min() > self.max() {
            let message = format!(
                "is {}, more than the {} of {}: lower it, or raise the other",
                self.min,
                self.max,
                path.field("max")
            );
            checks.invalid(&path.field("min"), &message);
        }
    }
}

/// How a server or client verifies the master's certificate, and which certificate it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"ca\": \"PATH\"}"
)]
pub struct LinkTlsConfig {
    /// The trusted authorities (PEM).
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the system's authorities"))]
    pub ca: Option<FilePath>,
    /// Trusts the system's authorities in addition to `ca`. Without `ca` and `pin_sha256` the role
    /// always trusts them.
    #[serde(skip_serializing_if = "is_default")]
    pub system_ca: bool,
    /// The SHA-256 of the master's certificate, or several: 64 hexadecimal digits, with or without
    /// colons. Without `ca` and `system_ca` the role then verifies nothing else of the certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub pin_sha256: Option<OneOrMore<CertificatePin>>,
    /// A certificate (PEM) to show to a gateway or master that asks for one. Needs `client_key`.
    #[serde(skip_serializing_if = "is_default")]
    pub client_cert: Option<FilePath>,
    /// The private key (PEM) of `client_cert`.
    #[serde(skip_serializing_if = "is_default")]
    pub client_key: Option<FilePath>,
    /// The name to request and to verify in the certificate.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "the master's host"))]
    pub server_name: Option<HostName>,
    /// Accepts any certificate. Any machine on the path can then impersonate the master.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_skip_verify: bool,
}

impl LinkConfig {
    /// Creates a configuration with defaults.
    #[must_use]
    pub fn new(master: MasterAddress) -> Self {
        Self {
            masters: master.into(),
            ..Self::default()
        }
    }

    /// Returns how to dial the masters.
    #[must_use]
    pub fn dial_parameters(&self) -> DialParameters {
        let proxy = self.proxy.as_ref();
        let connect_to = self.connect_to.as_ref();
        DialParameters {
            proxy: proxy.map_or(ProxyChoice::Environment, |proxy| proxy.choice.clone()),
            connect_to: connect_to.map(|address| (address.host.clone(), address.port)),
            bind: self.bind_address.clone(),
            congestion_control: self.congestion_control,
            tls: self.tls.parameters(),
            request: RequestParameters {
                host: self.host.as_ref().map(|host| host.to_string()),
                user_agent: self.user_agent.as_deref().cloned(),
                headers: (*self.headers).clone(),
                headers_file: self.headers_file.as_deref().cloned(),
            },
            deadline: *self.connect_timeout,
            ..DialParameters::default()
        }
    }

    /// Checks the rules between fields.
    pub(super) fn check(&self, checks: &mut RoleChecks<'_>) {
        if self.masters.is_empty() {
            checks.missing(&FieldPath::root("master"));
        }
        let is_secure = self.masters.iter().any(MasterAddress::is_secure);
        let path = FieldPath::root("tls");
        self.tls.check(&path, is_secure, checks);
        self.windows.check(&FieldPath::root("windows"), checks);
        self.links.check(&FieldPath::root("links"), checks);
    }
}

impl LinkTlsConfig {
    fn parameters(&self) -> TlsParameters {
        let client = self.client_cert.as_deref().zip(self.client_key.as_deref());
        TlsParameters {
            ca: self.ca.as_deref().cloned(),
            system_ca: self.system_ca,
            pins: (self.pin_sha256.iter())
                .flat_map(|pins| pins.iter().map(|pin| pin.0))
                .collect(),
            client: client.map(|(cert, key)| (cert.clone(), key.clone())),
            server_name: self.server_name.as_ref().map(|name| name.to_string()),
            insecure_skip_verify: self.insecure_skip_verify,
        }
    }

    fn check(&self, path: &FieldPath, is_secure: bool, checks: &mut RoleChecks<'_>) {
        let written = [
            ("ca", self.ca.is_some()),
            ("client_cert", self.client_cert.is_some()),
            ("pin_sha256", self.pin_sha256.is_some()),
        ];
        let without_effect = written.into_iter().filter(|(_, is_written)| *is_written);
        for (name, _) in without_effect.filter(|_| !is_secure) {
            let message = "has no effect: no master address starts with wss://";
            checks.warn(path.field(name), message);
        }
        let missing = match (&self.client_cert, &self.client_key) {
            (Some(_), None) => Some((
                "client_key",
                "name the private key's PEM file, or remove `client_cert`",
            )),
            (None, Some(_)) => Some((
                "client_cert",
                "name the certificate's PEM file, or remove `client_key`",
            )),
            _ => None,
        };
        if let Some((name, remedy)) = missing {
            checks.problem(&path.field(name), Fault::Missing(remedy));
        }
        if self.insecure_skip_verify {
            let message = "is set: ANY machine on the path can impersonate the master; set its authority with `ca` or its certificate with `pin_sha256` instead";
            checks.warn(path.field("insecure_skip_verify"), message);
        }
    }
}
