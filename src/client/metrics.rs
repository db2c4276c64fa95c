//! The readiness and the metrics of the client.

use std::{fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{client_role::LinksInUse, port::PortSupervisor};
use crate::{
    metrics::{MetricFamilies, RunningRole, Sample},
    tunnel::{self, Tunnel},
};

/// The parts of a running client that are reported.
pub(super) struct RunningClient {
    pub(super) ports: Vec<Arc<PortSupervisor>>,
    pub(super) links: Arc<LinksInUse>,
    /// Cancelled when the client drains.
    pub(super) cancel: CancellationToken,
}

impl RunningRole for RunningClient {
    fn missing(&self) -> Vec<String> {
        if self.cancel.is_cancelled() {
            return vec!["the client is draining".to_owned()];
        }
        let closed = self.ports.iter().filter(|port| !port.is_listening());
        let mut missing: Vec<String> = closed
            .map(|port| format!("port \"{}\" does not listen", port.parameters.mark))
            .collect();
        if self.links.count() == 0 {
            missing.push("no link to a master".to_owned());
        }
        missing
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        families.links_to_masters(self.links.count(), self.links.established())?;
        families.configured_ports(self.ports.len())?;
        let listening = self.ports.iter().filter(|port| port.is_listening());
        families.gauge_of_counts(
            "report_listening_ports",
            "Ports that have a listener.",
            [Sample::of(listening.count())],
        )?;
        let tunnels: Vec<Tunnel> = self.ports.iter().flat_map(|port| port.tunnels()).collect();
        let ports: Vec<_> = self.ports.iter().map(|port| &port.parameters).collect();
        // A client without ports has no tunnels. A configuration has at least one port.
        match ports.first() {
            Some(first) => {
                tunnel::metrics::describe(families, &ports, &tunnels, &first.process_shared)
            }
            None => Ok(()),
        }
    }
}
