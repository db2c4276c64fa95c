//! The commands that administer a master: in its database, through its admin address, and as
//! docs/keys.md shows them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
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
    fn new(admin: impl FnOnce(&Testbed) -> String) -> Self {
        let testbed = Testbed::new(Front::Direct);
        let admin = json!({"listen_at": admin(&testbed)});
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
        Managed::new(|testbed| format!("unix:{}", testbed.folder().join("admin.sock").display()))
    }

    fn fields(&self) -> Value {
        json!({
            "master_key": null, "store": "sqlite:keys.db", "admission": "owned",
            "admin": self.admin,
        })
    }

    fn start(&self) -> Daemon {
        self.testbed.master(self.fields())
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
}

#[test]
fn roles_use_the_records_that_commands_add() {
    let managed = Managed::with_socket();
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let key_file = managed.file("port.key");
    fs::write(&key_file, &port.key).expect("written");
    let secret = managed.file("server.secret");
    managed.run(&["account", "add", "anna"]);
    managed.run(&["credential", "add", "anna", "home", "--write", &secret]);
    let key = managed.json(&[
        "key",
        "add",
        "echo",
        "--port-key",
        &key_file,
        "--account",
        "anna",
    ]);
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
    let managed = Managed::new(|_| ports::free().to_string());
    let token = managed.file("read.token");
    // Without a master, and later without a token, the commands work in the database.
    managed.run(&[
        "token", "add", "reader", "--role", "read", "--write", &token,
    ]);
    let _master = managed.start();
    managed.run(&["account", "add", "anna"]);
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

/// A block of docs/keys.md.
enum Block {
    /// The name and the text of a file.
    File(String, String),
    /// Commands, and what they print if the page shows it.
    Commands(String, Option<String>),
}

/// Returns the examples of a page: their titles and blocks.
fn examples(page: &str) -> Vec<(&str, Vec<Block>)> {
    let sections = page
        .split("\n## ")
        .filter(|section| section.starts_with("Example: "));
    sections
        .map(|section| {
            let title = section.lines().next().unwrap_or_default();
            (title, blocks(section))
        })
        .collect()
}

fn blocks(section: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            if !line.is_empty() {
                before = line;
            }
            continue;
        };
        let body = lines.by_ref().take_while(|line| *line != "```");
        let text: String = body.flat_map(|line| [line, "\n"]).collect();
        match language {
            "json" => {
                let name = before.split('`').find(|part| part.ends_with(".json"));
                let name =
                    name.unwrap_or_else(|| panic!("the line before a file names it: {before}"));
                blocks.push(Block::File(name.to_owned(), text));
            }
            "sh" => blocks.push(Block::Commands(text, None)),
            "text" => match blocks.last_mut() {
                Some(Block::Commands(_, output)) => *output = Some(text),
                _ => panic!("an output without commands: {text}"),
            },
            other => panic!("unknown block {other}"),
        }
    }
    blocks
}

/// Whether a line has the parts around the ellipses of the expected one, in this order.
fn fits(line: &str, expected: &str) -> bool {
    let Some((first, others)) = expected.split_once('…') else {
        return line == expected;
    };
    let Some(mut rest) = line.strip_prefix(first.trim_end()) else {
        return false;
    };
    for part in others.split('…').map(str::trim) {
        match rest.split_once(part) {
            // An ellipsis at the end stands for the rest.
            _ if part.is_empty() => {}
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

/// Runs the commands of a block in a folder.
fn run_in(folder: &Path, commands: &str) -> ProgramOutput {
    let path = std::env::var("PATH").expect("a path");
    let mut shell = Command::new("timeout");
    shell
        .args(["--kill-after=5", "120", "sh", "-eu", "-c", commands])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.join("bin").display()))
        .env("TZ", "UTC");
    programs::run(&mut shell)
}

#[test]
fn the_examples_of_the_page_work_as_shown() {
    let page = include_str!("../../docs/keys.md");
    let examples = examples(page);
    assert_eq!(examples.len(), 3);
    for (title, blocks) in examples {
        let folder = tempfile::tempdir().expect("a folder for the example");
        let folder = folder.path();
        fs::create_dir(folder.join("bin")).expect("a folder");
        std::os::unix::fs::symlink(REPORT, folder.join("bin/report")).expect("a link");
        let mut files = Vec::new();
        for block in blocks {
            match block {
                Block::File(name, text) => {
                    fs::write(folder.join(&name), text).expect("written");
                    files.push(name);
                }
                Block::Commands(commands, expected) => {
                    let output = run_in(folder, &commands).succeeded().text();
                    let Some(expected) = expected else { continue };
                    let lines: Vec<&str> = output.lines().collect();
                    let expected: Vec<&str> = expected.lines().collect();
                    assert_eq!(lines.len(), expected.len(), "{title}: {output}");
                    for (line, expected) in lines.into_iter().zip(expected) {
                        assert!(
                            fits(line, expected),
                            "{title}: {line:?} is not {expected:?}"
                        );
                    }
                }
            }
        }
        for file in files {
            run_in(folder, &format!("report check --config {file}")).succeeded();
        }
    }
}

#[test]
fn outputs_are_compared_part_by_part() {
    assert!(fits("added account 2 \"a\"", "added account 2 \"a\""));
    assert!(fits("key 00ff valid -", "key … valid …"));
    assert!(!fits("key 00ff revoked -", "key … valid …"));
    assert!(!fits("added account 2 \"a\" x", "added account 2 \"a\""));
    assert!(!fits("x key", "key …"));
}
