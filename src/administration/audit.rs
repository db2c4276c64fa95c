//! The audit rows of operations.

use std::fmt;

use serde::Serialize;

use super::{Actor, Administration, AdministrationError};
use crate::{
    policy::{AccountId, CredentialId, TokenId},
    store::{AuditEntry, Change, Stored},
};
use report_proto::id::Id;

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Add,
    Set,
    Rotate,
    Revoke,
    Remove,
}

/// The record that an operation changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Account(AccountId),
    Credential(CredentialId),
    Key(Id),
    Token(TokenId),
    Relay,
}

/// The part of an audit row that an operation knows.
#[derive(Debug)]
pub(super) struct Row {
    action: String,
    subject: String,
    detail: String,
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Action::Add => "add",
            Action::Set => "set",
            Action::Rotate => "rotate",
            Action::Revoke => "revoke",
            Action::Remove => "remove",
        })
    }
}

impl Subject {
    fn kind(&self) -> &'static str {
        match self {
            Subject::Account(_) => "account",
            Subject::Credential(_) => "credential",
            Subject::Key(_) => "key",
            Subject::Token(_) => "token",
            Subject::Relay => "relay",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Subject::Account(id) => write!(formatter, "{kind} {id}"),
            Subject::Credential(id) => write!(formatter, "{kind} {id}"),
            Subject::Key(id) => write!(formatter, "{kind} {id}"),
            Subject::Token(id) => write!(formatter, "{kind} {id}"),
            Subject::Relay => formatter.write_str(kind),
        }
    }
}

/// Returns the row of an operation with the new values. They contain no secret.
pub(super) fn row(action: Action, subject: Subject, values: &impl Serialize) -> Row {
    Row {
        // Serialization of policies does not fail.
        detail: serde_json::to_string(values).unwrap_or_default(),
        ..plain(action, subject)
    }
}

/// Returns the row of an operation without values.
pub(super) fn plain(action: Action, subject: Subject) -> Row {
    Row {
        action: format!("{}.{action}", subject.kind()),
        subject: subject.to_string(),
        detail: String::new(),
    }
}

impl Administration {
    /// Adds the audit row of a new record, and commits the change. Returns the record.
    pub(super) async fn finish_addition<T: Serialize>(
        &self,
        change: Change<'_>,
        actor: &Actor,
        subject: Subject,
        stored: Stored<T>,
    ) -> Result<Stored<T>, AdministrationError> {
        let row = row(Action::Add, subject, &stored.record);
        self.finish(change, actor, row).await?;
        Ok(stored)
    }

    /// Adds the audit row, and commits the change.
    pub(super) async fn finish(
        &self,
        mut change: Change<'_>,
        actor: &Actor,
        row: Row,
    ) -> Result<(), AdministrationError> {
        let address = actor.address.map(|address| address.to_string());
        let entry = AuditEntry {
            happened: self.now(),
            actor: actor.to_string(),
            address: address.unwrap_or_default(),
            action: row.action,
            subject: row.subject,
            detail: row.detail,
            repeats: 0,
        };
        change.record(&entry).await?;
        change.commit().await?;
        Ok(())
    }
}
