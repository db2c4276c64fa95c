//! Keys: their sources, and a value that never prints itself. This module reads the file or
//! variable that holds a key.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// A key. `Debug` hides it, and dropping it clears its memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Creates a secret from the text of a key.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the key for derivation. Never print it.
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

/// The source of a key, as written.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RawSecret {
    /// A file, relative to the folder of the configuration.
    File(PathBuf),
    /// An environment variable.
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

/// The syntax of a [`RawSecret`]. Errors print this text instead of the value.
pub(super) const SECRET_FORMS: &str =
    "a key in quotes, {\"file\": \"PATH\"} or {\"env\": \"NAME\"}";

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

/// Why a key cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The field is empty.
    #[error("is empty: write a key; `report keygen` generates a strong one")]
    Empty,
    /// The file cannot be read.
    #[error("names the file {}, which cannot be read ({reason}): create it with `report keygen > FILE`, or correct the path", path.display())]
    Unreadable {
        /// The full path.
        path: PathBuf,
        /// The error of the system.
        reason: String,
    },
    /// The file is not text.
    #[error("names the file {}, which {error}", path.display())]
    NotText {
        /// The full path.
        path: PathBuf,
        /// The position of the first invalid byte.
        error: crate::text::NotText,
    },
    /// The file is empty.
    #[error("names the file {}, which is empty: write a key with `report keygen > FILE`", .0.display())]
    EmptyFile(PathBuf),
    /// The variable is not set, or not text.
    #[error(
        "names the environment variable {0}, which is not set to text: set it before starting `report`"
    )]
    NoVariable(String),
    /// The variable is empty.
    #[error(
        "names the environment variable {0}, which is empty: set it to a key; `report keygen` generates a strong one"
    )]
    EmptyVariable(String),
}

/// The sources that a configuration may read in addition to its own text.
#[derive(Clone, Copy)]
pub struct SecretSources<'a> {
    /// The folder that relative paths start at.
    pub folder: &'a Path,
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl RawSecret {
    /// Loads the key.
    ///
    /// # Errors
    /// Fails when the source holds no key. The message names the source and never the key.
    pub fn fetch(&self, sources: SecretSources<'_>) -> Result<Secret, SecretError> {
        match self {
            Self::Text(text) if text.is_empty() => Err(SecretError::Empty),
            Self::Text(text) => Ok(Secret::new(text.clone())),
            Self::File(path) => from_file(&sources.folder.join(path)),
            Self::Env(name) => {
                match (sources.variable)(name).and_then(|value| value.into_string().ok()) {
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
    // Editors add invisible blanks and line ends after a key.
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
        raw.fetch(SecretSources {
            folder,
            variable: &variable,
        })
    }

    #[test]
    fn fetch_reads_text_files_and_variables() {
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
    fn key_files_may_have_trailing_whitespace_and_any_encoding() {
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
    fn errors_name_the_source_of_a_missing_key() {
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
    fn debug_output_hides_keys() {
        let raw = RawSecret::Text("hush".into());
        assert_eq!(
            format!("{raw:?} {:?}", Secret::new("hush".into())),
            "RawSecret(…) Secret(…)"
        );
    }

    #[test]
    fn raw_secrets_round_trip() {
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
