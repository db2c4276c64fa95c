//! Which of several targets are healthy, and in which order a connection tries them. Pure: time is an
//! argument.
//!
//! A target is healthy unless its checks say otherwise, or it has just refused a connection:
//!
//! ```text
//!              unhealthy_after failed checks
//!   healthy ────────────────────────────────────► unhealthy
//!    │   ▲  ◄──────────────────────────────────── (healthy_after successful checks)
//!    │   └── a connection or a check succeeds
//!    └─ a connection fails ─► avoided: last choice for AVOIDED_FOR, then one connection tries it
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::config::TargetChoice;

/// How long a target is the last choice after a connection to it has failed. A dead host then delays
/// few connections, and a restarted service is used again soon.
const AVOIDED_FOR: Duration = Duration::from_secs(10);

/// The numbers of successive checks that change the health of a target.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckThresholds {
    /// Successful checks after which an unhealthy target is healthy.
    pub healthy_after: u32,
    /// Failed checks after which a healthy target is unhealthy.
    pub unhealthy_after: u32,
}

/// A change that a check of a target causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthChange {
    /// The target is healthy again.
    Healthy,
    /// The target is not healthy any more.
    Unhealthy,
}

/// The states of all targets of a port, by their position in the configuration.
#[derive(Debug)]
pub(super) struct TargetStates {
    choice: TargetChoice,
    thresholds: CheckThresholds,
    states: Vec<TargetState>,
    /// The number of connections so far, for [`TargetChoice::Spread`].
    turn: usize,
}

/// The state of one target.
#[derive(Debug, Clone, Default)]
struct TargetState {
    /// Whether the checks have failed.
    is_unhealthy: bool,
    /// The number of successive checks that contradict `is_unhealthy`.
    contrary_checks: u32,
    /// The time until which the target is the last choice. Present from a failed connection to the
    /// next success.
    avoided_until: Option<Instant>,
    /// Connections that failed.
    failures: u64,
}

impl TargetState {
    fn is_healthy(&self) -> bool {
        !self.is_unhealthy && self.avoided_until.is_none()
    }

    /// Whether a connection may choose the target first.
    fn is_preferred(&self, now: Instant) -> bool {
        !self.is_unhealthy && self.avoided_until.is_none_or(|until| until <= now)
    }
}

impl TargetStates {
    /// Creates the states of `count` healthy targets.
    pub(super) fn new(count: usize, choice: TargetChoice, thresholds: CheckThresholds) -> Self {
        TargetStates {
            choice,
            thresholds,
            states: vec![TargetState::default(); count],
            turn: 0,
        }
    }

    /// Returns the order in which a new connection tries the targets: the healthy ones first.
    pub(super) fn order(&mut self, now: Instant) -> Vec<usize> {
        let is_preferred = |index: &usize| {
            let state = self.states.get(*index);
            state.is_some_and(|state| state.is_preferred(now))
        };
        let (mut order, mut last): (Vec<usize>, Vec<usize>) =
            (0..self.states.len()).partition(is_preferred);
        if self.choice == TargetChoice::Spread {
            rotate(&mut order, self.turn);
            rotate(&mut last, self.turn);
            self.turn = self.turn.wrapping_add(1);
        }
        order.append(&mut last);
        let first = order.first().and_then(|first| self.states.get_mut(*first));
        if let Some(TargetState {
            avoided_until: Some(until),
            ..
        }) = first
        {
            // This connection tries the target. The others wait for its result.
            *until = now + AVOIDED_FOR;
        }
        order
    }

    /// Records a connection. Returns whether the target is healthy again.
    pub(super) fn on_connected(&mut self, index: usize) -> bool {
        let Some(state) = self.states.get_mut(index) else {
            return false;
        };
        let was_healthy = state.is_healthy();
        state.avoided_until = None;
        state.is_healthy() && !was_healthy
    }

    /// Records a failed connection. Returns whether the target was healthy.
    pub(super) fn on_connect_failed(&mut self, index: usize, now: Instant) -> bool {
        let Some(state) = self.states.get_mut(index) else {
            return false;
        };
        let was_healthy = state.is_healthy();
        state.failures = state.failures.saturating_add(1);
        state.avoided_until = Some(now + AVOIDED_FOR);
        was_healthy
    }

    /// Records the result of a check. Returns the change, if there is one.
    pub(super) fn on_checked(&mut self, index: usize, has_succeeded: bool) -> Option<HealthChange> {
        let needed = if has_succeeded {
            self.thresholds.healthy_after
        } else {
            self.thresholds.unhealthy_after
        };
        let state = self.states.get_mut(index)?;
        let (was_healthy, was_unhealthy) = (state.is_healthy(), state.is_unhealthy);
        if has_succeeded {
            state.avoided_until = None;
        }
        if has_succeeded == state.is_unhealthy {
            state.contrary_checks = state.contrary_checks.saturating_add(1);
        } else {
            state.contrary_checks = 0;
        }
        if state.contrary_checks >= needed {
            state.is_unhealthy = !has_succeeded;
            state.contrary_checks = 0;
        }
        if state.is_unhealthy && !was_unhealthy {
            return Some(HealthChange::Unhealthy);
        }
        (state.is_healthy() && !was_healthy).then_some(HealthChange::Healthy)
    }

    /// Returns whether each target is healthy, and how many connections to it have failed.
    pub(super) fn report(&self) -> impl Iterator<Item = (bool, u64)> {
        self.states
            .iter()
            .map(|state| (state.is_healthy(), state.failures))
    }
}

fn rotate(order: &mut [usize], turn: usize) {
    if let Some(places) = turn.checked_rem(order.len()) {
        order.rotate_left(places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(count: usize, choice: TargetChoice) -> TargetStates {
        let thresholds = CheckThresholds {
            healthy_after: 2,
            unhealthy_after: 3,
        };
        TargetStates::new(count, choice, thresholds)
    }

    /// Returns the first choices of this many connections.
    fn firsts(states: &mut TargetStates, connections: usize, now: Instant) -> Vec<usize> {
        (0..connections).map(|_| states.order(now)[0]).collect()
    }

    /// Records the failed checks that make a target unhealthy.
    fn fail_checks(states: &mut TargetStates, index: usize) {
        for _ in 0..states.thresholds.unhealthy_after {
            states.on_checked(index, false);
        }
    }

    #[test]
    fn ordered_prefers_the_first_healthy_target() {
        let (mut states, now) = (states(3, TargetChoice::Ordered), Instant::now());
        assert_eq!(states.order(now), [0, 1, 2]);
        assert_eq!(states.order(now), [0, 1, 2]);
        assert!(states.on_connect_failed(0, now));
        assert_eq!(states.order(now), [1, 2, 0]);
        fail_checks(&mut states, 1);
        assert_eq!(states.order(now), [2, 0, 1]);
        fail_checks(&mut states, 2);
        assert_eq!(
            states.order(now),
            [0, 1, 2],
            "with none healthy, all in order"
        );
    }

    #[test]
    fn spread_takes_the_healthy_targets_in_turn() {
        let (mut states, now) = (states(3, TargetChoice::Spread), Instant::now());
        assert_eq!(states.order(now), [0, 1, 2]);
        assert_eq!(states.order(now), [1, 2, 0]);
        assert_eq!(firsts(&mut states, 4, now), [2, 0, 1, 2]);
        states.on_connect_failed(1, now);
        let firsts = firsts(&mut states, 6, now);
        let of = |target| firsts.iter().filter(|first| **first == target).count();
        assert_eq!((of(0), of(1), of(2)), (3, 0, 3), "{firsts:?}");
        assert_eq!(states.order(now).last(), Some(&1));
    }

    #[test]
    fn one_connection_tries_an_avoided_target_after_its_time() {
        let (mut states, now) = (states(2, TargetChoice::Ordered), Instant::now());
        states.on_connect_failed(0, now);
        let before = now + AVOIDED_FOR - Duration::from_millis(1);
        assert_eq!(firsts(&mut states, 2, before), [1, 1]);
        let later = now + AVOIDED_FOR;
        assert_eq!(firsts(&mut states, 3, later), [0, 1, 1]);
        assert!(states.on_connected(0), "healthy again");
        assert!(!states.on_connected(0), "no news");
        assert_eq!(firsts(&mut states, 2, later), [0, 0]);
    }

    #[test]
    fn a_failure_is_news_once_and_counted_each_time() {
        let (mut states, now) = (states(2, TargetChoice::Ordered), Instant::now());
        assert!(states.on_connect_failed(1, now));
        assert!(!states.on_connect_failed(1, now + AVOIDED_FOR * 2));
        let report: Vec<_> = states.report().collect();
        assert_eq!(report, [(true, 0), (false, 2)]);
    }

    #[test]
    fn checks_change_the_health_after_their_thresholds_only() {
        let mut states = states(1, TargetChoice::Ordered);
        let mut check = |has_succeeded| states.on_checked(0, has_succeeded);
        // A success in between starts the count again.
        for has_succeeded in [false, false, true, false, false] {
            assert_eq!(check(has_succeeded), None);
        }
        assert_eq!(check(false), Some(HealthChange::Unhealthy));
        for has_succeeded in [false, true, false, true] {
            assert_eq!(check(has_succeeded), None);
        }
        assert_eq!(check(true), Some(HealthChange::Healthy));
        assert_eq!(check(true), None);
    }

    #[test]
    fn a_successful_check_ends_the_avoidance_but_a_connection_does_not_heal_a_failed_check() {
        let (mut states, now) = (states(2, TargetChoice::Ordered), Instant::now());
        states.on_connect_failed(0, now);
        assert_eq!(states.on_checked(0, true), Some(HealthChange::Healthy));
        assert_eq!(states.order(now), [0, 1]);
        fail_checks(&mut states, 0);
        assert!(!states.on_connect_failed(0, now), "unhealthy already");
        assert!(!states.on_connected(0));
        assert_eq!(states.order(now), [1, 0]);
    }

    #[test]
    fn unknown_targets_are_ignored() {
        let (mut states, now) = (states(0, TargetChoice::Spread), Instant::now());
        assert!(states.order(now).is_empty());
        assert!(!states.on_connected(0));
        assert!(!states.on_connect_failed(0, now));
        assert_eq!(states.on_checked(0, true), None);
    }
}
