//! `report doctor`: diagnoses the path of a role and prints evidence, causes and remedies.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    ConfigFile,
    doctor_subject::{ProbeTimes, client_subject, master_subject, server_subject},
    doctor_text::{step_text, summary},
    progress::ProgressLine,
    signals::{Signals, run_until_signal},
    threads,
    warnings::warnings,
};
use crate::{
    config::{
        self, Config, ConfigProblem, LinkConfig, LoadedConfig, PortConfig, Position, RoleConfig,
    },
    diagnosis::{Diagnosis, DiagnosisCode},
    doctor::{self, DoctorReport, DoctorStep, IDLE_PERIODS, StepOutcome},
    net::tls::TlsError,
    telemetry::escape_json,
};

/// The default duration of each measurement in seconds.
const MEASURE: &str = "1";

/// The arguments of `report doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Also probe idle timeouts, five minutes per master
    #[arg(long)]
    patient: bool,
    /// Seconds per measurement; there are five
    #[arg(long, value_name = "N", default_value = MEASURE, value_parser = positive, hide = true)]
    seconds: f64,
    /// Factor for the idle periods of `--patient`
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = positive, hide = true)]
    silence_scale: f64,
}

impl DoctorArguments {
    fn probe_times(&self) -> ProbeTimes {
        let idle_periods = IDLE_PERIODS
            .iter()
            .filter(|_| self.patient)
            .map(|period| period.mul_f64(self.silence_scale));
        ProbeTimes {
            measure: Duration::from_secs_f64(self.seconds),
            idle_periods: idle_periods.collect(),
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (0.001..=60.0).contains(number));
    number.ok_or_else(|| "write a number from 0.001 to 60".to_owned())
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct DoctorJson<'d> {
    version: &'static str,
    file: String,
    /// `None` when the file could not be read.
    mode: Option<&'static str>,
    /// Whether no step failed.
    ok: bool,
    steps: &'d [DoctorStep],
}

/// Runs all checks and prints each step as soon as it is done.
///
/// # Errors
/// Fails when the process cannot get a resource, such as a signal handler. A failed check is a
/// step and sets the exit code instead.
pub(super) fn doctor(arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    let line = ProgressLine::new();
    let (is_json, colour) = (arguments.json, colour());
    let on_step = move |step: &DoctorStep| {
        line.clear();
        if !is_json {
            // Ignore a closed standard output. The exit code still reports the result.
            let _ = io::stdout().write_all(step_text(step, colour).as_bytes());
        }
    };
    let mut report = DoctorReport::new(on_step, move |what| line.show(&format!("{what} …")));
    let loaded = load_configuration(arguments, &mut report);
    let mode = loaded.as_ref().map(|loaded| loaded.config.role.name());
    let interrupted = match &loaded {
        Some(loaded) => run_interruptible(arguments, &loaded.config, &mut report)?,
        None => None,
    };
    line.clear();
    print_result(arguments, mode, &report)?;
    let worst = report.worst();
    Ok(interrupted.unwrap_or(if worst == StepOutcome::Failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }))
}

/// Reads the file like `report check`.
fn load_configuration(
    arguments: &DoctorArguments,
    report: &mut DoctorReport<'_>,
) -> Option<LoadedConfig> {
    let file = &arguments.file.config;
    let (started, subject) = (Instant::now(), file.display().to_string());
    match config::load(file) {
        Ok(loaded) => {
            let took = started.elapsed();
            report.record(DoctorStep::ok(
                "configuration",
                &subject,
                took,
                describe_role(&loaded.config.role),
            ));
            for warning in warnings(&loaded) {
                let diagnosis = Diagnosis::new(
                    DiagnosisCode::ConfigurationDoubtful,
                    warning.to_string(),
                    "",
                    "change it, unless it is intended",
                );
                report.record(DoctorStep::warning(
                    "configuration",
                    &subject,
                    took,
                    diagnosis,
                ));
            }
            Some(loaded)
        }
        Err(error) => {
            for problem in &error.problems {
                report.record(DoctorStep::failed(
                    "configuration",
                    &subject,
                    started.elapsed(),
                    problem_diagnosis(problem),
                ));
            }
            None
        }
    }
}

/// Returns the diagnosis of a problem. It does not name the file, which is the step's subject.
fn problem_diagnosis(problem: &ConfigProblem) -> Diagnosis {
    let ConfigProblem {
        position,
        field,
        fault,
    } = problem;
    let position = position.map_or_else(String::new, |Position { line, column }| {
        format!("{line}:{column}: ")
    });
    let field = Some(field.to_string()).filter(|field| !field.is_empty());
    let field = field.map_or_else(String::new, |field| format!("{field} "));
    let remedy = fault
        .remedy()
        .map_or(Cow::Borrowed("correct the file"), |remedy| {
            Cow::Owned(remedy.into_owned())
        });
    Diagnosis::new(
        DiagnosisCode::ConfigurationInvalid,
        format!("{position}{field}{fault:#}"),
        "",
        remedy,
    )
}

fn describe_role(role: &RoleConfig) -> String {
    let of = |link: &LinkConfig, ports: &[PortConfig]| {
        let masters = link.masters.len();
        let (used, unused): (Vec<_>, Vec<_>) = ports.iter().partition(|port| port.enabled);
        let (used, unused) = (used.len(), unused.len());
        let plural = |count| if count == 1 { "" } else { "s" };
        let disabled = match unused {
            0 => String::new(),
            unused => format!(" and {unused} disabled"),
        };
        format!(
            "a {} of {masters} master{}, {used} port{}{disabled}",
            role.name(),
            plural(masters),
            plural(used)
        )
    };
    match role {
        RoleConfig::Master(master) => format!(
            "a master that listens at {} address(es)",
            master.listen_at.len()
        ),
        RoleConfig::Server(server) => of(&server.link, &server.ports),
        RoleConfig::Client(client) => of(&client.link, &client.ports),
    }
}

/// Runs the checks. Returns the exit code of a signal that interrupted them.
fn run_interruptible(
    arguments: &DoctorArguments,
    config: &Config,
    report: &mut DoctorReport<'_>,
) -> anyhow::Result<Option<ExitCode>> {
    let runtime = threads::role_runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::install().context("cannot receive signals")?;
        let cancel = CancellationToken::new();
        let checks = async {
            tokio::select! {
                () = run_checks(arguments, &config.role, &mut *report, &cancel) => true,
                () = cancel.cancelled() => false,
            }
        };
        // A signal ends the checks early. The steps so far are still printed.
        let mut is_done = false;
        let checks = async {
            is_done = checks.await;
            anyhow::Ok(())
        };
        let code = run_until_signal(checks, &cancel, async || signals.next().await).await?;
        Ok(Some(code).filter(|_| !is_done))
    });
    runtime.shutdown_background();
    outcome
}

async fn run_checks(
    arguments: &DoctorArguments,
    role: &RoleConfig,
    report: &mut DoctorReport<'_>,
    cancel: &CancellationToken,
) {
    let subject = match role {
        RoleConfig::Master(master) => {
            return doctor::check_master(&master_subject(master).await, report).await;
        }
        RoleConfig::Server(server) => server_subject(server, arguments.probe_times()),
        RoleConfig::Client(client) => client_subject(client, arguments.probe_times()),
    };
    match subject {
        Ok(subject) => doctor::check_role(subject, report, cancel).await,
        Err(error) => report.record(tls_files_failed(&error)),
    }
}

/// The step for TLS files that cannot be used.
fn tls_files_failed(error: &TlsError) -> DoctorStep {
    let diagnosis = error.diagnosis("correct the file, or the field that names it");
    DoctorStep::failed("configuration", "tls", Duration::ZERO, diagnosis)
}

/// Prints the summary or the JSON document.
fn print_result(
    arguments: &DoctorArguments,
    mode: Option<&'static str>,
    report: &DoctorReport<'_>,
) -> anyhow::Result<()> {
    let steps = report.steps();
    let text = if arguments.json {
        let ok = report.worst() != StepOutcome::Failed;
        let file = arguments.file.config.display().to_string();
        let document = serde_json::to_string(&DoctorJson {
            version: env!("CARGO_PKG_VERSION"),
            file,
            mode,
            ok,
            steps,
        })?;
        escape_json(&document).into_owned() + "\n"
    } else {
        summary(steps)
    };
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print the report")
}

/// Whether to colour the marks.
fn colour() -> bool {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal()
        && named("NO_COLOR").is_none()
        && named("TERM").is_none_or(|terminal| terminal != "dumb")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_problem_of_the_file_has_its_own_remedy() {
        let port = r#"{"local_address": "127.0.0.1", "port_key": "p", "encrypt_method": "rot13"}"#;
        let text = format!(
            r#"{{"mode": "client", "master": "host:1", "hold_timeout": "2h", "ports": [{port}]}}"#
        );
        let error = config::parse(&text, Path::new("c.json"), &|_| None).expect_err("invalid");
        let found: Vec<_> = error.problems.iter().map(problem_diagnosis).collect();
        for (evidence, remedy) in [
            ("hold_timeout is \"2h\"", "write seconds"),
            (
                "(\"127.0.0.1\") has no port",
                "write it as \"127.0.0.1:PORT\"",
            ),
            ("encrypt_method is \"rot13\"", "use one of "),
        ] {
            assert!(
                found
                    .iter()
                    .any(|diagnosis| diagnosis.evidence.ends_with(evidence)
                        && diagnosis.remedy.starts_with(remedy)),
                "{evidence}: {found:?}"
            );
        }
        let error = config::parse("{", Path::new("c.json"), &|_| None).expect_err("no JSON");
        let found = error.problems.first().map(problem_diagnosis);
        assert_eq!(found.expect("a problem").remedy, "correct the file");
    }

    #[test]
    fn scales_have_a_limited_range() {
        assert_eq!(positive("0.05"), Ok(0.05));
        for text in ["0", "-1", "nan", "inf", "61", "soon"] {
            assert!(positive(text).is_err(), "{text}");
        }
    }
}
