//! Masters that share a database: each one knows its own bytes at once, and those of others after
//! a flush.

use std::collections::BTreeSet;

use super::*;

#[test]
fn bytes_of_another_master_count_after_a_read() {
    let table = table(vec![quota()], Vec::new());
    let mut quotas = Quotas::default();
    let (mut first, mut second) = (Master::new(), Master::new());
    first.charge(&table, 600, NOW);
    second.charge(&table, 600, NOW);
    first.synchronize(&mut quotas, NOW);
    assert_eq!(first.charge(&table, 0, NOW).changed, []);
    second.synchronize(&mut quotas, NOW);
    let check = second.charge(&table, 0, NOW);
    assert_eq!(check.changed, [(key(), slow())]);
    assert_eq!(first.charge(&table, 0, NOW).changed, [], "not read yet");
    first.synchronize(&mut quotas, NOW);
    let check = first.charge(&table, 0, NOW);
    assert_eq!(check.changed, [(key(), slow())]);
}

#[test]
fn own_bytes_are_counted_once_at_each_step_of_a_flush() {
    let table = table(vec![quota()], Vec::new());
    let mut quotas = Quotas::default();
    let mut master = Master::new();
    let left = |master: &Master| master.ledger.book.left()[0].left;
    master.charge(&table, 300, NOW);
    assert_eq!(left(&master), 700);
    let flush = master.next(NOW);
    assert_eq!(left(&master), 700);
    master.charge(&table, 100, NOW);
    assert_eq!(left(&master), 600);
    // The flush fails, and is repeated.
    assert_eq!(master.next(NOW), flush);
    quotas.add(&flush.quotas);
    assert!(!master.ledger.written(), "the later bytes wait");
    assert_eq!(left(&master), 600);
    master.read(&quotas);
    assert_eq!(left(&master), 600);
    master.synchronize(&mut quotas, NOW);
    assert_eq!(left(&master), 600);
}

#[test]
fn a_master_that_starts_again_reads_what_was_counted() {
    let table = table(vec![quota()], Vec::new());
    let mut quotas = Quotas::default();
    let mut before = Master::new();
    before.charge(&table, 2_000, NOW);
    before.synchronize(&mut quotas, NOW);
    let mut after = Master::new();
    assert!(!after.ledger.book.has_unread());
    let check = after.charge(&table, 1, NOW);
    assert_eq!(check.changed, []);
    assert!(after.ledger.book.has_unread());
    after.read(&quotas);
    let check = after.charge(&table, 0, NOW);
    assert_eq!(check.changed, [(key(), stopped())]);
    assert!(!after.ledger.book.has_unread());
}

#[test]
fn a_subject_whose_traffic_is_stopped_is_still_read() {
    let table = table(vec![quota()], Vec::new());
    let mut quotas = Quotas::default();
    let mut master = Master::new();
    master.charge(&table, 2_000, NOW);
    master.synchronize(&mut quotas, NOW);
    // No client uses it any more, and the operator resets the counter.
    master.ledger.book.forget(|_| false);
    quotas.0.clear();
    master.read(&quotas);
    let check = master.charge(&table, 0, NOW);
    assert_eq!(check.changed, [(key(), QuotaState::default())]);
    master.ledger.book.forget(|_| false);
    assert!(master.ledger.book.is_empty());
}

#[test]
fn bytes_of_a_flush_in_doubt_are_not_read_beside_the_unwritten_ones() {
    let table = table(vec![quota()], Vec::new());
    let mut quotas = Quotas::default();
    let mut master = Master::new();
    let left = |master: &Master| master.ledger.book.left()[0].left;
    master.charge(&table, 600, NOW);
    let flush = master.next(NOW);
    // It is committed, and its answer is lost.
    quotas.add(&flush.quotas);
    assert_eq!(master.ledger.counters_to_read(100), []);
    master.read(&quotas);
    assert_eq!(left(&master), 400);
    assert_eq!(master.charge(&table, 0, NOW), QuotaCheck::default());
    // The repeated flush has no effect, and its answer arrives.
    assert_eq!(master.next(NOW), flush);
    assert!(master.ledger.written());
    assert_eq!(left(&master), 400);
    master.read(&quotas);
    assert_eq!(left(&master), 400);
}

#[test]
fn reads_visit_all_busy_subjects_in_turn() {
    let keys = || (0..5).map(|number| Id([number; 16]));
    let mut table = PolicyTable::default();
    let records = keys().map(|id| {
        let mut key = ServiceKey::new(id, "key");
        key.limits.quotas = vec![quota()];
        key
    });
    table.apply(Changes {
        keys: records.collect(),
        ..Changes::default()
    });
    let mut master = Master::new();
    for turn in 0..3 {
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let taken = keys().map(|key| {
                let charge = Charge {
                    key,
                    owner: None,
                    client: None,
                };
                (charge, moved(1, 0))
            });
            master.ledger.charge(taken, (&table, 0), NOW);
            let asked = master.ledger.counters_to_read(2);
            assert_eq!(asked.len(), 2);
            master.ledger.book.adopt_read(&asked, Vec::new());
            seen.extend(asked.into_iter().map(|counter| counter.subject));
        }
        assert_eq!(seen.len(), 5, "{turn}");
    }
}
