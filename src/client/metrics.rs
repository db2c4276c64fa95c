//! What the client reports about itself: its readiness and its metrics.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tokio_util::sync::CancellationToken;

use super::{client_role::LinksInUse, port::PortSupervisor};
use crate::metrics::{MetricFamilies, ObservedRole};

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

    fn describe(&self, _families: &mut MetricFamilies<'_>) -> fmt::Result {
        Ok(())
    }
}
