//! Errors in a configuration: the position, the field, the value found and the remedy. They never
//! contain the value of a key.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// All problems of one file. Prints one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The path of the file as given.
    pub file: PathBuf,
    /// The problems in the order of their discovery. At least one, and at most 100.
    pub problems: Vec<ConfigProblem>,
}

impl ConfigError {
    pub(super) fn of_file(file: &Path, fault: Fault) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![ConfigProblem {
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

/// One problem. Prints as `:LINE:COLUMN: FIELD FAULT`, to follow the name of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The position, or `None` when the problem concerns the whole file.
    pub position: Option<Position>,
    /// The field, or an empty path when the problem concerns the whole file.
    pub field: FieldPath,
    /// The fault of the field.
    pub fault: Fault,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(formatter, ":{line}:{column}")?;
        }
        let space = if self.field.0.is_empty() { "" } else { " " };
        write!(formatter, ": {}{space}{}", self.field, self.fault)
    }
}

/// A position in the file. Both numbers start at 1, and columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// The path of a field, as in `ports[1].port_key`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(pub Vec<PathSegment>);

/// One segment of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathSegment {
    /// A field of an object.
    Field(String),
    /// An element of a list, from 0.
    Index(usize),
}

impl FieldPath {
    /// Returns the path of a field of the file itself.
    #[must_use]
    pub fn root(name: &str) -> Self {
        Self::default().field(name)
    }

    /// Returns the path of a field of this object.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(PathSegment::Field(name.to_owned()))
    }

    /// Returns the path of an element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(PathSegment::Index(index))
    }

    fn with(&self, step: PathSegment) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// Returns the name of the innermost field.
    #[must_use]
    pub fn name(&self) -> &str {
        let names = self.0.iter().rev();
        names
            .filter_map(|step| {
                if let PathSegment::Field(name) = step {
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
                PathSegment::Field(name) if position == 0 => write!(formatter, "{name}")?,
                PathSegment::Field(name) => write!(formatter, ".{name}")?,
                PathSegment::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A problem and its remedy. The text follows the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file does not exist.
    #[error("no such file (looked in {}): set its path with --config FILE, or run `report quickstart` for an example", .0.display())]
    NoFile(PathBuf),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file has another text encoding.
    #[error("{0}")]
    NotText(crate::text::NotText),
    /// The file is not JSON.
    #[error("is not JSON: {message}{hint}")]
    Syntax {
        /// The message of the parser, without the position.
        message: String,
        /// A hint about a common mistake.
        hint: String,
    },
    /// The file is JSON, but not an object.
    #[error("contains {0}: a configuration is an object, {{\"mode\": …}}")]
    NotAnObject(String),
    /// A field occurs twice.
    #[error("{0}: keep one of them")]
    Duplicate(String),
    /// The field is unknown.
    #[error("is unknown here: {}", nearest_or_all(.nearest.as_deref(), .known))]
    UnknownField {
        /// The most similar known field.
        nearest: Option<String>,
        /// The known fields of this object.
        known: Vec<&'static str>,
    },
    /// The field belongs to other modes.
    #[error("is a field of mode \"{owner}\", and this file's mode is \"{mode}\": remove it here")]
    OtherMode {
        /// The mode that has the field.
        owner: &'static str,
        /// The mode of this file.
        mode: &'static str,
    },
    /// A client has a master key.
    #[error(
        "is not for a client: clients only need port keys, and the master key is for the master and its servers; remove it"
    )]
    ClientMasterKey,
    /// The value has the wrong type.
    #[error("is {found}: {expected}")]
    WrongType {
        /// The value found.
        found: String,
        /// The remedy.
        expected: String,
    },
    /// A required field is missing.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// The value is invalid, with the remedy.
    #[error("{0}")]
    Invalid(String),
    /// Two ports share a key.
    #[error(
        "is the same key as that of \"{other}\": each port needs a separate key; `report keygen` generates one"
    )]
    DuplicateKey {
        /// The mark of the other port.
        other: String,
    },
    /// Two listeners share an address.
    #[error(
        "(\"{found}\", of \"{mark}\") is also the address of \"{other}\": change the port of one of them"
    )]
    DuplicateAddress {
        /// The address.
        found: String,
        /// The mark of this port.
        mark: String,
        /// The mark of the other port.
        other: String,
    },
}

pub(super) fn nearest_or_all<T: fmt::Display>(nearest: Option<&str>, known: &[T]) -> String {
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

/// Returns the most similar word of `known`.
pub(super) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let written = written.to_lowercase();
    let scored = known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&written, word), word));
    // A score of 0.8 allows one swapped, missing or wrong letter. It rejects words that only share
    // a few letters.
    scored
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|one, two| one.0.total_cmp(&two.0))
        .map(|(_, word)| word.to_owned())
}

/// A valid setting that is probably a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The field.
    pub field: FieldPath,
    /// The warning and its remedy. The text follows the name of the field.
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
    fn nearest_finds_the_intended_word() {
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
    fn a_problem_prints_after_the_file_name() {
        let field = FieldPath::default()
            .field("ports")
            .index(1)
            .field("port_key");
        assert_eq!(field.name(), "port_key");
        let problem = ConfigProblem {
            position: Some(Position { line: 3, column: 7 }),
            field,
            fault: Fault::Invalid("is empty: write a key".to_owned()),
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
