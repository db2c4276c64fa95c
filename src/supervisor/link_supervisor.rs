//! Supervises the links of an uplink: at most two are up at a time, and the newest one is in use.
//! If masters are raced, attempts at several of them may run in parallel to establish the next
//! link.
//!
//! ```text
//!            plan is due           joined            newer link joined
//!   planned ───────────► attempts ────────► current ───────────────────► retiring ──► closed
//!     ▲                     │ failed           │ ended: replace now         │ no channel,
//!     └─────────────────────┴──────────────────┤                            │ or RETIREMENT
//!                                              └ GOAWAY, rotation, MoveRequests: plan another
//! ```
//!
//! Each link runs in a separate task, which the supervisor joins. The supervisor decides when and
//! where to dial; `attempt` establishes a link.

use std::{future::pending, panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinError as TaskError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Connector, DialStrategy, LinkEvent, LinkedRole, Uplink,
    attempt::{Attempt, AttemptEvent, AttemptOutcome, AttemptReport},
    black_hole::{BlackHoleDetector, EVIDENCE},
    dial_reason::{DialReason, failure_message, log_failure},
    managed_link::{ManagedLink, PlannedAttempt, wait_until_unused},
    next_epoch,
    path_timeouts::{PathLimit, PathTimeouts},
    race::{Race, STAGGER},
    retry_policy::{NextAttempt, RetryPolicy},
};
use crate::{
    diagnosis::Diagnosis,
    link::{EndReason, KeepAliveTiming, Outbox},
    net::tcp,
};
use report_proto::frame::{Code, Notice, Role};

/// The capacity for reports: two for each of the next, the current and the retiring link, with some
/// spare. Of attempts in a race only the winner reports.
const REPORT_CAPACITY: usize = 8;

/// The delay of a due rotation while another link is already planned or being established.
const ROTATION_RETRY: Duration = Duration::from_secs(1);

/// The next event of the supervisor.
enum SupervisorEvent {
    Cancelled,
    Reported(AttemptReport),
    Ended(Result<(u64, AttemptOutcome), TaskError>),
    PlanDue,
    RetiringUnused,
    RotationDue,
    OtherMasterRequested,
}

/// The supervisor of one uplink's links.
pub(super) struct LinkSupervisor<R, W> {
    uplink: Arc<Uplink<W>>,
    role: Arc<R>,
    tasks: JoinSet<(u64, AttemptOutcome)>,
    reporter: mpsc::Sender<AttemptReport>,
    reports: mpsc::Receiver<AttemptReport>,
    planned: Option<PlannedAttempt>,
    /// The running attempts: one, or several in a race.
    attempts: Vec<ManagedLink>,
    race: Arc<Race>,
    current: Option<ManagedLink>,
    retiring: Option<ManagedLink>,
    retry_policy: RetryPolicy,
    path_timeouts: Vec<PathTimeouts>,
    black_holes: Vec<BlackHoleDetector>,
    /// When the current series of failed attempts began.
    failing_since: Option<Instant>,
    /// Whether another link of this process was found at the same master. Two addresses of that
    /// master are in the list, so links must announce that they exist side by side.
    shares_master: bool,
}

impl<R: LinkedRole, W: Connector> LinkSupervisor<R, W> {
    pub(super) fn new(uplink: Uplink<W>, role: Arc<R>) -> Self {
        let (reporter, reports) = mpsc::channel(REPORT_CAPACITY);
        let masters = uplink.dialers.len();
        LinkSupervisor {
            uplink: Arc::new(uplink),
            role,
            tasks: JoinSet::new(),
            reporter,
            reports,
            planned: Some(PlannedAttempt {
                at: Instant::now(),
                master: 0,
                reason: DialReason::NoLink,
            }),
            attempts: Vec::new(),
            race: Arc::default(),
            current: None,
            retiring: None,
            retry_policy: RetryPolicy::new(masters),
            path_timeouts: (0..masters).map(|_| PathTimeouts::default()).collect(),
            black_holes: vec![BlackHoleDetector::default(); masters],
            failing_since: None,
            shares_master: false,
        }
    }

    /// Keeps links up until `cancel` is cancelled, then waits until all of them are closed
    /// gracefully.
    pub(super) async fn run(mut self, cancel: &CancellationToken) {
        if self.uplink.dialers.is_empty() {
            return;
        }
        loop {
            match self.next_event(cancel).await {
                SupervisorEvent::Cancelled => break,
                SupervisorEvent::Reported((epoch, AttemptEvent::Joined)) => self.on_joined(epoch),
                SupervisorEvent::Reported((epoch, AttemptEvent::GoAway(notice))) => {
                    self.on_go_away(epoch, notice);
                }
                SupervisorEvent::Ended(ended) => {
                    let (epoch, outcome) = resume_panic(ended);
                    self.on_ended(epoch, outcome);
                }
                SupervisorEvent::PlanDue => self.start_attempt(cancel),
                SupervisorEvent::RetiringUnused => self.close_retiring(),
                SupervisorEvent::RotationDue => self.rotate(),
                SupervisorEvent::OtherMasterRequested => self.switch_master(),
            }
        }
        // The tokens of all links are children of `cancel`.
        while let Some(ended) = self.tasks.join_next().await {
            resume_panic(ended);
        }
    }

    async fn next_event(&mut self, cancel: &CancellationToken) -> SupervisorEvent {
        // A plan waits while two links are up.
        let due = self
            .planned
            .as_ref()
            .filter(|_| !self.has_two_links())
            .map(|planned| planned.at);
        let replace_at = self.current.as_ref().and_then(|current| current.replace_at);
        let server = self.uplink.role == Role::Server;
        tokio::select! {
            biased;
            () = cancel.cancelled() => SupervisorEvent::Cancelled,
            // Polled before the ends of tasks, because a link reports its join before it ends.
            Some(report) = self.reports.recv() => SupervisorEvent::Reported(report),
            Some(ended) = self.tasks.join_next() => SupervisorEvent::Ended(ended),
            () = wait_until(due) => SupervisorEvent::PlanDue,
            () = wait_until_unused(self.retiring.as_ref(), server) =>
                SupervisorEvent::RetiringUnused,
            () = wait_until(replace_at) => SupervisorEvent::RotationDue,
            () = self.uplink.move_requests.new_link_requested() => SupervisorEvent::RotationDue,
            () = self.uplink.move_requests.other_master_requested() =>
                SupervisorEvent::OtherMasterRequested,
        }
    }

    /// Whether two links are up, so that no other one may be established.
    fn has_two_links(&self) -> bool {
        self.current.is_some() && self.retiring.is_some()
    }

    fn start_attempt(&mut self, cancel: &CancellationToken) {
        let Some(PlannedAttempt { master, reason, .. }) = self.planned.take() else {
            return;
        };
        let Some(connector) = self.uplink.dialers.get(master) else {
            return;
        };
        // The attempts that run at the same time share one race.
        if self.attempts.is_empty() {
            self.race = Arc::default();
        }
        let epoch = next_epoch();
        // The master must not close an existing link when it accepts the new one.
        let has_link_there = [&self.current, &self.retiring]
            .into_iter()
            .flatten()
            .any(|link| link.master == master);
        let link = ManagedLink {
            epoch,
            master,
            reason,
            outbox: Outbox::new(),
            cancel: cancel.child_token(),
            since: Instant::now(),
            replace_at: None,
            retired_at: None,
            going_away: false,
        };
        let attempt = Attempt {
            uplink: Arc::clone(&self.uplink),
            role: Arc::clone(&self.role),
            outbox: Arc::clone(&link.outbox),
            master,
            epoch,
            moves: has_link_there || self.shares_master,
            race: Arc::clone(&self.race),
            timing: self.keep_alive_timing(master),
            reports: self.reporter.clone(),
        };
        let running = attempt.run(link.cancel.clone());
        let span = info_span!("link", number = epoch, master = %connector.name());
        self.tasks
            .spawn(async move { (epoch, running.await) }.instrument(span));
        self.attempts.push(link);
        self.plan_competitor(STAGGER);
    }

    /// Plans an attempt at the next master beside the running ones, not before `after`, if masters
    /// are raced. A link that is only replaced because of its age stays at its master.
    fn plan_competitor(&mut self, after: Duration) {
        let is_raced = self.uplink.strategy == DialStrategy::Raced;
        let Some(last) = self
            .attempts
            .last()
            .filter(|last| is_raced && !matches!(last.reason, DialReason::Rotation))
        else {
            return;
        };
        let (now, reason) = (Instant::now(), last.reason.clone());
        let competitor = self.retry_policy.next(now, last.master, &|master| {
            self.is_excluded(master, &reason)
        });
        self.planned = competitor.map(|NextAttempt { master, wait }| PlannedAttempt {
            at: now + wait.max(after),
            master,
            reason,
        });
    }

    /// Whether an attempt for this reason is useless at this master.
    fn is_excluded(&self, master: usize, reason: &DialReason) -> bool {
        let is_left = matches!(reason, DialReason::SwitchMaster)
            && self
                .current
                .as_ref()
                .is_some_and(|current| current.master == master);
        is_left || self.attempts.iter().any(|attempt| attempt.master == master)
    }

    fn keep_alive_timing(&self, master: usize) -> KeepAliveTiming {
        let timing = self.uplink.timing;
        let learned = self
            .path_timeouts
            .get(master)
            .and_then(PathTimeouts::keep_alive_interval);
        KeepAliveTiming {
            interval: learned.map_or(timing.interval, |learned| learned.min(timing.interval)),
            ..timing
        }
    }

    /// Puts a link that has joined into use.
    fn on_joined(&mut self, epoch: u64) {
        let Some(mut link) = self.take_attempt(epoch) else {
            return;
        };
        self.planned = None;
        self.attempts
            .drain(..)
            .for_each(|loser| loser.cancel.cancel());
        self.failing_since = None;
        self.retry_policy.on_joined(link.master);
        let took_ms = link.since.elapsed().as_millis() as u64;
        link.since = Instant::now();
        link.replace_at = self.replace_after(link.master).map(|age| link.since + age);
        let (master, why) = (self.master_name(link.master), link.reason.clone());
        self.role
            .on_link_event(LinkEvent::Joined { master: &master });
        match self.current.replace(link) {
            None => info!(%master, number = epoch, took_ms, "linked to the master"),
            Some(old) => {
                info!(%master, number = epoch, took_ms, %why, "moved to a new link");
                self.retire(old);
            }
        }
    }

    /// Removes an attempt from the running ones.
    fn take_attempt(&mut self, epoch: u64) -> Option<ManagedLink> {
        let position = self
            .attempts
            .iter()
            .position(|attempt| attempt.epoch == epoch)?;
        Some(self.attempts.remove(position))
    }

    fn retire(&mut self, mut old: ManagedLink) {
        let lived = old.since.elapsed();
        self.learn(old.master, |path| path.on_survived(lived));
        old.retired_at = Some(Instant::now());
        self.role.retiring(&old.outbox);
        debug_assert!(self.retiring.is_none(), "never more than two links");
        self.retiring = Some(old);
    }

    fn replace_after(&mut self, master: usize) -> Option<Duration> {
        let learned = self
            .path_timeouts
            .get_mut(master)
            .and_then(|path| path.replace_after(fastrand::f64()));
        learned.into_iter().chain(self.uplink.rotate_after).min()
    }

    fn on_go_away(&mut self, epoch: u64, notice: Notice) {
        // A retiring link is being left anyway.
        let Some(current) = self
            .current
            .as_mut()
            .filter(|current| current.epoch == epoch)
        else {
            return;
        };
        info!(
            number = epoch,
            "the master asks to move to another link: {notice}"
        );
        current.going_away = true;
        if self.attempts.is_empty() {
            let next = self.retry_policy.on_link_end(
                Instant::now(),
                current.master,
                current.since.elapsed(),
            );
            return self.plan_move(next, DialReason::GoAway(notice));
        }
        // The running attempts now serve this purpose, so their failures are retried with this
        // reason.
        self.attempts
            .iter_mut()
            .for_each(|attempt| attempt.reason = DialReason::GoAway(notice.clone()));
        self.plan_competitor(STAGGER);
    }

    fn rotate(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        let is_free = self.attempts.is_empty() && self.planned.is_none();
        // Another link is being established: look again in case it fails.
        current.replace_at = (!is_free).then(|| Instant::now() + ROTATION_RETRY);
        if is_free {
            let next = NextAttempt {
                master: current.master,
                wait: Duration::ZERO,
            };
            self.plan_move(next, DialReason::Rotation);
        }
    }

    fn switch_master(&mut self) {
        // The request is dropped if another link is planned: a role that still needs another master
        // asks again.
        let Some(current) = self
            .current
            .as_ref()
            .filter(|_| self.attempts.is_empty() && self.planned.is_none())
        else {
            return;
        };
        let other = self
            .retry_policy
            .next(Instant::now(), current.master, &|master| {
                self.is_excluded(master, &DialReason::SwitchMaster)
            });
        if let Some(next) = other {
            self.plan_move(next, DialReason::SwitchMaster);
        }
    }

    fn plan_move(&mut self, next: NextAttempt, reason: DialReason) {
        let must_go = matches!(reason, DialReason::GoAway(_));
        self.planned = Some(PlannedAttempt {
            at: Instant::now() + next.wait,
            master: next.master,
            reason,
        });
        if must_go && self.has_two_links() {
            // The current link will end soon, so the retiring one has to make room. Tunnels that
            // have not moved off it are resumed. A voluntary move waits until the retiring link is
            // unused.
            self.close_retiring();
        }
    }

    fn close_retiring(&mut self) {
        let Some(old) = &self.retiring else { return };
        debug!(
            number = old.epoch,
            channels = old.outbox.len(),
            "closing the old link"
        );
        old.cancel.cancel();
    }

    fn on_ended(&mut self, epoch: u64, outcome: AttemptOutcome) {
        if let Some(attempt) = self.take_attempt(epoch) {
            // An attempt that lost a race did not fail. Its end may arrive before the winner's
            // report.
            if !matches!(outcome, AttemptOutcome::Cancelled) {
                self.on_attempt_failed(attempt, outcome);
            }
        } else if let Some(current) = self.current.take_if(|current| current.epoch == epoch) {
            self.on_link_lost(current, outcome);
        } else if self.retiring.take_if(|old| old.epoch == epoch).is_some()
            && let AttemptOutcome::Link { reason, .. } = outcome
        {
            debug!(number = epoch, "the old link ended: {reason}");
        }
    }

    /// Handles a failed attempt. The current link, if there is one, stays in use.
    fn on_attempt_failed(&mut self, attempt: ManagedLink, outcome: AttemptOutcome) {
        let retryable = match &outcome {
            AttemptOutcome::Join(error) => error.is_retryable(),
            _ => true,
        };
        let now = Instant::now();
        let linkless = now - *self.failing_since.get_or_insert(now);
        let master = self.master_name(attempt.master);
        let rest = self
            .retry_policy
            .on_attempt_failed(now, attempt.master, retryable, linkless);
        log_failure(&master, &outcome, rest);
        if let Some(error) = failure_message(&outcome) {
            self.role.on_link_event(LinkEvent::Failed {
                master: &master,
                error,
            });
        }
        if self.attempts.is_empty() {
            self.plan_retry(attempt.master, attempt.reason)
        } else {
            self.plan_competitor(Duration::ZERO)
        }
    }

    /// Plans the attempt that follows a failed one when no other is running.
    fn plan_retry(&mut self, master: usize, reason: DialReason) {
        let now = Instant::now();
        let next = self
            .retry_policy
            .next(now, master, &|master| self.is_excluded(master, &reason));
        // A switch of masters is dropped if no other master is ready. A plan would block rotation
        // in the meantime, and a role whose link works can ask again.
        let is_ready = next.is_some_and(|next| !self.retry_policy.is_resting(now, next.master));
        self.planned = next
            .filter(|_| is_ready || !matches!(reason, DialReason::SwitchMaster))
            .map(|NextAttempt { master, wait }| PlannedAttempt {
                at: now + wait,
                master,
                reason,
            });
    }

    /// Handles the end of the link in use.
    fn on_link_lost(&mut self, current: ManagedLink, outcome: AttemptOutcome) {
        let AttemptOutcome::Link {
            reason,
            lived,
            idle,
            is_stuck,
        } = outcome
        else {
            return;
        };
        self.check_black_hole(current.master, lived, is_stuck);
        // Only an unannounced end of a connection that worked shows a limit of the path.
        let is_cut_by_path = !current.going_away
            && !is_stuck
            && matches!(reason, EndReason::ConnectionLost(_) | EndReason::PeerClosed);
        self.learn(current.master, |path| {
            if is_cut_by_path {
                path.on_cut(lived, idle)
            } else {
                path.on_survived(lived)
            }
        });
        let superseded =
            matches!(&reason, EndReason::PeerError(notice) if notice.code == Code::Superseded);
        if superseded && !std::mem::replace(&mut self.shares_master, true) {
            warn!(
                "another link of this process is at the same master; check whether `master` lists \
                 two of its addresses"
            );
        }
        let NextAttempt { master, wait } =
            self.retry_policy
                .on_link_end(Instant::now(), current.master, lived);
        let (retry_ms, lived_s) = (wait.as_millis() as u64, lived.as_secs());
        warn!(
            master = %self.master_name(current.master),
            number = current.epoch,
            retry_ms,
            lived_s,
            "the link was lost: {reason}"
        );
        if self.attempts.is_empty() {
            self.planned = Some(PlannedAttempt {
                at: Instant::now() + wait,
                master,
                reason: DialReason::NoLink,
            });
        } else {
            // The running attempts are no longer voluntary: their failures must be retried in any
            // case.
            self.attempts
                .iter_mut()
                .for_each(|attempt| attempt.reason = DialReason::NoLink);
            self.plan_competitor(Duration::ZERO);
        }
    }

    fn check_black_hole(&mut self, master: usize, lived: Duration, is_stuck: bool) {
        let is_detected = self
            .black_holes
            .get_mut(master)
            .is_some_and(|path| path.on_link_end(lived, is_stuck));
        if let Some(connector) = self.uplink.dialers.get(master).filter(|_| is_detected) {
            connector.use_small_segments();
            let Diagnosis {
                code,
                evidence,
                cause,
                remedy,
            } = tcp::black_hole(EVIDENCE);
            warn!(
                master = %connector.name(),
                %code,
                "{evidence}: {cause}; links use segments of {} bytes from now on; {remedy}",
                tcp::SMALL_SEGMENT
            );
        }
    }

    fn learn(&mut self, master: usize, from: impl FnOnce(&mut PathTimeouts) -> Option<PathLimit>) {
        if let Some(limit) = self.path_timeouts.get_mut(master).and_then(from) {
            info!(master = %self.master_name(master), "{limit}");
        }
    }

    fn master_name(&self, master: usize) -> String {
        self.uplink
            .dialers
            .get(master)
            .map(Connector::name)
            .unwrap_or_default()
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Returns the result of a link's task, or continues its panic.
fn resume_panic(ended: Result<(u64, AttemptOutcome), TaskError>) -> (u64, AttemptOutcome) {
    match ended.map_err(TaskError::try_into_panic) {
        Ok(ended) => ended,
        Err(Ok(panic)) => resume_unwind(panic),
        // The supervisor aborts no task while it waits for the set.
        Err(Err(_)) => (0, AttemptOutcome::Cancelled),
    }
}
