//! What is too large to have for each stream: work spaces, borrowed for one chunk, and the budgets of running contexts.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{s2, zstd};

/// Work spaces that are kept for later: as many as threads will hardly compress at the same time.
const KEPT_BENCHES: usize = 16;

/// How many running zstd frames a tunnel may have at a time, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Frames that we send: the smaller of what we are willing to pay for (about 1 MiB each) and the peer's `zstd_contexts`.
    pub running_encoders: usize,
    /// Frames that we receive: our own `zstd_contexts` (about 0.6 MiB each); a peer that begins more is cut off.
    pub running_decoders: usize,
}

impl Default for PoolLimits {
    /// Eight each, some 13 MiB in all: more streams than that seldom move much at a time, and the others lose only about a tenth.
    fn default() -> Self {
        PoolLimits {
            running_encoders: 8,
            running_decoders: 8,
        }
    }
}

/// The contexts of the streams of one tunnel. Work spaces may be shared with the pools of other tunnels.
pub struct Pool {
    benches: Arc<Mutex<Vec<Bench>>>,
    running_encoders: Budget,
    running_decoders: Budget,
}

impl Default for Pool {
    /// A pool with the default limits.
    fn default() -> Self {
        Pool::new(PoolLimits::default())
    }
}

impl Pool {
    /// A pool with its own work spaces.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Pool {
            benches: Arc::default(),
            running_encoders: Budget::new(limits.running_encoders),
            running_decoders: Budget::new(limits.running_decoders),
        }
    }

    /// A pool for another tunnel: budgets of its own, the same work spaces.
    #[must_use]
    pub fn for_another_tunnel(&self, limits: PoolLimits) -> Self {
        Pool {
            benches: Arc::clone(&self.benches),
            ..Pool::new(limits)
        }
    }

    /// Lends a work space for one chunk.
    pub(super) fn with_bench<T>(&self, work: impl FnOnce(&mut Bench) -> T) -> T {
        let mut bench = self
            .benches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default();
        let result = work(&mut bench);
        let mut benches = self.benches.lock().unwrap_or_else(PoisonError::into_inner);
        if benches.len() < KEPT_BENCHES {
            benches.push(bench);
        }
        result
    }

    pub(super) fn running_encoder(&self) -> Option<Permit> {
        self.running_encoders.take()
    }

    pub(super) fn running_decoder(&self) -> Option<Permit> {
        self.running_decoders.take()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pool")
            .field("running_encoders_left", &self.running_encoders.left())
            .field("running_decoders_left", &self.running_decoders.left())
            .finish_non_exhaustive()
    }
}

/// A work space: the contexts for one chunk at a time, each made when it is first needed.
#[derive(Default)]
pub(super) struct Bench {
    pub(super) s2: s2::Encoder,
    pub(super) zstd_encoder: zstd::Encoder,
    pub(super) zstd_decoder: zstd::Decoder,
    pub(super) scratch: Scratch,
}

/// Room for the longest body that any method writes before it is looked at.
#[derive(Default)]
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; s2::longest_body().max(zstd::longest_body())];
        }
        &mut self.0
    }

    pub(super) fn body(&self, length: usize) -> Option<&[u8]> {
        self.0.get(..length)
    }
}

/// A number of things that may be held at a time.
struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn new(limit: usize) -> Self {
        Budget(Arc::new(AtomicUsize::new(limit)))
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<Permit> {
        // Relaxed: the count guards nothing but itself.
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        taken.is_ok().then(|| Permit(Arc::clone(&self.0)))
    }
}

/// One place of a budget, given back when it is dropped.
pub(super) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has_and_takes_it_back() {
        let pool = Pool::new(PoolLimits {
            running_encoders: 2,
            running_decoders: 0,
        });
        let first = pool.running_encoder();
        let second = pool.running_encoder();
        assert!(first.is_some() && second.is_some() && pool.running_encoder().is_none());
        drop(first);
        assert!(pool.running_encoder().is_some());
        assert!(pool.running_decoder().is_none());
    }

    #[test]
    fn a_work_space_comes_back_and_is_shared_between_tunnels() {
        let pool = Pool::new(PoolLimits::default());
        let other = pool.for_another_tunnel(PoolLimits {
            running_encoders: 0,
            running_decoders: 0,
        });
        pool.with_bench(|bench| bench.scratch.room()[0] = 7);
        other.with_bench(|bench| assert_eq!(bench.scratch.body(1), Some(&[7][..])));
        assert!(other.running_encoder().is_none() && pool.running_encoder().is_some());
    }

    #[test]
    fn no_more_work_spaces_are_kept_than_are_useful() {
        fn nest(pool: &Pool, depth: usize) {
            if depth > 0 {
                pool.with_bench(|_| nest(pool, depth - 1));
            }
        }
        let pool = Pool::new(PoolLimits::default());
        nest(&pool, KEPT_BENCHES + 5);
        assert_eq!(pool.benches.lock().unwrap().len(), KEPT_BENCHES);
    }
}
