//! Tests of tokens: who may do what, and the throttle of wrong ones.

use super::{super::document::operations, *};
use crate::throttle::{THROTTLE_BURST, THROTTLE_REFILL};

/// All operations of the API, with ids in their paths.
fn all_operations() -> Vec<(Method, String)> {
    let mut document = described().into_openapi();
    let mut all = vec![(Method::GET, "/v1/openapi.json".to_owned())];
    for (path, item) in &mut document.paths.paths {
        let path = path
            .replace("{id}", "1")
            .replace("{number}", "1")
            .replace("{kind}", "key");
        all.extend(operations(item).map(|(method, _)| (method, path.clone())));
    }
    assert!(all.len() > 40, "{all:?}");
    all
}

/// Returns a different address for each number.
fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

#[tokio::test]
async fn no_operation_is_open_without_a_token() {
    let testbed = Testbed::new().await;
    let wrong = TokenSecret::new([1; 32]);
    for (number, (method, path)) in (1..).zip(all_operations()) {
        let without = call(method.clone(), &path).from(address(number));
        let refused = testbed.send(without).await;
        refused.assert_refused(401, "unauthorized", None);
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
        for token in [wrong.as_str(), "", "rt1_", "admin"] {
            let call = call(method.clone(), &path).token(token);
            let refused = testbed.send(call.from(address(number))).await;
            refused.assert_refused(401, "unauthorized", None);
        }
    }
}

#[tokio::test]
async fn each_operation_needs_its_role() {
    let testbed = Testbed::new().await;
    for role in [TokenRole::Read, TokenRole::Operate, TokenRole::Own] {
        let (token, _) = testbed.token(role, None).await;
        for (method, path) in all_operations() {
            let needed = access::needed_role(&method, &path);
            let response = testbed
                .respond(call(method.clone(), &path).token(&token))
                .await;
            let status = response.status();
            if role < needed {
                let refused = Answer::read(response).await;
                refused.assert_refused(403, "forbidden", None);
            } else {
                let is_admitted = status.is_success() || matches!(status.as_u16(), 404 | 415 | 428);
                assert!(is_admitted, "{role:?} {method} {path}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn the_unix_socket_has_all_rights() {
    let testbed = Testbed::new().await;
    for (method, path) in all_operations() {
        let status = testbed
            .respond(call(method.clone(), &path))
            .await
            .status()
            .as_u16();
        assert!(
            !matches!(status, 401 | 403 | 429 | 500..),
            "{method} {path}: {status}"
        );
    }
}

#[tokio::test]
async fn a_token_ends_at_its_expiry_and_when_it_is_revoked_or_removed() {
    let testbed = Testbed::new().await;
    let status = |token: &str| testbed.send(get("/v1/status").token(token));
    let (expiring, _) = testbed.token(TokenRole::Read, Some(NOW + 10)).await;
    let (revoked, revoked_id) = testbed.token(TokenRole::Read, None).await;
    let (removed, removed_id) = testbed.token(TokenRole::Read, None).await;
    for token in [&expiring, &revoked, &removed] {
        status(token).await.assert_status(StatusCode::OK);
    }
    let path = format!("/v1/tokens/{revoked_id}/revoke");
    let answer = testbed.send(call(Method::POST, &path).version("*")).await;
    assert_eq!(
        answer.assert_status(StatusCode::OK).json()["record"]["revoked"],
        true
    );
    let path = format!("/v1/tokens/{removed_id}");
    let answer = testbed.send(delete(&path, "*")).await;
    answer.assert_status(StatusCode::NO_CONTENT);
    for token in [&revoked, &removed] {
        status(token)
            .await
            .assert_refused(401, "unauthorized", None);
    }
    testbed.now.store(NOW + 9, Relaxed);
    status(&expiring).await.assert_status(StatusCode::OK);
    testbed.now.store(NOW + 10, Relaxed);
    let refused = status(&expiring).await;
    refused.assert_refused(401, "unauthorized", None);
    assert!(refused.text.contains("expired"), "{refused:?}");
}

#[tokio::test]
async fn guesses_are_throttled_and_tokens_that_were_valid_are_not() {
    let testbed = Testbed::new().await;
    let (used, _) = testbed.token(TokenRole::Read, None).await;
    let (unused, _) = testbed.token(TokenRole::Own, None).await;
    let status =
        |token: &str, address: IpAddr| testbed.send(get("/v1/status").token(token).from(address));
    status(&used, LOCAL).await.assert_status(StatusCode::OK);
    for guess in 0..THROTTLE_BURST {
        let guess = TokenSecret::new([u8::try_from(guess).unwrap(); 32]);
        let refused = status(guess.as_str(), LOCAL).await;
        refused.assert_refused(401, "unauthorized", None);
    }
    for token in [unused.as_str(), "rt1_wrong", "x"] {
        let refused = status(token, LOCAL).await;
        refused.assert_refused(429, "throttled", None);
        let seconds = THROTTLE_REFILL.as_secs().to_string();
        assert_eq!(refused.header("retry-after"), seconds);
    }
    status(&used, LOCAL).await.assert_status(StatusCode::OK);
    let elsewhere = status(&unused, address(1)).await;
    elsewhere.assert_status(StatusCode::OK);
}

#[tokio::test]
async fn refused_tokens_are_reported_without_their_text_until_they_are_throttled() {
    let testbed = Testbed::new().await;
    let (expired, _) = testbed.token(TokenRole::Read, Some(NOW)).await;
    let status =
        |token: &str, address: IpAddr| testbed.send(get("/v1/status").token(token).from(address));
    status(&expired, address(1)).await;
    let without = testbed.send(get("/v1/status").from(address(2))).await;
    without.assert_refused(401, "unauthorized", None);
    let wrong = TokenSecret::new([1; 32]);
    for _ in 0..2 * THROTTLE_BURST {
        status(wrong.as_str(), address(3)).await;
    }
    let reported = testbed.master.state().refused_tokens.clone();
    let (ended, guesses) = reported.split_first().unwrap();
    assert_eq!(ended.0, address(1));
    assert!(ended.1.contains("expired"), "{ended:?}");
    assert!(!ended.1.contains(&expired), "{ended:?}");
    let guess = (address(3), "the token is wrong".to_owned());
    assert_eq!(guesses, vec![guess; THROTTLE_BURST as usize]);
}

#[tokio::test]
async fn a_public_address_needs_a_token_that_is_valid() {
    let testbed = Testbed::new().await;
    assert!(!testbed.api.has_valid_token().await.unwrap());
    testbed.token(TokenRole::Read, Some(NOW)).await;
    assert!(!testbed.api.has_valid_token().await.unwrap(), "expired");
    testbed.token(TokenRole::Read, None).await;
    assert!(testbed.api.has_valid_token().await.unwrap());
}

#[tokio::test]
async fn a_stream_loses_its_rights_with_its_token() {
    let testbed = Testbed::new().await;
    let (token, id) = testbed.token(TokenRole::Read, None).await;
    let mut headers = HeaderMap::new();
    let value = format!("Bearer {token}").parse().unwrap();
    headers.insert(header::AUTHORIZATION, value);
    let gate = &testbed.api.gate;
    let admitted = gate.admit(Origin::Address(LOCAL), &headers, TokenRole::Read);
    let holder = admitted.await.unwrap();
    assert!(gate.still_admits(&holder).await);
    let administration = &testbed.api.administration;
    let revoked = administration.revoke_token(&actor(), id, None).await;
    assert!(revoked.unwrap().record.revoked);
    assert!(!gate.still_admits(&holder).await);
    assert!(gate.still_admits(&Actor::local_socket()).await);
}
