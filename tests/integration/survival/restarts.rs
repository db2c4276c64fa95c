//! Masters that hand over to a new process: SIGUSR2 during transfers, and a new process that does not
//! start.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{fs::symlink, net::UnixListener, net::UnixStream},
    process::Command,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use serde_json::json;

use super::{
    echo_probe::EchoProbe,
    lab::{Lab, METHODS, load_profile},
    stream_load::Load,
};
use crate::support::{
    daemon::{self, Daemon, Signal},
    ports,
    programs::curl,
    tunnel::{Fields, Front, REPORT, Testbed, Tunnel, with},
    wait,
};

/// The log event of a link that ended unexpectedly.
const LINK_LOST: &str = "the link was lost";

/// The log event of a master whose listeners a new process has taken over.
const TAKEN_OVER: &str = "a new process has taken over the listeners";

/// Far above the time of a handover, far below a timeout.
const MAX_PAUSE: Duration = Duration::from_secs(3);

const ECHO_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for the restart with this number, counted from 0. Returns the id of the new process.
#[track_caller]
fn successor(master: &Daemon, number: usize) -> u32 {
    wait::until("a new process has taken over", || {
        let log = master.log();
        let line = log
            .lines()
            .filter(|line| line.contains(TAKEN_OVER))
            .nth(number)?;
        let pid = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("pid="));
        pid.and_then(|pid| pid.parse().ok())
    })
}

/// Sends SIGUSR2 to a process that the test has not started itself.
fn restart(pid: u32) {
    let mut kill = Command::new("kill");
    let sent = kill.args(["-s", "USR2", &pid.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn eight_streams_survive_restarts_of_the_master_without_a_pause() {
    let fields = json!({"master_role": {"grace_period": "10s"}});
    let lab = Lab::on(Testbed::new(Front::Direct), Vec::new(), fields);
    let echo_probe = EchoProbe::start(lab.echo(), ECHO_INTERVAL);
    lab.limit();
    let start = Instant::now();
    let load = Load::start(lab.tunnel.local(METHODS[0]), load_profile().length * 2);
    let mut pid = lab.tunnel.master.pid();
    for number in 0..2 {
        lab.wait_for_traffic(512 << 10, &load);
        restart(pid);
        let new = successor(&lab.tunnel.master, number);
        wait::until_true("the roles have left the former process", || {
            daemon::is_dead(pid)
        });
        pid = new;
    }
    assert!(
        !load.is_done(),
        "the transfer ended before the last restart"
    );
    load.finish("a master that is restarted");
    let longest = echo_probe.longest_pause(start, Instant::now());
    echo_probe.finish();
    println!("the longest pause beside the transfer: {longest:?}");
    assert!(longest < MAX_PAUSE, "a pause of {longest:?}");
    assert!(!daemon::is_dead(pid), "the last process runs");
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        let log = role.log();
        assert!(!log.contains(LINK_LOST), "a link was lost:\n{log}");
    }
}

#[test]
fn a_master_continues_when_the_new_process_does_not_start() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    tunnel
        .testbed
        .write("master", &json!({"mode": "master", "listen_at": 7}));
    tunnel.master.signal(Signal::User2);
    tunnel
        .master
        .wait_for_line(&["not restarted", "before it accepted connections"]);
    assert!(!tunnel.master.has_ended());
    assert!(tunnel.is_connected());
    assert!(!tunnel.client.log().contains(LINK_LOST));
}

#[test]
fn the_new_process_has_the_admin_address_too() {
    let address = ports::free();
    let fields = Fields {
        master: json!({"admin": {"listen_at": address.to_string()}}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(Testbed::new(Front::Direct), Vec::new(), fields);
    tunnel.master.signal(Signal::User2);
    successor(&tunnel.master, 0);
    wait::until_true("the former process has ended", || tunnel.master.has_ended());
    assert!(!curl(address, "/livez").is_empty());
}

#[test]
fn the_new_process_replaces_the_admin_socket() {
    let testbed = Testbed::new(Front::Direct);
    let socket = testbed.folder().join("admin.sock");
    let fields = Fields {
        master: json!({"admin": {"listen_at": format!("unix:{}", socket.display())}}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(testbed, Vec::new(), fields);
    tunnel.master.signal(Signal::User2);
    successor(&tunnel.master, 0);
    wait::until_true("the former process has ended", || tunnel.master.has_ended());
    UnixStream::connect(&socket).expect("the new process listens");
}

#[test]
fn the_admin_socket_stays_when_the_new_process_does_not_start() {
    let testbed = Testbed::new(Front::Direct);
    let socket = testbed.folder().join("admin.sock");
    let admin = json!({"admin": {"listen_at": format!("unix:{}", socket.display())}});
    let master = testbed.master(admin.clone());
    master.wait_for_line(&["listening", "address="]);
    let no_certificate = json!({"tls": {"cert": "no.pem", "key": "no.key"}});
    let wrong = testbed.master_configuration(with(admin, no_certificate));
    testbed.write("master", &wrong);
    master.signal(Signal::User2);
    master.wait_for_line(&["not restarted", "before it accepted connections"]);
    UnixStream::connect(&socket).expect("the former process listens");
}

#[test]
fn the_new_process_leaves_the_socket_of_another_program() {
    let testbed = Testbed::new(Front::Direct);
    let socket = testbed.folder().join("other.sock");
    let other = UnixListener::bind(&socket).expect("free");
    let master = testbed.master(json!({}));
    master.wait_for_line(&["listening", "address="]);
    let admin = json!({"admin": {"listen_at": format!("unix:{}", socket.display())}});
    testbed.write("master", &testbed.master_configuration(admin));
    master.signal(Signal::User2);
    master.wait_for_line(&["not restarted", "before it accepted connections"]);
    master.wait_for_line(&["other.sock", "another process listens there"]);
    UnixStream::connect(&socket).expect("the file is in its place");
    drop(other);
}

#[test]
fn a_new_process_ends_if_the_former_one_ends_before_it_has_taken_over() {
    for signal in [Signal::Terminate, Signal::Kill] {
        let testbed = Testbed::new(Front::Direct);
        let master = testbed.master(json!({}));
        master.wait_for_line(&["listening", "address="]);
        let pipe = testbed.folder().join("key");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("created");
        let waits = json!({"master_key": {"file": pipe}});
        testbed.write("master", &testbed.master_configuration(waits));
        master.signal(Signal::User2);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let key = wait::until("the new process reads its key", || {
            open(&pipe, flags, Mode::empty()).ok()
        });
        master.signal(signal);
        wait::until_true("the former process has ended", || master.has_ended());
        // The new process may have ended already.
        let _ = File::from(key).write_all(b"the master key of the new process");
        wait::until_true("no process listens", || {
            !ports::has_listener_at(testbed.master_address())
        });
    }
}

#[test]
fn an_executable_that_is_missing_is_named_and_used_when_it_is_back() {
    let testbed = Testbed::new(Front::Direct);
    let program = testbed.folder().join("upgraded");
    symlink(REPORT, &program).expect("created");
    let path = testbed.write("master", &testbed.master_configuration(json!({})));
    let mut command = Command::new(&program);
    command.arg("--config").arg(path);
    let master = Daemon::start("master", testbed.folder(), &mut command);
    master.wait_for_line(&["listening", "address="]);
    fs::remove_file(&program).expect("removed");
    master.signal(Signal::User2);
    master.wait_for_line(&["not restarted", &program.display().to_string()]);
    symlink(REPORT, &program).expect("created");
    master.signal(Signal::User2);
    successor(&master, 0);
    wait::until_true("the former process has ended", || master.has_ended());
    assert!(ports::has_listener_at(testbed.master_address()));
}

#[test]
fn a_server_and_a_client_ignore_the_signal() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    for role in [&tunnel.server, &tunnel.client] {
        role.signal(Signal::User2);
        role.wait_for_line(&["SIGUSR2 ignored"]);
    }
    assert!(tunnel.is_connected());
}
