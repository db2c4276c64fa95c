//! Text of peers may hold characters that move the cursor, begin a new line or turn the order of reading around: in a log they are shown, not obeyed.

use std::{borrow::Cow, fmt::Write as _};

/// The text with such characters written as `\u{…}`: one line, without colours.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    escape(
        text,
        |_| None,
        |letter, shown| {
            let _ = write!(shown, "{}", letter.escape_unicode());
        },
    )
}

/// A JSON text with such characters written as JSON writes them, `\uXXXX`, which means the same. Outside of strings it has none.
#[must_use]
pub fn shown_in_json(text: &str) -> Cow<'_, str> {
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

/// The line with such characters written as `\u{…}`. The colours that a terminal gets remain.
pub fn escaped(line: &str) -> Cow<'_, str> {
    escape(line, colour, |letter, shown| {
        let _ = write!(shown, "{}", letter.escape_unicode());
    })
}

/// The text with such characters written by `write`, but for what `kept` says is so long.
fn escape<'t>(
    line: &'t str,
    kept: impl Fn(&str) -> Option<usize>,
    write: impl Fn(char, &mut String),
) -> Cow<'t, str> {
    if !line.contains(is_hostile) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len().saturating_add(16));
    let mut rest = line;
    while let Some(letter) = rest.chars().next() {
        let taken = kept(rest).unwrap_or(letter.len_utf8());
        let (here, behind) = rest.split_at(taken);
        if taken == letter.len_utf8() && is_hostile(letter) {
            write(letter, &mut shown);
        } else {
            shown.push_str(here);
        }
        rest = behind;
    }
    Cow::Owned(shown)
}

/// The length of the change of colour that begins here. The formatter's own: it shows those in fields as text.
fn colour(rest: &str) -> Option<usize> {
    let parameters = rest.strip_prefix("\x1b[")?;
    let end = parameters.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
    parameters
        .get(end..)?
        .starts_with('m')
        .then_some(end.saturating_add(3))
}

/// C0 and C1, the ends of lines and paragraphs, the marks of direction, and the byte order mark.
fn is_hostile(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
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
            assert_eq!(escaped(line), shown);
        }
    }

    #[test]
    fn text_of_others_brings_no_colours_and_in_json_means_the_same() {
        let text = "a\u{1b}[31mb\u{202e}c\u{2028}é\n";
        assert_eq!(shown(text), "a\\u{1b}[31mb\\u{202e}c\\u{2028}é\\u{a}");
        let json = serde_json::to_string(text).expect("text");
        let shown = shown_in_json(&json);
        assert!(
            !shown.contains(is_hostile) && shown.contains("\\u202e"),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<String>(&shown).expect("JSON"), text);
    }
}
