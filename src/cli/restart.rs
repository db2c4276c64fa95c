//! SIGUSR2 of a master: a new process takes over without a pause.

use std::future::pending;

use crate::{master::MasterHandle, systemd::Notifier};

/// Restarts `master` at each SIGUSR2 until a new process has taken over. Another role ignores the
/// signal. Receives the signal from the call on: it would otherwise end the process. Must be called
/// within a tokio runtime. The future never returns.
///
/// # Cancel safety
/// Dropping the future ends a new process that has not taken over, see [`MasterHandle::restart`].
#[cfg(unix)]
pub(super) fn restart_on_signal(
    master: Option<&MasterHandle>,
    notifier: &Notifier,
) -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let requests = signal(SignalKind::user_defined2())
        .inspect_err(|error| tracing::warn!(%error, "cannot receive SIGUSR2"));
    async move {
        let Ok(mut requests) = requests else {
            return pending().await;
        };
        while requests.recv().await.is_some() {
            let Some(master) = master else {
                tracing::warn!(
                    "SIGUSR2 ignored: only a master hands over to a new process (stop this role and start it again)"
                );
                continue;
            };
            if let Err(error) = master.restart(notifier).await {
                tracing::error!("not restarted: {error}");
            }
        }
        pending().await
    }
}

/// Waits forever: this system has no SIGUSR2.
#[cfg(not(unix))]
pub(super) async fn restart_on_signal(_: Option<&MasterHandle>, _: &Notifier) {
    pending().await
}
