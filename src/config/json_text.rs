//! Parses JSON into the tree of a file.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    format::SyntaxError,
    node::{Node, NodeValue},
    position::{FileId, Place, byte_of, parser_message, position_at, position_of},
    syntax_hint::hint,
};

/// Parses the text of a file.
pub(super) fn parse(text: &str, file: FileId) -> Result<Node, SyntaxError> {
    // Raw values accept some invalid strings and numbers, so check the whole text first.
    let checked = serde_json::from_str::<Value>(text);
    let root = checked.and_then(|_| serde_json::from_str::<&RawValue>(text));
    let root = root.and_then(|root| node(text, file, root));
    root.map_err(|error| syntax_error(text, &error))
}

fn syntax_error(text: &str, error: &serde_json::Error) -> SyntaxError {
    let message = parser_message(error);
    let hint = hint(text, byte_of(text, error), &message);
    let position = hint.offset.map_or_else(
        || position_of(text, error),
        |offset| position_at(text, offset),
    );
    SyntaxError {
        position,
        message,
        hint: hint.text,
    }
}

/// The fields of an object as raw text.
struct RawFields<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for RawFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawFieldsVisitor;
        impl<'de> Visitor<'de> for RawFieldsVisitor {
            type Value = RawFields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }
        deserializer.deserialize_map(RawFieldsVisitor)
    }
}

fn node(text: &str, file: FileId, raw: &RawValue) -> Result<Node, serde_json::Error> {
    let raw = raw.get();
    // A raw value is a slice of the text that it was parsed from, so the difference of their
    // addresses is its offset.
    let offset = (raw.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let value = match raw.as_bytes().first() {
        Some(b'{') => {
            let fields = serde_json::from_str::<RawFields<'_>>(raw)?.0.into_iter();
            let fields = fields.map(|(name, raw)| Ok((name, node(text, file, raw)?)));
            NodeValue::Object(fields.collect::<Result<_, serde_json::Error>>()?)
        }
        Some(b'[') => {
            let elements = serde_json::from_str::<Vec<&RawValue>>(raw)?.into_iter();
            let elements = elements.map(|raw| node(text, file, raw));
            NodeValue::List(elements.collect::<Result<_, _>>()?)
        }
        _ => match serde_json::from_str(raw)? {
            Value::Bool(value) => NodeValue::Bool(value),
            Value::Number(value) => NodeValue::Number(value),
            Value::String(value) => NodeValue::Text(value),
            Value::Null | Value::Array(_) | Value::Object(_) => NodeValue::Null,
        },
    };
    let place = Place { file, offset };
    Ok(Node { place, value })
}
