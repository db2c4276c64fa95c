//! Tests of reloads with a role that records its changes.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    config::{self, Config, RoleConfig},
    systemd::Notifier,
};

/// A role that records the names of its ports after each change. It waits for a permit before.
#[derive(Clone)]
struct RecordingRole {
    changes: Arc<Mutex<Vec<Vec<String>>>>,
    permits: Arc<Semaphore>,
    refuses: bool,
}

impl RecordingRole {
    fn new() -> RecordingRole {
        RecordingRole {
            changes: Arc::default(),
            permits: Arc::new(Semaphore::new(1_000)),
            refuses: false,
        }
    }

    fn changes(&self) -> Vec<Vec<String>> {
        self.changes.lock().unwrap().clone()
    }
}

impl Reconfigure for RecordingRole {
    async fn reconfigure(&self, _: &Config, new: &Config) -> Result<Vec<String>, ReconfigureError> {
        self.permits.acquire().await.unwrap().forget();
        if self.refuses {
            return Err("port \"a\": the address is in use".into());
        }
        let RoleConfig::Client(client) = &new.role else {
            panic!("not a client");
        };
        let marks = client.enabled_ports().map(|port| port.mark.clone());
        self.changes.lock().unwrap().push(marks.collect());
        Ok(vec!["`store`: belongs to the start".to_owned()])
    }
}

/// A configuration file.
struct ConfigTestbed {
    folder: TempDir,
}

impl ConfigTestbed {
    fn new(ports: &[&str]) -> ConfigTestbed {
        let folder = tempfile::tempdir().unwrap();
        let testbed = ConfigTestbed { folder };
        testbed.write(&client(ports));
        testbed
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    fn write(&self, content: &Value) {
        fs::write(self.file(), content.to_string()).unwrap();
    }

    fn reloader(&self, role: &RecordingRole) -> Reloader<RecordingRole> {
        let loaded = config::load(&self.file()).unwrap();
        Reloader::new(&self.file(), &loaded, role.clone())
    }
}

fn client(marks: &[&str]) -> Value {
    let port = |(index, mark): (usize, &&str)| {
        json!({
            "mark": mark, "local_address": format!("127.0.0.1:{}", index + 1),
            "port_key": format!("the key of {mark}"),
        })
    };
    let ports: Vec<Value> = marks.iter().enumerate().map(port).collect();
    json!({"mode": "client", "master": "localhost:1", "ports": ports})
}

#[tokio::test]
async fn a_reload_applies_the_difference_and_reports_it() {
    let (testbed, role) = (ConfigTestbed::new(&["a", "b"]), RecordingRole::new());
    let mut reloader = testbed.reloader(&role);
    let report = reloader.reload().await;
    assert_eq!(report.outcome, ReloadOutcome::Unchanged);
    assert_eq!(report.text, "nothing has changed");
    testbed.write(&client(&["a", "c"]));
    let report = reloader.reload().await;
    assert_eq!(report.outcome, ReloadOutcome::Applied);
    assert_eq!(
        report.text,
        "added: port \"c\"\nremoved: port \"b\"\nuntouched: port \"a\"\nneeds a restart: \
         `store`: belongs to the start"
    );
    // The next difference is one to the configuration in use.
    let report = reloader.reload().await;
    assert_eq!(report.outcome, ReloadOutcome::Unchanged);
    assert_eq!(role.changes(), [["a", "c"]]);
}

#[tokio::test]
async fn a_wrong_file_names_the_field_and_changes_nothing() {
    let (testbed, role) = (ConfigTestbed::new(&["a"]), RecordingRole::new());
    let mut reloader = testbed.reloader(&role);
    let mut wrong = client(&["a", "b"]);
    wrong["ports"][1]["local_address"] = "nowhere".into();
    testbed.write(&wrong);
    let report = reloader.reload().await;
    assert_eq!(report.outcome, ReloadOutcome::Failed);
    assert!(
        report.text.contains("ports[1].local_address"),
        "{}",
        report.text
    );
    assert!(
        report.text.contains("the former configuration stays"),
        "{}",
        report.text
    );
    fs::remove_file(testbed.file()).unwrap();
    assert_eq!(reloader.reload().await.outcome, ReloadOutcome::Failed);
    testbed.write(&json!({
        "mode": "master", "listen_at": "127.0.0.1:1", "master_key": "the key of a master",
    }));
    let report = reloader.reload().await;
    assert_eq!(report.outcome, ReloadOutcome::Failed);
    assert!(report.text.contains("`mode`"), "{}", report.text);
    assert!(role.changes().is_empty());
    testbed.write(&client(&["b"]));
    assert_eq!(reloader.reload().await.outcome, ReloadOutcome::Applied);
}

#[tokio::test]
async fn a_change_that_the_role_refuses_is_tried_again_by_the_next_reload() {
    let testbed = ConfigTestbed::new(&["a"]);
    let role = RecordingRole {
        refuses: true,
        ..RecordingRole::new()
    };
    let mut reloader = testbed.reloader(&role);
    testbed.write(&client(&["b"]));
    for _ in 0..2 {
        let report = reloader.reload().await;
        assert_eq!(report.outcome, ReloadOutcome::Failed);
        assert!(report.text.contains("address is in use"), "{}", report.text);
    }
}

#[tokio::test]
async fn requests_in_mid_reload_are_answered_by_one_further_reload() {
    let testbed = ConfigTestbed::new(&["a"]);
    let role = RecordingRole {
        permits: Arc::new(Semaphore::new(0)),
        ..RecordingRole::new()
    };
    let (queue, notifier) = (ReloadQueue::new(), Notifier::new());
    let running = testbed.reloader(&role).run(&queue, &notifier, "client");
    let requests = async {
        testbed.write(&client(&["b"]));
        let mut first = std::pin::pin!(queue.reload(ReloadSource::Command));
        assert!(first.as_mut().now_or_never().is_none());
        // The first reload waits for the role now, or reads the file.
        while role.permits.available_permits() == 0 && queue.has_waiting() {
            tokio::task::yield_now().await;
        }
        let later =
            futures_util::future::join_all((0..5).map(|_| queue.reload(ReloadSource::Command)));
        let mut later = std::pin::pin!(later);
        assert!(later.as_mut().now_or_never().is_none());
        queue.request(ReloadSource::Signal);
        role.permits.add_permits(1);
        let report = first.await.expect("an answer");
        assert_eq!(report.outcome, ReloadOutcome::Applied);
        testbed.write(&client(&["c"]));
        role.permits.add_permits(100);
        later.await
    };
    let reports = tokio::select! {
        () = running => unreachable!("it never returns"),
        reports = requests => reports,
    };
    assert_eq!(reports.len(), 5);
    assert!(reports.iter().all(|report| *report == reports[0]));
    // One reload answers all five, and it may have read the file before it was written again.
    assert!(role.changes().len() <= 2, "{:?}", role.changes());
    assert!(!queue.has_waiting(), "the signal was merged");
}

#[tokio::test(start_paused = true)]
async fn watched_files_request_a_reload_only_if_the_configuration_asks_for_it() {
    for is_watched in [false, true] {
        let testbed = ConfigTestbed::new(&["a"]);
        let mut first = client(&["a"]);
        first["watch"] = is_watched.into();
        testbed.write(&first);
        let reloader = testbed.reloader(&RecordingRole::new());
        let queue = ReloadQueue::new();
        let watching = watched_files::watch_files(reloader.watched_files(), &queue);
        let changing = async {
            // The first look is over.
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            first["ports"][0]["mark"] = "another name".into();
            testbed.write(&first);
            queue.next().await.source
        };
        let limit = std::time::Duration::from_secs(60);
        let requested = tokio::select! {
            () = watching => unreachable!("it never returns"),
            requested = tokio::time::timeout(limit, changing) => requested.ok(),
        };
        let expected = is_watched.then_some(ReloadSource::ChangedFile);
        assert_eq!(requested, expected);
    }
}
