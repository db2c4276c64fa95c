//! Why something failed, in the parts in which it is told: what was seen, what is likely behind it, what can be done. The roles' logs and the doctor
//! say the same.

use std::fmt;

/// Why something failed. Prints as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What was seen.
    pub evidence: String,
    /// What is likely behind it; empty where that is the same.
    pub cause: String,
    /// What can be done.
    pub remedy: String,
}

impl Reason {
    /// From its parts.
    #[must_use]
    pub fn new(
        evidence: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Reason {
            evidence: evidence.into(),
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }

    /// From a sentence that says first what was seen, and behind its last semicolon what can be done; `otherwise` is the remedy when it has none.
    #[must_use]
    pub fn of_sentence(sentence: &str, otherwise: &str) -> Self {
        let parted = last_semicolon(sentence)
            .and_then(|at| Some((sentence.get(..at)?, sentence.get(at + 1..)?.trim_start())));
        let (evidence, remedy) = parted.unwrap_or((sentence, otherwise));
        Reason::new(evidence, "", remedy)
    }
}

/// Where the last semicolon is that is not in quotes or parentheses.
fn last_semicolon(sentence: &str) -> Option<usize> {
    let (mut depth, mut is_quoted, mut is_escaped, mut last) = (0_usize, false, false, None);
    for (at, letter) in sentence.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => last = Some(at),
            _ => {}
        }
    }
    last
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.evidence, &self.cause, &self.remedy];
        let said: Vec<&str> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        formatter.write_str(&said.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_what_there_is_to_say() {
        assert_eq!(
            Reason::new("seen", "behind it", "do").to_string(),
            "seen; behind it; do"
        );
        assert_eq!(Reason::new("seen", "", "do").to_string(), "seen; do");
    }

    #[test]
    fn a_sentence_is_taken_apart_at_its_last_semicolon() {
        assert_eq!(
            Reason::of_sentence("it says \"a; b\"; ask", "wait"),
            Reason::new("it says \"a; b\"", "", "ask")
        );
        let said = "it says \"a\\\"; b\"; check it (one: no; two: no)";
        assert_eq!(
            Reason::of_sentence(said, "wait"),
            Reason::new("it says \"a\\\"; b\"", "", "check it (one: no; two: no)")
        );
        assert_eq!(
            Reason::of_sentence("it is gone", "wait"),
            Reason::new("it is gone", "", "wait")
        );
    }
}
