//! The secret of a credential, with its source. The text is parsed when the file is read.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Secret, error::InvalidValue};
use report_proto::crypto::{CredentialSecret, ParseCredentialError};

/// The secret of a credential and its source. `Debug` hides the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialKey {
    text: Secret,
    secret: CredentialSecret,
}

impl CredentialKey {
    /// The name by which the deserializer of a file recognizes the secret of a credential.
    pub(super) const NAME: &'static str = "CredentialKey";

    /// Returns the secret for derivation.
    #[must_use]
    pub fn secret(&self) -> &CredentialSecret {
        &self.secret
    }
}

impl<'de> Deserialize<'de> for CredentialKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Secret::deserialize_named(Self::NAME, deserializer)?;
        match text.expose().parse() {
            Ok(secret) => Ok(CredentialKey { text, secret }),
            Err(error) => Err(D::Error::custom(invalid(error))),
        }
    }
}

/// Returns the problem and the remedy. Neither contains the text.
fn invalid(error: ParseCredentialError) -> InvalidValue {
    let remedy = match error {
        ParseCredentialError::Verifier => {
            "write the secret, which begins with rc1_; the verifier is for the master"
        }
        ParseCredentialError::Secret | ParseCredentialError::Malformed { .. } => {
            "copy it again; `report keygen --credential` generates one"
        }
    };
    InvalidValue::new(error.to_string(), remedy)
}

impl Serialize for CredentialKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl JsonSchema for CredentialKey {
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
