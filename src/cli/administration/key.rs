//! `report key`: manages service keys. A port key is read to derive its id, and never sent or
//! stored.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{
    limit_options::{LimitOptions, limits_text},
    names::ListedAccount,
    output::Output,
    session::{Session, View, all_pages, read_secret},
    table::Table,
    target::TargetArguments,
    values::{Setting, moment, network, networks, networks_text, optional_time_text, time},
};
use crate::{
    administration::{KeyPatch, KeyQuery, NewKey, RotateKey},
    policy::{Network, Networks, ServiceKey, UnixTime},
    store::MAX_PAGE,
};
use report_proto::{crypto::PortKeys, id::Id};

/// The longest port key on standard input, in bytes.
const PORT_KEY_MAX: u64 = 1024 * 1024;

/// The arguments of `report key`.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeyArguments {
    #[command(flatten)]
    pub(super) target: TargetArguments,
    #[command(subcommand)]
    pub(super) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Add a key by its port key or its id
    Add(AddKey),
    /// Print the id of a port key
    Id(PortKeyFile),
    /// List the keys of an account, or all
    List(ListedAccount),
    /// Show a key
    Show(NamedKey),
    /// Change a key
    Set(SetKey),
    /// Add a second key, and let the first expire
    Rotate(RotateArguments),
    /// Disable a key, which ends its tunnels
    Revoke(NamedKey),
    /// Remove a key
    Remove(NamedKey),
}

#[derive(Debug, Args)]
pub(super) struct NamedKey {
    /// Label or id of the key, or ACCOUNT/LABEL
    key: String,
}

#[derive(Debug, Args)]
pub(super) struct PortKeyFile {
    /// File with the port key, or - for standard input
    #[arg(long, value_name = "FILE")]
    port_key: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct KeySource {
    /// File with the port key, or - for standard input
    #[arg(long, value_name = "FILE")]
    port_key: Option<PathBuf>,
    /// Key id: 32 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    id: Option<Id>,
}

#[derive(Debug, Args)]
pub(super) struct AddKey {
    /// Label of the key
    label: String,
    /// Refuse servers and clients until it is enabled
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    source: KeySource,
    #[command(flatten)]
    options: KeyOptions,
}

#[derive(Debug, Args)]
pub(super) struct SetKey {
    /// Label or id of the key, or ACCOUNT/LABEL
    key: String,
    /// New label
    #[arg(long)]
    label: Option<String>,
    /// Admit servers and clients
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// End its tunnels and refuse new ones
    #[arg(long)]
    disable: bool,
    #[command(flatten)]
    options: KeyOptions,
}

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    /// Label or id of the key, or ACCOUNT/LABEL
    key: String,
    #[command(flatten)]
    source: KeySource,
    /// Label of the new key
    #[arg(long)]
    label: Option<String>,
    /// Time until which the new one is valid
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
    /// Time until which the present one stays valid
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = moment)]
    old_expires: UnixTime,
}

#[derive(Debug, Args)]
struct KeyOptions {
    /// Name or id of the account that owns it, or none
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Time from which it is valid, or none
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_before: Option<Setting<UnixTime>>,
    /// Time until which it is valid, or none
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
    /// Whether clients need a credential
    #[arg(long, value_name = "BOOL")]
    needs_credential: Option<bool>,
    /// Network of servers that may register it, repeatable, or none
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    register_network: Vec<Setting<Network>>,
    /// Network of clients that may attach, repeatable, or none
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    attach_network: Vec<Setting<Network>>,
    /// Note for people
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    limits: LimitOptions,
}

impl KeySource {
    /// Returns the key id. Derives it from the port key, which takes about 20 ms.
    fn key_id(&self) -> anyhow::Result<Id> {
        match (&self.port_key, self.id) {
            (_, Some(id)) => Ok(id),
            (Some(file), None) => derive(file),
            (None, None) => bail!("the key is missing (name --port-key FILE or --id HEX)"),
        }
    }
}

/// Returns the output of `report key id`.
fn id_text(file: &Path) -> anyhow::Result<Output> {
    Ok(Zeroizing::new(format!("{}\n", derive(file)?)))
}

/// Derives the key id from the port key in a file.
fn derive(file: &Path) -> anyhow::Result<Id> {
    let shown = file.display();
    let text = if file == Path::new("-") {
        read_standard_input()
    } else {
        read_secret(file)
    };
    let text = text.with_context(|| format!("--port-key {shown}: cannot read the port key"))?;
    // Roles ignore the same blanks and line ends.
    match text.trim_end() {
        "" => bail!("--port-key {shown} is empty (write the port key of the service)"),
        key => Ok(PortKeys::derive(key).id),
    }
}

fn read_standard_input() -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let input = std::io::stdin().lock();
    input.take(PORT_KEY_MAX).read_to_string(&mut text)?;
    Ok(text)
}

impl KeyCommand {
    /// Returns what the command prints, if it needs neither a master nor a database.
    pub(super) fn run_alone(&self) -> Option<anyhow::Result<Output>> {
        match self {
            KeyCommand::Id(PortKeyFile { port_key }) => Some(id_text(port_key)),
            _ => None,
        }
    }

    /// Runs the command. Returns what to print.
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Output> {
        match self {
            KeyCommand::Add(arguments) => add(arguments, session).await,
            KeyCommand::Id(PortKeyFile { port_key }) => id_text(&port_key),
            KeyCommand::List(account) => list(account.text(), session).await,
            KeyCommand::Show(NamedKey { key }) => show(&key, session).await,
            KeyCommand::Set(arguments) => set(arguments, session).await,
            KeyCommand::Rotate(arguments) => rotate(arguments, session).await,
            KeyCommand::Revoke(NamedKey { key }) => {
                let patch = KeyPatch {
                    enabled: Some(false),
                    ..KeyPatch::default()
                };
                let found = session.find_key(&key).await?;
                let id = found.record.id;
                let set = session.records.set_key(id, patch, found.changed);
                done("disabled", &set.await?.record, &session.view)
            }
            KeyCommand::Remove(NamedKey { key }) => {
                let found = session.find_key(&key).await?;
                let id = found.record.id;
                session.records.remove_key(id, found.changed).await?;
                done("removed", &found.record, &session.view)
            }
        }
    }
}

/// Returns the output of a change.
fn done(what: &str, key: &ServiceKey, view: &View) -> anyhow::Result<Output> {
    view.output(key, || line(what, key))
}

fn line(what: &str, key: &ServiceKey) -> String {
    let ServiceKey { id, label, .. } = key;
    format!("{what} key {label:?} with the id {id}\n")
}

async fn add(arguments: AddKey, session: &Session) -> anyhow::Result<Output> {
    let id = arguments.source.key_id()?;
    let options = arguments.options;
    let account = session.account_id(owner(options.account.as_deref()).flatten());
    let new = NewKey {
        account: account.await?,
        enabled: !arguments.disabled,
        not_before: options.not_before.and_then(Setting::value),
        expires: options.expires.and_then(Setting::value),
        needs_credential: options.needs_credential.unwrap_or_default(),
        register_networks: networks(options.register_network).unwrap_or_default(),
        attach_networks: networks(options.attach_network).unwrap_or_default(),
        note: options.note.unwrap_or_default(),
        ..NewKey::new(id, arguments.label)
    };
    let limits = options.limits.apply(&new.limits)?;
    let new = NewKey {
        limits: limits.unwrap_or_default(),
        ..new
    };
    let added = session.records.add_key(new).await?;
    done("added", &added.record, &session.view)
}

/// Returns the new owner: `none` removes the present one.
fn owner(option: Option<&str>) -> Option<Option<&str>> {
    option.map(|text| (text != "none").then_some(text))
}

async fn set(arguments: SetKey, session: &Session) -> anyhow::Result<Output> {
    let found = session.find_key(&arguments.key).await?;
    let options = arguments.options;
    let account = match owner(options.account.as_deref()) {
        Some(owner) => Some(session.account_id(owner).await?),
        None => None,
    };
    let patch = KeyPatch {
        label: arguments.label,
        account,
        enabled: (arguments.enable || arguments.disable).then_some(arguments.enable),
        not_before: options.not_before.map(Setting::value),
        expires: options.expires.map(Setting::value),
        needs_credential: options.needs_credential,
        register_networks: networks(options.register_network),
        attach_networks: networks(options.attach_network),
        limits: options.limits.apply(&found.record.limits)?,
        note: options.note,
    };
    if patch == KeyPatch::default() {
        bail!("nothing to change (name at least one option, see `report key set --help`)");
    }
    let id = found.record.id;
    let set = session.records.set_key(id, patch, found.changed);
    done("changed", &set.await?.record, &session.view)
}

async fn rotate(arguments: RotateArguments, session: &Session) -> anyhow::Result<Output> {
    let found = session.find_key(&arguments.key).await?;
    let rotation = RotateKey {
        new_id: arguments.source.key_id()?,
        label: arguments.label,
        expires: arguments.expires.and_then(Setting::value),
        old_expires: arguments.old_expires,
    };
    let id = found.record.id;
    let rotated = session.records.rotate_key(id, rotation, found.changed);
    let rotated = rotated.await?;
    session.view.output(&rotated, || {
        let end = optional_time_text(rotated.old.expires, &session.view.zone);
        let old = rotated.old.id;
        line("added", &rotated.new) + &format!("{old} stays valid until {end}\n")
    })
}

async fn show(key: &str, session: &Session) -> anyhow::Result<Output> {
    let key = session.find_key(key).await?.record;
    let owner = match key.account {
        Some(id) => session.records.account(id).await?.record.name,
        None => String::new(),
    };
    let text = || details(&key, owner, &session.view).text();
    session.view.output(&key, text)
}

async fn list(account: Option<&str>, session: &Session) -> anyhow::Result<Output> {
    let account = session.account_id(account).await?;
    let keys = all_pages(async |after| {
        let query = KeyQuery {
            account,
            after,
            size: Some(MAX_PAGE),
            ..KeyQuery::default()
        };
        session.records.keys(&query).await
    });
    let keys = keys.await?;
    let owners = keys.iter().filter_map(|key| key.account);
    let owners = session.account_names(owners).await;
    let view = &session.view;
    view.output(&keys, || {
        let mut table = Table::new(&["LABEL", "ID", "OWNER", "STATE", "EXPIRES", "LIMITS"]);
        for key in &keys {
            let owner = key.account.and_then(|id| owners.get(&id));
            table.add([
                key.label.clone(),
                key.id.to_string(),
                owner.cloned().unwrap_or_default(),
                state(key, view).to_owned(),
                optional_time_text(key.expires, &view.zone),
                limits_text(&key.limits),
            ]);
        }
        table.text()
    })
}

fn state(key: &ServiceKey, view: &View) -> &'static str {
    view.state(key.enabled, key.validity(), "disabled")
}

fn details(key: &ServiceKey, owner: String, view: &View) -> Table {
    let networks = |networks: &Networks| match networks_text(networks) {
        text if text.is_empty() => "all".to_owned(),
        text => text,
    };
    let needs_credential = if key.needs_credential { "yes" } else { "no" };
    Table::of_fields([
        ("id", key.id.to_string()),
        ("label", key.label.clone()),
        ("owner", owner),
        ("state", state(key, view).to_owned()),
        ("not before", optional_time_text(key.not_before, &view.zone)),
        ("expires", optional_time_text(key.expires, &view.zone)),
        ("clients need a credential", needs_credential.to_owned()),
        ("networks of servers", networks(&key.register_networks)),
        ("networks of clients", networks(&key.attach_networks)),
        ("limits", limits_text(&key.limits)),
        ("note", key.note.clone()),
    ])
}
