//! `report relay`: shows and changes the limits of the whole relay.

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};

use super::{
    limit_options::{LimitOptions, limits_text},
    output::Output,
    session::Session,
    table::Table,
    target::TargetArguments,
};
use crate::{
    administration::RelayPatch,
    policy::{RelayPolicy, Reserve},
};

/// The arguments of `report relay`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RelayArguments {
    #[command(flatten)]
    pub(super) target: TargetArguments,
    #[command(subcommand)]
    pub(super) command: RelayCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum RelayCommand {
    /// Show the limits of the relay
    Show,
    /// Change the limits of the relay
    Set(SetRelay),
}

#[derive(Debug, Args)]
pub(super) struct SetRelay {
    /// Percentage of the quotas kept for an account, or none
    #[arg(long, value_name = "ACCOUNT=PERCENT")]
    reserve: Option<String>,
    #[command(flatten)]
    limits: LimitOptions,
}

impl RelayCommand {
    /// Runs the command. Returns what to print.
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Output> {
        match self {
            RelayCommand::Show => show(session.records.relay().await?.record, session).await,
            RelayCommand::Set(arguments) => {
                let found = session.records.relay().await?;
                let reserve = match &arguments.reserve {
                    Some(text) => Some(reserve(text, session).await?),
                    None => None,
                };
                let patch = RelayPatch {
                    limits: arguments.limits.apply(&found.record.limits)?,
                    reserve,
                };
                if patch == RelayPatch::default() {
                    bail!(
                        "nothing to change (name at least one option, see `report relay set --help`)"
                    );
                }
                let set = session.records.set_relay(patch, found.changed);
                show(set.await?.record, session).await
            }
        }
    }
}

/// Reads `ACCOUNT=PERCENT`, or `none`.
async fn reserve(text: &str, session: &Session) -> anyhow::Result<Option<Reserve>> {
    if text == "none" {
        return Ok(None);
    }
    let parts = text.rsplit_once('=').and_then(|(account, percent)| {
        let percent = percent.strip_suffix('%').unwrap_or(percent);
        Some((account, percent.parse::<u8>().ok()?))
    });
    let (account, percent) = parts.ok_or_else(|| {
        anyhow!(
            "--reserve is \"{text}\" (write ACCOUNT=PERCENT such as \"master=10\", or \"none\")"
        )
    })?;
    Ok(Some(Reserve {
        account: session.find_account(account).await?.record.id,
        percent,
    }))
}

async fn show(policy: RelayPolicy, session: &Session) -> anyhow::Result<Output> {
    let reserve = match policy.reserve {
        Some(Reserve { account, percent }) => {
            let account = session.records.account(account).await?.record;
            format!("{percent} % of the quotas for {}", account.name)
        }
        None => String::new(),
    };
    session.view.output(&policy, || {
        let limits = limits_text(&policy.limits);
        Table::of_fields([("limits", limits), ("reserve", reserve)]).text()
    })
}
