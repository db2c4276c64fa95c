//! Operations on the policy of the whole relay.

use serde::{Deserialize, Serialize};

use super::{
    Actor, Administration, AdministrationError, audit, check,
    patch::{present, put},
};
use crate::{
    policy::{Limits, RelayPolicy, Reserve},
    store::Stored,
};

/// The fields of the relay's policy to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RelayPatch {
    /// The limits of all tunnels together. They replace all limits of the relay.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The part of the quotas that one account keeps for itself.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Reserve>)]
    pub reserve: Option<Option<Reserve>>,
}

impl RelayPatch {
    fn apply(self, policy: &mut RelayPolicy) {
        put(&mut policy.limits, self.limits);
        put(&mut policy.reserve, self.reserve);
    }
}

impl Administration {
    /// Returns the policy of the relay.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn relay(&self) -> Result<Stored<RelayPolicy>, AdministrationError> {
        Ok(self.store.relay_policy().await?)
    }

    /// Changes fields of the relay's policy. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the policy has another version, if a value is invalid, if the
    /// account of the reserve does not exist, or if the database is away.
    pub async fn set_relay(
        &self,
        actor: &Actor,
        patch: RelayPatch,
        expected: Option<i64>,
    ) -> Result<Stored<RelayPolicy>, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            mut record,
            changed,
        } = self.relay().await?;
        let row = audit::row(audit::Action::Set, audit::Subject::Relay, &patch);
        patch.apply(&mut record);
        check(record.problems())?;
        let expected = expected.or(Some(changed));
        let stored = change.update_relay_policy(record, expected).await?;
        self.finish(change, actor, row).await?;
        Ok(stored)
    }
}
