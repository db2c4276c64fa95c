//! `/v1/accounts`.

use std::sync::Arc;

use axum::{Extension, extract::State, http::StatusCode, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    answers::{AccountPage, StoredAccount, created, found},
    body::JsonBody,
    path_ids::PathIds,
    query::QueryOf,
    refusal::Refusal,
    version::ExpectedVersion,
};
use crate::{
    administration::{AccountPatch, AccountQuery, Actor, NewAccount},
    policy::AccountId,
};

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_accounts, add_account))
        .routes(routes!(show_account, set_account, remove_account))
}

/// Returns the account in the path of a request.
pub(super) fn account_id(ids: &PathIds) -> Result<AccountId, Refusal> {
    ids.get("id", "account").map(AccountId)
}

/// Lists accounts in the order of their ids.
#[utoipa::path(
    get,
    path = "/v1/accounts",
    tag = "accounts",
    params(AccountQuery),
    responses((status = 200, description = "A page of accounts", body = AccountPage))
)]
async fn list_accounts(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<AccountQuery>,
) -> Result<AccountPage, Refusal> {
    let page = api.administration.accounts(&query).await?;
    Ok(page.into())
}

/// Adds an account.
#[utoipa::path(
    post,
    path = "/v1/accounts",
    tag = "accounts",
    request_body = NewAccount,
    responses((status = 201, description = "The new account", body = StoredAccount))
)]
async fn add_account(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    JsonBody(new): JsonBody<NewAccount>,
) -> Result<Response, Refusal> {
    let stored = api.administration.add_account(&actor, new).await?;
    let location = format!("/v1/accounts/{}", stored.record.id);
    Ok(created(StoredAccount::from(stored), &location))
}

/// Shows an account.
#[utoipa::path(
    get,
    path = "/v1/accounts/{id}",
    tag = "accounts",
    params(("id" = i64, Path, description = "The id of the account")),
    responses((status = 200, description = "The account", body = StoredAccount))
)]
async fn show_account(State(api): State<Arc<Api>>, ids: PathIds) -> Result<Response, Refusal> {
    let stored = api.administration.account(account_id(&ids)?).await?;
    Ok(found(StoredAccount::from(stored)))
}

/// Changes fields of an account.
#[utoipa::path(
    patch,
    path = "/v1/accounts/{id}",
    tag = "accounts",
    params(("id" = i64, Path, description = "The id of the account"), ExpectedVersion),
    request_body = AccountPatch,
    responses((status = 200, description = "The changed account", body = StoredAccount))
)]
async fn set_account(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(patch): JsonBody<AccountPatch>,
) -> Result<Response, Refusal> {
    let id = account_id(&ids)?;
    let changed = api.administration.set_account(&actor, id, patch, expected);
    let stored = changed.await?;
    Ok(found(StoredAccount::from(stored)))
}

/// Removes an account with its credentials. It must own no key.
#[utoipa::path(
    delete,
    path = "/v1/accounts/{id}",
    tag = "accounts",
    params(("id" = i64, Path, description = "The id of the account"), ExpectedVersion),
    responses((status = 204, description = "The account is removed"))
)]
async fn remove_account(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
) -> Result<StatusCode, Refusal> {
    let id = account_id(&ids)?;
    let removed = api.administration.remove_account(&actor, id, expected);
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}
