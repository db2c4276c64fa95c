//! The requests and answers of the admin address.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    body::HttpBody as _,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::AdminService;
#[cfg(feature = "store")]
use super::api;
use crate::{
    metrics::{Degradation, Exposition, OPENMETRICS, ObservedRole},
    net::authority::Authority,
    policy::UnixTime,
};

/// The reach of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The user of the process and root.
    UnixSocket,
    /// All users of this machine. Requests must name a host of loopback.
    Loopback,
    /// Other machines.
    Public,
}

/// The state that the handlers share.
struct AdminState {
    role: Arc<dyn ObservedRole>,
    exposition: Exposition,
}

/// Returns the service of a role.
pub(super) fn routes(service: AdminService, access: Access) -> Router {
    let role = Arc::clone(&service.role);
    let state = Arc::new(AdminState {
        exposition: Exposition::new(Arc::clone(&role)),
        role,
    });
    let metrics = Router::new()
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(refuse_body))
        .with_state(Arc::clone(&state));
    let metrics = match access {
        Access::Public => protected(metrics, &service),
        Access::UnixSocket | Access::Loopback => metrics,
    };
    let health: Router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn(refuse_body))
        .with_state(state);
    let routes = health.merge(metrics);
    #[cfg(feature = "store")]
    let routes = match &service.api {
        Some(api) => routes.merge(api::routes(api)),
        None => routes,
    };
    match access {
        // The last layer runs first.
        Access::Loopback => routes.layer(from_fn(require_loopback_host)),
        Access::UnixSocket | Access::Public => routes,
    }
}

/// Returns routes that need a token. Without tokens there are none.
fn protected(routes: Router, service: &AdminService) -> Router {
    #[cfg(feature = "store")]
    if let Some(api) = &service.api {
        return api::protected(routes, api);
    }
    let _ = (routes, service);
    Router::new()
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    match state.exposition.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "a metric cannot be encoded",
        ),
    }
}

async fn livez() -> Response {
    Json(json!({"alive": true})).into_response()
}

async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let missing = state.role.missing();
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = json!({"ready": missing.is_empty(), "missing": missing});
    let degraded: Vec<Value> = state.role.degraded().iter().map(degradation).collect();
    if !degraded.is_empty() {
        body["degraded"] = Value::Array(degraded);
    }
    (status, Json(body)).into_response()
}

fn degradation(degradation: &Degradation) -> Value {
    let since = UnixTime::new(degradation.since).map(|since| since.to_string());
    json!({"what": degradation.what, "since": since})
}

async fn not_found(uri: Uri) -> Response {
    #[cfg(feature = "store")]
    if api::owns(&uri) {
        return api::not_found();
    }
    let _ = uri;
    error(
        StatusCode::NOT_FOUND,
        "unknown path; there are /metrics, /livez and /readyz",
    )
}

async fn method_not_allowed() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD")
}

fn error(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({"error": text}))).into_response()
}

/// Refuses requests with a body. No request needs one.
async fn refuse_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        next.run(request).await
    } else {
        error(StatusCode::PAYLOAD_TOO_LARGE, "requests have no body here")
    }
}

/// Refuses requests for another host than this machine.
async fn require_loopback_host(request: Request, next: Next) -> Response {
    let authority = request.uri().authority();
    let is_local = authority.is_none_or(|authority| is_loopback(authority.as_str()))
        && has_loopback_host(request.headers());
    if is_local {
        next.run(request).await
    } else {
        error(
            StatusCode::FORBIDDEN,
            "the request names another host; use localhost, 127.0.0.1 or [::1]",
        )
    }
}

/// Whether all `Host` fields name this machine. Browsers always send one; a client without one is no
/// browser.
fn has_loopback_host(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::HOST)
        .iter()
        .all(|host| host.to_str().is_ok_and(is_loopback))
}

/// Whether `HOST` or `HOST:PORT` names this machine itself.
fn is_loopback(authority: &str) -> bool {
    let Some(authority) = Authority::split(authority).filter(|split| split.port().is_ok()) else {
        return false;
    };
    let host = authority.host;
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_loopback_name_this_machine() {
        for host in [
            "localhost",
            "LocalHost:9300",
            "127.0.0.1",
            "127.0.0.1:9300",
            "127.8.9.1:1",
            "[::1]",
            "[::1]:9300",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "127.0.0.1@example.com",
            "example.com:127",
            "0.0.0.0:9300",
            "192.168.0.1",
            "[::2]:9300",
            "[::1]x",
            "::1",
            "127.0.0.1:1:2",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn every_host_field_counts() {
        let headers = |hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().expect("a value"));
            }
            has_loopback_host(&headers)
        };
        assert!(headers(&[]) && headers(&["localhost"]));
        assert!(!headers(&["localhost", "evil.example"]));
    }
}
