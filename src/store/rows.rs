//! Values of rows, and the columns of policies.

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row as _, any::AnyRow};

use super::{RecordKind, StoreError};
use crate::policy::{self, UnixTime};

/// The columns of a row, with the kind of its record for errors.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    row: &'a AnyRow,
    kind: RecordKind,
    /// The column that names the row in errors.
    id: &'static str,
}

impl<'a> Columns<'a> {
    /// Returns the columns of a row.
    pub(crate) fn new(row: &'a AnyRow, kind: RecordKind, id: &'static str) -> Self {
        Columns { row, kind, id }
    }

    /// Returns the error of an invalid value.
    pub(crate) fn corrupt(
        &self,
        column: &'static str,
        problem: impl std::fmt::Display,
    ) -> StoreError {
        let id = self.row.try_get::<&str, _>(self.id).map(str::to_owned);
        let number = || self.row.try_get::<i64, _>(self.id);
        let id = id.or_else(|_| number().map(|number| number.to_string()));
        StoreError::corrupt(self.kind, id.unwrap_or_default(), column, problem)
    }

    /// Returns the text of a column.
    pub(crate) fn text(&self, column: &'static str) -> Result<&'a str, StoreError> {
        let text = self.row.try_get::<&'a str, _>(column);
        text.map_err(|error| self.corrupt(column, error))
    }

    /// Returns the number of a column.
    pub(crate) fn number(&self, column: &'static str) -> Result<i64, StoreError> {
        let number = self.row.try_get::<i64, _>(column);
        number.map_err(|error| self.corrupt(column, error))
    }

    /// Returns whether the number of a column is not 0.
    pub(crate) fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(self.number(column)? != 0)
    }

    /// Returns a number of bytes. They never exceed the range of the column.
    pub(crate) fn bytes(&self, column: &'static str) -> Result<u64, StoreError> {
        let number = self.number(column)?;
        u64::try_from(number).map_err(|error| self.corrupt(column, error))
    }

    /// Returns the time of a column, where 0 is no time.
    pub(crate) fn time(&self, column: &'static str) -> Result<Option<UnixTime>, StoreError> {
        match self.number(column)? {
            0 => Ok(None),
            seconds => UnixTime::new(seconds)
                .map(Some)
                .ok_or_else(|| self.corrupt(column, "it is not a time after 1970")),
        }
    }

    /// Returns the maximum of a column, where 0 is no maximum.
    pub(crate) fn maximum(&self, column: &'static str) -> Result<Option<u32>, StoreError> {
        let number = u32::try_from(self.number(column)?);
        let number = number.map_err(|error| self.corrupt(column, error))?;
        Ok((number != 0).then_some(number))
    }

    /// Returns the value of a column that holds JSON, where the empty text is the default.
    pub(crate) fn json<T: DeserializeOwned + Default>(
        &self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        match self.text(column)? {
            "" => Ok(T::default()),
            text => policy::from_json(text).map_err(|problem| self.corrupt(column, problem)),
        }
    }

    /// Returns the value of a column whose text parses.
    pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        let value = self.text(column)?.parse();
        value.map_err(|error| self.corrupt(column, error))
    }

    /// Returns the value of a column that holds one word of an enumeration.
    pub(crate) fn word<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        let word = serde_json::Value::from(self.text(column)?);
        serde_json::from_value(word).map_err(|error| self.corrupt(column, error))
    }

    /// Returns the 32 bytes of a column of 64 hexadecimal digits.
    pub(crate) fn key(&self, column: &'static str) -> Result<[u8; 32], StoreError> {
        let text = self.text(column)?;
        bytes_of(text).ok_or_else(|| self.corrupt(column, "it is not 64 hexadecimal digits"))
    }
}

/// Returns the text of a column that holds JSON, where the default is the empty text.
pub(crate) fn json_text<T: Serialize + Default + PartialEq>(value: &T) -> String {
    if *value == T::default() {
        return String::new();
    }
    // Policies have no map with keys that are not text, and their serialization does not fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Returns the word of an enumeration.
pub(crate) fn word_text<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Returns the hexadecimal digits of a key.
pub(crate) fn key_text(key: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    key.iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Returns the bytes of 64 hexadecimal digits.
fn bytes_of(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (high, low) = text.split_at_checked(32)?;
    let half = |text| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes);
    let mut bytes = [0; 32];
    let (first, second) = bytes.split_at_mut(16);
    first.copy_from_slice(&half(high)?);
    second.copy_from_slice(&half(low)?);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_as_text() {
        let key: [u8; 32] = std::array::from_fn(|index| u8::try_from(index * 8).unwrap());
        let text = key_text(&key);
        assert_eq!(text.len(), 64);
        assert_eq!(bytes_of(&text), Some(key));
        let wrong = format!("+{}", &text[1..]);
        for text in ["", "00", &text[1..], &wrong] {
            assert_eq!(bytes_of(text), None, "{text}");
        }
    }

    #[test]
    fn default_policies_are_empty_text() {
        assert_eq!(json_text(&policy::Limits::default()), "");
        let limits = policy::Limits {
            weight: 3,
            ..policy::Limits::default()
        };
        assert_eq!(json_text(&limits), r#"{"weight":3}"#);
    }

    #[test]
    fn words_are_those_of_the_json() {
        assert_eq!(word_text(&policy::TokenRole::Operate), "operate");
        assert_eq!(word_text(&report_proto::frame::Role::Server), "server");
    }
}
