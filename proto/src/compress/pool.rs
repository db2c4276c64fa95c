//! The contexts that are too large to exist per stream.
//!
//! Streams borrow a workspace for one chunk. The contexts of running frames come out of a budget.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    s2,
    zstd::{self, ContextBudget, ContextPermit},
};

/// The maximum number of idle workspaces. More threads hardly ever compress at the same time.
const MAX_IDLE_WORKSPACES: usize = 16;

/// The limits on concurrent running zstd frames of a tunnel, per direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Frames to send, about 1 MiB each: the smaller of the local limit and the peer's
    /// `zstd_contexts`.
    pub running_encoders: usize,
    /// Frames to receive, about 0.6 MiB each: the local `zstd_contexts`.
    ///
    /// If the peer starts more, its stream fails.
    pub running_decoders: usize,
}

impl Default for PoolLimits {
    /// Eight each, about 13 MiB in total.
    ///
    /// More than eight streams seldom move much data at the same time. The others lose only about a
    /// tenth of the compression ratio.
    fn default() -> Self {
        PoolLimits {
            running_encoders: 8,
            running_decoders: 8,
        }
    }
}

/// The contexts of one tunnel's streams. Pools of several tunnels may share workspaces.
pub struct Pool {
    workspaces: Arc<Mutex<Vec<Workspace>>>,
    running_encoders: ContextBudget,
    running_decoders: ContextBudget,
}

impl Default for Pool {
    /// Creates a pool with the default limits.
    fn default() -> Self {
        Pool::new(PoolLimits::default())
    }
}

impl Pool {
    /// Creates a pool with separate workspaces.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Pool {
            workspaces: Arc::default(),
            running_encoders: ContextBudget::new(limits.running_encoders),
            running_decoders: ContextBudget::new(limits.running_decoders),
        }
    }

    /// Creates a pool for another tunnel, with separate budgets and the same workspaces.
    #[must_use]
    pub fn with_shared_workspaces(&self, limits: PoolLimits) -> Self {
        Pool {
            workspaces: Arc::clone(&self.workspaces),
            ..Pool::new(limits)
        }
    }

    /// Runs `work` with a borrowed workspace.
    pub(super) fn with_workspace<T>(&self, work: impl FnOnce(&mut Workspace) -> T) -> T {
        let mut workspace = self
            .workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default();
        let result = work(&mut workspace);
        let mut workspaces = self
            .workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if workspaces.len() < MAX_IDLE_WORKSPACES {
            workspaces.push(workspace);
        }
        result
    }

    pub(super) fn running_encoder(&self) -> Option<ContextPermit> {
        self.running_encoders.take()
    }

    pub(super) fn running_decoder(&self) -> Option<ContextPermit> {
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

/// The contexts for one chunk at a time. Each is created on first use.
#[derive(Default)]
pub(super) struct Workspace {
    pub(super) s2: s2::S2Encoder,
    pub(super) zstd_encoder: zstd::ZstdEncoder,
    pub(super) zstd_decoder: zstd::ZstdDecoder,
    pub(super) scratch: Scratch,
}

/// A buffer for the longest body that any method writes.
#[derive(Default)]
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; s2::max_body_length().max(zstd::max_body_length())];
        }
        &mut self.0
    }

    pub(super) fn body(&self, length: usize) -> Option<&[u8]> {
        self.0.get(..length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_limits_and_reclaims_permits() {
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
    fn workspaces_are_reused_and_shared_between_tunnels() {
        let pool = Pool::new(PoolLimits::default());
        let other = pool.with_shared_workspaces(PoolLimits {
            running_encoders: 0,
            running_decoders: 0,
        });
        pool.with_workspace(|workspace| workspace.scratch.room()[0] = 7);
        other.with_workspace(|workspace| assert_eq!(workspace.scratch.body(1), Some(&[7][..])));
        assert!(other.running_encoder().is_none() && pool.running_encoder().is_some());
    }

    #[test]
    fn pool_keeps_bounded_number_of_workspaces() {
        fn nest(pool: &Pool, depth: usize) {
            if depth > 0 {
                pool.with_workspace(|_| nest(pool, depth - 1));
            }
        }
        let pool = Pool::new(PoolLimits::default());
        nest(&pool, MAX_IDLE_WORKSPACES + 5);
        assert_eq!(pool.workspaces.lock().unwrap().len(), MAX_IDLE_WORKSPACES);
    }
}
