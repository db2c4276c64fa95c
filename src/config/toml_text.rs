//! Parses TOML into the tree of a file.

use serde_json::Number;
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    format::{DEPTH_MAX, Format, SyntaxError, ValueError, depth_inside},
    node::{Node, NodeValue},
    position::{FileId, Place, position_at},
    syntax_hint::typographic_hint,
};

/// Parses the text of a file. A date becomes text.
pub(super) fn parse(text: &str, file: FileId) -> Result<Node, SyntaxError> {
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map(|span| span.start);
        syntax_error(text, offset, error.message())
    })?;
    let value = object(table.into_inner(), file, DEPTH_MAX)
        .map_err(|error| syntax_error(text, Some(error.offset), error.message))?;
    let place = Place { file, offset: 0 };
    Ok(Node { place, value })
}

fn syntax_error(text: &str, offset: Option<usize>, message: &str) -> SyntaxError {
    let here = offset.and_then(|offset| text.get(offset..)?.chars().next());
    let hint = here.and_then(|character| typographic_hint(character, Format::Toml));
    SyntaxError {
        position: offset.and_then(|offset| position_at(text, offset)),
        message: message.to_owned(),
        hint: hint.unwrap_or_default(),
    }
}

/// Converts a table whose values may have this depth.
fn object(table: DeTable<'_>, file: FileId, depth: usize) -> Result<NodeValue, ValueError> {
    let mut fields: Vec<_> = table.into_iter().collect();
    // The parser sorts them by name.
    fields.sort_by_key(|(name, _)| name.span().start);
    let fields = fields.into_iter().map(|(name, value)| {
        let name = name.into_inner().into_owned();
        Ok((name, node(value, file, depth)?))
    });
    Ok(NodeValue::Object(
        fields.collect::<Result<_, ValueError>>()?,
    ))
}

fn node(value: Spanned<DeValue<'_>>, file: FileId, depth: usize) -> Result<Node, ValueError> {
    let offset = value.span().start;
    // The parser limits the dots of a key and the nested tables, each alone.
    let depth = depth_inside(depth, offset)?;
    let no_number = || ValueError {
        offset,
        message: "the number is infinite, no number, or does not fit into 64 bits",
    };
    let value = match value.into_inner() {
        DeValue::String(text) => NodeValue::Text(text.into_owned()),
        DeValue::Integer(written) => NodeValue::Number(integer(&written).ok_or_else(no_number)?),
        DeValue::Float(written) => {
            let number = written.as_str().parse().ok().and_then(Number::from_f64);
            NodeValue::Number(number.ok_or_else(no_number)?)
        }
        DeValue::Boolean(value) => NodeValue::Bool(value),
        DeValue::Datetime(time) => NodeValue::Text(time.to_string()),
        DeValue::Array(elements) => {
            let elements = elements.into_iter().map(|value| node(value, file, depth));
            NodeValue::List(elements.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => object(table, file, depth)?,
    };
    let place = Place { file, offset };
    Ok(Node { place, value })
}

fn integer(written: &DeInteger<'_>) -> Option<Number> {
    let (digits, radix) = (written.as_str(), written.radix());
    let positive = u64::from_str_radix(digits, radix).map(Number::from);
    let number = positive.or_else(|_| i64::from_str_radix(digits, radix).map(Number::from));
    number.ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::config::json_text;

    /// Returns the tree as a value of JSON, without places.
    fn plain(node: &Node) -> Value {
        match &node.value {
            NodeValue::Bool(value) => (*value).into(),
            NodeValue::Number(number) => number.clone().into(),
            NodeValue::Text(text) => text.as_str().into(),
            NodeValue::List(elements) => elements.iter().map(plain).collect(),
            NodeValue::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, node)| (name.clone(), plain(node)));
                Value::Object(fields.collect())
            }
            NodeValue::Null | NodeValue::Placeholder | NodeValue::Removed => Value::Null,
        }
    }

    /// Writes a value as TOML, in one line.
    fn inline(value: &Value) -> String {
        match value {
            Value::Array(elements) => {
                let elements: Vec<String> = elements.iter().map(inline).collect();
                format!("[{}]", elements.join(", "))
            }
            Value::Object(fields) => format!("{{{}}}", assignments(fields).join(", ")),
            // The other values are written as in JSON.
            other => other.to_string(),
        }
    }

    fn assignments(fields: &Map<String, Value>) -> Vec<String> {
        let fields = fields.iter();
        fields
            .map(|(name, value)| format!("{} = {}", Value::from(name.as_str()), inline(value)))
            .collect()
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaves = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            // Eighths are exact in both formats.
            any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
            "[\\PC\n\t\r\"\\\\]{0,12}".prop_map(Value::from),
        ];
        leaves.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                objects(inner).prop_map(Value::Object),
            ]
        })
    }

    fn objects(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
        let fields = prop::collection::btree_map("\\PC{0,8}", values, 0..4);
        fields.prop_map(|fields| -> Map<String, Value> { fields.into_iter().collect() })
    }

    proptest! {
        #[test]
        fn the_same_values_in_json_and_toml_have_the_same_tree(fields in objects(values())) {
            let toml = assignments(&fields).join("\n");
            let json = Value::Object(fields).to_string();
            let from_toml = parse(&toml, FileId::MAIN);
            prop_assert!(from_toml.is_ok(), "{toml}: {from_toml:?}");
            let from_json = json_text::parse(&json, FileId::MAIN).expect("JSON");
            prop_assert_eq!(plain(&from_toml.expect("TOML")), plain(&from_json));
        }
    }

    #[test]
    fn fields_keep_the_order_of_the_file() {
        let text = "z = 1\na = 2\n[m]\nx = 3\n[b]\n";
        let root = parse(text, FileId::MAIN).expect("TOML");
        let names: Vec<&str> = root
            .fields()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["z", "a", "m", "b"]);
    }

    #[test]
    fn the_depth_of_values_is_limited() {
        let key = ["a"; 60].join(".");
        let two = format!("{key} = {{{key} = 1}}");
        assert!(parse(&two, FileId::MAIN).is_ok());
        let three = format!("b = 1\n{key} = {{{key} = {{{key} = 1}}}}");
        let error = parse(&three, FileId::MAIN).expect_err("too deep");
        assert_eq!(error.message, "the value is inside of too many others");
        assert_eq!(error.position.map(|position| position.line), Some(2));
    }

    #[test]
    fn integers_have_every_radix_and_64_bits() {
        let text = "a = 0x2A\nb = 0o52\nc = 0b101010\nd = +4_2\ne = -9223372036854775808";
        let root = parse(text, FileId::MAIN).expect("TOML");
        let values: Vec<Value> = root.fields().iter().map(|(_, node)| plain(node)).collect();
        let same = Value::from(42);
        let least = Value::from(i64::MIN);
        assert_eq!(
            values,
            [same.clone(), same.clone(), same.clone(), same, least]
        );
        for number in ["18446744073709551616", "1e999", "inf", "nan"] {
            let text = format!("a = 1\nb = {number}");
            let error = parse(&text, FileId::MAIN).expect_err(number);
            let position = error.position.expect("a position");
            assert_eq!((position.line, position.column), (2, 5), "{number}");
        }
    }
}
