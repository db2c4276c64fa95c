//! Keys: where they are written, and the value that never prints itself. Reads the file or variable that holds one.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// A key. Its `Debug` shows nothing of it, and its memory is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a key's text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The key itself, to derive from; never to be printed.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Where a key is, as written.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RawSecret {
    /// The file that holds it, relative to the configuration's folder.
    File(PathBuf),
    /// The environment variable that holds it.
    Env(String),
    /// The key itself.
    #[serde(untagged)]
    Text(String),
}

impl fmt::Debug for RawSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RawSecret(…)")
    }
}

/// What [`RawSecret`] may be; no part of what was written is in it.
pub const SECRET_FORMS: &str = "a key in quotes, {\"file\": \"PATH\"} or {\"env\": \"NAME\"}";

impl<'de> Deserialize<'de> for RawSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom(format_args!("expected {SECRET_FORMS}"));
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Object(place) => from_place(&place).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

fn from_place(place: &Map<String, Value>) -> Option<RawSecret> {
    let text = |field: &str| place.get(field).map(Value::as_str);
    match (text("file"), text("env")) {
        (Some(Some(path)), None) => Some(RawSecret::File(path.into())),
        (None, Some(Some(name))) => Some(RawSecret::Env(name.to_owned())),
        _ => None,
    }
}

/// Why a key could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The field holds an empty text.
    #[error("is empty: put a key there; `report keygen` makes a strong one")]
    Empty,
    /// The file cannot be read.
    #[error("names the file {}, which cannot be read ({reason}): create it with `report keygen > FILE`, or correct the path", path.display())]
    Unreadable {
        /// The whole path.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file is no text.
    #[error("names the file {}, which {error}", path.display())]
    NotText {
        /// The whole path.
        path: PathBuf,
        /// Where it stops being text.
        error: crate::text::NotText,
    },
    /// The file holds nothing.
    #[error("names the file {}, which is empty: put a key there with `report keygen > FILE`", .0.display())]
    EmptyFile(PathBuf),
    /// The variable is not set, or not text.
    #[error(
        "names the environment variable {0}, which is not set to any text: set it before `report` starts"
    )]
    NoVariable(String),
    /// The variable is empty.
    #[error(
        "names the environment variable {0}, which is empty: set it to a key; `report keygen` makes a strong one"
    )]
    EmptyVariable(String),
}

/// What a configuration may read besides its own text.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The folder that relative paths begin at.
    pub folder: &'a Path,
    /// Looks an environment variable up.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl RawSecret {
    /// Fetches the key.
    ///
    /// # Errors
    /// When there is none to be had; the message names the place and never the key.
    pub fn fetch(&self, surroundings: Surroundings<'_>) -> Result<Secret, SecretError> {
        match self {
            Self::Text(text) if text.is_empty() => Err(SecretError::Empty),
            Self::Text(text) => Ok(Secret::new(text.clone())),
            Self::File(path) => from_file(&surroundings.folder.join(path)),
            Self::Env(name) => {
                match (surroundings.variable)(name).and_then(|value| value.into_string().ok()) {
                    None => Err(SecretError::NoVariable(name.clone())),
                    Some(text) if text.is_empty() => Err(SecretError::EmptyVariable(name.clone())),
                    Some(text) => Ok(Secret::new(text)),
                }
            }
        }
    }
}

fn from_file(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |error: io::Error| SecretError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let bytes = Zeroizing::new(
        crate::text::read_file(path, crate::text::SHORT_FILE_MAX).map_err(unreadable)?,
    );
    let no_text = |error: crate::text::NotText| SecretError::NotText {
        path: path.to_owned(),
        error,
    };
    let text = Zeroizing::new(crate::text::decode(&bytes).map_err(no_text)?);
    // Blanks and lines behind a key are an editor's: nobody sees them.
    let key = text.trim_end();
    if key.is_empty() {
        Err(SecretError::EmptyFile(path.to_owned()))
    } else {
        Ok(Secret::new(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(json: &str, folder: &Path) -> Result<Secret, SecretError> {
        let variable = |name: &str| match name {
            "KEY" => Some(OsString::from("from the environment")),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        };
        let raw: RawSecret = serde_json::from_str(json).expect(json);
        raw.fetch(Surroundings {
            folder,
            variable: &variable,
        })
    }

    #[test]
    fn a_key_comes_from_the_text_a_file_or_a_variable() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("key"), "from a file\r\n").expect("written");
        for (json, key) in [
            ("\"as is\"", "as is"),
            (r#"{"file": "key"}"#, "from a file"),
            (r#"{"env": "KEY"}"#, "from the environment"),
        ] {
            assert_eq!(fetch(json, folder.path()), Ok(Secret::new(key.into())));
        }
    }

    #[test]
    fn a_key_file_is_read_as_it_is_meant_whatever_the_editor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        for written in ["a key", "a key\n", "a key\r\n", "a key \t\r\n\r\n"] {
            for bytes in crate::text::tests::encodings(written)
                .into_iter()
                .chain([written.into()])
            {
                std::fs::write(&path, &bytes).expect("written");
                assert_eq!(
                    fetch(r#"{"file": "key"}"#, folder.path()),
                    Ok(Secret::new("a key".into())),
                    "{bytes:?}"
                );
            }
        }
        std::fs::write(&path, b"a\xffb").expect("written");
        let error = fetch(r#"{"file": "key"}"#, folder.path())
            .expect_err("no text")
            .to_string();
        assert!(
            error.contains("from byte 2 on: save it as UTF-8"),
            "{error}"
        );
    }

    #[test]
    fn a_key_that_is_not_there_names_its_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        std::fs::write(&path, "\n").expect("written");
        assert_eq!(fetch("\"\"", folder.path()), Err(SecretError::Empty));
        assert_eq!(
            fetch(r#"{"file": "key"}"#, folder.path()),
            Err(SecretError::EmptyFile(path))
        );
        assert_eq!(
            fetch(r#"{"env": "EMPTY"}"#, folder.path()),
            Err(SecretError::EmptyVariable("EMPTY".into()))
        );
        assert_eq!(
            fetch(r#"{"env": "NONE"}"#, folder.path()),
            Err(SecretError::NoVariable("NONE".into()))
        );
        let error = fetch(r#"{"file": "missing"}"#, folder.path())
            .expect_err("no file")
            .to_string();
        assert!(
            error.contains("missing") && error.contains("report keygen"),
            "{error}"
        );
    }

    #[test]
    fn neither_form_of_a_key_prints_it() {
        let raw = RawSecret::Text("hush".into());
        assert_eq!(
            format!("{raw:?} {:?}", Secret::new("hush".into())),
            "RawSecret(…) Secret(…)"
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        for raw in [
            RawSecret::Text("key".into()),
            RawSecret::File("path".into()),
            RawSecret::Env("NAME".into()),
        ] {
            let text = serde_json::to_string(&raw).expect("serializes");
            assert!(
                serde_json::from_str::<RawSecret>(&text).is_ok_and(|read| read == raw),
                "{text}"
            );
        }
    }
}
