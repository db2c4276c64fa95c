//! Sizes, rates and durations: a number, or text with a unit. This module knows the units. It does
//! not know the valid ranges.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};
use serde_json::Number;

/// A quantity as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Quantity {
    /// A number without a unit: bytes, seconds or a count.
    Number(Number),
    /// Text with a unit: `"64 MiB"`, `"500ms"`.
    Text(String),
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QuantityVisitor;
        impl Visitor<'_> for QuantityVisitor {
            type Value = Quantity;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number, or text with a unit")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity::Number(number.into()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity::Number(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
                let found = || E::invalid_type(de::Unexpected::Float(number), &self);
                Number::from_f64(number)
                    .map(Quantity::Number)
                    .ok_or_else(found)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(QuantityVisitor)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Text(text) => write!(formatter, "\"{text}\""),
        }
    }
}

impl Quantity {
    /// Interprets the quantity as a size: bytes, or a whole number with `B`, `KiB`, `MiB`, `GiB`,
    /// `TiB` (or the decimal `KB`, `MB`, `GB`, `TB`).
    pub(crate) fn size(&self) -> Option<ByteSize> {
        match self {
            Self::Number(number) => number.as_u64().map(ByteSize),
            Self::Text(text) => {
                let (number, unit) = split(text)?;
                let number: u64 = number.parse().ok()?;
                number.checked_mul(bytes_of(unit)?).map(ByteSize)
            }
        }
    }

    /// Interprets the quantity as a rate: bytes per second, or a whole number with a unit of bits
    /// (`bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s`) or of bytes (`KiB/s`, `MB/s`, …).
    pub(crate) fn rate(&self) -> Option<Rate> {
        let text = match self {
            Self::Number(number) => return number.as_u64().map(Rate),
            Self::Text(text) => text,
        };
        let (number, unit) = split(text)?;
        let number: u64 = number.parse().ok()?;
        let unit = unit.strip_suffix("/s")?.trim_end();
        if let Some(bits) = bits_of(unit) {
            let bits = number.checked_mul(bits)?;
            return bits.is_multiple_of(8).then_some(Rate(bits / 8));
        }
        // "Mb/s" means bits to most readers, and bytes by the rules of sizes.
        if unit.ends_with('b') {
            return None;
        }
        number.checked_mul(bytes_of(unit)?).map(Rate)
    }

    /// Interprets the quantity as a duration: seconds, or a number with `ms`, `s`, `m` or `h`.
    pub(crate) fn duration(&self) -> Option<Duration> {
        let (number, unit) = match self {
            Self::Number(number) => return Duration::try_from_secs_f64(number.as_f64()?).ok(),
            Self::Text(text) => split(text)?,
        };
        let number: f64 = number.parse().ok()?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number * seconds).ok()
    }

    /// Interprets the quantity as a count.
    pub(crate) fn count(&self) -> Option<u32> {
        match self {
            Self::Number(number) => number.as_u64()?.try_into().ok(),
            Self::Text(_) => None,
        }
    }
}

/// Splits the text into the digits and the unit.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, unit) = text.split_at(end);
    Some((number, unit.trim_start()))
}

fn bytes_of(unit: &str) -> Option<u64> {
    match unit.to_ascii_lowercase().as_str() {
        "b" => Some(1),
        "kib" | "k" => Some(1 << 10),
        "mib" | "m" => Some(1 << 20),
        "gib" | "g" => Some(1 << 30),
        "tib" | "t" => Some(1 << 40),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "tb" => Some(1_000_000_000_000),
        _ => None,
    }
}

fn bits_of(unit: &str) -> Option<u64> {
    match unit.to_ascii_lowercase().as_str() {
        "bit" => Some(1),
        "kbit" => Some(1_000),
        "mbit" => Some(1_000_000),
        "gbit" => Some(1_000_000_000),
        _ => None,
    }
}

/// A number of bytes. Prints with the largest unit that divides it. In JSON it is a number, or text
/// with a unit such as `"500 MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema), schema(value_type = u64))]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Creates a size of `number` KiB.
    #[must_use]
    pub const fn kib(number: u64) -> Self {
        Self(number << 10)
    }

    /// Creates a size of `number` MiB.
    #[must_use]
    pub const fn mib(number: u64) -> Self {
        Self(number << 20)
    }

    /// Returns the number of bytes as an index or a capacity.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantity = Quantity::deserialize(deserializer)?;
        quantity.size().ok_or_else(|| {
            de::Error::custom(format_args!(
                "{quantity} is not a size (write bytes as a number, or text like \"500 MB\" or \
                 \"64 KiB\")"
            ))
        })
    }
}

/// A number of bytes per second. In JSON it is a number, or text with a unit such as
/// `"10 MiB/s"` or `"8 Mbit/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema), schema(value_type = u64))]
pub struct Rate(pub u64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantity = Quantity::deserialize(deserializer)?;
        quantity.rate().ok_or_else(|| {
            de::Error::custom(format_args!(
                "{quantity} is not a rate (write bytes per second as a number, or text like \
                 \"10 MiB/s\" or \"8 Mbit/s\")"
            ))
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/s", ByteSize(self.0))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units
            .into_iter()
            .find(|(bytes, _)| self.0 > 0 && self.0.is_multiple_of(*bytes))
        {
            Some((bytes, unit)) => write!(formatter, "{} {unit}", self.0 / bytes),
            None => write!(formatter, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> Quantity {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_has_a_unit() {
        for (json, bytes) in [
            ("1000", 1000),
            ("\"64 MiB\"", 64 << 20),
            ("\"64mib\"", 64 << 20),
            ("\"2 KB\"", 2000),
            ("\"7B\"", 7),
            ("\"1 TB\"", 1_000_000_000_000),
            ("\"3 TiB\"", 3 << 40),
        ] {
            assert_eq!(written(json).size(), Some(ByteSize(bytes)), "{json}");
        }
        for json in [
            "-1",
            "1.5",
            "\"64\"",
            "\"MiB\"",
            "\"1.5 MiB\"",
            "\"64 Mib/s\"",
            "\"99999999999 GiB\"",
            "\"\"",
        ] {
            assert_eq!(written(json).size(), None, "{json}");
        }
    }

    #[test]
    fn a_rate_is_a_number_of_bytes_per_second_or_has_a_unit() {
        for (json, bytes) in [
            ("1000", 1000),
            ("\"10 MiB/s\"", 10 << 20),
            ("\"500 KB/s\"", 500_000),
            ("\"8 Mbit/s\"", 1_000_000),
            ("\"8mbit/s\"", 1_000_000),
            ("\"64 kbit/s\"", 8_000),
            ("\"16 bit/s\"", 2),
        ] {
            assert_eq!(written(json).rate(), Some(Rate(bytes)), "{json}");
        }
        for json in [
            "-1",
            "\"10 MiB\"",
            "\"10\"",
            "\"8 Mb/s\"",
            "\"8 mib/s\"",
            "\"9 bit/s\"",
            "\"99999999999 GB/s\"",
            "\"/s\"",
        ] {
            assert_eq!(written(json).rate(), None, "{json}");
        }
        assert_eq!(Rate(10 << 20).to_string(), "10 MiB/s");
    }

    #[test]
    fn sizes_and_rates_are_numbers_in_json_and_name_a_bad_value() {
        let json = serde_json::to_string(&(ByteSize(2000), Rate(3))).expect("JSON");
        assert_eq!(json, "[2000,3]");
        let read: (ByteSize, Rate) = serde_json::from_str(&json).expect("a size and a rate");
        assert_eq!(read, (ByteSize(2000), Rate(3)));
        let size =
            serde_json::from_str::<ByteSize>("\"5 apples\"").map_err(|error| error.to_string());
        assert!(size.is_err_and(|text| text.starts_with("\"5 apples\" is not a size")));
        let rate = serde_json::from_str::<Rate>("\"5 MB\"").map_err(|error| error.to_string());
        assert!(rate.is_err_and(|text| text.starts_with("\"5 MB\" is not a rate")));
    }

    #[test]
    fn a_duration_is_a_number_of_seconds_or_has_a_unit() {
        for (json, milliseconds) in [
            ("10", 10_000),
            ("0.5", 500),
            ("\"500ms\"", 500),
            ("\"10 s\"", 10_000),
            ("\"2m\"", 120_000),
            ("\"1h\"", 3_600_000),
        ] {
            assert_eq!(
                written(json).duration(),
                Some(Duration::from_millis(milliseconds)),
                "{json}"
            );
        }
        for json in ["-1", "\"10\"", "\"s\"", "\"1 day\"", "\"1.2.3s\"", "1e300"] {
            assert_eq!(written(json).duration(), None, "{json}");
        }
    }

    #[test]
    fn a_size_prints_with_the_unit_that_divides_it() {
        for (size, text) in [
            (ByteSize::mib(64), "64 MiB"),
            (ByteSize(1025), "1025 B"),
            (ByteSize(0), "0 B"),
            (ByteSize::kib(3), "3 KiB"),
        ] {
            assert_eq!(size.to_string(), text);
        }
    }
}
