//! Fields that take one of several words, for `#[serde(with = "word")]`.

use report_proto::{compress::CompressMethod, crypto::EncryptMethod};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use super::error::{InvalidValue, nearest, nearest_or_all};
use crate::{policy::Admission, telemetry::LogFormat, text::without_password};

/// A value that a file names by a word.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// All values, in the order of the documentation.
    const ALL: &'static [Self];
    /// The value of an absent field.
    const DEFAULT: Self;

    /// Returns the word.
    fn word(self) -> &'static str;
}

/// Returns the value of a word.
///
/// # Errors
/// If no value has this word.
pub(super) fn parse<T: Word>(text: &str) -> Result<T, InvalidValue> {
    let found = T::ALL.iter().find(|value| value.word() == text);
    found.copied().ok_or_else(|| {
        let known: Vec<_> = T::ALL.iter().map(|value| value.word()).collect();
        let nearest = nearest(text, known.iter().copied());
        let problem = format!("is \"{}\"", without_password(text));
        InvalidValue::new(problem, nearest_or_all(nearest.as_deref(), &known))
    })
}

pub(super) fn deserialize<'de, T: Word, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn serialize<T: Word, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.word())
}

pub(super) fn default<T: Word>() -> T {
    T::DEFAULT
}

pub(super) fn is_default<T: Word>(value: &T) -> bool {
    *value == T::DEFAULT
}

pub(super) fn schema<T: Word>(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<&str> = T::ALL.iter().map(|value| value.word()).collect();
    json_schema!({"type": "string", "enum": words, "default": T::DEFAULT.word()})
}

impl Word for tracing::Level {
    const ALL: &'static [Self] = &[
        tracing::Level::ERROR,
        tracing::Level::WARN,
        tracing::Level::INFO,
        tracing::Level::DEBUG,
        tracing::Level::TRACE,
    ];
    const DEFAULT: Self = tracing::Level::INFO;

    fn word(self) -> &'static str {
        match self {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        }
    }
}

impl Word for LogFormat {
    const ALL: &'static [Self] = &[LogFormat::Text, LogFormat::Json];
    const DEFAULT: Self = LogFormat::Text;

    fn word(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl Word for Admission {
    const ALL: &'static [Self] = &[Admission::Open, Admission::Known, Admission::Owned];
    const DEFAULT: Self = Admission::Open;

    fn word(self) -> &'static str {
        match self {
            Admission::Open => "open",
            Admission::Known => "known",
            Admission::Owned => "owned",
        }
    }
}

impl Word for EncryptMethod {
    const ALL: &'static [Self] = &EncryptMethod::ALL;
    /// Authenticated, and the fastest such method.
    const DEFAULT: Self = EncryptMethod::Aes128Gcm;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for CompressMethod {
    const ALL: &'static [Self] = &CompressMethod::ALL;
    const DEFAULT: Self = CompressMethod::Null;

    fn word(self) -> &'static str {
        self.name()
    }
}
