//! Lists in pages, and the texts of their positions.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::AdministrationError;
use crate::{
    policy::AccountId,
    store::{KeyPosition, MAX_PAGE, Page, Stored},
};
use report_proto::id::Id;

/// The records of a page, unless the query names another number.
pub const DEFAULT_PAGE: u32 = 100;

/// A page of records with their versions. `next` is the `after` of the next page.
pub type RecordPage<T> = Page<Stored<T>, String>;

/// A list of accounts, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccountQuery {
    /// Only the account with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most records of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// A list of the credentials of an account, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CredentialQuery {
    /// Only the credential with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most records of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// A list of keys, in the order of their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyQuery {
    /// Only keys of this account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<i64>)]
    pub account: Option<AccountId>,
    /// Only keys with this label, at most 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most records of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// A list of tokens, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TokenQuery {
    /// Only the token with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most records of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// Checks the number of records of a page.
pub(super) fn size_of(size: Option<u32>) -> Result<u32, AdministrationError> {
    match size {
        None => Ok(DEFAULT_PAGE),
        Some(size) if (1..=MAX_PAGE).contains(&size) => Ok(size),
        Some(size) => Err(AdministrationError::invalid(
            "size",
            size,
            format!("write 1 to {MAX_PAGE}"),
        )),
    }
}

/// Returns the page of a lookup, which has no further page.
pub(super) fn whole<T>(items: Vec<Stored<T>>) -> RecordPage<T> {
    Page { items, next: None }
}

/// Changes the records and the position of a page.
pub(super) fn map_page<T, U, C>(
    page: Page<Stored<T>, C>,
    record: impl Fn(T) -> U,
    position: impl FnOnce(C) -> String,
) -> RecordPage<U> {
    let items = page.items.into_iter().map(|item| item.map(&record));
    Page {
        items: items.collect(),
        next: page.next.map(position),
    }
}

fn invalid_position(after: &str) -> AdministrationError {
    let shown: String = after.chars().take(100).collect();
    AdministrationError::invalid(
        "after",
        format_args!("{shown:?}"),
        "it is not a position of this list (write \"next\" of the page before, or omit it)",
    )
}

/// Reads a position in a list that is in the order of numbers.
pub(super) fn number_after(after: Option<&str>) -> Result<Option<i64>, AdministrationError> {
    let parse = |text: &str| text.parse().map_err(|_| invalid_position(text));
    after.map(parse).transpose()
}

/// Reads a position in a list that is in the order of names.
pub(super) fn name_after(after: Option<&str>) -> Result<Option<String>, AdministrationError> {
    let parse = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            // No name has the character NUL, and PostgreSQL takes none.
            .filter(|name| !name.contains('\0'))
            .ok_or_else(|| invalid_position(text))
    };
    after.map(parse).transpose()
}

/// Returns the text of a position in a list that is in the order of names.
pub(super) fn name_position(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// Reads a position in a list of keys.
pub(super) fn key_after(after: Option<&str>) -> Result<Option<KeyPosition>, AdministrationError> {
    let Some(text) = after else { return Ok(None) };
    let invalid = || invalid_position(text);
    let position = name_after(Some(text))?.unwrap_or_default();
    let (id, label) = position.split_at_checked(32).ok_or_else(invalid)?;
    Ok(Some(KeyPosition {
        id: id.parse::<Id>().map_err(|_| invalid())?,
        label: label.to_owned(),
    }))
}

/// Returns the text of a position in a list of keys.
pub(super) fn key_position(position: KeyPosition) -> String {
    name_position(&format!("{}{}", position.id, position.label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        let position = KeyPosition {
            id: Id([7; 16]),
            label: "größe / 1".to_owned(),
        };
        let text = key_position(position.clone());
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
        assert_eq!(key_after(Some(&text)).unwrap(), Some(position));
        let text = name_position("laptop");
        assert_eq!(name_after(Some(&text)).unwrap().as_deref(), Some("laptop"));
        assert_eq!(number_after(Some("12")).unwrap(), Some(12));
        assert_eq!(key_after(None).unwrap(), None);
    }

    #[test]
    fn other_positions_name_the_field() {
        let errors = [
            number_after(Some("x")).unwrap_err(),
            name_after(Some("%")).unwrap_err(),
            // Bytes that are no text.
            name_after(Some("_w")).unwrap_err(),
            name_after(Some(&name_position("a\0b"))).unwrap_err(),
            key_after(Some(&name_position("short"))).unwrap_err(),
            key_after(Some(&name_position(&"x".repeat(40)))).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.body().field.as_deref(), Some("after"), "{error}");
        }
    }

    #[test]
    fn the_size_of_a_page_has_bounds() {
        assert_eq!(size_of(None).unwrap(), DEFAULT_PAGE);
        assert_eq!(size_of(Some(MAX_PAGE)).unwrap(), MAX_PAGE);
        for size in [0, MAX_PAGE + 1] {
            let body = size_of(Some(size)).unwrap_err().body();
            assert_eq!(body.field.as_deref(), Some("size"));
            assert_eq!(body.value, Some(size.to_string()));
        }
    }
}
