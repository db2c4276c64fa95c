//! The ids in the path of a request.

use std::str::FromStr;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};

use super::refusal::Refusal;

/// The ids in the path of a request, by the names of the route.
#[derive(Debug)]
pub(super) struct PathIds(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for PathIds {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let fields = RawPathParams::from_request_parts(parts, state).await;
        // No id has bytes that are not UTF-8.
        let fields = fields.map_err(|_| Refusal::not_found("resource", "with this path"))?;
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok(PathIds(fields.iter().map(owned).collect()))
    }
}

impl PathIds {
    /// Returns the id with a name. `kind` is what it identifies.
    ///
    /// # Errors
    /// A text that is no id identifies nothing.
    pub(super) fn get<T: FromStr>(&self, name: &str, kind: &str) -> Result<T, Refusal> {
        let mut fields = self.0.iter();
        let found = fields.find(|(found, _)| found == name);
        let text = found.map_or("", |(_, text)| text);
        text.parse().map_err(|_| Refusal::not_found(kind, text))
    }
}
