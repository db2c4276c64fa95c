use proptest::prelude::*;

use super::*;

fn period(unit: PeriodUnit, day: Option<u8>, time: &str, zone: &str) -> Period {
    Period {
        unit,
        reset_day: day,
        reset_time: time.parse().expect(time),
        zone: zone.parse().expect(zone),
    }
}

#[track_caller]
fn assert_current(period: &Period, now: &str, start: &str, end: &str) {
    let bounds = period.current(at(now));
    let expected = PeriodBounds {
        start: at(start),
        end: Some(at(end)),
    };
    let text = |seconds| UnixTime::new(seconds).map(|time| time.to_string());
    assert_eq!(
        bounds,
        expected,
        "{period} at {now}: {:?} to {:?}",
        text(bounds.start),
        bounds.end.and_then(text)
    );
}

#[test]
fn a_month_begins_on_its_reset_day_in_its_zone() {
    let month = period(PeriodUnit::Month, Some(15), "06:00", "Europe/Berlin");
    let march = ["2026-03-15T05:00:00Z", "2026-04-15T04:00:00Z"];
    for now in [
        "2026-03-15T05:00:00Z",
        "2026-03-20T00:00:00Z",
        "2026-04-15T03:59:59Z",
    ] {
        assert_current(&month, now, march[0], march[1]);
    }
    let february = ["2026-02-15T05:00:00Z", "2026-03-15T05:00:00Z"];
    assert_current(&month, "2026-03-15T04:59:59Z", february[0], february[1]);
}

#[test]
fn reset_day_31_is_the_last_day_of_a_shorter_month() {
    let month = period(PeriodUnit::Month, Some(31), "00:00", "UTC");
    for (now, start, end) in [
        ("2026-02-10", "2026-01-31", "2026-02-28"),
        ("2026-02-28", "2026-02-28", "2026-03-31"),
        ("2026-04-29", "2026-03-31", "2026-04-30"),
        ("2026-12-31", "2026-12-31", "2027-01-31"),
        ("2028-02-28", "2028-01-31", "2028-02-29"),
        ("2028-03-01", "2028-02-29", "2028-03-31"),
    ] {
        assert_current(&month, now, start, end);
    }
}

#[test]
fn a_week_begins_on_its_reset_day() {
    // 2026-11-30 is a Monday.
    let wednesday = period(PeriodUnit::Week, Some(3), "00:00", "UTC");
    assert_current(&wednesday, "2026-11-30", "2026-11-25", "2026-12-02");
    assert_current(&wednesday, "2026-12-02", "2026-12-02", "2026-12-09");
    let monday = Period::new(PeriodUnit::Week);
    assert_current(&monday, "2026-11-30", "2026-11-30", "2026-12-07");
    let sunday = period(PeriodUnit::Week, Some(7), "12:00", "UTC");
    let bounds = ["2026-11-22T12:00:00Z", "2026-11-29T12:00:00Z"];
    assert_current(&sunday, "2026-11-29T11:59:59Z", bounds[0], bounds[1]);
}

#[test]
fn a_skipped_reset_time_is_later_by_the_skipped_time() {
    let day = period(PeriodUnit::Day, None, "02:30", "Europe/Berlin");
    let bounds = ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"];
    assert_current(&day, "2026-03-29T12:00:00Z", bounds[0], bounds[1]);
    let midnight = period(PeriodUnit::Day, None, "00:00", "America/Sao_Paulo");
    let bounds = ["2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"];
    assert_current(&midnight, "2018-11-04T12:00:00Z", bounds[0], bounds[1]);
}

#[test]
fn a_repeated_reset_time_counts_at_its_first_occurrence() {
    let day = period(PeriodUnit::Day, None, "02:30", "Europe/Berlin");
    let bounds = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
    for now in ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"] {
        assert_current(&day, now, bounds[0], bounds[1]);
    }
    // Here midnight itself occurs twice.
    let midnight = period(PeriodUnit::Day, None, "00:00", "America/Havana");
    let bounds = ["2018-11-04T04:00:00Z", "2018-11-05T05:00:00Z"];
    assert_current(&midnight, "2018-11-04T05:30:00Z", bounds[0], bounds[1]);
}

#[test]
fn a_day_that_a_zone_skips_is_no_period() {
    let day = period(PeriodUnit::Day, None, "00:00", "Pacific/Apia");
    let bounds = ["2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"];
    assert_current(&day, "2011-12-30T12:00:00Z", bounds[0], bounds[1]);
    let before = ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"];
    assert_current(&day, "2011-12-30T09:59:59Z", before[0], before[1]);
}

#[test]
fn a_total_has_no_end() {
    let bounds = Period::new(PeriodUnit::Total).current(at("2026-11-30"));
    assert_eq!(
        bounds,
        PeriodBounds {
            start: 0,
            end: None
        }
    );
}

#[test]
fn times_outside_the_calendar_do_not_panic() {
    for unit in [PeriodUnit::Day, PeriodUnit::Week, PeriodUnit::Month] {
        for now in [i64::MIN, -1, 0, 253_402_207_200, i64::MAX] {
            let _ = Period::new(unit).current(now);
        }
    }
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/Havana",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
];

proptest! {
    #[test]
    fn periods_follow_each_other_without_gaps(
        now in 946_684_800_i64..2_145_916_800,
        unit in prop::sample::select(vec![PeriodUnit::Day, PeriodUnit::Week, PeriodUnit::Month]),
        day in 1_u8..=31,
        minutes in 0_u32..1440,
        zone in prop::sample::select(ZONES.to_vec()),
    ) {
        let reset_day = match unit {
            PeriodUnit::Week => Some(day % 7 + 1),
            PeriodUnit::Month => Some(day),
            _ => None,
        };
        let time = format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let period = period(unit, reset_day, &time, zone);
        let bounds = period.current(now);
        let end = bounds.end.expect("an end");
        prop_assert!(bounds.start <= now && now < end, "{bounds:?}");
        prop_assert_eq!(period.current(bounds.start), bounds);
        prop_assert_eq!(period.current(end - 1), bounds);
        prop_assert_eq!(period.current(end).start, end);
        let hours = (end - bounds.start) / 3600;
        let (least, most) = match unit {
            PeriodUnit::Day => (0, 49),
            PeriodUnit::Week => (143, 193),
            _ => (647, 769),
        };
        prop_assert!((least..=most).contains(&hours), "{hours} hours");
    }
}
