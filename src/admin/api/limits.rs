//! `/v1/limits`: the limits in force.

use std::sync::Arc;

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    live_page::{page_of, size_of},
    query::QueryOf,
    refusal::Refusal,
};
use crate::master::LimitsInForce;

/// Separates the kind and the id in a position. Neither contains it.
const SEPARATOR: char = ' ';

/// A list of limits in force, in the order of their kinds and ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LimitsQuery {
    /// Only those of this kind: `relay`, `account` or `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only that of the account or the key with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most items of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// A page of limits in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LimitsPage {
    /// The limits of the relay, and of accounts and keys with links, registrations or tunnels.
    pub items: Vec<LimitsInForce>,
    /// The `after` of the next page. Absent at the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(list_limits))
}

/// Returns the place of limits in the list.
fn position(limits: &LimitsInForce) -> (String, String) {
    (limits.kind.clone(), limits.id.clone())
}

/// Reads a position.
fn after(text: &str) -> Result<(String, String), Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = text.as_deref().and_then(|text| text.split_once(SEPARATOR));
    let owned = |(kind, id): (&str, &str)| (kind.to_owned(), id.to_owned());
    parts.map(owned).ok_or_else(|| {
        let message = "it is not a position of this list (write \"next\" of the page before)";
        Refusal::invalid("after", message)
    })
}

/// Lists the limits of the relay, and of the accounts and keys that are in use at this master.
#[utoipa::path(
    get,
    path = "/v1/limits",
    tag = "live",
    params(LimitsQuery),
    responses((status = 200, description = "A page of limits", body = LimitsPage))
)]
async fn list_limits(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<LimitsQuery>,
) -> Result<Json<LimitsPage>, Refusal> {
    let size = size_of(query.size)?;
    let after = query.after.as_deref().map(after).transpose()?;
    let mut limits = api.master.limits();
    limits.retain(|limits| {
        query.kind.as_ref().is_none_or(|kind| limits.kind == *kind)
            && query.id.as_ref().is_none_or(|id| limits.id == *id)
    });
    limits.sort_by_cached_key(position);
    let (items, next) = page_of(limits, after.as_ref(), size, position);
    let next = next.map(|(kind, id)| URL_SAFE_NO_PAD.encode(format!("{kind}{SEPARATOR}{id}")));
    Ok(Json(LimitsPage { items, next }))
}
