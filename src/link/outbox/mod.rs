//! The send queue of one link: control frames first, then the channels with byte fairness. The
//! link's task takes the next message only when the socket has room.
//!
//! A [`DrrScheduler`](report_proto::drr::DrrScheduler) decides which channel is next: a channel
//! that becomes ready after it had nothing to send goes first, for up to one quantum.
//!
//! No lock is held while a method of a channel end runs or a channel end is dropped.

mod state;
mod task_side;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};

use bytes::Bytes;
use tokio::sync::Notify;

pub(super) use self::state::Outgoing;
use self::state::{ChannelEntry, ControlFrame, OutboxState, close_message};
use super::{
    MemoryAccount,
    channel::{ChannelEnd, ChannelHandle, LinkId, OpenError},
};
use report_proto::frame::{Frame, Notice};

/// Bytes of queued answers above which the accepting end stops reading from the peer (PROTOCOL 12,
/// `ANSWERS_WAITING`).
pub(crate) const ANSWERS_WAITING: usize = 16 * 1024;

/// The sending side of a link. The channel ends, the role and the link's task share it.
pub struct Outbox {
    id: LinkId,
    state: Mutex<OutboxState>,
    /// Whether the link's task is handling received frames. Frames queued in this time count as
    /// answers.
    answering: AtomicBool,
    /// Bytes of queued answers, with their overhead. Changes under the lock.
    queued_answers: AtomicUsize,
    /// Bytes of DATA that were sent and received.
    moved: AtomicU64,
    /// The value of `moved` at which the waiting monitor is notified.
    awaited: AtomicU64,
    moved_enough: Notify,
    /// The account to which queued control frames are charged.
    account: Option<Arc<dyn MemoryAccount>>,
}

impl Outbox {
    /// Creates an outbox without channels.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Outbox::create(None)
    }

    /// Creates an outbox without channels that charges its queued control frames to `account`.
    #[must_use]
    pub fn with_account(account: Arc<dyn MemoryAccount>) -> Arc<Self> {
        Outbox::create(Some(account))
    }

    fn create(account: Option<Arc<dyn MemoryAccount>>) -> Arc<Self> {
        Arc::new(Outbox {
            id: LinkId::unique(),
            state: Mutex::default(),
            answering: AtomicBool::default(),
            queued_answers: AtomicUsize::default(),
            moved: AtomicU64::default(),
            awaited: AtomicU64::new(u64::MAX),
            moved_enough: Notify::new(),
            account,
        })
    }

    /// Returns the number of the link.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// Returns a handle of `channel`, whether it is open or not.
    #[must_use]
    pub fn handle(self: &Arc<Self>, channel: u32) -> Arc<dyn ChannelHandle> {
        Arc::new(OutboxChannel {
            outbox: Arc::clone(self),
            channel,
        })
    }

    /// Opens a channel with `channel_end` as its local end.
    ///
    /// # Errors
    /// The number is in use, or the link has ended. The channel end is dropped without a call.
    pub fn open(&self, channel: u32, channel_end: Arc<dyn ChannelEnd>) -> Result<(), OpenError> {
        let mut state = self.state();
        if let Some(notice) = &state.ended {
            return Err(OpenError::Ended(notice.clone()));
        }
        if state.channels.contains_key(&channel) {
            return Err(OpenError::InUse(channel));
        }
        let entry = ChannelEntry {
            channel_end,
            ready: false,
            paused: false,
            held: false,
            closing: None,
        };
        state.channels.insert(channel, entry);
        state.max_channels = state.max_channels.max(state.channels.len());
        Ok(())
    }

    /// Marks the end of `channel` ready: it may have something to send, and the link asks it in
    /// its turn. Cheap if it is marked already.
    pub fn ready(&self, channel: u32) {
        let mut state = self.state();
        state.mark_ready(channel);
        Self::wake(state);
    }

    /// Queues a control frame ahead of all DATA. The link ends with `limit` if the peer does not
    /// read and the queue grows too large.
    pub fn control(&self, frame: &Frame) {
        debug_assert!(
            !matches!(frame, Frame::Data { .. }),
            "DATA comes from channels"
        );
        // Encoded outside the lock.
        let message = frame.to_message();
        let mut state = self.state();
        self.queue(&mut state, message);
        Self::wake(state);
    }

    /// Closes a channel: queues CLOSE ahead of its unsent data, and drops its end without a further
    /// call. Does nothing if the channel is not open.
    pub fn close(&self, channel: u32, notice: &Notice) {
        let mut state = self.state();
        let entry = state.remove(channel);
        if entry.is_some() {
            self.queue(&mut state, close_message(channel, notice));
        }
        Self::wake(state);
        // Dropped after the lock: the drop of a channel end may call the outbox.
        drop(entry);
    }

    /// Closes a channel once its end has nothing more to send. From now on the link only calls
    /// [`ChannelEnd::transmit`] on it, until it returns `Transmit::Last` or `Transmit::Nothing`
    /// and was not marked ready in the meantime. CLOSE then follows its data, and the end
    /// is dropped. `Transmit::Held` postpones this until a rate limit admits the rest. Does nothing
    /// if the channel is not open.
    pub fn close_after_drain(&self, channel: u32, notice: &Notice) {
        let mut state = self.state();
        let Some(entry) = state.channels.get_mut(&channel) else {
            return;
        };
        entry.closing.get_or_insert_with(|| notice.clone());
        // An idle end may never be marked ready again, so it is checked here.
        let drained = self.close_if_drained(&mut state, channel);
        Self::wake(state);
        drop(drained);
    }

    /// Returns the end of an open channel.
    #[must_use]
    pub fn channel_end(&self, channel: u32) -> Option<Arc<dyn ChannelEnd>> {
        self.state()
            .channels
            .get(&channel)
            .map(|entry| entry.channel_end.clone())
    }

    /// Returns the number of open channels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().channels.len()
    }

    /// Whether no channel is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no channel is open or the link has ended. Supports one waiting task at a time.
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses nothing.
    pub async fn wait_until_empty(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.state();
            if state.channels.is_empty() {
                return Poll::Ready(());
            }
            state.empty_waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Returns the bytes of control frames that are queued because the peer does not read, with
    /// their overhead. A caller that queues more of them on behalf of another peer can stop before
    /// the link ends because of the limit.
    #[must_use]
    pub fn queued_control_bytes(&self) -> usize {
        self.state().queued_control
    }

    /// Returns how many bytes of DATA the link has sent and received. Cheap, and without a lock.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// Waits until the link has moved `bytes` more bytes of DATA. Supports one waiting task at a
    /// time. A thread that moves the last of them at the moment of the call may miss it, so the
    /// caller also needs a timer.
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses nothing.
    pub async fn wait_until_moved(&self, bytes: u64) {
        let enough = self.moved_enough.notified();
        self.awaited
            .store(self.moved_bytes().saturating_add(bytes), Relaxed);
        enough.await;
    }

    /// Requests that the link sends ERROR with this notice and ends. The first request counts.
    pub fn end(&self, notice: Notice) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.end_request.get_or_insert(notice);
        // Wakes the task even if it did not wait for work.
        state.task_waits = true;
        Self::wake(state);
    }

    /// Returns the notice with which the link has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Notice> {
        self.state().ended.clone()
    }

    /// Whether an end of the link was requested.
    #[cfg(test)]
    pub(crate) fn is_end_requested(&self) -> bool {
        self.state().end_request.is_some()
    }

    fn queue(&self, state: &mut OutboxState, message: Bytes) {
        let control = ControlFrame {
            message,
            is_answer: self.answering.load(Relaxed),
        };
        let (cost, is_answer) = (control.cost(), control.is_answer);
        if !state.queue(control) {
            return;
        }
        if is_answer {
            self.queued_answers.fetch_add(cost, Relaxed);
        }
        if let Some(account) = &self.account {
            account.charge(cost);
        }
    }

    /// Removes a draining channel that has nothing more to send, and queues its CLOSE.
    fn close_if_drained(&self, state: &mut OutboxState, channel: u32) -> Option<ChannelEntry> {
        let notice = state.drained(channel)?;
        self.queue(state, close_message(channel, &notice));
        state.remove(channel)
    }

    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the link's task if it waits and there is work for it.
    fn wake(mut state: MutexGuard<'_, OutboxState>) {
        let must_wake = state.task_waits && state.has_work();
        let task = if must_wake { state.task.clone() } else { None };
        // One wake-up is enough until the task asks again.
        state.task_waits &= !must_wake;
        // The waker runs without the lock: it may poll the task at once.
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// One channel of a link.
struct OutboxChannel {
    outbox: Arc<Outbox>,
    channel: u32,
}

impl ChannelHandle for OutboxChannel {
    fn link(&self) -> LinkId {
        self.outbox.id
    }

    fn ready(&self) {
        self.outbox.ready(self.channel);
    }

    fn close(&self, notice: &Notice) {
        self.outbox.close(self.channel, notice);
    }

    fn close_after_drain(&self, notice: &Notice) {
        self.outbox.close_after_drain(self.channel, notice);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Frames that were never sent are still charged.
        if let Some(account) = &self.account {
            account.refund(state.queued_control);
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        formatter
            .debug_struct("Outbox")
            .field("channels", &state.channels.len())
            .field("ended", &state.ended)
            .finish_non_exhaustive()
    }
}
