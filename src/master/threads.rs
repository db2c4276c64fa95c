//! On which thread a link is served. Each thread has a runtime of its own, and a link stays where it was accepted to: what passes between two links of the
//! same thread wakes nobody. Knows connections and how many there are on each thread; not what they are.
//!
//! Links that will meet cannot be told beforehand. So the first [`GROUP`] go to the first thread, which is all that a master of a few machines ever uses,
//! the next to the second, and so round and round: many links are spread evenly.

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

/// Connections that a thread is given before the next one has its turn: the links of a household or a small team, which meet one another.
const GROUP: usize = 16;

/// The threads of a master. The first is the one that made it.
pub(super) struct Threads {
    first: Seats,
    others: Vec<(Seats, JoinHandle<()>)>,
    over: CancellationToken,
}

/// A thread, and how many connections it serves.
struct Seats {
    runtime: Handle,
    taken: Arc<AtomicUsize>,
}

impl Seats {
    fn of(runtime: Handle) -> Self {
        Seats {
            runtime,
            taken: Arc::default(),
        }
    }

    fn groups(&self) -> usize {
        self.taken.load(Relaxed) / GROUP
    }
}

impl Threads {
    /// So many threads, this one among them. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses one.
    pub(super) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let first = Seats::of(Handle::current());
        let mut threads = Threads {
            first,
            others: Vec::new(),
            over: CancellationToken::new(),
        };
        for number in 2..=count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (seats, over) = (Seats::of(runtime.handle().clone()), threads.over.clone());
            let thread = std::thread::Builder::new().name(format!("report-{number}"));
            threads.others.push((
                seats,
                thread.spawn(move || runtime.block_on(over.cancelled()))?,
            ));
        }
        Ok(threads)
    }

    /// How many connections each serves.
    fn taken(&self) -> Vec<usize> {
        let others = self.others.iter().map(|(seats, _)| seats);
        std::iter::once(&self.first)
            .chain(others)
            .map(|seats| seats.taken.load(Relaxed))
            .collect()
    }

    /// A place for one more connection: the first thread of those that have had the fewest groups.
    pub(super) fn seat(&self) -> Seat {
        let others = self.others.iter().map(|(seats, _)| seats);
        let seats = others.fold(&self.first, |best, next| {
            if next.groups() < best.groups() {
                next
            } else {
                best
            }
        });
        seats.taken.fetch_add(1, Relaxed);
        let is_elsewhere = !std::ptr::eq(seats, &self.first);
        Seat {
            runtime: seats.runtime.clone(),
            is_elsewhere,
            taken: Arc::clone(&seats.taken),
        }
    }
}

impl Drop for Threads {
    /// What still runs on the other threads is dropped with their runtimes.
    fn drop(&mut self) {
        self.over.cancel();
        let current = std::thread::current().id();
        for (_, thread) in self
            .others
            .drain(..)
            .filter(|(_, thread)| thread.thread().id() != current)
        {
            if thread.join().is_err() {
                error!("a thread of the master panicked");
            }
        }
    }
}

/// A connection's place on a thread, until it is dropped.
pub(super) struct Seat {
    runtime: Handle,
    /// On another thread than the one that accepts.
    is_elsewhere: bool,
    taken: Arc<AtomicUsize>,
}

impl Seat {
    /// Where the connection is served.
    pub(super) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    /// Takes a connection from the runtime that accepted it, if it is served elsewhere.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn send(&self, stream: TcpStream) -> io::Result<Sent> {
        if self.is_elsewhere {
            stream.into_std().map(Sent::Elsewhere)
        } else {
            Ok(Sent::Here(stream))
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Relaxed);
    }
}

/// A connection on its way to its thread.
pub(super) enum Sent {
    Here(TcpStream),
    /// No runtime knows it.
    Elsewhere(std::net::TcpStream),
}

impl Sent {
    /// On the thread that serves it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn arrive(self) -> io::Result<TcpStream> {
        match self {
            Sent::Here(stream) => Ok(stream),
            Sent::Elsewhere(stream) => TcpStream::from_std(stream),
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Threads")
            .field("taken", &self.taken())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_few_connections_share_a_thread_and_many_are_spread() {
        let threads = Threads::start(NonZeroUsize::new(3).expect("three")).expect("threads");
        let mut seats: Vec<_> = (0..GROUP).map(|_| threads.seat()).collect();
        assert_eq!(threads.taken(), [GROUP, 0, 0]);
        seats.extend((0..9 * GROUP).map(|_| threads.seat()));
        assert_eq!(threads.taken(), [4 * GROUP, 3 * GROUP, 3 * GROUP]);
        drop(seats);
        assert_eq!(threads.taken(), [0, 0, 0]);
        assert!(!threads.seat().is_elsewhere);
    }
}
