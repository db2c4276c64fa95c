//! `/v1/audit`: the audit log.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, live_page::size_of, query::QueryOf, refusal::Refusal};
use crate::{
    administration::{AdministrationError, DEFAULT_PAGE},
    policy::UnixTime,
    store::{AuditFilter, AuditPosition, AuditRow},
};

/// A list of events of the audit log, the latest one first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// The first time, as text of RFC 3339, a date, or Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub from: Option<UnixTime>,
    /// The first time that is not part of it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub until: Option<UnixTime>,
    /// Only events about this subject, such as `account 5` or `key 0123…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most events of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// An event of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// The time of the first occurrence, in Unix seconds.
    pub at: i64,
    /// The actor: an account, a token, or a user of the master's machine.
    pub actor: String,
    /// The address from which it acted. May be empty.
    pub address: String,
    /// The event, as stable words such as `account.set`.
    pub action: String,
    /// The subject of the event. May be empty.
    pub subject: String,
    /// Further facts. May be empty.
    pub detail: String,
    /// How often it happened again within the same minute.
    pub repeats: u32,
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The events, the latest one first.
    pub items: Vec<AuditEvent>,
    /// The `after` of the next page. Absent at the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl From<AuditRow> for AuditEvent {
    fn from(row: AuditRow) -> Self {
        let entry = row.entry;
        AuditEvent {
            at: entry.happened,
            actor: entry.actor,
            address: entry.address,
            action: entry.action,
            subject: entry.subject,
            detail: entry.detail,
            repeats: entry.repeats,
        }
    }
}

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(list_audit))
}

/// Lists the events of the audit log, the latest one first.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "audit",
    params(AuditQuery),
    responses((status = 200, description = "A page of events", body = AuditPage))
)]
async fn list_audit(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<AuditQuery>,
) -> Result<Json<AuditPage>, Refusal> {
    size_of(query.size)?;
    let size = query.size.unwrap_or(DEFAULT_PAGE);
    let parse = |text: &str| {
        let message = "it is not a position of this list (write \"next\" of the page before)";
        AuditPosition::parse(text).ok_or_else(|| Refusal::invalid("after", message))
    };
    let after = query.after.as_deref().map(parse).transpose()?;
    let filter = AuditFilter {
        since: query.from.map(UnixTime::seconds),
        until: query.until.map(UnixTime::seconds),
        subject: query.subject,
    };
    let store = api.administration.store();
    let page = store.audit(&filter, after.as_ref(), size).await;
    let page = page.map_err(AdministrationError::from)?;
    Ok(Json(AuditPage {
        items: page.items.into_iter().map(AuditEvent::from).collect(),
        next: page.next.map(|next| next.as_str().to_owned()),
    }))
}
