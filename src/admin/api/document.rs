//! The OpenAPI document. The routes describe what is their own. This module adds what all of them
//! share: the token, and the answers of requests that fail.

use axum::http::Method;
use utoipa::{
    OpenApi,
    openapi::{
        Components, Content, OpenApi as Document, PathItem, Ref, RefOr, ResponseBuilder,
        path::{Operation, Parameter, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{access::needed_role, version::IF_MATCH};
use crate::{administration::ErrorBody, master::MasterEvent, policy::TokenRole};

/// The name of the token in the document.
const TOKEN: &str = "token";

/// The parts of the document that belong to no route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "rePort admin API",
        description = "Accounts, keys and limits of a rePort master, its live links and tunnels, \
                       and their usage. The unix socket needs no token."
    ),
    components(schemas(ErrorBody, MasterEvent))
)]
struct SharedParts;

/// Returns the document before its routes are added.
pub(super) fn empty() -> Document {
    let mut document = SharedParts::openapi();
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token, rt1_…, that `report token add` has created"))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(TOKEN, SecurityScheme::Http(token));
    document
}

/// Adds what the routes share.
pub(super) fn complete(document: &mut Document) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let role = word(needed_role(&method, path));
            operation.security = Some(vec![SecurityRequirement::new(TOKEN, [role])]);
            let needs = format!("Needs the role `{role}`.");
            operation.description = Some(match operation.description.take() {
                Some(description) => format!("{description}\n\n{needs}"),
                None => needs,
            });
            for (status, description) in failures(path, &method, operation) {
                operation
                    .responses
                    .responses
                    .entry(status.to_owned())
                    .or_insert_with(|| failure(description));
            }
        }
    }
}

/// Returns the operations of a path that exist.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Returns the statuses with which an operation may fail.
fn failures(
    path: &str,
    method: &Method,
    operation: &Operation,
) -> Vec<(&'static str, &'static str)> {
    let mut failures = vec![
        ("401", "The token is missing or wrong"),
        ("403", "The token has lesser rights"),
        ("429", "Too many wrong tokens, or too much at a time"),
        ("503", "The database does not answer"),
    ];
    if path.contains('{') {
        failures.push(("404", "It does not exist"));
    }
    if has_parameter(operation, |found| found.parameter_in == ParameterIn::Query) {
        failures.push(("422", "A value is invalid"));
    }
    if operation.request_body.is_some() {
        failures.extend([
            ("400", "The body is not JSON"),
            ("413", "The body is too long"),
            ("415", "The body has another media type"),
            ("422", "A value is invalid"),
        ]);
    }
    if has_parameter(operation, |found| found.name == IF_MATCH) {
        failures.extend([
            ("412", "The record has another version"),
            ("428", "The change names no version"),
        ]);
    }
    if needed_role(method, path) == TokenRole::Own {
        failures.push(("409", "Another record has the value, or needs this one"));
    }
    failures
}

fn has_parameter(operation: &Operation, is_meant: impl Fn(&Parameter) -> bool) -> bool {
    let parameters = operation.parameters.iter().flatten();
    parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        })
        .any(is_meant)
}

/// Returns the answer of a request that fails.
fn failure(description: &str) -> RefOr<utoipa::openapi::Response> {
    let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/json", body);
    RefOr::T(response.build())
}

/// Returns the word of a role.
fn word(role: TokenRole) -> &'static str {
    match role {
        TokenRole::Read => "read",
        TokenRole::Operate => "operate",
        TokenRole::Own => "own",
    }
}
