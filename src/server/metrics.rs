//! What the server reports about itself: its readiness and its metrics.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::server_role::ServerRole;
use crate::metrics::{MetricFamilies, ObservedRole};

/// The server as its admin address reports it. Clones share it. It has nothing to report before the
/// server runs.
#[derive(Clone, Default)]
pub struct ServerObserver(Arc<OnceLock<ServerRole>>);

impl ServerObserver {
    /// Starts to report a role.
    pub(super) fn observe(&self, role: &ServerRole) {
        // A server runs once.
        let _ = self.0.set(role.clone());
    }
}

impl fmt::Debug for ServerObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerObserver")
            .finish_non_exhaustive()
    }
}

impl ObservedRole for ServerObserver {
    fn name(&self) -> &'static str {
        "server"
    }

    fn missing(&self) -> Vec<String> {
        self.0.get().map_or_else(
            || vec!["the server is starting".to_owned()],
            ServerRole::missing,
        )
    }

    fn describe(&self, _families: &mut MetricFamilies<'_>) -> fmt::Result {
        Ok(())
    }
}
