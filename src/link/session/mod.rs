//! Runs an established link: one task reads, dispatches, sends and drives the keep-alive.
//!
//! ```text
//!  running ──► end requested, violation: ERROR ──┐
//!     │                                          ├──► closing handshake ──► ended
//!     ├──────► cancelled, ERROR from the peer ───┘    (short deadline)        ▲
//!     └──────► timeout, connection lost, closed by the peer ──────────────────┘
//! ```
//!
//! Reading never waits for a channel. Both directions proceed in bounded batches, so neither
//! starves the other.

mod end_reason;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::{Instant, Sleep};
use tracing::info;

pub use self::end_reason::EndReason;
use super::{
    keep_alive::{KeepAlive, KeepAliveAction, KeepAliveTiming},
    outbox::Outbox,
};
use crate::{
    net::websocket::{MessageSocket, SocketEnd},
    suspend,
};
use report_proto::frame::{Code, Frame, Notice};

/// Bytes to read or to send before the other direction takes its turn: a few messages of 64 KiB.
const BATCH_BYTES: usize = 256 * 1024;

/// The cost of a message in a batch in addition to its bytes, so that small messages count as well.
const MESSAGE_COST: usize = 1024;

/// Batches of both directions in one poll, before other tasks run.
const BATCHES_PER_POLL: usize = 2;

/// Asks the kernel about the TCP connection after this long without an answer. By then the kernel
/// has retransmitted undelivered data several times.
const STUCK_AFTER: Duration = Duration::from_secs(4);

/// The longest time from the first part of a message to its last (PROTOCOL 12, `MESSAGE_TIMEOUT`).
pub(crate) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Receives the frames that the link does not handle itself. The link handles PING, PONG, PAUSE,
/// RESUME, DATA, CLOSE, ERROR and extensions.
pub trait Handler: Send {
    /// Handles a received frame. The link's task calls it, so it must not block.
    ///
    /// # Errors
    /// The notice with which to end the link.
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice>;
}

/// The result of [`Link::run`].
#[derive(Debug)]
pub struct LinkSummary {
    /// Why the link ended.
    pub reason: EndReason,
    /// For how long nothing had been sent or received before the end.
    pub idle: Duration,
    /// Whether the TCP connection was retransmitting the same bytes until the end. The peer may
    /// have timed out first.
    pub is_stuck: bool,
}

/// An authenticated link that is ready to run.
pub struct Link {
    socket: MessageSocket,
    outbox: Arc<Outbox>,
    timing: KeepAliveTiming,
    /// Returns the machine's total suspended time.
    suspended: fn() -> Duration,
}

impl Link {
    /// Creates a link over an authenticated socket.
    #[must_use]
    pub fn new(socket: MessageSocket, outbox: Arc<Outbox>, timing: KeepAliveTiming) -> Self {
        Link {
            socket,
            outbox,
            timing,
            suspended: suspend::suspended,
        }
    }

    /// Runs the link until it ends. On return all channel ends are closed and the socket is
    /// dropped. When `cancelled` completes, the link sends its queued control frames and closes the
    /// WebSocket gracefully.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the link and closes its channel ends with `peer_lost`.
    pub async fn run<H: Handler>(
        self,
        handler: &mut H,
        cancelled: impl Future<Output = ()>,
    ) -> LinkSummary {
        // Taken apart and put together here: a call would keep a second copy in the future.
        let Link {
            socket,
            outbox,
            timing,
            suspended,
        } = self;
        let now = Instant::now();
        let finish_on_drop = FinishOnDrop(outbox.clone());
        let mut driver = LinkDriver {
            socket,
            outbox,
            interval: timing.interval,
            keep_alive: KeepAlive::new(timing, now, suspended()),
            suspended,
            buffer: BytesMut::new(),
            flushed: true,
            received_other: false,
            ping_token: 0,
            ping_queued: false,
            trimmed_at: now,
            partial: PartialMessage::default(),
            is_stuck: false,
        };
        let mut timer = pin!(tokio::time::sleep_until(
            now + timing.interval.min(timing.timeout)
        ));
        let mut cancelled = pin!(cancelled);
        let reason = std::future::poll_fn(|context| {
            if cancelled.as_mut().poll(context).is_ready() {
                return Poll::Ready(EndReason::Cancelled);
            }
            driver.poll(context, handler, timer.as_mut())
        })
        .await;
        let summary = driver.finish(reason);
        // Boxed: the future of a running link does not reserve space for its end.
        Box::pin(driver.close_gracefully(&summary.reason)).await;
        drop(finish_on_drop);
        summary
    }
}

/// Closes the channel ends of a link whose future is dropped.
pub(crate) struct FinishOnDrop(pub(crate) Arc<Outbox>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        self.0
            .finish(&Notice::new(Code::PeerLost, "the link was cut here"));
    }
}

/// The state of a running link.
struct LinkDriver {
    socket: MessageSocket,
    outbox: Arc<Outbox>,
    /// The shortest time between two releases of idle buffers.
    interval: Duration,
    keep_alive: KeepAlive,
    suspended: fn() -> Duration,
    /// The buffer in which channel ends build payloads. Released from time to time.
    buffer: BytesMut,
    /// Whether the socket has written everything that it was given.
    flushed: bool,
    /// Whether a frame other than PING and PONG arrived since the keep-alive was last updated.
    received_other: bool,
    /// The token of the latest PING.
    ping_token: u64,
    /// Whether the latest PING is still in the outbox.
    ping_queued: bool,
    /// When idle buffers were last released.
    trimmed_at: Instant,
    partial: PartialMessage,
    /// Whether the TCP connection has delivered nothing for a while; see [`LinkSummary::is_stuck`].
    is_stuck: bool,
}

/// The accounting of a partially received message.
#[derive(Default)]
struct PartialMessage {
    /// The bytes that are charged for it.
    charged: usize,
    /// When the link first saw it.
    since: Option<Instant>,
    /// The number of complete messages at that time.
    messages: u64,
}

/// How a batch ended.
#[derive(PartialEq, Eq)]
enum BatchResult {
    /// The batch used up its budget: there may be more to do.
    BudgetUsed,
    /// Nothing more can be done until the task is woken.
    Blocked,
}

impl LinkDriver {
    fn poll<H: Handler>(
        &mut self,
        context: &mut Context<'_>,
        handler: &mut H,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<EndReason> {
        // One reading of the clocks is enough: the keep-alive works in seconds.
        let mut now = self.read_clocks();
        match self.transfer(context, handler, now) {
            Err(end) => return Poll::Ready(end),
            // Yield to other tasks, then continue.
            Ok(BatchResult::BudgetUsed) => context.waker().wake_by_ref(),
            Ok(BatchResult::Blocked) => {}
        }
        loop {
            match self.keep_alive.poll(now) {
                KeepAliveAction::TimedOut => {
                    return Poll::Ready(EndReason::TimedOut(self.keep_alive.silent_for(now)));
                }
                KeepAliveAction::SendPing => self.queue_ping(context),
                KeepAliveAction::Wait(until) => {
                    // A role may run on a machine that suspends, so it checks for that regularly. A
                    // master has many links and does not.
                    let is_role = self.socket.end() == SocketEnd::Dialled;
                    let until = if is_role {
                        until.min(now + suspend::CLOCK_CHECK_INTERVAL)
                    } else {
                        until
                    };
                    // Here the timer only moves to an earlier time. A timer that fires too early is
                    // set again below, so a message does not have to reset it.
                    if timer.deadline() > until {
                        timer.as_mut().reset(until);
                    }
                    if timer.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    now = self.read_clocks();
                    if until > now {
                        timer.as_mut().reset(until);
                    }
                    // Periodic work belongs here, where the timer bounds its rate.
                    self.release_idle_buffers(now);
                    self.check_connection(now);
                }
            }
        }
    }

    /// Summarizes the link, and closes its channel ends. They learn of the end before the closing
    /// handshake, which may take up to its deadline.
    fn finish(&mut self, reason: EndReason) -> LinkSummary {
        let idle = self.keep_alive.idle_for(Instant::now());
        // A link that ended for another reason says nothing about the path.
        let is_stuck = self.is_stuck
            && matches!(
                reason,
                EndReason::TimedOut(_) | EndReason::ConnectionLost(_) | EndReason::PeerClosed
            );
        self.outbox
            .adjust_charge(std::mem::take(&mut self.partial.charged), 0);
        self.outbox.finish(&reason.notice());
        LinkSummary {
            reason,
            idle,
            is_stuck,
        }
    }

    /// Asks the kernel about the TCP connection if an answer has been outstanding for long. Only a
    /// role does so: a master has many links, and cannot change their paths.
    fn check_connection(&mut self, now: Instant) {
        if self.socket.end() == SocketEnd::Dialled && self.keep_alive.reply_wait(now) >= STUCK_AFTER
        {
            self.is_stuck = self
                .socket
                .connection()
                .is_some_and(|connection| connection.is_stuck());
        }
    }

    /// Reads the clocks and reports a suspend to the keep-alive.
    fn read_clocks(&mut self) -> Instant {
        let now = Instant::now();
        let slept = self.keep_alive.on_clock(now, (self.suspended)());
        if let Some(slept) = slept.filter(|_| self.socket.end() == SocketEnd::Dialled) {
            info!(
                slept_s = slept.as_secs(),
                "machine was suspended, checking the link"
            );
        }
        now
    }

    fn queue_ping(&mut self, context: &mut Context<'_>) {
        // A PING that still waits in the outbox serves for this one: PINGs must not pile up for a
        // peer that does not read.
        if !std::mem::replace(&mut self.ping_queued, true) {
            self.ping_token = self.ping_token.wrapping_add(1);
            self.outbox.control(&Frame::Ping(self.ping_token));
            context.waker().wake_by_ref();
        }
    }

    fn release_idle_buffers(&mut self, now: Instant) {
        if now.saturating_duration_since(self.trimmed_at) >= self.interval {
            self.trimmed_at = now;
            self.socket.release_idle_buffers();
            self.buffer = BytesMut::new();
        }
    }

    /// Reads and writes in alternating batches, and updates the keep-alive.
    fn transfer<H: Handler>(
        &mut self,
        context: &mut Context<'_>,
        handler: &mut H,
        now: Instant,
    ) -> Result<BatchResult, EndReason> {
        for _ in 0..BATCHES_PER_POLL {
            if let Some(notice) = self.outbox.register_task(context.waker()) {
                return Err(EndReason::Requested(notice));
            }
            // Control frames that the handler queues during the read count as answers to the peer,
            // which limits them.
            self.outbox.set_answering(true);
            let read = self.read(context, handler);
            self.outbox.set_answering(false);
            let read = read?;
            self.check_partial_message(now)?;
            self.update_keep_alive(now);
            let was_backlogged = self.has_answer_backlog();
            let written = self.write(context, now)?;
            // A backlog made the read return without registering a waker. If the write reduced it,
            // the loop has to read again.
            let is_readable_again = was_backlogged && !self.has_answer_backlog();
            if read == BatchResult::Blocked && written == BatchResult::Blocked && !is_readable_again
            {
                return Ok(BatchResult::Blocked);
            }
        }
        Ok(BatchResult::BudgetUsed)
    }

    /// Reports the received data to the keep-alive.
    fn update_keep_alive(&mut self, now: Instant) {
        let activity = self.socket.take_activity();
        let received_other = std::mem::take(&mut self.received_other);
        if activity.any || received_other {
            self.keep_alive
                .on_received(now, activity.long || received_other);
        }
    }
}
