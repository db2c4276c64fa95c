//! Roles under systemd: reports to its notify socket, listeners that it passes, and the units under
//! deploy/.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::Path,
};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use serde_json::json;

use crate::support::{
    daemon::{Daemon, Signal},
    ports,
    programs::{self, ProgramOutput},
    services,
    tunnel::{Front, Methods, Port, REPORT, Testbed},
    wait,
};

/// A socket to which a role reports as to systemd.
struct NotifySocket {
    socket: UnixDatagram,
    /// The states so far.
    reported: Vec<String>,
}

impl NotifySocket {
    fn bind(path: &Path) -> NotifySocket {
        let socket = UnixDatagram::bind(path).expect("a free path");
        socket.set_read_timeout(Some(wait::TIMEOUT)).expect("set");
        NotifySocket {
            socket,
            reported: Vec::new(),
        }
    }

    /// Receives reports until one contains this state. Returns its message.
    #[track_caller]
    fn expect(&mut self, state: &str) -> String {
        loop {
            let mut message = [0; 4096];
            let length = match self.socket.recv(&mut message) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("no {state}, but {:?}: {error}", self.reported),
            };
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            self.reported.extend(message.lines().map(str::to_owned));
            if message.lines().any(|line| line == state) {
                return message;
            }
        }
    }
}

#[test]
fn a_role_reports_its_start_its_liveness_and_its_end() {
    let mut testbed = Testbed::new(Front::Direct);
    let path = testbed.folder().join("notify");
    let mut notify = NotifySocket::bind(&path);
    testbed.environment = vec![
        ("NOTIFY_SOCKET".to_owned(), path.display().to_string()),
        ("WATCHDOG_USEC".to_owned(), "200000".to_owned()),
    ];
    let mut master = testbed.role("master", &testbed.master_configuration(json!({})));
    let ready = notify.expect("READY=1");
    assert!(ready.contains("STATUS=master"), "{ready}");
    assert!(ports::has_listener_at(testbed.master_address()));
    notify.expect("WATCHDOG=1");
    notify.expect("WATCHDOG=1");
    master.signal(Signal::Terminate);
    notify.expect("STOPPING=1");
    assert_eq!(master.stop().code(), Some(0));
}

#[test]
fn a_restarted_master_names_the_new_process() {
    let mut testbed = Testbed::new(Front::Direct);
    let path = testbed.folder().join("notify");
    let mut notify = NotifySocket::bind(&path);
    testbed.environment = vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())];
    let master = testbed.master(json!({}));
    notify.expect("READY=1");
    master.signal(Signal::User2);
    let line = master.wait_for_line(&["a new process has taken over"]);
    let pid = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("pid="));
    let message = notify.expect(&format!("MAINPID={}", pid.expect("a process id")));
    // The new process reported its liveness before systemd accepted its reports.
    assert!(
        message.lines().any(|line| line == "WATCHDOG=1"),
        "{message}"
    );
    wait::until_true("the former process has ended", || master.has_ended());
    assert!(!notify.reported.iter().any(|state| state == "STOPPING=1"));
}

/// Lets the next child inherit a listener, as systemd does. The environment names it.
struct PassedListener {
    inherited: OwnedFd,
}

impl PassedListener {
    fn new(listener: &impl AsFd) -> PassedListener {
        // Far above the descriptors that other tests open and close.
        let inherited = fcntl_dupfd_cloexec(listener, 400).expect("a free descriptor");
        fcntl_setfd(&inherited, FdFlags::empty()).expect("an open descriptor");
        PassedListener { inherited }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let first = self.inherited.as_raw_fd().to_string();
        vec![
            ("LISTEN_FDS".to_owned(), "1".to_owned()),
            ("LISTEN_FDS_FIRST_FD".to_owned(), first),
        ]
    }
}

/// Starts a master that inherits this listener.
fn activated_master(testbed: &mut Testbed, listener: &TcpListener) -> Daemon {
    let passed = PassedListener::new(listener);
    testbed.environment = passed.environment();
    let master = testbed.role("master", &testbed.master_configuration(json!({})));
    drop(passed);
    testbed.environment = Vec::new();
    master.wait_for_line(&["started"]);
    master
}

#[test]
fn a_connection_during_the_restart_of_an_activated_master_is_not_refused() {
    let mut testbed = Testbed::new(Front::Direct);
    let listener = TcpListener::bind(testbed.master_address()).expect("free");
    let mut first = activated_master(&mut testbed, &listener);
    first.wait_for_line(&["listening", &testbed.master_address().to_string()]);
    assert_eq!(first.stop().code(), Some(0));
    let waiting = TcpStream::connect(testbed.master_address()).expect("queued by the kernel");
    let second = activated_master(&mut testbed, &listener);
    assert!(!second.log().contains("is not used"), "{}", second.log());
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut &waiting, request).expect("sent");
    let (answer, _) = services::read_to_ending(&waiting);
    assert!(answer.starts_with(b"HTTP/1.1 404 "), "{answer:?}");
}

#[test]
fn a_passed_listener_at_another_address_causes_a_warning() {
    let mut testbed = Testbed::new(Front::Direct);
    let other: SocketAddr = ports::free();
    let listener = TcpListener::bind(other).expect("free");
    let master = activated_master(&mut testbed, &listener);
    master.wait_for_line(&["is not used", &other.to_string()]);
    assert!(ports::has_listener_at(testbed.master_address()));
}

#[test]
fn a_client_takes_the_passed_listener_of_a_port() {
    let mut testbed = Testbed::new(Front::Direct);
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let ports = std::slice::from_ref(&port);
    let _master = testbed.master(json!({}));
    let _server = testbed.server("server", ports, json!({}));
    let listener = TcpListener::bind(port.local).expect("free");
    let passed = PassedListener::new(&listener);
    testbed.environment = passed.environment();
    let client = testbed.role("client", &testbed.client_configuration(ports, json!({})));
    drop(passed);
    wait::until_true("the port works", || services::echoes(port.local));
    assert!(!client.log().contains("is not used"), "{}", client.log());
    assert!(!client.log().contains("cannot listen"), "{}", client.log());
}

/// Checks the shipped units with systemd, after a replacement of a text in the service.
fn verified(shipped: &str, replacement: &str) -> ProgramOutput {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let mut verify = programs::command("systemd-analyze");
    verify.arg("verify");
    for name in ["report.service", "report.socket"] {
        let text = fs::read_to_string(units.join(name)).expect("the shipped unit");
        let text = text
            .replace("/usr/local/bin/report", REPORT)
            .replace(shipped, replacement);
        let unit = folder.path().join(name);
        fs::write(&unit, text).expect("written");
        verify.arg(unit);
    }
    programs::run(&mut verify)
}

#[test]
fn systemd_knows_all_settings_of_the_shipped_units() {
    // systemd 252 does not know this type yet.
    let output = verified("Type=notify-reload", "Type=notify").succeeded();
    assert_eq!(output.errors, "");
    let wrong = verified("WatchdogSec=", "WatchdogSeconds=");
    assert!(wrong.errors.contains("WatchdogSeconds"), "{}", wrong.errors);
}
