//! Values of options and their texts: times, sizes and rates, and `none`.

use std::fmt::Display;

use jiff::{Timestamp, tz::TimeZone};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::policy::{ByteSize, Network, Networks, Rate, UnixTime, Zone};

/// The value of an option that may remove the present value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting<T> {
    /// `none`: there is no value any more.
    Remove,
    /// A new value.
    To(T),
}

impl<T> Setting<T> {
    /// Returns the new value, if there is one.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Setting::Remove => None,
            Setting::To(value) => Some(value),
        }
    }

    /// Reads `none`, or a value.
    fn read<E: Display>(
        text: &str,
        value: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Self, String> {
        match text {
            "none" => Ok(Setting::Remove),
            text => value(text)
                .map(Setting::To)
                .map_err(|error| error.to_string()),
        }
    }
}

/// Reads a time, or `none`.
pub(super) fn time(text: &str) -> Result<Setting<UnixTime>, String> {
    Setting::read(text, moment)
}

/// Reads a time: a date, a time, or a duration from now on such as `30d`.
pub(super) fn moment(text: &str) -> Result<UnixTime, String> {
    time_from(text, Timestamp::now().as_second(), &local_zone())
}

/// Reads a time. A local time or a date is in this zone.
fn time_from(text: &str, now: i64, zone: &Zone) -> Result<UnixTime, String> {
    let time = match duration_in_seconds(text) {
        Some(seconds) => now.checked_add(seconds).and_then(UnixTime::new),
        None => UnixTime::parse(text, zone).ok(),
    };
    time.ok_or_else(|| {
        format!(
            "\"{text}\" is not a time (write a date such as \"2027-01-31\", a time such as \
             \"2027-01-31T18:00:00+01:00\", or a duration from now on such as \"30d\" or \"12h\")"
        )
    })
}

/// Returns the seconds of a whole number with a unit: `90m`, `12h`, `30d`, `2w`.
pub(super) fn duration_in_seconds(text: &str) -> Option<i64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let unit = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit)
}

/// Returns the zone of this machine, or UTC if it has no name.
fn local_zone() -> Zone {
    let zone = TimeZone::system();
    let name = zone.iana_name().and_then(|name| name.parse().ok());
    name.unwrap_or_default()
}

/// Reads a value that has the same text in JSON. A number without a unit is a number there.
pub(super) fn json_value<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let value = match text.parse::<u64>() {
        Ok(number) => Value::from(number),
        Err(_) => Value::from(text),
    };
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// Reads a size, or `none`.
pub(super) fn size(text: &str) -> Result<Setting<ByteSize>, String> {
    Setting::read(text, json_value)
}

/// Reads a rate, or `none`.
pub(super) fn rate(text: &str) -> Result<Setting<Rate>, String> {
    Setting::read(text, json_value)
}

/// Reads a number from 1, or `none`.
pub(super) fn maximum(text: &str) -> Result<Setting<u32>, String> {
    Setting::read(text, |text| match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!(
            "\"{text}\" is not a number from 1 (write one, or \"none\" for no maximum)"
        )),
    })
}

/// Reads a network, or `none`.
pub(super) fn network(text: &str) -> Result<Setting<Network>, String> {
    Setting::read(text, str::parse::<Network>)
}

/// Returns the list of an option that may be repeated. `none` is the empty list, which allows all
/// networks.
pub(super) fn networks(given: Vec<Setting<Network>>) -> Option<Networks> {
    let is_given = !given.is_empty();
    let networks = given.into_iter().filter_map(Setting::value).collect();
    is_given.then(|| Networks::new(networks))
}

/// Returns the list of networks as text, or the empty text for all networks.
pub(super) fn networks_text(networks: &Networks) -> String {
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    networks.join(", ")
}

/// Returns a time of RFC 3339 in a zone.
pub(super) fn time_text(seconds: i64, zone: &TimeZone) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => time.display_with_offset(zone.to_offset(time)).to_string(),
        Err(_) => seconds.to_string(),
    }
}

/// Returns an optional time, or the empty text.
pub(super) fn optional_time_text(time: Option<UnixTime>, zone: &TimeZone) -> String {
    time.map_or_else(String::new, |time| time_text(time.seconds(), zone))
}

/// Returns a number of bytes with about three digits.
pub(super) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // The value before rounding, in tenths of a unit.
    let mut tenths = u128::from(bytes) * 10;
    if tenths < 10_240 {
        return format!("{bytes} B");
    }
    let mut unit = "B";
    for name in UNITS {
        unit = name;
        tenths = (tenths + 512) / 1024;
        if tenths < 10_240 {
            break;
        }
    }
    match tenths {
        1_000.. => format!("{} {unit}", (tenths + 5) / 10),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_times_or_durations() {
        let zone: Zone = "Europe/Berlin".parse().unwrap();
        let now = 1_800_000_000;
        let read = |text| time_from(text, now, &zone).map(UnixTime::seconds);
        assert_eq!(read("90m"), Ok(now + 5_400));
        assert_eq!(read("30d"), Ok(now + 30 * 86_400));
        assert_eq!(read("2w"), Ok(now + 14 * 86_400));
        assert_eq!(read("2027-01-31"), Ok(1_801_350_000));
        assert_eq!(read("2027-01-31T00:00:00Z"), Ok(1_801_353_600));
        for text in ["", "tomorrow", "d", "5x", "2027-02-30", "99999999999999w"] {
            let error = read(text).unwrap_err();
            assert!(
                error.starts_with(&format!("\"{text}\" is not a time (write")),
                "{error}"
            );
        }
    }

    #[test]
    fn none_removes_a_value() {
        assert_eq!(time("none"), Ok(Setting::Remove));
        assert_eq!(rate("none"), Ok(Setting::Remove));
        assert_eq!(maximum("3"), Ok(Setting::To(3)));
        assert_eq!(rate("10 MiB/s"), Ok(Setting::To(Rate(10 << 20))));
        assert_eq!(rate("1000"), Ok(Setting::To(Rate(1000))));
        assert_eq!(size("1 TB"), Ok(Setting::To(ByteSize(1_000_000_000_000))));
        assert_eq!(networks(vec![]), None);
        assert_eq!(networks(vec![Setting::Remove]), Some(Networks::default()));
    }

    #[test]
    fn bad_values_are_named_with_the_remedy() {
        for (error, parts) in [
            (
                rate("fast").unwrap_err(),
                ["\"fast\" is not a rate", "10 MiB/s"],
            ),
            (
                size("1 apple").unwrap_err(),
                ["\"1 apple\" is not a size", "64 KiB"],
            ),
            (maximum("0").unwrap_err(), ["\"0\" is not a number", "none"]),
            (
                network("10.0.0.1/8").unwrap_err(),
                ["\"10.0.0.1/8\"", "10.0.0.0/8"],
            ),
            (
                network("home").unwrap_err(),
                ["\"home\" is not a network", "2001:db8::/32"],
            ),
        ] {
            for part in parts {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }

    #[test]
    fn times_have_the_offset_of_the_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(time_text(1_801_350_000, &zone), "2027-01-31T00:00:00+01:00");
        assert_eq!(time_text(0, &TimeZone::UTC), "1970-01-01T00:00:00+00:00");
        assert_eq!(optional_time_text(None, &zone), "");
    }

    #[test]
    fn bytes_have_about_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_350, "100 KiB"),
            (1 << 20, "1.0 MiB"),
            (123 << 20, "123 MiB"),
            (1_000_000_000_000, "931 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes_text(bytes), text, "{bytes}");
        }
    }
}
