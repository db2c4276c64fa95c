//! The task of a tunnel: waits for the deadlines of the mux, and for the end of the time that a tunnel may be without an attachment.
//! Everything else happens in the calls of the link and of the streams.

use std::{sync::Arc, time::Instant};

use super::shared::Shared;
use crate::suspend::{LOOK, Moment};

/// Runs until the tunnel is over.
pub(super) async fn drive(shared: Arc<Shared>) {
    loop {
        let (deadline, is_carried) = {
            let mut state = shared.state();
            (state.rearm(), state.uncarried.is_none())
        };
        // The time without an attachment includes suspend, which no timer does.
        let deadline = deadline.map(|deadline| {
            if is_carried {
                deadline
            } else {
                deadline.min(Instant::now() + LOOK)
            }
        });
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.over.cancelled() => return,
            () = shared.deadline_moved.notified() => {}
            () = expired => shared.handle_timeout(Moment::now()),
        }
    }
}
