//! Stops a run early: on a signal or at the time limit.

use std::time::Duration;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// The time for running tasks to end after the run.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs `measuring` until it completes, a signal arrives or the time limit passes.
///
/// `measuring` owns the processes that it starts, so dropping it ends them.
pub(crate) fn run_until_stopped(
    time_limit: Duration,
    measuring: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(until_stopped(time_limit, measuring));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    measured
}

/// Waits until `measuring` completes, a signal arrives or the time limit passes.
pub(crate) async fn until_stopped(
    time_limit: Duration,
    measuring: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let (mut interrupted, mut terminated) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let mut hung_up = signal(SignalKind::hangup())?;
    tokio::select! {
        measured = measuring => measured,
        _ = interrupted.recv() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
        _ = hung_up.recv() => bail!("the terminal was closed"),
        () = tokio::time::sleep(time_limit) => bail!("not finished after {time_limit:?}"),
    }
}
