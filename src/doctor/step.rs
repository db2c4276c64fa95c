//! One step of a walk, as it is told.

use std::time::Duration;

use serde::Serialize;

use crate::link::Reason;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Ok,
    /// It could not be tried, because something before it failed or it is not wanted.
    Skipped,
    /// It holds, and something about it is worth knowing.
    Warning,
    /// It does not hold.
    Failed,
}

/// One step. Its fields are those of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// What was tried: one of a fixed set of words.
    pub name: &'static str,
    /// What it was tried with: an address, a port's mark.
    pub subject: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub milliseconds: f64,
    /// What was seen.
    pub evidence: String,
    /// What is likely behind it.
    pub cause: Option<String>,
    /// What can be done.
    pub remedy: Option<String>,
}

impl Step {
    /// It holds.
    pub fn ok(
        name: &'static str,
        subject: impl Into<String>,
        took: Duration,
        evidence: impl Into<String>,
    ) -> Self {
        let milliseconds = (took.as_secs_f64() * 1e6).round() / 1e3;
        let (subject, evidence) = (subject.into(), evidence.into());
        Step {
            name,
            subject,
            outcome: Outcome::Ok,
            milliseconds,
            evidence,
            cause: None,
            remedy: None,
        }
    }

    /// It does not hold, for this reason.
    pub fn failed(
        name: &'static str,
        subject: impl Into<String>,
        took: Duration,
        reason: Reason,
    ) -> Self {
        Step::ok(name, subject, took, "").with(Outcome::Failed, reason)
    }

    /// It holds but for this.
    pub fn warning(
        name: &'static str,
        subject: impl Into<String>,
        took: Duration,
        reason: Reason,
    ) -> Self {
        Step::ok(name, subject, took, "").with(Outcome::Warning, reason)
    }

    /// It was not tried.
    pub fn skipped(name: &'static str, subject: impl Into<String>, why: impl Into<String>) -> Self {
        Step {
            outcome: Outcome::Skipped,
            ..Step::ok(name, subject, Duration::ZERO, why)
        }
    }

    fn with(
        self,
        outcome: Outcome,
        Reason {
            evidence,
            cause,
            remedy,
        }: Reason,
    ) -> Self {
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        Step {
            outcome,
            evidence,
            cause: said(cause),
            remedy: said(remedy),
            ..self
        }
    }
}

/// The steps so far, each told to who listens when it is done.
pub struct Journal<'t> {
    steps: Vec<Step>,
    tell: Box<dyn FnMut(&Step) + Send + 't>,
    doing: Box<dyn FnMut(&str) + Send + 't>,
}

impl<'t> Journal<'t> {
    /// An empty one. `tell` hears of each step, `doing` of what takes a while.
    pub fn new(tell: impl FnMut(&Step) + Send + 't, doing: impl FnMut(&str) + Send + 't) -> Self {
        Journal {
            steps: Vec::new(),
            tell: Box::new(tell),
            doing: Box::new(doing),
        }
    }

    /// A step is done.
    pub fn enter(&mut self, step: Step) {
        (self.tell)(&step);
        self.steps.push(step);
    }

    /// Something begins that takes a while.
    pub fn doing(&mut self, what: &str) {
        (self.doing)(what);
    }

    /// The steps in their order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The worst that came of any step.
    #[must_use]
    pub fn worst(&self) -> Outcome {
        self.steps
            .iter()
            .map(|step| step.outcome)
            .max()
            .unwrap_or(Outcome::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_step_decides_and_what_was_skipped_is_no_failure_of_its_own() {
        let mut told = Vec::new();
        let mut journal = Journal::new(|step: &Step| told.push(step.name), |_| {});
        assert_eq!(journal.worst(), Outcome::Ok);
        journal.enter(Step::ok(
            "name",
            "host",
            Duration::from_micros(1_234),
            "found",
        ));
        journal.enter(Step::skipped("tls", "host", "the step before failed"));
        assert_eq!(journal.worst(), Outcome::Skipped);
        journal.enter(Step::warning(
            "clock",
            "host",
            Duration::ZERO,
            Reason::new("slow", "", "set it"),
        ));
        assert_eq!(journal.worst(), Outcome::Warning);
        journal.enter(Step::failed(
            "tcp",
            "host",
            Duration::ZERO,
            Reason::new("refused", "nobody", "start it"),
        ));
        assert_eq!(
            (journal.worst(), journal.steps().len()),
            (Outcome::Failed, 4)
        );
        drop(journal);
        assert_eq!(told, ["name", "tls", "clock", "tcp"]);
    }

    #[test]
    fn the_fields_of_a_step_are_all_there_whatever_came_of_it() {
        let step = Step::ok("name", "host", Duration::from_micros(1_234), "found");
        let value = serde_json::to_value(&step).unwrap();
        let expected = serde_json::json!({
            "name": "name", "subject": "host", "outcome": "ok", "milliseconds": 1.234, "evidence": "found",
            "cause": null, "remedy": null,
        });
        assert_eq!(value, expected);
        let failed = Step::failed(
            "tcp",
            "host",
            Duration::ZERO,
            Reason::new("refused", "", "start it"),
        );
        let value = serde_json::to_value(&failed).unwrap();
        assert_eq!(
            (&value["outcome"], &value["cause"], &value["remedy"]),
            (&"failed".into(), &().into(), &"start it".into())
        );
    }
}
