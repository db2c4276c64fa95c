//! The means of a command: the records of a running master or of a database, and the form of its
//! output.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use zeroize::Zeroizing;

use super::{
    api_client::ApiClient,
    names::{CredentialName, CredentialParts},
    records::Records,
};
use crate::{
    administration::{
        AccountQuery, Administration, CredentialQuery, KeyQuery, RecordPage, TokenQuery,
        TokenSecret,
    },
    cli::{error_text, print_error},
    config::{self, AdminConfig, MasterConfig, RoleConfig},
    policy::{Account, AccountId, Credential, CredentialId, ServiceKey, Token, TokenId},
    store::{MAX_PAGE, Store, StoreUrl, Stored},
    text,
};
use report_proto::id::Id;

/// The options that say which master or database a command works on.
#[derive(Debug, Args)]
pub(super) struct TargetArguments {
    /// Configuration file of the master
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        default_value = "config.json"
    )]
    config: PathBuf,
    /// Database, in place of a running master
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    /// Create the missing SQLite file of --store
    #[arg(long, global = true)]
    create: bool,
    /// File with a token of the admin API
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with the authorities of an admin address with TLS
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// How values are printed.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Whether JSON is printed.
    pub(super) is_json: bool,
    /// The zone of printed times.
    pub(super) zone: TimeZone,
    /// The time in Unix seconds.
    pub(super) now: i64,
}

/// The records that a command works on, and how it prints them.
#[derive(Debug)]
pub(super) struct Session {
    /// The records.
    pub(super) records: Records,
    /// How they are printed.
    pub(super) view: View,
}

impl TargetArguments {
    fn view(&self) -> View {
        View {
            is_json: self.json,
            zone: TimeZone::system(),
            now: Timestamp::now().as_second(),
        }
    }

    /// Opens the records: through the admin address of the master if it answers, otherwise in the
    /// database. A note on standard error says why an address that answers is not used.
    ///
    /// # Errors
    /// If the configuration is invalid, neither can be reached, or the address refuses a token or a
    /// certificate that the options name.
    pub(super) async fn open(&self) -> anyhow::Result<Session> {
        let records = match &self.store {
            Some(url) => {
                let url = url.parse::<StoreUrl>();
                let url = url.map_err(|error| anyhow!("--store {error}"))?;
                self.check_file(&url)?;
                open_store(url).await?
            }
            None if self.create => bail!(
                "--create has no effect without --store (omit it: a command creates the `store` of \
                 {} as the master does)",
                self.config.display()
            ),
            None => {
                let (records, note) = self.configured_records().await?;
                if let Some(note) = note {
                    print_error(&note);
                }
                records
            }
        };
        Ok(Session {
            records,
            view: self.view(),
        })
    }

    /// Checks that the file of a database exists: a typo must not create another one.
    fn check_file(&self, url: &StoreUrl) -> anyhow::Result<()> {
        match url.absent_file() {
            Some(file) if !self.create => bail!(
                "--store: the file {} does not exist (correct its path, or add --create to create \
                 it)",
                file.display()
            ),
            _ => Ok(()),
        }
    }

    /// Opens the records of the configuration. Also returns why they are not those of a process that
    /// listens at the admin address.
    pub(super) async fn configured_records(&self) -> anyhow::Result<(Records, Option<String>)> {
        let (admin, master) = self.master()?;
        let refusal = match &admin {
            Some(admin) => match self.client(admin).await {
                Ok(Some(client)) => return Ok((Records::Master(client), None)),
                Ok(None) => None,
                Err(error) if self.token_file.is_some() || self.ca.is_some() => return Err(error),
                // Without a token, the rights on the database are enough.
                Err(error) => Some(error_text(&error)),
            },
            None => None,
        };
        let url = master.store.as_ref().map(|store| store.url().clone());
        let url = url.ok_or_else(|| {
            anyhow!(
                "{} has no `store` (add \"store\": \"sqlite:keys.db\", or name a database with \
                 --store)",
                self.config.display()
            )
        })?;
        let note = refusal.map(|refusal| format!("{refusal}; the command uses the database {url}"));
        Ok((open_store(url).await?, note))
    }

    /// Returns a client of the API, or `None` if no process listens.
    ///
    /// # Errors
    /// If the process has no API, refuses the request, or needs a token that is not given.
    async fn client(&self, admin: &AdminConfig) -> anyhow::Result<Option<ApiClient>> {
        let Some(client) = self.connect(admin).await? else {
            return Ok(None);
        };
        if !client.is_open() {
            return Err(client.needs_token());
        }
        if !client.has_api().await? {
            return Err(client.has_no_api());
        }
        Ok(Some(client))
    }

    async fn connect(&self, admin: &AdminConfig) -> anyhow::Result<Option<ApiClient>> {
        ApiClient::connect(admin, self.ca.as_deref(), self.token()?).await
    }

    /// Opens the API of a running master, for values that only it has.
    ///
    /// # Errors
    /// If no master answers, or it needs a token that is not given.
    pub(super) async fn open_master(&self) -> anyhow::Result<Session> {
        if self.store.is_some() {
            bail!("only a running master has these values, not a database (omit --store)");
        }
        let (admin, _) = self.master()?;
        let admin = admin.ok_or_else(|| {
            anyhow!(
                "{} has no `admin` address, at which a running master answers (add \"admin\": \
                 {{\"listen_at\": \"unix:/run/report/admin.sock\"}} and start the master again)",
                self.config.display()
            )
        })?;
        let client = self.connect(&admin).await?;
        let client = client.ok_or_else(|| {
            anyhow!(
                "no master runs at the admin address {} (start it: only a running master has these \
                 values)",
                admin.listen_at
            )
        })?;
        if !client.is_open() {
            return Err(client.needs_token());
        }
        Ok(Session {
            records: Records::Master(client),
            view: self.view(),
        })
    }

    /// Reads the configuration of the master.
    fn master(&self) -> anyhow::Result<(Option<AdminConfig>, MasterConfig)> {
        let config = config::load(&self.config)?.config;
        match config.role {
            RoleConfig::Master(master) => Ok((config.common.admin, master)),
            other => bail!(
                "{} is the configuration of a {}, and accounts and keys belong to a master (name its \
                 file with --config, or a database with --store)",
                self.config.display(),
                other.name()
            ),
        }
    }

    fn token(&self) -> anyhow::Result<Option<TokenSecret>> {
        self.token_file.as_deref().map(read_token).transpose()
    }
}

/// Opens a database.
async fn open_store(url: StoreUrl) -> anyhow::Result<Records> {
    let store = Arc::new(Store::open(url).await?);
    let clock = Arc::new(|| Timestamp::now().as_second());
    Ok(Records::Store(Administration::new(store, clock)))
}

/// Reads the token in a file.
fn read_token(file: &Path) -> anyhow::Result<TokenSecret> {
    let shown = file.display();
    let text = read_secret(file).with_context(|| format!("--token-file {shown}"))?;
    text.trim()
        .parse::<TokenSecret>()
        .map_err(|error| anyhow!("--token-file {shown}: {error} (write the text of a token)"))
}

/// Reads the text of a file with a secret.
pub(super) fn read_secret(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(text::read_file(file, text::SHORT_FILE_MAX)?);
    Ok(Zeroizing::new(text::decode(&bytes)?))
}

/// Collects the records of all pages.
pub(super) async fn all_pages<T>(
    mut page: impl AsyncFnMut(Option<String>) -> anyhow::Result<RecordPage<T>>,
) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = page(after).await?;
        all.extend(page.items.into_iter().map(|item| item.record));
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

impl Session {
    /// Returns all accounts.
    pub(super) async fn accounts(&self) -> anyhow::Result<Vec<Account>> {
        all_pages(async |after| {
            let query = AccountQuery {
                after,
                size: Some(MAX_PAGE),
                ..AccountQuery::default()
            };
            self.records.accounts(&query).await
        })
        .await
    }

    /// Returns the account with a name or an id.
    ///
    /// # Errors
    /// If it does not exist.
    pub(super) async fn find_account(&self, text: &str) -> anyhow::Result<Stored<Account>> {
        let query = AccountQuery {
            name: Some(text.to_owned()),
            ..AccountQuery::default()
        };
        let found = self.records.accounts(&query).await?.items.pop();
        match (found, text.parse::<i64>()) {
            (Some(account), _) => Ok(account),
            (None, Ok(id)) => self.records.account(AccountId(id)).await,
            (None, Err(_)) => {
                bail!("there is no account \"{text}\" (`report account list` shows all)")
            }
        }
    }

    /// Returns the id of the account with a name or an id, if one is given.
    pub(super) async fn account_id(&self, text: Option<&str>) -> anyhow::Result<Option<AccountId>> {
        match text {
            Some(text) => Ok(Some(self.find_account(text).await?.record.id)),
            None => Ok(None),
        }
    }

    /// Returns the names of accounts. Those that do not exist any more have none.
    pub(super) async fn account_names(
        &self,
        ids: impl Iterator<Item = AccountId>,
    ) -> HashMap<AccountId, String> {
        let mut names = HashMap::new();
        for id in ids {
            if let Entry::Vacant(entry) = names.entry(id)
                && let Ok(account) = self.records.account(id).await
            {
                entry.insert(account.record.name);
            }
        }
        names
    }

    /// Returns the credential with an id, or with an account and a name.
    ///
    /// # Errors
    /// If it does not exist.
    pub(super) async fn find_credential(
        &self,
        named: &CredentialName,
    ) -> anyhow::Result<Stored<Credential>> {
        let (account, name) = match named.parts()? {
            CredentialParts::Id(id) => return self.records.credential(CredentialId(id)).await,
            CredentialParts::Named { account, name } => (account, name),
        };
        let id = self.find_account(account).await?.record.id;
        let query = CredentialQuery {
            name: Some(name.to_owned()),
            ..CredentialQuery::default()
        };
        let found = self.records.credentials(id, &query).await?.items.pop();
        found.ok_or_else(|| {
            anyhow!(
                "there is no credential \"{account}/{name}\" (`report credential list` shows all)"
            )
        })
    }

    /// Returns the key with an id, with a label, or with an account and a label.
    ///
    /// # Errors
    /// If there is none, or there are several.
    pub(super) async fn find_key(&self, text: &str) -> anyhow::Result<Stored<ServiceKey>> {
        if let Ok(id) = text.parse::<Id>() {
            return self.records.key(id).await;
        }
        let absent = || format!("there is no key \"{text}\" (`report key list` shows all)");
        let mut found = self.keys_with_label(text, None).await?;
        // A label may have a slash.
        if let Some((account, label)) = text.split_once('/')
            && found.is_empty()
        {
            let account = self.find_account(account).await.with_context(absent)?;
            found = self.keys_with_label(label, Some(account.record.id)).await?;
        }
        match (found.pop(), found.is_empty()) {
            (Some(key), true) => Ok(key),
            (None, _) => bail!(absent()),
            (Some(key), false) => {
                found.push(key);
                let ids: Vec<String> = found.iter().map(|key| key.record.id.to_string()).collect();
                bail!(
                    "several keys have the label \"{text}\" (write ACCOUNT/LABEL, or the id: {})",
                    ids.join(", ")
                )
            }
        }
    }

    /// Returns the keys with a label: those of an account, or all.
    async fn keys_with_label(
        &self,
        label: &str,
        account: Option<AccountId>,
    ) -> anyhow::Result<Vec<Stored<ServiceKey>>> {
        let query = KeyQuery {
            label: Some(label.to_owned()),
            account,
            ..KeyQuery::default()
        };
        Ok(self.records.keys(&query).await?.items)
    }

    /// Returns the token with a name or an id.
    ///
    /// # Errors
    /// If it does not exist.
    pub(super) async fn find_token(&self, text: &str) -> anyhow::Result<Stored<Token>> {
        let query = TokenQuery {
            name: Some(text.to_owned()),
            ..TokenQuery::default()
        };
        let found = self.records.tokens(&query).await?.items.pop();
        match (found, text.parse::<i64>()) {
            (Some(token), _) => Ok(token),
            (None, Ok(id)) => self.records.token(TokenId(id)).await,
            (None, Err(_)) => bail!("there is no token \"{text}\" (`report token list` shows all)"),
        }
    }
}
