//! A link under supervision and the plan for the next one. The supervisor decides about their
//! order.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    dial_reason::DialReason,
    uplink::{RETIREMENT, RoleLink},
};

/// The minimum time that a server keeps its old link. ATTACH frames that the master sent before it
/// learned of the new link may still be in flight.
const SERVER_LINGER: Duration = Duration::from_secs(1);

/// The longest time that an old link stays up after GOAWAY on the link that replaced it (PROTOCOL
/// 12). The next link waits for it. After GOAWAY a master leaves a link at least half of its grace
/// period, 2.5 s by default. The next link has the rest of that time to take over.
pub(super) const GOAWAY_RETIREMENT: Duration = Duration::from_secs(2);

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
    /// Set when a newer link joined, or the role gave this one up.
    pub(super) retirement: Option<Retirement>,
    /// Whether the master announced that it will end the link.
    pub(super) going_away: bool,
}

/// The time in which an old link is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retirement {
    began_at: Instant,
    /// When the link is closed, even with open channels.
    ends_at: Instant,
}

impl ManagedLink {
    /// Begins the retirement of the link.
    pub(super) fn begin_retirement(&mut self) {
        let began_at = Instant::now();
        self.retirement = Some(Retirement {
            began_at,
            ends_at: began_at + RETIREMENT,
        });
    }

    /// Ends the retirement of the link within [`GOAWAY_RETIREMENT`].
    pub(super) fn hasten_retirement(&mut self) {
        if let Some(retirement) = &mut self.retirement {
            let soon = Instant::now() + GOAWAY_RETIREMENT;
            retirement.ends_at = retirement.ends_at.min(soon);
        }
    }

    /// Waits until the old link can be closed: it has no open channel, or its retirement is over.
    /// Returns its epoch. Waits forever if the link is in use, or already closing.
    async fn unused(&self, server: bool) -> u64 {
        let Some(Retirement { began_at, ends_at }) =
            self.retirement.filter(|_| !self.cancel.is_cancelled())
        else {
            return pending().await;
        };
        if server {
            sleep_until(began_at + SERVER_LINGER).await;
        }
        let _ = timeout_at(ends_at, self.link.outbox.wait_until_empty()).await;
        self.epoch
    }
}

/// Waits until one of the old links can be closed. Returns its epoch.
///
/// # Cancel safety
/// Safe: dropping the future loses nothing.
pub(super) async fn next_unused(retiring: &[ManagedLink], server: bool) -> u64 {
    let mut waits: FuturesUnordered<_> = retiring.iter().map(|old| old.unused(server)).collect();
    match waits.next().await {
        Some(epoch) => epoch,
        None => pending().await,
    }
}

/// Returns a number that is larger than those of all earlier links of this process.
pub(super) fn next_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}
