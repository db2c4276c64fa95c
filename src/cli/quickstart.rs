//! `report quickstart`: runs all three roles on one machine over real sockets, from the same files
//! that a user would write.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::{
    configurations::{Configurations, Topology},
    page::{self, Page},
    roles::PreparedRole,
    run::run_with_signals,
    signals::Signals,
    threads,
};
use crate::{
    config::{HostPort, HostPortError},
    grace::Grace,
    telemetry::{self, LogFormat},
};

/// Preferred ports. They keep addresses stable across runs while they are free. The README uses the
/// first.
const MASTER_PORT: u16 = 51_324;
const CLIENT_PORT: u16 = 51_380;
const PAGE_PORT: u16 = 51_381;

/// How long each role may drain. It is short because a user is waiting.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// The arguments of `report quickstart`.
#[derive(Debug, Args)]
pub(super) struct QuickstartArguments {
    /// TCP service to expose instead of the built-in page
    #[arg(long, value_name = "HOST:PORT", value_parser = service_address)]
    to: Option<HostPort>,
    /// Also write the three configurations into this folder
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Local port to connect to
    #[arg(long)]
    port: Option<u16>,
}

fn service_address(text: &str) -> Result<HostPort, HostPortError> {
    text.parse::<HostPort>()?.dialable()
}

/// Runs a master, a server and a client until a signal ends them.
///
/// # Errors
/// Fails when a port is taken, a file cannot be written, or a role fails.
pub(super) fn quickstart(arguments: QuickstartArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(Level::WARN, LogFormat::Text)?;
    // The page and the three roles drain one after the other.
    run_with_signals(
        threads::combined_runtime()?,
        &Grace::from(GRACE_PERIOD.saturating_mul(4)),
        Signals::install,
        async |cancel| serve(arguments, cancel).await,
    )
}

async fn serve(arguments: QuickstartArguments, cancel: CancellationToken) -> anyhow::Result<()> {
    let loopback = loopback()?;
    let page = if arguments.to.is_none() {
        Some(page::listen(free_port(loopback, PAGE_PORT)?).await?)
    } else {
        None
    };
    let topology = topology(&arguments, loopback, page.as_ref())?;
    let configurations = Configurations::new(&topology)?;
    if let Some(folder) = &arguments.write {
        configurations.write(folder)?;
    }
    // Bind all listeners before any role dials.
    let [master, server, client] = configurations.load()?;
    let mut roles = Vec::new();
    for (name, config) in [("client", client), ("server", server), ("master", master)] {
        roles.push((name, PreparedRole::prepare(&config).await.context(name)?));
    }
    let mut parts = Parts::default();
    if let Some(page) = page {
        parts.start("page", |cancel| page.serve(cancel));
    }
    for (name, ready) in roles {
        parts.start(name, |cancel| async move {
            ready.run(cancel, GRACE_PERIOD.into()).await;
            Ok(())
        });
    }
    print_instructions(&arguments, &topology, &configurations)
        .context("cannot print the instructions")?;
    parts.run(&cancel).await
}

/// Chooses the addresses of the three roles. The service is that of the arguments, or the page.
fn topology(
    arguments: &QuickstartArguments,
    loopback: IpAddr,
    page: Option<&Page>,
) -> anyhow::Result<Topology> {
    let (service, mark) = match (&arguments.to, page) {
        (Some(service), _) => (service.clone(), "service"),
        (None, Some(page)) => (host_port(page.address()), "built-in page"),
        (None, None) => bail!("no service"),
    };
    let client = match arguments.port {
        Some(port) => chosen_port(loopback, port)?,
        None => free_port(loopback, CLIENT_PORT)?,
    };
    Ok(Topology {
        master: host_port(free_port(loopback, MASTER_PORT)?),
        client: host_port(client),
        service,
        mark: mark.to_owned(),
    })
}

/// Prints the three files and the address to open.
fn print_instructions(
    arguments: &QuickstartArguments,
    topology: &Topology,
    configurations: &Configurations,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, text) in configurations.files() {
        let place = arguments.write.as_ref().map_or_else(
            || (*name).to_owned(),
            |folder| folder.join(name).display().to_string(),
        );
        writeln!(out, "── {place} ──\n{text}")?;
    }
    writeln!(
        out,
        "app ──► client {} ══► master {} ◄══ server ──► {} {}",
        topology.client, topology.master, topology.mark, topology.service
    )?;
    match arguments.to {
        None => writeln!(out, "\nOpen http://{}/", topology.client)?,
        Some(_) => writeln!(
            out,
            "\nConnect to {} to reach {}",
            topology.client, topology.service
        )?,
    }
    writeln!(out, "Press Ctrl-C to stop.")?;
    out.flush()
}

/// The running parts of the process. They stop in the order of their start. The page closes idle
/// connections first. The client then closes its streams, so the master has none left to drain.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<anyhow::Result<()>>,
    running: Vec<(Id, &'static str, CancellationToken)>,
}

impl Parts {
    fn start<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let task = self.tasks.spawn(part(cancel.clone()));
        self.running.push((task.id(), name, cancel));
    }

    /// Waits until `cancel` is cancelled or one part ends, then stops all parts.
    async fn run(mut self, cancel: &CancellationToken) -> anyhow::Result<()> {
        let mut outcome = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).and_then(|name| bail!("the {name} ended unexpectedly")),
        };
        while let Some((_, _, next)) = self.running.first() {
            next.cancel();
            let Some(ended) = self.tasks.join_next_with_id().await else {
                break;
            };
            let ended = self.ended(ended).map(drop);
            outcome = outcome.and(ended);
        }
        outcome
    }

    /// Removes a finished part and returns its name or its failure.
    fn ended(
        &mut self,
        ended: Result<(Id, anyhow::Result<()>), JoinError>,
    ) -> anyhow::Result<&'static str> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let place = self
            .running
            .iter()
            .position(|(running, _, _)| *running == id);
        let name = place.map_or("task", |place| self.running.remove(place).1);
        match ended {
            Ok((_, outcome)) => outcome.map(|()| name).with_context(|| name),
            Err(panic) => Err(panic).with_context(|| name),
        }
    }
}

fn host_port(address: SocketAddr) -> HostPort {
    HostPort {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

/// Returns the loopback address: IPv4, or IPv6 on a machine without IPv4.
fn loopback() -> anyhow::Result<IpAddr> {
    let both = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let usable = both
        .into_iter()
        .find(|address| TcpListener::bind((*address, 0)).is_ok());
    usable.context("cannot listen at 127.0.0.1 or [::1]: is the loopback interface up?")
}

/// Returns the preferred port of the loopback if it is free, otherwise any free port.
fn free_port(loopback: IpAddr, preferred: u16) -> anyhow::Result<SocketAddr> {
    let bind =
        |port| TcpListener::bind((loopback, port)).and_then(|listener| listener.local_addr());
    bind(preferred)
        .or_else(|_| bind(0))
        .with_context(|| format!("no port is free on {loopback}"))
}

/// Returns the loopback port that the user asked for.
fn chosen_port(loopback: IpAddr, port: u16) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::new(loopback, port);
    let listener = TcpListener::bind(address);
    let listener = listener
        .with_context(|| format!("cannot listen at {address}: choose another with --port"))?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn parts_stop_in_start_order() {
        let (sender, ended) = std::sync::mpsc::channel();
        let mut parts = Parts::default();
        let cancel = CancellationToken::new();
        cancel.cancel();
        block_on(async {
            for name in ["page", "client", "server"] {
                let sender = sender.clone();
                parts.start(name, |cancel| async move {
                    cancel.cancelled().await;
                    Ok(sender.send(name)?)
                });
            }
            parts.run(&cancel).await.expect("ends");
        });
        assert_eq!(
            ended.try_iter().collect::<Vec<_>>(),
            ["page", "client", "server"]
        );
    }

    #[test]
    fn a_failed_part_stops_the_others_and_is_named() {
        let outcome = block_on(async {
            let mut parts = Parts::default();
            parts.start("client", |cancel| async move {
                cancel.cancelled().await;
                Ok(())
            });
            parts.start("master", |_| async { bail!("the port is taken") });
            parts.run(&CancellationToken::new()).await
        });
        assert_eq!(
            format!("{:#}", outcome.expect_err("failed")),
            "master: the port is taken"
        );
    }

    #[test]
    fn a_taken_port_is_replaced_unless_requested() {
        for loopback in [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ] {
            let Ok(listener) = TcpListener::bind((loopback, 0)) else {
                assert!(loopback.is_ipv6(), "only IPv6 may be missing");
                continue;
            };
            let taken = listener.local_addr().expect("an address");
            assert_ne!(free_port(loopback, taken.port()).expect("another"), taken);
            let error = format!(
                "{:#}",
                chosen_port(loopback, taken.port()).expect_err("taken")
            );
            assert!(
                error.contains(&taken.to_string()) && error.contains("--port"),
                "{error}"
            );
        }
    }
}
