//! Waits for changes: PostgreSQL announces them, and the counter of the others is read again and
//! again.

use std::{sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::{sleep, timeout};
use url::Url;

use super::{ACQUIRE_TIMEOUT, Dialect, Store, transaction::CHANGES_CHANNEL};

/// The time between two reads of the counter, and between two attempts to reach the database.
const POLL: Duration = Duration::from_millis(500);

/// The same while PostgreSQL announces changes, because an announcement may be lost with its
/// connection.
const POLL_LISTENING: Duration = Duration::from_secs(5);

/// Waits for changes of a store.
#[derive(Debug)]
pub struct ChangeWatch {
    store: Arc<Store>,
    listener: Option<PgListener>,
}

impl ChangeWatch {
    /// Creates a watch.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        ChangeWatch {
            store,
            listener: None,
        }
    }

    /// Waits until the counter of the latest change is another one than `seen`. Returns it. While
    /// the database is away, it waits for the database too.
    ///
    /// # Cancel safety
    /// A cancelled wait loses nothing.
    pub async fn changed(&mut self, seen: i64) -> i64 {
        loop {
            match self.store.change_counter().await {
                Ok(counter) if counter != seen => return counter,
                Ok(_) => self.wait().await,
                Err(_) => sleep(POLL).await,
            }
        }
    }

    /// Waits until the counter should be read again.
    async fn wait(&mut self) {
        let server = self.store.url().server();
        let server = server.filter(|_| self.store.dialect() == Dialect::Postgres);
        let Some(url) = server else {
            return sleep(POLL).await;
        };
        let Some(listener) = &mut self.listener else {
            // The caller reads the counter again, as it may have changed before.
            match timeout(ACQUIRE_TIMEOUT, listen(url)).await {
                Ok(Ok(listener)) => self.listener = Some(listener),
                Ok(Err(_)) | Err(_) => sleep(POLL).await,
            }
            return;
        };
        match timeout(POLL_LISTENING, listener.try_recv()).await {
            // One read of the counter covers all announcements so far.
            Ok(Ok(Some(_))) => while listener.next_buffered().is_some() {},
            Err(_) => {}
            Ok(Ok(None) | Err(_)) => {
                self.listener = None;
                sleep(POLL).await;
            }
        }
    }
}

/// Connects to PostgreSQL and listens for announcements.
async fn listen(url: &Url) -> Result<PgListener, sqlx::Error> {
    let options = PgConnectOptions::from_url(url)?.disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_with(options)
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    // The watch connects again, after a pause.
    listener.eager_reconnect(false);
    listener.listen(CHANGES_CHANNEL).await?;
    Ok(listener)
}
