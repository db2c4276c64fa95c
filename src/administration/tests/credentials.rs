//! Tests of credentials: verifiers, rotation and revocation.

use super::*;
use crate::policy::{AccountId, Credential, CredentialId, UnixTime, ValidityState};
use report_proto::{
    crypto::{self, CredentialSecret},
    frame::Role,
};

/// Returns the verifier of a secret.
fn verifier(byte: u8) -> VerifierText {
    let secret = CredentialSecret::new([byte; 32]);
    crypto::Credential::derive(&secret).verifier().into()
}

fn new(name: &str, byte: u8) -> NewCredential {
    NewCredential {
        name: name.to_owned(),
        role: Role::Server,
        verifier: verifier(byte),
        not_before: None,
        expires: None,
    }
}

impl Bench {
    async fn credential(&self, account: AccountId, name: &str, byte: u8) -> Credential {
        let added = self
            .administration
            .add_credential(&self.actor, account, new(name, byte));
        added.await.unwrap().record
    }
}

fn rotation(byte: u8) -> RotateCredential {
    RotateCredential {
        verifier: verifier(byte),
        name: None,
        expires: None,
        old_expires: UnixTime::new(NOW + 100).unwrap(),
    }
}

fn state(credential: &Credential, now: i64) -> ValidityState {
    credential.validity().at(now)
}

#[tokio::test]
async fn the_store_keeps_the_verifier_and_operations_return_none() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    let added = bench.credential(account, "laptop", 1).await;
    assert_eq!(added.id, CredentialId(verifier(1).id()));
    let stored = bench
        .administration
        .store()
        .credential(added.id)
        .await
        .unwrap();
    assert_eq!(stored.unwrap().record.verifier, verifier(1).verifier());
    let json = serde_json::to_string(&added).unwrap();
    assert!(!json.contains("rv1_") && !json.contains("key"), "{json}");
}

#[tokio::test]
async fn a_credential_has_an_account_and_a_name_of_its_own() {
    let bench = Bench::new().await;
    let (anna, bob) = (bench.account("anna").await, bench.account("bob").await);
    bench.credential(anna, "laptop", 1).await;
    let add = |account, name, byte| {
        let new = new(name, byte);
        bench
            .administration
            .add_credential(&bench.actor, account, new)
    };
    let body = assert_refused(
        add(AccountId(99), "laptop", 2).await,
        ErrorCode::Invalid,
        Some("account"),
    );
    assert_eq!(body.value.as_deref(), Some("99"));
    assert_refused(
        add(anna, "laptop", 2).await,
        ErrorCode::Duplicate,
        Some("name"),
    );
    assert_refused(
        add(bob, "laptop", 1).await,
        ErrorCode::Duplicate,
        Some("id"),
    );
    assert_refused(
        add(bob, " laptop", 2).await,
        ErrorCode::Invalid,
        Some("name"),
    );
    add(bob, "laptop", 2).await.unwrap();
    let query = CredentialQuery::default();
    let of_absent = bench
        .administration
        .credentials(AccountId(99), &query)
        .await;
    assert_refused(of_absent, ErrorCode::NotFound, Some("id"));
}

#[tokio::test]
async fn after_a_rotation_both_credentials_are_valid_until_the_old_one_expires() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    let old = bench.credential(account, "laptop", 1).await;
    let rotated = bench
        .administration
        .rotate_credential(&bench.actor, old.id, rotation(2), None);
    let RotatedCredential { new, old } = rotated.await.unwrap();
    assert_eq!(
        (new.name.as_str(), new.account, new.role),
        ("laptop-2", account, old.role)
    );
    for (now, valid_old) in [(NOW, true), (NOW + 99, true), (NOW + 100, false)] {
        assert_eq!(state(&new, now), ValidityState::Valid);
        assert_eq!(state(&old, now) == ValidityState::Valid, valid_old, "{now}");
    }
    // The database has the same.
    for credential in [&new, &old] {
        let stored = bench
            .administration
            .credential(credential.id)
            .await
            .unwrap();
        assert_eq!(stored.record, *credential);
    }
    let query = CredentialQuery::default();
    let page = bench
        .administration
        .credentials(account, &query)
        .await
        .unwrap();
    let names: Vec<_> = page
        .items
        .iter()
        .map(|item| item.record.name.as_str())
        .collect();
    assert_eq!(names, ["laptop", "laptop-2"]);
    // The next rotation finds the next name.
    let rotated = bench
        .administration
        .rotate_credential(&bench.actor, old.id, rotation(3), None);
    assert_eq!(rotated.await.unwrap().new.name, "laptop-3");
}

#[tokio::test]
async fn a_rotation_never_extends_the_old_credential() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    let soon = UnixTime::new(NOW + 10);
    let expiring = NewCredential {
        expires: soon,
        ..new("laptop", 1)
    };
    let added = bench
        .administration
        .add_credential(&bench.actor, account, expiring);
    let id = added.await.unwrap().record.id;
    let rotated = bench
        .administration
        .rotate_credential(&bench.actor, id, rotation(2), None);
    let rotated = rotated.await.unwrap();
    assert_eq!((rotated.old.expires, rotated.new.expires), (soon, None));
}

#[tokio::test]
async fn a_failed_rotation_leaves_the_old_credential_as_it_was() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    let old = bench.credential(account, "laptop", 1).await;
    let version = bench
        .administration
        .credential(old.id)
        .await
        .unwrap()
        .changed;
    // The new secret is the present one.
    let same = bench
        .administration
        .rotate_credential(&bench.actor, old.id, rotation(1), None);
    assert_refused(same.await, ErrorCode::Duplicate, Some("id"));
    let conflict = bench.administration.rotate_credential(
        &bench.actor,
        old.id,
        rotation(2),
        Some(version + 1),
    );
    assert_refused(conflict.await, ErrorCode::Conflict, Some("id"));
    let present = bench.administration.credential(old.id).await.unwrap();
    assert_eq!((present.record, present.changed), (old, version));
}

#[tokio::test]
async fn a_revoked_credential_stays_revoked() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    let id = bench.credential(account, "laptop", 1).await.id;
    let revoked = bench
        .administration
        .revoke_credential(&bench.actor, id, None);
    assert!(revoked.await.unwrap().record.revoked);
    let patch = CredentialPatch {
        name: Some("old laptop".to_owned()),
        ..CredentialPatch::default()
    };
    let set = bench
        .administration
        .set_credential(&bench.actor, id, patch, None);
    let set = set.await.unwrap().record;
    assert!(set.revoked);
    assert_eq!(set.name, "old laptop");
    let rotated = bench
        .administration
        .rotate_credential(&bench.actor, id, rotation(2), None);
    let body = assert_refused(rotated.await, ErrorCode::Invalid, Some("id"));
    assert!(
        body.message.contains("add a new credential"),
        "{}",
        body.message
    );
    bench
        .administration
        .remove_credential(&bench.actor, id, None)
        .await
        .unwrap();
    let found = bench.administration.credential(id).await;
    assert_refused(found, ErrorCode::NotFound, Some("id"));
    // The secret may be used again.
    bench.credential(account, "laptop", 1).await;
}
