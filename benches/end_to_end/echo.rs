//! Round trips on an established connection: alone, and during a bulk copy.

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Instant,
};

use anyhow::{Context, bail, ensure};

use crate::{
    load_generator::{LoadGenerator, connect, download_request, join, quantile},
    results::Values,
    services::{ECHO, PIECE},
    systems::{PROBE_INTERVAL, System},
};

/// The bytes of an echo: a keystroke and its frame.
const ECHO_BYTES: usize = 64;

/// The bytes that a bulk copy moves before the echoes start, so that its windows have grown.
const BULK_UNDER_WAY: u64 = 32 << 20;

impl LoadGenerator {
    /// Measures echoes without other traffic.
    pub(crate) fn echo(&self, system: &System) -> anyhow::Result<Values> {
        let times = self.echoes(system, self.options.echoes)?;
        Ok(vec![
            ("echo_p50_us", quantile(&times, 0.5) * 1e6),
            ("echo_p99_us", quantile(&times, 0.99) * 1e6),
        ])
    }

    /// Returns the sorted round-trip times on a new connection, in seconds.
    pub(crate) fn echoes(&self, system: &System, count: usize) -> anyhow::Result<Vec<f64>> {
        let mut connection = connect(system, &[ECHO])?;
        let mut times = Vec::with_capacity(count);
        let mut received = [0; ECHO_BYTES];
        for sent in self.blocks[0].chunks_exact(ECHO_BYTES).cycle().take(count) {
            let begun = Instant::now();
            connection.write_all(sent)?;
            connection.read_exact(&mut received)?;
            times.push(begun.elapsed().as_secs_f64());
            ensure!(sent == received, "the echo differs from the sent bytes");
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    /// Measures echoes while the same system carries a bulk copy from the service.
    pub(crate) fn echo_beside_bulk(&self, system: &System) -> anyhow::Result<Values> {
        let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let bulk = scope.spawn(|| {
                let result = bulk_until(system, &stop, &moved);
                stop.store(true, Relaxed);
                result
            });
            while moved.load(Relaxed) < BULK_UNDER_WAY && !stop.load(Relaxed) {
                thread::park_timeout(PROBE_INTERVAL);
            }
            let (begun, before) = (Instant::now(), moved.load(Relaxed));
            let times = self.echoes(system, self.options.echoes_beside);
            let rate = (moved.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64() / 1e6;
            stop.store(true, Relaxed);
            join(bulk)?.context("the bulk copy")?;
            let times = times?;
            Ok(vec![
                ("beside_p50_ms", quantile(&times, 0.5) * 1e3),
                ("beside_p99_ms", quantile(&times, 0.99) * 1e3),
                ("beside_bulk_mb_s", rate),
            ])
        })
    }
}

fn bulk_until(system: &System, stop: &AtomicBool, moved: &AtomicU64) -> anyhow::Result<()> {
    let mut connection = connect(system, &download_request(system, u64::MAX))?;
    let mut buffer = vec![0; PIECE];
    while !stop.load(Relaxed) {
        match connection.read(&mut buffer)? {
            0 => bail!("unexpected end of stream"),
            length => moved.fetch_add(length as u64, Relaxed),
        };
    }
    Ok(())
}
