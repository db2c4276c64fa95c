//! The diagnosis of a failure as data: the layer, a stable code, the evidence, the likely cause and
//! the remedy. Each layer creates its own diagnoses where the error is made. The roles' logs and
//! the doctor print the same parts.
//!
//! The words are for people and may change. Programs compare [`DiagnosisCode`]s, never texts.

mod code;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt};

pub use self::code::{DiagnosisCode, Layer};

/// The diagnosis of a failure. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The kind of failure. Determines the layer.
    pub code: DiagnosisCode,
    /// The observation.
    pub evidence: String,
    /// The likely cause. Empty if the evidence is the cause.
    pub cause: Cow<'static, str>,
    /// The action that helps.
    pub remedy: Cow<'static, str>,
}

impl Diagnosis {
    /// Creates a diagnosis from its parts.
    #[must_use]
    pub fn new(
        code: DiagnosisCode,
        evidence: impl Into<String>,
        cause: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Diagnosis {
            code,
            evidence: evidence.into(),
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }

    /// Returns the layer that failed.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.code.layer()
    }

    /// Returns the diagnosis with other evidence.
    #[must_use]
    pub fn with_evidence(self, evidence: impl Into<String>) -> Self {
        Diagnosis {
            evidence: evidence.into(),
            ..self
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&*self.evidence, &*self.cause, &*self.remedy];
        let present: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        formatter.write_str(&present.join("; "))
    }
}
