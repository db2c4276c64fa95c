//! Programs that run to their end: curl, ssh, psql, wrk, nc.

use std::{
    ffi::OsStr,
    io::Write as _,
    net::SocketAddr,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Seconds after which a hanging program is killed. Some sessions are idle for minutes.
const LIMIT_SECONDS: &str = "900";

/// The output and exit code of a program.
#[derive(Debug)]
pub(crate) struct ProgramOutput {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub errors: String,
}

impl ProgramOutput {
    /// The standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// The standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.text(), self.errors))
    }

    /// Fails the test when the program failed.
    #[track_caller]
    pub(crate) fn succeeded(self) -> ProgramOutput {
        assert_eq!(
            self.code,
            Some(0),
            "standard output: {}\nerrors: {}",
            self.text(),
            self.errors
        );
        self
    }
}

/// A command that `timeout` ends when it hangs.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT_SECONDS]).arg(program);
    command
}

/// A program that another program starts. `words` are the other program and its first arguments.
/// Without words the program starts directly.
pub(crate) fn within(words: &[String], program: &str) -> Command {
    let mut all = words.iter().map(String::as_str).chain([program]);
    let mut command = Command::new(all.next().unwrap_or(program));
    command.args(all);
    command
}

/// Runs a command to its end without input.
pub(crate) fn run(command: &mut Command) -> ProgramOutput {
    to_output(
        command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}")),
    )
}

/// Runs a command to its end with this input, then end of file.
pub(crate) fn run_with(command: &mut Command, input: &[u8]) -> ProgramOutput {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a piped standard input");
    let output = std::thread::scope(|scope| {
        // Write in another thread, or both sides fill their pipes and wait. A program that ends
        // early closes the pipe, and its exit code shows the failure.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("the output of a child")
    });
    to_output(output)
}

fn to_output(output: Output) -> ProgramOutput {
    ProgramOutput {
        code: output.status.code(),
        out: output.stdout,
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Fetches a path over HTTP. Returns the body.
#[track_caller]
pub(crate) fn curl(address: SocketAddr, path: &str) -> Vec<u8> {
    run(command("curl")
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*"])
        .arg(format!("http://{address}{path}")))
    .succeeded()
    .out
}

/// The report of wrk on one run.
#[derive(Debug)]
pub(crate) struct Burst {
    pub requests: u64,
    pub errors: Vec<String>,
}

/// Requests a path over 64 connections for this many seconds.
#[track_caller]
pub(crate) fn wrk(address: SocketAddr, path: &str, seconds: u32) -> Burst {
    let mut wrk = command("wrk");
    wrk.args([
        "--threads",
        "2",
        "--connections",
        "64",
        "--timeout",
        "20s",
        "--duration",
    ])
    .arg(format!("{seconds}s"));
    let report = run(wrk.arg(format!("http://{address}{path}")))
        .succeeded()
        .text();
    let requests = report
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let trouble = |line: &&str| line.contains("Socket errors") || line.contains("Non-2xx");
    let errors = report.lines().filter(trouble).map(str::to_owned).collect();
    Burst {
        requests: requests
            .unwrap_or_else(|| panic!("the number of requests is missing in {report}")),
        errors,
    }
}

/// Sends the input and an end of file with `nc -N`. Returns what comes back until the other side
/// ends.
#[track_caller]
pub(crate) fn nc(address: SocketAddr, input: &[u8]) -> ProgramOutput {
    let mut nc = command("nc");
    run_with(
        nc.arg("-N")
            .arg(address.ip().to_string())
            .arg(address.port().to_string()),
        input,
    )
}
