//! The commands that administer a master: accounts, credentials, keys, tokens, limits of the relay,
//! usage, and the live values of a running master.
//!
//! ```text
//!  command ──► Session ──► Records ──┬─► ApiClient ──► admin address of a running master
//!                                    └─► Administration ──► database
//! ```
//!
//! | file | content |
//! |---|---|
//! | `account`, `credential`, `key`, `relay`, `token`, `usage` | a command each, on records |
//! | `live`, `live_actions` | `report links`, `report tunnels` and `report status`, at a running master |
//! | `target` | the options that say which master or database a command works on |
//! | `session` | the records that a command works on, by their names |
//! | `records`, `api_client` | reads and writes, through the API or in the database |
//! | `api_transport`, `api_tls` | the connection to an admin address; TLS if the address has a certificate |
//! | `names` | names of records on the command line |
//! | `limit_options`, `values` | options for limits; times, sizes and rates |
//! | `secrets` | new credentials and tokens: only their owner gets the secret |
//! | `table`, `output` | tables for people, JSON for programs |

mod account;
mod api_client;
mod api_tls;
mod api_transport;
mod credential;
mod key;
mod limit_options;
mod live;
mod live_actions;
mod names;
mod output;
mod records;
mod relay;
mod secrets;
mod session;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod token;
mod usage;
mod values;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Subcommand;

use self::{output::Output, session::Session};
use super::threads;

/// The commands on records.
#[derive(Debug, Subcommand)]
pub(super) enum RecordCommand {
    /// Manage accounts
    Account(account::AccountArguments),
    /// Manage the credentials of accounts
    Credential(credential::CredentialArguments),
    /// Manage service keys
    Key(key::KeyArguments),
    /// Manage the limits of the whole relay
    Relay(relay::RelayArguments),
    /// Manage tokens of the admin API
    Token(token::TokenArguments),
    /// Show transferred bytes by time
    Usage(usage::UsageArguments),
}

/// The commands on the live values of a running master.
#[derive(Debug, Subcommand)]
pub(super) enum LiveCommand {
    /// List, end or block the links of a running master
    Links(live::LinksArguments),
    /// Show the state of a running master
    Status(live::StatusArguments),
    /// List, end or block the tunnels of a running master
    Tunnels(live::TunnelsArguments),
}

/// Runs a command on records.
///
/// # Errors
/// Fails when neither the master nor the database can be reached, or they refuse the command.
pub(super) fn records(command: RecordCommand) -> anyhow::Result<ExitCode> {
    print(async {
        if let RecordCommand::Key(arguments) = &command
            && let Some(output) = arguments.command.run_alone()
        {
            return output;
        }
        let session = command.target().open().await?;
        let output = command.run(&session).await;
        session.records.close().await;
        output
    })
}

/// Runs a command on live values.
///
/// # Errors
/// Fails when no master answers, or it refuses the request.
pub(super) fn live(command: LiveCommand) -> anyhow::Result<ExitCode> {
    print(command.run())
}

/// Runs a command and prints its output.
fn print(command: impl Future<Output = anyhow::Result<Output>>) -> anyhow::Result<ExitCode> {
    let runtime = threads::master_runtime()?;
    let output = runtime.block_on(command);
    // Only a name lookup may be left.
    runtime.shutdown_background();
    io::stdout().write_all(output?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

impl RecordCommand {
    /// Returns the options that say which master or database the command works on.
    fn target(&self) -> &target::TargetArguments {
        match self {
            RecordCommand::Account(arguments) => &arguments.target,
            RecordCommand::Credential(arguments) => &arguments.target,
            RecordCommand::Key(arguments) => &arguments.target,
            RecordCommand::Relay(arguments) => &arguments.target,
            RecordCommand::Token(arguments) => &arguments.target,
            RecordCommand::Usage(arguments) => &arguments.target,
        }
    }

    /// Runs the command. Returns what to print.
    async fn run(self, session: &Session) -> anyhow::Result<Output> {
        match self {
            RecordCommand::Account(arguments) => arguments.command.run(session).await,
            RecordCommand::Credential(arguments) => arguments.command.run(session).await,
            RecordCommand::Key(arguments) => arguments.command.run(session).await,
            RecordCommand::Relay(arguments) => arguments.command.run(session).await,
            RecordCommand::Token(arguments) => arguments.command.run(session).await,
            RecordCommand::Usage(arguments) => usage::run(arguments, session).await,
        }
    }
}

impl LiveCommand {
    /// Runs the command. Returns what to print.
    async fn run(self) -> anyhow::Result<Output> {
        match self {
            LiveCommand::Links(arguments) => live::links(&arguments).await,
            LiveCommand::Status(arguments) => live::status(&arguments).await,
            LiveCommand::Tunnels(arguments) => live::tunnels(&arguments).await,
        }
    }
}
