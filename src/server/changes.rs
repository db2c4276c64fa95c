//! Changes of the configuration of a running server.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    PortChange, ServerChange,
    port::{PortMap, ServerPort},
    server_role::ServerRole,
    settings::ServerSettings,
    targets,
};
use crate::{
    grace::Grace,
    supervisor::{
        LinkPool,
        changes::{ChangeError, Changes},
    },
};
use report_proto::id::Id;

/// Interval between checks whether the tunnels of a removed port have streams.
const REMOVED_PORT_CHECK: Duration = Duration::from_millis(500);

/// The tasks of the ports: their health checks, and the drains of removed ports. They end when the
/// drain of the server begins.
pub(super) struct PortTasks {
    tasks: TaskTracker,
    until: CancellationToken,
    running: HashMap<Id, (Arc<ServerPort>, CancellationToken)>,
}

impl PortTasks {
    /// Creates the tasks of a server without ports. They run on `tasks` until `until` is cancelled.
    pub(super) fn new(tasks: &TaskTracker, until: &CancellationToken) -> Self {
        PortTasks {
            tasks: tasks.clone(),
            until: until.clone(),
            running: HashMap::new(),
        }
    }

    /// Checks these ports from now on. The checks of a port that is the same continue.
    pub(super) fn check(&mut self, ports: &PortMap) {
        self.running.retain(|id, (checked, until)| {
            let is_same = ports.get(id).is_some_and(|port| Arc::ptr_eq(port, checked));
            if !is_same {
                until.cancel();
            }
            is_same
        });
        for (id, port) in ports {
            if !self.running.contains_key(id) {
                let until = self.until.child_token();
                targets::start_health_checks(port, &self.tasks, until.clone());
                self.running.insert(*id, (Arc::clone(port), until));
            }
        }
    }
}

impl PortTasks {
    /// Ends the tunnels of a removed port after their last streams, and all of them after `grace`.
    fn drain(&self, role: &ServerRole, id: Id, grace: Duration) {
        let (tunnels, ports) = (role.tunnels(), role.offered().clone());
        let until = self.until.clone();
        let drained = async move {
            let deadline = Instant::now() + grace;
            // The port may be added again.
            while ports.get(id).is_none() {
                let is_over = Instant::now() >= deadline;
                if !tunnels.end_removed(id, is_over) {
                    return;
                }
                sleep(REMOVED_PORT_CHECK.min(deadline.saturating_duration_since(Instant::now())))
                    .await;
            }
        };
        self.tasks.spawn(async move {
            until.run_until_cancelled(drained).await;
        });
    }
}

/// Applies the changes of the configuration until the server ends. Never returns.
pub(super) async fn apply_changes(
    changes: &mut Changes<ServerChange>,
    role: &ServerRole,
    links: &LinkPool<ServerRole>,
    port_tasks: &mut PortTasks,
    grace: &Grace,
) {
    loop {
        let (change, answer) = changes.next().await.into_parts();
        let outcome = if role.draining().has_started() {
            Err(ChangeError::Draining)
        } else {
            apply(change, role, links, port_tasks, grace);
            Ok(())
        };
        // The process may have stopped waiting.
        let _ = answer.send(outcome);
    }
}

fn apply(
    change: ServerChange,
    role: &ServerRole,
    links: &LinkPool<ServerRole>,
    port_tasks: &mut PortTasks,
    grace: &Grace,
) {
    let ServerChange {
        ports,
        connect_timeout,
        limits,
        bench,
        link_sets,
    } = change;
    let ports = changed_ports(&role.ports(), ports);
    port_tasks.check(&ports);
    let settings = ServerSettings {
        connect_timeout,
        bench,
    };
    for port in role.change(ports, settings, limits) {
        let grace = grace.get();
        info!(port = %port.port.mark, grace_s = grace.as_secs_f32(), "port removed");
        port_tasks.drain(role, port.port.keys.id, grace);
    }
    if let Some(link_sets) = link_sets {
        links.replace(link_sets);
    }
}

/// Returns the ports from now on. Those without a change are the present ones.
fn changed_ports(present: &PortMap, changes: Vec<PortChange>) -> PortMap {
    let mut ports = PortMap::new();
    for change in changes {
        match change {
            PortChange::Untouched(id) => {
                ports.extend(present.get(&id).map(|port| (id, Arc::clone(port))));
            }
            PortChange::Changed(port) => {
                ports.insert(port.port.keys.id, Arc::new(*port));
            }
        }
    }
    ports
}
