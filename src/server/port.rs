//! A port that the server offers, and the frames that register it.

use std::{collections::HashMap, sync::Arc};

use super::targets::ServiceTargets;
use crate::tunnel::PortParameters;
use report_proto::{
    frame::{Frame, MAX_PORTS_PER_FRAME, Ports},
    id::Id,
};

/// A port that the server offers.
#[derive(Debug)]
pub struct ServerPort {
    /// The parameters shared with the clients.
    pub port: PortParameters,
    /// The addresses of the local service. A name is resolved for each stream.
    pub service: ServiceTargets,
    /// Whether the service receives the source of each connection, in a PROXY protocol version 2
    /// header before the first byte.
    pub proxy_protocol: bool,
}

/// Returns the frames that carry the ids of all ports.
pub(super) fn ports_frames(
    ports: &HashMap<Id, Arc<ServerPort>>,
    frame: impl Fn(Ports) -> Frame,
) -> Vec<Frame> {
    let ids: Vec<Id> = ports.keys().copied().collect();
    ids.chunks(MAX_PORTS_PER_FRAME)
        .map(|ids| {
            frame(Ports {
                ports: ids.to_vec(),
            })
        })
        .collect()
}
