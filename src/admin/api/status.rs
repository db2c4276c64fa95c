//! `/v1/status`, `/v1/health` and `/v1/version`.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Api;
use crate::master::{MasterStatus, StoreProblem};

/// How a master is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// The state.
    pub state: HealthState,
    /// Why the policies may be outdated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<StoreProblem>,
}

/// The state of a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It serves, with the newest policies.
    Ok,
    /// It serves, with policies that may be outdated.
    Degraded,
    /// It accepts no further links, because it ends.
    Draining,
}

/// The version of the program and of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Version {
    /// The version of the program.
    pub program: String,
    /// The version of the API, with which all its paths begin.
    pub api: String,
}

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(show_status))
        .routes(routes!(show_health))
        .routes(routes!(show_version))
}

/// Shows the state of the master.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "status",
    responses((status = 200, description = "The state", body = MasterStatus))
)]
async fn show_status(State(api): State<Arc<Api>>) -> Json<MasterStatus> {
    Json(api.master.status())
}

/// Shows whether the master works.
#[utoipa::path(
    get,
    path = "/v1/health",
    tag = "status",
    responses((status = 200, description = "The health", body = Health))
)]
async fn show_health(State(api): State<Arc<Api>>) -> Json<Health> {
    let status = api.master.status();
    let state = if status.is_draining {
        HealthState::Draining
    } else if status.degraded.is_some() {
        HealthState::Degraded
    } else {
        HealthState::Ok
    };
    Json(Health {
        state,
        degraded: status.degraded,
    })
}

/// Shows the version of the program and of the API.
#[utoipa::path(
    get,
    path = "/v1/version",
    tag = "status",
    responses((status = 200, description = "The versions", body = Version))
)]
async fn show_version(State(api): State<Arc<Api>>) -> Json<Version> {
    Json(Version {
        program: api.master.status().version,
        api: "v1".to_owned(),
    })
}
