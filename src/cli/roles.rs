//! From a configuration to a running role: every secret is derived here, and every layer gets the small structs that it takes.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use super::threads;
use crate::{
    client::{Client, ClientParameters, ClientPort},
    config::{
        self, ByteSize, ClientConfig, Config, FallbackConfig, HostPort, LinkConfig, MasterChoice,
        MasterConfig, PortConfig, RoleConfig, ServerConfig,
    },
    crypto::{LinkKey, PortKeys},
    frame::Role,
    id::Id,
    link::{
        Timing,
        dial::Dialer,
        files,
        uplink::{Choice, Mover, Uplink},
    },
    master::{self, Fallback, Limits, Master, MasterParameters, MasterTiming, TrustedProxies},
    random,
    server::{self, ServerLimits, ServerParameters, ServerPort},
    tunnel::{Budget, Commons, PortParameters, WindowSize},
};

/// The floor of a stream's window (PROTOCOL 12): little enough that thousands of streams whose applications never read hold little, and about what
/// TCP sends first.
const STREAM_WINDOW_INITIAL: ByteSize = ByteSize::kib(16);

/// The same for a tunnel.
const TUNNEL_WINDOW_INITIAL: ByteSize = ByteSize::mib(1);

/// A link is given up after two heartbeats and a slow path: this many seconds beyond twice the interval, never less than the protocol's 45 s.
const SILENCE_BEYOND_HEARTBEATS: Duration = Duration::from_secs(5);

/// A role whose listeners stand: what can fail at the start has not failed.
pub enum Ready {
    /// The relay.
    Master(Box<Master>),
    /// The agent.
    Server(Box<ServerParameters>),
    /// The visitor.
    Client(Box<Client>),
}

impl Ready {
    /// Prepares the role that the configuration names.
    ///
    /// # Errors
    /// When an address cannot be listened at or resolved, or a certificate cannot be used.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn prepare(config: &Config) -> anyhow::Result<Self> {
        Ok(match &config.role {
            RoleConfig::Master(config) => Ready::Master(Box::new(master(config).await?)),
            RoleConfig::Server(config) => Ready::Server(Box::new(server(config)?)),
            RoleConfig::Client(config) => Ready::Client(Box::new(client(config).await?)),
        })
    }

    /// Where the role listens: the master's addresses, or a client's in the order of its ports.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        match self {
            Ready::Master(master) => master.local_addresses(),
            Ready::Server(_) => Vec::new(),
            Ready::Client(client) => client.local_addresses(),
        }
    }

    /// Runs until `cancel` is cancelled, and then at most for the `grace` period more, give or take the goodbyes.
    ///
    /// # Cancel safety
    /// Dropping the future cuts everything.
    pub async fn run(self, cancel: CancellationToken, grace: Duration) {
        match self {
            Ready::Master(master) => master.run(cancel, grace).await,
            Ready::Server(parameters) => server::run(*parameters, cancel, grace).await,
            Ready::Client(client) => client.run(cancel, grace).await,
        }
    }
}

async fn master(config: &MasterConfig) -> anyhow::Result<Master> {
    let mut listen_at = Vec::new();
    for address in &config.listen_at {
        listen_at.extend(resolve(address).await?);
    }
    let limits = Limits {
        links: config.limits.links as usize,
        links_per_address: config.limits.links_per_address as usize,
        ports_per_link: config.limits.ports_per_link,
        channels_per_link: config.limits.channels_per_link,
        header_bytes: config.limits.header_bytes.bytes(),
        memory_bytes: config.limits.memory.bytes(),
    };
    let limits = within_open_files(
        limits,
        matches!(config.fallback, FallbackConfig::Server { .. }),
    );
    Ok(Master::bind(MasterParameters {
        listen_at,
        path: config.path.clone(),
        link_key: LinkKey::derive(Some(config.master_key.expose())),
        tls: config.tls.as_ref().map(tls_files),
        healthz: config.healthz,
        fallback: fallback(&config.fallback),
        trusted_proxies: TrustedProxies::new(config.trusted_proxies.clone()),
        proxy_protocol: config.proxy_protocol,
        limits,
        timing: MasterTiming {
            heartbeat: timing(config.heartbeat),
            ..MasterTiming::default()
        },
        threads: threads::for_links()?,
    })?)
}

/// Files that a server has open beside its connections to services: links, look-ups of names, logs. Of a small limit, no more than a quarter.
const OTHER_FILES: usize = 64;

/// No more links than the process may have files open.
fn within_open_files(limits: Limits, relays: bool) -> Limits {
    let Some(open_files) = open_files_limit() else {
        return limits;
    };
    let configured = limits.links;
    let limits = limits.within(open_files, relays);
    if limits.links < configured {
        tracing::warn!(
            "limits.links is {configured}, but this process may have {open_files} files open: {} links are taken; {RAISE}, or set \
             limits.links",
            limits.links
        );
    }
    limits
}

/// How many files this process may have open.
fn open_files_limit() -> Option<usize> {
    files::limit().map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// What can be done where that is too few.
const RAISE: &str =
    "raise the limit of open files (LimitNOFILE= in systemd, ulimit -Hn in a shell)";

/// What the master reads for TLS.
pub fn tls_files(config: &config::TlsFiles) -> master::TlsFiles {
    let config::TlsFiles {
        cert,
        key,
        client_ca,
    } = config.clone();
    master::TlsFiles {
        cert,
        key,
        client_ca,
    }
}

fn fallback(config: &FallbackConfig) -> Fallback {
    match config.clone() {
        FallbackConfig::NotFound => Fallback::NotFound,
        FallbackConfig::Files(folder) => Fallback::Files(folder),
        FallbackConfig::Server {
            address,
            proxy_protocol,
        } => Fallback::Server {
            address: (address.host, address.port),
            proxy_protocol,
        },
    }
}

pub(super) async fn resolve(address: &HostPort) -> anyhow::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .with_context(|| format!("`listen_at`: the host of \"{address}\" does not resolve; write an IP address of this machine"))?
        .collect();
    if addresses.is_empty() {
        bail!(
            "`listen_at`: the host of \"{address}\" has no address; write an IP address of this machine"
        );
    }
    Ok(addresses)
}

fn server(config: &ServerConfig) -> anyhow::Result<ServerParameters> {
    let commons = commons(config.limits.memory);
    let ports = config.ports.iter().map(|port| {
        let parameters = port_parameters(port, &config.link, &commons);
        let HostPort {
            host,
            port: tcp_port,
        } = port.local_address.clone();
        (
            parameters.keys.id,
            Arc::new(ServerPort {
                port: parameters,
                host,
                tcp_port,
                proxy_protocol: port.proxy_protocol.is_some(),
            }),
        )
    });
    let uplink = uplink(&config.link, Role::Server, Some(config.master_key.expose()))?;
    Ok(ServerParameters {
        ports: ports.collect::<HashMap<_, _>>(),
        connect_timeout: config.link.connect_timeout,
        limits: server_limits(&config.limits),
        bench: config.bench,
        instance: uplink.instance,
        uplinks: uplink.each(),
    })
}

/// What the tunnels of a process share, of which `memory` is what they may hold.
fn commons(memory: ByteSize) -> Commons {
    Commons {
        budget: Arc::new(Budget::new(memory.bytes() as u64)),
        ..Commons::default()
    }
}

fn server_limits(config: &config::ServerLimits) -> ServerLimits {
    let limits = ServerLimits {
        streams: config.streams as usize,
        streams_per_port: config.streams_per_port as usize,
        streams_per_tunnel: config.streams_per_tunnel as usize,
        tunnels_per_port: config.tunnels_per_port as usize,
    };
    let open_files = open_files_limit().unwrap_or(usize::MAX);
    let room = open_files
        .saturating_sub(OTHER_FILES.min(open_files / 4))
        .max(1);
    if room < limits.streams {
        let text = format!(
            "limits.streams is {}, but this process may have {open_files} files open: {room} connections are taken; {RAISE}, or \
             set limits.streams",
            limits.streams,
        );
        // Few need as many as a configuration that says nothing of it allows.
        if *config == config::ServerLimits::default() {
            tracing::info!("{text}")
        } else {
            tracing::warn!("{text}")
        }
    }
    ServerLimits {
        streams: limits.streams.min(room),
        ..limits
    }
}

async fn client(config: &ClientConfig) -> anyhow::Result<Client> {
    let commons = commons(config.limits.memory);
    let client_port = |port: &PortConfig| ClientPort {
        port: port_parameters(port, &config.link, &commons),
        local_address: port.local_address.to_string(),
    };
    let parameters = ClientParameters {
        ports: config.ports.iter().map(client_port).collect(),
        uplink: client_uplink(config)?,
        hold_timeout: config.hold_timeout,
    };
    Ok(Client::bind(parameters).await?)
}

/// How a client reaches its masters.
pub(super) fn client_uplink(config: &ClientConfig) -> anyhow::Result<Uplink> {
    let choice = match config.master_choice {
        MasterChoice::Ordered => Choice::Ordered,
        MasterChoice::Raced => Choice::Raced,
    };
    Ok(Uplink {
        choice,
        ..uplink(&config.link, Role::Client, None)?
    })
}

pub(super) fn uplink(
    config: &LinkConfig,
    role: Role,
    master_key: Option<&str>,
) -> anyhow::Result<Uplink> {
    let dialer = |address: &crate::link::dial::MasterAddress| {
        Dialer::new(address.clone(), config.dial.clone())
    };
    Ok(Uplink {
        dialers: config
            .masters
            .iter()
            .map(dialer)
            .collect::<Result<_, _>>()?,
        choice: Choice::Ordered,
        key: LinkKey::derive(master_key),
        role,
        instance: Id(random::bytes()),
        timing: timing(config.heartbeat),
        rotate_after: config.rotate_after,
        mover: Mover::default(),
    })
}

fn timing(interval: Duration) -> Timing {
    let silence = interval
        .saturating_mul(2)
        .saturating_add(SILENCE_BEYOND_HEARTBEATS);
    Timing {
        interval,
        timeout: silence.max(Timing::default().timeout),
        ..Timing::default()
    }
}

pub(super) fn port_parameters(
    config: &PortConfig,
    link: &LinkConfig,
    commons: &Commons,
) -> PortParameters {
    let window = |initial: ByteSize, max: ByteSize| WindowSize {
        initial: initial.min(max).bytes() as u64,
        max: max.bytes() as u64,
    };
    PortParameters {
        mark: config.mark.as_str().into(),
        keys: PortKeys::derive(config.port_key.expose()),
        encrypt: config.encrypt_method,
        compress: config.compress_method,
        stream_window: window(STREAM_WINDOW_INITIAL, config.windows.stream),
        tunnel_window: window(TUNNEL_WINDOW_INITIAL, config.windows.tunnel),
        resume_timeout: link.resume_timeout,
        tcp_keepalive: link.tcp_keepalive,
        commons: commons.clone(),
    }
}
