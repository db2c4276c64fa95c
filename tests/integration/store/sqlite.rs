//! The file of SQLite.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    accounts::{account, create},
    block_on, open, try_open,
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.permissions().mode() & 0o777
}

#[test]
fn only_the_owner_reads_the_files() {
    let folder = folder();
    let file = folder.path().join("the keys #1 50%.db");
    block_on(async {
        let store = open(&format!("sqlite:{}", file.display())).await;
        create(&store, account("ann")).await;
        let names = ["the keys #1 50%.db", "the keys #1 50%.db-wal"];
        for name in names {
            assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
        }
    });
}

#[test]
fn two_stores_share_a_file() {
    let folder = folder();
    let url = format!("sqlite:{}", folder.path().join("keys.db").display());
    block_on(async {
        let (first, second) = (open(&url).await, open(&url).await);
        for number in 0..20 {
            create(&first, account(&format!("first {number}"))).await;
            create(&second, account(&format!("second {number}"))).await;
        }
        let changed = first.change_counter().await.unwrap();
        assert_eq!(second.change_counter().await.unwrap(), changed);
        let all = second.load().await.unwrap();
        assert_eq!(all.changes.accounts.len(), 41);
    });
}

#[test]
fn readers_do_not_wait_for_a_writer() {
    let folder = folder();
    let url = format!("sqlite:{}", folder.path().join("keys.db").display());
    block_on(async {
        let (first, second) = (open(&url).await, open(&url).await);
        let mut change = first.change().await.unwrap();
        change.create_account(account("ann")).await.unwrap();
        for store in [&first, &second] {
            assert_eq!(store.account_by_name("ann").await.unwrap(), None);
        }
        change.commit().await.unwrap();
        for store in [&first, &second] {
            assert!(store.account_by_name("ann").await.unwrap().is_some());
        }
    });
}

#[test]
fn a_file_that_does_not_open_is_named() {
    let folder = folder();
    let text = folder.path().join("text");
    fs::write(
        &text,
        "this is a text and not a database, although it is a long one".repeat(100),
    )
    .unwrap();
    for file in [
        text,
        folder.path().join("absent/keys.db"),
        folder.path().into(),
    ] {
        let url = format!("sqlite:{}", file.display());
        let error = block_on(try_open(&url))
            .expect_err("no database")
            .to_string();
        let start = format!("store: cannot open {url}: ");
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains("read and write the file"), "{error}");
    }
}
