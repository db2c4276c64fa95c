//! Slots: an instance keeps links with different slots beside each other (PROTOCOL 5.2).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Unexpected, Visitor},
};

/// The number of slots of an instance (PROTOCOL 12).
pub const MAX_SLOTS: u8 = 16;

/// The slot of a link: a number below [`MAX_SLOTS`].
///
/// A link takes over from the links of its instance that have the same slot, and from no others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Slot(u8);

impl Slot {
    /// The slot of a role with one link, and of a HELLO that names none.
    pub const FIRST: Slot = Slot(0);

    /// Returns the slot with this number, if there is one.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (number < MAX_SLOTS).then_some(Slot(number))
    }

    /// Returns all slots in ascending order.
    pub fn all() -> impl ExactSizeIterator<Item = Slot> + Clone {
        (0..MAX_SLOTS).map(Slot)
    }

    /// Returns the number of the slot.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    pub(super) fn is_first(&self) -> bool {
        *self == Slot::FIRST
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(SlotVisitor)
    }
}

/// Reads a slot. Its errors name the field, because those of JSON do not.
struct SlotVisitor;

impl Visitor<'_> for SlotVisitor {
    type Value = Slot;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`slot`, a number from 0 to {}",
            MAX_SLOTS.saturating_sub(1)
        )
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Slot, E> {
        u8::try_from(number)
            .ok()
            .and_then(Slot::new)
            .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_numbers_below_the_maximum() {
        let numbers: Vec<_> = Slot::all().map(Slot::number).collect();
        assert_eq!(numbers, (0..MAX_SLOTS).collect::<Vec<_>>());
        assert_eq!(Slot::new(MAX_SLOTS), None);
        for slot in Slot::all() {
            assert_eq!(Slot::new(slot.number()), Some(slot));
            let text = serde_json::to_string(&slot).unwrap();
            assert_eq!(text, slot.to_string());
            assert_eq!(serde_json::from_str::<Slot>(&text).unwrap(), slot);
        }
    }

    #[test]
    fn errors_name_the_field_and_its_range() {
        for text in [
            "16",
            "256",
            "18446744073709551615",
            "1e30",
            "-1",
            "1.5",
            "\"1\"",
            "null",
            "[]",
        ] {
            let error = serde_json::from_str::<Slot>(text).unwrap_err().to_string();
            assert!(
                error.contains("`slot`, a number from 0 to 15"),
                "{text}: {error}"
            );
        }
    }
}
