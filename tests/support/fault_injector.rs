//! Repeated faults on a schedule that a seed determines.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::proxy::{Cut, Proxy};

/// A running schedule. It ends on drop.
pub(crate) struct FaultInjector {
    stopping: Arc<(Mutex<bool>, Condvar)>,
    cuts: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl FaultInjector {
    /// Cuts one of the paths about every `period` (up to a quarter more or less, by the seed). The
    /// paths alternate, and each is cut by a reset and by an end of file alternately.
    pub(crate) fn cutting(paths: &[Arc<Proxy>], period: Duration, seed: u64) -> FaultInjector {
        let paths = paths.to_vec();
        FaultInjector::every(period, seed, move |number| {
            let number = number as usize;
            let cut = [Cut::Reset, Cut::EndOfFile][number / paths.len() % 2];
            paths[number % paths.len()].cut(cut);
        })
    }

    /// Calls `inject` about every `period` with the number of previous calls.
    pub(crate) fn every(
        period: Duration,
        seed: u64,
        mut inject: impl FnMut(u64) + Send + 'static,
    ) -> FaultInjector {
        let stopping = Arc::new((Mutex::new(false), Condvar::new()));
        let cuts = Arc::new(AtomicU64::new(0));
        let (stop, count) = (stopping.clone(), cuts.clone());
        let thread = thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            while wait(&stop, period.mul_f64(0.75 + random.f64() / 2.0)) {
                inject(count.load(Ordering::Relaxed));
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        FaultInjector {
            stopping,
            cuts,
            thread: Some(thread),
        }
    }

    /// The number of faults so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for FaultInjector {
    fn drop(&mut self) {
        *self
            .stopping
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.stopping.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for this time. Returns false when the schedule must stop.
fn wait((stopping, changed): &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let end = Instant::now() + time;
    let mut stop = stopping.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stop {
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return true;
        }
        stop = changed
            .wait_timeout(stop, rest)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
    false
}
