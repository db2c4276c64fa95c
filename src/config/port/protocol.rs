//! The traffic that a port carries, and the headers that it sends to its service.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::word::{self, Word};
use crate::tunnel::ServiceProtocol;

impl Word for ServiceProtocol {
    const ALL: &'static [Self] = &ServiceProtocol::ALL;
    const DEFAULT: Self = ServiceProtocol::Tcp;

    fn word(self) -> &'static str {
        self.name()
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Version 2, the binary one.
    V2,
}

impl Word for ProxyProtocol {
    const ALL: &'static [Self] = &[ProxyProtocol::V2];
    const DEFAULT: Self = ProxyProtocol::V2;

    fn word(self) -> &'static str {
        match self {
            ProxyProtocol::V2 => "v2",
        }
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl<'de> Deserialize<'de> for ProxyProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word::deserialize(deserializer)
    }
}

impl Serialize for ProxyProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        word::serialize(self, serializer)
    }
}

impl JsonSchema for ProxyProtocol {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "proxy_protocol".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = word::schema::<Self>(generator);
        schema.remove("default");
        schema
    }
}
