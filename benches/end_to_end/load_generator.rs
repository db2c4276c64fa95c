//! The load generator: the list of measurements and their shared parts.
//!
//! The load runs on plain threads with blocking sockets, so that it uses little CPU time.

use std::{
    io::{self, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    options::Options,
    results::Values,
    services::{self, Blocks, DOWNLOAD},
    systems::System,
};

/// The timeout of every read and write.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of parallel connections in bulk measurements.
pub(crate) const MANY: usize = 8;
/// The number of connections that open concurrently.
pub(crate) const AT_ONCE: usize = 16;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    Up(usize),
    Down(usize),
    Fairness,
    Echo,
    EchoBesideBulk,
    BesideStalled,
    Connect,
    ConnectAtOnce,
}

impl Measure {
    /// All measurements, in the order of a round.
    pub(crate) const ALL: [Measure; 10] = [
        Measure::Up(1),
        Measure::Down(1),
        Measure::Up(MANY),
        Measure::Down(MANY),
        Measure::Fairness,
        Measure::Echo,
        Measure::EchoBesideBulk,
        Measure::BesideStalled,
        Measure::Connect,
        Measure::ConnectAtOnce,
    ];
}

/// Generates load. The measurements are in `bulk`, `echo`, `stalled` and `connections`.
pub(crate) struct LoadGenerator {
    pub options: Options,
    /// The data to send.
    pub blocks: Blocks,
}

impl LoadGenerator {
    /// Creates a load generator and its data.
    pub(crate) fn new(options: &Options) -> Self {
        LoadGenerator {
            options: options.clone(),
            blocks: services::blocks(),
        }
    }

    /// Returns the block that the system carries repeatedly.
    pub(crate) fn block(&self, system: &System) -> &[u8] {
        &self.blocks[system.variant().payload as usize]
    }

    /// Runs one measurement.
    pub(crate) fn run(&self, measure: Measure, system: &System) -> anyhow::Result<Values> {
        match measure {
            Measure::Up(1) => self.transfer(
                system,
                1,
                Self::up,
                ["up_1_mb_s", "up_1_cpu_s_gib", "up_1_switches_mib"],
            ),
            Measure::Up(many) => self.transfer(
                system,
                many,
                Self::up,
                ["up_8_mb_s", "up_8_cpu_s_gib", "up_8_switches_mib"],
            ),
            Measure::Down(1) => self.transfer(
                system,
                1,
                Self::down,
                ["down_1_mb_s", "down_1_cpu_s_gib", "down_1_switches_mib"],
            ),
            Measure::Down(many) => self.transfer(
                system,
                many,
                Self::down,
                ["down_8_mb_s", "down_8_cpu_s_gib", "down_8_switches_mib"],
            ),
            Measure::Fairness => Ok(vec![
                ("up_8_fairness", self.fairness_up(system)?),
                ("down_8_fairness", self.fairness_down(system)?),
            ]),
            Measure::Echo => self.echo(system),
            Measure::EchoBesideBulk => self.echo_beside_bulk(system),
            Measure::BesideStalled => self.beside_stalled(system),
            Measure::Connect => self.connect_one_by_one(system),
            Measure::ConnectAtOnce => self.connect_at_once(system),
        }
    }
}

/// Opens a connection through the system and sends its first bytes.
pub(crate) fn connect(system: &System, first: &[u8]) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(system.entry)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(IO_TIMEOUT))?;
    connection.set_write_timeout(Some(IO_TIMEOUT))?;
    connection.write_all(first)?;
    Ok(connection)
}

/// Builds a request for `bytes` of the system's payload.
pub(crate) fn download_request(system: &System, bytes: u64) -> [u8; 9] {
    request(DOWNLOAD + system.variant().payload as u8, bytes)
}

/// Builds a request from its kind and its number.
pub(crate) fn request(kind: u8, number: u64) -> [u8; 9] {
    let mut request = [kind; 9];
    request[1..].copy_from_slice(&number.to_be_bytes());
    request
}

/// Joins a thread and returns its result.
pub(crate) fn join<T>(running: thread::ScopedJoinHandle<'_, T>) -> anyhow::Result<T> {
    running
        .join()
        .map_err(|_| anyhow::anyhow!("a thread of the load panicked"))
}

/// Returns a quantile of sorted values.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(((last as f64) * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Sleeps until `moment`.
pub(crate) fn sleep_until(moment: Instant) {
    while let Some(left) = moment
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        thread::park_timeout(left);
    }
}
