//! One tunnel as its attachments, its streams and its handle share it: the [`TunnelCore`] behind a
//! lock, the effects of its transitions, and the task that waits for its deadlines.
//!
//! The lock covers the work of the core alone. It is never held across an await, a cipher or a call
//! to the link.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Instant,
};

use bytes::BytesMut;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    core::{Effects, TransmitResult, TunnelCore, TunnelEvent, TunnelStatus},
    handshake::{Identity, NewTunnel},
    parameters::{PortParameters, ZSTD_CONTEXTS, ZSTD_CONTEXTS_TOLERATED},
};
use crate::suspend::{CLOCK_CHECK_INTERVAL, Moment};
use report_proto::{
    compress::{Pool, PoolLimits},
    mux::{Mux, TunnelSide},
};

/// A tunnel: constants, state and notifications.
pub(super) struct TunnelShared {
    pub identity: Identity,
    pub port: PortParameters,
    pub pool: Arc<Pool>,
    core: Mutex<TunnelCore>,
    /// Wakes the driver: the deadline is earlier than the one it waits for.
    deadline_moved: Notify,
    /// Cancelled when the tunnel has ended.
    pub ended: CancellationToken,
    pub status: watch::Sender<TunnelStatus>,
    /// Counts the MOVE requests of the peer.
    pub move_requests: watch::Sender<u64>,
}

impl TunnelShared {
    /// Creates a tunnel after its first handshake. The first attachment has not proven itself yet.
    /// The driver runs on `tasks` until the tunnel has ended.
    pub(super) fn start(
        side: TunnelSide,
        new: NewTunnel,
        port: PortParameters,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let NewTunnel {
            identity,
            grant,
            takes_lane_requests,
        } = new;
        let limits = PoolLimits {
            running_encoders: grant.zstd_contexts.min(ZSTD_CONTEXTS),
            running_decoders: ZSTD_CONTEXTS_TOLERATED,
        };
        let now = Moment::now();
        let mux = Mux::new(side, port.mux(side), grant.for_mux(), now.awake)
            .with_budget(Arc::clone(&port.process_shared.budget));
        let mut core = TunnelCore::new(side, port.resume_timeout, mux, now);
        core.set_takes_lane_requests(takes_lane_requests);
        let shared = Arc::new(TunnelShared {
            identity,
            pool: Arc::new(port.process_shared.pool.with_shared_workspaces(limits)),
            port,
            core: Mutex::new(core),
            deadline_moved: Notify::new(),
            ended: CancellationToken::new(),
            status: watch::Sender::new(TunnelStatus::Unconfirmed),
            move_requests: watch::Sender::new(0),
        });
        tasks.spawn(drive(Arc::clone(&shared)));
        shared
    }

    /// Locks the core, for a call that has no effects.
    pub(super) fn core(&self) -> MutexGuard<'_, TunnelCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `change` with the core. Afterwards requests a transmission if there is something to
    /// send, and runs the effects.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut TunnelCore) -> R) -> R {
        let mut core = self.core();
        let result = change(&mut core);
        core.request_transmit();
        self.settle(core);
        result
    }

    /// Appends the next message of an attachment, before sealing. Does not request a transmission:
    /// the result tells the link whether to ask again.
    pub(super) fn transmit(&self, attempt: u64, out: &mut BytesMut) -> TransmitResult {
        let mut core = self.core();
        let result = core.transmit(Instant::now(), attempt, out);
        self.settle(core);
        result
    }

    /// Adds what happened to datagrams since the last call to the counters of the port.
    pub(super) fn publish_datagrams(&self) {
        let counts = self.core().take_datagram_counts();
        self.port.counters.datagrams.add(counts);
    }

    /// Releases the core and runs its effects.
    fn settle(&self, mut core: MutexGuard<'_, TunnelCore>) {
        // Includes the deadline: the driver could otherwise sleep past one set in between.
        let mut effects = core.poll_effects();
        if let Some(status) = effects.status.take() {
            self.status.send_replace(status);
        }
        drop(core);
        self.run(effects);
    }

    fn run(&self, effects: Effects) {
        let Effects {
            deadline_moved,
            ended,
            wakers,
            ready,
            closes,
            status: _,
            events,
            accepts_lanes,
            is_finished,
        } = effects;
        // Counted first: a task that is woken below may read the counters.
        for event in events {
            self.report(event);
        }
        if accepts_lanes {
            // The status is the same, but the client may open further lanes: wakes its waiters.
            self.status.send_modify(|_| {});
        }
        if deadline_moved {
            self.deadline_moved.notify_one();
        }
        if ended {
            self.ended.cancel();
        }
        wakers.into_iter().for_each(Waker::wake);
        for channel in ready {
            channel.ready();
        }
        for (channel, notice) in closes {
            channel.close_after_drain(&notice);
        }
        if is_finished {
            self.status.send_replace(TunnelStatus::Ended);
        }
    }

    /// Counts and logs an event, or passes it to the role.
    fn report(&self, event: TunnelEvent) {
        let (tunnel, counters) = (self.identity.id, &self.port.process_shared.counters);
        match event {
            TunnelEvent::Lost {
                carried,
                streams,
                why,
            } => {
                counters.lost.add(1);
                let carried_s = carried.as_secs_f32();
                if streams == 0 {
                    info!(%tunnel, carried_s, reason = %why, "tunnel lost its link");
                } else {
                    warn!(%tunnel, carried_s, streams, reason = %why, "tunnel lost its link");
                }
            }
            TunnelEvent::LaneLost { lanes, why } => {
                info!(%tunnel, lanes, reason = %why, "tunnel lost one of its links");
                // The status is the same, but a lane is missing: wakes its waiters.
                self.status.send_modify(|_| {});
            }
            TunnelEvent::Resumed {
                waited,
                streams,
                resent_bytes,
            } => {
                counters.resumed.add(1);
                counters.pauses.record(waited);
                counters.resent_bytes.add(resent_bytes);
                let waited_ms = waited.as_millis() as u64;
                info!(%tunnel, waited_ms, streams, resent_bytes, "tunnel resumed");
            }
            TunnelEvent::Moved => {
                counters.moved.add(1);
                info!(%tunnel, "tunnel moved to another link");
                // The status is the same, but the tunnel may move again: wakes its waiters.
                self.status.send_modify(|_| {});
            }
            TunnelEvent::MoveRequested => self
                .move_requests
                .send_modify(|count| *count = count.wrapping_add(1)),
            // The status is the same, but the client may need other lanes: wakes its waiters.
            TunnelEvent::LanesRequested => self.status.send_modify(|_| {}),
            TunnelEvent::Expired => counters.expired.add(1),
        }
    }
}

impl Drop for TunnelShared {
    fn drop(&mut self) {
        self.publish_datagrams();
    }
}

/// Waits for the deadlines of the mux, of a move and of `resume_timeout` until the tunnel has
/// ended. Everything else happens in calls from the link and the streams.
async fn drive(shared: Arc<TunnelShared>) {
    loop {
        let (deadline, is_detached) = {
            let mut core = shared.core();
            (core.rearm(), core.is_detached())
        };
        // The time without an attachment includes suspend, but no timer does. Check it at
        // intervals.
        let deadline = deadline.map(|deadline| {
            if is_detached {
                deadline.min(Instant::now() + CLOCK_CHECK_INTERVAL)
            } else {
                deadline
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
            () = expired => shared.update(|core| core.handle_timeout(Moment::now())),
        }
    }
}
