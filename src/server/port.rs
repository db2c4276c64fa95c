//! A port that the server offers, and the frames that register it.

use std::{collections::HashMap, sync::Arc};

use super::{allow_list::AllowList, targets::ServiceTargets};
use crate::{config::Target, tunnel::PortParameters};
use report_proto::{
    frame::{Frame, MAX_PORTS_PER_FRAME, Ports},
    id::Id,
};

/// A port that the server offers.
#[derive(Debug)]
pub struct ServerPort {
    /// The parameters shared with the clients.
    pub port: PortParameters,
    /// Where the streams of the port go.
    pub service: Service,
    /// Whether the service receives the source of each connection, in a PROXY protocol version 2
    /// header before the first byte.
    pub proxy_protocol: bool,
}

/// Where the streams of a port go. A name is resolved for each stream.
#[derive(Debug)]
pub enum Service {
    /// To the addresses of the local service.
    Targets(ServiceTargets),
    /// To the destinations that applications name, under these rules.
    Destinations(AllowList),
}

impl From<ServiceTargets> for Service {
    fn from(targets: ServiceTargets) -> Self {
        Service::Targets(targets)
    }
}

impl From<Target> for Service {
    fn from(target: Target) -> Self {
        Service::Targets(target.into())
    }
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
