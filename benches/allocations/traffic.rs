//! What is moved: by plain threads with blocking sockets and buffers that are made once, so that nothing of it is counted.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::Context;

/// What a connection wants: its first byte, which a count of bytes follows (8, big-endian).
const TAKE: u8 = b't';
/// The other direction.
const GIVE: u8 = b'g';
/// It wants back what it sends.
const ECHO: u8 = b'?';

/// Bytes of one read or write.
const PIECE: usize = 64 << 10;

/// A socket that nothing comes from, or goes into, for this long is an error.
const STALLED: Duration = Duration::from_secs(30);

/// One measured transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    direction: Direction,
    streams: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Transfer {
    /// One stream, and several.
    pub const ALL: [Transfer; 4] = [
        Transfer {
            direction: Direction::Up,
            streams: 1,
        },
        Transfer {
            direction: Direction::Down,
            streams: 1,
        },
        Transfer {
            direction: Direction::Up,
            streams: 8,
        },
        Transfer {
            direction: Direction::Down,
            streams: 8,
        },
    ];

    /// Moves `bytes` from or to the service that is behind `entry`, and returns when the last of them has arrived.
    pub fn run(self, entry: SocketAddr, bytes: u64) -> anyhow::Result<()> {
        let share = bytes / u64::from(self.streams);
        let one = || match self.direction {
            Direction::Up => up(entry, share),
            Direction::Down => down(entry, share),
        };
        thread::scope(|scope| {
            let running: Vec<_> = (0..self.streams).map(|_| scope.spawn(one)).collect();
            running.into_iter().try_for_each(|running| {
                running
                    .join()
                    .map_err(|_| io::Error::other("a thread panicked"))?
            })
        })
        .with_context(|| format!("{self}"))
    }

    /// The same without holding up a runtime.
    pub async fn run_apart(self, entry: SocketAddr, bytes: u64) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(move || self.run(entry, bytes)).await?
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Up => "up",
            Direction::Down => "down",
        };
        write!(formatter, "{direction} {}", self.streams)
    }
}

/// Starts the service; it goes on until the process ends.
pub fn serve() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // A connection that breaks is noticed at its other end, where it counts.
            thread::spawn(move || answer(connection));
        }
    });
    Ok(address)
}

fn answer(mut connection: TcpStream) -> io::Result<()> {
    let (mut command, mut count) = ([0], [0; 8]);
    connection.read_exact(&mut command)?;
    if command == [ECHO] {
        return connection.write_all(&command);
    }
    connection.read_exact(&mut count)?;
    match command {
        [TAKE] => {
            take(&mut connection, u64::from_be_bytes(count))?;
            connection.write_all(&[TAKE])
        }
        _ => give(&mut connection, u64::from_be_bytes(count)),
    }
}

fn up(entry: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut connection = ask(entry, TAKE, bytes)?;
    give(&mut connection, bytes)?;
    connection.read_exact(&mut [0])
}

fn down(entry: SocketAddr, bytes: u64) -> io::Result<()> {
    take(&mut ask(entry, GIVE, bytes)?, bytes)
}

fn ask(entry: SocketAddr, command: u8, bytes: u64) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(entry)?;
    connection.set_read_timeout(Some(STALLED))?;
    connection.set_write_timeout(Some(STALLED))?;
    let mut request = vec![command];
    request.extend(bytes.to_be_bytes());
    connection.write_all(&request)?;
    Ok(connection)
}

fn give(connection: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let piece = vec![b'p'; PIECE];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        connection.write_all(&piece[..length])?;
        left -= length as u64;
    }
    Ok(())
}

fn take(connection: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        match connection.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => left = left.saturating_sub(length as u64),
        }
    }
    Ok(())
}
