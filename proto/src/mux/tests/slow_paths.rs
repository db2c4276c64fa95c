//! Slow paths in virtual time, as a rate limit of the master makes them. A keystroke beside a copy
//! waits for a short queue, and the copy keeps the rate.

use std::time::{Duration, Instant};

use super::{
    WINDOWS,
    path_simulation::{CLIENT, FULL, MEGABIT, PathSimulation, SERVER},
};
use crate::mux::{bandwidth::RttSample, window::TunnelWindow};

const KIB: f64 = 1024.0;

/// The time in which the first window of a tunnel passes. It is granted before the rate of the path
/// is known.
const WARM_UP: f64 = 10.0;

const SECONDS: f64 = 20.0;

/// The results of a copy beside echoes.
#[derive(Debug)]
struct Observation {
    /// The share of the path that the copy received.
    share: f64,
    /// The median and the longest round trip of the echoes, in seconds.
    median: f64,
    longest: f64,
    /// The longest message of the copy under way, in bytes.
    message: usize,
}

/// Creates a path with a rate in KiB per second, on which a copy runs.
fn copying(kib_per_second: f64, round_trip_ms: u32, from: usize) -> (PathSimulation, usize) {
    let mut simulation = PathSimulation::new(kib_per_second * KIB / MEGABIT, round_trip_ms);
    let flow = simulation.flow(0, from, FULL, FULL);
    (simulation, flow)
}

fn observe(simulation: &mut PathSimulation, flow: usize, from: usize) -> Observation {
    let (since, before) = (simulation.seconds(), simulation.flows[flow].arrived);
    let mut message = 0;
    while simulation.seconds() < since + SECONDS {
        simulation.step();
        let under_way = simulation.tunnels[0].lanes[1 - from].iter();
        message = under_way
            .map(|(_, bytes)| bytes.len())
            .fold(message, usize::max);
    }
    let arrived = simulation.flows[flow].arrived - before;
    let round_trips = simulation.tunnels[0].echo.round_trips.iter();
    let mut times: Vec<f64> = round_trips
        .filter(|(at, _)| *at >= since)
        .map(|(_, time)| *time)
        .collect();
    times.sort_by(f64::total_cmp);
    Observation {
        share: arrived as f64 / (SECONDS * simulation.rate),
        median: times[times.len() / 2],
        longest: times[times.len() - 1],
        message,
    }
}

#[test]
fn keystroke_beside_a_copy_on_a_slow_path_waits_for_a_short_queue() {
    // The echo and the share that each path requires. The time of a path is part of an echo.
    for (kib_per_second, round_trip_ms, echo, least) in [
        (64.0, 1, 0.5, 0.9),
        (64.0, 20, 0.5, 0.85),
        (64.0, 50, 0.6, 0.8),
        (256.0, 1, 0.25, 0.9),
        (256.0, 20, 0.25, 0.9),
        (1024.0, 1, 0.1, 0.9),
        (1024.0, 20, 0.1, 0.9),
        (1024.0, 50, 0.15, 0.85),
    ] {
        for from in [CLIENT, SERVER] {
            let (mut simulation, flow) = copying(kib_per_second, round_trip_ms, from);
            simulation.run(WARM_UP);
            let observed = observe(&mut simulation, flow, from);
            assert!(
                observed.median < echo && observed.longest < 2.0 * echo && observed.share > least,
                "{kib_per_second} KiB/s, {round_trip_ms} ms, from {from}: {observed:?}"
            );
        }
    }
}

#[test]
fn message_on_a_slow_path_is_a_part_of_its_window() {
    for from in [CLIENT, SERVER] {
        let (mut simulation, flow) = copying(64.0, 1, from);
        simulation.run(2.0 * WARM_UP);
        let observed = observe(&mut simulation, flow, from);
        // Such a message takes less than a fifth of a second.
        assert!(observed.message <= 12 * 1024, "from {from}: {observed:?}");
    }
}

#[test]
fn first_window_of_a_slow_path_is_not_granted_again() {
    for round_trip_ms in [1, 20, 50, 100] {
        let (mut simulation, _) = copying(64.0, round_trip_ms, SERVER);
        simulation.run(WARM_UP);
        let queued = simulation.free[CLIENT].saturating_duration_since(simulation.now());
        assert!(queued.as_secs_f64() < 1.5, "{round_trip_ms} ms: {queued:?}");
    }
}

#[test]
fn window_follows_a_limit_that_is_lowered_and_raised() {
    let (mut simulation, flow) = copying(KIB, 20, SERVER);
    simulation.run(WARM_UP);
    for (kib_per_second, echo) in [(64.0, 0.5), (KIB, 0.15), (64.0, 0.5), (20.0 * KIB, 0.1)] {
        simulation.rate = kib_per_second * KIB;
        // Data sent at the higher rate passes first.
        simulation.run(1.5 * WARM_UP);
        let observed = observe(&mut simulation, flow, SERVER);
        assert!(
            observed.median < echo && observed.share > 0.85,
            "{kib_per_second} KiB/s: {observed:?}"
        );
    }
}

/// The answer to a PING at this time, on a path of a millisecond.
fn first_answer(at: Instant) -> RttSample {
    RttSample {
        beside_datagrams: false,
        sent: at,
        rtt: Duration::from_millis(1),
        credit_exhausted: false,
        bidirectional: false,
        has_return_queue: false,
        moved: 0,
        moved_in: Duration::from_millis(1),
    }
}

#[test]
fn streams_get_short_loans_while_the_tunnel_has_too_much_credit() {
    const SECOND: Duration = Duration::from_secs(1);
    let start = Instant::now();
    let mut window = TunnelWindow::new(start, WINDOWS.tunnel_window);
    window.bandwidth().on_rtt_sample(start, first_answer(start));
    assert!(window.receive(start, 1000));
    window.advance_limit(start);
    assert_eq!(window.loan_max(), u64::MAX, "the rate is unknown");
    // The next PING waits in the queue of the first window.
    window.bandwidth().on_ping_wait(start + SECOND, SECOND);
    assert!(window.receive(start + SECOND, 64 * 1024));
    assert!(!window.bandwidth().is_starting());
    let loan = window.loan_max();
    assert!(loan < 16 * 1024, "{loan}");
    let credit = window.limit() - window.received();
    assert!(window.receive(start + SECOND * 16, credit - 8 * 1024));
    assert_eq!(window.loan_max(), u64::MAX, "the credit is used up");
}
