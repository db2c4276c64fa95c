//! Tests of the records: their lives, versions, pages and invalid values.

use super::*;
use report_proto::crypto::{Credential, CredentialSecret};

const KEY: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn an_account_is_added_changed_and_removed() {
    let testbed = Testbed::new().await;
    let (path, tag) = testbed.account("home").await;
    let shown = testbed.send(get(&path)).await;
    assert_eq!(shown.assert_status(StatusCode::OK).header("etag"), tag);
    assert_eq!(shown.json()["record"]["name"], "home");
    assert_eq!(format!("\"{}\"", shown.json()["changed"]), tag);

    let limits = json!({"limits": {"rates": {"up": {"rate": "1 MiB/s"}}}, "note": "x"});
    let changed = testbed.send(patch(&path, &tag, &limits)).await;
    changed.assert_status(StatusCode::OK);
    let new_tag = changed.header("etag").to_owned();
    assert_ne!(new_tag, tag);
    assert_eq!(
        changed.json()["record"]["limits"]["rates"]["up"]["rate"],
        1 << 20
    );

    let stale = testbed
        .send(patch(&path, &tag, &json!({"note": "y"})))
        .await;
    stale.assert_refused(412, "conflict", Some("id"));
    let unversioned = call(Method::PATCH, &path).json(&json!({"note": "y"}));
    let refused = testbed.send(unversioned).await;
    refused.assert_refused(428, "version_required", None);
    let refused = testbed.send(call(Method::DELETE, &path)).await;
    refused.assert_refused(428, "version_required", None);
    let refused = testbed.send(delete(&path, &tag)).await;
    refused.assert_refused(412, "conflict", Some("id"));

    let removed = testbed.send(delete(&path, &new_tag)).await;
    removed.assert_status(StatusCode::NO_CONTENT);
    assert_eq!(removed.text, "");
    for gone in [
        get(&path),
        patch(&path, "*", &json!({})),
        delete(&path, "*"),
    ] {
        let refused = testbed.send(gone).await;
        refused.assert_refused(404, "not_found", Some("id"));
    }
}

#[tokio::test]
async fn invalid_values_name_their_field() {
    let testbed = Testbed::new().await;
    let (path, _) = testbed.account("home").await;
    for (body, field) in [
        (json!({}), None),
        (json!({"name": ""}), Some("name")),
        (
            json!({"name": "x", "networks": ["10.0.0.0/33"]}),
            Some("networks[0]"),
        ),
        (json!({"name": "x", "expires": "soon"}), Some("expires")),
        (json!({"name": "x", "quota": 5}), Some("quota")),
        (json!({"name": "x", "max_keys": 0}), Some("max_keys")),
        (
            json!({"name": "x", "limits": {"rates": {"up": {"rate": "fast"}}}}),
            Some("limits.rates.up.rate"),
        ),
        (
            json!({"name": "x", "limits": {"quotas": [
                {"period": {"unit": "month", "zone": "Mars/Base"}, "bytes": "1 GB"}
            ]}}),
            Some("limits.quotas[0].period.zone"),
        ),
    ] {
        let refused = testbed.send(post("/v1/accounts", &body)).await;
        refused.assert_refused(422, "invalid", field);
    }
    let refused = testbed
        .send(patch(&path, "*", &json!({"name": null})))
        .await;
    refused.assert_refused(422, "invalid", Some("name"));
    let refused = testbed.send(get("/v1/accounts?sort=name")).await;
    refused.assert_refused(422, "invalid", Some("sort"));
    let refused = testbed.send(get("/v1/accounts?size=201")).await;
    refused.assert_refused(422, "invalid", Some("size"));
    let refused = testbed.send(get("/v1/keys?after=%25")).await;
    refused.assert_refused(422, "invalid", Some("after"));
}

#[tokio::test]
async fn names_and_ids_are_unique_and_owners_are_needed() {
    let testbed = Testbed::new().await;
    let (path, _) = testbed.account("home").await;
    let refused = testbed
        .send(post("/v1/accounts", &json!({"name": "home"})))
        .await;
    refused.assert_refused(409, "duplicate", Some("name"));

    let account: i64 = path.rsplit('/').next().unwrap().parse().unwrap();
    let key = json!({"id": KEY, "label": "ssh", "account": account});
    let added = testbed.send(post("/v1/keys", &key)).await;
    added.assert_status(StatusCode::CREATED);
    assert_eq!(added.header("location"), format!("/v1/keys/{KEY}"));
    let refused = testbed.send(post("/v1/keys", &key)).await;
    refused.assert_refused(409, "duplicate", Some("id"));
    let orphan = json!({"id": "f".repeat(32), "label": "ssh", "account": 999});
    let refused = testbed.send(post("/v1/keys", &orphan)).await;
    refused.assert_refused(422, "invalid", Some("account"));
    let refused = testbed.send(delete(&path, "*")).await;
    refused.assert_refused(409, "in_use", Some("id"));

    let by_account = testbed
        .send(get(&format!("/v1/keys?account={account}")))
        .await;
    assert_eq!(by_account.json()["items"][0]["record"]["id"], KEY);
    let rotation = json!({"new_id": "e".repeat(32), "old_expires": "2030-01-01"});
    let rotate = post(&format!("/v1/keys/{KEY}/rotate"), &rotation).version("*");
    let rotated = testbed.send(rotate).await;
    rotated.assert_status(StatusCode::CREATED);
    assert_eq!(rotated.json()["new"]["label"], "ssh");
}

#[tokio::test]
async fn bodies_have_a_type_a_length_and_a_syntax() {
    let testbed = Testbed::new().await;
    let with = |media_type: &str, body: String| {
        call(Method::POST, "/v1/accounts")
            .header(header::CONTENT_TYPE, media_type)
            .body(body)
    };
    let account = json!({"name": "x"}).to_string();
    let refused = testbed.send(with("text/plain", account.clone())).await;
    refused.assert_refused(415, "unsupported_media_type", None);
    let bare = call(Method::POST, "/v1/accounts").body(account);
    let refused = testbed.send(bare).await;
    refused.assert_refused(415, "unsupported_media_type", None);
    let refused = testbed
        .send(with("application/json", "{\"name\":".to_owned()))
        .await;
    refused.assert_refused(400, "malformed", None);
    let long = json!({"name": "x", "note": "y".repeat(body::BODY_MAX)}).to_string();
    let refused = testbed.send(with("application/json", long)).await;
    refused.assert_refused(413, "too_large", None);
}

#[tokio::test]
async fn pages_continue_where_the_one_before_ends() {
    let testbed = Testbed::new().await;
    for number in 0..5 {
        testbed.account(&format!("account {number}")).await;
    }
    let (mut names, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = testbed
            .send(get(&format!("/v1/accounts?size=2{after}")))
            .await;
        let page = page.assert_status(StatusCode::OK).json();
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()), "{page}");
        names.extend(items.iter().map(|item| item["record"]["name"].to_string()));
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    // The master key has an account, too.
    assert_eq!((names.len(), pages), (6, 3), "{names:?}");
    names.dedup();
    assert_eq!(names.len(), 6);
    let found = testbed.send(get("/v1/accounts?name=account%203")).await;
    assert_eq!(found.json()["items"][0]["record"]["name"], "account 3");
}

#[tokio::test]
async fn the_policy_of_the_relay_has_a_version() {
    let testbed = Testbed::new().await;
    let shown = testbed.send(get("/v1/relay")).await;
    let tag = shown
        .assert_status(StatusCode::OK)
        .header("etag")
        .to_owned();
    let limits = json!({"limits": {"counts": {"links": 9}}});
    let changed = testbed.send(patch("/v1/relay", &tag, &limits)).await;
    changed.assert_status(StatusCode::OK);
    assert_eq!(changed.json()["record"]["limits"]["counts"]["links"], 9);
    let stale = testbed.send(patch("/v1/relay", &tag, &limits)).await;
    stale.assert_refused(412, "conflict", Some("id"));
    let reserve = json!({"reserve": {"account": 1, "percent": 10}});
    let refused = testbed.send(patch("/v1/relay", "*", &reserve)).await;
    refused.assert_refused(422, "invalid", Some("reserve"));
}

#[tokio::test]
async fn answers_contain_neither_verifiers_nor_hashes() {
    let testbed = Testbed::new().await;
    let (account, _) = testbed.account("home").await;
    let secret = CredentialSecret::new([3; 32]);
    let verifier = Credential::derive(&secret).verifier().to_text();
    let new = json!({"name": "laptop", "role": "server", "verifier": verifier});
    let path = format!("{account}/credentials");
    let credential = testbed.send(post(&path, &new)).await;
    credential.assert_status(StatusCode::CREATED);
    let token = TokenSecret::new([4; 32]);
    let hash = serde_json::to_value(HashText(token.hash())).unwrap();
    let new = json!({"name": "script", "role": "read", "hash": hash});
    let added = testbed.send(post("/v1/tokens", &new)).await;
    added.assert_status(StatusCode::CREATED);
    let again = json!({"name": "again", "role": "server", "verifier": verifier});
    let duplicate = testbed.send(post(&path, &again)).await;
    duplicate.assert_refused(409, "duplicate", Some("id"));

    let (credential_path, token_path) = (credential.header("location"), added.header("location"));
    let mut texts = vec![credential.text.clone(), added.text.clone(), duplicate.text];
    for path in [
        path.as_str(),
        credential_path,
        "/v1/tokens",
        token_path,
        "/v1/audit",
    ] {
        let answer = testbed.send(get(path)).await;
        texts.push(answer.assert_status(StatusCode::OK).text.clone());
    }
    let hash = hash.as_str().unwrap();
    for text in &texts {
        for hidden in [verifier.as_str(), &verifier[4..40], hash, token.as_str()] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
    let wrong = json!({"name": "x", "role": token.as_str(), "hash": hash});
    let refused = testbed.send(post("/v1/tokens", &wrong)).await;
    refused.assert_refused(422, "invalid", Some("role"));
    assert!(!refused.text.contains(token.as_str()), "{refused:?}");
}

#[tokio::test]
async fn an_empty_token_is_refused() {
    let testbed = Testbed::new().await;
    // The SHA-256 of the empty text.
    let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let new = json!({"name": "x", "role": "own", "hash": hash});
    let refused = testbed.send(post("/v1/tokens", &new)).await;
    refused.assert_refused(422, "invalid", Some("hash"));
    let (_, id) = testbed.token(TokenRole::Own, None).await;
    let rotation = json!({"hash": hash, "old_expires": "2030-01-01"});
    let rotate = post(&format!("/v1/tokens/{id}/rotate"), &rotation).version("*");
    let refused = testbed.send(rotate).await;
    refused.assert_refused(422, "invalid", Some("hash"));
}
