//! Quotas of a database at the start of a master.

use super::*;
use crate::{
    config::UnknownKeys,
    policy::{
        Admission, ByteSize, LimitSubject, Moved, Period, PeriodUnit, Quota, ServiceKey, Threshold,
        ThresholdAction,
    },
    store::{QuotaCounter, QuotaUsage, Store, UsageFlush},
};

/// A quota of 1,000 bytes in all, which stops the traffic.
fn quota() -> Quota {
    Quota {
        thresholds: vec![Threshold {
            percent: 100,
            action: ThresholdAction::Stop,
            rate: None,
        }],
        ..Quota::new(Period::new(PeriodUnit::Total), ByteSize(1_000))
    }
}

/// Adds a key with the quota, of which an earlier master has written these bytes.
async fn add_key(store: &Store, key: Id, used: u64) {
    let mut policy = ServiceKey::new(key, "service");
    policy.limits.quotas = vec![quota()];
    let mut change = store.change().await.expect("a change");
    change.create_key(policy).await.expect("created");
    change.commit().await.expect("committed");
    let written = UsageFlush {
        sequence: 1,
        quotas: vec![QuotaUsage {
            counter: QuotaCounter {
                subject: LimitSubject::Key(key),
                quota: "total".to_owned(),
                period_start: 0,
            },
            moved: Moved { up: used, down: 0 },
        }],
        ..UsageFlush::default()
    };
    let flushed = store.flush_usage(key, "an earlier master", &written);
    flushed.await.expect("written");
}

#[tokio::test]
async fn used_up_quota_is_known_before_the_first_link() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}", folder.path().join("keys.db").display());
    let store = Store::open(url.parse().expect("an address")).await;
    let store = Arc::new(store.expect("a database"));
    add_key(&store, PORT, 1_000).await;
    add_key(&store, OTHER_PORT, 999).await;
    let policies = MasterPolicies::new(Admission::Open, UnknownKeys::Refuse, Arc::new(SystemClock));
    policies.follow(store).await.expect("loaded");
    let master = start_with(|parameters| parameters.policies = policies);
    // A master accepts links behind its start.
    let _client = master.client(2).await;
    let is_stopped = |key| {
        let policies = &master.shared.router.policies;
        policies.quota_state(LimitSubject::Key(key)).is_stopped
    };
    assert_eq!([PORT, OTHER_PORT].map(is_stopped), [true, false]);
}
