//! Window tests on long paths, in virtual time. Only the receivers of the data keep the queue short
//! here.

use std::time::{Duration, Instant};

use super::path_simulation::{CLIENT, FULL, PathSimulation, SERVER};
use crate::mux::bandwidth::{BandwidthEstimator, RttSample};

/// Runs a transfer on this path for some seconds.
fn running(megabits: f64, round_trip_ms: u32, from: usize) -> (PathSimulation, usize) {
    let mut simulation = PathSimulation::new(megabits, round_trip_ms);
    let flow = simulation.flow(0, from, FULL, FULL);
    simulation.run(4.0);
    (simulation, flow)
}

#[test]
fn cold_start_fills_a_long_path_in_each_direction() {
    for (megabits, rtt, seconds, min_share) in [
        (200.0, 100, 8.0, 0.93),
        (500.0, 200, 15.0, 0.85),
        (100.0, 10, 8.0, 0.93),
        (1000.0, 2, 4.0, 0.93),
    ] {
        for from in [CLIENT, SERVER] {
            let mut simulation = PathSimulation::new(megabits, rtt);
            let flow = simulation.flow(0, from, FULL, FULL);
            let share = simulation.share(&[flow], seconds);
            assert!(
                share > min_share,
                "{megabits} Mbit/s, {rtt} ms, from {from}: {share}"
            );
        }
    }
}

#[test]
fn interrupted_startup_resumes_when_the_processor_is_free() {
    const STOPS_AND_RUNS: [(f64, f64); 4] = [(0.3, 0.2), (0.1, 0.1), (0.2, 0.2), (0.3, 0.1)];
    for (megabits, rtt) in [(500.0, 200), (200.0, 100), (500.0, 20)] {
        for (side, first) in [
            (CLIENT, 0),
            (CLIENT, 2),
            (SERVER, 0),
            (SERVER, 1),
            (SERVER, 2),
            (SERVER, 3),
        ] {
            let mut simulation = PathSimulation::new(megabits, rtt);
            let flow = simulation.flow(0, SERVER, FULL, FULL);
            for (stops, runs) in STOPS_AND_RUNS.into_iter().cycle().skip(first).take(12) {
                simulation.stopped[side] = true;
                simulation.run(stops);
                simulation.stopped[side] = false;
                simulation.run(runs);
            }
            simulation.run(f64::from(rtt) / 1000.0 * 8.0);
            let share = simulation.share(&[flow], 1.0);
            assert!(
                share > 0.9,
                "{megabits} Mbit/s, {rtt} ms, side {side} from {first}: {share}"
            );
        }
    }
}

/// Returns how long a copy takes beside applications that read at this rate, in seconds.
fn copy_beside(megabits: f64, round_trip_ms: u32, beside: usize, reads: f64) -> f64 {
    let mut simulation = PathSimulation::new(megabits, round_trip_ms);
    for _ in 0..beside {
        simulation.flow(0, SERVER, FULL, reads);
    }
    simulation.run(if beside > 0 { 5.0 } else { 0.0 });
    copy(&mut simulation, 64 << 20).1
}

/// Downloads this many bytes. Returns the flow and the time in seconds.
fn copy(simulation: &mut PathSimulation, bytes: u64) -> (usize, f64) {
    let flow = simulation.flow(0, SERVER, FULL, FULL);
    let start = simulation.seconds();
    while simulation.flows[flow].arrived < bytes {
        simulation.step();
        assert!(
            simulation.seconds() - start < 60.0,
            "{} bytes came",
            simulation.flows[flow].arrived
        );
    }
    (flow, simulation.seconds() - start)
}

#[test]
fn stalled_and_slow_readers_do_not_delay_a_copy_on_a_long_path() {
    let alone = copy_beside(100.0, 100, 0, 0.0);
    for (beside, reads) in [
        (1, 0.0),
        (8, 0.0),
        (20, 0.0),
        (200, 0.0),
        (20, 1000.0),
        (200, 1000.0),
    ] {
        let time = copy_beside(100.0, 100, beside, reads);
        assert!(
            time < alone * 1.3,
            "{time} s beside {beside} readers of {reads} bytes a second, {alone} s alone"
        );
    }
}

#[test]
fn ten_readers_that_stop_one_by_one_do_not_delay_a_copy_on_a_long_path() {
    let alone = copy_beside(100.0, 100, 0, 0.0);
    let mut simulation = PathSimulation::new(100.0, 100);
    for _ in 0..10 {
        let (stopped, _) = copy(&mut simulation, 4 << 20);
        simulation.flows[stopped].reads = 0.0;
        simulation.run(1.0);
    }
    let (_, time) = copy(&mut simulation, 64 << 20);
    assert!(time < alone * 1.3, "{time} s beside them, {alone} s alone");
}

#[test]
fn full_path_has_a_queue_of_a_third_of_a_round_trip() {
    for (megabits, rtt) in [(200.0, 100), (500.0, 200), (100.0, 50)] {
        for from in [CLIENT, SERVER] {
            let (mut simulation, flow) = running(megabits, rtt, from);
            let since = simulation.seconds();
            let share = simulation.share(&[flow], 10.0);
            let (queue, echo) = (
                simulation.queue(1 - from, since, 0.75),
                simulation.echo(0, since),
            );
            assert!(
                share > 0.97 && queue < 0.37 && echo < 1.35,
                "{megabits} Mbit/s: {share} {queue} {echo}"
            );
        }
    }
}

#[test]
fn probes_cost_less_than_two_percent() {
    let (mut simulation, flow) = running(200.0, 100, SERVER);
    let share = simulation.share(&[flow], 60.0);
    assert!(share > 0.98, "{share}");
}

#[test]
fn window_follows_a_fourfold_rate_change_within_seconds() {
    let (mut simulation, flow) = running(200.0, 100, SERVER);
    for factor in [4.0, 0.25, 0.25, 4.0] {
        simulation.rate *= factor;
        simulation.run(4.0);
        let since = simulation.seconds();
        let share = simulation.share(&[flow], 4.0);
        let queue = simulation.queue(CLIENT, since, 0.5);
        // The queue is a quarter of the round trip plus the constant addition, which is a tenth of
        // the slowest of these paths.
        assert!(
            share > 0.95 && queue < 0.37,
            "after {factor}: {share} {queue}"
        );
    }
}

#[test]
fn window_follows_a_longer_and_a_shorter_path_within_seconds() {
    let (mut simulation, flow) = running(200.0, 100, SERVER);
    simulation.delay *= 2;
    simulation.run(3.0);
    let share = simulation.share(&[flow], 4.0);
    assert!(share > 0.95, "{share}");
    simulation.delay /= 2;
    simulation.run(14.0);
    let since = simulation.seconds();
    simulation.run(4.0);
    assert!(
        simulation.queue(CLIENT, since, 0.5) < 0.35,
        "{}",
        simulation.queue(CLIENT, since, 0.5)
    );
}

#[test]
fn light_traffic_and_a_slow_reader_keep_the_window() {
    let (mut simulation, flow) = running(200.0, 100, SERVER);
    let before = simulation.window(0, CLIENT);
    simulation.flows[flow].writes = 1e6;
    simulation.run(30.0);
    assert!(
        simulation.window(0, CLIENT) > before * 0.9,
        "little to send"
    );
    simulation.flows[flow].writes = FULL;
    assert!(
        simulation.share(&[flow], 2.0) > 0.9,
        "full rate at once again"
    );
    simulation.flows[flow].reads = 1e6;
    simulation.run(30.0);
    assert!(simulation.window(0, CLIENT) > before * 0.9, "a slow reader");
    let other = simulation.flow(0, SERVER, FULL, FULL);
    simulation.run(1.0);
    let share = simulation.share(&[other], 2.0);
    assert!(share > 0.85, "beside a slow reader: {share}");
}

#[test]
fn two_tunnels_share_a_path_evenly_with_a_short_queue() {
    let (mut simulation, one) = running(200.0, 100, SERVER);
    let tunnel = simulation.tunnel();
    let two = simulation.flow(tunnel, SERVER, FULL, FULL);
    simulation.run(20.0);
    let since = simulation.seconds();
    let before = simulation.flows[one].arrived;
    let second = simulation.share(&[two], 10.0);
    let first = (simulation.flows[one].arrived - before) as f64 / (10.0 * simulation.rate);
    assert!(
        first + second > 0.95 && first.min(second) > 0.35,
        "{first} {second}"
    );
    assert!(
        simulation.queue(CLIENT, since, 0.5) < 0.5,
        "{}",
        simulation.queue(CLIENT, since, 0.5)
    );
}

#[test]
fn simultaneous_directions_do_not_starve_each_other() {
    let (mut simulation, down) = running(200.0, 100, SERVER);
    let up = simulation.flow(0, CLIENT, FULL, FULL);
    simulation.run(5.0);
    let share = simulation.share(&[down, up], 30.0);
    assert!(share > 1.3, "{share} of the two");
}

#[test]
fn window_fills_a_path_that_becomes_fifty_times_longer() {
    for quiet in [true, false] {
        let (mut simulation, flow) = running(200.0, 2, CLIENT);
        simulation.flows[flow].writes = if quiet { 0.0 } else { FULL };
        simulation.run(1.0);
        simulation.delay *= 50;
        simulation.run(4.0);
        simulation.flows[flow].writes = FULL;
        simulation.run(2.0);
        let since = simulation.seconds();
        let share = simulation.share(&[flow], 4.0);
        let queue = simulation.queue(SERVER, since, 0.5);
        assert!(share > 0.9 && queue < 0.4, "quiet {quiet}: {share} {queue}");
    }
}

const RTT: Duration = Duration::from_millis(100);

/// The answer to a PING of this time.
fn answer(sent: Instant, rtt: Duration) -> RttSample {
    RttSample {
        sent,
        rtt,
        credit_exhausted: true,
        bidirectional: false,
        beside_datagrams: false,
        has_return_queue: false,
        moved: 1 << 20,
        moved_in: rtt,
    }
}

/// Returns an estimator whose path of one [`RTT`] has shown a queue, and which waits for the answer
/// to a PING of the returned time.
fn probing() -> (BandwidthEstimator, Instant) {
    let (mut now, mut received) = (Instant::now(), 0);
    let mut bandwidth = BandwidthEstimator::new(now, 256 * 1024, 16 << 20);
    for round in 0..100 {
        let rtt = if round < 20 { RTT } else { RTT * 3 / 2 };
        bandwidth.on_rtt_sample(now, answer(now, rtt));
        now += RTT;
        if bandwidth.is_probing() {
            // The peer has used up all its credit.
            bandwidth.on_received(now, received, received);
            assert_eq!(bandwidth.ping_wanted_since(), Some(now));
            return (bandwidth, now);
        }
        let limit = received + bandwidth.size();
        bandwidth.on_limit_sent(now - RTT, received, limit);
        received += 1_000_000;
        bandwidth.on_received(now, received, received + bandwidth.size());
    }
    panic!("the queue causes no probe");
}

#[test]
fn late_answer_in_a_probe_counts_only_if_the_next_one_is_late_too() {
    for (second, found) in [(RTT, RTT), (RTT * 4, RTT * 3), (RTT * 5 / 2, RTT * 5 / 2)] {
        let (mut bandwidth, sent) = probing();
        let late = sent + RTT * 3;
        bandwidth.on_rtt_sample(late, answer(sent, RTT * 3));
        assert_eq!((bandwidth.is_probing(), bandwidth.min_rtt()), (true, RTT));
        assert_eq!(bandwidth.ping_wanted_since(), Some(late), "a second PING");
        bandwidth.on_rtt_sample(late + second, answer(late, second));
        assert_eq!(
            (bandwidth.is_probing(), bandwidth.min_rtt()),
            (false, found)
        );
    }
}

#[test]
fn late_answer_in_a_probe_counts_if_data_arrives_before_the_next_one() {
    let (mut bandwidth, sent) = probing();
    let late = sent + RTT * 3;
    bandwidth.on_rtt_sample(late, answer(sent, RTT * 3));
    let received = 200_000_000;
    bandwidth.on_received(late + RTT, received, received);
    assert!(bandwidth.is_probing(), "the next answer may be in time");
    bandwidth.on_received(late + RTT * 2, received, received);
    assert_eq!(
        (bandwidth.is_probing(), bandwidth.min_rtt()),
        (false, RTT * 3)
    );
}

/// Returns the window on a path of one gigabyte per second without length, after some time.
fn window_on_loopback(
    bandwidth: &mut BandwidthEstimator,
    now: &mut Instant,
    received: &mut u64,
) -> u64 {
    const STEP: Duration = Duration::from_micros(100);
    for _ in 0..2000 {
        bandwidth.on_rtt_sample(*now, answer(*now, STEP));
        bandwidth.on_limit_sent(*now, *received, *received + bandwidth.size());
        *now += STEP;
        *received += 100_000;
        bandwidth.on_received(*now, *received, *received + bandwidth.size());
    }
    bandwidth.size()
}

#[test]
fn interactive_stream_keeps_the_window_of_a_short_path_small() {
    let (mut now, mut received) = (Instant::now(), 0);
    let mut bandwidth = BandwidthEstimator::new(now, 256 * 1024, 16 << 20);
    let alone = window_on_loopback(&mut bandwidth, &mut now, &mut received);
    bandwidth.interactive().on_activity(now, 7);
    let beside = window_on_loopback(&mut bandwidth, &mut now, &mut received);
    assert!(
        alone > 500 * 1024 && beside < 150 * 1024,
        "{alone} {beside}"
    );
    bandwidth.interactive().clear(8);
    assert_eq!(
        window_on_loopback(&mut bandwidth, &mut now, &mut received),
        beside,
        "clearing another stream changes nothing"
    );
    bandwidth.interactive().clear(7);
    assert_eq!(
        window_on_loopback(&mut bandwidth, &mut now, &mut received),
        alone,
        "the stream became a bulk stream"
    );
    bandwidth.interactive().on_activity(now, 9);
    let _ = window_on_loopback(&mut bandwidth, &mut now, &mut received);
    now += Duration::from_secs(1);
    let later = window_on_loopback(&mut bandwidth, &mut now, &mut received);
    assert!(later > 500 * 1024, "{later}");
}
