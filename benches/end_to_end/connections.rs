//! New connections, each with a byte that comes back: one after the other, several at once, and for so long that a leak shows.

use std::{
    io::Read,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    load::{AT_ONCE, Load, connect, joined, quantile, wait_till},
    results::Values,
    services::ECHO,
    systems::{PROBE_INTERVAL, Role, System},
};

/// How long after the last connection a process may still have some of its descriptors.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// What came of making connections for a while.
#[derive(Debug, Clone, Serialize)]
pub struct Sustained {
    pub seconds: f64,
    pub made: u64,
    pub failed: u64,
    /// Before, in the middle, and when the last connection is gone.
    pub held: Vec<(Role, [Held; 3])>,
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Held {
    pub descriptors: usize,
    pub memory_mib: f64,
}

impl Load {
    /// Times to the first echoed byte, from the call that connects.
    pub fn connect_one_by_one(&self, system: &System) -> anyhow::Result<Values> {
        let begun = Instant::now();
        let mut times = (0..self.options.connections)
            .map(|_| {
                let begun = Instant::now();
                // Closed before the next one, and not within the time.
                let _connection = answered(system)?;
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

    /// Connections a second.
    pub fn connect_at_once(&self, system: &System) -> anyhow::Result<Values> {
        let each = self.options.connections_at_once.div_ceil(AT_ONCE);
        let begun = Instant::now();
        thread::scope(|scope| {
            let one_after_another = || (0..each).try_for_each(|_| answered(system).map(drop));
            let running: Vec<_> = (0..AT_ONCE)
                .map(|_| scope.spawn(one_after_another))
                .collect();
            running.into_iter().try_for_each(|running| joined(running)?)
        })?;
        Ok(vec![(
            "connect_16_s",
            (each * AT_ONCE) as f64 / begun.elapsed().as_secs_f64(),
        )])
    }

    /// The same for a given time; a connection that fails is counted.
    pub fn connect_sustained(&self, system: &System) -> anyhow::Result<Sustained> {
        let (made, failed, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let before = held(system)?;
        let begun = Instant::now();
        let (middle, seconds) = thread::scope(|scope| {
            let one_after_another = || {
                while !stop.load(Relaxed) {
                    let count = if answered(system).is_ok() {
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
            wait_till(begun + self.options.sustained / 2);
            let middle = held(system);
            wait_till(begun + self.options.sustained);
            stop.store(true, Relaxed);
            running.into_iter().try_for_each(joined)?;
            anyhow::Ok((middle?, begun.elapsed().as_secs_f64()))
        })?;
        let after = held_when_settled(system, &before)?;
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
    /// Descriptors more than before, of all processes.
    pub fn more_descriptors(&self) -> f64 {
        self.held
            .iter()
            .map(|(_, [before, _, after])| after.descriptors as f64 - before.descriptors as f64)
            .sum()
    }

    /// Memory that was gained in the second half, in MiB, of all processes: what is kept for later has been taken in the first.
    pub fn later_memory_mib(&self) -> f64 {
        self.held
            .iter()
            .map(|(_, [_, middle, after])| (after.memory_mib - middle.memory_mib).max(0.0))
            .sum()
    }
}

fn answered(system: &System) -> anyhow::Result<impl Sized> {
    let mut connection = connect(system, &[ECHO, 1])?;
    connection
        .read_exact(&mut [0])
        .context("a new connection that does not answer")?;
    Ok(connection)
}

fn held(system: &System) -> anyhow::Result<Vec<Held>> {
    let of = |process: crate::process::Process| {
        Ok(Held {
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

/// What is held once no process has more descriptors than before, or the time for that is over.
fn held_when_settled(system: &System, before: &[Held]) -> anyhow::Result<Vec<Held>> {
    let begun = Instant::now();
    loop {
        let now = held(system)?;
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
