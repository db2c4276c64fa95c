//! What the system asks of the process: SIGINT and SIGTERM (Ctrl-C on Windows). The first one asks to drain, the second one to end at once.
//!
//! ```text
//! running ──first signal──► draining ──role ends──► done (0)
//!    │                         ├──second signal──► ended at once (130, 143)
//!    └──role ends──► done      └──deadline──► failed (1)
//! ```
//! What is no role, and is to come to an end by itself, is ended by the first one (130, 143).

use std::{future::Future, io, pin::pin, process::ExitCode, time::Duration};

use anyhow::bail;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What a role may take beyond its grace period before it is left behind: goodbyes on slow links take some seconds.
const MARGIN: Duration = Duration::from_secs(10);

/// A wish that the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// 128 and the signal's number, as shells say it.
    fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        })
    }
}

/// The signals of this process.
#[cfg(unix)]
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Takes the signals over; they end the process no more by themselves.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

/// The signals of this process.
#[cfg(windows)]
pub struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    /// Takes Ctrl-C over; it ends the process no more by itself.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Signal {
        self.0.recv().await;
        Signal::Interrupt
    }
}

/// Runs `role` until it ends by itself, or drains it: the first signal cancels `cancel`, and `role` then has its grace period to end. A
/// second signal ends the waiting at once.
///
/// # Errors
/// That of the role, or that it did not end in time.
pub async fn run_until_drained(
    role: impl Future<Output = anyhow::Result<()>>,
    cancel: &CancellationToken,
    grace_period: Duration,
    mut next_signal: impl AsyncFnMut() -> Signal,
) -> anyhow::Result<ExitCode> {
    let mut role = pin!(role);
    let first = tokio::select! {
        outcome = &mut role => return outcome.map(|()| ExitCode::SUCCESS),
        signal = next_signal() => signal,
    };
    tracing::info!(signal = ?first, ?grace_period, "draining; a second signal ends at once");
    cancel.cancel();
    tokio::select! {
        outcome = &mut role => outcome.map(|()| ExitCode::SUCCESS),
        second = next_signal() => Ok(second.exit_code()),
        () = sleep(grace_period.saturating_add(MARGIN)) => bail!("did not end within the grace period of {grace_period:?}"),
    }
}

/// Runs `work` until it ends by itself, or until a signal: that cancels `cancel`, and `work` then has a moment to end. Unlike a role, which a
/// signal ends in order, it has not done what it was to do: the exit code says so.
///
/// # Errors
/// That of the work.
pub async fn run_until_signal(
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
        // What the work has to say comes before another signal.
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

    /// Runs `role` with these signals, and no more of them.
    fn run(signals: &[Signal], role: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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
            run_until_drained(role, &cancel, Duration::from_secs(60), next).await
        })
    }

    #[test]
    fn a_role_that_ends_by_itself_is_done() {
        assert_eq!(run(&[], async |_| Ok(())).expect("done"), ExitCode::SUCCESS);
        assert_eq!(run(&[], async |_| bail!("no such port")).expect_err("failed").to_string(), "no such port");
    }

    #[test]
    fn the_first_signal_drains() {
        let role = async |cancel: CancellationToken| {
            cancel.cancelled().await;
            Ok(())
        };
        assert_eq!(run(&[Signal::Terminate], role).expect("done"), ExitCode::SUCCESS);
    }

    #[test]
    fn work_that_a_signal_ends_may_say_what_it_has_done_and_is_not_done() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (cancel, said) = (CancellationToken::new(), std::cell::Cell::new(false));
        let work = async {
            cancel.cancelled().await;
            said.set(true);
            bail!("interrupted")
        };
        let ended = runtime.block_on(run_until_signal(work, &cancel, async || Signal::Interrupt));
        assert_eq!(ended.expect("ended"), ExitCode::from(130));
        assert!(said.get());
        let by_itself = |outcome| runtime.block_on(run_until_signal(async { outcome }, &cancel, async || pending().await));
        assert_eq!(by_itself(Ok(())).expect("done"), ExitCode::SUCCESS);
        assert!(by_itself(Err(anyhow::anyhow!("no server"))).is_err());
    }

    #[test]
    fn the_second_signal_ends_at_once() {
        let stubborn = async |_: CancellationToken| pending().await;
        assert_eq!(run(&[Signal::Terminate, Signal::Interrupt], stubborn).expect("ended"), ExitCode::from(130));
        assert_eq!(run(&[Signal::Interrupt, Signal::Terminate], stubborn).expect("ended"), ExitCode::from(143));
    }
}
