//! How a role ends, the same for a server and a client. Shutdown flows down: no new streams, then those that are open may end within a grace
//! period, then everything is cut; completion flows up.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::uplink::{LinkedRole, Uplink};

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
    /// Keeps `role` linked until `cancel` is cancelled. Then `begin` is to see to it that no stream is added; those that are open have the `grace`
    /// period to end, and the rest is cut. Returns when every task has ended.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the link; the tasks end soon after.
    pub async fn run(
        self,
        uplink: Uplink,
        role: &mut impl LinkedRole,
        cancel: &CancellationToken,
        grace: Duration,
        begin: impl FnOnce(),
    ) {
        let Drain { streams, tasks, stop } = self;
        let _stopped_when_dropped = stop.clone().drop_guard();
        let drained = async {
            cancel.cancelled().await;
            begin();
            info!(streams = streams.len(), grace_s = grace.as_secs(), "ending: no new streams");
            streams.close();
            let _ = tokio::time::timeout(grace, streams.wait()).await;
            stop.cancel();
        };
        tokio::join!(uplink.run(role, &stop), drained);
        streams.wait().await;
        tasks.close();
        tasks.wait().await;
    }
}
