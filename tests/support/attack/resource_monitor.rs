//! A monitor of the resources that an attack costs a role: memory, descriptors and log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::support::{daemon::Daemon, files, memory, wait};

/// Monitors the resources of a role until it is dropped.
pub(crate) struct ResourceMonitor {
    before: u64,
    log_before: usize,
    peak: Arc<ResourcePeaks>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ResourcePeaks {
    memory: AtomicU64,
    files: AtomicUsize,
    is_over: AtomicBool,
}

/// The cost of an attack for a role.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttackCost {
    /// The peak of the resident memory, in bytes above the start.
    pub memory: u64,
    /// The peak of open descriptors.
    pub files: usize,
    /// Bytes added to the log.
    pub log: usize,
}

impl ResourceMonitor {
    /// Starts with the current resources of the role as the baseline.
    pub(crate) fn start(role: &Daemon) -> ResourceMonitor {
        let (pid, peak) = (role.pid(), Arc::new(ResourcePeaks::default()));
        let seen = Arc::clone(&peak);
        let sample = move || {
            seen.memory.fetch_max(memory::resident_bytes(pid), Relaxed);
            seen.files.fetch_max(files::open_files(pid), Relaxed);
        };
        sample();
        let (before, over) = (peak.memory.load(Relaxed), Arc::clone(&peak));
        let thread = thread::spawn(move || {
            while !over.is_over.load(Relaxed) {
                sample();
                wait::pause(Duration::from_millis(100));
            }
        });
        ResourceMonitor {
            before,
            log_before: role.log().len(),
            peak,
            thread: Some(thread),
        }
    }

    /// The cost until now.
    pub(crate) fn cost(&self, role: &Daemon) -> AttackCost {
        let cost = AttackCost {
            memory: self
                .peak
                .memory
                .load(Relaxed)
                .max(memory::resident_bytes(role.pid()))
                .saturating_sub(self.before),
            files: self
                .peak
                .files
                .load(Relaxed)
                .max(files::open_files(role.pid())),
            log: role.log().len() - self.log_before,
        };
        println!("{cost:?}");
        cost
    }
}

impl Drop for ResourceMonitor {
    fn drop(&mut self) {
        self.peak.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
