//! Positions in the text of a file, from byte offsets and from errors of the JSON parser.

use super::error::Position;

/// The number of a file of the configuration, in the order of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(pub usize);

impl FileId {
    /// The file that was given. The others are included.
    pub(super) const MAIN: Self = Self(0);
}

/// The start of a value: a file, and a byte of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub file: FileId,
    pub offset: usize,
}

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
        file: None,
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
        file: None,
        line: before.matches('\n').count().saturating_add(1),
        column,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{error::FieldPath, json_text};

    fn position(line: usize, column: usize) -> Option<Position> {
        Some(Position {
            file: None,
            line,
            column,
        })
    }

    #[test]
    fn fields_have_positions() {
        let text = "{\n  \"mark\": \"远程\", \"ports\": [ {\"a\": 1},\n {\"a\": 2} ]\n}";
        let root = json_text::parse(text, FileId::MAIN).expect("JSON");
        let found = |path: &FieldPath| position_at(text, root.nearest_to(path).place.offset);
        let ports = FieldPath::root("ports");
        let list = position(2, 26);
        assert_eq!(found(&ports), list);
        assert_eq!(found(&ports.index(1).field("a")), position(3, 8));
        assert_eq!(found(&ports.index(2)), list);
        assert_eq!(found(&FieldPath::default()), position(1, 1));
    }

    #[test]
    fn columns_count_characters() {
        let text = "{\n \"远程桌面\" 1}";
        let error = serde_json::from_str::<serde_json::Value>(text).expect_err("no colon");
        assert_eq!(position_of(text, &error), position(2, 9));
    }
}
