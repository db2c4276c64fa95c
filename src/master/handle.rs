//! Changes a running master: applies another configuration, and restarts the process without a
//! pause. Knows the state that the tasks share, but not where the configuration comes from.

use std::{num::NonZeroUsize, sync::Arc};

use tokio::sync::SemaphorePermit;
use tracing::info;

use super::{
    connection_settings::ConnectionSettings,
    front::Fallback,
    listen_host::resolve_listen_host,
    parameters::{MasterError, MasterParameters},
    shared::MasterShared,
};
use crate::{
    config::{MasterConfig, Secret},
    successor::{self, PassedListener, RestartError},
    systemd::Notifier,
};
use report_proto::crypto::LinkKey;

/// Changes a running master.
#[derive(Clone)]
pub struct MasterHandle(Arc<MasterShared>);

impl MasterHandle {
    pub(super) fn new(shared: &Arc<MasterShared>) -> Self {
        MasterHandle(Arc::clone(shared))
    }

    /// Applies a changed configuration. No link ends: the links that are up keep their keep-alive,
    /// and those beyond a lower limit stay. Returns the fields whose change needs a restart, each
    /// with the reason. Waits for another change or a restart that is in progress. Must be called
    /// within the runtime of the master.
    ///
    /// # Errors
    /// When a new address or certificate is unusable. Then the former configuration stays in force.
    /// When the master drains.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may have applied a part of the changes.
    pub async fn reconfigure(
        &self,
        old: &MasterConfig,
        new: &MasterConfig,
    ) -> Result<Vec<String>, MasterError> {
        let shared = &self.0;
        let _change = self.begin_change().await.ok_or(MasterError::Draining)?;
        let mut listen_at = Vec::new();
        if old.listen_at != new.listen_at {
            for address in new.listen_at.iter() {
                listen_at.extend(resolve_listen_host(address).await?);
            }
        }
        let new_key = if old.master_key == new.master_key {
            None
        } else {
            Some(derive_link_key(new.master_key.clone()).await?)
        };
        // The addresses, the key and the number of threads do not come from these parameters.
        let mut parameters = MasterParameters::new(new, Vec::new(), None, NonZeroUsize::MIN);
        let relays = matches!(parameters.fallback, Fallback::Server { .. });
        parameters.limits = parameters.limits.within_open_files(relays);
        let settings = ConnectionSettings::new(&parameters)?;
        // The last step that can fail.
        if !listen_at.is_empty() {
            shared.listeners.replace(shared, &listen_at).await?;
        }
        if let Some(key) = new_key {
            shared.authenticator.set_server_key(key);
        }
        shared.admission.set_limits(&settings.limits);
        shared.router.set_limits(&settings.limits);
        shared.set_settings(settings);
        let router = &shared.router;
        router.set_registration_rules(new.admission, new.unknown_while_away);
        #[cfg(feature = "store")]
        if let Some(records) = &shared.records {
            records.usage.set_retention(parameters.retention);
        }
        Ok(changes_at_restart(old, new))
    }

    /// Replaces the listener of the admin address, which a restart passes on with those of
    /// `listen_at`. `None` if there is no admin address.
    pub fn set_admin_listener(&self, listener: Option<PassedListener>) {
        self.0.set_admin_listener(listener);
    }

    /// Starts the executable of this process again with the same arguments, passes the listeners on,
    /// and waits until the new process accepts connections. Then this master drains, and
    /// [`Master::run`](super::Master::run) returns. Returns the id of the new process.
    ///
    /// # Errors
    /// When the new process does not start. This master then continues. When this master drains.
    ///
    /// # Cancel safety
    /// Dropping the future ends a new process that has not taken over.
    pub async fn restart(&self, notifier: &Notifier) -> Result<u32, RestartError> {
        let shared = &self.0;
        let in_progress = |_| RestartError::InProgress;
        let _restart = shared.restarts.try_acquire().map_err(in_progress)?;
        let _change = self.begin_change().await.ok_or(RestartError::Draining)?;
        let sockets = shared.listeners.sockets();
        let mut listeners = sockets
            .iter()
            .map(|socket| PassedListener::of(&**socket))
            .collect::<Result<Vec<_>, _>>()?;
        drop(sockets);
        listeners.extend(shared.admin_listener()?);
        let pid = tokio::select! {
            biased;
            // The operator ends the service: the new process must not continue it.
            () = shared.draining.cancelled() => return Err(RestartError::Draining),
            started = successor::start(listeners) => started?,
        };
        info!(pid, "a new process has taken over the listeners");
        notifier.hand_over(pid);
        shared.retired.cancel();
        Ok(pid)
    }

    /// Waits until no change or restart is in progress, and excludes further ones until the permit is
    /// dropped: a new process shares the listeners, so none of them can be replaced while it starts.
    /// Returns `None` if the master drains.
    async fn begin_change(&self) -> Option<SemaphorePermit<'_>> {
        let shared = &self.0;
        let begun = shared
            .draining
            .run_until_cancelled(shared.changes.acquire())
            .await;
        let is_draining = shared.draining.is_cancelled() || shared.retired.is_cancelled();
        begun?.ok().filter(|_| !is_draining)
    }

    /// Waits until a new process has taken over.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn retired(&self) {
        self.0.retired.cancelled().await;
    }
}

/// Derives a key, which takes some milliseconds, beside the tasks of the runtime.
async fn derive_link_key(master_key: Option<Secret>) -> Result<Option<LinkKey>, MasterError> {
    let derive = move || master_key.map(|key| LinkKey::derive(Some(key.expose())));
    tokio::task::spawn_blocking(derive)
        .await
        .map_err(MasterError::Key)
}

/// Returns the changed fields that a running master cannot apply, with the reasons.
fn changes_at_restart(old: &MasterConfig, new: &MasterConfig) -> Vec<String> {
    let mut fields = Vec::new();
    if old.store != new.store {
        fields.push(
            "`store`: usage and policies belong to one database (`report master restart` restarts without a pause)"
                .to_owned(),
        );
    }
    fields
}

impl std::fmt::Debug for MasterHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("MasterHandle")
            .finish_non_exhaustive()
    }
}
