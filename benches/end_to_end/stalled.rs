//! Copies, and echoes of a new connection, beside connections of the same tunnel that nobody reads, at either end: what these hold costs nobody
//! else his share.

use std::{
    io::{self, ErrorKind, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    load::{Load, connect, give, quantile, wait_till},
    results::Values,
    services::PIECE,
    systems::System,
};

/// Connections that nobody reads.
pub const STALLED: usize = 20;

/// What the service has to send on each of them, in bytes: more than anything on the way holds.
const UNREAD: u64 = 1 << 30;

/// A copy is that long, in bytes, or as long as a transfer where that is less.
const COPY: u64 = 64 << 20;

/// How often a round copies alone and beside the others, in turns.
const TURNS: usize = 3;

/// They hold their senders up when nothing has moved for so long; and how long that may take.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_WITHIN: Duration = Duration::from_secs(20);

/// More than a socket holds that is not read.
const PEEKED: usize = 4 << 20;

impl Load {
    /// The rates of copies alone and beside stalled connections, in turns, and echoes beside these.
    pub fn beside_stalled(&self, system: &System) -> anyhow::Result<Values> {
        let bytes = self.options.transfer_bytes.min(COPY);
        let copies = || -> anyhow::Result<[f64; 2]> {
            Ok([
                timed(|| self.down(system, bytes))?,
                timed(|| self.up(system, bytes))?,
            ])
        };
        let (mut alone, mut beside, mut echoes) = ([0.0; 2], [0.0; 2], Vec::new());
        for _ in 0..TURNS {
            // What was before has ended when something that comes after it has come, and both copies begin after a quiet time.
            self.echoes(system, 1)?;
            wait_till(Instant::now() + QUIET);
            alone = sums(alone, copies()?);
            let stalled = self.stalled(system)?;
            beside = sums(beside, copies()?);
            echoes.extend(self.echoes(system, self.options.echoes / TURNS)?);
            drop(stalled);
        }
        echoes.sort_by(f64::total_cmp);
        let rate = |seconds: f64| (bytes * TURNS as u64) as f64 / seconds / 1e6;
        Ok(vec![
            ("stalled_down_alone_mb_s", rate(alone[0])),
            ("stalled_down_mb_s", rate(beside[0])),
            ("stalled_up_alone_mb_s", rate(alone[1])),
            ("stalled_up_mb_s", rate(beside[1])),
            ("stalled_echo_p50_us", quantile(&echoes, 0.5) * 1e6),
            ("stalled_echo_p99_us", quantile(&echoes, 0.99) * 1e6),
        ])
    }

    /// Connections on which the service sends without end and reads nothing, and neither does anybody here, when they hold both up. What
    /// fills the buffers until then is traffic like any other.
    fn stalled(&self, system: &System) -> anyhow::Result<Vec<TcpStream>> {
        let begun = Instant::now();
        let mut connections = Vec::with_capacity(STALLED);
        for _ in 0..STALLED {
            let connection = connect(system, &give(system, UNREAD))?;
            connection.set_nonblocking(true)?;
            connections.push((connection, Moved::default()));
        }
        let (mut buffer, mut quiet_since) = (vec![0; PEEKED], Instant::now());
        while quiet_since.elapsed() < QUIET {
            if begun.elapsed() > QUIET_WITHIN {
                bail!("connections that nobody reads still move after {QUIET_WITHIN:?}");
            }
            thread::park_timeout(QUIET / 10);
            for (connection, moved) in &mut connections {
                let now = Moved {
                    sent: moved.sent + taken(connection.write(&self.block(system)[..PIECE]))?,
                    unread: taken(connection.peek(&mut buffer))?,
                };
                if now != *moved || now.unread == 0 {
                    (*moved, quiet_since) = (now, Instant::now());
                }
            }
        }
        Ok(connections
            .into_iter()
            .map(|(connection, _)| connection)
            .collect())
    }
}

/// What a connection has taken, and what waits in it, in bytes.
#[derive(Default, PartialEq)]
struct Moved {
    sent: usize,
    unread: usize,
}

/// Bytes that a socket took or has: none where it would have to be waited for.
fn taken(result: io::Result<usize>) -> anyhow::Result<usize> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result.context("a connection that is to stall"),
    }
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

fn sums(one: [f64; 2], other: [f64; 2]) -> [f64; 2] {
    [one[0] + other[0], one[1] + other[1]]
}
