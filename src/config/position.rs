//! Positions in a text, from byte offsets and from errors of the JSON parser.

use super::error::Position;

/// Returns the parser's message without its line and column, because its columns count bytes.
pub(super) fn parser_message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message
        .split_once(" at line ")
        .map_or_else(|| message.clone(), |(message, _)| message.to_owned())
}

/// Returns the byte offset of a syntax error.
pub(super) fn byte_of(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    lines_before
        .saturating_add(error.column().saturating_sub(1))
        .min(text.len())
}

pub(super) fn position_of(text: &str, error: &serde_json::Error) -> Option<Position> {
    let line = text.split('\n').nth(error.line().checked_sub(1)?)?;
    let bytes = line.len().min(error.column().saturating_sub(1));
    let column = line
        .char_indices()
        .take_while(|(start, _)| *start < bytes)
        .count()
        .saturating_add(1);
    Some(Position {
        line: error.line(),
        column,
    })
}

/// Returns the position of the character that starts at this byte.
pub(super) fn position_at(text: &str, byte: usize) -> Option<Position> {
    let before = text.get(..byte)?;
    let line_start = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
    let column = before.get(line_start..)?.chars().count().saturating_add(1);
    Some(Position {
        line: before.matches('\n').count().saturating_add(1),
        column,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{error::FieldPath, node::Node};

    #[test]
    fn fields_have_positions() {
        let text = "{\n  \"mark\": \"远程\", \"ports\": [ {\"a\": 1},\n {\"a\": 2} ]\n}";
        let root = Node::parse(text).expect("JSON");
        let position = |path: &FieldPath| position_at(text, root.nearest_to(path).offset);
        let ports = FieldPath::root("ports");
        let list = Some(Position {
            line: 2,
            column: 26,
        });
        assert_eq!(position(&ports), list);
        assert_eq!(
            position(&ports.index(1).field("a")),
            Some(Position { line: 3, column: 8 })
        );
        assert_eq!(position(&ports.index(2)), list);
        assert_eq!(
            position(&FieldPath::default()),
            Some(Position { line: 1, column: 1 })
        );
    }

    #[test]
    fn columns_count_characters() {
        let text = "{\n \"远程桌面\" 1}";
        let error = Node::parse(text).expect_err("no colon");
        assert_eq!(
            position_of(text, &error),
            Some(Position { line: 2, column: 9 })
        );
    }
}
