//! The API of a master with a store: JSON over HTTP at the admin address.
//!
//! ```text
//!  request ──► authorize ──► handler ──┬─► Administration: records, in transactions with the audit
//!              token, role             ├─► Store: usage, audit log
//!                                      └─► AdministeredMaster: live links, tunnels, limits, events
//! ```
//!
//! | path | content |
//! |---|---|
//! | `/v1/accounts`, `…/{id}`, `…/{id}/credentials` | accounts, and the credentials of one |
//! | `/v1/credentials/{id}`, `…/rotate`, `…/revoke` | a credential |
//! | `/v1/keys`, `…/{id}`, `…/{id}/rotate` | service keys |
//! | `/v1/tokens`, `…/{id}`, `…/rotate`, `…/revoke` | tokens of this API |
//! | `/v1/relay` | the policy of the whole relay |
//! | `/v1/links`, `/v1/tunnels`, `…/{number}`, `…/block` | live links and tunnels |
//! | `/v1/blocks`, `…/{number}` | peers that the master refuses for a while |
//! | `/v1/limits` | the limits in force |
//! | `/v1/usage`, `/v1/usage/{kind}` | the bytes of a subject by time, subjects with usage |
//! | `/v1/audit`, `/v1/events` | the audit log, a stream of events |
//! | `/v1/status`, `/v1/health`, `/v1/version` | the state of the master |
//! | `/v1/openapi.json` | the description of all this |
//!
//! Paths and codes keep their meaning within `v1`. An answer contains no secret, because neither the
//! store nor the master has one.

// No request may cause a panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod access;
mod accounts;
mod answers;
mod audit;
mod body;
mod credentials;
mod document;
mod events;
mod keys;
mod limits;
mod links;
mod live_page;
mod path_ids;
mod query;
mod refusal;
mod relay;
mod status;
#[cfg(all(test, unix))]
mod tests;
mod token_table;
mod tokens;
mod tunnels;
mod usage;
mod version;

use std::{slice, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{Uri, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use utoipa_axum::router::OpenApiRouter;

pub use self::{
    answers::{
        AccountPage, CredentialPage, KeyPage, StoredAccount, StoredCredential, StoredKey,
        StoredRelay, StoredToken, TokenPage,
    },
    audit::{AuditEvent, AuditPage, AuditQuery},
    limits::{LimitsPage, LimitsQuery},
    links::{BlockRequest, Blocks, LinkPage, MAX_BLOCK},
    live_page::LiveQuery,
    status::{Health, HealthState, Version},
    tunnels::TunnelPage,
    usage::{
        Step, SubjectKind, SubjectPage, SubjectUsage, SubjectsQuery, UsagePage, UsagePoint,
        UsageQuery,
    },
};

use self::{access::Gate, refusal::Refusal};
use crate::{
    administration::{Actor, Administration, Clock, ErrorCode},
    master::{AdministeredMaster, Clock as _, SystemClock},
    store::{AuditEntry, Store, StoreError},
};

/// How long a request may take, below the deadline of its connection, so that it gets an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// The most streams of events at a time. They occupy connections of the admin address.
const MAX_STREAMS: usize = 4;

/// The API of one master.
pub struct Api {
    administration: Administration,
    master: Arc<dyn AdministeredMaster>,
    gate: Gate,
    clock: Clock,
    streams: Arc<Semaphore>,
    /// The writes of audit entries. They outlive the connections of their requests.
    writes: TaskTracker,
}

impl Api {
    /// Creates the API of a master and its store.
    #[must_use]
    pub fn new(
        administration: Administration,
        master: Arc<dyn AdministeredMaster>,
        clock: Clock,
    ) -> Self {
        let store = Arc::clone(administration.store());
        Api {
            administration,
            gate: Gate::new(store, Arc::clone(&master), Arc::clone(&clock)),
            master,
            clock,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            writes: TaskTracker::new(),
        }
    }

    /// Creates the API of a master with a store, by the clock of the system.
    #[must_use]
    pub fn of_master(master: Arc<dyn AdministeredMaster>) -> Option<Self> {
        let store = master.store()?;
        let clock: Clock = Arc::new(|| SystemClock.seconds());
        let administration = Administration::new(store, Arc::clone(&clock));
        Some(Api::new(administration, master, clock))
    }

    /// Whether the store has a token that is valid at present.
    ///
    /// # Errors
    /// If the database is away.
    pub(super) async fn has_valid_token(&self) -> Result<bool, StoreError> {
        self.gate.has_valid_token().await
    }

    /// Returns the time in Unix seconds.
    fn now(&self) -> i64 {
        (self.clock)()
    }

    /// Records an operation that changes no record. It is done, so a database that is away loses
    /// the entry, but not the line in the log.
    ///
    /// # Cancel safety
    /// Safe: the entry is written although the client leaves before its answer.
    async fn record(&self, actor: &Actor, action: &str, subject: String, detail: String) {
        let address = actor.address.map(|address| address.to_string());
        let address = address.unwrap_or_default();
        info!(%actor, address, action, subject, detail, "administered");
        let entry = AuditEntry {
            happened: self.now(),
            actor: actor.to_string(),
            address,
            action: action.to_owned(),
            subject,
            detail,
            repeats: 0,
        };
        let store = Arc::clone(self.administration.store());
        // The end of the connection drops the handler, but not this task. A panic in it is logged
        // where it occurs.
        let _ = self.writes.spawn(write_entry(store, entry)).await;
    }
}

/// Writes an entry into the audit log.
async fn write_entry(store: Arc<Store>, entry: AuditEntry) {
    if store.status().is_up()
        && let Err(error) = store.write_audit(slice::from_ref(&entry)).await
    {
        warn!(%error, action = entry.action.as_str(), "audit entry lost");
    }
}

/// Returns all routes with their description.
fn described() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(document::empty())
        .merge(accounts::routes())
        .merge(credentials::routes())
        .merge(keys::routes())
        .merge(tokens::routes())
        .merge(relay::routes())
        .merge(links::routes())
        .merge(tunnels::routes())
        .merge(limits::routes())
        .merge(usage::routes())
        .merge(audit::routes())
        .merge(events::routes())
        .merge(status::routes())
}

/// Returns the service of the API. Each route needs the rights that [`access`] describes.
pub(super) fn routes(api: &Arc<Api>) -> Router {
    let (routes, mut document) = described().split_for_parts();
    document::complete(&mut document);
    // Strings and numbers can always be written.
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let serve_document = move || {
        let document = document.to_string();
        async move { ([(header::CONTENT_TYPE, "application/json")], document) }
    };
    let routes = routes
        .route("/v1/openapi.json", get(serve_document))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::clone(api))
        .layer(from_fn(limit_time));
    protected(routes, api)
}

/// Returns routes that need the same rights as the API.
pub(super) fn protected(routes: Router, api: &Arc<Api>) -> Router {
    routes.layer(from_fn_with_state(Arc::clone(api), access::authorize))
}

/// Whether a path belongs to the API.
pub(super) fn owns(uri: &Uri) -> bool {
    uri.path() == "/v1" || uri.path().starts_with("/v1/")
}

/// Returns the answer to an unknown path of the API.
pub(super) fn not_found() -> Response {
    let message = "unknown path (GET /v1/openapi.json lists them)";
    Refusal::new(ErrorCode::NotFound, message).into_response()
}

async fn method_not_allowed() -> Refusal {
    let message = "the path has no such method (GET /v1/openapi.json lists them)";
    Refusal::new(ErrorCode::MethodNotAllowed, message)
}

/// Answers a request that takes too long, which only the database can cause. It is unknown whether
/// a change is committed.
async fn limit_time(request: Request, next: Next) -> Response {
    match timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::store_away().into_response(),
    }
}
