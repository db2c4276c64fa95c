//! `/v1/relay`.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    answers::{StoredRelay, found},
    body::JsonBody,
    refusal::Refusal,
    version::ExpectedVersion,
};
use crate::administration::{Actor, RelayPatch};

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(show_relay, set_relay))
}

/// Shows the policy of the whole relay.
#[utoipa::path(
    get,
    path = "/v1/relay",
    tag = "relay",
    responses((status = 200, description = "The policy", body = StoredRelay))
)]
async fn show_relay(State(api): State<Arc<Api>>) -> Result<Response, Refusal> {
    let stored = api.administration.relay().await?;
    Ok(found(StoredRelay::from(stored)))
}

/// Changes fields of the relay's policy.
#[utoipa::path(
    patch,
    path = "/v1/relay",
    tag = "relay",
    params(ExpectedVersion),
    request_body = RelayPatch,
    responses((status = 200, description = "The changed policy", body = StoredRelay))
)]
async fn set_relay(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ExpectedVersion(expected): ExpectedVersion,
    JsonBody(patch): JsonBody<RelayPatch>,
) -> Result<Response, Refusal> {
    let changed = api.administration.set_relay(&actor, patch, expected);
    Ok(found(StoredRelay::from(changed.await?)))
}
