//! The output of a command: text for people, or JSON for programs.

use serde::Serialize;
use zeroize::Zeroizing;

use super::session::View;
use crate::{
    policy::{Validity, ValidityState},
    telemetry::escape_json,
};

/// The output of a command. It may contain a new secret.
pub(super) type Output = Zeroizing<String>;

/// Returns a value as one line of JSON.
fn json(value: &impl Serialize) -> anyhow::Result<Output> {
    let text = Zeroizing::new(serde_json::to_string(value)?);
    Ok(Zeroizing::new(format!("{}\n", escape_json(&text))))
}

impl View {
    /// Returns the value as JSON, or the text.
    pub(super) fn output(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<Output> {
        if self.is_json {
            json(value)
        } else {
            Ok(Zeroizing::new(text()))
        }
    }

    /// Returns the state of a record as a word.
    pub(super) fn state(&self, is_on: bool, validity: Validity, off: &'static str) -> &'static str {
        if !is_on {
            return off;
        }
        match validity.at(self.now) {
            ValidityState::NotYet => "not yet valid",
            ValidityState::Valid => "valid",
            ValidityState::Expired => "expired",
        }
    }
}
