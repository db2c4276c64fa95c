//! The state of a tunnel that its attachments, its streams and its driver share: a mux behind a lock, which attachment carries it, and who
//! waits for what. The lock is held for the mux's own work alone: never over an await, a cipher or a call to the link.

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
    binding::{Binding, Bound},
    carriage::{self, Effects},
    driver,
    handle::Standing,
    offer::Grant,
};
use crate::{
    compress::{Pool, PoolLimits},
    crypto::TunnelSecret,
    id::Id,
    link::channel::{Code, Notice, Outbox},
    map::Map,
    mux::{Event, Mux, ResetCode, Side, StreamId},
    suspend::Moment,
};

/// What a tunnel is from its first handshake on.
pub struct Identity {
    /// Which end this is.
    pub side: Side,
    pub id: Id,
    /// The server's process.
    pub instance: Id,
    pub secret: TunnelSecret,
}

/// What belongs to a tunnel beside its state.
pub struct Shared {
    pub(super) id: Id,
    pub(super) instance: Id,
    pub(super) side: Side,
    pub(super) secret: TunnelSecret,
    pub(super) port: PortParameters,
    pub(super) pool: Arc<Pool>,
    state: Mutex<State>,
    /// The deadline is earlier than the driver knows.
    pub(super) deadline_moved: Notify,
    /// The tunnel is over.
    pub(super) over: CancellationToken,
    pub(super) standing: watch::Sender<Standing>,
    /// Counts the peer's MOVE.
    pub(super) asked_to_move: watch::Sender<u64>,
    /// The number of the last attempt of a client to attach the tunnel.
    pub(super) attempts: AtomicU64,
}

/// What changes.
pub struct State {
    pub mux: Mux,
    pub(super) binding: Binding<Bell>,
    /// Nothing carries the tunnel.
    pub(super) uncarried: Option<Uncarried>,
    /// When the present attachment took over.
    pub(super) carried_since: Instant,
    /// For how long nothing had carried the tunnel then, until that is told.
    pub(super) waited: Option<Duration>,
    /// The link has been told that there is something to send, and has not asked since.
    pub(super) rung: bool,
    /// The client is to be asked to attach the tunnel anew.
    pub(super) move_due: bool,
    /// Until then the move that is under way is to be complete.
    pub(super) move_until: Option<Instant>,
    /// What the driver waits for.
    armed: Option<Instant>,
    pub waiting: Map<StreamId, Waiting>,
    opened: VecDeque<(StreamId, Bytes)>,
    acceptor: Option<Waker>,
    pub over: Option<Notice>,
    /// When it is over: the lowest number of our streams that the other end says it has never seen.
    pub(super) seen_by_peer: Option<u64>,
}

/// A tunnel without an attachment.
#[derive(Debug, Clone, Copy)]
pub struct Uncarried {
    pub(super) since: Moment,
    /// After this time, suspend included, it is given up: the other end counts that too.
    pub(super) time: Duration,
}

impl Uncarried {
    /// When it is given up if the machine stays awake.
    fn until(&self) -> Option<Instant> {
        self.since.awake.checked_add(self.time)
    }

    pub(super) fn is_expired(&self, now: Moment) -> bool {
        now.since(self.since) >= self.time
    }
}

/// Who waits for a stream.
#[derive(Default)]
pub struct Waiting {
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// Waits for the stream to be given up.
    pub watcher: Option<Waker>,
}

impl Waiting {
    fn all(self) -> impl Iterator<Item = Waker> {
        [self.reader, self.writer, self.watcher]
            .into_iter()
            .flatten()
    }
}

/// How the tunnel reaches a channel.
#[derive(Clone)]
pub struct Bell {
    pub outbox: Arc<Outbox>,
    pub channel: u32,
}

impl Shared {
    /// A tunnel whose handshake is done, and whose first attachment is still to prove itself. Its driver runs on `tasks` until the tunnel is over.
    pub fn start(
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
        let state = State {
            mux: Mux::new(side, port.mux(side), theirs.for_mux(), now)
                .charged_to(Arc::clone(&port.commons.budget)),
            binding: Binding::new(),
            uncarried: Some(Uncarried {
                since,
                time: CANDIDATE_TIMEOUT,
            }),
            carried_since: now,
            waited: None,
            rung: false,
            move_due: false,
            move_until: None,
            armed: None,
            waiting: Map::default(),
            opened: VecDeque::new(),
            acceptor: None,
            over: None,
            seen_by_peer: None,
        };
        let shared = Arc::new(Shared {
            id,
            instance,
            side,
            secret,
            pool: Arc::new(port.commons.pool.for_another_tunnel(limits)),
            port,
            state: Mutex::new(state),
            deadline_moved: Notify::new(),
            over: CancellationToken::new(),
            standing: watch::Sender::new(Standing::Begun),
            asked_to_move: watch::Sender::new(0),
            attempts: AtomicU64::new(FIRST_ATTEMPT),
        });
        tasks.spawn(driver::drive(Arc::clone(&shared)));
        shared
    }

    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets what was done have its effects: whoever waited for it is woken, the link is told when there is something to send, and the driver when
    /// the deadline has moved.
    pub fn settle(&self, state: MutexGuard<'_, State>) {
        self.settle_with(state, Effects::default());
    }

    /// The same, with what else is to be done.
    pub(super) fn settle_with(&self, mut state: MutexGuard<'_, State>, mut effects: Effects) {
        if !state.rung && (state.move_due || state.mux.has_transmit()) {
            let present = state.binding.present().map(|present| present.bell.clone());
            state.rung = present.is_some();
            effects.ring = present;
        }
        self.unlock(state, effects);
    }

    /// Unlocks the state, and tells everybody what became of it; the link is told of what is in `effects` only.
    pub(super) fn unlock(&self, mut state: MutexGuard<'_, State>, mut effects: Effects) {
        state.take_events(&mut effects);
        if let Some(code) = effects.ended_by_peer {
            state.ended_by_peer(code, &mut effects);
        }
        let moved = state.arm();
        let over = state.over.is_some();
        drop(state);
        if moved {
            self.deadline_moved.notify_one();
        }
        if over {
            self.over.cancel();
        }
        self.carry_out(effects);
    }

    pub(super) fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Option<(StreamId, Bytes)>> {
        let mut state = self.state();
        if let Some(opened) = state.opened.pop_front() {
            return Poll::Ready(Some(opened));
        }
        if state.over.is_some() {
            return Poll::Ready(None);
        }
        state.acceptor = Some(context.waker().clone());
        Poll::Pending
    }
}

impl State {
    /// Turns the mux's events into those who wait for them.
    fn take_events(&mut self, effects: &mut Effects) {
        while let Some(event) = self.mux.poll_event() {
            match event {
                Event::Opened { stream, details } => {
                    self.opened.push_back((stream, details));
                    effects.wakers.extend(self.acceptor.take());
                }
                Event::Reset(stream) => {
                    effects.wakers.extend(
                        self.waiting
                            .remove(&stream)
                            .into_iter()
                            .flat_map(Waiting::all),
                    );
                }
                Event::Readable(stream) => {
                    effects.wakers.extend(
                        self.waiting
                            .get_mut(&stream)
                            .and_then(|waiting| waiting.reader.take()),
                    );
                }
                Event::Writable(stream) => {
                    effects.wakers.extend(
                        self.waiting
                            .get_mut(&stream)
                            .and_then(|waiting| waiting.writer.take()),
                    );
                }
                Event::Resumed {
                    streams,
                    again_bytes,
                } => effects.resumed = Some((streams, again_bytes)),
                Event::Closed(code) => effects.ended_by_peer = Some(code),
            }
        }
    }

    /// The tunnel is over: everybody who waits is told.
    pub(super) fn finish(&mut self, notice: Notice, effects: &mut Effects) {
        self.over.get_or_insert(notice);
        self.uncarried = None;
        effects.wakers.extend(self.acceptor.take());
        effects
            .wakers
            .extend(self.waiting.drain().flat_map(|(_, waiting)| waiting.all()));
    }

    fn deadline(&self) -> Option<Instant> {
        let given_up = self.uncarried.and_then(|uncarried| uncarried.until());
        self.mux
            .poll_timeout()
            .into_iter()
            .chain(given_up)
            .chain(self.move_until)
            .min()
    }

    /// Whether the driver waits for too late a time.
    fn arm(&mut self) -> bool {
        let deadline = self.deadline();
        let earlier =
            deadline.is_some_and(|deadline| self.armed.is_none_or(|armed| deadline < armed));
        if earlier {
            self.armed = deadline;
        }
        earlier
    }

    /// What the driver is to wait for now.
    pub fn rearm(&mut self) -> Option<Instant> {
        self.armed = self.deadline();
        self.armed
    }

    fn ended_by_peer(&mut self, code: ResetCode, effects: &mut Effects) {
        self.finish(
            Notice::new(
                carriage::notice_code(code),
                format!("the other end ended the tunnel: {code}"),
            ),
            effects,
        );
        let closed = |bound: Bound<Bell>| (bound.bell, Notice::new(Code::Cancelled, ""));
        effects
            .closes
            .extend(self.binding.end().into_iter().map(closed));
        effects.is_over = true;
    }
}
