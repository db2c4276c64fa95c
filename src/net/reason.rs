//! The reason of a failure in three parts: the evidence, the likely cause and the remedy. The
//! roles' logs and the doctor print the same parts.

use std::fmt;

/// The reason of a failure. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The observation.
    pub evidence: String,
    /// The likely cause. Empty if the evidence is the cause.
    pub cause: String,
    /// The action that helps.
    pub remedy: String,
}

impl Reason {
    /// Creates a reason from its parts.
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

    /// Splits a sentence at its last semicolon into evidence and remedy. Uses `default_remedy` if
    /// there is no semicolon.
    #[must_use]
    pub fn from_sentence(sentence: &str, default_remedy: &str) -> Self {
        let parts = last_semicolon(sentence)
            .and_then(|at| Some((sentence.get(..at)?, sentence.get(at + 1..)?.trim_start())));
        let (evidence, remedy) = parts.unwrap_or((sentence, default_remedy));
        Reason::new(evidence, "", remedy)
    }
}

/// Returns the position of the last semicolon outside quotes and parentheses.
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
        let present: Vec<&str> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        formatter.write_str(&present.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_present_parts() {
        assert_eq!(
            Reason::new("seen", "behind it", "do").to_string(),
            "seen; behind it; do"
        );
        assert_eq!(Reason::new("seen", "", "do").to_string(), "seen; do");
    }

    #[test]
    fn from_sentence_splits_at_last_semicolon() {
        assert_eq!(
            Reason::from_sentence("it says \"a; b\"; ask", "wait"),
            Reason::new("it says \"a; b\"", "", "ask")
        );
        let sentence = "it says \"a\\\"; b\"; check it (one: no; two: no)";
        assert_eq!(
            Reason::from_sentence(sentence, "wait"),
            Reason::new("it says \"a\\\"; b\"", "", "check it (one: no; two: no)")
        );
        assert_eq!(
            Reason::from_sentence("it is gone", "wait"),
            Reason::new("it is gone", "", "wait")
        );
    }
}
