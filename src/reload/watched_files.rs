//! Requests a reload when a file of the configuration changes, if the configuration asks for it.
//!
//! Polls the files once a second: notifications of the system differ between platforms, and miss
//! changes on network file systems and in containers.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::sleep};

use super::{ReloadQueue, ReloadSource};
use crate::config::LoadedConfig;

/// The pause between two looks at the files.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The files of a configuration, and whether they are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedFiles {
    is_enabled: bool,
    files: Vec<PathBuf>,
}

/// The time of the last change and the length of a file; `None` if it cannot be read.
type FileStamp = Option<(SystemTime, u64)>;

impl WatchedFiles {
    /// Returns the files of a configuration.
    #[must_use]
    pub fn of(loaded: &LoadedConfig) -> Self {
        WatchedFiles {
            is_enabled: loaded.config.common.watch,
            files: loaded.files.clone(),
        }
    }

    fn stamps(&self) -> Vec<FileStamp> {
        let stamp = |file: &PathBuf| {
            let metadata = fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        self.files.iter().map(stamp).collect()
    }
}

/// The state of the watched files, as loaded and as last seen.
#[derive(Debug, PartialEq, Eq)]
struct FileWatch {
    /// The state that was loaded.
    loaded: Vec<FileStamp>,
    /// The state at the last look.
    seen: Vec<FileStamp>,
}

impl FileWatch {
    fn new(loaded: Vec<FileStamp>) -> Self {
        FileWatch {
            seen: loaded.clone(),
            loaded,
        }
    }

    /// Records a look at the files. Returns whether they have changed since they were loaded, and no
    /// longer change: an editor may take a moment to write a file.
    fn look(&mut self, stamps: Vec<FileStamp>) -> bool {
        let is_settled = stamps == self.seen;
        let has_changed = stamps != self.loaded;
        if is_settled && has_changed {
            self.loaded.clone_from(&stamps);
        }
        self.seen = stamps;
        is_settled && has_changed
    }
}

/// Requests a reload after each change of the files. Follows `watched`. Never returns.
///
/// # Cancel safety
/// Safe.
pub async fn watch_files(mut watched: watch::Receiver<WatchedFiles>, queue: &ReloadQueue) {
    let mut files = watched.borrow_and_update().clone();
    let mut watch = FileWatch::new(files.stamps());
    loop {
        if files.is_enabled {
            sleep(POLL_INTERVAL).await;
        } else if watched.changed().await.is_err() {
            return std::future::pending().await;
        }
        let present = watched.borrow_and_update().clone();
        if present != files {
            files = present;
            watch = FileWatch::new(files.stamps());
        } else if watch.look(files.stamps()) {
            queue.request(ReloadSource::ChangedFile);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: u64, length: u64) -> FileStamp {
        Some((
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            length,
        ))
    }

    #[test]
    fn a_change_is_reported_once_and_only_when_it_is_complete() {
        let (first, second) = (stamp(1, 10), stamp(2, 10));
        let mut watch = FileWatch::new(vec![first]);
        assert!(!watch.look(vec![first]));
        for stamps in [stamp(2, 0), stamp(2, 5), second] {
            assert!(!watch.look(vec![stamps]), "still changing");
        }
        assert!(watch.look(vec![second]));
        assert!(!watch.look(vec![second]), "once");
        assert!(!watch.look(vec![None]), "perhaps being replaced");
        assert!(!watch.look(vec![second]));
        assert!(!watch.look(vec![second]), "the same file again");
    }
}
