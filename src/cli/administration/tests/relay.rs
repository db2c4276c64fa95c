//! Tests of `report relay` and `report usage`.

use serde_json::json;

use super::*;

#[tokio::test]
async fn the_relay_has_limits() {
    let mut bench = Bench::new().await;
    let shown = bench.run(&["relay", "show"]).await;
    assert_eq!(shown, "limits   -\nreserve  -\n");
    let set = [
        "relay",
        "set",
        "--quota=1 TB/month,reset=15,zone=Europe/Berlin",
        "--reserve=master=10%",
    ];
    let expected = "\
limits   1 TB/month from day 15 Europe/Berlin
reserve  10 % of the quotas for master
";
    assert_eq!(bench.run(&set).await, expected);
    let policy = bench.json(&["relay", "show"]).await;
    assert_eq!(policy["reserve"], json!({"account": 1, "percent": 10}));
    for (option, part) in [
        ("--reserve=master", "ACCOUNT=PERCENT"),
        ("--reserve=nobody=10", "no account \"nobody\""),
        ("--reserve=master=100", "reserve.percent is 100"),
    ] {
        let error = bench.try_run(&["relay", "set", option]).await.unwrap_err();
        assert!(error.contains(part), "{option}: {error}");
    }
}

#[tokio::test]
async fn usage_of_an_idle_relay_is_a_total_of_nothing() {
    let mut bench = Bench::new().await;
    bench.run(&["account", "add", "anna"]).await;
    let expected = "TIME    UP  DOWN  BOTH\ntotal  0 B   0 B   0 B\n";
    assert_eq!(bench.run(&["usage"]).await, expected);
    assert_eq!(
        bench.run(&["usage", "--account=anna", "--step=day"]).await,
        expected
    );
    assert_eq!(bench.json(&["usage", "--keys"]).await, json!([]));
    let backwards = ["usage", "--from=2027-01-02", "--until=2027-01-01"];
    let error = bench.try_run(&backwards).await.unwrap_err();
    assert!(
        error.contains("--from is") && error.contains("not before --until"),
        "{error}"
    );
}
