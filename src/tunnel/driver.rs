//! The task of a tunnel. It waits for the deadlines of the mux, of a move and of `resume_timeout`.
//! Everything else happens in calls from the link and the streams.

use std::{sync::Arc, time::Instant};

use super::shared::TunnelShared;
use crate::suspend::{CLOCK_CHECK_INTERVAL, Moment};

/// Runs until the tunnel has ended.
pub(super) async fn drive(shared: Arc<TunnelShared>) {
    loop {
        let (deadline, is_attached) = {
            let mut state = shared.state();
            (state.rearm(), state.detached.is_none())
        };
        // The time without an attachment includes suspend, but no timer does. Check it at
        // intervals.
        let deadline = deadline.map(|deadline| {
            if is_attached {
                deadline
            } else {
                deadline.min(Instant::now() + CLOCK_CHECK_INTERVAL)
            }
        });
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.ended.cancelled() => return,
            () = shared.deadline_moved.notified() => {}
            () = expired => shared.handle_timeout(Moment::now()),
        }
    }
}
