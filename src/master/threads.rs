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

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Connections that a thread is given before the next one has its turn: the links of a household or a small team, which meet one another.
const GROUP: usize = 16;

/// The threads of a master. The first is the one that made it.
pub(super) struct Threads {
    seats: Vec<Seats>,
    others: Vec<JoinHandle<()>>,
    over: CancellationToken,
}

/// A thread, and how many connections it serves.
struct Seats {
    runtime: Handle,
    taken: Arc<AtomicUsize>,
}

/// A connection's place on a thread, until it is dropped.
pub(super) struct Seat {
    /// Where it is served.
    pub(super) runtime: Handle,
    /// Whether that is another thread than the one that accepts.
    pub(super) is_elsewhere: bool,
    taken: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Relaxed);
    }
}

impl Threads {
    /// So many threads, this one among them. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses one.
    pub(super) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let first = Seats { runtime: Handle::current(), taken: Arc::default() };
        let mut threads = Threads { seats: vec![first], others: Vec::new(), over: CancellationToken::new() };
        for number in 2..=count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            threads.seats.push(Seats { runtime: runtime.handle().clone(), taken: Arc::default() });
            let over = threads.over.clone();
            let thread = std::thread::Builder::new().name(format!("report-{number}"));
            threads.others.push(thread.spawn(move || runtime.block_on(over.cancelled()))?);
        }
        Ok(threads)
    }

    /// A place for one more connection.
    pub(super) fn seat(&self) -> Option<Seat> {
        let index = place(self.seats.iter().map(|seats| seats.taken.load(Relaxed)))?;
        let Seats { runtime, taken } = self.seats.get(index)?;
        taken.fetch_add(1, Relaxed);
        Some(Seat { runtime: runtime.clone(), is_elsewhere: index > 0, taken: Arc::clone(taken) })
    }
}

/// Where the next one goes: the first of those that have had the fewest groups.
fn place(taken: impl Iterator<Item = usize>) -> Option<usize> {
    taken.enumerate().min_by_key(|(_, taken)| taken / GROUP).map(|(index, _)| index)
}

impl Drop for Threads {
    /// What still runs on the other threads is dropped with their runtimes.
    fn drop(&mut self) {
        self.over.cancel();
        let current = std::thread::current().id();
        for thread in self.others.drain(..).filter(|thread| thread.thread().id() != current) {
            if thread.join().is_err() {
                error!("a thread of the master panicked");
            }
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken: Vec<_> = self.seats.iter().map(|seats| seats.taken.load(Relaxed)).collect();
        formatter.debug_struct("Threads").field("taken", &taken).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_few_connections_share_a_thread_and_many_are_spread() {
        let threads = Threads::start(NonZeroUsize::new(3).expect("three")).expect("threads");
        let taken = || threads.seats.iter().map(|seats| seats.taken.load(Relaxed)).collect::<Vec<_>>();
        let mut seats: Vec<_> = (0..GROUP).filter_map(|_| threads.seat()).collect();
        assert_eq!(taken(), [GROUP, 0, 0]);
        seats.extend((0..9 * GROUP).filter_map(|_| threads.seat()));
        assert_eq!(taken(), [4 * GROUP, 3 * GROUP, 3 * GROUP]);
        drop(seats);
        assert_eq!(taken(), [0, 0, 0]);
        assert!(threads.seat().is_some_and(|seat| !seat.is_elsewhere));
    }
}
