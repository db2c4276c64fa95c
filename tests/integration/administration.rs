//! The commands that administer a master: in its database, and through its admin address.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    certificates::{self, Leaf},
    daemon::Daemon,
    ports,
    programs::{self, ProgramOutput},
    services,
    tunnel::{Front, Methods, Port, REPORT, Testbed},
    wait,
};

/// A master with a database, and its commands.
struct Managed {
    testbed: Testbed,
    config: PathBuf,
    admin: Value,
}

impl Managed {
    /// Prepares a master that admits the servers of accounts only.
    fn new(admin: impl FnOnce(&Testbed) -> Value) -> Self {
        let testbed = Testbed::new(Front::Direct);
        let admin = admin(&testbed);
        let mut managed = Managed {
            testbed,
            config: PathBuf::new(),
            admin,
        };
        let configuration = managed.testbed.master_configuration(managed.fields());
        managed.config = managed.testbed.write("master", &configuration);
        managed
    }

    fn with_socket() -> Self {
        Managed::new(|testbed| {
            let socket = testbed.folder().join("admin.sock");
            json!({"listen_at": format!("unix:{}", socket.display())})
        })
    }

    fn with_loopback() -> Self {
        Managed::new(|_| json!({"listen_at": ports::free().to_string()}))
    }

    /// A master whose admin address other machines can reach.
    fn with_tls() -> Self {
        Managed::new(|testbed| {
            let listen_at = format!("0.0.0.0:{}", ports::free().port());
            let (cert, key) = (&testbed.leaf().cert, &testbed.leaf().key);
            json!({"listen_at": listen_at, "tls": {"cert": cert, "key": key}})
        })
    }

    /// A master whose admin address demands a certificate of the test authority.
    fn with_client_ca() -> Self {
        Managed::new(|testbed| {
            let (cert, key) = (&testbed.leaf().cert, &testbed.leaf().key);
            let client_ca = testbed.authority().path();
            let tls = json!({"cert": cert, "key": key, "client_ca": client_ca});
            json!({"listen_at": ports::free().to_string(), "tls": tls})
        })
    }

    fn fields(&self) -> Value {
        json!({
            "master_key": null, "store": "sqlite:keys.db", "admission": "owned",
            "admin": self.admin,
        })
    }

    fn start(&self) -> Daemon {
        let master = self.testbed.master(self.fields());
        // The admin address opens after that of the links.
        master.wait_for_line(&["admin address"]);
        master
    }

    fn try_run(&self, words: &[&str]) -> ProgramOutput {
        let mut command = programs::command(REPORT);
        command.args(words).arg("--config").arg(&self.config);
        programs::run(command.env("TZ", "UTC"))
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        self.try_run(words).succeeded().text()
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        self.try_run(&words).succeeded().json()
    }

    /// Returns what a command that fails prints.
    #[track_caller]
    fn refused(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert_eq!(output.code, Some(1), "{words:?}: {}", output.text());
        assert!(output.errors.starts_with("report: "), "{}", output.errors);
        output.errors
    }

    fn file(&self, name: &str) -> String {
        self.testbed.folder().join(name).display().to_string()
    }

    /// Adds an account with a credential, and the key of a port. Returns the record of the key, and
    /// the file with the secret of the credential.
    fn records_of(&self, port: &Port) -> (Value, String) {
        let key_file = self.file("port.key");
        fs::write(&key_file, &port.key).expect("written");
        let secret = self.file("server.secret");
        self.run(&["account", "add", "anna"]);
        self.run(&["credential", "add", "anna", "home", "--write", &secret]);
        let key = self.json(&[
            "key",
            "add",
            "echo",
            "--port-key",
            &key_file,
            "--account",
            "anna",
        ]);
        (key, secret)
    }
}

#[test]
fn roles_use_the_records_that_commands_add() {
    let managed = Managed::with_socket();
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let (key, secret) = managed.records_of(&port);
    let _master = managed.start();
    let fields = json!({"master_key": null, "credential": {"file": secret}});
    let ports = std::slice::from_ref(&port);
    let server = managed.testbed.server("server", ports, fields);
    let _client = managed.testbed.client("client", ports, json!({}));
    wait::until_true("a connection goes through the tunnel", || {
        services::echoes(port.local)
    });
    // The database never gets the port key or the secret.
    let secret = fs::read_to_string(&secret).expect("written");
    for file in ["keys.db", "keys.db-wal", "master.log"] {
        let bytes = fs::read(managed.file(file)).unwrap_or_default();
        for hidden in [port.key.as_str(), secret.trim_end()] {
            let is_found = bytes
                .windows(hidden.len())
                .any(|part| part == hidden.as_bytes());
            assert!(!is_found, "{file} contains a secret");
        }
    }
    // The same commands work through the running master.
    let tunnels = managed.json(&["tunnels"]);
    assert_eq!(tunnels[0]["key"], key["id"], "{tunnels}");
    let links = managed.run(&["links"]);
    assert!(
        links.contains("server") && links.contains("anna"),
        "{links}"
    );
    let status = managed.run(&["status"]);
    assert!(status.contains("admission  owned"), "{status}");
    let accounts = managed.json(&["account", "list"]);
    assert_eq!(accounts[1]["name"], "anna");
    managed.run(&["credential", "revoke", "anna/home"]);
    server.wait_for_line(&["the credential is revoked"]);
}

#[test]
fn a_rotated_credential_admits_servers_beside_the_old_one() {
    let managed = Managed::with_socket();
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let key_file = managed.file("port.key");
    fs::write(&key_file, &port.key).expect("written");
    let [old, new] = ["old.secret", "new.secret"].map(|name| managed.file(name));
    managed.run(&["account", "add", "anna"]);
    managed.run(&["credential", "add", "anna", "home", "--write", &old]);
    managed.run(&[
        "key",
        "add",
        "echo",
        "--port-key",
        &key_file,
        "--account",
        "anna",
    ]);
    let _master = managed.start();
    // Through the master this time.
    managed.run(&[
        "credential",
        "rotate",
        "anna/home",
        "--old-expires",
        "1d",
        "--write",
        &new,
    ]);
    for (name, secret) in [("old", &old), ("new", &new)] {
        let fields = json!({"master_key": null, "credential": {"file": secret}});
        let server = managed
            .testbed
            .server(name, std::slice::from_ref(&port), fields);
        server.wait_for_line(&["registered"]);
    }
}

#[test]
fn a_token_admits_commands_at_loopback() {
    let managed = Managed::with_loopback();
    let token = managed.file("read.token");
    // Without a master, and later without a token, the commands work in the database.
    managed.run(&[
        "token", "add", "reader", "--role", "read", "--write", &token,
    ]);
    let _master = managed.start();
    let output = managed.try_run(&["account", "add", "anna"]).succeeded();
    assert!(
        output.errors.contains("needs a token")
            && output.errors.contains("; the command uses the database"),
        "{}",
        output.errors
    );
    let error = managed.refused(&["status"]);
    assert!(
        error.contains("needs a token") && error.contains("report token add"),
        "{error}"
    );
    let status = managed.run(&["status", "--token-file", &token]);
    assert!(status.contains("state      ok"), "{status}");
    let error = managed.refused(&["account", "add", "bob", "--token-file", &token]);
    assert!(error.contains("\"own\""), "{error}");
    let wrong = managed.file("wrong.token");
    fs::write(&wrong, format!("rt1_{}", "A".repeat(43))).expect("written");
    let error = managed.refused(&["account", "list", "--token-file", &wrong]);
    assert!(
        error.contains("the token is wrong") && !error.contains("rt1_A"),
        "{error}"
    );
}

#[test]
fn commands_use_an_address_with_tls() {
    let managed = Managed::with_tls();
    let token = managed.file("own.token");
    let output = managed.try_run(&["token", "add", "laptop", "--role", "own", "--write", &token]);
    let errors = output.succeeded().errors;
    assert!(!errors.contains("uses the database"), "{errors}");
    let _master = managed.start();
    let ca = managed.testbed.authority().path().display().to_string();
    let over_tls = ["--token-file", token.as_str(), "--ca", ca.as_str()];
    let with_tls = |words: &[&str]| {
        let words: Vec<&str> = words.iter().chain(&over_tls).copied().collect();
        managed.try_run(&words)
    };
    let added = with_tls(&["account", "add", "anna"]).succeeded();
    // The token has number 2: one sequence numbers all records.
    assert_eq!(
        (added.text().as_str(), added.errors.as_str()),
        ("added account 3 \"anna\"\n", "")
    );
    let status = with_tls(&["status"]).succeeded().text();
    assert!(status.contains("state      ok"), "{status}");
    // Without the authority, the certificate is not trusted, and the token stays here.
    let error = managed.refused(&["account", "list", "--token-file", &token]);
    assert!(
        error.contains("certificate") && error.contains("--ca"),
        "{error}"
    );
}

#[test]
fn commands_present_a_certificate_to_an_address_that_demands_one() {
    let managed = Managed::with_client_ca();
    let token = managed.file("own.token");
    managed.run(&["token", "add", "laptop", "--role", "own", "--write", &token]);
    let _master = managed.start();
    let ca = managed.testbed.authority().path().display().to_string();
    let command = |words: &[&str], client: Option<&Leaf>| {
        let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        words.extend(["--token-file", &token, "--ca", &ca].map(str::to_owned));
        if let Some(client) = client {
            words.extend([
                "--client-certificate".to_owned(),
                client.cert.display().to_string(),
            ]);
            words.extend(["--client-key".to_owned(), client.key.display().to_string()]);
        }
        words
    };
    let with_leaf = command(
        &["account", "add", "anna", "--server-name", "localhost"],
        Some(managed.testbed.leaf()),
    );
    let with_leaf: Vec<&str> = with_leaf.iter().map(String::as_str).collect();
    let added = managed.try_run(&with_leaf).succeeded();
    assert_eq!(
        (added.text().as_str(), added.errors.as_str()),
        ("added account 3 \"anna\"\n", "")
    );
    let stranger = certificates::self_signed(managed.testbed.folder(), "stranger");
    for (client, part) in [
        (None, "--client-certificate"),
        (Some(&stranger), "rejects the certificate in"),
    ] {
        let words = command(&["account", "list"], client);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let error = managed.refused(&words);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn links_and_tunnels_are_ended_and_blocked() {
    let managed = Managed::with_socket();
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let (_key, secret) = managed.records_of(&port);
    let _master = managed.start();
    let fields = json!({"master_key": null, "credential": {"file": secret}});
    let ports = std::slice::from_ref(&port);
    let server = managed.testbed.server("server", ports, fields);
    let _client = managed.testbed.client("client", ports, json!({}));
    wait::until_true("a connection goes through the tunnel", || {
        services::echoes(port.local)
    });
    let tunnel = managed.json(&["tunnels"])[0]["number"].to_string();
    let ended = managed.run(&["tunnels", "end", &tunnel]);
    assert_eq!(ended, format!("ended tunnel {tunnel}\n"));
    wait::until_true("the client attaches again", || services::echoes(port.local));
    let links = managed.json(&["links"]);
    let mut links = links.as_array().expect("a list").iter();
    let link = links.find(|link| link["role"] == "server");
    let link = link.expect("the link of the server")["number"].to_string();
    let block = managed.json(&["links", "block", &link, "--for", "10m"]);
    server.wait_for_line(&["blocked"]);
    let blocks = managed.json(&["links", "blocks"]);
    assert_eq!(blocks, json!([block]));
    assert!(block["credential"].is_string(), "{block}");
    let number = block["number"].to_string();
    let removed = managed.run(&["links", "unblock", &number]);
    assert_eq!(removed, format!("removed block {number}\n"));
    assert_eq!(managed.json(&["links", "blocks"]), json!([]));
    let error = managed.refused(&["links", "unblock", &number]);
    assert!(error.contains(&number), "{error}");
}

#[test]
fn values_of_a_running_master_need_one() {
    let managed = Managed::with_socket();
    for command in ["links", "tunnels", "status"] {
        let error = managed.refused(&[command]);
        assert!(
            error.contains("no master runs at the admin address"),
            "{error}"
        );
    }
    let error = managed.refused(&["links", "--store", "sqlite:keys.db"]);
    assert!(error.contains("only a running master"), "{error}");
    let error = managed.refused(&["account", "list", "--store", "postgres://u:hush@/x"]);
    assert!(
        error.contains("--store is") && !error.contains("hush"),
        "{error}"
    );
    let absent = managed.file("typo.db");
    let error = managed.refused(&["account", "list", "--store", &format!("sqlite:{absent}")]);
    assert!(
        error.contains(&absent) && error.contains("--create"),
        "{error}"
    );
    assert!(!std::path::Path::new(&absent).exists());
    let plain = managed.testbed.master_configuration(json!({}));
    let plain = managed.testbed.write("plain", &plain);
    let mut command = programs::command(REPORT);
    let output = programs::run(command.args(["account", "list", "--config"]).arg(&plain));
    assert_eq!(output.code, Some(1));
    assert!(
        output.errors.contains("has no `store`"),
        "{}",
        output.errors
    );
}
