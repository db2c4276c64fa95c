//! Runs one link of an uplink, from dialling to its end. Independent of other links.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    membership::Connections,
    race::Race,
    uplink::{Connector, LinkedRole, RoleLink, Uplink},
};
use crate::{
    link::{
        EndReason, Handler, KeepAliveTiming, Link,
        authenticate::{self, JoinError, RoleIdentity},
        session::FinishOnDrop,
    },
    net::{congestion_control::CongestionControlInUse, dial::DialError, websocket::MessageSocket},
};
use report_proto::frame::{Code, Frame, Notice, Role, Terms};

/// The text that identifies this program in the master's log.
const AGENT: &str = concat!("report/", env!("CARGO_PKG_VERSION"));

/// The time that a master has to complete the closing handshake of an attempt that lost a race.
const LOSER_CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// An event in the life of a link.
#[derive(Debug)]
pub(super) enum AttemptEvent {
    /// The master accepted the role.
    Joined {
        /// The congestion control of the link's connection.
        congestion_control: CongestionControlInUse,
        /// The range that the master advises for the waits of repeated attempts, if the link ends
        /// and later ones fail; zero is no advice.
        advised_range: Duration,
    },
    /// The master is about to end the link.
    GoAway(Notice),
}

/// An event of the link with this epoch.
pub(super) type AttemptReport = (u64, AttemptEvent);

/// The result of an attempt.
#[derive(Debug)]
pub(super) enum AttemptOutcome {
    /// The master could not be reached.
    Dial(DialError),
    /// The master did not accept the role.
    Join(JoinError),
    /// The link was up for `lived`. Nothing had been sent or received for `idle` at its end.
    Link {
        reason: EndReason,
        lived: Duration,
        idle: Duration,
        is_stuck: bool,
    },
    /// This side closed the link, or another attempt joined first.
    Cancelled,
}

impl AttemptOutcome {
    /// Returns how long the master, or a gateway or proxy on the path, asks to wait before the next
    /// attempt.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            AttemptOutcome::Dial(error) => error.retry_after(),
            AttemptOutcome::Join(error) => error.retry_after(),
            AttemptOutcome::Link { reason, .. } => reason.retry_after(),
            AttemptOutcome::Cancelled => None,
        }
    }
}

/// An attempt to establish one link.
pub(super) struct Attempt<R, W> {
    pub(super) uplink: Arc<Uplink<W>>,
    pub(super) role: Arc<R>,
    pub(super) link: RoleLink,
    /// The master's index in the uplink's list.
    pub(super) master: usize,
    pub(super) epoch: u64,
    pub(super) moves: bool,
    /// The race that the attempt shares with others.
    pub(super) race: Arc<Race>,
    pub(super) timing: KeepAliveTiming,
    /// The connections of the set, to which that of the link is added.
    pub(super) connections: Connections,
    /// Has room for all events of the links that can exist at the same time.
    pub(super) reports: mpsc::Sender<AttemptReport>,
}

impl<R: LinkedRole, W: Connector> Attempt<R, W> {
    /// Dials, joins, and runs the link until it ends or `cancel` is cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) -> AttemptOutcome {
        let Some(connector) = self.uplink.dialers.get(self.master) else {
            return AttemptOutcome::Cancelled;
        };
        // Covers every early return: the role's channels and the outbox hold each other, and only the
        // end of the outbox breaks the cycle.
        let _finished_when_dropped = FinishOnDrop(Arc::clone(&self.link.outbox));
        let dialling = connector.dial_apart(self.used_addresses());
        let mut socket = match cancel.run_until_cancelled(dialling).await {
            Some(Ok(socket)) => socket,
            Some(Err(error)) => return AttemptOutcome::Dial(error),
            None => return AttemptOutcome::Cancelled,
        };
        // Without the permit, the role's frames follow after this attempt has won.
        let permit = self.race.early_frames();
        let (first, begun) = match permit.is_some().then(|| self.role.begin(&self.link)) {
            Some((first, session)) => (first, Some(session)),
            None => (Vec::new(), None),
        };
        let terms = match self.join(&mut socket, &first, &cancel).await {
            Ok(terms) => terms,
            Err(outcome) => return outcome,
        };
        if !self.race.win() {
            self.link
                .outbox
                .finish(&Notice::new(Code::PeerLost, "another master was faster"));
            // The master accepted the role, so the link is closed gracefully.
            socket.close(LOSER_CLOSE_DEADLINE).await;
            return AttemptOutcome::Cancelled;
        }
        let session = begun.unwrap_or_else(|| self.begin_late());
        drop(permit);
        self.role.joined(&self.link, &terms);
        self.run_link(socket, session, &terms, &cancel).await
    }

    /// Returns the addresses that this link should not use. A client needs no other master for a
    /// further link: it would have to wait there until the server is linked to it.
    fn used_addresses(&self) -> Vec<IpAddr> {
        match self.uplink.role {
            Role::Server => self.connections.addresses_of_others(self.link.slot),
            Role::Client => Vec::new(),
        }
    }

    /// Joins the master. Closes the role's channels if that fails.
    async fn join(
        &self,
        socket: &mut MessageSocket,
        first: &[Frame],
        cancel: &CancellationToken,
    ) -> Result<Terms, AttemptOutcome> {
        let identity = self.identity();
        let joining = authenticate::join(socket, &self.uplink.secret, &identity, first);
        match cancel.run_until_cancelled(joining).await {
            Some(Ok(terms)) => Ok(terms),
            Some(Err(error)) => {
                self.link.outbox.finish(&Notice::new(
                    Code::PeerLost,
                    "the link could not be established",
                ));
                Err(AttemptOutcome::Join(error))
            }
            None => {
                self.link
                    .outbox
                    .finish(&Notice::new(Code::Shutdown, "the link is not needed"));
                Err(AttemptOutcome::Cancelled)
            }
        }
    }

    /// Runs a link that has joined, until it ends.
    async fn run_link(
        self,
        socket: MessageSocket,
        session: R::Session,
        terms: &Terms,
        cancel: &CancellationToken,
    ) -> AttemptOutcome {
        let mut observer = GoAwayObserver {
            session,
            epoch: self.epoch,
            reports: self.reports,
            go_away_reported: false,
        };
        // Before the report, after which the set may dial its next link.
        let _listed = self
            .connections
            .list(self.epoch, socket.connection(), &self.link);
        observer.report(AttemptEvent::Joined {
            congestion_control: socket.congestion_control(),
            advised_range: Duration::from_millis(terms.retry_within_ms.into()),
        });
        let up_since = Instant::now();
        let summary = Link::new(
            socket,
            self.link.outbox,
            self.timing.with_requested_interval(terms.heartbeat_seconds),
        )
        .run(&mut observer, cancel.cancelled())
        .await;
        match summary.reason {
            EndReason::Cancelled => AttemptOutcome::Cancelled,
            reason => AttemptOutcome::Link {
                reason,
                lived: up_since.elapsed(),
                idle: summary.idle,
                is_stuck: summary.is_stuck,
            },
        }
    }

    fn identity(&self) -> RoleIdentity {
        RoleIdentity {
            role: self.uplink.role,
            instance: self.uplink.instance,
            slot: self.link.slot,
            epoch: self.epoch,
            moves: self.moves,
            agent: AGENT.to_owned(),
        }
    }

    /// Sends the role's first frames after the join instead of with HELLO.
    fn begin_late(&self) -> R::Session {
        let (later, session) = self.role.begin(&self.link);
        later
            .iter()
            .for_each(|frame| self.link.outbox.control(frame));
        session
    }
}

/// Passes frames to a role's session, and reports GOAWAY instead of passing it.
struct GoAwayObserver<S> {
    session: S,
    epoch: u64,
    reports: mpsc::Sender<AttemptReport>,
    /// Whether GOAWAY was reported. Further ones are redundant.
    go_away_reported: bool,
}

impl<S> GoAwayObserver<S> {
    fn report(&self, event: AttemptEvent) {
        let sent = self.reports.try_send((self.epoch, event));
        debug_assert!(
            !matches!(sent, Err(mpsc::error::TrySendError::Full(_))),
            "at most two reports per link"
        );
    }
}

impl<S: Handler> Handler for GoAwayObserver<S> {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match frame {
            Frame::GoAway(notice) => {
                if !std::mem::replace(&mut self.go_away_reported, true) {
                    self.report(AttemptEvent::GoAway(notice));
                }
                Ok(())
            }
            other => self.session.on_frame(other),
        }
    }
}
