//! Tests of tokens: hashes, rotation and revocation.

use super::*;
use crate::policy::UnixTime;

fn new(name: &str, byte: u8) -> NewToken {
    NewToken {
        name: name.to_owned(),
        role: TokenRole::Operate,
        hash: HashText(TokenSecret::new([byte; 32]).hash()),
        expires: None,
    }
}

#[tokio::test]
async fn tokens_rotate_with_both_valid_at_a_time() {
    let bench = Bench::new().await;
    let added = bench.administration.add_token(&bench.actor, new("ci", 1));
    let id = added.await.unwrap().record.id;
    let rotation = RotateToken {
        hash: new("", 2).hash,
        name: None,
        expires: UnixTime::new(NOW + 500),
        old_expires: UnixTime::new(NOW + 100).unwrap(),
    };
    let rotated = bench
        .administration
        .rotate_token(&bench.actor, id, rotation, None);
    let RotatedToken { new, old } = rotated.await.unwrap();
    assert_eq!((new.name.as_str(), new.role), ("ci-2", TokenRole::Operate));
    for (now, valid) in [
        (NOW + 99, [true, true]),
        (NOW + 100, [false, true]),
        (NOW + 500, [false; 2]),
    ] {
        assert_eq!([old.is_valid(now), new.is_valid(now)], valid, "{now}");
    }
    let stored = bench
        .administration
        .store()
        .token(new.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stored.record.hash, TokenSecret::new([2; 32]).hash());
    assert_eq!(stored.record.token, new);
}

#[tokio::test]
async fn tokens_are_named_changed_and_revoked() {
    let bench = Bench::new().await;
    let added = bench.administration.add_token(&bench.actor, new("ci", 1));
    let added = added.await.unwrap();
    let id = added.record.id;
    let again = bench.administration.add_token(&bench.actor, new("ci", 2));
    assert_refused(again.await, ErrorCode::Duplicate, Some("name"));
    let empty = bench.administration.add_token(&bench.actor, new("", 2));
    assert_refused(empty.await, ErrorCode::Invalid, Some("name"));
    let patch = TokenPatch {
        role: Some(TokenRole::Read),
        ..TokenPatch::default()
    };
    let set = bench
        .administration
        .set_token(&bench.actor, id, patch.clone(), Some(added.changed));
    let set = set.await.unwrap();
    assert_eq!(
        (set.record.name.as_str(), set.record.role),
        ("ci", TokenRole::Read)
    );
    let late = bench
        .administration
        .set_token(&bench.actor, id, patch, Some(added.changed));
    assert_refused(late.await, ErrorCode::Conflict, Some("id"));
    let revoked = bench
        .administration
        .revoke_token(&bench.actor, id, None)
        .await
        .unwrap();
    assert!(!revoked.record.is_valid(NOW));
    let query = TokenQuery {
        name: Some("ci".to_owned()),
        ..TokenQuery::default()
    };
    let page = bench.administration.tokens(&query).await.unwrap();
    assert_eq!(page.items, [revoked]);
    bench
        .administration
        .remove_token(&bench.actor, id, None)
        .await
        .unwrap();
    assert_refused(
        bench.administration.token(id).await,
        ErrorCode::NotFound,
        Some("id"),
    );
}
