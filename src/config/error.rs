//! Errors in a configuration: the position, the field, the value found and the remedy. They never
//! contain the value of a key.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
};

/// All problems of one configuration. Prints one line for each problem.
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
            let file = problem.included_file().unwrap_or(&self.file);
            write!(formatter, "{separator}{}{problem}", file.display())?;
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

impl ConfigProblem {
    /// Returns the included file that has the problem, or `None` for the file that was given.
    #[must_use]
    pub fn included_file(&self) -> Option<&Path> {
        self.position.as_ref()?.file.as_deref()
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column, .. }) = &self.position {
            write!(formatter, ":{line}:{column}")?;
        }
        let space = if self.field.0.is_empty() { "" } else { " " };
        write!(formatter, ": {}{space}{}", self.field, self.fault)
    }
}

/// A position in a file. Both numbers start at 1, and columns count characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The path of an included file, or `None` for the file that was given.
    pub file: Option<PathBuf>,
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

/// A problem and its remedy. The text follows the name of the field. `{:#}` omits the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The file does not exist.
    NoFile(PathBuf),
    /// The file cannot be read.
    Unreadable(String),
    /// The file has another text encoding.
    NotText(crate::text::NotText),
    /// The file does not have the format that the ending of its name says.
    Syntax {
        /// The name of the format.
        format: &'static str,
        /// The message of the parser, without the position.
        message: String,
        /// A hint about a common mistake.
        hint: String,
    },
    /// The file contains another value than an object.
    NotAnObject(String),
    /// A field occurs twice, in one file or in two.
    Duplicate(String),
    /// The field is unknown.
    UnknownField {
        /// The most similar known field.
        nearest: Option<String>,
        /// The known fields of this object.
        known: Vec<&'static str>,
    },
    /// The field belongs to other modes.
    OtherMode {
        /// The mode that has the field.
        owner: &'static str,
        /// The mode of this file.
        mode: &'static str,
    },
    /// A client has a master key.
    ClientMasterKey,
    /// The value has the wrong type.
    WrongType {
        /// The value found.
        found: String,
        /// The remedy.
        expected: String,
    },
    /// A required field is missing, with the remedy.
    Missing(&'static str),
    /// The value is invalid.
    Invalid(InvalidValue),
    /// Two ports share a key.
    DuplicateKey {
        /// The mark of the other port.
        other: String,
    },
    /// Two listeners share an address.
    DuplicateAddress {
        /// The address.
        found: String,
        /// The mark of this port.
        mark: String,
        /// The mark of the other port.
        other: String,
    },
}

impl Fault {
    /// Returns the remedy, unless the text of the problem contains it.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Fault::NoFile(_) => {
                "set its path with --config FILE, or run `report quickstart` for an example".into()
            }
            Fault::NotAnObject(_) => "a configuration is an object, {\"mode\": …}".into(),
            Fault::Duplicate(_) => "keep one of them".into(),
            Fault::UnknownField { nearest, known } => {
                nearest_or_all(nearest.as_deref(), known).into()
            }
            Fault::OtherMode { .. } => "remove it here".into(),
            Fault::ClientMasterKey => {
                "remove it; clients only need port keys, and the master key is for the master and its servers".into()
            }
            Fault::WrongType { expected, .. } => expected.into(),
            Fault::Missing(remedy) => (*remedy).into(),
            Fault::Invalid(value) => return value.remedy().map(Cow::Borrowed),
            Fault::DuplicateKey { .. } => {
                "each port needs a separate key; `report keygen` generates one".into()
            }
            Fault::DuplicateAddress { .. } => "change the port of one of them".into(),
            Fault::Unreadable(_) | Fault::NotText(_) | Fault::Syntax { .. } => return None,
        })
    }

    fn write_problem(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoFile(path) => {
                write!(formatter, "no such file (looked in {})", path.display())
            }
            Fault::Unreadable(reason) => write!(formatter, "cannot be read: {reason}"),
            Fault::NotText(error) => write!(formatter, "{error}"),
            Fault::Syntax {
                format,
                message,
                hint,
            } => write!(formatter, "is not {format}: {message}{hint}"),
            Fault::NotAnObject(found) => write!(formatter, "contains {found}"),
            Fault::Duplicate(problem) => formatter.write_str(problem),
            Fault::UnknownField { .. } => formatter.write_str("is unknown here"),
            Fault::OtherMode { owner, mode } => write!(
                formatter,
                "is a field of mode \"{owner}\", and this file's mode is \"{mode}\""
            ),
            Fault::ClientMasterKey => formatter.write_str("is not for a client"),
            Fault::WrongType { found, .. } => write!(formatter, "is {found}"),
            Fault::Missing(_) => formatter.write_str("is missing"),
            Fault::Invalid(value) => write!(formatter, "{value:#}"),
            Fault::DuplicateKey { other } => {
                write!(formatter, "is the same key as that of \"{other}\"")
            }
            Fault::DuplicateAddress { found, mark, other } => write!(
                formatter,
                "(\"{found}\", of \"{mark}\") is also the address of \"{other}\""
            ),
        }
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_problem(formatter)?;
        write_remedy(formatter, self.remedy().as_deref())
    }
}

/// Appends the remedy to a problem, unless the format is `{:#}`.
pub(super) fn write_remedy(
    formatter: &mut fmt::Formatter<'_>,
    remedy: Option<&str>,
) -> fmt::Result {
    match remedy {
        Some(remedy) if !formatter.alternate() => write!(formatter, ": {remedy}"),
        _ => Ok(()),
    }
}

/// The problem of a value, and its remedy. `{:#}` omits the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    problem: String,
    remedy: Option<String>,
}

impl InvalidValue {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        InvalidValue {
            problem: problem.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// Converts an error of a value. serde passes errors as texts, so a remedy is what `{:#}` omits.
    pub(super) fn from_error(error: &dyn fmt::Display) -> Self {
        let (text, problem) = (error.to_string(), format!("{error:#}"));
        let remedy = text
            .strip_prefix(problem.as_str())
            .and_then(|rest| rest.strip_prefix(": "))
            .map(str::to_owned);
        InvalidValue { problem, remedy }
    }

    /// Returns the remedy, unless the problem contains it.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

impl std::error::Error for InvalidValue {}

impl fmt::Display for InvalidValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.problem)?;
        write_remedy(formatter, self.remedy())
    }
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
    fn a_remedy_is_separate_and_the_last_part_of_the_text() {
        let fault = Fault::Invalid(InvalidValue::new("is empty", "write a key"));
        assert_eq!(fault.to_string(), "is empty: write a key");
        assert_eq!(format!("{fault:#}"), "is empty");
        assert_eq!(fault.remedy().as_deref(), Some("write a key"));
        let known = InvalidValue::new("is \"a: b\"", "write {\"c\": 1}");
        assert_eq!(InvalidValue::from_error(&known), known);
        let foreign = InvalidValue::from_error(&"is odd: correct it");
        assert_eq!(foreign.to_string(), "is odd: correct it");
        assert_eq!(foreign.remedy(), None);
    }

    #[test]
    fn a_problem_prints_after_the_file_name() {
        let field = FieldPath::default()
            .field("ports")
            .index(1)
            .field("port_key");
        assert_eq!(field.name(), "port_key");
        let problem = ConfigProblem {
            position: Some(Position {
                file: None,
                line: 3,
                column: 7,
            }),
            field,
            fault: Fault::Invalid(InvalidValue::new("is empty", "write a key")),
        };
        let mut included = problem.clone();
        included.position.as_mut().expect("a position").file = Some("d/e.toml".into());
        let error = ConfigError {
            file: "c.json".into(),
            problems: vec![problem, included],
        };
        let text = "3:7: ports[1].port_key is empty: write a key";
        assert_eq!(error.to_string(), format!("c.json:{text}\nd/e.toml:{text}"));
    }
}
