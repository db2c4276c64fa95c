//! The configuration of a master.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    HostPort, ProxyProtocol, RetentionConfig, Secret, StoreAddress,
    bounded::{CountIn, DurationIn, SizeIn},
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
    one_or_more::OneOrMore,
    path::{FilePath, FolderPath},
    values::{TrustedNetwork, UpgradePath, WebServerAddress, is_default, visitor_expects},
    word::{self, Word},
};
use crate::{
    net::congestion_control::CongestionControl, policy::Admission, text::without_password,
};
use report_proto::constants::CHANNEL_LIMIT;

/// The keep-alive interval. The protocol's LINK_TIMEOUT (PROTOCOL 12) must exceed two intervals.
pub(super) type Heartbeat = DurationIn<1_000, 20_000, 20_000>;

/// A number of peers, channels or connections.
pub(super) type PeerCount<const DEFAULT: u32> = CountIn<1_000_000, DEFAULT>;

/// A limit of queued data, with a default in MiB. The minimum is the limit of one channel.
pub(super) type MemoryLimit<const DEFAULT: u64> =
    SizeIn<{ CHANNEL_LIMIT as u64 }, { 1 << 40 }, DEFAULT>;

/// The configuration of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MasterConfig {
    /// Where the master listens. With port 0 the system chooses the port.
    pub listen_at: OneOrMore<HostPort>,
    /// The key that admits servers. With `store` it may be absent: then every server needs a
    /// credential.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "required without `store`"))]
    pub master_key: Option<Secret>,
    /// The database of accounts, keys and limits: `"sqlite:FILE"`,
    /// `"postgres://USER:PASSWORD@HOST/DATABASE"` or `"mysql://USER:PASSWORD@HOST/DATABASE"`. The
    /// master creates the tables. Masters may share a database.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "no database", "x-type" = "address, or its source"))]
    pub store: Option<StoreAddress>,
    /// Which services servers may register: `"open"` all, `"known"` those whose key id is in the
    /// `store`, `"owned"` those whose key id belongs to the account of the server. With `"open"`, the
    /// `store` still applies to the key ids that it contains, and an account cannot register what a
    /// server of another account offers at present.
    #[serde(
        default = "word::default",
        with = "word",
        skip_serializing_if = "word::is_default"
    )]
    #[schemars(schema_with = "word::schema::<Admission>")]
    pub admission: Admission,
    /// Whether servers may register key ids that the master does not know while the database does not
    /// answer. The known ones stay in force in any case.
    #[serde(
        default = "word::default",
        with = "word",
        skip_serializing_if = "word::is_default"
    )]
    #[schemars(schema_with = "word::schema::<UnknownKeys>")]
    pub unknown_while_away: UnknownKeys,
    /// How many days the `store` keeps usage and the audit log.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "see [below](#retention)"))]
    pub retention: RetentionConfig,
    /// The path of the WebSockets: visible ASCII, starts with `/`, without `?` and `#`. `fallback`
    /// answers all other requests, as if this path did not exist.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "/"))]
    pub path: UpgradePath,
    /// [Certificate files](#tls-of-a-master), for a master that terminates TLS.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "no TLS"))]
    pub tls: Option<TlsFilesConfig>,
    /// Answers `GET /healthz` with 200. `path` must then be different.
    #[serde(default, skip_serializing_if = "is_default")]
    pub healthz: bool,
    /// [What visitors see](#fallback) that are not roles.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fallback: FallbackConfig,
    /// The proxies whose [visitor addresses](deployment.md#visitor-addresses) the master trusts.
    /// `[]` trusts no proxy.
    #[serde(default = "local_proxies", skip_serializing_if = "are_local_proxies")]
    #[schemars(extend(
        "x-type" = "list of networks or addresses",
        "default" = ["127.0.0.0/8", "::1/128"],
    ))]
    pub trusted_proxies: Vec<TrustedNetwork>,
    /// Each connection from `trusted_proxies` starts with a PROXY protocol header, version 1 or 2.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proxy_protocol: bool,
    /// The limits of the master.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-default" = "see [below](#limits-of-a-master)"))]
    pub limits: MasterLimitsConfig,
    /// The keep-alive interval of an idle link ([deployment.md](deployment.md#keep-alive)), in
    /// whole seconds. The master sends its value to all roles.
    #[serde(default, skip_serializing_if = "is_default")]
    pub heartbeat: Heartbeat,
    /// The [congestion control](deployment.md#congestion-control) of accepted TCP connections:
    /// `"auto"`, `"system"`, or a name such as `"bbr"`. `"auto"` uses BBR with other hosts where
    /// Linux permits it.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "auto"))]
    pub congestion_control: CongestionControl,
}

/// The treatment of key ids that a master does not know while its database does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownKeys {
    /// They are refused, as at other times.
    #[default]
    Refuse,
    /// They are admitted until the database answers.
    Admit,
}

impl Word for UnknownKeys {
    const ALL: &'static [Self] = &[UnknownKeys::Refuse, UnknownKeys::Admit];
    const DEFAULT: Self = UnknownKeys::Refuse;

    fn word(self) -> &'static str {
        match self {
            UnknownKeys::Refuse => "refuse",
            UnknownKeys::Admit => "admit",
        }
    }
}

/// The default of `trusted_proxies`: proxies on the same machine.
fn local_proxies() -> Vec<TrustedNetwork> {
    let networks = ["127.0.0.0/8", "::1/128"].into_iter();
    networks
        .filter_map(|network| network.parse().ok())
        .map(TrustedNetwork)
        .collect()
}

fn are_local_proxies(networks: &Vec<TrustedNetwork>) -> bool {
    *networks == local_proxies()
}

/// The certificate files of a master. Omit `tls` behind a proxy or CDN that terminates TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, {\"cert\": \"PATH\", \"key\": \"PATH\"}"
)]
pub struct TlsFilesConfig {
    /// The certificate chain (PEM), the master's certificate first.
    pub cert: FilePath,
    /// Its private key (PEM).
    pub key: FilePath,
    /// Authorities (PEM). Every peer must show a certificate that one of them signed, before it can
    /// send a request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_ca: Option<FilePath>,
}

/// The response to HTTP visitors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FallbackConfig {
    /// A 404 page.
    #[default]
    NotFound,
    /// The files of a folder.
    Files(FolderPath),
    /// Another web server.
    Server {
        /// The address for plain HTTP.
        address: HostPort,
        /// Whether the master sends the visitor's address in a PROXY protocol header.
        proxy_protocol: bool,
    },
}

/// A fallback other than the 404 page. An object has either `files`, or `server` with an optional
/// `proxy_protocol`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FallbackTarget {
    /// A folder whose files visitors see, with `index.html` for each folder. The master hides names
    /// that start with a dot, except `.well-known`, and symbolic links that leave the folder.
    #[serde(skip_serializing_if = "is_default")]
    files: Option<FolderPath>,
    /// `"http://HOST:PORT"` (port 80 by default), another web server. The master relays its
    /// connections byte for byte, including WebSockets and malformed requests, so visitors cannot
    /// distinguish the two.
    #[serde(skip_serializing_if = "is_default")]
    server: Option<WebServerAddress>,
    /// Sends the visitor's address to that server in a PROXY protocol header, over a separate
    /// connection for each visitor. The server must expect it (nginx: `listen … proxy_protocol`).
    #[serde(skip_serializing_if = "is_default")]
    proxy_protocol: Option<ProxyProtocol>,
}

/// The syntax of `fallback`.
const FALLBACK_FORMS: &str =
    "\"404\", {\"files\": \"FOLDER\"} or {\"server\": \"http://HOST:PORT\"}";

impl FallbackTarget {
    fn into_config<E: de::Error>(self) -> Result<FallbackConfig, E> {
        match (self.files, self.server, self.proxy_protocol) {
            (Some(folder), None, None) => Ok(FallbackConfig::Files(folder)),
            (None, Some(server), protocol) => Ok(FallbackConfig::Server {
                address: server.0,
                proxy_protocol: protocol.is_some(),
            }),
            (Some(_), None, Some(_)) => Err(E::custom(InvalidValue::new(
                "has `proxy_protocol`, which has no effect beside `files`",
                "remove it",
            ))),
            _ => Err(E::custom(InvalidValue::new(
                "needs exactly one target",
                format!("write {FALLBACK_FORMS}"),
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for FallbackConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FallbackVisitor;
        impl<'de> Visitor<'de> for FallbackVisitor {
            type Value = FallbackConfig;

            visitor_expects!(FALLBACK_FORMS);

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FallbackConfig, E> {
                match text {
                    "404" => Ok(FallbackConfig::NotFound),
                    other => Err(E::custom(InvalidValue::new(
                        format!("is \"{}\"", without_password(other)),
                        format!("write {FALLBACK_FORMS}"),
                    ))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FallbackConfig, A::Error> {
                FallbackTarget::deserialize(MapAccessDeserializer::new(map))?.into_config()
            }
        }
        deserializer.deserialize_any(FallbackVisitor)
    }
}

impl Serialize for FallbackConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let target = match self.clone() {
            FallbackConfig::NotFound => return serializer.serialize_str("404"),
            FallbackConfig::Files(folder) => FallbackTarget {
                files: Some(folder),
                ..FallbackTarget::default()
            },
            FallbackConfig::Server {
                address,
                proxy_protocol,
            } => FallbackTarget {
                server: Some(WebServerAddress(address)),
                proxy_protocol: proxy_protocol.then_some(ProxyProtocol::V2),
                ..FallbackTarget::default()
            },
        };
        target.serialize(serializer)
    }
}

impl JsonSchema for FallbackConfig {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "fallback".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let target = generator.subschema_for::<FallbackTarget>();
        json_schema!({
            "anyOf": [{"const": "404"}, target],
            "default": "404",
            "x-type": "`\"404\"` or object",
        })
    }
}

/// The limits of a master. The defaults fit a small public machine: all links at rest take about
/// 256 MiB, and the queues the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"links\": NUMBER, …}"
)]
pub struct MasterLimitsConfig {
    /// Concurrent links. A role may have [several](#links). A role that moves to a new link has two
    /// in its place for up to 30 s. The process's limit of open files also applies. Connections
    /// without a finished handshake get a quarter, and an eighth is reserved for servers. A full
    /// master evicts silent connections and clients without a tunnel.
    pub links: PeerCount<16_384>,
    /// Concurrent links from one address. Behind a trusted proxy, from one visitor.
    // Behind a proxy that is not trusted, all links have the same address.
    pub links_per_address: PeerCount<4_096>,
    /// Services that one server may register.
    // The maximum is the capacity of one REGISTER (MAX_CONTROL, PROTOCOL 12).
    pub ports_per_link: CountIn<1_800, 1_024>,
    /// Tunnels on one link.
    pub channels_per_link: PeerCount<4_096>,
    /// The header of one request. A request may have up to 128 header fields in any case.
    pub header_bytes: SizeIn<{ 1 << 10 }, { 1 << 20 }, { 16 << 10 }>,
    /// All data queued in the master. Clients without a tunnel together get an eighth of it at
    /// most.
    pub memory: MemoryLimit<{ 256 << 20 }>,
}

impl MasterConfig {
    /// Creates a configuration with a master key and defaults.
    #[must_use]
    pub fn new(listen_at: HostPort, master_key: Secret) -> Self {
        Self {
            listen_at: listen_at.into(),
            master_key: Some(master_key),
            store: None,
            admission: word::default(),
            unknown_while_away: word::default(),
            retention: RetentionConfig::default(),
            path: UpgradePath::default(),
            tls: None,
            healthz: false,
            fallback: FallbackConfig::default(),
            trusted_proxies: local_proxies(),
            proxy_protocol: false,
            limits: MasterLimitsConfig::default(),
            heartbeat: Heartbeat::default(),
            congestion_control: CongestionControl::default(),
        }
    }

    /// Checks the rules between fields.
    pub(super) fn check(&mut self, checks: &mut RoleChecks<'_>) {
        self.check_listeners(checks);
        self.check_store(checks);
        if self.healthz && self.path.as_str() == "/healthz" {
            let invalid = InvalidValue::new(
                "is \"/healthz\", where the health check answers",
                "choose another, or set \"healthz\" to false",
            );
            checks.invalid(&FieldPath::root("path"), invalid);
        }
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            checks.invalid(
                &FieldPath::root("proxy_protocol"),
                "needs `trusted_proxies`: only they may send PROXY protocol headers",
            );
        }
        let networks = self.trusted_proxies.iter();
        for network in networks.filter(|network| network.0.prefix_len() == 0) {
            let message = format!(
                "contains {network}: ANY peer can then claim another address in the logs and to the throttle"
            );
            checks.warn(FieldPath::root("trusted_proxies"), message);
        }
    }

    /// Checks the fields that need a database, and completes the path of its file.
    fn check_store(&mut self, checks: &mut RoleChecks<'_>) {
        if let Some(store) = &mut self.store {
            store.start_at(checks.folder(&FieldPath::root("store")));
        }
        // A value that cannot be read is a problem already.
        let has_store = self.store.is_some() || checks.has_problem(&FieldPath::root("store"));
        self.retention.check(has_store, checks);
        if has_store {
            let is_open = self.admission == Admission::Open;
            if is_open && self.unknown_while_away == UnknownKeys::Admit {
                let message = "has no effect, because `admission` is \"open\": remove it";
                checks.warn(FieldPath::root("unknown_while_away"), message);
            }
            return;
        }
        let master_key = FieldPath::root("master_key");
        if self.master_key.is_none() && !checks.has_problem(&master_key) {
            checks.missing(&master_key);
        }
        let needs_store = [
            (
                "admission",
                self.admission.word(),
                word::is_default(&self.admission),
            ),
            (
                "unknown_while_away",
                self.unknown_while_away.word(),
                word::is_default(&self.unknown_while_away),
            ),
        ];
        for (field, found, is_default) in needs_store {
            if !is_default {
                let invalid = InvalidValue::new(
                    format!("is \"{found}\", which needs `store`"),
                    "add the address of a database as `store`, or remove it",
                );
                checks.invalid(&FieldPath::root(field), invalid);
            }
        }
    }

    fn check_listeners(&self, checks: &mut RoleChecks<'_>) {
        let path = FieldPath::root("listen_at");
        if self.listen_at.is_empty() {
            checks.missing(&path);
        }
        for (index, address) in self.listen_at.iter().enumerate() {
            let mut earlier = self.listen_at.iter().take(index);
            if let Some(other) = earlier.find(|other| other.overlaps(address)) {
                let problem = format!("({address}) conflicts with {other}");
                let invalid = InvalidValue::new(problem, "remove one of them");
                checks.invalid(&path.index(index), invalid);
                return;
            }
        }
    }
}
