//! `report account`: adds, lists, shows, changes and removes accounts.

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{
    limit_options::{LimitOptions, limits_text},
    output::Output,
    session::{Session, View},
    table::Table,
    target::TargetArguments,
    values::{Setting, maximum, network, networks, networks_text, optional_time_text, time},
};
use crate::{
    administration::{AccountPatch, NewAccount},
    policy::{Account, Network, UnixTime},
};

/// The arguments of `report account`.
#[derive(Debug, Args)]
pub(in crate::cli) struct AccountArguments {
    #[command(flatten)]
    pub(super) target: TargetArguments,
    #[command(subcommand)]
    pub(super) command: AccountCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Add an account
    Add(AddAccount),
    /// List all accounts
    List,
    /// Show an account
    Show(NamedAccount),
    /// Change an account
    Set(SetAccount),
    /// Disable an account, which ends its links
    Revoke(NamedAccount),
    /// Remove an account and its credentials
    Remove(NamedAccount),
}

#[derive(Debug, Args)]
pub(super) struct NamedAccount {
    /// Name or id of the account
    account: String,
}

#[derive(Debug, Args)]
pub(super) struct AddAccount {
    /// Name of the account
    name: String,
    /// Refuse its links until it is enabled
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    options: AccountOptions,
}

#[derive(Debug, Args)]
pub(super) struct SetAccount {
    /// Name or id of the account
    account: String,
    /// New name
    #[arg(long)]
    name: Option<String>,
    /// Admit its links
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// End its links and refuse new ones
    #[arg(long)]
    disable: bool,
    #[command(flatten)]
    options: AccountOptions,
}

#[derive(Debug, Args)]
struct AccountOptions {
    /// Time from which it is valid, or none
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_before: Option<Setting<UnixTime>>,
    /// Time until which it is valid, or none
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
    /// Highest number of keys, or none
    #[arg(long, value_name = "N", value_parser = maximum)]
    max_keys: Option<Setting<u32>>,
    /// Network it may come from, repeatable, or none
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    network: Vec<Setting<Network>>,
    /// Note for people
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    limits: LimitOptions,
}

impl AccountCommand {
    /// Runs the command. Returns what to print.
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Output> {
        match self {
            AccountCommand::Add(arguments) => add(arguments, session).await,
            AccountCommand::List => list(session).await,
            AccountCommand::Show(NamedAccount { account }) => {
                let account = session.find_account(&account).await?.record;
                let text = || details(&account, &session.view).text();
                session.view.output(&account, text)
            }
            AccountCommand::Set(arguments) => set(arguments, session).await,
            AccountCommand::Revoke(NamedAccount { account }) => {
                let patch = AccountPatch {
                    enabled: Some(false),
                    ..AccountPatch::default()
                };
                let found = session.find_account(&account).await?;
                let id = found.record.id;
                let set = session.records.set_account(id, patch, found.changed);
                done("disabled", &set.await?.record, &session.view)
            }
            AccountCommand::Remove(NamedAccount { account }) => {
                let found = session.find_account(&account).await?;
                let id = found.record.id;
                session.records.remove_account(id, found.changed).await?;
                done("removed", &found.record, &session.view)
            }
        }
    }
}

/// Returns the output of a change.
fn done(what: &str, account: &Account, view: &View) -> anyhow::Result<Output> {
    let Account { id, name, .. } = account;
    view.output(account, || format!("{what} account {id} {name:?}\n"))
}

async fn add(arguments: AddAccount, session: &Session) -> anyhow::Result<Output> {
    let options = arguments.options;
    let new = NewAccount {
        enabled: !arguments.disabled,
        not_before: options.not_before.and_then(Setting::value),
        expires: options.expires.and_then(Setting::value),
        max_keys: options.max_keys.and_then(Setting::value),
        networks: networks(options.network).unwrap_or_default(),
        note: options.note.unwrap_or_default(),
        ..NewAccount::new(arguments.name)
    };
    let limits = options.limits.apply(&new.limits)?;
    let new = NewAccount {
        limits: limits.unwrap_or_default(),
        ..new
    };
    let added = session.records.add_account(new).await?;
    done("added", &added.record, &session.view)
}

async fn set(arguments: SetAccount, session: &Session) -> anyhow::Result<Output> {
    let found = session.find_account(&arguments.account).await?;
    let options = arguments.options;
    let patch = AccountPatch {
        name: arguments.name,
        enabled: (arguments.enable || arguments.disable).then_some(arguments.enable),
        not_before: options.not_before.map(Setting::value),
        expires: options.expires.map(Setting::value),
        max_keys: options.max_keys.map(Setting::value),
        networks: networks(options.network),
        limits: options.limits.apply(&found.record.limits)?,
        note: options.note,
    };
    if patch == AccountPatch::default() {
        bail!("nothing to change (name at least one option, see `report account set --help`)");
    }
    let id = found.record.id;
    let set = session.records.set_account(id, patch, found.changed);
    done("changed", &set.await?.record, &session.view)
}

async fn list(session: &Session) -> anyhow::Result<Output> {
    let accounts = session.accounts().await?;
    let view = &session.view;
    view.output(&accounts, || {
        let mut table = Table::new(&[">ID", "NAME", "STATE", "EXPIRES", "LIMITS"]);
        for account in &accounts {
            table.add([
                account.id.to_string(),
                account.name.clone(),
                state(account, view).to_owned(),
                optional_time_text(account.expires, &view.zone),
                limits_text(&account.limits),
            ]);
        }
        table.text()
    })
}

fn state(account: &Account, view: &View) -> &'static str {
    view.state(account.enabled, account.validity(), "disabled")
}

fn details(account: &Account, view: &View) -> Table {
    let networks = match networks_text(&account.networks) {
        text if text.is_empty() => "all".to_owned(),
        text => text,
    };
    Table::of_fields([
        ("id", account.id.to_string()),
        ("name", account.name.clone()),
        ("state", state(account, view).to_owned()),
        (
            "not before",
            optional_time_text(account.not_before, &view.zone),
        ),
        ("expires", optional_time_text(account.expires, &view.zone)),
        (
            "max keys",
            account
                .max_keys
                .map_or_else(String::new, |keys| keys.to_string()),
        ),
        ("networks", networks),
        ("limits", limits_text(&account.limits)),
        ("note", account.note.clone()),
    ])
}
