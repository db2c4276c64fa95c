//! Reports the state of the process to systemd: start, reload, stop and liveness. Without
//! `NOTIFY_SOCKET`, and on other systems, does nothing.
//!
//! ```text
//!  READY=1 ──► RELOADING=1 ──► READY=1 ──► … ──► STOPPING=1
//!     └── WATCHDOG=1 at half of WatchdogSec, from a task of the runtime
//! ```
//!
//! A process that has handed over to its successor reports nothing more.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Reports to systemd. Clones report for the same process.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    has_handed_over: Arc<AtomicBool>,
}

impl Notifier {
    /// Creates the notifier of a process that has not reported anything yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports the end of the start, or of a reload. `systemctl status` shows `status`.
    pub fn ready(&self, status: &str) {
        self.send(&[Report::Ready, Report::Status(status)]);
    }

    /// Reports the begin of a reload. [`Notifier::ready`] reports its end, successful or not.
    pub fn reloading(&self) {
        self.send(&[Report::Reloading]);
    }

    /// Reports the begin of the drain.
    pub fn stopping(&self) {
        self.send(&[Report::Stopping]);
    }

    /// Changes the line that `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.send(&[Report::Status(status)]);
    }

    /// Reports that the process `pid` continues the service, and ends the reports of this process.
    pub fn hand_over(&self, pid: u32) {
        self.send(&[Report::MainProcess(pid), Report::Ready]);
        self.has_handed_over.store(true, Relaxed);
    }

    /// Reports the liveness of the runtime that polls this future, and the begin of the drain when
    /// `cancel` is cancelled. Never returns.
    ///
    /// # Cancel safety
    /// Safe: a dropped future ends the reports.
    pub async fn supervise(&self, cancel: &CancellationToken) {
        let stop = async {
            cancel.cancelled().await;
            self.stopping();
            pending::<()>().await;
        };
        let watchdog = async {
            let Some(timeout) = watchdog_timeout() else {
                return pending::<()>().await;
            };
            let mut pings = interval((timeout / 2).max(Duration::from_millis(1)));
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pings.tick().await;
                self.send(&[Report::Alive]);
            }
        };
        tokio::join!(stop, watchdog);
    }

    fn send(&self, reports: &[Report<'_>]) {
        if !self.has_handed_over.load(Relaxed) {
            send(reports);
        }
    }
}

/// A report to systemd.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(unix),
    expect(dead_code, reason = "only Unix systems have systemd")
)]
enum Report<'a> {
    Ready,
    Reloading,
    Stopping,
    Status(&'a str),
    MainProcess(u32),
    Alive,
}

#[cfg(unix)]
fn send(reports: &[Report<'_>]) {
    use sd_notify::NotifyState;
    let mut states = Vec::with_capacity(reports.len() + 1);
    for report in reports {
        match *report {
            Report::Ready => states.push(NotifyState::Ready),
            Report::Reloading => {
                states.push(NotifyState::Reloading);
                // systemd recognizes the READY that belongs to this reload by the time.
                states.extend(NotifyState::monotonic_usec_now());
            }
            Report::Stopping => states.push(NotifyState::Stopping),
            Report::Status(status) => states.push(NotifyState::Status(status)),
            Report::MainProcess(pid) => states.push(NotifyState::MainPid(pid)),
            Report::Alive => states.push(NotifyState::Watchdog),
        }
    }
    if let Err(error) = sd_notify::notify(&states) {
        tracing::debug!(%error, "systemd not notified");
    }
}

#[cfg(not(unix))]
fn send(_reports: &[Report<'_>]) {}

/// Returns the time after which systemd restarts a silent process, if it watches this one.
fn watchdog_timeout() -> Option<Duration> {
    #[cfg(unix)]
    return sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
    #[cfg(not(unix))]
    return None;
}
