//! How a role ends, the same for a server and a client. Shutdown flows down: no new streams, then those that are open may end within a grace
//! period, then everything is cut; completion flows up.

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info};

use super::uplink::{LinkedRole, Uplink, Way};

/// How long a farewell may take: that of a link which works takes a moment, and where none does nobody hears it.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a role runs beside its link, and what ends it.
#[derive(Default)]
pub struct Drain {
    /// Streams, which may end by themselves in a drain.
    pub streams: TaskTracker,
    /// Everything else.
    pub tasks: TaskTracker,
    /// Cuts all of it.
    pub stop: CancellationToken,
}

impl Drain {
    /// Keeps `role` linked over each of the `uplinks` until `cancel` is cancelled. Then `begin` is to see to it that no stream is added; those that
    /// are open have the `grace` period to end; `farewell` tells the other ends, within half a second; and the rest is cut. Returns when every task
    /// has ended.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the links; the tasks end soon after.
    pub async fn run<R: LinkedRole, W: Way>(
        self,
        uplinks: Vec<Uplink<W>>,
        role: Arc<R>,
        cancel: &CancellationToken,
        grace: Duration,
        begin: impl FnOnce(),
        farewell: impl Future<Output = ()>,
    ) {
        let Drain {
            streams,
            tasks,
            stop,
        } = self;
        let _stopped_when_dropped = stop.clone().drop_guard();
        // Tasks of their own, since the caller's future may be the one that the main thread blocks on: what wakes a link would wake that thread,
        // where a task is taken by a worker that is awake already.
        let linked: Vec<_> = uplinks
            .into_iter()
            .map(|uplink| {
                let (role, until) = (Arc::clone(&role), stop.clone());
                tasks.spawn(async move { uplink.run(role, &until).await }.in_current_span())
            })
            .collect();
        drop(role);
        cancel.cancelled().await;
        begin();
        info!(
            streams = streams.len(),
            grace_s = grace.as_secs(),
            "ending: no new streams"
        );
        streams.close();
        let _ = tokio::time::timeout(grace, streams.wait()).await;
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        stop.cancel();
        for linked in linked {
            if let Err(error) = linked.await
                && let Ok(panic) = error.try_into_panic()
            {
                resume_unwind(panic);
            }
        }
        streams.wait().await;
        tasks.close();
        tasks.wait().await;
    }
}
