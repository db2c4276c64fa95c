//! Plans the next link and starts the attempts to establish it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::LinkSupervisor;
use crate::{
    link::{KeepAliveTiming, Outbox},
    supervisor::{
        attempt::Attempt,
        dial_reason::DialReason,
        managed_link::{ManagedLink, PlannedAttempt, next_epoch},
        path_timeouts::PathTimeouts,
        race::STAGGER,
        retry_policy::{MAX_REST, NextAttempt},
        uplink::{Connector, DialStrategy, LinkedRole, RoleLink},
    },
};

/// The delay of a due rotation while another link is already planned or being established.
const ROTATION_RETRY: Duration = Duration::from_secs(1);

impl<R: LinkedRole, W: Connector> LinkSupervisor<R, W> {
    pub(super) fn start_attempt(&mut self, cancel: &CancellationToken) {
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
        let has_link_there = self.links().any(|link| link.master == master)
            || self.membership.handover().has_predecessor();
        let link = ManagedLink {
            epoch,
            master,
            reason,
            link: self.new_link(),
            cancel: cancel.child_token(),
            since: Instant::now(),
            replace_at: None,
            retirement: None,
            going_away: false,
        };
        let attempt = Attempt {
            uplink: Arc::clone(&self.uplink),
            role: Arc::clone(&self.role),
            link: link.link.clone(),
            master,
            epoch,
            moves: has_link_there,
            race: Arc::clone(&self.race),
            timing: self.keep_alive_timing(master),
            connections: self.membership.connections(),
            reports: self.reporter.clone(),
        };
        let running = attempt.run(link.cancel.clone());
        let slot = link.link.is_additional.then_some(link.link.slot.number());
        let span = info_span!("link", number = epoch, slot, master = %connector.name());
        self.tasks
            .spawn(async move { (epoch, running.await) }.instrument(span));
        self.attempts.push(link);
        self.plan_competitor(STAGGER);
    }

    fn new_link(&self) -> RoleLink {
        RoleLink {
            outbox: Outbox::new(),
            slot: self.uplink.slot,
            is_additional: self.membership.is_additional(),
            move_requests: self.uplink.move_requests.clone(),
        }
    }

    /// Plans an attempt at the next master beside the running ones, not before `after`, if masters
    /// are raced. A link that is only replaced because of its age stays at its master.
    pub(super) fn plan_competitor(&mut self, after: Duration) {
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

    pub(super) fn rotate(&mut self) {
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

    pub(super) fn replace_after(&mut self, master: usize) -> Option<Duration> {
        let learned = self
            .path_timeouts
            .get_mut(master)
            .and_then(|path| path.replace_after(fastrand::f64()));
        learned.into_iter().chain(self.uplink.rotate_after).min()
    }

    pub(super) fn switch_master(&mut self) {
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
        // A plan blocks rotation, so it must not wait as long as a full master may ask for.
        if let Some(next) = other.filter(|next| next.wait <= MAX_REST) {
            self.plan_move(next, DialReason::SwitchMaster);
        }
    }

    pub(super) fn plan_move(&mut self, next: NextAttempt, reason: DialReason) {
        let must_go = matches!(reason, DialReason::GoAway(_));
        self.planned = Some(PlannedAttempt {
            at: Instant::now() + next.wait,
            master: next.master,
            reason,
        });
        if must_go && self.has_two_links() {
            // The current link will end soon, so the retiring one has to make room: as soon as it
            // is unused, as for a voluntary move, but within a shorter time. Tunnels that have not
            // moved off it by then are resumed.
            self.retiring
                .iter_mut()
                .for_each(ManagedLink::hasten_retirement);
        }
    }

    /// Plans the attempt that follows a failed one when no other is running.
    pub(super) fn plan_retry(&mut self, master: usize, reason: DialReason) {
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
}
