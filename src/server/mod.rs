//! The server role: keeps links to the masters, registers its ports, answers the clients that
//! attach, and connects each of their streams to the local service.

mod allow_list;
mod changes;
mod destination;
mod dial;
mod draining;
mod metrics;
mod port;
mod quota;
mod registrations;
mod server_role;
mod service;
mod settings;
mod special_block;
mod targets;
mod tunnels;
mod udp;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use self::tunnels::MAX_CANDIDATES;
pub use self::{
    allow_list::AllowList,
    dial::connect_target,
    port::{ServerPort, Service},
    quota::QuotaLimits,
    targets::ServiceTargets,
};
use self::{
    changes::{PortTasks, apply_changes},
    server_role::ServerRole,
    settings::ServerSettings,
};
use crate::{
    config::ServerConfig,
    grace::Grace,
    metrics::RoleObserver,
    supervisor::{
        LinkPool, LinkSet, Uplink,
        changes::{ChangeSender, Changes},
        drain::Drain,
    },
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
    /// Changes of the configuration while the server runs.
    pub changes: Changes<ServerChange>,
}

/// A change of a running server.
pub struct ServerChange {
    /// All ports from now on.
    pub ports: Vec<PortChange>,
    /// How long to wait for a local service to accept a connection.
    pub connect_timeout: Duration,
    /// Limits on the streams and tunnels of clients.
    pub limits: QuotaLimits,
    /// Whether clients may measure the path to this server.
    pub bench: bool,
    /// The links that replace the present ones, if they change.
    pub link_sets: Option<Vec<LinkSet>>,
}

/// One port after a change.
pub enum PortChange {
    /// The port with this key id stays as it is.
    Untouched(Id),
    /// The port is new, or replaces the one with its key. Later streams of its tunnels use it too.
    Changed(Box<ServerPort>),
}

impl ServerChange {
    /// Creates the change to a configuration. `uplink` is the derived form of its masters if they
    /// change, and `ports` that of its ports.
    #[must_use]
    pub fn new(config: &ServerConfig, uplink: Option<Uplink>, ports: Vec<PortChange>) -> Self {
        Self {
            ports,
            connect_timeout: *config.link.connect_timeout,
            limits: QuotaLimits::new(&config.limits),
            bench: config.bench,
            link_sets: uplink.map(|uplink| link_sets(config, uplink)),
        }
    }
}

fn link_sets(config: &ServerConfig, uplink: Uplink) -> Vec<LinkSet> {
    LinkSet::each(uplink, config.link.links.max())
        .into_iter()
        .map(|link_set| link_set.with_min(config.link.links.min()))
        .collect()
}

/// Changes a running server.
pub type ServerHandle = ChangeSender<ServerChange>;

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
            link_sets: link_sets(config, uplink),
            ports: ports.collect(),
            connect_timeout: *config.link.connect_timeout,
            limits: QuotaLimits::new(&config.limits),
            bench: config.bench,
            observer: RoleObserver::new("server"),
            changes: Changes::default(),
        }
    }

    /// Returns a handle that changes the server while it runs.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.changes.sender()
    }
}

/// Runs a server until `cancel` is cancelled. Its streams then have the `grace` period to end.
///
/// # Cancel safety
/// Dropping the future cuts the links. Tasks that were spawned end soon after.
pub async fn run(parameters: ServerParameters, cancel: CancellationToken, grace: impl Into<Grace>) {
    let ServerParameters {
        instance,
        link_sets,
        ports,
        connect_timeout,
        limits,
        bench,
        observer,
        mut changes,
    } = parameters;
    let (grace, drain): (Grace, _) = (grace.into(), Drain::default());
    let until = drain.stop.child_token();
    let mut port_tasks = PortTasks::new(&drain.tasks, &until);
    port_tasks.check(&ports);
    let settings = ServerSettings {
        connect_timeout,
        bench,
    };
    let role = ServerRole::new(instance, ports, settings, limits, &drain);
    observer.observe(role.clone());
    let (draining, tunnels) = (role.draining(), role.tunnels());
    let links = LinkPool::new(Arc::new(role.clone()), &drain);
    links.start(link_sets);
    let stop_accepting = || {
        draining.start();
        until.cancel();
    };
    let end_tunnels = async move { tunnels.end().await };
    tokio::select! {
        () = drain.run(&links, &cancel, &grace, stop_accepting, end_tunnels) => {}
        () = apply_changes(&mut changes, &role, &links, &mut port_tasks, &grace) => {}
    }
}
