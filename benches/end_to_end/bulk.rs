//! Bulk transfers: throughput, cost, fairness and integrity.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::{
    load_generator::{LoadGenerator, MANY, connect, download_request, join, request},
    results::Values,
    services::{BLOCK, COUNT, ECHO, PIECE, UPLOAD},
    systems::System,
};

/// The time that all connections keep sending after the fairness measurement ends.
///
/// It ensures that every connection is still active while the last one is counted.
const FAIRNESS_MARGIN: Duration = Duration::from_millis(300);

impl LoadGenerator {
    /// Verifies that bytes return through the system unchanged.
    pub(crate) fn verify(&self, system: &System) -> anyhow::Result<()> {
        let sent = self.block(system);
        let mut reader = connect(system, &[ECHO])?;
        let mut writer = reader.try_clone()?;
        thread::scope(|scope| {
            let writing = scope.spawn(move || writer.write_all(sent));
            let mut received = vec![0; BLOCK];
            reader.read_exact(&mut received)?;
            join(writing)??;
            let differs = sent
                .iter()
                .zip(&received)
                .position(|(sent, received)| sent != received);
            ensure!(
                differs.is_none(),
                "byte {} differs",
                differs.unwrap_or_default()
            );
            Ok(())
        })
    }

    /// Measures the rate in MB/s (10^6) over `connections`, and the processes' CPU time and context
    /// switches.
    pub(crate) fn transfer(
        &self,
        system: &System,
        connections: usize,
        one: fn(&Self, &System, u64) -> anyhow::Result<()>,
        [rate, cpu_cost, switch_cost]: [&'static str; 3],
    ) -> anyhow::Result<Values> {
        let share = self.options.transfer_bytes / connections as u64;
        let (cpu, switches) = (system.cpu_seconds()?, system.context_switches()?);
        let begun = Instant::now();
        thread::scope(|scope| {
            let running: Vec<_> = (0..connections)
                .map(|_| scope.spawn(|| one(self, system, share)))
                .collect();
            running.into_iter().try_for_each(|running| join(running)?)
        })?;
        let elapsed = begun.elapsed().as_secs_f64();
        let bytes = (share * connections as u64) as f64;
        let (cpu, switches) = (
            system.cpu_seconds()? - cpu,
            system.context_switches()? - switches,
        );
        Ok(vec![
            (rate, bytes / elapsed / 1e6),
            (cpu_cost, cpu / (bytes / f64::from(1 << 30))),
            // The counters of a thread that ends are lost, so the difference may be negative.
            (
                switch_cost,
                switches.max(0.0) / (bytes / f64::from(1 << 20)),
            ),
        ])
    }

    /// Sends `bytes` and waits until the service acknowledges them.
    pub(crate) fn up(&self, system: &System, bytes: u64) -> anyhow::Result<()> {
        let mut connection = connect(system, &request(UPLOAD, bytes))?;
        let mut left = bytes;
        for piece in self.block(system).chunks(PIECE).cycle() {
            if left == 0 {
                break;
            }
            let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            connection
                .write_all(&piece[..length])
                .with_context(|| format!("sending failed with {left} of {bytes} bytes left"))?;
            left -= length as u64;
        }
        connection
            .read_exact(&mut [0])
            .context("no acknowledgement from the service")
    }

    /// Receives `bytes` and the end of the stream.
    pub(crate) fn down(&self, system: &System, bytes: u64) -> anyhow::Result<()> {
        let mut connection = connect(system, &download_request(system, bytes))?;
        let mut buffer = vec![0; PIECE];
        let mut left = bytes;
        loop {
            match connection
                .read(&mut buffer)
                .with_context(|| format!("receiving failed with {left} of {bytes} bytes left"))?
            {
                0 if left == 0 => return Ok(()),
                0 => bail!("end of stream with {left} of {bytes} bytes missing"),
                length => {
                    left = left
                        .checked_sub(length as u64)
                        .context("more bytes than requested")?
                }
            }
        }
    }

    /// Measures the fairness between connections that all send: the ratio of the smallest to the
    /// largest amount received.
    pub(crate) fn fairness_up(&self, system: &System) -> anyhow::Result<f64> {
        let counted = self.options.fairness_time;
        let milliseconds =
            u64::try_from(counted.as_millis()).context("the fairness time is too long")?;
        let together = Barrier::new(MANY);
        let connections = connections(system, &request(COUNT, milliseconds))?;
        let send = |mut connection: TcpStream| -> anyhow::Result<u64> {
            together.wait();
            let begun = Instant::now();
            for piece in self.block(system).chunks(PIECE).cycle() {
                if begun.elapsed() > counted + FAIRNESS_MARGIN {
                    break;
                }
                connection.write_all(piece)?;
            }
            let mut answer = [0; 8];
            connection
                .read_exact(&mut answer)
                .context("no count from the service")?;
            Ok(u64::from_be_bytes(answer))
        };
        min_to_max_ratio(connections, send)
    }

    /// Measures the same ratio for connections that all receive.
    pub(crate) fn fairness_down(&self, system: &System) -> anyhow::Result<f64> {
        let counted = self.options.fairness_time;
        let together = Barrier::new(MANY);
        let connections = connections(system, &download_request(system, u64::MAX))?;
        let receive = |mut connection: TcpStream| -> anyhow::Result<u64> {
            let mut buffer = vec![0; PIECE];
            together.wait();
            let (mut received, begun) = (0, Instant::now());
            while begun.elapsed() < counted + FAIRNESS_MARGIN {
                let length = connection.read(&mut buffer)?;
                ensure!(length > 0, "unexpected end of stream");
                if begun.elapsed() <= counted {
                    received += length as u64;
                }
            }
            Ok(received)
        };
        min_to_max_ratio(connections, receive)
    }
}

/// Opens the connections for a fairness measurement before any of them moves much data.
fn connections(system: &System, first: &[u8]) -> anyhow::Result<Vec<TcpStream>> {
    (0..MANY).map(|_| Ok(connect(system, first)?)).collect()
}

/// Runs all connections concurrently, each in its own thread, and returns the ratio.
fn min_to_max_ratio(
    connections: Vec<TcpStream>,
    move_bytes: impl Fn(TcpStream) -> anyhow::Result<u64> + Sync,
) -> anyhow::Result<f64> {
    let moved = thread::scope(|scope| {
        let move_bytes = &move_bytes;
        let running: Vec<_> = connections
            .into_iter()
            .map(|connection| scope.spawn(move || move_bytes(connection)))
            .collect();
        running
            .into_iter()
            .map(|running| join(running)?)
            .collect::<anyhow::Result<Vec<u64>>>()
    })?;
    let (least, most) = moved
        .iter()
        .min()
        .zip(moved.iter().max())
        .context("no connection")?;
    // Avoid a division by zero: a busy machine may move nothing in a short time.
    Ok(*least as f64 / (*most).max(1) as f64)
}
