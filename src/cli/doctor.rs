//! `report doctor`: walks a role's way and says what holds, what fails, and what to do.

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
    config::{self, Config, HostPort, LinkConfig, Loaded, MasterConfig, PortConfig, RoleConfig},
    crypto::LinkKey,
    doctor::{
        self, Journal, MasterWay, Outcome, Relay, RelayAddress, SILENCES, Step, Traveller,
        TravellerPort,
    },
    frame::Role,
    link::{Reason, dial::Dialer},
    telemetry::{shown, shown_in_json},
    tunnel::Commons,
};

/// How long each measure takes unless told otherwise.
const MEASURE: &str = "1";

/// A server is waited for at least so long: a second from a link to a tunnel is a slow path.
const PATIENCE: Duration = Duration::from_secs(3);

/// What `report doctor` is told.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Find out as well for how long the path lets a link be silent: takes five minutes for each master
    #[arg(long)]
    patient: bool,
    /// How long each of the five measures takes, in seconds
    #[arg(long, value_name = "N", default_value = MEASURE, value_parser = positive, hide = true)]
    seconds: f64,
    /// What the silences of `--patient` are multiplied by
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

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'d> {
    version: &'static str,
    file: String,
    /// Unless the file could not be read.
    mode: Option<&'static str>,
    /// Whether no step failed.
    ok: bool,
    steps: &'d [Step],
}

/// Walks, and prints each step when it is done.
///
/// # Errors
/// When the process lacks what it needs. What fails on the way is a step, and the exit code.
pub fn doctor(arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    let line = ProgressLine::new();
    let (is_json, colour) = (arguments.json, colour());
    let tell = move |step: &Step| {
        line.clear();
        if !is_json {
            // When nobody reads it, the exit code still says what came of it.
            let _ = io::stdout().write_all(rendered(step, colour).as_bytes());
        }
    };
    let mut journal = Journal::new(tell, move |what| line.show(&format!("{what} …")));
    let loaded = configuration(arguments, &mut journal);
    let mode = loaded.as_ref().map(|loaded| loaded.config.role.name());
    let interrupted = match &loaded {
        Some(loaded) => examined(arguments, &loaded.config, &mut journal)?,
        None => None,
    };
    line.clear();
    conclude(arguments, mode, &journal)?;
    let worst = journal.worst();
    Ok(interrupted.unwrap_or(if worst == Outcome::Failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }))
}

/// Reads the file, as `report check` does.
fn configuration(arguments: &DoctorArguments, journal: &mut Journal<'_>) -> Option<Loaded> {
    let file = &arguments.file.config;
    let (begun, subject) = (Instant::now(), file.display().to_string());
    match config::load(file) {
        Ok(loaded) => {
            let took = begun.elapsed();
            journal.enter(Step::ok(
                "configuration",
                &subject,
                took,
                described(&loaded.config.role),
            ));
            for warning in warnings(&loaded) {
                let reason =
                    Reason::of_sentence(&warning.to_string(), "change it, unless it is meant so");
                journal.enter(Step::warning("configuration", &subject, took, reason));
            }
            Some(loaded)
        }
        Err(error) => {
            for problem in &error.problems {
                let reason = Reason::of_sentence(
                    problem.to_string().trim_start_matches(':').trim(),
                    "correct the file",
                );
                journal.enter(Step::failed(
                    "configuration",
                    &subject,
                    begun.elapsed(),
                    reason,
                ));
            }
            None
        }
    }
}

fn described(role: &RoleConfig) -> String {
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

/// Walks; gives the exit code of a signal that ended it.
fn examined(
    arguments: &DoctorArguments,
    config: &Config,
    journal: &mut Journal<'_>,
) -> anyhow::Result<Option<ExitCode>> {
    let runtime = threads::of_a_role()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::install().context("cannot receive signals")?;
        let cancel = CancellationToken::new();
        let walking = async {
            tokio::select! {
                walked = walk(arguments, &config.role, &mut *journal, &cancel) => walked.map(|()| true),
                () = cancel.cancelled() => Ok(false),
            }
        };
        let mut is_done = false;
        let walking = async {
            is_done = walking.await?;
            anyhow::Ok(())
        };
        let code = run_until_signal(walking, &cancel, async || signals.next().await).await?;
        Ok(Some(code).filter(|_| !is_done))
    });
    runtime.shutdown_background();
    outcome
}

async fn walk(
    arguments: &DoctorArguments,
    role: &RoleConfig,
    journal: &mut Journal<'_>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    match role {
        RoleConfig::Master(master) => doctor::examine_relay(&relay(master).await?, journal).await,
        RoleConfig::Server(server) => {
            let key = LinkKey::derive(Some(server.master_key.expose()));
            let serves = |port: &PortConfig| {
                let HostPort { host, port } = port.local_address.clone();
                Some((host, port))
            };
            match traveller(
                arguments,
                Role::Server,
                key,
                (&server.link, &server.ports),
                PATIENCE,
                serves,
            ) {
                Ok(traveller) => doctor::examine(traveller, journal, cancel).await,
                Err(error) => journal.enter(unready(&error)),
            }
        }
        RoleConfig::Client(client) => {
            let patience = PATIENCE.max(client.hold_timeout.min(PATIENCE * 2));
            let key = LinkKey::derive(None);
            match traveller(
                arguments,
                Role::Client,
                key,
                (&client.link, &client.ports),
                patience,
                |_| None,
            ) {
                Ok(traveller) => doctor::examine(traveller, journal, cancel).await,
                Err(error) => journal.enter(unready(&error)),
            }
        }
    }
    Ok(())
}

/// The files that TLS needs cannot be used.
fn unready(error: &anyhow::Error) -> Step {
    let reason = Reason::of_sentence(
        &format!("{error:#}"),
        "correct the file, or the field that names it",
    );
    Step::failed("configuration", "tls", Duration::ZERO, reason)
}

fn traveller(
    arguments: &DoctorArguments,
    role: Role,
    key: LinkKey,
    (link, ports): (&LinkConfig, &[PortConfig]),
    patience: Duration,
    service: impl Fn(&PortConfig) -> Option<(String, u16)>,
) -> anyhow::Result<Traveller> {
    let commons = Commons::default();
    // Each master by itself, as a client that has no other.
    let clients = uplink(link, Role::Client, None)?.each();
    let dialers = link
        .masters
        .iter()
        .map(|address| Dialer::new(address.clone(), link.dial.clone()));
    let masters = dialers.zip(clients).map(|(dialer, client)| {
        Ok(MasterWay {
            dialer: dialer?,
            client,
        })
    });
    let port = |port: &PortConfig| TravellerPort {
        port: port_parameters(port, link, &commons),
        service: service(port),
    };
    let silences = SILENCES
        .iter()
        .filter(|_| arguments.patient)
        .map(|silence| silence.mul_f64(arguments.silence_scale));
    Ok(Traveller {
        role,
        key,
        masters: masters.collect::<anyhow::Result<_>>()?,
        ports: ports.iter().map(port).collect(),
        connect_timeout: link.connect_timeout,
        patience,
        heartbeat: link.heartbeat,
        measure: Duration::from_secs_f64(arguments.seconds),
        silences: silences.collect(),
    })
}

async fn relay(master: &MasterConfig) -> anyhow::Result<Relay> {
    let mut addresses = Vec::new();
    for written in &master.listen_at {
        let resolved = roles::resolve(written)
            .await
            .map_err(|error| format!("{error:#}"));
        addresses.push(RelayAddress {
            written: written.to_string(),
            resolved,
        });
    }
    Ok(Relay {
        addresses,
        path: master.path.clone(),
        key: LinkKey::derive(Some(master.master_key.expose())),
        tls: master
            .tls
            .as_ref()
            .map(|files| (files.cert.clone(), files.key.clone())),
        healthz: master.healthz,
        guard: guard(master),
    })
}

/// What a master wants of everybody who speaks with it.
fn guard(master: &MasterConfig) -> Option<&'static str> {
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

/// Prints what is left to print.
fn conclude(
    arguments: &DoctorArguments,
    mode: Option<&'static str>,
    journal: &Journal<'_>,
) -> anyhow::Result<()> {
    let steps = journal.steps();
    let text = if arguments.json {
        let ok = journal.worst() != Outcome::Failed;
        let file = arguments.file.config.display().to_string();
        let document = serde_json::to_string(&Document {
            version: env!("CARGO_PKG_VERSION"),
            file,
            mode,
            ok,
            steps,
        })?;
        shown_in_json(&document).into_owned() + "\n"
    } else {
        summary(steps)
    };
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print what was found")
}

fn summary(steps: &[Step]) -> String {
    let count = |outcome| steps.iter().filter(|step| step.outcome == outcome).count();
    let [ok, warnings, failed, skipped] = [
        Outcome::Ok,
        Outcome::Warning,
        Outcome::Failed,
        Outcome::Skipped,
    ]
    .map(count);
    let verdict = if failed == 0 {
        "all holds"
    } else {
        "something fails"
    };
    format!("\n{verdict}: {ok} ok, {warnings} with a warning, {failed} failed, {skipped} skipped\n")
}

/// Whether marks are coloured.
fn colour() -> bool {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal()
        && named("NO_COLOR").is_none()
        && named("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// A step as lines of text.
fn rendered(step: &Step, colour: bool) -> String {
    let (mark, code) = match step.outcome {
        Outcome::Ok => ("ok", "32"),
        Outcome::Warning => ("warning", "33"),
        Outcome::Failed => ("FAILED", "31"),
        Outcome::Skipped => ("skipped", "2"),
    };
    let mark = format!("{mark:<8}");
    let mark = if colour {
        format!("\x1b[{code}m{mark}\x1b[0m")
    } else {
        mark
    };
    let took = match step.outcome {
        Outcome::Skipped => String::new(),
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
        shown(&subject),
        shown(&step.evidence)
    );
    for (word, line) in [("why", &step.cause), ("do", &step.remedy)] {
        if let Some(line) = line {
            let _ = writeln!(text, "{:>35}{word}: {}", "", shown(line));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_mark_that_reads_without_colour() {
        let reason = || Reason::new("seen", "behind it", "do that");
        let second = Duration::from_secs(1);
        for (step, lines) in [
            (
                Step::ok("tcp", "a:1", second, "connected"),
                "ok       tcp               1000 ms  a:1: connected\n".to_owned(),
            ),
            (
                Step::skipped("tls", "", "tcp failed"),
                "skipped  tls                        tcp failed\n".to_owned(),
            ),
            (
                Step::warning("clock", "a", Duration::from_micros(1_250), reason()),
                format!(
                    "warning  clock              1.2 ms  a: seen\n{0:>35}why: behind it\n{0:>35}do: do that\n",
                    ""
                ),
            ),
            (
                Step::failed("tls", "a", second, Reason::new("seen", "", "do that")),
                format!(
                    "FAILED   tls               1000 ms  a: seen\n{:>35}do: do that\n",
                    ""
                ),
            ),
        ] {
            assert_eq!(rendered(&step, false), lines);
            let coloured = rendered(&step, true);
            assert!(
                coloured.starts_with("\x1b[") && coloured.contains("\x1b[0m"),
                "{coloured}"
            );
        }
    }

    #[test]
    fn what_peers_say_cannot_steer_a_terminal() {
        let steering = "\u{1b}[2J\u{202e}\u{2066}\u{2028}\n";
        let step = Step::failed(
            "tls",
            steering,
            Duration::ZERO,
            Reason::new(steering, steering, steering),
        );
        let text = rendered(&step, false);
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
    fn the_summary_counts_what_came_of_the_steps() {
        let steps = [
            Step::ok("name", "a", Duration::ZERO, ""),
            Step::warning("clock", "a", Duration::ZERO, Reason::new("", "", "")),
            Step::skipped("tls", "a", ""),
        ];
        assert_eq!(
            summary(&steps),
            "\nall holds: 1 ok, 1 with a warning, 0 failed, 1 skipped\n"
        );
        let failed = [Step::failed(
            "tcp",
            "a",
            Duration::ZERO,
            Reason::new("", "", ""),
        )];
        assert!(summary(&failed).contains("something fails: 0 ok"));
    }

    #[test]
    fn scales_are_numbers_within_reason() {
        assert_eq!(positive("0.05"), Ok(0.05));
        for text in ["0", "-1", "nan", "inf", "61", "soon"] {
            assert!(positive(text).is_err(), "{text}");
        }
    }
}
