//! Reports a role that its admin address serves before it runs.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{MetricFamilies, ObservedRole};

/// A role that runs.
pub trait RunningRole: Send + Sync + 'static {
    /// Returns what is missing until the role can work: see [`ObservedRole::missing`].
    fn missing(&self) -> Vec<String>;

    /// Writes the metrics of the role.
    ///
    /// # Errors
    /// When the encoder fails.
    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result;
}

/// A role as its admin address reports it. Clones share it. It has nothing to report before the role
/// runs.
#[derive(Clone)]
pub struct RoleObserver {
    name: &'static str,
    running: Arc<OnceLock<Box<dyn RunningRole>>>,
}

impl RoleObserver {
    /// Creates the observer of a role with this name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        RoleObserver {
            name,
            running: Arc::default(),
        }
    }

    /// Starts to report a role.
    pub fn observe(&self, role: impl RunningRole) {
        // A role runs once.
        let _ = self.running.set(Box::new(role));
    }
}

impl fmt::Debug for RoleObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RoleObserver")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ObservedRole for RoleObserver {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Vec<String> {
        self.running.get().map_or_else(
            || vec![format!("the {} is starting", self.name)],
            |role| role.missing(),
        )
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        self.running
            .get()
            .map_or(Ok(()), |role| role.describe(families))
    }
}
