//! What a port asks of its links: an attachment for a new tunnel, or for one that goes on. Follows each wish to its outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use super::port::{Need, Port, RESUME_PATIENCE, State};
use crate::{
    frame::{AttachHeader, CHANNELS_RENEWED, Code, Frame, Notice},
    link::{Outbox, backoff::Backoff, uplink::Mover},
    tunnel::{
        Tunnel,
        attach::{self, AttachError, Wish},
    },
};

/// The first wait before a wish that failed is made again; most of the time the server went, and the next one waits at the master until it is
/// back.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// A link of the client, as its ports use it.
#[derive(Clone)]
pub struct PortLink {
    pub outbox: Arc<Outbox>,
    /// Counts links: the newest has the largest.
    pub number: u64,
    /// How many channels have been numbered; the count cannot wrap, as the numbers could.
    channels: Arc<AtomicU64>,
    /// By which another link is asked for before the numbers are used up.
    mover: Mover,
}

impl PortLink {
    /// A link that is being established.
    pub fn new(outbox: &Arc<Outbox>, mover: &Mover) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        PortLink {
            outbox: Arc::clone(outbox),
            number,
            channels: Arc::default(),
            mover: mover.clone(),
        }
    }

    /// Whether the link has ended.
    pub fn is_over(&self) -> bool {
        self.outbox.ended().is_some()
    }

    /// A channel number that was not used before, as long as there is one.
    fn next_channel(&self) -> Option<u32> {
        let channel = u32::try_from(self.channels.fetch_add(1, Ordering::Relaxed)).ok();
        if channel == Some(CHANNELS_RENEWED) {
            info!("half of the channel numbers of the link are used up: another link replaces it");
            self.mover.renew();
        }
        if channel.is_none() {
            error!("the link has no channel numbers left: the attachment waits for another link");
        }
        channel
    }
}

type Outcome = oneshot::Receiver<Result<attach::Outcome, AttachError>>;

/// A wish that has been put to a link.
struct Wished {
    frame: Frame,
    outcome: Outcome,
}

impl Port {
    /// Wishes for a new tunnel; its outcome is followed.
    pub(super) fn wish_for_new(
        self: &Arc<Self>,
        state: &mut State,
        link: &PortLink,
    ) -> Option<Frame> {
        let channel = link.next_channel()?;
        let wish = attach::wish(&self.parameters, &link.outbox, channel, &self.tasks);
        let Wished { frame, outcome } = self.put(wish, link, channel, self.header_of_new(state))?;
        state.new_wish = Some((link.clone(), channel));
        let (port, link) = (Arc::clone(self), link.clone());
        self.spawn(async move { port.follow_new(outcome, link, channel).await });
        Some(frame)
    }

    /// Wishes for a tunnel to go on; the outcome is followed.
    pub(super) fn wish_again(
        self: &Arc<Self>,
        state: &mut State,
        tunnel: &Tunnel,
        link: &PortLink,
    ) -> Option<Frame> {
        let held = state
            .tunnels
            .iter_mut()
            .find(|held| held.tunnel.id() == tunnel.id())?;
        let channel = link.next_channel()?;
        let wish = attach::wish_again(
            tunnel,
            tunnel.is_attached(),
            &link.outbox,
            channel,
            &self.tasks,
        );
        let header = AttachHeader {
            port: self.parameters.keys.id,
            instance: Some(tunnel.instance()),
            avoid: Vec::new(),
        };
        let Wished { frame, outcome } = self.put(wish, link, channel, header)?;
        held.wished_on.push(link.number);
        let (port, tunnel, link) = (Arc::clone(self), tunnel.clone(), link.clone());
        self.spawn(async move { port.follow_again(&tunnel, outcome, &link).await });
        Some(frame)
    }

    fn header_of_new(&self, state: &State) -> AttachHeader {
        let avoid = state.refused.at(Instant::now()).collect();
        AttachHeader {
            port: self.parameters.keys.id,
            instance: None,
            avoid,
        }
    }

    /// Opens the channel of a wish. Fails when the link has ended; then the next one begins anew.
    fn put(
        &self,
        wish: Result<Wish, AttachError>,
        link: &PortLink,
        channel: u32,
        header: AttachHeader,
    ) -> Option<Wished> {
        let wish = wish
            .inspect_err(|error| error!("cannot begin an attachment: {error}"))
            .ok()?;
        link.outbox.open(channel, wish.lane).ok()?;
        let frame = Frame::Attach {
            channel,
            header,
            message: wish.message,
        };
        Some(Wished {
            frame,
            outcome: wish.outcome,
        })
    }

    async fn follow_new(self: Arc<Self>, mut outcome: Outcome, link: PortLink, mut channel: u32) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let wait = match (&mut outcome).await {
                Ok(Ok(attach::Outcome::New(tunnel, taker))) => {
                    self.forget_new_wish(&link, channel);
                    return self.adopt(tunnel, taker);
                }
                Ok(Ok(attach::Outcome::Resumed)) | Err(_) => {
                    return self.forget_new_wish(&link, channel);
                }
                Ok(Err(AttachError::Closed(notice))) if notice.code == Code::Timeout => {
                    debug!("asked again: {notice}");
                    backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
                    FIRST_WAIT.mul_f64(fastrand::f64())
                }
                Ok(Err(error)) => {
                    log_failure(&error);
                    self.refusals.send_replace(Some(error.clone()));
                    if error.is_retryable() {
                        backoff.next_wait()
                    } else {
                        LONGEST_WAIT
                    }
                }
            };
            if link.is_over() {
                return self.forget_new_wish(&link, channel);
            }
            tokio::time::sleep(wait).await;
            let mut state = self.state();
            let is_this =
                |(on, wished): &(PortLink, u32)| on.number == link.number && *wished == channel;
            if state.is_ending || !state.new_wish.as_ref().is_some_and(is_this) {
                return;
            }
            let next = link.next_channel().and_then(|channel| {
                let wish = attach::wish(&self.parameters, &link.outbox, channel, &self.tasks);
                Some((
                    channel,
                    self.put(wish, &link, channel, self.header_of_new(&state))?,
                ))
            });
            let Some((numbered, wished)) = next else {
                state.new_wish = None;
                return;
            };
            channel = numbered;
            state.new_wish = Some((link.clone(), channel));
            drop(state);
            link.outbox.control(&wished.frame);
            outcome = wished.outcome;
        }
    }

    async fn follow_again(self: Arc<Self>, tunnel: &Tunnel, outcome: Outcome, link: &PortLink) {
        let outcome = outcome.await;
        let mut is_due_again = false;
        if let Some(held) = self
            .state()
            .tunnels
            .iter_mut()
            .find(|held| held.tunnel.id() == tunnel.id())
        {
            held.wished_on.retain(|&number| number != link.number);
            is_due_again = std::mem::take(&mut held.is_due_again);
        }
        match outcome {
            Ok(Ok(attach::Outcome::Resumed)) if is_due_again => {
                return self.attach_again(tunnel, Need::AnotherChannel);
            }
            Ok(Ok(attach::Outcome::Resumed)) => return,
            Ok(Ok(attach::Outcome::New(new, taker))) if new.instance() != tunnel.instance() => {
                // Not the process that was asked for: what it does not know says nothing of the tunnel.
                self.adopt(new, taker);
                tokio::time::sleep(RESUME_PATIENCE).await;
                return self.attach_again(tunnel, Need::AnotherLink);
            }
            Ok(Ok(attach::Outcome::New(new, taker))) => {
                warn!(tunnel = %tunnel.id(), "the server does not know the tunnel any more: the connections that it has seen are reset");
                tunnel.given_up(
                    taker.seen,
                    Notice::new(
                        Code::PeerLost,
                        "the server does not know the tunnel any more",
                    ),
                );
                return self.adopt(new, taker);
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

    fn forget_new_wish(&self, link: &PortLink, channel: u32) {
        self.state()
            .new_wish
            .take_if(|(on, wished)| on.number == link.number && *wished == channel);
    }
}

fn log_failure(error: &AttachError) {
    match error {
        AttachError::Closed(Notice {
            code: Code::PeerLost | Code::Cancelled | Code::Superseded | Code::Timeout,
            ..
        }) => {
            debug!("not attached: {error}");
        }
        AttachError::Closed(_) | AttachError::Superseded => warn!("not attached: {error}"),
        _ => error!("not attached: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn channel_numbers_are_not_used_again_and_the_link_is_replaced_in_time() {
        let mover = Mover::default();
        let link = PortLink::new(&Outbox::new(), &mover);
        assert_eq!(link.next_channel(), Some(0));
        link.channels
            .store(u64::from(CHANNELS_RENEWED) - 1, Ordering::Relaxed);
        let is_asked = || mover.asked_to_renew().now_or_never().is_some();
        assert_eq!(link.next_channel(), Some(CHANNELS_RENEWED - 1));
        assert!(!is_asked());
        assert_eq!(link.next_channel(), Some(CHANNELS_RENEWED));
        assert!(is_asked());
        assert_eq!(link.next_channel(), Some(CHANNELS_RENEWED + 1));
        assert!(!is_asked(), "once");
        link.channels.store(u64::from(u32::MAX), Ordering::Relaxed);
        assert_eq!(link.next_channel(), Some(u32::MAX));
        for _ in 0..3 {
            assert_eq!(link.next_channel(), None);
        }
    }
}
