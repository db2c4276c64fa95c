//! Counts the allocations of the three roles within this process.
//!
//! Each role runs on a separate thread and runtime, so the allocations of a thread are those of its
//! role. Sockets connect the roles, as between processes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    thread,
    time::Duration,
};

use allocation_counter::AllocationInfo;
use anyhow::Context;
use report::{
    client::{Client, ClientParameters, ClientPort},
    config::{ClientConfig, HostPort, LinkConfig, MasterConfig, Secret, ServerConfig, Target},
    link::{KeepAliveTiming, authenticate::LinkSecret},
    master::{Master, MasterParameters, TrustedProxies},
    net::dial::{DialParameters, Dialer},
    random,
    server::{self, ServerParameters, ServerPort},
    supervisor::{DialStrategy, LinkSet, MoveRequests, Uplink},
};
use report_proto::{
    crypto::{EncryptMethod, LinkKey},
    frame::{Role, Slot},
    id::Id,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ROLES,
    options::Options,
    port::port,
    roles::MASTER_KEY,
    traffic::{self, Transfer},
};

/// The measured methods. Compression methods are left out: they reuse their contexts.
const METHODS: [EncryptMethod; 2] = [EncryptMethod::Plain, EncryptMethod::Aes128Gcm];

/// The port of the tunnel.
const MARK: &str = "allocations";
const PORT_KEY: &str = "a port key of the allocations";

/// The deadline for a role to report its listen address.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The allocations of the roles per MiB of one transfer.
pub(crate) struct AllocationCounts {
    pub method: &'static str,
    pub transfer: Transfer,
    /// In the order of [`ROLES`].
    pub roles: [AllocationRate; 3],
}

/// Allocations and allocated bytes per MiB of payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AllocationRate {
    pub count: f64,
    pub bytes: f64,
}

impl AllocationCounts {
    /// Converts the counts to JSON.
    pub(crate) fn to_json(&self) -> Value {
        let roles = ROLES
            .iter()
            .zip(self.roles)
            .map(|(role, AllocationRate { count, bytes })| {
                (
                    (*role).to_owned(),
                    json!({ "allocations": count, "bytes": bytes }),
                )
            });
        json!({ "method": self.method, "transfer": self.transfer.to_string(), "roles": roles.collect::<serde_json::Map<_, _>>() })
    }
}

/// Runs every transfer with each method and counts the allocations.
pub(crate) async fn measure(options: &Options) -> anyhow::Result<Vec<AllocationCounts>> {
    let service = traffic::serve()?;
    let mut all = Vec::new();
    for method in METHODS {
        let roles = Roles::start(service, method).await?;
        for transfer in Transfer::ALL {
            transfer
                .run_blocking(roles.entry, options.warm_up_bytes)
                .await?;
            roles.count().await?;
            transfer.run_blocking(roles.entry, options.bytes).await?;
            let mib = options.bytes as f64 / f64::from(1 << 20);
            let each = |info: AllocationInfo| AllocationRate {
                count: info.count_total as f64 / mib,
                bytes: info.bytes_total as f64 / mib,
            };
            all.push(AllocationCounts {
                method: method.name(),
                transfer,
                roles: roles.count().await?.map(each),
            });
        }
        roles.end()?;
    }
    Ok(all)
}

/// The roles of one system.
struct Roles {
    entry: SocketAddr,
    client: RoleThread,
    master: RoleThread,
    server: RoleThread,
}

impl Roles {
    async fn start(service: SocketAddr, method: EncryptMethod) -> anyhow::Result<Self> {
        let (master, address) = start_master().await?;
        let server = start_server(address, service, method)?;
        let (client, entry) = start_client(address, method).await?;
        Ok(Roles {
            entry,
            client,
            master,
            server,
        })
    }

    /// Returns the allocations of each role since the previous call.
    async fn count(&self) -> anyhow::Result<[AllocationInfo; 3]> {
        Ok([
            self.client.count().await?,
            self.master.count().await?,
            self.server.count().await?,
        ])
    }

    fn end(self) -> anyhow::Result<()> {
        [self.client, self.server, self.master]
            .into_iter()
            .try_for_each(RoleThread::end)
    }
}

/// A role on a separate thread.
struct RoleThread {
    /// Requests the allocations since the previous request.
    queries_sender: mpsc::Sender<oneshot::Sender<AllocationInfo>>,
    cancel: CancellationToken,
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

impl RoleThread {
    /// Starts `role` on a runtime of one thread.
    fn start<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
        role: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self {
        // The caller sends one query at a time.
        let (queries_sender, mut queries) = mpsc::channel::<oneshot::Sender<AllocationInfo>>(1);
        let cancel = CancellationToken::new();
        let for_role = cancel.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let mut running = JoinSet::new();
            running.spawn_on(role(for_role), runtime.handle());
            loop {
                let mut query = None;
                // The role runs inside this call until the next query arrives.
                let allocated =
                    allocation_counter::measure(|| query = runtime.block_on(queries.recv()));
                match query {
                    // The send fails only if the run has ended.
                    Some(answer) => drop(answer.send(allocated)),
                    None => break,
                }
            }
            runtime
                .block_on(running.join_next())
                .context("the role was not started")??
        });
        RoleThread {
            queries_sender,
            cancel,
            thread,
        }
    }

    async fn count(&self) -> anyhow::Result<AllocationInfo> {
        let (answer, allocated) = oneshot::channel();
        self.queries_sender
            .send(answer)
            .await
            .context("a role has ended")?;
        allocated.await.context("a role has ended")
    }

    fn end(self) -> anyhow::Result<()> {
        let RoleThread {
            queries_sender,
            cancel,
            thread,
        } = self;
        cancel.cancel();
        drop(queries_sender);
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a role has panicked"))?
    }
}

/// Returns the master key as in a configuration.
fn master_key() -> Secret {
    Secret::new(MASTER_KEY.to_owned())
}

async fn start_master() -> anyhow::Result<(RoleThread, SocketAddr)> {
    let (listening, address) = oneshot::channel();
    let master = RoleThread::start(move |cancel| async move {
        let listen_at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = MasterConfig::new(listen_at.to_string().parse()?, master_key());
        let key = LinkKey::derive(Some(MASTER_KEY));
        let master = Master::bind(MasterParameters {
            trusted_proxies: TrustedProxies::default(),
            ..MasterParameters::new(&config, vec![listen_at], Some(key), NonZeroUsize::MIN)
        })?;
        // Somebody waits for it, or the run has ended.
        let _ = listening.send(master.local_addr());
        master.run(cancel, Duration::ZERO).await;
        Ok(())
    });
    let address = tokio::time::timeout(START_TIMEOUT, address)
        .await
        .context("the master does not start")?;
    Ok((master, address.context("the master does not listen")?))
}

fn host_port(address: SocketAddr) -> HostPort {
    HostPort {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

fn start_server(
    master: SocketAddr,
    service: SocketAddr,
    method: EncryptMethod,
) -> anyhow::Result<RoleThread> {
    let (uplink, port) = (uplink(master, Role::Server)?, port(MARK, PORT_KEY, method));
    Ok(RoleThread::start(move |cancel| async move {
        let offered = ServerPort {
            port,
            service: Target::Tcp(host_port(service)).into(),
            proxy_protocol: false,
        };
        let link = LinkConfig::new(master.to_string().parse()?);
        let config = ServerConfig::new(link, master_key(), Vec::new());
        let parameters = ServerParameters {
            bench: false,
            connect_timeout: START_TIMEOUT,
            link_sets: LinkSet::each(uplink.clone(), 1),
            ..ServerParameters::new(&config, uplink, vec![offered])
        };
        server::run(parameters, cancel, Duration::ZERO).await;
        Ok(())
    }))
}

async fn start_client(
    master: SocketAddr,
    method: EncryptMethod,
) -> anyhow::Result<(RoleThread, SocketAddr)> {
    let (uplink, port) = (uplink(master, Role::Client)?, port(MARK, PORT_KEY, method));
    let (listening, address) = oneshot::channel();
    let client = RoleThread::start(move |cancel| async move {
        let ports = vec![ClientPort {
            port,
            local_address: host_port(SocketAddr::from(([127, 0, 0, 1], 0))).into(),
            socks_user: None,
        }];
        let config = ClientConfig::new(LinkConfig::new(master.to_string().parse()?), Vec::new());
        let client = Client::bind(ClientParameters {
            hold_timeout: START_TIMEOUT,
            ..ClientParameters::new(&config, uplink, ports)
        })
        .await?;
        // Somebody waits for it, or the run has ended.
        let _ = listening.send(client.local_addresses());
        client.run(cancel, Duration::ZERO).await;
        Ok(())
    });
    let addresses = tokio::time::timeout(START_TIMEOUT, address)
        .await
        .context("the client does not start")??;
    Ok((
        client,
        *addresses.first().context("the client does not listen")?,
    ))
}

fn uplink(master: SocketAddr, role: Role) -> anyhow::Result<Uplink> {
    let secret = match role {
        Role::Server => LinkSecret::MasterKey(LinkKey::derive(Some(MASTER_KEY))),
        Role::Client => LinkSecret::Anonymous,
    };
    Ok(Uplink {
        dialers: vec![Dialer::new(
            master.to_string().parse()?,
            DialParameters::default(),
        )?],
        strategy: DialStrategy::Ordered,
        secret,
        role,
        instance: Id(random::bytes()),
        slot: Slot::FIRST,
        timing: KeepAliveTiming::default(),
        rotate_after: None,
        move_requests: MoveRequests::default(),
    })
}
