//! The client role: listens locally, keeps links to a master, attaches a tunnel for each port, and
//! carries local connections into it.
//!
//! Listeners stay open until the client ends. A listener whose address is unavailable follows when
//! the address is free. A connection that arrives while the port has no tunnel waits for
//! `hold_timeout`, and is then reset.

mod bind;
mod client_role;
pub mod direct;
mod hold_queue;
mod listener;
mod metrics;
mod orphans;
pub mod pipe;
mod port;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::bind::PortAddress;
use self::{
    client_role::ClientRole, hold_queue::HoldQueue, metrics::RunningClient, orphans::Orphans,
    port::PortSupervisor,
};
use crate::{
    config::ClientConfig,
    metrics::RoleObserver,
    net::local_listener::LocalListener,
    supervisor::{LinkSet, Uplink, drain::Drain},
    tunnel::PortParameters,
};

/// A port at which the client listens.
#[derive(Debug)]
pub struct ClientPort {
    /// The parameters shared with the server.
    pub port: PortParameters,
    /// The listen address.
    pub local_address: PortAddress,
}

/// The parameters of a client.
pub struct ClientParameters {
    /// The links to one of the masters.
    pub link_set: LinkSet,
    /// The client's ports.
    pub ports: Vec<ClientPort>,
    /// How long a connection waits for a tunnel.
    pub hold_timeout: Duration,
    /// Receives what the admin address reports.
    pub observer: RoleObserver,
}

impl ClientParameters {
    /// Creates the parameters of a configuration. `uplink` and `ports` are the derived form of its
    /// masters and ports.
    #[must_use]
    pub fn new(config: &ClientConfig, uplink: Uplink, ports: Vec<ClientPort>) -> Self {
        Self {
            link_set: LinkSet::new(uplink, config.link.links.max())
                .with_min(config.link.links.min()),
            ports,
            hold_timeout: *config.hold_timeout,
            observer: RoleObserver::new("client"),
        }
    }
}

/// The client cannot listen at a local address.
#[derive(Debug, thiserror::Error)]
#[error("port \"{mark}\": cannot listen at `local_address` {local_address}: {source}{remedy}")]
pub struct ListenError {
    mark: String,
    local_address: String,
    source: std::io::Error,
    remedy: &'static str,
}

/// A client that listens for at least one of its ports.
pub struct Client {
    link_set: LinkSet,
    ports: Vec<(PortParameters, PortListener)>,
    hold_timeout: Duration,
    observer: RoleObserver,
}

/// The listener of a port.
enum PortListener {
    Bound(LocalListener),
    /// The address is unavailable. The client retries it while it runs.
    Pending(bind::BindAddress),
}

impl PortListener {
    /// Returns the listener once its address is available. Returns `None` if `cancel` is cancelled
    /// before that.
    async fn open(self, mark: &str, cancel: &CancellationToken) -> Option<LocalListener> {
        match self {
            PortListener::Bound(listener) => Some(listener),
            PortListener::Pending(address) => {
                cancel
                    .run_until_cancelled(address.listen_with_retry(mark))
                    .await
            }
        }
    }
}

impl Client {
    /// Opens the listeners. Addresses that are unavailable now are retried while the client runs.
    ///
    /// # Errors
    /// When no port has a listener. The error names one of the ports.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listeners.
    pub async fn bind(parameters: ClientParameters) -> Result<Self, ListenError> {
        let addresses = parameters.ports.iter().map(|port| &port.local_address);
        let all = bind::BindAddresses::resolve(addresses).await;
        let (mut ports, mut failed) = (Vec::new(), Vec::new());
        for ClientPort {
            port,
            local_address,
        } in parameters.ports
        {
            let address = all.of(local_address);
            match address.listen().await {
                Ok(listener) => ports.push((port, PortListener::Bound(listener))),
                Err(source) => {
                    failed.push(ListenError {
                        mark: port.mark.to_string(),
                        local_address: address.to_string(),
                        remedy: address.remedy(&source),
                        source,
                    });
                    ports.push((port, PortListener::Pending(address)));
                }
            }
        }
        if failed.len() == ports.len()
            && let Some(error) = failed.pop()
        {
            return Err(error);
        }
        for error in failed {
            warn!("{error}; the client starts without this port and retries");
        }
        Ok(Client {
            link_set: parameters.link_set,
            ports,
            hold_timeout: parameters.hold_timeout,
            observer: parameters.observer,
        })
    }

    /// Returns the TCP addresses at which the ports listen, in the order of the configuration.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let address = |listening: &PortListener| match listening {
            PortListener::Bound(listener) => listener.local_addr(),
            PortListener::Pending(_) => None,
        };
        self.ports
            .iter()
            .filter_map(|(_, listening)| address(listening))
            .collect()
    }

    /// Returns what the admin address reports about the client.
    #[must_use]
    pub fn observer(&self) -> RoleObserver {
        self.observer.clone()
    }

    /// Runs until `cancel` is cancelled. The connections then have the `grace` period to end.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the link. Tasks that were spawned end soon after.
    pub async fn run(self, cancel: CancellationToken, grace: Duration) {
        let Client {
            link_set,
            ports,
            hold_timeout,
            observer,
        } = self;
        let drain = Drain::default();
        let max_lanes = link_set.count().max();
        let supervisors = start_ports(ports, max_lanes, hold_timeout, &drain, &cancel);
        let role = ClientRole::new(
            supervisors.clone(),
            link_set.uplink().move_requests.clone(),
            &drain.tasks,
            &drain.stop,
        );
        observer.observe(RunningClient {
            ports: supervisors.clone(),
            links: role.links_in_use(),
            cancel: cancel.clone(),
        });
        let end_tunnels = async move {
            futures_util::future::join_all(supervisors.iter().map(|port| port.end())).await;
        };
        // The listeners react to `cancel` too.
        drain
            .run(
                vec![link_set],
                Arc::new(role),
                &cancel,
                grace,
                || {},
                end_tunnels,
            )
            .await;
    }
}

/// Starts the supervisor and the listener of each port. A tunnel may have up to `max_lanes` lanes at
/// the server's request. The listeners accept connections until `cancel` is cancelled. Returns the
/// supervisors.
fn start_ports(
    ports: Vec<(PortParameters, PortListener)>,
    max_lanes: usize,
    hold_timeout: Duration,
    drain: &Drain,
    cancel: &CancellationToken,
) -> Vec<Arc<PortSupervisor>> {
    let (mut supervisors, orphans, descriptor_log) =
        (Vec::new(), Arc::new(Orphans::default()), Arc::default());
    for (port, listening) in ports {
        let port = PortSupervisor::new(port, max_lanes, &drain.tasks, &drain.stop);
        supervisors.push(Arc::clone(&port));
        let context = listener::ListenerContext {
            port,
            hold_timeout,
            descriptor_log: Arc::clone(&descriptor_log),
            queue: HoldQueue::default(),
            orphans: Arc::clone(&orphans),
            streams: drain.streams.clone(),
            stop: drain.stop.clone(),
        };
        let cancel = cancel.clone();
        drain.tasks.spawn(async move {
            let opened = listening.open(&context.port.parameters.mark, &cancel).await;
            if let Some(listener) = opened {
                listener::listen(listener, context, cancel).await;
            }
        });
    }
    supervisors
}
