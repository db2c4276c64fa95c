//! Tests of usage and of the audit log.

use super::*;
use crate::{
    policy::{AccountId, LimitSubject, Moved},
    store::{MinuteUsage, UsageFlush},
};
use report_proto::id::Id;

/// Writes the bytes of some minutes before [`NOW`].
async fn write_usage(testbed: &Testbed) {
    let minute = |subject, ago: i64, up: u64| MinuteUsage {
        subject,
        minute: NOW - ago * 60,
        moved: Moved { up, down: 2 * up },
    };
    let (five, six) = (
        LimitSubject::Account(AccountId(5)),
        LimitSubject::Account(AccountId(6)),
    );
    let flush = UsageFlush {
        sequence: 1,
        beat: NOW,
        minutes: vec![
            minute(five, 0, 100),
            minute(five, 1, 10),
            minute(five, 90, 1),
            minute(six, 0, 7),
            minute(LimitSubject::Relay, 0, 107),
        ],
        ..UsageFlush::default()
    };
    testbed
        .store
        .flush_usage(Id([1; 16]), "test", &flush)
        .await
        .unwrap();
}

#[tokio::test]
async fn usage_is_listed_by_time() {
    let testbed = Testbed::new().await;
    write_usage(&testbed).await;
    let show = |query: &str| testbed.send(get(&format!("/v1/usage?{query}")));
    let relay = show("").await;
    let relay = relay.assert_status(StatusCode::OK).json();
    assert_eq!(relay["items"][0]["up"], 107);
    let minutes = show("kind=account&id=5&step=minute").await.json();
    let points = minutes["items"].as_array().unwrap();
    assert_eq!(points.len(), 2, "only those of 24 minutes: {minutes}");
    assert_eq!(points[1], json!({"start": NOW, "up": 100, "down": 200}));
    let from = NOW - 86_400;
    let all = format!("kind=account&id=5&step=minute&from={from}");
    let first = show(&format!("{all}&size=2")).await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let rest = show(&format!("{all}&after={next}")).await.json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1, "{rest}");
    assert!(rest["next"].is_null());
    for (query, field) in [
        ("kind=account", "id"),
        ("kind=relay&id=5", "id"),
        ("kind=planet", "kind"),
        ("step=year", "step"),
        ("from=2030-01-01&until=2029-01-01", "from"),
        ("until=later", "until"),
    ] {
        show(query)
            .await
            .assert_refused(422, "invalid", Some(field));
    }
}

#[tokio::test]
async fn subjects_are_listed_with_their_sums() {
    let testbed = Testbed::new().await;
    write_usage(&testbed).await;
    let first = testbed.send(get("/v1/usage/account?size=1")).await;
    let first = first.assert_status(StatusCode::OK).json();
    assert_eq!(first["items"], json!([{"id": "5", "up": 111, "down": 222}]));
    let next = first["next"].as_str().unwrap();
    let second = testbed
        .send(get(&format!("/v1/usage/account?after={next}")))
        .await;
    assert_eq!(
        second.json()["items"],
        json!([{"id": "6", "up": 7, "down": 14}])
    );
    let refused = testbed.send(get("/v1/usage/planet")).await;
    refused.assert_refused(404, "not_found", None);
}

#[tokio::test]
async fn changes_are_part_of_the_audit_log() {
    let testbed = Testbed::new().await;
    let (token, _) = testbed.token(TokenRole::Own, None).await;
    testbed.now.store(NOW + 60, Relaxed);
    let new = post("/v1/accounts", &json!({"name": "home"}));
    let added = testbed.send(new.token(&token)).await;
    let path = added.assert_status(StatusCode::CREATED).header("location");
    let subject = path.strip_prefix("/v1/accounts/").unwrap();
    let list = |query: &str| testbed.send(get(&format!("/v1/audit?{query}")));
    let events = list(&format!("subject=account%20{subject}")).await.json();
    let event = &events["items"][0];
    assert_eq!(event["action"], "account.add");
    assert_eq!(event["at"], NOW + 60);
    assert_eq!(event["address"], "127.0.0.1");
    assert!(event["actor"].as_str().unwrap().starts_with("token Own"));
    assert!(!events.to_string().contains(&token));
    let latest = list("size=1").await.json();
    assert_eq!(latest["items"][0], *event, "the latest one is first");
    let next = latest["next"].as_str().unwrap();
    let earlier = list(&format!("after={next}")).await.json();
    assert_eq!(earlier["items"][0]["action"], "token.add");
    let until = list(&format!("until={}", NOW + 60)).await.json();
    assert_eq!(until["items"], earlier["items"]);
    for (query, field) in [("after=5", "after"), ("from=x", "from"), ("size=0", "size")] {
        list(query)
            .await
            .assert_refused(422, "invalid", Some(field));
    }
}
