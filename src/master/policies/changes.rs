//! Changes of the policies: records, and whether the database answers.

use std::sync::{PoisonError, atomic::Ordering::Relaxed};

use super::{MasterPolicies, enforce::Scope};
use crate::{
    config::UnknownKeys,
    master::{administered::StoreProblem, events::EventKind, router::Router},
    policy::{Affected, Changes},
};

impl MasterPolicies {
    /// Changes records. `is_complete` if there are no others. Returns what is affected.
    pub(in crate::master) fn apply(&self, changes: Changes, is_complete: bool) -> Affected {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let affected = if is_complete {
            table.replace(changes)
        } else {
            table.apply(changes)
        };
        self.version.fetch_add(1, Relaxed);
        drop(table);
        if !affected.is_empty() {
            self.events
                .send(self.clock.seconds(), || policies_changed(&affected));
            // A boundary of a validity may have moved.
            self.recheck.notify_one();
        }
        affected
    }

    /// Records a problem of the database, or its end. Returns whether the database has just gone or
    /// come back.
    fn set_problem(&self, problem: Option<StoreProblem>) -> bool {
        let mut current = self.problem.write().unwrap_or_else(PoisonError::into_inner);
        if *current == problem {
            return false;
        }
        let is_away = problem.as_ref().is_some_and(|problem| problem.is_away);
        let was_away = current.as_ref().is_some_and(|problem| problem.is_away);
        *current = problem.clone();
        drop(current);
        self.events.send(self.clock.seconds(), || match problem {
            Some(problem) => EventKind::StoreDegraded {
                cause: problem.cause,
            },
            None => EventKind::StoreRecovered,
        });
        is_away != was_away
    }
}

fn policies_changed(affected: &Affected) -> EventKind {
    EventKind::PoliciesChanged {
        accounts: affected.accounts.iter().copied().collect(),
        credentials: affected.credentials.iter().copied().collect(),
        keys: affected.keys.iter().copied().collect(),
        relay: affected.relay,
    }
}

impl Router {
    /// Changes records and enforces the changes. Returns what is affected.
    pub(in crate::master) fn change_policies(
        &self,
        changes: Changes,
        is_complete: bool,
    ) -> Affected {
        let affected = self.policies.apply(changes, is_complete);
        if !affected.is_empty() {
            self.enforce(Scope::Affected(&affected));
        }
        affected
    }

    /// Records a problem of the database, or its end. If unknown key ids are admitted while the
    /// database is away, this takes effect now.
    pub(in crate::master) fn set_store_problem(&self, problem: Option<StoreProblem>) {
        let has_turned = self.policies.set_problem(problem);
        if has_turned && self.policies.registration_rules().unknown_keys == UnknownKeys::Admit {
            self.enforce(Scope::All);
        }
    }
}
