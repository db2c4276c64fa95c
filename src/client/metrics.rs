//! The readiness and the metrics of the client.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tokio_util::sync::CancellationToken;

use super::{client_role::LinksInUse, port::PortSupervisor};
use crate::{
    metrics::{MetricFamilies, ObservedRole, Sample},
    tunnel::{self, Tunnel},
};

/// The client as its admin address reports it. Clones share it. It has nothing to report before the
/// client runs.
#[derive(Clone, Default)]
pub struct ClientObserver(Arc<OnceLock<RunningClient>>);

/// The parts of a running client that are reported.
pub(super) struct RunningClient {
    pub(super) ports: Vec<Arc<PortSupervisor>>,
    pub(super) links: Arc<LinksInUse>,
    /// Cancelled when the client drains.
    pub(super) cancel: CancellationToken,
}

impl ClientObserver {
    /// Starts to report a client.
    pub(super) fn observe(&self, client: RunningClient) {
        // A client runs once.
        let _ = self.0.set(client);
    }
}

impl fmt::Debug for ClientObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientObserver")
            .finish_non_exhaustive()
    }
}

impl RunningClient {
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

    /// Writes the metrics of the client.
    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        families.gauge_of_counts(
            "report_links",
            "Links that are up.",
            [Sample::labelled(
                [("peer", "master".to_owned())],
                self.links.count(),
            )],
        )?;
        families.counter(
            "report_established_links",
            "Links that were established.",
            [Sample::labelled(
                [("peer", "master".to_owned())],
                self.links.established(),
            )],
        )?;
        families.gauge_of_counts(
            "report_ports",
            "Configured ports.",
            [Sample::of(self.ports.len())],
        )?;
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

impl ObservedRole for ClientObserver {
    fn name(&self) -> &'static str {
        "client"
    }

    fn missing(&self) -> Vec<String> {
        self.0.get().map_or_else(
            || vec!["the client is starting".to_owned()],
            RunningClient::missing,
        )
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        self.0
            .get()
            .map_or(Ok(()), |client| client.describe(families))
    }
}
