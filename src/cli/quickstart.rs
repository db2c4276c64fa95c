//! `report quickstart`: the whole path on one machine, over real sockets, from the same files that a user would write.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
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
    configurations::{Configurations, Meeting},
    page,
    roles::Ready,
    run::run_with_signals,
    threads,
};
use crate::{
    config::{AddressError, HostPort},
    telemetry,
};

/// Ports that are taken when they are free, so that addresses stay the same from run to run. The first is that of the README.
const MASTER_PORT: u16 = 51_324;
const CLIENT_PORT: u16 = 51_380;
const PAGE_PORT: u16 = 51_381;

/// What each role may take to drain: somebody waits at the keyboard.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// What `report quickstart` is told.
#[derive(Debug, Args)]
pub struct QuickstartArguments {
    /// The TCP service to reach, in place of the built-in web page
    #[arg(long, value_name = "HOST:PORT", value_parser = service_address)]
    to: Option<HostPort>,
    /// Write the three configurations into this folder as well
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// The local port to connect to
    #[arg(long)]
    port: Option<u16>,
}

fn service_address(text: &str) -> Result<HostPort, AddressError> {
    text.parse::<HostPort>()?.to_dial()
}

/// Runs a master, a server and a client until a signal ends them.
///
/// # Errors
/// When a port is taken, a file cannot be written, or a role fails.
pub fn quickstart(arguments: QuickstartArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(Level::WARN)?;
    // The page and three roles end one after the other.
    run_with_signals(threads::of_several_roles()?, GRACE_PERIOD.saturating_mul(4), async |cancel| serve(arguments, cancel).await)
}

async fn serve(arguments: QuickstartArguments, cancel: CancellationToken) -> anyhow::Result<()> {
    let page = if arguments.to.is_none() { Some(page::listen(free_port(PAGE_PORT)?).await?) } else { None };
    let service = match (&arguments.to, &page) {
        (Some(service), _) => service.clone(),
        (None, page) => local(page.as_ref().map(page::Page::port).unwrap_or_default()),
    };
    let client = match arguments.port {
        Some(port) => chosen_port(port)?,
        None => free_port(CLIENT_PORT)?,
    };
    let mark = if page.is_some() { "built-in page" } else { "service" }.to_owned();
    let meeting = Meeting { master: local(free_port(MASTER_PORT)?), client: local(client), service, mark };
    let configurations = Configurations::new(&meeting)?;
    if let Some(folder) = &arguments.write {
        configurations.write(folder)?;
    }
    // All of them listen before one dials.
    let [master, server, client] = configurations.load()?;
    let mut roles = Vec::new();
    for (name, config) in [("client", client), ("server", server), ("master", master)] {
        roles.push((name, Ready::prepare(&config).await.context(name)?));
    }
    let mut parts = Parts::default();
    if let Some(page) = page {
        parts.start("page", |cancel| page.serve(cancel));
    }
    for (name, ready) in roles {
        parts.start(name, |cancel| async move {
            ready.run(cancel, GRACE_PERIOD).await;
            Ok(())
        });
    }
    announce(&arguments, &meeting, &configurations).context("cannot print what to do")?;
    parts.run(&cancel).await
}

/// Says where to go, and what the three files are.
fn announce(arguments: &QuickstartArguments, meeting: &Meeting, configurations: &Configurations) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, text) in configurations.files() {
        let place = arguments.write.as_ref().map_or_else(|| (*name).to_owned(), |folder| folder.join(name).display().to_string());
        writeln!(out, "── {place} ──\n{text}")?;
    }
    writeln!(
        out,
        "app ──► client {} ══► master {} ◄══ server ──► {} {}",
        meeting.client, meeting.master, meeting.mark, meeting.service
    )?;
    match arguments.to {
        None => writeln!(out, "\nOpen http://{}/", meeting.client)?,
        Some(_) => writeln!(out, "\nConnect to {} to reach {}", meeting.client, meeting.service)?,
    }
    writeln!(out, "Ctrl-C ends it.")?;
    out.flush()
}

/// What runs in this process, ended in the order in which it was started: the page lets go of idle connections, the client of its
/// streams, and the master of nobody's.
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

    /// Waits until `cancel` is cancelled or one part ends, then ends them all.
    async fn run(mut self, cancel: &CancellationToken) -> anyhow::Result<()> {
        let mut outcome = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).and_then(|name| bail!("the {name} ended by itself")),
        };
        while let Some((_, _, next)) = self.running.first() {
            next.cancel();
            let Some(ended) = self.tasks.join_next_with_id().await else { break };
            let ended = self.ended(ended).map(drop);
            outcome = outcome.and(ended);
        }
        outcome
    }

    /// Strikes a part off, and says which it was or how it failed.
    fn ended(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> anyhow::Result<&'static str> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let place = self.running.iter().position(|(running, _, _)| *running == id);
        let name = place.map_or("task", |place| self.running.remove(place).1);
        match ended {
            Ok((_, outcome)) => outcome.map(|()| name).with_context(|| name),
            Err(panic) => Err(panic).with_context(|| name),
        }
    }
}

fn local(port: u16) -> HostPort {
    HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port }
}

/// This port if it is free on the loopback, else any that is.
fn free_port(preferred: u16) -> anyhow::Result<u16> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    Ok(bind(preferred).or_else(|_| bind(0)).context("no port is free on 127.0.0.1")?.port())
}

/// This port, which the user asked for.
fn chosen_port(port: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listener.with_context(|| format!("cannot listen at 127.0.0.1:{port}: choose another with --port"))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn parts_end_in_the_order_in_which_they_started() {
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
        assert_eq!(ended.try_iter().collect::<Vec<_>>(), ["page", "client", "server"]);
    }

    #[test]
    fn a_part_that_fails_ends_the_others_and_is_named() {
        let outcome = block_on(async {
            let mut parts = Parts::default();
            parts.start("client", |cancel| async move {
                cancel.cancelled().await;
                Ok(())
            });
            parts.start("master", |_| async { bail!("the port is taken") });
            parts.run(&CancellationToken::new()).await
        });
        assert_eq!(format!("{:#}", outcome.expect_err("failed")), "master: the port is taken");
    }

    #[test]
    fn a_taken_port_is_replaced_unless_it_was_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        assert_ne!(free_port(port).expect("another"), port);
        let error = format!("{:#}", chosen_port(port).expect_err("taken"));
        assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
    }
}
