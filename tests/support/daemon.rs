//! A child process that ends with its guard. It runs in a separate process group and writes its
//! output to a file.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::wait;

/// How long a daemon may take to end after it was asked to. Then it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Lines of its log that a daemon prints when its test fails.
const SHOWN_LINES: usize = 60;

/// A signal to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Interrupt,
    Kill,
    Stop,
    Continue,
    /// Many daemons reload their configuration at this signal.
    Hangup,
    /// tinyproxy in the foreground reloads its configuration at this signal.
    User,
    /// HAProxy reloads its configuration at this signal.
    User2,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "TERM",
            Signal::Interrupt => "INT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
            Signal::Hangup => "HUP",
            Signal::User => "USR1",
            Signal::User2 => "USR2",
        }
    }
}

/// The process groups of the running daemons.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Kills all daemons, because this process is about to exit without running their guards.
pub(crate) fn kill_all() {
    for pid in RUNNING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        send(Signal::Kill, &format!("-{pid}"));
    }
}

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    stop_signal: Signal,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts the command. Both its outputs go to `NAME.log` in the folder and are appended to an
    /// existing file.
    pub(crate) fn start(name: &str, folder: &Path, command: &mut Command) -> Daemon {
        let log = folder.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log file opens");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log file"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} starts ({command:?}): {error}"));
        super::watchdog::watch();
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(child.id());
        Daemon {
            name: name.to_owned(),
            child,
            log,
            stop_signal: Signal::Terminate,
            ended: None,
        }
    }

    /// Stops it with another signal than SIGTERM.
    pub(crate) fn stopped_by(mut self, signal: Signal) -> Daemon {
        self.stop_signal = signal;
        self
    }

    /// Waits until the probe succeeds. Fails the test when the daemon ends before.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, mut probe: impl FnMut() -> bool) {
        let name = self.name.clone();
        wait::until(&format!("{name} is ready"), || {
            assert!(
                !self.has_ended(),
                "{name} ended before it was ready:\n{}",
                self.log_tail()
            );
            probe().then_some(())
        });
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its whole output so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for a line that contains all these words and returns it.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, words: &[&str]) -> String {
        let find = || {
            self.log()
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)))
                .map(str::to_owned)
        };
        match wait::within(wait::TIMEOUT, find) {
            Some(line) => line,
            None => panic!(
                "{} logged no line with {words:?}:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// Sends the signal to the process only, not to its group.
    pub(crate) fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "{} has ended", self.name);
        send(signal, &self.pid().to_string());
    }

    /// Sends SIGTERM to a role, and again when the role has logged that it drains. Two simultaneous
    /// signals could arrive as one.
    #[track_caller]
    pub(crate) fn terminate_twice(&self) {
        self.signal(Signal::Terminate);
        self.wait_for_line(&["draining"]);
        self.signal(Signal::Terminate);
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some() || is_dead(self.pid())
    }

    /// Waits for its end.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.ended.is_none() {
            wait::within(limit, || is_dead(self.child.id()).then_some(()))?;
            RUNNING
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&self.pid());
            // The process is not reaped yet, so its id still names this process group and no other.
            send(Signal::Kill, &format!("-{}", self.pid()));
            self.ended = self.child.wait().ok();
        }
        self.ended
    }

    /// Asks it to end, and kills it when it does not. Returns its exit status.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        send(self.stop_signal, &self.pid().to_string());
        if let Some(status) = self.wait_for_end(GRACE) {
            return status;
        }
        eprintln!("{} did not end within {GRACE:?}, killing it", self.name);
        self.kill()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        send(Signal::Kill, &format!("-{}", self.pid()));
        self.wait_for_end(GRACE)
            .unwrap_or_else(|| ExitStatus::from_raw(9))
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!(
                "-- the last log lines of {}:\n{}\n--",
                self.name,
                self.log_tail()
            );
        }
    }
}

fn send(signal: Signal, target: &str) {
    // An error means that the target is gone, which is the wanted result.
    let _ = Command::new("kill")
        .args(["-s", signal.name(), "--", target])
        .stderr(Stdio::null())
        .status();
}

/// Whether the process has ended, reaped or not.
pub(crate) fn is_dead(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // The name in parentheses may contain anything. The state follows the last parenthesis.
    stat.rsplit_once(") ")
        .is_none_or(|(_, fields)| fields.starts_with(['Z', 'X']))
}
