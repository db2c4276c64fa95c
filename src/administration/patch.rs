//! Parts of a record to change.

use serde::{Deserialize, Deserializer};

use crate::policy::UnixTime;

/// Reads a field that is present. `null` is a value only if the type has one, so it removes an
/// optional value and is an error for others.
pub(super) fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Sets a field to its new value, if there is one.
pub(super) fn put<T>(field: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *field = new;
    }
}

/// The default of `enabled`.
pub(super) fn enabled() -> bool {
    true
}

/// Returns the earlier end of a validity.
pub(super) fn earlier(present: Option<UnixTime>, new: UnixTime) -> UnixTime {
    present.map_or(new, |present| present.min(new))
}

/// How many names [`next_names`] returns.
const NAME_ATTEMPTS: u32 = 100;

/// The most characters of the part before the number.
const MAX_STEM: usize = 50;

/// Returns names for the successor of a record: `laptop-2`, `laptop-3` and so on.
pub(super) fn next_names(name: &str) -> impl Iterator<Item = String> {
    let numbered = name.rsplit_once('-').and_then(|(stem, number)| {
        let number: u32 = number.parse().ok()?;
        Some((stem, number))
    });
    let (stem, number) = numbered.unwrap_or((name, 1));
    let stem: String = stem.chars().take(MAX_STEM).collect();
    let first = number.saturating_add(1);
    (first..first.saturating_add(NAME_ATTEMPTS)).map(move |number| format!("{stem}-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_have_the_next_number() {
        let first = |name: &str| next_names(name).next().unwrap();
        assert_eq!(first("laptop"), "laptop-2");
        assert_eq!(first("laptop-2"), "laptop-3");
        assert_eq!(first("my-laptop"), "my-laptop-2");
        assert_eq!(first(&"ä".repeat(64)), format!("{}-2", "ä".repeat(50)));
        assert_eq!(next_names("laptop").nth(1).unwrap(), "laptop-3");
        assert_eq!(next_names(&format!("laptop-{}", u32::MAX)).next(), None);
    }

    #[test]
    fn the_earlier_end_applies() {
        let time = |seconds| UnixTime::new(seconds).unwrap();
        assert_eq!(earlier(None, time(5)), time(5));
        assert_eq!(earlier(Some(time(4)), time(5)), time(4));
        assert_eq!(earlier(Some(time(6)), time(5)), time(5));
    }
}
