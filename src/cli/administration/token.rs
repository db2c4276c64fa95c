//! `report token`: manages the tokens of the admin API. The command makes the text of a token, and
//! the master gets its hash.

use std::path::PathBuf;

use anyhow::bail;
use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use zeroize::Zeroizing;

use super::{
    output::Output,
    secrets::NewSecret,
    session::{Session, View, all_pages},
    table::Table,
    target::TargetArguments,
    values::{Setting, moment, optional_time_text, time},
};
use crate::{
    administration::{HashText, NewToken, RotateToken, TokenPatch, TokenQuery, TokenSecret},
    policy::{Token, TokenRole, UnixTime},
    random,
    store::MAX_PAGE,
};

/// The words of the roles, each with the rights of those before it.
const ROLES: [&str; 3] = ["read", "operate", "own"];

/// The arguments of `report token`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TokenArguments {
    #[command(flatten)]
    pub(super) target: TargetArguments,
    #[command(subcommand)]
    pub(super) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Add a token and print its text
    Add(AddToken),
    /// List all tokens
    List,
    /// Show a token
    Show(NamedToken),
    /// Change a token
    Set(SetToken),
    /// Add a second token, and let the first expire
    Rotate(RotateArguments),
    /// Revoke a token for good
    Revoke(NamedToken),
    /// Remove a token
    Remove(NamedToken),
}

#[derive(Debug, Args)]
pub(super) struct NamedToken {
    /// Name or id of the token
    token: String,
}

#[derive(Debug, Args)]
pub(super) struct AddToken {
    /// Name of the token
    name: String,
    /// Rights of the token
    #[arg(long, value_parser = PossibleValuesParser::new(ROLES).map(role))]
    role: TokenRole,
    /// Time until which it is valid
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
    #[command(flatten)]
    source: TokenSource,
}

#[derive(Debug, Args)]
pub(super) struct SetToken {
    /// Name or id of the token
    token: String,
    /// New name
    #[arg(long)]
    name: Option<String>,
    /// Rights of the token
    #[arg(long, value_parser = PossibleValuesParser::new(ROLES).map(role))]
    role: Option<TokenRole>,
    /// Time until which it is valid, or none
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
}

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    /// Name or id of the token
    token: String,
    /// Name of the new token
    #[arg(long)]
    name: Option<String>,
    /// Time until which the new one is valid
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Setting<UnixTime>>,
    /// Time until which the present one stays valid
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = moment)]
    old_expires: UnixTime,
    #[command(flatten)]
    source: TokenSource,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct TokenSource {
    /// Write the text of the token to a new private file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// SHA-256 of a token that its owner has
    #[arg(long, value_name = "HEX")]
    hash: Option<String>,
}

fn role(word: String) -> TokenRole {
    match word.as_str() {
        "own" => TokenRole::Own,
        "operate" => TokenRole::Operate,
        _ => TokenRole::Read,
    }
}

fn word(role: TokenRole) -> &'static str {
    match role {
        TokenRole::Read => "read",
        TokenRole::Operate => "operate",
        TokenRole::Own => "own",
    }
}

impl TokenSource {
    /// Returns the hash, and the text of the token if it is new.
    fn hash(self) -> anyhow::Result<(HashText, Option<NewSecret>)> {
        // clap would print the text, which may be the token.
        if let Some(text) = self.hash.map(Zeroizing::new) {
            return match text.parse::<HashText>() {
                Ok(hash) => Ok((hash, None)),
                Err(error) => bail!("--hash: {error}"),
            };
        }
        let token = TokenSecret::new(random::bytes());
        let text = Zeroizing::new(token.as_str().to_owned());
        let kept = NewSecret::keep(text, self.write.as_deref())?;
        Ok((HashText(token.hash()), Some(kept)))
    }
}

impl TokenCommand {
    /// Runs the command. Returns what to print.
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Output> {
        match self {
            TokenCommand::Add(arguments) => add(arguments, session).await,
            TokenCommand::List => list(session).await,
            TokenCommand::Show(NamedToken { token }) => {
                let token = session.find_token(&token).await?.record;
                let text = || details(&token, &session.view).text();
                session.view.output(&token, text)
            }
            TokenCommand::Set(arguments) => set(arguments, session).await,
            TokenCommand::Rotate(arguments) => rotate(arguments, session).await,
            TokenCommand::Revoke(NamedToken { token }) => {
                let found = session.find_token(&token).await?;
                let id = found.record.id;
                let revoked = session.records.revoke_token(id, found.changed);
                done("revoked", &revoked.await?.record, &session.view)
            }
            TokenCommand::Remove(NamedToken { token }) => {
                let found = session.find_token(&token).await?;
                let id = found.record.id;
                session.records.remove_token(id, found.changed).await?;
                done("removed", &found.record, &session.view)
            }
        }
    }
}

/// Returns the output of a change.
fn done(what: &str, token: &Token, view: &View) -> anyhow::Result<Output> {
    view.output(token, || line(what, token))
}

fn line(what: &str, token: &Token) -> String {
    let Token { id, name, .. } = token;
    format!(
        "{what} token {id} {name:?} with the role {}\n",
        word(token.role)
    )
}

async fn add(arguments: AddToken, session: &Session) -> anyhow::Result<Output> {
    let (hash, secret) = arguments.source.hash()?;
    let new = NewToken {
        name: arguments.name,
        role: arguments.role,
        hash,
        expires: arguments.expires.and_then(Setting::value),
    };
    let added = session.records.add_token(new).await;
    let added = added.map(|added| added.record);
    NewSecret::output(secret.as_ref(), added, &session.view, |token| {
        line("added", token)
    })
}

async fn set(arguments: SetToken, session: &Session) -> anyhow::Result<Output> {
    let found = session.find_token(&arguments.token).await?;
    let patch = TokenPatch {
        name: arguments.name,
        role: arguments.role,
        expires: arguments.expires.map(Setting::value),
    };
    if patch == TokenPatch::default() {
        bail!("nothing to change (name at least one option, see `report token set --help`)");
    }
    let id = found.record.id;
    let set = session.records.set_token(id, patch, found.changed);
    done("changed", &set.await?.record, &session.view)
}

async fn rotate(arguments: RotateArguments, session: &Session) -> anyhow::Result<Output> {
    let found = session.find_token(&arguments.token).await?;
    let (hash, secret) = arguments.source.hash()?;
    let rotation = RotateToken {
        hash,
        name: arguments.name,
        expires: arguments.expires.and_then(Setting::value),
        old_expires: arguments.old_expires,
    };
    let id = found.record.id;
    let rotated = session.records.rotate_token(id, rotation, found.changed);
    let (rotated, view) = (rotated.await, &session.view);
    NewSecret::output(secret.as_ref(), rotated, view, |rotated| {
        let end = optional_time_text(rotated.old.expires, &view.zone);
        let old = &rotated.old.name;
        line("added", &rotated.new) + &format!("{old:?} stays valid until {end}\n")
    })
}

async fn list(session: &Session) -> anyhow::Result<Output> {
    let tokens = all_pages(async |after| {
        let query = TokenQuery {
            after,
            size: Some(MAX_PAGE),
            ..TokenQuery::default()
        };
        session.records.tokens(&query).await
    });
    let tokens = tokens.await?;
    let view = &session.view;
    view.output(&tokens, || {
        let mut table = Table::new(&[">ID", "NAME", "ROLE", "STATE", "EXPIRES"]);
        for token in &tokens {
            table.add([
                token.id.to_string(),
                token.name.clone(),
                word(token.role).to_owned(),
                state(token, view).to_owned(),
                optional_time_text(token.expires, &view.zone),
            ]);
        }
        table.text()
    })
}

fn state(token: &Token, view: &View) -> &'static str {
    view.state(!token.revoked, token.validity(), "revoked")
}

fn details(token: &Token, view: &View) -> Table {
    Table::of_fields([
        ("id", token.id.to_string()),
        ("name", token.name.clone()),
        ("role", word(token.role).to_owned()),
        ("state", state(token, view).to_owned()),
        ("expires", optional_time_text(token.expires, &view.zone)),
    ])
}
