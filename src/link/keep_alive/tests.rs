//! Tests of the keep-alive, with time as an argument.

use super::*;

const TIMING: KeepAliveTiming = KeepAliveTiming {
    interval: Duration::from_secs(20),
    timeout: Duration::from_secs(45),
    answer_delay: Duration::from_secs(2),
    answer_timeout: Duration::from_secs(10),
};

const SECOND: Duration = Duration::from_secs(1);

/// The machine's suspended time before the link began.
const SUSPENDED_BEFORE: Duration = Duration::from_secs(1000);

fn new_keep_alive() -> (KeepAlive, Instant) {
    let start = Instant::now();
    (KeepAlive::new(TIMING, start, SUSPENDED_BEFORE), start)
}

#[test]
fn timeout_exceeds_two_intervals_and_the_minimum_of_the_protocol() {
    let timeout = |interval| KeepAliveTiming::for_interval(interval).timeout;
    assert_eq!(timeout(SECOND), 45 * SECOND);
    assert_eq!(timeout(20 * SECOND), 45 * SECOND);
    assert_eq!(timeout(60 * SECOND), 125 * SECOND);
}

#[test]
fn idle_end_pings_once_per_interval() {
    let (mut keep_alive, start) = new_keep_alive();
    assert_eq!(
        keep_alive.poll(start),
        KeepAliveAction::Wait(start + TIMING.interval)
    );
    let later = start + TIMING.interval;
    assert_eq!(keep_alive.poll(later), KeepAliveAction::SendPing);
    keep_alive.on_sent(later, SentKind::Ping);
    keep_alive.on_pong();
    keep_alive.on_received(later, false);
    assert_eq!(
        keep_alive.poll(later),
        KeepAliveAction::Wait(later + TIMING.interval),
        "a PONG requires no answer"
    );
}

#[test]
fn ends_that_exchange_data_send_no_ping() {
    let (mut keep_alive, start) = new_keep_alive();
    for second in 1..100 {
        keep_alive.on_received(start + second * SECOND, true);
        keep_alive.on_sent(start + second * SECOND, SentKind::Payload);
        assert!(matches!(
            keep_alive.poll(start + second * SECOND + SECOND / 2),
            KeepAliveAction::Wait(_)
        ));
    }
}

#[test]
fn unanswered_data_ends_link_after_answer_timeout() {
    let (mut keep_alive, start) = new_keep_alive();
    keep_alive.on_sent(start + SECOND, SentKind::Payload);
    keep_alive.on_sent(start + 8 * SECOND, SentKind::Payload);
    assert_eq!(
        keep_alive.poll(start + 8 * SECOND),
        KeepAliveAction::SendPing
    );
    assert_eq!(
        keep_alive.poll(start + 10 * SECOND),
        KeepAliveAction::Wait(start + 11 * SECOND),
        "counted from the first message"
    );
    assert_eq!(
        keep_alive.poll(start + 11 * SECOND),
        KeepAliveAction::TimedOut
    );
}

#[test]
fn blocked_data_counts_as_sent_data() {
    let (mut keep_alive, start) = new_keep_alive();
    keep_alive.on_blocked(start + 3 * SECOND);
    assert_eq!(
        keep_alive.poll(start + 13 * SECOND),
        KeepAliveAction::TimedOut
    );
}

#[test]
fn pong_requires_no_answer() {
    let (mut keep_alive, start) = new_keep_alive();
    keep_alive.on_received(start + SECOND, false);
    keep_alive.on_sent(start + SECOND, SentKind::Pong);
    assert_eq!(
        keep_alive.poll(start + 15 * SECOND),
        KeepAliveAction::Wait(start + 21 * SECOND)
    );
}

#[test]
fn receiver_without_data_pings_after_answer_delay() {
    let (mut keep_alive, start) = new_keep_alive();
    keep_alive.on_received(start + SECOND, true);
    keep_alive.on_received(start + 2 * SECOND, true);
    assert_eq!(
        keep_alive.poll(start + 2 * SECOND),
        KeepAliveAction::Wait(start + 3 * SECOND),
        "counted from the first message"
    );
    assert_eq!(
        keep_alive.poll(start + 3 * SECOND),
        KeepAliveAction::SendPing
    );
    keep_alive.on_pong();
    keep_alive.on_received(start + 3 * SECOND, false);
    assert_eq!(
        keep_alive.poll(start + 3 * SECOND),
        KeepAliveAction::Wait(start + 23 * SECOND),
        "only one PING"
    );
}

#[test]
fn any_sent_message_replaces_that_ping() {
    let (mut keep_alive, start) = new_keep_alive();
    keep_alive.on_received(start + SECOND, true);
    keep_alive.on_sent(start + 2 * SECOND, SentKind::Pong);
    assert_eq!(
        keep_alive.poll(start + 15 * SECOND),
        KeepAliveAction::Wait(start + 22 * SECOND)
    );
}

#[test]
fn data_answered_only_by_keep_alives_triggers_one_ping() {
    let (mut keep_alive, start) = new_keep_alive();
    keep_alive.on_sent(start, SentKind::Payload);
    keep_alive.on_received(start + SECOND, false);
    assert_eq!(
        keep_alive.poll(start + SECOND),
        KeepAliveAction::Wait(start + 2 * SECOND)
    );
    assert_eq!(
        keep_alive.poll(start + 2 * SECOND),
        KeepAliveAction::SendPing
    );
    keep_alive.on_sent(start + 2 * SECOND, SentKind::Ping);
    // The peer receives part of the data and sends PING; its PONG waits behind the rest.
    for second in (3..60).step_by(2) {
        keep_alive.on_received(start + second * SECOND, false);
        keep_alive.on_sent(start + second * SECOND, SentKind::Pong);
        assert!(
            matches!(
                keep_alive.poll(start + (second + 1) * SECOND),
                KeepAliveAction::Wait(_)
            ),
            "after {second} s"
        );
    }
    assert_eq!(
        keep_alive.poll(start + 69 * SECOND),
        KeepAliveAction::TimedOut,
        "ten seconds after the last received message"
    );
}

#[test]
fn silence_ends_link_without_outstanding_data() {
    let timing = KeepAliveTiming {
        interval: Duration::from_secs(60),
        ..TIMING
    };
    let start = Instant::now();
    let mut keep_alive = KeepAlive::new(timing, start, SUSPENDED_BEFORE);
    keep_alive.on_sent(start + 40 * SECOND, SentKind::Pong);
    assert_eq!(
        keep_alive.poll(start + 44 * SECOND),
        KeepAliveAction::Wait(start + 45 * SECOND)
    );
    assert_eq!(
        keep_alive.poll(start + 45 * SECOND),
        KeepAliveAction::TimedOut
    );
}

#[test]
fn requested_quiet_period_applies_up_to_its_maximum() {
    assert_eq!(TIMING.with_quiet_period(0), TIMING);
    let quiet = TIMING.with_quiet_period(300);
    assert_eq!(
        (quiet.interval, quiet.timeout),
        (300 * SECOND, 345 * SECOND)
    );
    assert_eq!(
        quiet.answer_timeout, TIMING.answer_timeout,
        "sent data is answered as before"
    );
    assert_eq!(TIMING.with_quiet_period(u32::MAX).interval, QUIET_MAX);
    let start = Instant::now();
    let mut keep_alive = KeepAlive::new(quiet, start, SUSPENDED_BEFORE);
    keep_alive.on_received(start, true);
    assert_eq!(
        keep_alive.poll(start + 299 * SECOND),
        KeepAliveAction::Wait(start + 300 * SECOND),
        "not even to confirm received data"
    );
}

#[test]
fn suspend_triggers_ping_and_short_deadline() {
    let (mut keep_alive, start) = new_keep_alive();
    assert_eq!(
        keep_alive.on_clock(start + SECOND, SUSPENDED_BEFORE + 4 * SECOND),
        None,
        "too short"
    );
    assert!(matches!(
        keep_alive.poll(start + SECOND),
        KeepAliveAction::Wait(_)
    ));
    assert_eq!(
        keep_alive.on_clock(start + 2 * SECOND, SUSPENDED_BEFORE + 204 * SECOND),
        Some(200 * SECOND)
    );
    assert_eq!(
        keep_alive.poll(start + 2 * SECOND),
        KeepAliveAction::SendPing
    );
    assert_eq!(
        keep_alive.poll(start + 2 * SECOND),
        KeepAliveAction::Wait(start + 5 * SECOND)
    );
    assert_eq!(
        keep_alive.on_clock(start + 4 * SECOND, SUSPENDED_BEFORE + 204 * SECOND),
        None,
        "reported once"
    );
    assert_eq!(
        keep_alive.poll(start + 5 * SECOND),
        KeepAliveAction::TimedOut
    );
}

#[test]
fn link_that_answers_after_suspend_continues_normally() {
    let (mut keep_alive, start) = new_keep_alive();
    keep_alive.on_clock(start + SECOND, SUSPENDED_BEFORE + 200 * SECOND);
    // Data and a PONG that waited in the socket during the suspend prove nothing.
    keep_alive.on_pong();
    keep_alive.on_received(start + SECOND, false);
    assert_eq!(keep_alive.poll(start + SECOND), KeepAliveAction::SendPing);
    assert_eq!(
        keep_alive.poll(start + SECOND),
        KeepAliveAction::Wait(start + 4 * SECOND)
    );
    // A slow path delivers other data before the PONG.
    keep_alive.on_received(start + 3 * SECOND, false);
    assert_eq!(
        keep_alive.poll(start + 3 * SECOND),
        KeepAliveAction::Wait(start + 6 * SECOND)
    );
    keep_alive.on_pong();
    keep_alive.on_received(start + 4 * SECOND, false);
    assert_eq!(
        keep_alive.poll(start + 4 * SECOND),
        KeepAliveAction::Wait(start + 21 * SECOND)
    );
}

#[test]
fn gradual_clock_adjustments_are_not_a_suspend() {
    let (mut keep_alive, start) = new_keep_alive();
    for seconds in 1..100 {
        assert_eq!(
            keep_alive.on_clock(start, SUSPENDED_BEFORE + 4 * seconds * SECOND),
            None
        );
    }
    assert_eq!(keep_alive.on_clock(start, Duration::ZERO), None);
}

#[test]
fn master_can_shorten_interval_but_not_lengthen_it() {
    assert_eq!(
        TIMING.with_requested_interval(5).interval,
        Duration::from_secs(5)
    );
    assert_eq!(
        TIMING.with_requested_interval(0).interval,
        Duration::from_secs(1)
    );
    assert_eq!(TIMING.with_requested_interval(3600), TIMING);
}
