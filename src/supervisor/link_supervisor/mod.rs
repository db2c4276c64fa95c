//! Supervises the links of a slot: at most two are up at a time, and the newest one is in use. If
//! masters are raced, attempts at several of them may run in parallel to establish the next link.
//!
//! ```text
//!            plan is due           joined            newer link joined
//!   planned ───────────► attempts ────────► current ───────────────────► retiring ──► closed
//!     ▲                     │ failed           │ ended: replace now         │ no channel,
//!     └─────────────────────┴──────────────────┤                            │ or RETIREMENT
//!                                              ├ GOAWAY, rotation, MoveRequests: plan another
//!                                              ├ not wanted by the set: retiring, without a plan
//!                                              └ another set takes over: the same, and the end
//! ```
//!
//! A link that retires keeps its time to be left when newer ones retire too. Only GOAWAY on a newer
//! one shortens it, because the next link waits for it. Two links may therefore retire at the same
//! time: one that was replaced, and the newer one, which the set does not want any more. The next
//! link then waits for one of them.
//!
//! Each link runs in a separate task, which the supervisor joins. The supervisor decides when and
//! where to dial; `attempt` establishes a link.
//!
//! `plans` decides about the next link, `link_events` reacts to what happens to the existing ones.

mod link_events;
mod plans;

use std::{future::pending, panic::resume_unwind, sync::Arc};

use tokio::{
    sync::mpsc,
    task::{JoinError as TaskError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::{AttemptEvent, AttemptOutcome, AttemptReport},
    black_hole::BlackHoleDetector,
    dial_reason::DialReason,
    managed_link::{ManagedLink, PlannedAttempt, next_unused},
    membership::Membership,
    path_timeouts::PathTimeouts,
    race::Race,
    retry_policy::RetryPolicy,
    uplink::{Connector, LinkedRole, Uplink},
};
use report_proto::frame::Role;

/// The capacity for reports: two for each of the next link and the two that are up, with some
/// spare. Of attempts in a race only the winner reports.
const REPORT_CAPACITY: usize = 8;

/// The next event of the supervisor.
enum SupervisorEvent {
    Cancelled,
    Reported(AttemptReport),
    Ended(Result<(u64, AttemptOutcome), TaskError>),
    PlanDue,
    RetiringUnused(u64),
    RotationDue,
    OtherMasterRequested,
    WantedChanged,
    Superseded,
}

/// The supervisor of one uplink's links.
pub(super) struct LinkSupervisor<R, W> {
    uplink: Arc<Uplink<W>>,
    role: Arc<R>,
    membership: Membership,
    tasks: JoinSet<(u64, AttemptOutcome)>,
    reporter: mpsc::Sender<AttemptReport>,
    reports: mpsc::Receiver<AttemptReport>,
    planned: Option<PlannedAttempt>,
    /// The running attempts: one, or several in a race.
    attempts: Vec<ManagedLink>,
    race: Arc<Race>,
    current: Option<ManagedLink>,
    /// The links that are being left, and the attempts that were given up, until they have ended.
    retiring: Vec<ManagedLink>,
    retry_policy: RetryPolicy,
    path_timeouts: Vec<PathTimeouts>,
    black_holes: Vec<BlackHoleDetector>,
    /// When the current series of failed attempts began.
    failing_since: Option<Instant>,
    /// Another set takes over: no further links.
    is_superseded: bool,
}

impl<R: LinkedRole, W: Connector> LinkSupervisor<R, W> {
    /// Creates a supervisor that dials at once.
    pub(super) fn new(uplink: Uplink<W>, role: Arc<R>, membership: Membership) -> Self {
        let (reporter, reports) = mpsc::channel(REPORT_CAPACITY);
        let masters = uplink.dialers.len();
        LinkSupervisor {
            uplink: Arc::new(uplink),
            role,
            membership,
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
            retiring: Vec::new(),
            retry_policy: RetryPolicy::new(masters),
            path_timeouts: (0..masters).map(|_| PathTimeouts::default()).collect(),
            black_holes: vec![BlackHoleDetector::default(); masters],
            failing_since: None,
            is_superseded: false,
        }
    }

    /// Keeps a link up until `cancel` is cancelled or another set has taken over, then waits until
    /// all links are closed gracefully. Returns early if there is no master.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the links.
    pub(super) async fn run(mut self, cancel: &CancellationToken) {
        if self.uplink.dialers.is_empty() {
            return;
        }
        while !self.has_handed_over() {
            match self.next_event(cancel).await {
                SupervisorEvent::Cancelled => break,
                SupervisorEvent::Reported((
                    epoch,
                    AttemptEvent::Joined {
                        congestion_control,
                        advised_range,
                    },
                )) => {
                    self.on_joined(epoch, congestion_control, advised_range);
                }
                SupervisorEvent::Reported((epoch, AttemptEvent::GoAway(notice))) => {
                    self.on_go_away(epoch, notice);
                }
                SupervisorEvent::Ended(ended) => {
                    let (epoch, outcome) = resume_panic(ended);
                    self.on_ended(epoch, outcome);
                }
                SupervisorEvent::PlanDue => self.start_attempt(cancel),
                SupervisorEvent::RetiringUnused(epoch) => self.close_retiring(epoch),
                SupervisorEvent::RotationDue => self.rotate(),
                SupervisorEvent::OtherMasterRequested => self.switch_master(),
                SupervisorEvent::WantedChanged => self.on_wanted_changed(),
                SupervisorEvent::Superseded => self.hand_over(),
            }
            let master = self.current.as_ref().map(|current| current.master);
            self.membership.publish(master);
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
        let (handover, is_in_use) = (self.membership.handover(), !self.is_superseded);
        tokio::select! {
            biased;
            () = cancel.cancelled() => SupervisorEvent::Cancelled,
            // Polled before the ends of tasks, because a link reports its join before it ends.
            Some(report) = self.reports.recv() => SupervisorEvent::Reported(report),
            Some(ended) = self.tasks.join_next() => SupervisorEvent::Ended(ended),
            // Before the plan, so that no link is dialled that the set no longer wants.
            () = self.membership.wanted_changed() => SupervisorEvent::WantedChanged,
            () = handover.superseded(), if is_in_use => SupervisorEvent::Superseded,
            () = wait_until(due) => SupervisorEvent::PlanDue,
            epoch = next_unused(&self.retiring, server) =>
                SupervisorEvent::RetiringUnused(epoch),
            () = wait_until(replace_at) => SupervisorEvent::RotationDue,
            () = self.uplink.move_requests.new_link_requested(), if is_in_use =>
                SupervisorEvent::RotationDue,
            () = self.uplink.move_requests.other_master_requested(), if is_in_use =>
                SupervisorEvent::OtherMasterRequested,
        }
    }

    /// Dials if the set wants a link and none is up, or gives up what the set does not want.
    fn on_wanted_changed(&mut self) {
        if self.is_superseded {
            return;
        }
        if !self.membership.is_wanted() {
            return self.give_up();
        }
        if self.current.is_none() && self.attempts.is_empty() && self.planned.is_none() {
            self.plan_retry(0, DialReason::NoLink);
        }
    }

    /// Retires the link in use, because another set takes over.
    fn hand_over(&mut self) {
        self.is_superseded = true;
        self.leave(self.membership.handover().cause());
    }

    /// Whether another set has taken over, and no link is left.
    fn has_handed_over(&self) -> bool {
        self.is_superseded && self.attempts.is_empty() && self.links().next().is_none()
    }

    /// Whether two links are up, so that no other one may be established.
    fn has_two_links(&self) -> bool {
        self.links().count() >= 2
    }

    /// Returns the links that are up, and the attempts that were given up and have not ended. The
    /// master may have accepted one of those already.
    fn links(&self) -> impl Iterator<Item = &ManagedLink> {
        self.current.iter().chain(&self.retiring)
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
