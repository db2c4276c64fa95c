//! The server role: stays linked to the master, registers its ports, answers the clients that attach, and dials the local service for each stream
//! that they open.
//!
//! Shutdown flows down: no new streams, then those that are open may end within the grace period, then everything is cut; completion flows up.

mod agent;
mod service;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use self::agent::Agent;
use crate::{id::Id, link::uplink::Uplink, tunnel::PortParameters};

/// A port that the server offers.
#[derive(Debug)]
pub struct ServerPort {
    /// What both ends configure.
    pub port: PortParameters,
    /// The host of the local service: a name, which is resolved for each stream, or an IP address.
    pub host: String,
    /// Its TCP port.
    pub tcp_port: u16,
}

/// What a server needs.
pub struct ServerParameters {
    /// The way to the masters.
    pub uplink: Uplink,
    /// The ports by their key ids.
    pub ports: HashMap<Id, Arc<ServerPort>>,
    /// How long a local service may take to answer.
    pub connect_timeout: Duration,
}

/// Runs a server until `cancel` is cancelled; its streams then have the `grace` period to end.
///
/// # Cancel safety
/// Dropping the future cuts the link; tasks that were spawned end soon after.
pub async fn run(parameters: ServerParameters, cancel: CancellationToken, grace: Duration) {
    let ServerParameters { uplink, ports, connect_timeout } = parameters;
    let stop = CancellationToken::new();
    let _stopped_when_dropped = stop.clone().drop_guard();
    let tasks = TaskTracker::new();
    let streams = TaskTracker::new();
    let mut agent = Agent::new(uplink.instance, ports, connect_timeout, &tasks, &streams, &stop);
    let draining = agent.draining();
    let linked = async {
        uplink.run(&mut agent, &stop).await;
    };
    let drained = async {
        cancel.cancelled().await;
        draining.begin();
        info!(streams = streams.len(), grace_s = grace.as_secs(), "ending: no new streams");
        streams.close();
        let _ = tokio::time::timeout(grace, streams.wait()).await;
        stop.cancel();
    };
    tokio::join!(linked, drained);
    streams.wait().await;
    tasks.close();
    tasks.wait().await;
}
