//! `/v1/usage`: the bytes of a subject by time, and the subjects with usage.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, live_page::size_of, path_ids::PathIds, query::QueryOf, refusal::Refusal};
use crate::{
    administration::AdministrationError,
    policy::{LimitSubject, Moved, UnixTime},
    store::{UsageBucket, UsageStep},
};

/// The length of a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A minute. They are kept for some days.
    Minute,
    /// An hour. They are kept for some months.
    #[default]
    Hour,
    /// A day of UTC.
    Day,
}

impl From<Step> for UsageStep {
    fn from(step: Step) -> Self {
        match step {
            Step::Minute => UsageStep::Minute,
            Step::Hour => UsageStep::Hour,
            Step::Day => UsageStep::Day,
        }
    }
}

/// The kind of a subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// The whole relay.
    #[default]
    Relay,
    /// An account.
    Account,
    /// A service key.
    Key,
}

impl SubjectKind {
    fn word(self) -> &'static str {
        match self {
            SubjectKind::Relay => "relay",
            SubjectKind::Account => "account",
            SubjectKind::Key => "key",
        }
    }
}

/// The usage of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// The kind of the subject. By default the whole relay.
    #[param(inline, required = false)]
    pub kind: SubjectKind,
    /// The id of the account or of the key. The relay has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The length of the buckets. By default an hour.
    #[param(inline, required = false)]
    pub step: Step,
    /// The first time, as text of RFC 3339, a date, or Unix seconds. By default 24 steps before
    /// `until`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub from: Option<UnixTime>,
    /// The first time that is not part of it any more. By default the present time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub until: Option<UnixTime>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// The most buckets of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// The subjects of a kind with their sums.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SubjectsQuery {
    /// The length of the buckets that are added up. By default an hour.
    #[param(inline, required = false)]
    pub step: Step,
    /// The first time, as text of RFC 3339, a date, or Unix seconds. By default 24 steps before
    /// `until`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub from: Option<UnixTime>,
    /// The first time that is not part of it any more. By default the present time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub until: Option<UnixTime>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most subjects of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// The bytes of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsagePoint {
    /// The first second of the bucket, in Unix seconds.
    pub start: i64,
    /// Bytes from clients to servers.
    pub up: u64,
    /// Bytes from servers to clients.
    pub down: u64,
}

/// A page of the usage of a subject. Idle buckets are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsagePage {
    /// The buckets in the order of time.
    pub items: Vec<UsagePoint>,
    /// The `after` of the next page. Absent at the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The bytes of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubjectUsage {
    /// The id of the account or of the key. The relay has an empty one.
    pub id: String,
    /// Bytes from clients to servers.
    pub up: u64,
    /// Bytes from servers to clients.
    pub down: u64,
}

/// A page of subjects with usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubjectPage {
    /// The subjects in the order of their ids as text.
    pub items: Vec<SubjectUsage>,
    /// The `after` of the next page. Absent at the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(show_usage))
        .routes(routes!(list_usage))
}

/// Returns the first second, and the first one behind the range.
fn range(
    from: Option<UnixTime>,
    until: Option<UnixTime>,
    step: UsageStep,
    now: i64,
) -> Result<(i64, i64), Refusal> {
    // The present second is part of the range.
    let until = until.map_or(now.saturating_add(1), UnixTime::seconds);
    let usual = until.saturating_sub(step.seconds().saturating_mul(24));
    let from = from.map_or(usual, UnixTime::seconds);
    if from >= until {
        let message = "it must be before until";
        return Err(Refusal::invalid("from", message));
    }
    Ok((from, until))
}

fn subject(query: &UsageQuery) -> Result<LimitSubject, Refusal> {
    let id = query.id.as_deref().unwrap_or_default();
    LimitSubject::parse(query.kind.word(), id).ok_or_else(|| {
        let message = match query.kind {
            SubjectKind::Relay => "the relay has no id (omit it, or write the kind)",
            SubjectKind::Account => "write the number of an account",
            SubjectKind::Key => "write a key id: 32 hexadecimal digits",
        };
        Refusal::invalid("id", message)
    })
}

/// Shows the bytes of the relay, of an account or of a key by time.
#[utoipa::path(
    get,
    path = "/v1/usage",
    tag = "usage",
    params(UsageQuery),
    responses((status = 200, description = "A page of buckets", body = UsagePage))
)]
async fn show_usage(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<UsageQuery>,
) -> Result<Json<UsagePage>, Refusal> {
    let size = size_of(query.size)?;
    let subject = subject(&query)?;
    let step = UsageStep::from(query.step);
    let (from, until) = range(query.from, query.until, step, api.now())?;
    let next_start = |after: i64| after.saturating_add(step.seconds());
    let from = query
        .after
        .map_or(from, |after| from.max(next_start(after)));
    let store = api.administration.store();
    let buckets = store.usage(subject, step, from, until).await;
    let buckets: Vec<UsageBucket> = buckets.map_err(AdministrationError::from)?;
    let has_more = buckets.len() > size;
    let points = buckets.into_iter().take(size).map(|bucket| UsagePoint {
        start: bucket.start,
        up: bucket.moved.up,
        down: bucket.moved.down,
    });
    let items: Vec<UsagePoint> = points.collect();
    let last = items.last().filter(|_| has_more);
    let next = last.map(|point| point.start.to_string());
    Ok(Json(UsagePage { items, next }))
}

/// Lists the accounts or keys with usage, and their bytes of a time.
#[utoipa::path(
    get,
    path = "/v1/usage/{kind}",
    tag = "usage",
    params(
        ("kind" = inline(SubjectKind), Path, description = "The kind of the subjects"),
        SubjectsQuery
    ),
    responses((status = 200, description = "A page of subjects", body = SubjectPage))
)]
async fn list_usage(
    State(api): State<Arc<Api>>,
    ids: PathIds,
    QueryOf(query): QueryOf<SubjectsQuery>,
) -> Result<Json<SubjectPage>, Refusal> {
    let size = size_of(query.size)?;
    let kind = kind(&ids.get::<String>("kind", "kind")?)?;
    let step = UsageStep::from(query.step);
    let (from, until) = range(query.from, query.until, step, api.now())?;
    let store = api.administration.store();
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    let found = store.usage_subjects(kind.word(), query.after.as_deref(), size);
    let page = found.await.map_err(AdministrationError::from)?;
    let mut items = Vec::with_capacity(page.items.len());
    for subject in page.items {
        let buckets = store.usage(subject, step, from, until).await;
        let sum = sum(&buckets.map_err(AdministrationError::from)?);
        items.push(SubjectUsage {
            id: subject.id(),
            up: sum.up,
            down: sum.down,
        });
    }
    let next = page.next;
    Ok(Json(SubjectPage { items, next }))
}

/// Reads the kind in a path.
fn kind(text: &str) -> Result<SubjectKind, Refusal> {
    let kinds = [SubjectKind::Relay, SubjectKind::Account, SubjectKind::Key];
    let found = kinds.into_iter().find(|kind| kind.word() == text);
    found.ok_or_else(|| Refusal::not_found("kind", text))
}

fn sum(buckets: &[UsageBucket]) -> Moved {
    buckets
        .iter()
        .fold(Moved::default(), |sum, UsageBucket { moved, .. }| Moved {
            up: sum.up.saturating_add(moved.up),
            down: sum.down.saturating_add(moved.down),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_range_without_times_ends_at_present() {
        let hours = range(None, None, UsageStep::Hour, NOW).unwrap();
        assert_eq!(hours, (NOW + 1 - 86_400, NOW + 1));
        let minutes = range(None, None, UsageStep::Minute, NOW).unwrap();
        assert_eq!(minutes, (NOW + 1 - 24 * 60, NOW + 1));
        let given = range(UnixTime::new(5), UnixTime::new(9), UsageStep::Day, NOW);
        assert_eq!(given.unwrap(), (5, 9));
        for (from, until) in [(9, 9), (10, 9)] {
            let refusal = range(
                UnixTime::new(from),
                UnixTime::new(until),
                UsageStep::Day,
                NOW,
            );
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.body().field.as_deref(), Some("from"));
        }
        assert!(range(UnixTime::new(NOW + 9), None, UsageStep::Day, NOW).is_err());
    }

    #[test]
    fn an_id_fits_its_kind() {
        let query = |kind, id: Option<&str>| UsageQuery {
            kind,
            id: id.map(str::to_owned),
            ..UsageQuery::default()
        };
        let key = "0123456789abcdef0123456789abcdef";
        for (kind, id) in [
            (SubjectKind::Relay, None),
            (SubjectKind::Account, Some("5")),
            (SubjectKind::Key, Some(key)),
        ] {
            assert!(subject(&query(kind, id)).is_ok(), "{kind:?} {id:?}");
        }
        for (kind, id) in [
            (SubjectKind::Relay, Some("5")),
            (SubjectKind::Account, None),
            (SubjectKind::Account, Some(key)),
            (SubjectKind::Key, Some("5")),
        ] {
            let refusal = subject(&query(kind, id)).unwrap_err();
            assert_eq!(refusal.body().field.as_deref(), Some("id"));
        }
    }
}
