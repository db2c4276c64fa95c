//! `report connect`: joins standard input and output to a service, as for the `ProxyCommand` of ssh.
//! It has its own link and tunnel, opens no listener, and works beside a running client.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::{
    ConfigFile, InvalidArguments,
    connect_request::{details, failure, unconfirmed},
    field_options::{ConfigFields, ConnectFields, FieldOptions, OptionNames},
    invite,
    port_choice::by_mark,
    roles::{client_uplink, port_parameters, process_shared},
    signals::{Signals, run_until_signal},
    standard_streams::{read_input, write_output},
    threads,
};
use crate::{
    client::{
        direct::{self, DirectTunnel},
        pipe::{self, PipeEnd, PipeEnds},
    },
    config::{
        self, ClientConfig, Invite, LinksConfig, LoadedConfig, PortConfig, RoleConfig, Secret,
        ServiceProtocol,
    },
    supervisor::LinkSet,
    telemetry,
    tunnel::{PortParameters, confirmation::confirmed},
};

/// The minimum time to wait for a server. `hold_timeout` applies when it is longer.
const SERVER_WAIT_MIN: Duration = Duration::from_secs(1);

/// The arguments of `report connect`.
#[derive(Debug, Args)]
pub(super) struct ConnectArguments {
    /// Port of a client, by its `mark`, or an invitation
    #[arg(
        value_name = "PORT|INVITATION",
        value_parser = hidden,
        required_unless_present = "invite_file",
        conflicts_with = "invite_file"
    )]
    port: Option<Secret>,
    #[command(flatten)]
    file: ConfigFile,
    /// File with an invitation, in place of a configuration
    #[arg(long, value_name = "FILE")]
    invite_file: Option<PathBuf>,
    /// Destination of a SOCKS5 port
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// Number of the port in its range, from 0
    #[arg(long, value_name = "N")]
    offset: Option<u16>,
    /// Minimum level of logs: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn", value_parser = level)]
    log_level: Level,
    #[command(flatten)]
    fields: FieldOptions<ConnectFields>,
}

/// Keeps an argument that may contain a key out of debug output.
pub(super) fn hidden(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text.to_owned()))
}

fn level(text: &str) -> Result<Level, &'static str> {
    text.parse()
        .map_err(|_| "write error, warn, info, debug or trace")
}

/// The service to connect to.
struct ConnectTarget {
    client: ClientConfig,
    port: PortConfig,
    log_format: telemetry::LogFormat,
}

impl ConnectTarget {
    fn parameters(&self) -> PortParameters {
        let process_shared = process_shared(*self.client.limits.memory);
        port_parameters(&self.port, &self.client.link, &process_shared)
    }
}

/// Connects, and carries both directions until they end.
///
/// # Errors
/// Fails when the configuration is invalid, no tunnel is established, or the connection is reset.
pub(super) fn connect(arguments: &ConnectArguments) -> anyhow::Result<ExitCode> {
    let target = arguments.target()?;
    let details = details(&target.port, arguments.offset, arguments.to.as_deref())?;
    telemetry::start(arguments.log_level, target.log_format)?;
    let runtime = threads::role_runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::install().context("cannot receive signals")?;
        let cancel = CancellationToken::new();
        run_until_signal(
            carry(&target, details, cancel.clone()),
            &cancel,
            async || signals.next().await,
        )
        .await
    });
    runtime.shutdown_background();
    outcome
}

impl ConnectArguments {
    fn target(&self) -> anyhow::Result<ConnectTarget> {
        let text = self.port.as_ref().map_or("", Secret::expose);
        let invite = match &self.invite_file {
            Some(path) => invite::read_file(path)?,
            None if Invite::is_start_of(text) => invite::read_text(text)?,
            None => return self.target_in_file(text),
        };
        let mut fields = ConfigFields::of_invite(&invite);
        // A placeholder with as many ports as the range. Nothing listens there.
        let address = match invite.range {
            1 => "127.0.0.1:1".to_owned(),
            range => format!("127.0.0.1:1-{range}"),
        };
        fields.set("ports.local_address", address);
        fields.set_options(&self.fields);
        let variables = |name: &str| std::env::var_os(name);
        fields.set_from_environment(&[("credential", "REPORT_CREDENTIAL")], &variables);
        let names = OptionNames::new(&self.fields, &[]);
        let loaded = fields.read(&names, &variables).map_err(InvalidArguments)?;
        let (client, log_format) =
            client_of(loaded).map_err(|role| anyhow!("the invitation describes a {role}"))?;
        let port = client.ports.first().context("no port")?.clone();
        Ok(ConnectTarget {
            client,
            port,
            log_format,
        })
    }

    /// Returns the port with this mark in the configuration file.
    fn target_in_file(&self, mark: &str) -> anyhow::Result<ConnectTarget> {
        let file = &self.file.config;
        if let Some((option, field)) = self.fields.first() {
            return Err(InvalidArguments(format!(
                "--{option} is only for an invitation: write `{field}` in {}",
                file.display()
            ))
            .into());
        }
        let (client, log_format) = client_of(config::load(file)?).map_err(|role| {
            anyhow!(
                "{} is a {role} configuration: `report connect` needs the configuration of a client, or an invitation",
                file.display()
            )
        })?;
        let port = by_mark(client.enabled_ports(), mark)
            .with_context(|| file.display().to_string())?
            .clone();
        Ok(ConnectTarget {
            client,
            port,
            log_format,
        })
    }
}

/// Returns the client, and the format of its logs. The error is the name of another role.
fn client_of(loaded: LoadedConfig) -> Result<(ClientConfig, telemetry::LogFormat), &'static str> {
    let log_format = loaded.config.common.log_format;
    match loaded.config.role {
        RoleConfig::Client(client) => Ok((client, log_format)),
        other => Err(other.name()),
    }
}

/// Establishes a tunnel, and carries standard input and output over a stream of it.
async fn carry(
    target: &ConnectTarget,
    details: Bytes,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let ConnectTarget { client, port, .. } = target;
    // One connection rarely needs several links, so only explicit fields count.
    let links = match &client.link.links {
        links if *links == LinksConfig::default() => None,
        links => Some((links.min(), links.max())),
    };
    let (min, max) = links.unwrap_or((1, 1));
    let link_set = LinkSet::new(client_uplink(client)?, max).with_min(min);
    let parameters = target.parameters();
    let (mark, stop) = (port.mark.clone(), cancel.clone());
    let work = move |reached: DirectTunnel| async move {
        tokio::select! {
            carried = carry_streams(&reached, details, &mark) => carried,
            () = stop.cancelled() => Err(anyhow!("interrupted")),
        }
    };
    let timeout = (*client.hold_timeout).max(SERVER_WAIT_MIN);
    direct::with_tunnel_over(link_set, parameters, timeout, cancel, work).await?
}

/// Carries standard input and output. They are untouched until the tunnel is established, and the
/// connection to a destination.
async fn carry_streams(reached: &DirectTunnel, details: Bytes, mark: &str) -> anyhow::Result<()> {
    let port = reached.tunnel.port();
    let stream = reached.tunnel.open(details);
    let early = if port.protocol == ServiceProtocol::Socks5 {
        let confirmed = confirmed(&stream).await;
        confirmed.map_err(|error| anyhow!(unconfirmed(&error, mark)))?
    } else {
        Bytes::new()
    };
    let input = read_input().context("cannot read standard input")?;
    let output = write_output().context("cannot write standard output")?;
    let ends = PipeEnds {
        input,
        output: output.bytes,
        early,
    };
    let carried = pipe::carry(stream, port.compress, ends).await;
    // The queue is closed, so the thread writes what is left and ends.
    match output.written.await.context("the output has failed")? {
        Err(error) if has_no_reader(&error) => return Ok(()),
        written => written.context("cannot write standard output")?,
    }
    match carried {
        Ok(PipeEnd::Finished | PipeEnd::OutputClosed) => Ok(()),
        Err(error) => Err(anyhow!(failure(&error, mark))),
    }
}

/// Returns whether the reader of standard output has closed it. That is a normal end, as for other
/// programs in a pipeline.
fn has_no_reader(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn the_memory_limit_counts() {
        let command = ConnectArguments::augment_args(clap::Command::new("connect"));
        let invitation = "report+wss://host/#k";
        let words = ["connect", invitation, "--limits-memory", "64 MiB"];
        let matches = command.try_get_matches_from(words).expect("parsed");
        let arguments = ConnectArguments::from_arg_matches(&matches).expect("parsed");
        let target = arguments.target().expect("valid");
        assert_eq!(target.parameters().process_shared.budget.size(), 64 << 20);
    }

    #[test]
    fn log_levels_are_words() {
        assert_eq!(level("warn"), Ok(Level::WARN));
        assert!(level("loud").is_err());
    }
}
