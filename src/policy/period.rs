//! The periods of quotas: days, weeks and months that begin at a local time in a zone.

use std::{fmt, str::FromStr};

use jiff::{
    Span, Timestamp,
    civil::{Date, Time},
    tz::TimeZone,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    is_default,
    problem::{Problems, field_of},
};

/// A time zone by its name in the IANA database, such as `Europe/Berlin`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct Zone(TimeZone);

/// A text that is not the name of a time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a time zone (write a name of the IANA database such as \"Europe/Berlin\" or \
     \"UTC\")"
)]
pub struct UnknownZone(String);

impl Zone {
    /// Coordinated Universal Time.
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// Returns the rules of the zone.
    #[must_use]
    pub fn time_zone(&self) -> &TimeZone {
        &self.0
    }
}

impl Default for Zone {
    fn default() -> Self {
        Zone::UTC
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(text: &str) -> Result<Self, UnknownZone> {
        let zone = TimeZone::get(text).ok();
        // "Etc/Unknown" parses, but has no name.
        zone.filter(|zone| zone.iana_name().is_some())
            .map(Zone)
            .ok_or_else(|| UnknownZone(text.to_owned()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

/// A time of day in hours and minutes: `06:30`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct TimeOfDay(Time);

/// A text that is not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a time of day (write hours and minutes, \"00:00\" to \"23:59\")")]
pub struct InvalidTimeOfDay(String);

impl FromStr for TimeOfDay {
    type Err = InvalidTimeOfDay;

    fn from_str(text: &str) -> Result<Self, InvalidTimeOfDay> {
        let two_digits = |text: &str| {
            let is_valid = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_valid.then(|| text.parse::<i8>().ok()).flatten()
        };
        let time = || {
            let (hour, minute) = text.split_once(':')?;
            Time::new(two_digits(hour)?, two_digits(minute)?, 0, 0).ok()
        };
        time()
            .map(TimeOfDay)
            .ok_or_else(|| InvalidTimeOfDay(text.to_owned()))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

/// Implements serde for a type with a text form.
macro_rules! text_serde {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

text_serde!(Zone);
text_serde!(TimeOfDay);

/// The length of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PeriodUnit {
    /// A day.
    Day,
    /// A week.
    Week,
    /// A calendar month.
    Month,
    /// All time, without an end.
    Total,
}

/// A repeated period, which begins at a local time in a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// The length.
    pub unit: PeriodUnit,
    /// The first day: 1 (Monday) to 7 (Sunday) of a week, 1 to 31 of a month. In a month without
    /// this day the period begins on the last day. By default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_day: Option<u8>,
    /// The local time of the first day at which the period begins.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reset_time: TimeOfDay,
    /// The zone of the first day and its time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub zone: Zone,
}

/// The first moment of a period, and the first moment after it, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodBounds {
    /// The first moment. 0 for all time.
    pub start: i64,
    /// The first moment of the next period, or `None` for all time.
    pub end: Option<i64>,
}

impl Period {
    /// Creates a period of this length that begins at midnight UTC of its first day.
    #[must_use]
    pub fn new(unit: PeriodUnit) -> Self {
        Period {
            unit,
            reset_day: None,
            reset_time: TimeOfDay::default(),
            zone: Zone::UTC,
        }
    }

    /// Returns the bounds of the period that contains `now`.
    ///
    /// A reset time that the clocks skip is later by the skipped time. A reset time that occurs
    /// twice counts at its first occurrence.
    #[must_use]
    pub fn current(&self, now: i64) -> PeriodBounds {
        let moment = Timestamp::from_second(now).unwrap_or(Timestamp::UNIX_EPOCH);
        let today = self.zone.0.to_datetime(moment).date();
        let mut bounds = PeriodBounds {
            start: 0,
            end: None,
        };
        let mut has_start = false;
        for date in self.first_days_around(today) {
            let local = date.to_datetime(self.reset_time.0);
            let Ok(reset) = self.zone.0.to_timestamp(local) else {
                continue;
            };
            let reset = reset.as_second();
            if reset > now {
                bounds.end = Some(bounds.end.map_or(reset, |end| end.min(reset)));
            } else if !has_start || reset > bounds.start {
                bounds.start = reset;
                has_start = true;
            }
        }
        bounds
    }

    /// Returns the first days of the periods around a day, enough to contain the current and the
    /// next one. A day is not enough on either side: a zone may repeat or skip the hours around
    /// midnight, or a whole day.
    fn first_days_around(&self, today: Date) -> Vec<Date> {
        let first_day = self.reset_day.unwrap_or(1);
        let after = |date: Date, days: i8| date.checked_add(Span::new().days(days)).ok();
        match self.unit {
            PeriodUnit::Day => (-2..=2).filter_map(|days| after(today, days)).collect(),
            PeriodUnit::Week => {
                let weekday = today.weekday().to_monday_one_offset();
                let first_day = i8::try_from(first_day).unwrap_or(1);
                let since = weekday.saturating_sub(first_day).rem_euclid(7);
                let offsets = [-14, -7, 0, 7, 14].into_iter();
                offsets
                    .filter_map(|days: i8| after(today, days.saturating_sub(since)))
                    .collect()
            }
            PeriodUnit::Month => (-2..=2_i8)
                .filter_map(|months| {
                    let first = today.first_of_month();
                    let month = first.checked_add(Span::new().months(months)).ok()?;
                    day_of_month(month, first_day)
                })
                .collect(),
            PeriodUnit::Total => Vec::new(),
        }
    }

    /// Adds the problems of the period.
    pub(super) fn check(&self, path: &str, problems: &mut Problems) {
        let last = match self.unit {
            PeriodUnit::Week => 7,
            PeriodUnit::Month => 31,
            PeriodUnit::Day | PeriodUnit::Total => 0,
        };
        if let Some(day) = self.reset_day
            && !(1..=last).contains(&day)
        {
            let message = match self.unit {
                PeriodUnit::Week => "write 1 (Monday) to 7 (Sunday)",
                PeriodUnit::Month => "write 1 to 31",
                PeriodUnit::Day => "a day has no reset day (remove it)",
                PeriodUnit::Total => "a total is never reset (remove it)",
            };
            problems.add(field_of(path, "reset_day"), day, message);
        }
        if self.unit == PeriodUnit::Total && !is_default(&self.reset_time) {
            let message = "a total is never reset (remove it)";
            problems.add(field_of(path, "reset_time"), self.reset_time, message);
        }
    }
}

/// Returns a day of the month, or the last one if the month is shorter.
fn day_of_month(month: Date, day: u8) -> Option<Date> {
    let last = month.days_in_month();
    let day = i8::try_from(day).map_or(last, |day| day.min(last));
    Date::new(month.year(), month.month(), day).ok()
}

/// Prints the unit, the first day, the time and the zone. Periods with the same text have the same
/// bounds.
impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = self.reset_day.unwrap_or(1);
        let (time, zone) = (self.reset_time, &self.zone);
        match self.unit {
            PeriodUnit::Day => write!(formatter, "day {time} {zone}"),
            PeriodUnit::Week => write!(formatter, "week {day} {time} {zone}"),
            PeriodUnit::Month => write!(formatter, "month {day} {time} {zone}"),
            PeriodUnit::Total => formatter.write_str("total"),
        }
    }
}
