//! The task of a port. It waits for the replies to attach requests, for changes of the tunnels and
//! for the deadlines of the state machine, and passes each to the machine.

use std::sync::Arc;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::{
    PortSupervisor,
    event::{PortEvent, RequestNumber},
    executor::{AttachReply, StartedRequest, TunnelWatch},
};

/// Runs until `stop` is cancelled, or until a retired port has no tunnel. The tunnels end with it.
pub(super) async fn drive(port: Arc<PortSupervisor>, stop: CancellationToken) {
    let _finished = port.finished.clone().drop_guard();
    let _end_on_drop = EndTunnelsOnDrop(&port);
    let (mut replies, mut changes) = (FuturesUnordered::new(), FuturesUnordered::new());
    loop {
        let deadline = {
            let mut executor = port.executor();
            if executor.has_retired() {
                return;
            }
            replies.extend(executor.take_started().into_iter().map(reply));
            changes.extend(executor.take_adopted().into_iter().map(next_change));
            executor.next_deadline()
        };
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            // Another task has passed an event, so there may be new requests and deadlines.
            () = port.changed.notified() => {}
            Some((request, reply)) = replies.next() => port.executor().attach_done(request, reply),
            Some((watch, change)) = changes.next() => {
                let mut executor = port.executor();
                match change {
                    TunnelChange::Status => executor.observe(),
                    TunnelChange::MoveRequest => executor.handle(PortEvent::MoveRequested { tunnel: watch.tunnel }),
                }
                if executor.has_tunnel(watch.tunnel) {
                    changes.push(next_change(watch));
                }
            }
            () = expired => port.executor().handle(PortEvent::Timeout),
        }
    }
}

/// Waits for the reply to an attach request. `None`: its channel was closed at this end.
async fn reply(started: StartedRequest) -> (RequestNumber, Option<AttachReply>) {
    (started.request, started.outcome.await.ok())
}

/// A notification of a tunnel.
enum TunnelChange {
    /// Its status may have changed, or a move has ended.
    Status,
    /// The server asks to move it.
    MoveRequest,
}

/// Waits for the next notification of a tunnel. The tunnel must exist for that long.
async fn next_change(mut watch: TunnelWatch) -> (TunnelWatch, TunnelChange) {
    let change = tokio::select! {
        _ = watch.status.changed() => TunnelChange::Status,
        _ = watch.move_requests.changed() => TunnelChange::MoveRequest,
    };
    (watch, change)
}

/// Ends the tunnels of the port when its task ends.
struct EndTunnelsOnDrop<'a>(&'a PortSupervisor);

impl Drop for EndTunnelsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end_tunnels();
    }
}
