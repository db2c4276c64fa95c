//! The thresholds of quotas, and the turns of their periods.

use super::*;

#[test]
fn thresholds_act_in_turn_and_once() {
    let (table, mut master) = (table(vec![quota()], Vec::new()), Master::new());
    let check = master.charge(&table, 799, NOW);
    assert_eq!(check, QuotaCheck::default());
    let check = master.charge(&table, 1, NOW);
    assert_eq!(actions(&check), [(80, ThresholdAction::Notify)]);
    assert_eq!(check.changed, []);
    let check = master.charge(&table, 200, NOW);
    assert_eq!(actions(&check), [(100, ThresholdAction::Slow)]);
    assert_eq!(check.changed, [(key(), slow())]);
    assert_eq!(master.charge(&table, 999, NOW), QuotaCheck::default());
    let check = master.charge(&table, 1, NOW);
    assert_eq!(actions(&check), [(200, ThresholdAction::Stop)]);
    assert_eq!(check.changed, [(key(), stopped())]);
}

#[test]
fn a_quota_that_turns_in_mid_transfer_releases_the_traffic() {
    let (table, mut master) = (table(vec![quota()], Vec::new()), Master::new());
    let mut quotas = Quotas::default();
    let midnight = (NOW / DAY + 1) * DAY;
    master.charge(&table, 1_500, midnight - 2);
    master.synchronize(&mut quotas, midnight - 2);
    // These bytes wait for the database while the period turns.
    assert_eq!(
        master.charge(&table, 100, midnight - 1),
        QuotaCheck::default()
    );
    let check = master.charge(&table, 0, midnight);
    assert_eq!(check.changed, [(key(), QuotaState::default())]);
    // The new period begins without the bytes of the old one.
    let check = master.charge(&table, 799, midnight + 1);
    assert_eq!(check, QuotaCheck::default());
    master.synchronize(&mut quotas, midnight + 1);
    let check = master.charge(&table, 1, midnight + 2);
    assert_eq!(actions(&check), [(80, ThresholdAction::Notify)]);
    master.synchronize(&mut quotas, midnight + 2);
    let mut sums: Vec<_> = quotas.0.iter().collect();
    sums.sort_by_key(|(counter, _)| counter.period_start);
    let sums: Vec<_> = sums
        .iter()
        .map(|(counter, moved)| (counter.period_start, moved.up))
        .collect();
    assert_eq!(sums, [(midnight - DAY, 1_600), (midnight, 800)]);
}

#[test]
fn a_clock_that_is_set_back_counts_for_the_earlier_period() {
    let (table, mut master) = (table(vec![quota()], Vec::new()), Master::new());
    let mut quotas = Quotas::default();
    master.charge(&table, 1_000, NOW);
    master.synchronize(&mut quotas, NOW);
    let check = master.charge(&table, 0, NOW - DAY);
    assert_eq!(check.changed, [(key(), QuotaState::default())]);
    let check = master.charge(&table, 0, NOW);
    assert_eq!(check.changed, [], "its bytes are read first");
    master.read(&quotas);
    let check = master.charge(&table, 0, NOW);
    assert_eq!(check.changed, [(key(), slow())]);
}

#[test]
fn a_changed_quota_keeps_the_bytes_of_its_period() {
    let mut policies = table(vec![quota()], Vec::new());
    let mut master = Master::new();
    master.charge(&policies, 1_000, NOW);
    let larger = Quota {
        bytes: ByteSize(10_000),
        ..quota()
    };
    policies = table(vec![larger], Vec::new());
    let check = master.charge(&policies, 0, NOW);
    assert_eq!(check.changed, [], "the version is the same");
    master.version += 1;
    let check = master.charge(&policies, 0, NOW);
    assert_eq!(check.changed, [(key(), QuotaState::default())]);
    let check = master.charge(&policies, 7_000, NOW);
    assert_eq!(actions(&check), [(80, ThresholdAction::Notify)]);
    // Without a quota the traffic is free.
    master.charge(&policies, 90_000, NOW);
    policies = table(Vec::new(), Vec::new());
    master.version += 1;
    let check = master.charge(&policies, 0, NOW);
    assert_eq!(check.changed, [(key(), QuotaState::default())]);
    master.synchronize(&mut Quotas::default(), NOW);
    master.ledger.book.forget(|_| false);
    assert!(master.ledger.book.is_empty());
}

#[test]
fn a_reserve_is_left_for_its_account() {
    let stop = Quota {
        thresholds: vec![Threshold {
            percent: 100,
            action: ThresholdAction::Stop,
            rate: None,
        }],
        ..quota()
    };
    let policies = with_reserve(table(Vec::new(), vec![stop]), AccountId(3), 10);
    let mut master = Master::new();
    let check = master.charge(&policies, 900, NOW);
    let others_stopped = QuotaState {
        is_stopped: true,
        ..QuotaState::default()
    };
    assert_eq!(check.changed, [(LimitSubject::Relay, others_stopped)]);
    let check = master.charge(&policies, 100, NOW);
    assert_eq!(check.changed, [(LimitSubject::Relay, stopped())]);
}

#[test]
fn a_reserve_slows_the_other_accounts_down_first() {
    let policies = with_reserve(table(Vec::new(), vec![quota()]), AccountId(3), 10);
    let mut master = Master::new();
    let check = master.charge(&policies, 900, NOW);
    let [(subject, state)] = &check.changed[..] else {
        panic!("{check:?}");
    };
    assert_eq!(*subject, LimitSubject::Relay);
    assert_eq!(state.slow, Rates::default());
    assert_eq!(state.slow_others, slow().slow);
    assert_eq!(state.reserve, Some(AccountId(3)));
    let check = master.charge(&policies, 100, NOW);
    assert_eq!(check.changed, [(LimitSubject::Relay, slow())]);
}

#[test]
fn quotas_of_one_period_share_a_counter() {
    let down = Quota {
        direction: crate::policy::Direction::Down,
        ..quota()
    };
    let policies = table(vec![quota(), down], Vec::new());
    let mut master = Master::new();
    let check = master.charge(&policies, 1_000, NOW);
    assert_eq!(check.changed, [(key(), slow())], "nothing went down");
    let flush = master.next(NOW);
    let [row] = &flush.quotas[..] else {
        panic!("{flush:?}");
    };
    assert_eq!(row.moved, moved(1_000, 0));
    let left: Vec<_> = master.ledger.book.left();
    let left: Vec<_> = left.iter().map(|quota| quota.left).collect();
    assert_eq!(left, [0, 1_000]);
}

#[test]
fn only_keys_with_a_policy_are_counted() {
    let policies = table(Vec::new(), Vec::new());
    let mut master = Master::new();
    let charge = Charge {
        key: Id([9; 16]),
        owner: Some(AccountId::MASTER),
        client: Some(AccountId(77)),
    };
    let taken = [(charge, moved(1, 2))];
    master.ledger.charge(taken, (&policies, 0), NOW);
    let flush = master.next(NOW);
    let subjects: Vec<_> = flush.minutes.iter().map(|row| row.subject).collect();
    let master_account = LimitSubject::Account(AccountId::MASTER);
    assert_eq!(subjects, [LimitSubject::Relay, master_account]);
    assert_eq!(flush.minutes[0].minute, NOW);
}

#[test]
fn a_threshold_is_reported_once_in_its_period_also_between_tunnels() {
    let (policies, mut master) = (table(vec![quota()], Vec::new()), Master::new());
    let mut quotas = Quotas::default();
    let check = master.charge(&policies, 800, NOW);
    assert_eq!(actions(&check), [(80, ThresholdAction::Notify)]);
    master.synchronize(&mut quotas, NOW);
    // Its tunnels end, and one returns. An unrelated policy changes too.
    master.ledger.book.forget(|_| false);
    master.version += 1;
    let other = Quota::new(Period::new(PeriodUnit::Week), ByteSize(1_000_000));
    let both = table(vec![quota(), other], Vec::new());
    let check = master.charge(&both, 1, NOW + 60);
    assert_eq!(check, QuotaCheck::default());
    master.synchronize(&mut quotas, NOW + 60);
    // The next period forgets it.
    master.charge(&both, 0, (NOW / DAY + 1) * DAY);
    master.ledger.book.forget(|_| false);
    assert!(master.ledger.book.is_empty());
}
