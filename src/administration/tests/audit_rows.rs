//! Tests of the audit rows that operations leave.

use super::*;
use crate::store::AuditFilter;
use report_proto::id::Id;

/// Returns actor, address, action and subject of all rows.
async fn rows(bench: &Bench) -> Vec<[String; 4]> {
    let filter = AuditFilter::default();
    let page = bench
        .administration
        .store()
        .audit(&filter, None, 100)
        .await
        .unwrap();
    let rows = page.items.into_iter().map(|row| {
        let entry = row.entry;
        assert_eq!(entry.happened, NOW);
        [entry.actor, entry.address, entry.action, entry.subject]
    });
    let mut rows: Vec<_> = rows.collect();
    // Rows of the same second have no order.
    rows.sort();
    rows
}

#[tokio::test]
async fn each_change_leaves_a_row() {
    let bench = Bench::new().await;
    let owner = holder(TokenRole::Own);
    let added = bench
        .administration
        .add_account(&owner, NewAccount::new("anna"));
    let id = added.await.unwrap().record.id;
    let patch = AccountPatch {
        note: Some("a note".to_owned()),
        ..AccountPatch::default()
    };
    let actor = Actor::local_socket();
    bench
        .administration
        .set_account(&actor, id, patch, None)
        .await
        .unwrap();
    let key = NewKey::new(Id([1; 16]), "ssh");
    bench
        .administration
        .add_key(&bench.actor, key)
        .await
        .unwrap();
    let subject = format!("account {id}");
    let row = |parts: [&str; 4]| parts.map(str::to_owned);
    assert_eq!(
        rows(&bench).await,
        [
            row(["admin socket", "", "account.set", &subject]),
            row([
                "command line",
                "",
                "key.add",
                &format!("key {}", Id([1; 16]))
            ]),
            row(["token dashboard", "192.0.2.5", "account.add", &subject]),
        ]
    );
}

#[tokio::test]
async fn refused_changes_leave_no_row() {
    let bench = Bench::new().await;
    bench.account("anna").await;
    let again = bench
        .administration
        .add_account(&bench.actor, NewAccount::new("anna"));
    assert!(again.await.is_err());
    let reader = holder(TokenRole::Read);
    let lesser = bench
        .administration
        .add_account(&reader, NewAccount::new("bob"));
    assert!(lesser.await.is_err());
    assert_eq!(rows(&bench).await.len(), 1);
}
