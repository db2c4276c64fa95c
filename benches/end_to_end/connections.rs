//! New connections with one echoed byte: sequential, concurrent, and sustained to detect leaks.

use std::{
    io::Read,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    load_generator::{AT_ONCE, LoadGenerator, connect, join, quantile, sleep_until},
    results::Values,
    services::ECHO,
    systems::{PROBE_INTERVAL, Role, System},
};

/// The time in which a process must close its descriptors after the last connection.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// The result of opening connections for a given time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sustained {
    pub seconds: f64,
    pub made: u64,
    pub failed: u64,
    /// The usage before, in the middle, and after the last connection.
    pub held: Vec<(Role, [ResourceUsage; 3])>,
}

/// The resources of a process.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct ResourceUsage {
    pub descriptors: usize,
    pub memory_mib: f64,
}

impl LoadGenerator {
    /// Measures the time from `connect` to the first echoed byte, for sequential connections.
    pub(crate) fn connect_one_by_one(&self, system: &System) -> anyhow::Result<Values> {
        let begun = Instant::now();
        let mut times = (0..self.options.connections)
            .map(|_| {
                let begun = Instant::now();
                // The drop, after the measured time, closes the connection.
                let _connection = connect_and_echo(system)?;
                Ok(begun.elapsed().as_secs_f64())
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        Ok(vec![
            ("connect_1_s", rate),
            ("connect_1_p50_us", quantile(&times, 0.5) * 1e6),
        ])
    }

    /// Measures the rate of concurrent connections per second.
    pub(crate) fn connect_at_once(&self, system: &System) -> anyhow::Result<Values> {
        let each = self.options.connections_at_once.div_ceil(AT_ONCE);
        let begun = Instant::now();
        thread::scope(|scope| {
            let one_after_another =
                || (0..each).try_for_each(|_| connect_and_echo(system).map(drop));
            let running: Vec<_> = (0..AT_ONCE)
                .map(|_| scope.spawn(one_after_another))
                .collect();
            running.into_iter().try_for_each(|running| join(running)?)
        })?;
        Ok(vec![(
            "connect_16_s",
            (each * AT_ONCE) as f64 / begun.elapsed().as_secs_f64(),
        )])
    }

    /// Opens concurrent connections for the configured time and counts failures.
    pub(crate) fn connect_sustained(&self, system: &System) -> anyhow::Result<Sustained> {
        let (made, failed, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let before = current_usage(system)?;
        let begun = Instant::now();
        let (middle, seconds) = thread::scope(|scope| {
            let one_after_another = || {
                while !stop.load(Relaxed) {
                    let count = if connect_and_echo(system).is_ok() {
                        &made
                    } else {
                        &failed
                    };
                    count.fetch_add(1, Relaxed);
                }
            };
            let running: Vec<_> = (0..AT_ONCE)
                .map(|_| scope.spawn(one_after_another))
                .collect();
            sleep_until(begun + self.options.sustained / 2);
            let middle = current_usage(system);
            sleep_until(begun + self.options.sustained);
            stop.store(true, Relaxed);
            running.into_iter().try_for_each(join)?;
            anyhow::Ok((middle?, begun.elapsed().as_secs_f64()))
        })?;
        let after = settled_usage(system, &before)?;
        let held = system
            .processes
            .iter()
            .zip(before.iter().zip(middle.iter().zip(&after)));
        let held = held
            .map(|(&(role, _), (before, (middle, after)))| (role, [*before, *middle, *after]))
            .collect();
        Ok(Sustained {
            seconds,
            made: made.into_inner(),
            failed: failed.into_inner(),
            held,
        })
    }
}

impl Sustained {
    /// Returns the growth of descriptors of all processes.
    pub(crate) fn more_descriptors(&self) -> f64 {
        self.held
            .iter()
            .map(|(_, [before, _, after])| after.descriptors as f64 - before.descriptors as f64)
            .sum()
    }

    /// Returns the memory growth of all processes in the second half, in MiB.
    ///
    /// Caches reach their size in the first half.
    pub(crate) fn later_memory_mib(&self) -> f64 {
        self.held
            .iter()
            .map(|(_, [_, middle, after])| (after.memory_mib - middle.memory_mib).max(0.0))
            .sum()
    }
}

fn connect_and_echo(system: &System) -> anyhow::Result<impl Sized> {
    let mut connection = connect(system, &[ECHO, 1])?;
    connection
        .read_exact(&mut [0])
        .context("no answer on a new connection")?;
    Ok(connection)
}

fn current_usage(system: &System) -> anyhow::Result<Vec<ResourceUsage>> {
    let of = |process: crate::process::Process| {
        Ok(ResourceUsage {
            descriptors: process.descriptors()?,
            memory_mib: process.present_memory_mib()?,
        })
    };
    system
        .processes
        .iter()
        .map(|&(_, process)| of(process))
        .collect()
}

/// Returns the usage once no process has more descriptors than before, or after a timeout.
fn settled_usage(system: &System, before: &[ResourceUsage]) -> anyhow::Result<Vec<ResourceUsage>> {
    let begun = Instant::now();
    loop {
        let now = current_usage(system)?;
        let is_settled = now
            .iter()
            .zip(before)
            .all(|(now, before)| now.descriptors <= before.descriptors);
        if is_settled || begun.elapsed() > SETTLED_WITHIN {
            return Ok(now);
        }
        thread::park_timeout(PROBE_INTERVAL);
    }
}
