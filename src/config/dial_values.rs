//! The types of fields about a dial: header fields and the proxy.

use std::{borrow::Cow, ops::Deref};

use http::{HeaderMap, HeaderValue};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error as _, MapAccess, Visitor},
};

use super::{
    error::InvalidValue,
    secret::Secret,
    values::{deref_to, visitor_expects},
};
use crate::net::dial::{ProxyChoice, parse_header};

/// Additional header fields of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(HeaderMap);

deref_to!(Headers, HeaderMap);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Reads the value of the header field with this name.
        struct HeaderSeed(String);
        impl<'de> DeserializeSeed<'de> for HeaderSeed {
            type Value = (http::HeaderName, HeaderValue);

            fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
                parse_header(&self.0, &String::deserialize(reader)?).map_err(D::Error::custom)
            }
        }

        struct HeadersVisitor;
        impl<'de> Visitor<'de> for HeadersVisitor {
            type Value = HeaderMap;

            visitor_expects!("a map");

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderMap, A::Error> {
                let mut headers = HeaderMap::new();
                while let Some(name) = map.next_key()? {
                    let (name, value) = map.next_value_seed(HeaderSeed(name))?;
                    if headers.contains_key(&name) {
                        let problem = format!("contains `{name}` twice");
                        let invalid = InvalidValue::new(problem, "keep one of them");
                        return Err(A::Error::custom(invalid));
                    }
                    headers.insert(name, value);
                }
                Ok(headers)
            }
        }
        deserializer.deserialize_map(HeadersVisitor).map(Self)
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.iter();
        serializer.collect_map(fields.map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str(), value)
        }))
    }
}

/// The proxy to dial through: the URL of one, or `"none"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySetting {
    url: Secret,
    /// The proxy.
    pub choice: ProxyChoice,
}

impl<'de> Deserialize<'de> for ProxySetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let url = Secret::deserialize(deserializer)?;
        let choice = if url.expose().trim() == "none" {
            ProxyChoice::Direct
        } else {
            let proxy = url.expose().parse().map_err(D::Error::custom)?;
            ProxyChoice::Fixed(Box::new(proxy))
        };
        Ok(Self { url, choice })
    }
}

impl Serialize for ProxySetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.url.serialize(serializer)
    }
}

impl JsonSchema for Headers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "headers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "additionalProperties": {"type": "string"}})
    }
}

impl JsonSchema for ProxySetting {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "proxy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let key = generator.subschema_for::<Secret>();
        json_schema!({"anyOf": [key], "x-type": "key or `\"none\"`"})
    }
}
