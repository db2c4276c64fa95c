//! The file as written: every field optional and unparsed, so that all that is wrong can be said at once. Also what writes a file.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::{quantity::Quantity, secret::RawSecret};

/// A master's file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawMaster {
    /// `"master"`.
    pub mode: Option<String>,
    /// A level of [`super::LOG_LEVELS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// `host:port`, or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_at: Option<OneOrMore>,
    /// What admits servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key: Option<RawSecret>,
    /// The path of the upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// TLS at the master itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawMasterTls>,
    /// Whether `/healthz` answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthz: Option<bool>,
    /// What everybody sees who is not a role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<RawFallback>,
    /// Networks of proxies that are believed about a visitor's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<Vec<String>>,
    /// Whether they speak the PROXY protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<bool>,
    /// What it takes at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RawLimits>,
    /// How often an idle link is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Quantity>,
    /// How long a drain may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<Quantity>,
}

/// A server's file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawServer {
    /// `"server"`.
    pub mode: Option<String>,
    /// A level of [`super::LOG_LEVELS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// `host:port` or a URL, or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<OneOrMore>,
    /// What the master admits it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key: Option<RawSecret>,
    /// A proxy's URL, or `"none"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<RawSecret>,
    /// `host:port` to connect to in place of the master's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<String>,
    /// An address or an interface to dial from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
    /// What the request says in `Host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What it says in `User-Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// More of its headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// A file with more of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// How the master's certificate is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawRoleTls>,
    /// How long a dial may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Quantity>,
    /// How often an idle link is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Quantity>,
    /// How long a tunnel waits for its next link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_timeout: Option<Quantity>,
    /// How old a link may become.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate_after: Option<Quantity>,
    /// After how long at rest local connections are probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<Quantity>,
    /// What each port's windows may grow to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<RawWindows>,
    /// How long a drain may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<Quantity>,
    /// What clients may have at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RawServerLimits>,
    /// Whether clients may measure the way here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench: Option<bool>,
    /// The services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<RawPort>>,
}

/// A client's file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawClient {
    /// `"client"`.
    pub mode: Option<String>,
    /// A level of [`super::LOG_LEVELS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// `host:port` or a URL, or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<OneOrMore>,
    /// `"ordered"` or `"raced"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_choice: Option<String>,
    /// A proxy's URL, or `"none"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<RawSecret>,
    /// `host:port` to connect to in place of the master's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<String>,
    /// An address or an interface to dial from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<String>,
    /// What the request says in `Host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What it says in `User-Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// More of its headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// A file with more of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// How the master's certificate is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawRoleTls>,
    /// How long a dial may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Quantity>,
    /// How long a connection waits for a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_timeout: Option<Quantity>,
    /// How often an idle link is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Quantity>,
    /// How long a tunnel waits for its next link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_timeout: Option<Quantity>,
    /// How old a link may become.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate_after: Option<Quantity>,
    /// After how long at rest local connections are probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<Quantity>,
    /// What it may hold at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RawClientLimits>,
    /// What each port's windows may grow to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<RawWindows>,
    /// How long a drain may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<Quantity>,
    /// The services.
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
    /// What it is called in logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Server: the service. Client: where to listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<String>,
    /// The secret that client and server share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_key: Option<RawSecret>,
    /// How it is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt_method: Option<String>,
    /// How it is compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress_method: Option<String>,
    /// Server: which version of the PROXY protocol the service hears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
    /// What a stream's window may grow to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_window: Option<Quantity>,
    /// What the tunnel's window may grow to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_window: Option<Quantity>,
}

/// A master's `tls`.
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
    /// The authorities of the certificates that peers must show, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// A server's or client's `tls`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"ca\": \"PATH\"}")]
pub struct RawRoleTls {
    /// Authorities to trust, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether the system's are trusted beside them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_ca: Option<bool>,
    /// SHA-256 of certificates, one or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_sha256: Option<OneOrMore>,
    /// Our own certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// The name to ask for, and to be shown a certificate of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Whether any certificate will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
}

/// A master's `fallback`.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum RawFallback {
    /// `"404"`.
    Text(String),
    /// Where there is more.
    Place(RawPlace),
}

/// A master's `fallback` that is more than a page.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawPlace {
    /// A folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<PathBuf>,
    /// A web server's URL.
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
                .map(Self::Place)
                .map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// `windows`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"stream\": SIZE, \"tunnel\": SIZE}")]
pub struct RawWindows {
    /// Of one stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<Quantity>,
    /// Of all streams of a tunnel together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Quantity>,
}

/// A server's `limits`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"streams\": NUMBER, …}")]
pub struct RawServerLimits {
    /// Connections to services in all.
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
    /// All that waits for slow services and clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// A client's `limits`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"memory\": SIZE}")]
pub struct RawClientLimits {
    /// All that waits for slow applications and servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// A master's `limits`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, expecting = "an object, {\"links\": NUMBER, …}")]
pub struct RawLimits {
    /// Links in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<Quantity>,
    /// Links from one address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links_per_address: Option<Quantity>,
    /// Key ids that a server may register.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports_per_link: Option<Quantity>,
    /// Channels on a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels_per_link: Option<Quantity>,
    /// A request's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<Quantity>,
    /// All queues together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// How a `fallback` is written.
pub(super) const FALLBACK_FORMS: &str =
    "\"404\", {\"files\": \"FOLDER\"} or {\"server\": \"http://HOST:PORT\"}";

/// A text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// Without brackets.
    One(String),
    /// In brackets.
    More(Vec<String>),
}

impl OneOrMore {
    /// Whether it was written as a list, so that its elements have an index.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self, Self::More(_))
    }

    /// The texts.
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
