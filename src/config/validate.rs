//! Converts the raw structs to valid ones: addresses, keys, ranges, duplicates. Every `Option` here
//! is `None` exactly when a problem was recorded. All fields are therefore read before the first
//! `?`.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path, time::Duration};

use super::{
    ByteSize, ClientConfig, ClientLimitsConfig, Config, DEFAULT_COMPRESS_METHOD,
    DEFAULT_ENCRYPT_METHOD, DialParameters, HostPort, HostPortError, LOG_LEVELS, LinkConfig,
    LoadedConfig, MasterAddress, MasterChoice, MasterConfig, MasterLimitsConfig, PortConfig,
    ProxyProtocol, RoleConfig, Secret, SecretSources, ServerConfig, ServerLimitsConfig, Warning,
    Windows,
    document::{ConfigDocument, Mode},
    error::{ConfigProblem, Fault, FieldPath},
    quantity::Quantity,
    raw::{
        OneOrMore, RawClient, RawLimits, RawMaster, RawPort, RawRoleTls, RawServer,
        RawServerLimits, RawWindows,
    },
    reader::FieldReader,
    secret::RawSecret,
};
use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

const HEARTBEAT: Duration = Duration::from_secs(20);
/// The protocol's LINK_TIMEOUT (PROTOCOL 12) must exceed two intervals.
const HEARTBEAT_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=HEARTBEAT;
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(300);
/// Covers the restart of a proxy, a router or a master.
pub(crate) const RESUME_TIMEOUT: Duration = Duration::from_secs(120);
const RESUME_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(24 * 3600);
/// The minimum is the time that a handover between two links takes.
const ROTATE_AFTER_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
/// Below the idle timeouts of firewalls and NATs, most of which are minutes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// Linux accepts at most 32767 s.
const TCP_KEEPALIVE_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(9 * 3600);
pub(crate) const HOLD_TIMEOUT: Duration = Duration::from_secs(10);
const HOLD_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Below the ten seconds after which container runtimes kill a process.
const GRACE_PERIOD: Duration = Duration::from_secs(5);
const GRACE_PERIOD_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// The minimum is one whole message. A tunnel's maximum must fit into the CHANNEL_LIMIT of a master
/// (PROTOCOL 12).
const WINDOW_RANGE: RangeInclusive<ByteSize> = ByteSize::kib(64)..=ByteSize::mib(32);
/// Enough for the headers of browsers and proxies.
const HEADER_BYTES_RANGE: RangeInclusive<ByteSize> = ByteSize::kib(1)..=ByteSize::mib(1);
/// The minimum is the limit of one channel.
const MEMORY_RANGE: RangeInclusive<ByteSize> = ByteSize::mib(34)..=ByteSize(1 << 40);
const COUNT_RANGE: RangeInclusive<u32> = 1..=1_000_000;
/// The capacity of one REGISTER (MAX_CONTROL, PROTOCOL 12).
const PORTS_PER_LINK_RANGE: RangeInclusive<u32> = 1..=1_800;

/// Parses and validates the text of a file.
pub(super) fn read(
    text: &str,
    sources: SecretSources<'_>,
) -> Result<LoadedConfig, Vec<ConfigProblem>> {
    let document = ConfigDocument::parse(text)?;
    let mut reader = FieldReader {
        document,
        sources,
        warnings: Vec::new(),
    };
    let config = reader.config();
    let problems = reader.document.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(LoadedConfig {
            config,
            warnings: reader.warnings,
        }),
        _ => Err(problems),
    }
}

/// The fields of a server or client about its links.
struct LinkFields<'a> {
    master: Option<&'a OneOrMore>,
    dial_fields: DialFields<'a>,
    tls: Option<&'a RawRoleTls>,
    heartbeat: Option<&'a Quantity>,
    connect_timeout: Option<&'a Quantity>,
    resume_timeout: Option<&'a Quantity>,
    rotate_after: Option<&'a Quantity>,
    tcp_keepalive: Option<&'a Quantity>,
}

/// The fields about the path to the master.
#[derive(Clone, Copy)]
pub(super) struct DialFields<'a> {
    pub proxy: Option<&'a RawSecret>,
    pub connect_to: Option<&'a str>,
    pub bind_address: Option<&'a str>,
    pub host: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub headers: Option<&'a BTreeMap<String, String>>,
    pub headers_file: Option<&'a Path>,
}

/// Collects the link fields of a server or client. A macro, because both structs have these fields
/// but no common type.
macro_rules! link_fields {
    ($raw:expr) => {
        LinkFields {
            master: $raw.master.as_ref(),
            dial_fields: DialFields {
                proxy: $raw.proxy.as_ref(),
                connect_to: $raw.connect_to.as_deref(),
                bind_address: $raw.bind_address.as_deref(),
                host: $raw.host.as_deref(),
                user_agent: $raw.user_agent.as_deref(),
                headers: $raw.headers.as_ref(),
                headers_file: $raw.headers_file.as_deref(),
            },
            tls: $raw.tls.as_ref(),
            heartbeat: $raw.heartbeat.as_ref(),
            connect_timeout: $raw.connect_timeout.as_ref(),
            resume_timeout: $raw.resume_timeout.as_ref(),
            rotate_after: $raw.rotate_after.as_ref(),
            tcp_keepalive: $raw.tcp_keepalive.as_ref(),
        }
    };
}

fn address_fault(found: &str, reason: HostPortError) -> Fault {
    Fault::Address {
        found: found.to_owned(),
        reason,
    }
}

pub(super) fn root(name: &str) -> FieldPath {
    FieldPath::default().field(name)
}

impl FieldReader<'_> {
    fn config(&mut self) -> Option<Config> {
        let mode = self.document.mode()?;
        let (level, role) = match mode {
            Mode::Master => {
                let raw: RawMaster = self.document.read(mode)?;
                (
                    self.log_level(raw.log_level.as_deref()),
                    self.master(&raw).map(RoleConfig::Master),
                )
            }
            Mode::Server => {
                let raw: RawServer = self.document.read(mode)?;
                (
                    self.log_level(raw.log_level.as_deref()),
                    self.server(&raw).map(RoleConfig::Server),
                )
            }
            Mode::Client => {
                let raw: RawClient = self.document.read(mode)?;
                (
                    self.log_level(raw.log_level.as_deref()),
                    self.client(&raw).map(RoleConfig::Client),
                )
            }
        };
        Some(Config {
            log_level: level?,
            role: role?,
        })
    }

    fn log_level(&mut self, written: Option<&str>) -> Option<tracing::Level> {
        let word = self.word(&root("log_level"), written, "info", &LOG_LEVELS)?;
        word.parse().ok()
    }

    fn master(&mut self, raw: &RawMaster) -> Option<MasterConfig> {
        let listen_at = self.listen_at(raw.listen_at.as_ref());
        let master_key = self.master_key(raw.master_key.as_ref());
        let path = self.upgrade_path(raw.path.as_deref(), raw.healthz == Some(true));
        let tls = self.master_tls(raw.tls.as_ref());
        let fallback = self.fallback(raw.fallback.as_ref());
        let trusted_proxies = self.trusted_proxies(raw);
        let limits = self.limits(raw.limits.as_ref());
        let heartbeat = self.heartbeat(raw.heartbeat.as_ref());
        let grace_period = self.duration(
            &root("grace_period"),
            raw.grace_period.as_ref(),
            GRACE_PERIOD,
            GRACE_PERIOD_RANGE,
        );
        Some(MasterConfig {
            listen_at: listen_at?,
            master_key: master_key?,
            path: path?,
            tls: tls?,
            healthz: raw.healthz == Some(true),
            fallback: fallback?,
            trusted_proxies: trusted_proxies?,
            proxy_protocol: raw.proxy_protocol == Some(true),
            limits: limits?,
            // The terms of a link contain whole seconds.
            heartbeat: Duration::from_secs(heartbeat?.as_secs()),
            grace_period: grace_period?,
        })
    }

    fn server(&mut self, raw: &RawServer) -> Option<ServerConfig> {
        let link = self.link(&link_fields!(raw));
        let master_key = self.master_key(raw.master_key.as_ref());
        let windows = self.windows(raw.windows.as_ref());
        let ports = self.ports(
            raw.ports.as_deref(),
            windows.unwrap_or_default(),
            Mode::Server,
        );
        let grace_period = self.duration(
            &root("grace_period"),
            raw.grace_period.as_ref(),
            GRACE_PERIOD,
            GRACE_PERIOD_RANGE,
        );
        let limits = self.server_limits(raw.limits.as_ref());
        // Invalid windows were replaced by defaults only to validate the ports.
        windows?;
        Some(ServerConfig {
            link: link?,
            master_key: master_key?,
            ports: ports?,
            limits: limits?,
            bench: raw.bench != Some(false),
            grace_period: grace_period?,
        })
    }

    fn client(&mut self, raw: &RawClient) -> Option<ClientConfig> {
        let link = self.link(&link_fields!(raw));
        let master_choice = self.master_choice(raw, link.as_ref());
        let windows = self.windows(raw.windows.as_ref());
        let ports = self.ports(
            raw.ports.as_deref(),
            windows.unwrap_or_default(),
            Mode::Client,
        );
        let hold_timeout = self.duration(
            &root("hold_timeout"),
            raw.hold_timeout.as_ref(),
            HOLD_TIMEOUT,
            HOLD_TIMEOUT_RANGE,
        );
        let grace_period = self.duration(
            &root("grace_period"),
            raw.grace_period.as_ref(),
            GRACE_PERIOD,
            GRACE_PERIOD_RANGE,
        );
        let memory = raw
            .limits
            .as_ref()
            .and_then(|limits| limits.memory.as_ref());
        let memory = self.size(
            &root("limits").field("memory"),
            memory,
            ClientLimitsConfig::default().memory,
            MEMORY_RANGE,
        );
        // Invalid windows were replaced by defaults only to validate the ports.
        windows?;
        Some(ClientConfig {
            link: link?,
            master_choice: master_choice?,
            ports: ports?,
            limits: ClientLimitsConfig { memory: memory? },
            hold_timeout: hold_timeout?,
            grace_period: grace_period?,
        })
    }

    fn master_choice(
        &mut self,
        raw: &RawClient,
        link: Option<&LinkConfig>,
    ) -> Option<MasterChoice> {
        let field = root("master_choice");
        let choice = self.word(
            &field,
            raw.master_choice.as_deref(),
            MasterChoice::Ordered,
            &MasterChoice::ALL,
        )?;
        if choice == MasterChoice::Raced && link.is_some_and(|link| link.masters.len() == 1) {
            let message =
                "is \"raced\", but there is one master: add masters to `master`, or remove it"
                    .to_owned();
            self.warnings.push(Warning { field, message });
        }
        Some(choice)
    }

    fn listen_at(&mut self, raw: Option<&OneOrMore>) -> Option<Vec<HostPort>> {
        let path = root("listen_at");
        let addresses: Vec<HostPort> = self.addresses(
            &path,
            raw,
            "add \"listen_at\": \"0.0.0.0:51324\" (all addresses, port 51324)",
            address_fault,
        )?;
        for (index, address) in addresses.iter().enumerate() {
            if let Some(other) = addresses
                .iter()
                .take(index)
                .find(|other| other.overlaps(address))
            {
                let message = format!("({address}) conflicts with {other}: remove one of them");
                self.document
                    .add_problem(&path.index(index), Fault::Other(message));
                return None;
            }
        }
        Some(addresses)
    }

    fn master_key(&mut self, raw: Option<&RawSecret>) -> Option<Secret> {
        self.secret(
            &root("master_key"),
            raw,
            "add the key that authenticates servers to the master; `report keygen` generates one",
        )
    }

    fn server_limits(&mut self, raw: Option<&RawServerLimits>) -> Option<ServerLimitsConfig> {
        let default = ServerLimitsConfig::default();
        let Some(raw) = raw else { return Some(default) };
        let at = |name: &str| root("limits").field(name);
        let streams = self.count(
            &at("streams"),
            raw.streams.as_ref(),
            default.streams,
            COUNT_RANGE,
        );
        let of_port = self.count(
            &at("streams_per_port"),
            raw.streams_per_port.as_ref(),
            default.streams_per_port,
            COUNT_RANGE,
        );
        let of_tunnel = self.count(
            &at("streams_per_tunnel"),
            raw.streams_per_tunnel.as_ref(),
            default.streams_per_tunnel,
            COUNT_RANGE,
        );
        let tunnels = self.count(
            &at("tunnels_per_port"),
            raw.tunnels_per_port.as_ref(),
            default.tunnels_per_port,
            COUNT_RANGE,
        );
        let memory = self.size(
            &at("memory"),
            raw.memory.as_ref(),
            default.memory,
            MEMORY_RANGE,
        );
        Some(ServerLimitsConfig {
            streams: streams?,
            streams_per_port: of_port?,
            streams_per_tunnel: of_tunnel?,
            tunnels_per_port: tunnels?,
            memory: memory?,
        })
    }

    fn limits(&mut self, raw: Option<&RawLimits>) -> Option<MasterLimitsConfig> {
        let default = MasterLimitsConfig::default();
        let Some(raw) = raw else { return Some(default) };
        let at = |name: &str| root("limits").field(name);
        let links = self.count(&at("links"), raw.links.as_ref(), default.links, COUNT_RANGE);
        let per_address = self.count(
            &at("links_per_address"),
            raw.links_per_address.as_ref(),
            default.links_per_address,
            COUNT_RANGE,
        );
        let ports = self.count(
            &at("ports_per_link"),
            raw.ports_per_link.as_ref(),
            default.ports_per_link,
            PORTS_PER_LINK_RANGE,
        );
        let channels = self.count(
            &at("channels_per_link"),
            raw.channels_per_link.as_ref(),
            default.channels_per_link,
            COUNT_RANGE,
        );
        let header_bytes = self.size(
            &at("header_bytes"),
            raw.header_bytes.as_ref(),
            default.header_bytes,
            HEADER_BYTES_RANGE,
        );
        let memory = self.size(
            &at("memory"),
            raw.memory.as_ref(),
            default.memory,
            MEMORY_RANGE,
        );
        Some(MasterLimitsConfig {
            links: links?,
            links_per_address: per_address?,
            ports_per_link: ports?,
            channels_per_link: channels?,
            header_bytes: header_bytes?,
            memory: memory?,
        })
    }

    fn link(&mut self, fields: &LinkFields<'_>) -> Option<LinkConfig> {
        let LinkFields {
            master,
            dial_fields,
            tls,
            heartbeat,
            connect_timeout,
            resume_timeout,
            rotate_after,
            tcp_keepalive,
        } = *fields;
        let missing = "add the master's address, as \"HOST:PORT\" or \"wss://HOST/PATH\"";
        let masters: Option<Vec<MasterAddress>> =
            self.addresses(&root("master"), master, missing, |_, error| {
                Fault::MasterAddress(error)
            });
        let is_secure = masters
            .as_ref()
            .is_none_or(|masters| masters.iter().any(MasterAddress::is_secure));
        let tls = self.role_tls(tls, is_secure);
        let parameters = self.dial_parameters(&dial_fields);
        let heartbeat = self.heartbeat(heartbeat);
        let connect_timeout = self.duration(
            &root("connect_timeout"),
            connect_timeout,
            CONNECT_TIMEOUT,
            CONNECT_TIMEOUT_RANGE,
        );
        let resume_timeout = self.duration(
            &root("resume_timeout"),
            resume_timeout,
            RESUME_TIMEOUT,
            RESUME_TIMEOUT_RANGE,
        );
        // An absent field disables rotation, so this default has no effect.
        let rotation = self.duration(
            &root("rotate_after"),
            rotate_after,
            *ROTATE_AFTER_RANGE.end(),
            ROTATE_AFTER_RANGE,
        );
        let tcp_keepalive = self.tcp_keepalive(tcp_keepalive);
        let dial = DialParameters {
            tls: tls?,
            deadline: connect_timeout?,
            ..parameters?
        };
        Some(LinkConfig {
            masters: masters?,
            dial,
            heartbeat: heartbeat?,
            connect_timeout: connect_timeout?,
            resume_timeout: resume_timeout?,
            rotate_after: Some(rotation?).filter(|_| rotate_after.is_some()),
            tcp_keepalive: tcp_keepalive?,
        })
    }

    /// Reads `tcp_keepalive`. Zero turns it off.
    fn tcp_keepalive(&mut self, raw: Option<&Quantity>) -> Option<Option<Duration>> {
        if raw
            .and_then(Quantity::duration)
            .is_some_and(|duration| duration.is_zero())
        {
            return Some(None);
        }
        let form = "0 to turn it off, or seconds as a number, or text like \"60s\" or \"2m\",";
        let print = (form, |duration| format!("{duration:?}"));
        self.quantity(
            &root("tcp_keepalive"),
            raw,
            TCP_KEEPALIVE,
            &TCP_KEEPALIVE_RANGE,
            Quantity::duration,
            print,
        )
        .map(Some)
    }

    fn heartbeat(&mut self, raw: Option<&Quantity>) -> Option<Duration> {
        self.duration(&root("heartbeat"), raw, HEARTBEAT, HEARTBEAT_RANGE)
    }

    fn windows(&mut self, raw: Option<&RawWindows>) -> Option<Windows> {
        let (stream, tunnel) = raw.map_or((None, None), |raw| {
            (raw.stream.as_ref(), raw.tunnel.as_ref())
        });
        let path = root("windows");
        self.window_pair(
            (&path.field("stream"), stream),
            (&path.field("tunnel"), tunnel),
            Windows::default(),
        )
    }

    /// Reads two related windows. If only one is set, the default of the other adapts to it.
    fn window_pair(
        &mut self,
        stream: (&FieldPath, Option<&Quantity>),
        tunnel: (&FieldPath, Option<&Quantity>),
        default: Windows,
    ) -> Option<Windows> {
        let stream_size = self.size(stream.0, stream.1, default.stream, WINDOW_RANGE);
        let tunnel_size = self.size(tunnel.0, tunnel.1, default.tunnel, WINDOW_RANGE);
        let (stream_size, tunnel_size) = (stream_size?, tunnel_size?);
        match (stream.1.is_some(), tunnel.1.is_some()) {
            _ if stream_size <= tunnel_size => Some(Windows {
                stream: stream_size,
                tunnel: tunnel_size,
            }),
            (false, _) => Some(Windows {
                stream: tunnel_size,
                tunnel: tunnel_size,
            }),
            (true, false) => Some(Windows {
                stream: stream_size,
                tunnel: stream_size,
            }),
            (true, true) => {
                let message = format!(
                    "is {stream_size}, more than the {tunnel_size} of the whole tunnel ({}): lower it",
                    tunnel.0
                );
                self.document.add_problem(stream.0, Fault::Other(message));
                None
            }
        }
    }

    fn ports(
        &mut self,
        raw: Option<&[RawPort]>,
        windows: Windows,
        mode: Mode,
    ) -> Option<Vec<PortConfig>> {
        let path = root("ports");
        let Some(raw) = raw.filter(|raw| !raw.is_empty()) else {
            self.document.add_problem(
                &path,
                Fault::Missing("list at least one service, with mark, local_address and port_key"),
            );
            return None;
        };
        let ports: Vec<Option<PortConfig>> = raw
            .iter()
            .enumerate()
            .map(|(index, raw)| self.port(&path.index(index), raw, windows, mode))
            .collect();
        self.compare_ports(&path, &ports, mode);
        ports.into_iter().collect()
    }

    fn port(
        &mut self,
        path: &FieldPath,
        raw: &RawPort,
        windows: Windows,
        mode: Mode,
    ) -> Option<PortConfig> {
        let local_address = self.local_address(
            &path.field("local_address"),
            raw.local_address.as_deref(),
            mode,
        );
        let missing = "add the shared secret of client and server; `report keygen` generates one";
        let port_key = self.secret(&path.field("port_key"), raw.port_key.as_ref(), missing);
        let encrypt = raw.encrypt_method.as_deref();
        let encrypt = self.word(
            &path.field("encrypt_method"),
            encrypt,
            DEFAULT_ENCRYPT_METHOD,
            &EncryptMethod::ALL,
        );
        let compress = raw.compress_method.as_deref();
        let compress = self.word(
            &path.field("compress_method"),
            compress,
            DEFAULT_COMPRESS_METHOD,
            &CompressMethod::ALL,
        );
        let proxy_protocol = self.proxy_protocol(
            &path.field("proxy_protocol"),
            raw.proxy_protocol.as_deref(),
            mode,
        );
        let stream = (&path.field("stream_window"), raw.stream_window.as_ref());
        let tunnel = (&path.field("tunnel_window"), raw.tunnel_window.as_ref());
        let windows = self.window_pair(stream, tunnel, windows);
        let local_address = local_address?;
        let mark = raw
            .mark
            .clone()
            .filter(|mark| !mark.is_empty())
            .unwrap_or_else(|| local_address.to_string());
        Some(PortConfig {
            mark,
            local_address,
            port_key: port_key?,
            encrypt_method: encrypt?,
            compress_method: compress?,
            proxy_protocol: proxy_protocol?,
            windows: windows?,
        })
    }

    fn proxy_protocol(
        &mut self,
        path: &FieldPath,
        written: Option<&str>,
        mode: Mode,
    ) -> Option<Option<ProxyProtocol>> {
        let Some(written) = written else {
            return Some(None);
        };
        if mode == Mode::Client {
            let message = "is not for a client: the server's port requests the source addresses; remove it here, and set it at the server";
            self.document
                .add_problem(path, Fault::Other(message.to_owned()));
            return None;
        }
        self.word(path, Some(written), ProxyProtocol::V2, &[ProxyProtocol::V2])
            .map(Some)
    }

    fn local_address(
        &mut self,
        path: &FieldPath,
        text: Option<&str>,
        mode: Mode,
    ) -> Option<HostPort> {
        let Some(text) = text else {
            let server = "set the address of the service, as \"HOST:PORT\"";
            let client = "set the listen address, as \"127.0.0.1:PORT\"";
            self.document.add_problem(
                path,
                Fault::Missing(if mode == Mode::Server { server } else { client }),
            );
            return None;
        };
        let address = text.parse::<HostPort>();
        let address = if mode == Mode::Server {
            address.and_then(HostPort::dialable)
        } else {
            address
        };
        address
            .map_err(|reason| self.document.add_problem(path, address_fault(text, reason)))
            .ok()
    }

    /// Records ports that conflict with each other.
    fn compare_ports(&mut self, path: &FieldPath, ports: &[Option<PortConfig>], mode: Mode) {
        for (index, port) in ports.iter().enumerate() {
            let Some(port) = port else { continue };
            let path = path.index(index);
            let earlier = || ports.iter().take(index).flatten();
            if let Some(other) = earlier().find(|other| other.port_key == port.port_key) {
                self.document.add_problem(
                    &path.field("port_key"),
                    Fault::DuplicateKey {
                        other: other.mark.clone(),
                    },
                );
            }
            if mode == Mode::Client
                && let Some(other) =
                    earlier().find(|other| other.local_address.overlaps(&port.local_address))
            {
                let (found, mark, other) = (
                    port.local_address.to_string(),
                    port.mark.clone(),
                    other.mark.clone(),
                );
                self.document.add_problem(
                    &path.field("local_address"),
                    Fault::DuplicateAddress { found, mark, other },
                );
            }
            if earlier().any(|other| other.mark == port.mark) {
                let message = format!(
                    "(\"{}\") is also the mark of another port: logs cannot distinguish them",
                    port.mark
                );
                self.warnings.push(Warning {
                    field: path.field("mark"),
                    message,
                });
            }
        }
    }
}
