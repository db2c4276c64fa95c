//! Keys: their sources, and a value that never prints itself. This module reads the file or
//! variable that holds a key.

use std::{
    borrow::Cow,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
};
use zeroize::Zeroizing;

use super::{position::FileId, secret_error::SecretError, values::visitor_expects};

/// A key and its source. `Debug` hides the key, and dropping it clears its memory. Secrets with the
/// same key are equal.
#[derive(Clone)]
pub struct Secret {
    /// The place of the key, unless the file contains the key itself.
    place: Option<SecretPlace>,
    key: Zeroizing<String>,
}

impl Secret {
    /// The name by which the deserializer of a file recognizes a secret.
    pub(super) const NAME: &'static str = "Secret";

    /// Creates a secret from the text of a key.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self {
            place: None,
            key: Zeroizing::new(text),
        }
    }

    /// Reads a secret. `name` is that of its type, by which errors name the command that creates one.
    ///
    /// Only the deserializer of a configuration file supports secrets: it loads the key and passes
    /// the source with it.
    pub(super) fn deserialize_named<'de, D: Deserializer<'de>>(
        name: &'static str,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(name, SecretVisitor)
    }

    /// Returns the key for derivation. Never print it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.key
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Secret::deserialize_named(Self::NAME, deserializer)
    }
}

/// Reads the parts that the deserializer of a file passes: the kind of the place, the place, and the
/// key.
struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    visitor_expects!(SECRET_FORMS);

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Secret, A::Error> {
        let mut next = || {
            let part = parts.next_element::<String>()?;
            part.ok_or_else(|| A::Error::invalid_length(0, &self))
        };
        let (kind, place, key) = (next()?, next()?, next()?);
        let place = match kind.as_str() {
            "file" => Some(SecretPlace::File(place.into())),
            "env" => Some(SecretPlace::Env(place)),
            _ => None,
        };
        let key = Zeroizing::new(key);
        Ok(Secret { place, key })
    }
}

impl Serialize for Secret {
    /// Writes the place of the key, or the key itself if it has none.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.place {
            Some(place) => place.serialize(serializer),
            None => serializer.serialize_str(&self.key),
        }
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Key".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let place = |name: &str, text: &str| {
            json_schema!({
                "type": "object",
                "properties": {name: {"type": "string", "description": text}},
                "required": [name],
                "additionalProperties": false,
            })
        };
        json_schema!({
            "anyOf": [
                {"type": "string", "minLength": 1},
                place("file", "The file that contains the key. rePort ignores one line break at its end."),
                place("env", "The environment variable that contains the key."),
            ],
            "x-type": "key",
        })
    }
}

/// The place of a key outside of the configuration file.
#[derive(Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SecretPlace {
    /// A file, relative to the folder of the file that names it.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// The syntax of a [`Secret`]. Errors print this text instead of the value.
pub(super) const SECRET_FORMS: &str =
    "a key in quotes, {\"file\": \"PATH\"} or {\"env\": \"NAME\"}";

/// The sources that a configuration may read in addition to its own text.
#[derive(Clone, Copy)]
pub struct SecretSources<'a> {
    /// The folder of each file of the configuration, at which its relative paths start. That of
    /// the file that was given is the first.
    pub folders: &'a [PathBuf],
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl<'a> SecretSources<'a> {
    /// Returns the folder at which the relative paths of a file start.
    pub(super) fn folder(self, file: FileId) -> &'a Path {
        self.folders
            .get(file.0)
            .map_or(Path::new(""), PathBuf::as_path)
    }
}

impl SecretPlace {
    /// Loads the key for a field of `file`.
    ///
    /// # Errors
    /// Fails when the source holds no key. The message names the source and never the key.
    pub(super) fn load(
        &self,
        sources: SecretSources<'_>,
        file: FileId,
    ) -> Result<String, SecretError> {
        match self {
            Self::File(path) => from_file(&sources.folder(file).join(path)),
            Self::Env(name) => {
                match (sources.variable)(name).and_then(|value| value.into_string().ok()) {
                    None => Err(SecretError::NoVariable(name.clone())),
                    Some(text) if text.is_empty() => Err(SecretError::EmptyVariable(name.clone())),
                    Some(text) => Ok(text),
                }
            }
        }
    }

    /// Returns the kind of the place, and its path or name.
    pub(super) fn into_parts(self) -> (&'static str, String) {
        match self {
            Self::File(path) => ("file", path.to_string_lossy().into_owned()),
            Self::Env(name) => ("env", name),
        }
    }
}

fn from_file(path: &Path) -> Result<String, SecretError> {
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
        Ok(key.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SecretKind, json_text, node::NodeReader};

    fn load(json: &str, folder: &Path) -> Result<Secret, String> {
        let variable = |name: &str| match name {
            "KEY" => Some(OsString::from("from the environment")),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        };
        let sources = SecretSources {
            folders: &[folder.to_owned()],
            variable: &variable,
        };
        let node = json_text::parse(json, FileId::MAIN).expect(json);
        Secret::deserialize(NodeReader::part(&node, sources)).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_load_from_text_files_and_variables() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("key"), "from a file\r\n").expect("written");
        for (json, key) in [
            ("\"as is\"", "as is"),
            (r#"{"file": "key"}"#, "from a file"),
            (r#"{"env": "KEY"}"#, "from the environment"),
        ] {
            assert_eq!(load(json, folder.path()), Ok(Secret::new(key.into())));
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
                    load(r#"{"file": "key"}"#, folder.path()),
                    Ok(Secret::new("a key".into())),
                    "{bytes:?}"
                );
            }
        }
        std::fs::write(&path, b"a\xffb").expect("written");
        let error = load(r#"{"file": "key"}"#, folder.path())
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
        let refused = |error: SecretError| Err(error.invalid(SecretKind::Key).to_string());
        assert_eq!(load("\"\"", folder.path()), refused(SecretError::Empty));
        assert_eq!(
            load(r#"{"file": "key"}"#, folder.path()),
            refused(SecretError::EmptyFile(path))
        );
        assert_eq!(
            load(r#"{"env": "EMPTY"}"#, folder.path()),
            refused(SecretError::EmptyVariable("EMPTY".into()))
        );
        assert_eq!(
            load(r#"{"env": "NONE"}"#, folder.path()),
            refused(SecretError::NoVariable("NONE".into()))
        );
        let error = load(r#"{"file": "missing"}"#, folder.path()).expect_err("no file");
        assert!(
            error.contains("missing") && error.contains("`report keygen --write FILE`"),
            "{error}"
        );
    }

    #[test]
    fn debug_output_hides_keys() {
        assert_eq!(format!("{:?}", Secret::new("hush".into())), "Secret(…)");
    }

    #[test]
    fn secrets_are_written_as_their_source() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("path"), "hush").expect("written");
        for json in [r#""key""#, r#"{"file":"path"}"#, r#"{"env":"KEY"}"#] {
            let secret = load(json, folder.path()).expect(json);
            assert_eq!(serde_json::to_string(&secret).expect(json), json);
        }
    }

    #[test]
    fn other_forms_are_refused_without_the_key() {
        for json in [
            "4711",
            "null",
            r#"{}"#,
            r#"{"env": 4711}"#,
            r#"{"file": "a", "env": "4711"}"#,
        ] {
            let error = load(json, Path::new("")).expect_err(json);
            assert!(error.contains(SECRET_FORMS), "{error}");
            assert!(!error.contains("4711"), "{error}");
        }
        let error = load(r#"{"fil": "4711"}"#, Path::new("")).expect_err("unknown");
        assert!(error.contains("`fil`"), "{error}");
    }
}
