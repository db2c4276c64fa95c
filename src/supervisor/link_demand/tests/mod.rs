//! Tests of the demand in virtual time, over models of paths.

mod paths;
mod timing;
mod trials;

use proptest::prelude::*;

use self::paths::{Bbr, ConstantRate, FullQueue, Path, RandomLoss, moved};
use super::{direction::MIN_LOSS_RATIO, *};

const TICK: Duration = Duration::from_millis(500);
const SEGMENT: f64 = 1448.0;
/// 100 Mbit/s, in bytes per second.
const CAPACITY: f64 = 12.5e6;
const MAX: usize = 8;

/// The direction of a transfer. The rules are the same for both.
#[derive(Clone, Copy)]
enum Way {
    Received,
    Sent,
}

/// A demand, a clock that the test moves, and the numbers wanted so far.
struct Fixture {
    demand: LinkDemand,
    now: Instant,
    random: fastrand::Rng,
    elapsed: Duration,
    changes: Vec<(Duration, usize)>,
    /// The time until a wanted link is up.
    link_time: Duration,
}

impl Fixture {
    fn new(max: usize, seed: u64) -> Self {
        let mut fixture = Fixture {
            demand: LinkDemand::new(max),
            now: Instant::now(),
            random: fastrand::Rng::with_seed(seed),
            elapsed: Duration::ZERO,
            changes: Vec::new(),
            link_time: Duration::ZERO,
        };
        // Starts the clock of the demand.
        fixture.demand.on_sample(fixture.now, &Sample::default());
        fixture
    }

    fn tick(&mut self, sample: &Sample) -> usize {
        self.after(TICK, sample)
    }

    fn after(&mut self, length: Duration, sample: &Sample) -> usize {
        let before = self.demand.wanted();
        self.now += length;
        self.elapsed += length;
        let sample = Sample {
            links: self.links(),
            ..*sample
        };
        let wanted = self.demand.on_sample(self.now, &sample);
        assert_eq!(wanted, self.demand.wanted());
        if wanted != before {
            self.changes.push((self.elapsed, wanted));
        }
        wanted
    }

    /// Returns the number of links that are up.
    fn links(&self) -> usize {
        let mut changes = self.changes.iter().rev();
        let is_up = |at: Duration| self.elapsed >= at + self.link_time;
        changes
            .find(|(at, _)| is_up(*at))
            .map_or(1, |(_, wanted)| *wanted)
    }

    /// Transfers for `seconds` over the links that are up, and returns the wanted number.
    fn transfer(&mut self, path: &mut impl Path, way: Way, seconds: u64) -> usize {
        for _ in 0..seconds * 2 {
            let traffic = path.transfer(self.links(), &mut self.random);
            self.tick(&sample(way, traffic));
        }
        self.demand.wanted()
    }

    /// Moves `segments` a tick with `losses` in every second one, for `ticks`.
    fn scripted(&mut self, segments: u64, losses: u64, ticks: usize) -> usize {
        for tick in 0..ticks {
            let traffic = Traffic {
                bytes: segments * SEGMENT as u64,
                segments,
                losses: if tick % 2 == 0 { losses } else { 0 },
                delayed: 0,
            };
            self.tick(&sample(Way::Sent, traffic));
        }
        self.demand.wanted()
    }

    fn rest(&mut self, seconds: u64) -> usize {
        for _ in 0..seconds * 2 {
            self.tick(&Sample::default());
        }
        self.demand.wanted()
    }

    /// Returns when each trial began: a step up from one link.
    fn trials(&self) -> Vec<Duration> {
        let mut last = 1;
        let mut trials = Vec::new();
        for (at, wanted) in &self.changes {
            if last == 1 {
                trials.push(*at);
            }
            last = *wanted;
        }
        trials
    }
}

fn sample(way: Way, traffic: Traffic) -> Sample {
    match way {
        Way::Received => Sample {
            received: traffic,
            ..Sample::default()
        },
        Way::Sent => Sample {
            sent: traffic,
            ..Sample::default()
        },
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn random_loss_goes_to_maximum_within_five_seconds_and_stays() {
    for way in [Way::Received, Way::Sent] {
        let mut heavy = 0;
        let mut times: Vec<Duration> = (0..200)
            .map(|seed| {
                let mut fixture = Fixture::new(MAX, seed);
                let wanted = fixture.transfer(&mut RandomLoss::new(0.01, 0.1), way, 120);
                assert_eq!(wanted, MAX, "seed {seed}: {:?}", fixture.changes);
                let numbers: Vec<_> = fixture.changes.iter().map(|(_, wanted)| *wanted).collect();
                // By chance, the losses of three seconds can be heavy.
                assert!(
                    matches!(numbers[..], [4, 8] | [8]),
                    "seed {seed}: one row of steps, not {numbers:?}"
                );
                heavy += usize::from(numbers == [8]);
                let [first, last] = [0, numbers.len() - 1].map(|index| fixture.changes[index].0);
                assert!(
                    numbers == [8] || last - first >= seconds(1.5),
                    "seed {seed}"
                );
                last
            })
            .collect();
        assert!(heavy <= 10, "{heavy} of 200 runs skipped a step");
        times.sort();
        // A link of 1 Mbit/s loses a segment a second. By chance there are pauses of some seconds.
        assert!(times[100] <= seconds(5.0), "median {:?}", times[100]);
        assert!(times[199] <= seconds(20.0), "longest {:?}", times[199]);
    }
}

#[test]
fn heavy_loss_on_a_long_path_goes_to_maximum() {
    for seed in 0..50 {
        let mut fixture = Fixture::new(MAX, seed);
        let mut path = RandomLoss::new(0.03, 0.2);
        assert_eq!(fixture.transfer(&mut path, Way::Sent, 60), MAX, "{seed}");
    }
}

#[test]
fn heavy_loss_skips_the_first_step() {
    let mut fixture = Fixture::new(MAX, 1);
    assert_eq!(fixture.scripted(40, 3, 6), 8);
    assert_eq!(fixture.changes, [(seconds(3.0), 8)]);
    let mut fixture = Fixture::new(6, 1);
    assert_eq!(fixture.scripted(40, 3, 6), 6, "at most six");
}

#[test]
fn full_queue_stays_at_one_link() {
    for (seed, burst) in [(1, 1.0), (2, 10.0), (3, 3000.0)] {
        for phase in 0..20 {
            let mut path = FullQueue {
                now: 0.0,
                next_burst: 0.025 * f64::from(phase),
                burst,
            };
            let mut fixture = Fixture::new(MAX, seed);
            fixture.transfer(&mut path, Way::Sent, 300);
            assert_eq!(fixture.changes, [], "phase {phase}, {burst} segments");
        }
    }
}

#[test]
fn bursts_on_a_path_without_a_queue_go_to_maximum() {
    let mut fixture = Fixture::new(MAX, 1);
    for tick in 0..80 {
        let links = fixture.demand.wanted() as u64;
        // A burst in two seconds stops the connections for a round trip of 100 ms.
        let is_burst = tick % 4 == 0;
        let traffic = Traffic {
            bytes: links * 600_000,
            segments: links * 414,
            losses: u64::from(is_burst),
            delayed: if is_burst { links * 80 } else { 0 },
        };
        fixture.tick(&sample(Way::Received, traffic));
    }
    assert_eq!(fixture.demand.wanted(), MAX, "{:?}", fixture.changes);
}

#[test]
fn rare_loss_stays_at_one_link() {
    for seed in 0..20 {
        let mut fixture = Fixture::new(MAX, seed);
        let mut path = ConstantRate {
            rate: CAPACITY,
            loss: MIN_LOSS_RATIO / 4.0,
        };
        fixture.transfer(&mut path, Way::Received, 60);
        assert_eq!(fixture.changes, [], "seed {seed}");
    }
}

#[test]
fn start_of_a_transfer_is_not_taken_for_a_gain() {
    for seed in 0..50 {
        let mut fixture = Fixture::new(MAX, seed);
        // A slow start, of which the first tick has only a part.
        for rate in [0.02e6, 0.1e6, 0.3e6] {
            let traffic = moved(rate / 2.0, 0.0, &mut fixture.random);
            fixture.tick(&sample(Way::Received, traffic));
        }
        let mut path = ConstantRate {
            rate: 0.6e6,
            loss: 0.02,
        };
        fixture.transfer(&mut path, Way::Received, 30);
        assert!(!fixture.changes.is_empty());
        assert_eq!(fixture.demand.wanted(), 1, "{:?}", fixture.changes);
    }
}

#[test]
fn moderate_gain_keeps_the_links() {
    for seed in 0..50 {
        let mut fixture = Fixture::new(MAX, seed);
        assert_eq!(fixture.transfer(&mut Bbr, Way::Received, 120), MAX);
        assert_eq!(fixture.changes.len(), 2, "{:?}", fixture.changes);
    }
}

#[test]
fn rest_returns_to_one_link_and_a_pause_does_not() {
    let mut fixture = Fixture::new(MAX, 5);
    let mut path = RandomLoss::new(0.01, 0.1);
    assert_eq!(fixture.transfer(&mut path, Way::Sent, 60), MAX);
    assert_eq!(fixture.rest(25), MAX);
    assert_eq!(fixture.transfer(&mut path, Way::Sent, 5), MAX);
    assert_eq!(fixture.rest(35), 1);
    let change = fixture.demand.last_change().unwrap();
    assert_eq!(change.reason, DemandReason::Rest);
    assert_eq!(
        fixture.transfer(&mut path, Way::Sent, 60),
        MAX,
        "a rest is not held against the path"
    );
}

#[test]
fn little_traffic_changes_nothing() {
    let mut fixture = Fixture::new(MAX, 1);
    for _ in 0..1000 {
        let few_bytes = Traffic {
            bytes: BUSY_BYTES - 1,
            segments: 20,
            losses: 10,
            delayed: 10,
        };
        let few_segments = Traffic {
            bytes: 1 << 20,
            segments: BUSY_SEGMENTS - 1,
            losses: 3,
            delayed: 3,
        };
        let sample = Sample {
            received: few_bytes,
            sent: few_segments,
            links: 1,
        };
        assert!(!sample.is_busy());
        assert_eq!(fixture.tick(&sample), 1);
    }
}

#[test]
fn losses_of_a_quiet_direction_do_not_count_for_the_busy_one() {
    let mut fixture = Fixture::new(MAX, 1);
    for _ in 0..200 {
        let clean = moved(CAPACITY / 2.0, 0.0, &mut fixture.random);
        let sample = Sample {
            received: clean,
            sent: Traffic {
                bytes: 4000,
                segments: 100,
                losses: 2,
                delayed: 50,
            },
            links: 1,
        };
        assert_eq!(fixture.tick(&sample), 1);
    }
}

#[test]
fn samples_that_span_a_rest_are_no_evidence() {
    let mut fixture = Fixture::new(MAX, 1);
    for _ in 0..100 {
        let traffic = moved(1e6, 0.02, &mut fixture.random);
        assert_eq!(fixture.after(seconds(5.0), &sample(Way::Sent, traffic)), 1);
    }
}

#[test]
fn change_reports_loss_and_rate() {
    let mut fixture = Fixture::new(MAX, 1);
    fixture.scripted(100, 2, 6);
    let change = fixture.demand.last_change().unwrap();
    assert_eq!(change.reason, DemandReason::Losses);
    assert!((change.loss - 6.0 / 600.0).abs() < 1e-9, "{change:?}");
    assert!((change.rate - 200.0 * SEGMENT).abs() < 1.0, "{change:?}");
}

#[test]
fn maximum_bounds_the_steps() {
    for (max, expected) in [
        (0, &[][..]),
        (1, &[]),
        (2, &[2]),
        (4, &[4]),
        (6, &[4, 6]),
        (16, &[4, 8, 16]),
    ] {
        let mut fixture = Fixture::new(max, 7);
        fixture.transfer(&mut RandomLoss::new(0.01, 0.1), Way::Sent, 60);
        let numbers: Vec<_> = fixture.changes.iter().map(|(_, wanted)| *wanted).collect();
        assert_eq!(numbers, expected, "at most {max}");
    }
}

#[test]
fn demand_never_falls_below_the_minimum() {
    let mut fixture = Fixture::new(MAX, 7);
    fixture.demand = LinkDemand::new(MAX).with_min(3);
    assert_eq!(fixture.rest(60), 3);
    assert_eq!(
        fixture.transfer(&mut RandomLoss::new(0.01, 0.1), Way::Sent, 60),
        MAX
    );
    assert_eq!(fixture.rest(60), 3);
    for (min, wanted) in [(0, 1), (1, 1), (8, 8), (9, 8)] {
        let demand = LinkDemand::new(8).with_min(min);
        assert_eq!((demand.wanted(), demand.is_fixed()), (wanted, wanted == 8));
    }
}

prop_compose! {
    fn any_traffic()(
        bytes in prop_oneof![Just(0_u64), 0..100_000_u64, any::<u32>().prop_map(u64::from)],
        segments in 0..10_000_u64,
        losses in prop_oneof![Just(0_u64), 0..200_u64],
        delayed in 0..500_u64,
    ) -> Traffic {
        Traffic { bytes, segments, losses, delayed }
    }
}

proptest! {
    #[test]
    fn any_samples_keep_the_number_within_its_bounds(
        max in 0..20_usize,
        samples in proptest::collection::vec(
            (prop_oneof![4 => Just(500_u64), 1 => 0..60_000_u64], any_traffic(), any_traffic()), 1..400,
        ),
    ) {
        let mut fixture = Fixture::new(max, 1);
        let mut stepped: Option<Duration> = None;
        for (millis, received, sent) in samples {
            let before = fixture.demand.wanted();
            let wanted = fixture.after(Duration::from_millis(millis), &Sample { received, sent, links: 0 });
            prop_assert!((1..=max.max(1)).contains(&wanted));
            if wanted > before {
                let pause = stepped.replace(fixture.elapsed).map(|last| fixture.elapsed - last);
                prop_assert!(pause.is_none_or(|pause| pause + TIMER_TOLERANCE >= STEP_INTERVAL));
                prop_assert!(received.losses > 0 || sent.losses > 0 || millis <= 1000);
            }
        }
    }
}
