//! Parses JSON with comments and trailing commas, and JSON5, into the tree of a file.

use jsonc_parser::{
    CollectOptions, ParseOptions, ParseStringErrorKind, Scanner, ScannerOptions,
    ast::{ObjectProp, Value},
    common::Ranged,
    errors::{ParseError, ParseErrorKind},
    parse_to_ast,
    tokens::Token,
};
use serde_json::Number;

use super::{
    format::{DEPTH_MAX, Format, SyntaxError, ValueError, depth_inside},
    node::{Node, NodeValue},
    position::{FileId, Place, position_at},
    syntax_hint::typographic_hint,
};

/// Parses JSON with comments and trailing commas.
pub(super) fn parse(text: &str, file: FileId) -> Result<Node, SyntaxError> {
    parse_with(text, file, Format::CommentedJson)
}

/// Parses JSON5.
pub(super) fn parse_json5(text: &str, file: FileId) -> Result<Node, SyntaxError> {
    parse_with(text, file, Format::Json5)
}

fn parse_with(text: &str, file: FileId, format: Format) -> Result<Node, SyntaxError> {
    let options = options(format);
    // The parser accepts line breaks in strings. A missing quote would become an error far below.
    if let Some(offset) = broken_string(text, &options) {
        return Err(error_at(
            text,
            offset,
            "the string does not end on its line",
        ));
    }
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options)
        .map_err(|error| syntax_error(text, &error, format))?;
    let Some(root) = parsed.value else {
        return Err(error_at(text, text.len(), "the file is empty"));
    };
    node(root, file, DEPTH_MAX).map_err(|error| error_at(text, error.offset, error.message))
}

fn options(format: Format) -> ParseOptions {
    let is_json5 = format == Format::Json5;
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_missing_commas: false,
        // No field accepts them.
        allow_non_finite_numbers: false,
        allow_loose_object_property_names: is_json5,
        allow_single_quoted_strings: is_json5,
        allow_hexadecimal_numbers: is_json5,
        allow_unary_plus_numbers: is_json5,
        allow_bare_decimal_point_numbers: is_json5,
        allow_extended_string_escapes: is_json5,
    }
}

/// Returns the start of the first string with a line break that no backslash precedes.
fn broken_string(text: &str, options: &ParseOptions) -> Option<usize> {
    let options = ScannerOptions {
        allow_single_quoted_strings: options.allow_single_quoted_strings,
        allow_hexadecimal_numbers: options.allow_hexadecimal_numbers,
        allow_unary_plus_numbers: options.allow_unary_plus_numbers,
        allow_bare_decimal_point_numbers: options.allow_bare_decimal_point_numbers,
        allow_non_finite_numbers: options.allow_non_finite_numbers,
        allow_extended_string_escapes: options.allow_extended_string_escapes,
    };
    let mut scanner = Scanner::new(text, &options);
    // The parser reports an invalid token, with the same position.
    while let Ok(Some(token)) = scanner.scan() {
        let written = text.get(scanner.token_start()..scanner.token_end());
        if matches!(token, Token::String(_)) && written.is_some_and(has_line_break) {
            return Some(scanner.token_start());
        }
    }
    None
}

fn has_line_break(written: &str) -> bool {
    let mut is_escaped = false;
    written.replace("\r\n", "\n").chars().any(|character| {
        let is_break = matches!(character, '\n' | '\r') && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        is_break
    })
}

fn error_at(text: &str, offset: usize, message: &str) -> SyntaxError {
    SyntaxError {
        position: position_at(text, offset),
        message: message.to_owned(),
        hint: String::new(),
    }
}

fn syntax_error(text: &str, error: &ParseError, format: Format) -> SyntaxError {
    let offset = error.range().start;
    let mut message = error.kind().to_string();
    // The other parsers begin with a small letter.
    if let Some(first) = message.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    SyntaxError {
        hint: hint(text, offset, error.kind(), format),
        ..error_at(text, offset, &message)
    }
}

fn hint(text: &str, offset: usize, kind: &ParseErrorKind, format: Format) -> String {
    let here = text.get(offset..).and_then(|rest| rest.chars().next());
    if let Some(hint) = here.and_then(|character| typographic_hint(character, format)) {
        return hint;
    }
    let words = match kind {
        ParseErrorKind::SingleQuotedStringsNotAllowed
        | ParseErrorKind::ExpectedStringObjectProperty => {
            "; write it in double quotes, or name the file .json5"
        }
        ParseErrorKind::HexadecimalNumbersNotAllowed
        | ParseErrorKind::UnaryPlusNumbersNotAllowed
        | ParseErrorKind::BareDecimalPointNumbersNotAllowed => {
            "; write a plain number, or name the file .json5"
        }
        ParseErrorKind::String(ParseStringErrorKind::UnterminatedStringLiteral) => "",
        ParseErrorKind::String(_) => {
            "; a backslash is written twice, as in \"C:\\\\keys\\\\key.pem\"; paths may use / instead"
        }
        _ if here == Some('#') => "; a comment starts with //",
        _ => "",
    };
    words.to_owned()
}

/// Converts a value in which others may have this depth.
fn node(value: Value<'_>, file: FileId, depth: usize) -> Result<Node, ValueError> {
    let offset = value.start();
    let depth = depth_inside(depth, offset)?;
    let value = match value {
        Value::NullKeyword(_) => NodeValue::Null,
        Value::BooleanLit(value) => NodeValue::Bool(value.value),
        Value::NumberLit(written) => {
            let no_number = ValueError {
                offset,
                message: "the number does not fit into 64 bits",
            };
            NodeValue::Number(number(written.value).ok_or(no_number)?)
        }
        Value::StringLit(text) => NodeValue::Text(text.value.into_owned()),
        Value::Array(array) => {
            let elements = array.elements.into_iter();
            let elements = elements.map(|value| node(value, file, depth));
            NodeValue::List(elements.collect::<Result<_, _>>()?)
        }
        Value::Object(object) => {
            let field = |field: ObjectProp<'_>| -> Result<(String, Node), ValueError> {
                Ok((field.name.into_string(), node(field.value, file, depth)?))
            };
            let fields = object.properties.into_iter().map(field);
            NodeValue::Object(fields.collect::<Result<_, _>>()?)
        }
    };
    let place = Place { file, offset };
    Ok(Node { place, value })
}

/// Returns the value of a number, which JSON5 may write with a plus sign, in hexadecimal, or with a
/// point at an end.
fn number(written: &str) -> Option<Number> {
    let written = written.strip_prefix('+').unwrap_or(written);
    let (sign, digits) = match written.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", written),
    };
    let hexadecimal = digits.strip_prefix("0x").or(digits.strip_prefix("0X"));
    if let Some(digits) = hexadecimal {
        let signed = format!("{sign}{digits}");
        let positive = u64::from_str_radix(&signed, 16).map(Number::from);
        return positive
            .or_else(|_| i64::from_str_radix(&signed, 16).map(Number::from))
            .ok();
    }
    let number = serde_json::from_str::<Number>(written).ok();
    number.or_else(|| Number::from_f64(written.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json5_numbers_have_the_value_of_decimal_ones() {
        for (written, decimal) in [
            ("42", "42"),
            ("+42", "42"),
            ("0x2a", "42"),
            ("0XFFFFFFFFFFFFFFFF", "18446744073709551615"),
            ("-0x10", "-16"),
            (".5", "0.5"),
            ("-.5", "-0.5"),
            ("5.", "5.0"),
            ("+1e3", "1e3"),
        ] {
            let expected = serde_json::from_str::<Number>(decimal).expect(decimal);
            assert_eq!(number(written), Some(expected), "{written}");
        }
        for written in ["1e999", "0x10000000000000000", "-0x8000000000000001"] {
            assert_eq!(number(written), None, "{written}");
        }
    }

    #[test]
    fn the_depth_of_values_is_limited() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(DEPTH_MAX), FileId::MAIN).is_ok());
        for depth in [DEPTH_MAX + 1, 100_000] {
            let error = parse(&nested(depth), FileId::MAIN).expect_err("too deep");
            let column = error.position.expect("a position").column;
            assert!(column > DEPTH_MAX, "{column}");
        }
    }

    #[test]
    fn only_a_continued_line_may_end_inside_a_string() {
        for (written, expected) in [
            ("\"a\"", false),
            ("\"a\nb\"", true),
            ("\"a\rb\"", true),
            ("\"a\\\nb\"", false),
            ("\"a\\\r\nb\"", false),
            ("\"a\\\\\nb\"", true),
        ] {
            assert_eq!(has_line_break(written), expected, "{written:?}");
        }
    }
}
