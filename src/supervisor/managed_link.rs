//! A link under supervision and the plan for the next one. The supervisor decides about their
//! order.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    dial_reason::DialReason,
    uplink::{RETIREMENT, RoleLink},
};

/// The minimum time that a server keeps its old link. ATTACH frames that the master sent before it
/// learned of the new link may still be in flight.
const SERVER_LINGER: Duration = Duration::from_secs(1);

/// The next attempt and its time.
#[derive(Debug)]
pub(super) struct PlannedAttempt {
    pub(super) at: Instant,
    pub(super) master: usize,
    pub(super) reason: DialReason,
}

/// A link that is being established or is up.
#[derive(Debug)]
pub(super) struct ManagedLink {
    pub(super) epoch: u64,
    pub(super) master: usize,
    pub(super) reason: DialReason,
    pub(super) link: RoleLink,
    pub(super) cancel: CancellationToken,
    /// When the attempt began. After the join: when the link joined.
    pub(super) since: Instant,
    /// When to replace the link.
    pub(super) replace_at: Option<Instant>,
    /// When a newer link joined, or the role gave this one up.
    pub(super) retired_at: Option<Instant>,
    /// Whether the master announced that it will end the link.
    pub(super) going_away: bool,
}

/// Waits until the old link can be closed: it has no open channel, or [`RETIREMENT`] is over. Waits
/// forever if it is already closing.
pub(super) async fn wait_until_unused(old: Option<&ManagedLink>, server: bool) {
    match old {
        Some(ManagedLink {
            retired_at: Some(retired_at),
            link,
            cancel,
            ..
        }) if !cancel.is_cancelled() => {
            if server {
                sleep_until(*retired_at + SERVER_LINGER).await;
            }
            let _ = timeout_at(*retired_at + RETIREMENT, link.outbox.wait_until_empty()).await;
        }
        _ => pending().await,
    }
}

/// Returns a number that is larger than those of all earlier links of this process.
pub(super) fn next_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}
