//! The time from which and until which a policy is valid.

use std::{fmt, num::NonZeroI64};

use jiff::{Timestamp, ZonedDateTime, civil::DateTime};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::{period::Zone, problem::Problems};

/// A point in time since 1970, in seconds. In JSON it is text of RFC 3339, and it may be read from
/// a date, from a date with a zone such as `2027-01-31[Europe/Berlin]`, or from Unix seconds. A
/// date means its first moment, without a zone that of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "store",
    derive(utoipa::ToSchema),
    schema(value_type = String, format = DateTime)
)]
pub struct UnixTime(NonZeroI64);

/// A text that is not a point in time since 1970.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a time since 1970 (write a date such as \"2027-01-31\", or a time such as \
     \"2027-01-31T18:00:00Z\" or \"2027-01-31T18:00[Europe/Berlin]\")"
)]
pub struct InvalidTime(String);

impl UnixTime {
    /// Creates a time from Unix seconds. Returns `None` if the calendar does not contain it, or if
    /// it is not since 1970. So a column that contains 0 is `None`.
    #[must_use]
    pub fn new(seconds: i64) -> Option<Self> {
        let seconds = NonZeroI64::new(seconds).filter(|seconds| seconds.is_positive())?;
        Timestamp::from_second(seconds.get()).ok()?;
        Some(UnixTime(seconds))
    }

    /// Returns the value of a column, where 0 is no time.
    #[must_use]
    pub fn column(time: Option<Self>) -> i64 {
        time.map_or(0, Self::seconds)
    }

    /// Returns the Unix seconds.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.get()
    }

    /// Parses a time of RFC 3339, a time with a zone in brackets, or a local time or date in
    /// `zone`.
    ///
    /// # Errors
    /// If the text has another form, or is not since 1970.
    pub fn parse(text: &str, zone: &Zone) -> Result<Self, InvalidTime> {
        let timestamp = if text.contains('[') {
            text.parse::<ZonedDateTime>().map(|time| time.timestamp())
        } else {
            text.parse::<Timestamp>().or_else(|_| {
                let local: DateTime = text.parse()?;
                zone.time_zone().to_timestamp(local)
            })
        };
        let seconds = timestamp.ok().map(Timestamp::as_second);
        seconds
            .and_then(UnixTime::new)
            .ok_or_else(|| InvalidTime(text.to_owned()))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.seconds()) {
            Ok(timestamp) => timestamp.fmt(formatter),
            Err(_) => self.0.fmt(formatter),
        }
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = UnixTime;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a time, a date, or Unix seconds")
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<UnixTime, E> {
                let invalid = || E::custom(InvalidTime(seconds.to_string()));
                UnixTime::new(seconds).ok_or_else(invalid)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<UnixTime, E> {
                self.visit_i64(i64::try_from(seconds).unwrap_or(i64::MAX))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<UnixTime, E> {
                UnixTime::parse(text, &Zone::UTC).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(TimeVisitor)
    }
}

/// The time from which and until which a record is valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validity {
    /// The first moment, or `None` for always.
    pub not_before: Option<UnixTime>,
    /// The first moment at which it is no longer valid, or `None` for never.
    pub expires: Option<UnixTime>,
}

/// The state of a validity at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValidityState {
    /// It begins later.
    NotYet,
    /// It has begun and has not ended.
    Valid,
    /// It has ended.
    Expired,
}

impl Validity {
    /// Creates the validity of a record.
    #[must_use]
    pub fn new(not_before: Option<UnixTime>, expires: Option<UnixTime>) -> Self {
        Validity {
            not_before,
            expires,
        }
    }

    /// Returns the state at a time.
    #[must_use]
    pub fn at(&self, now: i64) -> ValidityState {
        if self.expires.is_some_and(|end| end.seconds() <= now) {
            ValidityState::Expired
        } else if self.not_before.is_some_and(|start| now < start.seconds()) {
            ValidityState::NotYet
        } else {
            ValidityState::Valid
        }
    }

    /// Returns the moments at which the state changes.
    pub(super) fn boundaries(&self) -> impl Iterator<Item = UnixTime> + use<> {
        self.not_before.into_iter().chain(self.expires)
    }

    /// Adds a problem if the validity ends before it begins.
    pub(super) fn check(&self, problems: &mut Problems) {
        if let (Some(not_before), Some(expires)) = (self.not_before, self.expires)
            && expires <= not_before
        {
            let message = format!("it must be after not_before, which is {not_before}");
            problems.add("expires", expires, message);
        }
    }
}
