//! Copies and echoes beside stalled connections of the same tunnel, which neither end reads.
//!
//! The buffers of stalled connections must not reduce the share of the others.

use std::{
    io::{self, ErrorKind, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    load_generator::{LoadGenerator, connect, download_request, quantile, sleep_until},
    results::Values,
    services::PIECE,
    systems::System,
};

/// The number of stalled connections.
pub(crate) const STALLED: usize = 20;

/// The bytes that the service tries to send on each of them: more than the path can buffer.
const UNREAD: u64 = 1 << 30;

/// The maximum length of a copy in bytes. Shorter transfers use their own length.
const COPY: u64 = 64 << 20;

/// The number of alternations between copies alone and copies beside stalled connections.
const TURNS: usize = 3;

/// The time without progress after which the connections count as stalled.
const QUIET: Duration = Duration::from_millis(100);
/// The deadline for the connections to stall.
const QUIET_WITHIN: Duration = Duration::from_secs(20);

/// A buffer size that exceeds the receive buffer of a socket.
const PEEKED: usize = 4 << 20;

impl LoadGenerator {
    /// Measures copies alone and beside stalled connections, alternately, and echoes beside the
    /// latter.
    pub(crate) fn beside_stalled(&self, system: &System) -> anyhow::Result<Values> {
        let bytes = self.options.transfer_bytes.min(COPY);
        let copies = || -> anyhow::Result<[f64; 2]> {
            Ok([
                timed(|| self.down(system, bytes))?,
                timed(|| self.up(system, bytes))?,
            ])
        };
        let (mut alone, mut beside, mut echoes) = ([0.0; 2], [0.0; 2], Vec::new());
        for _ in 0..TURNS {
            // The echo returns after all earlier traffic of the tunnel. Then let the system go
            // idle, as it does before the other copies.
            self.echoes(system, 1)?;
            sleep_until(Instant::now() + QUIET);
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

    /// Opens connections and fills their buffers in both directions until nothing moves.
    ///
    /// The service sends endlessly and does not read. This end does not read either.
    fn stalled(&self, system: &System) -> anyhow::Result<Vec<TcpStream>> {
        let begun = Instant::now();
        let mut connections = Vec::with_capacity(STALLED);
        for _ in 0..STALLED {
            let connection = connect(system, &download_request(system, UNREAD))?;
            connection.set_nonblocking(true)?;
            connections.push((connection, SocketProgress::default()));
        }
        let (mut buffer, mut quiet_since) = (vec![0; PEEKED], Instant::now());
        while quiet_since.elapsed() < QUIET {
            if begun.elapsed() > QUIET_WITHIN {
                bail!("unread connections still make progress after {QUIET_WITHIN:?}");
            }
            thread::park_timeout(QUIET / 10);
            for (connection, moved) in &mut connections {
                let now = SocketProgress {
                    sent: moved.sent
                        + zero_if_blocked(connection.write(&self.block(system)[..PIECE]))?,
                    unread: zero_if_blocked(connection.peek(&mut buffer))?,
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

/// The bytes that a socket has accepted and the bytes that wait in it.
#[derive(Default, PartialEq)]
struct SocketProgress {
    sent: usize,
    unread: usize,
}

/// Returns the result of a socket operation, or 0 if it would block.
fn zero_if_blocked(result: io::Result<usize>) -> anyhow::Result<usize> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result.context("a stalled connection failed"),
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
