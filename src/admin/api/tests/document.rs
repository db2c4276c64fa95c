//! Tests of the OpenAPI document.

use std::collections::BTreeSet;

use super::*;

async fn document() -> Value {
    let testbed = Testbed::new().await;
    let answer = testbed.send(get("/v1/openapi.json")).await;
    let media_type = answer.assert_status(StatusCode::OK).header("content-type");
    assert_eq!(media_type, "application/json");
    answer.json()
}

/// Collects the targets of all references.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                found.insert(target.clone());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// All operations with their paths and methods.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((path.clone(), method.clone(), operation.clone()));
        }
    }
    all
}

#[tokio::test]
async fn all_references_of_the_document_exist() {
    let document = document().await;
    let mut targets = BTreeSet::new();
    references(&document, &mut targets);
    assert!(targets.len() > 20, "{targets:?}");
    for target in targets {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
}

#[tokio::test]
async fn operations_have_a_summary_a_role_and_their_refusals() {
    let document = document().await;
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let name = format!("{method} {path}");
        assert!(path.starts_with("/v1/"), "{name}");
        assert!(
            operation["summary"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{name}"
        );
        assert!(
            ids.insert(operation["operationId"].to_string()),
            "{name}: the id exists"
        );
        let role = operation["security"][0]["token"][0].as_str().unwrap();
        let needed = access::needed_role(&method.to_uppercase().parse().unwrap(), &path);
        assert_eq!(json!(needed), role, "{name}");
        let responses = operation["responses"].as_object().unwrap();
        for status in ["401", "403", "429", "503"] {
            assert!(responses.contains_key(status), "{name} {status}");
        }
        assert_eq!(responses.contains_key("404"), path.contains('{'), "{name}");
        let takes_body = !operation["requestBody"].is_null();
        for status in ["400", "413", "415"] {
            assert_eq!(
                responses.contains_key(status),
                takes_body,
                "{name} {status}"
            );
        }
        let is_success = |status: &String| status.starts_with('2');
        assert_eq!(
            responses.keys().filter(|key| is_success(key)).count(),
            1,
            "{name}"
        );
    }
}

#[tokio::test]
async fn changes_of_records_name_a_version() {
    let document = document().await;
    for (path, method, operation) in operations(&document) {
        let parameters = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let has_version = parameters.iter().any(|found| found["name"] == "If-Match");
        let is_live = ["links", "tunnels", "blocks"]
            .iter()
            .any(|live| path.starts_with(&format!("/v1/{live}")));
        let changes_record = method == "patch"
            || method == "delete"
            || path.ends_with("/rotate")
            || path.ends_with("/revoke");
        assert_eq!(has_version, changes_record && !is_live, "{method} {path}");
        let statuses = operation["responses"].as_object().unwrap();
        assert_eq!(statuses.contains_key("428"), has_version, "{method} {path}");
    }
}

#[tokio::test]
async fn path_parameters_are_those_of_the_path() {
    let document = document().await;
    for (path, method, operation) in operations(&document) {
        let parameters = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let named: Vec<String> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap()))
            .collect();
        let in_path: Vec<String> = path
            .split('/')
            .filter(|part| part.starts_with('{'))
            .map(str::to_owned)
            .collect();
        assert_eq!(named, in_path, "{method} {path}");
    }
}
