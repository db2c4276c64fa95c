//! The server role: keeps links to the masters, registers its ports, answers the clients that
//! attach, and connects each of their streams to the local service.

mod proxy_protocol;
mod quota;
mod server_role;
mod service;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub use self::quota::QuotaLimits;
#[cfg(test)]
pub(crate) use self::server_role::MAX_CANDIDATES;
use self::server_role::ServerRole;
use crate::{
    supervisor::{Uplink, drain::Drain},
    tunnel::PortParameters,
};
use report_proto::id::Id;

/// A port that the server offers.
#[derive(Debug)]
pub struct ServerPort {
    /// The parameters shared with the clients.
    pub port: PortParameters,
    /// Host of the local service: an IP address, or a name that is resolved for each stream.
    pub host: String,
    /// TCP port of the local service.
    pub tcp_port: u16,
    /// Whether the service receives the source of each connection, in a PROXY protocol version 2
    /// header before the first byte.
    pub proxy_protocol: bool,
}

/// The parameters of a server.
pub struct ServerParameters {
    /// Instance id of this process.
    pub instance: Id,
    /// The connections to the masters. The server keeps a link to each of them, so that the clients
    /// of any master find it.
    pub uplinks: Vec<Uplink>,
    /// The ports by key id.
    pub ports: HashMap<Id, Arc<ServerPort>>,
    /// How long to wait for a local service to accept a connection.
    pub connect_timeout: Duration,
    /// Limits on the streams and tunnels of clients.
    pub limits: QuotaLimits,
    /// Whether clients may measure the path to this server (PROTOCOL 9.10).
    pub bench: bool,
}

/// Runs a server until `cancel` is cancelled. Its streams then have the `grace` period to end.
///
/// # Cancel safety
/// Dropping the future cuts the links. Tasks that were spawned end soon after.
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
    let role = ServerRole::new(instance, ports, connect_timeout, limits, bench, &drain);
    let (draining, tunnels) = (role.draining(), role.tunnels());
    drain
        .run(
            uplinks,
            Arc::new(role),
            &cancel,
            grace,
            || draining.start(),
            async move { tunnels.end().await },
        )
        .await;
}
