//! One port of the client: sees to it that there is a tunnel, and that what carries it is the newest link. A tunnel that lost its link is asked for
//! again on the next one; where that takes too long, a new tunnel is asked for beside it (PROTOCOL 10.8).
//!
//! ```text
//!  a link begins ──► every tunnel is wished for there; a new one, when there is none
//!  a tunnel is lost, or its peer asks to move ──► the same, on the newest link that stands
//!  not back within a second ──► a new tunnel too; what comes of it tells whether the old one's server is gone
//! ```

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::{
    frame::{AttachHeader, Code, Frame, Notice},
    link::{Outbox, backoff::Backoff},
    tunnel::{
        PortParameters, ResetCode, Standing, Tunnel,
        attach::{self, AttachError, Wish},
    },
};

/// The first wait before a wish that failed is made again; most of the time the server went, and the next one waits at the master until it is
/// back.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// A tunnel that is not back after this long is not waited for alone (PROTOCOL 12, `RESUME_PATIENCE`).
const RESUME_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether a tunnel that takes no new streams has any left.
const EMPTY_CHECK: Duration = Duration::from_secs(5);

/// A link of the client, as its ports use it.
#[derive(Clone)]
pub struct PortLink {
    outbox: Arc<Outbox>,
    /// Counts links: the newest has the largest.
    number: u64,
    /// The next channel number.
    channels: Arc<AtomicU32>,
}

impl PortLink {
    /// A link that is being established.
    pub fn new(outbox: &Arc<Outbox>) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        PortLink { outbox: Arc::clone(outbox), number, channels: Arc::default() }
    }

    fn is_over(&self) -> bool {
        self.outbox.ended().is_some()
    }

    fn next_channel(&self) -> u32 {
        self.channels.fetch_add(1, Ordering::Relaxed)
    }
}

/// A port of the client.
pub struct Port {
    pub parameters: PortParameters,
    state: Mutex<State>,
    /// The tunnel that takes new streams, while something carries it.
    ready: watch::Sender<Option<Tunnel>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Links that stand or begin, the newest last.
    links: Vec<(PortLink, IsUp)>,
    /// Tunnels that are not over; the last one takes new streams.
    tunnels: Vec<Held>,
    /// The channel on which a new tunnel is wished for.
    new_wish: Option<(PortLink, u32)>,
    /// The client ends: nothing is wished for any more.
    is_ending: bool,
}

type IsUp = bool;

struct Held {
    tunnel: Tunnel,
    /// The numbers of the links on which it is wished for.
    wished_on: Vec<u64>,
}

/// What a tunnel is to be attached again for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The newest link does not carry it.
    AnotherLink,
    /// The server's link is to be closed: the newest link has to carry it by a new channel.
    AnotherChannel,
}

type Outcome = oneshot::Receiver<Result<attach::Outcome, AttachError>>;

/// A wish that has been put to a link.
struct Wished {
    frame: Frame,
    outcome: Outcome,
    link: PortLink,
}

impl Port {
    /// A port without a tunnel. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub fn new(parameters: PortParameters, tasks: &TaskTracker, stop: &CancellationToken) -> Arc<Self> {
        Arc::new(Port {
            parameters,
            state: Mutex::default(),
            ready: watch::Sender::new(None),
            tasks: tasks.clone(),
            stop: stop.clone(),
        })
    }

    /// The port's tunnel, when something carries it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn tunnel(&self) -> Tunnel {
        let mut ready = self.ready.subscribe();
        loop {
            let live = ready.borrow_and_update().clone().filter(|tunnel| tunnel.notice().is_none());
            if let Some(tunnel) = live {
                return tunnel;
            }
            if ready.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Whether something carries the port's tunnel through this link.
    pub fn is_attached_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.state().tunnels.iter().any(|held| held.tunnel.is_attached_through(outbox))
    }

    /// A link is being established: what is to be sent in its first flight.
    pub fn link_begins(self: &Arc<Self>, link: &PortLink) -> Vec<Frame> {
        let mut state = self.state();
        state.links.retain(|(link, _)| !link.is_over());
        state.links.push((link.clone(), false));
        if state.is_ending {
            return Vec::new();
        }
        let tunnels: Vec<Tunnel> = state.tunnels.iter().map(|held| held.tunnel.clone()).collect();
        if tunnels.is_empty() {
            return self.wish_for_new(&mut state, link).into_iter().collect();
        }
        let frames = tunnels.iter().filter_map(|tunnel| self.wish_again(&mut state, tunnel, link)).collect();
        drop(state);
        self.lose_patience();
        frames
    }

    /// The link stands.
    pub fn link_stands(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        for (_, is_up) in state.links.iter_mut().filter(|(link, _)| Arc::ptr_eq(&link.outbox, outbox)) {
            *is_up = true;
        }
        let tunnels: Vec<Tunnel> = state.tunnels.iter().map(|held| held.tunnel.clone()).collect();
        drop(state);
        tunnels.iter().for_each(|tunnel| self.attach_again(tunnel, Need::AnotherLink));
        self.have_one();
    }

    /// The client ends: its tunnels too, and the other ends hear of it. Waits until they have been told.
    pub async fn end(&self) {
        let tunnels: Vec<Tunnel> = {
            let mut state = self.state();
            state.is_ending = true;
            state.tunnels.iter().map(|held| held.tunnel.clone()).collect()
        };
        for tunnel in &tunnels {
            tunnel.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, "the client ends"));
        }
        for tunnel in &tunnels {
            tunnel.ended().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until it is over or everything stops.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let span = info_span!(parent: None, "tunnel", port = %self.parameters.mark);
        let stop = self.stop.clone();
        self.tasks.spawn(
            async move {
                tokio::select! { () = task => {}, () = stop.cancelled() => {} }
            }
            .instrument(span),
        );
    }

    /// Wishes for a new tunnel; its outcome is followed.
    fn wish_for_new(self: &Arc<Self>, state: &mut State, link: &PortLink) -> Option<Frame> {
        let channel = link.next_channel();
        let wish = attach::wish(&self.parameters, &link.outbox, channel, &self.tasks);
        let Wished { frame, outcome, link } = self.put(wish, link, channel, None)?;
        state.new_wish = Some((link.clone(), channel));
        let port = Arc::clone(self);
        self.spawn(async move { port.follow_new(outcome, link, channel).await });
        Some(frame)
    }

    /// Wishes for a tunnel to go on; the outcome is followed.
    fn wish_again(self: &Arc<Self>, state: &mut State, tunnel: &Tunnel, link: &PortLink) -> Option<Frame> {
        let held = state.tunnels.iter_mut().find(|held| held.tunnel.id() == tunnel.id())?;
        let channel = link.next_channel();
        let wish = attach::wish_again(tunnel, tunnel.is_attached(), &link.outbox, channel, &self.tasks);
        let Wished { frame, outcome, link } = self.put(wish, link, channel, Some(tunnel))?;
        held.wished_on.push(link.number);
        let (port, tunnel) = (Arc::clone(self), tunnel.clone());
        self.spawn(async move { port.follow_again(&tunnel, outcome, &link).await });
        Some(frame)
    }

    /// Opens the channel of a wish. Fails when the link has ended; then the next one begins anew.
    fn put(&self, wish: Result<Wish, AttachError>, link: &PortLink, channel: u32, tunnel: Option<&Tunnel>) -> Option<Wished> {
        let wish = wish.inspect_err(|error| error!("cannot begin an attachment: {error}")).ok()?;
        link.outbox.open(channel, wish.lane).ok()?;
        let header = AttachHeader { port: self.parameters.keys.id, instance: tunnel.map(Tunnel::instance) };
        let frame = Frame::Attach { channel, header, message: wish.message };
        Some(Wished { frame, outcome: wish.outcome, link: link.clone() })
    }

    async fn follow_new(self: Arc<Self>, mut outcome: Outcome, link: PortLink, mut channel: u32) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let wait = match (&mut outcome).await {
                Ok(Ok(attach::Outcome::New(tunnel, age))) => {
                    self.forget_new_wish(&link, channel);
                    return self.adopt(tunnel, age);
                }
                Ok(Ok(attach::Outcome::Resumed)) | Err(_) => return self.forget_new_wish(&link, channel),
                Ok(Err(error)) => {
                    log_failure(&error);
                    if error.is_retryable() { backoff.next_wait() } else { LONGEST_WAIT }
                }
            };
            if link.is_over() {
                return self.forget_new_wish(&link, channel);
            }
            tokio::time::sleep(wait).await;
            let mut state = self.state();
            let is_this = |(on, wished): &(PortLink, u32)| on.number == link.number && *wished == channel;
            if state.is_ending || !state.new_wish.as_ref().is_some_and(is_this) {
                return;
            }
            channel = link.next_channel();
            let wish = attach::wish(&self.parameters, &link.outbox, channel, &self.tasks);
            let Some(wished) = self.put(wish, &link, channel, None) else {
                state.new_wish = None;
                return;
            };
            state.new_wish = Some((link.clone(), channel));
            drop(state);
            link.outbox.control(&wished.frame);
            outcome = wished.outcome;
        }
    }

    async fn follow_again(self: Arc<Self>, tunnel: &Tunnel, outcome: Outcome, link: &PortLink) {
        let outcome = outcome.await;
        if let Some(held) = self.state().tunnels.iter_mut().find(|held| held.tunnel.id() == tunnel.id()) {
            held.wished_on.retain(|&number| number != link.number);
        }
        match outcome {
            Ok(Ok(attach::Outcome::Resumed)) => return,
            Ok(Ok(attach::Outcome::New(new, age))) if new.instance() != tunnel.instance() => {
                // Not the process that was asked for: what it does not know says nothing of the tunnel.
                self.adopt(new, age);
                tokio::time::sleep(RESUME_PATIENCE).await;
                return self.attach_again(tunnel, Need::AnotherLink);
            }
            Ok(Ok(attach::Outcome::New(new, age))) => {
                warn!(tunnel = %tunnel.id(), "the server does not know the tunnel any more: its connections are reset");
                tunnel.end(ResetCode::Cancelled, Notice::new(Code::PeerLost, "the server does not know the tunnel any more"));
                return self.adopt(new, age);
            }
            Ok(Err(error)) if link.is_over() => return debug!("not attached again: {error}"),
            Ok(Err(error)) => log_failure(&error),
            Err(_) => {}
        }
        if !link.is_over() {
            tokio::time::sleep(FIRST_WAIT.mul_f64(fastrand::f64())).await;
            self.attach_again(tunnel, Need::AnotherLink);
        }
    }
}

/// Tunnels.
impl Port {
    /// Takes a new tunnel in.
    fn adopt(self: &Arc<Self>, tunnel: Tunnel, age: Duration) {
        let mut state = self.state();
        let needless = state.is_ending || state.tunnels.last().is_some_and(|held| held.tunnel.is_attached());
        let older: Vec<Tunnel> = state.tunnels.iter().map(|held| held.tunnel.clone()).collect();
        if !needless {
            state.tunnels.push(Held { tunnel: tunnel.clone(), wished_on: Vec::new() });
        }
        drop(state);
        if needless {
            return tunnel.end(ResetCode::Cancelled, Notice::new(Code::Cancelled, "the tunnel before is back"));
        }
        info!(tunnel = %tunnel.id(), "attached to a server");
        older.iter().for_each(|older| give_up_if_replaced(older, &tunnel, age));
        let port = Arc::clone(self);
        self.spawn(async move { port.mind(tunnel).await });
    }

    /// Minds a tunnel until it is over.
    async fn mind(self: Arc<Self>, tunnel: Tunnel) {
        let begun = Instant::now();
        let _over_at_last = EndOnDrop(tunnel.clone());
        let (mut standing, mut asked) = (tunnel.standing(), tunnel.asked_to_move());
        let mut checks = tokio::time::interval(EMPTY_CHECK);
        loop {
            let now = standing.borrow_and_update().clone();
            self.tell_ready();
            match now {
                Standing::Over => break,
                Standing::Attached => self.forget_wish_of_new(&tunnel),
                Standing::Lost { why, .. } => {
                    // An altered or nonsensical message could come again at once, and again.
                    if matches!(why.code, Code::Seal | Code::Protocol | Code::FlowControl | Code::Handshake) {
                        tokio::time::sleep(RESUME_PATIENCE).await;
                    }
                    self.attach_again(&tunnel, Need::AnotherLink);
                    self.lose_patience();
                }
                Standing::Begun => {}
            }
            tokio::select! {
                changed = standing.changed() => if changed.is_err() { break },
                changed = asked.changed() => if changed.is_ok() { self.attach_again(&tunnel, Need::AnotherChannel) },
                _ = checks.tick() => self.end_if_empty(&tunnel),
            }
        }
        let why = tunnel.notice().map(|notice| notice.to_string()).unwrap_or_default();
        warn!(tunnel = %tunnel.id(), lived_s = begun.elapsed().as_secs(), "the tunnel is over: {why}");
        self.removed(&tunnel);
    }

    /// The tunnel is over: there has to be another one.
    fn removed(self: &Arc<Self>, tunnel: &Tunnel) {
        let mut state = self.state();
        state.tunnels.retain(|held| held.tunnel.id() != tunnel.id());
        drop(state);
        self.tell_ready();
        self.have_one();
    }

    /// Wishes for a tunnel when there is none.
    fn have_one(self: &Arc<Self>) {
        let mut state = self.state();
        let is_needed = state.tunnels.is_empty() && state.new_wish.is_none() && !state.is_ending;
        let Some(link) = state.newest_up().filter(|_| is_needed) else { return };
        let frame = self.wish_for_new(&mut state, &link);
        drop(state);
        if let Some(frame) = frame {
            link.outbox.control(&frame);
        }
    }

    /// Sees to it that the newest link carries the tunnel.
    fn attach_again(self: &Arc<Self>, tunnel: &Tunnel, need: Need) {
        let mut state = self.state();
        let Some(link) = state.newest_up().filter(|_| !state.is_ending && tunnel.notice().is_none()) else { return };
        let held = state.tunnels.iter().find(|held| held.tunnel.id() == tunnel.id());
        let is_wished = held.is_none_or(|held| held.wished_on.contains(&link.number));
        let is_met = need == Need::AnotherLink && tunnel.is_attached_through(&link.outbox);
        if is_wished || is_met {
            return;
        }
        let frame = self.wish_again(&mut state, tunnel, &link);
        drop(state);
        if let Some(frame) = frame {
            link.outbox.control(&frame);
        }
    }

    /// Wishes for a new tunnel, if nothing carries the port's own after a while.
    fn lose_patience(self: &Arc<Self>) {
        let port = Arc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(RESUME_PATIENCE).await;
            let mut state = port.state();
            let is_back = state.tunnels.last().is_none_or(|held| held.tunnel.is_attached());
            let Some(link) = state.newest_up().filter(|_| !is_back && state.new_wish.is_none() && !state.is_ending) else {
                return;
            };
            let frame = port.wish_for_new(&mut state, &link);
            drop(state);
            if let Some(frame) = frame {
                link.outbox.control(&frame);
            }
        });
    }

    /// The port's tunnel is back: another is not needed.
    fn forget_wish_of_new(&self, tunnel: &Tunnel) {
        let mut state = self.state();
        let is_current = state.tunnels.last().is_some_and(|held| held.tunnel.id() == tunnel.id());
        let Some((link, channel)) = state.new_wish.take_if(|_| is_current) else { return };
        drop(state);
        link.outbox.close(channel, &Notice::new(Code::Cancelled, ""));
    }

    fn forget_new_wish(&self, link: &PortLink, channel: u32) {
        self.state().new_wish.take_if(|(on, wished)| on.number == link.number && *wished == channel);
    }

    /// A tunnel beside the port's own is kept for the streams that it still has.
    fn end_if_empty(&self, tunnel: &Tunnel) {
        let is_current = self.state().tunnels.last().is_some_and(|held| held.tunnel.id() == tunnel.id());
        if !is_current && tunnel.streams() == 0 {
            tunnel.end(
                ResetCode::Cancelled,
                Notice::new(Code::Cancelled, "its last stream has ended, and another tunnel is there"),
            );
        }
    }

    fn tell_ready(&self) {
        let ready = self.state().tunnels.last().map(|held| held.tunnel.clone()).filter(Tunnel::is_attached);
        self.ready.send_if_modified(|present| {
            let is_other = present.as_ref().map(Tunnel::id) != ready.as_ref().map(Tunnel::id);
            *present = ready;
            is_other
        });
    }
}

/// Nobody minds the tunnel any more.
struct EndOnDrop(Tunnel);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, "the client ends"));
    }
}

impl State {
    /// The newest link that stands.
    fn newest_up(&self) -> Option<PortLink> {
        self.links.iter().rev().find(|(link, is_up)| *is_up && !link.is_over()).map(|(link, _)| link.clone())
    }
}

/// Whoever answered for `new` began after `older` had lost its way: the process that held `older` has been replaced.
fn give_up_if_replaced(older: &Tunnel, new: &Tunnel, age: Duration) {
    let Standing::Lost { since, .. } = *older.standing().borrow() else { return };
    if older.instance() != new.instance() && since.elapsed() > age {
        warn!(tunnel = %older.id(), "the server was restarted: the connections of before are reset");
        older.end(ResetCode::Cancelled, Notice::new(Code::PeerLost, "the server was restarted"));
    }
}

fn log_failure(error: &AttachError) {
    match error {
        AttachError::Closed(notice) if matches!(notice.code, Code::PeerLost | Code::Cancelled | Code::Superseded) => {
            debug!("not attached: {error}");
        }
        AttachError::Closed(_) | AttachError::Superseded => warn!("not attached: {error}"),
        _ => error!("not attached: {error}"),
    }
}
