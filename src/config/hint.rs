//! Hints beside a parser's error: mistakes that are often behind it. Looks at the text around the place where the parser gave up.

/// What is often behind a syntax error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// Reads on from the parser's words; empty when there is none.
    pub words: String,
    /// The byte that it is about, where that is not the one at which the parser gave up.
    pub place: Option<usize>,
}

/// A hint for the error with this message at byte `at` of the text.
pub(super) fn hint(text: &str, at: usize, message: &str) -> Hint {
    let at = floor(text, at);
    if let Some((place, character)) = typographic(text, at) {
        let plain = plain(character).unwrap_or_default();
        return Hint {
            words: format!(
                "; {character} (U+{:04X}) is not JSON: write {plain}",
                u32::from(character)
            ),
            place: Some(place),
        };
    }
    let line = line_at(text, at);
    // The end of a line may itself be the error; then it is about what is before.
    let line_of = |at| text.get(line_at(text, at)).unwrap_or("");
    let before = text.get(line.start..at).unwrap_or("").trim_end();
    let here = text.get(at..line.end).unwrap_or("");
    let words = if text.trim().is_empty() {
        "; the file is empty"
    } else if is_backslash(message, line_of(floor(text, at.saturating_sub(1)))) {
        "; in JSON a backslash is written twice, as in \"C:\\\\keys\\\\key.pem\"; in a path / does as well"
    } else if here.starts_with("//")
        || here.starts_with("/*")
        || here.starts_with('#')
        || before.ends_with('/')
    {
        "; JSON has no comments: remove it"
    } else if here.starts_with('\'') {
        "; JSON quotes with \", not with '"
    } else {
        ""
    };
    Hint {
        words: words.to_owned(),
        place: None,
    }
}

/// What to write in place of a character that keyboards and word processors put where JSON wants another.
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

/// The character that made the parser give up: there, or in the text that a plain quote opened and a typographic one was to close.
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
    // Pairs of them are meant as they are.
    let (place, character) = quotes().next().filter(|_| quotes().count() % 2 == 1)?;
    Some((start.saturating_add(place), character))
}

/// Where each string begins and ends, its quotes included; one that is not closed ends with the text.
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

/// Whether a backslash that was meant as one is behind the error: `\U` is no escape, and `\"` at the end of a path does not end the string.
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

/// The line around a byte, without its end.
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

/// The beginning of the character that this byte belongs to.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn complaint(text: &str) -> String {
        crate::config::parse(text, Path::new("c.json"), &|_| None)
            .expect_err(text)
            .to_string()
    }

    #[test]
    fn a_typographic_character_is_named_with_its_place_and_what_to_write() {
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
            let said = complaint(text);
            let expected = format!("c.json:{place}: is not JSON: ");
            assert!(
                said.starts_with(&expected),
                "{text:?}: not {expected:?} in {said}"
            );
            assert!(
                said.contains(character) && said.contains(plain),
                "{text:?}: {said}"
            );
        }
    }

    #[test]
    fn typographic_characters_in_a_text_are_not_blamed_for_another_error() {
        for text in [
            "{\"mark\": \"“A”：，\" 5}",
            "{\"mark\": \"“A”\"",
            "{\"a\": \"it’s\" 5}",
        ] {
            let said = complaint(text);
            assert!(!said.contains("U+"), "{text:?}: {said}");
        }
    }

    #[test]
    fn a_backslash_that_was_meant_as_one_is_explained() {
        for text in [
            r#"{"mode": "C:\Users\x\key.pem"}"#,
            r#"{"mode": "C:\users"}"#,
            r#"{"mode": "C:\\keys\",
                "path": 1}"#,
        ] {
            let said = complaint(text);
            assert!(
                said.contains(r#"a backslash is written twice, as in "C:\\keys\\key.pem""#),
                "{text}: {said}"
            );
        }
    }
}
