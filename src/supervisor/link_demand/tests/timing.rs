//! Tests of the times before the first step and before the fall back.

use super::*;

#[test]
fn first_step_needs_a_full_window_of_one_transfer() {
    let mut fixture = Fixture::new(MAX, 1);
    assert_eq!(fixture.scripted(100, 2, 5), 1, "2.5 seconds");
    // After the pause, the window contains samples of both transfers at first.
    assert_eq!(fixture.rest(5), 1);
    assert_eq!(fixture.scripted(100, 2, 5), 1);
    assert_eq!(fixture.scripted(100, 2, 1), 4, "three seconds");
    // A further step of the same trial comes earlier.
    assert_eq!(fixture.scripted(400, 8, 2), 4);
    assert_eq!(fixture.scripted(400, 8, 1), 8);
}

#[test]
fn number_falls_back_exactly_after_the_rest() {
    let mut fixture = Fixture::new(MAX, 1);
    assert_eq!(fixture.scripted(100, 2, 6), 4);
    assert_eq!(fixture.rest(REST.as_secs() - 1), 4);
    assert_eq!(fixture.tick(&Sample::default()), 4, "half a second early");
    assert_eq!(fixture.tick(&Sample::default()), 1);
    let change = fixture.demand.last_change().unwrap();
    assert_eq!(change.reason, DemandReason::Rest);
}
