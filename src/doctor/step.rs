//! The steps of a diagnosis and their report.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;

use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// The check succeeded.
    Ok,
    /// The check did not run, because an earlier step failed or it was not requested.
    Skipped,
    /// The check succeeded with a warning.
    Warning,
    /// The check failed.
    Failed,
}

/// The result of one check. `--json` prints these fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DoctorStep {
    /// The name of the check: one of a fixed set of words.
    pub name: &'static str,
    /// The object of the check: an address, or the mark of a port.
    pub subject: String,
    /// The outcome.
    pub outcome: StepOutcome,
    /// The duration.
    pub milliseconds: f64,
    /// The code of a warning or a failure.
    pub code: Option<DiagnosisCode>,
    /// The observation.
    pub evidence: String,
    /// The likely cause.
    pub cause: Option<String>,
    /// The remedy.
    pub remedy: Option<String>,
}

impl DoctorStep {
    /// Creates a step that succeeded.
    pub fn ok(
        name: &'static str,
        subject: impl Into<String>,
        took: Duration,
        evidence: impl Into<String>,
    ) -> Self {
        let milliseconds = (took.as_secs_f64() * 1e6).round() / 1e3;
        let (subject, evidence) = (subject.into(), evidence.into());
        DoctorStep {
            name,
            subject,
            outcome: StepOutcome::Ok,
            milliseconds,
            code: None,
            evidence,
            cause: None,
            remedy: None,
        }
    }

    /// Creates a step that failed.
    pub fn failed(
        name: &'static str,
        subject: impl Into<String>,
        took: Duration,
        diagnosis: Diagnosis,
    ) -> Self {
        DoctorStep::ok(name, subject, took, "").with(StepOutcome::Failed, diagnosis)
    }

    /// Creates a step that succeeded with a warning.
    pub fn warning(
        name: &'static str,
        subject: impl Into<String>,
        took: Duration,
        diagnosis: Diagnosis,
    ) -> Self {
        DoctorStep::ok(name, subject, took, "").with(StepOutcome::Warning, diagnosis)
    }

    /// Creates a step that did not run.
    pub fn skipped(name: &'static str, subject: impl Into<String>, why: impl Into<String>) -> Self {
        DoctorStep {
            outcome: StepOutcome::Skipped,
            ..DoctorStep::ok(name, subject, Duration::ZERO, why)
        }
    }

    fn with(
        self,
        outcome: StepOutcome,
        Diagnosis {
            code,
            evidence,
            cause,
            remedy,
        }: Diagnosis,
    ) -> Self {
        let non_empty =
            |text: Cow<'static, str>| Some(text.into_owned()).filter(|text| !text.is_empty());
        DoctorStep {
            outcome,
            code: Some(code),
            evidence,
            cause: non_empty(cause),
            remedy: non_empty(remedy),
            ..self
        }
    }
}

/// The steps so far. Passes each step to a callback.
pub struct DoctorReport<'t> {
    steps: Vec<DoctorStep>,
    on_step: Box<dyn FnMut(&DoctorStep) + Send + 't>,
    on_progress: Box<dyn FnMut(&str) + Send + 't>,
}

impl<'t> DoctorReport<'t> {
    /// Creates an empty report. `on_step` receives each step, `on_progress` the start of a slow
    /// check.
    pub fn new(
        on_step: impl FnMut(&DoctorStep) + Send + 't,
        on_progress: impl FnMut(&str) + Send + 't,
    ) -> Self {
        DoctorReport {
            steps: Vec::new(),
            on_step: Box::new(on_step),
            on_progress: Box::new(on_progress),
        }
    }

    /// Records a step.
    pub fn record(&mut self, step: DoctorStep) {
        (self.on_step)(&step);
        self.steps.push(step);
    }

    /// Reports the start of a slow check.
    pub fn progress(&mut self, what: &str) {
        (self.on_progress)(what);
    }

    /// Returns the steps in order.
    #[must_use]
    pub fn steps(&self) -> &[DoctorStep] {
        &self.steps
    }

    /// Returns the worst outcome of all steps.
    #[must_use]
    pub fn worst(&self) -> StepOutcome {
        self.steps
            .iter()
            .map(|step| step.outcome)
            .max()
            .unwrap_or(StepOutcome::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_decides_and_skipped_steps_are_not_failures() {
        let mut recorded = Vec::new();
        let mut report = DoctorReport::new(|step: &DoctorStep| recorded.push(step.name), |_| {});
        assert_eq!(report.worst(), StepOutcome::Ok);
        report.record(DoctorStep::ok(
            "name",
            "host",
            Duration::from_micros(1_234),
            "found",
        ));
        report.record(DoctorStep::skipped("tls", "host", "the step before failed"));
        assert_eq!(report.worst(), StepOutcome::Skipped);
        report.record(DoctorStep::warning(
            "clock",
            "host",
            Duration::ZERO,
            Diagnosis::new(DiagnosisCode::ClockWrong, "slow", "", "set it"),
        ));
        assert_eq!(report.worst(), StepOutcome::Warning);
        report.record(DoctorStep::failed(
            "tcp",
            "host",
            Duration::ZERO,
            Diagnosis::new(DiagnosisCode::TcpRefused, "refused", "cause", "start it"),
        ));
        assert_eq!(
            (report.worst(), report.steps().len()),
            (StepOutcome::Failed, 4)
        );
        drop(report);
        assert_eq!(recorded, ["name", "tls", "clock", "tcp"]);
    }

    #[test]
    fn a_step_serializes_all_fields_for_every_outcome() {
        let step = DoctorStep::ok("name", "host", Duration::from_micros(1_234), "found");
        let value = serde_json::to_value(&step).unwrap();
        let expected = serde_json::json!({
            "name": "name", "subject": "host", "outcome": "ok", "milliseconds": 1.234, "evidence": "found",
            "code": null, "cause": null, "remedy": null,
        });
        assert_eq!(value, expected);
        let failed = DoctorStep::failed(
            "tcp",
            "host",
            Duration::ZERO,
            Diagnosis::new(DiagnosisCode::TcpRefused, "refused", "", "start it"),
        );
        let value = serde_json::to_value(&failed).unwrap();
        let fields = ["outcome", "code", "cause", "remedy"].map(|field| value[field].clone());
        assert_eq!(
            serde_json::json!(fields),
            serde_json::json!(["failed", "tcp_refused", null, "start it"])
        );
    }
}
