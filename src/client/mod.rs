//! The client role: listens locally, stays linked to the master, attaches a tunnel for each of its ports, and carries what connects into it.
//!
//! The listeners stand from the start to the end. A connection that comes while nothing carries the port's tunnel is held for a while, and
//! reset when nothing does by then.

pub mod direct;
mod listener;
mod port;
#[cfg(test)]
mod tests;
mod visitor;
mod wish;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{port::Port, visitor::Visitor};
use crate::{
    link::{drain::Drain, uplink::Uplink},
    tunnel::PortParameters,
};

/// A port that the client listens for.
#[derive(Debug)]
pub struct ClientPort {
    /// What both ends configure.
    pub port: PortParameters,
    /// Where to listen: a host name or IP address and a TCP port.
    pub local_address: String,
}

/// What a client needs.
pub struct ClientParameters {
    /// The way to the masters.
    pub uplink: Uplink,
    /// Its ports.
    pub ports: Vec<ClientPort>,
    /// How long a connection waits for a tunnel.
    pub hold_timeout: Duration,
}

/// A local address cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error(
    "port \"{mark}\": cannot listen at `local_address` {local_address}: {source}; \
     choose another address or stop the program that uses it"
)]
pub struct ListenError {
    mark: String,
    local_address: String,
    source: std::io::Error,
}

/// A client whose listeners stand.
pub struct Client {
    uplink: Uplink,
    ports: Vec<(PortParameters, TcpListener)>,
    hold_timeout: Duration,
}

impl Client {
    /// Opens all listeners, or none.
    ///
    /// # Errors
    /// When an address is in use or cannot be listened at; it is named with its port's mark.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn bind(parameters: ClientParameters) -> Result<Self, ListenError> {
        let mut ports = Vec::new();
        for ClientPort { port, local_address } in parameters.ports {
            let listener = TcpListener::bind(&local_address).await.map_err(|source| ListenError {
                mark: port.mark.to_string(),
                local_address,
                source,
            })?;
            ports.push((port, listener));
        }
        Ok(Client { uplink: parameters.uplink, ports, hold_timeout: parameters.hold_timeout })
    }

    /// Where the ports listen, in the order of the configuration.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.ports.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect()
    }

    /// Runs until `cancel` is cancelled; the connections then have the `grace` period to end.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the link; tasks that were spawned end soon after.
    pub async fn run(self, cancel: CancellationToken, grace: Duration) {
        let Client { uplink, ports, hold_timeout } = self;
        let drain = Drain::default();
        let mut visited = Vec::new();
        for (port, listener) in ports {
            let port = Port::new(port, &drain.tasks, &drain.stop);
            visited.push(Arc::clone(&port));
            let context = listener::Context { port, hold_timeout, streams: drain.streams.clone(), stop: drain.stop.clone() };
            drain.tasks.spawn(listener::listen(listener, context, cancel.clone()));
        }
        let visitor = Visitor::new(visited.clone(), uplink.mover.clone(), &drain.tasks, &drain.stop);
        let farewell = async move {
            futures_util::future::join_all(visited.iter().map(|port| port.end())).await;
        };
        // The listeners have seen `cancel` too.
        drain.run(vec![uplink], Arc::new(visitor), &cancel, grace, || {}, farewell).await;
    }
}
