//! `/v1/links`, `/v1/blocks`: links that are up, and peers that the master refuses for a while.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    body::JsonBody,
    live_page::{LiveQuery, page_of, size_of},
    path_ids::PathIds,
    query::QueryOf,
    refusal::Refusal,
};
use crate::{
    administration::Actor,
    master::{Block, LiveLink},
};

/// The longest block in seconds: 30 days. A block for ever is a disabled account or key.
pub const MAX_BLOCK: u32 = 2_592_000;

/// The pause after which there may be room for a further block.
const BLOCK_RETRY: u64 = 60;

/// A page of live links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LinkPage {
    /// The links in the order of their numbers.
    pub items: Vec<LiveLink>,
    /// The `after` of the next page. Absent at the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The blocks in force. They are few.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Blocks {
    /// The blocks.
    pub items: Vec<Block>,
}

/// How long a peer is blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockRequest {
    /// The time in seconds, 1 to 2,592,000.
    #[schema(minimum = 1, maximum = 2592000)]
    pub seconds: u32,
}

impl BlockRequest {
    /// Returns the time of the block.
    pub(super) fn time(&self) -> Result<Duration, Refusal> {
        if !(1..=MAX_BLOCK).contains(&self.seconds) {
            let message = format!("write 1 to {MAX_BLOCK}");
            return Err(Refusal::invalid("seconds", message));
        }
        Ok(Duration::from_secs(self.seconds.into()))
    }
}

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_links))
        .routes(routes!(show_link, end_link))
        .routes(routes!(block_link))
        .routes(routes!(list_blocks))
        .routes(routes!(remove_block))
}

/// Returns the number in the path of a request.
pub(super) fn number(ids: &PathIds, kind: &str) -> Result<u64, Refusal> {
    ids.get("number", kind)
}

/// Returns the refusal of a thing that does not exist.
pub(super) fn no_such(kind: &str, number: u64) -> Refusal {
    Refusal::not_found(kind, &number.to_string())
}

/// Returns the refusal of a block for which there is no room.
pub(super) fn too_many_blocks() -> Refusal {
    let message = "the master has its maximum number of blocks (remove one)";
    Refusal::busy(message, BLOCK_RETRY)
}

/// Lists the links that are up.
#[utoipa::path(
    get,
    path = "/v1/links",
    tag = "live",
    params(LiveQuery),
    responses((status = 200, description = "A page of links", body = LinkPage))
)]
async fn list_links(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<LiveQuery>,
) -> Result<Json<LinkPage>, Refusal> {
    let size = size_of(query.size)?;
    let links = api.master.links().into_iter().filter(|link| {
        (query.account.is_none() || link.account == query.account)
            && query.key.is_none_or(|key| link.keys.contains(&key))
    });
    let (items, next) = page_of(links, query.after.as_ref(), size, |link| link.number);
    let next = next.map(|number| number.to_string());
    Ok(Json(LinkPage { items, next }))
}

/// Shows a link.
#[utoipa::path(
    get,
    path = "/v1/links/{number}",
    tag = "live",
    params(("number" = u64, Path, description = "The number of the link")),
    responses((status = 200, description = "The link", body = LiveLink))
)]
async fn show_link(State(api): State<Arc<Api>>, ids: PathIds) -> Result<Json<LiveLink>, Refusal> {
    let number = number(&ids, "link")?;
    let mut links = api.master.links().into_iter();
    let link = links.find(|link| link.number == number);
    link.map(Json).ok_or_else(|| no_such("link", number))
}

/// Ends a link. Its role may connect again.
#[utoipa::path(
    delete,
    path = "/v1/links/{number}",
    tag = "live",
    params(("number" = u64, Path, description = "The number of the link")),
    responses((status = 204, description = "The link has ended"))
)]
async fn end_link(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
) -> Result<StatusCode, Refusal> {
    let number = number(&ids, "link")?;
    if !api.master.end_link(number) {
        return Err(no_such("link", number));
    }
    api.record(&actor, "link.end", format!("link {number}"), String::new())
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses the credential of a link for a while, or without one its address, and ends all its links.
#[utoipa::path(
    post,
    path = "/v1/links/{number}/block",
    tag = "live",
    params(("number" = u64, Path, description = "The number of the link")),
    request_body = BlockRequest,
    responses((status = 201, description = "The block", body = Block))
)]
async fn block_link(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
    JsonBody(request): JsonBody<BlockRequest>,
) -> Result<(StatusCode, Json<Block>), Refusal> {
    let number = number(&ids, "link")?;
    let time = request.time()?;
    let Some(block) = api.master.block_link(number, time) else {
        let is_up = api.master.links().iter().any(|link| link.number == number);
        return Err(if is_up {
            too_many_blocks()
        } else {
            no_such("link", number)
        });
    };
    let detail = format!("{} s, block {}", request.seconds, block.number);
    api.record(&actor, "link.block", format!("link {number}"), detail)
        .await;
    Ok((StatusCode::CREATED, Json(block)))
}

/// Lists the blocks in force.
#[utoipa::path(
    get,
    path = "/v1/blocks",
    tag = "live",
    responses((status = 200, description = "The blocks", body = Blocks))
)]
async fn list_blocks(State(api): State<Arc<Api>>) -> Json<Blocks> {
    Json(Blocks {
        items: api.master.blocks(),
    })
}

/// Removes a block.
#[utoipa::path(
    delete,
    path = "/v1/blocks/{number}",
    tag = "live",
    params(("number" = u64, Path, description = "The number of the block")),
    responses((status = 204, description = "The block is removed"))
)]
async fn remove_block(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    ids: PathIds,
) -> Result<StatusCode, Refusal> {
    let number = number(&ids, "block")?;
    if !api.master.unblock(number) {
        return Err(no_such("block", number));
    }
    api.record(
        &actor,
        "block.remove",
        format!("block {number}"),
        String::new(),
    )
    .await;
    Ok(StatusCode::NO_CONTENT)
}
