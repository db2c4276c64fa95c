//! The running process as a reload changes it: its role, the admin address, the log and the grace
//! period.

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use super::{admin_switch::AdminSwitch, error_text, role_handle::RoleHandle};
use crate::{
    config::Config,
    grace::Grace,
    reload::{Reconfigure, ReconfigureError},
    telemetry,
};

/// A running role with the parts of the process that all roles have.
pub(super) struct LiveRole {
    /// Changes the role.
    pub handle: RoleHandle,
    /// Changes the admin address.
    pub admin: AdminSwitch,
    /// The grace period.
    pub grace: Grace,
    /// Cancelled when the drain begins.
    pub cancel: CancellationToken,
}

impl Reconfigure for LiveRole {
    async fn reconfigure(
        &self,
        old: &Config,
        new: &Config,
    ) -> Result<Vec<String>, ReconfigureError> {
        let applied = self.apply(old, new).await;
        applied.map_err(|error| error_text(&error).into())
    }
}

impl LiveRole {
    async fn apply(&self, old: &Config, new: &Config) -> anyhow::Result<Vec<String>> {
        if self.cancel.is_cancelled() {
            bail!("the process drains");
        }
        let (old_admin, new_admin) = (old.common.admin.as_ref(), new.common.admin.as_ref());
        let prepared = self.admin.prepare(old_admin, new_admin).await?;
        let mut needs_restart = self.handle.reconfigure(&old.role, &new.role).await?;
        if old_admin != new_admin
            && let Err(error) = self.admin.commit(prepared, new_admin).await
        {
            needs_restart.push(format!("`admin`: {}", error_text(&error)));
        }
        telemetry::set_level(new.common.log_level);
        self.grace.set(*new.common.grace_period);
        Ok(needs_restart)
    }
}
