//! The server role: keeps links to the masters, registers its ports, answers the clients that
//! attach, and connects each of their streams to the local service.

mod allow_list;
mod destination;
mod dial;
mod draining;
mod metrics;
mod port;
mod quota;
mod registrations;
mod server_role;
mod service;
mod special_block;
mod targets;
mod tunnels;
mod udp;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::server_role::ServerRole;
#[cfg(test)]
pub(crate) use self::tunnels::MAX_CANDIDATES;
pub use self::{
    allow_list::AllowList,
    dial::connect_target,
    port::{ServerPort, Service},
    quota::QuotaLimits,
    targets::ServiceTargets,
};
use crate::{
    config::ServerConfig,
    metrics::RoleObserver,
    supervisor::{LinkSet, Uplink, drain::Drain},
};
use report_proto::id::Id;

/// The parameters of a server.
pub struct ServerParameters {
    /// Instance id of this process.
    pub instance: Id,
    /// The links to each of the masters. The server is linked to all of them, so that the clients
    /// of any master find it.
    pub link_sets: Vec<LinkSet>,
    /// The ports by key id.
    pub ports: HashMap<Id, Arc<ServerPort>>,
    /// How long to wait for a local service to accept a connection.
    pub connect_timeout: Duration,
    /// Limits on the streams and tunnels of clients.
    pub limits: QuotaLimits,
    /// Whether clients may measure the path to this server (PROTOCOL 9.10).
    pub bench: bool,
    /// Receives what the admin address reports.
    pub observer: RoleObserver,
}

impl ServerParameters {
    /// Creates the parameters of a configuration. `uplink` and `ports` are the derived form of its
    /// masters and ports.
    #[must_use]
    pub fn new(config: &ServerConfig, uplink: Uplink, ports: Vec<ServerPort>) -> Self {
        let ports = ports
            .into_iter()
            .map(|port| (port.port.keys.id, Arc::new(port)));
        Self {
            instance: uplink.instance,
            link_sets: LinkSet::each(uplink, config.link.links.max())
                .into_iter()
                .map(|link_set| link_set.with_min(config.link.links.min()))
                .collect(),
            ports: ports.collect(),
            connect_timeout: *config.link.connect_timeout,
            limits: QuotaLimits::new(&config.limits),
            bench: config.bench,
            observer: RoleObserver::new("server"),
        }
    }
}

/// Runs a server until `cancel` is cancelled. Its streams then have the `grace` period to end.
///
/// # Cancel safety
/// Dropping the future cuts the links. Tasks that were spawned end soon after.
pub async fn run(parameters: ServerParameters, cancel: CancellationToken, grace: Duration) {
    let ServerParameters {
        instance,
        link_sets,
        ports,
        connect_timeout,
        limits,
        bench,
        observer,
    } = parameters;
    let drain = Drain::default();
    let checks = drain.stop.child_token();
    for port in ports.values() {
        targets::start_health_checks(port, &drain.tasks, checks.clone());
    }
    let role = ServerRole::new(instance, ports, connect_timeout, limits, bench, &drain);
    observer.observe(role.clone());
    let (draining, tunnels) = (role.draining(), role.tunnels());
    drain
        .run(
            link_sets,
            Arc::new(role),
            &cancel,
            grace,
            || {
                draining.start();
                checks.cancel();
            },
            async move { tunnels.end().await },
        )
        .await;
}
