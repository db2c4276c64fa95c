//! Escapes control characters in text from peers. They could move the cursor, start a new line or
//! reverse the reading order in a terminal.

use std::{borrow::Cow, fmt::Write as _};

/// Escapes control characters as `\u{…}`. The result is one line without colours.
#[must_use]
pub fn escape_text(text: &str) -> Cow<'_, str> {
    escape(
        text,
        |_| None,
        |letter, shown| {
            let _ = write!(shown, "{}", letter.escape_unicode());
        },
    )
}

/// Escapes control characters in a JSON text as `\uXXXX`, which JSON defines as equivalent. Valid
/// JSON contains none outside of strings.
#[must_use]
pub fn escape_json(text: &str) -> Cow<'_, str> {
    escape(
        text,
        |_| None,
        |letter, shown| {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        },
    )
}

/// Escapes control characters in a log line as `\u{…}` and keeps the colours for a terminal.
pub(super) fn escape_log_line(line: &str) -> Cow<'_, str> {
    escape(line, colour, |letter, shown| {
        let _ = write!(shown, "{}", letter.escape_unicode());
    })
}

/// Replaces control characters by the output of `write`. `kept` returns the length of a sequence to
/// copy unchanged.
fn escape<'t>(
    line: &'t str,
    kept: impl Fn(&str) -> Option<usize>,
    write: impl Fn(char, &mut String),
) -> Cow<'t, str> {
    if !line.contains(is_control_character) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len().saturating_add(16));
    let mut rest = line;
    while let Some(letter) = rest.chars().next() {
        let taken = kept(rest).unwrap_or(letter.len_utf8());
        let (here, tail) = rest.split_at(taken);
        if taken == letter.len_utf8() && is_control_character(letter) {
            write(letter, &mut shown);
        } else {
            shown.push_str(here);
        }
        rest = tail;
    }
    Cow::Owned(shown)
}

/// Returns the length of the colour sequence at the start of `rest`. Only the formatter writes such
/// sequences unescaped: it escapes those in field values.
fn colour(rest: &str) -> Option<usize> {
    let parameters = rest.strip_prefix("\x1b[")?;
    let end = parameters.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
    parameters
        .get(end..)?
        .starts_with('m')
        .then_some(end.saturating_add(3))
}

/// Whether the character is in C0 or C1, separates lines or paragraphs, sets the text direction, or
/// is the byte order mark.
fn is_control_character(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        for (line, shown) in [
            ("远程桌面 🌉 é", "远程桌面 🌉 é"),
            ("a\nERROR b\r", "a\\u{a}ERROR b\\u{d}"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}[2J\u{9b}2J", "\\u{1b}[2J\\u{9b}2J"),
            (
                "\u{202e}\u{2066}\u{200f}\u{2028}\u{feff}\u{7f}",
                "\\u{202e}\\u{2066}\\u{200f}\\u{2028}\\u{feff}\\u{7f}",
            ),
            ("\u{1b}[33m WARN\u{1b}[0m", "\u{1b}[33m WARN\u{1b}[0m"),
        ] {
            assert_eq!(escape_log_line(line), shown);
        }
    }

    #[test]
    fn peer_text_loses_colours_and_json_keeps_its_value() {
        let text = "a\u{1b}[31mb\u{202e}c\u{2028}é\n";
        assert_eq!(escape_text(text), "a\\u{1b}[31mb\\u{202e}c\\u{2028}é\\u{a}");
        let json = serde_json::to_string(text).expect("text");
        let shown = escape_json(&json);
        assert!(
            !shown.contains(is_control_character) && shown.contains("\\u202e"),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<String>(&shown).expect("JSON"), text);
    }
}
