//! The roles as named in a file, and the fields of their files.

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, Visitor},
    forward_to_deserialize_any,
};

use super::{
    ClientConfig, CommonConfig, LinkConfig, MasterConfig, ServerConfig,
    read_error::ReadError,
    source_files::FileFields,
    word::{self, Word},
};

/// The role of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Master,
    Server,
    Client,
}

impl Word for Mode {
    const ALL: &'static [Self] = &[Mode::Master, Mode::Server, Mode::Client];
    /// There is no default: the field is required.
    const DEFAULT: Self = Mode::Client;

    fn word(self) -> &'static str {
        match self {
            Mode::Master => "master",
            Mode::Server => "server",
            Mode::Client => "client",
        }
    }
}

/// The field that selects the role.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct ModeField {
    /// The role.
    #[serde(with = "word")]
    #[schemars(schema_with = "word::schema::<Mode>")]
    pub mode: Mode,
}

impl Mode {
    /// Returns the fields of a file, in the order of the documentation.
    pub(super) fn fields(self) -> Vec<&'static str> {
        let common = [
            fields_of::<ModeField>(),
            fields_of::<FileFields>(),
            fields_of::<CommonConfig>(),
        ];
        let role = match self {
            Mode::Master => vec![fields_of::<MasterConfig>()],
            Mode::Server => vec![fields_of::<LinkConfig>(), fields_of::<ServerConfig>()],
            Mode::Client => vec![fields_of::<LinkConfig>(), fields_of::<ClientConfig>()],
        };
        let parts = common.into_iter().chain(role);
        parts.flat_map(|fields| fields.iter().copied()).collect()
    }
}

/// Returns the names of the fields of a struct, as serde reads it.
pub(super) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    /// Records the names of the fields, and fails.
    struct FieldNames<'f>(&'f mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for FieldNames<'_> {
        type Error = ReadError;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ReadError> {
            Err(ReadError::custom("only structs have fields"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, ReadError> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }
    let mut fields: &'static [&'static str] = &[];
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}
