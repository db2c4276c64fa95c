//! Open files: how many a process has, and how many it may have.

use std::{fs, process::Command};

use super::programs;

/// Descriptors that a running process has open.
pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the descriptors of a running process")
        .count()
}

/// Raises the limit of open files to the hard limit, for this process and its children.
pub(crate) fn raise_limit() {
    let limit = programs::run(Command::new("prlimit").args([
        "--nofile",
        "--output",
        "HARD",
        "--noheadings",
    ]))
    .text();
    let pid = std::process::id().to_string();
    let hard = limit.trim();
    programs::run(
        Command::new("prlimit")
            .args(["--pid", &pid])
            .arg(format!("--nofile={hard}:{hard}")),
    )
    .succeeded();
}
