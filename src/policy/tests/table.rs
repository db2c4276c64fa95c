use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn account(id: i64, not_before: i64, expires: i64) -> Account {
    Account {
        not_before: seconds(not_before),
        expires: seconds(expires),
        ..Account::new(AccountId(id), format!("account {id}"))
    }
}

fn key(number: u8, not_before: i64, expires: i64) -> ServiceKey {
    ServiceKey {
        not_before: seconds(not_before),
        expires: seconds(expires),
        ..ServiceKey::new(key_id(number), format!("key {number}"))
    }
}

fn with_keys(keys: Vec<ServiceKey>) -> Changes {
    Changes {
        keys,
        ..Changes::default()
    }
}

#[test]
fn records_are_found_by_their_ids() {
    let mut table = PolicyTable::default();
    let affected = table.apply(Changes {
        accounts: vec![account(2, 0, 0)],
        credentials: vec![credential(7, 2)],
        keys: vec![key(3, 0, 0), key(4, 0, 0)],
        ..Changes::default()
    });
    assert_eq!(affected.accounts, BTreeSet::from([AccountId(2)]));
    assert_eq!(
        affected.credentials,
        BTreeSet::from([CredentialId(key_id(7))])
    );
    assert_eq!(affected.keys, BTreeSet::from([key_id(3), key_id(4)]));
    let found = table.account(AccountId(2)).map(|account| &*account.name);
    assert_eq!(found, Some("account 2"));
    assert_eq!(
        table.credential(CredentialId(key_id(7))),
        Some(&credential(7, 2))
    );
    assert_eq!(table.key(key_id(4)).map(|key| &*key.label), Some("key 4"));
    assert_eq!(table.key(key_id(5)), None);
    let labelled = table.keys_with_label("key 3").map(|(id, _)| id);
    assert_eq!(labelled.collect::<Vec<_>>(), [key_id(3)]);
    let identity = LinkIdentity::Credential(CredentialId(key_id(7)));
    assert_eq!(table.account_of(identity), Some(AccountId(2)));
    assert_eq!(
        table.account_of(LinkIdentity::MasterKey),
        Some(AccountId::MASTER)
    );
    assert_eq!(table.account_of(LinkIdentity::Anonymous), None);
}

#[test]
fn equal_records_and_new_notes_affect_nothing() {
    let mut table = PolicyTable::default();
    let changes = || Changes {
        accounts: vec![account(2, 0, 0)],
        credentials: vec![credential(7, 2)],
        keys: vec![key(3, 0, 0)],
        relay: Some(RelayPolicy::default()),
        ..Changes::default()
    };
    assert!(!table.apply(changes()).is_empty());
    let mut same = changes();
    same.accounts[0].note = "a note".to_owned();
    same.keys[0].note = "a note".to_owned();
    assert!(table.apply(same).is_empty());
    assert_eq!(
        table.account(AccountId(2)).map(|account| &*account.note),
        Some("")
    );
    let mut other = changes();
    other.credentials[0].credential.revoked = true;
    let affected = table.apply(other);
    assert_eq!(
        affected.credentials,
        BTreeSet::from([CredentialId(key_id(7))])
    );
    assert!(affected.keys.is_empty() && affected.accounts.is_empty());
}

#[test]
fn a_record_is_removed_and_created_in_one_change() {
    let mut table = PolicyTable::default();
    table.apply(with_keys(vec![key(3, 0, 50)]));
    let affected = table.apply(Changes {
        removed_keys: vec![key_id(3)],
        ..with_keys(vec![key(3, 0, 60)])
    });
    assert_eq!(affected.keys, BTreeSet::from([key_id(3)]));
    assert_eq!(table.next_boundary(0), Some(60));
}

#[test]
fn a_complete_load_removes_the_rest() {
    let mut table = PolicyTable::default();
    let relay = RelayPolicy {
        reserve: Some(Reserve {
            account: AccountId(2),
            percent: 10,
        }),
        ..RelayPolicy::default()
    };
    table.apply(Changes {
        accounts: vec![account(2, 0, 10), account(3, 0, 0)],
        credentials: vec![credential(7, 2)],
        relay: Some(relay),
        ..with_keys(vec![key(3, 0, 20), key(4, 0, 0)])
    });
    let affected = table.replace(Changes {
        accounts: vec![account(3, 0, 0)],
        relay: Some(RelayPolicy::default()),
        ..with_keys(vec![key(4, 0, 0), key(5, 0, 0)])
    });
    let expected = Affected {
        accounts: BTreeSet::from([AccountId(2)]),
        credentials: BTreeSet::from([CredentialId(key_id(7))]),
        keys: BTreeSet::from([key_id(3), key_id(5)]),
        relay: true,
    };
    assert_eq!(affected, expected);
    assert_eq!(table.key(key_id(3)), None);
    assert_eq!(table.next_boundary(0), None);
    assert_eq!(table.relay(), &RelayPolicy::default());
}

/// The records of the account 2, the credential 7, the keys 3 and 4, and of the relay.
fn known() -> Changes {
    let reserve = Reserve {
        account: AccountId(2),
        percent: 10,
    };
    Changes {
        accounts: vec![account(2, 0, 0)],
        credentials: vec![credential(7, 2)],
        relay: Some(RelayPolicy {
            reserve: Some(reserve),
            ..RelayPolicy::default()
        }),
        ..with_keys(vec![key(3, 0, 0), key(4, 0, 0)])
    }
}

#[test]
fn records_that_cannot_be_read_are_denied_and_others_change() {
    for is_complete in [false, true] {
        let mut table = PolicyTable::default();
        table.apply(known());
        let changes = Changes {
            unreadable_accounts: vec![AccountId(2), AccountId::MASTER],
            unreadable_credentials: vec![CredentialId(key_id(7)), CredentialId(key_id(8))],
            unreadable_keys: vec![key_id(3), key_id(9)],
            ..with_keys(vec![key(4, 0, 0), key(5, 0, 0)])
        };
        let affected = if is_complete {
            table.replace(changes)
        } else {
            table.apply(changes)
        };
        let expected = Affected {
            accounts: BTreeSet::from([AccountId::MASTER, AccountId(2)]),
            credentials: BTreeSet::from([CredentialId(key_id(7))]),
            keys: BTreeSet::from([key_id(3), key_id(5), key_id(9)]),
            relay: false,
        };
        assert_eq!(affected, expected, "{is_complete}");
        let is_enabled = |id| table.account(AccountId(id)).map(|account| account.enabled);
        assert_eq!([1, 2].map(is_enabled), [Some(false), Some(false)]);
        let is_enabled = |number| table.key(key_id(number)).map(|key| key.enabled);
        let keys = [3, 4, 5, 9].map(is_enabled);
        assert_eq!(keys, [Some(false), Some(true), Some(true), Some(false)]);
        let found = table.credential(CredentialId(key_id(7)));
        assert!(found.is_some_and(|record| record.credential.revoked));
        assert_eq!(table.credential(CredentialId(key_id(8))), None);
        assert_eq!(Some(table.relay()), known().relay.as_ref());
        let label = table.key(key_id(3)).map(|key| &*key.label);
        assert_eq!(label, Some("key 3"), "people know it by its label");
    }
}

#[test]
fn record_that_can_be_read_again_is_admitted() {
    let mut table = PolicyTable::default();
    table.apply(known());
    table.apply(Changes {
        unreadable_keys: vec![key_id(3)],
        ..Changes::default()
    });
    let affected = table.apply(known());
    assert_eq!(affected.keys, BTreeSet::from([key_id(3)]));
    assert!(table.key(key_id(3)).is_some_and(|key| key.enabled));
}

#[test]
fn keys_with_equal_limits_share_them() {
    let mut table = PolicyTable::default();
    let limited = |number, weight| ServiceKey {
        limits: Limits {
            weight,
            ..Limits::default()
        },
        ..key(number, 0, 0)
    };
    table.apply(with_keys(vec![
        limited(1, 2),
        limited(2, 2),
        limited(3, 1),
        limited(4, 5),
    ]));
    let limits = |number| table.key(key_id(number)).and_then(|key| key.limits.clone());
    let [first, second] = [limits(1), limits(2)].map(|limits| limits.expect("limits"));
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert_eq!(limits(3), None);
    assert_eq!(limits(4).map(|limits| limits.weight), Some(5));
}

#[test]
fn pages_of_changes_are_put_together() {
    let reserve = |percent| RelayPolicy {
        reserve: Some(Reserve {
            account: AccountId(2),
            percent,
        }),
        ..RelayPolicy::default()
    };
    let mut all = Changes::default();
    all.append(Changes {
        accounts: vec![account(2, 0, 0)],
        removed_accounts: vec![AccountId(9)],
        credentials: vec![credential(7, 2)],
        removed_credentials: vec![CredentialId(key_id(8))],
        keys: vec![key(3, 0, 0)],
        removed_keys: vec![key_id(9)],
        unreadable_accounts: vec![AccountId(3)],
        unreadable_credentials: vec![CredentialId(key_id(3))],
        unreadable_keys: vec![key_id(5)],
        relay: Some(reserve(10)),
    });
    all.append(with_keys(vec![key(4, 0, 0)]));
    assert_eq!(all.accounts, [account(2, 0, 0)]);
    assert_eq!(all.removed_accounts, [AccountId(9)]);
    assert_eq!(all.credentials, [credential(7, 2)]);
    assert_eq!(all.removed_credentials, [CredentialId(key_id(8))]);
    assert_eq!(all.keys, [key(3, 0, 0), key(4, 0, 0)]);
    assert_eq!(all.removed_keys, [key_id(9)]);
    assert_eq!(all.unreadable_accounts, [AccountId(3)]);
    assert_eq!(all.unreadable_credentials, [CredentialId(key_id(3))]);
    assert_eq!(all.unreadable_keys, [key_id(5)]);
    assert_eq!(all.relay, Some(reserve(10)), "a page without it keeps it");
    all.append(Changes {
        relay: Some(reserve(20)),
        ..Changes::default()
    });
    assert_eq!(all.relay, Some(reserve(20)));
}

/// A change of the model: the number of a key, and its boundaries, or `None` to remove it.
type Change = (u8, Option<(i64, i64)>);

fn change() -> impl Strategy<Value = Change> {
    (0_u8..6, prop::option::of((0_i64..20, 0_i64..20)))
}

/// Returns the boundaries of the keys of the model.
fn boundaries(model: &BTreeMap<u8, (i64, i64)>) -> Vec<(i64, u8)> {
    let pairs = model.iter();
    pairs
        .flat_map(|(number, (start, end))| [(*start, *number), (*end, *number)])
        .filter(|(time, _)| *time > 0)
        .collect()
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_map(
        rounds in prop::collection::vec(prop::collection::vec(change(), 0..5), 1..20),
        now in 0_i64..20,
        passed in 0_i64..20,
    ) {
        let mut table = PolicyTable::default();
        let mut model: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
        for round in rounds {
            let before = model.clone();
            let mut changes = Changes::default();
            // Each number once, as a store reports a record once.
            for (number, times) in round.into_iter().collect::<BTreeMap<_, _>>() {
                match times {
                    Some((start, end)) => {
                        changes.keys.push(key(number, start, end));
                        model.insert(number, (start, end));
                    }
                    None => {
                        changes.removed_keys.push(key_id(number));
                        model.remove(&number);
                    }
                }
            }
            let affected = table.apply(changes);
            let changed = (0_u8..6).filter(|number| before.get(number) != model.get(number));
            prop_assert_eq!(affected.keys, changed.map(key_id).collect::<BTreeSet<_>>());
        }
        for number in 0_u8..6 {
            prop_assert_eq!(table.key(key_id(number)).is_some(), model.contains_key(&number));
        }
        let all = boundaries(&model);
        let later = all.iter().map(|(time, _)| *time).filter(|time| *time > now);
        prop_assert_eq!(table.next_boundary(now), later.min());
        let until = now + passed;
        let in_between = all.iter().filter(|(time, _)| *time > now && *time <= until);
        let expected: BTreeSet<_> = in_between.map(|(_, number)| key_id(*number)).collect();
        prop_assert_eq!(table.passed_boundaries(now, until).keys, expected);
    }
}
