//! The drain of a master: asks its links to leave, and ends those that stay. Knows links and time,
//! but not what the links carry.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::{
    router::LinkRef,
    shared::{MasterShared, shutdown_notice},
};
use report_proto::frame::{Frame, Role};

/// The time for the close handshakes of ended links, in addition to the link layer's own timeout.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause between two GOAWAYs. 20 handshakes a second are no load for another master, and
/// a master with few links should not wait for the end of its pace.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Sends GOAWAY to all links and waits until their tasks have ended, for at most `grace`. Then ends
/// the remaining links with ERROR `shutdown`, and the connections that are not links.
pub(super) async fn drain(shared: &MasterShared, grace: Duration) {
    shared.tasks.close();
    let links = links_to_drain(shared);
    info!(
        links = links.len(),
        grace_seconds = grace.as_secs_f32(),
        "draining"
    );
    if timeout(grace, ask_and_wait(shared, links, grace))
        .await
        .is_ok()
    {
        return;
    }
    let left: Vec<_> = shared
        .router
        .registry()
        .handles()
        .map(|(_, link)| Arc::clone(&link.outbox))
        .collect();
    info!(links = left.len(), "grace period over");
    shared.handshakes_over.cancel();
    left.iter().for_each(|outbox| outbox.end(shutdown_notice()));
    if timeout(CLOSE_TIMEOUT, shared.tasks.wait()).await.is_err() {
        warn!(tasks = shared.tasks.len(), "remaining tasks aborted");
        shared.aborting.cancel();
        shared.tasks.wait().await;
    }
}

/// Returns the links that are up, servers first: a client that follows then finds its server at the
/// next master. A link that registers later receives GOAWAY from its own task.
fn links_to_drain(shared: &MasterShared) -> Vec<Arc<LinkRef>> {
    let registry = shared.router.registry();
    let mut links: Vec<(Role, Arc<LinkRef>)> = Vec::with_capacity(registry.links());
    links.extend(
        registry
            .handles()
            .map(|(role, link)| (role, Arc::clone(link))),
    );
    drop(registry);
    links.sort_by_key(|(role, _)| *role == Role::Client);
    links.into_iter().map(|(_, link)| link).collect()
}

/// Sends GOAWAY to the links at an even pace, and waits until all tasks have ended.
async fn ask_and_wait(shared: &MasterShared, links: Vec<Arc<LinkRef>>, grace: Duration) {
    let notice = Frame::GoAway(shutdown_notice());
    let asking = send_paced(links, grace, |link| link.outbox.control(&notice));
    tokio::select! {
        biased;
        // The last link may leave before its turn.
        () = shared.tasks.wait() => return,
        () = asking => {}
    }
    shared.tasks.wait().await;
}

/// Calls `send` for each of the items, evenly spread over half of `grace`: for the first at once, and
/// for the others after a pause each. The pause is at most [`MAX_PAUSE`]. All roles would otherwise
/// dial the next master in the same moment.
async fn send_paced<T>(items: Vec<T>, grace: Duration, mut send: impl FnMut(T)) {
    let count = u32::try_from(items.len()).unwrap_or(u32::MAX).max(1);
    let pause = (grace / 2 / count).min(MAX_PAUSE);
    let mut due = Instant::now();
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            due += pause;
            // Timers have a resolution of a millisecond, so a short pause lets several items pass.
            if due > Instant::now() {
                sleep_until(due).await;
            }
        }
        send(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns when each of `count` items is sent, after the start.
    async fn times(count: usize, grace: Duration) -> Vec<Duration> {
        let started = Instant::now();
        let mut times = Vec::new();
        send_paced((0..count).collect(), grace, |item: usize| {
            assert_eq!(item, times.len());
            times.push(started.elapsed());
        })
        .await;
        times
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// The resolution of timers.
    const TICK: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn many_links_are_spread_evenly_over_half_of_the_grace_period() {
        let times = times(10_000, 20 * SECOND).await;
        assert_eq!((times.len(), times[0]), (10_000, Duration::ZERO));
        for (number, time) in times.iter().enumerate() {
            let even = 10 * SECOND * u32::try_from(number).unwrap() / 10_000;
            assert!(
                *time >= even && *time <= even + TICK,
                "{number} at {time:?}"
            );
        }
        assert!(*times.last().unwrap() <= 10 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn single_link_is_asked_at_once() {
        assert_eq!(times(1, 3600 * SECOND).await, [Duration::ZERO]);
        assert!(times(0, SECOND).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn few_links_do_not_wait_for_a_long_grace_period() {
        let times = times(4, 3600 * SECOND).await;
        assert_eq!(times.len(), 4);
        assert!(times[3] >= 3 * MAX_PAUSE, "{times:?}");
        assert!(times[3] <= 3 * MAX_PAUSE + TICK, "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_grace_period_means_no_pause() {
        assert_eq!(times(3, Duration::ZERO).await, [Duration::ZERO; 3]);
    }
}
