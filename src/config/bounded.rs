//! Durations, sizes and counts whose type states the range and the default.

use std::{borrow::Cow, fmt, ops::Deref, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::error::InvalidValue;
use crate::quantity::{ByteSize, Quantity};

/// Implements a bounded type: its default, `Deref` to its value, serde and its schema. `$read`
/// returns what is wrong with an invalid quantity.
macro_rules! bounded {
    (
        $name:ident<$($bound:ident: $int:ty),+>($value:ty),
        default: $default:expr,
        read: $read:expr,
        write: $write:expr,
        schema: $schema:tt,
    ) => {
        impl<$(const $bound: $int),+> Default for $name<$($bound),+> {
            fn default() -> Self {
                Self($default)
            }
        }

        impl<$(const $bound: $int),+> Deref for $name<$($bound),+> {
            type Target = $value;

            fn deref(&self) -> &$value {
                &self.0
            }
        }

        impl<'de, $(const $bound: $int),+> Deserialize<'de> for $name<$($bound),+> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let read: fn(&Quantity) -> Result<$value, InvalidValue> = $read;
                let value = read(&Quantity::deserialize(deserializer)?);
                value.map(Self).map_err(de::Error::custom)
            }
        }

        impl<$(const $bound: $int),+> Serialize for $name<$($bound),+> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let write: fn($value) -> Value = $write;
                write(self.0).serialize(serializer)
            }
        }

        impl<$(const $bound: $int),+> JsonSchema for $name<$($bound),+> {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_id() -> Cow<'static, str> {
                format!("{}{:?}", stringify!($name), [$($bound),+]).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// Returns the fault of a quantity that is invalid or out of range.
fn out_of_range(
    found: &Quantity,
    form: &str,
    lowest: impl fmt::Display,
    highest: impl fmt::Display,
) -> InvalidValue {
    let remedy = format!("write {form} from {lowest} to {highest}");
    InvalidValue::new(format!("is {found}"), remedy)
}

/// A duration from `MIN` to `MAX`, by default `DEFAULT`, all in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationIn<const MIN: u64, const MAX: u64, const DEFAULT: u64>(Duration);

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> DurationIn<MIN, MAX, DEFAULT> {
    /// The default.
    pub const DEFAULT: Duration = Duration::from_millis(DEFAULT);
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> fmt::Debug
    for DurationIn<MIN, MAX, DEFAULT>
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

bounded! {
    DurationIn<MIN: u64, MAX: u64, DEFAULT: u64>(Duration),
    default: Self::DEFAULT,
    read: |quantity| {
        let form = "seconds as a number, or text like \"500ms\", \"10s\" or \"2m\",";
        duration_within(quantity, MIN, MAX, form)
    },
    write: duration_value,
    schema: {
        "type": ["number", "string"],
        "x-type": format!("duration, {} to {}", human(MIN), human(MAX)),
        "default": duration_value(Self::DEFAULT),
    },
}

/// A duration like [`DurationIn`] that zero disables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationOrOff<const MIN: u64, const MAX: u64, const DEFAULT: u64>(Option<Duration>);

bounded! {
    DurationOrOff<MIN: u64, MAX: u64, DEFAULT: u64>(Option<Duration>),
    default: Some(Duration::from_millis(DEFAULT)),
    read: |quantity| {
        if quantity.duration().is_some_and(|duration| duration.is_zero()) {
            return Ok(None);
        }
        let form = "0 to turn it off, or seconds as a number, or text like \"60s\" or \"2m\",";
        duration_within(quantity, MIN, MAX, form).map(Some)
    },
    write: |duration| duration_value(duration.unwrap_or_default()),
    schema: {
        "type": ["number", "string"],
        "x-type": format!("duration, {} to {}, or 0", human(MIN), human(MAX)),
        "default": duration_value(Duration::from_millis(DEFAULT)),
    },
}

fn duration_within(
    quantity: &Quantity,
    min: u64,
    max: u64,
    form: &str,
) -> Result<Duration, InvalidValue> {
    let range = Duration::from_millis(min)..=Duration::from_millis(max);
    let duration = quantity.duration();
    duration
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| {
            let [lowest, highest] = [range.start(), range.end()].map(|end| format!("{end:?}"));
            out_of_range(quantity, form, lowest, highest)
        })
}

/// Returns a duration as it is written: text with a unit, or fractions of a millisecond in seconds.
fn duration_value(duration: Duration) -> Value {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()).into(),
        nanos if nanos.is_multiple_of(1_000_000) => format!("{}ms", duration.as_millis()).into(),
        _ => duration.as_secs_f64().into(),
    }
}

/// Prints a duration of whole units for the documentation.
fn human(milliseconds: u64) -> String {
    const SECOND: u64 = 1_000;
    const HOUR: u64 = 3_600 * SECOND;
    let units = [
        (24 * HOUR, 2, "days"),
        (HOUR, 1, "h"),
        (60 * SECOND, 1, "min"),
        (SECOND, 1, "s"),
    ];
    let fits = |(unit, least, _): &(u64, u64, _)| {
        milliseconds.is_multiple_of(*unit) && milliseconds / unit >= *least
    };
    match units.into_iter().find(fits) {
        _ if milliseconds == 0 => "0".to_owned(),
        Some((unit, _, name)) => format!("{} {name}", milliseconds / unit),
        None => format!("{milliseconds} ms"),
    }
}

/// A size from `MIN` to `MAX`, by default `DEFAULT`, all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SizeIn<const MIN: u64, const MAX: u64, const DEFAULT: u64>(ByteSize);

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> fmt::Display
    for SizeIn<MIN, MAX, DEFAULT>
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

bounded! {
    SizeIn<MIN: u64, MAX: u64, DEFAULT: u64>(ByteSize),
    default: ByteSize(DEFAULT),
    read: |quantity| {
        let range = ByteSize(MIN)..=ByteSize(MAX);
        let size = quantity.size().filter(|size| range.contains(size));
        size.ok_or_else(|| {
            let form = "bytes as a number, or text like \"64 KiB\" or \"8 MiB\",";
            out_of_range(quantity, form, range.start(), range.end())
        })
    },
    write: |size| size.to_string().into(),
    schema: {
        "type": ["integer", "string"],
        "x-type": format!("size, {} to {}", ByteSize(MIN), ByteSize(MAX)),
        "default": ByteSize(DEFAULT).to_string(),
    },
}

/// A count from 1 to `MAX`, by default `DEFAULT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CountIn<const MAX: u32, const DEFAULT: u32>(u32);

impl<const MAX: u32, const DEFAULT: u32> fmt::Display for CountIn<MAX, DEFAULT> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

bounded! {
    CountIn<MAX: u32, DEFAULT: u32>(u32),
    default: DEFAULT,
    read: |quantity| {
        let count = quantity.count().filter(|count| (1..=MAX).contains(count));
        count.ok_or_else(|| out_of_range(quantity, "a whole number", 1, MAX))
    },
    write: Value::from,
    schema: {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX,
        "x-type": format!("number, 1 to {}", grouped(MAX)),
        "default": DEFAULT,
    },
}

/// Prints a number with a comma between groups of three digits, for the documentation.
fn grouped(number: u32) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1_000), number % 1_000),
    }
}
