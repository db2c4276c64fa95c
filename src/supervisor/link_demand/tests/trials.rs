//! Tests of trials: when they end, and what follows one that brought nothing.

use super::*;

#[test]
fn trial_waits_for_links_that_take_long() {
    for millis in [1000, 2500, 4000] {
        for seed in 0..50 {
            let mut fixture = Fixture::new(MAX, seed);
            fixture.link_time = Duration::from_millis(millis);
            let mut path = RandomLoss::new(0.03, 0.2);
            fixture.transfer(&mut path, Way::Received, 60);
            let numbers: Vec<_> = fixture.changes.iter().map(|(_, wanted)| *wanted).collect();
            assert_eq!(numbers.last(), Some(&MAX), "{millis} ms, seed {seed}");
            assert!(numbers.is_sorted(), "{millis} ms, seed {seed}: {numbers:?}");
        }
    }
}

#[test]
fn trial_ends_without_links_that_never_come_up() {
    let mut fixture = Fixture::new(MAX, 1);
    fixture.link_time = Duration::from_secs(3600);
    fixture.transfer(&mut RandomLoss::new(0.03, 0.2), Way::Received, 60);
    let (last, wanted) = fixture.changes.last().copied().unwrap();
    let stepped = fixture.changes.iter().rev().nth(1).map(|(at, _)| *at);
    assert_eq!((stepped.map(|at| last - at), wanted), (Some(MAX_TRIAL), 1));
}

#[test]
fn path_that_never_rewards_more_links_is_tried_less_and_less() {
    for seed in 0..20 {
        let mut fixture = Fixture::new(MAX, seed);
        let mut path = ConstantRate {
            rate: 0.6e6,
            loss: 0.02,
        };
        fixture.transfer(&mut path, Way::Sent, 3600);
        let trials = fixture.trials();
        let pauses: Vec<_> = trials.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (pause, hold) in pauses.iter().zip([60, 120, 240, 480, 600, 600]) {
            let hold = Duration::from_secs(hold);
            assert!(
                *pause >= hold && *pause < hold + seconds(20.0),
                "{pauses:?}"
            );
        }
        assert!((8..=10).contains(&trials.len()), "{trials:?}");
        // A trial of two steps and its judgement take 4.5 seconds, and a late second step adds some.
        for pair in fixture.changes.windows(2) {
            let ((begun, wanted), (ended, next)) = (pair[0], pair[1]);
            let is_end = wanted > 1 && next == 1;
            assert!(!is_end || ended - begun <= seconds(3.5), "{pair:?}");
        }
    }
}

#[test]
fn failed_trial_returns_to_the_last_rewarded_number() {
    let mut fixture = Fixture::new(MAX, 1);
    assert_eq!(fixture.scripted(100, 2, 6), 4);
    assert_eq!(fixture.scripted(400, 0, 7), 4, "rewarded");
    assert_eq!(fixture.scripted(400, 8, 3), 8, "a second trial");
    assert_eq!(fixture.scripted(420, 8, 6), 4, "not rewarded");
    assert_eq!(fixture.scripted(400, 8, 110), 4, "held for a minute");
    assert_eq!(fixture.rest(40), 1);
    // The hold of the higher number does not concern the lower one, whose next trial is new.
    assert_eq!(fixture.scripted(100, 2, 6), 4);
    let reasons = fixture.demand.last_change().unwrap().reason;
    assert_eq!(reasons, DemandReason::Losses);
}

#[test]
fn lower_number_remains_available_while_the_higher_one_is_held() {
    let mut fixture = Fixture::new(MAX, 1);
    fixture.scripted(100, 2, 6);
    fixture.scripted(400, 0, 7);
    fixture.scripted(400, 8, 3);
    assert_eq!(fixture.scripted(420, 8, 6), 4, "not rewarded");
    assert_eq!(fixture.rest(31), 1);
    assert_eq!(fixture.scripted(100, 2, 6), 4, "within the hold of 8");
    assert_eq!(fixture.scripted(400, 8, 20), 4);
    assert_eq!(fixture.scripted(400, 8, 36), 8, "after the hold");
}

#[test]
fn rest_ends_a_trial_without_a_verdict() {
    let mut fixture = Fixture::new(MAX, 1);
    assert_eq!(fixture.scripted(100, 2, 6), 4);
    assert_eq!(fixture.rest(20), 4, "too few samples for a verdict");
    assert_eq!(fixture.rest(15), 1);
    assert_eq!(fixture.scripted(100, 2, 6), 4, "no hold");
}
