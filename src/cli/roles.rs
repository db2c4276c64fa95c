//! Builds a running role from a configuration. This module derives all secrets, builds the uplink
//! and the ports, and applies the limits of the process. Each role reads its own fields.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    port_builder::PortBuilder,
    role_handle::{ClientControl, RoleHandle, ServerControl},
    threads,
};
use crate::{
    admin::AdminService,
    client::{Client, ClientParameters},
    config::{
        ByteSize, ClientConfig, Config, CredentialKey, LinkConfig, MasterChoice, MasterConfig,
        PortConfig, RoleConfig, ServerConfig, ServerLimitsConfig,
    },
    grace::Grace,
    link::{KeepAliveTiming, authenticate::LinkSecret},
    master::{Fallback, Master, MasterHandle, MasterParameters, resolve_listen_host},
    metrics::ObservedRole,
    net::{
        congestion_control,
        dial::Dialer,
        file_limit::{self, RAISE_LIMIT_HINT},
        tls::TlsError,
    },
    random,
    server::{self, QuotaLimits, ServerParameters},
    supervisor::{DialStrategy, MoveRequests, Uplink},
    tunnel::{MemoryBudget, PortParameters, ProcessShared, WindowSize},
};
#[cfg(feature = "store")]
use crate::{admin::api::Api, store::Store};
use report_proto::{
    crypto::{Credential, LinkKey, PortKeys},
    frame::{Role, Slot},
    id::Id,
};

/// The initial window of a stream (PROTOCOL 12). It is about the initial window of TCP. Thousands
/// of streams with applications that never read use little memory.
const STREAM_WINDOW_INITIAL: ByteSize = ByteSize::kib(16);

/// The initial window of a tunnel.
const TUNNEL_WINDOW_INITIAL: ByteSize = ByteSize::mib(1);

/// A role whose listeners are bound. Errors at startup can no longer occur.
pub(super) enum PreparedRole {
    /// A master.
    Master(Box<Master>),
    /// A server.
    Server(Box<ServerParameters>, PortBuilder),
    /// A client.
    Client(Box<Client>, PortBuilder),
}

impl PreparedRole {
    /// Prepares the role of the configuration.
    ///
    /// # Errors
    /// Fails when an address cannot be resolved or bound, or a certificate is unusable.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listeners.
    pub(super) async fn prepare(config: &Config) -> anyhow::Result<Self> {
        congestion_control::warn_if_unavailable(config.role.congestion_control());
        Ok(match &config.role {
            RoleConfig::Master(config) => PreparedRole::Master(Box::new(master(config).await?)),
            RoleConfig::Server(config) => {
                let (parameters, builder) = server(config)?;
                PreparedRole::Server(Box::new(parameters), builder)
            }
            RoleConfig::Client(config) => {
                let (client, builder) = client(config).await?;
                PreparedRole::Client(Box::new(client), builder)
            }
        })
    }

    /// The listen addresses: a master's, or those of a client in the order of its ports.
    #[must_use]
    pub(super) fn local_addresses(&self) -> Vec<SocketAddr> {
        match self {
            PreparedRole::Master(master) => master.local_addresses(),
            PreparedRole::Server(..) => Vec::new(),
            PreparedRole::Client(client, _) => client.local_addresses(),
        }
    }

    /// The value of `mode`.
    #[must_use]
    pub(super) fn name(&self) -> &'static str {
        match self {
            PreparedRole::Master(_) => "master",
            PreparedRole::Server(..) => "server",
            PreparedRole::Client(..) => "client",
        }
    }

    /// The handle that changes a master while it runs.
    #[must_use]
    pub(super) fn master_handle(&self) -> Option<MasterHandle> {
        match self {
            PreparedRole::Master(master) => Some(master.handle()),
            PreparedRole::Server(..) | PreparedRole::Client(..) => None,
        }
    }

    /// The handle that changes the role while it runs.
    #[must_use]
    pub(super) fn handle(&self) -> RoleHandle {
        match self {
            PreparedRole::Master(master) => RoleHandle::Master(master.handle()),
            PreparedRole::Server(parameters, builder) => {
                RoleHandle::Server(ServerControl::new(parameters, builder))
            }
            PreparedRole::Client(client, builder) => {
                RoleHandle::Client(ClientControl::new(client, builder))
            }
        }
    }

    /// The content of the admin address.
    #[must_use]
    pub(super) fn admin_service(&self) -> AdminService {
        let service = AdminService::new(self.observed());
        #[cfg(feature = "store")]
        if let PreparedRole::Master(master) = self
            && let Some(api) = Api::of_master(master.administered())
        {
            return service.with_api(api);
        }
        service
    }

    fn observed(&self) -> Arc<dyn ObservedRole> {
        match self {
            PreparedRole::Master(master) => master.observed(),
            PreparedRole::Server(parameters, _) => Arc::new(parameters.observer.clone()),
            PreparedRole::Client(client, _) => Arc::new(client.observer()),
        }
    }

    /// Runs until `cancel` is cancelled, then drains for at most `grace` plus the close handshakes.
    ///
    /// # Cancel safety
    /// Dropping the future closes all connections at once.
    pub(super) async fn run(self, cancel: CancellationToken, grace: Grace) {
        match self {
            PreparedRole::Master(master) => master.run(cancel, grace).await,
            PreparedRole::Server(parameters, _) => server::run(*parameters, cancel, grace).await,
            PreparedRole::Client(client, _) => client.run(cancel, grace).await,
        }
    }
}

async fn master(config: &MasterConfig) -> anyhow::Result<Master> {
    let mut listen_at = Vec::new();
    for address in config.listen_at.iter() {
        listen_at.extend(resolve_listen_host(address).await?);
    }
    let master_key = config.master_key.as_ref();
    let link_key = master_key.map(|key| LinkKey::derive(Some(key.expose())));
    let mut parameters =
        MasterParameters::new(config, listen_at, link_key, threads::link_threads()?);
    #[cfg(feature = "store")]
    if let Some(store) = &config.store {
        let store = Store::open(store.url().clone()).await?;
        parameters.policies.follow(Arc::new(store)).await?;
    }
    let relays = matches!(parameters.fallback, Fallback::Server { .. });
    parameters.limits = parameters.limits.within_open_files(relays);
    Ok(Master::bind(parameters)?)
}

/// The limit of open files of this process.
fn open_files_limit() -> Option<usize> {
    file_limit::limit().map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Descriptors that a server needs besides connections to services: links, name lookups, logs. At
/// most a quarter of the limit is reserved.
const RESERVED_FILES: usize = 64;

fn server(config: &ServerConfig) -> anyhow::Result<(ServerParameters, PortBuilder)> {
    let mut builder = PortBuilder::new(*config.limits.memory);
    let ports = config.enabled_ports();
    let ports = ports
        .map(|port| builder.server_port(port, config))
        .collect();
    let mut parameters = ServerParameters::new(config, server_uplink(config)?, ports);
    parameters.limits = server_limits(config);
    Ok((parameters, builder))
}

/// Builds the uplink of a server to its masters.
pub(super) fn server_uplink(config: &ServerConfig) -> anyhow::Result<Uplink> {
    Ok(uplink(&config.link, Role::Server, server_secret(config))?)
}

/// Returns the limits of a server, within the limit of open files.
pub(super) fn server_limits(config: &ServerConfig) -> QuotaLimits {
    // Few servers need the default number of streams, so only explicit limits are worth a warning.
    let are_explicit = config.limits != ServerLimitsConfig::default();
    streams_within_open_files(QuotaLimits::new(&config.limits), are_explicit)
}

/// The shared state of all tunnels of the process, with a budget of `memory`.
pub(super) fn process_shared(memory: ByteSize) -> ProcessShared {
    ProcessShared {
        budget: Arc::new(MemoryBudget::new(memory.bytes() as u64)),
        ..ProcessShared::default()
    }
}

/// Caps the streams of a server by the limit of open files.
fn streams_within_open_files(limits: QuotaLimits, are_explicit: bool) -> QuotaLimits {
    let open_files = open_files_limit().unwrap_or(usize::MAX);
    let room = open_files
        .saturating_sub(RESERVED_FILES.min(open_files / 4))
        .max(1);
    if room < limits.streams {
        let text = format!(
            "limits.streams is {}, but the limit of open files is {open_files}: only {room} connections are accepted; {RAISE_LIMIT_HINT}, or \
             set limits.streams",
            limits.streams,
        );
        if are_explicit {
            tracing::warn!("{text}")
        } else {
            tracing::info!("{text}")
        }
    }
    QuotaLimits {
        streams: limits.streams.min(room),
        ..limits
    }
}

async fn client(config: &ClientConfig) -> anyhow::Result<(Client, PortBuilder)> {
    let mut builder = PortBuilder::new(*config.limits.memory);
    let ports = builder.client_ports(config)?;
    let parameters = ClientParameters::new(config, client_uplink(config)?, ports);
    Ok((Client::bind(parameters).await?, builder))
}

/// Builds the uplink of a client to its masters.
pub(super) fn client_uplink(config: &ClientConfig) -> anyhow::Result<Uplink> {
    let strategy = match config.master_choice {
        MasterChoice::Ordered => DialStrategy::Ordered,
        MasterChoice::Raced => DialStrategy::Raced,
    };
    Ok(Uplink {
        strategy,
        ..uplink(&config.link, Role::Client, client_secret(config))?
    })
}

/// Returns the secret of a server's links.
pub(super) fn server_secret(config: &ServerConfig) -> LinkSecret {
    let master_key = config.master_key.as_ref();
    // A valid configuration has exactly one of the two.
    master_key.map_or_else(
        || credential_secret(config.credential.as_ref()),
        |key| LinkSecret::MasterKey(LinkKey::derive(Some(key.expose()))),
    )
}

/// Returns the secret of a client's links.
pub(super) fn client_secret(config: &ClientConfig) -> LinkSecret {
    credential_secret(config.credential.as_ref())
}

fn credential_secret(credential: Option<&CredentialKey>) -> LinkSecret {
    credential.map_or(LinkSecret::Anonymous, |key| {
        LinkSecret::Credential(Credential::derive(key.secret()))
    })
}

pub(super) fn uplink(
    config: &LinkConfig,
    role: Role,
    secret: LinkSecret,
) -> Result<Uplink, TlsError> {
    let dial = config.dial_parameters();
    let dialer =
        |address: &crate::net::dial::MasterAddress| Dialer::new(address.clone(), dial.clone());
    Ok(Uplink {
        dialers: config
            .masters
            .iter()
            .map(dialer)
            .collect::<Result<_, _>>()?,
        strategy: DialStrategy::Ordered,
        secret,
        role,
        instance: Id(random::bytes()),
        slot: Slot::FIRST,
        timing: KeepAliveTiming::for_interval(*config.heartbeat),
        rotate_after: config.rotate_after.as_deref().copied(),
        move_requests: MoveRequests::default(),
    })
}

/// Derives the parameters of a port, with new counters.
pub(super) fn port_parameters(
    config: &PortConfig,
    link: &LinkConfig,
    process_shared: &ProcessShared,
) -> PortParameters {
    let keys = PortKeys::derive(config.port_key.expose());
    port_parameters_with(config, link, keys, process_shared)
}

/// Returns the parameters of a port with these keys, with new counters.
pub(super) fn port_parameters_with(
    config: &PortConfig,
    link: &LinkConfig,
    keys: PortKeys,
    process_shared: &ProcessShared,
) -> PortParameters {
    let windows = config.windows(&link.windows);
    let window = |initial: ByteSize, max: ByteSize| WindowSize {
        initial: initial.min(max).bytes() as u64,
        max: max.bytes() as u64,
    };
    PortParameters {
        mark: config.mark.as_str().into(),
        keys,
        encrypt: config.encrypt_method,
        compress: config.compress_method,
        protocol: config.protocol,
        range: config.range(),
        max_delay: *config.max_delay,
        udp_idle_timeout: *config.udp_idle_timeout,
        max_flows: usize::try_from(*config.max_flows).unwrap_or(usize::MAX),
        stream_window: window(STREAM_WINDOW_INITIAL, windows.stream),
        tunnel_window: window(TUNNEL_WINDOW_INITIAL, windows.tunnel),
        resume_timeout: *link.resume_timeout,
        tcp_keepalive: *link.tcp_keepalive,
        counters: Arc::default(),
        process_shared: process_shared.clone(),
    }
}
