//! A port that the server offers, and the frames that register it.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

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

/// Ports by key id.
pub(super) type PortMap = HashMap<Id, Arc<ServerPort>>;

/// The ports that the server offers now. A change of the configuration replaces them. Clones share
/// them.
#[derive(Clone, Default)]
pub(super) struct OfferedPorts(Arc<RwLock<Arc<PortMap>>>);

impl OfferedPorts {
    /// Creates the ports of a server.
    pub(super) fn new(ports: PortMap) -> Self {
        OfferedPorts(Arc::new(RwLock::new(Arc::new(ports))))
    }

    /// Returns the present ports.
    pub(super) fn all(&self) -> Arc<PortMap> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a present port.
    pub(super) fn get(&self, id: Id) -> Option<Arc<ServerPort>> {
        self.all().get(&id).cloned()
    }

    /// Replaces the ports. Returns the former ones.
    pub(super) fn replace(&self, ports: PortMap) -> Arc<PortMap> {
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *present, Arc::new(ports))
    }
}

/// Returns the frames that carry the ids of all ports.
pub(super) fn ports_frames(ports: &PortMap, frame: impl Fn(Ports) -> Frame) -> Vec<Frame> {
    id_frames(ports.keys().copied(), frame)
}

/// Returns the frames that carry these ids.
pub(super) fn id_frames(
    ids: impl Iterator<Item = Id>,
    frame: impl Fn(Ports) -> Frame,
) -> Vec<Frame> {
    let ids: Vec<Id> = ids.collect();
    ids.chunks(MAX_PORTS_PER_FRAME)
        .map(|ids| {
            frame(Ports {
                ports: ids.to_vec(),
            })
        })
        .collect()
}
