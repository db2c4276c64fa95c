//! The server role: stays linked to the master, registers its ports, answers the clients that attach, and dials the local service for each stream
//! that they open.

mod agent;
mod proxy_protocol;
mod quota;
mod service;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::agent::Agent;
#[cfg(test)]
pub(crate) use self::agent::CANDIDATES;
pub use self::quota::ServerLimits;
use crate::{
    id::Id,
    link::{drain::Drain, uplink::Uplink},
    tunnel::PortParameters,
};

/// A port that the server offers.
#[derive(Debug)]
pub struct ServerPort {
    /// What both ends configure.
    pub port: PortParameters,
    /// The host of the local service: a name, which is resolved for each stream, or an IP address.
    pub host: String,
    /// Its TCP port.
    pub tcp_port: u16,
    /// Whether the service hears where a connection comes from, in a header of the PROXY protocol, version 2, before its first byte.
    pub proxy_protocol: bool,
}

/// What a server needs.
pub struct ServerParameters {
    /// This process.
    pub instance: Id,
    /// The ways to the masters: it is linked to each of them at the same time, so that clients of any find it.
    pub uplinks: Vec<Uplink>,
    /// The ports by their key ids.
    pub ports: HashMap<Id, Arc<ServerPort>>,
    /// How long a local service may take to answer.
    pub connect_timeout: Duration,
    /// What clients may have at most.
    pub limits: ServerLimits,
    /// Whether clients may measure the way to this server (PROTOCOL 9.10).
    pub bench: bool,
}

/// Runs a server until `cancel` is cancelled; its streams then have the `grace` period to end.
///
/// # Cancel safety
/// Dropping the future cuts the link; tasks that were spawned end soon after.
pub async fn run(parameters: ServerParameters, cancel: CancellationToken, grace: Duration) {
    let ServerParameters {
        instance,
        uplinks,
        ports,
        connect_timeout,
        limits,
        bench,
    } = parameters;
    let drain = Drain::default();
    let agent = Agent::new(instance, ports, connect_timeout, limits, bench, &drain);
    let (draining, tunnels) = (agent.draining(), agent.tunnels());
    drain
        .run(
            uplinks,
            Arc::new(agent),
            &cancel,
            grace,
            || draining.begin(),
            async move { tunnels.end().await },
        )
        .await;
}
