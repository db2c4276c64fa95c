//! Tests of `report account`.

use serde_json::json;

use super::*;

#[tokio::test]
async fn accounts_are_a_table_and_fields() {
    let bench = Bench::new().await;
    let added = bench.run(&["account", "add", "anna"]).await;
    assert_eq!(added, "added account 2 \"anna\"\n");
    bench
        .run(&[
            "account",
            "add",
            "远程",
            "--expires=2027-01-01T00:00:00Z",
            "--rate-down=10 MiB/s",
            "--quota=1 TB/month,reset=15",
            "--max-links=4",
            "--network=10.0.0.0/8",
            "--network=2001:db8::/32",
            "--max-keys=3",
            "--note=at the office",
        ])
        .await;
    let set = [
        "account",
        "set",
        "anna",
        "--disable",
        "--expires=2030-06-01",
    ];
    assert_eq!(bench.run(&set).await, "changed account 2 \"anna\"\n");
    let expected = "\
ID  NAME    STATE     EXPIRES                    LIMITS
 1  master  valid     -                          -
 2  anna    disabled  2030-06-01T00:00:00+02:00  -
 3  远程    expired   2027-01-01T01:00:00+01:00  10 MiB/s down, 1 TB/month from day 15, 4 links
";
    // A date without a zone is in the zone of the machine that runs the test.
    let list = bench.run(&["account", "list"]).await;
    let (list, expected) = (without_june(&list), without_june(expected));
    assert_eq!(list, expected);
    let expected = "\
id          3
name        远程
state       expired
not before  -
expires     2027-01-01T01:00:00+01:00
max keys    3
networks    10.0.0.0/8, 2001:db8::/32
limits      10 MiB/s down, 1 TB/month from day 15, 4 links
note        at the office
";
    assert_eq!(bench.run(&["account", "show", "远程"]).await, expected);
    assert_eq!(bench.run(&["account", "show", "3"]).await, expected);
}

/// Replaces the time of a date whose zone is that of the machine.
fn without_june(text: &str) -> String {
    let is_june = |word: &&str| word.starts_with("2030-06-01T") || word.starts_with("2030-05-31T");
    let june = text.split_whitespace().find(is_june).unwrap_or("-");
    text.replace(june, "JUNE")
}

#[tokio::test]
async fn none_removes_a_value_and_other_values_stay() {
    let mut bench = Bench::new().await;
    let add = [
        "account",
        "add",
        "anna",
        "--max-keys=3",
        "--rate=1 MiB/s",
        "--max-tunnels=5",
        "--network=10.0.0.0/8",
    ];
    bench.run(&add).await;
    let set = [
        "account",
        "set",
        "anna",
        "--max-keys=none",
        "--rate=none",
        "--network=none",
        "--name=anna b",
    ];
    let account = bench.json(&set).await;
    let expected = json!({
        "id": 2, "name": "anna b", "enabled": true, "limits": {"counts": {"tunnels": 5}}
    });
    assert_eq!(account, expected);
    let error = bench
        .try_run(&["account", "set", "anna b"])
        .await
        .unwrap_err();
    assert!(error.contains("nothing to change"), "{error}");
}
