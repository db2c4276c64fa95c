//! Tests of commands at an admin address: when they use it, what they send, and what they print.

use std::sync::{Mutex, PoisonError};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use super::*;
use crate::{administration::TokenSecret, cli::administration::LiveCommand};

/// A block, as the API writes it.
const BLOCK: &str = r#"{"number": 3, "credential": null, "address": "192.0.2.7",
    "master_key": false, "key": null, "until": 1800000000}"#;

/// The command line of a command on live values.
#[derive(Debug, Parser)]
struct LiveLine {
    #[command(subcommand)]
    command: LiveCommand,
}

/// A process at the admin address of a configuration. It gives all requests the same answer.
struct FakeMaster {
    requests: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
    /// Serves until it is dropped.
    _tasks: JoinSet<()>,
}

impl FakeMaster {
    fn new(status: &'static str, body: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        write_config(&folder, &format!("unix:{}", socket.display()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read_request(&mut stream).await else {
                    continue;
                };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        FakeMaster {
            requests,
            folder,
            _tasks: tasks,
        }
    }

    fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a command on live values. Returns what it prints, or its error.
    async fn run(&self, words: &[&str]) -> Result<String, String> {
        let config = self.folder.path().join("config.json");
        let words = ["report"].into_iter().chain(words.iter().copied());
        let words = words.chain(["--config", config.to_str().unwrap()]);
        let line = LiveLine::try_parse_from(words).map_err(|error| error.to_string())?;
        let output = line.command.run().await;
        output
            .map(|text| text.to_string())
            .map_err(|error| format!("{error:#}"))
    }
}

/// Writes the configuration of a master with a database.
fn write_config(folder: &tempfile::TempDir, admin: &str) {
    let config = json!({
        "mode": "master", "listen_at": "127.0.0.1:51324", "store": "sqlite:keys.db",
        "admin": {"listen_at": admin},
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
}

/// Reads a request. Returns `None` if the connection ends without one.
async fn read_request(stream: &mut UnixStream) -> Option<String> {
    let mut request = String::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part).await.unwrap_or_default();
        if count == 0 {
            return None;
        }
        request.push_str(std::str::from_utf8(&part[..count]).unwrap());
        let is_complete = request
            .split_once("\r\n\r\n")
            .is_some_and(|(head, body)| body.len() >= body_length(head));
        if is_complete {
            return Some(request);
        }
    }
}

fn body_length(head: &str) -> usize {
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |length| length.parse().unwrap())
}

/// Opens the records of the configuration in a folder. Returns whether they are those of a master,
/// and the note.
async fn records(
    folder: &tempfile::TempDir,
    words: &[&str],
) -> Result<(bool, Option<String>), String> {
    let config = folder.path().join("config.json");
    let command = [
        "report",
        "account",
        "list",
        "--config",
        config.to_str().unwrap(),
    ];
    let words = command.into_iter().chain(words.iter().copied());
    let line = Line::try_parse_from(words).unwrap();
    let opened = line.command.target().configured_records().await;
    let (records, note) = opened.map_err(|error| format!("{error:#}"))?;
    records.close().await;
    Ok((matches!(records, Records::Master(_)), note))
}

#[tokio::test]
async fn commands_use_the_database_when_no_process_listens() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    write_config(&folder, &format!("unix:{}", socket.display()));
    assert_eq!(records(&folder, &[]).await, Ok((false, None)));
    // A killed master leaves its socket behind.
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(records(&folder, &[]).await, Ok((false, None)));
}

#[tokio::test]
async fn commands_use_a_master_that_answers() {
    let master = FakeMaster::new("200 OK", "{}");
    assert_eq!(records(&master.folder, &[]).await, Ok((true, None)));
}

#[tokio::test]
async fn a_note_says_why_an_address_that_answers_is_not_used() {
    for (status, body, part) in [
        ("500 Internal Server Error", "", "answers 500"),
        (
            "404 Not Found",
            r#"{"error": "unknown path"}"#,
            "has no API",
        ),
        (
            "503 Service Unavailable",
            r#"{"code": "store_away", "message": "no answer within 10 s"}"#,
            "no answer within 10 s",
        ),
    ] {
        let master = FakeMaster::new(status, body);
        let (is_master, note) = records(&master.folder, &[]).await.unwrap();
        assert!(!is_master);
        let note = note.unwrap();
        assert!(
            note.contains(part) && note.contains("; the command uses the database sqlite:"),
            "{note}"
        );
    }
}

#[tokio::test]
async fn an_address_that_needs_a_token_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    write_config(&folder, &address);
    let (is_master, note) = records(&folder, &[]).await.unwrap();
    let note = note.unwrap();
    assert!(!is_master);
    assert!(
        note.contains(&address) && note.contains("needs a token"),
        "{note}"
    );
}

#[tokio::test]
async fn a_command_with_a_token_never_changes_to_the_database() {
    let master = FakeMaster::new("500 Internal Server Error", "");
    let token = master.folder.path().join("token");
    std::fs::write(&token, TokenSecret::new([1; 32]).as_str()).unwrap();
    let words = ["--token-file", token.to_str().unwrap()];
    let error = records(&master.folder, &words).await.unwrap_err();
    assert!(error.contains("answers 500"), "{error}");
    assert!(!master.folder.path().join("keys.db").exists());
    let words = ["--ca", token.to_str().unwrap()];
    let error = records(&master.folder, &words).await.unwrap_err();
    assert!(error.contains("--ca has no effect"), "{error}");
}

#[tokio::test]
async fn links_and_tunnels_end() {
    let master = FakeMaster::new("204 No Content", "");
    assert_eq!(
        master.run(&["links", "end", "7"]).await,
        Ok("ended link 7\n".to_owned())
    );
    let json = master.run(&["tunnels", "end", "12", "--json"]).await;
    assert_eq!(json, Ok("{\"kind\":\"tunnel\",\"number\":12}\n".to_owned()));
    let removed = master.run(&["links", "unblock", "3"]).await;
    assert_eq!(removed, Ok("removed block 3\n".to_owned()));
    let requests = master.requests();
    let lines: Vec<&str> = requests
        .iter()
        .filter_map(|request| request.lines().next())
        .collect();
    assert_eq!(
        lines,
        [
            "DELETE /v1/links/7 HTTP/1.1",
            "DELETE /v1/tunnels/12 HTTP/1.1",
            "DELETE /v1/blocks/3 HTTP/1.1"
        ]
    );
}

#[tokio::test]
async fn links_and_tunnels_are_blocked_for_a_time() {
    let master = FakeMaster::new("201 Created", BLOCK);
    let text = master.run(&["links", "block", "7", "--for", "30m"]).await;
    let text = text.unwrap();
    assert!(
        text.starts_with("ended link 7\nblock 3 refuses clients at 192.0.2.7 until 2027-01-15T"),
        "{text}"
    );
    let json = master.run(&["tunnels", "block", "12", "--json"]).await;
    let json: Value = serde_json::from_str(&json.unwrap()).unwrap();
    assert_eq!(json, serde_json::from_str::<Value>(BLOCK).unwrap());
    let requests = master.requests();
    for (request, line, body) in [
        (
            &requests[0],
            "POST /v1/links/7/block ",
            "{\"seconds\":1800}",
        ),
        (
            &requests[1],
            "POST /v1/tunnels/12/block ",
            "{\"seconds\":3600}",
        ),
    ] {
        assert!(
            request.starts_with(line) && request.ends_with(body),
            "{request}"
        );
    }
    let error = master.run(&["links", "block", "7", "--for", "1y"]).await;
    let error = error.unwrap_err();
    assert!(error.contains("--for") && error.contains("30 d"), "{error}");
}

#[tokio::test]
async fn blocks_are_listed() {
    let master = FakeMaster::new(
        "200 OK",
        r#"{"items": [{"number": 3, "credential": null, "address": "192.0.2.7",
            "master_key": true, "key": null, "until": 1800000000}]}"#,
    );
    let text = master.run(&["links", "blocks"]).await.unwrap();
    assert!(text.contains("3  servers at 192.0.2.7"), "{text}");
    let json = master.run(&["links", "blocks", "--json"]).await.unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["number"], 3);
    assert!(master.requests()[0].starts_with("GET /v1/blocks HTTP/1.1"));
}

#[tokio::test]
async fn refusals_of_the_master_are_errors() {
    let body = r#"{"code": "not_found", "message": "there is no link \"7\""}"#;
    let master = FakeMaster::new("404 Not Found", body);
    let error = master.run(&["links", "end", "7"]).await.unwrap_err();
    assert_eq!(error, "there is no link \"7\"");
    let error = master.run(&["links", "end", "seven"]).await.unwrap_err();
    assert!(error.contains("seven"), "{error}");
    let store = ["links", "end", "7", "--store", "sqlite:keys.db"];
    let error = master.run(&store).await.unwrap_err();
    assert!(error.contains("only a running master"), "{error}");
}
