//! A network of our own: loopback alone, in which nothing else runs and no port is left in TIME_WAIT by an earlier run.
//!
//! A process cannot get there by itself without unsafe code, so that this program begins again under `unshare`, where that is permitted.

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::bail;

/// Set for the program that was begun again.
const INSIDE: &str = "REPORT_BENCH_NETWORK";

/// Ports for outgoing connections: a chain that makes 10,000 connections a second needs so many, since one is free again a second after its end.
const PORTS: &str = "10000 65000";

/// Ways to a network of our own: as root, and as a user who may be root in a namespace.
const WAYS: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];

/// Goes on in a network of our own, if that is permitted: this process is another program then. Otherwise in the one that is there.
pub fn enter() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return prepare();
    }
    let Some(way) = WAYS.iter().find(|way| is_permitted(way)) else {
        eprintln!(
            "no network of our own (unshare and ip are needed, and the right to use them): ports in TIME_WAIT may run out"
        );
        return Ok(());
    };
    let error = unshare(way)
        .args(["ip link set lo up && exec \"$@\"", "end_to_end"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "own")
        .exec();
    bail!("cannot begin again in a network of our own: {error}");
}

/// Where the measurements run, for the table.
pub fn description() -> &'static str {
    if std::env::var_os(INSIDE).is_some() {
        "loopback in a network namespace of its own"
    } else {
        "loopback"
    }
}

fn unshare(way: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(way).args(["--", "sh", "-c"]);
    command
}

fn is_permitted(way: &[&str]) -> bool {
    let status = unshare(way)
        .arg("ip link set lo up")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn prepare() -> anyhow::Result<()> {
    for (name, value) in [("ip_local_port_range", PORTS), ("tcp_tw_reuse", "1")] {
        // Where it stays as it is there are fewer ports, which shows as failed connections.
        if let Err(error) = fs::write(format!("/proc/sys/net/ipv4/{name}"), value) {
            eprintln!("{name} stays as it is: {error}");
        }
    }
    Ok(())
}
