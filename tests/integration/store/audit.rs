//! The audit log.

use report::store::{AuditEntry, AuditFilter, AuditRow, Store};

use super::{NOW, accounts::account, open};

fn entry(happened: i64, action: &str) -> AuditEntry {
    AuditEntry {
        happened,
        actor: "token ann".to_owned(),
        address: "2001:db8::1".to_owned(),
        action: action.to_owned(),
        subject: format!("subject of {action}"),
        detail: "{\"name\":\"Ann's 🌉\"}".to_owned(),
        repeats: 3,
    }
}

async fn all(store: &Store, filter: &AuditFilter) -> Vec<AuditRow> {
    store.audit(filter, None, 200).await.unwrap().items
}

fn actions(rows: &[AuditRow]) -> Vec<&str> {
    rows.iter().map(|row| &*row.entry.action).collect()
}

pub(super) async fn events_have_pages(url: String) {
    let store = open(&url).await;
    store.write_audit(&[]).await.unwrap();
    let entries: Vec<_> = (0..5)
        .map(|number| entry(NOW + number, &format!("a{number}")))
        .collect();
    store.write_audit(&entries).await.unwrap();
    let everything = AuditFilter::default();
    let first = store.audit(&everything, None, 2).await.unwrap();
    assert_eq!(actions(&first.items), ["a4", "a3"]);
    assert_eq!(first.items[0].entry, entries[4]);
    let after = first.next.expect("a second page");
    let second = store.audit(&everything, Some(&after), 3).await.unwrap();
    assert_eq!(actions(&second.items), ["a2", "a1", "a0"]);
    assert_eq!(second.next, None);

    let part = AuditFilter {
        since: Some(NOW + 1),
        until: Some(NOW + 3),
        subject: None,
    };
    assert_eq!(actions(&all(&store, &part).await), ["a2", "a1"]);
    let next = store.audit(&part, Some(&after), 200).await.unwrap();
    assert_eq!(actions(&next.items), ["a2", "a1"]);
    let of_subject = AuditFilter {
        subject: Some("subject of a1".to_owned()),
        ..AuditFilter::default()
    };
    assert_eq!(actions(&all(&store, &of_subject).await), ["a1"]);
}

pub(super) async fn an_event_that_is_written_again_stays_one(url: String) {
    let store = open(&url).await;
    let rows = [entry(NOW, "a"), entry(NOW, "a"), entry(NOW + 1, "b")].map(AuditRow::new);
    for _ in 0..2 {
        store.write_audit_rows(&rows).await.unwrap();
    }
    let found = all(&store, &AuditFilter::default()).await;
    assert_eq!(actions(&found), ["b", "a", "a"]);
}

pub(super) async fn long_texts_are_cut(url: String) {
    let store = open(&url).await;
    let long = AuditEntry {
        actor: "ä".repeat(500),
        address: "1".repeat(500),
        action: "b".repeat(500),
        subject: "c\0".repeat(500),
        detail: "d".repeat(50_000),
        ..entry(NOW, "")
    };
    store.write_audit(&[long]).await.unwrap();
    let rows = all(&store, &AuditFilter::default()).await;
    let found = &rows[0].entry;
    let lengths = [&found.actor, &found.address, &found.action, &found.subject]
        .map(|text| text.chars().count());
    assert_eq!(lengths, [128, 64, 64, 128]);
    assert_eq!(found.detail.len(), 4_096);
}

pub(super) async fn a_change_has_its_event(url: String) {
    let store = open(&url).await;
    for (name, is_committed) in [("kept", true), ("dropped", false)] {
        let mut change = store.change().await.unwrap();
        change.create_account(account(name)).await.unwrap();
        change.record(&entry(NOW, name)).await.unwrap();
        if is_committed {
            change.commit().await.unwrap();
        }
    }
    let rows = all(&store, &AuditFilter::default()).await;
    assert_eq!(actions(&rows), ["kept"]);
}

pub(super) async fn the_log_has_bounds(url: String) {
    let store = open(&url).await;
    let entries: Vec<_> = (0..250)
        .map(|number| entry(NOW + number, &format!("a{number}")))
        .collect();
    store.write_audit(&entries).await.unwrap();
    assert_eq!(store.trim_audit(NOW + 100, 1_000).await.unwrap(), 100);
    assert_eq!(store.trim_audit(NOW, 20).await.unwrap(), 130);
    assert_eq!(store.trim_audit(NOW, 20).await.unwrap(), 0);
    let rows = all(&store, &AuditFilter::default()).await;
    assert_eq!(rows.len(), 20);
    assert_eq!(actions(&rows[19..]), ["a230"]);
}
