//! `report bench`: measures the path to a server through the link of a client configuration and a
//! separate tunnel. The peer is the benchmark responder of the server. This command opens no
//! listeners, and the service behind the port sees no traffic.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    ConfigFile,
    bench_report::BenchReport,
    progress::ProgressLine,
    roles::{client_uplink, port_parameters},
    signals::{Signals, run_until_signal},
    threads,
};
use crate::{
    bench::{
        BENCH_STREAMS_MAX, BenchPlan, BenchResults, MeasureError, PayloadKind, PhaseProgress,
        UnknownPayloadKind,
    },
    client::direct::{self, DirectTunnel},
    config::{self, ClientConfig, PortConfig, RoleConfig},
    telemetry::escape_json,
    tunnel::ProcessShared,
};

/// The valid durations of a phase, in seconds. The shortest suits a link in memory.
const SECONDS: std::ops::RangeInclusive<f64> = 0.05..=60.0;

/// The minimum time to wait for a server. `hold_timeout` applies when it is longer. On a slow path
/// a tunnel needs a second after the link.
const SERVER_WAIT_MIN: Duration = Duration::from_secs(1);

/// Half of the server's limit, because streams of the previous phase may still be closing.
const CONNECTIONS_MAX: i64 = BENCH_STREAMS_MAX as i64 / 2;

/// The arguments of `report bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Port to measure, by its `mark` (default: the first)
    #[arg(long)]
    mark: Option<String>,
    /// Seconds per phase, 0.05 to 60; there are nine phases
    #[arg(long, value_name = "N", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// Connections in the phases with parallel transfers
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=CONNECTIONS_MAX))]
    connections: u16,
    /// Payload: random (incompressible) or text (compressible)
    #[arg(long, default_value = "random", value_parser = data)]
    data: PayloadKind,
    /// Print one JSON object with units in the field names
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| SECONDS.contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        format!(
            "write seconds from {} to {}",
            SECONDS.start(),
            SECONDS.end()
        )
    })
}

fn data(text: &str) -> Result<PayloadKind, UnknownPayloadKind> {
    text.parse()
}

/// Runs the measurement and prints the results.
///
/// # Errors
/// Fails when the file is invalid or not a client's, no tunnel is established, or a phase fails.
/// Results of finished phases are printed even then.
pub(super) fn bench(arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    let file = &arguments.file.config;
    let loaded = config::load(file)?;
    let RoleConfig::Client(config) = &loaded.config.role else {
        bail!(
            "{} is a {} configuration: `report bench` needs the configuration of a client",
            file.display(),
            loaded.config.role.name()
        );
    };
    let port = select_port(config, arguments.mark.as_deref())
        .with_context(|| file.display().to_string())?;
    let runtime = threads::role_runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::install().context("cannot receive signals")?;
        let cancel = CancellationToken::new();
        run_until_signal(
            measure(arguments, config, port, cancel.clone()),
            &cancel,
            async || signals.next().await,
        )
        .await
    });
    runtime.shutdown_background();
    outcome
}

/// Returns the port to measure.
fn select_port<'c>(config: &'c ClientConfig, mark: Option<&str>) -> anyhow::Result<&'c PortConfig> {
    let mut ports = config.enabled_ports();
    let found = match mark {
        Some(mark) => ports.find(|port| port.mark == mark),
        None => ports.next(),
    };
    found.with_context(|| {
        let known: Vec<String> = config
            .enabled_ports()
            .map(|port| format!("\"{}\"", port.mark))
            .collect();
        format!(
            "no port has the mark \"{}\": --mark takes one of {}",
            mark.unwrap_or_default(),
            known.join(", ")
        )
    })
}

async fn measure(
    arguments: &BenchArguments,
    config: &ClientConfig,
    port: &PortConfig,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let uplink = client_uplink(config)?;
    let parameters = port_parameters(port, &config.link, &ProcessShared::default());
    let plan = BenchPlan {
        time: arguments.seconds,
        connections: usize::from(arguments.connections),
        data: arguments.data,
    };
    let line = ProgressLine::new();
    line.show("connecting to the master …");
    let stop = cancel.clone();
    let work = move |reached: DirectTunnel| async move { run(plan, reached, &line, &stop).await };
    let reached = direct::with_tunnel(
        uplink,
        parameters,
        (*config.hold_timeout).max(SERVER_WAIT_MIN),
        cancel,
        work,
    )
    .await;
    let (reached, measured, outcome) = reached.inspect_err(|_| ProgressLine::new().clear())?;
    if let Err(Incomplete::NotServed) = outcome {
        bail!("{}", not_served(&reached));
    }
    let report = BenchReport::new(port, &plan, &reached, measured, outcome.is_ok());
    print(&report, arguments.json).context("cannot print the results")?;
    match outcome {
        Ok(()) => Ok(()),
        Err(Incomplete::Failed(error)) => Err(error.into()),
        Err(Incomplete::NotServed | Incomplete::Interrupted) => bail!("interrupted"),
    }
}

/// Why a measurement is incomplete.
enum Incomplete {
    /// The server accepts no benchmark streams.
    NotServed,
    /// A phase failed.
    Failed(MeasureError),
    /// A signal interrupted the measurement.
    Interrupted,
}

async fn run(
    plan: BenchPlan,
    reached: DirectTunnel,
    line: &ProgressLine,
    stop: &CancellationToken,
) -> (DirectTunnel, BenchResults, Result<(), Incomplete>) {
    let mut measured = BenchResults::default();
    if reached.server_info.bench != Some(true) {
        line.clear();
        return (reached, measured, Err(Incomplete::NotServed));
    }
    let on_progress =
        |PhaseProgress {
             number,
             total,
             phase,
         }: PhaseProgress| { line.show(&format!("{number}/{total} {phase} …")) };
    let outcome = tokio::select! {
        outcome = plan.run(&reached.tunnel, &mut measured, on_progress) => outcome.map_err(Incomplete::Failed),
        () = stop.cancelled() => Err(Incomplete::Interrupted),
    };
    line.clear();
    (reached, measured, outcome)
}

fn not_served(reached: &DirectTunnel) -> &'static str {
    match reached.server_info.bench {
        Some(_) => {
            "the server accepts no benchmark streams: its configuration contains \"bench\": false; remove that to measure"
        }
        None => {
            "the server accepts no benchmark streams: its version does not support them; upgrade the server"
        }
    }
}

fn print(report: &BenchReport, json: bool) -> anyhow::Result<()> {
    let text = if json {
        escape_json(&serde_json::to_string(report)?).into_owned() + "\n"
    } else {
        report.to_text()
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn client() -> ClientConfig {
        let text = r#"{"mode": "client", "master": "host:1", "ports": [
            {"mark": "SSH", "local_address": "127.0.0.1:1", "port_key": "a"},
            {"mark": "远程桌面", "local_address": "127.0.0.1:2", "port_key": "b"}]}"#;
        match config::parse(text, Path::new("c.json"), &|_| None)
            .expect("loads")
            .config
            .role
        {
            RoleConfig::Client(client) => client,
            other => panic!("{}", other.name()),
        }
    }

    #[test]
    fn select_port_defaults_to_the_first_port() {
        assert_eq!(select_port(&client(), None).expect("the first").mark, "SSH");
        assert_eq!(
            select_port(&client(), Some("远程桌面"))
                .expect("named")
                .mark,
            "远程桌面"
        );
        let error = select_port(&client(), Some("RDP"))
            .expect_err("unknown")
            .to_string();
        assert!(
            error.contains("\"RDP\"") && error.contains("\"SSH\", \"远程桌面\""),
            "{error}"
        );
    }

    #[test]
    fn seconds_may_be_fractions() {
        assert_eq!(seconds("0.2"), Ok(Duration::from_millis(200)));
        for text in ["0", "-1", "61", "nan", "inf", "1s", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
