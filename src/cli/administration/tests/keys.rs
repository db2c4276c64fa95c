//! Tests of `report key`.

use serde_json::json;

use super::*;
use report_proto::crypto::PortKeys;

#[tokio::test]
async fn a_port_key_is_only_read_to_derive_the_id() {
    let mut bench = Bench::new().await;
    bench.run(&["account", "add", "anna"]).await;
    let file = bench.file("port.key", "a port key of the test\r\n");
    let path = file.to_str().unwrap();
    let id = PortKeys::derive("a port key of the test").id.to_string();
    let add = ["key", "add", "ssh", "--port-key", path, "--account=anna"];
    let key = bench.json(&add).await;
    let expected = json!({"id": id, "label": "ssh", "account": 2, "enabled": true});
    assert_eq!(key, expected);
    let other = "0123456789abcdef0123456789abcdef";
    bench
        .run(&[
            "key",
            "add",
            "web",
            "--id",
            other,
            "--needs-credential=true",
        ])
        .await;
    let expected = format!(
        "\
LABEL  ID                                OWNER  STATE  EXPIRES  LIMITS
ssh    {id}  anna   valid  -        -
web    {other}  -      valid  -        -
"
    );
    assert_eq!(bench.run(&["key", "list"]).await, expected);
    let of_anna = bench.json(&["key", "list", "--account=anna"]).await;
    assert_eq!(of_anna.as_array().unwrap().len(), 1);
    assert_eq!(
        bench.run(&["key", "id", "--port-key", path]).await,
        format!("{id}\n")
    );
    let empty = bench.file("empty.key", "\n");
    let add = ["key", "add", "db", "--port-key", empty.to_str().unwrap()];
    let error = bench.try_run(&add).await.unwrap_err();
    assert!(error.contains("empty.key is empty"), "{error}");
    for words in [
        vec!["key", "add", "db"],
        vec!["key", "add", "db", "--id", other, "--port-key", path],
        vec!["key", "add", "db", "--id", "0123"],
    ] {
        let error = bench.try_run(&words).await.unwrap_err();
        assert!(error.contains("--id"), "{words:?}: {error}");
    }
}

#[tokio::test]
async fn a_registered_port_key_is_named_with_its_label_and_its_account() {
    let bench = Bench::new().await;
    bench.run(&["account", "add", "anna"]).await;
    let owned = "11111111111111111111111111111111";
    let free = "22222222222222222222222222222222";
    bench
        .run(&["key", "add", "ssh", "--id", owned, "--account=anna"])
        .await;
    bench.run(&["key", "add", "web", "--id", free]).await;
    for (id, holder) in [
        (owned, "\"ssh\" of account \"anna\""),
        (free, "\"web\" without an account"),
    ] {
        let add = ["key", "add", "other", "--id", id];
        let error = bench.try_run(&add).await.unwrap_err();
        assert_eq!(
            error,
            format!(
                "id \"{id}\" exists already: the port key is registered as {holder} (use another \
                 port key, or change that key with `report key set`)"
            )
        );
    }
    // A rotation needs a new port key.
    let rotate = ["key", "rotate", "ssh", "--id", free];
    let error = bench.try_run(&rotate).await.unwrap_err();
    assert!(error.contains("registered as \"web\""), "{error}");
}

#[tokio::test]
async fn keys_are_named_by_label_or_id() {
    let bench = Bench::new().await;
    let ids = [
        "11111111111111111111111111111111",
        "22222222222222222222222222222222",
    ];
    for id in ids {
        bench.run(&["key", "add", "ssh", "--id", id]).await;
    }
    let error = bench.try_run(&["key", "revoke", "ssh"]).await.unwrap_err();
    assert!(
        error.contains("several keys") && error.contains(ids[0]),
        "{error}"
    );
    bench.run(&["account", "add", "anna"]).await;
    bench.run(&["key", "set", ids[0], "--account=anna"]).await;
    let shown = bench.run(&["key", "show", "anna/ssh"]).await;
    assert_eq!(shown, bench.run(&["key", "show", ids[0]]).await);
    let listed = bench.run(&["key", "list", "anna"]).await;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert_eq!(listed, bench.run(&["key", "list", "--account=2"]).await);
    // A label may have a slash.
    let web = "44444444444444444444444444444444";
    bench.run(&["key", "add", "anna/web", "--id", web]).await;
    let shown = bench.run(&["key", "show", "anna/web"]).await;
    assert!(shown.contains(web), "{shown}");
    let revoked = bench.run(&["key", "revoke", ids[1]]).await;
    assert_eq!(
        revoked,
        format!("disabled key \"ssh\" with the id {}\n", ids[1])
    );
    let rotate = [
        "key",
        "rotate",
        ids[0],
        "--id=33333333333333333333333333333333",
        "--old-expires=2027-01-22T08:00:00Z",
    ];
    let expected = format!(
        "added key \"ssh\" with the id 33333333333333333333333333333333\n{} stays valid until \
         2027-01-22T09:00:00+01:00\n",
        ids[0]
    );
    assert_eq!(bench.run(&rotate).await, expected);
    let removed = bench.run(&["key", "remove", ids[0]]).await;
    assert!(removed.starts_with("removed key"), "{removed}");
}
