//! The records that a command works on, by their names, and the form of its output.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
};

use anyhow::{Context as _, anyhow, bail};
use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use super::{
    names::{CredentialName, CredentialParts},
    records::Records,
};
use crate::{
    administration::{AccountQuery, CredentialQuery, KeyQuery, RecordPage, TokenQuery},
    policy::{Account, AccountId, Credential, CredentialId, ServiceKey, Token, TokenId},
    store::{MAX_PAGE, Stored},
    text,
};
use report_proto::id::Id;

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
