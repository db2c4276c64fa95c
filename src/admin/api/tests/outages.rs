//! Tests of the API while the database is away.

use super::{fake_master::link, *};

#[tokio::test]
async fn live_things_are_operated_while_the_database_is_away() {
    let testbed = Testbed::new().await;
    testbed.master.state().links = vec![link(1, 1)];
    let (token, _) = testbed.token(TokenRole::Operate, None).await;
    let known = testbed.send(get("/v1/status").token(&token)).await;
    known.assert_status(StatusCode::OK);
    testbed.store.close().await;

    for path in [
        "/v1/accounts",
        "/v1/keys",
        "/v1/relay",
        "/v1/usage",
        "/v1/audit",
    ] {
        let refused = testbed.send(get(path).token(&token)).await;
        refused.assert_refused(503, "store_away", None);
        assert_eq!(refused.header("retry-after"), "5");
    }
    let add = post("/v1/accounts", &json!({"name": "x"}));
    testbed
        .send(add)
        .await
        .assert_refused(503, "store_away", None);
    for path in [
        "/v1/status",
        "/v1/health",
        "/v1/links",
        "/v1/links/1",
        "/v1/limits",
    ] {
        let answer = testbed.send(get(path).token(&token)).await;
        answer.assert_status(StatusCode::OK);
    }
    let end = call(Method::DELETE, "/v1/links/1").token(&token);
    testbed
        .send(end)
        .await
        .assert_status(StatusCode::NO_CONTENT);
    let wrong = TokenSecret::new([1; 32]);
    let refused = testbed.send(get("/v1/status").token(wrong.as_str())).await;
    refused.assert_refused(401, "unauthorized", None);
}

#[tokio::test]
async fn tokens_that_were_never_read_are_not_wrong() {
    let testbed = Testbed::new().await;
    let (token, _) = testbed.token(TokenRole::Read, None).await;
    testbed.store.close().await;
    for _ in 0..20 {
        let refused = testbed.send(get("/v1/status").token(&token)).await;
        refused.assert_refused(503, "store_away", None);
    }
    assert!(testbed.api.has_valid_token().await.is_err());
}
