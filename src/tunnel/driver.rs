//! The task of a tunnel: waits for the mux's deadlines. Everything else happens in the calls of the link and of the streams.

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
            () = expired => {
                let mut state = shared.state();
                state.mux.handle_timeout(Instant::now());
                shared.settle(state);
            }
        }
    }
}
