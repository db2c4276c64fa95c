//! Environment variables in the texts of a configuration, as `${NAME}` and `${NAME:-DEFAULT}`.
//!
//! The value of a variable may be a key. Errors therefore name the variable in its place.

use std::ffi::OsString;

use super::{
    error::{Fault, FieldPath, InvalidValue},
    node::Node,
    position::Place,
};

/// Looks up an environment variable.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The length of the shortest part of a value that an error must not contain, in characters.
const PART: usize = 4;

/// The remedy for a text that is invalid with the value of a variable.
const REMEDY: &str = "correct the variable, or the text around it";

/// A text with the values of its variables.
#[derive(Debug, Default)]
pub(super) struct ExpandedText {
    pub text: String,
    /// The names and values of the variables.
    variables: Vec<(String, String)>,
}

/// Replaces the variables of a text by their values. `$${` becomes `${`, and any other `$` stays.
///
/// # Errors
/// If a `${` has another form, or a variable without a default is not set.
pub(super) fn expand(text: &str, lookup: Lookup<'_>) -> Result<ExpandedText, InvalidValue> {
    let mut expanded = ExpandedText::default();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.text.push_str(before);
            expanded.text.push_str("${");
            rest = after;
            continue;
        }
        expanded.text.push_str(before);
        let (inside, after) = after.split_once('}').ok_or_else(malformed)?;
        let (name, default) = parts(inside).ok_or_else(malformed)?;
        match value(name, default, lookup)? {
            Some(value) => {
                expanded.text.push_str(&value);
                expanded.variables.push((name.to_owned(), value));
            }
            None => expanded.text.push_str(default.unwrap_or_default()),
        }
        rest = after;
    }
    expanded.text.push_str(rest);
    Ok(expanded)
}

/// Returns the name of a variable and its default.
fn parts(inside: &str) -> Option<(&str, Option<&str>)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let has_start = name.starts_with(|first: char| !first.is_ascii_digit());
    let has_inner = default.is_some_and(|default| default.contains("${"));
    (is_name && has_start && !has_inner).then_some((name, default))
}

/// Returns the value of a variable, or `None` for the default. A default also replaces an empty
/// value.
fn value(
    name: &str,
    default: Option<&str>,
    lookup: Lookup<'_>,
) -> Result<Option<String>, InvalidValue> {
    let unset = |problem: &str| {
        InvalidValue::new(
            format!("names the environment variable {name}, which {problem}"),
            format!("set it before starting `report`, or write ${{{name}:-DEFAULT}}"),
        )
    };
    match lookup(name).map(OsString::into_string) {
        Some(Ok(value)) if !value.is_empty() || default.is_none() => Ok(Some(value)),
        Some(Err(_)) => Err(unset("is not text")),
        None if default.is_none() => Err(unset("is not set")),
        Some(Ok(_)) | None => Ok(None),
    }
}

/// The error of a `${` that begins no variable. It does not contain the text, which may be a key.
fn malformed() -> InvalidValue {
    InvalidValue::new(
        "contains \"${\" without \"NAME}\" or \"NAME:-DEFAULT}\" behind it",
        "complete it, or write \"$${\" for the characters \"${\"",
    )
}

/// A variable that was replaced in a text of the configuration.
struct Expansion {
    /// The place of the text.
    place: Place,
    name: String,
    value: String,
}

/// A text whose variables cannot be replaced.
pub(super) struct FailedExpansion {
    pub field: FieldPath,
    pub place: Place,
    pub error: InvalidValue,
}

/// The variables that were replaced in the texts of a configuration.
#[derive(Default)]
pub(super) struct Expansions(Vec<Expansion>);

impl Expansions {
    /// Replaces the variables in all texts of the tree. Texts whose variables cannot be replaced
    /// keep them.
    pub(super) fn new(root: &mut Node, lookup: Lookup<'_>) -> (Self, Vec<FailedExpansion>) {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        let mut visit = |field: &FieldPath, place: Place, text: &mut String| {
            if !text.contains("${") {
                return;
            }
            match expand(text, lookup) {
                Ok(expanded) => {
                    *text = expanded.text;
                    let variables = expanded.variables.into_iter();
                    done.extend(variables.map(|(name, value)| Expansion { place, name, value }));
                }
                Err(error) => failed.push(FailedExpansion {
                    field: field.clone(),
                    place,
                    error,
                }),
            }
        };
        root.visit_texts(&FieldPath::default(), &mut visit);
        (Self(done), failed)
    }

    /// Returns a mask for errors about the value of `node`, or about an absent value.
    pub(super) fn mask(&self, node: Option<&Node>) -> ValueMask<'_> {
        let is_own = |one: &&Expansion| node.is_some_and(|node| node.contains(one.place));
        let own = self.0.iter().filter(is_own);
        let mut own: Vec<&Expansion> = own.collect();
        // A value may contain another.
        own.sort_by_key(|one| std::cmp::Reverse(one.value.len()));
        ValueMask { own, all: &self.0 }
    }
}

/// Replaces the values of variables in errors by their names.
pub(super) struct ValueMask<'a> {
    /// The variables inside the value that is in error, those with the longest values first.
    own: Vec<&'a Expansion>,
    all: &'a [Expansion],
}

impl ValueMask<'_> {
    /// Returns the fault of the value without values of its variables.
    pub(super) fn fault(&self, fault: Fault) -> Fault {
        if self.own.is_empty() {
            return fault;
        }
        match fault {
            Fault::WrongType { found, expected } => Fault::WrongType {
                found: self.text(&found).unwrap_or_else(|| self.names()),
                expected,
            },
            Fault::Invalid(invalid) => Fault::Invalid(self.invalid(&invalid)),
            Fault::DuplicateAddress { found, mark, other } => Fault::DuplicateAddress {
                found: self.text(&found).unwrap_or_else(|| self.names()),
                mark,
                other,
            },
            other => other,
        }
    }

    fn invalid(&self, invalid: &InvalidValue) -> InvalidValue {
        let Some(problem) = self.text(&format!("{invalid:#}")) else {
            let problem = format!("is invalid with the value of {}", self.names());
            return InvalidValue::new(problem, REMEDY);
        };
        match invalid.remedy() {
            Some(remedy) => {
                let remedy = self.text(remedy);
                InvalidValue::new(problem, remedy.unwrap_or_else(|| REMEDY.to_owned()))
            }
            None => InvalidValue::from_error(&problem),
        }
    }

    /// Returns the text of a warning about the value without values of its variables.
    pub(super) fn warning(&self, text: &str) -> String {
        let masked = self.text(text);
        masked.unwrap_or_else(|| format!("is doubtful with the value of {}", self.names()))
    }

    /// Replaces the values of other fields in a fault that names several fields.
    pub(super) fn other_values(&self, fault: Fault) -> Fault {
        let hide = |text: String| {
            let long = self.all.iter().filter(|one| is_long(&one.value));
            long.fold(text, |text, one| text.replace(&one.value, &reference(one)))
        };
        match fault {
            Fault::Invalid(invalid) => {
                let problem = hide(format!("{invalid:#}"));
                Fault::Invalid(match invalid.remedy() {
                    Some(remedy) => InvalidValue::new(problem, hide(remedy.to_owned())),
                    None => InvalidValue::from_error(&problem),
                })
            }
            Fault::DuplicateKey { other } => Fault::DuplicateKey { other: hide(other) },
            Fault::DuplicateAddress { found, mark, other } => Fault::DuplicateAddress {
                found: hide(found),
                mark: hide(mark),
                other: hide(other),
            },
            other => other,
        }
    }

    /// Replaces the values by the names of their variables. Returns `None` if the text contains a
    /// part of a value, or a short value.
    fn text(&self, text: &str) -> Option<String> {
        let replace = |with: &dyn Fn(&Expansion) -> String| {
            let long = self.own.iter().filter(|one| is_long(&one.value));
            long.fold(text.to_owned(), |text, one| {
                text.replace(&one.value, &with(one))
            })
        };
        let rest = replace(&|_| "\0".to_owned()).to_lowercase();
        let mut values = self.own.iter().map(|one| one.value.to_lowercase());
        let is_hidden = !values.any(|value| {
            let escaped = value.escape_debug().to_string();
            has_part(&rest, &value) || has_part(&rest, &escaped)
        });
        is_hidden.then(|| replace(&reference))
    }

    /// Returns the names of the variables, for an error in place of their values.
    fn names(&self) -> String {
        let mut names: Vec<String> = self.own.iter().map(|one| reference(one)).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}

fn reference(expansion: &Expansion) -> String {
    format!("${{{}}}", expansion.name)
}

fn is_long(value: &str) -> bool {
    value.chars().nth(PART.saturating_sub(1)).is_some()
}

/// Whether the text contains a part of the value.
fn has_part(text: &str, value: &str) -> bool {
    let characters: Vec<char> = value.chars().collect();
    let length = characters.len().min(PART);
    length > 0
        && characters
            .windows(length)
            .any(|part| text.contains(&String::from_iter(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<OsString> {
        match name {
            "NAME" => Some("value".into()),
            "_2" => Some("two".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_and_other_dollars_stay() {
        for (text, expected) in [
            ("", ""),
            ("pa$$word$", "pa$$word$"),
            ("$NAME", "$NAME"),
            ("${NAME}", "value"),
            ("a-${NAME}-${_2}", "a-value-two"),
            ("${NAME:-other}", "value"),
            ("${NONE:-other}", "other"),
            ("${NONE:-}", ""),
            ("${EMPTY:-other}", "other"),
            ("${EMPTY}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("$${NAME}", "${NAME}"),
            ("$$${NAME}", "$${NAME}"),
            ("${NAME}}", "value}"),
            ("{${NAME}$${", "{value${"),
        ] {
            let expanded = expand(text, &lookup).expect(text);
            assert_eq!(expanded.text, expected, "{text}");
        }
    }

    #[test]
    fn other_forms_are_errors_without_the_text() {
        for text in [
            "hush${",
            "hush${NAME",
            "${}",
            "${2}",
            "${NA ME}",
            "${NAME-other}",
            "${NAME:-${_2}}",
        ] {
            let error = expand(text, &lookup).expect_err(text).to_string();
            assert!(error.contains("write \"$${\""), "{text}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
        let unset = expand("${NONE}", &lookup).expect_err("not set").to_string();
        let parts = ["variable NONE, which is not set", "${NONE:-DEFAULT}"];
        assert!(parts.iter().all(|part| unset.contains(part)), "{unset}");
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_text_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let lookup = |_: &str| Some(OsString::from_vec(vec![0xff]));
        let error = expand("${NAME}", &lookup).expect_err("not text");
        assert!(
            error.to_string().contains("NAME, which is not text"),
            "{error}"
        );
    }

    #[test]
    fn a_mask_leaves_no_part_of_a_value() {
        let expansion = |name: &str, value: &str| Expansion {
            place: Place {
                file: crate::config::position::FileId::MAIN,
                offset: 0,
            },
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let all = [expansion("KEY", "hush4711"), expansion("P", "80")];
        let mask = |own: &[usize], text: &str| {
            let own = own.iter().map(|index| &all[*index]).collect();
            ValueMask { own, all: &all }.text(text)
        };
        let expected = Some("is \"${KEY}:x\"".to_owned());
        assert_eq!(mask(&[0], "is \"hush4711:x\""), expected);
        assert_eq!(mask(&[1], "is \"x\""), Some("is \"x\"".to_owned()));
        for text in ["is \"HUSH\"", "has the port 4711", "starts with ush4"] {
            assert_eq!(mask(&[0], text), None, "{text}");
        }
        assert_eq!(mask(&[1], "has the port 80"), None);
    }
}
