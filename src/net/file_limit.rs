//! The limit of open files: checks for free descriptors, reserves some of them for links, and logs
//! shortages.
//!
//! Local connections can use up every descriptor. A role that then loses its link could not dial
//! again, and would lose all of them. [`check_available`] therefore leaves the last descriptors to
//! links.

use std::{
    io,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::net::{TcpSocket, UdpSocket};
use tracing::error;

use super::local_stream::LocalStream;

/// The number of descriptors reserved for links, for look-ups of their names, and for files that
/// are reloaded.
const RESERVED: u64 = 32;

/// A small limit reserves only this fraction of itself, given as the divisor.
const RESERVED_DIVISOR: u64 = 4;

/// With this many descriptors free, the check needs no system call. The numbers of new connections
/// show when the limit comes closer.
const FAR_FROM_LIMIT: u64 = 512;

/// The descriptor number of the last new connection.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// The remedy for a role that a low limit of open files restricts.
pub const RAISE_LIMIT_HINT: &str =
    "raise the limit of open files (LimitNOFILE= in systemd, ulimit -Hn in a shell)";

/// The minimum time between two log lines about the same problem.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// There is no free descriptor for another file or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfFiles {
    /// The process has reached its limit.
    #[error("this process has as many open files as its limit{} allows", .limit.map(|limit| format!(" of {limit}")).unwrap_or_default())]
    Process {
        /// The limit, if known.
        limit: Option<u64>,
    },
    /// The remaining descriptors are reserved for links.
    #[error(
        "this process has as many open files as its limit of {limit} allows, except for {reserved} that are reserved for links"
    )]
    Reserved {
        /// The limit.
        limit: u64,
        /// The number of reserved descriptors.
        reserved: u64,
    },
    /// The system has reached its limit.
    #[error("this system has as many open files as it allows")]
    System,
}

impl OutOfFiles {
    /// Returns the exhausted limit, if that is what the error means.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        if let Some(known) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Some(*known);
        }
        match error.raw_os_error()? {
            system::OF_PROCESS => Some(OutOfFiles::Process {
                limit: system::limit(),
            }),
            system::OF_SYSTEM => Some(OutOfFiles::System),
            _ => None,
        }
    }

    /// Returns the limit that is exhausted now. For errors that do not state their cause, such as
    /// the resolver's.
    #[must_use]
    pub fn now() -> Option<Self> {
        system::lowest_free()
            .err()
            .and_then(|error| OutOfFiles::of(&error))
    }

    /// Returns the remedy.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            OutOfFiles::Process { .. } | OutOfFiles::Reserved { .. } => {
                "raise the limit of open files (`ulimit -n`; `LimitNOFILE=` in a systemd unit), or close connections"
            }
            OutOfFiles::System => {
                "raise the system's limit of open files (`fs.file-max`), or find the process that has so many"
            }
        }
    }
}

/// Returns the process's limit of open files, if there is one.
#[must_use]
pub fn limit() -> Option<u64> {
    system::limit()
}

/// Checks that a descriptor is free for another local connection, without those reserved for links.
///
/// # Errors
/// If no descriptor is free.
pub fn check_available() -> Result<(), OutOfFiles> {
    if is_far_below(LAST_NUMBER.load(Relaxed)) {
        return Ok(());
    }
    let Some(limit) = system::limit() else {
        return Ok(());
    };
    match system::lowest_free() {
        Ok(Some(free)) => check_number(free, limit, reserved(limit)),
        Ok(None) => Ok(()),
        // Any other error appears again when a file is opened, and is reported there.
        Err(error) => OutOfFiles::of(&error).map_or(Ok(()), Err),
    }
}

/// Checks that an accepted connection leaves enough reserved descriptors. Several listeners may
/// accept after one [`check_available`], so accepted connections may take half of the reserve.
///
/// # Errors
/// If too few descriptors are left.
pub fn check_accepted(socket: &LocalStream) -> Result<(), OutOfFiles> {
    record_number(system::number(socket));
    if is_far_below(LAST_NUMBER.load(Relaxed)) {
        return Ok(());
    }
    match (system::limit(), system::number(socket)) {
        (Some(limit), Some(number)) => check_number(number, limit, reserved(limit) / 2),
        _ => Ok(()),
    }
}

/// Records the descriptor number of a new socket. Far below the limit, later checks then need no
/// system call.
pub fn record_socket(socket: &TcpSocket) {
    record_number(system::number_of_socket(socket));
}

/// Records the descriptor number of a new socket for datagrams, as [`record_socket`] does.
pub fn record_datagram_socket(socket: &UdpSocket) {
    record_number(system::number_of_datagram_socket(socket));
}

/// Records the descriptor number of a new connection, as [`record_socket`] does.
pub fn record_stream(stream: &LocalStream) {
    record_number(system::number(stream));
}

fn record_number(number: Option<u64>) {
    if let Some(number) = number {
        LAST_NUMBER.store(number, Relaxed);
    }
}

/// Returns whether many descriptors are free above this number. Reads the limit once: it is raised
/// only at the start.
fn is_far_below(number: u64) -> bool {
    static LIMIT: OnceLock<Option<u64>> = OnceLock::new();
    let limit = LIMIT.get_or_init(system::limit);
    limit.is_none_or(|limit| {
        number.saturating_add(FAR_FROM_LIMIT) < limit.saturating_sub(reserved(limit))
    })
}

fn reserved(limit: u64) -> u64 {
    RESERVED.min(limit / RESERVED_DIVISOR)
}

/// A new descriptor gets the lowest free number, so at least `number` descriptors are open.
fn check_number(number: u64, limit: u64, reserved: u64) -> Result<(), OutOfFiles> {
    if number < limit.saturating_sub(reserved) {
        Ok(())
    } else {
        Err(OutOfFiles::Reserved {
            limit,
            reserved: self::reserved(limit),
        })
    }
}

/// Logs a problem that may occur a thousand times per second, at intervals, with its count since
/// the last line.
#[derive(Debug, Default)]
pub struct ThrottledLog(Mutex<ThrottleState>);

#[derive(Debug, Default)]
struct ThrottleState {
    last: Option<Instant>,
    count: u64,
}

impl ThrottledLog {
    /// Logs a line, unless one was logged in the last ten seconds.
    pub fn log(&self, line: impl FnOnce(u64)) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.count += 1;
        if times.last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            line(times.count);
            *times = ThrottleState {
                last: Some(Instant::now()),
                count: 0,
            };
        }
    }

    /// Logs why connections cannot be accepted.
    pub fn log_accept_error(&self, error: &io::Error) {
        self.log(|times| match OutOfFiles::of(error) {
            Some(out) => error!(times, "cannot accept connections: {out}; {}", out.remedy()),
            None => error!(times, "cannot accept connections: {error}"),
        });
    }
}

impl From<OutOfFiles> for io::Error {
    fn from(out: OutOfFiles) -> Self {
        io::Error::other(out)
    }
}

#[cfg(unix)]
mod system {
    use std::{
        io,
        os::fd::{AsFd as _, AsRawFd as _},
    };

    use rustix::{
        io::Errno,
        process::{Resource, getrlimit},
    };
    use tokio::net::{TcpSocket, UdpSocket};

    use super::LocalStream;

    pub(super) const OF_PROCESS: i32 = Errno::MFILE.raw_os_error();
    pub(super) const OF_SYSTEM: i32 = Errno::NFILE.raw_os_error();

    pub(super) fn limit() -> Option<u64> {
        getrlimit(Resource::Nofile).current
    }

    /// Returns the number of the next descriptor. (The alternative is to read a whole folder of
    /// /proc.)
    pub(super) fn lowest_free() -> io::Result<Option<u64>> {
        let copy = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(u64::try_from(copy.as_raw_fd()).ok())
    }

    pub(super) fn number(socket: &LocalStream) -> Option<u64> {
        u64::try_from(socket.as_fd().as_raw_fd()).ok()
    }

    pub(super) fn number_of_socket(socket: &TcpSocket) -> Option<u64> {
        u64::try_from(socket.as_raw_fd()).ok()
    }

    pub(super) fn number_of_datagram_socket(socket: &UdpSocket) -> Option<u64> {
        u64::try_from(socket.as_raw_fd()).ok()
    }
}

/// Windows has no such limit.
#[cfg(not(unix))]
mod system {
    use std::io;

    use tokio::net::{TcpSocket, UdpSocket};

    use super::LocalStream;

    /// WSAEMFILE.
    pub const OF_PROCESS: i32 = 10024;
    /// ERROR_NO_SYSTEM_RESOURCES.
    pub const OF_SYSTEM: i32 = 1450;

    pub fn limit() -> Option<u64> {
        None
    }

    pub fn lowest_free() -> io::Result<Option<u64>> {
        Ok(None)
    }

    pub fn number(_: &LocalStream) -> Option<u64> {
        None
    }

    pub fn number_of_socket(_: &TcpSocket) -> Option<u64> {
        None
    }

    pub fn number_of_datagram_socket(_: &UdpSocket) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_descriptors_are_reserved_in_proportion_to_the_limit() {
        for (limit, last) in [
            (1024, 1024 - 32 - 1),
            (64, 64 - 16 - 1),
            (u64::MAX, u64::MAX - 33),
        ] {
            assert_eq!(check_number(last, limit, reserved(limit)), Ok(()));
            assert_eq!(
                check_number(last + 1, limit, reserved(limit)),
                Err(OutOfFiles::Reserved {
                    limit,
                    reserved: reserved(limit)
                })
            );
            assert_eq!(
                check_number(last + 1, limit, reserved(limit) / 2),
                Ok(()),
                "accepted concurrently"
            );
        }
        assert!(check_number(0, 0, reserved(0)).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn limit_errors_are_recognised_and_state_the_limit() {
        for code in [system::OF_PROCESS, system::OF_SYSTEM] {
            let out = OutOfFiles::of(&io::Error::from_raw_os_error(code)).expect("it is one");
            assert!(
                out.to_string().contains("as many open files as")
                    && out.remedy().contains("limit of open files"),
                "{out}"
            );
        }
        let limit = system::limit().expect("the limit is finite");
        let error = io::Error::from_raw_os_error(system::OF_PROCESS);
        assert!(
            OutOfFiles::of(&error)
                .expect("it is one")
                .to_string()
                .contains(&format!("limit of {limit} allows"))
        );
        let reserved = OutOfFiles::Reserved {
            limit: 64,
            reserved: 16,
        };
        assert_eq!(
            OutOfFiles::of(&reserved.into()),
            Some(reserved),
            "inside an io::Error"
        );
        assert_eq!(
            OutOfFiles::of(&io::ErrorKind::ConnectionRefused.into()),
            None
        );
    }

    #[test]
    fn descriptors_are_available_in_this_test() {
        assert_eq!((check_available(), OutOfFiles::now()), (Ok(()), None));
    }

    #[test]
    fn problems_are_logged_at_intervals_with_their_count() {
        let log = ThrottledLog::default();
        let mut lines = Vec::new();
        (0..1000).for_each(|_| log.log(|times| lines.push(times)));
        assert_eq!(lines, [1]);
        let past = Instant::now().checked_sub(LOG_INTERVAL);
        log.0.lock().unwrap().last = past;
        log.log(|times| lines.push(times));
        assert_eq!(lines, [1, 1000]);
    }
}
