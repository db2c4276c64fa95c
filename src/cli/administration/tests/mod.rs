//! Tests of the commands on a database of SQLite: tables, JSON and errors.

mod accounts;
mod keys;
mod relay;
#[cfg(unix)]
mod running_master;
mod secrets;

use std::{path::PathBuf, sync::Arc};

use clap::Parser;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{
    RecordCommand,
    records::Records,
    session::{Session, View},
};
use crate::{
    administration::Administration,
    store::{Store, StoreUrl},
};

/// The time of the commands: 2027-01-15, 08:00 UTC.
const NOW: i64 = 1_800_000_000;

/// A command line.
#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: RecordCommand,
}

/// Commands on a new database.
struct Bench {
    session: Session,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url: StoreUrl = "sqlite:keys.db".parse().unwrap();
        let store = Store::open(url.relative_to(folder.path())).await.unwrap();
        let administration = Administration::new(Arc::new(store), Arc::new(|| NOW));
        let view = View {
            is_json: false,
            zone: TimeZone::get("Europe/Berlin").unwrap(),
            now: NOW,
        };
        Bench {
            session: Session {
                records: Records::Store(administration),
                view,
            },
            folder,
        }
    }

    /// Runs a command. Returns what it prints, or its error.
    async fn try_run(&self, words: &[&str]) -> Result<String, String> {
        let words = ["report"].into_iter().chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let output = line.command.run(&self.session).await;
        output
            .map(|text| text.to_string())
            .map_err(|error| format!("{error:#}"))
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let output = self.try_run(words).await;
            output.unwrap_or_else(|error| panic!("{caller}: {words:?}: {error}"))
        }
    }

    /// Runs a command that prints JSON.
    async fn json(&mut self, words: &[&str]) -> Value {
        self.session.view.is_json = true;
        let text = self.run(words).await;
        self.session.view.is_json = false;
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Writes a file. Returns its path.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Returns the path of a file that does not exist.
    fn absent(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[tokio::test]
async fn errors_name_the_field_the_value_and_the_remedy() {
    let bench = Bench::new().await;
    bench
        .run(&[
            "account",
            "add",
            "anna",
            "--not-before=2027-01-01T00:00:00Z",
        ])
        .await;
    for (words, parts) in [
        (
            vec!["account", "add", "anna"],
            [
                "name \"anna\" exists already: it is the name of account 2",
                "(choose another name",
            ],
        ),
        (vec!["account", "add", ""], ["name is \"\"", "write a name"]),
        (
            vec!["account", "add", "b", "--network=10.0.0.1/8"],
            ["--network", "10.0.0.0/8"],
        ),
        (
            vec!["account", "add", "b", "--expires=soon"],
            ["--expires", "2027-01-31"],
        ),
        (
            vec!["account", "add", "b", "--rate=fast"],
            ["--rate", "10 MiB/s"],
        ),
        (
            vec!["account", "add", "b", "--quota=1 TB/day,zone=Mars"],
            ["--quota", "\"Mars\""],
        ),
        (
            vec!["account", "add", "b", "--quota=1 apple/day"],
            ["--quota", "1 apple"],
        ),
        (
            vec!["account", "set", "anna", "--expires=2026-01-01T00:00:00Z"],
            ["expires is 2026-01-01T00:00:00Z", "after not_before"],
        ),
        (
            vec!["account", "show", "nobody"],
            ["no account \"nobody\"", "report account list"],
        ),
        (vec!["account", "show", "99"], ["id", "\"99\""]),
        (
            vec!["key", "show", "ssh"],
            ["no key \"ssh\"", "report key list"],
        ),
        (
            vec!["credential", "show", "laptop"],
            ["\"laptop\"", "ACCOUNT/NAME, ACCOUNT NAME"],
        ),
        (
            vec!["credential", "add", "laptop"],
            ["\"laptop\" has no name", "ACCOUNT/NAME"],
        ),
        (
            vec!["key", "show", "bob/ssh"],
            ["no key \"bob/ssh\"", "no account \"bob\""],
        ),
    ] {
        let error = bench.try_run(&words).await.unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{words:?}: no {part} in {error}");
        }
    }
}

#[tokio::test]
async fn only_create_creates_a_missing_file() {
    let bench = Bench::new().await;
    let file = bench.absent("typo.db");
    let store = format!("--store=sqlite:{}", file.display());
    let store = store.as_str();
    let open = async |words: &[&str]| {
        let command = ["report", "account", "list"].into_iter();
        let words = command.chain(words.iter().copied());
        let line = Line::try_parse_from(words).unwrap();
        let opened = line.command.target().open().await;
        match opened {
            Ok(session) => {
                session.records.close().await;
                Ok(())
            }
            Err(error) => Err(format!("{error:#}")),
        }
    };
    let error = open(&[store]).await.unwrap_err();
    for part in ["--store", "typo.db does not exist", "--create"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!file.exists());
    open(&[store, "--create"]).await.unwrap();
    assert!(file.exists());
    open(&[store]).await.unwrap();
    let error = open(&["--create"]).await.unwrap_err();
    assert!(error.contains("no effect without --store"), "{error}");
}
