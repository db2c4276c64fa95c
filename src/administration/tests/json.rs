//! Tests of the JSON of requests.

use super::*;
use crate::policy::{self, UnixTime};

#[test]
fn absent_fields_are_unchanged_and_null_removes() {
    let patch: AccountPatch =
        policy::from_json(r#"{"expires": null, "max_keys": 3, "enabled": false}"#).unwrap();
    let expected = AccountPatch {
        expires: Some(None),
        max_keys: Some(Some(3)),
        enabled: Some(false),
        ..AccountPatch::default()
    };
    assert_eq!(patch, expected);
    // Commands send patches as JSON.
    let json = serde_json::to_string(&expected).unwrap();
    assert_eq!(policy::from_json::<AccountPatch>(&json).unwrap(), expected);
    assert_eq!(
        policy::from_json::<KeyPatch>("{}").unwrap(),
        KeyPatch::default()
    );
}

#[test]
fn new_records_have_defaults_and_round_trip() {
    let new: NewAccount = policy::from_json(r#"{"name": "anna"}"#).unwrap();
    assert_eq!(new, NewAccount::new("anna"));
    let id = "0123456789abcdef0123456789abcdef";
    let json = format!(r#"{{"id": "{id}", "label": "ssh", "expires": "2027-01-31"}}"#);
    let key: NewKey = policy::from_json(&json).unwrap();
    let expected = NewKey {
        expires: UnixTime::new(1_801_353_600),
        ..NewKey::new(id.parse().unwrap(), "ssh")
    };
    assert_eq!(key, expected);
    let json = serde_json::to_string(&expected).unwrap();
    assert_eq!(policy::from_json::<NewKey>(&json).unwrap(), expected);
}

#[test]
fn errors_name_the_field() {
    for (json, field, part) in [
        (r#"{"name": "a", "nmae": "b"}"#, "nmae", "unknown field"),
        (
            r#"{"name": "a", "networks": ["10.0.0.1/8"]}"#,
            "networks[0]",
            "10.0.0.0/8",
        ),
        (
            r#"{"name": "a", "expires": "soon"}"#,
            "expires",
            "2027-01-31",
        ),
        (
            r#"{"name": "a", "limits": {"rates": {"up": {"rate": "fast"}}}}"#,
            "limits.rates.up.rate",
            "10 MiB/s",
        ),
        (
            r#"{"name": "a", "limits": {"quotas": [{"bytes": "1 apple", "period": {"unit": "day"}}]}}"#,
            "limits.quotas[0].bytes",
            "500 MB",
        ),
        (
            r#"{"name": "a", "limits": {"quotas": [{"bytes": 1, "period": {"unit": "day", "zone": "Mars"}}]}}"#,
            "limits.quotas[0].period.zone",
            "Europe/Berlin",
        ),
    ] {
        let problem = policy::from_json::<NewAccount>(json).unwrap_err();
        assert_eq!(problem.field, field, "{problem}");
        assert!(problem.message.contains(part), "{problem}");
    }
    // A value that is not optional cannot be removed.
    let problem = policy::from_json::<AccountPatch>(r#"{"name": null}"#).unwrap_err();
    assert_eq!(problem.field, "name");
}

#[test]
fn bodies_of_errors_round_trip() {
    let error = AdministrationError::invalid("size", 0, "write 1 to 200");
    let body = error.body();
    let json = serde_json::to_value(&body).unwrap();
    assert_eq!(json["code"], "invalid");
    assert_eq!(json["message"], "size is 0: write 1 to 200");
    assert_eq!(serde_json::from_value::<ErrorBody>(json).unwrap(), body);
}
