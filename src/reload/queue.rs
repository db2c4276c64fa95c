//! The requests for a reload. Those that wait at the same time are merged.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::reloader::ReloadReport;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadSource {
    /// SIGHUP.
    Signal,
    /// `report reload`.
    Command,
    /// A watched file has changed.
    ChangedFile,
}

impl fmt::Display for ReloadSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ReloadSource::Signal => "SIGHUP",
            ReloadSource::Command => "`report reload`",
            ReloadSource::ChangedFile => "a changed file",
        })
    }
}

/// The requests for a reload.
#[derive(Debug, Default)]
pub struct ReloadQueue {
    waiting: Mutex<Option<MergedRequest>>,
    requested: Notify,
}

/// The requests that the next reload answers.
#[derive(Debug)]
pub(super) struct MergedRequest {
    /// The source of the first one.
    pub(super) source: ReloadSource,
    /// Receive the report. The control socket bounds their number.
    pub(super) callers: Vec<oneshot::Sender<ReloadReport>>,
}

impl ReloadQueue {
    /// Creates a queue without requests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a reload.
    pub fn request(&self, source: ReloadSource) {
        self.add(source, None);
    }

    /// Requests a reload and waits for its report. `None`: the process ends before.
    ///
    /// # Cancel safety
    /// A dropped future does not withdraw the request.
    pub async fn reload(&self, source: ReloadSource) -> Option<ReloadReport> {
        let (caller, report) = oneshot::channel();
        self.add(source, Some(caller));
        report.await.ok()
    }

    fn add(&self, source: ReloadSource, caller: Option<oneshot::Sender<ReloadReport>>) {
        let mut waiting = self.waiting();
        let merged = waiting.get_or_insert_with(|| MergedRequest {
            source,
            callers: Vec::new(),
        });
        merged.callers.extend(caller);
        self.requested.notify_one();
    }

    /// Waits for requests, and takes all that wait.
    ///
    /// # Cancel safety
    /// No request is lost when the future is dropped.
    pub(super) async fn next(&self) -> MergedRequest {
        loop {
            let merged = self.waiting().take();
            if let Some(merged) = merged {
                return merged;
            }
            self.requested.notified().await;
        }
    }

    /// Whether requests wait for a reload that has not begun.
    #[cfg(test)]
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting().is_some()
    }

    fn waiting(&self) -> MutexGuard<'_, Option<MergedRequest>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
