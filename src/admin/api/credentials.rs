//! `/v1/accounts/{id}/credentials` and `/v1/credentials`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    accounts::account_id,
    answers::{CredentialPage, StoredCredential, created, found},
    body::JsonBody,
    path_ids::PathIds,
    query::QueryOf,
    refusal::Refusal,
    version::ExpectedVersion,
};
use crate::{
    administration::{
        Actor, CredentialPatch, CredentialQuery, NewCredential, RotateCredential, RotatedCredential,
    },
    policy::CredentialId,
};

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_credentials, add_credential))
        .routes(routes!(show_credential, set_credential, remove_credential))
        .routes(routes!(rotate_credential))
        .routes(routes!(revoke_credential))
}

fn credential_id(ids: &PathIds) -> Result<CredentialId, Refusal> {
    ids.get("id", "credential").map(CredentialId)
}

/// Lists the credentials of an account in the order of their names.
#[utoipa::path(
    get,
    path = "/v1/accounts/{id}/credentials",
    tag = "credentials",
    params(("id" = i64, Path, description = "The id of the account"), CredentialQuery),
    responses((status = 200, description = "A page of credentials", body = CredentialPage))
)]
async fn list_credentials(
    State(api): State<Arc<Api>>,
    ids: PathIds,
    QueryOf(query): QueryOf<CredentialQuery>,
) -> Result<CredentialPage, Refusal> {
    let account = account_id(&ids)?;
    let page = api.administration.credentials(account, &query).await?;
    Ok(page.into())
}

/// Adds a credential to an account.
///
/// The request contains its verifier. The secret stays with its owner.
#[utoipa::path(
    post,
    path = "/v1/accounts/{id}/credentials",
    tag = "credentials",
    params(("id" = i64, Path, description = "The id of the account")),
    request_body = NewCredential,
    responses((status = 201, description = "The new credential", body = StoredCredential))
)]
async fn add_credential(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    JsonBody(new): JsonBody<NewCredential>,
) -> Result<Response, Refusal> {
    let account = account_id(&ids)?;
    let added = api.administration.add_credential(&actor, account, new);
    let stored = added.await?;
    let location = format!("/v1/credentials/{}", stored.record.id);
    Ok(created(StoredCredential::from(stored), &location))
}

/// Shows a credential.
#[utoipa::path(
    get,
    path = "/v1/credentials/{id}",
    tag = "credentials",
    params(("id" = String, Path, description = "The id of the credential")),
    responses((status = 200, description = "The credential", body = StoredCredential))
)]
async fn show_credential(State(api): State<Arc<Api>>, ids: PathIds) -> Result<Response, Refusal> {
    let stored = api.administration.credential(credential_id(&ids)?).await?;
    Ok(found(StoredCredential::from(stored)))
}

/// Changes fields of a credential.
#[utoipa::path(
    patch,
    path = "/v1/credentials/{id}",
    tag = "credentials",
    params(("id" = String, Path, description = "The id of the credential"), ExpectedVersion),
    request_body = CredentialPatch,
    responses((status = 200, description = "The changed credential", body = StoredCredential))
)]
async fn set_credential(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(patch): JsonBody<CredentialPatch>,
) -> Result<Response, Refusal> {
    let id = credential_id(&ids)?;
    let changed = api
        .administration
        .set_credential(&actor, id, patch, expected);
    Ok(found(StoredCredential::from(changed.await?)))
}

/// Adds a second credential, which replaces this one after some time.
#[utoipa::path(
    post,
    path = "/v1/credentials/{id}/rotate",
    tag = "credentials",
    params(("id" = String, Path, description = "The id of the credential"), ExpectedVersion),
    request_body = RotateCredential,
    responses((status = 201, description = "Both credentials", body = RotatedCredential))
)]
async fn rotate_credential(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(rotation): JsonBody<RotateCredential>,
) -> Result<(StatusCode, Json<RotatedCredential>), Refusal> {
    let id = credential_id(&ids)?;
    let rotated = api
        .administration
        .rotate_credential(&actor, id, rotation, expected);
    Ok((StatusCode::CREATED, Json(rotated.await?)))
}

/// Revokes a credential for good. Its links end.
#[utoipa::path(
    post,
    path = "/v1/credentials/{id}/revoke",
    tag = "credentials",
    params(("id" = String, Path, description = "The id of the credential"), ExpectedVersion),
    responses((status = 200, description = "The revoked credential", body = StoredCredential))
)]
async fn revoke_credential(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
) -> Result<Response, Refusal> {
    let id = credential_id(&ids)?;
    let revoked = api.administration.revoke_credential(&actor, id, expected);
    Ok(found(StoredCredential::from(revoked.await?)))
}

/// Removes a credential. Its links end.
#[utoipa::path(
    delete,
    path = "/v1/credentials/{id}",
    tag = "credentials",
    params(("id" = String, Path, description = "The id of the credential"), ExpectedVersion),
    responses((status = 204, description = "The credential is removed"))
)]
async fn remove_credential(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
) -> Result<StatusCode, Refusal> {
    let id = credential_id(&ids)?;
    let removed = api.administration.remove_credential(&actor, id, expected);
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}
