//! The client role: listens locally, keeps links to a master, attaches a tunnel for each port, and
//! carries local connections into it.
//!
//! Listeners stay open until the client ends. A listener whose address is unavailable follows when
//! the address is free. A connection that arrives while the port has no tunnel waits for
//! `hold_timeout`, and is then reset. A datagram waits for `max_delay`, and is then dropped.

mod bind;
mod client_role;
pub mod direct;
mod hold_queue;
mod listener;
mod metrics;
mod orphans;
pub mod pipe;
mod port;
mod socks;
#[cfg(test)]
mod tests;
mod udp;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::bind::PortAddress;
use self::{
    bind::BoundListener, client_role::ClientRole, hold_queue::HoldQueue, metrics::RunningClient,
    orphans::Orphans, port::PortSupervisor, socks::SocksProxy, udp::DatagramPort,
};
use crate::{
    config::{ClientConfig, SocksUser},
    metrics::RoleObserver,
    supervisor::{LinkSet, Uplink, drain::Drain},
    tunnel::{PortParameters, ServiceProtocol},
};

/// A port at which the client listens.
#[derive(Debug)]
pub struct ClientPort {
    /// The parameters shared with the server.
    pub port: PortParameters,
    /// The listen address, or the range of ports to listen at.
    pub local_address: PortAddress,
    /// The user that applications must authenticate as at a proxy; `None` serves all.
    pub socks_user: Option<SocksUser>,
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
#[error(
    "port \"{mark}\": cannot listen at `local_address` {local_address}: {source}{remedy}{}",
    other_addresses(.others)
)]
pub struct ListenError {
    mark: String,
    local_address: String,
    source: std::io::Error,
    remedy: &'static str,
    /// How many other addresses of the port are unavailable too.
    others: usize,
}

fn other_addresses(others: &usize) -> String {
    match others {
        0 => String::new(),
        1 => "; 1 other port of its range is unavailable too".to_owned(),
        others => format!("; {others} other ports of its range are unavailable too"),
    }
}

/// A client that listens for at least one of its ports.
pub struct Client {
    link_set: LinkSet,
    ports: Vec<BoundPort>,
    hold_timeout: Duration,
    observer: RoleObserver,
}

/// A port with its listeners.
struct BoundPort {
    port: PortParameters,
    proxy: Option<Arc<SocksProxy>>,
    listeners: Vec<PortListener>,
}

/// The listener of one address of a port, or its UDP socket.
struct PortListener {
    /// The number of the address in the range of the port.
    offset: u16,
    state: ListenerState,
}

enum ListenerState {
    Bound(BoundListener),
    /// The address is unavailable. The client retries it while it runs.
    Pending(bind::BindAddress),
}

impl PortListener {
    /// Listens at all addresses of a port. Also returns the error of the first one that is
    /// unavailable.
    async fn bind(
        mark: &str,
        addresses: Vec<bind::BindAddress>,
    ) -> (Vec<Self>, Option<ListenError>) {
        let (mut listeners, mut failed) = (Vec::<Self>::new(), None::<ListenError>);
        for mut address in addresses {
            if let Some(streams) = listeners.last().and_then(Self::bound) {
                address.follow(streams);
            }
            let offset = address.offset;
            let state = match address.listen().await {
                Ok(listener) => ListenerState::Bound(listener),
                Err(source) => {
                    match &mut failed {
                        Some(first) => first.others += 1,
                        None => {
                            failed = Some(ListenError {
                                mark: mark.to_owned(),
                                local_address: address.to_string(),
                                remedy: address.remedy(&source),
                                source,
                                others: 0,
                            });
                        }
                    }
                    ListenerState::Pending(address)
                }
            };
            listeners.push(PortListener { offset, state });
        }
        (listeners, failed)
    }

    /// Returns the listener once its address is available. Returns `None` if `cancel` is cancelled
    /// before that.
    async fn open(self, mark: &str, cancel: &CancellationToken) -> Option<BoundListener> {
        match self.state {
            ListenerState::Bound(listener) => Some(listener),
            ListenerState::Pending(address) => {
                cancel
                    .run_until_cancelled(address.listen_with_retry(mark))
                    .await
            }
        }
    }

    fn bound(&self) -> Option<&BoundListener> {
        match &self.state {
            ListenerState::Bound(listener) => Some(listener),
            ListenerState::Pending(_) => None,
        }
    }
}

impl Client {
    /// Opens the listeners. Addresses that are unavailable now are retried while the client runs.
    ///
    /// # Errors
    /// When no address of any port has a listener. The error names one of the ports.
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
            socks_user,
        } in parameters.ports
        {
            let addresses = all.of(&local_address, port.protocol);
            let (listeners, error) = PortListener::bind(&port.mark, addresses).await;
            let is_proxy = port.protocol == ServiceProtocol::Socks5;
            ports.push(BoundPort {
                port,
                proxy: is_proxy.then(|| Arc::new(SocksProxy::new(socks_user.as_ref()))),
                listeners,
            });
            failed.extend(error);
        }
        let mut all_listeners = ports.iter().flat_map(|port| &port.listeners);
        if all_listeners.all(|listener| listener.bound().is_none())
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

    /// Returns the IP addresses at which the ports listen, in the order of the configuration and of
    /// the ports in a range.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.ports.iter().flat_map(|port| &port.listeners);
        let bound = listeners.filter_map(PortListener::bound);
        let mut addresses: Vec<_> = bound.filter_map(BoundListener::local_addr).collect();
        // Connections and datagrams have the same address.
        addresses.dedup();
        addresses
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

/// Starts the supervisor and the listeners of each port. A tunnel may have up to `max_lanes` lanes at
/// the server's request. The listeners accept connections until `cancel` is cancelled. Returns the
/// supervisors.
fn start_ports(
    ports: Vec<BoundPort>,
    max_lanes: usize,
    hold_timeout: Duration,
    drain: &Drain,
    cancel: &CancellationToken,
) -> Vec<Arc<PortSupervisor>> {
    let (mut supervisors, orphans, descriptor_log) =
        (Vec::new(), Arc::new(Orphans::default()), Arc::default());
    for BoundPort {
        port,
        proxy,
        listeners,
    } in ports
    {
        let port = PortSupervisor::new(port, max_lanes, &drain.tasks, &drain.stop);
        supervisors.push(Arc::clone(&port));
        port.expect_listeners(listeners.len());
        let datagrams = DatagramPort::new(Arc::clone(&port), &drain.tasks, &drain.stop);
        // The connections to all addresses of the port enter one tunnel, so they wait in one queue.
        let context = listener::ListenerContext {
            port,
            offset: 0,
            proxy,
            hold_timeout,
            descriptor_log: Arc::clone(&descriptor_log),
            queue: HoldQueue::default(),
            orphans: Arc::clone(&orphans),
            streams: drain.streams.clone(),
            stop: drain.stop.clone(),
        };
        for listener in listeners {
            let context = listener::ListenerContext {
                offset: listener.offset,
                ..context.clone()
            };
            let datagrams = Arc::clone(&datagrams);
            drain
                .tasks
                .spawn(run_listener(listener, context, datagrams, cancel.clone()));
        }
    }
    supervisors
}

/// Accepts connections or receives datagrams as soon as the address is available, until `cancel` is
/// cancelled.
async fn run_listener(
    listener: PortListener,
    context: listener::ListenerContext,
    datagrams: Arc<DatagramPort>,
    cancel: CancellationToken,
) {
    let name = context.port.parameters.numbered_mark(context.offset);
    match listener.open(&name, &cancel).await {
        Some(BoundListener::Streams(listener)) => {
            listener::listen(listener, context, cancel).await;
        }
        Some(BoundListener::Datagrams(socket)) => {
            udp::receive(socket, context.offset, datagrams, cancel).await;
        }
        None => {}
    }
}
