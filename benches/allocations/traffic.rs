//! The transfers and the service.
//!
//! Both use plain threads, blocking sockets and preallocated buffers, so that they do not affect
//! the counts.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::Context;

/// The first byte of a connection that uploads. The number of bytes follows (8 bytes, big-endian).
const UPLOAD: u8 = b't';
/// The first byte of a connection that downloads. The number of bytes follows.
const DOWNLOAD: u8 = b'g';
/// The first byte of a connection that expects this byte back.
const ECHO: u8 = b'?';

/// Bytes of one read or write.
const PIECE: usize = 64 << 10;

/// The timeout of every read and write.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// One measured transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfer {
    direction: Direction,
    streams: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Transfer {
    /// All transfers: both directions, over one stream and over eight.
    pub(crate) const ALL: [Transfer; 4] = [
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

    /// Moves `bytes` to or from the service behind `entry`. Returns once the last byte has arrived.
    pub(crate) fn run(self, entry: SocketAddr, bytes: u64) -> anyhow::Result<()> {
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

    /// Runs the transfer on a blocking thread.
    pub(crate) async fn run_blocking(self, entry: SocketAddr, bytes: u64) -> anyhow::Result<()> {
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

/// Starts the service. It runs until the process ends.
pub(crate) fn serve() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // Ignore errors here: the other end of the connection reports them.
            thread::spawn(move || serve_connection(connection));
        }
    });
    Ok(address)
}

fn serve_connection(mut connection: TcpStream) -> io::Result<()> {
    let (mut command, mut count) = ([0], [0; 8]);
    connection.read_exact(&mut command)?;
    if command == [ECHO] {
        return connection.write_all(&command);
    }
    connection.read_exact(&mut count)?;
    match command {
        [UPLOAD] => {
            receive_all(&mut connection, u64::from_be_bytes(count))?;
            connection.write_all(&[UPLOAD])
        }
        _ => send_all(&mut connection, u64::from_be_bytes(count)),
    }
}

fn up(entry: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut connection = request(entry, UPLOAD, bytes)?;
    send_all(&mut connection, bytes)?;
    connection.read_exact(&mut [0])
}

fn down(entry: SocketAddr, bytes: u64) -> io::Result<()> {
    receive_all(&mut request(entry, DOWNLOAD, bytes)?, bytes)
}

fn request(entry: SocketAddr, command: u8, bytes: u64) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(entry)?;
    connection.set_read_timeout(Some(IO_TIMEOUT))?;
    connection.set_write_timeout(Some(IO_TIMEOUT))?;
    let mut header = vec![command];
    header.extend(bytes.to_be_bytes());
    connection.write_all(&header)?;
    Ok(connection)
}

fn send_all(connection: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let piece = vec![b'p'; PIECE];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        connection.write_all(&piece[..length])?;
        left -= length as u64;
    }
    Ok(())
}

fn receive_all(connection: &mut TcpStream, bytes: u64) -> io::Result<()> {
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
