//! A separate network namespace with loopback only.
//!
//! No other program runs in it, and no port is in TIME_WAIT from an earlier run. A process cannot
//! enter a new namespace without unsafe code. This program therefore restarts itself under
//! `unshare`, if permitted.

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::bail;

/// The environment variable that marks the restarted program.
const INSIDE: &str = "REPORT_BENCH_NETWORK";

/// The range of ports for outgoing connections.
///
/// A chain opens 10,000 connections per second, and a port is free again one second after its use.
const PORTS: &str = "10000 65000";

/// The flags of `unshare`: for root, and for a user who may be root in a user namespace.
const UNSHARE_FLAGS: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];

/// Restarts this program in a separate network namespace, if permitted.
///
/// Otherwise returns, and the run uses the existing network.
pub(crate) fn enter_namespace() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return prepare();
    }
    let Some(flags) = UNSHARE_FLAGS.iter().find(|flags| is_permitted(flags)) else {
        eprintln!(
            "no separate network namespace: unshare or ip is missing or not permitted (ports in TIME_WAIT may run out)"
        );
        return Ok(());
    };
    let error = unshare(flags)
        .args(["ip link set lo up && exec \"$@\"", "end_to_end"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "own")
        .exec();
    bail!("cannot restart in a separate network namespace: {error}");
}

/// Returns a description of the network for the table.
pub(crate) fn description() -> &'static str {
    if std::env::var_os(INSIDE).is_some() {
        "loopback in a separate network namespace"
    } else {
        "loopback"
    }
}

fn unshare(flags: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(flags).args(["--", "sh", "-c"]);
    command
}

fn is_permitted(flags: &[&str]) -> bool {
    let status = unshare(flags)
        .arg("ip link set lo up")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn prepare() -> anyhow::Result<()> {
    for (name, value) in [("ip_local_port_range", PORTS), ("tcp_tw_reuse", "1")] {
        // Continue on failure: a lack of ports shows up as failed connections.
        if let Err(error) = fs::write(format!("/proc/sys/net/ipv4/{name}"), value) {
            eprintln!("cannot set {name}: {error}");
        }
    }
    Ok(())
}
