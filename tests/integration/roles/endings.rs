//! The end of a role: its signals, and what happens to its connections.

use std::{process::Command, time::Duration};

use serde_json::json;

use super::IMMEDIATE;
use crate::support::{
    daemon::{Daemon, Signal},
    ports,
    services::{self, Ending},
    tunnel::{Fields, Front, Methods, Port, REPORT, Testbed, Tunnel},
    wait,
};

/// Terminates one role while a connection is in use. The role lets the connection finish and exits
/// with 0.
fn assert_drains(role: impl Fn(&mut Tunnel) -> &mut Daemon) {
    let echo = services::echo();
    let mut tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("echo", echo.address(), Methods::DEFAULT)],
    );
    let local = tunnel.local("echo");
    let stream = services::connect(local);
    services::ping(&stream, b"before").unwrap();
    role(&mut tunnel).signal(Signal::Terminate);
    for _ in 0..20 {
        wait::pause(Duration::from_millis(10));
        services::ping(&stream, b"while it drains").unwrap();
    }
    assert!(
        !role(&mut tunnel).has_ended(),
        "the role waits for the connection"
    );
    drop(stream);
    let status = role(&mut tunnel)
        .wait_for_end(IMMEDIATE)
        .expect("the role ends after the last connection");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_terminated_server_lets_its_connections_finish_and_exits_with_zero() {
    assert_drains(|tunnel| &mut tunnel.server);
}

#[test]
fn a_terminated_client_lets_its_connections_finish_and_exits_with_zero() {
    assert_drains(|tunnel| &mut tunnel.client);
}

#[test]
fn a_terminated_master_exits_with_zero_within_its_grace_period() {
    let fields = Fields {
        master: json!({"grace_period": "2s"}),
        ..Fields::default()
    };
    let mut tunnel = Tunnel::on(Testbed::new(Front::Direct), Vec::new(), fields);
    tunnel.master.signal(Signal::Terminate);
    let status = tunnel
        .master
        .wait_for_end(Duration::from_secs(2) + IMMEDIATE)
        .expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_idle_role_ends_immediately_on_either_signal() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
        for role in [&mut tunnel.client, &mut tunnel.server, &mut tunnel.master] {
            role.signal(signal);
            let status = role
                .wait_for_end(IMMEDIATE)
                .expect("the role ends immediately");
            assert_eq!(status.code(), Some(0), "{signal:?}");
        }
    }
}

#[test]
fn a_second_signal_ends_every_role_immediately() {
    let echo = services::echo();
    let mut tunnel = Tunnel::start(
        Front::Direct,
        vec![Port::new("echo", echo.address(), Methods::DEFAULT)],
    );
    let stream = services::connect(tunnel.local("echo"));
    services::ping(&stream, b"in use").unwrap();
    for (name, role) in [
        ("client", &mut tunnel.client),
        ("server", &mut tunnel.server),
        ("master", &mut tunnel.master),
    ] {
        role.terminate_twice();
        assert!(role.wait_for_end(IMMEDIATE).is_some(), "the {name} ends");
    }
    assert_eq!(services::read_to_ending(&stream).1, Ending::Reset);
}

#[test]
fn every_role_reloads_on_hangup_except_under_nohup() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    for role in [&tunnel.client, &tunnel.server, &tunnel.master] {
        role.signal(Signal::Hangup);
        role.wait_for_line(&["reloading", "SIGHUP"]);
        role.wait_for_line(&["nothing has changed"]);
        assert!(!role.has_ended());
    }
    let elsewhere = json!({"listen_at": ports::free().to_string()});
    let configuration = tunnel.testbed.master_configuration(elsewhere);
    let file = tunnel.testbed.write("nohup", &configuration);
    let mut nohup = Command::new("nohup");
    let master = Daemon::start(
        "nohup",
        tunnel.testbed.folder(),
        nohup.arg(REPORT).arg("--config").arg(file),
    );
    master.wait_for_line(&["started"]);
    master.signal(Signal::Hangup);
    let ended = wait::within(Duration::from_millis(300), || {
        (master.has_ended() || master.log().contains("reloading")).then_some(())
    });
    assert!(ended.is_none(), "{}", master.log());
}
