//! Tests of the retry policy, with time as an argument.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const NONE_EXCLUDED: &dyn Fn(usize) -> bool = &|_| false;

/// A policy and a clock that the test moves.
struct Fixture {
    policy: RetryPolicy,
    now: Instant,
}

impl Fixture {
    fn new(masters: usize) -> Self {
        Fixture {
            policy: RetryPolicy::new(masters),
            now: Instant::now(),
        }
    }

    fn link_ends(&mut self, master: usize, lived: Duration) -> NextAttempt {
        self.policy.on_link_end(self.now, master, lived)
    }

    /// Lets an attempt fail, after all attempts have failed for `failing`.
    fn attempt_fails(&mut self, master: usize, failing: Duration) -> Duration {
        let failure = AttemptFailure {
            is_retryable: true,
            linkless: failing,
            retry_after: None,
        };
        self.policy.on_attempt_failed(self.now, master, failure)
    }

    /// Lets an attempt fail because of an error in the configuration.
    fn attempt_is_refused(&mut self, master: usize) -> Duration {
        let failure = AttemptFailure {
            is_retryable: false,
            linkless: SECOND,
            retry_after: None,
        };
        self.policy.on_attempt_failed(self.now, master, failure)
    }

    /// Lets an attempt fail at a master that asks for this wait.
    fn attempt_is_postponed(&mut self, master: usize, wait: Duration) -> Duration {
        let failure = AttemptFailure {
            is_retryable: true,
            linkless: SECOND,
            retry_after: Some(wait),
        };
        self.policy.on_attempt_failed(self.now, master, failure)
    }

    fn next(&self, master: usize) -> NextAttempt {
        self.policy.next(self.now, master, NONE_EXCLUDED).unwrap()
    }
}

#[test]
fn link_cut_every_second_is_replaced_immediately() {
    let mut fixture = Fixture::new(1);
    for _ in 0..600 {
        let next = fixture.link_ends(0, SECOND);
        assert!(
            next.master == 0 && next.wait <= IMMEDIATE_DELAY_MAX,
            "{next:?}"
        );
    }
}

#[test]
fn master_that_ends_links_after_join_is_dialled_less_and_less() {
    let mut fixture = Fixture::new(1);
    let waits: Vec<Duration> = (0..100)
        .map(|_| fixture.link_ends(0, Duration::from_millis(1)).wait)
        .collect();
    assert!(
        waits[..10].iter().all(|wait| *wait <= IMMEDIATE_DELAY_MAX),
        "{waits:?}"
    );
    let total: Duration = waits.iter().sum();
    assert!(total > 100 * SECOND, "a hundred links in {total:?}");
    assert!(waits.iter().all(|wait| *wait <= MAX_REST_WHILE_RESUMABLE));
    fixture.link_ends(0, 5 * SECOND);
    assert!(
        fixture.link_ends(0, Duration::ZERO).wait <= IMMEDIATE_DELAY_MAX,
        "a link that lives adds tokens"
    );
}

#[test]
fn ready_masters_are_tried_immediately_in_list_order() {
    let mut fixture = Fixture::new(3);
    for master in [1, 2] {
        fixture.attempt_fails(master, SECOND);
        let next = fixture.next(master);
        assert!(
            next.master == (master + 1) % 3 && next.wait <= IMMEDIATE_DELAY_MAX,
            "{next:?}"
        );
    }
}

#[test]
fn shortest_rest_is_next_when_all_masters_rest() {
    let mut fixture = Fixture::new(4);
    for _ in 0..200 {
        let drawn: Vec<Duration> = (0..4)
            .map(|master| fixture.attempt_fails(master, SECOND))
            .collect();
        let shortest = drawn.iter().min().unwrap();
        for from in 0..4 {
            let next = fixture.next(from);
            assert_eq!((next.wait, drawn[next.master]), (*shortest, *shortest));
        }
    }
}

#[test]
fn resting_master_is_skipped_until_rest_ends() {
    let mut fixture = Fixture::new(3);
    let rest = fixture.attempt_fails(1, SECOND);
    assert_eq!(fixture.next(0).master, 2);
    fixture.now += rest;
    assert_eq!(fixture.next(0).master, 1);
}

#[test]
fn rests_grow_with_failure_time_of_master_up_to_maximum() {
    let mut fixture = Fixture::new(2);
    let (mut tries, mut longest) = (0, Duration::ZERO);
    let begun = fixture.now;
    while fixture.now < begun + 1000 * SECOND {
        let failing = fixture.now - begun;
        let rest = fixture.attempt_fails(0, failing);
        let max = if failing < RESUMABLE {
            MAX_REST_WHILE_RESUMABLE
        } else {
            MAX_REST
        };
        assert!(
            rest <= max.min((failing / 4).max(INITIAL_REST)),
            "{rest:?} after {failing:?}"
        );
        longest = longest.max(rest);
        fixture.now += rest;
        tries += 1;
    }
    assert!(
        longest > 20 * SECOND && tries < 300,
        "{tries} attempts, the longest rest was {longest:?}"
    );
    assert!(
        fixture.attempt_fails(1, 1000 * SECOND) <= INITIAL_REST,
        "another master rests separately"
    );
}

#[test]
fn failure_long_after_previous_one_starts_over() {
    let mut fixture = Fixture::new(1);
    fixture.attempt_fails(0, SECOND);
    fixture.now += 2 * FAILURE_MEMORY;
    assert!(fixture.attempt_fails(0, SECOND) <= INITIAL_REST);
}

#[test]
fn join_ends_rest_of_master_and_resets_failures() {
    let mut fixture = Fixture::new(1);
    for _ in 0..100 {
        fixture.attempt_fails(0, 50 * SECOND);
        fixture.now += SECOND;
    }
    fixture.attempt_fails(0, 50 * SECOND);
    fixture.policy.on_joined(0, Duration::ZERO);
    assert!(
        !fixture.policy.is_resting(fixture.now, 0)
            && fixture.attempt_fails(0, SECOND) <= INITIAL_REST
    );
}

#[test]
fn link_that_lived_resets_its_master_only() {
    let mut fixture = Fixture::new(2);
    for _ in 0..40 {
        fixture.attempt_fails(0, 50 * SECOND);
        fixture.attempt_fails(1, 50 * SECOND);
        fixture.now += SECOND;
    }
    fixture.now += MAX_REST_WHILE_RESUMABLE;
    assert_eq!(fixture.link_ends(1, 60 * SECOND).master, 1);
    assert!(
        fixture.attempt_fails(1, SECOND) <= INITIAL_REST,
        "starts over"
    );
    let of_the_other = (0..50)
        .map(|_| fixture.attempt_fails(0, 50 * SECOND))
        .max()
        .unwrap();
    assert!(of_the_other > INITIAL_REST, "{of_the_other:?}");
}

#[test]
fn master_that_failed_while_its_link_lived_yields_to_ready_master() {
    let mut fixture = Fixture::new(2);
    fixture.attempt_is_refused(0);
    assert_eq!(fixture.link_ends(0, 60 * SECOND).master, 1);
    fixture.attempt_is_refused(1);
    let next = fixture.link_ends(0, 60 * SECOND);
    assert!(
        next.master == 0 && next.wait <= IMMEDIATE_DELAY_MAX,
        "none is ready: {next:?}"
    );
}

#[test]
fn two_masters_that_end_links_after_join_are_not_flooded_alternately() {
    let mut fixture = Fixture::new(2);
    let begun = fixture.now;
    let mut next = NextAttempt {
        master: 0,
        wait: Duration::ZERO,
    };
    for _ in 0..100 {
        next = fixture.link_ends(next.master, Duration::ZERO);
        fixture.now += next.wait;
    }
    let total = fixture.now - begun;
    assert!(total > 50 * SECOND, "a hundred links in {total:?}");
}

#[test]
fn master_that_is_down_for_half_a_second_is_retried_quickly() {
    let mut fixture = Fixture::new(1);
    fixture.attempt_fails(0, Duration::ZERO);
    fixture.now += SECOND / 2;
    let rests: Vec<Duration> = (0..100)
        .map(|_| fixture.attempt_fails(0, SECOND / 2))
        .collect();
    assert!(rests.iter().all(|rest| *rest <= INITIAL_REST), "{rests:?}");
}

#[test]
fn configuration_error_rests_longer_than_other_masters() {
    let mut fixture = Fixture::new(2);
    assert!(fixture.attempt_is_refused(0) >= CONFIGURATION_REST);
    fixture.attempt_fails(1, SECOND);
    let next = fixture.next(1);
    assert!(
        next.master == 1 && next.wait < CONFIGURATION_REST,
        "the other may recover without a change: {next:?}"
    );
}

#[test]
fn excluded_master_is_never_next() {
    let mut fixture = Fixture::new(3);
    assert_eq!(
        fixture
            .policy
            .next(fixture.now, 0, &|master| master == 1)
            .unwrap()
            .master,
        2
    );
    fixture.attempt_fails(2, SECOND);
    let next = fixture
        .policy
        .next(fixture.now, 0, &|master| master != 2)
        .unwrap();
    assert!(next.master == 2 && !next.wait.is_zero(), "{next:?}");
    assert_eq!(fixture.policy.next(fixture.now, 0, &|_| true), None);
}

#[test]
fn retry_after_is_the_minimum_of_the_rest_and_roles_do_not_return_together() {
    let wait = 20 * SECOND;
    let rests: Vec<Duration> = (0..200)
        .map(|_| Fixture::new(1).attempt_is_postponed(0, wait))
        .collect();
    let (shortest, longest) = (rests.iter().min().unwrap(), rests.iter().max().unwrap());
    assert!(
        *shortest >= wait && *longest <= wait.mul_f64(1.0 + RETRY_AFTER_JITTER),
        "{shortest:?} to {longest:?}"
    );
    assert!(
        *longest - *shortest > 5 * SECOND,
        "{shortest:?} to {longest:?}"
    );
}

#[test]
fn full_master_is_not_dialled_before_its_time_and_the_next_one_is_tried_at_once() {
    let mut fixture = Fixture::new(2);
    let rest = fixture.attempt_is_postponed(0, 600 * SECOND);
    let next = fixture.next(0);
    assert!(
        next.master == 1 && next.wait <= IMMEDIATE_DELAY_MAX,
        "{next:?}"
    );
    fixture.attempt_fails(1, SECOND);
    fixture.now += 500 * SECOND;
    assert_eq!(fixture.next(1).master, 1, "the first still rests");
    fixture.now += rest - 500 * SECOND;
    assert_eq!(fixture.next(1).master, 0);
}

#[test]
fn end_of_a_link_does_not_shorten_the_wait_that_its_master_asked_for() {
    let mut fixture = Fixture::new(1);
    fixture.attempt_is_postponed(0, 60 * SECOND);
    fixture.now += 10 * SECOND;
    let next = fixture.link_ends(0, 100 * SECOND);
    assert!(next.wait >= 50 * SECOND, "{next:?}");
    fixture.now += next.wait;
    let next = fixture.link_ends(0, 100 * SECOND);
    assert!(next.wait <= IMMEDIATE_DELAY_MAX, "{next:?}");
}

#[test]
fn wait_that_a_master_asks_for_with_the_end_of_a_link_is_kept() {
    for masters in [1, 2] {
        let mut fixture = Fixture::new(masters);
        fixture.policy.on_refused(fixture.now, 0, 20 * SECOND);
        let next = fixture.link_ends(0, 100 * SECOND);
        if masters == 1 {
            assert!(next.wait >= 20 * SECOND, "{next:?}");
        } else {
            assert_eq!(next.master, 1);
            assert!(next.wait <= IMMEDIATE_DELAY_MAX, "{next:?}");
        }
        assert!(fixture.policy.is_resting(fixture.now + 19 * SECOND, 0));
        assert!(!fixture.policy.is_resting(fixture.now + 31 * SECOND, 0));
    }
}

#[test]
fn link_that_ends_with_a_long_wait_yields_to_a_master_whose_rest_ends_first() {
    let mut fixture = Fixture::new(2);
    let wait = fixture.attempt_is_refused(1);
    fixture.policy.on_refused(fixture.now, 0, 600 * SECOND);
    let next = fixture.link_ends(0, 100 * SECOND);
    assert_eq!(next, NextAttempt { master: 1, wait });
}

#[test]
fn failure_of_a_running_attempt_does_not_shorten_the_wait_that_its_master_asked_for() {
    let mut fixture = Fixture::new(1);
    fixture.policy.on_refused(fixture.now, 0, 20 * SECOND);
    fixture.now += SECOND;
    let rest = fixture.attempt_fails(0, SECOND);
    assert!(rest >= 19 * SECOND, "{rest:?}");
    assert_eq!(fixture.next(0).wait, rest);
    fixture.now += rest;
    assert!(fixture.attempt_fails(0, SECOND) <= MAX_REST_WHILE_RESUMABLE);
}

#[test]
fn retry_after_of_zero_asks_for_nothing() {
    let mut fixture = Fixture::new(1);
    assert!(fixture.attempt_is_postponed(0, Duration::ZERO) <= INITIAL_REST);
}

/// Returns the longest of many rests after this number of failures of a master that advised a
/// range.
fn longest_rest(failures: usize, advised_range: Duration) -> Duration {
    let rest = |_| {
        let mut fixture = Fixture::new(1);
        fixture.policy.on_joined(0, advised_range);
        let mut rest = Duration::ZERO;
        for _ in 0..failures {
            rest = fixture.attempt_fails(0, SECOND);
        }
        rest
    };
    (0..200).map(rest).max().unwrap_or_default()
}

#[test]
fn rests_are_drawn_from_the_advised_range_from_the_second_failure_on() {
    let advised = 40 * SECOND;
    assert!(longest_rest(1, advised) <= INITIAL_REST);
    for failures in [2, 3] {
        let longest = longest_rest(failures, advised);
        assert!(
            longest > 30 * SECOND && longest <= advised,
            "{longest:?} after {failures}"
        );
    }
    assert!(longest_rest(2, Duration::ZERO) <= INITIAL_REST);
}

#[test]
fn advice_is_bounded_and_the_latest_one_counts() {
    let longest = longest_rest(2, 3600 * SECOND);
    assert!(
        longest > MAX_ADVISED_RANGE / 2 && longest <= MAX_ADVISED_RANGE,
        "{longest:?}"
    );
    let mut fixture = Fixture::new(1);
    fixture.policy.on_joined(0, 40 * SECOND);
    fixture.policy.on_joined(0, Duration::ZERO);
    fixture.attempt_fails(0, SECOND);
    assert!(fixture.attempt_fails(0, SECOND) <= INITIAL_REST);
}

#[test]
fn advice_outlives_the_link_and_belongs_to_its_master() {
    let mut fixture = Fixture::new(2);
    fixture.policy.on_joined(0, 40 * SECOND);
    fixture.link_ends(0, 100 * SECOND);
    let longest = |fixture: &mut Fixture, master| {
        let rests = (0..200).map(|_| fixture.attempt_fails(master, SECOND));
        rests.max().unwrap_or_default()
    };
    assert!(longest(&mut fixture, 0) > 20 * SECOND);
    assert!(longest(&mut fixture, 1) <= INITIAL_REST);
}

#[test]
fn failure_after_a_long_rest_still_counts_as_repeated() {
    let mut fixture = Fixture::new(1);
    fixture.policy.on_joined(0, 40 * SECOND);
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        let postponed = fixture.attempt_is_postponed(0, 600 * SECOND);
        fixture.now += postponed;
        let rest = fixture.attempt_fails(0, SECOND);
        longest = longest.max(rest);
        fixture.now += rest;
    }
    assert!(longest > 20 * SECOND, "{longest:?}");
}
