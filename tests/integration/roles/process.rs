//! The process of a role: its configuration file, log, limit of open files and certificate file.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use serde_json::json;

use crate::support::{
    daemon::Daemon,
    programs, services,
    tunnel::{Fields, Front, REPORT, Testbed, Tunnel},
    wait,
};

#[test]
fn a_role_finds_its_configuration_in_the_working_directory() {
    let testbed = Testbed::new(Front::Direct);
    let configuration = testbed.master_configuration(json!({}));
    fs::write(
        testbed.folder().join("config.json"),
        configuration.to_string(),
    )
    .unwrap();
    let mut master = Daemon::start(
        "unnamed",
        testbed.folder(),
        Command::new(REPORT).current_dir(testbed.folder()),
    );
    master.wait_ready(|| TcpStream::connect(testbed.master_address()).is_ok());
}

#[test]
fn a_role_keeps_running_after_its_log_reader_exits() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let port = tunnel.probe().at_another_address();
    let file = tunnel.testbed.write(
        "unread",
        &tunnel
            .testbed
            .client_configuration(std::slice::from_ref(&port), json!({})),
    );
    // The reader exits after the first line.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "\"$0\" --config \"$1\" 2>&1 | head -n 1", REPORT])
        .arg(&file);
    let mut unread = Daemon::start("unread", tunnel.testbed.folder(), &mut shell);
    unread.wait_ready(|| services::echoes(port.local));
    // The restart makes the client log many lines.
    tunnel.restart_server();
    wait::until_true(
        "the client without a log reader carries connections again",
        || services::echoes(port.local),
    );
    assert_eq!(unread.log().lines().count(), 1, "{}", unread.log());
}

#[test]
fn a_role_raises_its_open_file_limit_to_the_hard_limit() {
    let testbed = Testbed::new(Front::Direct);
    let file = testbed.write("limited", &testbed.master_configuration(json!({})));
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "ulimit -Sn 64; ulimit -Hn 300; exec \"$0\" --config \"$1\"",
            REPORT,
        ])
        .arg(&file);
    let master = Daemon::start("limited", testbed.folder(), &mut shell);
    master.wait_for_line(&["soft limit of open files raised", "soft=64", "hard=300"]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", master.pid())).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line of open files");
    assert_eq!(line.matches("300").count(), 2, "{line}");
}

#[test]
fn the_logs_name_the_congestion_control_which_is_the_systems_on_loopback() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let system = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").expect("Linux");
    let field = format!("congestion_control={}", system.trim());
    tunnel.master.wait_for_line(&["listening", &field]);
    for role in [&tunnel.server, &tunnel.client] {
        role.wait_for_line(&["linked to the master", &field]);
    }
}

#[test]
fn the_log_warns_of_an_algorithm_that_cannot_be_set_and_the_role_runs() {
    let testbed = Testbed::new(Front::Direct);
    let master = testbed.master(json!({"congestion_control": "no_such_one"}));
    master.wait_for_line(&[
        "WARN",
        "code=congestion_control_unavailable",
        "no_such_one cannot be set",
    ]);
    let system = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").expect("Linux");
    let field = format!("congestion_control={}", system.trim());
    master.wait_for_line(&["listening", &field]);
}

/// The SHA-256 fingerprint of the certificate at the address. Empty when there is no TLS.
fn presented_fingerprint(address: SocketAddr) -> String {
    let mut client = programs::command("openssl");
    let presented = programs::run(
        client
            .args(["s_client", "-servername", "localhost", "-connect"])
            .arg(address.to_string()),
    )
    .out;
    let printed = programs::run_with(
        programs::command("openssl").args(["x509", "-noout", "-fingerprint", "-sha256"]),
        &presented,
    )
    .text();
    printed
        .trim()
        .split_once('=')
        .map_or_else(String::new, |(_, fingerprint)| fingerprint.to_owned())
}

#[test]
fn the_master_presents_a_renewed_certificate_without_disturbing_connections() {
    let testbed = Testbed::new(Front::Tls);
    let tunnel = Tunnel::on(testbed, Vec::new(), Fields::default());
    let established = services::connect(tunnel.probe().local);
    services::ping(&established, b"before").unwrap();
    let address = tunnel.testbed.master_address();
    assert_eq!(
        presented_fingerprint(address),
        tunnel.testbed.leaf().fingerprint()
    );
    let renewed = tunnel.testbed.authority().leaf("leaf");
    wait::until_true("the renewed certificate is presented", || {
        presented_fingerprint(address) == renewed.fingerprint()
    });
    services::ping(&established, b"after").unwrap();

    // A truncated certificate file, or one that does not match the key, leaves the old certificate
    // in use.
    fs::write(&renewed.cert, "-----BEGIN CERTIFICATE-----\nMII").unwrap();
    tunnel.master.wait_for_line(&["certificate"]);
    wait::throughout(
        "the last valid certificate is presented",
        Duration::from_secs(2),
        || !presented_fingerprint(address).is_empty(),
    );
    services::ping(&established, b"and after").unwrap();
}
