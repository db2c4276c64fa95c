//! Paths of files and folders. In a configuration file they start at the folder of that file.

use std::{
    borrow::Cow,
    ops::Deref,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Error as _, Visitor},
};

use super::{
    error::InvalidValue,
    values::{deref_to, visitor_expects},
};

/// The path of a file. In a configuration file it starts at the folder of that file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilePath(PathBuf);

deref_to!(FilePath, PathBuf);

impl FilePath {
    /// The name by which the deserializer of a file recognizes a path.
    pub(super) const NAME: &'static str = "FilePath";
}

impl From<&str> for FilePath {
    fn from(path: &str) -> Self {
        Self(path.into())
    }
}

/// The path of an existing folder. In a configuration file it starts at the folder of that file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderPath(PathBuf);

deref_to!(FolderPath, PathBuf);

impl FolderPath {
    /// The name by which the deserializer of a file recognizes a path.
    pub(super) const NAME: &'static str = "FolderPath";
}

struct PathVisitor;

impl Visitor<'_> for PathVisitor {
    type Value = PathBuf;

    visitor_expects!("a string");

    fn visit_str<E: de::Error>(self, path: &str) -> Result<PathBuf, E> {
        Ok(path.into())
    }

    #[cfg(unix)]
    fn visit_bytes<E: de::Error>(self, path: &[u8]) -> Result<PathBuf, E> {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        Ok(OsStr::from_bytes(path).into())
    }
}

/// Passes a path to a visitor of paths. The folder of a file may have a name that is not text.
pub(super) fn visit_path<'de, V: Visitor<'de>, E: de::Error>(
    path: &Path,
    visitor: V,
) -> Result<V::Value, E> {
    #[cfg(unix)]
    return visitor.visit_bytes(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    #[cfg(not(unix))]
    return visitor.visit_str(&path.to_string_lossy());
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_newtype_struct(Self::NAME, PathVisitor)
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for FolderPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = deserializer.deserialize_newtype_struct(Self::NAME, PathVisitor)?;
        if path.is_dir() {
            return Ok(Self(path));
        }
        let path = path.display();
        Err(D::Error::custom(InvalidValue::new(
            format!("is \"{path}\", which is not a folder on this machine"),
            "create it, or correct the path",
        )))
    }
}

/// The schema of a path.
macro_rules! path_schema {
    ($type:ty) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                "path".into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "x-type": "path"})
            }
        }
    };
}

path_schema!(FilePath);
path_schema!(FolderPath);
