//! Text from a peer as evidence in a message: one line, without control characters.

/// The maximum number of characters of evidence: one line.
const MAX_EVIDENCE: usize = 120;

/// Returns the first line of text, without HTML tags and control characters.
pub(super) fn first_line(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '<' => in_tag = true,
            '>' if in_tag => in_tag = false,
            _ if in_tag => {}
            '\n' | '\r' if !text.trim().is_empty() => break,
            character if character.is_control() || character == char::REPLACEMENT_CHARACTER => {
                text.push(' ')
            }
            character => text.push(character),
        }
    }
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(MAX_EVIDENCE)
        .collect()
}
