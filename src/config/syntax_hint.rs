//! Hints for syntax errors of JSON: common mistakes in the text around the position of the error.

use super::format::Format;

/// The likely cause of a syntax error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxHint {
    /// The text to append to the parser's message. Empty without a hint.
    pub text: String,
    /// The byte offset of the cause, if it differs from that of the error.
    pub offset: Option<usize>,
}

/// Returns a hint for the error with this message at byte `at` of the text.
pub(super) fn hint(text: &str, at: usize, message: &str) -> SyntaxHint {
    let at = floor(text, at);
    if let Some((place, character)) = typographic(text, at) {
        return SyntaxHint {
            text: typographic_hint(character, Format::Json).unwrap_or_default(),
            offset: Some(place),
        };
    }
    let line = line_at(text, at);
    // An error at the end of a line concerns the text before it.
    let line_of = |at| text.get(line_at(text, at)).unwrap_or("");
    let before = text.get(line.start..at).unwrap_or("").trim_end();
    let here = text.get(at..line.end).unwrap_or("");
    let words = if text.trim().is_empty() {
        "; the file is empty"
    } else if is_backslash(message, line_of(floor(text, at.saturating_sub(1)))) {
        "; in JSON a backslash is written twice, as in \"C:\\\\keys\\\\key.pem\"; paths may use / instead"
    } else if here.starts_with("//")
        || here.starts_with("/*")
        || here.starts_with('#')
        || before.ends_with('/')
    {
        "; JSON has no comments: remove it, or name the file .jsonc"
    } else if here.starts_with('\'') {
        "; JSON quotes with \", not with ': replace it, or name the file .json5"
    } else if message == "trailing comma" {
        "; JSON has no comma after the last element: remove it, or name the file .jsonc"
    } else {
        ""
    };
    SyntaxHint {
        text: words.to_owned(),
        offset: None,
    }
}

/// Returns the hint for a character that a keyboard or word processor replaced.
pub(super) fn typographic_hint(character: char, format: Format) -> Option<String> {
    let (plain, format) = (plain(character)?, format.name());
    let code = u32::from(character);
    Some(format!(
        "; {character} (U+{code:04X}) is not {format}: write {plain}"
    ))
}

/// Returns the character of JSON that a keyboard or word processor replaced by `character`.
fn plain(character: char) -> Option<&'static str> {
    Some(match character {
        '‘' | '’' | '‚' | '＇' => "\"",
        _ if is_double_quote(character) => "\"",
        '：' => ":",
        '，' | '、' => ",",
        '｛' => "{",
        '｝' => "}",
        '［' | '【' => "[",
        '］' | '】' => "]",
        '\u{a0}' | '\u{3000}' => "a plain space",
        _ => return None,
    })
}

fn is_double_quote(character: char) -> bool {
    matches!(
        character,
        '“' | '”' | '„' | '‟' | '«' | '»' | '＂' | '「' | '」' | '『' | '』'
    )
}

/// Returns the typographic character that caused the error. It is either at the error, or inside a
/// string that it should have closed.
fn typographic(text: &str, at: usize) -> Option<(usize, char)> {
    let here = text.get(at..)?.chars().next();
    if let Some(character) = here.filter(|character| plain(*character).is_some())
        && !strings(text).any(|(start, end)| start < at && at < end)
    {
        return Some((at, character));
    }
    let is_behind = |end: usize| {
        text.get(end..at)
            .is_none_or(|between| between.trim().is_empty())
    };
    let (start, end) = strings(text)
        .take_while(|(start, _)| *start <= at)
        .last()
        .filter(|(_, end)| is_behind(*end))?;
    let line_end = line_at(text, start).end;
    let quotes = || {
        text.get(start..end.min(line_end))
            .unwrap_or("")
            .char_indices()
            .filter(|(_, sign)| is_double_quote(*sign))
    };
    // Paired typographic quotes are intended.
    let (place, character) = quotes().next().filter(|_| quotes().count() % 2 == 1)?;
    Some((start.saturating_add(place), character))
}

/// Returns the range of each string including its quotes. An unclosed string ends with the text.
fn strings(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut signs = text.char_indices();
    std::iter::from_fn(move || {
        let (start, _) = signs.find(|(_, sign)| *sign == '"')?;
        let mut is_escaped = false;
        let end = signs.find(|(_, sign)| {
            let is_end = *sign == '"' && !is_escaped;
            is_escaped = *sign == '\\' && !is_escaped;
            is_end
        });
        Some((
            start,
            end.map_or(text.len(), |(end, _)| end.saturating_add(1)),
        ))
    })
}

/// Whether an unescaped backslash caused the error. `\U` is not an escape, and `\"` at the end of a
/// path does not end the string.
fn is_backslash(message: &str, line: &str) -> bool {
    let is_escape = [
        "invalid escape",
        "invalid unicode",
        "lone leading surrogate",
        "unexpected end of hex escape",
    ];
    is_escape.iter().any(|words| message.starts_with(words))
        || (message.starts_with("control character") && line.contains("\\\""))
}

/// Returns the line around a byte, without its line end.
fn line_at(text: &str, at: usize) -> std::ops::Range<usize> {
    let start = text
        .get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |end| end.saturating_add(1));
    let end = text
        .get(at..)
        .and_then(|rest| rest.find('\n'))
        .map_or(text.len(), |length| at.saturating_add(length));
    start..end
}

/// Returns the start of the character that contains this byte.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn error_line(text: &str) -> String {
        crate::config::parse(text, Path::new("c.json"), &|_| None)
            .expect_err(text)
            .to_string()
    }

    #[test]
    fn typographic_characters_are_located_with_a_remedy() {
        for (text, place, character, plain) in [
            ("{“mode”: 1}", "1:2", "“ (U+201C)", "write \""),
            ("{\n \"mode\": “master”}", "2:10", "“ (U+201C)", "write \""),
            ("{\"mode\": «master»}", "1:10", "« (U+00AB)", "write \""),
            ("{\"远程”: \"master\"}", "1:5", "” (U+201D)", "write \""),
            ("{\"mode\": \"master”}", "1:17", "” (U+201D)", "write \""),
            ("{\"mode\": \"master”\n}", "1:17", "” (U+201D)", "write \""),
            ("{\"mode\"： \"master\"}", "1:8", "： (U+FF1A)", "write :"),
            ("{\"mode\" ：\"master\"}", "1:9", "： (U+FF1A)", "write :"),
            (
                "{\"mark\": \"远程\"，\"mode\": 1}",
                "1:14",
                "， (U+FF0C)",
                "write ,",
            ),
            (
                "{\"mode\": 1， \"path\": 2}",
                "1:11",
                "， (U+FF0C)",
                "write ,",
            ),
            ("{\"mode\": ＂master＂}", "1:10", "＂ (U+FF02)", "write \""),
            (
                "{\u{a0}\"mode\": 1}",
                "1:2",
                "(U+00A0)",
                "write a plain space",
            ),
        ] {
            let message = error_line(text);
            let expected = format!("c.json:{place}: is not JSON: ");
            assert!(
                message.starts_with(&expected),
                "{text:?}: not {expected:?} in {message}"
            );
            assert!(
                message.contains(character) && message.contains(plain),
                "{text:?}: {message}"
            );
        }
    }

    #[test]
    fn typographic_characters_inside_strings_cause_no_hint() {
        for text in [
            "{\"mark\": \"“A”：，\" 5}",
            "{\"mark\": \"“A”\"",
            "{\"a\": \"it’s\" 5}",
        ] {
            let message = error_line(text);
            assert!(!message.contains("U+"), "{text:?}: {message}");
        }
    }

    #[test]
    fn unescaped_backslashes_are_explained() {
        for text in [
            r#"{"mode": "C:\Users\x\key.pem"}"#,
            r#"{"mode": "C:\users"}"#,
            r#"{"mode": "C:\\keys\",
                "path": 1}"#,
        ] {
            let message = error_line(text);
            assert!(
                message.contains(r#"a backslash is written twice, as in "C:\\keys\\key.pem""#),
                "{text}: {message}"
            );
        }
    }
}
