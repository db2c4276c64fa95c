//! Runs the tasks of a server or client and drains them at the end. Shutdown goes top-down: no new
//! streams; the open streams may end within a grace period; then all tasks are cancelled.
//! Completion is reported bottom-up.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    grace::Grace,
    supervisor::{Connector, LinkPool, LinkedRole},
};

/// The time to notify the peers of the end. A working link needs a moment; without one no peer can
/// be reached.
const NOTIFY_TIMEOUT: Duration = Duration::from_millis(500);

/// The tasks of a role beside its links, and the token that cancels them.
#[derive(Default)]
pub struct Drain {
    /// The streams, which may end on their own during a drain.
    pub streams: TaskTracker,
    /// All other tasks.
    pub tasks: TaskTracker,
    /// Cancels all tasks.
    pub stop: CancellationToken,
}

impl Drain {
    /// Waits until `cancel` is cancelled while the role runs over `links`, then drains:
    ///
    /// 1. `stop_accepting` prevents new streams.
    /// 2. The open streams have the `grace` period to end.
    /// 3. `notify_peers` tells the peers, within half a second.
    /// 4. All other tasks are cancelled. The method returns when every task has ended.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the links. The tasks end soon after.
    pub async fn run<R: LinkedRole, W: Connector>(
        self,
        links: &LinkPool<R, W>,
        cancel: &CancellationToken,
        grace: &Grace,
        stop_accepting: impl FnOnce(),
        notify_peers: impl Future<Output = ()>,
    ) {
        let Drain {
            streams,
            tasks,
            stop,
        } = self;
        let _stopped_when_dropped = stop.clone().drop_guard();
        cancel.cancelled().await;
        stop_accepting();
        let grace = grace.get();
        info!(
            streams = streams.len(),
            grace_s = grace.as_secs(),
            "draining: no new streams"
        );
        streams.close();
        // Either limit may pass: the streams that are left are cancelled below.
        let _ = tokio::time::timeout(grace, streams.wait()).await;
        let _ = tokio::time::timeout(NOTIFY_TIMEOUT, notify_peers).await;
        stop.cancel();
        links.ended().await;
        streams.wait().await;
        tasks.close();
        tasks.wait().await;
    }
}
