//! Tests of the policy of the relay.

use super::*;
use crate::policy::{AccountId, ByteSize, Limits, Period, PeriodUnit, Quota, Reserve};

fn with_quota() -> Limits {
    Limits {
        quotas: vec![Quota::new(
            Period::new(PeriodUnit::Month),
            ByteSize(1_000_000_000_000),
        )],
        ..Limits::default()
    }
}

#[tokio::test]
async fn the_relay_has_limits_and_a_reserve() {
    let bench = Bench::new().await;
    let present = bench.administration.relay().await.unwrap();
    let reserve = Reserve {
        account: AccountId::MASTER,
        percent: 10,
    };
    let patch = RelayPatch {
        limits: Some(with_quota()),
        reserve: Some(Some(reserve)),
    };
    let set = bench
        .administration
        .set_relay(&bench.actor, patch.clone(), Some(present.changed));
    let set = set.await.unwrap();
    assert_eq!(set.record.reserve, Some(reserve));
    assert_eq!(bench.administration.relay().await.unwrap(), set);
    let late = bench
        .administration
        .set_relay(&bench.actor, patch, Some(present.changed));
    assert_refused(late.await, ErrorCode::Conflict, Some("id"));
    // The limits stay when the reserve goes.
    let patch = RelayPatch {
        reserve: Some(None),
        ..RelayPatch::default()
    };
    let set = bench.administration.set_relay(&bench.actor, patch, None);
    let set = set.await.unwrap().record;
    assert_eq!((set.limits, set.reserve), (with_quota(), None));
}

#[tokio::test]
async fn a_reserve_needs_a_quota_and_an_account() {
    let bench = Bench::new().await;
    let patch = |account, limits| RelayPatch {
        limits,
        reserve: Some(Some(Reserve {
            account: AccountId(account),
            percent: 10,
        })),
    };
    let without = bench
        .administration
        .set_relay(&bench.actor, patch(1, None), None);
    assert_refused(without.await, ErrorCode::Invalid, Some("reserve"));
    let patch = patch(99, Some(with_quota()));
    let absent = bench.administration.set_relay(&bench.actor, patch, None);
    assert_refused(absent.await, ErrorCode::Invalid, Some("account"));
}
