//! Random trees against a reference: weighted max-min shares, computed by filling.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The levels of the tree below the root.
const LEVELS: usize = 5;

/// A channel of a random tree.
struct Channel {
    subjects: PairSubjects,
    direction: RateDirection,
    length: u64,
    demand: Option<u64>,
    /// The nodes from the account down to the channel.
    path: [u64; LEVELS],
}

struct Scenario {
    limits: BTreeMap<RateSubject, SubjectLimits>,
    channels: Vec<Channel>,
}

/// Returns a random rate between two fractions of `rate`, in percent.
fn part(random: &mut fastrand::Rng, rate: u64, percent: std::ops::Range<u64>) -> u64 {
    (rate / 100 * random.u64(percent)).max(1_000)
}

/// Returns a limit with a burst of a tenth of a second, which hardly matters in ten seconds.
fn limit(rate: u64) -> RateLimit {
    RateLimit {
        bytes_per_second: rate,
        burst: Some(rate / 10),
    }
}

fn random_limits(random: &mut fastrand::Rng, rate: u64) -> SubjectLimits {
    let mut some_limit = || (random.u8(0..3) == 0).then(|| limit(part(random, rate, 5..150)));
    let (up, down) = (some_limit(), some_limit());
    SubjectLimits {
        up,
        down,
        both: None,
        weight: random.u32(1..5),
    }
}

impl Scenario {
    fn random(seed: u64, rate: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let relay = SubjectLimits {
            up: Some(limit(rate)),
            down: Some(limit(rate)),
            ..SubjectLimits::default()
        };
        let mut scenario = Scenario {
            limits: BTreeMap::from([(RateSubject::Relay, relay)]),
            channels: Vec::new(),
        };
        for _ in 0..random.usize(2..16) {
            let (account, service) = (random.u8(1..4), random.u8(1..3));
            let (party, instance) = (random.u8(1..3), random.u8(1..3));
            let key = Id([account * 16 + service; 16]);
            for subject in [RateSubject::Account(account.into()), RateSubject::Key(key)] {
                let limits = random_limits(&mut random, rate);
                scenario.limits.entry(subject).or_insert(limits);
            }
            let demand = (random.u8(0..3) == 0).then(|| part(&mut random, rate, 1..60));
            let longest = (rate / 500).clamp(200, 64 * KIB);
            scenario.channels.push(Channel {
                subjects: PairSubjects {
                    owner_account: account.into(),
                    key,
                    party: RateParty::Address(IpAddr::from([10, 0, 0, party])),
                    instance: Id([instance; 16]),
                    client_account: None,
                },
                direction: RateDirection::ALL[random.usize(0..2)],
                length: random.u64(longest / 4..=longest),
                demand,
                path: [
                    account.into(),
                    service.into(),
                    party.into(),
                    instance.into(),
                    scenario.channels.len() as u64,
                ],
            });
        }
        scenario
    }

    /// Returns the reference rate of each channel.
    fn rates(&self) -> Vec<f64> {
        let mut rates = vec![0.0; self.channels.len()];
        for direction in RateDirection::ALL {
            let members: Vec<_> = (0..self.channels.len())
                .filter(|number| self.channels[*number].direction == direction)
                .collect();
            if !members.is_empty() {
                let root = self.node(&members, 0, direction);
                root.fill(root.demand(), &mut rates);
            }
        }
        rates
    }

    /// Returns the reference node above these channels at a level, the root being level 0.
    fn node(&self, members: &[usize], level: usize, direction: RateDirection) -> ReferenceNode {
        let first = &self.channels[members[0]];
        let subject = match level {
            0 => Some(RateSubject::Relay),
            1 => Some(RateSubject::Account(first.subjects.owner_account)),
            2 => Some(RateSubject::Key(first.subjects.key)),
            _ => None,
        };
        let limits = subject.and_then(|subject| self.limits.get(&subject));
        let limits = limits.copied().unwrap_or_default();
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        if level < LEVELS {
            for member in members {
                let child = self.channels[*member].path[level];
                groups.entry(child).or_default().push(*member);
            }
        }
        let infinite = |rate: Option<u64>| rate.map_or(f64::INFINITY, |rate| rate as f64);
        ReferenceNode {
            limit: infinite(limits.of(direction).map(|limit| limit.bytes_per_second)),
            weight: limits.weight.into(),
            children: groups
                .values()
                .map(|group| self.node(group, level + 1, direction))
                .collect(),
            channel: members[0],
            channel_demand: infinite(first.demand),
        }
    }
}

struct ReferenceNode {
    limit: f64,
    weight: f64,
    children: Vec<ReferenceNode>,
    /// The number and the demand of the channel, if the node has no children.
    channel: usize,
    channel_demand: f64,
}

impl ReferenceNode {
    fn demand(&self) -> f64 {
        let below = if self.children.is_empty() {
            self.channel_demand
        } else {
            self.children.iter().map(ReferenceNode::demand).sum()
        };
        below.min(self.limit)
    }

    /// Divides a rate, which is at most the demand, between the channels below.
    fn fill(&self, rate: f64, rates: &mut [f64]) {
        if self.children.is_empty() {
            rates[self.channel] = rate;
            return;
        }
        let (mut rest, mut open) = (rate, self.children.iter().collect::<Vec<_>>());
        loop {
            let weights: f64 = open.iter().map(|child| child.weight).sum();
            let level = rest / weights;
            let (full, others): (Vec<_>, Vec<_>) = open
                .into_iter()
                .partition(|child| child.demand() <= level * child.weight);
            for child in &full {
                child.fill(child.demand(), rates);
                rest -= child.demand();
            }
            if full.is_empty() || others.is_empty() {
                for child in others {
                    child.fill(level * child.weight, rates);
                }
                return;
            }
            open = others;
        }
    }
}

#[test]
fn reference_fills_by_weight_and_lends() {
    let leaf = |channel, weight, channel_demand| ReferenceNode {
        limit: f64::INFINITY,
        weight,
        children: Vec::new(),
        channel,
        channel_demand,
    };
    let root = ReferenceNode {
        limit: 100.0,
        weight: 1.0,
        children: vec![
            leaf(0, 1.0, f64::INFINITY),
            leaf(1, 2.0, 10.0),
            leaf(2, 2.0, f64::INFINITY),
        ],
        channel: 0,
        channel_demand: 0.0,
    };
    let mut rates = [0.0; 3];
    root.fill(root.demand(), &mut rates);
    assert_eq!(rates, [30.0, 10.0, 60.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The rates span 64 KiB/s to 1 GB/s.
    #[test]
    fn shares_are_within_three_percent_of_max_min(seed in any::<u64>(), exponent in 0.0_f64..1.0) {
        let rate = (65_536.0 * (1e9_f64 / 65_536.0).powf(exponent)) as u64;
        let scenario = Scenario::random(seed, rate);
        let limits: Vec<_> = scenario.limits.iter().map(|(subject, limits)| (*subject, *limits)).collect();
        let mut simulation = Simulation::new(&limits);
        for channel in &scenario.channels {
            let mut sender = Sender::bulk(channel.length);
            sender.demand = channel.demand;
            simulation.add(&channel.subjects, channel.direction, sender);
        }
        simulation.run(2 * SECOND);
        let sent = simulation.sent_in(10 * SECOND);
        for ((channel, sent), rate) in scenario.channels.iter().zip(sent).zip(scenario.rates()) {
            let expected = 10.0 * rate;
            // A channel with a low rate sends few messages in the time.
            let granularity = 3.0 * (channel.length + MIN_GRANT) as f64;
            let difference = (sent as f64 - expected).abs();
            prop_assert!(
                difference <= 0.03 * expected + granularity,
                "{:?} sent {}, expected {}", channel.path, sent, expected
            );
        }
    }
}
