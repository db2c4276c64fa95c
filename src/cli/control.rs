//! `report reload` and `report master restart`: commands to a role that runs on this machine.

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use clap::Subcommand;

use super::ConfigFile;

/// The commands of a master.
#[derive(Debug, Subcommand)]
pub(super) enum MasterCommand {
    /// Restart a running master without a pause
    ///
    /// Starts its executable again, which may be another version, and passes its listeners on. The
    /// former process drains. If the new one does not start, the former one continues.
    Restart(ConfigFile),
}

/// Lets the role that runs with this file reload it. Prints the difference.
///
/// # Errors
/// Fails when no role is found, or the configuration is not applied.
pub(super) fn reload(file: &Path) -> anyhow::Result<ExitCode> {
    execute(file, Command::Reload)
}

/// Executes a command of a master.
///
/// # Errors
/// Fails when no master is found, or no new process has taken over.
pub(super) fn master(command: &MasterCommand) -> anyhow::Result<ExitCode> {
    let MasterCommand::Restart(file) = command;
    execute(&file.config, Command::Restart)
}

#[cfg(unix)]
use crate::reload::control::ControlCommand as Command;

#[cfg(unix)]
fn execute(file: &Path, command: Command) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;

    use crate::{
        reload::{ReloadOutcome, control},
        telemetry::escape_text,
    };
    let report = control::send(file, command)?;
    if report.outcome == ReloadOutcome::Failed {
        bail!("{}", report.text);
    }
    for line in report.text.lines() {
        writeln!(std::io::stdout(), "{}", escape_text(line))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(unix))]
enum Command {
    Reload,
    Restart,
}

#[cfg(not(unix))]
fn execute(_: &Path, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Reload => bail!(
            "this system has no control socket (set `watch` in the configuration: the role then reloads changed files)"
        ),
        Command::Restart => {
            bail!(
                "this system cannot restart a master without a pause (stop it and start it again)"
            )
        }
    }
}
