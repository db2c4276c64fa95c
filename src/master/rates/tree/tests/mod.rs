//! Tests of the tree in virtual time.

mod max_min;
mod simulation;

use std::net::IpAddr;

use self::simulation::{Sender, Simulation};
use super::*;
use crate::master::rates::limits::{RateLimit, RateParty};
use RateDirection::{Down, Up};
use report_proto::id::Id;

const KIB: u64 = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Returns the subjects of a client process that uses the key of account 1.
fn subjects(key: u8, instance: u8) -> PairSubjects {
    PairSubjects {
        owner_account: 1,
        key: Id([key; 16]),
        party: RateParty::Address(IpAddr::from([10, 0, 0, instance])),
        instance: Id([instance; 16]),
        client_account: None,
    }
}

fn key(key: u8) -> RateSubject {
    RateSubject::Key(Id([key; 16]))
}

/// Limits each direction separately.
fn each_way(bytes_per_second: u64) -> SubjectLimits {
    SubjectLimits {
        up: Some(RateLimit::of(bytes_per_second)),
        down: Some(RateLimit::of(bytes_per_second)),
        ..SubjectLimits::default()
    }
}

fn both_ways(bytes_per_second: u64) -> SubjectLimits {
    SubjectLimits {
        both: Some(RateLimit::of(bytes_per_second)),
        ..SubjectLimits::default()
    }
}

/// Asserts that a sum over a time is within 3 % of a rate.
fn assert_rate(sent: u64, rate: u64, seconds: u64) {
    let expected = rate * seconds;
    let difference = sent.abs_diff(expected);
    assert!(
        difference <= expected * 3 / 100,
        "{sent} bytes, expected {expected}"
    );
}

#[test]
fn a_single_sender_gets_the_rate_of_its_key() {
    for (rate, length) in [
        (64 * KIB, 1_400),
        (1_000_000, 16_000),
        (100_000_000, 65_000),
        (1_000_000_000, 65_000),
    ] {
        let mut simulation = Simulation::new(&[(key(1), each_way(rate))]);
        simulation.add(&subjects(1, 1), Down, Sender::bulk(length));
        simulation.run(SECOND);
        let sent = simulation.sent_in(10 * SECOND);
        assert_rate(sent[0], rate, 10);
    }
}

#[test]
fn first_ten_seconds_include_the_default_burst() {
    for (rate, length) in [
        (64 * KIB, 1_400),
        (64 * KIB, 4 * KIB),
        (1_000_000, 16_000),
        (100_000_000, 65_000),
        (1_000_000_000, 65_000),
    ] {
        let mut simulation = Simulation::new(&[(key(1), each_way(rate))]);
        simulation.add(&subjects(1, 1), Down, Sender::bulk(length));
        let sent = simulation.sent_in(10 * SECOND);
        assert_rate(sent[0], rate, 10);
    }
}

#[test]
fn message_of_a_second_is_a_debt_and_the_rate_stays_exact() {
    let mut simulation = Simulation::new(&[(key(1), each_way(64 * KIB))]);
    simulation.add(&subjects(1, 1), Up, Sender::bulk(64 * KIB));
    simulation.run(SECOND);
    let sent = simulation.sent_in(100 * SECOND);
    assert_rate(sent[0], 64 * KIB, 100);
}

#[test]
fn burst_passes_at_once_and_a_pause_restores_it() {
    let limit = SubjectLimits {
        up: Some(RateLimit {
            bytes_per_second: 100_000,
            burst: Some(1_000_000),
        }),
        ..SubjectLimits::default()
    };
    let mut simulation = Simulation::new(&[(key(1), limit)]);
    let sender = simulation.add(&subjects(1, 1), Up, Sender::bulk(1_000));
    let millisecond = Duration::from_millis(1);
    let first = simulation.sent_in(millisecond)[0];
    assert!((1_000_000..1_010_000).contains(&first), "{first}");
    assert!(simulation.sent_in(SECOND)[0] < 110_000);
    simulation.senders[sender].length = u64::MAX;
    simulation.run(20 * SECOND);
    simulation.senders[sender].length = 1_000;
    let again = simulation.sent_in(millisecond)[0];
    assert!((990_000..1_010_000).contains(&again), "{again}");
}

#[test]
fn client_with_eight_channels_gets_no_more_than_one_with_a_single_channel() {
    let mut simulation = Simulation::new(&[(key(1), each_way(1_000_000))]);
    for _ in 0..8 {
        simulation.add(&subjects(1, 1), Down, Sender::bulk(16_000));
    }
    simulation.add(&subjects(1, 2), Down, Sender::bulk(4_000));
    simulation.run(SECOND);
    let sent = simulation.sent_in(10 * SECOND);
    assert_rate(sent[..8].iter().sum(), 500_000, 10);
    assert_rate(sent[8], 500_000, 10);
    for channel in &sent[..8] {
        assert!(channel.abs_diff(625_000) <= 48_000, "{sent:?}");
    }
}

#[test]
fn processes_of_one_party_share_what_the_party_gets() {
    let mut simulation = Simulation::new(&[(key(1), each_way(1_000_000))]);
    let party = RateParty::Credential(Id([9; 16]));
    for instance in 1..=4 {
        let subjects = PairSubjects {
            party,
            ..subjects(1, instance)
        };
        simulation.add(&subjects, Up, Sender::bulk(5_000));
    }
    simulation.add(&subjects(1, 9), Up, Sender::bulk(5_000));
    simulation.run(SECOND);
    let sent = simulation.sent_in(10 * SECOND);
    assert_rate(sent[4], 500_000, 10);
}

#[test]
fn keys_share_by_weight_and_lend_what_they_do_not_use() {
    let weighted = |weight| SubjectLimits {
        weight,
        ..SubjectLimits::default()
    };
    let mut simulation = Simulation::new(&[
        (RateSubject::Relay, each_way(4_000_000)),
        (key(2), weighted(3)),
    ]);
    simulation.add(&subjects(1, 1), Up, Sender::bulk(10_000));
    let heavy = simulation.add(&subjects(2, 2), Up, Sender::bulk(10_000));
    simulation.run(SECOND);
    let sent = simulation.sent_in(10 * SECOND);
    assert_rate(sent[0], 1_000_000, 10);
    assert_rate(sent[1], 3_000_000, 10);
    simulation.senders[heavy].demand = Some(500_000);
    simulation.run(SECOND);
    let sent = simulation.sent_in(10 * SECOND);
    assert_rate(sent[0], 3_500_000, 10);
}

#[test]
fn both_directions_share_a_common_limit() {
    let mut simulation = Simulation::new(&[(key(1), both_ways(1_000_000))]);
    simulation.add(&subjects(1, 1), Up, Sender::bulk(10_000));
    simulation.add(&subjects(1, 2), Down, Sender::bulk(10_000));
    // The other key must not decide which direction of the first one is served.
    simulation.add(&subjects(2, 3), Up, Sender::bulk(10_000));
    simulation.set_limits(key(2), each_way(1_000_000));
    simulation.run(SECOND);
    let sent = simulation.sent_in(10 * SECOND);
    assert_rate(sent[0], 500_000, 10);
    assert_rate(sent[1], 500_000, 10);
    assert_rate(sent[2], 1_000_000, 10);
}

#[test]
fn account_of_a_foreign_client_limits_all_its_traffic_together() {
    let account = RateSubject::Account(7);
    let mut simulation = Simulation::new(&[(account, each_way(1_000_000))]);
    for key in [1, 2] {
        let subjects = PairSubjects {
            client_account: Some(7),
            ..subjects(key, key)
        };
        simulation.add(&subjects, Down, Sender::bulk(10_000));
    }
    let own = PairSubjects {
        owner_account: 7,
        ..subjects(3, 3)
    };
    simulation.add(&own, Down, Sender::bulk(10_000));
    simulation.run(SECOND);
    let sent = simulation.sent_in(10 * SECOND);
    assert_rate(sent.iter().sum(), 1_000_000, 10);
    assert!(sent.iter().all(|bytes| *bytes > 1_000_000), "{sent:?}");
}

#[test]
fn two_nodes_of_one_key_have_one_limit() {
    let mut simulation = Simulation::new(&[(key(1), each_way(1_000_000))]);
    for owner_account in [1, 2] {
        let subjects = PairSubjects {
            owner_account,
            ..subjects(1, 1)
        };
        simulation.add(&subjects, Up, Sender::bulk(10_000));
    }
    simulation.run(SECOND);
    assert_rate(simulation.sent_in(10 * SECOND).iter().sum(), 1_000_000, 10);
}

#[test]
fn changed_limit_acts_on_running_traffic() {
    let mut simulation = Simulation::new(&[(key(1), each_way(100_000_000))]);
    simulation.add(&subjects(1, 1), Down, Sender::bulk(20_000));
    simulation.run(SECOND);
    for rate in [1_000_000, 200_000_000, 100 * KIB, 10_000_000] {
        simulation.set_limits(key(1), each_way(rate));
        simulation.run(SECOND);
        let sent = simulation.sent_in(20 * SECOND);
        assert_rate(sent[0], rate, 20);
    }
}

#[test]
fn removed_limit_releases_every_waiting_channel() {
    let now = Instant::now();
    let mut tree = RateTree::new();
    tree.set_limits(key(1), each_way(1_000), now);
    tree.set_limits(RateSubject::Relay, each_way(1_000_000_000), now);
    let leaves: Vec<_> = (0..10)
        .map(|number| tree.add_leaf(&subjects(1, 1), number))
        .collect();
    let request = RateRequest {
        needed: 20_000,
        queued: 20_000,
    };
    let granted = |tree: &mut RateTree, leaf| tree.request(leaf, Up, request, now);
    assert_eq!(granted(&mut tree, leaves[0]), Some(20_000));
    for leaf in &leaves[1..] {
        assert_eq!(granted(&mut tree, *leaf), Some(0));
    }
    tree.set_limits(key(1), SubjectLimits::default(), now);
    tree.release_all();
    assert!(tree.serve(now));
    let mut owners: Vec<_> = tree.take_granted().map(|granted| granted.owner).collect();
    owners.sort_unstable();
    assert_eq!(owners, (1..10).collect::<Vec<u64>>());
    assert_eq!(tree.next_refill(now), None);
}

#[test]
fn limit_without_traffic_takes_little_memory() {
    let entry = size_of::<(RateSubject, SubjectRates)>();
    assert!(entry <= 40, "{entry}");
    let now = Instant::now();
    let mut tree = RateTree::new();
    for (number, rate) in [(1, 1_000), (2, 1_000), (3, 2_000)] {
        tree.set_limits(key(number), each_way(rate), now);
    }
    let limits = |number| tree.subjects[&key(number)].limits();
    assert!(std::ptr::eq(limits(1), limits(2)), "equal ones are shared");
    assert_eq!(limits(3), &each_way(2_000));
}

#[test]
fn small_message_beside_a_copy_waits_for_one_message() {
    let mut simulation = Simulation::new(&[(key(1), each_way(1_000_000))]);
    for _ in 0..10 {
        simulation.add(&subjects(1, 1), Down, Sender::bulk(16_000));
    }
    simulation.run(SECOND);
    let shell = simulation.add(&subjects(1, 2), Down, Sender::bulk(u64::MAX));
    for _ in 0..100 {
        let before = simulation.senders[shell].sent;
        simulation.senders[shell].length = 100;
        simulation.senders[shell].demand = Some(0);
        simulation.senders[shell].backlog = 100;
        // A message of the copy takes 16 ms.
        simulation.run(Duration::from_millis(20));
        assert_eq!(simulation.senders[shell].sent, before + 100);
        simulation.run(Duration::from_millis(7));
    }
}

#[test]
fn limits_at_rest_have_no_timer_and_no_nodes() {
    let now = Instant::now();
    let mut tree = RateTree::new();
    for number in 0..10_000_u128 {
        let subject = RateSubject::Key(Id(number.to_be_bytes()));
        tree.set_limits(subject, each_way(64 * KIB), now);
    }
    let leaves: Vec<_> = (0..100)
        .map(|number| {
            let key = Id(u128::from(number).to_be_bytes());
            let subjects = PairSubjects {
                key,
                ..subjects(1, 1)
            };
            tree.add_leaf(&subjects, number)
        })
        .collect();
    // Debts alone need no timer either.
    for leaf in &leaves {
        let request = RateRequest {
            needed: 60_000,
            queued: 60_000,
        };
        assert_eq!(tree.request(*leaf, Up, request, now), Some(60_000));
    }
    assert_eq!(tree.next_refill(now), None);
    leaves.into_iter().for_each(|leaf| tree.remove_leaf(leaf));
    assert_eq!((tree.nodes.len(), tree.index.len()), (1, 0));
}

#[test]
fn removed_and_cancelled_channels_leave_nothing_behind() {
    let now = Instant::now();
    let mut tree = RateTree::new();
    tree.set_limits(key(1), each_way(1_000), now);
    let (first, second) = (
        tree.add_leaf(&subjects(1, 1), 1),
        tree.add_leaf(&subjects(1, 1), 2),
    );
    let request = RateRequest {
        needed: 50_000,
        queued: 50_000,
    };
    for direction in RateDirection::ALL {
        assert_eq!(tree.request(first, direction, request, now), Some(50_000));
        assert_eq!(tree.request(first, direction, request, now), Some(0));
        assert_eq!(tree.request(second, direction, request, now), Some(0));
    }
    assert!(tree.next_refill(now).is_some());
    tree.cancel(first, Up);
    tree.remove_leaf(second);
    // The debt is paid a minute later. Only one request is left.
    let later = now + 60 * SECOND;
    assert!(tree.serve(later));
    let granted: Vec<_> = tree.take_granted().collect();
    assert_eq!(granted.len(), 1);
    assert_eq!((granted[0].owner, granted[0].direction), (1, Down));
    tree.remove_leaf(first);
    assert_eq!(tree.nodes.len(), 1);
    assert!(tree.parked.is_empty());
    assert_eq!(tree.request(first, Up, request, later), None);
}

#[test]
fn many_waiting_channels_are_served_in_bounded_steps() {
    let now = Instant::now();
    let mut tree = RateTree::new();
    tree.set_limits(RateSubject::Relay, each_way(1_000_000_000), now);
    let request = RateRequest {
        needed: 1_000,
        queued: 1_000,
    };
    let drain = RateRequest {
        needed: 60_000_000,
        queued: 60_000_000,
    };
    let first = tree.add_leaf(&subjects(1, 1), 1_000_000);
    assert_eq!(tree.request(first, Up, drain, now), Some(60_000_000));
    for number in 0..1_000 {
        let leaf = tree.add_leaf(&subjects(1, 1), number);
        assert_eq!(tree.request(leaf, Up, request, now), Some(0));
    }
    let later = now + SECOND;
    let (mut calls, mut granted) = (1, 0);
    while !tree.serve(later) {
        assert_eq!(tree.next_refill(later), Some(later), "more can be granted");
        calls += 1;
        granted += tree.take_granted().count();
    }
    granted += tree.take_granted().count();
    assert_eq!(granted, 1_000);
    assert!(calls > 3, "{calls} calls");
    assert_eq!(tree.next_refill(later), None);
}

#[test]
fn throttled_time_is_that_of_the_waits() {
    let mut simulation = Simulation::new(&[(key(1), each_way(1_000_000)), (key(2), each_way(1))]);
    simulation.add(&subjects(1, 1), Down, Sender::bulk(10_000));
    simulation.run(10 * SECOND);
    let throttled: Vec<_> = simulation.tree.throttled().collect();
    for (subject, time) in throttled {
        assert_eq!(time.up, Duration::ZERO);
        if subject == key(1) {
            assert!(
                time.down > 8 * SECOND && time.down < 10 * SECOND,
                "{time:?}"
            );
        } else {
            assert_eq!(time.down, Duration::ZERO);
        }
    }
}
