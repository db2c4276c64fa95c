//! The JSON Schema and the reference page of the configuration, generated from the structs.
//!
//! `docs/configuration.md` contains prose and, between markers, the table of each struct. The
//! schema is for editors. A test compares both files with the structs.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{
    AdminConfig, ClientConfig, ClientLimitsConfig, CommonConfig, HealthCheck, LinkConfig,
    LinkTlsConfig, LinksConfig, MasterConfig, MasterLimitsConfig, PortConfig, RetentionConfig,
    ServerConfig, ServerLimitsConfig, SocksUser, TlsFilesConfig, WindowsConfig,
    master::FallbackTarget,
    mode::{Mode, ModeField, fields_of},
    word::Word,
};

/// The tables of the page by the name in their marker.
fn tables() -> Vec<(&'static str, String)> {
    vec![
        ("all roles", table::<ModeField>() + &rows::<CommonConfig>()),
        ("admin address", table::<AdminConfig>()),
        ("master", table::<MasterConfig>()),
        ("tls of a master", table::<TlsFilesConfig>()),
        ("fallback", table::<FallbackTarget>()),
        ("retention", table::<RetentionConfig>()),
        ("limits of a master", table::<MasterLimitsConfig>()),
        ("server and client", table::<LinkConfig>()),
        ("tls of a server or client", table::<LinkTlsConfig>()),
        ("links", table::<LinksConfig>()),
        ("windows", table::<WindowsConfig>()),
        ("server", table::<ServerConfig>()),
        ("limits of a server", table::<ServerLimitsConfig>()),
        ("client", table::<ClientConfig>()),
        ("limits of a client", table::<ClientLimitsConfig>()),
        ("ports", table::<PortConfig>()),
        ("health check", table::<HealthCheck>()),
        ("socks user", table::<SocksUser>()),
    ]
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft07().into_generator()
}

fn table<T: JsonSchema + DeserializeOwned>() -> String {
    let head = "| field | type | default | meaning |\n|---|---|---|---|\n";
    head.to_owned() + &rows::<T>()
}

fn rows<T: JsonSchema + DeserializeOwned>() -> String {
    let mut generator = generator();
    let schema = T::json_schema(&mut generator);
    let required = required(&schema);
    let properties = properties(&schema);
    let row = |name: &&str| {
        let field = &properties[*name];
        let is_required = required.contains(&json!(name));
        format!(
            "| `{name}` | {} | {} | {} |\n",
            kind(field),
            default(field, is_required),
            meaning(field)
        )
    };
    fields_of::<T>().iter().map(row).collect()
}

fn properties(schema: &Schema) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.cloned().unwrap_or_default()
}

fn required(schema: &Schema) -> Vec<Value> {
    let required = schema.get("required").and_then(Value::as_array);
    required.cloned().unwrap_or_default()
}

/// Returns the first subschema: that of an optional type, without null.
fn subschema(field: &Value) -> &Value {
    field["anyOf"].get(0).unwrap_or(field)
}

fn kind(field: &Value) -> String {
    let kind = |field: &Value| {
        if let Some(kind) = field["x-type"].as_str() {
            return Some(kind.to_owned());
        }
        if let Some(words) = field["enum"].as_array() {
            let words = words.iter().filter(|word| !word.is_null());
            let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
            return Some(words.join(", "));
        }
        let kind = field["type"].get(0).unwrap_or(&field["type"]);
        Some(match kind.as_str()? {
            "string" => "text".to_owned(),
            other => other.to_owned(),
        })
    };
    let reference = |field: &Value| {
        Some(match field["$ref"].as_str()?.rsplit('/').next()? {
            "Key" => "key".to_owned(),
            _ => "object".to_owned(),
        })
    };
    let found = kind(field).or_else(|| kind(subschema(field)));
    let found = found.or_else(|| reference(field));
    let found = found.or_else(|| reference(subschema(field)));
    let found = found.or_else(|| reference(&field["allOf"][0]));
    found.unwrap_or_else(|| panic!("no type: {field}"))
}

fn default(field: &Value, is_required: bool) -> String {
    match (&field["x-default"], &field["default"]) {
        _ if is_required => "required".to_owned(),
        (Value::String(text), _) => text.clone(),
        (_, Value::Null) if kind(field) == "boolean" => "`false`".to_owned(),
        (_, Value::Null) => "none".to_owned(),
        (_, Value::Array(list)) => {
            let list: Vec<String> = list.iter().map(Value::to_string).collect();
            format!("`[{}]`", list.join(", "))
        }
        (_, default @ Value::Number(_)) => default.to_string(),
        (_, default) => format!("`{default}`"),
    }
}

fn meaning(field: &Value) -> String {
    let text = field["description"].as_str().expect("a description");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Replaces the tables of a page between their markers.
fn page(text: &str) -> String {
    let mut page = text.to_owned();
    for (name, table) in tables() {
        let (start, end) = (format!("<!-- table: {name} -->\n"), "<!-- end -->");
        let (before, rest) = page
            .split_once(&start)
            .unwrap_or_else(|| panic!("no marker {start:?}"));
        let (_, after) = rest.split_once(end).expect("an end marker");
        page = format!("{before}{start}{table}{end}{after}");
    }
    page
}

/// Returns the schema of a file: one of the three modes.
fn schema() -> Value {
    let mut generator = generator();
    let modes = Mode::ALL.iter();
    let modes: Vec<Value> = modes.map(|mode| file(*mode, &mut generator)).collect();
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "rePort configuration",
        "anyOf": modes,
        "definitions": generator.take_definitions(true),
    });
    remove_extensions(&mut schema);
    schema
}

/// Returns the schema of a file of `mode`.
fn file(mode: Mode, generator: &mut SchemaGenerator) -> Value {
    let common = [
        ModeField::json_schema(generator),
        CommonConfig::json_schema(generator),
    ];
    let role = match mode {
        Mode::Master => vec![MasterConfig::json_schema(generator)],
        Mode::Server => vec![
            LinkConfig::json_schema(generator),
            ServerConfig::json_schema(generator),
        ],
        Mode::Client => vec![
            LinkConfig::json_schema(generator),
            ClientConfig::json_schema(generator),
        ],
    };
    let parts = common.iter().chain(&role);
    let required: Vec<Value> = parts.clone().flat_map(required).collect();
    let mut fields: Map<String, Value> = parts.flat_map(properties).collect();
    fields.insert(
        "mode".to_owned(),
        json!({"const": mode.word(), "description": "The role."}),
    );
    json!({
        "title": mode.word(),
        "type": "object",
        "properties": fields,
        "required": required,
        "additionalProperties": false,
    })
}

/// Removes what only the page uses: defaults in words, and links between pages.
fn remove_extensions(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("x-default") {
                fields.remove("default");
            }
            fields.retain(|name, _| !name.starts_with("x-"));
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = without_links(text);
            }
            fields.values_mut().for_each(remove_extensions);
        }
        Value::Array(elements) => elements.iter_mut().for_each(remove_extensions),
        _ => {}
    }
}

/// Replaces each `[text](target)` by its text, and line breaks by spaces.
fn without_links(text: &str) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    while let Some((before, rest)) = words.split_once("](") {
        let (start, label) = before.rsplit_once('[').expect("a link");
        let (_, after) = rest.split_once(')').expect("the end of a link");
        words = format!("{start}{label}{after}");
    }
    words
}

/// Compares a file with its generated text. `REPORT_UPDATE_DOCS=1` writes the file instead.
fn compare(name: &str, generate: impl Fn(&str) -> String) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let expected = generate(&written);
    if std::env::var_os("REPORT_UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).expect("written");
    } else {
        assert!(
            written == expected,
            "{name} differs from the structs in src/config: run `REPORT_UPDATE_DOCS=1 cargo test --lib config::reference`"
        );
    }
}

#[test]
fn the_page_matches_the_structs() {
    compare("docs/configuration.md", page);
}

#[test]
fn the_schema_matches_the_structs() {
    compare("config-examples/report.schema.json", |_| {
        serde_json::to_string_pretty(&schema()).expect("serializes") + "\n"
    });
}

#[test]
fn the_schema_and_the_reader_know_the_same_fields() {
    let schema = schema();
    for (mode, file) in Mode::ALL
        .iter()
        .zip(schema["anyOf"].as_array().expect("a list"))
    {
        let fields = file["properties"].as_object().expect("fields").keys();
        let mut known = mode.fields();
        known.sort_unstable();
        assert_eq!(fields.collect::<Vec<_>>(), known);
    }
}
