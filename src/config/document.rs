//! Parses a file into the raw structs. Checks syntax, unknown fields and types, and locates each
//! problem in the file. This module does not know the meaning of values.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    error::{ConfigProblem, Fault, FieldPath, PathSegment, Position, nearest},
    known_fields::{CLIENT, KnownFields, MASTER, PORT, SERVER},
    secret::SECRET_FORMS,
    syntax_hint::hint,
};
use crate::text::without_password;

/// The `mode` of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Master,
    Server,
    Client,
}

impl Mode {
    pub(super) const ALL: [Mode; 3] = [Mode::Master, Mode::Server, Mode::Client];

    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Master => "master",
            Mode::Server => "server",
            Mode::Client => "client",
        }
    }

    fn known(self) -> &'static KnownFields {
        match self {
            Mode::Master => &MASTER,
            Mode::Server => &SERVER,
            Mode::Client => &CLIENT,
        }
    }
}

/// A parsed JSON file with the problems found so far.
pub(super) struct ConfigDocument<'a> {
    text: &'a str,
    value: Value,
    problems: Vec<ConfigProblem>,
}

impl<'a> ConfigDocument<'a> {
    /// Parses the text as a JSON object.
    pub(super) fn parse(text: &'a str) -> Result<Self, Vec<ConfigProblem>> {
        let problem = |position, fault| {
            vec![ConfigProblem {
                position,
                field: FieldPath::default(),
                fault,
            }]
        };
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let message = parser_message(&error);
            let hint = hint(text, byte_of(text, &error), &message);
            let position = hint.offset.map_or_else(
                || position_of(text, &error),
                |place| position_at(text, place),
            );
            problem(
                position,
                Fault::Syntax {
                    message,
                    hint: hint.text,
                },
            )
        })?;
        if !value.is_object() {
            return Err(problem(None, Fault::NotAnObject(describe(&value, false))));
        }
        Ok(Self {
            text,
            value,
            problems: Vec::new(),
        })
    }

    /// Returns the mode of the file if it is valid.
    pub(super) fn mode(&mut self) -> Option<Mode> {
        let path = FieldPath::default().field("mode");
        let names = Mode::ALL.map(Mode::name);
        let fault = match self.value.get("mode") {
            None => Fault::Missing("add \"mode\": \"master\", \"server\" or \"client\""),
            Some(Value::String(found)) => {
                match Mode::ALL.into_iter().find(|mode| mode.name() == found) {
                    Some(mode) => return Some(mode),
                    None => Fault::UnknownWord {
                        found: found.clone(),
                        nearest: nearest(found, names),
                        known: names.map(str::to_owned).to_vec(),
                    },
                }
            }
            Some(other) => Fault::WrongType {
                found: describe(other, false),
                expected: "write \"master\", \"server\" or \"client\"".to_owned(),
            },
        };
        self.add_problem(&path, fault);
        None
    }

    /// Reads the file as one of `mode`. Returns `None` when a field has the wrong type. An unknown
    /// field is a problem but does not stop the parsing.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(&mut self, mode: Mode) -> Option<T> {
        let mut unknown = Vec::new();
        find_unknown(
            &self.value,
            mode,
            mode.known(),
            &FieldPath::default(),
            &mut unknown,
        );
        for (path, fault) in unknown {
            self.add_problem(&path, fault);
        }
        match serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(self.text)) {
            Ok(raw) => Some(raw),
            Err(error) => {
                self.wrong_type(&error);
                None
            }
        }
    }

    fn wrong_type(&mut self, error: &serde_path_to_error::Error<serde_json::Error>) {
        let path = path_of(error.path());
        let message = parser_message(error.inner());
        if message.starts_with("duplicate field") {
            let position = position_of(self.text, error.inner());
            self.problems.push(ConfigProblem {
                position,
                field: path,
                fault: Fault::Duplicate(message),
            });
            return;
        }
        let expected = message
            .rsplit_once("expected ")
            .map_or(message.as_str(), |(_, expected)| expected);
        let holds_secrets = expected == SECRET_FORMS
            || expected.starts_with("an object")
            || expected.starts_with("a sequence");
        let found = at(&self.value, &path).map_or_else(
            || "of another type".to_owned(),
            |value| describe(value, holds_secrets),
        );
        let expected = remedy(expected);
        self.add_problem(&path, Fault::WrongType { found, expected });
    }

    /// Records a problem with the field at `path`.
    pub(super) fn add_problem(&mut self, path: &FieldPath, fault: Fault) {
        // A missing field has no position, so use that of the enclosing object.
        let position = (0..=path.0.len())
            .rev()
            .find_map(|length| locate(self.text, &path.0[..length]));
        self.problems.push(ConfigProblem {
            position,
            field: path.clone(),
            fault,
        });
    }

    /// Returns all problems.
    pub(super) fn into_problems(self) -> Vec<ConfigProblem> {
        self.problems
    }
}

/// Converts serde's description of an expected type into an instruction.
fn remedy(expected: &str) -> String {
    match expected {
        "a string" | "path string" => "write text, in quotes".to_owned(),
        "a boolean" => "write true or false".to_owned(),
        "a sequence" => "write a list, [ … ]".to_owned(),
        other => format!("write {other}"),
    }
}

/// Describes a value. Hides values that may contain a secret.
fn describe(value: &Value, holds_secrets: bool) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(_) if holds_secrets => "a number".to_owned(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) if holds_secrets => "a text".to_owned(),
        Value::String(text) => format!("the text {:?}", without_password(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn find_unknown(
    value: &Value,
    mode: Mode,
    known: &KnownFields,
    path: &FieldPath,
    found: &mut Vec<(FieldPath, Fault)>,
) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = path.field(name);
                if !known.names.contains(&name.as_str()) {
                    found.push((path.clone(), unknown(name, mode, known)));
                } else if let Some((_, inside)) =
                    known.inside.iter().find(|(field, _)| field == name)
                {
                    find_unknown(value, mode, inside, &path, found);
                }
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                find_unknown(element, mode, known, &path.index(index), found);
            }
        }
        _ => {}
    }
}

fn unknown(name: &str, mode: Mode, known: &KnownFields) -> Fault {
    if std::ptr::eq(known, mode.known()) {
        if mode == Mode::Client && name == "master_key" {
            return Fault::ClientMasterKey;
        }
        if mode != Mode::Master && PORT.names.contains(&name) {
            return Fault::Other(
                "is a field of a service: write it in an element of `ports`".to_owned(),
            );
        }
        if let Some(owner) = Mode::ALL
            .into_iter()
            .find(|other| other.known().names.contains(&name))
        {
            return Fault::OtherMode {
                owner: owner.name(),
                mode: mode.name(),
            };
        }
    }
    Fault::UnknownField {
        nearest: nearest(name, known.names.iter().copied()),
        known: known.names.to_vec(),
    }
}

/// Returns the parser's message without its line and column, because its columns count bytes.
fn parser_message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message
        .split_once(" at line ")
        .map_or_else(|| message.clone(), |(message, _)| message.to_owned())
}

/// Returns the byte offset of a syntax error.
fn byte_of(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    lines_before
        .saturating_add(error.column().saturating_sub(1))
        .min(text.len())
}

fn position_of(text: &str, error: &serde_json::Error) -> Option<Position> {
    let line = text.split('\n').nth(error.line().checked_sub(1)?)?;
    let bytes = line.len().min(error.column().saturating_sub(1));
    let column = line
        .char_indices()
        .take_while(|(start, _)| *start < bytes)
        .count()
        .saturating_add(1);
    Some(Position {
        line: error.line(),
        column,
    })
}

/// Returns the position of the value at `path`.
fn locate(text: &str, path: &[PathSegment]) -> Option<Position> {
    let mut here = text;
    for step in path {
        here = match step {
            PathSegment::Field(name) => serde_json::from_str::<HashMap<String, &RawValue>>(here)
                .ok()?
                .get(name.as_str())?
                .get(),
            PathSegment::Index(index) => serde_json::from_str::<Vec<&RawValue>>(here)
                .ok()?
                .get(*index)?
                .get(),
        };
    }
    // A raw value is a slice of the text that it was parsed from, so its address is its offset.
    position_at(
        text,
        (here.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?,
    )
}

/// Returns the position of the character that starts at this byte.
fn position_at(text: &str, byte: usize) -> Option<Position> {
    let before = text.get(..byte)?;
    let line_start = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
    let column = before.get(line_start..)?.chars().count().saturating_add(1);
    Some(Position {
        line: before.matches('\n').count().saturating_add(1),
        column,
    })
}

fn at<'a>(value: &'a Value, path: &FieldPath) -> Option<&'a Value> {
    path.0.iter().try_fold(value, |value, step| match step {
        PathSegment::Field(name) => value.get(name),
        PathSegment::Index(index) => value.get(*index),
    })
}

fn path_of(path: &serde_path_to_error::Path) -> FieldPath {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(PathSegment::Index(*index)),
        Segment::Map { key } => Some(PathSegment::Field(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    FieldPath(steps.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locate_finds_nested_values() {
        let text = "{\n  \"mark\": \"远程\", \"ports\": [ {\"a\": 1},\n {\"a\": 2} ]\n}";
        let ports = FieldPath::default().field("ports");
        assert_eq!(
            locate(text, &ports.0),
            Some(Position {
                line: 2,
                column: 26
            })
        );
        assert_eq!(
            locate(text, &ports.index(1).field("a").0),
            Some(Position { line: 3, column: 8 })
        );
        assert_eq!(locate(text, &ports.index(2).0), None);
        assert_eq!(locate(text, &[]), Some(Position { line: 1, column: 1 }));
    }

    #[test]
    fn columns_count_characters() {
        let text = "{\n \"远程桌面\" 1}";
        let error = serde_json::from_str::<Value>(text).expect_err("no colon");
        assert_eq!(
            position_of(text, &error),
            Some(Position { line: 2, column: 9 })
        );
    }
}
