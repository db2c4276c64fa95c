//! Reads the files of a configuration again and has the role apply the difference.

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{queue::MergedRequest, queue::ReloadQueue, watched_files::WatchedFiles};
use crate::{
    config::{self, Config, ConfigDiff, ConfigError, LoadedConfig},
    systemd::Notifier,
};

/// Why a role cannot apply a configuration. The former one stays in force.
pub type ReconfigureError = Box<dyn Error + Send + Sync>;

/// A role that applies another configuration while it runs.
pub trait Reconfigure {
    /// Applies the new configuration of the same role. Returns the changed fields that need a
    /// restart, each with the reason.
    ///
    /// # Errors
    /// When a part is impossible, for example an address that another program uses. The former
    /// configuration then stays in force.
    fn reconfigure(
        &self,
        old: &Config,
        new: &Config,
    ) -> impl Future<Output = Result<Vec<String>, ReconfigureError>>;
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The role runs with the new configuration.
    Applied,
    /// The files have the same meaning as before.
    Unchanged,
    /// The former configuration stays in force.
    Failed,
}

/// The report of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// How it ended.
    pub outcome: ReloadOutcome,
    /// The difference, or the error.
    pub text: String,
}

/// Why a reload failed.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("`mode` has changed from \"{from}\" to \"{to}\" (stop the process and start it again)")]
    Mode {
        from: &'static str,
        to: &'static str,
    },
    #[error("{0}")]
    Role(ReconfigureError),
    #[error("the files were not read: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Reloads the configuration of a running role.
pub struct Reloader<R> {
    file: PathBuf,
    config: Config,
    role: R,
    watched: watch::Sender<WatchedFiles>,
}

impl<R: Reconfigure> Reloader<R> {
    /// Creates the reloader of a role that runs with the configuration of `file`.
    #[must_use]
    pub fn new(file: &Path, loaded: &LoadedConfig, role: R) -> Self {
        Reloader {
            file: file.to_owned(),
            config: loaded.config.clone(),
            role,
            watched: watch::Sender::new(WatchedFiles::of(loaded)),
        }
    }

    /// Returns which files to watch.
    #[must_use]
    pub fn watched_files(&self) -> watch::Receiver<WatchedFiles> {
        self.watched.subscribe()
    }

    /// Answers the requests of `queue`. Never returns. `systemctl status` shows `status` between
    /// reloads.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may have applied a part of a change.
    pub async fn run(mut self, queue: &ReloadQueue, notifier: &Notifier, status: &str) {
        loop {
            let MergedRequest { source, callers } = queue.next().await;
            info!(%source, "reloading the configuration");
            notifier.reloading();
            let report = self.reload().await;
            notifier.ready(status);
            for caller in callers {
                // It may have given up.
                let _ = caller.send(report.clone());
            }
        }
    }

    /// Reads the files and applies the difference. Logs the report.
    pub(super) async fn reload(&mut self) -> ReloadReport {
        match self.try_reload().await {
            Ok(diff) if diff.is_empty() => {
                info!("configuration reloaded: {diff}");
                ReloadReport {
                    outcome: ReloadOutcome::Unchanged,
                    text: diff.to_string(),
                }
            }
            Ok(diff) => {
                let text = diff.to_string();
                info!("configuration reloaded: {}", text.replace('\n', "; "));
                ReloadReport {
                    outcome: ReloadOutcome::Applied,
                    text,
                }
            }
            Err(failure) => {
                let text = failure.to_string();
                for line in text.lines() {
                    error!("not reloaded: {line}");
                }
                ReloadReport {
                    outcome: ReloadOutcome::Failed,
                    text: format!("{text}\nthe former configuration stays in force"),
                }
            }
        }
    }

    async fn try_reload(&mut self) -> Result<ConfigDiff, ReloadError> {
        let file = self.file.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&file)).await??;
        let (old, new) = (&self.config, &loaded.config);
        let (from, to) = (old.role.name(), new.role.name());
        if from != to {
            return Err(ReloadError::Mode { from, to });
        }
        let mut diff = ConfigDiff::between(old, new);
        if !diff.is_empty() {
            let applied = self.role.reconfigure(old, new).await;
            diff.needs_restart
                .extend(applied.map_err(ReloadError::Role)?);
        }
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        self.watched.send_replace(WatchedFiles::of(&loaded));
        self.config = loaded.config;
        Ok(diff)
    }
}

impl<R> fmt::Debug for Reloader<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reloader")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
