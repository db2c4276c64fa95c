//! One link of an uplink, from its dialling to its end. Knows nothing of other links.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{LinkedRole, Uplink, Way, race::Race};
use crate::{
    frame::{Code, Frame, Notice},
    link::{
        Handler, Link, LinkEnd, Outbox, Timing,
        authenticate::{self, Introduction, JoinError},
        dial::DialError,
        session::FinishOnDrop,
    },
};

/// What a role says of itself to each master in its log.
const AGENT: &str = concat!("report/", env!("CARGO_PKG_VERSION"));

/// How long a master may take to see off an attempt that joined after another one had.
const BEATEN_CLOSE: Duration = Duration::from_secs(1);

/// What becomes of a link while it lives.
#[derive(Debug)]
pub(super) enum News {
    /// The master took the role in.
    Joined,
    /// The master is about to end the link.
    GoAway(Notice),
}

/// News of the link with this epoch.
pub(super) type Report = (u64, News);

/// How a link ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The master was not reached.
    Dial(DialError),
    /// It did not take the role in.
    Join(JoinError),
    /// It was up for `lived`, and nothing had been sent or received for `idle` at its end.
    Link {
        why: LinkEnd,
        lived: Duration,
        idle: Duration,
        is_stuck: bool,
    },
    /// It was closed here, or another attempt joined before it.
    Cancelled,
}

/// What one link is made with.
pub(super) struct Attempt<R, W> {
    pub(super) uplink: Arc<Uplink<W>>,
    pub(super) role: Arc<R>,
    pub(super) outbox: Arc<Outbox>,
    /// Which of the uplink's masters.
    pub(super) master: usize,
    pub(super) epoch: u64,
    pub(super) moves: bool,
    /// That it runs in with others.
    pub(super) race: Arc<Race>,
    pub(super) timing: Timing,
    /// Has room for all news of the links that there can be at a time.
    pub(super) reports: mpsc::Sender<Report>,
}

impl<R: LinkedRole, W: Way> Attempt<R, W> {
    /// Dials, joins, and runs the link until it ends or `cancel` is cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) -> Outcome {
        let Some(way) = self.uplink.dialers.get(self.master) else {
            return Outcome::Cancelled;
        };
        // Whatever ends this early: what the role has opened at the outbox holds on to it, and without an end they would keep each other for ever.
        let _finished_when_dropped = FinishOnDrop(Arc::clone(&self.outbox));
        let mut socket = match cancel.run_until_cancelled(way.dial()).await {
            Some(Ok(socket)) => socket,
            Some(Err(error)) => return Outcome::Dial(error),
            None => return Outcome::Cancelled,
        };
        let lead = self.race.lead();
        let (first, begun) = match lead.is_some().then(|| self.role.begin(&self.outbox)) {
            Some((first, session)) => (first, Some(session)),
            None => (Vec::new(), None),
        };
        let introduction = self.introduction();
        let joining = authenticate::join(&mut socket, &self.uplink.key, &introduction, &first);
        let terms = match cancel.run_until_cancelled(joining).await {
            Some(Ok(terms)) => terms,
            Some(Err(error)) => {
                self.outbox.finish(&Notice::new(
                    Code::PeerLost,
                    "the link could not be established",
                ));
                return Outcome::Join(error);
            }
            None => {
                self.outbox
                    .finish(&Notice::new(Code::Shutdown, "the link is not needed"));
                return Outcome::Cancelled;
            }
        };
        if !self.race.win() {
            self.outbox
                .finish(&Notice::new(Code::PeerLost, "another master was faster"));
            socket.close(BEATEN_CLOSE).await;
            return Outcome::Cancelled;
        }
        let session = begun.unwrap_or_else(|| self.begin_late());
        drop(lead);
        self.role.joined(&self.outbox, &terms);
        let mut watched = Watched {
            session,
            epoch: self.epoch,
            reports: self.reports,
            told: false,
        };
        watched.report(News::Joined);
        let up = Instant::now();
        let ended = Link::new(
            socket,
            self.outbox,
            self.timing.asked(terms.heartbeat_seconds),
        )
        .run(&mut watched, cancel.cancelled())
        .await;
        match ended.why {
            LinkEnd::Cancelled => Outcome::Cancelled,
            why => Outcome::Link {
                why,
                lived: up.elapsed(),
                idle: ended.idle,
                is_stuck: ended.is_stuck,
            },
        }
    }

    fn introduction(&self) -> Introduction {
        Introduction {
            role: self.uplink.role,
            instance: self.uplink.instance,
            epoch: self.epoch,
            moves: self.moves,
            agent: AGENT.to_owned(),
        }
    }

    /// What would have gone with HELLO follows it, now that this attempt has won.
    fn begin_late(&self) -> R::Session {
        let (later, session) = self.role.begin(&self.outbox);
        later.iter().for_each(|frame| self.outbox.control(frame));
        session
    }
}

/// A role's session, without GOAWAY.
struct Watched<S> {
    session: S,
    epoch: u64,
    reports: mpsc::Sender<Report>,
    /// Whether GOAWAY has come: more of them say nothing new.
    told: bool,
}

impl<S> Watched<S> {
    fn report(&self, news: News) {
        let sent = self.reports.try_send((self.epoch, news));
        debug_assert!(
            !matches!(sent, Err(mpsc::error::TrySendError::Full(_))),
            "two for each link at most"
        );
    }
}

impl<S: Handler> Handler for Watched<S> {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match frame {
            Frame::GoAway(notice) => {
                if !std::mem::replace(&mut self.told, true) {
                    self.report(News::GoAway(notice));
                }
                Ok(())
            }
            other => self.session.frame(other),
        }
    }
}
