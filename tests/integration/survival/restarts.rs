//! Masters that hand over to a new process: SIGUSR2 during transfers, and a new process that does not
//! start.

use std::{
    process::Command,
    time::{Duration, Instant},
};

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
    tunnel::{Fields, Front, Testbed, Tunnel},
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
    std::os::unix::net::UnixStream::connect(&socket).expect("the new process listens");
}
