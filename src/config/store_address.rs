//! The address of a master's database, with its source: it may contain a password.

use std::{borrow::Cow, path::Path};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Secret, error::InvalidValue};
#[cfg(feature = "store")]
use crate::store::StoreUrl;

/// The address of a master's database, and its source. `Debug` hides its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAddress {
    text: Secret,
    #[cfg(feature = "store")]
    url: StoreUrl,
}

impl StoreAddress {
    /// Returns the address.
    #[cfg(feature = "store")]
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// Makes the path of a file start at a folder.
    pub(super) fn start_at(&mut self, folder: &Path) {
        #[cfg(feature = "store")]
        {
            self.url = self.url.clone().relative_to(folder);
        }
        #[cfg(not(feature = "store"))]
        let _ = folder;
    }

    #[cfg(feature = "store")]
    fn parse(text: Secret) -> Result<Self, InvalidValue> {
        let url = text.expose().parse::<StoreUrl>();
        let url = url.map_err(|error| InvalidValue::new(error.problem, error.remedy))?;
        Ok(StoreAddress { text, url })
    }

    #[cfg(not(feature = "store"))]
    fn parse(_: Secret) -> Result<Self, InvalidValue> {
        Err(InvalidValue::new(
            "is set, but this program was built without the feature `store`",
            "build it with `--features store`, or remove the field",
        ))
    }
}

impl<'de> Deserialize<'de> for StoreAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Secret::deserialize(deserializer)?;
        StoreAddress::parse(text).map_err(D::Error::custom)
    }
}

impl Serialize for StoreAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl JsonSchema for StoreAddress {
    fn schema_name() -> Cow<'static, str> {
        Secret::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        Secret::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Secret::json_schema(generator)
    }
}
