//! `/v1/keys`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    answers::{KeyPage, StoredKey, created, found},
    body::JsonBody,
    path_ids::PathIds,
    query::QueryOf,
    refusal::Refusal,
    version::ExpectedVersion,
};
use crate::administration::{Actor, KeyPatch, KeyQuery, NewKey, RotateKey, RotatedKey};
use report_proto::id::Id;

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_keys, add_key))
        .routes(routes!(show_key, set_key, remove_key))
        .routes(routes!(rotate_key))
}

fn key_id(ids: &PathIds) -> Result<Id, Refusal> {
    ids.get("id", "key")
}

/// Lists keys in the order of their labels.
#[utoipa::path(
    get,
    path = "/v1/keys",
    tag = "keys",
    params(KeyQuery),
    responses((status = 200, description = "A page of keys", body = KeyPage))
)]
async fn list_keys(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<KeyQuery>,
) -> Result<KeyPage, Refusal> {
    let page = api.administration.keys(&query).await?;
    Ok(page.into())
}

/// Adds a key by its id. The key itself stays with its server and its clients.
#[utoipa::path(
    post,
    path = "/v1/keys",
    tag = "keys",
    request_body = NewKey,
    responses((status = 201, description = "The new key", body = StoredKey))
)]
async fn add_key(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    JsonBody(new): JsonBody<NewKey>,
) -> Result<Response, Refusal> {
    let stored = api.administration.add_key(&actor, new).await?;
    let location = format!("/v1/keys/{}", stored.record.id);
    Ok(created(StoredKey::from(stored), &location))
}

/// Shows a key.
#[utoipa::path(
    get,
    path = "/v1/keys/{id}",
    tag = "keys",
    params(("id" = String, Path, description = "The key id")),
    responses((status = 200, description = "The key", body = StoredKey))
)]
async fn show_key(State(api): State<Arc<Api>>, ids: PathIds) -> Result<Response, Refusal> {
    let stored = api.administration.key(key_id(&ids)?).await?;
    Ok(found(StoredKey::from(stored)))
}

/// Changes fields of a key.
#[utoipa::path(
    patch,
    path = "/v1/keys/{id}",
    tag = "keys",
    params(("id" = String, Path, description = "The key id"), ExpectedVersion),
    request_body = KeyPatch,
    responses((status = 200, description = "The changed key", body = StoredKey))
)]
async fn set_key(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(patch): JsonBody<KeyPatch>,
) -> Result<Response, Refusal> {
    let id = key_id(&ids)?;
    let changed = api.administration.set_key(&actor, id, patch, expected);
    Ok(found(StoredKey::from(changed.await?)))
}

/// Adds a second key with the same policy, which replaces this one after some time.
#[utoipa::path(
    post,
    path = "/v1/keys/{id}/rotate",
    tag = "keys",
    params(("id" = String, Path, description = "The key id"), ExpectedVersion),
    request_body = RotateKey,
    responses((status = 201, description = "Both keys", body = RotatedKey))
)]
async fn rotate_key(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(rotation): JsonBody<RotateKey>,
) -> Result<(StatusCode, Json<RotatedKey>), Refusal> {
    let id = key_id(&ids)?;
    let rotated = api
        .administration
        .rotate_key(&actor, id, rotation, expected);
    Ok((StatusCode::CREATED, Json(rotated.await?)))
}

/// Removes a key.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    tag = "keys",
    params(("id" = String, Path, description = "The key id"), ExpectedVersion),
    responses((status = 204, description = "The key is removed"))
)]
async fn remove_key(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
) -> Result<StatusCode, Refusal> {
    let id = key_id(&ids)?;
    let removed = api.administration.remove_key(&actor, id, expected);
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}
