//! The end of a run before it is done: by a signal, or because its time is over.

use std::time::Duration;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// What is still under way when the run ends has so long to end as well.
const FAREWELL: Duration = Duration::from_secs(1);

/// Measures, unless a signal comes or the time is over. `measuring` owns the processes that it starts: they end when it is dropped.
pub fn until_stopped(
    time_limit: Duration,
    measuring: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(async {
        let (mut interrupted, mut terminated) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        let mut hung_up = signal(SignalKind::hangup())?;
        tokio::select! {
            measured = measuring => measured,
            _ = interrupted.recv() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
            _ = hung_up.recv() => bail!("the terminal has gone"),
            () = tokio::time::sleep(time_limit) => bail!("not done after {time_limit:?}"),
        }
    });
    runtime.shutdown_timeout(FAREWELL);
    measured
}
