//! What is wrong with a configuration: where, which field, what was found there and what to write instead. Never a key's value.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{address::AddressError, secret::SecretError};
use crate::text::without_password;

/// Everything found wrong with one file. Prints one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// At least one, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn of_file(file: &Path, fault: Fault) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![Problem {
                position: None,
                field: FieldPath::default(),
                fault,
            }],
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{}{problem}", self.file.display())?;
        }
        Ok(())
    }
}

/// One thing that is wrong. Prints as `:LINE:COLUMN: FIELD FAULT`, to stand behind the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, unless the file as a whole is meant.
    pub position: Option<Position>,
    /// The field; empty when the file as a whole is meant.
    pub field: FieldPath,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(formatter, ":{line}:{column}")?;
        }
        let space = if self.field.0.is_empty() { "" } else { " " };
        write!(formatter, ": {}{space}{}", self.field, self.fault)
    }
}

/// A place in the file; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// The way to a field, as in `ports[1].port_key`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(pub Vec<Step>);

/// One step of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into an object.
    Field(String),
    /// Into a list, from 0.
    Index(usize),
}

impl FieldPath {
    /// The path to a field of the object here.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }

    /// The path to an element of the list here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// The name of the innermost field.
    #[must_use]
    pub fn name(&self) -> &str {
        let names = self.0.iter().rev();
        names
            .filter_map(|step| {
                if let Step::Field(name) = step {
                    Some(name.as_str())
                } else {
                    None
                }
            })
            .next()
            .unwrap_or("")
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if position == 0 => write!(formatter, "{name}")?,
                Step::Field(name) => write!(formatter, ".{name}")?,
                Step::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// What is wrong, and the remedy. Reads on from the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file does not exist.
    #[error("no such file (looked in {}): name one with --config FILE, or see one made with `report quickstart`", .0.display())]
    NoFile(PathBuf),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is text of another encoding.
    #[error("{0}")]
    NotText(crate::text::NotText),
    /// The file is not JSON.
    #[error("is not JSON: {message}{hint}")]
    Syntax {
        /// The parser's words, without the position.
        message: String,
        /// What is often meant there.
        hint: String,
    },
    /// The file is JSON, and no object.
    #[error("holds {0}: a configuration is an object, {{\"mode\": …}}")]
    NotAnObject(String),
    /// A field is there twice.
    #[error("{0}: keep one of them")]
    Twice(String),
    /// No such field.
    #[error("is unknown here: {}", nearest_or_all(.nearest.as_deref(), .known))]
    UnknownField {
        /// The known field that it resembles.
        nearest: Option<String>,
        /// What is known at this place.
        known: Vec<&'static str>,
    },
    /// A field that only other modes have.
    #[error("is a field of mode \"{owner}\", and this file's mode is \"{mode}\": remove it here")]
    OtherMode {
        /// The mode that knows it.
        owner: &'static str,
        /// The file's mode.
        mode: &'static str,
    },
    /// A client with a master key.
    #[error(
        "is not for a client: port keys are all it needs, and the master key stays with the master and its servers; remove it"
    )]
    ClientMasterKey,
    /// The value has another type.
    #[error("is {found}: {expected}")]
    WrongType {
        /// What stands there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// A field that must be there is not.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// A word that is none of the known.
    #[error("is \"{}\": {}", without_password(.found), nearest_or_all(.nearest.as_deref(), .known))]
    UnknownWord {
        /// What stands there.
        found: String,
        /// The known word that it resembles.
        nearest: Option<String>,
        /// Every known word.
        known: Vec<String>,
    },
    /// The text is no address.
    #[error("(\"{}\") {reason}", without_password(.found))]
    Address {
        /// What stands there.
        found: String,
        /// Why not.
        reason: AddressError,
    },
    /// The text names no master.
    #[error("{0}")]
    MasterAddress(crate::link::dial::AddressError),
    /// A key cannot be had.
    #[error("{0}")]
    Secret(SecretError),
    /// A quantity that cannot be read, or out of its range.
    #[error("is {found}: write {form} from {lowest} to {highest}")]
    Quantity {
        /// What stands there.
        found: String,
        /// How it is written.
        form: &'static str,
        /// The least that makes sense.
        lowest: String,
        /// The most.
        highest: String,
    },
    /// Two ports share a key.
    #[error(
        "is the same key as that of \"{other}\": each port needs its own; `report keygen` makes one"
    )]
    DuplicateKey {
        /// The other port's mark.
        other: String,
    },
    /// Two listeners share an address.
    #[error("(\"{found}\", of \"{mark}\") is taken by \"{other}\": give one of them another port")]
    DuplicateAddress {
        /// The address.
        found: String,
        /// What would listen there.
        mark: String,
        /// What listens there already.
        other: String,
    },
    /// Anything else, in its own words.
    #[error("{0}")]
    Other(String),
}

fn nearest_or_all<T: fmt::Display>(nearest: Option<&str>, known: &[T]) -> String {
    match nearest {
        Some(nearest) if known.len() > 6 => format!("did you mean \"{nearest}\"?"),
        Some(nearest) => format!("did you mean \"{nearest}\"? (known: {})", list(known)),
        None => format!("use one of {}", list(known)),
    }
}

fn list<T: fmt::Display>(words: &[T]) -> String {
    words
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Of `known`, the word that `written` was probably meant to be.
pub(super) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let written = written.to_lowercase();
    let scored = known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&written, word), word));
    // 0.8 takes a swapped, missing or wrong letter, and leaves words that only share a few.
    scored
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|one, two| one.0.total_cmp(&two.0))
        .map(|(_, word)| word.to_owned())
}

/// Something that works and was probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The field.
    pub field: FieldPath,
    /// What about it, and the remedy; reads on from the field's name.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.field, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_the_one_that_was_meant() {
        let known = ["listen_at", "log_level", "master_key", "mode"];
        for (written, meant) in [
            ("listenAt", "listen_at"),
            ("loglevel", "log_level"),
            ("masterkey", "master_key"),
            ("MODE", "mode"),
        ] {
            assert_eq!(nearest(written, known).as_deref(), Some(meant));
        }
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn a_problem_prints_behind_the_files_name() {
        let field = FieldPath::default()
            .field("ports")
            .index(1)
            .field("port_key");
        assert_eq!(field.name(), "port_key");
        let problem = Problem {
            position: Some(Position { line: 3, column: 7 }),
            field,
            fault: Fault::Secret(SecretError::Empty),
        };
        let error = ConfigError {
            file: "c.json".into(),
            problems: vec![problem.clone(), problem],
        };
        let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("c.json:3:7: ports[1].port_key is empty: "),
            "{}",
            lines[0]
        );
    }
}
