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

#[test]
fn retransmission_timeouts_belong_to_the_transfer() {
    for way in [Way::Received, Way::Sent] {
        let mut fixture = Fixture::new(MAX, 1);
        // Of three ticks one moves data. In the others a link waits for one segment.
        for tick in 0..7 {
            let moved = if tick % 3 == 0 { 15 } else { 1 };
            let traffic = Traffic {
                bytes: moved * SEGMENT as u64,
                segments: moved,
                losses: 1,
                delayed: 0,
            };
            fixture.tick(&sample(way, traffic));
        }
        assert_eq!(fixture.changes, [(seconds(3.0), 8)]);
    }
}

#[test]
fn retransmissions_after_a_transfer_are_no_evidence() {
    let mut fixture = Fixture::new(MAX, 1);
    assert_eq!(fixture.scripted(100, 0, 2), 1);
    for _ in 0..100 {
        let keystroke = Traffic {
            bytes: 100,
            segments: 2,
            losses: 1,
            delayed: 1,
        };
        fixture.rest(1);
        assert_eq!(fixture.tick(&sample(Way::Sent, keystroke)), 1);
    }
}
