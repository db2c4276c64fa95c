//! `/v1/tokens`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    answers::{StoredToken, TokenPage, created, found},
    body::JsonBody,
    path_ids::PathIds,
    query::QueryOf,
    refusal::Refusal,
    version::ExpectedVersion,
};
use crate::{
    administration::{
        Actor, HashText, NewToken, RotateToken, RotatedToken, TokenPatch, TokenQuery,
    },
    policy::TokenId,
};

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_tokens, add_token))
        .routes(routes!(show_token, set_token, remove_token))
        .routes(routes!(rotate_token))
        .routes(routes!(revoke_token))
}

/// The SHA-256 of the empty text.
const HASH_OF_NOTHING: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Checks that a hash is not that of an empty token, which a script without its variable sends.
fn check_hash(hash: &HashText) -> Result<(), Refusal> {
    if hash.0.0 == HASH_OF_NOTHING {
        let message = "it is the hash of an empty token (hash the token itself)";
        return Err(Refusal::invalid("hash", message));
    }
    Ok(())
}

fn token_id(ids: &PathIds) -> Result<TokenId, Refusal> {
    ids.get("id", "token").map(TokenId)
}

/// Lists tokens in the order of their ids.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    tag = "tokens",
    params(TokenQuery),
    responses((status = 200, description = "A page of tokens", body = TokenPage))
)]
async fn list_tokens(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<TokenQuery>,
) -> Result<TokenPage, Refusal> {
    let page = api.administration.tokens(&query).await?;
    Ok(page.into())
}

/// Adds a token.
///
/// The request contains its hash. The token stays with its owner.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    tag = "tokens",
    request_body = NewToken,
    responses((status = 201, description = "The new token", body = StoredToken))
)]
async fn add_token(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<Response, Refusal> {
    check_hash(&new.hash)?;
    let stored = api.administration.add_token(&actor, new).await?;
    let location = format!("/v1/tokens/{}", stored.record.id);
    Ok(created(StoredToken::from(stored), &location))
}

/// Shows a token.
#[utoipa::path(
    get,
    path = "/v1/tokens/{id}",
    tag = "tokens",
    params(("id" = i64, Path, description = "The id of the token")),
    responses((status = 200, description = "The token", body = StoredToken))
)]
async fn show_token(State(api): State<Arc<Api>>, ids: PathIds) -> Result<Response, Refusal> {
    let stored = api.administration.token(token_id(&ids)?).await?;
    Ok(found(StoredToken::from(stored)))
}

/// Changes fields of a token.
#[utoipa::path(
    patch,
    path = "/v1/tokens/{id}",
    tag = "tokens",
    params(("id" = i64, Path, description = "The id of the token"), ExpectedVersion),
    request_body = TokenPatch,
    responses((status = 200, description = "The changed token", body = StoredToken))
)]
async fn set_token(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(patch): JsonBody<TokenPatch>,
) -> Result<Response, Refusal> {
    let id = token_id(&ids)?;
    let changed = api.administration.set_token(&actor, id, patch, expected);
    Ok(found(StoredToken::from(changed.await?)))
}

/// Adds a second token, which replaces this one after some time.
#[utoipa::path(
    post,
    path = "/v1/tokens/{id}/rotate",
    tag = "tokens",
    params(("id" = i64, Path, description = "The id of the token"), ExpectedVersion),
    request_body = RotateToken,
    responses((status = 201, description = "Both tokens", body = RotatedToken))
)]
async fn rotate_token(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(rotation): JsonBody<RotateToken>,
) -> Result<(StatusCode, Json<RotatedToken>), Refusal> {
    let id = token_id(&ids)?;
    check_hash(&rotation.hash)?;
    let rotated = api
        .administration
        .rotate_token(&actor, id, rotation, expected);
    Ok((StatusCode::CREATED, Json(rotated.await?)))
}

/// Revokes a token for good.
#[utoipa::path(
    post,
    path = "/v1/tokens/{id}/revoke",
    tag = "tokens",
    params(("id" = i64, Path, description = "The id of the token"), ExpectedVersion),
    responses((status = 200, description = "The revoked token", body = StoredToken))
)]
async fn revoke_token(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
) -> Result<Response, Refusal> {
    let id = token_id(&ids)?;
    let revoked = api.administration.revoke_token(&actor, id, expected);
    Ok(found(StoredToken::from(revoked.await?)))
}

/// Removes a token.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    tag = "tokens",
    params(("id" = i64, Path, description = "The id of the token"), ExpectedVersion),
    responses((status = 204, description = "The token is removed"))
)]
async fn remove_token(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    ExpectedVersion(expected): ExpectedVersion,
) -> Result<StatusCode, Refusal> {
    let id = token_id(&ids)?;
    let removed = api.administration.remove_token(&actor, id, expected);
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}
