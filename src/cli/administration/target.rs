//! The options that say which master or database a command works on, and how to reach it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};

use super::{
    api_client::ApiClient,
    api_tls::TlsArguments,
    records::Records,
    session::{Session, View, read_secret},
};
use crate::{
    administration::{Administration, TokenSecret},
    cli::{error_text, print_error},
    config::{self, AdminConfig, MasterConfig, RoleConfig},
    store::{Store, StoreUrl},
};

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
    #[command(flatten)]
    tls: TlsArguments,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
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
                Err(error) if self.token_file.is_some() || self.tls.first_given().is_some() => {
                    return Err(error);
                }
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
        ApiClient::connect(admin, &self.tls, self.token()?).await
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
