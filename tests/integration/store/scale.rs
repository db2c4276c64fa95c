//! The start of a master with 100,000 keys, and a page of their list. To measure them, run
//! `cargo test --release --test integration store::scale -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use report::{
    policy::{PolicyTable, ServiceKey},
    store::KeyPosition,
};

use super::{accounts::limits, backends::Backend, block_on, keys::id, open};

const KEYS: u64 = 100_000;

/// Keys of one change.
const BATCH: u64 = 5_000;

fn measure(backend: &Backend) {
    let url = backend.database("scale");
    block_on(async {
        let store = open(&url).await;
        for first in (0..KEYS).step_by(usize::try_from(BATCH).unwrap()) {
            let mut change = store.change().await.unwrap();
            for number in first..first + BATCH {
                let mut key = ServiceKey::new(id(number), format!("key {:06}", number % 1_000));
                key.limits = limits();
                change.create_key(key).await.unwrap();
            }
            change.commit().await.unwrap();
        }
        let before = Instant::now();
        let all = store.load().await.unwrap();
        let read = before.elapsed();
        assert_eq!(all.changes.keys.len(), usize::try_from(KEYS).unwrap());
        PolicyTable::default().replace(all.changes);
        let started = before.elapsed();

        let mut after: Option<KeyPosition> = None;
        let mut slowest = Duration::ZERO;
        let mut found = 0;
        loop {
            let before = Instant::now();
            let page = store.keys(None, after.as_ref(), 200).await.unwrap();
            slowest = slowest.max(before.elapsed());
            found += page.items.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, usize::try_from(KEYS).unwrap());
        println!(
            "{KEYS} keys of {}: read {read:.2?}, in the table after {started:.2?}, slowest page \
             {slowest:.2?}",
            store.url()
        );
    });
}

#[test]
#[ignore = "measures; the command is at the top of the file"]
fn sqlite_holds_many_keys() {
    measure(&Backend::sqlite());
}

#[test]
#[ignore = "measures; the command is at the top of the file"]
fn postgres_holds_many_keys() {
    measure(&Backend::postgres());
}

#[test]
#[ignore = "measures; the command is at the top of the file"]
fn mariadb_holds_many_keys() {
    measure(&Backend::mariadb());
}
