//! The task of a tunnel: waits for the deadlines of the mux, and for the end of the time that a tunnel may be without an attachment.
//! Everything else happens in the calls of the link and of the streams.

use std::{sync::Arc, time::Instant};

use super::shared::Shared;

/// Runs until the tunnel is over.
pub(super) async fn drive(shared: Arc<Shared>) {
    loop {
        let deadline = shared.state().rearm();
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.over.cancelled() => return,
            () = shared.deadline_moved.notified() => {}
            () = expired => shared.handle_timeout(Instant::now()),
        }
    }
}
