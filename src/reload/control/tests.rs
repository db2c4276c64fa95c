//! Tests of the control socket, with good and bad peers.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use tempfile::TempDir;

use super::{
    client::{ControlError, send_with},
    server::ControlSocket,
    wire::ControlCommand,
};
use crate::reload::{ReloadOutcome, ReloadReport};

/// A configuration file, and the folder of its control socket.
struct ControlTestbed {
    folder: TempDir,
}

impl ControlTestbed {
    fn new() -> ControlTestbed {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), "{}").expect("written");
        ControlTestbed { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    fn variable(&self) -> impl Fn(&str) -> Option<OsString> + use<> {
        let path = self.folder.path().as_os_str().to_owned();
        move |name: &str| (name == "RUNTIME_DIRECTORY").then(|| path.clone())
    }

    fn bind(&self) -> ControlSocket {
        ControlSocket::bind_with(&self.file(), &self.variable()).expect("bound")
    }

    /// Runs `peer` in a thread while the socket counts and answers commands. Returns its result.
    async fn with_peer<T: Send + 'static>(
        &self,
        peer: impl FnOnce(&Path, &dyn Fn(&str) -> Option<OsString>) -> T + Send + 'static,
    ) -> (T, usize) {
        let executed = AtomicUsize::new(0);
        let (file, variable) = (self.file(), self.variable());
        let peer = tokio::task::spawn_blocking(move || peer(&file, &variable));
        let serving = self.bind().serve(async |command| {
            executed.fetch_add(1, Relaxed);
            ReloadReport {
                outcome: ReloadOutcome::Applied,
                text: format!("{command:?}\nin two lines"),
            }
        });
        let result = tokio::select! {
            result = peer => result.expect("no panic"),
            () = serving => unreachable!("it never returns"),
        };
        (result, executed.load(Relaxed))
    }

    /// Sends bytes to the socket and returns its answer.
    async fn answer_to(&self, bytes: Vec<u8>) -> (String, usize) {
        let folder = self.folder.path().to_owned();
        self.with_peer(move |_, _| {
            let mut socket = connect(&folder);
            // The role may answer and close before it has read everything.
            let _ = socket.write_all(&bytes);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer);
            answer
        })
        .await
    }
}

/// Connects to the only control socket in the folder, as soon as it is there.
fn connect(folder: &Path) -> UnixStream {
    loop {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut names = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let socket = names.find(|path| path.to_string_lossy().contains("control-"));
        if let Some(stream) = socket.and_then(|path| UnixStream::connect(path).ok()) {
            return stream;
        }
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_command_reaches_the_role_of_its_file_and_gets_its_report() {
    let testbed = ControlTestbed::new();
    for command in [ControlCommand::Reload, ControlCommand::Restart] {
        let (report, executed) = testbed
            .with_peer(move |file, variable| {
                loop {
                    match send_with(file, command, variable) {
                        Err(ControlError::NotRunning(_)) => std::thread::yield_now(),
                        report => return report.expect("an answer"),
                    }
                }
            })
            .await;
        assert_eq!(report.outcome, ReloadOutcome::Applied);
        assert_eq!(report.text, format!("{command:?}\nin two lines"));
        assert_eq!(executed, 1);
    }
}

#[tokio::test]
async fn without_a_running_role_the_error_says_so() {
    let testbed = ControlTestbed::new();
    let send = |file: &Path| send_with(file, ControlCommand::Reload, &testbed.variable());
    let error = send(&testbed.file()).expect_err("no role").to_string();
    assert!(error.contains("no running role"), "{error}");
    assert!(error.contains("config.json"), "{error}");
    let missing = testbed.folder.path().join("other.json");
    let error = send(&missing).expect_err("no file").to_string();
    assert!(error.contains("--config"), "{error}");
}

#[tokio::test]
async fn two_processes_cannot_have_the_same_socket() {
    let testbed = ControlTestbed::new();
    let first = testbed.bind();
    let second = ControlSocket::bind_with(&testbed.file(), &testbed.variable());
    let error = second.expect_err("in use").to_string();
    assert!(error.contains("SIGHUP"), "{error}");
    drop(first);
    testbed.bind();
}

#[tokio::test]
async fn bad_requests_are_answered_or_closed_and_execute_nothing() {
    let testbed = ControlTestbed::new();
    let long = vec![b'a'; 100_000];
    for (bytes, expected) in [
        (b"{\"command\": \"erase\"}\n".to_vec(), "unknown variant"),
        (
            b"{\"command\": \"reload\", \"more\": 1}\n".to_vec(),
            "unknown field",
        ),
        (b"{}\n".to_vec(), "missing field"),
        (b"\xff\n".to_vec(), "invalid request"),
        (b"{\"command\": \"reload\"}".to_vec(), "incomplete"),
        (Vec::new(), "incomplete"),
    ] {
        let (answer, executed) = testbed.answer_to(bytes).await;
        assert!(answer.contains("\"failed\""), "{answer}");
        assert!(answer.contains(expected), "{answer}");
        assert_eq!(executed, 0);
    }
    let (_, executed) = testbed.answer_to(long).await;
    assert_eq!(executed, 0);
}
