//! One port of the client: sees to it that there is a tunnel, and that what carries it is the newest link. A tunnel that lost its link is asked for
//! again on the next one; where that takes too long, a new tunnel is asked for beside it (PROTOCOL 10.8).
//!
//! ```text
//!  a link begins ──► every tunnel is wished for there; a new one, when there is none
//!  a tunnel is lost, or its peer asks to move ──► the same, on the newest link that stands
//!  not back within a second ──► a new tunnel too; what comes of it tells whether the old one's server is gone
//! ```

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{net::TcpStream, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info, info_span, warn};

use super::{refused::Refused, wish::PortLink};
use crate::{
    frame::{Code, Frame, Notice},
    link::Outbox,
    tunnel::{
        PortParameters, ResetCode, Standing, Tunnel,
        attach::{AttachError, Taker},
        origin::Origin,
    },
};

/// A tunnel that is not back after this long is not waited for alone (PROTOCOL 12, `RESUME_PATIENCE`).
pub(super) const RESUME_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether a move is complete; it takes about a round trip.
const MOVE_CHECK: Duration = Duration::from_millis(20);

/// How often it is looked whether a tunnel that takes no new streams has any left.
const EMPTY_CHECK: Duration = Duration::from_secs(5);

/// A port of the client.
pub struct Port {
    pub parameters: PortParameters,
    state: Mutex<State>,
    /// The tunnel that takes new streams, while something carries it.
    ready: watch::Sender<Option<Tunnel>>,
    /// Why the last wish for a new tunnel came to nothing.
    pub(super) refusals: watch::Sender<Option<AttachError>>,
    pub(super) tasks: TaskTracker,
    stop: CancellationToken,
}

/// What changes.
#[derive(Default)]
pub(super) struct State {
    /// Links that stand or begin, the newest last.
    links: Vec<(PortLink, IsUp)>,
    /// Tunnels that are not over; the last one takes new streams.
    pub(super) tunnels: Vec<Held>,
    /// The channel on which a new tunnel is wished for.
    pub(super) new_wish: Option<(PortLink, u32)>,
    /// Servers that a new tunnel is to avoid.
    pub(super) refused: Refused,
    /// The client ends: nothing is wished for any more.
    pub(super) is_ending: bool,
}

type IsUp = bool;

/// A tunnel of the port.
pub(super) struct Held {
    pub(super) tunnel: Tunnel,
    /// What the server said of itself.
    taker: Taker,
    /// The numbers of the links on which it is wished for.
    pub(super) wished_on: Vec<u64>,
    /// It has to be attached again once what is under way is done.
    pub(super) is_due_again: bool,
}

/// What a tunnel is to be attached again for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The newest link does not carry it.
    AnotherLink,
    /// The server's link is to be closed: the newest link has to carry it by a new channel.
    AnotherChannel,
}

impl Port {
    /// A port without a tunnel. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub fn new(
        parameters: PortParameters,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Port {
            parameters,
            state: Mutex::default(),
            ready: watch::Sender::new(None),
            refusals: watch::Sender::new(None),
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
            let live = ready
                .borrow_and_update()
                .clone()
                .filter(|tunnel| tunnel.notice().is_none());
            if let Some(tunnel) = live {
                return tunnel;
            }
            if ready.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// What the server that holds the tunnel has said of itself; nothing when the tunnel is over.
    pub fn taker(&self, tunnel: &Tunnel) -> Option<Taker> {
        self.state()
            .tunnels
            .iter()
            .find(|held| held.tunnel.id() == tunnel.id())
            .map(|held| held.taker)
    }

    /// What a stream's opening says of a connection from `source` to this socket: where it comes from and where it was to go, if the server that holds
    /// the tunnel wants to know (PROTOCOL 9.11).
    pub fn details(&self, tunnel: &Tunnel, source: SocketAddr, socket: &TcpStream) -> Bytes {
        let is_wanted = self.taker(tunnel).is_some_and(|taker| taker.addresses);
        let destination = socket.local_addr().ok().filter(|_| is_wanted);
        let origin = destination.and_then(|destination| Origin::new(source, destination));
        origin.map(|origin| origin.details()).unwrap_or_default()
    }

    /// Why the last wish for a new tunnel came to nothing, now and from now on.
    pub fn refusals(&self) -> watch::Receiver<Option<AttachError>> {
        self.refusals.subscribe()
    }

    /// Whether something carries the port's tunnel through this link.
    pub fn is_attached_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.state()
            .tunnels
            .iter()
            .any(|held| held.tunnel.is_attached_through(outbox))
    }

    /// A link is being established: what is to be sent in its first flight.
    pub fn link_begins(self: &Arc<Self>, link: &PortLink) -> Vec<Frame> {
        let mut state = self.state();
        state.links.retain(|(link, _)| !link.is_over());
        state.links.push((link.clone(), false));
        if state.is_ending {
            return Vec::new();
        }
        let tunnels = state.all();
        if tunnels.is_empty() {
            return self.wish_for_new(&mut state, link).into_iter().collect();
        }
        // One that is moving is wished for when it has moved, and the link stands.
        let still = tunnels.iter().filter(|tunnel| !tunnel.is_moving());
        let frames = still
            .filter_map(|tunnel| self.wish_again(&mut state, tunnel, link))
            .collect();
        drop(state);
        self.lose_patience();
        frames
    }

    /// The link stands.
    pub fn link_stands(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        for (_, is_up) in state
            .links
            .iter_mut()
            .filter(|(link, _)| Arc::ptr_eq(&link.outbox, outbox))
        {
            *is_up = true;
        }
        let tunnels = state.all();
        drop(state);
        tunnels
            .iter()
            .for_each(|tunnel| self.attach_again(tunnel, Need::AnotherLink));
        self.have_one();
    }

    /// The client ends: its tunnels too, and the other ends hear of it. Waits until they have been told.
    pub async fn end(&self) {
        let tunnels = {
            let mut state = self.state();
            state.is_ending = true;
            state.all()
        };
        Tunnel::shut_down(&tunnels, "the client ends").await;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until it is over or everything stops.
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let span = info_span!(parent: None, "tunnel", port = %self.parameters.mark);
        let stop = self.stop.clone();
        self.tasks.spawn(
            async move {
                tokio::select! { () = task => {}, () = stop.cancelled() => {} }
            }
            .instrument(span),
        );
    }

    /// Takes a new tunnel in.
    pub(super) fn adopt(self: &Arc<Self>, tunnel: Tunnel, taker: Taker) {
        let mut state = self.state();
        let now = Instant::now();
        let present = state
            .tunnels
            .last()
            .map(|held| &held.tunnel)
            .filter(|present| present.is_attached());
        let is_refused =
            present.is_some_and(|present| state.refused.contains(present.instance(), now));
        let is_better = is_refused && !state.refused.contains(tunnel.instance(), now);
        let needless = state.is_ending || (present.is_some() && !is_better);
        if needless && is_refused {
            state.refused.is_alone(now);
        }
        let older = state.all();
        if !needless {
            state.tunnels.push(Held {
                tunnel: tunnel.clone(),
                taker,
                wished_on: Vec::new(),
                is_due_again: false,
            });
        }
        drop(state);
        if needless {
            tunnel.end(
                ResetCode::Cancelled,
                Notice::new(Code::Cancelled, "another tunnel is there"),
            );
            // Connections may have been held for it.
            return self.tell_ready();
        }
        info!(tunnel = %tunnel.id(), tells_addresses = taker.addresses, "attached to a server");
        older
            .iter()
            .for_each(|older| give_up_if_replaced(older, &tunnel, taker.age));
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
                    if matches!(
                        why.code,
                        Code::Seal | Code::Protocol | Code::FlowControl | Code::Handshake
                    ) {
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
        let why = tunnel
            .notice()
            .map(|notice| notice.to_string())
            .unwrap_or_default();
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
        self.wish_for_new_if(|state| state.tunnels.is_empty());
    }

    fn wish_for_new_if(self: &Arc<Self>, is_needed: impl FnOnce(&State) -> bool) {
        let mut state = self.state();
        let is_needed = is_needed(&state) && state.new_wish.is_none() && !state.is_ending;
        let Some(link) = state.newest_up().filter(|_| is_needed) else {
            return;
        };
        let frame = self.wish_for_new(&mut state, &link);
        drop(state);
        if let Some(frame) = frame {
            link.outbox.control(&frame);
        }
    }

    /// Sees to it that the newest link carries the tunnel.
    pub(super) fn attach_again(self: &Arc<Self>, tunnel: &Tunnel, need: Need) {
        let mut state = self.state();
        let Some(link) = state
            .newest_up()
            .filter(|_| !state.is_ending && tunnel.notice().is_none())
        else {
            return;
        };
        let Some(held) = state
            .tunnels
            .iter_mut()
            .find(|held| held.tunnel.id() == tunnel.id())
        else {
            return;
        };
        let is_wished = match need {
            Need::AnotherLink => held.wished_on.contains(&link.number),
            // Whatever is under way may come to the server's new link, or not.
            Need::AnotherChannel => !held.wished_on.is_empty(),
        };
        if is_wished {
            held.is_due_again |= need == Need::AnotherChannel;
            return;
        }
        if need == Need::AnotherLink && tunnel.is_attached_through(&link.outbox) {
            return;
        }
        if tunnel.is_moving() {
            drop(state);
            return self.attach_when_moved(tunnel, need);
        }
        let frame = self.wish_again(&mut state, tunnel, &link);
        drop(state);
        if let Some(frame) = frame {
            link.outbox.control(&frame);
        }
    }

    /// Two moves at a time would end in a pause.
    fn attach_when_moved(self: &Arc<Self>, tunnel: &Tunnel, need: Need) {
        let (port, tunnel) = (Arc::clone(self), tunnel.clone());
        self.spawn(async move {
            while tunnel.is_moving() {
                tokio::time::sleep(MOVE_CHECK).await;
            }
            port.attach_again(&tunnel, need);
        });
    }

    /// Wishes for a new tunnel, if nothing carries the port's own after a while.
    fn lose_patience(self: &Arc<Self>) {
        let port = Arc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(RESUME_PATIENCE).await;
            port.wish_for_new_if(|state| {
                state
                    .tunnels
                    .last()
                    .is_some_and(|held| !held.tunnel.is_attached())
            });
        });
    }

    /// The port's tunnel is back: another is not needed.
    fn forget_wish_of_new(&self, tunnel: &Tunnel) {
        let mut state = self.state();
        let is_enough =
            state.is_current(tunnel) && !state.refused.contains(tunnel.instance(), Instant::now());
        let Some((link, channel)) = state.new_wish.take_if(|_| is_enough) else {
            return;
        };
        drop(state);
        link.outbox
            .close(channel, &Notice::new(Code::Cancelled, ""));
    }

    /// A tunnel beside the port's own is kept for the streams that it still has.
    fn end_if_empty(&self, tunnel: &Tunnel) {
        let is_current = self.state().is_current(tunnel);
        if !is_current && tunnel.streams() == 0 {
            tunnel.end(
                ResetCode::Cancelled,
                Notice::new(
                    Code::Cancelled,
                    "its last stream has ended, and another tunnel is there",
                ),
            );
        }
    }

    /// Says which tunnel takes new streams.
    pub(super) fn tell_ready(&self) {
        let state = self.state();
        let holds = state.new_wish.is_some() && state.refused.holds(Instant::now());
        let ready = state
            .tunnels
            .last()
            .filter(|_| !holds)
            .map(|held| held.tunnel.clone())
            .filter(Tunnel::is_attached);
        drop(state);
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
        self.0.end(
            ResetCode::Shutdown,
            Notice::new(Code::Shutdown, "the client ends"),
        );
    }
}

impl State {
    fn all(&self) -> Vec<Tunnel> {
        self.tunnels
            .iter()
            .map(|held| held.tunnel.clone())
            .collect()
    }

    /// Whether the tunnel is the one that takes new streams.
    pub(super) fn is_current(&self, tunnel: &Tunnel) -> bool {
        self.tunnels
            .last()
            .is_some_and(|held| held.tunnel.id() == tunnel.id())
    }

    /// The newest link that stands.
    pub(super) fn newest_up(&self) -> Option<PortLink> {
        self.links
            .iter()
            .rev()
            .find(|(link, is_up)| *is_up && !link.is_over())
            .map(|(link, _)| link.clone())
    }
}

/// Whoever answered for `new` began after `older` had lost its way: the process that held `older` has been replaced.
fn give_up_if_replaced(older: &Tunnel, new: &Tunnel, age: Duration) {
    let Standing::Lost { since, .. } = *older.standing().borrow() else {
        return;
    };
    if older.instance() != new.instance() && since.elapsed() > age {
        warn!(tunnel = %older.id(), "the server was restarted: the connections of before are reset");
        older.end(
            ResetCode::Cancelled,
            Notice::new(Code::PeerLost, "the server was restarted"),
        );
    }
}
