//! Handles what happens to a link: it joins, the master announces its end, or it ends.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, field::display, info};

use super::LinkSupervisor;
use crate::{
    diagnosis::Diagnosis,
    link::EndReason,
    net::{congestion_control::CongestionControlInUse, tcp},
    supervisor::{
        attempt::AttemptOutcome,
        black_hole::EVIDENCE,
        dial_reason::{DialReason, failure_message, log_failure},
        managed_link::{ManagedLink, PlannedAttempt},
        path_timeouts::{PathLimit, PathTimeouts},
        race::STAGGER,
        retry_policy::{AttemptFailure, NextAttempt},
        uplink::{Connector, LinkEvent, LinkedRole, RetirementCause},
    },
};
use report_proto::frame::Notice;

impl<R: LinkedRole, W: Connector> LinkSupervisor<R, W> {
    /// Puts a link that has joined into use. Its master advises `advised_range` for later attempts.
    pub(super) fn on_joined(
        &mut self,
        epoch: u64,
        congestion_control: CongestionControlInUse,
        advised_range: Duration,
    ) {
        let Some(mut link) = self.take_attempt(epoch) else {
            return;
        };
        self.planned = None;
        self.attempts
            .drain(..)
            .for_each(|loser| loser.cancel.cancel());
        self.failing_since = None;
        self.retry_policy.on_joined(link.master, advised_range);
        let took_ms = link.since.elapsed().as_millis() as u64;
        link.since = Instant::now();
        link.replace_at = self.replace_after(link.master).map(|age| link.since + age);
        let (master, why) = (self.master_name(link.master), link.reason.clone());
        self.report(LinkEvent::Joined { master: &master });
        self.membership.handover().set_joined();
        let (slot, is_additional) = (self.uplink.slot, self.membership.is_additional());
        let congestion_control = congestion_control.algorithm().map(display);
        match self.current.replace(link) {
            None if is_additional => {
                debug!(%master, number = epoch, %slot, took_ms, congestion_control, "linked to the master");
            }
            None => {
                info!(%master, number = epoch, took_ms, congestion_control, "linked to the master");
            }
            Some(old) => {
                log_link!(is_additional, info, %master, number = epoch, took_ms, congestion_control, %why, "moved to a new link");
                self.retire(old, RetirementCause::Replaced);
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

    /// Reports an event to the role, which waits for the first link of the set only.
    fn report(&self, event: LinkEvent<'_>) {
        if !self.membership.is_additional() {
            self.role.on_link_event(event);
        }
    }

    fn retire(&mut self, mut old: ManagedLink, cause: RetirementCause) {
        let lived = old.since.elapsed();
        self.learn(old.master, |path| path.on_survived(lived));
        old.begin_retirement();
        self.role.retiring(&old.link, cause);
        self.retiring.push(old);
        debug_assert!(self.links().count() <= 2, "never more than two links");
    }

    /// Retires the link in use without a successor, and ends the attempts.
    pub(super) fn give_up(&mut self) {
        if let Some(current) = &self.current {
            debug!(number = current.epoch, slot = %self.uplink.slot, "the link is not needed any more");
        }
        self.leave(RetirementCause::Surplus);
    }

    /// Retires the link in use, and ends the attempts. An even older link keeps the rest of its time:
    /// its tunnels may not have moved yet.
    pub(super) fn leave(&mut self, cause: RetirementCause) {
        (self.planned, self.failing_since) = (None, None);
        for attempt in self.attempts.drain(..) {
            attempt.cancel.cancel();
            // The master may have accepted it. If the next link arrived there first, the master
            // could end an older link of the slot, with its channels.
            self.retiring.push(attempt);
        }
        if let Some(current) = self.current.take() {
            self.retire(current, cause);
        }
    }

    /// Closes an old link.
    pub(super) fn close_retiring(&mut self, epoch: u64) {
        let Some(old) = self.retiring.iter().find(|old| old.epoch == epoch) else {
            return;
        };
        debug!(
            number = old.epoch,
            channels = old.link.outbox.len(),
            "closing the old link"
        );
        old.cancel.cancel();
    }

    pub(super) fn on_go_away(&mut self, epoch: u64, notice: Notice) {
        // A retiring link is being left anyway.
        let Some(current) = self
            .current
            .as_mut()
            .filter(|current| current.epoch == epoch)
        else {
            return;
        };
        log_link!(
            self.membership.is_additional(),
            info,
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

    pub(super) fn on_ended(&mut self, epoch: u64, outcome: AttemptOutcome) {
        if let Some(attempt) = self.take_attempt(epoch) {
            // An attempt that lost a race did not fail. Its end may arrive before the winner's
            // report.
            if !matches!(outcome, AttemptOutcome::Cancelled) {
                self.on_attempt_failed(attempt, outcome);
            }
        } else if let Some(current) = self.current.take_if(|current| current.epoch == epoch) {
            self.on_link_lost(current, outcome);
        } else {
            self.retiring.retain(|old| old.epoch != epoch);
            if let AttemptOutcome::Link { reason, .. } = outcome {
                debug!(number = epoch, "the old link ended: {reason}");
            }
        }
    }

    /// Handles a failed attempt. The current link, if there is one, stays in use.
    fn on_attempt_failed(&mut self, attempt: ManagedLink, outcome: AttemptOutcome) {
        let now = Instant::now();
        let failure = AttemptFailure {
            is_retryable: match &outcome {
                AttemptOutcome::Join(error) => error.is_retryable(),
                _ => true,
            },
            linkless: now - *self.failing_since.get_or_insert(now),
            retry_after: outcome.retry_after(),
        };
        let master = self.master_name(attempt.master);
        let rest = self
            .retry_policy
            .on_attempt_failed(now, attempt.master, failure);
        log_failure(&master, &outcome, rest, self.membership.is_additional());
        if let Some(error) = failure_message(&outcome) {
            self.report(LinkEvent::Failed {
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

    /// Handles the end of the link in use.
    fn on_link_lost(&mut self, current: ManagedLink, outcome: AttemptOutcome) {
        let now = Instant::now();
        let retry_after = outcome.retry_after();
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
        self.learn_from_end(&current, &reason, (lived, idle), is_stuck);
        if let Some(wait) = retry_after {
            self.retry_policy.on_refused(now, current.master, wait);
        }
        let NextAttempt { master, wait } =
            self.retry_policy.on_link_end(now, current.master, lived);
        let (retry_ms, lived_s) = (wait.as_millis() as u64, lived.as_secs());
        log_link!(
            self.membership.is_additional(),
            warn,
            master = %self.master_name(current.master),
            number = current.epoch,
            retry_ms,
            retry_after_s = retry_after.map(|wait| wait.as_secs()),
            lived_s,
            "the link was lost: {reason}"
        );
        if self.attempts.is_empty() {
            self.planned = Some(PlannedAttempt {
                at: now + wait,
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

    /// Learns the limits of the path from the end of the link in use.
    fn learn_from_end(
        &mut self,
        current: &ManagedLink,
        reason: &EndReason,
        (lived, idle): (Duration, Duration),
        is_stuck: bool,
    ) {
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
            log_link!(
                self.membership.is_additional(),
                warn,
                master = %connector.name(),
                %code,
                "{evidence}: {cause}; links use segments of {} bytes from now on; {remedy}",
                tcp::SMALL_SEGMENT
            );
        }
    }

    fn learn(&mut self, master: usize, from: impl FnOnce(&mut PathTimeouts) -> Option<PathLimit>) {
        if let Some(limit) = self.path_timeouts.get_mut(master).and_then(from) {
            log_link!(
                self.membership.is_additional(),
                info,
                master = %self.master_name(master),
                "{limit}"
            );
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
