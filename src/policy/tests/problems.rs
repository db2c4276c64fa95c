use super::*;

/// Returns the problems of limits as texts.
fn problems(json: &str) -> Vec<String> {
    let limits: Limits = from_json(json).expect(json);
    let account = Account {
        limits,
        ..Account::new(AccountId(2), "two")
    };
    let problems = account.problems();
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn assert_problem(json: &str, field: &str, start: &str) {
    let found = problems(json);
    let expected = format!("limits.{field} {start}");
    let is_found = found.len() == 1 && found[0].starts_with(&expected);
    assert!(is_found, "{json}: {found:?} instead of {expected:?}");
}

#[test]
fn a_maximum_of_nothing_is_a_problem() {
    for (json, field, start) in [
        (r#"{"weight": 0}"#, "weight", "is 0: write a weight"),
        (r#"{"weight": 1001}"#, "weight", "is 1001: write a weight"),
        (
            r#"{"counts": {"links": 0}}"#,
            "counts.links",
            "is 0: nothing",
        ),
        (
            r#"{"rates": {"up": {"rate": 0}}}"#,
            "rates.up.rate",
            "is 0 B/s",
        ),
        (
            r#"{"rates": {"both": {"rate": 5, "burst": 0}}}"#,
            "rates.both.burst",
            "is 0 B: nothing",
        ),
        (
            r#"{"quotas": [{"period": {"unit": "day"}, "bytes": 0}]}"#,
            "quotas[0].bytes",
            "is 0: nothing",
        ),
        (
            r#"{"quotas": [{"period": {"unit": "day"}, "bytes": 18446744073709551615}]}"#,
            "quotas[0].bytes",
            "is 18446744073709551615: the number",
        ),
    ] {
        assert_problem(json, field, start);
    }
}

#[test]
fn thresholds_that_contradict_each_other_are_a_problem() {
    let thresholds = |list: &str| {
        format!(
            r#"{{"quotas": [{{"period": {{"unit": "day"}}, "bytes": 5, "thresholds": [{list}]}}]}}"#
        )
    };
    for (list, field, start) in [
        ("", "", "is empty"),
        (
            r#"{"percent": 0, "action": "stop"}"#,
            "[0].percent",
            "is 0: write a percentage",
        ),
        (
            r#"{"percent": 90, "action": "stop", "rate": 5}"#,
            "[0].rate",
            "is 5 B/s: only the action",
        ),
        (
            r#"{"percent": 90, "action": "slow", "rate": 0}"#,
            "[0].rate",
            "is 0 B/s: nothing",
        ),
        (
            r#"{"percent": 90, "action": "notify"}, {"percent": 90, "action": "slow"}"#,
            "[1].percent",
            "is 90: it must be above",
        ),
        (
            r#"{"percent": 90, "action": "stop"}, {"percent": 100, "action": "slow"}"#,
            "[1].percent",
            "is 100: it is never reached",
        ),
        (
            r#"{"percent": 90, "action": "slow", "rate": 5},
               {"percent": 95, "action": "slow", "rate": 6}"#,
            "[1].rate",
            "is 6 B/s: it must be below",
        ),
    ] {
        let field = format!("quotas[0].thresholds{field}");
        assert_problem(&thresholds(list), &field, start);
    }
}

#[test]
fn periods_that_contradict_each_other_are_a_problem() {
    let period = |period: &str| format!(r#"{{"quotas": [{{"period": {period}, "bytes": 5}}]}}"#);
    for (json, field, start) in [
        (
            r#"{"unit": "month", "reset_day": 32}"#,
            "reset_day",
            "is 32: write 1 to 31",
        ),
        (
            r#"{"unit": "week", "reset_day": 0}"#,
            "reset_day",
            "is 0: write 1 (Monday)",
        ),
        (
            r#"{"unit": "day", "reset_day": 1}"#,
            "reset_day",
            "is 1: a day has no",
        ),
        (
            r#"{"unit": "total", "reset_time": "06:00"}"#,
            "reset_time",
            "is 06:00: a total",
        ),
    ] {
        let field = format!("quotas[0].period.{field}");
        assert_problem(&period(json), &field, start);
    }
    let twice = r#"{"quotas": [{"period": {"unit": "day"}, "bytes": 5},
                               {"period": {"unit": "day"}, "bytes": 6}]}"#;
    assert_problem(twice, "quotas[1].period", "is day 00:00 UTC: quota 0");
}

#[test]
fn a_slow_rate_is_compared_with_the_limit_of_its_direction() {
    let limits = |direction: &str, slow: &str| {
        format!(
            r#"{{"rates": {{"up": {{"rate": "32 KiB/s"}}}},
                "quotas": [{{"period": {{"unit": "day"}}, "direction": "{direction}", "bytes": 5,
                             "thresholds": [{{"percent": 100, "action": "slow" {slow}}}]}}]}}"#
        )
    };
    let field = "quotas[0].thresholds[0].rate";
    let start = "is 33 KiB/s: it is above the rate limit of 32 KiB/s";
    assert_problem(&limits("up", r#", "rate": "33 KiB/s""#), field, start);
    assert!(problems(&limits("up", r#", "rate": "32 KiB/s""#)).is_empty());
    assert!(problems(&limits("down", r#", "rate": "33 KiB/s""#)).is_empty());
    // The default rate is 64 KiB/s.
    assert!(problems(&limits("up", "")).is_empty());
}

#[test]
fn contradictions_of_records_name_their_field() {
    let mut account = Account::new(AccountId(2), " two");
    account.not_before = seconds(20);
    account.expires = seconds(20);
    account.max_keys = Some(0);
    account.networks = networks(&["10.0.0.1"; 65]);
    account.note = "n".repeat(5000);
    let problems = account.problems();
    let fields: Vec<_> = problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["name", "expires", "max_keys", "networks", "note"]);
    let text = "expires is 1970-01-01T00:00:20Z: it must be after not_before, which is \
                1970-01-01T00:00:20Z";
    assert_eq!(problems[1].to_string(), text);

    let key = ServiceKey::new(key_id(1), "");
    assert_eq!(key.problems()[0].to_string(), "label is \"\": write a name");
    let fits = ServiceKey::new(key_id(1), "x".repeat(64));
    assert!(fits.problems().is_empty());
    let long = ServiceKey::new(key_id(1), "x".repeat(65)).problems();
    assert_eq!(long[0].message, "write at most 64 characters");

    let relay: RelayPolicy =
        from_json(r#"{"reserve": {"account": 1, "percent": 100}}"#).expect("a policy");
    let problems = relay.problems();
    let fields: Vec<_> = problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["reserve.percent", "reserve"]);
}

#[test]
fn a_note_has_no_nul() {
    let mut account = Account::new(AccountId(2), "ann");
    account.note = "a\0b".to_owned();
    let problems = account.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].field, "note");
}
