//! Usage: flushes of several masters, quotas, live numbers, and the past.

use std::{collections::HashMap, sync::Arc};

use report::{
    policy::{AccountId, LimitSubject, Moved},
    store::{
        LiveRow, Maintenance, MinuteUsage, QuotaCounter, QuotaUsage, Retention, Store, StoreError,
        UsageBucket, UsageFlush, UsageStep,
    },
};
use report_proto::id::Id;
use tokio::task::JoinSet;

use super::{NOW, keys::id, open};

const FIRST: Id = Id([1; 16]);
const SECOND: Id = Id([2; 16]);

/// A time far in the past of a flush, so that its minutes are settled.
const LATER: i64 = NOW + 3_600;

fn moved(up: u64, down: u64) -> Moved {
    Moved { up, down }
}

fn minute(subject: LimitSubject, minute: i64, moved: Moved) -> MinuteUsage {
    MinuteUsage {
        subject,
        minute,
        moved,
    }
}

fn flush(sequence: i64, minutes: Vec<MinuteUsage>) -> UsageFlush {
    UsageFlush {
        sequence,
        beat: NOW + sequence,
        minutes,
        ..UsageFlush::default()
    }
}

async fn write(store: &Store, epoch: Id, flush: &UsageFlush) {
    store.flush_usage(epoch, "a master", flush).await.unwrap();
}

/// Maintains the database at a time that is right. Returns whether it was due.
async fn maintain(store: &Store, now: i64) -> bool {
    let retention = Retention::default();
    let maintained: Result<_, StoreError> = async {
        let done = store.maintain(now, None, &retention).await?;
        let Maintenance::Unconfirmed { last } = done else {
            return Ok(done);
        };
        store.maintain(now, Some(last), &retention).await
    }
    .await;
    match maintained.unwrap() {
        Maintenance::Done => true,
        Maintenance::NotDue => false,
        unconfirmed => panic!("{unconfirmed:?}"),
    }
}

/// The bytes of a subject in all time.
async fn total(store: &Store, subject: LimitSubject) -> Moved {
    let days = store.usage(subject, UsageStep::Day, 0, i64::MAX).await;
    days.unwrap()
        .iter()
        .fold(Moved::default(), |sum, day| Moved {
            up: sum.up + day.moved.up,
            down: sum.down + day.moved.down,
        })
}

async fn buckets(store: &Store, step: UsageStep, from: i64, until: i64) -> Vec<(i64, u64)> {
    let found = store.usage(LimitSubject::Relay, step, from, until).await;
    let bucket = |bucket: &UsageBucket| (bucket.start, bucket.moved.up);
    found.unwrap().iter().map(bucket).collect()
}

pub(super) async fn increments_of_masters_add_up(url: String) {
    let store = open(&url).await;
    let (key, account) = (
        LimitSubject::Key(id(1)),
        LimitSubject::Account(AccountId(7)),
    );
    for (epoch, bytes) in [(FIRST, 5), (SECOND, 7), (FIRST, 11)] {
        let sequence = if bytes == 11 { 2 } else { 1 };
        let rows = vec![
            minute(key, NOW, moved(bytes, 1)),
            minute(account, NOW, moved(bytes, 1)),
            minute(account, NOW + 60, moved(bytes, 0)),
        ];
        write(&store, epoch, &flush(sequence, rows)).await;
    }
    assert_eq!(total(&store, key).await, moved(23, 3));
    assert_eq!(total(&store, account).await, moved(46, 3));
    assert_eq!(total(&store, LimitSubject::Relay).await, moved(0, 0));
    let mut masters = store.masters().await.unwrap();
    masters.sort_by_key(|master| master.epoch);
    let found: Vec<_> = masters
        .iter()
        .map(|master| (master.epoch, master.sequence, master.beat, &*master.name))
        .collect();
    let expected = [
        (FIRST, 2, NOW + 2, "a master"),
        (SECOND, 1, NOW + 1, "a master"),
    ];
    assert_eq!(found, expected);
}

pub(super) async fn a_repeated_flush_counts_once(url: String) {
    let store = open(&url).await;
    let rows = vec![minute(LimitSubject::Relay, NOW, moved(5, 6))];
    let first = flush(1, rows);
    write(&store, FIRST, &first).await;
    write(&store, FIRST, &first).await;
    assert_eq!(total(&store, LimitSubject::Relay).await, moved(5, 6));
    // Another start of the same master counts its own flushes.
    write(&store, SECOND, &first).await;
    assert_eq!(total(&store, LimitSubject::Relay).await, moved(10, 12));
    let second = flush(2, first.minutes.clone());
    write(&store, FIRST, &second).await;
    // An answer that was lost long ago.
    write(&store, FIRST, &first).await;
    assert_eq!(total(&store, LimitSubject::Relay).await, moved(15, 18));
}

/// Four masters write, each flush twice, while the minutes are rolled up again and again.
pub(super) async fn concurrent_flushes_and_rollups_lose_nothing(url: String) {
    const FLUSHES: i64 = 10;
    const MASTERS: u8 = 4;
    let store = open(&url).await;
    let subjects: Vec<LimitSubject> = (0..30).map(|key| LimitSubject::Key(id(key))).collect();
    let mut tasks = JoinSet::new();
    for master in 0..MASTERS {
        let (store, subjects) = (Arc::clone(&store), subjects.clone());
        tasks.spawn(async move {
            for sequence in 1..=FLUSHES {
                let rows = subjects.iter().flat_map(|subject| {
                    [0, 60].map(|second| minute(*subject, NOW + second, moved(1, 2)))
                });
                let flush = flush(sequence, rows.collect());
                for _ in 0..2 {
                    write(&store, Id([master; 16]), &flush).await;
                }
            }
        });
    }
    let maintained = Arc::clone(&store);
    tasks.spawn(async move {
        for round in 0..10 {
            // Each round is a minute later, so that it is not left to another master.
            assert!(maintain(&maintained, LATER + round * 60).await);
        }
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let flushes = u64::from(MASTERS) * u64::try_from(FLUSHES).unwrap();
    for subject in subjects {
        let total = total(&store, subject).await;
        assert_eq!(total, moved(2 * flushes, 4 * flushes), "{subject}");
    }
}

pub(super) async fn quotas_have_counters_for_each_period(url: String) {
    let store = open(&url).await;
    let counter = |quota: &str, period_start| QuotaCounter {
        subject: LimitSubject::Account(AccountId(7)),
        quota: quota.to_owned(),
        period_start,
    };
    let quota = |counter: QuotaCounter, up| QuotaUsage {
        counter,
        moved: moved(up, 1),
    };
    let (total, month) = (counter("total", 0), counter("month 15 00:00 UTC", NOW));
    let quotas = vec![quota(total.clone(), 5), quota(month.clone(), 6)];
    for epoch in [FIRST, SECOND] {
        let flush = UsageFlush {
            quotas: quotas.clone(),
            ..flush(1, Vec::new())
        };
        write(&store, epoch, &flush).await;
    }
    let next = counter("month 15 00:00 UTC", NOW + 1);
    let asked = [next, month.clone(), total.clone()];
    let found = store.quota_usage(&asked).await.unwrap();
    let found: HashMap<QuotaCounter, Moved> = found
        .into_iter()
        .map(|usage| (usage.counter, usage.moved))
        .collect();
    let expected = HashMap::from([(total, moved(10, 2)), (month, moved(12, 2))]);
    assert_eq!(found, expected);
    // More than one statement.
    let many: Vec<_> = (0..250).map(|start| counter("total", start)).collect();
    assert_eq!(store.quota_usage(&many).await.unwrap().len(), 1);
    assert_eq!(store.quota_usage(&[]).await.unwrap(), []);
}

pub(super) async fn history_has_minutes_hours_and_days(url: String) {
    let store = open(&url).await;
    let relay = LimitSubject::Relay;
    let hour = NOW / 3_600 * 3_600;
    let rows = vec![
        minute(relay, hour, moved(1, 0)),
        minute(relay, hour + 60, moved(2, 0)),
        minute(relay, hour + 3_600, moved(4, 0)),
    ];
    write(&store, FIRST, &flush(1, rows)).await;
    let expected_minutes = [(hour, 1), (hour + 60, 2), (hour + 3_600, 4)];
    let expected_hours = [(hour, 3), (hour + 3_600, 4)];
    let day = hour / 86_400 * 86_400;
    for is_rolled_up in [false, true] {
        if is_rolled_up {
            let now = hour + 7_200;
            assert!(maintain(&store, now).await);
            assert!(!maintain(&store, now + 59).await);
        }
        let minutes = buckets(&store, UsageStep::Minute, hour, hour + 7_200).await;
        assert_eq!(minutes, expected_minutes, "{is_rolled_up}");
        let hours = buckets(&store, UsageStep::Hour, hour + 1, hour + 7_200).await;
        assert_eq!(hours, expected_hours, "{is_rolled_up}");
        let hours = buckets(&store, UsageStep::Hour, hour, hour + 3_600).await;
        assert_eq!(hours, [(hour, 3)], "{is_rolled_up}");
        let days = buckets(&store, UsageStep::Day, day, day + 172_800).await;
        let sum: u64 = days.iter().map(|(_, up)| up).sum();
        assert_eq!(sum, 7, "{is_rolled_up}");
    }
    // A late increment of another master.
    let late = vec![minute(relay, hour, moved(10, 0))];
    write(&store, SECOND, &flush(1, late)).await;
    let first = [(hour, 11), (hour + 60, 2)];
    let minutes = buckets(&store, UsageStep::Minute, hour, hour + 120).await;
    assert_eq!(minutes, first);
    assert!(maintain(&store, hour + 7_260).await);
    let minutes = buckets(&store, UsageStep::Minute, hour, hour + 120).await;
    assert_eq!(minutes, first);
}

pub(super) async fn live_numbers_are_those_of_the_others(url: String) {
    let store = open(&url).await;
    let row = |subject, tunnels| LiveRow {
        subject,
        links: 1,
        tunnels,
        attachments: 3,
    };
    let key = LimitSubject::Key(id(1));
    let idle = LiveRow {
        subject: key,
        links: 0,
        tunnels: 0,
        attachments: 0,
    };
    for (epoch, sequence, live) in [
        (FIRST, 1, vec![row(LimitSubject::Relay, 5), row(key, 6)]),
        (SECOND, 1, vec![row(key, 7)]),
        (FIRST, 2, vec![row(LimitSubject::Relay, 8), idle]),
    ] {
        let flush = UsageFlush {
            live,
            ..flush(sequence, Vec::new())
        };
        write(&store, epoch, &flush).await;
    }
    let others = store.live_counts_of_others(SECOND).await.unwrap();
    assert_eq!(others, [(FIRST, row(LimitSubject::Relay, 8))]);
    let others = store.live_counts_of_others(FIRST).await.unwrap();
    assert_eq!(others, [(SECOND, row(key, 7))]);
}

pub(super) async fn the_past_is_removed(url: String) {
    const DAY: i64 = 86_400;
    let store = open(&url).await;
    let relay = LimitSubject::Relay;
    let rows = vec![minute(relay, NOW, moved(1, 0))];
    let counter = QuotaCounter {
        subject: relay,
        quota: "day 00:00 UTC".to_owned(),
        period_start: NOW,
    };
    let total = QuotaCounter {
        quota: "total".to_owned(),
        period_start: 0,
        ..counter.clone()
    };
    let both = [counter.clone(), total.clone()];
    let quotas = both.clone().map(|counter| QuotaUsage {
        counter,
        moved: moved(1, 0),
    });
    let written = UsageFlush {
        quotas: quotas.to_vec(),
        live: vec![LiveRow {
            subject: relay,
            links: 1,
            tunnels: 1,
            attachments: 1,
        }],
        ..flush(1, rows)
    };
    write(&store, FIRST, &written).await;
    let maintain = async |days: i64| {
        assert!(maintain(&store, NOW + days * DAY).await, "{days}");
    };
    maintain(1).await;
    assert_eq!(store.live_counts_of_others(SECOND).await.unwrap(), []);
    assert_eq!(store.masters().await.unwrap().len(), 1);
    assert_eq!(store.quota_usage(&both).await.unwrap().len(), 2);
    // No master maintains the database for a long time.
    write(&store, SECOND, &written).await;
    maintain(75).await;
    assert_eq!(store.live_counts_of_others(FIRST).await.unwrap(), []);
    assert_eq!(store.masters().await.unwrap(), []);
    let left = store.quota_usage(&both).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|usage| usage.counter).collect();
    assert_eq!(left, [total], "all time has no end");
    assert_eq!(total_up(&store).await, 2);
    maintain(800).await;
    assert_eq!(total_up(&store).await, 0);
}

pub(super) async fn a_clock_far_ahead_removes_nothing(url: String) {
    const DAY: i64 = 86_400;
    let store = open(&url).await;
    let rows = vec![minute(LimitSubject::Relay, NOW, moved(1, 0))];
    write(&store, FIRST, &flush(1, rows)).await;
    let retention = Retention::default();
    let maintain = async |now: i64, confirmed: Option<i64>| {
        let done = store.maintain(now, confirmed, &retention).await;
        done.unwrap()
    };
    assert_eq!(maintain(NOW, None).await, Maintenance::Done);
    let far = NOW + 4_000 * DAY;
    let unconfirmed = Maintenance::Unconfirmed { last: NOW };
    // A second attempt changes nothing, nor does the confirmation of another round.
    for confirmed in [None, None, Some(NOW - 60), Some(far)] {
        assert_eq!(maintain(far, confirmed).await, unconfirmed);
    }
    assert_eq!(total_up(&store).await, 1);
    assert_eq!(store.masters().await.unwrap().len(), 1);
    // The others continue, up to a day after the last round.
    assert_eq!(maintain(NOW + DAY, None).await, Maintenance::Done);
    let unconfirmed = Maintenance::Unconfirmed { last: NOW + DAY };
    assert_eq!(maintain(far, Some(NOW)).await, unconfirmed);
    assert_eq!(total_up(&store).await, 1);
    assert_eq!(maintain(far, Some(NOW + DAY)).await, Maintenance::Done);
    assert_eq!(total_up(&store).await, 0);
    assert_eq!(store.masters().await.unwrap(), []);
    // A clock that was set right again.
    assert_eq!(maintain(NOW + 2 * DAY, None).await, Maintenance::Done);
}

async fn total_up(store: &Store) -> u64 {
    total(store, LimitSubject::Relay).await.up
}

pub(super) async fn subjects_have_pages(url: String) {
    let store = open(&url).await;
    let account = |id| LimitSubject::Account(AccountId(id));
    let rows = [1, 2, 3].map(|id| minute(account(id), NOW, moved(1, 0)));
    write(&store, FIRST, &flush(1, rows.to_vec())).await;
    assert!(maintain(&store, LATER).await);
    // Some have a history, some have new minutes, and one has both.
    let rows = [3, 4].map(|id| minute(account(id), LATER, moved(1, 0)));
    write(&store, FIRST, &flush(2, rows.to_vec())).await;
    let first = store.usage_subjects("account", None, 3).await.unwrap();
    assert_eq!(first.items, [account(1), account(2), account(3)]);
    let after = first.next.expect("a second page");
    let second = store.usage_subjects("account", Some(&after), 3).await;
    let second = second.unwrap();
    assert_eq!((second.items, second.next), (vec![account(4)], None));
    let relay = store.usage_subjects("relay", None, 3).await.unwrap();
    assert_eq!(relay.items, [LimitSubject::Relay]);
    let none = store.usage_subjects("key", None, 3).await.unwrap();
    assert_eq!(none.items, []);
}
