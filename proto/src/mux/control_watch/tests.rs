use super::*;

const RTT: Duration = Duration::from_millis(100);

/// A watch that has measured `RTT` many times.
fn measured(now: Instant) -> ControlWatch {
    let mut watch = ControlWatch::default();
    for token in 0..40 {
        watch.on_content();
        watch.on_probe(now, token);
        watch.on_pong(now + RTT, token);
    }
    watch
}

#[test]
fn a_late_answer_shows_a_stall_after_one_and_a_half_round_trips() {
    let now = Instant::now();
    let mut watch = measured(now);
    assert_eq!(watch.deadline(), None, "nothing is under way");
    watch.on_ack(StreamId(4));
    watch.on_content();
    assert!(watch.should_probe(now));
    watch.on_probe(now, 40);
    assert_eq!(watch.deadline(), Some(now + RTT * 3 / 2));
    assert_eq!(watch.on_stall(), [StreamId(4)]);
    watch.on_content();
    watch.on_probe(now, 41);
    assert_eq!(
        watch.deadline(),
        Some(now + RTT * 3 / 2),
        "the next lane may have stalled too"
    );
    watch.on_stall();
    watch.on_content();
    watch.on_probe(now, 42);
    assert_eq!(
        watch.deadline(),
        Some(now + RTT * 3),
        "the delay doubles until an answer arrives in time"
    );
    watch.on_pong(now + RTT, 42);
    watch.on_content();
    watch.on_probe(now, 43);
    assert!(watch.deadline().is_some_and(|at| at < now + RTT * 2));
}

#[test]
fn an_answer_confirms_the_acknowledgements_before_its_probe() {
    let now = Instant::now();
    let mut watch = measured(now);
    watch.on_ack(StreamId(0));
    watch.on_probe(now, 40);
    watch.on_ack(StreamId(2));
    watch.on_pong(now + RTT, 40);
    assert_eq!(watch.on_stall(), [StreamId(2)]);
}

#[test]
fn probes_leave_at_intervals_and_once_more_after_the_last_frames() {
    let now = Instant::now();
    let mut watch = measured(now);
    watch.on_content();
    watch.on_probe(now, 40);
    watch.on_content();
    assert!(!watch.should_probe(now + PROBE_INTERVAL_MIN));
    assert!(watch.should_probe(now + RTT / 4));
    assert!(!watch.is_probe_due(), "one is under way");
    watch.on_pong(now + RTT, 40);
    assert!(watch.is_probe_due(), "the last frames have none");
}

#[test]
fn a_lane_that_was_left_is_watched_until_its_last_message_is_answered() {
    let now = Instant::now();
    let mut watch = measured(now);
    watch.on_ack(StreamId(4));
    watch.on_probe(now, 40);
    watch.on_ack(StreamId(6));
    watch.leave(now + RTT / 2, LaneId(7));
    watch.reset(true);
    assert_eq!(watch.deadline(), None, "the next lane has taken nothing");
    assert_eq!(watch.left_deadline(), Some(now + RTT * 3 / 2));
    watch.on_pong(now + RTT, 40);
    assert_eq!(
        watch.left_deadline(),
        Some(now + RTT * 2),
        "MOVED has no answer"
    );
    assert_eq!(
        watch.on_left_stall(),
        Some((LaneId(7), vec![StreamId(6)])),
        "the answer confirms the first acknowledgement"
    );
    assert_eq!(watch.left_deadline(), None, "a lane stalls once");
    watch.leave(now, LaneId(8));
    watch.forget(LaneId(8));
    assert_eq!(watch.left_deadline(), None, "the lane has ended");
}

#[test]
fn frames_that_wait_for_an_unused_lane_show_a_stall() {
    let now = Instant::now();
    let mut watch = measured(now);
    watch.set_waiting(now, true);
    assert_eq!(watch.deadline(), None, "the lane has taken messages");
    watch.on_probe(now, 40);
    watch.on_stall();
    watch.set_waiting(now + RTT, true);
    watch.set_waiting(now + RTT * 2, true);
    assert_eq!(watch.deadline(), Some(now + RTT + RTT * 3 / 2));
    watch.set_waiting(now + RTT * 2, false);
    assert_eq!(watch.deadline(), None, "nothing waits");
    watch.on_message();
    watch.set_waiting(now + RTT * 2, true);
    assert_eq!(watch.deadline(), None, "the lane takes messages");
}

#[test]
fn a_path_that_has_become_longer_is_measured_again() {
    let now = Instant::now();
    let mut watch = measured(now);
    let mut token = 40;
    let mut stalls = 0;
    for _ in 0..20 {
        watch.on_content();
        watch.on_probe(now, token);
        if watch.deadline().is_some_and(|at| at < now + RTT * 10) {
            stalls += 1;
            watch.on_stall();
        }
        watch.on_pong(now + RTT * 10, token);
        token += 1;
    }
    assert!(stalls <= 10, "{stalls} stalls");
    watch.on_content();
    watch.on_probe(now, token);
    assert!(watch.deadline().is_some_and(|at| at > now + RTT * 10));
}
