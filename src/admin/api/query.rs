//! The query of a request.

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::{
    Deserializer,
    de::{
        DeserializeOwned, Error as _, IntoDeserializer, Unexpected, Visitor,
        value::{Error, MapDeserializer},
    },
    forward_to_deserialize_any,
};
use url::form_urlencoded;

use super::refusal::Refusal;

/// The query of a request. Unknown and repeated names are errors: a filter without effect would
/// list other things than the caller expects.
#[derive(Debug)]
pub(super) struct QueryOf<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        read(parts.uri.query().unwrap_or_default()).map(QueryOf)
    }
}

fn read<T: DeserializeOwned>(query: &str) -> Result<T, Refusal> {
    let with_nul = form_urlencoded::parse(query.as_bytes()).find(|(_, value)| value.contains('\0'));
    if let Some((name, _)) = with_nul {
        // No value has one, and PostgreSQL takes none.
        let message = "write a text without the character NUL";
        return Err(Refusal::invalid(name, message));
    }
    let pairs = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), QueryValue(value.into_owned())));
    let reader: MapDeserializer<'_, _, Error> = MapDeserializer::new(pairs);
    serde_path_to_error::deserialize(reader).map_err(|error| {
        let field = match error.path() {
            path if path.iter().next().is_none() => String::new(),
            path => path.to_string(),
        };
        Refusal::invalid(field, error.into_inner().to_string())
    })
}

/// A value of a query. Numbers and words are text there.
struct QueryValue(String);

impl IntoDeserializer<'_, Error> for QueryValue {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl QueryValue {
    fn wrong_type<'de>(&self, visitor: &impl Visitor<'de>) -> Error {
        Error::invalid_type(Unexpected::Str(&self.0), visitor)
    }
}

/// Reads a number of a type that is at most as large as `$wide`.
macro_rules! deserialize_number {
    ($($method:ident)*, $wide:ty, $visit:ident) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                match self.0.parse::<$wide>() {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => Err(self.wrong_type(&visitor)),
                }
            }
        )*
    };
}

impl<'de> Deserializer<'de> for QueryValue {
    type Error = Error;

    deserialize_number!(
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64, u64, visit_u64
    );
    deserialize_number!(
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64, i64, visit_i64
    );

    /// A time is a number of seconds or text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.parse() {
            Ok(number) => visitor.visit_i64(number),
            Err(_) => visitor.visit_string(self.0),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.parse() {
            Ok(value) => visitor.visit_bool(value),
            Err(_) => Err(self.wrong_type(&visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::policy::{AccountId, Direction, UnixTime};

    #[derive(Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        name: Option<String>,
        size: Option<u32>,
        account: Option<AccountId>,
        direction: Option<Direction>,
        from: Option<UnixTime>,
        all: bool,
    }

    #[test]
    fn values_of_all_kinds_are_read_from_text() {
        let query = "name=%3510%20x&size=7&account=3&direction=up&from=1700000000&all=true";
        let expected = Sample {
            name: Some("510 x".to_owned()),
            size: Some(7),
            account: Some(AccountId(3)),
            direction: Some(Direction::Up),
            from: UnixTime::new(1_700_000_000),
            all: true,
        };
        assert_eq!(read(query), Ok(expected));
        assert_eq!(read(""), Ok(Sample::default()));
        let numbers: Sample = read("name=12&from=2027-01-31").unwrap();
        assert_eq!(numbers.name.as_deref(), Some("12"), "digits may be a name");
        assert_eq!(numbers.from.map(UnixTime::seconds), Some(1_801_353_600));
    }

    #[test]
    fn errors_name_the_field() {
        for (query, field) in [
            ("size=x", "size"),
            ("size=-1", "size"),
            ("size=4294967296", "size"),
            ("size=", "size"),
            ("account=1.5", "account"),
            ("direction=sideways", "direction"),
            ("from=tomorrow", "from"),
            ("all=1", "all"),
            ("sort=name", "sort"),
            ("name=a%00b", "name"),
        ] {
            let refusal = read::<Sample>(query).unwrap_err();
            assert_eq!(refusal.status().as_u16(), 422, "{query}");
            assert_eq!(refusal.body().field.as_deref(), Some(field), "{query}");
        }
        let repeated = read::<Sample>("size=1&size=2").unwrap_err();
        assert!(repeated.body().message.contains("size"), "{repeated:?}");
    }
}
