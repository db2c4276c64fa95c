//! Timestamps: RFC 3339 in UTC with milliseconds, as in `2026-02-28T23:59:59.999Z`.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

const SECONDS_OF_DAY: u64 = 86_400;

/// Stamps log lines with the system time.
#[derive(Debug, Clone, Copy)]
pub struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&rfc3339(SystemTime::now()))
    }
}

/// Formats a time. Times before 1970 print as the start of 1970.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (
        since.as_secs() / SECONDS_OF_DAY,
        since.as_secs() % SECONDS_OF_DAY,
    );
    let (year, month, day) = date(days);
    let (hour, minute, second, millisecond) = (
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis(),
    );
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// Converts days since 1970-01-01 to year, month and day.
///
/// Years start in March, so that the leap day is the last day of a year. Eras of 400 years all have
/// the same length (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_print_in_rfc_3339() {
        // `date -u -d @SECONDS` produced these values.
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (1_767_225_599_500, "2025-12-31T23:59:59.500Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(
                rfc3339(UNIX_EPOCH + Duration::from_millis(milliseconds)),
                text
            );
        }
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let mut last = date(0);
        for days in 1..80_000 {
            let (year, month, day) = date(days);
            assert!(
                (year, month, day) > last && (day == last.2 + 1 || day == 1),
                "{last:?} then {year}-{month}-{day}"
            );
            last = (year, month, day);
        }
    }
}
