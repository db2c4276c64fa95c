//! The limit of open files: whether there is room for another connection, the part that is kept for links, and what is logged when there is none.
//!
//! Local connections take every descriptor that there is, when enough of them come. A role that loses its link then could not dial another one, so that
//! all of them would be lost. So the last descriptors are not for local connections: see [`room`].

use std::{
    io,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::net::{TcpSocket, TcpStream};
use tracing::error;

/// Descriptors that are kept for links, the look-ups of their names, and files that are read again.
const KEPT: u64 = 32;

/// Of a small limit, only this part is kept, as a divisor.
const PART: u64 = 4;

/// With so many descriptors left, the system is not asked how many there are: connections that are made in the meantime tell by their numbers.
const FAR: u64 = 512;

/// The number of the last connection that was made.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// How often the same trouble is logged, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// There is no descriptor for another file or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfFiles {
    /// The process has reached its limit.
    #[error("this process has as many open files as its limit{} allows", .limit.map(|limit| format!(" of {limit}")).unwrap_or_default())]
    Process {
        /// The limit, where it is known.
        limit: Option<u64>,
    },
    /// What is left is kept for links.
    #[error(
        "this process has as many open files as its limit of {limit} allows, except for {kept} that are kept for links"
    )]
    Kept {
        /// The limit.
        limit: u64,
        /// The part that is kept.
        kept: u64,
    },
    /// The system has reached its limit.
    #[error("this system has as many open files as it allows")]
    System,
}

impl OutOfFiles {
    /// Whether that is what the error means.
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

    /// Whether that is so at this moment: for errors that do not tell, as those of the resolver.
    #[must_use]
    pub fn now() -> Option<Self> {
        system::lowest_free()
            .err()
            .and_then(|error| OutOfFiles::of(&error))
    }

    /// What can be done.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            OutOfFiles::Process { .. } | OutOfFiles::Kept { .. } => {
                "raise the limit of open files (`ulimit -n`; `LimitNOFILE=` in a unit of systemd), or close connections"
            }
            OutOfFiles::System => {
                "raise the system's limit of open files (`fs.file-max`), or look for the process that has so many"
            }
        }
    }
}

/// How many files this process may have open, where that is limited.
#[must_use]
pub fn limit() -> Option<u64> {
    system::limit()
}

/// Whether there is room for another local connection: the descriptors that are left when there is not are for links.
///
/// # Errors
/// When there is none.
pub fn room() -> Result<(), OutOfFiles> {
    if is_far_below(LAST_NUMBER.load(Relaxed)) {
        return Ok(());
    }
    let Some(limit) = system::limit() else {
        return Ok(());
    };
    match system::lowest_free() {
        Ok(Some(free)) => fits(free, limit, kept(limit)),
        Ok(None) => Ok(()),
        // What else may be wrong is for whoever opens something to say.
        Err(error) => OutOfFiles::of(&error).map_or(Ok(()), Err),
    }
}

/// Whether a connection that was accepted may stay. There was [`room`] before it was waited for, and others may have come since at other listeners: they
/// may take half of what is kept.
///
/// # Errors
/// When it may not.
pub fn stays(socket: &TcpStream) -> Result<(), OutOfFiles> {
    remember(system::number(socket));
    if is_far_below(LAST_NUMBER.load(Relaxed)) {
        return Ok(());
    }
    match (system::limit(), system::number(socket)) {
        (Some(limit), Some(number)) => fits(number, limit, kept(limit) / 2),
        _ => Ok(()),
    }
}

/// Remembers the number of a socket that has just been made: while it is far below the limit, the system need not be asked.
pub fn note(socket: &TcpSocket) {
    remember(system::number_of_socket(socket));
}

fn remember(number: Option<u64>) {
    if let Some(number) = number {
        LAST_NUMBER.store(number, Relaxed);
    }
}

/// Whether there is room for many more after this number. The limit is that of the first time: it is raised once, at the start.
fn is_far_below(number: u64) -> bool {
    static LIMIT: OnceLock<Option<u64>> = OnceLock::new();
    let limit = LIMIT.get_or_init(system::limit);
    limit.is_none_or(|limit| number.saturating_add(FAR) < limit.saturating_sub(kept(limit)))
}

fn kept(limit: u64) -> u64 {
    KEPT.min(limit / PART)
}

/// A new descriptor has the lowest number that is free: so many are open at least.
fn fits(number: u64, limit: u64, kept: u64) -> Result<(), OutOfFiles> {
    if number < limit.saturating_sub(kept) {
        Ok(())
    } else {
        Err(OutOfFiles::Kept {
            limit,
            kept: self::kept(limit),
        })
    }
}

/// Logs trouble that may come a thousand times a second, with how many times it came since the last line.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    last: Option<Instant>,
    count: u64,
}

impl Trouble {
    /// Logs a line, unless there was one in the last ten seconds.
    pub fn log(&self, line: impl FnOnce(u64)) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.count += 1;
        if times.last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            line(times.count);
            *times = Times {
                last: Some(Instant::now()),
                count: 0,
            };
        }
    }

    /// Logs why connections cannot be accepted.
    pub fn cannot_accept(&self, error: &io::Error) {
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
    use tokio::net::{TcpSocket, TcpStream};

    pub const OF_PROCESS: i32 = Errno::MFILE.raw_os_error();
    pub const OF_SYSTEM: i32 = Errno::NFILE.raw_os_error();

    pub fn limit() -> Option<u64> {
        getrlimit(Resource::Nofile).current
    }

    /// The number that the next descriptor has. (Nothing else says it without reading a whole folder.)
    pub fn lowest_free() -> io::Result<Option<u64>> {
        let copy = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(u64::try_from(copy.as_raw_fd()).ok())
    }

    pub fn number(socket: &TcpStream) -> Option<u64> {
        u64::try_from(socket.as_raw_fd()).ok()
    }

    pub fn number_of_socket(socket: &TcpSocket) -> Option<u64> {
        u64::try_from(socket.as_raw_fd()).ok()
    }
}

/// Windows has no limit of this kind.
#[cfg(not(unix))]
mod system {
    use std::io;

    use tokio::net::{TcpSocket, TcpStream};

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

    pub fn number(_: &TcpStream) -> Option<u64> {
        None
    }

    pub fn number_of_socket(_: &TcpSocket) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_kept_and_a_small_limit_keeps_fewer() {
        for (limit, last) in [
            (1024, 1024 - 32 - 1),
            (64, 64 - 16 - 1),
            (u64::MAX, u64::MAX - 33),
        ] {
            assert_eq!(fits(last, limit, kept(limit)), Ok(()));
            assert_eq!(
                fits(last + 1, limit, kept(limit)),
                Err(OutOfFiles::Kept {
                    limit,
                    kept: kept(limit)
                })
            );
            assert_eq!(
                fits(last + 1, limit, kept(limit) / 2),
                Ok(()),
                "was accepted while another one was"
            );
        }
        assert!(fits(0, 0, kept(0)).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn an_error_of_the_limit_is_told_from_others_and_names_the_number() {
        for code in [system::OF_PROCESS, system::OF_SYSTEM] {
            let out = OutOfFiles::of(&io::Error::from_raw_os_error(code)).expect("it is one");
            assert!(
                out.to_string().contains("as many open files as")
                    && out.remedy().contains("limit of open files"),
                "{out}"
            );
        }
        let limit = system::limit().expect("there is one here");
        let error = io::Error::from_raw_os_error(system::OF_PROCESS);
        assert!(
            OutOfFiles::of(&error)
                .expect("it is one")
                .to_string()
                .contains(&format!("limit of {limit} allows"))
        );
        let kept = OutOfFiles::Kept {
            limit: 64,
            kept: 16,
        };
        assert_eq!(
            OutOfFiles::of(&kept.into()),
            Some(kept),
            "also when it is carried by an error"
        );
        assert_eq!(
            OutOfFiles::of(&io::ErrorKind::ConnectionRefused.into()),
            None
        );
    }

    #[test]
    fn there_is_room_where_there_is() {
        assert_eq!((room(), OutOfFiles::now()), (Ok(()), None));
    }

    #[test]
    fn trouble_is_logged_now_and_then_with_its_times() {
        let trouble = Trouble::default();
        let mut lines = Vec::new();
        (0..1000).for_each(|_| trouble.log(|times| lines.push(times)));
        assert_eq!(lines, [1]);
        let past = Instant::now().checked_sub(LOG_INTERVAL);
        trouble.0.lock().unwrap().last = past;
        trouble.log(|times| lines.push(times));
        assert_eq!(lines, [1, 1000]);
    }
}
