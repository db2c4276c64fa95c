//! Reports the state of the process to systemd: start, reload, stop and liveness. Without
//! `NOTIFY_SOCKET`, and on other systems, does nothing.
//!
//! ```text
//!  READY=1 ──► RELOADING=1 ──► READY=1 ──► … ──► STOPPING=1
//!     └── WATCHDOG=1 at half of WatchdogSec, from a task of the runtime
//! ```
//!
//! A process that has handed over to its successor reports nothing more.

#[cfg(unix)]
use std::{
    ffi::OsStr,
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

#[cfg(unix)]
use sd_notify::NotifyState;
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
    /// The reports of the other one count from now on, so the time of the watchdog starts again.
    pub fn hand_over(&self, pid: u32) {
        self.send(&[Report::MainProcess(pid), Report::Ready, Report::Alive]);
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
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = deliver(&socket, &text(&states)) {
        tracing::debug!(%error, "systemd not notified");
    }
}

/// Returns the message with these states, one a line. A status has no further line, which systemd
/// would take for a state.
#[cfg(unix)]
fn text(states: &[NotifyState<'_>]) -> String {
    let lines = states.iter().map(ToString::to_string);
    let lines: Vec<_> = lines.map(|line: String| line.replace('\n', " ")).collect();
    lines.join("\n")
}

/// How long a report may wait for a service manager that does not read. The runtime of the role waits
/// too.
#[cfg(unix)]
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends a report to a path, or to the abstract name after `@`. The library knows paths only.
#[cfg(unix)]
fn deliver(socket: &OsStr, report: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(DELIVERY_TIMEOUT))?;
    sender.send_to_addr(report.as_bytes(), &address(socket)?)?;
    Ok(())
}

#[cfg(unix)]
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    {
        use std::os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _};
        if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
            return SocketAddr::from_abstract_name(name);
        }
    }
    SocketAddr::from_pathname(socket)
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;

    use super::*;

    #[test]
    fn report_reaches_an_abstract_name_and_a_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let name = format!("report-test-notify-{:016x}", fastrand::u64(..));
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("a short name");
        for (listener, variable) in [
            (UnixDatagram::bind(&path), path.clone().into_os_string()),
            (
                UnixDatagram::bind_addr(&abstract_name),
                format!("@{name}").into(),
            ),
        ] {
            let listener = listener.expect("free");
            deliver(&variable, "READY=1\nSTATUS=up").expect("delivered");
            let mut message = [0; 64];
            let length = listener.recv(&mut message).expect("a report");
            assert_eq!(&message[..length], b"READY=1\nSTATUS=up");
        }
    }

    #[test]
    fn a_status_cannot_contain_another_state() {
        let states = [NotifyState::Ready, NotifyState::Status("no\nMAINPID=1")];
        assert_eq!(text(&states), "READY=1\nSTATUS=no MAINPID=1");
    }

    #[test]
    fn a_service_manager_that_does_not_read_does_not_stop_the_role() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let _listener = UnixDatagram::bind(&path).expect("free");
        let error = std::iter::repeat_with(|| deliver(path.as_os_str(), "WATCHDOG=1"))
            .find_map(Result::err)
            .expect("its queue is full");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
