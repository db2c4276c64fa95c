//! The client role: listens locally, stays linked to the master, attaches a tunnel for each of its ports, and carries what connects into it.
//!
//! Listeners stay from the start to the end; one whose address is taken follows when it is free. A connection that comes while nothing carries the port's tunnel is held for a while, and
//! reset when nothing does by then.

mod bind;
pub mod direct;
mod held;
mod listener;
mod orphans;
mod port;
mod refused;
#[cfg(test)]
mod tests;
mod visitor;
mod wish;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{held::Queue, orphans::Orphans, port::Port, visitor::Visitor};
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

/// A client that listens for at least one of its ports.
pub struct Client {
    uplink: Uplink,
    ports: Vec<(PortParameters, Listening)>,
    hold_timeout: Duration,
}

/// Whether a port has its local address.
enum Listening {
    Here(TcpListener),
    /// Its address is taken, or not there yet: it is tried again.
    Later(bind::Address),
}

impl Client {
    /// Opens the listeners. One whose address cannot be listened at now is tried again while the client runs.
    ///
    /// # Errors
    /// When no port has a listener: the first one is named with its mark.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn bind(parameters: ClientParameters) -> Result<Self, ListenError> {
        let all = bind::Addresses::resolve(
            parameters
                .ports
                .iter()
                .map(|port| port.local_address.as_str()),
        )
        .await;
        let (mut ports, mut failed) = (Vec::new(), Vec::new());
        for ClientPort {
            port,
            local_address,
        } in parameters.ports
        {
            let address = all.of(local_address);
            match address.listen().await {
                Ok(listener) => ports.push((port, Listening::Here(listener))),
                Err(source) => {
                    failed.push(ListenError {
                        mark: port.mark.to_string(),
                        local_address: address.to_string(),
                        source,
                    });
                    ports.push((port, Listening::Later(address)));
                }
            }
        }
        if failed.len() == ports.len()
            && let Some(error) = failed.pop()
        {
            return Err(error);
        }
        for error in failed {
            warn!("{error}; the client starts without this port and tries again");
        }
        Ok(Client {
            uplink: parameters.uplink,
            ports,
            hold_timeout: parameters.hold_timeout,
        })
    }

    /// Where the ports listen, in the order of the configuration.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let address = |listening: &Listening| match listening {
            Listening::Here(listener) => listener.local_addr().ok(),
            Listening::Later(_) => None,
        };
        self.ports
            .iter()
            .filter_map(|(_, listening)| address(listening))
            .collect()
    }

    /// Runs until `cancel` is cancelled; the connections then have the `grace` period to end.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the link; tasks that were spawned end soon after.
    pub async fn run(self, cancel: CancellationToken, grace: Duration) {
        let Client {
            uplink,
            ports,
            hold_timeout,
        } = self;
        let drain = Drain::default();
        let (mut visited, orphans, trouble) =
            (Vec::new(), Arc::new(Orphans::default()), Arc::default());
        for (port, listening) in ports {
            let port = Port::new(port, &drain.tasks, &drain.stop);
            visited.push(Arc::clone(&port));
            let context = listener::Context {
                port,
                hold_timeout,
                trouble: Arc::clone(&trouble),
                queue: Queue::default(),
                orphans: Arc::clone(&orphans),
                streams: drain.streams.clone(),
                stop: drain.stop.clone(),
            };
            let cancel = cancel.clone();
            drain.tasks.spawn(async move {
                let listener = match listening {
                    Listening::Here(listener) => Some(listener),
                    Listening::Later(address) => {
                        cancel
                            .run_until_cancelled(
                                address.listen_in_the_end(&context.port.parameters.mark),
                            )
                            .await
                    }
                };
                if let Some(listener) = listener {
                    listener::listen(listener, context, cancel).await;
                }
            });
        }
        let visitor = Visitor::new(
            visited.clone(),
            uplink.mover.clone(),
            &drain.tasks,
            &drain.stop,
        );
        let farewell = async move {
            futures_util::future::join_all(visited.iter().map(|port| port.end())).await;
        };
        // The listeners have seen `cancel` too.
        drain
            .run(
                vec![uplink],
                Arc::new(visitor),
                &cancel,
                grace,
                || {},
                farewell,
            )
            .await;
    }
}
