//! `report credential`: manages the credentials of accounts. The command makes the secret, and the
//! master gets its verifier.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use zeroize::Zeroizing;

use super::{
    names::{CredentialName, ListedAccount},
    output::Output,
    secrets::NewSecret,
    session::{Session, View, all_pages},
    table::Table,
    target::TargetArguments,
    values::{Setting, moment, optional_time_text, time},
};
use crate::{
    administration::{
        CredentialPatch, CredentialQuery, NewCredential, RotateCredential, VerifierText,
    },
    policy::{Account, AccountId, Credential, UnixTime},
    random,
    store::MAX_PAGE,
};
use report_proto::{
    crypto::{self, CredentialSecret},
    frame::Role,
};

/// The arguments of `report credential`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CredentialArguments {
    #[command(flatten)]
    pub(super) target: TargetArguments,
    #[command(subcommand)]
    pub(super) command: CredentialCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CredentialCommand {
    /// Add a credential to an account and print its secret
    Add(AddCredential),
    /// List the credentials of an account, or of all
    List(ListedAccount),
    /// Show a credential
    Show(CredentialName),
    /// Change a credential
    Set(SetCredential),
    /// Add a second credential, and let the first expire
    Rotate(RotateArguments),
    /// Revoke a credential for good, which ends its links
    Revoke(CredentialName),
    /// Remove a credential
    Remove(CredentialName),
}

#[derive(Debug, Args)]
pub(super) struct AddCredential {
    /// Name or id of the account, or ACCOUNT/NAME
    account: String,
    /// Name of the credential
    name: Option<String>,
    /// Role of the links that it admits
    #[arg(
        long,
        default_value = "server",
        value_parser = PossibleValuesParser::new(["server", "client"]).map(role)
    )]
    role: Role,
    /// Time from which it is valid
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_before: Option<Setting<UnixTime>>,
    /// Time until which it is valid
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
    #[command(flatten)]
    secret: CredentialSource,
}

#[derive(Debug, Args)]
pub(super) struct SetCredential {
    #[command(flatten)]
    credential: CredentialName,
    /// New name
    #[arg(long)]
    name: Option<String>,
    /// Time from which it is valid, or none
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_before: Option<Setting<UnixTime>>,
    /// Time until which it is valid, or none
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
}

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    #[command(flatten)]
    credential: CredentialName,
    /// Name of the new credential
    #[arg(long)]
    name: Option<String>,
    /// Time until which the new one is valid
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
    /// Time until which the present one stays valid
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = moment)]
    old_expires: UnixTime,
    #[command(flatten)]
    secret: CredentialSource,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct CredentialSource {
    /// Write the secret to a new private file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Verifier of a secret that its owner has
    #[arg(long, value_name = "VERIFIER")]
    verifier: Option<String>,
}

fn role(word: String) -> Role {
    match word.as_str() {
        "client" => Role::Client,
        _ => Role::Server,
    }
}

impl AddCredential {
    /// Returns the account and the name, which are two words or one with a slash.
    fn account_and_name(&self) -> anyhow::Result<(&str, &str)> {
        let account = self.account.as_str();
        match &self.name {
            Some(name) => Ok((account, name)),
            None => account.split_once('/').ok_or_else(|| {
                anyhow!(
                    "the credential for \"{account}\" has no name (write ACCOUNT NAME, or \
                     ACCOUNT/NAME)"
                )
            }),
        }
    }
}

impl CredentialSource {
    /// Returns the verifier, and the secret if it is new.
    fn verifier(self) -> anyhow::Result<(VerifierText, Option<NewSecret>)> {
        // clap would print the text, which may be the secret.
        if let Some(text) = self.verifier.map(Zeroizing::new) {
            let verifier = text.parse::<VerifierText>();
            return match verifier {
                Ok(verifier) => Ok((verifier, None)),
                Err(error) => bail!("--verifier: {error}"),
            };
        }
        let secret = CredentialSecret::new(random::bytes());
        let verifier = crypto::Credential::derive(&secret).verifier();
        let kept = NewSecret::keep(secret.to_text(), self.write.as_deref())?;
        Ok((verifier.into(), Some(kept)))
    }
}

impl CredentialCommand {
    /// Runs the command. Returns what to print.
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Output> {
        match self {
            CredentialCommand::Add(arguments) => add(arguments, session).await,
            CredentialCommand::List(account) => list(account.text(), session).await,
            CredentialCommand::Show(named) => {
                let credential = session.find_credential(&named).await?.record;
                let account = session.records.account(credential.account).await?.record;
                let text = || details(&credential, &account, &session.view).text();
                session.view.output(&credential, text)
            }
            CredentialCommand::Set(arguments) => set(arguments, session).await,
            CredentialCommand::Rotate(arguments) => rotate(arguments, session).await,
            CredentialCommand::Revoke(named) => {
                let found = session.find_credential(&named).await?;
                let revoked = session
                    .records
                    .revoke_credential(found.record.id, found.changed);
                done("revoked", &revoked.await?.record, &session.view)
            }
            CredentialCommand::Remove(named) => {
                let found = session.find_credential(&named).await?;
                let id = found.record.id;
                session.records.remove_credential(id, found.changed).await?;
                done("removed", &found.record, &session.view)
            }
        }
    }
}

/// Returns the output of a change.
fn done(what: &str, credential: &Credential, view: &View) -> anyhow::Result<Output> {
    view.output(credential, || line(what, credential))
}

fn line(what: &str, credential: &Credential) -> String {
    let Credential { id, name, role, .. } = credential;
    format!("{what} {role} credential {name:?} with the id {id}\n")
}

async fn add(arguments: AddCredential, session: &Session) -> anyhow::Result<Output> {
    let (account, name) = arguments.account_and_name()?;
    let (account, name) = (session.find_account(account).await?, name.to_owned());
    let account = account.record.id;
    let (verifier, secret) = arguments.secret.verifier()?;
    let new = NewCredential {
        name,
        role: arguments.role,
        verifier,
        not_before: arguments.not_before.and_then(Setting::value),
        expires: arguments.expires.and_then(Setting::value),
    };
    let added = session.records.add_credential(account, new).await;
    let added = added.map(|added| added.record);
    NewSecret::output(secret.as_ref(), added, &session.view, |credential| {
        line("added", credential)
    })
}

async fn set(arguments: SetCredential, session: &Session) -> anyhow::Result<Output> {
    let found = session.find_credential(&arguments.credential).await?;
    let patch = CredentialPatch {
        name: arguments.name,
        not_before: arguments.not_before.map(Setting::value),
        expires: arguments.expires.map(Setting::value),
    };
    if patch == CredentialPatch::default() {
        bail!("nothing to change (name at least one option, see `report credential set --help`)");
    }
    let id = found.record.id;
    let set = session.records.set_credential(id, patch, found.changed);
    done("changed", &set.await?.record, &session.view)
}

async fn rotate(arguments: RotateArguments, session: &Session) -> anyhow::Result<Output> {
    let found = session.find_credential(&arguments.credential).await?;
    let (verifier, secret) = arguments.secret.verifier()?;
    let rotation = RotateCredential {
        verifier,
        name: arguments.name,
        expires: arguments.expires.and_then(Setting::value),
        old_expires: arguments.old_expires,
    };
    let id = found.record.id;
    let rotated = session
        .records
        .rotate_credential(id, rotation, found.changed);
    let (rotated, view) = (rotated.await, &session.view);
    NewSecret::output(secret.as_ref(), rotated, view, |rotated| {
        let end = optional_time_text(rotated.old.expires, &view.zone);
        let old = &rotated.old.name;
        line("added", &rotated.new) + &format!("{old:?} stays valid until {end}\n")
    })
}

async fn list(account: Option<&str>, session: &Session) -> anyhow::Result<Output> {
    let accounts = match account {
        Some(account) => vec![session.find_account(account).await?.record],
        None => session.accounts().await?,
    };
    let mut credentials = Vec::new();
    for account in &accounts {
        credentials.extend(credentials_of(account.id, session).await?);
    }
    let view = &session.view;
    view.output(&credentials, || {
        let mut table = Table::new(&["ACCOUNT", "NAME", "ROLE", "STATE", "EXPIRES", "ID"]);
        for credential in &credentials {
            let mut owners = accounts.iter();
            let owner = owners.find(|account| account.id == credential.account);
            table.add([
                owner.map_or_else(String::new, |account| account.name.clone()),
                credential.name.clone(),
                credential.role.to_string(),
                state(credential, view).to_owned(),
                optional_time_text(credential.expires, &view.zone),
                credential.id.to_string(),
            ]);
        }
        table.text()
    })
}

async fn credentials_of(account: AccountId, session: &Session) -> anyhow::Result<Vec<Credential>> {
    all_pages(async |after| {
        let query = CredentialQuery {
            after,
            size: Some(MAX_PAGE),
            ..CredentialQuery::default()
        };
        session.records.credentials(account, &query).await
    })
    .await
}

fn state(credential: &Credential, view: &View) -> &'static str {
    view.state(!credential.revoked, credential.validity(), "revoked")
}

fn details(credential: &Credential, account: &Account, view: &View) -> Table {
    let zone = &view.zone;
    Table::of_fields([
        ("id", credential.id.to_string()),
        ("account", account.name.clone()),
        ("name", credential.name.clone()),
        ("role", credential.role.to_string()),
        ("state", state(credential, view).to_owned()),
        (
            "not before",
            optional_time_text(credential.not_before, zone),
        ),
        ("expires", optional_time_text(credential.expires, zone)),
    ])
}
