//! A link that is up: one task reads, dispatches, sends and keeps the heartbeat.
//!
//! ```text
//!  running ──► asked, violated: ERROR ─┐
//!     │                                ├──► closing handshake (short deadline) ──► ended
//!     ├──────► cancelled, peer's ERROR ┘                                            ▲
//!     └──────► silent, cut, closed by the peer ─────────────────────────────────────┘
//! ```
//!
//! Reading never waits for a lane, and neither direction starves the other: both go on in bounded batches.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, Sleep};
use tracing::info;

use super::{
    channel::{Body, Outbox},
    heartbeat::{Beat, Heartbeat, Said, Timing},
    outbox::Outgoing,
    websocket::{End, MessageSocket, SocketError},
};
use crate::{
    frame::{self, Code, Frame, Notice},
    suspend,
};

/// What is read, and what is sent, before the other direction has its turn, in bytes: some messages of 64 KiB.
const BATCH: usize = 256 * 1024;

/// What a message counts in a batch beside its bytes, so that small ones count too.
const MESSAGE_COST: usize = 1024;

/// Batches of both directions before other tasks have their turn.
const BATCHES: usize = 2;

/// How long a link that ends waits for its last frames to leave and for the peer to close as well.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// After this long without an answer the kernel has sent again several times what the path does not deliver.
const STUCK_AFTER: Duration = Duration::from_secs(4);

/// How long a message may take from its first part to its last (PROTOCOL 12, `MESSAGE_TIMEOUT`).
pub(crate) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of an unfinished message that are neither charged nor have a deadline: every socket reads that much at a time.
const UNCHARGED: usize = 4 * 1024;

/// Takes the frames that the link does not handle itself: it does PING, PONG, PAUSE, RESUME, DATA, CLOSE, ERROR and extensions.
pub trait Handler: Send {
    /// A frame arrived. Called from the link's task: it must not block.
    ///
    /// # Errors
    /// The notice with which the link is to end.
    fn frame(&mut self, frame: Frame) -> Result<(), Notice>;
}

/// Why a link ended.
#[derive(Debug)]
pub enum LinkEnd {
    /// This side was told to stop.
    Cancelled,
    /// This side asked for it with [`Outbox::end`], or its [`Handler`] did.
    Asked(Notice),
    /// The peer broke the protocol, and was told so.
    Violated(Notice),
    /// The peer sent ERROR.
    PeerError(Notice),
    /// The peer closed the WebSocket in order.
    PeerClosed,
    /// The peer was silent for so long, which is too long (PROTOCOL 6.2).
    Silent(Duration),
    /// The connection is gone.
    Lost(SocketError),
}

impl LinkEnd {
    /// What the lanes are told.
    #[must_use]
    pub fn notice(&self) -> Notice {
        match self {
            LinkEnd::Cancelled => Notice::new(Code::Shutdown, "the link was closed here"),
            LinkEnd::Asked(notice) | LinkEnd::Violated(notice) | LinkEnd::PeerError(notice) => {
                notice.clone()
            }
            LinkEnd::PeerClosed => Notice::new(Code::PeerLost, "the peer closed the link"),
            LinkEnd::Silent(_) => Notice::new(Code::Timeout, self.to_string()),
            LinkEnd::Lost(error) => Notice::new(Code::PeerLost, error.to_string()),
        }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkEnd::Cancelled => formatter.write_str("closed here"),
            LinkEnd::Asked(notice) => write!(formatter, "ended here ({notice})"),
            LinkEnd::Violated(notice) => {
                write!(formatter, "the peer broke the protocol ({notice})")
            }
            LinkEnd::PeerError(notice) => write!(formatter, "the peer ended it ({notice})"),
            LinkEnd::PeerClosed => formatter.write_str("the peer closed it"),
            LinkEnd::Silent(silence) => write!(
                formatter,
                "nothing was received for {:.1} s",
                silence.as_secs_f32()
            ),
            LinkEnd::Lost(error) => error.fmt(formatter),
        }
    }
}

/// How a link ended.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub why: LinkEnd,
    /// For how long nothing had been sent or received then.
    pub idle: Duration,
    /// Whether it was silent until then because its TCP connection sent the same bytes again and again. The other end may have noticed first.
    pub is_stuck: bool,
}

/// A link after its authentication.
pub struct Link {
    socket: MessageSocket,
    outbox: Arc<Outbox>,
    timing: Timing,
    /// Says how long the machine has been suspended in total.
    suspended: fn() -> Duration,
}

impl Link {
    /// A link over an authenticated socket.
    #[must_use]
    pub fn new(socket: MessageSocket, outbox: Arc<Outbox>, timing: Timing) -> Self {
        Link {
            socket,
            outbox,
            timing,
            suspended: suspend::suspended,
        }
    }

    /// Runs the link until it ends. Then every lane that is left has been closed, and the socket is gone. When `cancelled` is over, the
    /// control frames that wait are still sent, and the WebSocket is closed in order.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the link; its lanes are closed with `peer_lost`.
    pub async fn run<H: Handler>(
        self,
        handler: &mut H,
        cancelled: impl Future<Output = ()>,
    ) -> Ended {
        let Link {
            socket,
            outbox,
            timing,
            suspended,
        } = self;
        let now = Instant::now();
        let last = FinishOnDrop(outbox.clone());
        let mut running = Running {
            socket,
            outbox,
            interval: timing.interval,
            heartbeat: Heartbeat::new(timing, now, suspended()),
            suspended,
            memory: BytesMut::new(),
            flushed: true,
            answerable: false,
            pings: 0,
            ping_waits: false,
            rested: now,
            unfinished: Unfinished::default(),
            is_stuck: false,
        };
        let mut timer = pin!(tokio::time::sleep_until(
            now + timing.interval.min(timing.timeout)
        ));
        let mut cancelled = pin!(cancelled);
        let why = std::future::poll_fn(|context| {
            if cancelled.as_mut().poll(context).is_ready() {
                return Poll::Ready(LinkEnd::Cancelled);
            }
            running.poll(context, handler, timer.as_mut())
        })
        .await;
        let idle = running.heartbeat.idle(Instant::now());
        let is_stuck = running.is_stuck
            && matches!(
                why,
                LinkEnd::Silent(_) | LinkEnd::Lost(_) | LinkEnd::PeerClosed
            );
        running
            .outbox
            .recharge(std::mem::take(&mut running.unfinished.charged), 0);
        running.outbox.finish(&why.notice());
        Box::pin(running.goodbye(&why)).await;
        drop(last);
        Ended {
            why,
            idle,
            is_stuck,
        }
    }
}

/// Closes the lanes of a link whose future was dropped.
pub(super) struct FinishOnDrop(pub Arc<Outbox>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        self.0
            .finish(&Notice::new(Code::PeerLost, "the link was cut here"));
    }
}

struct Running {
    socket: MessageSocket,
    outbox: Arc<Outbox>,
    /// How often the socket is to rest at most.
    interval: Duration,
    heartbeat: Heartbeat,
    suspended: fn() -> Duration,
    /// Where payloads are made; let go of now and then.
    memory: BytesMut,
    /// Whether everything that was given to the socket has left it.
    flushed: bool,
    /// Whether a frame other than PING and PONG has come that the heartbeat has not been told of.
    answerable: bool,
    /// Counts PINGs: their tokens.
    pings: u64,
    /// Whether the last PING has not been given to the socket: one is enough.
    ping_waits: bool,
    /// When the socket last rested.
    rested: Instant,
    unfinished: Unfinished,
    /// Whether the TCP connection has not delivered for a while; see [`Ended::is_stuck`].
    is_stuck: bool,
}

/// A message of which a part has come.
#[derive(Default)]
struct Unfinished {
    /// Its bytes, as charged.
    charged: usize,
    /// When it was first seen.
    since: Option<Instant>,
    /// How many messages had been finished then.
    messages: u64,
}

/// How a batch ended.
#[derive(PartialEq, Eq)]
enum Batch {
    /// There is more to do.
    Full,
    /// Nothing more can be done before the task is woken.
    Done,
}

impl Running {
    fn poll<H: Handler>(
        &mut self,
        context: &mut Context<'_>,
        handler: &mut H,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<LinkEnd> {
        // One look at the clocks: the heartbeat is about seconds.
        let mut now = self.look();
        match self.advance(context, handler, now) {
            Err(end) => return Poll::Ready(end),
            Ok(Batch::Full) => context.waker().wake_by_ref(),
            Ok(Batch::Done) => {}
        }
        loop {
            match self.heartbeat.due(now) {
                Beat::Silent => return Poll::Ready(LinkEnd::Silent(self.heartbeat.silence(now))),
                Beat::Ping => self.ping(context),
                Beat::Wait(until) => {
                    // A role may be on a machine that sleeps, and looks whether it did; a master has many links and need not.
                    let is_role = self.socket.end() == End::Dialled;
                    let until = if is_role {
                        until.min(now + suspend::LOOK)
                    } else {
                        until
                    };
                    // The timer is only ever set nearer here, and one that fires early finds out when to fire next: it is not set again for
                    // each message.
                    if timer.deadline() > until {
                        timer.as_mut().reset(until);
                    }
                    if timer.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    now = self.look();
                    if until > now {
                        timer.as_mut().reset(until);
                    }
                    self.rest(now);
                    self.look_below(now);
                }
            }
        }
    }

    /// Asks the kernel about a connection that has not brought an answer for long. Only a role does: a master has many links, and can do nothing about
    /// their paths.
    fn look_below(&mut self, now: Instant) {
        if self.socket.end() == End::Dialled && self.heartbeat.waiting(now) >= STUCK_AFTER {
            self.is_stuck = self
                .socket
                .connection()
                .is_some_and(|connection| connection.is_stuck());
        }
    }

    /// Reads the clocks.
    fn look(&mut self) -> Instant {
        let now = Instant::now();
        let slept = self.heartbeat.look(now, (self.suspended)());
        if let Some(slept) = slept.filter(|_| self.socket.end() == End::Dialled) {
            info!(
                slept_s = slept.as_secs(),
                "the machine was suspended: the master has to answer soon"
            );
        }
        now
    }

    fn ping(&mut self, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.ping_waits, true) {
            self.pings = self.pings.wrapping_add(1);
            self.outbox.control(&Frame::Ping(self.pings));
            context.waker().wake_by_ref();
        }
    }

    fn rest(&mut self, now: Instant) {
        if now.saturating_duration_since(self.rested) >= self.interval {
            self.rested = now;
            self.socket.rest();
            self.memory = BytesMut::new();
        }
    }

    fn advance<H: Handler>(
        &mut self,
        context: &mut Context<'_>,
        handler: &mut H,
        now: Instant,
    ) -> Result<Batch, LinkEnd> {
        for _ in 0..BATCHES {
            if let Some(notice) = self.outbox.attend(context.waker()) {
                return Err(LinkEnd::Asked(notice));
            }
            self.outbox.set_answering(true);
            let read = self.read(context, handler);
            self.outbox.set_answering(false);
            let read = read?;
            self.check_unfinished(now)?;
            self.listen(now);
            let was_clogged = self.is_clogged();
            let written = self.write(context, now)?;
            // A read that was left out has not asked to be woken.
            let is_readable_again = was_clogged && !self.is_clogged();
            if read == Batch::Done && written == Batch::Done && !is_readable_again {
                return Ok(Batch::Done);
            }
        }
        Ok(Batch::Full)
    }

    /// Tells the heartbeat what has come.
    fn listen(&mut self, now: Instant) {
        let heard = self.socket.take_heard();
        let answerable = std::mem::take(&mut self.answerable);
        if heard.any || answerable {
            self.heartbeat.received(now, heard.long || answerable);
        }
    }

    fn read<H: Handler>(
        &mut self,
        context: &mut Context<'_>,
        handler: &mut H,
    ) -> Result<Batch, LinkEnd> {
        let mut budget = BATCH;
        while budget > 0 {
            if self.is_clogged() {
                return Ok(Batch::Done);
            }
            match self.socket.poll_receive(context) {
                Poll::Pending => return Ok(Batch::Done),
                Poll::Ready(None) => return Err(LinkEnd::PeerClosed),
                Poll::Ready(Some(Ok(message))) => {
                    budget = budget.saturating_sub(message.len() + MESSAGE_COST);
                    self.dispatch(message, handler)?;
                }
                Poll::Ready(Some(Err(error))) if error.is_violation() => {
                    return Err(LinkEnd::Violated(Notice::new(
                        Code::Protocol,
                        error.to_string(),
                    )));
                }
                Poll::Ready(Some(Err(error))) => return Err(LinkEnd::Lost(error)),
            }
        }
        Ok(Batch::Full)
    }

    /// Whether the peer leaves its answers unread, so that nothing more is read from it. The dialling end reads on: two ends that both stopped would wait
    /// for each other.
    fn is_clogged(&self) -> bool {
        self.socket.end() == End::Accepted && self.outbox.is_clogged()
    }

    /// Charges a message of which a part has come, and ends the link when the rest stays away (PROTOCOL 6.2).
    fn check_unfinished(&mut self, now: Instant) -> Result<(), LinkEnd> {
        let Unfinished {
            charged,
            since,
            messages,
        } = &mut self.unfinished;
        let held = self.socket.unfinished_bytes();
        let now_charged = if held > UNCHARGED { held } else { 0 };
        if now_charged != *charged {
            self.outbox
                .recharge(std::mem::replace(charged, now_charged), now_charged);
        }
        let finished = self.socket.messages();
        if *charged == 0 || finished != *messages {
            (*since, *messages) = (None, finished);
        }
        let is_late = *charged > 0
            && now.saturating_duration_since(*since.get_or_insert(now)) >= MESSAGE_TIMEOUT;
        // A role waits: its path may be slow, and its master is not a stranger.
        if is_late && self.socket.end() == End::Accepted {
            return Err(LinkEnd::Asked(Notice::new(
                Code::Timeout,
                "a message was not complete in time",
            )));
        }
        Ok(())
    }

    fn dispatch<H: Handler>(
        &mut self,
        mut message: BytesMut,
        handler: &mut H,
    ) -> Result<(), LinkEnd> {
        if let Some(channel) = frame::data_channel(&message) {
            message.advance(frame::DATA_HEADER);
            self.deliver(channel, message);
            return Ok(());
        }
        let frame = Frame::decode(message.freeze())
            .map_err(|error| LinkEnd::Violated(Notice::new(Code::Protocol, error.to_string())))?;
        self.answerable |= !matches!(frame, Frame::Ping(_) | Frame::Pong(_));
        match frame {
            // Delivered above, without a look at what else it might have been.
            Frame::Data { .. } => {}
            Frame::Close { channel, notice } => self.outbox.closed_by_peer(channel, notice),
            Frame::Pause(channel) => self.outbox.paused_by_peer(channel, true),
            Frame::Resume(channel) => self.outbox.paused_by_peer(channel, false),
            Frame::Ping(token) => self.outbox.pong(token),
            Frame::Pong(token) if token == self.pings => {
                self.heartbeat.ponged();
                // Everything before the PING has arrived. What else comes of the peer says nothing of that.
                self.is_stuck = false;
            }
            Frame::Pong(_) | Frame::Extension(_) => {}
            Frame::Error(notice) => return Err(LinkEnd::PeerError(notice)),
            other => handler.frame(other).map_err(LinkEnd::Asked)?,
        }
        Ok(())
    }

    fn deliver(&mut self, channel: u32, payload: BytesMut) {
        self.answerable = true;
        let Some(lane) = self.outbox.receiver(channel) else {
            return;
        };
        match lane.receive(payload) {
            // Payloads come where somebody has answered.
            Ok(()) => self.socket.read_largely(),
            Err(notice) => self.outbox.close(channel, &notice),
        }
    }

    fn write(&mut self, context: &mut Context<'_>, now: Instant) -> Result<Batch, LinkEnd> {
        // What could not be flushed goes first: until it has left, nothing is taken from the outbox, so that the order stays open.
        if !self.flushed
            && self
                .socket
                .poll_flush(context)
                .map_err(LinkEnd::Lost)?
                .is_pending()
        {
            self.heartbeat.wanted(now);
            return Ok(Batch::Done);
        }
        self.flushed = true;
        let mut budget = BATCH;
        let mut batch = Batch::Full;
        let mut said = Said::Pong;
        while budget > 0 {
            if self
                .socket
                .poll_ready(context)
                .map_err(LinkEnd::Lost)?
                .is_pending()
            {
                batch = Batch::Done;
                break;
            }
            let Some(outgoing) = self.outbox.next(&mut self.memory) else {
                batch = Batch::Done;
                self.flushed = self
                    .socket
                    .poll_flush(context)
                    .map_err(LinkEnd::Lost)?
                    .is_ready();
                break;
            };
            self.flushed = false;
            let sent = match outgoing {
                Outgoing::Control(message) => {
                    said = said.max(self.kind(&message));
                    budget = budget.saturating_sub(message.len() + MESSAGE_COST);
                    self.socket.start_send(&[], Body::Shared(message))
                }
                Outgoing::Data(channel, payload) => {
                    said = Said::Other;
                    budget = budget.saturating_sub(payload.len() + MESSAGE_COST);
                    self.socket
                        .start_send(&frame::data_header(channel), payload)
                }
            };
            sent.map_err(LinkEnd::Lost)?;
        }
        if budget < BATCH {
            self.heartbeat.sent(now, said);
        }
        Ok(batch)
    }

    /// What the message is to the heartbeat; it is about to leave.
    fn kind(&mut self, message: &[u8]) -> Said {
        if frame::is_ping(message) {
            self.ping_waits = false;
            Said::Ping
        } else if frame::is_pong(message) {
            Said::Pong
        } else {
            Said::Other
        }
    }

    /// Sends what the peer should still hear, and closes in order where somebody is there to answer.
    async fn goodbye(mut self, end: &LinkEnd) {
        // It is charged to nobody any more.
        self.socket.discard();
        let error = match end {
            LinkEnd::Silent(_) | LinkEnd::Lost(_) => return,
            LinkEnd::Asked(notice) | LinkEnd::Violated(notice) => {
                Some(Frame::Error(notice.clone()).to_message())
            }
            LinkEnd::Cancelled | LinkEnd::PeerError(_) | LinkEnd::PeerClosed => None,
        };
        let deadline = Instant::now() + CLOSE_DEADLINE;
        if !matches!(end, LinkEnd::PeerClosed) {
            match tokio::time::timeout_at(deadline, self.last_frames(error)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
        self.socket
            .close(deadline.saturating_duration_since(Instant::now()))
            .await;
    }

    async fn last_frames(&mut self, error: Option<Bytes>) -> Result<(), SocketError> {
        while let Some(message) = self.outbox.next_control() {
            self.socket.feed(message).await?;
        }
        match error {
            Some(error) => self.socket.feed(error).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
