//! Tests of the operations on a database of SQLite.

mod accounts;
mod audit_rows;
mod credentials;
mod json;
mod keys;
mod relay;
mod tokens;

use std::sync::Arc;

use super::*;
use crate::{
    policy::{Token, TokenId},
    store::{Store, StoreUrl},
};

/// The time of the operations.
const NOW: i64 = 1_800_000_000;

/// The operations on a new database.
struct Bench {
    administration: Administration,
    actor: Actor,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url: StoreUrl = "sqlite:keys.db".parse().unwrap();
        let store = Store::open(url.relative_to(folder.path())).await.unwrap();
        Bench {
            administration: Administration::new(Arc::new(store), Arc::new(|| NOW)),
            actor: Actor::command_line(),
            _folder: folder,
        }
    }

    /// Adds an account without limits. Returns its id.
    async fn account(&self, name: &str) -> crate::policy::AccountId {
        let added = self
            .administration
            .add_account(&self.actor, NewAccount::new(name));
        added.await.unwrap().record.id
    }
}

/// Returns the holder of a token with a role.
fn holder(role: TokenRole) -> Actor {
    let token = Token {
        id: TokenId(5),
        name: "dashboard".to_owned(),
        role,
        expires: None,
        revoked: false,
    };
    Actor::token(&token, "192.0.2.5".parse().unwrap())
}

/// Asserts the code of an error, and the field that it names.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, AdministrationError>,
    code: ErrorCode,
    field: Option<&str>,
) -> ErrorBody {
    let body = result.expect_err("refused").body();
    assert_eq!(
        (body.code, body.field.as_deref()),
        (code, field),
        "{body:?}"
    );
    body
}

#[test]
fn only_owners_may_change_records() {
    for (actor, is_owner) in [
        (holder(TokenRole::Read), false),
        (holder(TokenRole::Operate), false),
        (holder(TokenRole::Own), true),
        (Actor::local_socket(), true),
        (Actor::command_line(), true),
    ] {
        assert_eq!(actor.require(TokenRole::Own).is_ok(), is_owner, "{actor}");
        assert!(actor.require(TokenRole::Read).is_ok(), "{actor}");
    }
    let refused = holder(TokenRole::Read).require(TokenRole::Own);
    let body = assert_refused(refused, ErrorCode::Forbidden, None);
    assert_eq!(
        body.message,
        "token dashboard has the role \"read\", and this needs \"own\" (use another token)"
    );
}

#[tokio::test]
async fn a_lesser_role_changes_nothing() {
    let bench = Bench::new().await;
    let reader = holder(TokenRole::Operate);
    let added = bench
        .administration
        .add_account(&reader, NewAccount::new("anna"));
    assert_refused(added.await, ErrorCode::Forbidden, None);
    let query = AccountQuery::default();
    let accounts = bench.administration.accounts(&query).await.unwrap();
    assert_eq!(accounts.items.len(), 1, "only that of the master key");
}

#[tokio::test]
async fn without_a_database_operations_say_so() {
    let bench = Bench::new().await;
    bench.administration.store().close().await;
    let added = bench
        .administration
        .add_account(&bench.actor, NewAccount::new("anna"));
    assert_refused(added.await, ErrorCode::StoreAway, None);
    let query = AccountQuery::default();
    let listed = bench.administration.accounts(&query).await;
    assert_refused(listed, ErrorCode::StoreAway, None);
}
