//! The raw structs of a file. All fields are optional and unparsed, so that validation can report
//! all problems at once. `report quickstart` writes its files from the same structs.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::{quantity::Quantity, secret::RawSecret};

/// The file of a master.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawMaster {
    /// `"master"`.
    pub mode: Option<String>,
    /// One of [`super::LOG_LEVELS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// `host:port`, or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_at: Option<OneOrMore>,
    /// The key that authenticates servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key: Option<RawSecret>,
    /// The path of the WebSocket upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The TLS files, if TLS ends at the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawMasterTls>,
    /// Whether `/healthz` answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthz: Option<bool>,
    /// The response to HTTP visitors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<RawFallback>,
    /// The networks of proxies whose statements about a peer's address are trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<Vec<String>>,
    /// Whether these proxies send PROXY protocol headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<bool>,
    /// The limits of the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RawLimits>,
    /// The keep-alive interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Quantity>,
    /// How long a drain may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<Quantity>,
}

/// The file of a server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawServer {
    /// `"server"`.
    pub mode: Option<String>,
    /// One of [`super::LOG_LEVELS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// `host:port` or a URL, or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<OneOrMore>,
    /// The key that authenticates the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key: Option<RawSecret>,
    /// The URL of a proxy, or `"none"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<RawSecret>,
    /// `host:port` to connect to instead of the master's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<String>,
    /// The local address or interface to dial from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
    /// The `Host` header of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The `User-Agent` header of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Additional headers of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// A file with additional headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// How the server verifies the master's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawRoleTls>,
    /// The time limit of a dial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Quantity>,
    /// The keep-alive interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Quantity>,
    /// How long a tunnel waits for its next link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_timeout: Option<Quantity>,
    /// The age at which a link is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate_after: Option<Quantity>,
    /// The idle time before TCP keep-alive probes on local connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<Quantity>,
    /// The maximum windows of each port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<RawWindows>,
    /// How long a drain may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<Quantity>,
    /// The limits for clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RawServerLimits>,
    /// Whether clients may measure the path to this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench: Option<bool>,
    /// The services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<RawPort>>,
}

/// The file of a client.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawClient {
    /// `"client"`.
    pub mode: Option<String>,
    /// One of [`super::LOG_LEVELS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// `host:port` or a URL, or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<OneOrMore>,
    /// `"ordered"` or `"raced"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_choice: Option<String>,
    /// The URL of a proxy, or `"none"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<RawSecret>,
    /// `host:port` to connect to instead of the master's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<String>,
    /// The local address or interface to dial from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
    /// The `Host` header of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The `User-Agent` header of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Additional headers of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// A file with additional headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// How the client verifies the master's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawRoleTls>,
    /// The time limit of a dial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Quantity>,
    /// How long a new connection waits for a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_timeout: Option<Quantity>,
    /// The keep-alive interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Quantity>,
    /// How long a tunnel waits for its next link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_timeout: Option<Quantity>,
    /// The age at which a link is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate_after: Option<Quantity>,
    /// The idle time before TCP keep-alive probes on local connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<Quantity>,
    /// The limits of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RawClientLimits>,
    /// The maximum windows of each port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<RawWindows>,
    /// How long a drain may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<Quantity>,
    /// The ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<RawPort>>,
}

/// One element of `ports`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(
    default,
    expecting = "an object, {\"mark\": …, \"local_address\": …, \"port_key\": …}"
)]
pub struct RawPort {
    /// The name of the service in logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Server: the service. Client: the listen address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<String>,
    /// The shared secret of client and server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_key: Option<RawSecret>,
    /// The encryption method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt_method: Option<String>,
    /// The compression method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress_method: Option<String>,
    /// Server: the version of the PROXY protocol header for the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
    /// The maximum window of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_window: Option<Quantity>,
    /// The maximum window of the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_window: Option<Quantity>,
}

/// The `tls` of a master.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(
    default,
    expecting = "an object, {\"cert\": \"PATH\", \"key\": \"PATH\"}"
)]
pub struct RawMasterTls {
    /// The certificate chain, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The authorities that must have signed the certificates of all peers, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// The `tls` of a server or client.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"ca\": \"PATH\"}")]
pub struct RawRoleTls {
    /// The trusted authorities, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether the system's authorities are trusted as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_ca: Option<bool>,
    /// The SHA-256 of certificates, one or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_sha256: Option<OneOrMore>,
    /// The role's own certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// The server name to request and verify.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Whether to accept any certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
}

/// The `fallback` of a master.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum RawFallback {
    /// `"404"`.
    Text(String),
    /// A folder or a web server.
    Target(RawFallbackTarget),
}

/// A `fallback` other than the 404 page.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawFallbackTarget {
    /// A folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<PathBuf>,
    /// The URL of a web server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// `"v2"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
}

impl<'de> Deserialize<'de> for RawFallback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom(format_args!("expected {FALLBACK_FORMS}"));
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            place @ Value::Object(_) => serde_json::from_value(place)
                .map(Self::Target)
                .map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// The `windows` of a server or client.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"stream\": SIZE, \"tunnel\": SIZE}")]
pub struct RawWindows {
    /// The maximum of one stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<Quantity>,
    /// The maximum of all streams of a tunnel together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Quantity>,
}

/// The `limits` of a server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"streams\": NUMBER, …}")]
pub struct RawServerLimits {
    /// Connections to all services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<Quantity>,
    /// Connections to one service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams_per_port: Option<Quantity>,
    /// Connections of one client to one service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams_per_tunnel: Option<Quantity>,
    /// Clients of one service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnels_per_port: Option<Quantity>,
    /// The size of all data queued for slow services and clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// The `limits` of a client.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"memory\": SIZE}")]
pub struct RawClientLimits {
    /// The size of all data queued for slow applications and servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// The `limits` of a master.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"links\": NUMBER, …}")]
pub struct RawLimits {
    /// All links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<Quantity>,
    /// Links from one address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links_per_address: Option<Quantity>,
    /// Key ids that a server may register.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports_per_link: Option<Quantity>,
    /// Channels of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels_per_link: Option<Quantity>,
    /// The size of a request header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<Quantity>,
    /// The size of all queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// The syntax of `fallback`.
pub(super) const FALLBACK_FORMS: &str =
    "\"404\", {\"files\": \"FOLDER\"} or {\"server\": \"http://HOST:PORT\"}";

/// A text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// A text without brackets.
    One(String),
    /// A list in brackets.
    More(Vec<String>),
}

impl OneOrMore {
    /// Whether the value is a list, so that its elements have an index.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self, Self::More(_))
    }

    /// Returns the texts.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

impl From<String> for OneOrMore {
    fn from(text: String) -> Self {
        Self::One(text)
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom("expected an address in quotes, or a list of them");
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::One(text)),
            Value::Array(list) => {
                let texts = list
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong));
                texts.collect::<Result<_, _>>().map(Self::More)
            }
            _ => Err(wrong()),
        }
    }
}
