//! A link of an uplink from its attempt to its end, and the plan for one. Knows what they are; not what follows what (`succession`).

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{RETIREMENT, why::Why};
use crate::link::Outbox;

/// How long a server's old link is kept at least: ATTACHes that the master sent before it heard of the new one are still on their way.
const LINGER: Duration = Duration::from_secs(1);

/// The next attempt.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) at: Instant,
    pub(super) master: usize,
    pub(super) why: Why,
}

/// A link that is being made, or stands.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) epoch: u64,
    pub(super) master: usize,
    pub(super) why: Why,
    pub(super) outbox: Arc<Outbox>,
    pub(super) cancel: CancellationToken,
    /// When its attempt began; from when it has joined, when it did.
    pub(super) since: Instant,
    /// When it is to be replaced.
    pub(super) replace_at: Option<Instant>,
    /// Since when a newer one stands.
    pub(super) retired: Option<Instant>,
    /// Whether the master has said that it will end it.
    pub(super) going: bool,
}

/// The old link is of no use any more, and has not been told to close.
pub(super) async fn vacated(old: Option<&Standing>, server: bool) {
    match old {
        Some(Standing {
            retired: Some(retired),
            outbox,
            cancel,
            ..
        }) if !cancel.is_cancelled() => {
            if server {
                sleep_until(*retired + LINGER).await;
            }
            let _ = timeout_at(*retired + RETIREMENT, outbox.vacant()).await;
        }
        _ => pending().await,
    }
}
