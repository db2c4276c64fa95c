use super::*;

/// Returns the text of the problem that reading this JSON reports.
#[track_caller]
fn unreadable<T: serde::de::DeserializeOwned>(json: &str) -> String {
    match from_json::<T>(json) {
        Ok(_) => panic!("{json} is read"),
        Err(problem) => problem.to_string(),
    }
}

#[test]
fn an_account_round_trips() {
    let json = r#"{
        "id": 2, "name": "family", "enabled": true,
        "not_before": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z",
        "max_keys": 10, "networks": ["10.0.0.0/8", "2001:db8::/32"],
        "limits": {
            "rates": {"up": {"rate": 1000000, "burst": 65536}},
            "quotas": [{
                "period": {
                    "unit": "month", "reset_day": 15, "reset_time": "06:00", "zone": "Europe/Berlin"
                },
                "direction": "down", "bytes": 1000000000000,
                "thresholds": [
                    {"percent": 80, "action": "notify"},
                    {"percent": 100, "action": "slow", "rate": 100000}
                ]
            }],
            "counts": {"tunnels": 5, "links": 6, "attachments_per_minute": 7},
            "weight": 3
        },
        "note": "a note"
    }"#;
    let account: Account = from_json(json).expect("an account");
    assert!(account.problems().is_empty());
    let expected: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(serde_json::to_value(&account).expect("JSON"), expected);
}

#[test]
fn defaults_are_not_written() {
    let account = Account::new(AccountId(2), "two");
    let json = serde_json::to_string(&account).expect("JSON");
    assert_eq!(json, r#"{"id":2,"name":"two","enabled":true}"#);
    assert_eq!(from_json(&json), Ok(account));
    let key = ServiceKey::new(key_id(0xab), "web");
    let json = serde_json::to_string(&key).expect("JSON");
    let id = "ab".repeat(16);
    assert_eq!(
        json,
        format!(r#"{{"id":"{id}","label":"web","enabled":true}}"#)
    );
    assert_eq!(from_json(&json), Ok(key));
    assert_eq!(
        serde_json::to_string(&Limits::default()).expect("JSON"),
        "{}"
    );
    assert_eq!(
        serde_json::to_string(&RelayPolicy::default()).expect("JSON"),
        "{}"
    );
}

#[test]
fn sizes_and_rates_are_read_with_units() {
    let limits: Limits = from_json(
        r#"{"rates": {"both": {"rate": "8 Mbit/s", "burst": "1 MiB"}},
            "quotas": [{"period": {"unit": "day"}, "bytes": "500 MB"}]}"#,
    )
    .expect("limits");
    let expected = RateLimit {
        rate: Rate(1_000_000),
        burst: Some(ByteSize::mib(1)),
    };
    assert_eq!(limits.rates.both, Some(expected));
    let quota = Quota::new(Period::new(PeriodUnit::Day), ByteSize(500_000_000));
    assert_eq!(limits.quotas, [quota]);
}

#[test]
fn a_field_that_does_not_parse_is_named_with_its_value() {
    for (json, field, value) in [
        (
            r#"{"rates": {"up": {"rate": "5 Mb/s"}}}"#,
            "rates.up.rate",
            "5 Mb/s",
        ),
        (
            r#"{"rates": {"up": {"burst": 5}}}"#,
            "rates.up",
            "missing field `rate`",
        ),
        (r#"{"wieght": 2}"#, "wieght", "unknown field `wieght`"),
        (r#"{"counts": {"links": "many"}}"#, "counts.links", "many"),
        (
            r#"{"quotas": [{"period": {"unit": "day"}, "bytes": "5 apples"}]}"#,
            "quotas[0].bytes",
            "5 apples",
        ),
        (
            r#"{"quotas": [{"period": {"unit": "year"}, "bytes": 5}]}"#,
            "quotas[0].period.unit",
            "year",
        ),
        (
            r#"{"quotas": [{"period": {"unit": "day", "zone": "Mars/Base"}, "bytes": 5}]}"#,
            "quotas[0].period.zone",
            "\"Mars/Base\" is not a time zone",
        ),
        (
            r#"{"quotas": [{"period": {"unit": "day", "reset_time": "24:00"}, "bytes": 5}]}"#,
            "quotas[0].period.reset_time",
            "\"24:00\" is not a time of day",
        ),
    ] {
        let text = unreadable::<Limits>(json);
        assert!(text.starts_with(&format!("{field}: ")), "{text}");
        assert!(text.contains(value), "{text}");
    }
}

#[test]
fn a_field_of_an_account_that_does_not_parse_is_named() {
    let account = |field: &str| {
        let json = format!(r#"{{"id": 2, "name": "two", "enabled": true, {field}}}"#);
        unreadable::<Account>(&json)
    };
    let network = account(r#""networks": ["10.0.0.0/8", "10.0.0.0/33"]"#);
    assert!(
        network.starts_with("networks[1]: \"10.0.0.0/33\" is not a network"),
        "{network}"
    );
    let date = account(r#""expires": "2026-02-30""#);
    assert!(
        date.starts_with("expires: \"2026-02-30\" is not a time"),
        "{date}"
    );
    let zero = account(r#""expires": 0"#);
    assert!(zero.starts_with("expires: \"0\" is not a time"), "{zero}");
    assert!(unreadable::<Limits>("{} {}").contains("trailing"));
    assert!(unreadable::<Limits>("").contains("EOF"));
}

#[test]
fn times_of_day_have_two_digits_each() {
    for text in ["00:00", "06:30", "23:59"] {
        let time: TimeOfDay = text.parse().expect(text);
        assert_eq!(time.to_string(), text);
    }
    for text in ["", "6:30", "06:60", "24:00", "06:30:00", "+6:30", "0630"] {
        assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
    }
}

#[test]
fn zones_have_iana_names() {
    let zone: Zone = "europe/berlin".parse().expect("a zone");
    assert_eq!(zone.to_string(), "Europe/Berlin");
    assert_eq!("UTC".parse(), Ok(Zone::UTC));
    for text in ["", "Mars/Base", "Etc/Unknown", "+02:00"] {
        assert!(text.parse::<Zone>().is_err(), "{text}");
    }
}

#[test]
fn times_are_read_in_their_zone() {
    let berlin: Zone = "Europe/Berlin".parse().expect("a zone");
    for (text, expected) in [
        ("2027-01-31T18:00:00Z", "2027-01-31T18:00:00Z"),
        ("2027-01-31T18:00:00.9+01:00", "2027-01-31T17:00:00Z"),
        ("2027-01-31", "2027-01-30T23:00:00Z"),
        ("2027-07-31 12:30", "2027-07-31T10:30:00Z"),
        ("2027-01-31[America/New_York]", "2027-01-31T05:00:00Z"),
    ] {
        let time = UnixTime::parse(text, &berlin).map(|time| time.to_string());
        assert_eq!(time.as_deref(), Ok(expected), "{text}");
    }
    for text in [
        "",
        "tomorrow",
        "2027-02-30",
        "1969-12-31",
        "2027-01-31[Mars/Base]",
    ] {
        assert!(UnixTime::parse(text, &berlin).is_err(), "{text}");
    }
    let seconds: UnixTime = from_json("1767225600").expect("a time");
    assert_eq!(seconds.to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(UnixTime::new(0), None);
    assert_eq!(UnixTime::new(i64::MAX), None);
    assert_eq!(UnixTime::column(UnixTime::new(5)), 5);
    assert_eq!(UnixTime::column(None), 0);
}

#[test]
fn networks_contain_addresses_in_either_notation() {
    let list = networks(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]);
    for text in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "192.0.2.7"] {
        assert!(list.allow(address(text)), "{text}");
    }
    for text in ["11.1.2.3", "::ffff:11.1.2.3", "2001:db9::1", "192.0.2.8"] {
        assert!(!list.allow(address(text)), "{text}");
    }
    let mapped = networks(&["::ffff:10.0.0.0/104"]);
    assert_eq!(mapped, networks(&["10.0.0.0/8"]));
    assert!(mapped.allow(address("10.1.2.3")));
    assert!(Networks::default().allow(address("203.0.113.1")));
    let all = networks(&["::/0"]);
    assert!(all.allow(address("2001:db8::1")));
    assert!(!all.allow(address("10.1.2.3")));
    let host_bits = "10.1.2.3/8"
        .parse::<Network>()
        .map_err(|error| error.to_string());
    let expected = "\"10.1.2.3/8\" has bits after its prefix (write \"10.0.0.0/8\")";
    assert_eq!(host_bits.err().as_deref(), Some(expected));
}

#[test]
fn a_quota_reports_the_highest_threshold_reached() {
    let quota = Quota::new(Period::new(PeriodUnit::Day), ByteSize(1000));
    let reached = |up, down| {
        let threshold = quota.reached(quota.bytes, Moved { up, down });
        threshold.map(|threshold| (threshold.percent, threshold.slow_rate()))
    };
    assert_eq!(reached(400, 399), None);
    assert_eq!(reached(400, 400), Some((80, None)));
    assert_eq!(reached(950, 0), Some((95, None)));
    assert_eq!(reached(0, 1000), Some((100, Some(DEFAULT_SLOW_RATE))));
    assert_eq!(reached(u64::MAX, 1), Some((100, Some(DEFAULT_SLOW_RATE))));
    assert_eq!(quota.left(Moved { up: 300, down: 200 }), 500);
    assert_eq!(quota.left(Moved { up: 1, down: 1000 }), 0);
    let upward = Quota {
        direction: Direction::Up,
        ..quota.clone()
    };
    assert_eq!(
        upward.reached(upward.bytes, Moved { up: 0, down: 5000 }),
        None
    );
    // A part of the quota, as for accounts outside the reserve.
    let part = quota.reached(ByteSize(900), Moved { up: 900, down: 0 });
    assert_eq!(part.map(|threshold| threshold.percent), Some(100));
}

#[test]
fn a_reserve_is_kept_for_one_account() {
    let relay = RelayPolicy {
        limits: Limits::default(),
        reserve: Some(Reserve {
            account: AccountId(2),
            percent: 10,
        }),
    };
    let bytes = ByteSize(1_000);
    assert_eq!(relay.bytes_for(Some(AccountId(2)), bytes), bytes);
    assert_eq!(relay.bytes_for(Some(AccountId(3)), bytes), ByteSize(900));
    assert_eq!(relay.bytes_for(None, bytes), ByteSize(900));
    assert_eq!(RelayPolicy::default().bytes_for(None, bytes), bytes);
    let most = ByteSize(u64::MAX);
    assert!(relay.bytes_for(None, most) < most);
}

#[test]
fn the_json_of_a_credential_contains_no_key() {
    let record = credential(7, 2);
    let json = serde_json::to_string(&record.credential).expect("JSON");
    let read: Credential = from_json(&json).expect("a credential");
    assert_eq!(read, record.credential);
    let debug = format!("{record:?}{:?}", TokenHash([9; 32]));
    assert!(
        debug.contains("Verifier(…)") && !debug.contains("[7"),
        "{debug}"
    );
    assert!(!debug.contains("[9"), "{debug}");
}

#[test]
fn a_token_is_valid_until_it_expires_or_is_revoked() {
    let token = Token {
        id: TokenId(1),
        name: "grafana".to_owned(),
        role: TokenRole::Read,
        expires: seconds(100),
        revoked: false,
    };
    assert!(token.is_valid(99) && !token.is_valid(100));
    let revoked = Token {
        revoked: true,
        ..token.clone()
    };
    assert!(!revoked.is_valid(99));
    assert!(token.problems().is_empty());
    assert!(TokenRole::Own > TokenRole::Operate && TokenRole::Operate > TokenRole::Read);
}
