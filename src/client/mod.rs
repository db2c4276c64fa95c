//! The client role: listens locally, keeps links to a master, attaches a tunnel for each port, and
//! carries local connections into it.
//!
//! Listeners stay open until the client ends, or a change of the configuration removes them. A
//! listener whose address is unavailable follows when the address is free. A connection that arrives
//! while the port has no tunnel waits for `hold_timeout`, and is then reset. A datagram waits for
//! `max_delay`, and is then dropped.

mod bind;
mod bound_port;
mod client_role;
pub mod direct;
mod hold_queue;
mod listener;
mod metrics;
mod orphans;
pub mod pipe;
mod port;
mod port_table;
mod running_ports;
mod socks;
#[cfg(test)]
mod tests;
mod udp;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    bind::BoundListener, bound_port::PortListener, client_role::ClientRole, metrics::RunningClient,
    port_table::PortTable, running_ports::RunningPorts,
};
pub use self::{bind::PortAddress, bound_port::ListenError};
use crate::{
    config::{ClientConfig, SocksUser},
    grace::Grace,
    metrics::RoleObserver,
    supervisor::{
        LinkPool, LinkSet, Uplink,
        changes::{ChangeError, ChangeSender, Changes},
        drain::Drain,
    },
    tunnel::PortParameters,
};

/// A port at which the client listens.
#[derive(Debug, Clone)]
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
            link_set: link_set(config, uplink),
            ports,
            hold_timeout: *config.hold_timeout,
            observer: RoleObserver::new("client"),
        }
    }
}

/// A change of a running client.
pub struct ClientChange {
    /// All ports from now on. Those whose parameters are the same are not disturbed.
    pub ports: Vec<ClientPort>,
    /// How long a connection waits for a tunnel.
    pub hold_timeout: Duration,
    /// The links that replace the present ones, if they change.
    pub link_set: Option<LinkSet>,
}

impl ClientChange {
    /// Creates the change to a configuration. `uplink` is the derived form of its masters if they
    /// change, and `ports` that of its ports.
    #[must_use]
    pub fn new(config: &ClientConfig, uplink: Option<Uplink>, ports: Vec<ClientPort>) -> Self {
        Self {
            ports,
            hold_timeout: *config.hold_timeout,
            link_set: uplink.map(|uplink| link_set(config, uplink)),
        }
    }
}

fn link_set(config: &ClientConfig, uplink: Uplink) -> LinkSet {
    LinkSet::new(uplink, config.link.links.max()).with_min(config.link.links.min())
}

/// Changes a running client.
pub type ClientHandle = ChangeSender<ClientChange>;

/// A client that listens for at least one of its ports.
pub struct Client {
    link_set: LinkSet,
    ports: Vec<BoundPort>,
    hold_timeout: Duration,
    observer: RoleObserver,
    changes: Changes<ClientChange>,
}

/// A port with its listeners.
struct BoundPort {
    port: ClientPort,
    listeners: Vec<PortListener>,
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
        for port in parameters.ports {
            let addresses = all.of(&port.local_address, port.port.protocol);
            let (listeners, error) = PortListener::bind(&port.port.mark, addresses).await;
            ports.push(BoundPort { port, listeners });
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
            changes: Changes::default(),
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

    /// Returns how the client reaches its masters.
    #[must_use]
    pub fn uplink(&self) -> &Uplink {
        self.link_set.uplink()
    }

    /// Returns a handle that changes the client while it runs.
    #[must_use]
    pub fn handle(&self) -> ClientHandle {
        self.changes.sender()
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
    pub async fn run(self, cancel: CancellationToken, grace: impl Into<Grace>) {
        let Client {
            link_set,
            ports,
            hold_timeout,
            observer,
            mut changes,
        } = self;
        let grace: Grace = grace.into();
        let (drain, table) = (Drain::default(), PortTable::default());
        let max_lanes = link_set.count().max();
        let mut running = RunningPorts::new(&table, max_lanes, &drain, &cancel, &grace);
        running.start(ports, hold_timeout);
        let role = ClientRole::new(
            table.clone(),
            link_set.uplink().move_requests.clone(),
            &drain.tasks,
            &drain.stop,
        );
        observer.observe(RunningClient {
            ports: table.clone(),
            links: role.links_in_use(),
            cancel: cancel.clone(),
        });
        let links = LinkPool::new(Arc::new(role), &drain);
        links.start(vec![link_set]);
        let end_tunnels = async move {
            let ports = table.all();
            futures_util::future::join_all(ports.iter().map(|port| port.end())).await;
        };
        // The listeners react to `cancel` too.
        tokio::select! {
            () = drain.run(&links, &cancel, &grace, || {}, end_tunnels) => {}
            () = apply_changes(&mut changes, &mut running, &links, &cancel) => {}
        }
    }
}

/// Applies the changes of the configuration until the client ends. Never returns.
async fn apply_changes(
    changes: &mut Changes<ClientChange>,
    running: &mut RunningPorts,
    links: &LinkPool<ClientRole>,
    cancel: &CancellationToken,
) {
    loop {
        let (change, answer) = changes.next().await.into_parts();
        let outcome = if cancel.is_cancelled() {
            Err(ChangeError::Draining)
        } else {
            apply(change, running, links).await
        };
        // The process may have stopped waiting.
        let _ = answer.send(outcome);
    }
}

async fn apply(
    change: ClientChange,
    running: &mut RunningPorts,
    links: &LinkPool<ClientRole>,
) -> Result<(), ChangeError> {
    let ClientChange {
        ports,
        hold_timeout,
        link_set,
    } = change;
    let max_lanes = link_set.as_ref().map(|link_set| link_set.count().max());
    let applied = running.apply(ports, hold_timeout, max_lanes).await;
    applied.map_err(|error| ChangeError::Impossible(error.into()))?;
    if let Some(link_set) = link_set {
        links.replace(vec![link_set]);
    }
    Ok(())
}
