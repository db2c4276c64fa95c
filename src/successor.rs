//! Starts the executable of this process again, and passes listening sockets to the new process: its
//! successor. This process waits until the successor accepts connections.
//!
//! ```text
//!  start ──sockets, stream──► successor: receive, bind, accept
//!    │                            └── report_ready ──► this process drains
//!    └── it ends, or is too slow ─────────────────────► this process continues
//! ```
//!
//! A successor whose predecessor ends before it has taken over ends too. It would otherwise serve
//! without a supervisor, or beside the process that a supervisor starts.
//!
//! The sockets follow the protocol of systemd without LISTEN_PID, as the id of the successor is
//! unknown before its start.

#[cfg(unix)]
use std::os::fd::{AsFd, OwnedFd};
use std::{io, process::ExitStatus, time::Duration};

/// How long a successor may take to accept connections. A database that answers slowly takes some
/// seconds.
#[cfg(unix)]
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why a process cannot be restarted without a pause.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The system cannot pass listeners to another process.
    #[error(
        "this system cannot pass listeners to another process (stop the master and start it again)"
    )]
    Unsupported,
    /// The process drains already.
    #[error("this master drains already")]
    Draining,
    /// Another restart has not ended yet.
    #[error("another restart is in progress")]
    InProgress,
    /// The end of this process would end the new one too.
    #[error(
        "this process is the first one of its container, which ends with it (restart the container)"
    )]
    FirstProcess,
    /// A socket cannot be passed, or the process cannot be started.
    #[error("cannot start a new process: {0}")]
    Start(#[from] io::Error),
    /// The new process has ended.
    #[error(
        "the new process has ended before it accepted connections: {0} (its log gives the reason)"
    )]
    Ended(ExitStatus),
    /// The new process takes too long.
    #[error("the new process did not accept connections within {0:?}, and was ended")]
    Slow(Duration),
}

/// A duplicate of a listening socket, to pass to a successor. It keeps the address in use.
#[derive(Debug)]
pub struct PassedListener(#[cfg(unix)] OwnedFd);

impl PassedListener {
    /// Duplicates a listening socket.
    ///
    /// # Errors
    /// When the system refuses.
    #[cfg(unix)]
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        socket.as_fd().try_clone_to_owned().map(PassedListener)
    }

    /// Refuses: this system cannot pass sockets.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(unix))]
    pub fn of<S>(_socket: &S) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Duplicates the socket again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn try_clone(&self) -> io::Result<Self> {
        #[cfg(unix)]
        return PassedListener::of(&self.0);
        #[cfg(not(unix))]
        return PassedListener::of(self);
    }
}

#[cfg(unix)]
pub(crate) use self::unix::{report_ready, start};
#[cfg(not(unix))]
pub(crate) use self::unsupported::{report_ready, start};

#[cfg(unix)]
mod unix {
    use std::{
        io::{self, Write as _},
        os::{
            fd::{AsRawFd as _, OwnedFd},
            unix::net::UnixStream,
        },
        path::Path,
        process::{Child, Command, ExitStatus},
    };

    use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
    use tokio::{io::AsyncReadExt as _, time::timeout};

    use super::{PassedListener, RestartError, START_TIMEOUT};
    use crate::net::passed_sockets::{self, SUCCESSOR_VARIABLE};

    /// The message of a successor that accepts connections.
    const READY: &[u8] = b"ready\n";

    /// The lowest number of a passed descriptor. systemd uses the same. Zero to two are the standard
    /// streams.
    const FIRST_DESCRIPTOR: i32 = 3;

    /// How often consecutive numbers are looked for. Other threads may take one of them.
    const ATTEMPTS: usize = 64;

    /// A successor. Dropping it ends the process, unless it has taken over.
    struct Successor {
        process: Child,
        has_taken_over: bool,
    }

    impl Drop for Successor {
        fn drop(&mut self) {
            if !self.has_taken_over {
                // It may have ended already. The system reaps it at the end of this process.
                let _ = self.process.kill();
            }
        }
    }

    /// Reports to the process that has started this one that this process accepts connections.
    ///
    /// # Errors
    /// When that process has ended. Its operator has ended the service, or its supervisor starts
    /// another process, which needs the listeners.
    pub(crate) fn report_ready() -> io::Result<()> {
        match passed_sockets::take_predecessor() {
            Some(mut predecessor) => predecessor.write_all(READY),
            None => Ok(()),
        }
    }

    /// Starts a successor with these listeners, and waits until it accepts connections. Returns its
    /// process id.
    ///
    /// # Errors
    /// When it does not start. It has then ended.
    ///
    /// # Cancel safety
    /// Dropping the future ends the successor.
    pub(crate) async fn start(listeners: Vec<PassedListener>) -> Result<u32, RestartError> {
        if std::process::id() == 1 {
            return Err(RestartError::FirstProcess);
        }
        let (own, passed) = UnixStream::pair()?;
        own.set_nonblocking(true)?;
        let mut own = tokio::net::UnixStream::from_std(own)?;
        let mut successor = run_blocking(move || {
            let sockets = listeners.into_iter().map(|listener| listener.0);
            spawn(&sockets.chain([OwnedFd::from(passed)]).collect::<Vec<_>>())
        })
        .await?;
        let mut message = [0; READY.len()];
        match timeout(START_TIMEOUT, own.read_exact(&mut message)).await {
            Ok(Ok(_)) => {
                successor.has_taken_over = true;
                Ok(successor.process.id())
            }
            // The stream ends with the process.
            Ok(Err(_)) => Err(RestartError::Ended(end(successor).await?)),
            Err(_) => {
                end(successor).await?;
                Err(RestartError::Slow(START_TIMEOUT))
            }
        }
    }

    /// Starts this executable with the same arguments and these descriptors.
    fn spawn(sockets: &[OwnedFd]) -> io::Result<Successor> {
        let mut arguments = std::env::args_os();
        let program = arguments
            .next()
            .ok_or_else(|| io::Error::other("the name of the executable is unknown"))?;
        let passed = consecutive(sockets)?;
        let first = passed
            .first()
            .map_or(FIRST_DESCRIPTOR, |socket| socket.as_raw_fd());
        for socket in &passed {
            fcntl_setfd(socket, FdFlags::empty())?;
        }
        let spawned = Command::new(&program)
            .args(arguments)
            .env("LISTEN_FDS", passed.len().to_string())
            .env("LISTEN_FDS_FIRST_FD", first.to_string())
            .env(SUCCESSOR_VARIABLE, "1")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            // The successor is watched in the place of this process.
            .env_remove("WATCHDOG_PID")
            .spawn();
        let named = |error: io::Error| {
            let program = Path::new(&program).display();
            io::Error::new(error.kind(), format!("{program}: {error}"))
        };
        spawned.map_err(named).map(|process| Successor {
            process,
            has_taken_over: false,
        })
    }

    /// Duplicates descriptors to consecutive numbers.
    fn consecutive(sockets: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
        let mut first = FIRST_DESCRIPTOR;
        'attempts: for _ in 0..ATTEMPTS {
            let mut copies = Vec::with_capacity(sockets.len());
            let mut next = first;
            for socket in sockets {
                let copy = fcntl_dupfd_cloexec(socket, next)?;
                let number = copy.as_raw_fd();
                if number != next && !copies.is_empty() {
                    first = number;
                    continue 'attempts;
                }
                next = number.saturating_add(1);
                copies.push(copy);
            }
            return Ok(copies);
        }
        Err(io::Error::other(
            "no consecutive file descriptors are free (raise the limit of open files)",
        ))
    }

    /// Ends a successor that is not ready.
    async fn end(mut successor: Successor) -> io::Result<ExitStatus> {
        run_blocking(move || {
            // It may have ended already.
            let _ = successor.process.kill();
            successor.process.wait()
        })
        .await
    }

    async fn run_blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    #[cfg(test)]
    mod tests {
        use std::net::TcpListener;

        use super::*;

        #[test]
        fn descriptors_get_consecutive_numbers() {
            let listeners: Vec<_> = (0..5)
                .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
                .collect();
            let addresses: Vec<_> = listeners.iter().map(|one| one.local_addr()).collect();
            let sockets: Vec<_> = listeners.into_iter().map(OwnedFd::from).collect();
            let copies = consecutive(&sockets).expect("enough descriptors");
            let first = copies[0].as_raw_fd();
            for (number, (copy, address)) in (first..).zip(copies.into_iter().zip(addresses)) {
                assert_eq!(copy.as_raw_fd(), number);
                let copy = TcpListener::from(copy);
                assert_eq!(copy.local_addr().expect("bound"), address.expect("bound"));
            }
        }
    }
}

#[cfg(not(unix))]
mod unsupported {
    use std::io;

    use super::{PassedListener, RestartError};

    /// Does nothing: no earlier process has started this one.
    pub(crate) fn report_ready() -> io::Result<()> {
        Ok(())
    }

    /// Refuses to start a successor.
    pub(crate) async fn start(_: Vec<PassedListener>) -> Result<u32, RestartError> {
        Err(RestartError::Unsupported)
    }
}
