//! The state of a tunnel that its attachment, its streams and its driver share: a mux behind a lock, and who waits for what. The lock is
//! held for the mux's own work alone: never over an await, a cipher or a call to the link.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{PortParameters, driver, offer::Grant, stream::TunnelStream};
use crate::{
    compress::{Pool, PoolLimits},
    id::Id,
    link::channel::{Code, Notice, Outbox, Transmit},
    mux::{Event, Mux, MuxError, Side, StreamId},
};

/// The largest tunnel message before sealing, in bytes (PROTOCOL 12).
const MAX_PAYLOAD: usize = 65_536;

/// A tunnel. Clones are the same tunnel.
#[derive(Clone)]
pub struct Tunnel {
    pub(super) shared: Arc<Shared>,
}

/// What belongs to a tunnel beside its state.
pub struct Shared {
    id: Id,
    port: PortParameters,
    pub(super) pool: Arc<Pool>,
    state: Mutex<State>,
    /// The mux's deadline is earlier than the driver knows.
    pub(super) deadline_moved: Notify,
    /// The tunnel is over.
    pub(super) over: CancellationToken,
}

/// What changes.
pub struct State {
    pub mux: Mux,
    bell: Bell,
    /// The link has been told that there is something to send, and has not asked since.
    rung: bool,
    /// What the driver waits for.
    armed: Option<Instant>,
    pub waiting: HashMap<StreamId, Waiting>,
    opened: VecDeque<(StreamId, Bytes)>,
    acceptor: Option<Waker>,
    pub over: Option<Notice>,
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
        [self.reader, self.writer, self.watcher].into_iter().flatten()
    }
}

/// How the tunnel tells its link that it has something to send.
#[derive(Clone)]
pub struct Bell {
    pub outbox: Arc<Outbox>,
    pub channel: u32,
}

impl Tunnel {
    /// A tunnel whose handshake is done. Its driver runs on `tasks` until the tunnel is over.
    pub(super) fn new(side: Side, id: Id, port: PortParameters, theirs: Grant, bell: Bell, tasks: &TaskTracker) -> Self {
        let limits = PoolLimits {
            running_encoders: theirs.zstd_contexts.min(super::ZSTD_CONTEXTS),
            running_decoders: super::ZSTD_CONTEXTS_TOLERATED,
        };
        let state = State {
            mux: Mux::new(side, port.mux(side), theirs.for_mux(), Instant::now()),
            bell,
            rung: false,
            armed: None,
            waiting: HashMap::new(),
            opened: VecDeque::new(),
            acceptor: None,
            over: None,
        };
        let shared = Arc::new(Shared {
            id,
            pool: Arc::new(port.pool.for_another_tunnel(limits)),
            port,
            state: Mutex::new(state),
            deadline_moved: Notify::new(),
            over: CancellationToken::new(),
        });
        tasks.spawn(driver::drive(Arc::clone(&shared)));
        Tunnel { shared }
    }

    /// The name that both ends know the tunnel by.
    #[must_use]
    pub fn id(&self) -> Id {
        self.shared.id
    }

    /// The port that the tunnel belongs to.
    #[must_use]
    pub fn port(&self) -> &PortParameters {
        &self.shared.port
    }

    /// Why the tunnel is over, once it is.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        self.shared.state().over.clone()
    }

    /// Waits until the tunnel is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn closed(&self) {
        self.shared.over.cancelled().await;
    }

    /// Opens a stream. Its first bytes travel with the opening.
    #[must_use]
    pub fn open(&self, details: Bytes) -> TunnelStream {
        let mut state = self.shared.state();
        let id = state.mux.open(details);
        self.shared.settle(state);
        TunnelStream::new(Arc::clone(&self.shared), id)
    }

    /// The next stream that the peer opens, with what it says of it; `None` when the tunnel is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait.
    pub async fn accept(&self) -> Option<(TunnelStream, Bytes)> {
        let opened = std::future::poll_fn(|context| self.shared.poll_accept(context)).await;
        opened.map(|(id, details)| (TunnelStream::new(Arc::clone(&self.shared), id), details))
    }
}

impl Shared {
    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets what was done have its effects: whoever waited for it is woken, the link is told when there is something to send, and the driver when
    /// the deadline has moved.
    pub fn settle(&self, mut state: MutexGuard<'_, State>) {
        let ring = !state.rung && state.over.is_none() && state.mux.has_transmit();
        state.rung |= ring;
        let bell = ring.then(|| state.bell.clone());
        self.unlock(state);
        if let Some(bell) = bell {
            bell.outbox.ready(bell.channel);
        }
    }

    /// Unlocks the state, and tells those who wait and the driver what became of it; the link is not told.
    fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let wakers = state.take_wakers();
        let moved = state.arm();
        drop(state);
        if moved {
            self.deadline_moved.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes an opened message.
    pub fn receive(&self, message: Bytes) -> Result<(), Notice> {
        let mut state = self.state();
        let result = state.mux.handle_message(Instant::now(), message);
        self.settle(state);
        result.map_err(|error| match error {
            MuxError::Protocol(_) => Notice::new(Code::Protocol, error.to_string()),
            MuxError::FlowControl(_) => Notice::new(Code::FlowControl, error.to_string()),
        })
    }

    /// Appends the next message to be sealed.
    pub fn transmit(&self, out: &mut BytesMut) -> Transmit {
        let mut state = self.state();
        let any = state.mux.poll_transmit(Instant::now(), out, MAX_PAYLOAD);
        let more = any && state.mux.has_transmit();
        // The link asks again by itself as long as there is more, and otherwise only when the next `settle` rings.
        state.rung = more;
        self.unlock(state);
        match (any, more) {
            (false, _) => Transmit::Nothing,
            (true, false) => Transmit::Last,
            (true, true) => Transmit::More,
        }
    }

    /// The tunnel is over: everybody who waits is told.
    pub fn end(&self, notice: Notice) {
        let mut state = self.state();
        state.over.get_or_insert(notice);
        let mut wakers: Vec<Waker> = state.acceptor.take().into_iter().collect();
        for (_, waiting) in state.waiting.drain() {
            wakers.extend(waiting.all());
        }
        drop(state);
        self.over.cancel();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Option<(StreamId, Bytes)>> {
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
    fn take_wakers(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(event) = self.mux.poll_event() {
            match event {
                Event::Opened { stream, details } => {
                    self.opened.push_back((stream, details));
                    wakers.extend(self.acceptor.take());
                }
                Event::Reset(stream) => {
                    wakers.extend(self.waiting.remove(&stream).into_iter().flat_map(Waiting::all));
                }
                Event::Readable(stream) => {
                    wakers.extend(self.waiting.get_mut(&stream).and_then(|waiting| waiting.reader.take()));
                }
                Event::Writable(stream) => {
                    wakers.extend(self.waiting.get_mut(&stream).and_then(|waiting| waiting.writer.take()));
                }
                Event::Resumed { .. } | Event::Closed(_) => {}
            }
        }
        wakers
    }

    /// Whether the driver waits for too late a time.
    fn arm(&mut self) -> bool {
        let deadline = self.mux.poll_timeout();
        let earlier = deadline.is_some_and(|deadline| self.armed.is_none_or(|armed| deadline < armed));
        if earlier {
            self.armed = deadline;
        }
        earlier
    }

    /// What the driver is to wait for now.
    pub fn rearm(&mut self) -> Option<Instant> {
        self.armed = self.mux.poll_timeout();
        self.armed
    }
}
