//! Tests of `report credential` and `report token`.

use serde_json::json;

use super::*;
use report_proto::crypto::{Credential, CredentialSecret};

#[tokio::test]
async fn a_credential_gets_a_secret_of_which_the_store_knows_the_verifier() {
    let bench = Bench::new().await;
    bench.run(&["account", "add", "anna"]).await;
    let added = bench.run(&["credential", "add", "anna", "laptop"]).await;
    let secret = added.lines().find_map(|line| line.strip_prefix("secret "));
    let secret: CredentialSecret = secret.unwrap().parse().unwrap();
    let id = Credential::derive(&secret).id();
    let first = format!("added server credential \"laptop\" with the id {id}");
    assert_eq!(added.lines().next(), Some(first.as_str()));
    let expected = format!(
        "\
ACCOUNT  NAME    ROLE    STATE  EXPIRES  ID
anna     laptop  server  valid  -        {id}
"
    );
    assert_eq!(bench.run(&["credential", "list"]).await, expected);
    assert_eq!(bench.run(&["credential", "list", "anna"]).await, expected);
    let shown = bench.run(&["credential", "show", "anna/laptop"]).await;
    assert_eq!(
        shown,
        bench.run(&["credential", "show", &id.to_string()]).await
    );
    assert!(
        !shown.contains("rc1_") && !shown.contains("rv1_"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_secret_goes_to_a_file_or_stays_with_its_owner() {
    let mut bench = Bench::new().await;
    bench.run(&["account", "add", "anna"]).await;
    let file = bench.absent("secret");
    let path = file.to_str().unwrap();
    let add = [
        "credential",
        "add",
        "anna",
        "laptop",
        "--role=client",
        "--write",
        path,
    ];
    let added = bench.run(&add).await;
    assert!(
        added.ends_with(&format!("wrote the secret to {path}\n")),
        "{added}"
    );
    assert!(!added.contains("rc1_"), "{added}");
    let written = std::fs::read_to_string(&file).unwrap();
    let secret: CredentialSecret = written.trim_end().parse().unwrap();
    let id = Credential::derive(&secret).id().to_string();
    assert!(added.contains(&id), "{added}");
    // An existing file is not replaced, and nothing is added.
    let error = bench
        .try_run(&["token", "add", "ci", "--role=read", "--write", path])
        .await
        .unwrap_err();
    assert!(
        error.contains("choose a file that does not exist"),
        "{error}"
    );
    assert_eq!(
        bench.run(&["token", "list"]).await,
        "ID  NAME  ROLE  STATE  EXPIRES\n"
    );
    // A refused credential leaves no file.
    let other = bench.absent("other");
    let path = other.to_str().unwrap();
    let again = ["credential", "add", "anna", "laptop", "--write", path];
    let error = bench.try_run(&again).await.unwrap_err();
    assert_eq!(
        error,
        "name \"laptop\" exists already: account \"anna\" has a client credential with this name \
         (choose another name, or rotate that credential)"
    );
    assert!(!other.exists());
    // The owner of a secret passes its verifier.
    let secret = CredentialSecret::new([9; 32]);
    let verifier = Credential::derive(&secret).verifier().to_text();
    let add = [
        "credential",
        "add",
        "anna",
        "phone",
        "--verifier",
        &verifier,
    ];
    let added = bench.json(&add).await;
    assert_eq!(added["id"], Credential::derive(&secret).id().to_string());
    assert_eq!(
        (&added["secret"], &added["file"]),
        (&Value::Null, &Value::Null)
    );
    let again = ["credential", "add", "anna", "tv", "--verifier", &verifier];
    let error = bench.try_run(&again).await.unwrap_err();
    assert!(
        error.contains("the secret is that of the credential \"phone\" of account \"anna\""),
        "{error}"
    );
    let text = secret.to_text();
    let error = bench
        .try_run(&["credential", "add", "anna", "tv", "--verifier", &text])
        .await
        .unwrap_err();
    assert!(
        error.contains("--verifier") && !error.contains("rc1_"),
        "{error}"
    );
}

#[tokio::test]
async fn credentials_rotate_and_are_revoked() {
    let mut bench = Bench::new().await;
    bench.run(&["account", "add", "anna"]).await;
    bench.run(&["credential", "add", "anna", "laptop"]).await;
    let rotate = [
        "credential",
        "rotate",
        "anna/laptop",
        "--old-expires=2027-01-22T08:00:00Z",
    ];
    let rotated = bench.json(&rotate).await;
    assert_eq!(rotated["new"]["name"], "laptop-2");
    assert_eq!(rotated["old"]["expires"], "2027-01-22T08:00:00Z");
    let secret: CredentialSecret = rotated["secret"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        rotated["new"]["id"],
        Credential::derive(&secret).id().to_string()
    );
    let revoked = bench.json(&["credential", "revoke", "anna/laptop"]).await;
    assert_eq!(revoked["revoked"], true);
    let list = bench.json(&["credential", "list", "anna"]).await;
    let states: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["revoked"])
        .collect();
    assert_eq!(states, [&json!(true), &Value::Null]);
    let again = ["credential", "add", "anna", "laptop"];
    let error = bench.try_run(&again).await.unwrap_err();
    assert!(
        error.contains("a revoked server credential") && error.contains("or remove that"),
        "{error}"
    );
    bench.run(&["credential", "remove", "anna/laptop"]).await;
    let error = bench
        .try_run(&["credential", "show", "anna/laptop"])
        .await
        .unwrap_err();
    assert!(
        error.contains("there is no credential \"anna/laptop\""),
        "{error}"
    );
}

#[tokio::test]
async fn commands_accept_the_same_names_of_credentials() {
    let mut bench = Bench::new().await;
    bench.run(&["account", "add", "anna"]).await;
    let added = bench.json(&["credential", "add", "anna/laptop"]).await;
    let id = added["id"].as_str().unwrap();
    let shown = bench.run(&["credential", "show", id]).await;
    for name in [
        vec!["anna/laptop"],
        vec!["anna", "laptop"],
        vec!["2/laptop"],
        vec!["2", "laptop"],
    ] {
        let words = [vec!["credential", "show"], name.clone()].concat();
        assert_eq!(bench.run(&words).await, shown, "{name:?}");
    }
    let set = ["credential", "set", "anna", "laptop", "--name=desk"];
    assert_eq!(bench.json(&set).await["name"], "desk");
    let rotated = bench
        .json(&["credential", "rotate", "anna", "desk", "--name=desk 2"])
        .await;
    assert_eq!(rotated["new"]["name"], "desk 2");
    let revoked = bench.json(&["credential", "revoke", "anna", "desk"]).await;
    assert_eq!(
        (&revoked["id"], &revoked["revoked"]),
        (&json!(id), &json!(true))
    );
    let removed = bench.run(&["credential", "remove", "anna", "desk 2"]).await;
    assert!(removed.contains("\"desk 2\""), "{removed}");
    let listed = bench.run(&["credential", "list", "anna"]).await;
    let option = bench.run(&["credential", "list", "--account=anna"]).await;
    assert_eq!(listed, option);
    let both = ["credential", "list", "anna", "--account=anna"];
    let error = bench.try_run(&both).await.unwrap_err();
    assert!(error.contains("cannot be used with"), "{error}");
}

#[tokio::test]
async fn tokens_have_a_role() {
    let bench = Bench::new().await;
    let added = bench.run(&["token", "add", "ci", "--role=operate"]).await;
    let mut lines = added.lines();
    assert_eq!(
        lines.next(),
        Some("added token 2 \"ci\" with the role operate")
    );
    assert!(lines.next().unwrap().starts_with("secret rt1_"), "{added}");
    let set = [
        "token",
        "set",
        "ci",
        "--expires=2027-02-01T00:00:00Z",
        "--role=read",
    ];
    bench.run(&set).await;
    let expected = "\
ID  NAME  ROLE  STATE  EXPIRES
 2  ci    read  valid  2027-02-01T01:00:00+01:00
";
    assert_eq!(bench.run(&["token", "list"]).await, expected);
    let again = ["token", "add", "ci", "--role=read"];
    let error = bench.try_run(&again).await.unwrap_err();
    assert!(
        error.contains("the token 2 has it") && error.contains("or rotate that"),
        "{error}"
    );
    bench.run(&["token", "revoke", "2"]).await;
    let error = bench.try_run(&again).await.unwrap_err();
    assert!(
        error.contains("the revoked token 2 has it") && error.contains("or remove that"),
        "{error}"
    );
    assert!(
        bench
            .run(&["token", "show", "ci"])
            .await
            .contains("state    revoked\n")
    );
    let error = bench.try_run(&["token", "add", "x"]).await.unwrap_err();
    assert!(error.contains("--role"), "{error}");
}
