//! `report connect`: joins standard input and output to a service, as for the `ProxyCommand` of ssh.
//! It has its own link and tunnel, opens no listener, and works beside a running client.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::{
    ConfigFile,
    field_options::{ConfigFields, ConnectFields, FieldOptions, OptionNames},
    invite,
    port_choice::by_mark,
    roles::{client_uplink, port_parameters},
    signals::{Signals, run_until_signal},
    standard_streams::{read_input, write_output},
    threads,
};
use crate::{
    client::{
        direct::{self, DirectTunnel},
        pipe::{self, PipeEnd, PipeEnds, PipeError},
    },
    config::{
        self, ClientConfig, Invite, LinksConfig, LoadedConfig, PortConfig, RoleConfig, Secret,
        ServiceProtocol,
    },
    supervisor::LinkSet,
    telemetry,
    tunnel::{ProcessShared, ResetCode, details::OpenDetails, raw::RawError},
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

/// Connects, and carries both directions until they end.
///
/// # Errors
/// Fails when the configuration is invalid, no tunnel is established, or the connection is reset.
pub(super) fn connect(arguments: &ConnectArguments) -> anyhow::Result<ExitCode> {
    let target = arguments.target()?;
    let details = details(&target.port, arguments.offset)?;
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
            None if Invite::is_start_of(text) => text.parse::<Invite>()?,
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
        let loaded = fields
            .read(&names, &variables)
            .map_err(|problems| anyhow!("{problems}"))?;
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
            bail!(
                "--{option} is only for an invitation: write `{field}` in {}",
                file.display()
            );
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

/// Returns the details of the stream.
///
/// # Errors
/// When the port carries no connections to a service, or the offset is not in its range.
fn details(port: &PortConfig, offset: Option<u16>) -> anyhow::Result<Bytes> {
    let (mark, range) = (&port.mark, port.range());
    match port.protocol {
        ServiceProtocol::Tcp | ServiceProtocol::Both => {}
        ServiceProtocol::Udp => bail!(
            "\"{mark}\" carries datagrams only, and `report connect` a connection: listen with `report forward`, or with a client"
        ),
        ServiceProtocol::Socks5 => bail!(
            "\"{mark}\" is a SOCKS5 proxy, which needs a destination: listen with `report forward`, or with a client"
        ),
    }
    let offset = match offset {
        Some(offset) if offset < range => offset,
        None if range == 1 => 0,
        _ => bail!(
            "\"{mark}\" has {range} {}: choose one with --offset, from 0 to {}",
            if range == 1 { "port" } else { "ports" },
            range.saturating_sub(1)
        ),
    };
    let details = OpenDetails {
        offset,
        ..OpenDetails::default()
    };
    Ok(details.encode())
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
    let parameters = port_parameters(port, &client.link, &ProcessShared::default());
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

/// Carries standard input and output. They are untouched until the tunnel is established.
async fn carry_streams(reached: &DirectTunnel, details: Bytes, mark: &str) -> anyhow::Result<()> {
    let input = read_input().context("cannot read standard input")?;
    let output = write_output().context("cannot write standard output")?;
    let ends = PipeEnds {
        input,
        output: output.bytes,
    };
    let compress = reached.tunnel.port().compress;
    let stream = reached.tunnel.open(details);
    let carried = pipe::carry(stream, compress, ends).await;
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

/// Returns why the connection failed, and what to do.
fn failure(error: &PipeError, mark: &str) -> String {
    let code = match error {
        PipeError::Stream(RawError::Stream(error)) => error.reset_code(),
        _ => None,
    };
    let problem = match code {
        Some(ResetCode::Refused) => {
            "the service refused the connection: check that it runs, and `local_address` of the server"
        }
        Some(ResetCode::Unreachable) => {
            "the server cannot reach the service: check `local_address` of the server, and its log"
        }
        Some(ResetCode::Timeout) => {
            "the service did not answer the server in time: check that it runs, and the firewall before it"
        }
        Some(ResetCode::Limit) => {
            "the server has too many connections: raise its `limits`, or end other connections"
        }
        Some(ResetCode::Shutdown) => "the server is shutting down: try again",
        Some(ResetCode::Reset) => "the service reset the connection",
        _ => return format!("\"{mark}\": {error}"),
    };
    format!("\"{mark}\": {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::TunnelStreamError;
    use report_proto::mux::StreamError;

    fn port(fields: &str) -> PortConfig {
        let text = format!(
            r#"{{"mode": "client", "master": "host:1", "ports": [{{"mark": "x", "port_key": "k", {fields}}}]}}"#
        );
        let loaded = config::parse(&text, std::path::Path::new("c.json"), &|_| None);
        let (client, _) = client_of(loaded.expect(&text)).expect("a client");
        client.ports[0].clone()
    }

    #[test]
    fn the_offset_is_within_the_range() {
        let single = port(r#""local_address": "127.0.0.1:1""#);
        assert!(details(&single, None).expect("the only one").is_empty());
        assert!(details(&single, Some(0)).expect("the only one").is_empty());
        let range = port(r#""local_address": "127.0.0.1:7-9""#);
        assert_eq!(
            details(&range, Some(2)).expect("the last"),
            r#"{"offset":2}"#
        );
        for (port, offset, says) in [
            (&single, Some(1), "has 1 port:"),
            (&range, None, "from 0 to 2"),
            (&range, Some(3), "from 0 to 2"),
        ] {
            let error = details(port, offset).expect_err(says).to_string();
            assert!(
                error.contains(says) && error.contains("--offset"),
                "{error}"
            );
        }
    }

    #[test]
    fn ports_without_connections_to_one_service_are_refused() {
        for (protocol, says) in [("udp", "datagrams"), ("socks5", "SOCKS5")] {
            let port = port(&format!(
                r#""local_address": "127.0.0.1:1", "protocol": "{protocol}""#
            ));
            let error = details(&port, None).expect_err(protocol).to_string();
            assert!(
                error.contains(says) && error.contains("report forward"),
                "{error}"
            );
        }
        let both = port(r#""local_address": "127.0.0.1:1", "protocol": "both""#);
        assert!(details(&both, None).is_ok());
    }

    #[test]
    fn failures_name_the_port_and_a_remedy() {
        let reset = |code| {
            let error = TunnelStreamError::Stream(StreamError::Reset(code));
            failure(&PipeError::Stream(RawError::Stream(error)), "SSH")
        };
        for (code, says) in [
            (ResetCode::Refused, "refused the connection: check"),
            (ResetCode::Unreachable, "cannot reach the service: check"),
            (ResetCode::Timeout, "in time: check"),
            (ResetCode::Limit, "raise its `limits`"),
            (ResetCode::Protocol, "protocol"),
        ] {
            let text = reset(code);
            assert!(
                text.starts_with("\"SSH\": ") && text.contains(says),
                "{text}"
            );
        }
        let input = failure(&PipeError::Input(ErrorKind::IsADirectory.into()), "SSH");
        assert!(input.contains("cannot read the input"), "{input}");
    }

    #[test]
    fn log_levels_are_words() {
        assert_eq!(level("warn"), Ok(Level::WARN));
        assert!(level("loud").is_err());
    }
}
