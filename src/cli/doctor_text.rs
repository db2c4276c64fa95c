//! The text output of `report doctor`.

use std::fmt::Write as _;

use crate::{
    doctor::{DoctorStep, StepOutcome},
    telemetry::escape_text,
};

/// Formats a step as lines of text.
pub(super) fn step_text(step: &DoctorStep, colour: bool) -> String {
    let (mark, code) = match step.outcome {
        StepOutcome::Ok => ("ok", "32"),
        StepOutcome::Warning => ("warning", "33"),
        StepOutcome::Failed => ("FAILED", "31"),
        StepOutcome::Skipped => ("skipped", "2"),
    };
    let mark = format!("{mark:<8}");
    let mark = if colour {
        format!("\x1b[{code}m{mark}\x1b[0m")
    } else {
        mark
    };
    let took = match step.outcome {
        StepOutcome::Skipped => String::new(),
        _ if step.milliseconds < 100.0 => format!("{:.1} ms", step.milliseconds),
        _ => format!("{:.0} ms", step.milliseconds),
    };
    let subject = if step.subject.is_empty() {
        String::new()
    } else {
        format!("{}: ", step.subject)
    };
    let mut text = format!(
        "{mark} {:<15} {took:>9}  {}{}\n",
        step.name,
        escape_text(&subject),
        escape_text(&step.evidence)
    );
    for (word, line) in [("why", &step.cause), ("do", &step.remedy)] {
        if let Some(line) = line {
            let _ = writeln!(text, "{:>35}{word}: {}", "", escape_text(line));
        }
    }
    text
}

/// Counts the outcomes of all steps.
pub(super) fn summary(steps: &[DoctorStep]) -> String {
    let count = |outcome| steps.iter().filter(|step| step.outcome == outcome).count();
    let [ok, warnings, failed, skipped] = [
        StepOutcome::Ok,
        StepOutcome::Warning,
        StepOutcome::Failed,
        StepOutcome::Skipped,
    ]
    .map(count);
    let verdict = if failed == 0 {
        "all checks passed"
    } else {
        "checks failed"
    };
    format!("\n{verdict}: {ok} ok, {warnings} with a warning, {failed} failed, {skipped} skipped\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diagnosis::{Diagnosis, DiagnosisCode};

    #[test]
    fn every_outcome_has_a_text_mark() {
        let reason = || Diagnosis::new(DiagnosisCode::ClockWrong, "seen", "behind it", "do that");
        let second = Duration::from_secs(1);
        for (step, lines) in [
            (
                DoctorStep::ok("tcp", "a:1", second, "connected"),
                "ok       tcp               1000 ms  a:1: connected\n".to_owned(),
            ),
            (
                DoctorStep::skipped("tls", "", "tcp failed"),
                "skipped  tls                        tcp failed\n".to_owned(),
            ),
            (
                DoctorStep::warning("clock", "a", Duration::from_micros(1_250), reason()),
                format!(
                    "warning  clock              1.2 ms  a: seen\n{0:>35}why: behind it\n{0:>35}do: do that\n",
                    ""
                ),
            ),
            (
                DoctorStep::failed(
                    "tls",
                    "a",
                    second,
                    Diagnosis::new(DiagnosisCode::TlsFailed, "seen", "", "do that"),
                ),
                format!(
                    "FAILED   tls               1000 ms  a: seen\n{:>35}do: do that\n",
                    ""
                ),
            ),
        ] {
            assert_eq!(step_text(&step, false), lines);
            let coloured = step_text(&step, true);
            assert!(
                coloured.starts_with("\x1b[") && coloured.contains("\x1b[0m"),
                "{coloured}"
            );
        }
    }

    #[test]
    fn peer_text_cannot_control_the_terminal() {
        let steering = "\u{1b}[2J\u{202e}\u{2066}\u{2028}\n";
        let step = DoctorStep::failed(
            "tls",
            steering,
            Duration::ZERO,
            Diagnosis::new(DiagnosisCode::TlsFailed, steering, steering, steering),
        );
        let text = step_text(&step, false);
        assert_eq!(
            text.matches(r"\u{1b}[2J\u{202e}\u{2066}\u{2028}\u{a}")
                .count(),
            4,
            "{text}"
        );
        assert!(
            text.lines().count() == 3
                && !text.contains(['\u{1b}', '\u{202e}', '\u{2066}', '\u{2028}']),
            "{text}"
        );
    }

    #[test]
    fn the_summary_counts_outcomes() {
        let steps = [
            DoctorStep::ok("name", "a", Duration::ZERO, ""),
            DoctorStep::warning(
                "clock",
                "a",
                Duration::ZERO,
                Diagnosis::new(DiagnosisCode::ClockWrong, "", "", ""),
            ),
            DoctorStep::skipped("tls", "a", ""),
        ];
        assert_eq!(
            summary(&steps),
            "\nall checks passed: 1 ok, 1 with a warning, 0 failed, 1 skipped\n"
        );
        let failed = [DoctorStep::failed(
            "tcp",
            "a",
            Duration::ZERO,
            Diagnosis::new(DiagnosisCode::ClockWrong, "", "", ""),
        )];
        assert!(summary(&failed).contains("checks failed: 0 ok"));
    }
}
