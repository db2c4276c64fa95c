//! The tokens of a store in memory, so that a request is admitted while the database is away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::time::timeout;

use crate::{
    policy::{Token, TokenHash, TokenId, TokenRecord},
    store::{Store, StoreError},
};

/// How long a request waits for the newest tokens. Then those in memory apply.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The tokens of a store.
pub(super) struct TokenTable {
    store: Arc<Store>,
    known: Mutex<Option<Arc<KnownTokens>>>,
}

/// The tokens up to a change.
struct KnownTokens {
    /// The counter of the change.
    counter: i64,
    records: Vec<TokenRecord>,
}

impl TokenTable {
    /// Creates a table without tokens. It reads them when they are needed.
    pub(super) fn new(store: Arc<Store>) -> Self {
        TokenTable {
            store,
            known: Mutex::default(),
        }
    }

    /// Returns the token with a hash. The time that it takes does not depend on the hashes.
    ///
    /// # Errors
    /// If the database is away, and was so at all earlier calls.
    pub(super) async fn find(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        let known = self.current().await?;
        let mut found = None;
        for record in &known.records {
            if verify_slices_are_equal(&record.hash.0, &hash.0).is_ok() {
                found = Some(&record.token);
            }
        }
        Ok(found.cloned())
    }

    /// Whether a token is valid at a time. Without an answer of the database it stays so.
    pub(super) async fn is_valid(&self, id: TokenId, now: i64) -> bool {
        let Ok(known) = self.current().await else {
            return true;
        };
        let mut tokens = known.records.iter().map(|record| &record.token);
        tokens.any(|token| token.id == id && token.is_valid(now))
    }

    /// Whether any token is valid at a time.
    ///
    /// # Errors
    /// The same as for [`TokenTable::find`].
    pub(super) async fn has_valid(&self, now: i64) -> Result<bool, StoreError> {
        let known = self.current().await?;
        Ok(known
            .records
            .iter()
            .any(|record| record.token.is_valid(now)))
    }

    /// Returns the newest tokens, or the known ones while the database is away.
    async fn current(&self) -> Result<Arc<KnownTokens>, StoreError> {
        let known = self.known();
        if let Some(known) = &known
            && !self.store.status().is_up()
        {
            return Ok(Arc::clone(known));
        }
        let counter = known.as_ref().map(|known| known.counter);
        let loaded = timeout(LOOKUP_TIMEOUT, self.load(counter)).await;
        match (loaded, known) {
            (Ok(Ok(Some(loaded))), _) => Ok(self.replace(loaded, counter)),
            (_, Some(known)) => Ok(known),
            (Ok(Err(error)), None) => Err(error),
            (Ok(Ok(None)) | Err(_), None) => Err(StoreError::Away(format!(
                "no answer within {} s",
                LOOKUP_TIMEOUT.as_secs()
            ))),
        }
    }

    /// Reads all tokens, or none if nothing has changed since a counter. A token that cannot be read
    /// does not hide the others.
    async fn load(&self, known: Option<i64>) -> Result<Option<KnownTokens>, StoreError> {
        // Tokens that change in between are read again at the next request.
        let counter = self.store.change_counter().await?;
        if known == Some(counter) {
            return Ok(None);
        }
        let records = self.store.readable_tokens().await?;
        Ok(Some(KnownTokens { counter, records }))
    }

    fn known(&self) -> Option<Arc<KnownTokens>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// Keeps the newer ones of the known and the loaded tokens. `former` is the counter before they
    /// were loaded. A database with a lower one is an older copy, which applies.
    fn replace(&self, loaded: KnownTokens, former: Option<i64>) -> Arc<KnownTokens> {
        let is_older_copy = former.is_some_and(|former| former > loaded.counter);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if known.counter > loaded.counter && !is_older_copy => Arc::clone(known),
            _ => Arc::clone(known.insert(Arc::new(loaded))),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::policy::TokenRole;

    #[tokio::test]
    async fn an_older_copy_of_the_database_applies_and_a_late_load_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("keys.db").display());
        let store = Store::open(url.parse().unwrap()).await.unwrap();
        let table = TokenTable::new(Arc::new(store));
        let loaded = |counter, former| {
            let records = Vec::new();
            let loaded = KnownTokens { counter, records };
            table.replace(loaded, former).counter
        };
        assert_eq!(loaded(5, None), 5);
        assert_eq!(loaded(9, Some(5)), 9);
        assert_eq!(loaded(7, Some(5)), 9, "another request was faster");
        assert_eq!(loaded(7, Some(9)), 7, "a restored backup");
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_read_is_refused_and_others_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("keys.db").display());
        let store = Arc::new(Store::open(url.parse().unwrap()).await.unwrap());
        let mut change = store.change().await.unwrap();
        for byte in [1, 2] {
            let token = Token {
                id: TokenId(0),
                name: format!("token {byte}"),
                role: TokenRole::Own,
                expires: None,
                revoked: false,
            };
            let hash = TokenHash([byte; 32]);
            change
                .create_token(TokenRecord { token, hash })
                .await
                .unwrap();
        }
        change.commit().await.unwrap();
        let invalid = "UPDATE tokens SET role = 'king' WHERE name = 'token 1'";
        let mut transaction = store.write().await.unwrap();
        let query = store.dialect().query(invalid);
        transaction.execute(query).await.unwrap();
        transaction.commit().await.unwrap();
        let table = TokenTable::new(store);
        assert_eq!(table.find(&TokenHash([1; 32])).await.unwrap(), None);
        let found = table.find(&TokenHash([2; 32])).await.unwrap();
        assert_eq!(found.map(|token| token.name).as_deref(), Some("token 2"));
    }
}
