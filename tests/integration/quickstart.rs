//! `report quickstart`: all three roles at once, and the files that it writes.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    daemon::{Daemon, Signal},
    ports, programs, services, sshd,
    tunnel::REPORT,
    wait,
};

/// A limit for events that must happen immediately. It is far below the grace period.
const IMMEDIATE: Duration = Duration::from_secs(5);

/// A running quickstart in a separate folder.
struct Quickstart {
    daemon: Daemon,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Quickstart {
    fn start(arguments: &[&str]) -> Quickstart {
        // quickstart prefers certain ports, tries others when they are taken, and binds a moment
        // later. Two that start at the same moment could collide, which does not happen to a user,
        // so the tests run one at a time.
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(REPORT);
        let daemon = Daemon::start(
            "quickstart",
            folder.path(),
            command
                .arg("quickstart")
                .args(arguments)
                .current_dir(folder.path()),
        );
        Quickstart {
            daemon,
            folder,
            _turn: turn,
        }
    }

    /// Waits until quickstart prints the address to open.
    fn address(&mut self) -> SocketAddr {
        let mut address = None;
        let log = self.folder.path().join("quickstart.log");
        self.daemon.wait_ready(|| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let text = log.split("http://").nth(1).and_then(|rest| {
                rest.split(|sign: char| !"0123456789.:".contains(sign))
                    .next()
            });
            address = text.and_then(|text| text.parse().ok());
            address.is_some()
        });
        address.unwrap()
    }
}

#[test]
fn quickstart_serves_its_page_and_ends_cleanly() {
    let mut quickstart = Quickstart::start(&[]);
    let address = quickstart.address();
    let page = String::from_utf8(programs::curl(address, "/")).unwrap();
    assert!(page.contains("rePort"), "{page}");
    for mode in ["master", "server", "client"] {
        assert!(
            quickstart
                .daemon
                .log()
                .contains(&format!("\"mode\": \"{mode}\"")),
            "the {mode}'s configuration is printed"
        );
    }
    quickstart.daemon.signal(Signal::Interrupt);
    assert_eq!(
        quickstart
            .daemon
            .wait_for_end(IMMEDIATE)
            .and_then(|status| status.code()),
        Some(0)
    );
    assert!(
        TcpStream::connect(address).is_err(),
        "the listener is closed"
    );
}

#[test]
fn quickstart_forwards_any_port_to_any_service() {
    let echo = services::echo();
    let local = ports::free();
    let mut quickstart = Quickstart::start(&[
        "--to",
        &echo.address().to_string(),
        "--port",
        &local.port().to_string(),
    ]);
    quickstart.daemon.wait_ready(|| services::echoes(local));
    quickstart
        .daemon
        .wait_for_line(&["Connect to", &local.to_string()]);
}

#[test]
fn quickstart_works_with_ipv6_only_loopback() {
    assert!(
        sshd::is_root(),
        "network namespaces need root: run the tests as root"
    );
    let script = format!(
        "ip link set lo up && ip address delete 127.0.0.1/8 dev lo && {{ {REPORT} quickstart 2>&1 & }}
         for try in $(seq 100); do curl --globoff --silent --max-time 2 'http://[::1]:51380/' && break; sleep 0.2; done; kill $!; wait"
    );
    let output =
        programs::run(programs::command("unshare").args(["--net", "--", "sh", "-c", &script]));
    let printed = output.text() + &output.errors;
    assert!(
        printed.contains("Open http://[::1]:51380/") && printed.contains("came through the tunnel"),
        "{printed}"
    );
}

#[test]
fn the_files_of_quickstart_run_the_three_roles() {
    let echo = services::echo();
    let mut quickstart =
        Quickstart::start(&["--to", &echo.address().to_string(), "--write", "made"]);
    let files = ["master", "server", "client"].map(|role| {
        quickstart
            .folder
            .path()
            .join("made")
            .join(format!("{role}.json"))
    });
    quickstart
        .daemon
        .wait_ready(|| files.iter().all(|file| read(file).is_some()));
    quickstart.daemon.stop();
    let local = read(&files[2])
        .and_then(|client| client["ports"][0]["local_address"].as_str()?.parse().ok())
        .expect("an address");
    let _roles = files.each_ref().map(|file| {
        let name = file.file_stem().unwrap().to_str().unwrap();
        Daemon::start(
            name,
            quickstart.folder.path(),
            Command::new(REPORT).arg("--config").arg(file),
        )
    });
    wait::until_true("the service is reached", || services::echoes(local));

    let again = Command::new(REPORT)
        .args(["quickstart", "--write", "made"])
        .current_dir(quickstart.folder.path())
        .output()
        .unwrap();
    assert_eq!(
        again.status.code(),
        Some(1),
        "existing files stay unchanged"
    );
    assert!(String::from_utf8_lossy(&again.stderr).contains("master.json"));
}

fn read(file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}
