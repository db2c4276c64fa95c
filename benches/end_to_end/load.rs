//! What is sent through a system, and how long it takes: which measures there are, and what they share. The load runs on plain threads with
//! blocking sockets, so that it takes little of the machine.

use std::{
    io::{self, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    options::Options,
    results::Values,
    services::{self, Blocks, GIVE},
    systems::System,
};

/// A socket that nothing comes from, or goes into, for this long is an error.
const STALLED: Duration = Duration::from_secs(30);

/// Connections at once where several are measured.
pub const MANY: usize = 8;
pub const AT_ONCE: usize = 16;

/// What one turn measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
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
    /// In the order of a round.
    pub const ALL: [Measure; 10] = [
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

/// Sends and receives. How, is in `bulk`, `echo`, `stalled` and `connections`.
pub struct Load {
    pub options: Options,
    /// What is sent.
    pub blocks: Blocks,
}

impl Load {
    /// Makes what is to be sent.
    pub fn new(options: &Options) -> Self {
        Load {
            options: options.clone(),
            blocks: services::blocks(),
        }
    }

    /// The bytes that are sent through a system again and again.
    pub fn block(&self, system: &System) -> &[u8] {
        &self.blocks[system.variant().payload as usize]
    }

    /// One turn of a measure.
    pub fn run(&self, measure: Measure, system: &System) -> anyhow::Result<Values> {
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

/// A connection through the system, whose first bytes are on their way.
pub fn connect(system: &System, first: &[u8]) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(system.entry)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(STALLED))?;
    connection.set_write_timeout(Some(STALLED))?;
    connection.write_all(first)?;
    Ok(connection)
}

/// Asks the service for so many bytes of what the system carries.
pub fn give(system: &System, bytes: u64) -> [u8; 9] {
    request(GIVE + system.variant().payload as u8, bytes)
}

/// A kind of request, and its number.
pub fn request(kind: u8, number: u64) -> [u8; 9] {
    let mut request = [kind; 9];
    request[1..].copy_from_slice(&number.to_be_bytes());
    request
}

/// What a thread of the load returns.
pub fn joined<T>(running: thread::ScopedJoinHandle<'_, T>) -> anyhow::Result<T> {
    running
        .join()
        .map_err(|_| anyhow::anyhow!("a thread of the load panicked"))
}

/// Of sorted times.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(((last as f64) * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Returns at that moment, where time itself is what is waited for.
pub fn wait_till(moment: Instant) {
    while let Some(left) = moment
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        thread::park_timeout(left);
    }
}
