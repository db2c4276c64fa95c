//! Access to the API: tokens, their rights, and the throttle of wrong ones.
//!
//! | request | needs |
//! |---|---|
//! | GET, HEAD | `read` |
//! | ends or blocks a link or a tunnel, removes a block | `operate` |
//! | all others, which change records | `own` |
//!
//! The unix socket needs no token: its mode admits only the user of the process and root.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tracing::warn;

use super::{Api, refusal::Refusal, token_table::TokenTable};
use crate::{
    admin::connection::{AdminConnection, Origin},
    administration::{Actor, ActorKind, AdministrationError, Clock, TokenSecret},
    master::AdministeredMaster,
    policy::{Token, TokenHash, TokenRole},
    store::{Store, StoreError},
    throttle::{LogLimit, Throttle},
};
use report_proto::id::Id;

/// The reason for which an unknown token is refused.
const WRONG: &str = "the token is wrong";

/// The paths below which changes need `operate` only.
const OPERATED: [&str; 3] = ["/v1/links", "/v1/tunnels", "/v1/blocks"];

/// Admits requests.
pub(super) struct Gate {
    tokens: TokenTable,
    /// Gets the refused tokens.
    master: Arc<dyn AdministeredMaster>,
    clock: Clock,
    throttle: Mutex<Throttle>,
    log_limit: LogLimit,
}

impl Gate {
    /// Creates the gate of a master and its store.
    pub(super) fn new(
        store: Arc<Store>,
        master: Arc<dyn AdministeredMaster>,
        clock: Clock,
    ) -> Self {
        Gate {
            tokens: TokenTable::new(store),
            master,
            clock,
            throttle: Mutex::default(),
            log_limit: LogLimit::new(),
        }
    }

    /// Whether any token is valid.
    ///
    /// # Errors
    /// If the database is away.
    pub(super) async fn has_valid_token(&self) -> Result<bool, StoreError> {
        self.tokens.has_valid((self.clock)()).await
    }

    /// Whether the rights of an actor have not ended since its request.
    pub(super) async fn still_admits(&self, actor: &Actor) -> bool {
        match &actor.kind {
            ActorKind::Token { id, .. } => self.tokens.is_valid(*id, (self.clock)()).await,
            ActorKind::LocalSocket | ActorKind::CommandLine => true,
        }
    }

    /// Returns the party that sends a request, if it has the rights.
    ///
    /// # Errors
    /// The answer of a request without a valid token, or without the rights.
    pub(super) async fn admit(
        &self,
        origin: Origin,
        headers: &HeaderMap,
        needed: TokenRole,
    ) -> Result<Actor, Refusal> {
        let actor = match origin {
            #[cfg(unix)]
            Origin::UnixSocket => Actor::local_socket(),
            Origin::Address(address) => self.holder(address, headers, Instant::now()).await?,
        };
        actor.require(needed)?;
        Ok(actor)
    }

    /// Returns the holder of the token in a request.
    async fn holder(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<Actor, Refusal> {
        let Some(presented) = bearer(headers) else {
            let message = "the request has no token (send Authorization: Bearer rt1_…)";
            return Err(Refusal::unauthorized(message));
        };
        let secret = presented.parse::<TokenSecret>().ok();
        let hash = secret.map(|secret| secret.hash());
        let name = hash.as_ref().map_or(Id([0; 16]), name_of);
        if self.throttle().refuses(now, address, name) {
            return Err(Refusal::throttled());
        }
        let known = match &hash {
            Some(hash) => {
                let found = self.tokens.find(hash).await;
                found.map_err(AdministrationError::from)?
            }
            None => None,
        };
        let Some(token) = known else {
            let throttled = self.throttle().record_failure(now, address);
            self.report_wrong(address, throttled);
            return Err(Refusal::unauthorized(WRONG));
        };
        if !token.is_valid((self.clock)()) {
            self.report_ended(address, &token);
            let message = "the token has expired or is revoked (use another one)";
            return Err(Refusal::unauthorized(message));
        }
        self.throttle().record_success(name);
        Ok(Actor::token(&token, address))
    }

    /// Logs and reports a wrong token. deploy/fail2ban knows the words.
    fn report_wrong(&self, address: IpAddr, throttled: bool) {
        let advice = if throttled {
            "this address is throttled now"
        } else {
            "compare the token with those of the store"
        };
        let is_logged = self.log_limit.log(|left_out| {
            warn!(%address, left_out, "admin request refused: {WRONG} ({advice})");
        });
        // Events are as many as log lines, so that strangers cannot fill the audit log.
        if is_logged {
            self.master.report_refused_token(address, WRONG.to_owned());
        }
    }

    /// Logs and reports a token that was valid once.
    fn report_ended(&self, address: IpAddr, token: &Token) {
        let name = token.name.as_str();
        let is_logged = self.log_limit.log(|left_out| {
            warn!(%address, name, left_out, "admin request refused: the token is revoked or has expired");
        });
        if is_logged {
            let reason = format!("the token {name} is revoked or has expired");
            self.master.report_refused_token(address, reason);
        }
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the name under which the throttle knows a token that was valid before.
fn name_of(hash: &TokenHash) -> Id {
    Id(hash.0.first_chunk().copied().unwrap_or_default())
}

/// Returns the text of the token in a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
}

/// Returns the rights that a request needs.
pub(super) fn needed_role(method: &Method, path: &str) -> TokenRole {
    if method == Method::GET || method == Method::HEAD {
        return TokenRole::Read;
    }
    let is_below = |prefix: &&str| {
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if OPERATED.iter().any(is_below) {
        TokenRole::Operate
    } else {
        TokenRole::Own
    }
}

/// Admits the request to its handler, which gets the [`Actor`].
pub(super) async fn authorize(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let needed = needed_role(request.method(), request.uri().path());
    let connection = request.extensions().get::<AdminConnection>().cloned();
    let Some(connection) = connection else {
        return Refusal::unauthorized("the connection is unknown").into_response();
    };
    let origin = connection.origin();
    match api.gate.admit(origin, request.headers(), needed).await {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_token_follows_the_scheme() {
        for value in ["Bearer rt1_x", "bearer  rt1_x", "BEARER rt1_x "] {
            assert_eq!(bearer(&headers(value)), Some("rt1_x"), "{value}");
        }
        for value in ["rt1_x", "Bearer", "Bearer ", "Bearer  ", "Basic rt1_x", ""] {
            assert_eq!(bearer(&headers(value)), None, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn rights_depend_on_the_method_and_on_the_path() {
        for (method, path, role) in [
            (Method::GET, "/v1/tokens", TokenRole::Read),
            (Method::HEAD, "/v1/links/5", TokenRole::Read),
            (Method::DELETE, "/v1/links/5", TokenRole::Operate),
            (Method::POST, "/v1/tunnels/5/block", TokenRole::Operate),
            (Method::DELETE, "/v1/blocks/1", TokenRole::Operate),
            (Method::POST, "/v1/accounts", TokenRole::Own),
            (Method::PATCH, "/v1/relay", TokenRole::Own),
            (Method::DELETE, "/v1/linksmith", TokenRole::Own),
            (Method::PUT, "/metrics", TokenRole::Own),
        ] {
            assert_eq!(needed_role(&method, path), role, "{method} {path}");
        }
    }
}
