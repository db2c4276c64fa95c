//! Assigns connections to threads. Each thread has a separate runtime, and a link stays on its
//! thread. So traffic between two links of one thread wakes no other thread. Knows connections and
//! their number on each thread, but not what they are.
//!
//! The master cannot predict which links will be spliced. So the first [`GROUP_SIZE`] links go to
//! the first thread, the next to the second, and so on in turn. A master with few links uses one
//! thread, and many links are spread evenly.

use std::{
    fmt, io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Connections that a thread gets in a row: the links of a household or a small team, which connect
/// to one another.
const GROUP_SIZE: usize = 16;

/// The threads of a master. The first is the thread that created it.
pub(super) struct Threads {
    first: Worker,
    others: Vec<(Worker, JoinHandle<()>)>,
    stop: CancellationToken,
}

/// A thread and the number of its connections.
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Worker {
    fn of(runtime: Handle) -> Self {
        Worker {
            runtime,
            connections: Arc::default(),
        }
    }

    fn groups(&self) -> usize {
        self.connections.load(Relaxed) / GROUP_SIZE
    }
}

impl Threads {
    /// Starts `count` threads, the current one included. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let first = Worker::of(Handle::current());
        let mut threads = Threads {
            first,
            others: Vec::new(),
            stop: CancellationToken::new(),
        };
        for number in 2..=count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (worker, stop) = (Worker::of(runtime.handle().clone()), threads.stop.clone());
            let thread = std::thread::Builder::new().name(format!("report-{number}"));
            threads.others.push((
                worker,
                thread.spawn(move || runtime.block_on(stop.cancelled()))?,
            ));
        }
        Ok(threads)
    }

    /// Returns the number of connections on each thread.
    fn connections(&self) -> Vec<usize> {
        let others = self.others.iter().map(|(worker, _)| worker);
        std::iter::once(&self.first)
            .chain(others)
            .map(|worker| worker.connections.load(Relaxed))
            .collect()
    }

    /// Assigns one more connection: to the first of the threads with the fewest full groups.
    pub(super) fn assign(&self) -> ThreadPlace {
        let others = self.others.iter().map(|(worker, _)| worker);
        let worker = others.fold(&self.first, |best, next| {
            if next.groups() < best.groups() {
                next
            } else {
                best
            }
        });
        worker.connections.fetch_add(1, Relaxed);
        let is_remote = !std::ptr::eq(worker, &self.first);
        ThreadPlace {
            runtime: worker.runtime.clone(),
            is_remote,
            connections: Arc::clone(&worker.connections),
        }
    }
}

impl Drop for Threads {
    /// Stops the other threads. Their runtimes drop the remaining tasks.
    fn drop(&mut self) {
        self.stop.cancel();
        let current = std::thread::current().id();
        for (_, thread) in self
            .others
            .drain(..)
            .filter(|(_, thread)| thread.thread().id() != current)
        {
            if thread.join().is_err() {
                error!("a master thread panicked");
            }
        }
    }
}

/// A connection's place on a thread. Dropping it frees the place.
pub(super) struct ThreadPlace {
    runtime: Handle,
    /// Whether this is another thread than the accepting one.
    is_remote: bool,
    connections: Arc<AtomicUsize>,
}

impl ThreadPlace {
    /// Returns the runtime that serves the connection.
    pub(super) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    /// Detaches a connection from the accepting runtime, if another one serves it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn detach(&self, stream: TcpStream) -> io::Result<MovedStream> {
        if self.is_remote {
            stream.into_std().map(MovedStream::Detached)
        } else {
            Ok(MovedStream::Local(stream))
        }
    }
}

impl Drop for ThreadPlace {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

/// A connection on its way to its thread.
pub(super) enum MovedStream {
    Local(TcpStream),
    /// Registered with no runtime.
    Detached(std::net::TcpStream),
}

impl MovedStream {
    /// Registers the connection with the current runtime, on the thread that serves it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn attach(self) -> io::Result<TcpStream> {
        match self {
            MovedStream::Local(stream) => Ok(stream),
            MovedStream::Detached(stream) => TcpStream::from_std(stream),
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Threads")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_connections_share_a_thread_and_many_are_spread() {
        let threads = Threads::start(NonZeroUsize::new(3).expect("three")).expect("threads");
        let mut places: Vec<_> = (0..GROUP_SIZE).map(|_| threads.assign()).collect();
        assert_eq!(threads.connections(), [GROUP_SIZE, 0, 0]);
        places.extend((0..9 * GROUP_SIZE).map(|_| threads.assign()));
        assert_eq!(
            threads.connections(),
            [4 * GROUP_SIZE, 3 * GROUP_SIZE, 3 * GROUP_SIZE]
        );
        drop(places);
        assert_eq!(threads.connections(), [0, 0, 0]);
        assert!(!threads.assign().is_remote);
    }
}
