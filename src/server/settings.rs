//! The settings of a server that a change of the configuration replaces at once.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// The settings of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerSettings {
    /// How long to wait for a local service to accept a connection.
    pub connect_timeout: Duration,
    /// Whether benchmark streams of further tunnels are served.
    pub bench: bool,
}

/// The present settings. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct SharedSettings(Arc<RwLock<ServerSettings>>);

impl SharedSettings {
    /// Creates the settings of a server.
    pub(super) fn new(settings: ServerSettings) -> Self {
        SharedSettings(Arc::new(RwLock::new(settings)))
    }

    /// Returns the present settings.
    pub(super) fn get(&self) -> ServerSettings {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the settings.
    pub(super) fn set(&self, settings: ServerSettings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }
}
