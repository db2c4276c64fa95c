//! The state of a tunnel, shared by its attachments, its streams and its driver: a mux behind a
//! lock, the binding to attachments, and the wakers of waiting tasks.
//!
//! The lock covers the work of the mux alone. It is never held across an await, a cipher or a call
//! to the link.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    PortParameters,
    attach::FIRST_ATTEMPT,
    attachment::CANDIDATE_TIMEOUT,
    binding::{Binding, BoundAttachment},
    driver,
    handle::TunnelStatus,
    lifecycle::{self, Effects},
    offer::Grant,
};
use crate::{link::Outbox, suspend::Moment};
use report_proto::frame::{Code, Notice};
use report_proto::{
    compress::{Pool, PoolLimits},
    crypto::TunnelSecret,
    id::Id,
    map::Map,
    mux::{Mux, MuxEvent, ResetCode, StreamId, TunnelSide},
};

/// The identity of a tunnel, fixed by its first handshake.
pub(super) struct Identity {
    /// Which end this is.
    pub side: TunnelSide,
    pub id: Id,
    /// Instance id of the server process.
    pub instance: Id,
    pub secret: TunnelSecret,
}

/// A tunnel: constants, state and notifications.
pub(super) struct TunnelShared {
    pub(super) id: Id,
    pub(super) instance: Id,
    pub(super) side: TunnelSide,
    pub(super) secret: TunnelSecret,
    pub(super) port: PortParameters,
    pub(super) pool: Arc<Pool>,
    state: Mutex<TunnelState>,
    /// Wakes the driver: the deadline is earlier than the one it waits for.
    pub(super) deadline_moved: Notify,
    /// Cancelled when the tunnel has ended.
    pub(super) ended: CancellationToken,
    pub(super) status: watch::Sender<TunnelStatus>,
    /// Counts the MOVE requests of the peer.
    pub(super) move_requests: watch::Sender<u64>,
    /// The number of the client's last attempt to attach the tunnel.
    pub(super) attempts: AtomicU64,
}

/// The mutable state of a tunnel.
pub(super) struct TunnelState {
    pub mux: Mux,
    pub(super) binding: Binding<ChannelHandle>,
    /// Set while no attachment carries the tunnel.
    pub(super) detached: Option<Detached>,
    /// When the current attachment took over.
    pub(super) attached_since: Instant,
    /// How long the tunnel had been detached before that, until it is logged.
    pub(super) detached_for: Option<Duration>,
    /// The channel is marked ready, and the link has not asked for data since.
    pub(super) transmit_requested: bool,
    /// The next message asks the client to reattach the tunnel.
    pub(super) move_request_due: bool,
    /// When the current move must be complete.
    pub(super) move_deadline: Option<Instant>,
    /// The deadline that the driver waits for.
    armed: Option<Instant>,
    pub stream_wakers: Map<StreamId, StreamWakers>,
    opened: VecDeque<(StreamId, Bytes)>,
    acceptor: Option<Waker>,
    pub end_notice: Option<Notice>,
    /// Set at the end of the tunnel: the lowest stream id that the peer reports as never seen.
    pub(super) seen_by_peer: Option<u64>,
}

/// A period without an attachment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Detached {
    pub(super) since: Moment,
    /// The tunnel ends after this time, suspend included, because the peer counts it too.
    pub(super) timeout: Duration,
}

impl Detached {
    /// Returns when the period expires if the machine stays awake.
    fn until(&self) -> Option<Instant> {
        self.since.awake.checked_add(self.timeout)
    }

    pub(super) fn is_expired(&self, now: Moment) -> bool {
        now.since(self.since) >= self.timeout
    }
}

/// The tasks that wait for one stream.
#[derive(Default)]
pub(super) struct StreamWakers {
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// Waits for the stream to fail.
    pub watcher: Option<Waker>,
}

impl StreamWakers {
    fn all(self) -> impl Iterator<Item = Waker> {
        [self.reader, self.writer, self.watcher]
            .into_iter()
            .flatten()
    }
}

/// Addresses one channel of a link.
#[derive(Clone)]
pub(super) struct ChannelHandle {
    pub outbox: Arc<Outbox>,
    pub channel: u32,
}

impl TunnelShared {
    /// Creates a tunnel after its first handshake. The first attachment has not proven itself yet.
    /// The driver runs on `tasks` until the tunnel has ended.
    pub(super) fn start(
        identity: Identity,
        port: PortParameters,
        theirs: Grant,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let Identity {
            side,
            id,
            instance,
            secret,
        } = identity;
        let limits = PoolLimits {
            running_encoders: theirs.zstd_contexts.min(super::ZSTD_CONTEXTS),
            running_decoders: super::ZSTD_CONTEXTS_TOLERATED,
        };
        let since = Moment::now();
        let now = since.awake;
        let state = TunnelState {
            mux: Mux::new(side, port.mux(side), theirs.for_mux(), now)
                .with_budget(Arc::clone(&port.process_shared.budget)),
            binding: Binding::new(),
            detached: Some(Detached {
                since,
                timeout: CANDIDATE_TIMEOUT,
            }),
            attached_since: now,
            detached_for: None,
            transmit_requested: false,
            move_request_due: false,
            move_deadline: None,
            armed: None,
            stream_wakers: Map::default(),
            opened: VecDeque::new(),
            acceptor: None,
            end_notice: None,
            seen_by_peer: None,
        };
        let shared = Arc::new(TunnelShared {
            id,
            instance,
            side,
            secret,
            pool: Arc::new(port.process_shared.pool.with_shared_workspaces(limits)),
            port,
            state: Mutex::new(state),
            deadline_moved: Notify::new(),
            ended: CancellationToken::new(),
            status: watch::Sender::new(TunnelStatus::Unconfirmed),
            move_requests: watch::Sender::new(0),
            attempts: AtomicU64::new(FIRST_ATTEMPT),
        });
        tasks.spawn(driver::drive(Arc::clone(&shared)));
        shared
    }

    /// Locks the state.
    pub(super) fn state(&self) -> MutexGuard<'_, TunnelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the state and publishes its changes: wakes waiting tasks, marks the channel ready
    /// if there is something to send, and wakes the driver if the deadline moved.
    pub(super) fn publish(&self, state: MutexGuard<'_, TunnelState>) {
        self.publish_with(state, Effects::default());
    }

    /// Like [`publish`](Self::publish), with additional effects.
    pub(super) fn publish_with(
        &self,
        mut state: MutexGuard<'_, TunnelState>,
        mut effects: Effects,
    ) {
        // The link asks until nothing is left, so one notification per idle period is enough.
        if !state.transmit_requested && (state.move_request_due || state.mux.has_transmit()) {
            let current = state
                .binding
                .current()
                .map(|current| current.handle.clone());
            state.transmit_requested = current.is_some();
            effects.transmit_ready = current;
        }
        self.unlock(state, effects);
    }

    /// Releases the state and runs `effects`. Unlike `publish`, it does not look for data to send.
    pub(super) fn unlock(&self, mut state: MutexGuard<'_, TunnelState>, mut effects: Effects) {
        state.take_events(&mut effects);
        if let Some(code) = effects.ended_by_peer {
            state.ended_by_peer(code, &mut effects);
        }
        // Read under the lock: the driver could otherwise sleep past a deadline set in between.
        let moved = state.arm();
        let ended = state.end_notice.is_some();
        drop(state);
        if moved {
            self.deadline_moved.notify_one();
        }
        if ended {
            self.ended.cancel();
        }
        self.run_effects(effects);
    }

    pub(super) fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Option<(StreamId, Bytes)>> {
        let mut state = self.state();
        if let Some(opened) = state.opened.pop_front() {
            return Poll::Ready(Some(opened));
        }
        if state.end_notice.is_some() {
            return Poll::Ready(None);
        }
        state.acceptor = Some(context.waker().clone());
        Poll::Pending
    }
}

impl TunnelState {
    /// Collects the wakers of the tasks that the events of the mux concern.
    fn take_events(&mut self, effects: &mut Effects) {
        while let Some(event) = self.mux.poll_event() {
            match event {
                MuxEvent::Opened { stream, details } => {
                    self.opened.push_back((stream, details));
                    effects.wakers.extend(self.acceptor.take());
                }
                MuxEvent::Reset(stream) => {
                    effects.wakers.extend(
                        self.stream_wakers
                            .remove(&stream)
                            .into_iter()
                            .flat_map(StreamWakers::all),
                    );
                }
                MuxEvent::Readable(stream) => {
                    effects.wakers.extend(
                        self.stream_wakers
                            .get_mut(&stream)
                            .and_then(|stream_wakers| stream_wakers.reader.take()),
                    );
                }
                MuxEvent::Writable(stream) => {
                    effects.wakers.extend(
                        self.stream_wakers
                            .get_mut(&stream)
                            .and_then(|stream_wakers| stream_wakers.writer.take()),
                    );
                }
                MuxEvent::Resumed {
                    streams,
                    again_bytes,
                } => effects.resumed = Some((streams, again_bytes)),
                MuxEvent::Closed(code) => effects.ended_by_peer = Some(code),
            }
        }
    }

    /// Marks the tunnel as ended and collects the wakers of all waiting tasks.
    pub(super) fn finish(&mut self, notice: Notice, effects: &mut Effects) {
        self.end_notice.get_or_insert(notice);
        self.detached = None;
        effects.wakers.extend(self.acceptor.take());
        effects.wakers.extend(
            self.stream_wakers
                .drain()
                .flat_map(|(_, stream_wakers)| stream_wakers.all()),
        );
    }

    fn deadline(&self) -> Option<Instant> {
        let given_up = self.detached.and_then(|detached| detached.until());
        self.mux
            .poll_timeout()
            .into_iter()
            .chain(given_up)
            .chain(self.move_deadline)
            .min()
    }

    /// Returns whether the driver waits for too late a deadline.
    fn arm(&mut self) -> bool {
        let deadline = self.deadline();
        let earlier =
            deadline.is_some_and(|deadline| self.armed.is_none_or(|armed| deadline < armed));
        // A later deadline needs no wake-up: the driver finds it when the current one expires.
        if earlier {
            self.armed = deadline;
        }
        earlier
    }

    /// Returns the deadline that the driver waits for next.
    pub(super) fn rearm(&mut self) -> Option<Instant> {
        self.armed = self.deadline();
        self.armed
    }

    fn ended_by_peer(&mut self, code: ResetCode, effects: &mut Effects) {
        self.finish(
            Notice::new(
                lifecycle::notice_code(code),
                format!("the other end ended the tunnel: {code}"),
            ),
            effects,
        );
        let closed = |bound: BoundAttachment<ChannelHandle>| {
            (bound.handle, Notice::new(Code::Cancelled, ""))
        };
        effects
            .closes
            .extend(self.binding.end().into_iter().map(closed));
        effects.is_finished = true;
    }
}
