//! Tests of live links and tunnels, blocks, limits, events, and the state of the master.

use std::net::Ipv6Addr;

use super::{
    fake_master::{key, limits, link, tunnel},
    *,
};
use crate::master::StoreProblem;

/// The numbers of the items of a page.
fn numbers(answer: &Answer) -> Vec<u64> {
    let page = answer.assert_status(StatusCode::OK).json();
    let items = page["items"].as_array().unwrap().clone();
    let number = |item: &Value| item["number"].as_u64().unwrap();
    items.iter().map(number).collect()
}

#[tokio::test]
async fn links_and_tunnels_are_listed_by_number_account_and_key() {
    let testbed = Testbed::new().await;
    testbed.master.state().links = (1..=5).map(|number| link(number, 1)).collect();
    testbed.master.state().tunnels = vec![tunnel(3, 7), tunnel(8, 7), tunnel(9, 8)];
    let list = |path: &str| testbed.send(get(path));
    let page = list("/v1/links?size=2").await;
    assert_eq!(numbers(&page), [1, 2]);
    assert_eq!(page.json()["next"], "2");
    assert_eq!(numbers(&list("/v1/links?size=2&after=4").await), [5]);
    assert_eq!(
        numbers(&list(&format!("/v1/links?key={}", key(4))).await),
        [4]
    );
    assert_eq!(numbers(&list("/v1/tunnels?account=7").await), [3, 8]);
    assert_eq!(
        numbers(&list(&format!("/v1/tunnels?key={}", key(9))).await),
        [9]
    );
    assert_eq!(
        numbers(&list("/v1/tunnels?account=9").await),
        [] as [u64; 0]
    );
    assert_eq!(list("/v1/links/3").await.json()["number"], 3);
    assert_eq!(list("/v1/tunnels/8").await.json()["label"], "ssh");
    for (path, field) in [
        ("/v1/links?after=x", "after"),
        ("/v1/links?size=0", "size"),
        ("/v1/tunnels?key=5", "key"),
    ] {
        list(path).await.assert_refused(422, "invalid", Some(field));
    }
    for path in [
        "/v1/links/9",
        "/v1/links/x",
        "/v1/links/-1",
        "/v1/tunnels/1",
    ] {
        list(path).await.assert_refused(404, "not_found", None);
    }
}

#[tokio::test]
async fn links_and_tunnels_are_ended_and_blocked_once() {
    let testbed = Testbed::new().await;
    testbed.master.state().links = vec![link(1, 1), link(2, 1)];
    testbed.master.state().tunnels = vec![tunnel(3, 1), tunnel(4, 1)];
    let (token, _) = testbed.token(TokenRole::Operate, None).await;
    for path in ["/v1/links/1", "/v1/tunnels/3"] {
        let end = || call(Method::DELETE, path).token(&token);
        let ended = testbed.send(end()).await;
        ended.assert_status(StatusCode::NO_CONTENT);
        let refused = testbed.send(end()).await;
        refused.assert_refused(404, "not_found", None);
    }
    let hour = json!({"seconds": 3_600});
    for path in ["/v1/links/2/block", "/v1/tunnels/4/block"] {
        let block = |body: &Value| testbed.send(post(path, body).token(&token));
        for seconds in [0, 2_592_001] {
            let refused = block(&json!({ "seconds": seconds })).await;
            refused.assert_refused(422, "invalid", Some("seconds"));
        }
        testbed.master.state().is_full = true;
        let refused = block(&hour).await;
        refused.assert_refused(429, "busy", None);
        assert_eq!(refused.header("retry-after"), "60");
        testbed.master.state().is_full = false;
        let blocked = block(&hour).await;
        blocked.assert_status(StatusCode::CREATED);
        assert_eq!(blocked.json()["until"], NOW + 3_600);
        block(&hour).await.assert_refused(404, "not_found", None);
    }
    let blocks = testbed.send(get("/v1/blocks")).await;
    assert_eq!(numbers(&blocks), [7, 7]);
    let unblock = || call(Method::DELETE, "/v1/blocks/7").token(&token);
    let removed = testbed.send(unblock()).await;
    removed.assert_status(StatusCode::NO_CONTENT);
    let refused = testbed.send(unblock()).await;
    refused.assert_refused(404, "not_found", None);

    let audit = testbed.send(get("/v1/audit?subject=link%202")).await.json();
    let event = &audit["items"][0];
    assert_eq!(
        (&event["action"], &event["address"]),
        (&json!("link.block"), &json!("127.0.0.1"))
    );
    assert!(
        event["actor"]
            .as_str()
            .unwrap()
            .starts_with("token Operate"),
        "{audit}"
    );
}

#[tokio::test]
async fn an_operation_is_audited_although_its_client_leaves() {
    let testbed = Testbed::new().await;
    testbed.master.state().links = vec![link(1, 1)];
    let mut ending = Box::pin(testbed.send(call(Method::DELETE, "/v1/links/1")));
    while !testbed.master.state().links.is_empty() {
        tokio::select! {
            biased;
            _ = &mut ending => {}
            () = std::future::ready(()) => {}
        }
        tokio::task::yield_now().await;
    }
    drop(ending);
    let audited = async {
        loop {
            let audit = testbed.send(get("/v1/audit?subject=link%201")).await.json();
            if let Some(event) = audit["items"].get(0) {
                break event["action"].clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let audited = tokio::time::timeout(Duration::from_secs(10), audited).await;
    assert_eq!(audited.unwrap(), "link.end");
}

#[tokio::test]
async fn limits_in_force_have_pages_by_kind_and_id() {
    let testbed = Testbed::new().await;
    testbed.master.state().limits = vec![
        limits("relay", ""),
        limits("key", "b"),
        limits("key", "a"),
        limits("account", "5"),
    ];
    let first = testbed.send(get("/v1/limits?size=3")).await.json();
    let names = |page: &Value| {
        let items = page["items"].as_array().unwrap().clone();
        let name = |item: &Value| format!("{} {}", item["kind"], item["id"]).replace('"', "");
        items.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&first), ["account 5", "key a", "key b"]);
    let next = first["next"].as_str().unwrap();
    let second = testbed.send(get(&format!("/v1/limits?after={next}"))).await;
    assert_eq!(names(&second.json()), ["relay "]);
    assert!(second.json()["next"].is_null());
    let keys = testbed.send(get("/v1/limits?kind=key&id=b")).await;
    assert_eq!(names(&keys.json()), ["key b"]);
    let refused = testbed.send(get("/v1/limits?after=!")).await;
    refused.assert_refused(422, "invalid", Some("after"));
}

#[tokio::test]
async fn events_are_streamed_to_four_receivers_at_most() {
    let testbed = Testbed::new().await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let response = testbed.respond(get("/v1/events")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let media_type = response.headers().get(header::CONTENT_TYPE).unwrap();
        assert_eq!(media_type, "text/event-stream");
        streams.push(response.into_body());
    }
    let refused = testbed.send(get("/v1/events")).await;
    refused.assert_refused(429, "busy", None);
    assert_eq!(testbed.master.streams(), MAX_STREAMS);
    testbed.master.send(NOW);
    let mut text = String::new();
    while !text.contains("store_recovered") {
        let frame = streams[0].frame().await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    assert!(text.contains("data:"), "{text}");
    assert!(text.contains(&format!("\"at\":{NOW}")), "{text}");
    streams.pop();
    let response = testbed.respond(get("/v1/events")).await;
    assert_eq!(response.status(), StatusCode::OK, "a place is free again");
}

#[tokio::test]
async fn a_slow_receiver_of_events_learns_how_many_it_has_missed() {
    let testbed = Testbed::new().await;
    let mut stream = testbed.respond(get("/v1/events")).await.into_body();
    for at in 0..10 {
        testbed.master.send(at);
    }
    let mut text = String::new();
    while !text.contains("\"at\":9") {
        let frame = stream.frame().await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    // The fake master keeps four events.
    assert!(text.contains("event: missed\ndata: 6\n"), "{text}");
    assert!(!text.contains("\"at\":5"), "{text}");
}

#[tokio::test]
async fn the_state_of_the_master_is_shown() {
    let testbed = Testbed::new().await;
    let status = testbed.send(get("/v1/status")).await.json();
    assert_eq!(status["version"], "1.2.3");
    let version = testbed.send(get("/v1/version")).await.json();
    assert_eq!(version, json!({"program": "1.2.3", "api": "v1"}));
    let health = testbed.send(get("/v1/health")).await.json();
    assert_eq!(health, json!({"state": "ok"}));
    testbed.master.state().degraded = Some(StoreProblem {
        cause: "away".to_owned(),
        since: NOW,
        is_away: true,
    });
    let health = testbed.send(get("/v1/health")).await.json();
    assert_eq!(health["state"], "degraded");
    assert_eq!(health["degraded"]["cause"], "away");
    testbed.master.state().is_draining = true;
    let health = testbed.send(get("/v1/health")).await.json();
    assert_eq!(health["state"], "draining");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json() {
    let testbed = Testbed::new().await;
    let refused = testbed.send(call(Method::PUT, "/v1/accounts")).await;
    refused.assert_refused(405, "method_not_allowed", None);
    let address = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let refused = testbed
        .send(call(Method::PUT, "/v1/accounts").from(address))
        .await;
    refused.assert_refused(401, "unauthorized", None);
    let unknown = Answer::read(not_found()).await;
    unknown.assert_refused(404, "not_found", None);
    for (path, is_owned) in [
        ("/v1", true),
        ("/v1/x", true),
        ("/v10", false),
        ("/metrics", false),
    ] {
        assert_eq!(owns(&path.parse().unwrap()), is_owned, "{path}");
    }
}
