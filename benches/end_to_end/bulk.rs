//! Bulk: how fast, at what cost, how fairly, and whether what arrives is what was sent.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::{
    load::{Load, MANY, connect, give, joined, request},
    results::Values,
    services::{BLOCK, COUNT, ECHO, PIECE, TAKE},
    systems::System,
};

/// How much longer than it is counted everybody sends where fairness is measured: all still run when the last one is counted.
const FAIRNESS_MARGIN: Duration = Duration::from_millis(300);

impl Load {
    /// Whether bytes come back through the system as they were sent.
    pub fn verify(&self, system: &System) -> anyhow::Result<()> {
        let sent = self.block(system);
        let mut reader = connect(system, &[ECHO])?;
        let mut writer = reader.try_clone()?;
        thread::scope(|scope| {
            let writing = scope.spawn(move || writer.write_all(sent));
            let mut received = vec![0; BLOCK];
            reader.read_exact(&mut received)?;
            joined(writing)??;
            let differs = sent
                .iter()
                .zip(&received)
                .position(|(sent, received)| sent != received);
            ensure!(
                differs.is_none(),
                "byte {} is another",
                differs.unwrap_or_default()
            );
            Ok(())
        })
    }

    /// Megabytes (10^6) a second over `connections`, and the CPU time and context switches of the system's processes.
    pub fn transfer(
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
            running.into_iter().try_for_each(|running| joined(running)?)
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
            // A thread that ends takes its count along.
            (
                switch_cost,
                switches.max(0.0) / (bytes / f64::from(1 << 20)),
            ),
        ])
    }

    /// Sends `bytes` until the service says that it has them.
    pub fn up(&self, system: &System, bytes: u64) -> anyhow::Result<()> {
        let mut connection = connect(system, &request(TAKE, bytes))?;
        let mut left = bytes;
        for piece in self.block(system).chunks(PIECE).cycle() {
            if left == 0 {
                break;
            }
            let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            connection
                .write_all(&piece[..length])
                .with_context(|| format!("{left} of {bytes} bytes are not sent"))?;
            left -= length as u64;
        }
        connection
            .read_exact(&mut [0])
            .context("the service does not say that it has everything")
    }

    /// Receives `bytes`, and the end after them.
    pub fn down(&self, system: &System, bytes: u64) -> anyhow::Result<()> {
        let mut connection = connect(system, &give(system, bytes))?;
        let mut buffer = vec![0; PIECE];
        let mut left = bytes;
        loop {
            match connection
                .read(&mut buffer)
                .with_context(|| format!("{left} of {bytes} bytes did not come"))?
            {
                0 if left == 0 => return Ok(()),
                0 => bail!("an end of file, where {left} of {bytes} bytes are missing"),
                length => {
                    left = left
                        .checked_sub(length as u64)
                        .context("more than was asked for")?
                }
            }
        }
    }

    /// Of connections that all send for a while: what arrived of the least served for each byte of the most served.
    pub fn fairness_up(&self, system: &System) -> anyhow::Result<f64> {
        let counted = self.options.fairness_time;
        let milliseconds = u64::try_from(counted.as_millis()).context("a shorter time")?;
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
                .context("the service does not say how much came")?;
            Ok(u64::from_be_bytes(answer))
        };
        least_of_most(connections, send)
    }

    /// The same of connections that all receive.
    pub fn fairness_down(&self, system: &System) -> anyhow::Result<f64> {
        let counted = self.options.fairness_time;
        let together = Barrier::new(MANY);
        let connections = connections(system, &give(system, u64::MAX))?;
        let receive = |mut connection: TcpStream| -> anyhow::Result<u64> {
            let mut buffer = vec![0; PIECE];
            together.wait();
            let (mut received, begun) = (0, Instant::now());
            while begun.elapsed() < counted + FAIRNESS_MARGIN {
                let length = connection.read(&mut buffer)?;
                ensure!(length > 0, "an end of file in the middle");
                if begun.elapsed() <= counted {
                    received += length as u64;
                }
            }
            Ok(received)
        };
        least_of_most(connections, receive)
    }
}

/// As many as are measured together, before any of them moves much.
fn connections(system: &System, first: &[u8]) -> anyhow::Result<Vec<TcpStream>> {
    (0..MANY).map(|_| Ok(connect(system, first)?)).collect()
}

/// Each in a thread of its own, all at the same time.
fn least_of_most(
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
            .map(|running| joined(running)?)
            .collect::<anyhow::Result<Vec<u64>>>()
    })?;
    let (least, most) = moved
        .iter()
        .min()
        .zip(moved.iter().max())
        .context("no connection")?;
    // A busy machine may move nothing in a short time, which is not fair.
    Ok(*least as f64 / (*most).max(1) as f64)
}
