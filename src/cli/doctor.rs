//! `report doctor`: diagnoses the path of a role and prints evidence, causes and remedies.

use std::{
    fmt::Write as _,
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
    progress::ProgressLine,
    roles::{self, port_parameters, uplink},
    signals::{Signals, run_until_signal},
    threads,
    warnings::warnings,
};
use crate::{
    config::{
        self, Config, ConfigProblem, HostPort, LinkConfig, LoadedConfig, MasterConfig, PortConfig,
        Position, RoleConfig,
    },
    diagnosis::{Diagnosis, DiagnosisCode},
    doctor::{
        self, DoctorReport, DoctorStep, IDLE_PERIODS, ListenAddress, MasterSubject, MasterTarget,
        StepOutcome, Subject, SubjectPort,
    },
    net::{dial::Dialer, tls::TlsError},
    telemetry::{escape_json, escape_text},
    tunnel::ProcessShared,
};
use report_proto::{crypto::LinkKey, frame::Role};

/// The default duration of each measurement in seconds.
const MEASURE: &str = "1";

/// The minimum time to wait for a server. On a slow path a tunnel needs a second after the link.
const SERVER_WAIT_MIN: Duration = Duration::from_secs(3);

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
            let _ = io::stdout().write_all(render_step(step, colour).as_bytes());
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
                let diagnosis = Diagnosis::new(
                    DiagnosisCode::ConfigurationInvalid,
                    describe_problem(problem),
                    "",
                    "correct the file",
                );
                report.record(DoctorStep::failed(
                    "configuration",
                    &subject,
                    started.elapsed(),
                    diagnosis,
                ));
            }
            None
        }
    }
}

/// Describes a problem without the name of the file, which is the step's subject.
fn describe_problem(problem: &ConfigProblem) -> String {
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
    format!("{position}{field}{fault}")
}

fn describe_role(role: &RoleConfig) -> String {
    let of = |link: &LinkConfig, ports: &[PortConfig]| {
        let (masters, ports) = (link.masters.len(), ports.len());
        let plural = |count| if count == 1 { "" } else { "s" };
        format!(
            "a {} of {masters} master{}, {ports} port{}",
            role.name(),
            plural(masters),
            plural(ports)
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
                result = run_checks(arguments, &config.role, &mut *report, &cancel) => result.map(|()| true),
                () = cancel.cancelled() => Ok(false),
            }
        };
        // A signal ends the checks early. The steps so far are still printed.
        let mut is_done = false;
        let checks = async {
            is_done = checks.await?;
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
) -> anyhow::Result<()> {
    match role {
        RoleConfig::Master(master) => {
            doctor::check_master(&master_subject(master).await?, report).await
        }
        RoleConfig::Server(server) => {
            let key = LinkKey::derive(Some(server.master_key.expose()));
            let serves = |port: &PortConfig| {
                let HostPort { host, port } = port.local_address.clone();
                Some((host, port))
            };
            match subject(
                arguments,
                Role::Server,
                key,
                (&server.link, &server.ports),
                SERVER_WAIT_MIN,
                serves,
            ) {
                Ok(subject) => doctor::check_role(subject, report, cancel).await,
                Err(error) => report.record(tls_files_failed(&error)),
            }
        }
        RoleConfig::Client(client) => {
            let server_timeout =
                SERVER_WAIT_MIN.max((*client.hold_timeout).min(SERVER_WAIT_MIN * 2));
            let key = LinkKey::derive(None);
            match subject(
                arguments,
                Role::Client,
                key,
                (&client.link, &client.ports),
                server_timeout,
                |_| None,
            ) {
                Ok(subject) => doctor::check_role(subject, report, cancel).await,
                Err(error) => report.record(tls_files_failed(&error)),
            }
        }
    }
    Ok(())
}

/// The step for TLS files that cannot be used.
fn tls_files_failed(error: &TlsError) -> DoctorStep {
    let diagnosis = error.diagnosis("correct the file, or the field that names it");
    DoctorStep::failed("configuration", "tls", Duration::ZERO, diagnosis)
}

fn subject(
    arguments: &DoctorArguments,
    role: Role,
    key: LinkKey,
    (link, ports): (&LinkConfig, &[PortConfig]),
    server_timeout: Duration,
    service: impl Fn(&PortConfig) -> Option<(String, u16)>,
) -> Result<Subject, TlsError> {
    let process_shared = ProcessShared::default();
    // One client per master, so that each master is checked separately.
    let clients = uplink(link, Role::Client, None)?.each();
    let dialers = link
        .masters
        .iter()
        .map(|address| Dialer::new(address.clone(), link.dial_parameters()));
    let masters = dialers.zip(clients).map(|(dialer, client)| {
        Ok(MasterTarget {
            dialer: dialer?,
            client,
        })
    });
    let port = |port: &PortConfig| SubjectPort {
        port: port_parameters(port, link, &process_shared),
        service: service(port),
    };
    let idle_periods = IDLE_PERIODS
        .iter()
        .filter(|_| arguments.patient)
        .map(|period| period.mul_f64(arguments.silence_scale));
    Ok(Subject {
        role,
        key,
        masters: masters.collect::<Result<_, TlsError>>()?,
        ports: ports.iter().map(port).collect(),
        connect_timeout: *link.connect_timeout,
        server_timeout,
        heartbeat: *link.heartbeat,
        measure: Duration::from_secs_f64(arguments.seconds),
        idle_periods: idle_periods.collect(),
    })
}

async fn master_subject(master: &MasterConfig) -> anyhow::Result<MasterSubject> {
    let mut addresses = Vec::new();
    for written in master.listen_at.iter() {
        let resolved = roles::resolve(written)
            .await
            .map_err(|error| error.diagnosis());
        addresses.push(ListenAddress {
            written: written.to_string(),
            resolved,
        });
    }
    Ok(MasterSubject {
        addresses,
        path: master.path.to_string(),
        key: LinkKey::derive(Some(master.master_key.expose())),
        tls: master
            .tls
            .as_ref()
            .map(|files| (files.cert.to_path_buf(), files.key.to_path_buf())),
        healthz: master.healthz,
        peer_requirement: peer_requirement(master),
    })
}

/// Returns the requirement of the master for every peer, if any.
fn peer_requirement(master: &MasterConfig) -> Option<&'static str> {
    if master
        .tls
        .as_ref()
        .is_some_and(|files| files.client_ca.is_some())
    {
        return Some("a certificate (`tls.client_ca`)");
    }
    master
        .proxy_protocol
        .then_some("the PROXY protocol (`proxy_protocol`)")
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

fn summary(steps: &[DoctorStep]) -> String {
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

/// Whether to colour the marks.
fn colour() -> bool {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal()
        && named("NO_COLOR").is_none()
        && named("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// Formats a step as lines of text.
fn render_step(step: &DoctorStep, colour: bool) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(render_step(&step, false), lines);
            let coloured = render_step(&step, true);
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
        let text = render_step(&step, false);
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

    #[test]
    fn scales_have_a_limited_range() {
        assert_eq!(positive("0.05"), Ok(0.05));
        for text in ["0", "-1", "nan", "inf", "61", "soon"] {
            assert!(positive(text).is_err(), "{text}");
        }
    }
}
