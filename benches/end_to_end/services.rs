//! The programs that this one runs itself as print where they listen, and end when their standard input does. One of them is here: a service that
//! echoes, takes and gives; the other is in `copier`.

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

/// What a connection wants: its first byte. All but [`ECHO`] are followed by a number (8 bytes, big-endian).
pub const ECHO: u8 = b'e';
/// The service reads so many bytes and then answers with one.
pub const TAKE: u8 = b't';
/// The service answers so many milliseconds after the first byte with how many have come (8 bytes, big-endian), and reads on.
pub const COUNT: u8 = b'c';
/// The service sends so many bytes of the [`block`] of a payload, whose number is added to this.
pub const GIVE: u8 = b'0';

/// Bytes before what is sent repeats: many windows of zstd, so that coming round again finds nothing to refer to.
pub const BLOCK: usize = 8 * 1024 * 1024;

/// Bytes of one read or write of all that moves bulk.
pub const PIECE: usize = 64 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// What is sent again and again; the same at both ends.
pub fn block(payload: Payload) -> Vec<u8> {
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

/// The blocks of all payloads, in their order.
pub fn blocks() -> Blocks {
    Payload::ALL.map(block)
}

/// One block for each payload.
pub type Blocks = [Vec<u8>; Payload::ALL.len()];

/// Starts the service in a process of its own.
pub fn start(children: &Children) -> anyhow::Result<SocketAddr> {
    let process = children.start(
        "service",
        Command::new(std::env::current_exe()?).arg(SERVICE),
    )?;
    children.address(process)
}

/// Is the service.
pub fn serve() -> anyhow::Result<()> {
    let blocks = Arc::new(blocks());
    run(move |connection| {
        let blocks = Arc::clone(&blocks);
        async move {
            // A connection that breaks is noticed at its other end, where it counts.
            let _ = answer(connection, &blocks).await;
        }
    })
}

async fn answer(mut connection: TcpStream, blocks: &Blocks) -> std::io::Result<()> {
    match connection.read_u8().await? {
        ECHO => echo(connection).await,
        TAKE => {
            let mut left = connection.read_u64().await?;
            let mut buffer = vec![0; PIECE];
            while left > 0 {
                match connection.read(&mut buffer).await? {
                    0 => return Ok(()),
                    length => left = left.saturating_sub(length as u64),
                }
            }
            connection.write_u8(TAKE).await
        }
        COUNT => count(connection).await,
        kind => {
            let mut left = connection.read_u64().await?;
            let Some(block) = blocks.get(usize::from(kind.wrapping_sub(GIVE))) else {
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

/// Answers while more is on its way: not every system carries an answer to what has ended.
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

/// Accepts until standard input ends.
pub fn run<F: Future<Output = ()> + Send + 'static>(
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
