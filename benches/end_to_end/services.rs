//! The service behind the systems: it echoes, receives and sends.
//!
//! This program runs itself as the service and as the copiers (in `copier`). These processes print
//! their listen address and end when their standard input closes.

use std::{
    io::Read,
    net::SocketAddr,
    process::{self, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout_at,
};

use crate::{children::Children, data, options::SERVICE, variants::Payload};

/// The request to echo everything. The first byte of a connection is its request.
///
/// A number (8 bytes, big-endian) follows every other request.
pub(crate) const ECHO: u8 = b'e';
/// The request to read this number of bytes and answer with one byte.
pub(crate) const UPLOAD: u8 = b't';
/// The request to count bytes for this number of milliseconds after the first byte.
///
/// The service answers with the count (8 bytes, big-endian) and continues to read.
pub(crate) const COUNT: u8 = b'c';
/// The request to send this number of bytes from the [`block`] of a payload.
///
/// The number of the payload is added to this byte.
pub(crate) const DOWNLOAD: u8 = b'0';

/// The length of a block in bytes. Bulk data repeats after a block.
///
/// It exceeds zstd's window many times, so that repetition does not improve the ratio.
pub(crate) const BLOCK: usize = 8 * 1024 * 1024;

/// The bytes of one read or write in bulk transfers.
pub(crate) const PIECE: usize = 64 * 1024;

/// The listen backlog.
const BACKLOG: u32 = 1024;

/// Returns the block of a payload. Both ends generate the same block.
pub(crate) fn block(payload: Payload) -> Vec<u8> {
    match payload {
        Payload::Random => data::random(BLOCK),
        Payload::Text => data::text(BLOCK),
        Payload::Binary => data::binary(BLOCK)
            .into_iter()
            .cycle()
            .take(BLOCK)
            .collect(),
    }
}

/// Returns the blocks of all payloads, in their order.
pub(crate) fn blocks() -> Blocks {
    Payload::ALL.map(block)
}

/// One block for each payload.
pub(crate) type Blocks = [Vec<u8>; Payload::ALL.len()];

/// Starts the service process.
pub(crate) fn start(children: &Children) -> anyhow::Result<SocketAddr> {
    let process = children.start(
        "service",
        Command::new(std::env::current_exe()?).arg(SERVICE),
    )?;
    children.address(process)
}

/// Runs the service.
pub(crate) fn serve() -> anyhow::Result<()> {
    let blocks = Arc::new(blocks());
    run(move |connection| {
        let blocks = Arc::clone(&blocks);
        async move {
            // Ignore errors here: the other end of the connection reports them.
            let _ = answer(connection, &blocks).await;
        }
    })
}

async fn answer(mut connection: TcpStream, blocks: &Blocks) -> std::io::Result<()> {
    match connection.read_u8().await? {
        ECHO => echo(connection).await,
        UPLOAD => {
            let mut left = connection.read_u64().await?;
            let mut buffer = vec![0; PIECE];
            while left > 0 {
                match connection.read(&mut buffer).await? {
                    0 => return Ok(()),
                    length => left = left.saturating_sub(length as u64),
                }
            }
            connection.write_u8(UPLOAD).await
        }
        COUNT => count(connection).await,
        kind => {
            let mut left = connection.read_u64().await?;
            let Some(block) = blocks.get(usize::from(kind.wrapping_sub(DOWNLOAD))) else {
                return Ok(());
            };
            for piece in block.chunks(PIECE).cycle() {
                if left == 0 {
                    break;
                }
                let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                connection.write_all(&piece[..length]).await?;
                left -= length as u64;
            }
            Ok(())
        }
    }
}

/// Counts bytes and answers while the peer still sends.
///
/// Some systems do not deliver an answer after the peer has closed its sending direction.
async fn count(mut connection: TcpStream) -> std::io::Result<()> {
    let wanted = Duration::from_millis(connection.read_u64().await?);
    let mut buffer = vec![0; PIECE];
    let mut counted = connection.read(&mut buffer).await? as u64;
    let until = Instant::now() + wanted;
    while let Ok(length) = timeout_at(until.into(), connection.read(&mut buffer)).await {
        match length? {
            0 => return Ok(()),
            length => counted += length as u64,
        }
    }
    connection.write_u64(counted).await?;
    while connection.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn echo(mut connection: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(()),
            length => connection.write_all(&buffer[..length]).await?,
        }
    }
}

/// Accepts connections until standard input closes.
pub(crate) fn run<F: Future<Output = ()> + Send + 'static>(
    handle: impl Fn(TcpStream) -> F + Send + 'static,
) -> anyhow::Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    tokio::runtime::Runtime::new()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        let listener: TcpListener = socket.listen(BACKLOG)?;
        println!("{}", listener.local_addr()?);
        let mut connections = JoinSet::new();
        loop {
            let (connection, _) = listener.accept().await.context("cannot accept")?;
            connection.set_nodelay(true)?;
            connections.spawn(handle(connection));
            while connections.try_join_next().is_some() {}
        }
    })
}
