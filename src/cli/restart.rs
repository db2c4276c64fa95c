//! SIGUSR2 of a master: a new process takes over without a pause.

use std::future::pending;

use crate::{master::MasterHandle, systemd::Notifier};

/// Restarts `master` at each SIGUSR2 until a new process has taken over. Never returns.
///
/// # Cancel safety
/// Not safe: see [`MasterHandle::restart`].
#[cfg(unix)]
pub(super) async fn restart_on_signal(master: Option<&MasterHandle>, notifier: &Notifier) {
    use tokio::signal::unix::{SignalKind, signal};
    let Some(master) = master else {
        return pending().await;
    };
    match signal(SignalKind::user_defined2()) {
        Ok(mut requests) => {
            while requests.recv().await.is_some() {
                if let Err(error) = master.restart(notifier).await {
                    tracing::error!("not restarted: {error}");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "cannot receive SIGUSR2"),
    }
    pending().await
}

/// Waits forever: this system has no SIGUSR2.
#[cfg(not(unix))]
pub(super) async fn restart_on_signal(_: Option<&MasterHandle>, _: &Notifier) {
    pending().await
}
