//! `report bench`: measures the way through a client's configuration, over its link and a tunnel of its own, to the measuring peer that is built
//! into the server. Listens nowhere; the service behind the port hears nothing of it.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    ConfigFile,
    progress::ProgressLine,
    roles::{client_uplink, port_parameters},
    signals::{Signals, run_until_signal},
    table, threads,
};
use crate::{
    bench::{Data, MeasureError, Measured, PLACES, Plan, Progress, UnknownData},
    client::direct::{self, Reached},
    config::{self, ClientConfig, PortConfig, RoleConfig},
    telemetry::shown_in_json,
    tunnel::Commons,
};

/// How long a phase may take, in seconds: from what a link in memory takes to a minute.
const SECONDS: std::ops::RangeInclusive<f64> = 0.05..=60.0;

/// A server is waited for as long as new connections wait, and at least so long: a second from a link to a tunnel is a slow path.
const PATIENCE: Duration = Duration::from_secs(1);

/// Half of what the server takes: those before may still be ending.
const CONNECTIONS_MAX: i64 = PLACES as i64 / 2;

/// What `report bench` is told.
#[derive(Debug, Args)]
pub struct BenchArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The port to measure, by its `mark`; the first one unless given
    #[arg(long)]
    mark: Option<String>,
    /// How long each of the nine phases measures, 0.05 to 60
    #[arg(long, value_name = "N", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// How many connections share the throughput where it is not one
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=CONNECTIONS_MAX))]
    connections: u16,
    /// What is sent: random (does not shrink) or text (does)
    #[arg(long, default_value = "random", value_parser = data)]
    data: Data,
    /// Print one JSON object, with the units in the names of its fields
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
            "write seconds, from {} to {}",
            SECONDS.start(),
            SECONDS.end()
        )
    })
}

fn data(text: &str) -> Result<Data, UnknownData> {
    text.parse()
}

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// The version of this program.
    pub version: &'static str,
    /// The port's mark.
    pub port: String,
    /// The master's address.
    pub master: String,
    /// Whether the link to it uses TLS.
    pub tls: bool,
    pub encrypt_method: String,
    pub compress_method: String,
    pub data: Data,
    /// Of each phase.
    pub phase_seconds: f64,
    /// Of the parallel throughput.
    pub connections: usize,
    /// From the dial until the link stood.
    pub link_ms: f64,
    /// From then until the tunnel was attached.
    pub attach_ms: f64,
    #[serde(flatten)]
    pub measured: Measured,
    /// Whether everything was measured.
    pub complete: bool,
}

/// Measures, and prints what came of it.
///
/// # Errors
/// When the file is wrong or no client's, there is no tunnel, or a phase failed; what was measured until then is printed all the same.
pub fn bench(arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    let file = &arguments.file.config;
    let loaded = config::load(file)?;
    let RoleConfig::Client(config) = &loaded.config.role else {
        bail!(
            "{} is a {}'s: `report bench` takes the configuration of a client",
            file.display(),
            loaded.config.role.name()
        );
    };
    let port =
        chosen(config, arguments.mark.as_deref()).with_context(|| file.display().to_string())?;
    let runtime = threads::of_a_role()?;
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

/// The port that is to be measured.
fn chosen<'c>(config: &'c ClientConfig, mark: Option<&str>) -> anyhow::Result<&'c PortConfig> {
    let mut ports = config.ports.iter();
    let found = match mark {
        Some(mark) => ports.find(|port| port.mark == mark),
        None => ports.next(),
    };
    found.with_context(|| {
        let known: Vec<String> = config
            .ports
            .iter()
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
    let parameters = port_parameters(port, &config.link, &Commons::default());
    let plan = Plan {
        time: arguments.seconds,
        connections: usize::from(arguments.connections),
        data: arguments.data,
    };
    let line = ProgressLine::new();
    line.show("linking to the master …");
    let stop = cancel.clone();
    let work = move |reached: Reached| async move { run(plan, reached, &line, &stop).await };
    let reached = direct::with_tunnel(
        uplink,
        parameters,
        config.hold_timeout.max(PATIENCE),
        cancel,
        work,
    )
    .await;
    let (reached, measured, outcome) = reached.inspect_err(|_| ProgressLine::new().clear())?;
    if let Err(Stopped::NotServed) = outcome {
        bail!("{}", not_served(&reached));
    }
    let report = Report::new(port, arguments, &reached, measured, outcome.is_ok());
    print(&report, arguments.json).context("cannot print what was measured")?;
    match outcome {
        Ok(()) => Ok(()),
        Err(Stopped::Failed(error)) => Err(error.into()),
        Err(Stopped::NotServed | Stopped::Interrupted) => bail!("interrupted"),
    }
}

/// Why the measure did not come to its end.
enum Stopped {
    /// The server takes no measuring streams.
    NotServed,
    /// A phase failed.
    Failed(MeasureError),
    /// By a signal.
    Interrupted,
}

async fn run(
    plan: Plan,
    reached: Reached,
    line: &ProgressLine,
    stop: &CancellationToken,
) -> (Reached, Measured, Result<(), Stopped>) {
    let mut measured = Measured::default();
    if reached.taker.bench != Some(true) {
        line.clear();
        return (reached, measured, Err(Stopped::NotServed));
    }
    let tell =
        |Progress { number, of, phase }: Progress| line.show(&format!("{number}/{of} {phase} …"));
    let outcome = tokio::select! {
        outcome = plan.run(&reached.tunnel, &mut measured, tell) => outcome.map_err(Stopped::Failed),
        () = stop.cancelled() => Err(Stopped::Interrupted),
    };
    line.clear();
    (reached, measured, outcome)
}

fn not_served(reached: &Reached) -> &'static str {
    match reached.taker.bench {
        Some(_) => {
            "the server takes no measuring streams: its configuration says \"bench\": false; take that out to measure"
        }
        None => {
            "the server takes no measuring streams: its version does not know them; upgrade the server"
        }
    }
}

impl Report {
    fn new(
        port: &PortConfig,
        arguments: &BenchArguments,
        reached: &Reached,
        measured: Measured,
        complete: bool,
    ) -> Self {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Report {
            version: env!("CARGO_PKG_VERSION"),
            port: port.mark.clone(),
            tls: reached.master.starts_with("wss://"),
            master: reached.master.clone(),
            encrypt_method: port.encrypt_method.to_string(),
            compress_method: port.compress_method.to_string(),
            data: arguments.data,
            phase_seconds: arguments.seconds.as_secs_f64(),
            connections: usize::from(arguments.connections),
            link_ms: milliseconds(reached.link_time),
            attach_ms: milliseconds(reached.attach_time),
            measured,
            complete,
        }
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json {
        shown_in_json(&serde_json::to_string(report)?).into_owned() + "\n"
    } else {
        table::table(report)
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
    fn the_first_port_is_measured_unless_another_is_named() {
        assert_eq!(chosen(&client(), None).expect("the first").mark, "SSH");
        assert_eq!(
            chosen(&client(), Some("远程桌面")).expect("named").mark,
            "远程桌面"
        );
        let error = chosen(&client(), Some("RDP"))
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
