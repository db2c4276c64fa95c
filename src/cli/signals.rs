//! The signals of the process: SIGINT, SIGTERM and SIGHUP (Ctrl-C on Windows). The first signal
//! starts the drain, the second ends the process at once. A role with a configuration file reloads it
//! at SIGHUP instead.
//!
//! ```text
//! running ──first signal──► draining ──role ends──► done (0)
//!    │                         ├──second signal──► ended at once (129, 130, 143)
//!    └──role ends──► done      └──deadline──► failed (1)
//! ```
//!
//! A command that is not a role ends on the first signal (129, 130, 143).

use std::{future::Future, io, pin::pin, process::ExitCode, time::Duration};

use anyhow::bail;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::grace::Grace;

/// The time beyond the grace period before a role is abandoned. Close handshakes on slow links take
/// several seconds.
const MARGIN: Duration = Duration::from_secs(10);

/// How long a role may drain after a panic.
const PANIC_GRACE: Duration = Duration::from_secs(5);

/// Logs panics. The returned token is cancelled by the first panic.
pub(super) fn watch_for_panics() -> CancellationToken {
    let panicked = CancellationToken::new();
    let token = panicked.clone();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("a task panicked: {panic}");
        token.cancel();
    }));
    panicked
}

/// A request to end the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGINT or Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    Hangup,
}

impl Signal {
    /// The exit code of shells: 128 plus the signal number.
    fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
            Signal::Hangup => 129,
        })
    }
}

/// The signals of this process.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// `None` under `nohup`, so that SIGHUP stays ignored.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// Installs handlers, so that the signals no longer end the process.
    ///
    /// # Errors
    /// Fails when the system refuses.
    pub(super) fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if hangup_is_ignored() {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Installs handlers for the signals that end a role with a configuration file: without SIGHUP.
    ///
    /// # Errors
    /// Fails when the system refuses.
    pub(super) fn install_without_hangup() -> io::Result<Self> {
        let mut signals = Self::install()?;
        signals.hangup = None;
        Ok(signals)
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            () = recv_or_pending(self.hangup.as_mut()) => Signal::Hangup,
        }
    }
}

/// Waits for the signal, or forever without one.
#[cfg(unix)]
async fn recv_or_pending(signal: Option<&mut tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the parent process (`nohup`) made this process ignore SIGHUP. Only Linux reports it.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

/// SIGHUP of a role with a configuration file.
pub(super) struct Hangups(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangups {
    /// Installs the handler, so that the signal no longer ends the process. Under `nohup` it stays
    /// ignored.
    ///
    /// # Errors
    /// Fails when the system refuses.
    #[cfg(unix)]
    pub(super) fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let is_received = !hangup_is_ignored();
        let hangup = is_received.then(|| signal(SignalKind::hangup()));
        hangup.transpose().map(Hangups)
    }

    /// Does nothing: this system has no such signal.
    ///
    /// # Errors
    /// Never.
    #[cfg(not(unix))]
    pub(super) fn install() -> io::Result<Self> {
        Ok(Hangups())
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        recv_or_pending(self.0.as_mut()).await;
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
    }
}

/// The signals of this process.
#[cfg(windows)]
pub struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    /// Installs a handler, so that Ctrl-C no longer ends the process.
    ///
    /// # Errors
    /// Fails when the system refuses.
    pub fn install() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    /// Does the same as [`Signals::install`]: there is no SIGHUP.
    ///
    /// # Errors
    /// Fails when the system refuses.
    pub fn install_without_hangup() -> io::Result<Self> {
        Self::install()
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn next(&mut self) -> Signal {
        self.0.recv().await;
        Signal::Interrupt
    }
}

/// Runs `role` until it ends, or drains it after a signal. The first signal cancels `cancel`, and
/// the role then has its grace period. A second signal returns at once.
///
/// After a panic the role drains for a few seconds, and the process fails. A process without one of
/// its tasks would serve no peer, and no supervisor would restart it.
///
/// # Errors
/// Returns the error of the role. Also fails when the role does not end in time, or a task
/// panicked.
pub(super) async fn run_until_drained(
    role: impl Future<Output = anyhow::Result<()>>,
    cancel: &CancellationToken,
    panicked: &CancellationToken,
    grace: &Grace,
    mut next_signal: impl AsyncFnMut() -> Signal,
) -> anyhow::Result<ExitCode> {
    let mut role = pin!(role);
    let first = tokio::select! {
        outcome = &mut role => return outcome.map(|()| ExitCode::SUCCESS),
        signal = next_signal() => signal,
        () = panicked.cancelled() => {
            // Close connections gracefully, then fail so that a supervisor restarts the process.
            cancel.cancel();
            let _ = tokio::time::timeout(grace.get().min(PANIC_GRACE), role).await;
            bail!("a task panicked: this is a bug; the log says where");
        }
    };
    let grace_period = grace.get();
    tracing::info!(signal = ?first, ?grace_period, "draining; a second signal ends at once");
    cancel.cancel();
    tokio::select! {
        outcome = &mut role => outcome.map(|()| ExitCode::SUCCESS),
        second = next_signal() => Ok(second.exit_code()),
        () = sleep(grace_period.saturating_add(MARGIN)) => bail!("did not end within the grace period of {grace_period:?}"),
    }
}

/// Runs `work` until it ends, or interrupts it after a signal. The signal cancels `cancel`, and
/// `work` then has a short time to end. Interrupted work is incomplete, unlike a drained role, so
/// the exit code reports the signal.
///
/// # Errors
/// Returns the error of the work.
pub(super) async fn run_until_signal(
    work: impl Future<Output = anyhow::Result<()>>,
    cancel: &CancellationToken,
    mut next_signal: impl AsyncFnMut() -> Signal,
) -> anyhow::Result<ExitCode> {
    let mut work = pin!(work);
    let signal = tokio::select! {
        outcome = &mut work => return outcome.map(|()| ExitCode::SUCCESS),
        signal = next_signal() => signal,
    };
    cancel.cancel();
    tokio::select! {
        // Prefer the output of the work over a second signal.
        biased;
        _ = work => {}
        _ = next_signal() => {}
        () = sleep(MARGIN) => {}
    }
    Ok(signal.exit_code())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc;

    use super::*;

    /// Runs `role` with exactly these signals.
    fn run(
        signals: &[Signal],
        role: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (sender, mut receiver) = mpsc::channel(4);
            for signal in signals {
                sender.try_send(*signal)?;
            }
            let cancel = CancellationToken::new();
            let role = role(cancel.clone());
            let next = async || match receiver.recv().await {
                Some(signal) => signal,
                None => pending().await,
            };
            drop(sender);
            run_until_drained(
                role,
                &cancel,
                &CancellationToken::new(),
                &Grace::from(Duration::from_secs(60)),
                next,
            )
            .await
        })
    }

    #[test]
    fn run_returns_the_result_of_a_finished_role() {
        assert_eq!(run(&[], async |_| Ok(())).expect("done"), ExitCode::SUCCESS);
        assert_eq!(
            run(&[], async |_| bail!("no such port"))
                .expect_err("failed")
                .to_string(),
            "no such port"
        );
    }

    #[test]
    fn the_first_signal_drains() {
        let role = async |cancel: CancellationToken| {
            cancel.cancelled().await;
            Ok(())
        };
        assert_eq!(
            run(&[Signal::Terminate], role).expect("done"),
            ExitCode::SUCCESS
        );
    }

    #[test]
    fn a_panic_drains_and_fails() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (cancel, panicked) = (CancellationToken::new(), CancellationToken::new());
        panicked.cancel();
        let drained = std::cell::Cell::new(false);
        let role = async {
            cancel.cancelled().await;
            drained.set(true);
            Ok(())
        };
        let ended = runtime.block_on(run_until_drained(
            role,
            &cancel,
            &panicked,
            &Grace::from(Duration::from_secs(60)),
            async || pending().await,
        ));
        assert!(
            ended
                .expect_err("failed")
                .to_string()
                .starts_with("a task panicked")
        );
        assert!(drained.get());
    }

    #[test]
    fn interrupted_work_may_report_results_and_exits_with_the_signal_code() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (cancel, reported) = (CancellationToken::new(), std::cell::Cell::new(false));
        let work = async {
            cancel.cancelled().await;
            reported.set(true);
            bail!("interrupted")
        };
        let ended = runtime.block_on(run_until_signal(work, &cancel, async || Signal::Interrupt));
        assert_eq!(ended.expect("ended"), ExitCode::from(130));
        assert!(reported.get());
        let uninterrupted = |outcome| {
            runtime.block_on(run_until_signal(async { outcome }, &cancel, async || {
                pending().await
            }))
        };
        assert_eq!(uninterrupted(Ok(())).expect("done"), ExitCode::SUCCESS);
        assert!(uninterrupted(Err(anyhow::anyhow!("no server"))).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_hangup_is_received_and_does_not_kill() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let received = runtime.block_on(async {
            let mut signals = Signals::install().expect("signals");
            if signals.hangup.is_none() {
                return Signal::Hangup;
            }
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)
                .expect("sent");
            signals.next().await
        });
        assert_eq!(received, Signal::Hangup);
    }

    #[test]
    fn the_second_signal_ends_at_once() {
        let stubborn = async |_: CancellationToken| pending().await;
        assert_eq!(
            run(&[Signal::Terminate, Signal::Interrupt], stubborn).expect("ended"),
            ExitCode::from(130)
        );
        assert_eq!(
            run(&[Signal::Interrupt, Signal::Terminate], stubborn).expect("ended"),
            ExitCode::from(143)
        );
    }
}
