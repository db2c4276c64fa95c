//! `/v1/tunnels`: the tunnels of a master.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    body::JsonBody,
    links::{BlockRequest, no_such, number, too_many_blocks},
    live_page::{LiveQuery, page_of, size_of},
    path_ids::PathIds,
    query::QueryOf,
    refusal::Refusal,
};
use crate::{
    administration::Actor,
    master::{Block, LiveTunnel},
};

/// A page of tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TunnelPage {
    /// The tunnels in the order of their numbers.
    pub items: Vec<LiveTunnel>,
    /// The `after` of the next page. Absent at the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_tunnels))
        .routes(routes!(show_tunnel, end_tunnel))
        .routes(routes!(block_tunnel))
}

/// Lists the tunnels. Those of an account are of its keys, or of its clients.
#[utoipa::path(
    get,
    path = "/v1/tunnels",
    tag = "live",
    params(LiveQuery),
    responses((status = 200, description = "A page of tunnels", body = TunnelPage))
)]
async fn list_tunnels(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<LiveQuery>,
) -> Result<Json<TunnelPage>, Refusal> {
    let size = size_of(query.size)?;
    let tunnels = api.master.tunnels().into_iter().filter(|tunnel| {
        let accounts = [tunnel.owner, tunnel.account];
        (query.account.is_none() || accounts.contains(&query.account))
            && query.key.is_none_or(|key| tunnel.key == key)
    });
    let (items, next) = page_of(tunnels, query.after.as_ref(), size, |tunnel| tunnel.number);
    let next = next.map(|number| number.to_string());
    Ok(Json(TunnelPage { items, next }))
}

/// Shows a tunnel.
#[utoipa::path(
    get,
    path = "/v1/tunnels/{number}",
    tag = "live",
    params(("number" = u64, Path, description = "The number of the tunnel")),
    responses((status = 200, description = "The tunnel", body = LiveTunnel))
)]
async fn show_tunnel(
    State(api): State<Arc<Api>>,
    ids: PathIds,
) -> Result<Json<LiveTunnel>, Refusal> {
    let number = number(&ids, "tunnel")?;
    let mut tunnels = api.master.tunnels().into_iter();
    let tunnel = tunnels.find(|tunnel| tunnel.number == number);
    tunnel.map(Json).ok_or_else(|| no_such("tunnel", number))
}

/// Ends a tunnel. Its client may attach again.
#[utoipa::path(
    delete,
    path = "/v1/tunnels/{number}",
    tag = "live",
    params(("number" = u64, Path, description = "The number of the tunnel")),
    responses((status = 204, description = "The tunnel has ended"))
)]
async fn end_tunnel(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
) -> Result<StatusCode, Refusal> {
    let number = number(&ids, "tunnel")?;
    if !api.master.end_tunnel(number) {
        return Err(no_such("tunnel", number));
    }
    let subject = format!("tunnel {number}");
    api.record(&actor, "tunnel.end", subject, String::new())
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses the client of a tunnel at the key for a while, and ends all its tunnels to the key.
#[utoipa::path(
    post,
    path = "/v1/tunnels/{number}/block",
    tag = "live",
    params(("number" = u64, Path, description = "The number of the tunnel")),
    request_body = BlockRequest,
    responses((status = 201, description = "The block", body = Block))
)]
async fn block_tunnel(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    JsonBody(request): JsonBody<BlockRequest>,
) -> Result<(StatusCode, Json<Block>), Refusal> {
    let number = number(&ids, "tunnel")?;
    let time = request.time()?;
    let Some(block) = api.master.block_tunnel(number, time) else {
        let tunnels = api.master.tunnels();
        let exists = tunnels.iter().any(|tunnel| tunnel.number == number);
        return Err(if exists {
            too_many_blocks()
        } else {
            no_such("tunnel", number)
        });
    };
    let detail = format!("{} s, block {}", request.seconds, block.number);
    let subject = format!("tunnel {number}");
    api.record(&actor, "tunnel.block", subject, detail).await;
    Ok((StatusCode::CREATED, Json(block)))
}
