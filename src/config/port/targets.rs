//! The choice between several targets of one service, and their health check.

use std::{fmt, ops::Deref};

use http::uri::PathAndQuery;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::{
    bounded::{CountIn, DurationIn},
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
    values::{deref_to, text_value},
    word::{self, Word},
};

/// How a server chooses one of several targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TargetChoice {
    /// The first that is healthy, in the order of the list.
    #[default]
    Ordered,
    /// Each healthy one in turn.
    Spread,
}

impl Word for TargetChoice {
    const ALL: &'static [Self] = &[TargetChoice::Ordered, TargetChoice::Spread];
    const DEFAULT: Self = TargetChoice::Ordered;

    fn word(self) -> &'static str {
        match self {
            TargetChoice::Ordered => "ordered",
            TargetChoice::Spread => "spread",
        }
    }
}

impl fmt::Display for TargetChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// The kinds of health checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// Opens a connection.
    #[default]
    Tcp,
    /// Sends an HTTP request.
    Http,
}

impl Word for HealthCheckKind {
    const ALL: &'static [Self] = &[HealthCheckKind::Tcp, HealthCheckKind::Http];
    const DEFAULT: Self = HealthCheckKind::Tcp;

    fn word(self) -> &'static str {
        match self {
            HealthCheckKind::Tcp => "tcp",
            HealthCheckKind::Http => "http",
        }
    }
}

impl fmt::Display for HealthCheckKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// The path of an HTTP request. It starts with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath(String);

deref_to!(RequestPath, String);

impl Default for RequestPath {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl fmt::Display for RequestPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

text_value!(RequestPath, "text", |path| {
    let is_valid = path.starts_with('/')
        && path.is_ascii()
        && !path.contains('#')
        && path.parse::<PathAndQuery>().is_ok();
    if is_valid {
        return Ok(Self(path.to_owned()));
    }
    Err(InvalidValue::new(
        format!("is \"{}\"", path.escape_debug()),
        "write a path that starts with \"/\", of visible ASCII without #, with <, > and ` as %XX",
    ))
});

/// How a server finds out which targets are healthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"kind\": \"tcp\" or \"http\", …}"
)]
pub struct HealthCheck {
    /// `"tcp"` opens a connection. `"http"` also sends `GET` for `path`, and expects a status from
    /// 200 to 399.
    #[serde(with = "word")]
    #[schemars(schema_with = "word::schema::<HealthCheckKind>")]
    pub kind: HealthCheckKind,
    /// The path of the request, with its query. Only for `"http"`.
    pub path: RequestPath,
    /// The time between two checks of a target.
    pub interval: DurationIn<100, 3_600_000, 10_000>,
    /// How long one check may take, at most `interval`.
    pub timeout: DurationIn<10, 60_000, 2_000>,
    /// The number of successive checks after which an unhealthy target is healthy again.
    pub healthy_after: CountIn<100, 1>,
    /// The number of successive failed checks after which a target is unhealthy.
    pub unhealthy_after: CountIn<100, 3>,
}

impl HealthCheck {
    /// Checks the rules between fields.
    pub(super) fn check(&self, path: &FieldPath, checks: &mut RoleChecks<'_>) {
        if self.kind == HealthCheckKind::Tcp && self.path != RequestPath::default() {
            let invalid = InvalidValue::new(
                "has no effect, because `kind` is \"tcp\"",
                "set `kind` to \"http\", or remove it",
            );
            checks.invalid(&path.field("path"), invalid);
        }
        if *self.timeout > *self.interval {
            let problem = format!(
                "is {:?}, longer than the `interval` of {:?}",
                *self.timeout, *self.interval
            );
            checks.invalid(
                &path.field("timeout"),
                InvalidValue::new(problem, "lower it, or raise `interval`"),
            );
        }
    }
}
